"""Attention over fewer rows than there are keys: linformer projects them, nystrom takes the means of segments."""

from __future__ import annotations

import math

import numpy as np

from ruvector._attention import scaled_dot_product_attention as attend
from ruvector._registry import AttentionRecord, Parameter, add_type, get_attention
from ruvector._docstrings import documented
from ruvector.mechanisms import _rows


def _linformer(
    query, key, value, *, mask, causal, scale, dropout, training, rng, rank, key_projection, value_projection, shared
):
    call = _rows.Rows(query, key, value, mask, "linformer")
    if shared and value_projection is not None:
        raise ValueError("shared=True projects values as keys are: value_projection goes without it")
    keys, work, own = call.key.shape[1], call.query.dtype, _rows.seed(rng)
    if key_projection is None:
        # those of values come after those of keys in the same stream
        drawn = _rows.normal(
            own, rank if shared or value_projection is not None else 2 * rank, max(keys, 1), work
        ) / math.sqrt(rank)
        key_projection, rest = drawn[:rank], drawn[rank:]
        value_projection = rest if len(rest) else value_projection
    elif value_projection is None and not shared:
        value_projection = _rows.normal(own, rank, max(keys, 1), work) / math.sqrt(rank)
    if shared:
        value_projection = key_projection
    for x, name in ((key_projection, "key_projection"), (value_projection, "value_projection")):
        if x.ndim != 2 or (keys and x.shape[1] != keys):
            raise ValueError(f"{name} must have shape (rank, {keys}), a column for each key, got {x.shape}")
    if len(key_projection) != len(value_projection):
        raise ValueError(f"key_projection has {len(key_projection)} rows, value_projection {len(value_projection)}")

    def run(q, k, v, places):
        of_keys, of_values = (x.astype(work, copy=False)[:, places] for x in (key_projection, value_projection))
        with np.errstate(all="ignore"):
            return attend(q, of_keys @ k, of_values @ v, scale=scale)

    return call.apply(run)


def segment_means(x, count):
    """(N, n, d) as the means of `count` runs of rows whose lengths differ by one at the most."""
    edges = np.arange(count + 1) * x.shape[1] // count
    return np.add.reduceat(x, edges[:-1], axis=1) / np.diff(edges)[:, None].astype(x.dtype)


def pseudo_inverse(a, iterations):
    """The order-3 iteration of Razavi et al. that the paper takes: Z (13 I - AZ (15 I - AZ (7 I - AZ))) / 4."""
    eye = np.eye(a.shape[-1])
    norm = np.abs(a).sum(-2).max(-1) * np.abs(a).sum(-1).max(-1)
    z = np.swapaxes(a, -1, -2) / norm[..., None, None]
    for _ in range(iterations):
        az = a @ z
        z = z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az))) / 4
    return z


def _weights(a, b, scale):
    logits = scale * (a.astype(np.float64) @ np.swapaxes(b.astype(np.float64), -1, -2))
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _convolved(value, conv):
    """Each column of the values convolved over positions with the kernel of its head; there is nothing outside."""
    half, length = conv.shape[-1] // 2, value.shape[1]
    padded = np.pad(value, ((0, 0), (half, half), (0, 0)))
    taps = np.resize(conv, (len(value), conv.shape[-1])).astype(value.dtype)
    out = np.zeros_like(value)
    for t in range(conv.shape[-1]):
        out += taps[:, t, None, None] * padded[:, t : t + length]
    return out


def _nystrom(query, key, value, *, mask, causal, scale, dropout, training, rng, num_landmarks, pinv, iterations, conv):
    call = _rows.Rows(query, key, value, mask, "nystrom")
    factor = _rows.scale_of(scale, call.query.shape[-1])
    length, keys = call.query.shape[1], call.key.shape[1]
    if conv is not None:
        heads = call.lead[-1] if call.lead and conv.ndim == 2 else 1
        if conv.ndim > 2 or conv.shape[-1] % 2 == 0 or (conv.ndim == 2 and len(conv) not in (1, heads)):
            raise ValueError(f"conv must have shape (w,) or ({heads}, w) with w odd, got {conv.shape}")
        if length != keys:
            raise ValueError(f"conv adds values at the queries' own positions: {length} queries and {keys} keys differ")

    def run(q, k, v, places):
        # in self-attention a hidden position is no landmark of the queries either
        count = min(num_landmarks, len(places), length)
        with np.errstate(all="ignore"):
            marks = segment_means(q[:, places] if length == keys else q, count), segment_means(k, count)
            middle = _weights(*marks, factor)
            inverse = np.linalg.pinv(middle) if pinv == "exact" else pseudo_inverse(middle, iterations)
            mixed = inverse @ attend(marks[0], k, v, scale=factor).astype(np.float64)
            return attend(q, marks[1], mixed.astype(v.dtype), scale=factor)

    out = call.apply(run)
    if conv is None:
        return out
    shown = call.value if call.visible is None else np.where(call.visible[..., None], call.value, 0)
    with np.errstate(all="ignore"):
        return (out + call.finish(_convolved(shown, conv))).astype(call.dtype, copy=False)


def _documented(*texts):
    return lambda function: documented(function, "".join((_rows.MASK, *texts, _rows.OUT)))


