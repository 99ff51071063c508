"""Oracles of other weights than the softmax of products, from their definitions; entmax by bisection in long double."""

import numpy as np
from reference import fixed_uniform, is_half, storage_unit, unit


def entmax(x, alpha):
    """Weights over the last axis; softmax for alpha 1."""
    x = np.asarray(x, np.longdouble)
    with np.errstate(invalid="ignore"):
        z = x - x.max(-1, keepdims=True)
    if alpha == 1:
        e = np.exp(z)
        return e / e.sum(-1, keepdims=True)
    z, power = z * np.longdouble(alpha - 1), 1 / np.longdouble(alpha - 1)
    low, high = np.full_like(z[..., :1], -1), np.zeros_like(z[..., :1])
    for _ in range(90):
        middle = (low + high) / 2
        over = (np.maximum(z - middle, 0) ** power).sum(-1, keepdims=True) >= 1
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    p = np.maximum(z - low, 0) ** power
    return p / p.sum(-1, keepdims=True)


def entmax_bound(x, alpha):
    """Of alpha 1.5 and 2. z = (alpha - 1)(x - max) is off by u |z| <= u, the threshold by no more, z - t by 2 u in all and by 3 u of itself.

    Of 1.5 the weight is (z - t)^2: 2 sqrt(p) 2 u + 8 u p, and (2 u)^2 where it should be 0.
    """
    p, u = entmax(x, alpha), unit(x.dtype)
    bound = (4 * np.sqrt(p) + 8 * p + 8 * u) * u if alpha == 1.5 else (4 + 4 * p) * u
    return bound + (storage_unit(x.dtype) * p if is_half(x.dtype) else 0) + (2.0**-25 if x.dtype == np.float16 else 0)


def _visible(shape, mask, causal):
    """Who is seen, (..., L, S), and what is added."""
    q_len, kv_len = shape[-2:]
    seen, bias = np.ones(shape, bool), np.zeros(shape)
    if mask is not None and np.asarray(mask).dtype == bool:
        seen = seen & mask
    elif mask is not None:
        seen, bias = seen & ~np.isneginf(mask), bias + np.where(np.isneginf(mask), 0, mask)
    if causal:
        seen = seen & (np.arange(kv_len) <= np.arange(q_len)[:, None] + kv_len - q_len)
    return seen, bias


def _softmax(logits, seen):
    top = np.where(seen, logits, -np.inf).max(-1, keepdims=True, initial=-np.inf)
    e = np.where(seen, np.exp(np.where(seen, logits - np.where(np.isinf(top), 0, top), 0)), 0)
    total = e.sum(-1, keepdims=True)
    return e / np.where(total == 0, 1, total)


def _plain(query, key, scale):
    return (1 / np.sqrt(query.shape[-1]) if scale is None else scale) * query @ np.swapaxes(key, -1, -2)


class Answer:
    """Weights of each head (..., H, L, S), the result, and how far a weight moves in all for a change of the logits by 1."""

    def __init__(self, weights, value, kappa, moves=2.0, out=None, amplified=1.0):
        heads = weights.shape[-3]
        v = value.reshape(*value.shape[:-1], heads, value.shape[-1] // heads)
        v = np.moveaxis(v, -2, -3)
        self.weights = weights.mean(-3)
        result = np.moveaxis(weights @ v, -3, -2)
        self.out = result.reshape(*result.shape[:-2], -1) if out is None else out
        self.peak = np.abs(value).max((-1, -2), initial=0, keepdims=True) * np.abs(weights).sum(-1).max(initial=1)
        self.kappa, self.moves, self.keys, self.amplified = kappa, moves, weights.shape[-1], amplified

    def bound(self, dtype, dim):
        """Products and sums in any order: dim + 8 roundings of a logit of kappa at most, which move the weights; S + 16 of the result."""
        u = unit(dtype)
        bound = u * self.peak * (self.keys + 16 + self.moves * (dim + 8) * self.kappa) * self.amplified
        return bound + (3 * storage_unit(dtype) * np.maximum(self.peak, np.abs(self.out)) if is_half(dtype) else 0)


def _wide(*arrays):
    return [np.asarray(x, np.float64) for x in arrays]


def _size(query, key, scale):
    scale = 1 / np.sqrt(query.shape[-1]) if scale is None else abs(scale)
    return scale * (np.abs(query) @ np.abs(np.swapaxes(key, -1, -2))).max(initial=0)


def _rows(weigh, moves):
    def oracle(query, key, value, *, mask=None, causal=False, scale=None, **own):
        query, key, value = _wide(query, key, value)
        logits = _plain(query, key, scale)
        seen, bias = _visible(logits.shape, mask, causal)
        weights = weigh(logits + bias, seen, **own)
        size = _size(query, key, scale) + np.abs(bias).max(initial=0)
        return Answer(weights[..., None, :, :], value, size, moves(key.shape[-2]))

    return oracle


def _entmax_rows(logits, seen, alpha=1.5):
    some = seen.any(-1, keepdims=True)
    shown = np.where(seen, logits, -np.inf)
    return np.where(some, entmax(np.where(some, shown, 0), alpha), 0).astype(float)


def _sigmoid_rows(logits, seen, bias=None):
    bias = -np.log(logits.shape[-1]) if bias is None else bias
    return np.where(seen, 1 / (1 + np.exp(-(logits + bias))), 0)


def cosine(query, key, value, *, tau=0.1, mask=None, causal=False, scale=None):
    query, key, value = _wide(query, key, value)
    query, key = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, key))
    scale = 1 / tau if scale is None else scale
    logits = scale * query @ np.swapaxes(key, -1, -2)
    seen, bias = _visible(logits.shape, mask, causal)
    size = abs(scale) + np.abs(bias).max(initial=0)
    return Answer(_softmax(logits + bias, seen)[..., None, :, :], value, size)


