"""Where a token stands: rotary positions and biases by distance, around the dense core."""

from __future__ import annotations

import math

import numpy as np

from ruvector import _coerce, _rotary
from ruvector._options import flag, number
from ruvector._random import glorot
from ruvector._registry import AttentionRecord, AttentionType, Parameter, add_type, get_attention
from ruvector._rotary import RopeScaling
from ruvector._scores import attention_score
from ruvector.functional import COMMON_OPTIONS, documented

# What `bias` and `key_embedding` are drawn from when nobody gives them.
_SEED = 42


# Rotary positions ----------------------------------------------------------------------------------------------------


def rope(x, positions=None, *, base=10000.0, interleaved=False, rotary_dim=None, scaling=None):
    """Rotary position embedding: pairs of columns turn by an angle that grows with the position.

    Parameters
    ----------
    x : array_like, shape (..., L, d) or (d,)
        Queries or keys of one head.
    positions : array_like, shape (L,) or (..., L), optional
        Any finite numbers, broadcast to the axes of x but the last; 0 to L - 1 when None.
    base : float, default 10000.0
        At least 1: pair i of d / 2 turns by ``base ** (-2 i / d)`` radians a position.
    interleaved : bool, default False
        Pairs are columns ``(2 i, 2 i + 1)``, as in the paper and GPT-J; when False ``(i, i + d / 2)``, as in Llama and
        GPT-NeoX. The same but for a permutation of the columns, which weights of a model have in them.
    rotary_dim : int, optional
        Leading columns that turn, an even number from 2 to d; the rest stays. d when None.
    scaling : RopeScaling or mapping, optional
        Frequencies for long sequences, such as ``{"rope_type": "yarn", "factor": 4, ...}``: what model files call
        rope_scaling.

    Returns
    -------
    ndarray, shape of x
        In the dtype of x; integers become float64.

    Raises
    ------
    TypeError
        For a dtype that is not real, or an option of the wrong type.
    ValueError
        For shapes that do not fit, an odd number of columns to turn, positions that are not finite.

    See Also
    --------
    rope_attention : attention over rotated queries and keys.

    Notes
    -----
    ``(a, b) -> (a cos t - b sin t, a sin t + b cos t)`` with ``t = position * base ** (-2 i / d)``: the product of a rotated
    query and key depends on the distance of their positions alone. Angles are float64, so that in float32 a result is off by
    at most ``3.2 u |(a, b)|`` at any position up to a million, u being the unit roundoff; in float64 by
    ``(4 + 4 |position|) u |(a, b)|``, the rounding of the frequency. O(L d), float16 and bfloat16 by way of float32. From Su
    et al. 2021 [1]_.

    A decoder rotates each key once, before it goes into a `KVCache`, and each query at its own position.

    References
    ----------
    .. [1] Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, arXiv:2104.09864

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> ruvector.rope(np.ones(4), 1).round(4)
    array([-0.3012,  0.99  ,  1.3818,  1.0099])
    """
    x = _coerce.array(x, "x")
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(f"x must have shape (..., L, d) or (d,) with d at least 1, got {x.shape}")
    base, rotary_dim = _base(base), _whole_or_none(rotary_dim, "rotary_dim")
    interleaved, scaling = flag(interleaved, "interleaved"), None if scaling is None else RopeScaling.of(scaling)
    dim, places = _rotary_dim(rotary_dim, x.shape[-1]), _positions(positions, x.shape[:-1])
    length = float(places.max()) + 1 if places.size else 0
    radians, factor = _frequencies(dim, base, scaling, length)
    work = _coerce.computed_in(x.dtype)
    cos, sin = _rotary.tables(places, radians, work, factor)
    result = _rotary.rotate(_coerce.plain(x, work), cos, sin, interleaved)
    with np.errstate(over="ignore"):
        return result.astype(x.dtype.newbyteorder("="), copy=False)


def _base(base):
    base = number(base, "base")
    if base < 1:
        raise ValueError(f"base must be at least 1, got {base}")
    return base


def _whole_or_none(value, name):
    return None if value is None else number(value, name, whole=True)


