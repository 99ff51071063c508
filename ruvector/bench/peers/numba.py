"""numba: hand-written loops, compiled with fastmath, over all its threads."""

from __future__ import annotations

import math
from functools import partial

import numba
import numpy as np

from ruvector.bench.peers import Peer
from ruvector.bench.problems import Array, Call, Distance, Dot, Hyperboloid, Matvec, Softmax


@numba.njit(fastmath=True)
def _dot(a: Array, b: Array) -> float:
    total = np.float32(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@numba.njit(fastmath=True, parallel=True)
def _matvec(query: Array, keys: Array) -> Array:
    out = np.empty(keys.shape[0], keys.dtype)
    for i in numba.prange(keys.shape[0]):
        out[i] = _dot(query, keys[i])
    return out


# NaN and infinities are not given up here: without them the largest of a row may be wrong
@numba.njit(fastmath={"reassoc", "contract", "arcp", "nsz"}, parallel=True)
def _softmax(x: Array) -> Array:
    out = np.empty_like(x)
    for i in numba.prange(x.shape[0]):
        top = x[i].max()
        total = 0.0  # float32 loses 2e-5 of a row of a million
        for j in range(x.shape[1]):
            e = math.exp(x[i, j] - top)
            out[i, j] = e
            total += e
        for j in range(x.shape[1]):
            out[i, j] /= total
    return out


@numba.njit(fastmath=True, parallel=True)
def _distances(points: Array, keys: Array) -> Array:
    out = np.empty((points.shape[0], keys.shape[0]), keys.dtype)
    one = np.float32(1)
    gaps = np.empty(points.shape[0], keys.dtype)
    for i in range(points.shape[0]):
        gaps[i] = one - _dot(points[i], points[i])
    for j in numba.prange(keys.shape[0]):
        gap = one - _dot(keys[j], keys[j])
        for i in range(points.shape[0]):
            total = np.float32(0)
            for k in range(keys.shape[1]):
                step = points[i, k] - keys[j, k]
                total += step * step
            out[i, j] = math.acosh(one + np.float32(2) * total / (gaps[i] * gap))
    return out


@numba.njit(fastmath=True, parallel=True)
def _on_hyperboloid(points: Array, keys: Array) -> Array:
    out = np.empty((points.shape[0], keys.shape[0]), points.dtype)
    for j in numba.prange(keys.shape[0]):
        for i in range(points.shape[0]):
            total = np.float32(0)
            for k in range(1, keys.shape[1]):
                total += points[i, k] * keys[j, k]
            out[i, j] = math.acosh(max(points[i, 0] * keys[j, 0] - total, np.float32(1)))
    return out


class Adapter(Peer):
    """numba."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        numba.set_num_threads(threads)

    @property
    def version(self) -> str:
        return numba.__version__

    def softmax(self, problem: Softmax) -> dict[str, Call]:
        return {"numba": Call(partial(_softmax, problem.x))}

    def matvec(self, problem: Matvec) -> dict[str, Call]:
        return {"numba": Call(partial(_matvec, problem.query, problem.matrix))}

    def dot(self, problem: Dot) -> dict[str, Call]:
        return {"numba": Call(partial(_dot, problem.query, problem.vector))}

    def distance(self, problem: Distance) -> dict[str, Call]:
        return {"numba": Call(partial(_distances, problem.points, problem.keys))}

    def hyperboloid(self, problem: Hyperboloid) -> dict[str, Call]:
        return {"numba": Call(partial(_on_hyperboloid, problem.points, problem.keys))}
