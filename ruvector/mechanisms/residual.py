"""Attention inside a residual branch, or fed by what other layers leave: ReZero, Fixup, RealFormer; attention spans that are learned."""

from __future__ import annotations

import numpy as np

from ruvector import _coerce
from ruvector._options import flag, number
from ruvector._registry import AttentionRecord, Parameter, add_type, get_attention
from ruvector.mechanisms._heads import Call, heads_of
from ruvector.mechanisms.dense import Block, Form, type_of
from ruvector.mechanisms.weights import _described, _plain, _products, softmax_rows


def _branch(query, key, value, core, mask, training, rng):
    """Query and the attention of the branch, in the type of the arithmetic."""
    work = _coerce.computed_in(query.dtype)
    query, key, value = (x.astype(work, copy=False) for x in (query, key, value))
    if query.shape[-1:] != value.shape[-1:]:
        raise ValueError(
            f"a residual branch needs values as wide as queries, got query {query.shape}, value {value.shape}"
        )
    return query, core(query, key, value, mask=mask, training=training, rng=rng)


def _branch_weights(query, key, mask, *, causal, scale, **own):
    return get_attention("scaled_dot", causal=causal, scale=scale)._weights(query, key, mask)


def _rezero_type(query, key, value, *, mask, alpha, causal, scale, dropout, training, rng):
    core = get_attention("scaled_dot", causal=causal, scale=scale, dropout=dropout)
    x, result = _branch(query, key, value, core, mask, training, rng)
    with np.errstate(all="ignore"):
        return (x + x.dtype.type(alpha) * result).astype(query.dtype, copy=False)


def _fixup_type(query, key, value, *, mask, multiplier, bias_in, bias_out, causal, scale, dropout, training, rng):
    core = get_attention("scaled_dot", causal=causal, scale=scale, dropout=dropout)
    x, result = _branch(query, key, value, core, mask, training, rng)
    seen = core(x, key.astype(x.dtype), np.ones((*value.shape[:-1], 1), x.dtype), mask=mask) if bias_in else 0
    with np.errstate(all="ignore"):
        branch = (result + x.dtype.type(bias_in) * seen) * x.dtype.type(multiplier) + x.dtype.type(bias_out)
        return (x + branch).astype(query.dtype, copy=False)


