"""How a type ranks a key for a query, and how it weighs all keys."""

from __future__ import annotations

import math

import numpy as np

from ruvector import _attention, _coerce
from ruvector._registry import ComposedAttention, attention_types, get_attention, has_score, head_counts, score_of


def score_options(attention_type, params):
    """The resolved type for the score functions, which take the options that shape a score."""
    call = get_attention(attention_type, **params)
    if not has_score(call.name):
        known = [record.name for record in attention_types() if has_score(record.name)]
        raise ValueError(f"attention type {call.name!r} has no pairwise score; types that have one: {', '.join(known)}")
    return call


def attention_score(query, key, attention_type="scaled_dot", **params):
    """The score by which a type ranks a key for a query, before the softmax.

    Parameters
    ----------
    query : array_like, shape (..., d)
    key : array_like, shape (..., d)
        Leading axes broadcast.
    attention_type : str or AttentionType, default "scaled_dot"
    **params
        The type's own parameters, and `scale`.

    Returns
    -------
    NumPy scalar, or ndarray of shape (...)
        ``scale * query . key``, the mean over heads for types with heads, softcapped where the type has a softcap; of
        hyperbolic types ``-scale * distance``.

    Raises
    ------
    UnknownAttentionType, TypeError, ValueError
        As in `attention`; ValueError for a type that has no pairwise score.

    Notes
    -----
    O(d). Positions are taken as equal: causality, windows and ALiBi do not change a pair's score.

    Examples
    --------
    >>> import ruvector
    >>> float(ruvector.attention_score([1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]))
    0.5
    """
    call = score_options(attention_type, params)
    query, key = _coerce.pair(query, key, "query", "key")
    own = call.params
    score = score_of(call.name)
    if score is not None:
        options = {name: value for name, value in own.items() if name not in ("causal", "dropout")}
        return score(query, key, **{"scale": None, **options})
    num_heads, num_kv_heads = head_counts(call.name, own)
    if query.ndim < 1 or key.ndim < 1:
        raise ValueError(f"query and key must have at least one axis, got shapes {query.shape} and {key.shape}")
    width, key_width = query.shape[-1], key.shape[-1]
    if width != key_width and num_heads == num_kv_heads:
        raise ValueError(f"Query and key dimensions must match: {width} vs {key_width}")
    if width < 1:
        raise ValueError(f"head_dim must be at least 1, got query {query.shape}, key {key.shape}")
    _coerce.check_heads(num_heads, num_kv_heads, width, num_kv_heads)
    head_dim = width // num_heads
    if key_width != head_dim * num_kv_heads:
        raise ValueError(f"Query and key dimensions must match: {head_dim * num_kv_heads} vs {key_width}")
    return pair_scores(call, query, key)


def pair_scores(call, query, key):
    """Scores of a type that C runs for pairs of rows, whose widths are checked."""
    lead = _coerce._broadcast((query.shape[:-1], key.shape[:-1]), f"query {query.shape}, key {key.shape}")
    _coerce._few_axes(len(lead) + 1, query, key)
    dtype = query.dtype
    query, key = (
        _coerce.plain(np.broadcast_to(x, (*lead, x.shape[-1])), np.dtype(_coerce.computed_in(dtype)))
        for x in (query, key)
    )
    score = call._score(query, key)
    return score.astype(dtype) if isinstance(score, np.ndarray) else dtype.type(score)


def attention_scores(query, keys, attention_type="scaled_dot", *, mask=None, **params):
    """The attention weights of a query over keys.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    keys : array_like, shape (..., S, d)
    attention_type : str or AttentionType, default "scaled_dot"
    mask : array_like, optional
        Broadcasts to ``(..., L, S)``; boolean or floating.
    **params
        The type's own parameters, and `causal` and `scale`.

    Returns
    -------
    ndarray, shape (..., L, S), or (S,) for a single query
        Rows sum to 1, but for `sigmoid`, and `talking_heads` with `w_weights`; the mean over heads for types with heads. A row that
        sees no key is 0.

    Raises
    ------
    UnknownAttentionType, TypeError, ValueError
        As in `attention`.

    Notes
    -----
    O(L S d) time and, unlike `attention`, O(L S) memory.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.attention_scores([1.0, 0.0, 0.0], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]]).round(4)
    array([0.4328, 0.243 , 0.3243])
    """
    call = score_options(attention_type, params)
    query, keys, _ = _coerce.plural(query, keys, keys)
    weights = call._weights(query, keys, mask)
    if isinstance(call, ComposedAttention) or call.params.get("num_heads", 1) == 1:
        return weights
    axis = weights.ndim - (2 if np.ndim(query) == 1 else 3)
    lead, heads, rest = weights.shape[:axis], weights.shape[axis], weights.shape[axis + 1 :]
    compute = _coerce.computed_in(weights.dtype)
    mean = np.empty((*lead, *rest), compute)
    flat = np.ascontiguousarray(weights, compute).reshape(math.prod(lead), heads, math.prod(rest))
    _attention.heads_mean(flat, mean.reshape(flat.shape[0], flat.shape[2]))
    return mean.astype(weights.dtype, copy=False)
