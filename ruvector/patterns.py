"""Which keys a query sees: patterns as reusable values, for `ruvector.sparse_attention`.

A pattern is a recipe that fits any lengths, or is bound to those of the arrays that it was made of. Query i of L stands at
position ``p = i + (S - L)`` among the S keys. Patterns are immutable, comparable, hashable and picklable; ``a | b`` and
``a & b`` are their union and intersection.
"""

from __future__ import annotations

import functools

import numpy as np

from ruvector import _coerce, _runs
from ruvector._options import flag, number
from ruvector._patterns import (
    Pattern,
    _Axial,
    _Band,
    _BigBird,
    _Blocks,
    _CSR,
    _Dilated,
    _Fixed,
    _Global,
    _Intersection,
    _Mask,
    _Strided,
    _Union,
)
from ruvector._random import seed_of

__all__ = [
    "Pattern",
    "axial",
    "bigbird",
    "blocks",
    "density",
    "dilated",
    "fixed",
    "from_csr",
    "from_mask",
    "global_tokens",
    "intersection",
    "local",
    "longformer",
    "random_blocks",
    "sliding",
    "strided",
    "to_mask",
    "union",
]

# Of block sizes, strides and sides of a grid: sums of positions and of what is this long stay far below 63 bits.
_LONGEST = 2**40


def _whole(value, name, least=1):
    value = number(value, name, whole=True)
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def _step(value, name):
    value = _whole(value, name)
    if value > _LONGEST:
        raise ValueError(f"{name} must be at most 2**40, got {value}")
    return value


def _length(value, name):
    return _whole(value, name, 0)


def _optional(value, name):
    return None if value is None else _step(value, name)


def _pattern(value, name="pattern"):
    if not isinstance(value, Pattern):
        raise TypeError(f"{name} must be a Pattern of ruvector.patterns, got {value!r}")
    return value


def _frozen(array):
    array.flags.writeable = False
    return array


def local(window_size=256):
    """Keys around the query: ``abs(p - j) <= window_size // 2``.

    Parameters
    ----------
    window_size : int, default 256

    Returns
    -------
    Pattern

    Notes
    -----
    The window of Beltagy et al. 2020, arXiv:2004.05150.

    Examples
    --------
    >>> from ruvector import patterns
    >>> patterns.to_mask(patterns.local(2), 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 1],
           [0, 1, 1]])
    """
    half = _whole(window_size, "window_size") // 2
    return _Band(half, half)


def sliding(window_size=256):
    """The last `window_size` keys up to the query: ``p - window_size < j <= p``.

    Parameters
    ----------
    window_size : int, default 256

    Returns
    -------
    Pattern

    Notes
    -----
    The window of Jiang et al. 2023, arXiv:2310.06825.

    Examples
    --------
    >>> from ruvector import patterns
    >>> patterns.to_mask(patterns.sliding(2), 3).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [0, 1, 1]])
    """
    return _Band(_whole(window_size, "window_size") - 1, 0)


def strided(stride=None, *, bidirectional=False):
    """The last `stride` keys, and every `stride`-th key before: ``p - j < stride`` or ``(p - j) % stride == 0``, ``j <= p``.

    Parameters
    ----------
    stride : int, optional
        From 1 to 2**40; the square root of the number of keys, rounded, when None.
    bidirectional : bool, default False
        Keys behind the query in the same way: ``abs(p - j) < stride`` or a multiple of it.

    Returns
    -------
    Pattern

    Notes
    -----
    O(n sqrt(n)) keys in all with ``stride = sqrt(n)``. From Child et al. 2019, arXiv:1904.10509.

    Examples
    --------
    >>> from ruvector import patterns
    >>> patterns.to_mask(patterns.strided(2), 5)[4].astype(int)
    array([1, 0, 1, 1, 1])
    """
    return _Strided(_optional(stride, "stride"), flag(bidirectional, "bidirectional"))