def fixup_scale(num_layers, layers_per_branch=2):
    """Factor by which Fixup initialises the weights of a residual branch: ``num_layers ** (-1 / (2 layers_per_branch - 2))``.

    Parameters
    ----------
    num_layers : int
        Residual branches of the network, at least 1.
    layers_per_branch : int, default 2
        At least 2.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        For numbers that are not integers or out of their range.

    Notes
    -----
    All weights of a branch but those of its last layer, which start at 0. From Zhang et al. 2019, Fixup Initialization, arXiv:1901.09321.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.fixup_scale(16)
    0.25
    """
    num_layers = number(num_layers, "num_layers", whole=True)
    layers_per_branch = number(layers_per_branch, "layers_per_branch", whole=True)
    for value, name, least in ((num_layers, "num_layers", 1), (layers_per_branch, "layers_per_branch", 2)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    return float(num_layers ** (-1 / (2 * layers_per_branch - 2)))


def t_fixup_scale(num_layers, decoder=False):
    """Factor by which T-Fixup initialises a Transformer that has no warm-up and no normalisation: ``0.67 * num_layers ** -0.25``.

    Parameters
    ----------
    num_layers : int
        Layers of the encoder, or of the decoder; at least 1.
    decoder : bool, default False
        ``(9 * num_layers) ** -0.25``, the factor of a decoder's layers.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        For numbers that are not integers or out of their range.

    Notes
    -----
    Of the matrices of values, of outputs and of the feed-forward layers; the others stay as they were drawn. From Huang et al. 2020,
    Improving Transformer Optimization Through Better Initialization, PMLR 119.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.t_fixup_scale(16)
    0.335
    """
    num_layers = number(num_layers, "num_layers", whole=True)
    if num_layers < 1:
        raise ValueError(f"num_layers must be at least 1, got {num_layers}")
    return (9 * num_layers) ** -0.25 if flag(decoder, "decoder") else 0.67 * num_layers**-0.25


def _previous(call, previous):
    """(*lead, heads, L, S)"""
    shape = (*call.lead, call.num_heads, call.q_len, call.kv_len)
    if previous is None:
        return np.broadcast_to(call.query.dtype.type(0), shape)
    try:
        return np.broadcast_to(previous.astype(call.query.dtype), shape)
    except ValueError:
        raise ValueError(f"previous must broadcast to {shape}, got shape {previous.shape}") from None


def _realformer(call, previous):
    if previous is None:
        return Form(Block.products, softmax_rows)
    previous = _previous(call, previous)

    def logits(block):
        logits = block.products()
        with np.errstate(all="ignore"):
            logits += previous[block.batch][block.heads, block.rows, block.keys]
        return logits

    return Form(logits, softmax_rows)


def _span(call, span):
    """z of each head."""
    span = np.asarray(span, np.float64)
    if span.ndim > 1 or span.size not in (1, call.num_heads):
        raise ValueError(
            f"span must be a number or of shape (num_heads,) = ({call.num_heads},), got shape {span.shape}"
        )
    if (span < 0).any():
        raise ValueError(f"span must be at least 0, got {span.min():g}")
    return np.broadcast_to(span, (call.num_heads,)).astype(call.query.dtype)


def _adaptive_span(call, span, ramp):
    spans, dtype = _span(call, [1024.0] if span is None else span).astype(float), call.query.dtype
    # no pair is further apart than this
    most = max(call.q_len, call.kv_len)
    reaches = [int(min(np.ceil(z + ramp) - 1, most)) for z in spans]
    with np.errstate(divide="ignore"):
        # log(m) at the distances from -most to most, of each different span once
        tables = {
            z: np.log(np.clip((ramp + z - np.abs(np.arange(-most, most + 1.0))) / ramp, 0, 1)).astype(dtype)
            for z in set(spans)
        }

    def logits(block):
        logits, table = block.products(), tables[spans[block.heads.start]]
        rows, keys = logits.shape[1:]
        # a row further down is the same table one place to the left
        start = block.keys.start - block.first + most
        bias = np.lib.stride_tricks.sliding_window_view(table[start - rows + 1 : start + keys], keys)[::-1]
        with np.errstate(all="ignore"):
            logits += bias
        np.copyto(logits, -np.inf, where=np.isneginf(bias))
        return logits

    return Form(logits, softmax_rows, reach=reaches.__getitem__)


@_described()
def rezero_attention(
    query,
    key,
    value,
    alpha=0.0,
    *,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Attention inside a ReZero residual: ``query + alpha * softmax(scale * query . key) @ value``.

    This is no attention of its own but a residual branch around `scaled_dot_attention`, whose factor starts at 0 and is learned.

    Parameters
    ----------
    {arrays}
    alpha : float, default 0.0
        Factor of the branch, any number.
    {common}

    Returns
    -------
    ndarray, shape (..., L, d), or (d,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for values that are not as wide as queries.

    Notes
    -----
    O(L S (d + dv)) time: that of `scaled_dot_attention`. A query that sees no key is itself; dv is d. From Bachlechner et al. 2020
    [1]_.

    References
    ----------
    .. [1] Bachlechner et al., ReZero is All You Need, arXiv:2003.04887

    Examples
    --------
    >>> import ruvector
    >>> ruvector.rezero_attention([1.0], [[2.0]], [[4.0]], 0.5)
    array([3.])
    """
    call = get_attention("rezero", alpha=alpha, causal=causal, scale=scale, dropout=dropout)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@_described()
def fixup_attention(
    query,
    key,
    value,
    multiplier=1.0,
    *,
    bias_in=0.0,
    bias_out=0.0,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Attention inside a Fixup residual: ``query + multiplier * (softmax(scale * query . key) @ (value + bias_in)) + bias_out``.

    This is no attention of its own but a residual branch around `scaled_dot_attention`, with the scalars that take the place of
    normalisation. `fixup_scale` gives the factor of the branch's weights.

    Parameters
    ----------
    {arrays}
    multiplier, bias_in, bias_out : float, default 1.0, 0.0 and 0.0
        Any numbers.
    {common}

    Returns
    -------
    ndarray, shape (..., L, d), or (d,) for a single query

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for values that are not as wide as queries.

    Notes
    -----
    O(L S (d + dv)) time: that of `scaled_dot_attention`, twice with `bias_in`. dv is d; a query that sees no key adds `bias_out` alone. Dropout drops weights of values, not of
    `bias_in`. From Zhang et al. 2019 [1]_.

    References
    ----------
    .. [1] Zhang, Dauphin and Ma, Fixup Initialization, arXiv:1901.09321

    Examples
    --------
    >>> import ruvector
    >>> ruvector.fixup_attention([1.0], [[2.0]], [[4.0]], 0.5, bias_in=2.0, bias_out=1.0)
    array([5.])
    """
    own = {"multiplier": multiplier, "bias_in": bias_in, "bias_out": bias_out}
    call = get_attention("fixup", causal=causal, scale=scale, dropout=dropout, **own)
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


@_described()
def realformer_attention(
    query,
    key,
    value,
    num_heads=8,
    *,
    previous=None,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Multi-head attention on top of another layer's logits: ``softmax(scale * query . key + previous) @ value``.

    Parameters
    ----------
    {heads}
    previous : array_like, optional
        Logits of the layer before, broadcast to ``(..., num_heads, L, S)``: finite; 0 when None. `realformer_logits` makes those of this one.
    {common}

    {rest}

    Notes
    -----
    O(L S num_heads (d + dv)) time and O(S) memory besides `previous`. It is slower than
    `multi_head_attention` at any length. From He et al. 2020 [1]_.

    References
    ----------
    .. [1] He et al., RealFormer: Transformer Likes Residual Attention, arXiv:2012.11747

    Examples
    --------
    >>> import ruvector
    >>> ruvector.realformer_attention([0.0], [[1.0], [1.0]], [[1.0], [0.0]], 1, previous=[[1.0, 0.0]]).round(4)
    array([0.7311])
    """
    call = get_attention(
        "realformer", num_heads=num_heads, previous=previous, causal=causal, scale=scale, dropout=dropout
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


def realformer_logits(query, key, num_heads=8, *, previous=None, scale=None):
    """The logits that a layer of `realformer_attention` leaves to the next: ``scale * query_h . key_h + previous``.

    Parameters
    ----------
    query : array_like, shape (..., L, num_heads * d)
    key : array_like, shape (..., S, num_heads * d)
    num_heads : int, default 8
        From 1 to 1024.
    previous : array_like, optional
        Broadcasts to ``(..., num_heads, L, S)``; 0 when None.
    scale : float, optional
        ``1 / sqrt(d)`` when None.

    Returns
    -------
    ndarray, shape (..., num_heads, L, S)

    Raises
    ------
    TypeError, ValueError
        As in `realformer_attention`.

    Notes
    -----
    O(L S num_heads d) time and O(L S num_heads) memory. From He et al. 2020, RealFormer, arXiv:2012.11747.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.realformer_logits([[1.0]], [[2.0], [3.0]], 1, previous=[[0.5, 0.0]])
    array([[[2.5, 3. ]]])
    """
    own = get_attention("realformer", num_heads=num_heads, previous=previous, scale=scale)._options()
    query, key = _coerce.pair(query, key, "query", "key")
    if query.ndim < 2:
        raise ValueError(f"query must have shape (..., L, num_heads * d), got {query.shape}")
    call = Call(query, key, key, None, own["num_heads"], own["num_heads"], False, own["scale"])
    out = _previous(call, own["previous"]).copy()
    query, key = (heads_of(x, call.num_heads).swapaxes(-2, -3) for x in (call.query, call.key))
    with np.errstate(all="ignore"):
        out += (query * query.dtype.type(call.scale)) @ key.swapaxes(-1, -2)
    return out.astype(call.dtype, copy=False)


@_described()
def adaptive_span_attention(
    query,
    key,
    value,
    num_heads=8,
    *,
    span=None,
    ramp=32.0,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Multi-head attention whose heads see as far as their span: ``softmax(scale * query . key + log(m)) @ value``.

    ``m = clip((ramp + span - |p - j|) / ramp, 0, 1)`` for a query at ``p = i + (S - L)``: weights fade out behind the span.

    Parameters
    ----------
    {heads}
    span : array_like, shape (1,) or (num_heads,), optional
        Distance at which each head begins to fade, at least 0; 1024 when None.
    ramp : float, default 32.0
        Distance over which it fades; at least 0.001.
    {common}

    {rest}

    Notes
    -----
    O(L w num_heads (d + dv)) time with ``w = 2 (span + ramp)`` keys, or half of them where `causal`; O(w) memory in
    blocks of queries: keys beyond the span of a head are left out. With spans of 64, a third of the time of
    `multi_head_attention` at n = 4096 and up to twice that at 1024; not faster at 4096 with spans of 1024 (8 heads, 64 wide, float32,
    AMD Zen 5, 2 threads). From Sukhbaatar et al. 2019 [1]_.

    References
    ----------
    .. [1] Sukhbaatar et al., Adaptive Attention Span in Transformers, arXiv:1905.07799

    Examples
    --------
    >>> import ruvector
    >>> ruvector.adaptive_span_attention([0.0], [[1.0], [1.0], [1.0]], [[9.0], [3.0], [0.0]], 1, span=[0.0], ramp=2.0)
    array([1.])
    """
    call = get_attention(
        "adaptive_span", num_heads=num_heads, span=span, ramp=ramp, causal=causal, scale=scale, dropout=dropout
    )
    return call(query, key, value, mask=mask, training=flag(training, "training"), rng=rng, out=out)


def _register():
    heads = Parameter("num_heads", "int", 8, 1, 1024, "slices of the last axes")
    for name, parameters, fn, best, reference in (
        (
            "rezero",
            (Parameter("alpha", "float", 0.0, None, None, "factor of the branch"),),
            _rezero_type,
            "Deep networks without normalisation",
            "Bachlechner et al. 2020, ReZero is All You Need, arXiv:2003.04887",
        ),
        (
            "fixup",
            (
                Parameter("multiplier", "float", 1.0, None, None, "factor of the branch"),
                Parameter("bias_in", "float", 0.0, None, None, "added to the values"),
                Parameter("bias_out", "float", 0.0, None, None, "added to the branch"),
            ),
            _fixup_type,
            "Deep networks without normalisation",
            "Zhang et al. 2019, Fixup Initialization, arXiv:1901.09321",
        ),
    ):
        record = AttentionRecord(name, (), "O(n\u00b2)", best, "residual", parameters, reference)
        add_type(record, fn, score=_products, products=_plain, weights=_branch_weights)
    add_type(
        AttentionRecord(
            "realformer",
            ("residual_attention",),
            "O(n\u00b2)",
            "Deep networks of many attention layers",
            "residual",
            (heads, Parameter("previous", "array", None, None, None, "logits of the layer before")),
            "He et al. 2020, RealFormer, arXiv:2012.11747",
        ),
        **type_of(_realformer, heads=True),
        score=_products,
        products=_plain,
    )
    add_type(
        AttentionRecord(
            "adaptive_span",
            (),
            "O(n*w)",
            "Heads that look near and far",
            "weights",
            (
                heads,
                Parameter("span", "array", None, None, None, "distance at which heads begin to fade; 1024 when None"),
                Parameter("ramp", "float", 32.0, 0.001, None, "distance over which they fade"),
            ),
            "Sukhbaatar et al. 2019, Adaptive Attention Span, arXiv:1905.07799",
        ),
        **type_of(_adaptive_span, heads=True),
        score=_products,
        products=_plain,
    )


_register()
