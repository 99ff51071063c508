"""What a pattern is made of: the pairs that it stands for, and the parts that compute it.

`ruvector.patterns` makes the values, `_lowering` runs the parts.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from ruvector import _primitives, _runs
from ruvector import _lowering as low

# By which SplitMix64's state grows with each draw.
_GOLDEN = 0x9E3779B97F4A7C15

# Lowered forms that a pattern keeps, for lengths that come again.
_KEPT = 4


class Pattern:
    """Which keys each query sees.

    Made by the functions of `ruvector.patterns`; also `ruvector.SparsePattern`.
    """

    __slots__ = ("_fields", "_plans")

    def __init__(self, *fields):
        if type(self) is Pattern:
            raise TypeError("a Pattern is made by the functions of ruvector.patterns")
        object.__setattr__(self, "_fields", fields)
        object.__setattr__(self, "_plans", {})

    def __setattr__(self, name, value):
        raise AttributeError("a Pattern cannot be changed")

    def _key(self):
        frozen = ((f.shape, f.tobytes()) if isinstance(f, np.ndarray) else f for f in self._fields)
        return (type(self), *frozen)

    def __eq__(self, other):
        return self._key() == other._key() if isinstance(other, Pattern) else NotImplemented

    def __hash__(self):
        return hash(self._key())

    def __reduce__(self):
        return type(self), self._fields

    def __or__(self, other):
        return _Union(self, other) if isinstance(other, Pattern) else NotImplemented

    def __and__(self, other):
        return _Intersection(self, other) if isinstance(other, Pattern) else NotImplemented

    def __repr__(self):
        texts = (f"<{'x'.join(map(str, f.shape))}>" if isinstance(f, np.ndarray) else repr(f) for f in self._fields)
        return f"<pattern {type(self).__name__.strip('_').lower()}({', '.join(texts)})>"

    def _fit(self, length, keys):
        """ValueError where the pattern is bound to other lengths."""

    def _lists(self):
        """1, or the heads that have a pattern of their own."""
        return 1

    # Each kind has `_runs(rows, length, keys, head)`: what these rows see, the i-th of them as row i, for one of the `_lists`, as a
    # set of `ruvector._runs`.

    def _see(self, rows, length, keys):
        """The boolean matrix (len(rows), keys), with an axis of heads in front where they differ."""
        seen = [_runs.matrix(self._runs(rows, length, keys, h), len(rows), keys) for h in range(self._lists())]
        return seen[0] if len(seen) == 1 else np.stack(seen)

    def _parts(self, length, keys, causal):
        """Parts that compute the pattern faster than gathered rows, alone or merged; None where there are none."""
        return None

    def _plan(self, length, keys, causal, masked):
        """The parts of a call."""
        kind = (length, keys, causal, masked)
        plan = self._plans.get(kind)
        if plan is None:
            self._fit(length, keys)
            plan = self._parts(length, keys, causal)
            if plan is None:
                plan = low.general(self, length, keys, 0 if causal else None, masked)
            if len(self._plans) >= _KEPT:
                self._plans.clear()
            self._plans[kind] = plan
        return plan


def _places(rows, length, keys):
    """The numbers of some rows among them, and the positions that they stand at."""
    return np.arange(len(rows)), rows + (keys - length)


class _Band(Pattern):
    __slots__ = ()

    def _runs(self, rows, length, keys, head):
        return _runs.near(*_places(rows, length, keys), *self._fields, keys)

    def _parts(self, length, keys, causal):
        left, right = self._fields
        return (low.Band(left, _ahead(right, causal)),)


def _ahead(right, causal):
    return min(right, 0) if causal else right


class _Strided(Pattern):
    __slots__ = ()

    def _stride(self, keys):
        return self._fields[0] or max(1, round(math.sqrt(keys)))

    def _runs(self, rows, length, keys, head):
        number, p = _places(rows, length, keys)
        step, both = self._stride(keys), self._fields[1]
        near = _runs.near(number, p, step - 1, step - 1 if both else 0, keys)
        return _runs.joined(near, _runs.steps(number, p, step, 0, keys if both else p + 1, keys))

    def _parts(self, length, keys, causal):
        step = self._stride(keys)
        if not self._fields[1] or causal:
            return low.Band(step - 1, 0), low.Classes(step, None, 0, -1)
        return low.Band(step - 1, step - 1), low.Classes(step, None, 0, -1), low.Classes(step, 0, None, 1)


class _Fixed(Pattern):
    __slots__ = ()

    _stride = _Strided._stride

    def _summary(self, step):
        if self._fields[1] > step:
            raise ValueError(f"summary must be at most the stride {step}, got {self._fields[1]}")
        return self._fields[1]

    def _fit(self, length, keys):
        self._summary(self._stride(keys))

    def _runs(self, rows, length, keys, head):
        number, p = _places(rows, length, keys)
        step = self._stride(keys)
        end, most = np.arange(step, keys + step, step), keys if self._fields[2] else p + 1
        own = _runs.spans(number, p // step * step, np.minimum(p // step * step + step, most), keys)
        most = most[:, None] if np.ndim(most) else most
        return _runs.joined(own, _runs.spans(number[:, None], end - self._summary(step), np.minimum(end, most), keys))

    def _parts(self, length, keys, causal):
        step = self._stride(keys)
        forward = self._fields[2] and not causal
        places, shift = low.places(step, length, keys)
        take = np.flatnonzero(np.arange(keys) % step >= step - self._summary(step))
        other = np.arange(-(-len(take) // self._summary(step)))
        others = places[:, None] != other if forward else places[:, None] > other
        return low.own_blocks(step, length, keys, not forward), low.Columns(
            take, low.Blocks(others, step, self._summary(step), shift)
        )


class _Dilated(Pattern):
    __slots__ = ()

    def _runs(self, rows, length, keys, head):
        number, p = _places(rows, length, keys)
        step = self._fields[1]
        reach = min(self._fields[0] // 2 * step, _runs.FAR)
        return _runs.steps(number, p, step, p - reach, p + reach + 1, keys)

    def _parts(self, length, keys, causal):
        half, step = self._fields[0] // 2, self._fields[1]
        if step == 1:
            return (low.Band(half, 0 if causal else half),)
        return (low.Classes(step, half, 0 if causal else half),)


class _Global(Pattern):
    __slots__ = ()

    def _tokens(self, keys):
        """Positions that all see and that see all, ascending."""
        tokens = self._fields[0]
        if not isinstance(tokens, np.ndarray):
            return np.arange(min(tokens, keys))
        if tokens.size and tokens[-1] >= keys:
            raise IndexError(f"global_tokens has {tokens[-1]}, out of range for {keys} keys")
        return tokens

    def _fit(self, length, keys):
        self._tokens(keys)

    def _runs(self, rows, length, keys, head):
        number, p = _places(rows, length, keys)
        tokens = self._tokens(keys)
        first, last = np.array(low.runs(tokens), np.int64).reshape(-1, 2).T
        return _runs.joined(
            _runs.spans(number[:, None], first, last, keys), _runs.spans(number[np.isin(p, tokens)], 0, keys, keys)
        )

    def _beside(self, left, right, length, keys, causal):
        """The parts of this pattern and a window."""
        tokens = self._tokens(keys)
        queries = tokens - (keys - length)
        rows = low.runs(queries[queries >= 0])
        return (low.Window(left, right, low.runs(tokens), rows, 0 if causal else None),)


class _Blocks(Pattern):
    """layout, block_q, block_k: blocks of rows, from the first one on."""

    __slots__ = ()

    def _lists(self):
        layout = self._fields[0]
        return len(layout) if layout.ndim == 3 else 1

    def _fit(self, length, keys):
        layout, block_q, block_k = self._fields
        want = (-(-length // block_q), -(-keys // block_k))
        if layout.shape[-2:] != want:
            raise ValueError(
                f"layout of shape {layout.shape} with block_size {_pair_text(block_q, block_k)} does not fit {length} queries "
                f"and {keys} keys, which are {want[0]} x {want[1]} blocks"
            )

    def _runs(self, rows, length, keys, head):
        layout, block_q, block_k = self._fields
        layout = layout[head] if layout.ndim == 3 else layout
        return _runs.blocks(np.arange(len(rows)), rows // block_q, layout, block_k, keys)

    def _parts(self, length, keys, causal):
        return (low.Blocks(*self._fields, 0, (None, 0 if causal else None)),)


def _pair_text(block_q, block_k):
    return str(block_q) if block_q == block_k else f"({block_q}, {block_k})"


class _BigBird(Pattern):
    """block_size, window, globals, randoms, seed: blocks of positions."""

    __slots__ = ()

    def _layout(self, places, keys):
        """Key blocks (in order) that the query blocks `places` see."""
        size, window, shared, randoms, seed = self._fields
        count = -(-keys // size)
        key = np.arange(count)
        near = np.abs(places[:, None] - key) <= window // 2 if window else np.zeros((len(places), count), bool)
        near = near | (key < shared) | ((places >= 0) & (places < shared))[:, None]
        own = np.flatnonzero(places >= 0) if randoms and count else ()
        step = max(1, _runs.PIECE // max(count, 1))
        for first in range(0, len(own), step):
            last = min(first + step, len(own))
            # places ascend by one; draws of a place start at number place * count, the generator's state moving by a constant each
            start = (seed + int(places[own[first]]) * count * _GOLDEN) % 2**64
            rank = _primitives.draw(start, 1.0, (last - first) * count).reshape(-1, count)
            rows = own[first:last]
            rank[near[rows]] = np.inf
            chosen = np.argsort(rank, axis=-1, kind="stable")[:, :randoms]
            near[rows[:, None], chosen] |= np.take_along_axis(rank, chosen, -1) < np.inf
        return near

    def _runs(self, rows, length, keys, head):
        number, p = _places(rows, length, keys)
        size = self._fields[0]
        places, back = np.unique(p // size, return_inverse=True)
        return _runs.blocks(number, back, self._layout(places, keys), size, keys)

    def _parts(self, length, keys, causal):
        return (low.Blocks(*_layout_of(self, length, keys), (None, 0 if causal else None)),)


class _Axial(Pattern):
    __slots__ = ()

    def _width(self, keys):
        height, width = self._fields
        if height and width and height * width != keys:
            raise ValueError(f"a grid of {height} x {width} has {height * width} places, not the {keys} of the keys")
        if width is None:
            width = -(-keys // height) if height else math.isqrt(max(keys - 1, 0)) + 1
        return max(width, 1)

    def _fit(self, length, keys):
        self._width(keys)

    def _runs(self, rows, length, keys, head):
        number, p = _places(rows, length, keys)
        width = self._width(keys)
        row = _runs.spans(number, p // width * width, p // width * width + width, keys)
        return _runs.joined(row, _runs.steps(number, p, width, 0, keys, keys))

    def _parts(self, length, keys, causal):
        width = self._width(keys)
        row = low.own_blocks(width, length, keys, causal)
        above = low.Classes(width, None, 0, -1)
        return (row, above) if causal else (row, above, low.Classes(width, 0, None, 1))


class _Mask(Pattern):
    __slots__ = ()

    def _fit(self, length, keys):
        if self._fields[0].shape != (length, keys):
            raise ValueError(f"the pattern is for {self._fields[0].shape} queries and keys, got ({length}, {keys})")

    def _runs(self, rows, length, keys, head):
        return _runs.of_matrix(self._fields[0][rows])


class _CSR(Pattern):
    """starts, indices, keys"""

    __slots__ = ()

    def _fit(self, length, keys):
        starts, _, own = self._fields
        if (len(starts) - 1, own) != (length, keys):
            raise ValueError(f"the pattern is for {(len(starts) - 1, own)} queries and keys, got ({length}, {keys})")

    def _runs(self, rows, length, keys, head):
        starts, indices, _ = self._fields
        return _runs.lists(np.arange(len(rows)), starts, indices, rows, keys)

    def _parts(self, length, keys, causal):
        starts, indices, _ = self._fields
        if not causal:
            return (low.Rows(starts, indices),)
        position = np.repeat(np.arange(length) + keys - length, np.diff(starts))
        keep = indices <= position
        kept = np.concatenate([[0], np.cumsum(keep)])[starts].astype(np.int64)
        return (low.Rows(kept, indices[keep]),)


class _Pair(Pattern):
    __slots__ = ()

    def _fit(self, length, keys):
        for part in self._fields:
            part._fit(length, keys)

    def _lists(self):
        counts = {part._lists() for part in self._fields} - {1}
        if len(counts) > 1:
            raise ValueError(f"layouts for different numbers of heads, {sorted(counts)}, do not go together")
        return counts.pop() if counts else 1

    def _both(self, rows, length, keys, head):
        """What each of the two shows."""
        return (part._runs(rows, length, keys, head) for part in self._fields)

    def _block_layouts(self, length, keys):
        """Both as block layouts of one size, or None."""
        sizes, layouts = set(), []
        for part in self._fields:
            if not isinstance(part, _Blocks | _BigBird | _Pair):
                return None
            found = _layout_of(part, length, keys)
            if found is None:
                return None
            layouts.append(found[0])
            sizes.add(found[1:])
        return (*layouts, *sizes.pop()) if len(sizes) == 1 else None

    def _parts(self, length, keys, causal):
        found = _layout_of(self, length, keys)
        return None if found is None else (low.Blocks(*found, (None, 0 if causal else None)),)


def _layout_of(pattern, length, keys):
    """(layout, block_q, block_k, shift) of a pattern of whole blocks, as `Blocks` takes them, else None."""
    if isinstance(pattern, _Blocks):
        return *pattern._fields, 0
    if isinstance(pattern, _BigBird):
        size = pattern._fields[0]
        places, shift = low.places(size, length, keys)
        return pattern._layout(places, keys), size, size, shift
    found = pattern._block_layouts(length, keys)
    if found is None:
        return None
    return (found[0] | found[1] if isinstance(pattern, _Union) else found[0] & found[1]), *found[2:]


def _layout_within(patterns, length, keys):
    """The layout of those patterns that are of whole blocks, and of the size of the first of these; None where there are none."""
    found = [_layout_of(m, length, keys) for m in patterns if isinstance(m, _Blocks | _BigBird | _Pair)]
    found = [x for x in found if x is not None]
    same = [x[0] for x in found if x[1:] == found[0][1:]]
    return (functools.reduce(np.logical_or, same), *found[0][1:]) if found else None


class _Union(_Pair):
    __slots__ = ()

    def _runs(self, rows, length, keys, head):
        return _runs.joined(*self._both(rows, length, keys, head))

    def _members(self):
        """The patterns united here that are no unions themselves."""
        return [m for part in self._fields for m in (part._members() if isinstance(part, _Union) else (part,))]

    def _parts(self, length, keys, causal):
        found = super()._parts(length, keys, causal)
        if found is not None:
            return found
        members = self._members()
        bands, shared = ([m for m in members if isinstance(m, kind)] for kind in (_Band, _Global))
        rest = [m for m in members if not isinstance(m, _Band | _Global)]
        if not bands:
            return self._parts_and_tokens(shared, rest, length, keys, causal)
        # windows hold their own position, so that together they are the widest on either side
        left, right = (max(band._fields[side] for band in bands) for side in (0, 1))
        window = shown = _Band(left, _ahead(right, causal))
        tokens, parts = np.zeros(0, np.int64), window._parts(length, keys, causal)
        if shared:
            tokens = functools.reduce(np.union1d, (m._tokens(keys) for m in shared))
            both = _Global(tokens)
            parts, shown = both._beside(*window._fields, length, keys, causal), _Union(window, both)
        if rest:
            layout = _layout_within(rest, length, keys)
            rest = functools.reduce(_Union, rest)
            parts += low.beyond(window._fields, tokens, shown, rest, layout, length, keys, causal)
        return parts

    def _parts_and_tokens(self, shared, rest, length, keys, causal):
        """The parts of what has some, and rows of the tokens that are not in it."""
        rest = functools.reduce(_Union, rest) if rest and shared else None
        parts = None if rest is None else rest._parts(length, keys, causal)
        if parts is None:
            return None
        tokens = functools.reduce(_Union, shared)
        return parts + low.remaining(tokens, rest._lists(), [rest._runs], length, keys, causal)


class _Intersection(_Pair):
    __slots__ = ()

    def _runs(self, rows, length, keys, head):
        return _runs.common(*self._both(rows, length, keys, head))

    def _parts(self, length, keys, causal):
        a, b = self._fields
        if isinstance(a, _Band) and isinstance(b, _Band):
            a, b = a._fields, b._fields
            return (low.Band(min(a[0], b[0]), _ahead(min(a[1], b[1]), causal)),)
        if isinstance(a, _Band):
            a, b = b, a
        found = (
            _layout_of(a, length, keys) if isinstance(a, _Blocks | _BigBird | _Pair) and isinstance(b, _Band) else None
        )
        if found is not None:
            left, right = b._fields
            return (low.Blocks(*found, (left, _ahead(right, causal))),)
        return super()._parts(length, keys, causal)
