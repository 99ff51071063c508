"""Attention whose heads are experts: the type moe."""

from __future__ import annotations

import math

import numpy as np

from ruvector import _coerce, _moe
from ruvector._options import flag, probability
from ruvector._registry import AttentionRecord, Parameter, add_type, get_attention
from ruvector._docstrings import documented
from ruvector.mechanisms.moe import _capacity_factor, _experts, _grouped, _jittered, _logits, _routing, _Tokens


def _check_weight(weight, shape, name):
    """A projection is None or has this shape, where None stands for any length."""
    if weight is None or (weight.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, weight.shape))):
        return
    want = ", ".join("out" if n is None else str(n) for n in shape)
    raise ValueError(f"{name} must have shape ({want}), got {weight.shape}")


def _check_shapes(query, key, value, num_experts, gate, w_q, w_k, w_v, w_o):
    """Everything about shapes but the mask's; returns the leading axes."""
    if query.ndim < 2 or key.ndim < 2 or value.ndim < 2:
        _coerce.refuse_axes(query, key, value)
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"Keys and values must have same length: {key.shape[-2]} vs {value.shape[-2]}")
    shapes, width = f"query {query.shape}, key {key.shape}, value {value.shape}", query.shape[-1]
    if width < 1:
        raise ValueError(f"head_dim must be at least 1, got {shapes}")
    _check_weight(gate, (width, num_experts), "gate")
    _check_weight(w_k, (key.shape[-1], None), "w_k")
    _check_weight(w_v, (value.shape[-1], None), "w_v")
    key_width, v_width = (x.shape[-1] if w is None else w.shape[1] for x, w in ((key, w_k), (value, w_v)))
    _check_weight(w_q, (num_experts, width, key_width), "w_q")
    _check_weight(w_o, (num_experts, v_width, None), "w_o")
    if w_q is None and width != key_width:
        raise ValueError(f"Query and key dimensions must match: {width} vs {key_width}")
    if w_q is None and width % num_experts:
        raise ValueError(f"Query dimension {width} must be divisible by num_experts {num_experts}")
    return _coerce._broadcast((query.shape[:-2], key.shape[:-2], value.shape[:-2]), shapes)


def _rows_of_mask(mask, rows, causal, q_len, kv_len):
    """The mask of some query rows, causality put in."""
    if mask is not None and len(mask) > 1:
        mask = mask[rows]
    if not causal or q_len == 1:
        return mask
    before = np.arange(kv_len) <= (rows + (kv_len - q_len))[:, None]
    if mask is None:
        return before
    return mask & before if mask.dtype == bool else np.where(before, mask, np.array(-np.inf, mask.dtype))