def fixed(stride=None, summary=1, *, bidirectional=False):
    """The query's own block of `stride` keys, and the last `summary` keys of every block; ``j <= p``.

    Parameters
    ----------
    stride : int, optional
        Length of the blocks, which start at key 0, from 1 to 2**40; the square root of the number of keys, rounded, when None.
    summary : int, default 1
        At most the stride.
    bidirectional : bool, default False
        Keys behind the query too.

    Returns
    -------
    Pattern

    Notes
    -----
    ``j // stride == p // stride`` or ``j % stride >= stride - summary``. From Child et al. 2019, arXiv:1904.10509.

    Examples
    --------
    >>> from ruvector import patterns
    >>> patterns.to_mask(patterns.fixed(2), 5)[4].astype(int)
    array([0, 1, 0, 1, 1])
    """
    stride, summary = _optional(stride, "stride"), _whole(summary, "summary")
    if stride is not None and summary > stride:
        raise ValueError(f"summary must be at most the stride {stride}, got {summary}")
    return _Fixed(stride, summary, flag(bidirectional, "bidirectional"))


def dilated(window_size=64, dilation=2):
    """Keys around the query, `dilation` apart: ``j = p + dilation * t`` with ``abs(t) <= window_size // 2``.

    Parameters
    ----------
    window_size : int, default 64
    dilation : int, default 2
        From 1 to 2**40.

    Returns
    -------
    Pattern

    Notes
    -----
    From Beltagy et al. 2020, arXiv:2004.05150.

    Examples
    --------
    >>> from ruvector import patterns
    >>> patterns.to_mask(patterns.dilated(2, 2), 5)[2].astype(int)
    array([1, 0, 1, 0, 1])
    """
    return _Dilated(_whole(window_size, "window_size"), _step(dilation, "dilation"))