def _rotary_dim(rotary_dim, width):
    """Columns to turn of a head of this width."""
    if rotary_dim is None:
        if width % 2:
            raise ValueError(f"head_dim must be even for its columns to turn in pairs, got {width}; rotary_dim turns some")
        return width
    if rotary_dim % 2 or not 2 <= rotary_dim <= width:
        raise ValueError(f"rotary_dim must be an even number between 2 and head_dim {width}, got {rotary_dim}")
    return rotary_dim


def _positions(positions, shape):
    """Float64 positions that broadcast to the axes of rows."""
    if positions is None:
        return np.arange(shape[-1], dtype=np.float64) if shape else np.zeros(())
    given = _coerce.array(positions, "positions")
    if given.ndim > len(shape) or any(n not in (1, m) for n, m in zip(given.shape[::-1], shape[::-1])):
        raise ValueError(f"positions shape {given.shape} does not broadcast to {tuple(shape)}, the axes of x but the last")
    places = given.astype(np.float64)
    if not np.isfinite(places).all():
        raise ValueError(f"positions must be finite, got {places[~np.isfinite(places)][0]}")
    return places


def _frequencies(dim, base, scaling, length):
    if base == 1 and scaling is not None and scaling.rope_type == "yarn":
        raise ValueError("base must be larger than 1 for yarn, which looks for frequencies that differ, got 1.0")
    return _rotary.frequencies(dim, base, scaling, length)


# What the types share ------------------------------------------------------------------------------------------------


