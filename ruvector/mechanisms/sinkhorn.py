"""Attention with Sinkhorn's iterations: over all weights, sinkhorn, or over blocks that they sort, sparse_sinkhorn."""

from __future__ import annotations

import numpy as np

from ruvector._attention import scaled_dot_product_attention as attend
from ruvector._registry import AttentionRecord, Parameter, add_type, get_attention
from ruvector._scores import attention_score
from ruvector._docstrings import documented
from ruvector.mechanisms import _rows
from ruvector.mechanisms.sparse import one_head


def _lse(query, key, scale, bias):
    """Log-sum-exp of each query's logits with biases (N, keys): values without columns cost nothing."""
    nothing = np.empty((*key.shape[:2], 0), key.dtype)
    bias = bias[:, None, :].astype(key.dtype)
    return attend(query, key, nothing, bias, scale=scale, return_lse=True)[1]


def _sinkhorn(query, key, value, *, mask, causal, scale, dropout, training, rng, iterations):
    call = _rows.Rows(query, key, value, mask, "sinkhorn")
    factor = _rows.scale_of(scale, call.query.shape[-1])

    def run(q, k, v, places):
        # columns of an L x S matrix whose rows sum to 1 sum to L / S
        share = np.log(q.shape[1] / k.shape[1])
        of_keys, of_queries = np.zeros(k.shape[:2]), None
        for _ in range(iterations // 2):
            of_queries = -_lse(q, k, factor, of_keys)
            of_keys = share - _lse(k, q, factor, of_queries)
        bias = of_keys[:, None, :].astype(k.dtype)
        out, lse = attend(q, k, v, bias, scale=factor, return_lse=True)
        if iterations % 2 == 0:
            # the last step was that of the columns: rows keep the sums that it left them
            out = out * np.exp(of_queries + lse)[..., None].astype(out.dtype)
        return out

    return call.apply(run)


def _score(query, key, *, scale, iterations):
    return attention_score(query, key, scale=scale)


def _weights(query, keys, mask, *, causal, scale, iterations):
    eye = np.eye(keys.shape[-2] if keys.ndim > 1 else 1, dtype=query.dtype)
    return get_attention("sinkhorn", iterations=iterations, scale=scale)(query, keys, eye, mask=mask)


def sinkhorn_attention(query, key, value, iterations=5, *, mask=None, scale=None, out=None):
    """Attention with weights that sum to the same over queries for every key, found by Sinkhorn's iterations.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    iterations : int, default 5
        From 1 to 10000: the first, third ... makes rows sum to 1, the others columns to ``L / S``. 1 is softmax
        attention.
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query
        0 where no key is left.

    Raises
    ------
    TypeError, ValueError
        As in `attention`. There is no `causal`: the only triangular matrix that is balanced is the identity.

    Notes
    -----
    ``sum_j exp(scale * q_i . k_j + f_i + g_j) v_j``, where by turns ``f_i = -log sum_j exp(scale * q_i . k_j + g_j)``
    and ``g_j = log(L / S) - log sum_i exp(scale * q_i . k_j + f_i)``. Nothing of size L S is held: ``2 L S (iterations
    d + dv)`` operations, each step being one of `scaled_dot_product_attention` with a bias, so that it is faster than
    exact attention at no n. After an even number of iterations rows sum to 1 only in the limit. From Sander et al.
    2022, Sinkformers, arXiv:2110.11773.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> query, key = np.random.default_rng(0).standard_normal((2, 4, 8))
    >>> weights = ruvector.sinkhorn_attention(query, key, np.eye(4), 101)
    >>> bool(np.allclose(weights.sum(0), 1) and np.allclose(weights.sum(1), 1))
    True
    """
    return get_attention("sinkhorn", iterations=iterations, scale=scale)(query, key, value, mask=mask, out=out)


documented(sinkhorn_attention, _rows.MASK + _rows.SCALE + _rows.OUT)


def _balanced(logits, iterations, causal):
    """Rows and columns of exp(logits) by turns divided by their sums, in logarithms.

    With `causal` a row has the columns before its own, and what it divides a column by is the sum down to itself. Rows
    are last then: divided so, the latest entry of each would be 1 whatever the logits are.
    """
    if causal:
        logits = np.where(np.tri(logits.shape[-1], k=-1, dtype=bool), logits, -np.inf)
    for _ in range(iterations):
        for axis in (-2, -1) if causal else (-1, -2):
            if causal and axis == -2:
                sums = np.logaddexp.accumulate(logits, axis)
            else:
                most = _finite(logits.max(axis, keepdims=True))
                sums = most + np.log(np.exp(logits - most).sum(axis, keepdims=True))
            logits = logits - _finite(sums)
    return np.exp(logits)


def _finite(x):
    return np.where(x == -np.inf, 0, x)


def _sparse(
    query, key, value, *, mask, causal, scale, dropout, training, rng, block_size, iterations, temperature, sort_logits
):
    call = _rows.Rows(query, key, value, mask, "sparse_sinkhorn")
    if call.query.shape != call.key.shape:
        raise ValueError(
            f"sparse_sinkhorn pairs blocks of one sequence: {query.shape} queries and {key.shape} keys differ"
        )
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    factor = _rows.scale_of(scale, call.query.shape[-1])

    def run(q, k, v, places):
        n = len(places)
        blocks = -(-n // block_size)
        room = ((0, 0), (0, blocks * block_size - n), (0, 0))
        x, k, v = (np.pad(a, room).reshape(len(q), blocks, block_size, -1) for a in (q[:, places], k, v))
        if sort_logits is not None and sort_logits.shape != (blocks, blocks):
            raise ValueError(
                f"sort_logits must have shape {(blocks, blocks)}, blocks by blocks, got {sort_logits.shape}"
            )
        sizes = np.minimum(block_size, n - np.arange(blocks) * block_size)[:, None]
        with np.errstate(all="ignore"):
            if sort_logits is None:
                of_queries, of_keys = (a.sum(2, dtype=np.float64) / sizes for a in (x, k))
                if causal:
                    # no query of a block may know the others: its first one and all before it stand for it
                    so_far = np.cumsum(x.reshape(len(x), -1, x.shape[-1]), 1, dtype=np.float64)[:, ::block_size]
                    of_queries = so_far / (1 + block_size * np.arange(blocks))[:, None]
                logits = factor * of_queries @ np.swapaxes(of_keys, 1, 2)
            else:
                logits = sort_logits[None]
            order = _balanced(logits / temperature, iterations, causal).astype(k.dtype)
            pairs = [
                np.concatenate([a, (order @ a.reshape(len(a), blocks, -1)).reshape(len(q), *a.shape[1:])], 2)
                for a in (k, v)
            ]
            there = np.ones((blocks, block_size if causal else 1, 2 * block_size), bool)
            there[-1, :, sizes[-1, 0] : block_size] = False
            if causal:
                there[:, :, :block_size] &= np.tri(block_size, dtype=bool)
                there[0, :, block_size:] = False
            found = attend(x, *pairs, there, scale=factor)
        out = np.zeros((*q.shape[:2], v.shape[-1]), v.dtype)
        out[:, places] = found.reshape(len(q), blocks * block_size, -1)[:, :n]
        return out

    return call.apply(run)


def sparse_sinkhorn_attention(
    query,
    key,
    value,
    block_size=64,
    *,
    iterations=8,
    temperature=0.75,
    sort_logits=None,
    mask=None,
    causal=False,
    scale=None,
    out=None,
):
    """Attention of each block over its own keys and a block that Sinkhorn's iterations sort to it.

    Parameters
    ----------
    query : array_like, shape (..., S, d)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    block_size : int, default 64
        Positions of a block, at least 1; the last one is filled up with rows of zeros.
    iterations : int, default 8
        From 0 to 10000: each divides rows by their sums, then columns.
    temperature : float, default 0.75
        Of the sorting, more than 0: the lower, the closer to a permutation.
    sort_logits : array_like, shape (blocks, blocks), optional
        What a learned sorting network gives; ``scale * mean(q) . mean(k)`` of the blocks when None.
    {common}

    Returns
    -------
    ndarray, shape (..., S, dv)
        0 at hidden positions.

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError where L and S differ.

    Notes
    -----
    ``softmax(scale * Q_b [K_b; K'_b]^T) [V_b; V'_b]`` for each block b, with ``K'_b = sum_c P_bc K_c``, ``V'_b = sum_c
    P_bc V_c`` and P the balanced ``exp(logits / temperature)``. ``(4 S block_size + 2 S**2 / block_size) (d + dv)``
    operations. From Tay et al. 2020, Sparse Sinkhorn Attention, arXiv:2002.11296.

    With `causal` the own keys end at the query, P has the blocks before b alone, and none for the first; a column of P
    is divided by its sum down to row b, rows after columns, and the queries up to the first of block b stand for it, so
    that nothing later has a part in a result. The one P that is balanced then takes the block before, so that few
    iterations leave more choice. Given `sort_logits` are trusted to know nothing later.

    The published sorting network is what `sort_logits` are for. The Gumbel noise that training adds to the logits, and
    SortCut, which keeps the first sorted blocks for all queries, are left out.

    Faster than exact attention from about n = 1024 (blocks of 64, one core of an AMD Zen 5, width 64, float32).

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> query, key, value = np.random.default_rng(0).standard_normal((3, 100, 8))
    >>> ruvector.sparse_sinkhorn_attention(query, key, value, 16).shape
    (100, 8)
    """
    options = {"iterations": iterations, "temperature": temperature, "sort_logits": sort_logits, "scale": scale}
    call = get_attention("sparse_sinkhorn", block_size=block_size, causal=causal, **options)
    return call(query, key, value, mask=mask, out=out)


documented(sparse_sinkhorn_attention, _rows.MASK + _rows.CAUSAL + _rows.SCALE + _rows.OUT)


def _register():
    add_type(
        AttentionRecord(
            "sinkhorn",
            ("sinkformer",),
            "O(n\u00b2)",
            "Keys that are to be seen equally often",
            "approximate",
            (Parameter("iterations", "int", 5, 1, 10000, "rows and columns by turns; 1 is softmax attention"),),
            "Sander et al. 2022, Sinkformers, arXiv:2110.11773",
        ),
        _sinkhorn,
        score=_score,
        products=one_head,
        weights=_weights,
        lacks=("causal", "dropout"),
    )
    add_type(
        AttentionRecord(
            "sparse_sinkhorn",
            (),
            "O(n\u221an)",
            "Long sequences whose blocks belong in pairs",
            "approximate",
            (
                Parameter("block_size", "int", 64, 1, None, "positions of a block"),
                Parameter("iterations", "int", 8, 0, 10000, "divisions of rows and columns by their sums"),
                Parameter("temperature", "float", 0.75, 0, None, "of the sorting; positive"),
                Parameter(
                    "sort_logits", "array", None, None, None, "(blocks, blocks); products of block means when None"
                ),
            ),
            "Tay et al. 2020, Sparse Sinkhorn Attention, arXiv:2002.11296",
        ),
        _sparse,
        lacks=("dropout",),
    )


_register()
