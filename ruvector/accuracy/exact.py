"""Attention, softmax and dot products from their definitions, in a wider type than the one that is measured.

float64 for float32 and the 16-bit types, long double for float64. Where long double is no wider than float64 (Windows,
AArch64 macOS) or software (AArch64 Linux), the exact value of a float64 result is itself computed in float64 and as inexact
as what it is compared with: bounds are doubled there.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

LONG = np.dtype(np.longdouble)
LONG_IS_WIDER = np.finfo(LONG).nmant == 63  # x87's 80 bits: the only ones that are fast


class Exact(NamedTuple):
    """A result, and how far from it the library's may lie.

    Attributes
    ----------
    value : ndarray
    arithmetic : ndarray
        The bound on the error of computing.
    storage : ndarray or float
        What storing numbers in 16 bits adds, 0 for other types.
    peak : ndarray
        What errors are measured by: max |V| of the column for attention.
    """

    value: NDArray[Any]
    arithmetic: NDArray[Any]
    storage: NDArray[Any] | float
    peak: NDArray[Any]

    @property
    def bound(self) -> NDArray[Any]:
        """The whole bound."""
        return self.arithmetic + self.storage


def is_half(dtype: np.dtype[Any]) -> bool:
    """Whether numbers are stored in 16 bits and computed with in float32."""
    return dtype.itemsize == 2


def storage_unit(dtype: DTypeLike) -> float:
    """Unit roundoff of the type that results are stored in."""
    dtype = np.dtype(dtype)
    return 2.0**-8 if dtype.name == "bfloat16" else float(np.finfo(dtype).eps) / 2


def unit(dtype: DTypeLike) -> float:
    """Unit roundoff of the type that is computed in."""
    dtype = np.dtype(dtype)
    return 2.0**-24 if is_half(dtype) else storage_unit(dtype)


def smallest(dtype: DTypeLike) -> float:
    """The smallest subnormal number: what a result loses that underflows."""
    dtype = np.dtype(dtype)
    return 2.0**-133 if dtype.name == "bfloat16" else float(np.finfo(dtype).smallest_subnormal)


def wide(x: ArrayLike) -> NDArray[Any]:
    """`x` in the type that exact values are computed in."""
    x = np.asarray(x)
    return x.astype(LONG if x.dtype == np.float64 and LONG_IS_WIDER else np.float64)


def share(dtype: DTypeLike) -> float:
    """What a bound is multiplied by because the exact value has the same error as the result."""
    return 2.0 if np.dtype(dtype) == np.float64 and not LONG_IS_WIDER else 1.0


def attention_rows(
    query: NDArray[Any], key: NDArray[Any], value: NDArray[Any], rows: ArrayLike, *, causal: bool = False
) -> Exact:
    """softmax(q . k / sqrt(d)) v of some rows.

    query (H, L, d), key (G, S, d), value (G, S, dv), G dividing H; rows (n, 2): head and query of each. Causal is aligned to
    the end: query i sees keys j <= i + S - L. The bound is u max|V| (8 + 4 kappa), kappa = max_j sum_i |q_i k_ji| / sqrt(d),
    and 3 units of the storage type where that has 16 bits.
    """
    dtype = query.dtype
    group = query.shape[0] // key.shape[0]
    offset = key.shape[1] - query.shape[1]
    outs, bounds, peaks = [], [], []
    stored = 3 * storage_unit(dtype) if is_half(dtype) else 0.0
    heads: dict[int, tuple[NDArray[Any], ...]] = {}
    for head, row in np.asarray(rows):
        shared = int(head) // group
        if shared not in heads:
            heads = {shared: (wide(key[shared]), wide(value[shared]), np.abs(wide(value[shared])))}
        keys, values, sizes = heads[shared]
        seen = slice(None, row + offset + 1 if causal else None)
        q = wide(query[head, row]) / np.sqrt(query.dtype.type(1).astype(keys.dtype) * query.shape[2])
        with np.errstate(over="ignore", under="ignore"):
            logits = keys[seen] @ q
            kappa = (np.abs(keys[seen]) @ np.abs(q)).max()
            weights = np.exp(logits - logits.max())
            peak = sizes[seen].max(0)
            outs.append(weights @ values[seen] / weights.sum())
        bounds.append(unit(dtype) * share(dtype) * peak * (8 + 4 * kappa) + smallest(dtype))
        peaks.append(peak)
    return Exact(np.stack(outs), np.stack(bounds), stored * np.stack(peaks), np.stack(peaks))


def linear_rows(
    query: NDArray[Any],
    key: NDArray[Any],
    value: NDArray[Any],
    rows: ArrayLike,
    *,
    causal: bool = False,
    projection: NDArray[Any] | None = None,
) -> Exact:
    """Linear attention of some rows: with elu + 1 as features, or the exponential ones of a projection (m, d).

    query, key, value and rows as in `attention_rows`, as many heads for each. The bound is a tenth of the library's: (28 + d / 10)
    u max|V|, or (30 + m / 10 + 1.6 kappa) u max|V|, kappa the largest exponent.
    """
    dtype = query.dtype
    offset = key.shape[1] - query.shape[1]
    outs, bounds, peaks = [], [], []
    stored = storage_unit(dtype) if is_half(dtype) else 0.0
    root = query.shape[2] ** -0.25
    for head, row in np.asarray(rows):
        seen = slice(None, row + offset + 1 if causal else None)
        q, k, v = wide(query[head, row]), wide(key[head, seen]), wide(value[head, seen])
        if projection is None:
            terms = 28 + query.shape[2] / 10
            phi_q, phi_k = (np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))) for x in (q, k))
        else:
            w = projection.astype(q.dtype)
            q, k = q * root, k * root
            sizes = [np.abs(x) @ np.abs(w).T + (x * x).sum(-1, keepdims=True) / 2 for x in (q, k)]
            terms = 30 + len(w) / 10 + 1.6 * max(x.max() for x in sizes)
            phi_k = np.exp(k @ w.T - (k * k).sum(-1, keepdims=True) / 2)
            phi_q = np.exp(w @ q - (w @ q).max())
        weights = phi_k @ phi_q
        peak = np.abs(v).max(0)
        outs.append(weights @ v / weights.sum())
        bounds.append(unit(dtype) * share(dtype) * peak * terms + smallest(dtype))
        peaks.append(peak)
    return Exact(np.stack(outs), np.stack(bounds), stored * np.stack(peaks), np.stack(peaks))


def softmax_rows(x: NDArray[Any]) -> Exact:
    """Softmax over the last axis; the bound is u (4 + |x_i - max|) p_i."""
    w = wide(x)
    shift = w - w.max(-1, keepdims=True)
    e = np.exp(shift)
    p = e / e.sum(-1, keepdims=True)
    bound = unit(x.dtype) * share(x.dtype) * (4 - shift) * p + smallest(x.dtype)
    return Exact(p, bound, storage_unit(x.dtype) * p if is_half(x.dtype) else 0.0, p)


def dots(query: NDArray[Any], keys: NDArray[Any]) -> Exact:
    """query (d,) with each row of keys (n, d); the bound is (ceil(d / 16) + 5) u sum |q_i k_i|."""
    q, k = wide(query), wide(keys)
    size = np.abs(k) @ np.abs(q)
    bound = (math.ceil(query.size / 16) + 5) * unit(query.dtype) * share(query.dtype) * size + smallest(query.dtype)
    return Exact(k @ q, bound, storage_unit(query.dtype) * size if is_half(query.dtype) else 0.0, size)


def poincare(a: NDArray[Any], b: NDArray[Any]) -> Exact:
    """Distances of pairs of points (n, d) in the ball of curvature -1; the bound is 2 units in the last place."""
    x, y = wide(a), wide(b)
    gaps = (1 - (x * x).sum(-1)) * (1 - (y * y).sum(-1))
    distance = 2 * np.arcsinh(np.sqrt(((x - y) ** 2).sum(-1) / gaps))
    bound = 4 * unit(a.dtype) * share(a.dtype) * distance + smallest(a.dtype)
    return Exact(distance, bound, storage_unit(a.dtype) * distance if is_half(a.dtype) else 0.0, distance)


def lorentz(a: NDArray[Any], b: NDArray[Any]) -> Exact:
    """Distances of pairs of space-like parts (n, d) on the hyperboloid of curvature -1; the bound is 2 units in the last place."""
    x, y = wide(a), wide(b)
    times = [np.sqrt(1 + (z * z).sum(-1)) for z in (x, y)]
    distance = 2 * np.arcsinh(np.sqrt(((x - y) ** 2).sum(-1) - (times[0] - times[1]) ** 2) / 2)
    bound = 4 * unit(a.dtype) * share(a.dtype) * distance + smallest(a.dtype)
    return Exact(distance, bound, storage_unit(a.dtype) * distance if is_half(a.dtype) else 0.0, distance)


def gat_rows(
    x: NDArray[Any],
    edge_index: NDArray[Any],
    w: NDArray[Any],
    a_src: NDArray[Any],
    a_dst: NDArray[Any],
    rows: ArrayLike,
) -> Exact:
    """A GAT layer at some nodes, heads side by side; x (N, in), w (H, in, out), a_src and a_dst (H, out), slope 0.2.

    With A = |x| |w|, the projection is off by p = (ceil(in / 16) + 5) u A, which reaches the result directly and through the
    logits; the rest is attention's u max|h| (8 + 4 kappa), kappa the size of the logits' terms.
    """
    u = unit(x.dtype) * share(x.dtype)
    heads, features, width = w.shape
    rounding = (math.ceil(features / 16) + 5) * u
    outs, bounds, peaks = [], [], []
    weights, sizes = wide(w), np.abs(wide(w))
    for row in np.asarray(rows):
        sources = edge_index[0][edge_index[1] == row]
        nodes = wide(x[np.append(sources, row)])
        h, room = np.einsum("ni,hio->hno", nodes, weights), np.einsum("ni,hio->hno", np.abs(nodes), sizes)
        ends = [(h * a[:, None]).sum(-1) for a in (wide(a_src), wide(a_dst))]
        terms = [(room * np.abs(a)[:, None]).sum(-1) for a in (wide(a_src), wide(a_dst))]
        logits = ends[0][:, :-1] + ends[1][:, -1:]
        logits = np.where(logits > 0, logits, 0.2 * logits)
        kappa = (terms[0][:, :-1] + terms[1][:, -1:]).max(-1, initial=0)
        p = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
        values = h[:, :-1]
        peak = np.abs(values).max(1, initial=0)
        outs.append((p[:, None] @ values)[:, 0] / np.maximum(p.sum(-1), np.finfo(float).tiny)[:, None])
        most = rounding * room[:, :-1].max(1, initial=0)
        bounds.append(most + peak * ((8 + 4 * kappa) * u + 2 * rounding * kappa)[:, None] + smallest(x.dtype))
        peaks.append(peak)
    shape = (len(outs), heads * width)
    return Exact(*(np.stack(a).reshape(shape) for a in (outs, bounds)), 0.0, np.stack(peaks).reshape(shape))