@_documented(_rows.SCALE, _rows.RNG)
def linformer_attention(
    query,
    key,
    value,
    rank=256,
    *,
    key_projection=None,
    value_projection=None,
    shared=False,
    mask=None,
    scale=None,
    rng=None,
    out=None,
):
    """Attention over `rank` combinations of the keys and values: ``softmax(scale * Q (E K)^T) (F V)``.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    rank : int, default 256
        Rows of the projections that are drawn, at least 1; those that are given have their own.
    key_projection : array_like, shape (rank, S), optional
        E. Normal numbers of variance ``1 / rank`` when None, for which ``E^T E`` is the identity on average.
    value_projection : array_like, shape (rank, S), optional
        F; drawn behind E when None.
    shared : bool, default False
        F is E.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query
        0 where no key is left.

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for projections that do not fit the keys. There is no `causal`: rows of ``E K``
        mix all positions.

    Notes
    -----
    ``2 (L + S) rank (d + dv)`` operations; all leading axes share E and F. They are meant to be learned, or to average segments: attention then
    tends to the exact one with the rank, and is exact for E = F = I. Drawn ones keep lengths and products of what they
    multiply, but the softmax is over their rows, so that the result is no approximation of exact attention. From Wang
    et al. 2020, arXiv:2006.04768.

    Faster than exact attention from about n = 2048 where one E in both places is given, from 8192 where it is drawn
    (rank 256, one core of an AMD Zen 5, width 64, float32).

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> query, key, value = np.random.default_rng(0).standard_normal((3, 6, 4))
    >>> same = ruvector.linformer_attention(query, key, value, key_projection=np.eye(6), shared=True)
    >>> bool(np.allclose(same, ruvector.scaled_dot_attention(query, key, value), rtol=0, atol=1e-14))
    True
    """
    options = {"key_projection": key_projection, "value_projection": value_projection, "shared": shared, "scale": scale}
    return get_attention("linformer", rank=rank, **options)(query, key, value, mask=mask, rng=rng, out=out)


@_documented(_rows.SCALE)
def nystrom_attention(
    query,
    key,
    value,
    num_landmarks=64,
    *,
    pinv="iterative",
    iterations=6,
    conv=None,
    mask=None,
    scale=None,
    out=None,
):
    """Attention by way of landmarks: ``softmax(Q K~^T) softmax(Q~ K~^T)^+ (softmax(Q~ K^T) V)``, all with `scale`.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    num_landmarks : int, default 64
        At least 1, at most as many as there are queries and keys are taken: means of segments whose lengths differ by
        one at most.
    pinv : {"iterative", "exact"}, default "iterative"
        How the pseudo-inverse is found: by iterations of order 3, or by singular values.
    iterations : int, default 6
        Of "iterative", from 1 to 1000.
    conv : array_like, shape (w,) or (H, w), optional
        Kernels of odd length, one for each of the last leading axis: values convolved over positions are added to the
        result, which asks for L = S.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query
        0 where no key is left, but for what `conv` adds.

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for a `conv` of another shape. There is no `causal`: landmarks mix positions.

    Notes
    -----
    Exact where every position is a landmark, L = S, and the weights can be inverted. ``2 (L + S) m (d + dv)``
    operations for m landmarks and ``8 m**3`` an iteration, in float64. In self-attention, L = S, queries at hidden
    positions are no part of the landmarks: padding changes nothing. Weights may be negative. Where landmarks are alike,
    an exact pseudo-inverse multiplies what they differ by, and few iterations are closer to exact attention. From Xiong
    et al. 2021, arXiv:2102.03902.

    Faster than exact attention from about n = 1024 (64 landmarks, one core of an AMD Zen 5, width 64, float32).

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> query, key, value = np.random.default_rng(0).standard_normal((3, 6, 4))
    >>> same = ruvector.nystrom_attention(query, key, value, pinv="exact")
    >>> bool(np.allclose(same, ruvector.scaled_dot_attention(query, key, value), rtol=0, atol=1e-9))
    True
    """
    options = {"pinv": pinv, "iterations": iterations, "conv": conv, "scale": scale}
    return get_attention("nystrom", num_landmarks=num_landmarks, **options)(query, key, value, mask=mask, out=out)


def _register():
    add_type(
        AttentionRecord(
            "linformer",
            (),
            "O(n*k)",
            "Long sequences of one length, with learned projections",
            "approximate",
            (
                Parameter("rank", "int", 256, 1, None, "rows of the projections that are drawn"),
                Parameter("key_projection", "array", None, None, None, "E (rank, keys); normal / sqrt(rank) when None"),
                Parameter("value_projection", "array", None, None, None, "F (rank, keys); drawn behind E when None"),
                Parameter("shared", "bool", False, None, None, "F is E"),
            ),
            "Wang et al. 2020, Linformer, arXiv:2006.04768",
        ),
        _linformer,
        lacks=("causal", "dropout"),
    )
    add_type(
        AttentionRecord(
            "nystrom",
            ("nystromformer",),
            "O(n*m)",
            "Long sequences whose neighbours are alike",
            "approximate",
            (
                Parameter("num_landmarks", "int", 64, 1, None, "segments whose means stand for queries and keys"),
                Parameter("pinv", "iterative|exact", "iterative", None, None, "how the pseudo-inverse is found"),
                Parameter("iterations", "int", 6, 1, 1000, "of the iterative pseudo-inverse"),
                Parameter("conv", "array", None, None, None, "kernels (w,) or (heads, w): convolved values are added"),
            ),
            "Xiong et al. 2021, Nystr\u00f6mformer, arXiv:2102.03902",
        ),
        _nystrom,
        lacks=("causal", "dropout"),
    )


_register()