def _attend(
    query,
    key,
    value,
    *,
    mask,
    causal,
    scale,
    dropout,
    training,
    rng,
    num_experts,
    top_k,
    capacity_factor,
    jitter_noise,
    gate,
    w_q,
    w_k,
    w_v,
    w_o,
):
    """The type `moe`; arrays as `ComposedAttention` hands them over. Experts attend to the rows that chose them."""
    num_experts, top_k = _experts(num_experts, top_k)
    capacity_factor, jitter_noise = _capacity_factor(capacity_factor), probability(jitter_noise, "jitter_noise")
    training, dtype, single = flag(training, "training"), query.dtype, query.ndim == 1
    if training and (jitter_noise or dropout):
        # one stream for the jitter and for the dropout of every expert
        rng = _coerce.explicit_generator(rng, "jitter_noise" if jitter_noise else "dropout")
    if single:
        query = query[None]
    lead = _check_shapes(query, key, value, num_experts, gate, w_q, w_k, w_v, w_o)
    (q_len, width), kv_len, working = query.shape[-2:], key.shape[-2], _coerce.computed_in(dtype)
    if mask is not None:
        mask = _coerce.fit_mask(mask, lead, q_len, kv_len, single)
        mask = np.broadcast_to(mask, (*lead, mask.shape[-2], kv_len))

    query, key, value = (x.astype(working, copy=False) for x in (query, key, value))
    w_q, w_k, w_v, w_o = (None if w is None else w.astype(working, copy=False) for w in (w_q, w_k, w_v, w_o))
    key, value = (x if w is None else _coerce.matmul(x, w) for x, w in ((key, w_k), (value, w_v)))
    key, value = (np.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (key, value))
    query = np.broadcast_to(query, (*lead, q_len, width)).reshape(-1, width)
    tokens = _Tokens(query, (len(query),), working)
    if training and jitter_noise:
        tokens = _jittered(tokens, jitter_noise, rng)
    routing = _routing(tokens, _logits(tokens, gate, num_experts, _moe.GATE_SEED), top_k, capacity_factor)
    weights, (_, starts, order, _) = routing.weights.ravel(), _grouped(routing)

    attend = get_attention("scaled_dot", scale=scale, dropout=dropout)
    out = np.zeros((len(query), value.shape[-1] if w_o is None else w_o.shape[2]), working)
    head = width // num_experts
    for e in range(num_experts):
        chosen = order[starts[e] : starts[e + 1]]
        columns = slice(e * head, e * head + head) if w_q is None else slice(None)
        ends = np.searchsorted(chosen // top_k, np.arange(math.prod(lead) + 1) * q_len)
        for b, batch in enumerate(np.ndindex(*lead)):
            assigned = chosen[ends[b] : ends[b + 1]]
            if not len(assigned):
                continue
            rows = assigned // top_k
            part = query[rows, columns] if w_q is None else _coerce.matmul(query[rows], w_q[e])
            seen = _rows_of_mask(None if mask is None else mask[batch], rows - b * q_len, causal, q_len, kv_len)
            part = attend(part, key[batch][:, columns], value[batch], mask=seen, training=training, rng=rng)
            if w_o is not None:
                part = _coerce.matmul(part, w_o[e])
            with np.errstate(all="ignore"):
                out[rows] += weights[assigned, None] * part
    out = out.astype(dtype, copy=False)
    return out[0] if single else out.reshape(*lead, q_len, out.shape[-1])


@documented
def moe_attention(
    query,
    key,
    value,
    num_experts=8,
    top_k=2,
    *,
    gate=None,
    w_q=None,
    w_k=None,
    w_v=None,
    w_o=None,
    capacity_factor=None,
    jitter_noise=0.0,
    mask=None,
    causal=False,
    scale=None,
    dropout=0.0,
    training=False,
    rng=None,
    out=None,
):
    """Mixture of attention heads: each query is routed to `top_k` of `num_experts` heads and gets their weighted sum.

    Parameters
    ----------
    query : array_like, shape (..., L, d) or (d,)
    key : array_like, shape (..., S, d)
    value : array_like, shape (..., S, dv)
    num_experts : int, default 8
        At least 1; divides d where `w_q` is not given.
    top_k : int, default 2
        Heads a query, from 1 to num_experts.
    gate : array_like, shape (d, num_experts), optional
        The router's weights; `gate_weights` of that shape when None.
    w_q : array_like, shape (num_experts, d, h), optional
        Each expert's projection of the query. None: expert e attends with slice e of the d columns of query and key.
    w_k : array_like, shape (d of the keys, h), optional
    w_v : array_like, shape (dv, hv), optional
        Projections that all experts share; identity when None.
    w_o : array_like, shape (num_experts, hv, out), optional
        Each expert's projection of its result; identity when None.
    capacity_factor : float, optional
        Limits the queries of an expert, as in `moe_route`; all queries of the call are counted. A query that loses all its
        experts gives 0.
    jitter_noise : float, default 0.0
        At least 0, below 1: in training, the router's input is multiplied by uniform numbers from [1 - jitter_noise, 1 + jitter_noise).
    {common}

    Returns
    -------
    ndarray, shape (..., L, dv), or (dv,) for a single query
        The last axis is that of `w_v` and `w_o` where they are given.

    Raises
    ------
    TypeError, ValueError
        As in `attention`; ValueError for a `top_k` above num_experts, or a width that num_experts does not divide.

    Notes
    -----
    ``sum_e g_e softmax(scale (q W_q[e]) (K W_k)^T) (V W_v) W_o[e]`` over the top_k experts e with the largest ``q @ gate``, g the
    softmax over these; scale is ``1 / sqrt(h)``, h the width of an expert's queries. About ``2 top_k L S (h + hv)`` operations: one
    call of the attention kernel for each expert and batch element, on the queries that chose it. Without weights the result is a
    mixture of attention distributions over the same values, so that constant values come back.

    From Zhang et al. 2022 [1]_, there with projections that were learnt.

    References
    ----------
    .. [1] Zhang et al., Mixture of Attention Heads, arXiv:2210.05144

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> rng = np.random.default_rng(0)
    >>> query, key, value = rng.random((5, 16)), rng.random((9, 16)), rng.random((9, 3))
    >>> ruvector.moe_attention(query, key, value, num_experts=4).shape
    (5, 3)
    >>> ruvector.moe_attention(query, key, np.ones((9, 1)), num_experts=4, top_k=3)[0].round(12)
    array([1.])
    """
    options = {
        "num_experts": num_experts,
        "top_k": top_k,
        "capacity_factor": capacity_factor,
        "jitter_noise": jitter_noise,
    }
    options |= {"gate": gate, "w_q": w_q, "w_k": w_k, "w_v": w_v, "w_o": w_o}
    call = get_attention("moe", causal=causal, scale=scale, dropout=dropout, **options)
    return call(query, key, value, mask=mask, training=training, rng=rng, out=out)


def _fits(width, /, num_experts, top_k, capacity_factor, jitter_noise, gate, w_q, w_k, w_v, w_o):
    num_experts, _ = _experts(num_experts, top_k)
    _capacity_factor(capacity_factor), probability(jitter_noise, "jitter_noise")
    query = np.empty((1, width))
    key, value = (query if w is None else np.empty((1, len(w))) for w in (w_k, w_v))
    _check_shapes(query, key, value, num_experts, gate, w_q, w_k, w_v, w_o)


add_type(
    AttentionRecord(
        name="moe",
        aliases=("mixture_of_experts",),
        complexity="O(n*k)",
        best_for="Conditional computation, routing",
        family="experts",
        parameters=(
            Parameter(
                "num_experts", "int", 8, 1, None, "heads to choose from; divides the width where w_q is not given"
            ),
            Parameter("top_k", "int", 2, 1, None, "heads of a query, at most num_experts"),
            Parameter(
                "capacity_factor",
                "float",
                None,
                None,
                None,
                "an expert takes ceil(top_k * queries / num_experts * this)",
            ),
            Parameter(
                "jitter_noise", "float", 0.0, 0.0, None, "relative noise on the router's input in training, below 1"
            ),
            Parameter("gate", "array", None, None, None, "router weights (width, num_experts); fixed ones when None"),
            Parameter("w_q", "array", None, None, None, "query projections (num_experts, width, h); slices when None"),
            Parameter("w_k", "array", None, None, None, "key projection that all heads share; identity when None"),
            Parameter("w_v", "array", None, None, None, "value projection that all heads share; identity when None"),
            Parameter(
                "w_o", "array", None, None, None, "output projections (num_experts, hv, out); identity when None"
            ),
        ),
        reference="Zhang et al. 2022, Mixture of Attention Heads, arXiv:2210.05144",
    ),
    _attend,
    fits=_fits,
)
