"""Other ways from queries and keys to weights: entmax, sigmoids, cosines, differences, spans, and heads that talk."""

from __future__ import annotations

import math

import numpy as np

from ruvector import _coerce, _primitives
from ruvector._options import flag
from ruvector._primitives import entmax, softmax
from ruvector._random import glorot
from ruvector._registry import AttentionRecord, AttentionType, Parameter, add_type, get_attention
from ruvector._scores import attention_score
from ruvector._docstrings import COMMON_OPTIONS, documented
from ruvector.mechanisms._heads import score_heads
from ruvector.mechanisms.dense import Block, Form, type_of

# Numbers that nobody gave are those of rv_draw_run with this seed and the ones after it.
_SEED = 42


def _products(query, key, *, scale, num_heads=1, **own):
    """Score of the types whose logit is a product."""
    return attention_score(query, key, "multi_head", num_heads=num_heads, scale=scale)


def _plain(*, scale, num_heads=1, **own):
    """What `products_of` returns for them."""
    return AttentionType("multi_head", num_heads=num_heads, scale=scale)


def _entmax(call, alpha):
    return Form(Block.products, lambda logits: entmax(logits, alpha, out=logits))


def _sigmoid(call, bias):
    bias = -math.log(max(call.kv_len, 1)) if bias is None else bias

    def weigh(logits):
        """1 / (1 + exp(-x - bias)), 0 for -inf."""
        np.subtract(logits.dtype.type(-bias), logits, out=logits)
        _primitives.exp(logits, out=logits)
        logits += 1
        return np.reciprocal(logits, out=logits)

    return Form(Block.products, weigh)


def softmax_rows(logits):
    """Softmax in place."""
    return softmax(logits, out=logits)


def _units(x, work):
    """Rows divided by their length; rows of zeros as they are."""
    x = x.astype(work)
    with np.errstate(all="ignore"):
        # a power of two first, so that no square overflows or vanishes
        most = np.abs(x).max(-1, keepdims=True, initial=0)
        x = np.ldexp(x, -np.frexp(np.where(np.isfinite(most), most, 1))[1])
        length = np.sqrt((x * x).sum(-1, keepdims=True))
        return x / np.where(length == 0, 1, length)


def _cosine_pair(query, key):
    work = _coerce.computed_in(query.dtype)
    return _units(query, work), _units(key, work)


def _cosine_type(query, key, value, *, mask, tau, causal, scale, dropout, training, rng):
    core = get_attention("scaled_dot", scale=1 / tau if scale is None else scale, causal=causal, dropout=dropout)
    dtype, (query, key) = value.dtype, _cosine_pair(query, key)
    result = core(query, key, value.astype(query.dtype), mask=mask, training=training, rng=rng)
    with np.errstate(over="ignore"):
        return result.astype(dtype, copy=False)


def _cosine_weights(query, key, mask, *, tau, causal, scale):
    core, dtype = get_attention("scaled_dot", scale=1 / tau if scale is None else scale, causal=causal), query.dtype
    return core._weights(*_cosine_pair(query, key), mask).astype(dtype, copy=False)


def _cosine_score(query, key, *, tau, scale):
    score = attention_score(*_cosine_pair(query, key), "scaled_dot", scale=1 / tau if scale is None else scale)
    return score.astype(query.dtype) if np.ndim(score) else query.dtype.type(score)


def _cosine_table(query, key, *, tau, scale):
    return _primitives.scores(*_cosine_pair(query, key), 1 / tau if scale is None else scale)


def _additive_weights_of(dim, hidden, w_q, w_k, v):
    """The matrices, those that nobody gave drawn."""
    w_q = glorot((dim, hidden), dim + hidden, _SEED) if w_q is None else w_q
    w_k = glorot((dim, hidden), dim + hidden, _SEED + 1) if w_k is None else w_k
    v = glorot((hidden,), hidden + 1, _SEED + 2) if v is None else v
    width = w_q.shape[-1]
    for x, name, shape in ((w_q, "w_q", (dim, width)), (w_k, "w_k", (dim, width)), (v, "v", (width,))):
        if x.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {x.shape}")
    return w_q, w_k, v


