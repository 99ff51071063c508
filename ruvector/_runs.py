"""What a pattern shows of some rows, as runs of keys: sets of pairs that take the space and time of what is shown.

A set is a pair (first, last) of int64 arrays: the ranges [first, last) of ``i * keys + j``, row i of those asked for and key j. They
come in any order and may overlap.
"""

from __future__ import annotations

import numpy as np

# Farther than any key is from any query, and far from the end of int64.
FAR = 1 << 60

# Pairs that are expanded in one go, and how many times the rows of the first piece a later one may have.
PIECE = 1 << 22
_GROWTH = 16


def spans(rows, first, last, keys):
    """The keys [first, last) of each row, cut off at both ends."""
    rows, first, last = np.broadcast_arrays(rows, np.clip(first, 0, keys), np.clip(last, 0, keys))
    some = first < last
    start = rows[some] * keys
    return start + first[some], start + last[some]


def near(rows, place, left, right, keys):
    """The keys around each row's place."""
    return spans(rows, place - min(left, FAR), place + min(right, FAR) + 1, keys)


def steps(rows, place, step, first, last, keys):
    """The keys in [first, last) of each row that are whole numbers of steps away from its place."""
    if step == 1:
        return spans(rows, first, last, keys)
    first, last, _ = np.broadcast_arrays(np.maximum(first, 0), np.minimum(last, keys), rows)
    first = first + (place - first) % step
    count = np.maximum((last - first + step - 1) // step, 0)
    at = np.repeat(rows * keys + first, count) + step * _counted(np.zeros_like(count), count)
    return at, at + 1


def blocks(rows, at, layout, size, keys):
    """The keys of the blocks that row at[i] of a layout shows to row i."""
    first, last = of_matrix(layout)
    owner = first // max(layout.shape[-1], 1)
    first, last = first - owner * layout.shape[-1], last - owner * layout.shape[-1]
    starts = np.searchsorted(owner, np.arange(len(layout) + 1))
    count = np.diff(starts)[at]
    take = _counted(starts[at], count)
    return spans(np.repeat(rows, count), size * first[take], size * last[take], keys)


def lists(rows, starts, indices, at, keys):
    """The keys indices[starts[at[i]] : starts[at[i] + 1]] of row i."""
    count = np.diff(starts)[at]
    found = np.repeat(rows * keys, count) + indices[_counted(starts[at], count)]
    return found, found + 1


def of_matrix(seen):
    """Where a boolean matrix is True."""
    edges = np.diff(np.pad(seen, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    found = (np.nonzero(edges == sign) for sign in (1, -1))
    return tuple(row * seen.shape[1] + key for row, key in found)


def joined(*sets):
    """All of them."""
    nothing = np.zeros(0, np.int64)
    return tuple(np.concatenate([nothing, *side]) for side in (zip(*sets) if sets else ((), ())))


def merged(shown, hidden=None, least=1):
    """Disjoint runs, ascending, of what `least` runs of a set show and no run of another one hides."""
    hidden = joined() if hidden is None else hidden
    (first, last), (begin, end) = shown, hidden
    much = len(first) + 1
    place = np.concatenate([first, last, begin, end])
    change = np.repeat(np.array([1, -1, -much, much]), [len(first), len(last), len(begin), len(end)])
    order = np.argsort(place, kind="stable")
    place, depth = place[order], np.cumsum(change[order])
    final = np.append(place[1:] != place[:-1], True)[: len(place)]
    place, seen = place[final], depth[final] >= least
    edge = np.diff(seen.astype(np.int8), prepend=0)
    return place[edge == 1], place[edge == -1]


def common(a, b):
    """What both sets show."""
    return merged(joined(merged(a), merged(b)), least=2)


def matrix(found, count, keys):
    """The boolean matrix (count, keys) of a set."""
    first, last = merged(found)
    edges = np.zeros(count * keys + 1, np.int8)
    edges[first], edges[last] = 1, -1
    return np.cumsum(edges, dtype=np.int8)[:-1].view(bool).reshape(count, keys)


def rows_of(found, count, keys):
    """How many keys each of `count` rows sees, and these, ascending; the runs are disjoint and ascending."""
    first, last = found
    cells = _counted(first, last - first)
    counts = np.diff(np.searchsorted(cells, np.arange(count + 1) * keys))
    return counts, (cells - np.repeat(np.arange(count) * keys, counts)).astype(np.int32)


def pieces(show, length, keys):
    """(number of rows, set) of a few rows after the other; `show(rows)` gives the sets.

    The first piece is as short as if its rows saw all keys, later ones as what came before them lets expect.
    """
    first = 0
    shortest = step = max(1, PIECE // max(keys, 1))
    while first < length:
        last = min(first + step, length)
        found = show(np.arange(first, last))
        yield last - first, found
        cells = int((found[1] - found[0]).sum())
        step = max(shortest, min(_GROWTH * shortest, PIECE * (last - first) // max(cells, 1)))
        first = last


def _counted(first, count):
    """first[0], first[0] + 1, ... count[0] of them, then those from first[1] on, ..."""
    return np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
