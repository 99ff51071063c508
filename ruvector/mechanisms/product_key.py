"""Attention over a memory whose keys are all pairs of two sets of halves."""

from __future__ import annotations

import numpy as np

from ruvector import _coerce
from ruvector._moe import topk
from ruvector._primitives import softmax
from ruvector._registry import AttentionRecord, Parameter, add_type, get_attention
from ruvector.mechanisms import _rows


class _Memory(_rows.Rows):
    """Queries, the halves of keys, and a value for each pair of them."""

    def __init__(self, query, key, value, mask, heads):
        if query.ndim < 1 or key.ndim < 2 or value.ndim < 2:
            _coerce.refuse_axes(query, key, value)
        if query.shape[-1] != key.shape[-1]:
            raise ValueError(f"Query and key dimensions must match: {query.shape[-1]} vs {key.shape[-1]}")
        if query.shape[-1] < 1 or query.shape[-1] % (2 * heads):
            raise ValueError(f"Query dimension {query.shape[-1]} must be divisible by 2 * num_heads = {2 * heads}")
        slots = key.shape[-2] ** 2
        if value.shape[-2] != slots:
            raise ValueError(
                f"value must have a row for each pair of the {key.shape[-2]} halves, {slots} rows, "
                f"got shape {value.shape}"
            )
        self._place(query, key, value)
        self.visible = None if mask is None else self._visible(mask, slots, "product_key")


def _candidates(k, n):
    """Places (i, j) in two descending lists of n that the k largest sums can have: those with (i + 1)(j + 1) <= k."""
    i, j = np.divmod(np.arange(n * n), n)
    kept = (i + 1) * (j + 1) <= k
    return i[kept], j[kept]


def _product_key(query, key, value, *, mask, causal, scale, dropout, training, rng, num_heads, top_k):
    call = _Memory(query, key, value, mask, num_heads)
    (count, length, width), halves, slots = call.query.shape, call.key.shape[1], call.value.shape[1]
    out = np.zeros((count, length, call.value.shape[-1]), call.query.dtype)
    if 0 in out.shape or slots == 0:
        return call.finish(out)
    factor = out.dtype.type(_rows.scale_of(scale, width // num_heads))
    wanted, each = min(top_k, slots), min(top_k, halves)
    i, j = _candidates(wanted, each)

    def pick(scores, visible):
        """Logits and slots of the largest sums of scores (rows, heads, 2, halves)."""
        if visible is not None:
            sums = (scores[..., 0, :, None] + scores[..., 1, None, :]).reshape(*scores.shape[:2], slots)
            return topk(np.where(visible, sums, -np.inf), wanted)
        found, at = topk(scores, each)
        logits, chosen = topk(found[..., 0, i] + found[..., 1, j], wanted)
        pairs = at[..., 0, i] * halves + at[..., 1, j]
        return logits, np.take_along_axis(pairs, chosen, -1)

    with np.errstate(all="ignore"):
        for n in range(count):
            visible = None if call.visible is None else call.visible[n]
            sub = call.key[n].reshape(halves, num_heads, 2, -1)
            sub = np.ascontiguousarray(sub.transpose(1, 2, 3, 0))
            held = num_heads * wanted * out.shape[-1] if visible is None else num_heads * slots
            for rows in _rows.steps(length, held):
                q = call.query[n, rows].reshape(-1, num_heads, 2, width // num_heads // 2) * factor
                scores = np.moveaxis(q.transpose(1, 2, 0, 3) @ sub, 2, 0)
                logits, at = pick(np.ascontiguousarray(scores), visible)
                weights = softmax(logits)
                values = call.value[n][at]
                if visible is not None:
                    # fewer than wanted may be left, and what is hidden may be anything
                    shown = visible[at]
                    weights, values = np.where(shown, weights, 0), np.where(shown[..., None], values, 0)
                flat = weights.reshape(len(q), 1, -1)
                out[n, rows] = (flat @ values.reshape(len(q), flat.shape[-1], -1))[:, 0]
    return call.finish(out)


def product_key_attention(query, key, value, num_heads=4, top_k=32, *, mask=None, scale=None, out=None):
    """Attention over the best slots of a memory whose keys are the pairs of C first and C second halves.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., C, d)
        Row i holds, for each head, half number i of both sets: columns are those of the query.
    value : array_like, shape (..., C * C, dv)
        Slot ``i * C + j`` belongs to first half i and second half j; all heads share it.
    num_heads : int, default 4
        From 1 to 1024; twice of it divides d.
    top_k : int, default 32
        Slots that a head reads, at least 1.
    mask : array_like of bool, optional
        True = there. Broadcasts to ``(..., 1, C * C)``: which slots there are.
    scale : float, optional
        Factor on the products; ``1 / sqrt(d / num_heads)`` when None. The published one is 1.
    out : ndarray, optional
        Where the result goes: its shape and dtype, any strides; may overlap the inputs.

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query
        The sum over heads.

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for values that are not C * C rows. There is no `causal`: slots have no positions.

    Notes
    -----
    ``sum_h sum_t softmax(s_h)_t v[slot_ht]`` over the `top_k` largest of ``scale * (q_h1 . k_hi1 + q_h2 . k_hj2)``:
    exactly those of all pairs, found among the ``top_k log(top_k)`` sums of the largest halves. ``2 L C d`` operations
    and O(L num_heads top_k dv), where exact attention over the slots has ``2 L C**2 (d + dv)``; a mask scores every
    slot. The published layer projects its input to the queries and normalises them over the batch before. From Lample
    et al. 2019, arXiv:1907.05242.

    Faster than exact attention over the slots from about C * C = 32768 of them (4 heads of 32 slots, 512 queries, one
    core of an AMD Zen 5, width 64, float32).

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> rng = np.random.default_rng(0)
    >>> ruvector.product_key_attention(rng.random((5, 16)), rng.random((10, 16)), rng.random((100, 3)), 2).shape
    (5, 3)
    """
    call = get_attention("product_key", num_heads=num_heads, top_k=top_k, scale=scale)
    return call(query, key, value, mask=mask, out=out)


def _register():
    add_type(
        AttentionRecord(
            "product_key",
            ("pkm", "product_key_memory"),
            "O(n\u221am)",
            "Memories of very many slots",
            "approximate",
            (
                Parameter("num_heads", "int", 4, 1, 1024, "slices of the query's last axis, whose results are added"),
                Parameter("top_k", "int", 32, 1, None, "slots that a head reads"),
            ),
            "Lample et al. 2019, Large Memory Layers with Product Keys, arXiv:1907.05242",
        ),
        _product_key,
        lacks=("causal", "dropout"),
    )


_register()