def _additive(call, hidden, w_q, w_k, v):
    w_q, w_k, v = (x.astype(call.query.dtype) for x in _additive_weights_of(call.query.shape[-1], hidden, w_q, w_k, v))
    v = v * v.dtype.type(call.scale)
    q, k = (
        np.broadcast_to(_coerce.matmul(x, w), (*call.lead, x.shape[-2], len(v)))
        for x, w in ((call.query, w_q), (call.key, w_k))
    )

    def logits(block):
        of_queries, of_keys = q[block.batch][block.rows], k[block.batch][block.keys]
        with np.errstate(all="ignore"):
            sums = of_queries[:, None] + of_keys
        return _primitives.scores(v[None], _primitives.tanh(sums, out=sums).reshape(-1, len(v)), 1.0).reshape(
            1, *sums.shape[:2]
        )

    return Form(logits, softmax_rows, width=len(v))


def _additive_score(query, key, *, hidden, w_q, w_k, v, scale):
    score_heads(query, key, 1, 1)
    w_q, w_k, v = _additive_weights_of(query.shape[-1], hidden, w_q, w_k, v)
    score = np.tanh(query.astype(float) @ w_q + key.astype(float) @ w_k) @ v * (1.0 if scale is None else scale)
    return score.astype(query.dtype) if np.ndim(score) else query.dtype.type(score)


def _additive_table(query, key, *, hidden, w_q, w_k, v, scale):
    w_q, w_k, v = _additive_weights_of(query.shape[-1], hidden, w_q, w_k, v)
    q, k = (_primitives.scores(x.astype(float), np.ascontiguousarray(w.T), 1.0) for x, w in ((query, w_q), (key, w_k)))
    out = np.empty((len(q), len(k)))
    for one, row in zip(q, out):
        layer = one + k
        _primitives.tanh(layer, out=layer)
        row[...] = _primitives.scores(layer, v[None], 1.0 if scale is None else scale)[:, 0]
    return out


def _differential_type(query, key, value, *, mask, lambda_init, norm, causal, scale, dropout, training, rng):
    if query.shape[-1] % 2 or not query.shape[-1]:
        raise ValueError(f"differential attention takes queries of an even width, got {query.shape}")
    if query.ndim and key.ndim and query.shape[-1] != key.shape[-1]:
        _coerce.refuse_shapes(query, key, value, False, False)
    half = query.shape[-1] // 2
    core = get_attention("scaled_dot", causal=causal, scale=scale, dropout=dropout)
    work, dtype = _coerce.computed_in(query.dtype), query.dtype
    query, key, value = (x.astype(work, copy=False) for x in (query, key, value))
    rng = _coerce.explicit_generator(rng, "dropout") if dropout and training else rng
    first, second = (
        core(query[..., part], key[..., part], value, mask=mask, training=training, rng=rng)
        for part in (slice(None, half), slice(half, None))
    )
    with np.errstate(all="ignore"):
        result = first - work.type(lambda_init) * second
        if norm:
            square = (result * result).mean(-1, keepdims=True) if result.shape[-1] else result
            result = result / np.sqrt(square + work.type(1e-5)) * work.type(1 - lambda_init)
        return result.astype(dtype, copy=False)


def _talking(call, w_logits, w_weights):
    heads = call.num_heads
    for x, name in ((w_logits, "w_logits"), (w_weights, "w_weights")):
        if x is not None and x.shape != (heads, heads):
            raise ValueError(f"{name} must have shape (num_heads, num_heads) = {(heads, heads)}, got {x.shape}")

    def across(x, matrix):
        """Output head b is sum_a x_a matrix[a, b]."""
        if matrix is None:
            return x
        out, term = np.empty_like(x), np.empty_like(x[0])
        with np.errstate(all="ignore"):
            # sums in one order, on this thread: a product of NumPy's beside the core's threads waits for them
            for b, column in enumerate(matrix.T.astype(x.dtype)):
                np.multiply(x[0], column[0], out=out[b])
                for a in range(1, heads):
                    out[b] += np.multiply(x[a], column[a], out=term)
        return out

    return Form(
        lambda block: across(block.products(), w_logits),
        softmax_rows,
        lambda weights: across(weights, w_weights),
        together=True,
    )


def _talking_score(query, key, *, num_heads, w_logits, w_weights, scale):
    """Mean over heads of the mixed logits."""
    score_heads(query, key, num_heads, num_heads)
    width = query.shape[-1] // num_heads
    parts = [x.astype(float).reshape(*x.shape[:-1], num_heads, width) for x in (query, key)]
    score = (parts[0] * parts[1]).sum(-1) * (1 / math.sqrt(width) if scale is None else scale)
    score = (score if w_logits is None else score @ w_logits).mean(-1)
    return score.astype(query.dtype) if np.ndim(score) else query.dtype.type(score)


