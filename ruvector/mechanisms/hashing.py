"""Attention over keys in the bucket of the query: reformer, and hash_based, whose weights are chances to share one."""

from __future__ import annotations

import math

import numpy as np

from ruvector import _coerce, _primitives
from ruvector._states import merge_states, partial_attention
from ruvector._docstrings import documented
from ruvector._registry import AttentionRecord, Parameter, add_type, get_attention
from ruvector.mechanisms import _rows

# Logit of the key at the query's own position, so low that only a query which sees no other key sees it.
SELF = -1e5


def _buckets(x, directions):
    """argmax of [x R; -x R] for each row: (N, L)."""
    out = np.zeros(x.shape[:2], np.int64)
    if len(directions) == 0:
        return out
    half = len(directions)
    for n in range(len(x)):
        for rows in _rows.steps(x.shape[1], half):
            products = x[n, rows] @ directions.T
            most, least = products.argmax(-1), products.argmin(-1)
            at = np.arange(len(products))
            out[n, rows] = np.where(products[at, most] >= -products[at, least], most, least + half)
    return out


def _round(bucket, count, chunk):
    """Positions in the order of buckets, and for each its cell, a bucket's part of a chunk, and whether the cell before
    that is the same bucket's."""
    order, _ = _rows.grouped(bucket, count)
    sorted_bucket = np.take_along_axis(bucket, order, -1)
    block = np.arange(bucket.shape[1]) // chunk
    same = sorted_bucket[:, 1:] == sorted_bucket[:, :-1]
    new = np.pad(~same | (block[1:] != block[:-1]), ((0, 0), (1, 0)))
    # cells are from 2 on: 0 is no position's
    kind = np.uint16 if count + len(block) // chunk < 65000 else np.uint32
    cells = np.cumsum(new, -1, dtype=kind) + kind(2)
    # a cell reaches back where it begins a chunk inside a bucket
    begins = np.maximum.accumulate(np.where(new, np.arange(bucket.shape[1]), 0), -1)
    reach = np.take_along_axis(new & np.pad(same, ((0, 0), (1, 0))), begins, -1)
    cell, back = np.empty_like(cells), np.empty_like(cells)
    np.put_along_axis(cell, order, cells, -1)
    np.put_along_axis(back, order, reach.astype(kind), -1)
    return order, cell, back


