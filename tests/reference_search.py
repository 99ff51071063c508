"""What searches must find, in float64 from the definitions."""

import math

import numpy as np


def products(queries, rows, num_heads=1, num_kv_heads=None, scale=None):
    """Mean over heads of scale * q_h . k_g (m, n)."""
    num_kv_heads = num_kv_heads or num_heads
    q = np.asarray(queries, np.float64).reshape(len(queries), num_heads, -1)
    k = np.asarray(rows, np.float64).reshape(len(rows), num_kv_heads, -1)
    return head_scores(q, k, scale).mean(1)


def head_scores(q, k, scale=None):
    """(m, heads, n)."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    group = q.shape[1] // k.shape[1]
    with np.errstate(all="ignore"):
        return np.stack([scale * (q[:, h] @ k[:, h // group].T) for h in range(q.shape[1])], 1)


def softmax(x):
    """Over the last axis, NaN hidden."""
    hidden = np.isnan(x)
    e = np.where(hidden, 0, np.exp(x - np.max(np.where(hidden, -np.inf, x), -1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


def head_weights(queries, rows, num_heads, num_kv_heads=None, scale=None):
    """Mean over heads of the softmax over the rows (m, n)."""
    q = np.asarray(queries, np.float64).reshape(len(queries), num_heads, -1)
    k = np.asarray(rows, np.float64).reshape(len(rows), num_kv_heads or num_heads, -1)
    return softmax(head_scores(q, k, scale)).mean(1)


def poincare(queries, rows, c):
    """Minus the distances in the ball of curvature -c."""
    a, b = (np.asarray(x, np.float64) for x in (queries, rows))
    square = ((a[:, None] - b) ** 2).sum(-1)
    gaps = (1 - c * (a * a).sum(-1))[:, None] * (1 - c * (b * b).sum(-1))
    return -np.arccosh(1 + 2 * c * square / gaps) / math.sqrt(c)


def order(scores, k):
    """Places of the k largest of each row: ties to the lower place, NaN last."""
    return np.array([sorted(range(len(row)), key=lambda i: (np.isnan(row[i]), -row[i], i))[:k] for row in scores])
