"""Float64 oracles of the types that approximate attention, one position after another from the papers' definitions.

Arrays have no leading axes; `hidden keys` are dropped by the caller. Choices, of buckets, clusters and slots, are made here once
more, in float64: data must leave no choice to the rounding of float32.
"""

import math

import numpy as np


def wide(*arrays):
    return tuple(np.asarray(x).astype(np.float64) for x in arrays)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def factor(q, scale):
    return 1 / math.sqrt(q.shape[-1]) if scale is None else scale


def dense(q, k, v, scale=None, seen=None):
    """Softmax attention; rows that see nothing are 0."""
    q, k, v = wide(q, k, v)
    logits = factor(q, scale) * q @ k.T
    if seen is None:
        return softmax(logits) @ v
    out = np.zeros((len(q), v.shape[1]))
    for i, row in enumerate(seen):
        if row.any():
            out[i] = softmax(logits[i, row]) @ v[row]
    return out


def linformer(q, k, v, e, f, scale=None):
    q, k, v, e, f = wide(q, k, v, e, f)
    return dense(q, e @ k, f @ v, scale)


def segments(n, m):
    return [range(i * n // m, (i + 1) * n // m) for i in range(m)]


def nystrom_parts(q, k, v, m, scale, iterations):
    """The landmarks of the keys, the pseudo-inverse (exact for iterations None) and what it is multiplied with."""
    q, k, v = wide(q, k, v)
    m, s = min(m, len(q), len(k)), factor(q, scale)
    marks = [np.array([x[list(rows)].mean(0) for rows in segments(len(x), m)]) for x in (q, k)]
    a = softmax(s * marks[0] @ marks[1].T)
    if iterations is None:
        z = np.linalg.pinv(a)
    else:
        eye = np.eye(m)
        z = a.T / (np.abs(a).sum(0).max() * np.abs(a).sum(1).max())
        for _ in range(iterations):
            z = 0.25 * z @ (13 * eye - a @ z @ (15 * eye - a @ z @ (7 * eye - a @ z)))
    return softmax(s * q @ marks[1].T), z, softmax(s * marks[0] @ k.T) @ v


def nystrom(q, k, v, m=64, scale=None, iterations=6, conv=None):
    left, z, right = nystrom_parts(q, k, v, m, scale, iterations)
    out = left @ z @ right
    if conv is not None:
        (v,), half = wide(v), len(conv) // 2
        for i in range(len(v)):
            for t, weight in enumerate(conv):
                if 0 <= i + t - half < len(v):
                    out[i] += weight * v[i + t - half]
    return out


def lsh_bucket(x, directions):
    products = directions @ x
    return int(np.argmax(np.concatenate([products, -products])))


def reformer(x, v, directions, rounds, chunk, buckets, causal=False, scale=None):
    """The softmax over all keys that any round shows, which is what its merge with log N comes to."""
    x, v = wide(x, v)
    n, s = len(x), factor(x, scale)
    shown = np.zeros((n, n), bool)
    for r in range(rounds):
        mine = directions[r * (buckets // 2) : (r + 1) * (buckets // 2)]
        bucket = [lsh_bucket(row, mine) if buckets > 1 else 0 for row in x]
        place = np.argsort(np.argsort([b * n + i for i, b in enumerate(bucket)]))
        for i in range(n):
            for j in range(n):
                near = place[i] // chunk - place[j] // chunk in (0, 1)
                shown[i, j] |= near and bucket[i] == bucket[j] and (j <= i or not causal)
    out = np.zeros_like(v)
    for i in range(n):
        others = [j for j in range(n) if shown[i, j] and j != i]
        keys = others or [i]
        logits = np.array([s * x[i] @ x[j] / np.linalg.norm(x[j]) for j in keys])
        out[i] = softmax(logits) @ v[keys]
    return out


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)


def routing(q, k, v, centroids, size, causal=False, scale=None, normalize=True):
    q, k, v, centroids = wide(q, k, v, centroids)
    centroids = centroids / np.linalg.norm(centroids, axis=-1, keepdims=True)
    nq, nk = layer_norm(q), layer_norm(k)
    used = (nq, nk) if normalize else (q, k)
    total, often = np.zeros((len(q), v.shape[1])), np.zeros(len(q))
    queries = -(-size * len(q) // len(k))
    for c in centroids:
        rows = np.argsort(-nq @ c, kind="stable")[:queries]
        keys = np.argsort(-nk @ c, kind="stable")[:size]
        seen = keys[None] <= rows[:, None] + len(k) - len(q) if causal else None
        total[rows] += dense(used[0][rows], used[1][keys], v[keys], scale, seen)
        often[rows] += seen.any(1) if causal else 1
    return total / np.maximum(often, 1)[:, None]


def clusters_of(q, planes, count, start, iterations):
    """Hamming k-means of the queries' bits, bit by bit."""
    bits = np.asarray(q, np.float64) @ planes.T > 0
    centres = [bits[i] for i in sorted(start[: min(count, len(q))])]
    for _ in range(iterations):
        nearest = [int(np.argmin([(b != c).sum() for c in centres])) for b in bits]
        for c in range(len(centres)):
            mine = bits[[i for i, n in enumerate(nearest) if n == c]]
            ones = 2 * mine.sum(0) if len(mine) else None
            if ones is not None:
                centres[c] = np.where(ones == len(mine), centres[c], ones > len(mine))
    return [int(np.argmin([(b != c).sum() for c in centres])) for b in bits]


def clustered(q, k, v, nearest, top_k, scale=None):
    q, k, v = wide(q, k, v)
    s, out = factor(q, scale), np.empty((len(q), v.shape[1]))
    for c in set(nearest):
        members = [i for i, n in enumerate(nearest) if n == c]
        weights = softmax(s * k @ q[members].mean(0))
        top = np.argsort(-weights, kind="stable")[:top_k]
        for i in members:
            own = weights.copy()
            if len(top):
                own[top] = weights[top].sum() * softmax(s * k[top] @ q[i])
            out[i] = own @ v
    return out


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def yoso(q, k, v, tau=8, normalize=True, seen=None):
    q, k, v = wide(q, k, v)
    weights = (1 - np.arccos(np.clip(unit(q) @ unit(k).T, -1, 1)) / math.pi) ** tau
    out = (weights if seen is None else weights * seen) @ v
    return unit(out) if normalize else out


def yoso_sampled(q, k, v, planes, tau=8, normalize=True):
    q, k, v = wide(q, k, v)
    rounds = len(planes) // tau
    out = np.zeros((len(q), v.shape[1]))
    for r in range(rounds):
        mine = planes[r * tau : (r + 1) * tau]
        same = ((q @ mine.T > 0)[:, None] == (k @ mine.T > 0)[None]).all(-1)
        out += same @ v / rounds
    return unit(out) if normalize else out


def product_key(q, k, v, heads, top_k, scale=None, visible=None):
    q, k, v = wide(q, k, v)
    count, width = len(k), q.shape[1] // heads
    out = np.zeros((len(q), v.shape[1]))
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        halves = k[:, part]
        keys = np.array(
            [
                np.concatenate([halves[i, : width // 2], halves[j, width // 2 :]])
                for i in range(count)
                for j in range(count)
            ]
        )
        scores = factor(q[:, part], scale) * q[:, part] @ keys.T
        for i, row in enumerate(scores):
            row = row if visible is None else np.where(visible, row, -np.inf)
            top = [j for j in np.argsort(-row, kind="stable")[:top_k] if row[j] > -np.inf]
            if top:
                out[i] += softmax(row[top]) @ v[top]
    return out


def sinkhorn(q, k, v, iterations=5, scale=None):
    q, k, v = wide(q, k, v)
    p = np.exp(factor(q, scale) * q @ k.T)
    for i in range(iterations):
        p = p / p.sum(1, keepdims=True) if i % 2 == 0 else p / p.sum(0) * (len(q) / len(k))
    return p @ v


def sparse_sinkhorn(q, k, v, size=64, iterations=8, temperature=0.75, sort_logits=None, causal=False, scale=None):
    q, k, v = wide(q, k, v)
    n, blocks = len(q), -(-len(q) // size)
    parts = [range(b * size, min((b + 1) * size, n)) for b in range(blocks)]
    s, out = factor(q, scale), np.empty((n, v.shape[1]))
    of_queries = [q[: part[0] + 1].mean(0) if causal else q[list(part)].mean(0) for part in parts]
    r = np.array([[s * a @ k[list(b)].mean(0) for b in parts] for a in of_queries])
    p = np.exp((r if sort_logits is None else sort_logits) / temperature)
    if causal:
        p = np.tril(p, -1)
    for _ in range(iterations):
        if causal:
            sums = np.cumsum(p, 0)
            p = p / np.where(sums == 0, 1, sums)
            p[1:] /= p[1:].sum(1, keepdims=True)
        else:
            p = p / p.sum(1, keepdims=True)
            p = p / p.sum(0)
    filled = [np.vstack([x, np.zeros((blocks * size - n, x.shape[1]))]).reshape(blocks, size, -1) for x in (k, v)]
    for b, rows in enumerate(parts):
        sorted_k, sorted_v = (sum(p[b, c] * x[c] for c in range(blocks)) for x in filled)
        own = list(rows)
        seen = None
        if causal:
            seen = np.hstack([np.tri(len(own)), np.full((len(own), size), b > 0)]) > 0
        out[own] = dense(q[own], np.vstack([k[own], sorted_k]), np.vstack([v[own], sorted_v]), scale, seen)
    return out