def additive(query, key, value, *, hidden=64, w_q=None, w_k=None, v=None, mask=None, causal=False, scale=None):
    query, key, value = _wide(query, key, value)
    d = query.shape[-1]
    w_q = np.sqrt(6 / (d + hidden)) * fixed_uniform(42, (d, hidden)) if w_q is None else w_q
    w_k = np.sqrt(6 / (d + hidden)) * fixed_uniform(43, (d, hidden)) if w_k is None else w_k
    v = np.sqrt(6 / (hidden + 1)) * fixed_uniform(44, (hidden,)) if v is None else v
    scale = 1 if scale is None else scale
    logits = scale * (np.tanh((query @ w_q)[..., :, None, :] + (key @ w_k)[..., None, :, :]) @ v)
    seen, bias = _visible(logits.shape, mask, causal)
    inside = (np.abs(query) @ np.abs(w_q)).max() + (np.abs(key) @ np.abs(w_k)).max()
    size = abs(scale) * np.abs(v).sum() * (1 + inside) * max(1, len(v) / d) + np.abs(bias).max(initial=0)
    return Answer(_softmax(logits + bias, seen)[..., None, :, :], value, size)


def synthesizer(
    query, key, value, *, kind="dense", max_length=1024, w1=None, b1=0.0, w2=None, b2=None, table=None, mask=None, causal=False, scale=None
):  # fmt: skip
    query, key, value = _wide(query, key, value)
    (q_len, d), kv_len, scale = query.shape[-2:], key.shape[-2], 1 if scale is None else scale
    if kind == "random":
        table = np.sqrt(3 / max_length) * fixed_uniform(44, (max_length,) * 2) if table is None else table
        logits = scale * np.broadcast_to(table[kv_len - q_len : kv_len, :kv_len], (*query.shape[:-1], kv_len))
        size = np.abs(logits).max(initial=0)
    else:
        hidden = w2.shape[0] if w1 is None and w2 is not None else d if w1 is None else w1.shape[1]
        w1 = np.sqrt(6 / (d + hidden)) * fixed_uniform(42, (d, hidden)) if w1 is None else w1
        w2 = np.sqrt(6 / (hidden + max_length)) * fixed_uniform(43, (hidden, max_length)) if w2 is None else w2
        b2 = np.zeros(w2.shape[1]) if b2 is None else b2
        logits = scale * (np.maximum(query @ w1 + b1, 0) @ w2 + b2)[..., :kv_len]
        inside = np.abs(query) @ np.abs(w1) + np.abs(b1)
        # both products round: of a column d terms, of a logit hidden
        size = 2 * abs(scale) * max(1, hidden / d) * (inside @ np.abs(w2) + np.abs(b2)).max(initial=0)
    seen, bias = _visible(logits.shape, mask, causal)
    return Answer(_softmax(logits + bias, seen)[..., None, :, :], value, size + np.abs(bias).max(initial=0))


def differential(query, key, value, *, lambda_init=0.8, norm=False, mask=None, causal=False, scale=None):
    query, key, value = _wide(query, key, value)
    half = query.shape[-1] // 2
    parts, size = [], 0
    for part in (slice(None, half), slice(half, None)):
        logits = _plain(query[..., part], key[..., part], scale)
        seen, bias = _visible(logits.shape, mask, causal)
        parts.append(_softmax(logits + bias, seen))
        size = max(size, _size(query[..., part], key[..., part], scale) + np.abs(bias).max(initial=0))
    weights = parts[0] - lambda_init * parts[1]
    out, amplified = weights @ value, 1.0
    if norm:
        root = np.sqrt((out * out).mean(-1, keepdims=True) + 1e-5)
        out, amplified = out / root * (1 - lambda_init), 2 * (1 + np.abs(out / root).max()) / root
    return Answer(weights[..., None, :, :], value, size, 4.0, out, amplified)