def _talking_table(query, key, *, num_heads, w_logits, w_weights, scale):
    """The mean of mixed logits is a product of the query with its heads scaled."""
    width = query.shape[-1] // num_heads
    shares = np.full(num_heads, 1 / num_heads) if w_logits is None else w_logits.mean(-1)
    query = query.astype(float).reshape(-1, num_heads, width) * shares[:, None]
    scale = 1 / math.sqrt(width) if scale is None else scale
    return _primitives.scores(query.reshape(len(query), -1), key.astype(float), scale)


_HEADS = """query : array_like, shape (..., L, num_heads * d) or (num_heads * d,)
    key : array_like, shape (..., S, num_heads * d)
    value : array_like, shape (..., S, num_heads * dv)
    num_heads : int, default 8
        From 1 to 1024."""
_PLAIN = """query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)"""
_REST = """Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query; with heads, of num_heads * dv columns
        0 for a query that sees no key.

    Raises
    ------
    TypeError, ValueError
        As in `attention`, and for arrays of another shape."""


def _described(options=COMMON_OPTIONS):
    """Puts arrays, common options and what every one of these types returns into a docstring."""
    return lambda function: documented(function, options, arrays=_PLAIN, heads=_HEADS, rest=_REST)


_ONE = COMMON_OPTIONS.replace("``1 / sqrt(head_dim)`` when None", "1 when None")
_TAU = COMMON_OPTIONS.replace("``1 / sqrt(head_dim)`` when None", "``1 / tau`` when None")


