"""Attention whose weights are no softmax of products: logits and weights of blocks of queries, as the types of `weights` make them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ruvector import _primitives
from ruvector.mechanisms._heads import Call, cut, heads_of

# Bytes of the logits of a block: they are made, weighed and used where the second caches hold them. Products are those of the core,
# not of NumPy: two pools of threads beside each other, of which one spins, made entmax attention of 1024 keys take from 35 to 1200 ms
# in place of 5 to 20 on two cores that others used too, and its bits would depend on the number of threads.
BLOCK = 1 << 19


class Form(NamedTuple):
    """How a type makes weights.

    `logits(block)` gives an array of a block's own, (heads, rows, keys), in which everything below works in place; `weigh(logits)` its
    weights, hidden keys being -inf; `across(weights)` what becomes of those over the heads, of which a block has all where
    `together` and one otherwise; `width`: numbers that a logit takes to make; `reach(head)`: how far from its own position a query sees.
    """

    logits: Callable
    weigh: Callable
    across: Callable | None = None
    together: bool = False
    width: int = 1
    reach: Callable | None = None


class Block:
    """Some queries of a batch element, some heads of theirs, and the keys that some of them sees."""

    def __init__(self, sequence, heads, rows, keys):
        self.call, self.batch = sequence.call, sequence.batch
        self.heads, self.rows, self.keys = heads, rows, keys
        self.query, self.key = sequence.query[heads, rows], sequence.key[heads, keys]
        self.first = rows.start + self.call.kv_len - self.call.q_len

    def products(self):
        """scale * query . key, (heads, rows, keys)."""
        out = np.empty((len(self.query), self.query.shape[1], self.key.shape[1]), self.query.dtype)
        for query, key, logits in zip(self.query, self.key, out, strict=True):
            _primitives.scores(query, key, self.call.scale, out=logits)
        return out

    def hide(self, logits):
        """Puts the mask into the logits: -inf where a key is hidden, whatever its logit."""
        call, low = self.call, -np.inf
        if call.mask is not None:
            mask = call.mask[self.batch]
            mask = cut(mask[self.heads] if len(mask) > 1 else mask, self.rows, self.keys.stop)
            mask = mask[..., self.keys.start :] if mask.shape[-1] > 1 else mask
            if mask.dtype == bool:
                np.copyto(logits, low, where=~mask)
            else:
                with np.errstate(all="ignore"):
                    logits += mask
                np.copyto(logits, low, where=np.isneginf(mask))
        if call.causal:
            # keys up to the first row's own are seen by all rows
            start = max(self.first + 1, self.keys.start)
            future = np.arange(start, self.keys.stop) > np.arange(self.first, self.first + logits.shape[1])[:, None]
            np.copyto(logits[..., start - self.keys.start :], low, where=future)


class _Sequence:
    """A batch element: its heads, and the values without NaN and infinities, which are added one by one."""

    def __init__(self, call, batch, values):
        self.call, self.batch = call, batch
        query, key, value = (
            np.broadcast_to(x, (*call.lead, *x.shape[-2:]))[batch] for x in (call.query, call.key, call.value)
        )
        self.query, self.key = (heads_of(x, call.num_heads).swapaxes(0, 1) for x in (query, key))
        self.bad = ()
        if values:
            self.given = heads_of(value, call.num_heads).swapaxes(0, 1)
            self.bad = np.flatnonzero(~np.isfinite(value).all(-1))
            if len(self.bad):
                value = value.copy()
                value[self.bad] = 0
            # (heads, dv, S): a result is a product of two rows
            self.columns = np.ascontiguousarray(heads_of(value, call.num_heads).transpose(1, 2, 0))

    def blocks(self, form):
        call = self.call
        step = call.num_heads if form.together else 1
        # a causal row before the first key sees nothing
        first = min(max(call.q_len - call.kv_len, 0), call.q_len) if call.causal else 0
        for head in range(0, call.num_heads, step):
            heads, reach = slice(head, head + step), None if form.reach is None else form.reach(head)
            width = call.kv_len if reach is None else min(call.kv_len, 2 * reach + 1)
            rows = max(1, BLOCK // (max(width, 1) * step * form.width * self.query.itemsize))
            if reach is not None:
                # as many rows as keys beyond those that all of them see
                rows = min(rows, max(width // 2, 32))
            for start in range(first, call.q_len, rows):
                stop = min(start + rows, call.q_len)
                offset, low, high = call.kv_len - call.q_len, 0, call.kv_len
                if reach is not None:
                    low, high = max(start + offset - reach, 0), min(stop + offset + reach, high)
                high = min(high, stop + offset) if call.causal else high
                if low < high:
                    yield Block(self, heads, slice(start, stop), slice(low, high))

    def mix(self, block, weights, shown, out):
        """sum_j w_j v_j into `out`, (heads, rows, dv): what is not `shown` counts for nothing, NaN and infinity in it included."""
        if not out.shape[-1]:
            return
        for own, columns, rows in zip(weights, self.columns[block.heads, :, block.keys], out, strict=True):
            _primitives.scores(own, columns, 1.0, out=rows)
        for column, j in enumerate(block.bad):
            at = slice(j - block.keys.start, j - block.keys.start + 1)
            with np.errstate(all="ignore"):
                term = weights[..., at] * self.given[block.heads, j : j + 1]
                out += np.where(shown[..., column, None], term, 0)


def _weighted(sequence, form):
    """Each block, its weights (heads, rows, keys), and who sees the values that are not finite."""
    may_see_nothing = sequence.call.mask is not None or form.reach is not None
    for block in sequence.blocks(form):
        logits = form.logits(block)
        block.hide(logits)
        block.bad = [j for j in sequence.bad if block.keys.start <= j < block.keys.stop]
        shown = ~np.isneginf(logits[..., [j - block.keys.start for j in block.bad]]) if block.bad else None
        nothing = np.isneginf(logits.max(-1)) if may_see_nothing else None
        with np.errstate(all="ignore"):
            weights = form.weigh(logits)
        if may_see_nothing and nothing.any():
            weights[nothing] = 0
        yield block, weights if form.across is None else form.across(weights), shown


def attend(call, form):
    """Attention of the logits and weights of a form."""
    out = np.zeros((*call.lead, call.q_len, call.value.shape[-1]), call.query.dtype)
    for batch in np.ndindex(*call.lead):
        sequence, result = _Sequence(call, batch, True), heads_of(out[batch], call.num_heads).swapaxes(0, 1)
        for block, weights, shown in _weighted(sequence, form):
            if call.rng is not None:
                weights *= call.rng.random(weights.shape, np.float32) >= call.dropout
                weights /= weights.dtype.type(1 - call.dropout)
            sequence.mix(block, weights, shown, result[block.heads, block.rows])
    return call.finish(out)


def weights_of(call, form):
    """The weights (..., L, S), their mean over heads."""
    out = np.zeros((*call.lead, call.q_len, call.kv_len))
    for batch in np.ndindex(*call.lead):
        for block, weights, _ in _weighted(_Sequence(call, batch, False), form):
            out[batch][block.rows, block.keys] += weights.sum(0, dtype=np.float64)
    out /= call.num_heads
    return call.finish(out)


def type_of(make, heads=False, unit_scale=False):
    """What `add_type` asks of a type: `make(call, **own)` gives its form.

    `heads`: whether it has the parameter num_heads; `unit_scale`: whether `scale` is 1 when None.
    """

    def run(query, key, value, *, mask, causal, scale, dropout, training, rng, **own):
        count = own.pop("num_heads") if heads else 1
        scale = 1.0 if unit_scale and scale is None else scale
        call = Call(query, key, value, mask, count, count, causal, scale, dropout, training, rng)
        return attend(call, make(call, **own))

    def weights(query, key, mask, *, causal, scale, **own):
        count = own.pop("num_heads") if heads else 1
        scale = 1.0 if unit_scale and scale is None else scale
        call = Call(query, key, key, mask, count, count, causal, scale)
        return weights_of(call, make(call, **own))

    return {"fn": run, "weights": weights}