class _Call:
    """Arrays of a call whose shapes fit, in the dtype they are computed in, and the core that attends."""

    def __init__(self, query, key, value, mask, num_heads, num_kv_heads, causal, scale, dropout=0.0, training=False, rng=None):
        if query.ndim < 1 or key.ndim < 2 or value.ndim < 2:
            _coerce.refuse_axes(query, key, value)
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if query.shape[-1] < 1 or key.shape[-2] != value.shape[-2]:
            _coerce.refuse_shapes(query, key, value, False, False)
        if num_heads == num_kv_heads and query.shape[-1] != key.shape[-1]:
            _coerce.refuse_shapes(query, key, value, False, False)
        _coerce.check_heads(num_heads, num_kv_heads, query.shape[-1], value.shape[-1])
        self.head_dim = query.shape[-1] // num_heads
        if key.shape[-1] != num_kv_heads * self.head_dim:
            _coerce.refuse_key_width(key.shape[-1], num_kv_heads, self.head_dim)
        self.dtype, self.single = query.dtype, query.ndim == 1
        if self.single:
            query = query[None]
        shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
        self.lead = _coerce._broadcast((query.shape[:-2], key.shape[:-2], value.shape[:-2]), shapes)
        self.q_len, self.kv_len = query.shape[-2], key.shape[-2]
        self.mask = self._mask(mask, num_heads)
        work = _coerce.computed_in(query.dtype)
        with np.errstate(over="ignore"):
            self.query, self.key, self.value = (x.astype(work, copy=False) for x in (query, key, value))
        self.num_heads, self.num_kv_heads, self.causal = num_heads, num_kv_heads, causal
        self.scale = 1 / math.sqrt(self.head_dim) if scale is None else scale
        self.training = flag(training, "training")
        # one stream for all blocks
        self.rng = _coerce.explicit_generator(rng, "dropout") if dropout and self.training else None
        self.dropout = dropout
        self.core = self._core(num_heads, num_kv_heads)

    def _core(self, num_heads, num_kv_heads):
        options = {"causal": self.causal, "scale": self.scale, "dropout": self.dropout}
        return get_attention("grouped_query", num_heads=num_heads, num_kv_heads=num_kv_heads, **options)

    def _mask(self, mask, num_heads):
        """(*lead, num_heads or 1, q_len or 1, kv_len or 1)"""
        if mask is None:
            return None
        mask = _coerce.fit_mask(mask, self.lead, self.q_len, self.kv_len, self.single, num_heads)
        return np.broadcast_to(mask, (*self.lead, *mask.shape[-3:]))

    def part(self, rows, seen):
        """The mask of some rows over the first keys as the core takes it, which knows no axis of one head."""
        if self.mask is None:
            return None
        mask = _cut(self.mask, rows, seen)
        return mask if self.num_heads > 1 else mask[..., 0, :, :]

    def attend(self, query, key, value, mask):
        return self.core(query, key, value, mask=mask, training=self.training, rng=self.rng)

    def weights(self, query, key, mask):
        """Weights (..., rows, S), their mean over the heads; 0 for keys behind those given."""
        weights = self.core._weights(query, key, mask)
        if self.num_heads > 1:
            weights = weights.mean(-3, dtype=np.float64).astype(weights.dtype)
        behind = self.kv_len - weights.shape[-1]
        return np.concatenate([weights, np.zeros((*weights.shape[:-1], behind), weights.dtype)], -1) if behind else weights

    def finish(self, result):
        """The result in the dtype of the inputs, without the axis of rows for a single query."""
        with np.errstate(over="ignore"):
            result = result.astype(self.dtype, copy=False)
        return result[..., 0, :] if self.single else result

    def row_blocks(self, most):
        """Rows of blocks of at most `most` queries, at least one, and the number of keys that some of them sees."""
        for start in range(0, max(self.q_len, 1), most):
            stop = min(start + most, self.q_len)
            yield slice(start, stop), max(stop + self.kv_len - self.q_len, 0) if self.causal else self.kv_len

    def blocks(self):
        """The same for each batch element and some heads at a time: blocks whose biases are few enough for the cache.

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

    def broadcast(self):
        """Query, key and value with all leading axes."""
        return (np.broadcast_to(x, (*self.lead, *x.shape[-2:])) for x in (self.query, self.key, self.value))

    def biased(self, block, bias):
        """The core for the heads of a block, and its biases (heads, rows, seen) as that takes them, with the mask in them."""
        core = self.core
        if len(block.heads) < self.num_heads:
            core = self._core(len(block.heads), len(block.kv_heads))
        if self.mask is not None:
            mask = self.mask[block.batch]
            mask = _cut(mask[slice(block.heads.start, block.heads.stop) if len(mask) > 1 else slice(None)], block.rows, block.seen)
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


def _cut(mask, rows, seen):
    """Some rows and the first columns of a mask, in which an axis of one number stands for any length."""
    return mask[..., rows if mask.shape[-2] > 1 else slice(None), : seen if mask.shape[-1] > 1 else None]


def _heads_of(x, count):
    """(..., n, count * d) as (..., n, count, d), a view."""
    return x.reshape(*x.shape[:-1], count, x.shape[-1] // count)


# The types rope and xpos ---------------------------------------------------------------------------------------------


def _turn(x, heads, turns, interleaved):
    """Rows of heads, their pairs multiplied by complex numbers (n, pairs)."""
    x = _coerce.plain(x, x.dtype)
    cos, sin = (part[:, None].astype(x.dtype) for part in (turns.real, turns.imag))
    return _rotary.rotate(_heads_of(x, heads), cos, sin, interleaved).reshape(x.shape)


def _rope_pair(call, base, interleaved, rotary_dim, scaling):
    """Query and key, rotated: key j stands at j, query i of L at i + (S - L)."""
    dim = _rotary_dim(rotary_dim, call.head_dim)
    radians, factor = _frequencies(dim, base, scaling, call.kv_len)
    first = call.kv_len - call.q_len
    low = min(first, 0)
    turns = _rotary.turns(low, call.kv_len - low, radians)
    if factor != 1:
        turns *= factor
    query = _turn(call.query, call.num_heads, turns[first - low :], interleaved)
    return query, _turn(call.key, call.num_kv_heads, turns[-low:], interleaved)


def _rope_type(query, key, value, *, mask, num_heads, num_kv_heads, causal, scale, dropout, training, rng, **own):
    call = _Call(query, key, value, mask, num_heads, num_kv_heads, causal, scale, dropout, training, rng)
    query, key = _rope_pair(call, **own)
    return call.finish(call.attend(query, key, call.value, call.part(slice(None), None)))


def _rope_weights(query, key, mask, *, num_heads, num_kv_heads, causal, scale, **own):
    call = _Call(query, key, key, mask, num_heads, num_kv_heads, causal, scale)
    query, key = _rope_pair(call, **own)
    return call.finish(call.weights(query, key, call.part(slice(None), None)))


def _rope_score(query, key, *, num_heads, num_kv_heads, scale, **own):
    """Rotations by one angle cancel; the factor of YaRN does not."""
    num_kv_heads = _score_heads(query, key, num_heads, num_kv_heads)
    query, key = (
        rope(_heads_of(x, n), np.zeros(()), **own).reshape(x.shape) for x, n in ((query, num_heads), (key, num_kv_heads))
    )
    return _plain_score(query, key, num_heads, num_kv_heads, scale)


def _grouped(scale, num_heads, num_kv_heads):
    return AttentionType("grouped_query", num_heads=num_heads, num_kv_heads=num_kv_heads or num_heads, scale=scale)


def _rope_products(*, num_heads, num_kv_heads, scale, base, interleaved, rotary_dim, scaling):
    factor = rope(np.ones(2), np.zeros(()), base=base, scaling=scaling)[0]
    return _grouped(scale, num_heads, num_kv_heads) if factor == 1 else None


def _plain_products(*, num_heads, num_kv_heads, scale, **own):
    return _grouped(scale, num_heads, num_kv_heads)


def _t5_products(*, num_heads, num_kv_heads, scale, **own):
    return _grouped(1.0 if scale is None else scale, num_heads, num_kv_heads)


def _score_heads(query, key, num_heads, num_kv_heads):
    """num_kv_heads, after the checks of the shapes of a pair (..., width)."""
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    if query.ndim < 1 or key.ndim < 1:
        raise ValueError(f"query and key must have at least one axis, got shapes {query.shape} and {key.shape}")
    width = query.shape[-1]
    if num_heads == num_kv_heads and width != key.shape[-1]:
        raise ValueError(f"Query and key dimensions must match: {width} vs {key.shape[-1]}")
    if width < 1:
        raise ValueError(f"head_dim must be at least 1, got query {query.shape}, key {key.shape}")
    _coerce.check_heads(num_heads, num_kv_heads, width, num_kv_heads)
    if key.shape[-1] != width // num_heads * num_kv_heads:
        _coerce.refuse_key_width(key.shape[-1], num_kv_heads, width // num_heads)
    return num_kv_heads


def _plain_score(query, key, num_heads, num_kv_heads, scale):
    return attention_score(query, key, "grouped_query", num_heads=num_heads, num_kv_heads=num_kv_heads, scale=scale)


def _decay(distances, gamma, scale_base, dim):
    """zeta ** (distance / scale_base) of each pair, (n, dim / 2)."""
    zeta = (np.arange(0, dim, 2) / dim + gamma) / (1 + gamma)
    return np.exp(np.multiply.outer(distances / scale_base, np.log(zeta)))


def _xpos_blocks(call, base, interleaved, gamma, scale_base):
    """Rows, the number of keys they see, and query and key rotated for them.

    The two factors of a pair, zeta ** (p / scale_base) and its inverse, leave the range of float32 some 35,000 positions
    from where they are 1, so that place moves along: the middle of blocks in which zeta ** 4 is the least.
    """
    if gamma <= 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    dim = _rotary_dim(None, call.head_dim)
    radians, _ = _frequencies(dim, base, None, 0)
    first, most = call.kv_len - call.q_len, int(8 * scale_base)
    for rows, seen in call.row_blocks(most):
        start, count = first + rows.start, rows.stop - rows.start
        middle = start + (count - 1) / 2
        with np.errstate(all="ignore"):
            turns = _rotary.turns(start, count, radians)
            turns *= _decay(start + np.arange(count) - middle, gamma, scale_base, dim)
            query = _turn(call.query[..., rows, :], call.num_heads, turns, interleaved)
            turns = _rotary.turns(0, seen, radians)
            turns *= _decay(middle - np.arange(seen), gamma, scale_base, dim)
            key = _turn(call.key[..., :seen, :], call.num_kv_heads, turns, interleaved)
        yield rows, seen, query, key


def _xpos_type(query, key, value, *, mask, num_heads, num_kv_heads, causal, scale, dropout, training, rng, **own):
    call = _Call(query, key, value, mask, num_heads, num_kv_heads, causal, scale, dropout, training, rng)
    parts = [
        call.attend(query, key, call.value[..., :seen, :], call.part(rows, seen))
        for rows, seen, query, key in _xpos_blocks(call, **own)
    ]
    return call.finish(parts[0] if len(parts) == 1 else np.concatenate(parts, -2))


def _xpos_weights(query, key, mask, *, num_heads, num_kv_heads, causal, scale, **own):
    call = _Call(query, key, key, mask, num_heads, num_kv_heads, causal, scale)
    parts = [call.weights(query, key, call.part(rows, seen)) for rows, seen, query, key in _xpos_blocks(call, **own)]
    return call.finish(parts[0] if len(parts) == 1 else np.concatenate(parts, -2))


def _xpos_score(query, key, *, num_heads, num_kv_heads, scale, base, interleaved, gamma, scale_base):
    """At one position rotations and factors cancel."""
    num_kv_heads = _score_heads(query, key, num_heads, num_kv_heads)
    _rotary_dim(None, query.shape[-1] // num_heads)
    return _plain_score(query, key, num_heads, num_kv_heads, scale)


# Biases by distance --------------------------------------------------------------------------------------------------


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
        raise ValueError(f"max_distance must be larger than {exact}, the distances with their own bucket, got {max_distance}")
    away = np.abs(distances) if bidirectional else np.maximum(-distances, 0)
    step = np.log(np.maximum(away, exact) / exact) / math.log(max_distance / exact) * (side - exact)
    buckets = np.where(away < exact, away, np.minimum(exact + step.astype(np.int64), side - 1))
    return buckets + side * (distances > 0) if bidirectional else buckets


def _t5_table(bias, num_buckets, num_heads):
    if bias is None:
        return glorot((num_buckets, num_heads), num_buckets + num_heads, _SEED)
    if bias.shape != (num_buckets, num_heads):
        raise ValueError(f"bias must have shape (num_buckets, num_heads) = {(num_buckets, num_heads)}, got {bias.shape}")
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
    call = _Call(query, key, value, mask, num_heads, num_kv_heads, causal, scale, dropout, training, rng)
    bias = _t5_bias(call, **own)
    if call.mask is not None:
        return _biased(call, lambda block: block.table(bias)[:, block.rows, : block.seen])
    bias = bias[(None,) * len(call.lead)] if num_heads > 1 else bias[0]
    return call.finish(call.attend(call.query, call.key, call.value, bias))


def _t5_weights(query, key, mask, *, num_heads, num_kv_heads, causal, scale, **own):
    call = _Call(query, key, key, mask, num_heads, num_kv_heads, causal, 1.0 if scale is None else scale)
    bias = _t5_bias(call, **own)
    return _biased_weights(call, lambda block: block.table(bias)[:, block.rows, : block.seen])


def _t5_score(query, key, *, num_heads, num_kv_heads, scale, num_buckets, max_distance, bidirectional, bias):
    """With the bias of distance 0, which is the first bucket's in both directions."""
    num_kv_heads = _score_heads(query, key, num_heads, num_kv_heads)
    _t5_buckets(np.zeros(1, np.int64), bidirectional is not False, num_buckets, max_distance)
    score = _plain_score(query, key, num_heads, num_kv_heads, 1.0 if scale is None else scale)
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
    table = np.swapaxes(_embeddings(key_embedding, "key_embedding", max_distance, call.num_heads, call.head_dim), -1, -2)
    query, _, _ = call.broadcast()
    reach, work = max_distance, call.query.dtype

    def bias_of(block):
        heads = np.swapaxes(_heads_of(block.queries(query, call.num_heads), len(block.heads)), 0, 1).astype(np.float64)
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
            wide[..., count - 1 :], (len(heads), count, seen), (steps[0], steps[1] - steps[2], steps[2]), writeable=False
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
        columns[self.filled :, :, :v_dim] = _heads_of(value, num_kv_heads)[self.filled :]
        self.filled = seen
        begin, end = (min(max(n, 0), seen) for n in (first - reach, first + count + reach))
        self.columns[self.band, :, v_dim:-2] = 0
        self.band, at = slice(begin, end), np.arange(begin, end)
        columns[at, :, v_dim + at - (first - reach)] = 1
        columns[:, :, -2] = (np.arange(seen) < begin)[:, None]
        columns[:, :, -1] = (np.arange(seen) >= end)[:, None]
        columns = columns.reshape(seen, num_kv_heads * width)
        out = _heads_of(core(query, key, columns, mask=bias, training=call.training, rng=call.rng), num_heads)
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
    call = _Call(query, key, value, mask, num_heads, num_kv_heads, **common)
    bias_of = _relative_bias(call, max_distance, key_embedding)
    if value_embedding is None:
        return _biased(call, bias_of)
    return _biased(call, bias_of, _ValueTerm(call, max_distance, value_embedding))