@_described()
def entmax_attention(
    query,
    key,
    value,
    alpha=1.5,
    *,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Attention with entmax in place of softmax: weights of exactly 0 for keys far below the best.

    ``sum_j p_j v_j`` with ``p = entmax(scale * query . key + mask, alpha)``: see `entmax`.

    Parameters
    ----------
    {arrays}
    alpha : float, default 1.5
        From 1, softmax, to 16; 2 is sparsemax.
    {common}

    {rest}

    Notes
    -----
    O(L S (d + dv)) time and O(S) memory in blocks of queries. It is slower than softmax attention at any length: 4 to 8 times
    at 1024 keys and 4 times at 4096 (one head, 64 wide, float32, AMD Zen 5, 2 threads). From Peters et al. 2019 [1]_.

    References
    ----------
    .. [1] Peters, Niculae and Martins, Sparse Sequence-to-Sequence Models, arXiv:1905.05702

    Examples
    --------
    >>> import ruvector
    >>> ruvector.entmax_attention([1.0], [[4.0], [1.0]], [[3.0], [5.0]])
    array([3.])
    """
    call = get_attention("entmax", alpha=alpha, causal=causal, scale=scale, dropout=dropout)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@_described()
def sparsemax_attention(
    query, key, value, *, mask=None, causal=False, scale=None, dropout=0.0, training=False, rng=None, out=None
):
    """Attention with sparsemax in place of softmax.

    ``sum_j p_j v_j`` with ``p = sparsemax(scale * query . key + mask)``: see `sparsemax`.

    Parameters
    ----------
    {arrays}
    {common}

    {rest}

    Notes
    -----
    O(L S (d + dv)) time and O(S) memory in blocks of queries. It is slower than softmax attention at any length: 4 to 8 times
    at 1024 keys and 4 times at 4096 (one head, 64 wide, float32, AMD Zen 5, 2 threads). From Martins and Astudillo 2016 [1]_.

    References
    ----------
    .. [1] Martins and Astudillo, From Softmax to Sparsemax, arXiv:1602.02068

    Examples
    --------
    >>> import ruvector
    >>> ruvector.sparsemax_attention([1.0], [[1.0], [0.5], [0.0]], [[4.0], [8.0], [9.0]])
    array([5.])
    """
    call = get_attention("sparsemax", causal=causal, scale=scale, dropout=dropout)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@_described()
def sigmoid_attention(
    query,
    key,
    value,
    bias=None,
    *,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Attention whose weights are sigmoids, each by itself: ``sum_j v_j / (1 + exp(-(scale * query . key_j + bias)))``.

    Parameters
    ----------
    {arrays}
    bias : float, optional
        Added to every logit; ``-log(S)`` when None, with which weights sum to about 1 at the start of training.
    {common}

    {rest}

    Notes
    -----
    O(L S (d + dv)) time and O(S) memory in blocks of queries. It is slower than softmax attention at any length: 4 to 8 times
    at 1024 keys and 4 times at 4096 (one head, 64 wide, float32, AMD Zen 5, 2 threads). `attention_scores` gives the
    weights as they are: they do not sum to 1. From Ramapuram et al. 2024 [1]_.

    References
    ----------
    .. [1] Ramapuram et al., Theory, Analysis, and Best Practices for Sigmoid Self-Attention, arXiv:2409.04431

    Examples
    --------
    >>> import ruvector
    >>> ruvector.sigmoid_attention([0.0], [[1.0], [2.0]], [[3.0], [6.0]]).round(6)
    array([3.])
    """
    call = get_attention("sigmoid", bias=bias, causal=causal, scale=scale, dropout=dropout)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@_described(_TAU)
def cosine_attention(
    query, key, value, tau=0.1, *, mask=None, causal=False, scale=None, dropout=0.0, training=False, rng=None, out=None
):
    """Softmax attention over cosines: ``softmax(cos(query, key) / tau) @ value``.

    Parameters
    ----------
    {arrays}
    tau : float, default 0.1
        Temperature, at least 0.0001.
    {common}

    {rest}

    Notes
    -----
    O(L S (d + dv)) time: that of `scaled_dot_attention` and O((L + S) d). A row of zeros has cosine 0 with all. From Henry et al.
    2020 [1]_; Liu et al. 2022 (arXiv:2111.09883) use it with the tau of each head learned, from 0.1 on.

    References
    ----------
    .. [1] Henry et al., Query-Key Normalization for Transformers, arXiv:2010.04245

    Examples
    --------
    >>> import ruvector
    >>> ruvector.cosine_attention([1.0, 0.0], [[9.0, 0.0], [0.0, 1.0]], [[1.0], [0.0]], tau=1.0).round(4)
    array([0.7311])
    """
    call = get_attention("cosine", tau=tau, causal=causal, scale=scale, dropout=dropout)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@_described(_ONE)
def additive_attention(
    query,
    key,
    value,
    hidden=64,
    *,
    w_q=None,
    w_k=None,
    v=None,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Attention with scores of a small network: ``softmax(v . tanh(query @ w_q + key @ w_k)) @ value``.

    Parameters
    ----------
    {arrays}
    hidden : int, default 64
        Width of the network where no `w_q` is given; from 1 to 65536.
    w_q, w_k : array_like, shape (d, hidden), optional
    v : array_like, shape (hidden,), optional
        When None, numbers of SplitMix64, seeds 42, 43 and 44, uniform in ``+-sqrt(6 / (rows + columns))``.
    {common}

    {rest}

    Notes
    -----
    O(L S hidden) hyperbolic tangents, which is why it is slower than softmax attention at any length. From Bahdanau et al. 2015 [1]_.

    References
    ----------
    .. [1] Bahdanau, Cho and Bengio, Neural Machine Translation by Jointly Learning to Align and Translate, arXiv:1409.0473

    Examples
    --------
    >>> import ruvector
    >>> one = [[1.0]]
    >>> ruvector.additive_attention([0.0], [[1.0], [0.0]], [[1.0], [0.0]], w_q=one, w_k=one, v=[1.0]).round(4)
    array([0.6817])
    """
    call = get_attention("additive", hidden=hidden, w_q=w_q, w_k=w_k, v=v, causal=causal, scale=scale, dropout=dropout)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@_described()
def differential_attention(
    query,
    key,
    value,
    lambda_init=0.8,
    *,
    norm=False,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Difference of two softmax attentions: ``(softmax(q_1 . k_1) - lambda softmax(q_2 . k_2)) @ value`` over halves of the columns.

    Parameters
    ----------
    {arrays}
    lambda_init : float, default 0.8
        Weight of the second, from 0 to 1.
    norm : bool, default False
        Divides each row of the result by its root mean square (epsilon 1e-5) and multiplies it by ``1 - lambda_init``, as the paper's heads do.
    {common}

    {rest}

    Notes
    -----
    O(L S (d + 2 dv)) time: two calls of `scaled_dot_attention`, of half the width each; `scale` is ``1 / sqrt(d / 2)`` when None.
    From Ye et al. 2024 [1]_.

    References
    ----------
    .. [1] Ye et al., Differential Transformer, arXiv:2410.05258

    Examples
    --------
    >>> import ruvector
    >>> ruvector.differential_attention([0.0, 0.0], [[1.0, 2.0], [3.0, 4.0]], [[2.0], [4.0]], 0.5)
    array([1.5])
    """
    call = get_attention(
        "differential", lambda_init=lambda_init, norm=norm, causal=causal, scale=scale, dropout=dropout
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@_described()
def talking_heads_attention(
    query,
    key,
    value,
    num_heads=8,
    *,
    w_logits=None,
    w_weights=None,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Multi-head attention whose heads are mixed before and after the softmax: ``(softmax(logits w_logits) w_weights) @ value``.

    Parameters
    ----------
    {heads}
    w_logits, w_weights : array_like, shape (num_heads, num_heads), optional
        Mix the logits and the weights of all heads, ``x_b = sum_a x_a w[a, b]``; nothing is mixed when None.
    {common}

    {rest}

    Notes
    -----
    O(L S num_heads (d + dv + num_heads)) time and O(S num_heads) memory in blocks of queries. It is
    slower than `multi_head_attention` at any length. From Shazeer et al. 2020 [1]_.

    References
    ----------
    .. [1] Shazeer et al., Talking-Heads Attention, arXiv:2003.02436

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x, value = np.zeros((1, 2)), np.array([[1.0, 2.0]])
    >>> ruvector.talking_heads_attention(x, x, value, 2, w_weights=[[1.0, 0.5], [1.0, 0.5]])
    array([[2., 2.]])
    """
    own = {"num_heads": num_heads, "w_logits": w_logits, "w_weights": w_weights}
    call = get_attention("talking_heads", causal=causal, scale=scale, dropout=dropout, **own)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


def _record(name, best_for, parameters, reference, aliases=(), family="weights"):
    return AttentionRecord(name, aliases, "O(n\u00b2)", best_for, family, parameters, reference)


def _register():
    array = ("array", None, None, None)
    add_type(
        _record(
            "entmax",
            "Sparse, readable weights",
            (Parameter("alpha", "float", 1.5, 1, _primitives.ENTMAX_MOST, "1 is softmax, 2 sparsemax"),),
            "Peters et al. 2019, Sparse Sequence-to-Sequence Models, arXiv:1905.05702",
            ("entmax15",),
        ),
        **type_of(_entmax),
        score=_products,
        products=_plain,
        weighs=True,
    )
    add_type(
        _record(
            "sparsemax",
            "The sparsest weights",
            (),
            "Martins and Astudillo 2016, From Softmax to Sparsemax, arXiv:1602.02068",
        ),
        **type_of(lambda call: _entmax(call, 2)),
        score=_products,
        products=_plain,
        weighs=True,
    )
    add_type(
        _record(
            "sigmoid",
            "Weights that do not compete",
            (Parameter("bias", "float", None, None, None, "added to every logit; -log(S) when None"),),
            "Ramapuram et al. 2024, Sigmoid Self-Attention, arXiv:2409.04431",
        ),
        **type_of(_sigmoid),
        score=_products,
        products=_plain,
        weighs=True,
    )
    add_type(
        _record(
            "cosine",
            "Vectors of very different lengths",
            (Parameter("tau", "float", 0.1, 0.0001, None, "temperature"),),
            "Henry et al. 2020, Query-Key Normalization, arXiv:2010.04245",
            ("qk_norm",),
        ),
        _cosine_type,
        score=_cosine_score,
        table=_cosine_table,
        weights=_cosine_weights,
    )
    add_type(
        _record(
            "additive",
            "Recurrent encoders and decoders",
            (
                Parameter("hidden", "int", 64, 1, 65536, "width of the network where no w_q is given"),
                Parameter("w_q", *array, "(d, hidden); fixed when None"),
                Parameter("w_k", *array, "(d, hidden); fixed when None"),
                Parameter("v", *array, "(hidden,); fixed when None"),
            ),
            "Bahdanau et al. 2015, Learning to Align and Translate, arXiv:1409.0473",
            ("bahdanau",),
        ),
        **type_of(_additive, unit_scale=True),
        score=_additive_score,
        table=_additive_table,
    )
    add_type(
        _record(
            "differential",
            "Long contexts with much noise",
            (
                Parameter("lambda_init", "float", 0.8, 0, 1, "weight of the second softmax"),
                Parameter("norm", "bool", False, 0, 1, "rows of the result are normalised"),
            ),
            "Ye et al. 2024, Differential Transformer, arXiv:2410.05258",
            ("diff",),
        ),
        _differential_type,
    )
    add_type(
        _record(
            "talking_heads",
            "Few keys a head",
            (
                Parameter("num_heads", "int", 8, 1, 1024, "slices of the last axes"),
                Parameter("w_logits", *array, "(num_heads, num_heads); nothing is mixed when None"),
                Parameter("w_weights", *array, "(num_heads, num_heads); nothing is mixed when None"),
            ),
            "Shazeer et al. 2020, Talking-Heads Attention, arXiv:2003.02436",
        ),
        **type_of(_talking, heads=True),
        score=_talking_score,
        table=_talking_table,
        weighs=True,
    )


_register()
