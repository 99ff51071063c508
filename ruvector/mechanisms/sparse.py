"""Attention over patterns: the types sparse, dilated, longformer, bigbird and block_sparse, and windows of a sequence."""

from __future__ import annotations

import math

import numpy as np

from ruvector import _coerce, patterns
from ruvector import _lowering as low
from ruvector._options import flag, number
from ruvector._registry import AttentionRecord, AttentionType, Parameter, add_type, get_attention
from ruvector._scores import attention_score
from ruvector._docstrings import documented


def hide(seen, mask):
    """A boolean matrix as a mask, with that of the call."""
    if mask is None:
        return seen
    if mask.dtype == bool:
        return mask & seen
    return np.where(seen, mask, np.array(-np.inf, mask.dtype))


def _check_heads(pattern, lead):
    lists = pattern._lists()
    if lists != 1 and (not lead or lead[-1] != lists):
        raise ValueError(f"the layout is for {lists} heads, the last of the leading axes {lead}")


def checked(query, key, value, mask):
    """The query and the mask with an axis of queries, the leading axes, and whether there was but one query."""
    single = query.ndim == 1
    if query.ndim < 1 or key.ndim < 2 or value.ndim < 2:
        _coerce.refuse_axes(query, key, value)
    if single:
        query = query[None]
    length, keys = query.shape[-2], key.shape[-2]
    if query.shape[-1] != key.shape[-1] or query.shape[-1] < 1 or value.shape[-2] != keys:
        _coerce.refuse_shapes(query, key, value, False, False)
    try:
        lead = np.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    except ValueError:
        _coerce.refuse_shapes(query, key, value, False, False)
    if mask is not None:
        mask = _coerce.fit_mask(mask, lead, length, keys, single)
    return query, mask, lead, single


def checked_pair(query, keys, mask):
    """The same where there are no values."""
    if query.ndim and keys.ndim > 1:
        _coerce._broadcast((query.shape[:-2], keys.shape[:-2]), f"query {query.shape}, keys {keys.shape}")
    return checked(query, keys, keys, mask)


def attend(pattern, query, key, value, mask, causal, scale, dropout, training, rng):
    """Attention over the keys that a pattern shows."""
    query, mask, lead, single = checked(query, key, value, mask)
    _check_heads(pattern, lead)
    length, keys = query.shape[-2], key.shape[-2]
    if dropout > 0 and training:
        pattern._fit(length, keys)
        call = get_attention("scaled_dot", causal=causal, scale=scale, dropout=dropout)
        result = call(
            query, key, value, mask=hide(patterns.to_mask(pattern, length, keys), mask), training=True, rng=rng
        )
    else:
        plan = pattern._plan(length, keys, causal, mask is not None)
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        call = low.Call(query, key, value, mask, scale)
        result = low.attend(plan, call, query.dtype, (*lead, length, value.shape[-1]))
    return result[..., 0, :] if single else result


def weights(pattern, query, keys, mask, causal, scale):
    """The weights (..., L, S) of attention over the keys that a pattern shows."""
    query, mask, lead, single = checked_pair(query, keys, mask)
    _check_heads(pattern, lead)
    seen = hide(patterns.to_mask(pattern, query.shape[-2], keys.shape[-2]), mask)
    result = get_attention("scaled_dot", causal=causal, scale=scale)._weights(query, keys, seen)
    return result[..., 0, :] if single else result


def one_head(*, scale, **own):
    """What `products_of` returns for types that differ from scaled_dot in the pattern alone."""
    return AttentionType("scaled_dot", scale=scale)


def _type(build):
    """What `add_type` asks of a type whose own parameters make a pattern."""

    def run(query, key, value, *, mask, causal, scale, dropout, training, rng, **own):
        return attend(build(**own), query, key, value, mask, causal, scale, dropout, training, rng)

    def score(query, key, *, scale, **own):
        return attention_score(query, key, scale=scale)

    def shares(query, keys, mask, *, causal, scale, **own):
        return weights(build(**own), query, keys, mask, causal, scale)

    def fits(width, /, **own):
        build(**own)

    return {"fn": run, "score": score, "products": one_head, "weights": shares, "fits": fits}


def _sparse(pattern, stride, summary, bidirectional):
    if isinstance(pattern, patterns.Pattern):
        given = {"stride": stride is not None, "summary": summary is not None, "bidirectional": bidirectional}
        unused = [name for name, value in given.items() if value]
        if unused:
            raise ValueError(f"a Pattern has its own form; {', '.join(unused)} go with 'strided' and 'fixed'")
        return pattern
    if pattern == "fixed":
        return patterns.fixed(stride, 1 if summary is None else summary, bidirectional=bidirectional)
    if summary is not None:
        raise ValueError(f"summary goes with the pattern 'fixed', not {pattern!r}")
    return patterns.strided(stride, bidirectional=bidirectional)


