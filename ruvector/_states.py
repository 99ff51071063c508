"""Attention over some of the keys, as states that are merged into attention over all of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ruvector import _attention, _coerce
from ruvector._options import flag, float64_array, number, softcap_of


class AttentionState(NamedTuple):
    """Attention over some of the keys: mergeable with states over others.

    Attributes
    ----------
    output : ndarray, shape (..., L, dv)
    lse : ndarray, shape (..., L), float64
        Log-sum-exp of the logits; -inf where no key was seen.
    """

    output: np.ndarray
    lse: np.ndarray


def partial_attention(
    query,
    key,
    value,
    attn_mask=None,
    is_causal=False,
    *,
    scale=None,
    enable_gqa=False,
    softcap=0.0,
    window=None,
    alibi_slopes=None,
    key_offset=0,
):
    """Attention over a part of the keys, as a state that `merge_states` joins with others.

    Parameters
    ----------
    query, key, value, attn_mask, is_causal, scale, enable_gqa, softcap, window, alibi_slopes
        As in `scaled_dot_product_attention`.
    key_offset : int, default 0
        Position of the first of these keys: causality, window and ALiBi count from it.

    Returns
    -------
    AttentionState

    Raises
    ------
    TypeError, ValueError
        As in `scaled_dot_product_attention`.

    Notes
    -----
    Cost and error are those of `scaled_dot_product_attention`. Merging the states of all parts, in any order or tree, gives
    attention over all keys to the same bound.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> rng = np.random.default_rng(0)
    >>> query, key, value = rng.standard_normal((3, 6, 4))
    >>> parts = [ruvector.partial_attention(query, key[i : i + 3], value[i : i + 3]) for i in (0, 3)]
    >>> whole = ruvector.scaled_dot_product_attention(query, key, value)
    >>> bool(np.allclose(ruvector.merge_states(parts).output, whole, rtol=0, atol=1e-15))
    True
    """
    key_offset = number(key_offset, "key_offset", whole=True)
    if abs(key_offset) > 2**40:
        raise ValueError(f"key_offset must be between -2**40 and 2**40, got {key_offset}")
    return AttentionState(
        *_attention.partial(
            query,
            key,
            value,
            attn_mask,
            math.nan if scale is None else number(scale, "scale"),
            flag(is_causal, "is_causal"),
            flag(enable_gqa, "enable_gqa"),
            softcap_of(softcap),
            window,
            None if alibi_slopes is None else float64_array(alibi_slopes, "alibi_slopes"),
            -key_offset,
        )
    )


def merge_states(states):
    """Joins attention states over disjoint keys into the state over all of them.

    Parameters
    ----------
    states : iterable of AttentionState or (output, lse) pairs
        At least one; all of the same shapes. ``(0, -inf)`` is the identity.

    Returns
    -------
    AttentionState

    Raises
    ------
    TypeError
        For states that are not pairs of real arrays.
    ValueError
        For no state, or states whose shapes differ.

    Notes
    -----
    ``output = sum_i exp(lse_i - lse) output_i`` with ``lse = log sum_i exp(lse_i)``, summed in float64 in the given order;
    O(states * rows * dv).

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> a = ruvector.AttentionState(np.array([[1.0]]), np.array([0.0]))
    >>> b = ruvector.AttentionState(np.array([[3.0]]), np.array([0.0]))
    >>> ruvector.merge_states([a, b]).output
    array([[2.]])
    """
    outputs, lses = [], []
    try:
        states = list(states)
    except TypeError:
        raise TypeError(f"states must be an iterable of (output, lse) pairs, got {states!r}") from None
    for i, state in enumerate(states):
        try:
            output, lse = state
        except (TypeError, ValueError):
            raise TypeError(f"states[{i}] must be a pair (output, lse), got {type(state).__name__}") from None
        outputs.append(_coerce.array(output, f"states[{i}].output"))
        lses.append(_coerce.array(lse, f"states[{i}].lse"))
        if lses[i].shape != outputs[i].shape[:-1] or outputs[i].ndim < 1:
            raise ValueError(
                f"states[{i}] has output shape {outputs[i].shape} and lse shape {lses[i].shape}; "
                "lse has every axis of output but the last"
            )
        if outputs[i].shape != outputs[0].shape:
            raise ValueError(f"states[{i}] has output shape {outputs[i].shape}, states[0] has {outputs[0].shape}")
    if not outputs:
        raise ValueError("states must hold at least one state, got none")
    dtype = _coerce._promote(outputs)
    shape = outputs[0].shape
    rows = math.prod(shape[:-1])
    out, lse = np.empty((rows, shape[-1]), dtype), np.empty(rows)
    _attention.merge(
        [np.require(x, dtype, ["C", "A"]).reshape(rows, shape[-1]) for x in outputs],
        [np.require(x, np.float64, ["C", "A"]).reshape(rows) for x in lses],
        out,
        lse,
    )
    return AttentionState(out.reshape(shape), lse.reshape(shape[:-1]))
