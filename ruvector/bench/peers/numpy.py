"""NumPy: the definitions, written as its users would; threads are those of its BLAS."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from ruvector.bench.peers import Peer
from ruvector.bench.problems import (
    Array,
    Attention,
    Built,
    Cache,
    Call,
    Distance,
    Dot,
    Gating,
    Graph,
    Hyperboloid,
    Linear,
    Matvec,
    Rowwise,
    Search,
    Softmax,
    Unsupported,
)


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _attend(query: Array, key: Array, value: Array, bias: Array | None) -> Array:
    """Of one head, or of many at once; 16-bit types are computed in float32, which is faster for them."""
    half = query.dtype.itemsize == 2
    q, k, v = (x.astype(np.float32) for x in (query, key, value)) if half else (query, key, value)
    logits = q @ k.swapaxes(-1, -2)
    logits *= 1 / math.sqrt(query.shape[-1])
    if bias is not None:
        logits += bias
    logits -= logits.max(-1, keepdims=True)
    np.exp(logits, out=logits)
    out = logits @ v
    out /= logits.sum(-1, keepdims=True)
    return out.astype(query.dtype) if half else out


def _by_head(query: Array, key: Array, value: Array, bias: Array | None) -> Array:
    """A head at a time: its scores stay in the cache, or at least in memory."""
    group = query.shape[1] // key.shape[1]
    return np.stack(
        [_attend(query[:, h], key[:, h // group], value[:, h // group], bias) for h in range(query.shape[1])], 1
    )


def _features(problem: Linear, x: Array, *, query: bool) -> Array:
    if problem.projection is None:
        return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))
    x = x * np.float32(problem.dim**-0.25)
    exponents = x @ problem.projection.astype(x.dtype).T - (x * x).sum(-1, keepdims=True) / 2
    return np.exp(exponents - exponents.max(-1 if query else (-2, -1), keepdims=True))


def _linear(problem: Linear) -> Array:
    phi_q, phi_k = _features(problem, problem.query, query=True), _features(problem, problem.key, query=False)
    return (phi_q @ (phi_k.swapaxes(-1, -2) @ problem.value)) / (phi_q @ phi_k.sum(-2)[..., None])


def _one_distance(point: Array, keys: Array) -> Array:
    gaps = (1 - point @ point) * (1 - np.einsum("ij,ij->i", keys, keys))
    step = keys - point
    return np.arccosh(1 + 2 * np.einsum("ij,ij->i", step, step) / gaps)


def _distances(points: Array, keys: Array) -> Array:
    """Squares of differences expanded into products."""
    a, b = (np.einsum("ij,ij->i", x, x) for x in (points, keys))
    squares = np.maximum(a[:, None] + b - 2 * (points @ keys.T), 0)
    return np.arccosh(1 + 2 * squares / np.outer(1 - a, 1 - b))


def _on_hyperboloid(points: Array, keys: Array) -> Array:
    """The Minkowski product as one product of matrices."""
    inner = (points * np.array([1, *[-1] * (points.shape[1] - 1)], points.dtype)) @ keys.T
    return np.arccosh(np.maximum(inner, 1))


def _gat(problem: Graph) -> Array:
    """Edges sorted by target, then reductions of whole rows."""
    order = np.argsort(problem.edge_index[1], kind="stable")
    source, target = problem.edge_index[0][order], problem.edge_index[1][order]
    h = (problem.x @ problem.matrix).reshape(-1, problem.HEADS, problem.WIDTH)
    logits = (h * problem.a_src).sum(-1)[source] + (h * problem.a_dst).sum(-1)[target]
    logits = np.where(logits > 0, logits, np.float32(0.2) * logits)
    rows, starts = np.unique(target, return_index=True)
    lengths = np.diff(np.append(starts, len(target)))
    p = np.exp(logits - np.repeat(np.maximum.reduceat(logits, starts), lengths, 0))
    p /= np.repeat(np.add.reduceat(p, starts), lengths, 0)
    out = np.zeros(h.shape, h.dtype)
    out[rows] = np.add.reduceat(h[source] * p[..., None], starts)
    return out.reshape(len(h), -1)


def _gate(logits: Array, top: int) -> tuple[Array, Array]:
    indices = np.argpartition(logits, -top, -1)[:, -top:]
    chosen = np.take_along_axis(logits, indices, -1)
    order = np.argsort(-chosen, -1)
    indices, chosen = np.take_along_axis(indices, order, -1), np.take_along_axis(chosen, order, -1)
    return indices, _softmax(chosen)


def _search(queries: Array, matrix: Array, top: int) -> tuple[Array, Array]:
    scores = queries @ matrix.T
    ids = np.argpartition(scores, -top, -1)[:, -top:]
    found = np.take_along_axis(scores, ids, -1)
    order = np.argsort(-found, -1)
    return np.take_along_axis(ids, order, -1), np.take_along_axis(found, order, -1)


class Adapter(Peer):
    """NumPy."""

    @property
    def version(self) -> str:
        return np.__version__

    def _attention(self, problem: Attention) -> Any:
        if problem.length > 1:
            visible = np.tri(problem.length, problem.keys, dtype=bool)
            work = np.float64 if problem.dtype == np.float64 else np.float32
            return partial(_by_head, bias=np.where(visible, 0, -np.inf).astype(work) if problem.causal else None)
        if not problem.grouped:
            return partial(_attend, bias=None)

        def grouped(query: Array, key: Array, value: Array) -> Array:
            rows = query.reshape(1, problem.key_heads, -1, problem.dim)  # queries of a group as rows
            return _attend(rows, key, value, None).reshape(query.shape)

        return grouped

    def attention(self, problem: Attention) -> dict[str, Call]:
        return {"numpy": Call(partial(self._attention(problem), problem.query, problem.key, problem.value))}

    def linear(self, problem: Linear) -> dict[str, Call]:
        if problem.causal:
            raise Unsupported("its running sums are a loop in Python")
        return {"numpy": Call(partial(_linear, problem))}

    def built(self, problem: Built) -> dict[str, Call]:
        return self.attention(problem)

    def cache(self, problem: Cache) -> dict[str, Call]:
        attend, n = self._attention(problem), problem.keys
        shape = (1, problem.key_heads, n + problem.ROOM, problem.dim)
        keys, values = np.empty(shape, problem.dtype), np.empty(shape, problem.dtype)
        keys[:, :, :n], values[:, :, :n] = problem.key, problem.value
        at = n

        def start() -> None:
            nonlocal at
            at = n

        def step() -> Array:
            nonlocal at
            keys[:, :, at], values[:, :, at] = problem.new_key[:, :, 0], problem.new_value[:, :, 0]
            at += 1
            return attend(problem.query, keys[:, :, :at], values[:, :, :at])

        return {"numpy": Call(step, before=start, limit=problem.ROOM)}

    def rowwise(self, problem: Rowwise) -> dict[str, Call]:
        x, w, b = problem.x, problem.weight, problem.bias

        def layer_norm() -> Array:
            d = x - x.mean(-1, keepdims=True)
            return d / np.sqrt((d * d).mean(-1, keepdims=True) + np.float32(1e-5)) * w + b

        def rms_norm() -> Array:
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-6)) * w

        def silu() -> Array:
            return x / (1 + np.exp(-x))

        return {"numpy": Call({"layer_norm": layer_norm, "rms_norm": rms_norm, "silu": silu}[problem.group])}

    def softmax(self, problem: Softmax) -> dict[str, Call]:
        return {"numpy": Call(partial(_softmax, problem.x))}

    def matvec(self, problem: Matvec) -> dict[str, Call]:
        if problem.dtype.name == "bfloat16":
            raise Unsupported("no bfloat16 of its own")
        return {"numpy": Call(partial(np.matmul, problem.matrix, problem.query))}

    def dot(self, problem: Dot) -> dict[str, Call]:
        return {"numpy": Call(partial(np.dot, problem.query, problem.vector))}

    def distance(self, problem: Distance) -> dict[str, Call]:
        if len(problem.points) == 1:
            return {"numpy": Call(partial(_one_distance, problem.points[0], problem.keys))}
        return {"numpy": Call(partial(_distances, problem.points, problem.keys))}

    def hyperboloid(self, problem: Hyperboloid) -> dict[str, Call]:
        return {"numpy": Call(partial(_on_hyperboloid, problem.points, problem.keys))}

    def graph(self, problem: Graph) -> dict[str, Call]:
        return {"numpy": Call(partial(_gat, problem))}

    def gating(self, problem: Gating) -> dict[str, Call]:
        return {"numpy": Call(partial(_gate, problem.logits, problem.TOP), problem.both)}

    def search(self, problem: Search) -> dict[str, Call]:
        return {"numpy": Call(partial(_search, problem.queries, problem.matrix, problem.TOP), problem.both)}