def _relative_weights(
    query, key, mask, *, num_heads, num_kv_heads, causal, scale, max_distance, key_embedding, value_embedding
):
    call = _Call(query, key, key, mask, num_heads, num_kv_heads, causal, scale)
    return _biased_weights(call, _relative_bias(call, max_distance, key_embedding))


def _relative_score(query, key, *, num_heads, num_kv_heads, scale, max_distance, key_embedding, value_embedding):
    """With the embedding of distance 0."""
    num_kv_heads = _score_heads(query, key, num_heads, num_kv_heads)
    term = _relative_term(query, num_heads, scale, max_distance, key_embedding)
    with np.errstate(all="ignore"):
        score = _plain_score(query, key, num_heads, num_kv_heads, scale) + term
    return score.astype(query.dtype)[()]


def _relative_term(query, num_heads, scale, max_distance, key_embedding):
    """What a query (..., width) scores with the embedding of distance 0 (...)."""
    head_dim = query.shape[-1] // num_heads
    here = _embeddings(key_embedding, "key_embedding", max_distance, num_heads, head_dim)[:, max_distance]
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    with np.errstate(all="ignore"):
        return scale * (_heads_of(query.astype(np.float64), num_heads) * here).sum((-1, -2)) / num_heads


def _relative_offset(queries, *, num_heads, scale, max_distance, key_embedding, **own):
    return _relative_term(queries, num_heads, scale, max_distance, key_embedding)[:, None]