def _bigbird(block_size, window_blocks, global_blocks, random_blocks, seed):
    return patterns._BigBird(
        patterns._step(block_size, "block_size"), window_blocks, global_blocks, random_blocks, seed
    )


def _block_sparse(layout, block_size):
    return patterns.bigbird(block_size, 3, 0, 0) if layout is None else patterns.blocks(layout, block_size)


@documented
def sparse_attention(
    query,
    key,
    value,
    pattern="strided",
    *,
    stride=None,
    summary=None,
    bidirectional=False,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Softmax attention over the keys that a pattern shows, by default the strided one of the Sparse Transformer.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    pattern : {"strided", "fixed"} or Pattern, default "strided"
        One of Child et al., or any pattern of `ruvector.patterns`.
    stride : int, optional
        Of "strided" and "fixed", at least 1: the square root of S, rounded, when None.
    summary : int, optional
        Of "fixed", at least 1: the last keys of each block of `stride` that all later queries see; 1 when None.
    bidirectional : bool, default False
        "strided" and "fixed" show no later key, as published; with True, keys on both sides.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for a pattern that is bound to other lengths.
    IndexError
        For positions of a pattern past the keys.

    Notes
    -----
    ``softmax(scale * q . k)`` over ``j <= p`` with ``p - j < stride`` or ``(p - j) % stride == 0`` (strided), ``j // stride ==
    p // stride`` or ``j % stride >= stride - summary`` (fixed), where query i stands at ``p = i + (S - L)`` [1]_.

    ``2 (d + dv)`` operations for each pair that the pattern shows: O(n sqrt(n)) in all with the stride's default. Windows, block
    layouts and residue classes run in the tiled kernel, other patterns gather their keys; states over disjoint keys are merged. The
    form is found once for a Pattern and lengths, in time and memory of the pairs that are gathered. Of a union with a window, what the
    window, global tokens and whole blocks show runs as such: BigBird and Longformer may be put together by hand.
    With dropout, the pattern becomes a mask of O(L S) bytes. Error, hidden positions and rows that see nothing as in
    `scaled_dot_product_attention`; merging adds a rounding.

    References
    ----------
    .. [1] Child et al., Generating Long Sequences with Sparse Transformers, arXiv:1904.10509

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x = np.random.default_rng(0).standard_normal((100, 8))
    >>> ruvector.sparse_attention(x, x, x, stride=10).shape
    (100, 8)
    >>> pattern = ruvector.patterns.sliding(16) | ruvector.patterns.global_tokens(2)
    >>> ruvector.sparse_attention(x, x, x, pattern).shape
    (100, 8)
    """
    options = {"pattern": pattern, "stride": stride, "summary": summary, "bidirectional": bidirectional}
    call = get_attention("sparse", causal=causal, scale=scale, dropout=dropout, **options)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@documented
def dilated_attention(
    query,
    key,
    value,
    window_size=64,
    dilation=2,
    *,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Attention over a window with gaps.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    window_size : int, default 64
        At least 1: query i of L at position ``p = i + (S - L)`` sees keys ``p + dilation * t`` with ``abs(t) <= window_size // 2``.
    dilation : int, default 2
        At least 1, which is `local_attention`.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`.

    Notes
    -----
    ``softmax(scale * q . k) v`` over those keys.

    O(L window_size (d + dv)): a window among the positions of each residue modulo the dilation, read where they lie. From
    Beltagy et al. 2020, arXiv:2004.05150.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x = np.eye(5)
    >>> ruvector.dilated_attention(x, 0 * x, x, 2, 2)[2].round(3)
    array([0.333, 0.   , 0.333, 0.   , 0.333])
    """
    call = get_attention(
        "dilated", window_size=window_size, dilation=dilation, causal=causal, scale=scale, dropout=dropout
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@documented
def longformer_attention(
    query,
    key,
    value,
    window_size=512,
    global_tokens=1,
    *,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Attention over a window, and over global tokens that see and are seen by all.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    window_size : int, default 512
        At least 1: query i of L at position ``p = i + (S - L)`` sees keys with ``abs(p - j) <= window_size // 2``.
    global_tokens : int or array_like of int, default 1
        How many positions from 0 on, or which: every query sees them, and the queries there see every key.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`.
    IndexError
        For a global token past the keys.

    Notes
    -----
    ``softmax(scale * q . k) v`` over those keys.

    O(L (window_size + g) (d + dv)) for g global tokens, in one pass, and the g rows that see everything. From Beltagy et al. 2020,
    arXiv:2004.05150, without projections of its own for global tokens.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x = np.eye(5)
    >>> ruvector.longformer_attention(x, 0 * x, x, 2)[3].round(3)
    array([0.25, 0.  , 0.25, 0.25, 0.25])
    """
    call = get_attention(
        "longformer", window_size=window_size, global_tokens=global_tokens, causal=causal, scale=scale, dropout=dropout
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@documented
def bigbird_attention(
    query,
    key,
    value,
    block_size=64,
    window_blocks=3,
    global_blocks=2,
    random_blocks=3,
    *,
    seed=0,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Attention over blocks: a window of them, the first ones, and random ones.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    block_size : int, default 64
        Positions of a block, at least 1.
    window_blocks : int, default 3
        Blocks at most ``window_blocks // 2`` away from the query's; 0 for none.
    global_blocks : int, default 2
        The first blocks, 0 or more: seen by all, and their queries see all.
    random_blocks : int, default 3
        Others for each block of queries, 0 or more.
    seed : int, default 0
        0 or more: of the random blocks, which are the same on every machine: see `ruvector.patterns.random_blocks`.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`.

    Notes
    -----
    ``softmax(scale * q . k) v`` over those keys.

    O(L block_size (window_blocks + global_blocks + random_blocks) (d + dv)); blocks that are not seen cost nothing. Where S - L is no
    multiple of block_size, the first block of queries is short. With `causal`, random blocks behind the query fall away. From Zaheer et al. 2020, arXiv:2007.14062.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x = np.random.default_rng(0).standard_normal((300, 8))
    >>> ruvector.bigbird_attention(x, x, x, 16).shape
    (300, 8)
    """
    options = {"window_blocks": window_blocks, "global_blocks": global_blocks, "random_blocks": random_blocks}
    call = get_attention(
        "bigbird", block_size=block_size, seed=seed, causal=causal, scale=scale, dropout=dropout, **options
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@documented
def block_sparse_attention(
    query,
    key,
    value,
    layout=None,
    block_size=128,
    *,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Attention over the blocks of a layout.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    layout : array_like of bool, shape (nQ, nK) or (H, nQ, nK), optional
        Which blocks of keys each block of queries sees, for all or for each index of the last leading axis; blocks start at the first
        query and key. When None, each block of positions sees itself and its neighbours.
    block_size : int, default 128
        Queries, and keys, of a block, at least 1; the last may be short.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for a layout of other numbers of blocks or heads.

    Notes
    -----
    ``softmax(scale * q . k) v`` over those keys.

    ``2 (d + dv)`` operations for each pair in a visible block; others cost nothing. The block layouts of Child et al. 2019,
    arXiv:1904.10509.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x = np.eye(4)
    >>> ruvector.block_sparse_attention(x, 0 * x, x, [[True, False], [True, True]], 2)[[0, 2]]
    array([[0.5 , 0.5 , 0.  , 0.  ],
           [0.25, 0.25, 0.25, 0.25]])
    """
    call = get_attention(
        "block_sparse", layout=layout, block_size=block_size, causal=causal, scale=scale, dropout=dropout
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


def sliding_attention(embeddings, window_size=256, stride=128, *, causal=False, scale=None):
    """Self-attention inside windows that slide over a sequence, and the sequence merged from them.

    Parameters
    ----------
    embeddings : array_like, shape (..., n, d)
    window_size : int, default 256
    stride : int, default 128
        From the start of a window to that of the next, at most the window size.
    causal : bool, default False
        Inside each window, no position sees a later one.
    scale : float, optional
        ``1 / sqrt(d)`` when None.

    Returns
    -------
    windows : list of ndarray, shape (..., length, d)
        What each window's positions get; the last window may be shorter.
    starts : ndarray of int64
        Windows start at 0, stride, 2 stride ... until one reaches the end.
    merged : ndarray, shape (..., n, d)
        The mean over the windows that cover a position.

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for a stride above the window size, which would leave gaps.

    Notes
    -----
    ``4 n window_size^2 / stride d`` operations. `sliding_window_attention` is the other meaning of a sliding window, in which each
    query has its own.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> windows, starts, merged = ruvector.sliding_attention(np.random.default_rng(0).random((1000, 4)))
    >>> starts, windows[-1].shape, merged.shape
    (array([  0, 128, 256, 384, 512, 640, 768]), (232, 4), (1000, 4))
    """
    x = _coerce.array(embeddings, "embeddings")
    if x.ndim < 2:
        raise ValueError(f"embeddings must have shape (..., n, d), got {x.shape}")
    x = _coerce.plain(x, x.dtype.newbyteorder("="))
    size, stride = number(window_size, "window_size", whole=True), number(stride, "stride", whole=True)
    if size < 1:
        raise ValueError(f"window_size must be at least 1, got {size}")
    if not 1 <= stride <= size:
        raise ValueError(f"stride must be between 1 and window_size {size}, got {stride}")
    call = get_attention("self", causal=causal, scale=scale)
    length = x.shape[-2]
    count = 0 if length == 0 else 1 + max(0, -(-(length - size) // stride))
    starts = np.arange(count, dtype=np.int64) * stride
    whole = count if length and starts[-1] + size <= length else max(count - 1, 0)
    windows = []
    if whole:
        view = np.lib.stride_tricks.sliding_window_view(x, size, -2)[..., : (whole - 1) * stride + 1 : stride, :, :]
        view = np.moveaxis(view, -1, -2)
        outputs = call(view, view, view)
        windows = [outputs[..., i, :, :] for i in range(whole)]
    if whole < count:
        last = x[..., starts[-1] :, :]
        windows.append(call(last, last, last))
    total, cover = np.zeros(x.shape, np.float64), np.zeros((length, 1))
    for start, window in zip(starts, windows):
        total[..., start : start + size, :] += window
        cover[start : start + size] += 1
    return windows, starts, (total / np.maximum(cover, 1)).astype(x.dtype)


def _register():
    window = Parameter("window_size", "int", 64, 1, None, "keys of the window, half of them on either side")
    add_type(
        AttentionRecord(
            "sparse",
            ("sparse_transformer",),
            "O(n\u221an)",
            "Ultra-long sequences (>16K)",
            "pattern",
            (
                Parameter("pattern", "pattern", "strided", None, None, "'strided', 'fixed' or any Pattern"),
                Parameter(
                    "stride",
                    "int",
                    None,
                    1,
                    None,
                    "of strided and fixed; the rounded square root of the keys when None",
                ),
                Parameter(
                    "summary", "int", None, 1, None, "of fixed: last keys of each block that all see; 1 when None"
                ),
                Parameter("bidirectional", "bool", False, None, None, "strided and fixed: keys behind the query too"),
            ),
            "Child et al. 2019, Generating Long Sequences with Sparse Transformers, arXiv:1904.10509",
        ),
        **_type(_sparse),
    )
    add_type(
        AttentionRecord(
            "dilated",
            ("dilated_window",),
            "O(n*w)",
            "Long reach at the cost of a window",
            "pattern",
            (window, Parameter("dilation", "int", 2, 1, None, "positions from one key of the window to the next")),
            "Beltagy et al. 2020, Longformer, arXiv:2004.05150",
        ),
        **_type(patterns.dilated),
    )
    add_type(
        AttentionRecord(
            "longformer",
            ("local_global",),
            "O(n*w)",
            "Long documents with summary tokens",
            "pattern",
            (
                Parameter("window_size", "int", 512, 1, None, "keys at most window_size // 2 positions away are seen"),
                Parameter(
                    "global_tokens",
                    "tokens",
                    1,
                    0,
                    None,
                    "how many positions from 0 on, or which, see all and are seen",
                ),
            ),
            "Beltagy et al. 2020, Longformer, arXiv:2004.05150",
        ),
        **_type(patterns.longformer),
    )
    add_type(
        AttentionRecord(
            "bigbird",
            ("big_bird",),
            "O(n*w)",
            "Long documents, any two positions a few steps apart",
            "pattern",
            (
                Parameter("block_size", "int", 64, 1, None, "positions of a block"),
                Parameter("window_blocks", "int", 3, 0, None, "blocks of the window, half of them on either side"),
                Parameter("global_blocks", "int", 2, 0, None, "first blocks, which see all and are seen by all"),
                Parameter("random_blocks", "int", 3, 0, None, "other blocks of keys for each block of queries"),
                Parameter("seed", "int", 0, 0, 2**63 - 1, "of the random blocks"),
            ),
            "Zaheer et al. 2020, Big Bird, arXiv:2007.14062",
        ),
        **_type(_bigbird),
    )
    add_type(
        AttentionRecord(
            "block_sparse",
            ("blocksparse",),
            "O(n*k)",
            "Layouts known beforehand, at the speed of dense blocks",
            "pattern",
            (
                Parameter("layout", "layout", None, None, None, "blocks (nQ, nK) or (H, nQ, nK); neighbours when None"),
                Parameter("block_size", "int", 128, 1, None, "queries, and keys, of a block"),
            ),
            "Child et al. 2019, Generating Long Sequences with Sparse Transformers, arXiv:1904.10509",
        ),
        **_type(_block_sparse),
    )


_register()