def talking_heads(
    query, key, value, *, num_heads=8, w_logits=None, w_weights=None, mask=None, causal=False, scale=None
):
    query, key, value = _wide(query, key, value)
    q, k = (np.moveaxis(x.reshape(*x.shape[:-1], num_heads, -1), -2, -3) for x in (query, key))
    logits = _plain(q, k, scale)
    w_logits = np.eye(num_heads) if w_logits is None else w_logits
    w_weights = np.eye(num_heads) if w_weights is None else w_weights
    logits = np.einsum("...aij,ab->...bij", logits, w_logits)
    seen, bias = _visible(logits.shape, mask, causal)
    weights = np.einsum("...aij,ab->...bij", _softmax(logits + bias, seen), w_weights)
    grown = np.abs(w_logits).sum(0).max(), np.abs(w_weights).sum(0).max()
    size = _size(q, k, scale) * grown[0] * 2 + np.abs(bias).max(initial=0)
    return Answer(weights, value, size, 4.0 * grown[1])


def _heads_with(added):
    """Multi-head attention whose logits have `added(q_len, kv_len, num_heads, **own)` in them, -inf hiding."""

    def oracle(query, key, value, *, num_heads=8, mask=None, causal=False, scale=None, **own):
        query, key, value = _wide(query, key, value)
        q, k = (np.moveaxis(x.reshape(*x.shape[:-1], num_heads, -1), -2, -3) for x in (query, key))
        more = added(query.shape[-2], key.shape[-2], num_heads, **own)
        logits = _plain(q, k, scale)
        seen, bias = _visible(logits.shape, mask, causal)
        seen, bias = seen & ~np.isneginf(more), bias + np.where(np.isneginf(more), 0, more)
        size = _size(q, k, scale) + np.abs(bias).max(initial=0)
        return Answer(_softmax(logits + bias, seen), value, size)

    return oracle


def _spans(q_len, kv_len, num_heads, span=(1024.0,), ramp=32.0):
    distance = np.abs(np.arange(q_len)[:, None] + kv_len - q_len - np.arange(kv_len))
    share = np.clip((ramp + np.broadcast_to(span, (num_heads,))[:, None, None] - distance) / ramp, 0, 1)
    with np.errstate(divide="ignore"):
        return np.log(share)


def _branch(combine):
    def oracle(query, key, value, *, mask=None, causal=False, scale=None, **own):
        query, key, value = _wide(query, key, value)
        logits = _plain(query, key, scale)
        seen, bias = _visible(logits.shape, mask, causal)
        weights = _softmax(logits + bias, seen)
        size = _size(query, key, scale) + np.abs(bias).max(initial=0)
        out, factor = combine(query, weights, value, **own)
        answer = Answer(weights[..., None, :, :], value, size, out=out, amplified=1 + factor)
        answer.peak = answer.peak + np.abs(query).max(initial=0) + np.abs(out).max(initial=0)
        return answer

    return oracle


TYPES = {
    # of entmax 2 sqrt(p) / 2 a weight, summed over S; sparsemax 1 a weight; both twice, for the threshold; sigmoid p
    "entmax": _rows(_entmax_rows, lambda keys: 2 * np.sqrt(keys)),
    "sparsemax": _rows(lambda logits, seen: _entmax_rows(logits, seen, 2), lambda keys: 2.0 * keys),
    "sigmoid": _rows(_sigmoid_rows, lambda keys: 2.0),
    "cosine": cosine,
    "additive": additive,
    "synthesizer": synthesizer,
    "differential": differential,
    "realformer": _heads_with(lambda q_len, kv_len, heads, previous=0.0: np.asarray(previous)),
    "adaptive_span": _heads_with(_spans),
    "rezero": _branch(lambda x, p, v, alpha=0.0: (x + alpha * (p @ v), abs(alpha))),
    "fixup": _branch(
        lambda x, p, v, multiplier=1.0, bias_in=0.0, bias_out=0.0: (
            x + multiplier * (p @ (v + bias_in)) + bias_out,
            abs(multiplier) * (1 + abs(bias_in)) + abs(bias_out),
        )
    ),
    "talking_heads": talking_heads,
}