# Functions -----------------------------------------------------------------------------------------------------------


@documented
def rope_attention(
    query,
    key,
    value,
    num_heads=8,
    num_kv_heads=None,
    *,
    base=10000.0,
    interleaved=False,
    rotary_dim=None,
    scaling=None,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Multi-head attention over queries and keys that are rotated by their positions.

    Parameters
    ----------
    query : array_like, shape (..., L, num_heads * d) or (num_heads * d,)
    key : array_like, shape (..., S, num_kv_heads * d)
    value : array_like, shape (..., S, num_kv_heads * dv)
        Key j stands at position j, query i of L at ``i + (S - L)``.
    num_heads : int, default 8
        From 1 to 1024.
    num_kv_heads : int, optional
        From 1 to 1024; divides num_heads: consecutive query heads share a key and value head. num_heads when None.
    base : float, default 10000.0
        At least 1, as in `rope`.
    interleaved : bool, default False
        Pairs are neighbours; when False, columns half a head apart.
    rotary_dim : int, optional
        Leading columns of each head that turn: even, at least 2, at most d; all when None.
    scaling : RopeScaling or mapping, optional
        Frequencies for long sequences; "dynamic" looks at S.
    {common}

    Returns
    -------
    ndarray, shape (..., L, num_heads * dv), or (num_heads * dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for heads of odd width where `rotary_dim` is not given.

    See Also
    --------
    rope : the rotation alone; a decoder's cache holds keys that it has rotated once.

    Notes
    -----
    ``softmax(scale * R(p) q_h . R(j) k_h) @ v_h`` for each head h, R(j) turning pair i by ``j * base ** (-2 i / d)``: logits
    depend on ``p - j`` alone. ``2 L S num_heads (d + dv)`` operations and O((L + S) num_heads d) for the rotations, which take
    memory for a second query and key. An output is off by at most ``u max|V| (8 + 21 kappa)``, kappa being
    ``scale * max sum |q_i| |k_i|`` over the pairs' lengths; in float64, frequencies round as well: see `rope`. From Su et al.
    2021 [1]_.

    References
    ----------
    .. [1] Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, arXiv:2104.09864

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> query, key, value = np.random.default_rng(0).random((3, 6, 16))
    >>> out = ruvector.rope_attention(query, key, value, num_heads=2, causal=True)
    >>> by_hand = ruvector.multi_head_attention(
    ...     *(np.hstack([ruvector.rope(x[:, :8]), ruvector.rope(x[:, 8:])]) for x in (query, key)), value, 2, causal=True
    ... )
    >>> bool(np.allclose(out, by_hand))
    True
    """
    call = get_attention(
        "rope",
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        base=base,
        interleaved=interleaved,
        rotary_dim=rotary_dim,
        scaling=scaling,
        causal=causal,
        scale=scale,
        dropout=dropout,
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@documented
def xpos_attention(
    query,
    key,
    value,
    num_heads=8,
    num_kv_heads=None,
    *,
    base=10000.0,
    interleaved=False,
    gamma=0.4,
    scale_base=512.0,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Multi-head attention with rotary positions whose products decay with the distance.

    Parameters
    ----------
    query : array_like, shape (..., L, num_heads * d) or (num_heads * d,)
    key : array_like, shape (..., S, num_kv_heads * d)
    value : array_like, shape (..., S, num_kv_heads * dv)
        Key j stands at position j, query i of L at ``i + (S - L)``. d is even.
    num_heads : int, default 8
        From 1 to 1024.
    num_kv_heads : int, optional
        From 1 to 1024; divides num_heads: consecutive query heads share a key and value head. num_heads when None.
    base : float, default 10000.0
        At least 1, as in `rope`.
    interleaved : bool, default False
        Pairs are neighbours, as in the paper's code; when False, columns half a head apart.
    gamma : float, default 0.4
        More than 0: the smaller, the faster the first pairs decay.
    scale_base : float, default 512.0
        At least 1: the distance over which pair i decays by zeta_i.
    {common}

    Returns
    -------
    ndarray, shape (..., L, num_heads * dv), or (num_heads * dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for heads of odd width.

    Notes
    -----
    Pair i of a rotated query at p and key at j is multiplied by ``zeta_i ** ((p - j) / scale_base)`` with
    ``zeta_i = (2 i / d + gamma) / (1 + gamma)``: ``softmax(scale * sum_i zeta_i ** ((p - j) / scale_base) R(p) q_i . R(j)
    k_i) @ v``. Made for causal attention: keys ahead of a query grow instead, to NaN in the end where they are seen.

    The two factors of a pair are taken from a place that moves along with the queries, so that sequences may have any
    length. ``2 L S num_heads (d + dv)`` operations, rotations of the keys for every ``8 * scale_base`` queries, and memory
    for a second query and key. Error as of `rope_attention`; in float64 the factors round as well. From Sun et al. 2022 [1]_.

    References
    ----------
    .. [1] Sun et al., A Length-Extrapolatable Transformer, arXiv:2212.10554

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> query, key, value = np.random.default_rng(0).random((3, 6, 16))
    >>> ruvector.xpos_attention(query, key, value, num_heads=2, causal=True).shape
    (6, 16)
    """
    call = get_attention(
        "xpos",
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        base=base,
        interleaved=interleaved,
        gamma=gamma,
        scale_base=scale_base,
        causal=causal,
        scale=scale,
        dropout=dropout,
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


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


def _fits(score):
    """What `add_type` asks of a type whose score checks the width."""

    def fits(width, /, num_heads, num_kv_heads, **own):
        kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        _coerce.check_heads(num_heads, kv_heads, width, kv_heads)
        key = np.zeros(width // num_heads * kv_heads)
        score(np.zeros(width), key, num_heads=num_heads, num_kv_heads=num_kv_heads, scale=None, **own)

    return fits


def _rope_fits(width, /, num_heads, num_kv_heads, **own):
    kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    _coerce.check_heads(num_heads, kv_heads, width, kv_heads)
    rope(np.zeros(width // num_heads), np.zeros(()), **own)


def _register():
    heads = (
        Parameter("num_heads", "int", 8, 1, 1024, "slices of the query's last axis"),
        Parameter("num_kv_heads", "int", None, 1, 1024, "slices of keys and values; divides num_heads, its value when None"),
    )
    turning = (
        Parameter("base", "float", 10000.0, 1, None, "pair i turns by base^(-2i/d) radians a position"),
        Parameter("interleaved", "bool", False, 0, 1, "pairs are neighbouring columns; if not, half a head apart"),
    )
    add_type(
        AttentionRecord(
            name="rope",
            aliases=("rotary",),
            complexity="O(n\u00b2)",
            best_for="Language models, long contexts",
            family="position",
            parameters=(
                *heads,
                *turning,
                Parameter("rotary_dim", "int", None, 2, None, "leading columns of a head that turn, even; all when None"),
                Parameter("scaling", "rope_scaling", None, None, None, "for long sequences: a RopeScaling or its keys"),
            ),
            reference="Su et al. 2021, RoFormer, arXiv:2104.09864",
        ),
        _rope_type,
        score=_rope_score,
        products=_rope_products,
        weights=_rope_weights,
        fits=_rope_fits,
    )
    add_type(
        AttentionRecord(
            name="xpos",
            aliases=(),
            complexity="O(n\u00b2)",
            best_for="Causal models, extrapolation to longer sequences",
            family="position",
            parameters=(
                *heads,
                *turning,
                Parameter("gamma", "float", 0.4, 0, None, "zeta_i = (2i/d + gamma) / (1 + gamma); positive"),
                Parameter("scale_base", "float", 512.0, 1, None, "products of pair i decay by zeta_i over this distance"),
            ),
            reference="Sun et al. 2022, A Length-Extrapolatable Transformer, arXiv:2212.10554",
        ),
        _xpos_type,
        score=_xpos_score,
        products=_plain_products,
        weights=_xpos_weights,
        fits=_fits(_xpos_score),
    )
    add_type(
        AttentionRecord(
            name="relative",
            aliases=("relative_position",),
            complexity="O(n\u00b2)",
            best_for="Local word order",
            family="position",
            parameters=(
                *heads,
                Parameter("max_distance", "int", 16, 1, None, "distances are clipped to this on either side"),
                Parameter("key_embedding", "array", None, None, None, "(2 max_distance + 1, d), or one a head; fixed when None"),
                Parameter("value_embedding", "array", None, None, None, "(2 max_distance + 1, dv), or one a head"),
            ),
            reference="Shaw et al. 2018, Self-Attention with Relative Position Representations, arXiv:1803.02155",
        ),
        _relative_type,
        score=_relative_score,
        products=_plain_products,
        offset=_relative_offset,
        weights=_relative_weights,
        fits=_fits(_relative_score),
    )
    add_type(
        AttentionRecord(
            name="t5",
            aliases=("t5_relative",),
            complexity="O(n\u00b2)",
            best_for="Encoder-decoder models",
            family="position",
            parameters=(
                *heads,
                Parameter("num_buckets", "int", 32, 2, None, "rows of the table; half for keys ahead where bidirectional"),
                Parameter("max_distance", "int", 128, 2, None, "this distance and all beyond share the last bucket"),
                Parameter("bidirectional", "bool", None, 0, 1, "keys ahead have buckets of their own; not causal when None"),
                Parameter("bias", "array", None, None, None, "(num_buckets, num_heads); fixed numbers when None"),
            ),
            reference="Raffel et al. 2020, T5, arXiv:1910.10683",
        ),
        _t5_type,
        score=_t5_score,
        products=_t5_products,
        offset=_t5_offset,
        weights=_t5_weights,
        fits=_fits(_t5_score),
    )


_register()
