"""Attention whose weights are no softmax of products: logits and weights of blocks of queries, as the types of `weights` make them."""

from __future__ import annotations

import numpy as np

from ruvector import _coerce
from ruvector.mechanisms.positions import _Call, _cut, _heads_of

# Logits of a block: 2 MiB of float32 stay in the second cache of one core or two.
BLOCK = 1 << 19


class Rows:
    """Some queries of a batch element: their rows of the call, the keys that some of them sees, and the arrays of all heads."""

    def __init__(self, call, batch, rows, seen):
        self.call, self.batch, self.rows, self.seen = call, batch, rows, seen
        query, key = (np.broadcast_to(x, (*call.lead, *x.shape[-2:]))[batch] for x in (call.query, call.key))
        self.query = _heads_of(query[rows], call.num_heads).swapaxes(0, 1)
        self.key = _heads_of(key[:seen], call.num_heads).swapaxes(0, 1)
        self.positions = np.arange(rows.start, rows.stop) + (call.kv_len - call.q_len)

    def products(self):
        """scale * query . key, (heads, rows, seen)."""
        return _coerce.matmul(self.query * self.query.dtype.type(self.call.scale), self.key.swapaxes(-1, -2))

    def hide(self, logits):
        """Logits with the mask in them, -inf where a key is hidden whatever its logit."""
        call, low = self.call, logits.dtype.type(-np.inf)
        if call.mask is not None:
            mask = _cut(call.mask[self.batch], self.rows, self.seen)
            with np.errstate(all="ignore"):
                logits = (
                    np.where(mask, logits, low)
                    if mask.dtype == bool
                    else np.where(np.isneginf(mask), low, logits + mask)
                )
        if call.causal:
            logits = np.where(np.arange(self.seen) <= self.positions[:, None], logits, low)
        return logits

    def mix(self, weights, visible):
        """sum_j w_j v_j, where what is hidden counts for nothing, NaN and infinity in it included."""
        value = np.broadcast_to(self.call.value, (*self.call.lead, *self.call.value.shape[-2:]))[self.batch][
            : self.seen
        ]
        bad = np.flatnonzero(~np.isfinite(value).all(-1))
        clean = value
        if len(bad):
            clean = value.copy()
            clean[bad] = 0
        result = _coerce.matmul(weights, _heads_of(clean, self.call.num_heads).swapaxes(0, 1))
        for j in bad:
            row = _heads_of(value[j : j + 1], self.call.num_heads).swapaxes(0, 1)
            with np.errstate(all="ignore"):
                result = result + np.where(visible[..., j : j + 1], weights[..., j : j + 1] * row, 0)
        return result.swapaxes(0, 1).reshape(result.shape[1], -1)


def _weighted(call, logits_of, weigh, width):
    """(rows, weights (heads, rows, seen), visible) of each block of queries; a logit takes `width` numbers to make."""
    most = max(1, min(48, BLOCK // (max(call.kv_len, 1) * width)))
    for batch in np.ndindex(*call.lead if call.q_len else (0,)):
        for rows, seen in call.row_blocks(most):
            block = Rows(call, batch, rows, seen)
            if not seen:
                continue
            logits = block.hide(logits_of(block))
            visible = ~np.isneginf(logits)
            with np.errstate(all="ignore"):
                weights = np.where(visible.any(-1, keepdims=True), weigh(logits), 0)
            yield block, weights.astype(call.query.dtype, copy=False), visible


def attend(call, logits_of, weigh, *, width=1):
    """Attention of the logits of `logits_of(block)` and the weights that `weigh` makes of rows of them."""
    heads = call.num_heads
    out = np.zeros((*call.lead, call.q_len, call.value.shape[-1]), call.query.dtype)
    for block, weights, visible in _weighted(call, logits_of, weigh, width):
        if call.rng is not None:
            weights = weights * (call.rng.random(weights.shape) >= call.dropout) / weights.dtype.type(1 - call.dropout)
        out[block.batch][block.rows] = block.mix(weights, np.broadcast_to(visible, (heads, *visible.shape[-2:])))
    return call.finish(out)


def weights_of(call, logits_of, weigh, *, width=1):
    """The weights (..., L, S), their mean over heads."""
    out = np.zeros((*call.lead, call.q_len, call.kv_len), call.query.dtype)
    for block, weights, _ in _weighted(call, logits_of, weigh, width):
        out[block.batch][block.rows, : block.seen] = weights.mean(0, dtype=np.float64)
    return call.finish(out)


def type_of(make, heads=False, unit_scale=False):
    """What `add_type` asks of a type: `make(call, **own)` gives logits_of, weigh and the numbers a logit takes to make.

    `heads`: whether it has the parameter num_heads; `unit_scale`: whether `scale` is 1 when None.
    """

    def run(query, key, value, *, mask, causal, scale, dropout, training, rng, **own):
        count = own.pop("num_heads") if heads else 1
        scale = 1.0 if unit_scale and scale is None else scale
        call = _Call(query, key, value, mask, count, count, causal, scale, dropout, training, rng)
        logits_of, weigh, width = make(call, **own)
        return attend(call, logits_of, weigh, width=width)

    def weights(query, key, mask, *, causal, scale, **own):
        count = own.pop("num_heads") if heads else 1
        scale = 1.0 if unit_scale and scale is None else scale
        call = _Call(query, key, key, mask, count, count, causal, scale)
        logits_of, weigh, width = make(call, **own)
        return weights_of(call, logits_of, weigh, width=width)

    return {"fn": run, "weights": weights}
