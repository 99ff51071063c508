"""What types around the dense core share whose heads are slices of the last axis: the arrays of a call, the score of a pair."""

from __future__ import annotations

import math

import numpy as np

from ruvector import _coerce
from ruvector._options import flag
from ruvector._registry import AttentionType, Parameter, get_attention
from ruvector._scores import attention_score

HEADS = (
    Parameter("num_heads", "int", 8, 1, 1024, "slices of the query's last axis"),
    Parameter(
        "num_kv_heads", "int", None, 1, 1024, "slices of keys and values; divides num_heads, its value when None"
    ),
)


class Call:
    """Arrays of a call whose shapes fit, in the dtype they are computed in, and the core that attends."""

    def __init__(
        self, query, key, value, mask, num_heads, num_kv_heads, causal, scale, dropout=0.0, training=False, rng=None
    ):
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
        mask = cut(self.mask, rows, seen)
        return mask if self.num_heads > 1 else mask[..., 0, :, :]

    def attend(self, query, key, value, mask):
        return self.core(query, key, value, mask=mask, training=self.training, rng=self.rng)

    def weights(self, query, key, mask):
        """Weights (..., rows, S), their mean over the heads; 0 for keys behind those given."""
        weights = self.core._weights(query, key, mask)
        if self.num_heads > 1:
            weights = weights.mean(-3, dtype=np.float64).astype(weights.dtype)
        behind = self.kv_len - weights.shape[-1]
        return (
            np.concatenate([weights, np.zeros((*weights.shape[:-1], behind), weights.dtype)], -1) if behind else weights
        )

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

    def broadcast(self):
        """Query, key and value with all leading axes."""
        return (np.broadcast_to(x, (*self.lead, *x.shape[-2:])) for x in (self.query, self.key, self.value))


def cut(mask, rows, seen):
    """Some rows and the first columns of a mask, in which an axis of one number stands for any length."""
    return mask[..., rows if mask.shape[-2] > 1 else slice(None), : seen if mask.shape[-1] > 1 else None]


def heads_of(x, count):
    """(..., n, count * d) as (..., n, count, d), a view."""
    return x.reshape(*x.shape[:-1], count, x.shape[-1] // count)


def grouped(scale, num_heads, num_kv_heads):
    return AttentionType("grouped_query", num_heads=num_heads, num_kv_heads=num_kv_heads or num_heads, scale=scale)


def plain_products(*, num_heads, num_kv_heads, scale, **own):
    return grouped(scale, num_heads, num_kv_heads)


def score_heads(query, key, num_heads, num_kv_heads):
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


def plain_score(query, key, num_heads, num_kv_heads, scale):
    return attention_score(query, key, "grouped_query", num_heads=num_heads, num_kv_heads=num_kv_heads, scale=scale)


def fits_of(score):
    """What `add_type` asks of a type whose score checks the width."""

    def fits(width, /, num_heads, num_kv_heads, **own):
        kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        _coerce.check_heads(num_heads, kv_heads, width, kv_heads)
        key = np.zeros(width // num_heads * kv_heads)
        score(np.zeros(width), key, num_heads=num_heads, num_kv_heads=num_kv_heads, scale=None, **own)

    return fits
