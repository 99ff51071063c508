"""Attention along the axes of a grid: the type axial, along rows and then along columns, or along both under one softmax."""

from __future__ import annotations

import math

import numpy as np

from ruvector import _coerce, patterns
from ruvector import _lowering as low
from ruvector._options import flag
from ruvector._registry import AttentionRecord, Parameter, add_type, get_attention
from ruvector._scores import attention_score
from ruvector._states import merge_states
from ruvector._docstrings import documented
from ruvector.mechanisms.sparse import attend, checked, checked_pair, hide, one_head, weights


class _Grid:
    """Keys in rows of `width`, queries at the positions from S - L on, and what each of the two passes sees.

    The pass along columns has one list of values, or two where it is causal: of rows above the query, mixed whole, and of its own
    position, mixed from its row up to there.
    """

    def __init__(self, height, width, length, keys, causal):
        self.width = patterns.axial(height, width)._width(keys)
        self.length, self.keys, self.causal = length, keys, causal
        self.position = np.arange(length) + keys - length
        # queries before the first key stand in no row
        self.first = min(max(length - keys, 0), length)

    def rows(self):
        """The parts of the pass along rows, one for each list of values."""
        return [low.own_blocks(self.width, self.length, self.keys, c) for c in (False, True)[: 1 + self.causal]]

    def columns(self):
        """The parts of the pass along columns, one for each list of values."""
        if self.causal:
            return low.Classes(self.width, None, 0, -1), low.Band(0, 0)
        return (low.Classes(self.width, None, None),)

    def seen(self):
        """The boolean matrices of both passes, one for each list of values."""
        p, j = self.position[:, None], np.arange(self.keys)
        row, column = p // self.width == j // self.width, p % self.width == j % self.width
        return ((row, row & (j <= p)), (column & (j < p), p == j)) if self.causal else ((row,), (column,))

    def placed(self, value, mixed):
        """What the pass along rows made of the values: those before the first query stay as they are."""
        before = self.keys - self.length
        if before <= 0:
            return mixed[..., self.first :, :]
        value = np.broadcast_to(value[..., :before, :], (*mixed.shape[:-2], before, mixed.shape[-1]))
        return np.concatenate([value, mixed], -2)

    def second_mask(self, mask):
        """The mask of the pass along columns, which hides who saw nothing of its row, so that weights sum to 1.

        A mask over keys does so by itself: of a row of which nothing is seen it hides all.
        """
        if mask is None or mask.shape[-2] == 1 or self.keys == 0:
            return mask
        seen = np.broadcast_to(
            mask if mask.dtype == bool else mask != -np.inf, (*mask.shape[:-2], self.length, self.keys)
        )
        some = np.logical_or.reduceat(seen, np.arange(0, self.keys, self.width), axis=-1)
        at, shown = np.arange(self.first, self.length), np.ones((*seen.shape[:-2], 1, self.keys), bool)
        shown[..., 0, self.position[at]] = some[..., at, self.position[at] // self.width]
        return mask if shown.all() else hide(shown, mask)


def _run(part, call, shape):
    out, lse = np.empty(shape, call.query.dtype), np.empty(shape[:-1])
    part.run(call, out, lse)
    return out, lse


def _in_turn(query, key, value, mask, grid, scale, lead):
    """Along rows, then along columns."""
    call = low.Call(query, key, value, mask, 1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    shape, second = (*lead, grid.length, value.shape[-1]), grid.second_mask(mask)
    states = []
    for row, column in zip(grid.rows(), grid.columns()):
        values = grid.placed(value, _run(row, call, shape)[0])
        states.append(_run(column, call._replace(value=values, mask=second), shape))
    return states[0][0] if len(states) == 1 else merge_states(states).output


def _in_turn_dropping(query, key, value, mask, grid, scale, dropout, rng):
    """The same with weights of both passes dropped, under masks of (L, S); one stream for all."""
    options = {"training": True, "rng": _coerce.explicit_generator(rng, "dropout")}
    call = get_attention("scaled_dot", scale=scale, dropout=dropout)
    (rows, columns), second = grid.seen(), grid.second_mask(mask)
    values = [grid.placed(value, call(query, key, value, mask=hide(row, mask), **options)) for row in rows]
    masks = np.concatenate([hide(column, second) for column in columns], -1)
    return call(query, np.concatenate([key] * len(rows), -2), np.concatenate(values, -2), mask=masks, **options)


def _attend(query, key, value, *, mask, causal, scale, dropout, training, rng, height, width, mode):
    if mode == "joint":
        return attend(patterns.axial(height, width), query, key, value, mask, causal, scale, dropout, training, rng)
    dtype = query.dtype
    query, mask, lead, single = checked(query, key, value, mask)
    grid = _Grid(height, width, query.shape[-2], key.shape[-2], causal)
    # what lies between the passes keeps the digits of the arithmetic
    query, key, value = (x.astype(_coerce.computed_in(dtype), copy=False) for x in (query, key, value))
    if dropout > 0 and training:
        result = _in_turn_dropping(query, key, value, mask, grid, scale, dropout, rng)
    else:
        result = _in_turn(query, key, value, mask, grid, scale, lead)
    result = result.astype(dtype, copy=False)
    return result[..., 0, :] if single else result


def _weights(query, keys, mask, *, causal, scale, height, width, mode):
    """Products of the weights of both passes."""
    if mode == "joint":
        return weights(patterns.axial(height, width), query, keys, mask, causal, scale)
    dtype = query.dtype
    query, mask, _, single = checked_pair(query, keys, mask)
    query, keys = (x.astype(_coerce.computed_in(dtype), copy=False) for x in (query, keys))
    grid = _Grid(height, width, query.shape[-2], keys.shape[-2], causal)
    (rows, columns), second, n = grid.seen(), grid.second_mask(mask), grid.keys
    weigh = get_attention("scaled_dot", scale=scale)._weights
    masks = np.concatenate([hide(column, second) for column in columns], -1)
    down = weigh(query, np.concatenate([keys] * len(rows), -2), masks)
    total = np.zeros((*down.shape[:-1], n), down.dtype)
    for start, row in zip((0, n), rows):
        along = weigh(query, keys, hide(row, mask))
        for first in range(0, n, grid.width):
            last = min(first + grid.width, n)
            # the weights of one row of the grid, those of positions without a query on themselves
            block = np.broadcast_to(
                np.eye(last - first, dtype=along.dtype), (*along.shape[:-2], last - first, last - first)
            ).copy()
            begin = min(max(first, n - grid.length), last)
            block[..., begin - first :, :] = along[..., begin - n + grid.length : last - n + grid.length, first:last]
            cell = grid.position % grid.width
            inside = cell < last - first
            cell = np.where(inside, cell, 0)
            weight = np.where(inside, down[..., np.arange(grid.length), start + first + cell], 0)
            total[..., first:last] += weight[..., None] * block[..., cell, :]
    total = total.astype(dtype, copy=False)
    return total[..., 0, :] if single else total


def _score(query, key, *, scale, **own):
    return attention_score(query, key, scale=scale)


@documented
def axial_attention(
    query,
    key,
    value,
    height=None,
    width=None,
    *,
    mode="sequential",
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Attention along the rows of a grid, then along its columns.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    height, width : int, optional
        The grid of the keys in C order, at least 1. Both: their product is S. One: the other follows, the last row may be short. None: rows
        of the square root of S, rounded up.
    mode : {"sequential", "joint"}, default "sequential"
        "sequential", as published: what attention along the rows gives are the values of attention along the columns. "joint": the row and
        the column of the query under one softmax.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for a grid that is not that of the keys.

    Notes
    -----
    ``z[r, c] = sum_i softmax_i(scale * q[r, c] . k[i, c]) y[i, c]`` with ``y[i, c] = sum_j softmax_j(scale * q[i, c] . k[i, j]) v[i, j]``:
    on a full grid every position reaches every other. Query i of L stands at ``i + (S - L)``; a position before the first query has none and keeps its
    value in the first pass. With `causal`, positions are in raster order and a query reaches all that are not behind it: rows above it are
    mixed whole, its own up to itself. A mask hides pairs of a query and a key in both passes, so that what it hides from one query may
    still come through another position that sees it; a mask over keys hides them altogether.

    O(L (height + width) (d + dv)), with `causal` one pass along rows more. From Ho et al. 2019, arXiv:1912.12180, where each pass is a layer with
    projections of its own.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x = np.eye(6)
    >>> ruvector.axial_attention(x, 0 * x, x, 2, 3)[4].round(3)
    array([0.167, 0.167, 0.167, 0.167, 0.167, 0.167])
    >>> ruvector.axial_attention(x, 0 * x, x, 2, 3, mode="joint")[4].round(3)
    array([0.  , 0.25, 0.  , 0.25, 0.25, 0.25])
    """
    options = {"height": height, "width": width, "mode": mode}
    call = get_attention("axial", causal=causal, scale=scale, dropout=dropout, **options)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


add_type(
    AttentionRecord(
        "axial",
        (),
        "O(n\u221an)",
        "Images and other grids",
        "pattern",
        (
            Parameter("height", "int", None, 1, None, "rows of the grid of keys"),
            Parameter("width", "int", None, 1, None, "columns; the square root of the keys when neither is given"),
            Parameter(
                "mode",
                "sequential|joint",
                "sequential",
                None,
                None,
                "along rows and then along columns, or row and column under one softmax",
            ),
        ),
        "Ho et al. 2019, Axial Attention in Multidimensional Transformers, arXiv:1912.12180",
    ),
    fn=_attend,
    score=_score,
    products=one_head,
    weights=_weights,
)