def _in_chunks(x, chunk):
    """(N, chunk + n) as chunks behind the chunk before them, a view: (N, C, 2 chunk)."""
    step, *rest = x.strides[1:]
    shape = (len(x), x.shape[1] // chunk - 1, 2 * chunk, *x.shape[2:])
    return np.lib.stride_tricks.as_strided(x, shape, (x.strides[0], chunk * step, step, *rest), writeable=False)


def _attend_in_chunks(x, unit, v, mine, others, chunk, causal, scale):
    """The state of each position over the keys that the round `mine` shows, less in each logit the logarithm of the
    number of rounds that show the pair."""
    order, keys = mine[0], x.shape[1]
    places = np.pad(order, ((0, 0), (chunk, -keys % chunk)))
    unit, v = (_in_chunks(_rows.take(a, places), chunk) for a in (unit, v))
    columns = _in_chunks(places, chunk)
    x = _rows.take(x, columns[:, :, chunk:])
    cells, reach = zip(*((_rows.take(a, places), _rows.take(b, columns[:, :, chunk:])) for _, a, b in (mine, *others)))
    # what fills up has a cell of its own
    cells[0][:, :chunk] = cells[0][:, chunk + keys :] = 0
    cells = [_in_chunks(cell, chunk) for cell in cells]

    def shown(r, some):
        return cells[r][:, some, chunk:, None] - cells[r][:, some, None] <= reach[r][:, some, :, None]

    output, lse = np.empty((*x.shape[:3], v.shape[-1]), x.dtype), np.empty(x.shape[:3])
    i = np.arange(chunk)
    for some in _rows.steps(columns.shape[1], 2 * len(x) * chunk * chunk):
        seen = shown(0, some)
        if causal:
            seen &= columns[:, some, None] <= columns[:, some, chunk:, None]
        count = seen.astype(np.uint8)
        for r in range(1, len(cells)):
            count += shown(r, some)
        count *= seen
        # -log of counts, and -inf for 0
        bias = np.log(count, dtype=x.dtype)
        np.copysign(bias, -1, out=bias)
        bias[:, :, i, chunk + i] = SELF
        state = partial_attention(x[:, some], unit[:, some], v[:, some], bias, scale=scale)
        output[:, some], lse[:, some] = state.output, state.lse
    back = np.empty_like(order)
    np.put_along_axis(back, order, np.broadcast_to(np.arange(keys), order.shape), -1)
    return (
        _rows.take(output.reshape(len(x), -1, v.shape[-1]), back),
        np.take_along_axis(lse.reshape(len(x), -1), back, -1),
    )


def _reformer(query, key, value, *, mask, causal, scale, dropout, training, rng, num_hashes, bucket_size, num_buckets):
    call = _rows.Rows(query, key, value, mask, "reformer")
    factor, own = _rows.scale_of(scale, call.query.shape[-1]), _rows.seed(rng)
    if num_buckets is not None and num_buckets > 1 and num_buckets % 2:
        raise ValueError(f"num_buckets must be 1 or even, got {num_buckets}")
    if call.query.shape != call.key.shape:
        raise ValueError(
            f"attention type 'reformer' has one array for queries and keys, got {query.shape} and {key.shape}"
        )

    def run(q, k, v, places):
        x, keys = q[:, places], len(places)
        if not np.array_equal(x, k, equal_nan=True):
            raise ValueError("attention type 'reformer' has one array for queries and keys: key must be equal to query")
        chunk = min(bucket_size, keys)
        buckets = num_buckets or (1 if chunk == keys else 2 * -(-keys // chunk))
        unit, half = _rows.unit(x), buckets // 2
        directions = _rows.normal(own, num_hashes * max(half, 1), x.shape[-1], x.dtype)
        rounds = [_round(_buckets(x, directions[r * half : (r + 1) * half]), buckets, chunk) for r in range(num_hashes)]
        with np.errstate(divide="ignore"):
            states = [
                _attend_in_chunks(x, unit, v, mine, rounds[:r] + rounds[r + 1 :], chunk, causal, factor)
                for r, mine in enumerate(rounds)
            ]
        out = np.zeros((*q.shape[:2], v.shape[-1]), x.dtype)
        out[:, places] = merge_states(states).output
        return out

    return call.apply(run)


def _codes(x, planes):
    """Which of tau hyperplanes of each hash (m, tau, d) a row is above, as bits: (N, m, L)."""
    hashes, tau, width = planes.shape
    out = np.empty((len(x), hashes, x.shape[1]), np.int64)
    # sums of different powers of 2 up to 2**19, exact in any dtype
    powers = 2.0 ** np.arange(tau, dtype=x.dtype)
    for n in range(len(x)):
        for rows in _rows.steps(x.shape[1], hashes * tau):
            above = (x[n, rows] @ planes.reshape(-1, width).T > 0).astype(x.dtype)
            out[n, :, rows] = (above.reshape(-1, hashes, tau) @ powers).T
    return out


def _yoso(query, key, value, *, mask, causal, scale, dropout, training, rng, num_hashes, tau, normalize):
    call = _rows.Rows(query, key, value, mask, "hash_based")
    if causal and num_hashes is not None:
        raise ValueError("causal goes with the expectation, num_hashes=None: buckets hold keys of all positions")
    own, offset = _rows.seed(rng), call.key.shape[1] - call.query.shape[1]

    def run(q, k, v, places):
        q, k = _rows.unit(q), _rows.unit(k)
        with np.errstate(all="ignore"):
            out = _expected(q, k, v, places) if num_hashes is None else _sampled(q, k, v)
            return _rows.unit(out) if normalize else out

    def _expected(q, k, v, places):
        out = np.empty((*q.shape[:2], v.shape[-1]), q.dtype)
        for n in range(len(q)):
            for rows in _rows.steps(q.shape[1], k.shape[1]):
                weights = np.arccos(np.clip(q[n, rows] @ k[n].T, -1, 1))
                weights *= -1 / math.pi
                weights += 1
                weights **= tau
                if causal:
                    weights[places > np.arange(q.shape[1])[rows, None] + offset] = 0
                out[n, rows] = weights @ v[n]
        return out

    def _sampled(q, k, v):
        out = np.zeros((*q.shape[:2], v.shape[-1]), q.dtype)
        planes = _rows.normal(own, num_hashes * tau, q.shape[-1], q.dtype).reshape(num_hashes, tau, -1)
        # as many tables at a time as a cache holds
        step = max(1, min(num_hashes, (1 << 14) >> tau))
        for first in range(0, num_hashes, step):
            some = planes[first : first + step]
            to, code = _codes(q, some), _codes(k, some)
            slots = len(some) << tau
            order, counts = _rows.grouped(code.reshape(-1, code.shape[-1]), 1 << tau)
            counts = counts.reshape(len(q), slots)
            table = _rows.means(v, order, counts) * counts[..., None].astype(v.dtype)
            to += (np.arange(len(some)) << tau)[:, None]
            every = np.full(q.shape[:2], len(some))
            out += len(some) * _rows.means(table, np.swapaxes(to, 1, 2), every)
        return out / num_hashes

    return call.apply(run)


def _score(query, key, *, scale=None, num_hashes, tau, normalize):
    query, key = (_rows.unit(x.astype(np.float64)) for x in (query, key))
    return (1 - np.arccos(np.clip((query * key).sum(-1), -1, 1)) / math.pi) ** tau


def _table(query, key, *, scale=None, num_hashes, tau, normalize):
    cosines = _primitives.scores(*(_rows.unit(x.astype(np.float64)) for x in (query, key)), 1.0)
    return (1 - np.arccos(np.clip(cosines, -1, 1)) / math.pi) ** tau


def _chances(query, keys, mask, *, causal, scale=None, num_hashes, tau, normalize):
    """What the expectation mixes values with, over its sum."""
    eye = np.eye(keys.shape[-2] if keys.ndim > 1 else 1, dtype=query.dtype)
    call = get_attention("hash_based", tau=tau, normalize=False, causal=causal)
    chances = call(query, keys, eye, mask=mask).astype(_coerce.computed_in(query.dtype))
    total = chances.sum(-1, keepdims=True)
    return (chances / np.where(total == 0, 1, total)).astype(query.dtype)


def reformer_attention(
    query,
    key,
    value,
    num_hashes=4,
    bucket_size=64,
    *,
    num_buckets=None,
    mask=None,
    causal=False,
    scale=None,
    rng=None,
    out=None,
):
    """Attention over the keys whose hash is the query's, in chunks of the order that hashes give.

    Parameters
    ----------
    query, key : array_like, shape (..., S, d)
        One array for both: key must be equal to query.
    value : array_like, shape (..., S, dv)
    num_hashes : int, default 4
        Rounds of hashing, from 1 to 255.
    bucket_size : int, default 64
        Positions of a chunk, at least 1.
    num_buckets : int, optional
        Hashes of a round, 1 or an even number of at least 2; twice the number of chunks when None, or 1 for a single
        chunk.
    {common}

    Returns
    -------
    ndarray, shape (..., S, dv)
        0 at hidden positions.

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError where key differs from query.

    Notes
    -----
    ``softmax_j(scale * q_i . q_j / |q_j|)`` over the keys j that any round shows to query i; a query sees itself only
    where it sees no other. A round hashes x to the largest of ``[x R; -x R]``, R normal, sorts positions by hash and
    then position, and shows those of the same hash in the same chunk of the order and the one before; before the first
    chunk there is none, not the last one. Rounds are merged by their log-sum-exps; a pair that c rounds show has its
    logit less ``log c`` in each, so that it counts once. The published `scale` is 1.

    With `causal` no later value has a part in a result, but the hashes of later positions move the borders of chunks,
    as published.

    ``4 r S b (d + dv)`` operations for r rounds and chunks of b, ``S n_b r d`` for n_b hashes; O(S r (d + dv)) numbers
    are held. From Kitaev et al. 2020, arXiv:2001.04451.

    Faster than exact attention from about n = 4096 (4 rounds, chunks of 64, one core of an AMD Zen 5, width 64,
    float32).

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x = np.random.default_rng(0).standard_normal((1000, 16))
    >>> ruvector.reformer_attention(x, x, x[:, :4], causal=True).shape
    (1000, 4)
    """
    options = {"num_hashes": num_hashes, "bucket_size": bucket_size, "num_buckets": num_buckets}
    call = get_attention("reformer", causal=causal, scale=scale, **options)
    return call(query, key, value, mask=mask, rng=rng, out=out)


def hash_based_attention(
    query, key, value, num_hashes=None, *, tau=8, normalize=True, mask=None, causal=False, rng=None, out=None
):
    """Attention with the chance that a query and a key share a bucket of random hyperplanes as weight (YOSO).

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
        Only directions count.
    value : array_like, shape (..., S, dv)
    num_hashes : int, optional
        Hash tables, at least 1, whose mean estimates the sum in time linear in L + S; the sum itself when None.
    tau : int, default 8
        Hyperplanes of a hash, from 1 to 20.
    normalize : bool, default True
        Divide results by their length.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for `causal` with `num_hashes`.

    Notes
    -----
    ``y / |y|`` with ``y_i = sum_j (1 - arccos(q_i . k_j) / pi)**tau v_j`` for queries and keys of length 1. The
    expectation takes ``2 L S (d + dv)`` operations and an arccos for each pair. m hashes take ``2 (L + S) m tau d + (L
    + S) m dv`` and at most 16384 or 2**tau rows of tables; their mean is off by a share that falls as ``1 / sqrt(m)``. From Zeng et al.
    2021, You Only Sample (Almost) Once, arXiv:2111.09714.

    Near a cosine of 1 an arccos multiplies errors: in float32 the weight of a key parallel to the query is off by some
    ``1e-4 tau``, other weights by some units of the last place. Hyperplanes are normal, where the published code
    approximates them by products of Hadamard's matrix and signs; its convolution of the values is left out.

    32 hashes are faster than exact softmax attention from about n = 4096, the expectation at no n tried (one core of an
    AMD Zen 5, width 64, float32).

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> query, key, value = np.random.default_rng(0).standard_normal((3, 100, 8))
    >>> exact = ruvector.hash_based_attention(query, key, value)
    >>> error = [np.abs(ruvector.hash_based_attention(query, key, value, m) - exact).mean() for m in (16, 1024)]
    >>> bool(error[1] < error[0] / 4)
    True
    """
    call = get_attention("hash_based", num_hashes=num_hashes, tau=tau, normalize=normalize, causal=causal)
    return call(query, key, value, mask=mask, rng=rng, out=out)


documented(reformer_attention, _rows.MASK + _rows.CAUSAL + _rows.SCALE + _rows.RNG + _rows.OUT)
documented(hash_based_attention, _rows.MASK + _rows.CAUSAL + _rows.RNG + _rows.OUT)


def _register():
    add_type(
        AttentionRecord(
            "reformer",
            ("lsh",),
            "O(n log n)",
            "Long sequences, queries and keys in one",
            "approximate",
            (
                Parameter("num_hashes", "int", 4, 1, 255, "rounds of hashing"),
                Parameter("bucket_size", "int", 64, 1, None, "positions of a chunk of the sorted sequence"),
                Parameter("num_buckets", "int", None, 1, None, "1 or even; twice the chunks when None"),
            ),
            "Kitaev et al. 2020, Reformer, arXiv:2001.04451",
        ),
        _reformer,
        lacks=("dropout",),
    )
    add_type(
        AttentionRecord(
            "hash_based",
            ("yoso",),
            "O(n\u00b2)",
            "Directions that are alike; O(n*m) with m hashes",
            "approximate",
            (
                Parameter("num_hashes", "int", None, 1, None, "tables that estimate the sum; the sum itself when None"),
                Parameter("tau", "int", 8, 1, 20, "hyperplanes of a hash"),
                Parameter("normalize", "bool", True, None, None, "results are divided by their length"),
            ),
            "Zeng et al. 2021, You Only Sample (Almost) Once, arXiv:2111.09714",
        ),
        _yoso,
        score=_score,
        table=_table,
        share=True,
        weights=_chances,
        lacks=("scale", "dropout"),
    )


_register()
