"""Biases by distance around the dense core: embeddings of relative positions, and the buckets of T5."""

from __future__ import annotations

import math

import numpy as np

from ruvector._options import flag
from ruvector._random import glorot
from ruvector._registry import AttentionRecord, Parameter, add_type, get_attention
from ruvector._docstrings import COMMON_OPTIONS, documented
from ruvector.mechanisms._heads import (
    HEADS,
    Call,
    cut,
    fits_of,
    grouped,
    heads_of,
    plain_products,
    plain_score,
    score_heads,
)

# What `bias` and `key_embedding` are drawn from when nobody gives them.
_SEED = 42


class _BlockCall(Call):
    """A call in blocks of some heads and rows, whose logits get biases."""

    def blocks(self):
        """Blocks of each batch element and some heads at a time whose biases are few enough for the cache.

        8 heads of 2048 keys took 76 ms with 64 queries and 2 heads a block, 107 ms with 32 and 2, 436 ms with 32 and 8 (AMD
        EPYC, AVX-512, 2 threads, memory busy, gcc 12). 48 queries are whole tiles of the core in every instruction set.
        """
        most = self.block_rows()
        shared = self.num_heads // self.num_kv_heads
        count = max(1, 2**18 // (most * max(self.kv_len, 1)))
        # either whole groups of heads that share keys, or equal parts of one
        count = count // shared * shared or max(n for n in range(1, count + 1) if shared % n == 0)
        for batch in np.ndindex(*self.lead if self.q_len else (0,)):
            for start in range(0, self.num_heads, count):
                for rows, seen in self.row_blocks(most):
                    yield _Block(batch, range(start, min(start + count, self.num_heads)), shared, rows, seen)

    def block_rows(self):
        return max(1, min(48, 2**19 // max(self.kv_len, 1)))

    def biased(self, block, bias):
        """The core for the heads of a block, and its biases (heads, rows, seen) as that takes them, with the mask in them."""
        core = self.core
        if len(block.heads) < self.num_heads:
            core = self._core(len(block.heads), len(block.kv_heads))
        if self.mask is not None:
            mask = self.mask[block.batch]
            mask = cut(
                mask[slice(block.heads.start, block.heads.stop) if len(mask) > 1 else slice(None)],
                block.rows,
                block.seen,
            )
            if mask.dtype == bool:
                bias = np.where(mask, bias, np.array(-np.inf, bias.dtype))
            else:
                with np.errstate(all="ignore"):
                    # hidden is hidden, whatever the bias
                    bias = np.where(np.isneginf(mask), mask, bias + mask)
        return core, bias if len(block.heads) > 1 else bias[0]


class _Block:
    """Some heads and rows of a batch element, and the keys that some of the rows sees."""

    def __init__(self, batch, heads, shared, rows, seen):
        self.batch, self.heads, self.rows, self.seen = batch, heads, rows, seen
        self.kv_heads = range(heads.start // shared, (heads.stop - 1) // shared + 1)

    def queries(self, x, num_heads):
        """Of an array (..., L, num_heads * width)."""
        width = x.shape[-1] // num_heads
        return x[self.batch][self.rows, self.heads.start * width : self.heads.stop * width]

    def keys(self, x, num_kv_heads):
        """Of an array (..., S, num_kv_heads * width)."""
        width = x.shape[-1] // num_kv_heads
        return x[self.batch][: self.seen, self.kv_heads.start * width : self.kv_heads.stop * width]

    def table(self, x):
        """Of an array with an axis of heads, or of one for all."""
        return x[self.heads.start : self.heads.stop] if len(x) > 1 else x


def _t5_products(*, num_heads, num_kv_heads, scale, **own):
    return grouped(1.0 if scale is None else scale, num_heads, num_kv_heads)


def _biased(call, bias_of, attend=None):
    """Attention whose logits get `bias_of(block)`, (heads, rows, seen).

    `attend(block, core, query, key, value, bias)`, in place of the core's, gives the result of a block.
    """
    query, key, value = call.broadcast()
    out = np.empty((*call.lead, call.q_len, call.num_heads * (value.shape[-1] // call.num_kv_heads)), query.dtype)
    for block in call.blocks():
        core, bias = call.biased(block, bias_of(block))
        q, k, v = block.queries(query, call.num_heads), *(block.keys(x, call.num_kv_heads) for x in (key, value))
        to = block.queries(out, call.num_heads)
        if attend is None:
            core(q, k, v, mask=bias, training=call.training, rng=call.rng, out=to)
        else:
            to[...] = attend(block, core, q, k, v, bias)
    return call.finish(out)


def _biased_weights(call, bias_of):
    query, key, _ = call.broadcast()
    out = np.zeros((*call.lead, call.q_len, call.kv_len))
    for block in call.blocks():
        core, bias = call.biased(block, bias_of(block))
        weights = core._weights(block.queries(query, call.num_heads), block.keys(key, call.num_kv_heads), bias)
        out[block.batch][block.rows, : block.seen] += weights if weights.ndim == 2 else weights.sum(0, dtype=np.float64)
    return call.finish(out / call.num_heads)


def _t5_buckets(distances, bidirectional, num_buckets, max_distance):
    """Row of the table for each distance j - p of a key from its query."""
    side = num_buckets // 2 if bidirectional else num_buckets
    exact = side // 2
    if exact < 1 or (bidirectional and num_buckets % 2):
        want = "an even number of at least 4, half for each side" if bidirectional else "at least 2"
        raise ValueError(f"num_buckets must be {want}, got {num_buckets}")
    if max_distance <= exact:
        raise ValueError(
            f"max_distance must be larger than {exact}, the distances with their own bucket, got {max_distance}"
        )
    away = np.abs(distances) if bidirectional else np.maximum(-distances, 0)
    step = np.log(np.maximum(away, exact) / exact) / math.log(max_distance / exact) * (side - exact)
    buckets = np.where(away < exact, away, np.minimum(exact + step.astype(np.int64), side - 1))
    return buckets + side * (distances > 0) if bidirectional else buckets


def _t5_table(bias, num_buckets, num_heads):
    if bias is None:
        return glorot((num_buckets, num_heads), num_buckets + num_heads, _SEED)
    if bias.shape != (num_buckets, num_heads):
        raise ValueError(
            f"bias must have shape (num_buckets, num_heads) = {(num_buckets, num_heads)}, got {bias.shape}"
        )
    return bias


def _t5_bias(call, num_buckets, max_distance, bidirectional, bias):
    """Biases (heads, L, S): a view of one number a distance and head, whose rows begin one number further left each."""
    bidirectional = not call.causal if bidirectional is None else bidirectional
    buckets = _t5_buckets(np.arange(1 - call.kv_len, call.q_len), bidirectional, num_buckets, max_distance)
    table = _t5_table(bias, num_buckets, call.num_heads)
    if not call.q_len or not call.kv_len:
        return np.zeros((call.num_heads, call.q_len, call.kv_len), call.query.dtype)
    with np.errstate(over="ignore"):
        by_distance = np.ascontiguousarray(table[buckets].T, call.query.dtype)
    return np.lib.stride_tricks.sliding_window_view(by_distance, call.kv_len, axis=-1)[:, ::-1]


def _t5_type(query, key, value, *, mask, num_heads, num_kv_heads, causal, scale, dropout, training, rng, **own):
    scale = 1.0 if scale is None else scale
    call = _BlockCall(query, key, value, mask, num_heads, num_kv_heads, causal, scale, dropout, training, rng)
    bias = _t5_bias(call, **own)
    if call.mask is not None:
        return _biased(call, lambda block: block.table(bias)[:, block.rows, : block.seen])
    bias = bias[(None,) * len(call.lead)] if num_heads > 1 else bias[0]
    return call.finish(call.attend(call.query, call.key, call.value, bias))


def _t5_weights(query, key, mask, *, num_heads, num_kv_heads, causal, scale, **own):
    call = _BlockCall(query, key, key, mask, num_heads, num_kv_heads, causal, 1.0 if scale is None else scale)
    bias = _t5_bias(call, **own)
    return _biased_weights(call, lambda block: block.table(bias)[:, block.rows, : block.seen])


def _t5_score(query, key, *, num_heads, num_kv_heads, scale, num_buckets, max_distance, bidirectional, bias):
    """With the bias of distance 0, which is the first bucket's in both directions."""
    num_kv_heads = score_heads(query, key, num_heads, num_kv_heads)
    _t5_buckets(np.zeros(1, np.int64), bidirectional is not False, num_buckets, max_distance)
    score = plain_score(query, key, num_heads, num_kv_heads, 1.0 if scale is None else scale)
    return query.dtype.type(score + _t5_table(bias, num_buckets, num_heads)[0].mean())


def _t5_offset(queries, *, num_heads, num_buckets, max_distance, bidirectional, bias, **own):
    _t5_buckets(np.zeros(1, np.int64), bidirectional is not False, num_buckets, max_distance)
    return _t5_table(bias, num_buckets, num_heads)[0].mean()


def _embeddings(table, name, max_distance, num_heads, width):
    """Embeddings (1 or num_heads, 2 * max_distance + 1, width), float64."""
    rows = 2 * max_distance + 1
    if table is None:
        return glorot((1, rows, width), rows + width, _SEED)
    if table.shape not in ((rows, width), (num_heads, rows, width)):
        shared = f"(2 * max_distance + 1, width of a head) = {(rows, width)}"
        raise ValueError(f"{name} must have shape {shared}, or that for each of {num_heads} heads, got {table.shape}")
    return table.reshape(-1, rows, width)


def _relative_bias(call, max_distance, key_embedding):
    """What the keys' embeddings add to the logits: scale * q_i . a[j - p] as (heads, rows, seen), a view of (heads, rows,
    rows + seen) whose rows begin one number further left each.

    Products are float64: no error of theirs shows in float32.
    """
    table = np.swapaxes(
        _embeddings(key_embedding, "key_embedding", max_distance, call.num_heads, call.head_dim), -1, -2
    )
    query, _, _ = call.broadcast()
    reach, work = max_distance, call.query.dtype

    def bias_of(block):
        heads = np.swapaxes(heads_of(block.queries(query, call.num_heads), len(block.heads)), 0, 1).astype(np.float64)
        count, seen = heads.shape[1], block.seen
        with np.errstate(all="ignore"):
            near = (call.scale * (heads @ block.table(table))).astype(work)
        if not seen:
            return np.zeros((len(heads), count, 0), work)
        wide = np.empty((len(heads), count, count - 1 + seen), work)
        # the distance of the first number, which is the last row's to the first key
        low = -(block.rows.stop - 1 + call.kv_len - call.q_len)
        left, right = (min(max(n, 0), wide.shape[-1]) for n in (-reach - low, reach + 1 - low))
        wide[..., :left] = near[..., :1]
        wide[..., left:right] = near[..., left + low + reach : right + low + reach]
        wide[..., right:] = near[..., -1:]
        steps = wide.strides
        return np.lib.stride_tricks.as_strided(
            wide[..., count - 1 :],
            (len(heads), count, seen),
            (steps[0], steps[1] - steps[2], steps[2]),
            writeable=False,
        )

    return bias_of


class _ValueTerm:
    """Attention that adds the values' embeddings: sum_j weight_ij a[j - p].

    The weights that this needs come out of the same call of the core as the result: values get columns that pick out single
    keys near a block of queries, and two that pick out all keys beyond them on either side. So dropout and masks are right.
    """

    def __init__(self, call, max_distance, value_embedding):
        v_dim = call.value.shape[-1] // call.num_kv_heads
        self.table = _embeddings(value_embedding, "value_embedding", max_distance, call.num_heads, v_dim)
        self.call, self.reach, self.v_dim = call, max_distance, v_dim
        # the values with their columns, for one group of heads after the other; the values there, and the rows that are not 0
        self.columns, self.group, self.filled, self.band = None, None, 0, slice(0)

    def __call__(self, block, core, query, key, value, bias):
        call, reach, v_dim = self.call, self.reach, self.v_dim
        first = block.rows.start + call.kv_len - call.q_len
        count, seen, num_heads, num_kv_heads = len(query), block.seen, len(block.heads), len(block.kv_heads)
        near = count + 2 * reach
        width = v_dim + call.block_rows() + 2 * reach + 2
        if self.group != (block.batch, block.heads):
            self.group, self.filled, self.band = (block.batch, block.heads), 0, slice(0)
            self.columns = np.zeros((call.kv_len, num_kv_heads, width), value.dtype)
        columns = self.columns[:seen]
        columns[self.filled :, :, :v_dim] = heads_of(value, num_kv_heads)[self.filled :]
        self.filled = seen
        begin, end = (min(max(n, 0), seen) for n in (first - reach, first + count + reach))
        self.columns[self.band, :, v_dim:-2] = 0
        self.band, at = slice(begin, end), np.arange(begin, end)
        columns[at, :, v_dim + at - (first - reach)] = 1
        columns[:, :, -2] = (np.arange(seen) < begin)[:, None]
        columns[:, :, -1] = (np.arange(seen) >= end)[:, None]
        columns = columns.reshape(seen, num_kv_heads * width)
        out = heads_of(core(query, key, columns, mask=bias, training=call.training, rng=call.rng), num_heads)
        weights = out[..., v_dim:]
        steps = weights.strides
        shares = np.empty((count, num_heads, 2 * reach + 1))
        # row i has its nearer keys in columns i + 1 to i + 2 * reach - 1
        shares[..., 1:-1] = np.lib.stride_tricks.as_strided(
            weights[..., 1:], (count, num_heads, 2 * reach - 1), (steps[0] + steps[2], *steps[1:]), writeable=False
        )
        behind = np.tri(count, dtype=bool)[:, None, :]
        with np.errstate(all="ignore"):
            shares[..., 0] = weights[..., -2] + np.sum(weights[..., :count], -1, np.float64, where=behind)
            ahead = weights[..., 2 * reach : near]
            shares[..., -1] = weights[..., -1] + np.sum(ahead, -1, np.float64, where=np.swapaxes(behind, 0, 2))
            term = np.swapaxes(np.swapaxes(shares, 0, 1) @ block.table(self.table), 0, 1)
            return (out[..., :v_dim] + term).reshape(count, num_heads * v_dim)


def _relative_type(
    query, key, value, *, mask, num_heads, num_kv_heads, max_distance, key_embedding, value_embedding, **common
):
    call = _BlockCall(query, key, value, mask, num_heads, num_kv_heads, **common)
    bias_of = _relative_bias(call, max_distance, key_embedding)
    if value_embedding is None:
        return _biased(call, bias_of)
    return _biased(call, bias_of, _ValueTerm(call, max_distance, value_embedding))


def _relative_weights(
    query, key, mask, *, num_heads, num_kv_heads, causal, scale, max_distance, key_embedding, value_embedding
):
    call = _BlockCall(query, key, key, mask, num_heads, num_kv_heads, causal, scale)
    return _biased_weights(call, _relative_bias(call, max_distance, key_embedding))


def _relative_score(query, key, *, num_heads, num_kv_heads, scale, max_distance, key_embedding, value_embedding):
    """With the embedding of distance 0."""
    num_kv_heads = score_heads(query, key, num_heads, num_kv_heads)
    term = _relative_term(query, num_heads, scale, max_distance, key_embedding)
    with np.errstate(all="ignore"):
        score = plain_score(query, key, num_heads, num_kv_heads, scale) + term
    return score.astype(query.dtype)[()]


def _relative_term(query, num_heads, scale, max_distance, key_embedding):
    """What a query (..., width) scores with the embedding of distance 0 (...)."""
    head_dim = query.shape[-1] // num_heads
    here = _embeddings(key_embedding, "key_embedding", max_distance, num_heads, head_dim)[:, max_distance]
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    with np.errstate(all="ignore"):
        return scale * (heads_of(query.astype(np.float64), num_heads) * here).sum((-1, -2)) / num_heads


def _relative_offset(queries, *, num_heads, scale, max_distance, key_embedding, **own):
    return _relative_term(queries, num_heads, scale, max_distance, key_embedding)[:, None]


@documented
def relative_attention(
    query,
    key,
    value,
    num_heads=8,
    num_kv_heads=None,
    *,
    max_distance=16,
    key_embedding=None,
    value_embedding=None,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Multi-head attention with an embedding of the distance, clipped, added to each key and each value.

    Parameters
    ----------
    query : array_like, shape (..., L, num_heads * d) or (num_heads * d,)
    key : array_like, shape (..., S, num_kv_heads * d)
    value : array_like, shape (..., S, num_kv_heads * dv)
    num_heads : int, default 8
        From 1 to 1024.
    num_kv_heads : int, optional
        From 1 to 1024; divides num_heads: consecutive query heads share a key and value head. num_heads when None.
    max_distance : int, default 16
        At least 1: distances are clipped to ``-max_distance ... max_distance``.
    key_embedding : array_like, shape (2 * max_distance + 1, d) or (num_heads, 2 * max_distance + 1, d), optional
        Row ``max_distance + t`` belongs to distance t; all heads share the first form. When None, the numbers of SplitMix64
        with seed 42, uniform in ``+-sqrt(6 / (2 * max_distance + 1 + d))``.
    value_embedding : array_like, shape (2 * max_distance + 1, dv) or (num_heads, 2 * max_distance + 1, dv), optional
        The same for the values; nothing is added when None.
    {common}

    Returns
    -------
    ndarray, shape (..., L, num_heads * dv), or (num_heads * dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for embeddings of another shape.

    Notes
    -----
    ``logit_ij = scale * q_i . (k_j + a[t])`` and ``out_i = sum_j softmax(logit_i)_j (v_j + b[t])``, where
    ``t = clip(j - p, -max_distance, max_distance)`` and query i of L stands at ``p = i + (S - L)``.

    ``2 L S num_heads (d + dv)`` operations and ``2 L (2 max_distance + 1) num_heads d``; value embeddings take at most
    ``2 L S num_heads (50 + 2 max_distance)`` more. Queries go in blocks of at most 48, so that memory holds no more than
    ``max(2 ** 19 + 2 ** 12, S)`` biases, with a mask twice that, and for value embeddings ``S num_kv_heads (dv + 50 + 2
    max_distance)`` numbers. An output is off by at most ``u (max|V| + max|b|) (10 + 4 kappa)``, kappa being
    ``scale * max (sum |q||k| + sum |q||a|)``; in float64 products with embeddings add theirs. From Shaw et al. 2018 [1]_.

    References
    ----------
    .. [1] Shaw, Uszkoreit, Vaswani, Self-Attention with Relative Position Representations, arXiv:1803.02155

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x = np.zeros((4, 2))
    >>> table = [[0.0, 0.0], [0.0, 0.0], [9.0, 0.0]]  # distances -1, 0, 1
    >>> value = np.arange(4.0)[:, None]
    >>> ruvector.relative_attention(x + 5, x, value, 1, max_distance=1, key_embedding=table).round(4).T
    array([[2. , 2.5, 3. , 1.5]])
    """
    call = get_attention(
        "relative",
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        max_distance=max_distance,
        key_embedding=key_embedding,
        value_embedding=value_embedding,
        causal=causal,
        scale=scale,
        dropout=dropout,
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


def t5_attention(
    query,
    key,
    value,
    num_heads=8,
    num_kv_heads=None,
    *,
    num_buckets=32,
    max_distance=128,
    bidirectional=None,
    bias=None,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Multi-head attention with a bias for each bucket of distances, as in T5.

    Parameters
    ----------
    query : array_like, shape (..., L, num_heads * d) or (num_heads * d,)
    key : array_like, shape (..., S, num_kv_heads * d)
    value : array_like, shape (..., S, num_kv_heads * dv)
    num_heads : int, default 8
        From 1 to 1024.
    num_kv_heads : int, optional
        From 1 to 1024; divides num_heads: consecutive query heads share a key and value head. num_heads when None.
    num_buckets : int, default 32
        At least 2; with buckets for both sides even and at least 4.
    max_distance : int, default 128
        At least 2, and more than the distances with a bucket of their own: this and all beyond share the last bucket.
    bidirectional : bool, optional
        Keys ahead have half of the buckets; when False they are in bucket 0. ``not causal`` when None.
    bias : array_like, shape (num_buckets, num_heads), optional
        When None, the numbers of SplitMix64 with seed 42, uniform in ``+-sqrt(6 / (num_buckets + num_heads))``.
    {common}

    Returns
    -------
    ndarray, shape (..., L, num_heads * dv), or (num_heads * dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for a table of another shape.

    Notes
    -----
    ``softmax(scale * q_h . k_h + bias[bucket(j - p), h]) @ v_h`` for each head h, query i of L standing at
    ``p = i + (S - L)``. Of the buckets of a side, the first half holds one distance each, the rest ranges that grow by a
    factor up to `max_distance`.

    ``2 L S num_heads (d + dv)`` operations; the biases are ``(L + S) num_heads`` numbers that the core reads as a matrix. With
    a mask, queries go in blocks of at most 48 and ``max(2 ** 19, S)`` numbers. Error as of
    `scaled_dot_product_attention` with a bias. From Raffel et al. 2020 [1]_.

    References
    ----------
    .. [1] Raffel et al., Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer, arXiv:1910.10683

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x, value = np.zeros((4, 2)), np.arange(4.0)[:, None]
    >>> table = np.full((4, 1), -np.finfo(float).max)
    >>> table[1] = 0.0  # the keys behind
    >>> ruvector.t5_attention(x, x, value, 1, num_buckets=4, max_distance=2, bias=table)[1:].T
    array([[0. , 0.5, 1. ]])
    """
    call = get_attention(
        "t5",
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        num_buckets=num_buckets,
        max_distance=max_distance,
        bidirectional=bidirectional,
        bias=bias,
        causal=causal,
        scale=scale,
        dropout=dropout,
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


documented(t5_attention, COMMON_OPTIONS.replace("``1 / sqrt(head_dim)`` when None", "1 when None"))


add_type(
    AttentionRecord(
        name="relative",
        aliases=("relative_position",),
        complexity="O(n\u00b2)",
        best_for="Local word order",
        family="position",
        parameters=(
            *HEADS,
            Parameter("max_distance", "int", 16, 1, None, "distances are clipped to this on either side"),
            Parameter(
                "key_embedding", "array", None, None, None, "(2 max_distance + 1, d), or one a head; fixed when None"
            ),
            Parameter("value_embedding", "array", None, None, None, "(2 max_distance + 1, dv), or one a head"),
        ),
        reference="Shaw et al. 2018, Self-Attention with Relative Position Representations, arXiv:1803.02155",
    ),
    _relative_type,
    score=_relative_score,
    products=plain_products,
    offset=_relative_offset,
    weights=_relative_weights,
    fits=fits_of(_relative_score),
)
add_type(
    AttentionRecord(
        name="t5",
        aliases=("t5_relative",),
        complexity="O(n\u00b2)",
        best_for="Encoder-decoder models",
        family="position",
        parameters=(
            *HEADS,
            Parameter("num_buckets", "int", 32, 2, None, "rows of the table; half for keys ahead where bidirectional"),
            Parameter("max_distance", "int", 128, 2, None, "this distance and all beyond share the last bucket"),
            Parameter(
                "bidirectional", "bool", None, 0, 1, "keys ahead have buckets of their own; not causal when None"
            ),
            Parameter("bias", "array", None, None, None, "(num_buckets, num_heads); fixed numbers when None"),
        ),
        reference="Raffel et al. 2020, T5, arXiv:1910.10683",
    ),
    _t5_type,
    score=_t5_score,
    products=_t5_products,
    offset=_t5_offset,
    weights=_t5_weights,
    fits=fits_of(_t5_score),
)
