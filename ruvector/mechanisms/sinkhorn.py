"""Attention whose weights are balanced over the keys as well: sinkhorn."""

from __future__ import annotations

import numpy as np

from ruvector._attention import scaled_dot_product_attention as attend
from ruvector._registry import AttentionRecord, Parameter, add_type, get_attention
from ruvector.functional import attention_score, documented
from ruvector.mechanisms import _rows


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
    d + dv)`` operations, each step being one of `scaled_dot_product_attention` with a bias. It costs more than exact
    attention at every length. After an even number of iterations rows sum to 1 only in the limit. From Sander et al.
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
        weights=_weights,
        lacks=("causal", "dropout"),
    )


_register()
