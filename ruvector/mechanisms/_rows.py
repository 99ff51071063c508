"""What mechanisms that pick or mix keys share: batches with one leading axis, and hidden keys as if they were not there."""

from __future__ import annotations

import math

import numpy as np

from ruvector import _attention, _coerce
from ruvector._primitives import PROJECTION_SEED, projection
from ruvector._random import seed_of

# Elements of a temporary array of one step: what the second-level cache holds twice.
STEP = 1 << 17

MASK = """mask : array_like of bool, optional
        True = attend. Broadcasts to ``(..., 1, S)``: which keys there are, the same for every query. The result is that
        of the other keys alone.
    """
CAUSAL = """causal : bool, default False
        Query i of L sees keys ``j <= i + (S - L)``: the diagonal ends at the bottom right.
    """
SCALE = """scale : float, optional
        Factor on the products; ``1 / sqrt(d)`` when None.
    """
RNG = """rng : numpy.random.Generator or seed, optional
        What is drawn comes from here; from SplitMix64 with the seed of `draw_features` when None.
    """
OUT = """out : ndarray, optional
        Where the result goes: its shape and dtype, any strides; may overlap the inputs."""


class Rows:
    """The arrays of a call as (N, length, width) in the dtype they are computed in, and how its result is put back."""

    def __init__(self, query, key, value, mask, name):
        if query.ndim < 1 or key.ndim < 2 or value.ndim < 2:
            _coerce.refuse_axes(query, key, value)
        if query.shape[-1] < 1 or query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
            _coerce.refuse_shapes(query, key, value, False, False)
        self._place(query, key, value)
        self.visible = None if mask is None else self._visible(mask, key.shape[-2], name)

    def _place(self, query, key, value):
        self.single, self.dtype = query.ndim == 1, query.dtype
        if self.single:
            query = query[None]
        shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
        self.lead = _coerce._broadcast((query.shape[:-2], key.shape[:-2], value.shape[:-2]), shapes)
        work = _coerce.computed_in(query.dtype)
        self.query, self.key, self.value = (self._flat(x.astype(work, copy=False)) for x in (query, key, value))

    def _flat(self, x):
        return np.ascontiguousarray(np.broadcast_to(x, (*self.lead, *x.shape[-2:]))).reshape(
            math.prod(self.lead), *x.shape[-2:]
        )

    def _visible(self, mask, keys, name):
        """Which keys there are, (N, keys)."""
        given = mask
        if mask.dtype != bool:
            _coerce.refuse_mask_of_rows(given, False, name)
        if self.single and mask.ndim:
            mask = mask[..., None, :]
        if mask.ndim > 1 and mask.shape[-2] != 1:
            _coerce.refuse_mask_of_rows(given, True, name)
        try:
            full = np.broadcast_to(mask, (*self.lead, 1, keys))
        except ValueError:
            _coerce.refuse_mask(given, self.lead, None, 1, keys, "mask")
        return np.ascontiguousarray(full).reshape(-1, keys)

    def apply(self, run):
        """`run(query, key, value, places)` for rows that have the same keys: `places` are the positions of those."""
        length, keys = self.query.shape[1], self.key.shape[1]
        shape = (len(self.query), length, self.value.shape[-1])
        if 0 in shape or keys == 0:
            return self.finish(np.zeros(shape, self.query.dtype))
        if self.visible is None:
            return self.finish(run(self.query, self.key, self.value, np.arange(keys)))
        out = np.zeros(shape, self.query.dtype)
        patterns, group = np.unique(self.visible, axis=0, return_inverse=True)
        for i, pattern in enumerate(patterns):
            places = np.flatnonzero(pattern)
            if len(places):
                of = np.flatnonzero(group.ravel() == i)
                out[of] = run(self.query[of], self.key[of][:, places], self.value[of][:, places], places)
        return self.finish(out)

    def finish(self, out):
        """The result as the caller passed its arrays."""
        with np.errstate(over="ignore"):
            out = out.reshape(*self.lead, *out.shape[1:]).astype(self.dtype, copy=False)
        return out[..., 0, :] if self.single else out


def scale_of(scale, width):
    """The factor on products."""
    return 1 / math.sqrt(width) if scale is None else scale


def seed(rng):
    """The seed of a call, drawn once."""
    return seed_of(rng, PROJECTION_SEED)


def normal(own, rows, width, dtype):
    """Standard normal numbers (rows, width) of a seed."""
    return projection(own, False, rows, width).astype(dtype, copy=False)


def steps(length, width):
    """Ranges of rows whose temporary arrays of so many columns stay in the cache."""
    step = max(1, STEP // max(width, 1))
    return (slice(first, first + step) for first in range(0, length, step))


def take(x, rows):
    """x[n, rows[n]] for (N, length, width) and (N, ...)."""
    return x[np.arange(len(x)).reshape(-1, *(1,) * (rows.ndim - 1)), rows]


def unit(x):
    """Rows divided by their lengths; rows of zeros stay."""
    most = np.abs(x).max(-1, keepdims=True, initial=0)
    x = x / np.where(most > 0, most, 1)
    length = np.sqrt((x * x).sum(-1, keepdims=True))
    return x / np.where(length > 0, length, 1)


def grouped(label, count):
    """Positions in the order of labels (N, n), which are less than `count`, and how many have each (N, count)."""
    # NumPy sorts integers of 16 bits by radix
    narrow = label.astype(np.uint16) if count <= 1 << 16 else label
    flat = label + np.arange(len(label))[:, None] * count
    return np.argsort(narrow, -1, kind="stable"), np.bincount(flat.ravel(), minlength=len(label) * count).reshape(
        len(label), count
    )


def means(x, indices, counts):
    """Means of rows of x (N, n, d): counts (N, L) of them for each, ascending, in one list; 0 of none."""
    nothing = np.zeros((len(x), max(counts.shape[1], x.shape[1]), 1), x.dtype)
    return gathered(nothing[:, : counts.shape[1]], nothing[:, : x.shape[1]], x, indices, counts, 1.0)


def gathered(query, key, value, indices, counts, scale):
    """Softmax attention of (N, L, d) over keys of its own for each row, counts (N, L) of them, ascending, in one list."""
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts.ravel(), dtype=np.int64)])
    blocks = (True, 1, 1, len(query), starts, np.ascontiguousarray(indices.ravel(), np.int32))
    offset = key.shape[1] - query.shape[1]
    return _attention.sparse(query, key, value, None, scale, 0.0, (None, None), offset, blocks, None, False, None)