def _token_set(tokens, name="tokens"):
    """A count, or ascending distinct positions."""
    if np.ndim(tokens) == 0:
        return _length(tokens, name)
    array = _coerce.whole_array(tokens, name)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name} must be a count or integers, got dtype {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must be a count or have one axis, got shape {array.shape}")
    if array.size and array.min() < 0:
        raise IndexError(f"{name} must not be negative, got {array.min()}")
    if array.size and array.max() > 2**62:
        raise IndexError(f"{name} must be positions, got {array.max()}")
    return _frozen(np.unique(array.astype(np.int64)))


def global_tokens(tokens=1):
    """Positions that every query sees and whose queries see every key.

    Parameters
    ----------
    tokens : int or array_like of int, default 1
        How many positions from 0 on, or which; an index past the keys is an IndexError when the pattern is used.

    Returns
    -------
    Pattern

    Notes
    -----
    The global attention of Beltagy et al. 2020, arXiv:2004.05150. United with a `local` or `sliding` window it runs in one pass.

    Examples
    --------
    >>> from ruvector import patterns
    >>> patterns.to_mask(patterns.global_tokens([1]), 3).astype(int)
    array([[0, 1, 0],
           [1, 1, 1],
           [0, 1, 0]])
    """
    return _Global(_token_set(tokens))


def longformer(window_size=512, global_tokens=1):
    """A window around the query, united with global tokens.

    Parameters
    ----------
    window_size : int, default 512
        As in `local`.
    global_tokens : int or array_like of int, default 1
        As in `ruvector.patterns.global_tokens`.

    Returns
    -------
    Pattern

    Notes
    -----
    From Beltagy et al. 2020, arXiv:2004.05150.

    Examples
    --------
    >>> from ruvector import patterns
    >>> patterns.density(patterns.longformer(2, 1), 100)
    0.0494
    """
    return _Union(local(window_size), _Global(_token_set(global_tokens, "global_tokens")))


def random_blocks(block_size=64, count=3, *, rng=None):
    """Blocks of keys drawn at random for each block of queries.

    Parameters
    ----------
    block_size : int, default 64
        From 1 to 2**40.
    count : int, default 3
        Distinct key blocks a query block; all where there are fewer.
    rng : numpy.random.Generator or seed, optional
        Source of the seed; 0 when None.

    Returns
    -------
    Pattern

    Notes
    -----
    Query block b, counted by position, takes the `count` key blocks k with the smallest draws ``b * blocks + k`` of SplitMix64
    started at the seed, the same on every machine. The random blocks of Zaheer et al. 2020, arXiv:2007.14062.

    Examples
    --------
    >>> from ruvector import patterns
    >>> patterns.density(patterns.random_blocks(10, 2), 100)
    0.2
    """
    return bigbird(block_size, 0, 0, count, rng=rng)


def bigbird(block_size=64, window_blocks=3, global_blocks=2, random_blocks=3, *, rng=None):
    """Blocks around the query's, the first blocks, and random ones.

    Parameters
    ----------
    block_size : int, default 64
        From 1 to 2**40.
    window_blocks : int, default 3
        Blocks at most ``window_blocks // 2`` away are seen; 0 for none.
    global_blocks : int, default 2
        The first blocks, which see all and are seen by all.
    random_blocks : int, default 3
        Others for each block of queries, drawn as in `ruvector.patterns.random_blocks`.
    rng : numpy.random.Generator or seed, optional

    Returns
    -------
    Pattern

    Notes
    -----
    From Zaheer et al. 2020, arXiv:2007.14062.

    Examples
    --------
    >>> from ruvector import patterns
    >>> patterns.density(patterns.bigbird(10, 3, 1, 1), 100)
    0.53
    """
    counts = (
        _length(x, name)
        for x, name in (
            (window_blocks, "window_blocks"),
            (global_blocks, "global_blocks"),
            (random_blocks, "random_blocks"),
        )
    )
    return _BigBird(_step(block_size, "block_size"), *counts, seed_of(rng, 0))


def axial(height=None, width=None):
    """Keys in the row and in the column of the query, on a grid of positions in C order.

    Parameters
    ----------
    height, width : int, optional
        Both: their product is the number of keys. One: the other follows, the last row may be short. None: rows of the square
        root of the number of keys, rounded up.

    Returns
    -------
    Pattern

    Notes
    -----
    What `ruvector.axial_attention` shows in its mode "joint"; the axes of Ho et al. 2019, arXiv:1912.12180.

    Examples
    --------
    >>> from ruvector import patterns
    >>> patterns.to_mask(patterns.axial(2, 3), 6)[4].astype(int)
    array([0, 1, 0, 1, 1, 1])
    """
    return _Axial(_optional(height, "height"), _optional(width, "width"))


def _boolean(array, name, axes):
    array = _coerce.whole_array(array, name)
    if array.dtype != bool:
        raise TypeError(f"{name} must be boolean, got dtype {array.dtype}")
    if array.ndim not in axes:
        raise ValueError(f"{name} must have {' or '.join(map(str, axes))} axes, got shape {array.shape}")
    return array


def blocks(layout, block_size=128):
    """Whole blocks of queries and keys.

    Parameters
    ----------
    layout : array_like of bool, shape (nQ, nK) or (H, nQ, nK)
        Which key blocks each query block sees, for all heads or each head (the last leading axis).
    block_size : int or (int, int), default 128
        Queries and keys of a block, from 1 to 2**40; blocks start at the first of each, the last may be short.

    Returns
    -------
    Pattern
        Bound to lengths of so many blocks.

    Examples
    --------
    >>> from ruvector import patterns
    >>> patterns.to_mask(patterns.blocks([[True, False], [True, True]], 2), 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [1, 1, 1]])
    """
    layout = _boolean(layout, "layout", (2, 3))
    if 0 in layout.shape:
        raise ValueError(f"layout must have at least one block, got shape {layout.shape}")
    pair = block_size if isinstance(block_size, tuple) else (block_size, block_size)
    if len(pair) != 2:
        raise ValueError(f"block_size must be a number or a pair of them, got {block_size!r}")
    return _Blocks(_frozen(np.array(layout)), *(_step(n, "block_size") for n in pair))


def from_mask(mask):
    """Any pattern, from its boolean matrix.

    Parameters
    ----------
    mask : array_like of bool, shape (L, S)
        True where query i sees key j.

    Returns
    -------
    Pattern
        Bound to (L, S).

    Examples
    --------
    >>> import numpy as np
    >>> from ruvector import patterns
    >>> patterns.density(patterns.from_mask(np.eye(4, dtype=bool)), 4)
    0.25
    """
    return _Mask(_frozen(np.array(_boolean(mask, "mask", (2,)))))


def from_csr(indptr, indices, num_keys):
    """Any pattern, from the keys of each query.

    Parameters
    ----------
    indptr : array_like of int, shape (L + 1,)
        Rises from 0 to the number of indices.
    indices : array_like of int
        The keys of query i are ``indices[indptr[i]:indptr[i + 1]]``, in any order; twice counts once.
    num_keys : int

    Returns
    -------
    Pattern
        Bound to (L, num_keys).

    Raises
    ------
    IndexError
        For an index out of range, naming it.

    Examples
    --------
    >>> from ruvector import patterns
    >>> patterns.to_mask(patterns.from_csr([0, 1, 3], [2, 0, 1], 3), 2, 3).astype(int)
    array([[0, 0, 1],
           [1, 1, 0]])
    """
    starts, indices = _coerce.csr_lists(indptr, indices)
    num_keys = _length(num_keys, "num_keys")
    if num_keys > 2**31 - 1:
        raise ValueError(f"num_keys must be less than 2**31, got {num_keys}")
    _coerce.csr_range(indices, num_keys, "keys")
    starts, indices = starts.astype(np.int64), indices.astype(np.int64)
    row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    cells = np.unique(row * num_keys + indices) if num_keys else row
    counts = np.bincount(cells // max(num_keys, 1), minlength=len(starts) - 1)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return _CSR(_frozen(starts), _frozen((cells % max(num_keys, 1)).astype(np.int32)), num_keys)


def _all(patterns, kind):
    found = [_pattern(p, f"patterns[{i}]") for i, p in enumerate(patterns)]
    if not found:
        raise ValueError("at least one pattern is needed, got none")
    result = found[0]
    for pattern in found[1:]:
        result = kind(result, pattern)
    return result


def union(*patterns):
    """Keys that some of the patterns show.

    Parameters
    ----------
    *patterns : Pattern

    Returns
    -------
    Pattern

    Notes
    -----
    Where one is a window, all windows, the global tokens and the whole blocks that touch neither run as such, and so do blocks or classes
    with global tokens; of the rest keys are gathered. No matrix of pairs is made.

    Examples
    --------
    >>> from ruvector import patterns
    >>> patterns.union(patterns.sliding(2), patterns.global_tokens(1)) == patterns.sliding(2) | patterns.global_tokens(1)
    True
    """
    return _all(patterns, _Union)


def intersection(*patterns):
    """Keys that all of the patterns show.

    Parameters
    ----------
    *patterns : Pattern

    Returns
    -------
    Pattern

    Examples
    --------
    >>> from ruvector import patterns
    >>> patterns.to_mask(patterns.local(2) & patterns.sliding(9), 3).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [0, 1, 1]])
    """
    return _all(patterns, _Intersection)


def _lengths(pattern, length, keys):
    _pattern(pattern)
    length = _length(length, "length")
    keys = length if keys is None else _length(keys, "keys")
    pattern._fit(length, keys)
    return length, keys


def to_mask(pattern, length, keys=None):
    """The boolean matrix of a pattern.

    Parameters
    ----------
    pattern : Pattern
    length : int
        Queries.
    keys : int, optional
        As many as queries when None.

    Returns
    -------
    ndarray of bool, shape (length, keys), or (H, length, keys) for `blocks` of each head

    Examples
    --------
    >>> from ruvector import patterns
    >>> patterns.to_mask(patterns.sliding(2), 1, 3)
    array([[False,  True,  True]])
    """
    length, keys = _lengths(pattern, length, keys)
    return pattern._see(np.arange(length), length, keys)


def density(pattern, length, keys=None):
    """The share of pairs that a pattern shows.

    Parameters
    ----------
    pattern : Pattern
    length : int
        Queries.
    keys : int, optional
        As many as queries when None.

    Returns
    -------
    float
        Between 0 and 1; 0 where there are no pairs.

    Notes
    -----
    Counted from the runs of keys that each query sees, without a matrix.

    Examples
    --------
    >>> from ruvector import patterns
    >>> patterns.density(patterns.sliding(1), 10)
    0.1
    """
    length, keys = _lengths(pattern, length, keys)
    lists, seen = pattern._lists(), 0
    for head in range(lists):
        show = functools.partial(_merged_runs, pattern, length, keys, head)
        seen += sum(int((last - first).sum()) for _, (first, last) in _runs.pieces(show, length, keys))
    return seen / (lists * length * keys) if length and keys else 0.0


def _merged_runs(pattern, length, keys, head, rows):
    return _runs.merged(pattern._runs(rows, length, keys, head))
