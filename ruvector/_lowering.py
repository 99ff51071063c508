"""From patterns to kernels: the parts that a pattern is computed in, each a state over its own keys.

Query i of L stands at position i + S - L. A plan is a tuple of parts over disjoint keys; one alone writes the result, several
are merged. Each honours the mask of its call.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ruvector import _attention, _runs
from ruvector._states import merge_states

# A gathered key takes 11.5 ns, a pair of a block under a mask 1.4 ns (AMD Zen 5, one thread, 512 x 64 float32): blocks of which an
# eighth is visible are as fast as rows. Masks of more elements than this are not held.
MASKED_BLOCK = (48, 64)
MASKED_COST = 8
MOST_MASKED = 1 << 26


class Call(NamedTuple):
    """Arrays and options of one call; leading axes of the arrays broadcast."""

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    mask: np.ndarray | None
    scale: float

    @property
    def offset(self):
        """Position of the first query."""
        return self.key.shape[-2] - self.query.shape[-2]

    def run(self, window, blocks=None, shared=None, out=None, shift=0):
        """Output and log-sum-exp of the pattern that the core knows; positions moved by `shift`."""
        return _attention.sparse(
            *self[:3], self.mask, self.scale, 0.0, window, self.offset + shift, blocks, shared, True, out
        )


def rows_of(call, first, last):
    """The call of the queries [first, last), and how far their positions are from those that fewer queries stand at."""
    mask = call.mask
    if mask is not None and mask.ndim > 1 and mask.shape[-2] > 1:
        mask = mask[..., first:last, :]
    part = call._replace(query=call.query[..., first:last, :], mask=mask)
    return part, call.offset + first - part.offset


def mask_view(mask, length, keys, first, step, shape):
    """What strided_view would show of both axes of a mask that broadcasts to (..., length, keys); None where it would be empty.

    Element [..., g, i, j] is that of query first[0] + g step[0] + i step[1] and key first[1] + g step[0] + j step[1].
    """
    if mask is None or 0 in shape:
        return None
    mask = np.broadcast_to(mask, (*mask.shape[:-2], length, keys))[..., first[0] :, first[1] :]
    row, column = mask.strides[-2:]
    strides = (*mask.strides[:-2], step[0] * (row + column), step[1] * row, step[1] * column)
    return np.lib.stride_tricks.as_strided(mask, (*mask.shape[:-2], *shape), strides, writeable=False)


def strided_view(x, first, step, lead, count, axis):
    """Rows first + i + step * t as [..., i, t, ...] with i < lead, t < count; `axis` (-1 or -2) holds the rows."""
    x = x[..., first:, :] if axis == -2 else x[..., first:]
    row = x.strides[axis]
    tail = x.shape[x.ndim + axis + 1 :]
    shape = (*x.shape[:axis], lead, count, *tail)
    strides = (*x.strides[:axis], row, step * row, *x.strides[x.ndim + axis + 1 :])
    return np.lib.stride_tricks.as_strided(x, shape, strides)


class Band:
    """The window: left and right of the position, None for an open side."""

    def __init__(self, left, right):
        self.window = (left, right)

    def run(self, call, out, lse):
        """Writes the state of this part."""
        lse[...] = call.run(self.window, out=out)[1]


class Blocks:
    """Lists of key blocks inside a window: layout (nQ, nK) or (H, nQ, nK), boolean; the first block of queries begins `shift` rows
    before the first query."""

    def __init__(self, layout, block_q, block_k, shift=0, window=(None, None), mask=None):
        # the core's blocks begin with a query: a first block that is cut short is a call of its own
        cuts = [(0, None, layout)]
        if shift and layout.shape[-2] > 1:
            cuts = [(0, block_q - shift, layout[..., :1, :]), (block_q - shift, None, layout[..., 1:, :])]
        lists = len(layout) if layout.ndim == 3 else 1
        self.pieces = [(*rows, (False, block_q, block_k, lists, *block_lists(part))) for *rows, part in cuts]
        self.window = window
        self.mask = mask

    def run(self, call, out, lse):
        """Writes the state of this part."""
        if self.mask is not None:
            call = call._replace(mask=self.mask)
        for first, last, blocks in self.pieces:
            part, shift = rows_of(call, first, last)
            lse[..., first:last] = part.run(self.window, blocks, out=out[..., first:last, :], shift=shift)[1]


def block_lists(layout):
    """Where the list of each block of queries starts, and the lists."""
    starts = np.zeros(math.prod(layout.shape[:-1]) + 1, np.int64)
    np.cumsum(layout.sum(-1).ravel(), out=starts[1:])
    return starts, np.nonzero(layout)[-1].astype(np.int32)


def places(size, length, keys):
    """The blocks of positions, `size` long, that queries stand in, and how far into the first of them the first query stands."""
    first, shift = divmod(keys - length, size)
    return np.arange(-(-(length + shift) // size)) + first, shift


def own_blocks(size, length, keys, causal):
    """The part in which queries see the block of positions that they stand in."""
    standing, shift = places(size, length, keys)
    own = standing[:, None] == np.arange(-(-keys // size))
    return Blocks(own, size, size, shift, (None, 0 if causal else None))


class Rows:
    """Keys gathered for each row: (lists, starts, indices)."""

    def __init__(self, starts, indices, lists=1):
        self.blocks = (True, 1, 1, lists, starts, indices)

    def run(self, call, out, lse):
        """Writes the state of this part."""
        lse[...] = call.run((None, None), self.blocks, out=out)[1]


class Window:
    """A window, and keys that every query sees; then the queries that see every key."""

    def __init__(self, left, right, ranges, rows, most):
        self.window = (left, right)
        self.shared = (np.array(ranges, np.int64).reshape(-1, 2), most)
        self.rows = rows
        self.most = most

    def run(self, call, out, lse):
        """Writes the state of this part."""
        lse[...] = call.run(self.window, shared=self.shared, out=out)[1]
        for first, last in self.rows:
            part, shift = rows_of(call, first, last)
            lse[..., first:last] = part.run((None, self.most), out=out[..., first:last, :], shift=shift)[1]


class Classes:
    """A window among the positions of each residue modulo `step`, its sides in steps; positions moved by `shift` steps."""

    def __init__(self, step, left, right, shift=0):
        self.step, self.window, self.shift = step, (left, right), shift

    def groups(self, length, keys, offset):
        """(first residue, first query, classes, queries, keys, place of the first query) of classes that are alike."""
        found = []
        for first in range(min(length, self.step)):
            residue = (offset + first) % self.step
            queries = -((first - length) // self.step)
            count = max(0, -((residue - keys) // self.step))
            place = (offset + first - residue) // self.step
            last = found[-1] if found else None
            if (
                last
                and last[3:] == [queries, count, place]
                and last[1] + last[2] == first
                and last[0] + last[2] == residue
            ):
                last[2] += 1
            else:
                found.append([residue, first, 1, queries, count, place])
        return found

    def run(self, call, out, lse):
        """Writes the state of this part."""
        length, keys, offset = call.query.shape[-2], call.key.shape[-2], call.offset
        for residue, first, classes, queries, count, place in self.groups(length, keys, offset):
            query, into = (strided_view(x, first, self.step, classes, queries, -2) for x in (call.query, out))
            if count:
                key, value = (strided_view(x, residue, self.step, classes, count, -2) for x in (call.key, call.value))
            else:
                key, value = (x[..., None, :0, :] for x in (call.key, call.value))
            mask = mask_view(call.mask, length, keys, (first, residue), (1, self.step), (classes, queries, count))
            part = call._replace(query=query, key=key, value=value, mask=mask)
            result = part.run(self.window, out=into, shift=place - part.offset + self.shift)[1]
            strided_view(lse, first, self.step, classes, queries, -1)[...] = result


class Columns:
    """Some keys, put side by side, in blocks of their own."""

    def __init__(self, take, blocks):
        self.take = take
        self.part = blocks

    def run(self, call, out, lse):
        """Writes the state of this part."""
        mask = call.mask
        if mask is not None and mask.ndim and mask.shape[-1] > 1:
            mask = mask[..., self.take]
        side = call._replace(key=call.key[..., self.take, :], value=call.value[..., self.take, :], mask=mask)
        # the offset of fewer keys plays no part: these blocks have no window
        self.part.run(side, out, lse)


def runs(numbers):
    """Ascending numbers as [first, last) pairs."""
    if len(numbers) == 0:
        return []
    breaks = np.flatnonzero(np.diff(numbers) != 1)
    firsts = numbers[np.concatenate([[0], breaks + 1])]
    lasts = numbers[np.concatenate([breaks, [len(numbers) - 1]])] + 1
    return list(zip(firsts.tolist(), lasts.tolist()))


def gathered(pattern, lists, length, keys, most, hides=()):
    """The rows of a pattern in so many lists, as starts and indices, without what the functions `hides`, like `Pattern._runs`, give.

    `most`: keys up to that many positions after a query, None for all.
    """
    counts, parts = [np.zeros(1, np.int64)], [np.zeros(0, np.int32)]
    for head in range(lists):

        def show(rows, head=head):
            hidden = [hide(rows, length, keys, head) for hide in hides]
            if most is not None:
                hidden.append(_runs.spans(np.arange(len(rows)), rows + (keys - length + most + 1), keys, keys))
            return _runs.merged(pattern._runs(rows, length, keys, head), _runs.joined(*hidden))

        for count, found in _runs.pieces(show, length, keys):
            for to, x in zip((counts, parts), _runs.rows_of(found, count, keys)):
                to.append(x)
    return np.cumsum(np.concatenate(counts)), np.concatenate(parts)


def remaining(pattern, lists, hides, length, keys, causal):
    """The part, if any, of what a pattern shows and `hides` do not give."""
    starts, indices = gathered(pattern, lists, length, keys, 0 if causal else None, hides)
    return (Rows(starts, indices, lists),) if len(indices) else ()


def beyond(window, tokens, shown, rest, layout, length, keys, causal):
    """Parts of what the pattern `rest` shows and `shown`, which is a window and global tokens, does not.

    Of the blocks that are in it those that touch neither, as blocks; rows of what is left.
    """
    hides, parts, (left, right) = [shown._runs], [], window
    if layout is not None:
        free, block_q, block_k, shift = layout
        place = np.arange(free.shape[-2])[:, None] * block_q - shift + (keys - length)
        begin = np.arange(free.shape[-1]) * block_k
        ahead = begin >= place + block_q + min(right, _runs.FAR)
        free = free & (ahead | (begin + block_k <= place - min(left, _runs.FAR)))
        free &= ~(_holds(tokens, place, block_q) | _holds(tokens, begin, block_k))
        if free.any():
            parts.append(Blocks(free, block_q, block_k, shift, (None, 0 if causal else None)))

            def blocks(rows, length, keys, head):
                at = (rows + shift) // block_q
                return _runs.blocks(np.arange(len(rows)), at, free[head] if free.ndim == 3 else free, block_k, keys)

            hides.append(blocks)
    return (*parts, *remaining(rest, rest._lists(), hides, length, keys, causal))


def _holds(tokens, first, size):
    """Whether ranges of so many positions hold a token."""
    return np.searchsorted(tokens, first + size) > np.searchsorted(tokens, first)


def general(pattern, length, keys, most, masked):
    """The plan of a pattern that is no more than pairs: gathered rows, or blocks under a mask where those are full."""
    lists = pattern._lists()
    starts, indices = gathered(pattern, lists, length, keys, most)
    if not masked and lists == 1 and 0 < length * keys <= MOST_MASKED:
        block_q, block_k = MASKED_BLOCK
        row = np.repeat(np.arange(length), np.diff(starts))
        layout = np.zeros((-(-length // block_q), -(-keys // block_k)), bool)
        layout[row // block_q, indices // block_k] = True
        if layout.sum() * block_q * block_k <= MASKED_COST * len(indices):
            mask = np.zeros((length, keys), bool)
            mask[row, indices] = True
            return (Blocks(layout, block_q, block_k, mask=mask),)
    return (Rows(starts, indices, lists),)


def attend(plan, call, dtype, shape):
    """Runs the parts and merges them."""
    if len(plan) == 1:
        result = np.empty(shape, dtype)
        plan[0].run(call, result, np.empty(shape[:-1]))
        return result
    half = call.query.dtype.itemsize == 2
    if half:
        # parts in 16 bits would round once more than the result may
        call = call._replace(**{n: getattr(call, n).astype(np.float32) for n in ("query", "key", "value")})
    states = []
    for part in plan:
        result, lse = np.empty(shape, call.query.dtype), np.empty(shape[:-1])
        part.run(call, result, lse)
        states.append((result, lse))
    return merge_states(states)[0].astype(dtype, copy=False)
