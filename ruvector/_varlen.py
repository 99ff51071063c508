"""Sequences of different lengths that lie one behind the other."""

from __future__ import annotations

import math

import numpy as np

from ruvector import _attention, _coerce
from ruvector._options import flag, float64_array, number, softcap_of


def _starts(starts, name, total, what):
    array = np.asarray(starts)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got dtype {array.dtype}")
    if array.ndim != 1 or array.size < 1:
        raise ValueError(f"{name} must be one-dimensional with at least one element, got shape {array.shape}")
    array = np.ascontiguousarray(array, np.int64)
    if array[0] != 0 or array[-1] != total or (np.diff(array) < 0).any():
        raise ValueError(f"{name} must rise from 0 to the {total} rows of {what}, got {array.tolist()}")
    return array


def varlen_attention(
    query,
    key,
    value,
    cu_seqlens_q,
    cu_seqlens_k,
    *,
    causal=False,
    scale=None,
    softcap=0.0,
    window=None,
    alibi_slopes=None,
    return_lse=False,
    out=None,
):
    """Attention inside each of many sequences that lie one behind the other.

    Parameters
    ----------
    query : array_like, shape (total_q, H, d)
    key : array_like, shape (total_k, G, d)
    value : array_like, shape (total_k, G, dv)
        G divides H: consecutive query heads share a key and value head.
    cu_seqlens_q, cu_seqlens_k : array_like of int, shape (sequences + 1,)
        Where each sequence starts: cumulative lengths from 0 to total_q and total_k.
    causal : bool, default False
        Query i of L sees keys ``j <= i + (S - L)`` of its sequence: the diagonal ends at the bottom right.
    scale : float, optional
        ``1 / sqrt(d)`` when None.
    softcap : float, default 0.0
    window : (int or None, int or None), optional
        Relative to the same diagonal.
    alibi_slopes : array_like, shape (H,), optional
    return_lse : bool, default False
    out : ndarray, optional

    Returns
    -------
    ndarray, shape (total_q, H, dv)
    lse : ndarray, shape (total_q, H), float64
        With `return_lse`.

    Raises
    ------
    TypeError, ValueError
        As in `scaled_dot_product_attention`; ValueError for starts that do not rise from 0 to the number of rows.

    Notes
    -----
    The conventions are those of FlashAttention's variable-length interface [1]_. Cost, error and edge rules are those of
    `scaled_dot_product_attention` for each sequence; a sequence's result does not depend on its neighbours.

    References
    ----------
    .. [1] Dao, FlashAttention-2, arXiv:2307.08691

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x = np.random.default_rng(0).standard_normal((7, 2, 4))
    >>> ruvector.varlen_attention(x, x, x, [0, 3, 7], [0, 3, 7], causal=True).shape
    (7, 2, 4)
    """
    query, key, value = _coerce.inputs(query, key, value)
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
    if query.ndim != 3 or key.ndim != 3 or value.ndim != 3:
        raise ValueError(
            f"expected query (total_q, H, d), key (total_k, G, d) and value (total_k, G, dv), got {shapes}"
        )
    if query.shape[2] < 1:
        raise ValueError(f"head_dim must be at least 1, got {shapes}")
    if query.shape[2] != key.shape[2]:
        raise ValueError(f"Query and key dimensions must match: {query.shape[2]} vs {key.shape[2]}")
    if key.shape[0] != value.shape[0]:
        raise ValueError(f"Keys and values must have same length: {key.shape[0]} vs {value.shape[0]}")
    for x, name in ((key, "key"), (value, "value")):
        if x.shape[1] < 1 or query.shape[1] % x.shape[1]:
            raise ValueError(
                f"the {query.shape[1]} query heads must be a multiple of the {x.shape[1]} {name} heads ({shapes})"
            )
    starts_q = _starts(cu_seqlens_q, "cu_seqlens_q", query.shape[0], "query")
    starts_k = _starts(cu_seqlens_k, "cu_seqlens_k", key.shape[0], "key")
    if len(starts_q) != len(starts_k):
        raise ValueError(f"cu_seqlens_q and cu_seqlens_k must have the same length: {len(starts_q)} vs {len(starts_k)}")
    causal = flag(causal, "causal")
    scale = 1 / math.sqrt(query.shape[2]) if scale is None else number(scale, "scale")
    slopes = None if alibi_slopes is None else float64_array(alibi_slopes, "alibi_slopes")
    return_lse = flag(return_lse, "return_lse")
    softcap = softcap_of(softcap)
    return _attention.varlen(
        query, key, value, starts_q, starts_k, scale, causal, softcap, window, slopes, return_lse, out
    )
