"""Oracles and error bounds: one function for each primitive and each attention type, written from the definitions.

Everything is plain NumPy in a type wider than the one under test: float64 for float32 and the 16-bit storage types,
long double for float64. An attention oracle returns an `Expected`, which carries what the bounds need; the bounds are
promises about the library and are never fitted to what it returns.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

try:
    import ml_dtypes

    BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
    HAVE_BFLOAT16 = True
except ImportError:
    # a dtype that no array here has; None would equal float64
    BFLOAT16 = np.dtype("V2")
    HAVE_BFLOAT16 = False

F16, F32, F64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
LONG = np.dtype(np.longdouble)
LONG_IS_WIDER = np.finfo(LONG).nmant >= 63
# x87's 80 bits are as fast as double; the 128 bits of other machines are software, a hundred times slower. There the float64
# oracle is float64 itself, as inexact as the code under test: the bounds of float64 are doubled (see `share`).
LONG_IS_FAST = np.finfo(LONG).nmant == 63


def is_half(dtype):
    return dtype == F16 or dtype == BFLOAT16


def storage_unit(dtype):
    """Unit roundoff of the type that results are stored in."""
    dtype = np.dtype(dtype)
    if dtype == BFLOAT16:
        return 2.0**-8
    return float(np.finfo(dtype).eps) / 2


def unit(dtype):
    """Unit roundoff of the type that is computed in: float32 for 16-bit storage."""
    return 2.0**-24 if is_half(np.dtype(dtype)) else storage_unit(dtype)


def unit_dtype(dtype):
    """The type that is computed in."""
    return F32 if is_half(np.dtype(dtype)) else np.dtype(dtype)


def smallest(dtype):
    """The smallest subnormal: the absolute error of a result that underflows gradually."""
    dtype = np.dtype(dtype)
    if dtype == BFLOAT16:
        return float(ml_dtypes.finfo(dtype).smallest_subnormal)
    return float(np.finfo(dtype).smallest_subnormal)


def wide_type(dtype):
    return LONG if np.dtype(dtype) == F64 and LONG_IS_FAST else F64


def share(dtype):
    """What a bound is multiplied by, because the oracle has the same error as the result."""
    return 2.0 if np.dtype(dtype) == F64 and not LONG_IS_FAST else 1.0


def wide(x, dtype=None):
    x = np.asarray(x)
    return x.astype(wide_type(x.dtype if dtype is None else dtype))


# Primitives ----------------------------------------------------------------------------------------------------------


def dot(a, b):
    return (wide(a) * wide(b)).sum(-1)


def dot_bound(a, b):
    """(ceil(d/16) + 5) u sum|a_i b_i|, and one rounding more where the result is stored in 16 bits."""
    a, b = np.asarray(a), np.asarray(b)
    absolute = np.abs(wide(a) * wide(b)).sum(-1)
    bound = (math.ceil(a.shape[-1] / 16) + 5) * unit(a.dtype) * absolute * share(a.dtype)
    if is_half(a.dtype):
        bound = bound + storage_unit(a.dtype) * absolute
    return bound + smallest(a.dtype)


def total(e, dtype, axis):
    """The sum of non-negative numbers, for a result of `dtype`.

    A float64 oracle in float64 sums exactly: NumPy adds up to sixteen numbers in a chain, which costs one that dominates
    its row more than everything else about the oracle together.
    """
    if np.dtype(dtype) == F64 and not LONG_IS_FAST and e.size:
        return np.expand_dims(np.apply_along_axis(math.fsum, axis, e), axis)
    return e.sum(axis=axis, keepdims=True)


def softmax(x, axis=-1):
    w = wide(x)
    e = np.exp(w - w.max(axis=axis, keepdims=True))
    return e / total(e, np.asarray(x).dtype, axis)


def softmax_bound(x, axis=-1):
    """|p_i - p*_i| <= u (4 + |x_i - max|) p*_i: the shift rounds once, exp, the sum and the division once each."""
    x = np.asarray(x)
    w = wide(x)
    p = softmax(x, axis)
    shift = np.minimum(np.abs(w - w.max(axis=axis, keepdims=True)), 1e6)
    bound = unit(x.dtype) * (4 + shift) * p * share(x.dtype)
    if is_half(x.dtype):
        bound = bound + storage_unit(x.dtype) * p
    return bound + smallest(x.dtype)


def log_softmax(x, axis=-1):
    w = wide(x)
    shift = w - w.max(axis=axis, keepdims=True)
    return shift - np.log(total(np.exp(shift), np.asarray(x).dtype, axis))


def log_softmax_bound(x, axis=-1):
    """The bound of softmax carried through the logarithm.

    The shift and the result round once each: u |x_i - max| + u |y_i|, |y_i| <= |x_i - max| + log n. The sum has relative
    error u (8 + sum_j p_j |x_j - max|) <= u (8 + log n), which the logarithm makes absolute; its own error is 1 ULP, at most
    2 u log n.
    """
    x = np.asarray(x)
    w = wide(x)
    n = x.shape[axis]
    shift = np.abs(w - w.max(axis=axis, keepdims=True))
    bound = unit(x.dtype) * (8 + 2 * shift + 4 * math.log(max(n, 1))) * share(x.dtype)
    if is_half(x.dtype):
        bound = bound + storage_unit(x.dtype) * np.abs(log_softmax(x, axis))
    return bound + smallest(x.dtype)


def erf(x):
    """erf by its all-positive series exp(-x^2) 2/sqrt(pi) sum 2^n x^(2n+1) / (2n+1)!!, in long double."""
    x = np.asarray(x).astype(LONG)
    a = np.minimum(np.abs(x), LONG.type(9))
    square = a * a
    term = a.copy()
    total = a.copy()
    for n in range(1, 600):
        term = term * 2 * square / (2 * n + 1)
        total = total + term
        if not (term > total * LONG.type(2.0) ** -80).any():
            break
    # pi to 36 digits, as a sum that long double represents better than one float64 constant
    pi = LONG.type("3.14159265358979323846264338327950288")
    result = np.exp(-square) * 2 / np.sqrt(pi) * total
    result = np.where(np.abs(x) >= 9, LONG.type(1), np.minimum(result, LONG.type(1)))
    return np.where(np.isnan(x), x, np.copysign(result, x))


def turned(x, ahead):
    """sin(pi x) for `ahead` 0, cos(pi x) for 1: the reduction to |r| <= 1/4 is exact."""
    pi = LONG.type("3.14159265358979323846264338327950288")
    a = np.fmod(np.abs(x), 2)
    turns = np.rint(2 * a)
    angle = (a - turns / 2) * pi
    turns = np.where(np.isfinite(turns), turns, 0).astype(int) + ahead
    y = np.where(turns % 2, np.cos(angle), np.sin(angle)) * np.where(turns % 4 >= 2, -1, 1)
    return y if ahead else y * np.where(np.signbit(x), -1, 1)


MAPS = {
    "exp": lambda x: np.exp(x),
    "exp2": lambda x: np.exp2(x),
    "log": lambda x: np.log(x),
    "tanh": lambda x: np.tanh(x),
    "erf": erf,
    "asinh": lambda x: np.arcsinh(x),
    "sinpi": lambda x: turned(x, 0),
    "cospi": lambda x: turned(x, 1),
}


def elementwise(name, x):
    """The function `name` of the exact values of x, in long double (float64 where that is all there is)."""
    with np.errstate(all="ignore"):
        return MAPS[name](np.asarray(x).astype(LONG))


def ulp_error(actual, exact, dtype):
    """|actual - exact| in units in the last place of `exact`, subnormal spacing included.

    Where both are infinite of one sign, or both NaN, the error is 0; where only one is, infinity. A finite exact value
    that lies beyond the largest number by half a unit or more counts as infinite.
    """
    dtype = np.dtype(dtype)
    info = np.finfo(dtype)
    actual = np.asarray(actual).astype(LONG)
    exact = np.asarray(exact).astype(LONG)
    with np.errstate(all="ignore"):
        _, exponent = np.frexp(exact)
        digits = info.nmant + 1
        spacing = np.ldexp(LONG.type(1), np.maximum(exponent - digits, int(info.minexp) - info.nmant))
        overflow = np.abs(exact) >= LONG.type(info.max) + np.ldexp(LONG.type(1), int(info.maxexp) - digits - 1)
        exact = np.where(overflow, np.copysign(LONG.type(np.inf), exact), exact)
        error = np.abs(actual - exact) / spacing
        same = (actual == exact) | (np.isnan(actual) & np.isnan(exact))
        error = np.where(same, 0, np.where(np.isfinite(actual) & np.isfinite(exact), error, np.inf))
    return error.astype(np.float64)


# Top-k and routing ---------------------------------------------------------------------------------------------------


def topk(x, k):
    """values, indices: NaN first, then the largest; of equal elements the lower index."""
    x = np.asarray(x)
    exact = np.where(np.isnan(x), 0, x).astype(LONG)
    order = np.lexsort((np.broadcast_to(np.arange(x.shape[-1]), x.shape), -exact, ~np.isnan(x)), axis=-1)[..., :k]
    return np.take_along_axis(x, order, -1), order


def top_k_gating(logits, k, order="softmax_topk", normalize=True):
    """indices, weights, and the bound of the weights: that of a softmax, over the chosen or over all.

    A row with a NaN has the experts 0 to k - 1 and NaN weights.
    """
    logits = np.asarray(logits)
    poisoned = np.isnan(logits).any(-1, keepdims=True)
    chosen = np.where(poisoned, np.arange(k), topk(logits, k)[1])
    with np.errstate(all="ignore"):
        if order == "topk_softmax" or normalize:
            part = np.take_along_axis(logits, chosen, -1)
            weights, bound = softmax(part), softmax_bound(part)
        else:
            weights, bound = (np.take_along_axis(f(logits), chosen, -1) for f in (softmax, softmax_bound))
    return chosen, np.where(poisoned, np.nan, weights), bound


def splitmix64(seed, count):
    """The first draws of SplitMix64, in Python's integers."""
    mask, draws = 2**64 - 1, []
    for i in range(1, count + 1):
        z = (seed + i * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        draws.append(z ^ (z >> 31))
    return draws


def fixed_uniform(seed, shape):
    """Parameters that nobody gave: 2 u - 1, u the upper 53 bits of a draw as a fraction."""
    return np.array([2 * (z >> 11) * 2.0**-53 - 1 for z in splitmix64(seed, math.prod(shape))]).reshape(shape)


def gate_weights(dim, num_experts, seed=42):
    return math.sqrt(6 / (dim + num_experts)) * fixed_uniform(seed, (dim, num_experts))


def kept(indices, capacity):
    """Which assignments (tokens, k) find their place, one after the other."""
    taken, result = {}, np.zeros(indices.shape, bool)
    for token, experts in enumerate(indices.tolist()):
        for choice, e in enumerate(experts):
            taken[e] = taken.get(e, 0) + 1
            result[token, choice] = taken[e] <= capacity
    return result


# Attention -----------------------------------------------------------------------------------------------------------


@dataclass
class Expected:
    """What a call must return, and the quantities of its error bound."""

    out: np.ndarray  # (..., L, dv)
    lse: np.ndarray  # (..., L)
    kappa: np.ndarray  # (..., L): scale * max_j sum_i |q_i||k_ji| + max |bias| over the visible keys
    peak: np.ndarray  # (..., L, dv): max |V_jc| over the visible keys
    weights: np.ndarray  # (..., L, S)
    visible: np.ndarray  # (..., L, S)
    dtype: np.dtype
    dim: int  # width of query and key

    def bound(self):
        """u max_j|V_jc| (8 + 4 kappa), + 3 u_out max|V| for 16-bit storage."""
        u = unit(self.dtype) * share(self.dtype)
        bound = u * self.peak * (8 + 4 * self.kappa[..., None])
        if is_half(self.dtype):
            bound = bound + 3 * storage_unit(self.dtype) * self.peak
        return bound + smallest(self.dtype)

    def merged_bound(self, levels=1):
        """States merged: their errors, averaged, and one rounding of the result for every level of the tree."""
        return self.bound() + levels * storage_unit(self.dtype) * self.peak

    def lse_bound(self):
        """The log-sum-exp moves as much as the worst logit: the bound of a dot product and 3 u for scale and change of base.

        8 u for the sum, as in the bound of the output; and 2 ULP of the logarithm in float64, the type of the result.
        """
        logit = math.ceil(self.dim / 16) + 5 + 3
        own = np.where(np.isfinite(self.lse), 2.0**-51 * np.abs(self.lse), 0)
        return unit(self.dtype) * (8 + logit * self.kappa) * share(self.dtype) + own


class Weights:
    """The weights of an Expected as attention_scores returns them, and their bound."""

    def __init__(self, result):
        # numerator and denominator move by the worst logit each (see lse_bound), 8 u for exp, sum and division
        logit = math.ceil(result.dim / 16) + 5 + 3 + getattr(result, "logit", 0)
        u = unit(result.dtype) * share(result.dtype)
        extra = np.asarray(getattr(result, "extra", 0.0))[..., None]
        bound = u * (8 + 2 * logit * result.kappa[..., None] + extra) * result.weights
        if is_half(result.dtype):
            # as in the bound of the output: a weight may round when stored, and the mean over heads again
            bound = bound + 3 * storage_unit(result.dtype) * result.weights
        if isinstance(result, LinearExpected):
            bound = result.weights_bound()
        self.exact, self.bound = result.weights, bound
        if isinstance(result, HeadedExpected):
            self.exact, self.bound = (x.mean(-3) for x in (self.exact, self.bound))
            if result.single:
                self.exact, self.bound = self.exact[..., 0, :], self.bound[..., 0, :]
        # weights below the least normal number may underflow
        least = {F64: 2.0**-1022, F16: smallest(F16)}.get(result.dtype, 2.0**-126)
        self.bound = self.bound + least


def common_dtype(*arrays):
    """The dtype of a result: NumPy's promotion of the inputs, integers and bools as float64."""
    dtypes = [np.asarray(a).dtype for a in arrays]
    result = dtypes[0] if len(set(dtypes)) == 1 else np.result_type(*dtypes)
    return F64 if result.kind in "bui" else np.dtype(result)


def positions(q_len, kv_len, offset=0, left=None, right=None):
    """Boolean (L, S): key j lies in [p - left, p + right] of the position p = i + offset of query i."""
    p = np.arange(q_len)[:, None] + offset
    j = np.arange(kv_len)[None, :]
    seen = np.ones((q_len, kv_len), bool)
    if left is not None:
        seen &= j >= p - left
    if right is not None:
        seen &= j <= p + right
    return seen


def attend(query, key, value, visible, bias=None, scale=None, softcap=0.0, dtype=None):
    """softmax(softcap(scale q.k) + bias) V over the visible keys of every row, hidden positions contributing nothing.

    query (..., L, d), key (..., S, d), value (..., S, dv) with leading axes that broadcast; visible and bias broadcast to
    (..., L, S). A bias of -inf hides its key. A row that sees nothing is 0 with log-sum-exp -inf. `dtype`: that of the call,
    where the arrays are wide already.
    """
    dtype = common_dtype(query, key, value) if dtype is None else dtype
    q, k, v = wide(query, dtype), wide(key, dtype), wide(value, dtype)
    if scale is None:
        scale = 1 / np.sqrt(wide_type(dtype).type(q.shape[-1]))
    with np.errstate(all="ignore"):
        keys_t = np.swapaxes(k, -1, -2)
        logits = (q @ keys_t) * scale
        kappa = (np.abs(q) @ np.abs(keys_t)) * abs(scale)
        if softcap:
            logits = softcap * np.tanh(logits / softcap)
        batch = np.broadcast_shapes(logits.shape[:-2], v.shape[:-2])
        if bias is not None:
            bias = wide(bias, dtype)
            batch = np.broadcast_shapes(batch, bias.shape[:-2])
        batch = np.broadcast_shapes(batch, np.shape(visible)[:-2])
        full = (*batch, q.shape[-2], k.shape[-2])
        visible = np.broadcast_to(visible, full)
        size = np.zeros(full[:-1], q.dtype)
        if bias is not None:
            hidden = np.isneginf(bias)
            visible = visible & ~hidden
            logits = logits + np.where(hidden, 0, bias)
            size = np.where(visible, np.abs(np.where(hidden, 0, bias)), 0).max(-1, initial=0)
        logits = np.where(visible, logits, -np.inf)
        kappa = np.where(visible, np.broadcast_to(kappa, full), 0).max(-1, initial=0) + size
        some = visible.any(-1, keepdims=True)
        top = logits.max(-1, keepdims=True, initial=-np.inf)
        e = np.where(visible, np.exp(logits - np.where(some, top, 0)), 0)
        total = e.sum(-1, keepdims=True)
        weights = np.where(some, e / np.where(some, total, 1), 0)
        lse = np.where(some[..., 0], (top + np.log(total))[..., 0], -np.inf)
        if np.isfinite(v).all():
            out = weights @ v
        else:
            product = weights[..., None] * v[..., None, :, :]
            out = np.where(visible[..., None], product, 0).sum(-2)
        peak = visible_peak(visible, v, full)
    return Expected(out, lse, kappa, peak, weights, visible, dtype, q.shape[-1])


def visible_peak(visible, v, full):
    """max |V_jc| over the keys that a row sees."""
    magnitude = np.abs(v)
    if visible.all() and full[-1]:
        peak = magnitude.max(-2, keepdims=True)
        return np.broadcast_to(peak, (*full[:-1], v.shape[-1]))
    magnitude = np.broadcast_to(magnitude, (*full[:-2], *v.shape[-2:]))
    peak = np.zeros((*full[:-1], v.shape[-1]), v.dtype)
    for row in range(full[-2]):
        seen = visible[..., row, :, None]
        peak[..., row, :] = np.where(seen, magnitude, 0).max(-2, initial=0)
    return peak


def split_mask(mask):
    """A public mask as (visible, bias): a boolean mask says who is seen, a float mask is added."""
    if mask is None:
        return True, None
    mask = np.asarray(mask)
    if mask.dtype == bool:
        return mask, None
    return True, mask


def repeat_heads(query, *arrays):
    """Keys or values with fewer heads than the query, each repeated for the query heads of its group."""
    heads = query.shape[-3]
    return [a if a.shape[-3] == heads else np.repeat(a, heads // a.shape[-3], axis=-3) for a in arrays]


def alibi_bias(slopes, q_len, kv_len, offset=0, dtype=F64):
    """-slope |p - j|, p = i + offset; slopes (H,) or (B, H)."""
    distance = np.abs(np.arange(q_len)[:, None] + offset - np.arange(kv_len)[None, :])
    return -wide(slopes, dtype)[..., None, None] * distance


def as_rows(query):
    """A single query (d,) as one row; the second result undoes it."""
    query = np.asarray(query)
    return (query[None, :], True) if query.ndim == 1 else (query, False)


def core(query, key, value, mask=None, causal=False, offset=0, window=None, slopes=None, scale=None, softcap=0.0):
    """The composition that every type of the dense family lowers to; `offset` is the position of the first query."""
    query, key, value = np.asarray(query), np.asarray(key), np.asarray(value)
    left, right = window or (None, None)
    q_len, kv_len = query.shape[-2], key.shape[-2]
    seen = positions(q_len, kv_len, offset, left, right)
    if causal:
        seen &= positions(q_len, kv_len, offset, None, 0)
    visible, bias = split_mask(mask)
    if slopes is not None:
        linear = alibi_bias(slopes, q_len, kv_len, offset, common_dtype(query, key, value))
        bias = linear if bias is None else wide(bias, linear.dtype) + linear
    return attend(query, key, value, seen & visible, bias, scale, softcap)


def scaled_dot_product_attention(
    query,
    key,
    value,
    attn_mask=None,
    is_causal=False,
    scale=None,
    enable_gqa=False,
    softcap=0.0,
    window=None,
    alibi_slopes=None,
):
    """Causal, window and ALiBi count from the top-left diagonal: query i stands at position i."""
    query, key, value = np.asarray(query), np.asarray(key), np.asarray(value)
    if enable_gqa:
        key, value = repeat_heads(query, key, value)
    return core(query, key, value, attn_mask, is_causal, 0, window, alibi_slopes, scale, softcap)


def varlen_attention(
    query,
    key,
    value,
    cu_seqlens_q,
    cu_seqlens_k,
    causal=False,
    scale=None,
    softcap=0.0,
    window=None,
    alibi_slopes=None,
):
    """Every sequence on its own, (rows, heads, d); positions are aligned to the end of the sequence's keys."""
    parts = []
    for s in range(len(cu_seqlens_q) - 1):
        q = np.swapaxes(query[cu_seqlens_q[s] : cu_seqlens_q[s + 1]], 0, 1)
        k = np.swapaxes(key[cu_seqlens_k[s] : cu_seqlens_k[s + 1]], 0, 1)
        v = np.swapaxes(value[cu_seqlens_k[s] : cu_seqlens_k[s + 1]], 0, 1)
        k, v = repeat_heads(q, k, v)
        slopes = alibi_slopes
        if slopes is not None and np.ndim(slopes) == 2:
            slopes = np.asarray(slopes)[s]
        offset = k.shape[-2] - q.shape[-2]
        parts.append(core(q, k, v, None, causal, offset, window, slopes, scale, softcap))
    join = lambda name: np.concatenate([np.swapaxes(getattr(p, name), 0, 1) for p in parts])
    return Expected(join("out"), join("lse"), join("kappa"), join("peak"), None, None, parts[0].dtype, parts[0].dim)


def cache_attention(query, keys, values, computed, window=None, slopes=None, scale=None, softcap=0.0):
    """Attention of the last tokens' queries over a cache that holds `keys` and `values`: causal, query i of L at position
    length - L + i, a window of that many keys up to its own. `computed`: the type of the arithmetic, float32 or float64.
    """
    query, keys, values = (np.asarray(x).astype(F64) for x in (np.asarray(query).astype(computed), keys, values))
    keys, values = repeat_heads(query, keys, values)
    offset = keys.shape[-2] - query.shape[-2]
    sides = None if window is None else (window - 1, None)
    exact = core(query, keys, values, None, True, offset, sides, slopes, scale, softcap)
    return dataclasses.replace(exact, dtype=np.dtype(computed))


def quantised(x):
    """int8 codes and float32 scales of rows: scale = max|row| / 127, codes round to nearest, ties to even, exactly."""
    x = np.asarray(x).astype(F32)
    most = np.abs(x.astype(F64)).max(-1)
    scales = (most / 127).astype(F32)
    # rounded up where subnormal, so that no code is above 127
    low = (scales < np.finfo(F32).tiny) & (scales.astype(F64) < most / 127)
    scales = np.where(low, np.nextafter(scales, F32.type(1)), scales)
    exact = x.astype(LONG) / np.where(scales == 0, 1, scales).astype(LONG)[..., None]
    return np.where(scales[..., None] == 0, 0, np.rint(exact)).astype(np.int8), scales


def quantisation_bound(query, keys, values, scale):
    """How far attention moves when keys and values are quantised, for each query: (..., L, dv).

    An element of a row moves by half its scale, m / 254 (1 + u) with m = max|row|; so a logit moves by at most
    delta = scale sum|q_i| max_j m_j / 254, a weight by a factor within exp(+-2 delta), and the output by at most
    (exp(2 delta) - 1) max|V| + max_j m_j / 254 of the values.
    """
    query, keys, values = (np.asarray(x).astype(F64) for x in (query, keys, values))
    keys, values = repeat_heads(query, keys, values)
    half = (1 + 2.0**-23) / 254
    delta = abs(scale) * np.abs(query).sum(-1) * np.abs(keys).max((-1, -2), initial=0)[..., None] * half
    peak = np.abs(values).max((-1, -2), initial=0)[..., None]
    return (np.expm1(2 * delta) * peak + peak * half)[..., None]


def merge_states(outputs, lses):
    """sum_i exp(lse_i - lse) out_i with lse = log sum_i exp(lse_i); (0, -inf) is the identity."""
    outputs = np.stack([wide(o, F64) for o in outputs])
    lses = np.stack([np.asarray(x).astype(LONG) for x in lses])
    with np.errstate(all="ignore"):
        top = lses.max(0)
        shift = np.where(np.isneginf(top), 0, top)
        weights = np.exp(lses - shift)
        total = weights.sum(0)
        lse = np.where(np.isneginf(top), -np.inf, shift + np.log(total))
        out = (weights[..., None] * outputs).sum(0) / np.where(total == 0, 1, total)[..., None]
    return out, lse


# The attention types -------------------------------------------------------------------------------------------------


def bottom_right(query, key, value, mask=None, causal=False, scale=None, window=None, slopes=None, softcap=0.0):
    """A type's own alignment: query i stands at i + (S - L). Accepts a single query (d,)."""
    query, single = as_rows(query)
    key, value = np.asarray(key), np.asarray(value)
    if single and mask is not None and np.ndim(mask) == 1:
        mask = np.asarray(mask)[None, :]
    offset = key.shape[-2] - query.shape[-2]
    result = core(query, key, value, mask, causal, offset, window, slopes, scale, softcap)
    return drop_row(result) if single else result


def drop_row(result):
    return Expected(
        result.out[..., 0, :],
        result.lse[..., 0],
        result.kappa[..., 0],
        result.peak[..., 0, :],
        result.weights[..., 0, :],
        result.visible[..., 0, :],
        result.dtype,
        result.dim,
    )


def split_heads(x, heads):
    """(..., L, H d) as (..., H, L, d): contiguous slices of the width."""
    x = np.asarray(x)
    return np.swapaxes(x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads), -2, -3)


def merge_heads(x):
    x = np.swapaxes(x, -2, -3)
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


class HeadedExpected(Expected):
    """An Expected over heads whose public output has the heads concatenated."""

    def bound(self):
        return self.layout(super().bound())

    def layout(self, x):
        x = merge_heads(x)
        return x[..., 0, :] if self.single else x


def headed(query, key, value, heads, kv_heads, **options):
    """Heads are contiguous slices of the width.

    A mask broadcasts to (..., L, S) for all heads alike; with one axis more than the inputs, to (..., heads, L, S).
    """
    query, single = as_rows(query)
    key, value = np.asarray(key), np.asarray(value)
    mask = options.pop("mask", None)
    if single and mask is not None and np.ndim(mask) == 1:
        mask = np.asarray(mask)[None, :]
    if mask is not None and 2 < np.ndim(mask) <= max(query.ndim, key.ndim, value.ndim):
        mask = np.expand_dims(mask, -3)
    q, k, v = split_heads(query, heads), split_heads(key, kv_heads), split_heads(value, kv_heads)
    k, v = repeat_heads(q, k, v)
    result = bottom_right(q, k, v, mask=mask, **options)
    result = HeadedExpected(**vars(result))
    result.single = single
    result.out = result.layout(result.out)
    return result


def scaled_dot(query, key, value, *, mask=None, causal=False, scale=None, softcap=0.0):
    return bottom_right(query, key, value, mask, causal, scale, softcap=softcap)


def multi_head(query, key, value, *, num_heads=8, mask=None, causal=False, scale=None):
    return headed(query, key, value, num_heads, num_heads, mask=mask, causal=causal, scale=scale)


def flash_v2(
    query,
    key,
    value,
    *,
    block_size=64,
    block_size_q=0,
    block_size_kv=0,
    softcap=0.0,
    mask=None,
    causal=False,
    scale=None,
):
    """Blocks change the order of summation only."""
    return bottom_right(query, key, value, mask, causal, scale, softcap=softcap)


def cross(query, key, value, *, mask=None, causal=False, scale=None):
    return bottom_right(query, key, value, mask, causal, scale)


def self_attention(query, key, value, *, mask=None, causal=False, scale=None):
    return bottom_right(query, key, value, mask, causal, scale)


def causal(query, key, value, *, mask=None, scale=None):
    return bottom_right(query, key, value, mask, True, scale)


def grouped_query(query, key, value, *, num_heads=8, num_kv_heads=2, mask=None, causal=False, scale=None):
    return headed(query, key, value, num_heads, num_kv_heads, mask=mask, causal=causal, scale=scale)


def multi_query(query, key, value, *, num_heads=8, mask=None, causal=False, scale=None):
    return headed(query, key, value, num_heads, 1, mask=mask, causal=causal, scale=scale)


def alibi_slopes(heads):
    """2^(-8 h / H), h = 1..H."""
    return 2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)


def alibi(query, key, value, *, num_heads=8, slopes=None, mask=None, causal=False, scale=None):
    slopes = alibi_slopes(num_heads) if slopes is None else slopes
    return headed(query, key, value, num_heads, num_heads, slopes=slopes, mask=mask, causal=causal, scale=scale)


def sliding_window(query, key, value, *, window_size=256, mask=None, causal=False, scale=None):
    """Keys j in (p - W, p]."""
    return bottom_right(query, key, value, mask, causal, scale, window=(window_size - 1, 0))


def local(query, key, value, *, window_size=256, mask=None, causal=False, scale=None):
    """Keys with |p - j| <= W // 2."""
    half = window_size // 2
    return bottom_right(query, key, value, mask, causal, scale, window=(half, half))


def seen_by(visible, query, key, value, mask, causal, scale):
    """Attention over the keys that `visible(p, j, L, S)` shows, p and j the positions as a column and a row."""
    query, single = as_rows(query)
    key, value = np.asarray(key), np.asarray(value)
    if single and mask is not None and np.ndim(mask) == 1:
        mask = np.asarray(mask)[None, :]
    q_len, kv_len = query.shape[-2], key.shape[-2]
    p, j = np.arange(q_len)[:, None] + kv_len - q_len, np.arange(kv_len)[None, :]
    seen, bias = split_mask(mask)
    seen = np.broadcast_to(visible(p, j, q_len, kv_len), (q_len, kv_len)) & seen if visible else seen
    result = attend(query, key, value, seen & (j <= p) if causal else seen, bias, scale)
    return drop_row(result) if single else result


def sparse_visible(pattern, stride, summary, bidirectional):
    """Child et al. 2019: strided and fixed."""

    def visible(p, j, q_len, kv_len):
        step = max(1, round(math.sqrt(kv_len))) if stride is None else stride
        if pattern == "strided":
            seen = ((j > p - step) & (j < p + step)) | ((p - j) % step == 0)
        else:
            seen = (j // step == p // step) | (j % step >= step - (summary or 1))
        return seen if bidirectional else seen & (j <= p)

    return visible


def sparse(
    query,
    key,
    value,
    *,
    pattern="strided",
    stride=None,
    summary=None,
    bidirectional=False,
    mask=None,
    causal=False,
    scale=None,
):
    """Patterns that are values are the tests' own: functions of (p, j, L, S) in `reference.PATTERNS`."""
    visible = PATTERNS.get(pattern) or sparse_visible(pattern, stride, summary, bidirectional)
    return seen_by(visible, query, key, value, mask, causal, scale)


# Pattern -> what it shows, for patterns that tests pass to the type `sparse`.
PATTERNS = {}


def dilated(query, key, value, *, window_size=64, dilation=2, mask=None, causal=False, scale=None):
    """Keys p + dilation t, |t| <= W // 2."""

    def visible(p, j, q_len, kv_len):
        return np.isin(j - p, dilation * np.arange(-(window_size // 2), window_size // 2 + 1))

    return seen_by(visible, query, key, value, mask, causal, scale)


def longformer(query, key, value, *, window_size=512, global_tokens=1, mask=None, causal=False, scale=None):
    """|p - j| <= W // 2, or one of them is a global token."""
    tokens = np.arange(global_tokens) if np.ndim(global_tokens) == 0 else np.asarray(global_tokens)

    def visible(p, j, q_len, kv_len):
        return (np.abs(p - j) <= window_size // 2) | np.isin(j, tokens) | np.isin(p, tokens)

    return seen_by(visible, query, key, value, mask, causal, scale)


def bigbird_visible(block_size=64, window_blocks=3, global_blocks=2, random_blocks=3, seed=0):
    """Block b of positions sees blocks k near it, the first ones, and of the others those with the smallest draws b n + k."""

    def visible(p, j, q_len, kv_len):
        blocks = -(-kv_len // block_size)
        draws = fixed_uniform(seed, (blocks, blocks))
        seen = np.zeros((len(p), kv_len), bool)
        for row, b in enumerate(p[:, 0] // block_size):
            near = {k for k in range(blocks) if window_blocks and abs(b - k) <= window_blocks // 2} | set(
                range(min(global_blocks, blocks))
            )
            if 0 <= b < global_blocks:
                near = set(range(blocks))
            others = sorted(set(range(blocks)) - near, key=lambda k: draws[b, k]) if b >= 0 else []
            seen[row] = np.isin(j[0] // block_size, [*near, *others[:random_blocks]])
        return seen

    return visible


def bigbird(query, key, value, *, mask=None, causal=False, scale=None, **blocks):
    return seen_by(bigbird_visible(**blocks), query, key, value, mask, causal, scale)


def axial(query, key, value, *, height=None, width=None, mask=None, causal=False, scale=None):
    """The same row or the same column of a grid."""

    def visible(p, j, q_len, kv_len):
        columns = width or math.ceil(kv_len / height if height else math.sqrt(kv_len))
        return (p // columns == j // columns) | (p % columns == j % columns)

    return seen_by(visible, query, key, value, mask, causal, scale)


def block_sparse(query, key, value, *, layout=None, block_size=128, mask=None, causal=False, scale=None):
    """layout[i // block, j // block]; without a layout, blocks of positions and their neighbours."""

    def visible(p, j, q_len, kv_len):
        if layout is None:
            return np.abs(p // block_size - j // block_size) <= 1
        return np.asarray(layout)[np.arange(q_len)[:, None] // block_size, j // block_size]

    return seen_by(visible, query, key, value, mask, causal, scale)


class MixtureExpected(Expected):
    """Experts' attention outputs added with gate weights; `parts` are (Expected, rows, weight, error of the weight, |W_o|)."""

    def bound(self):
        """The experts' bounds and gates' errors, and a rounding for each weight's product and sum, and of the result."""
        u = unit(self.dtype) * share(self.dtype)
        total = np.zeros(self.out.reshape(-1, self.out.shape[-1]).shape)
        for part, rows, weight, error, w_o in self.parts:
            own, peak = part.attention_bound, part.peak
            if w_o is not None:
                # the product of a projection: one rounding for each term and each sum
                own, peak = own @ w_o + (len(w_o) + 1) * u * (peak @ w_o), peak @ w_o
            total[rows] += weight[:, None] * (own + (self.top_k + 2) * u * peak) + error[:, None] * peak
        total = total.reshape(self.out.shape)
        if is_half(self.dtype):
            total = total + storage_unit(self.dtype) * np.abs(self.out)
        return total + smallest(self.dtype)


def moe(
    query,
    key,
    value,
    *,
    num_experts=8,
    top_k=2,
    capacity_factor=None,
    jitter_noise=0.0,
    gate=None,
    w_q=None,
    w_o=None,
    mask=None,
    causal=False,
    scale=None,
    noise=None,
):
    """Expert e attends with slice e of query and key, or with q W_q[e]; the chosen experts are added with their gates.

    Keys and values are those after w_k and w_v. `noise` multiplies the router's input: what jitter draws.
    """
    query, single = as_rows(query)
    dtype = common_dtype(query, key, value)
    working = unit_dtype(dtype)
    query, key, value = (np.asarray(x).astype(working) for x in (query, key, value))
    if single and mask is not None and np.ndim(mask) == 1:
        mask = np.asarray(mask)[None, :]
    q_len, kv_len, width = query.shape[-2], key.shape[-2], query.shape[-1]
    lead = np.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    query = np.broadcast_to(query, (*lead, q_len, width)).reshape(-1, q_len, width)
    gate = (gate_weights(width, num_experts) if gate is None else np.asarray(gate)).astype(working)
    batch = query.shape[0]
    key, value = (np.broadcast_to(x, (*lead, *x.shape[-2:])).reshape(batch, *x.shape[-2:]) for x in (key, value))
    tokens = query.reshape(-1, width) if noise is None else (query.reshape(-1, width) * noise.astype(working))
    logits = wide(tokens) @ wide(gate)
    u = unit(dtype) * share(dtype)
    # a product of the router: width terms in any order; a weight moves by the errors of two logits, and by its softmax
    moved = (width + 2) * u * (np.abs(wide(tokens)) @ np.abs(wide(gate))).max(-1)
    chosen, weights, bound = top_k_gating(logits, top_k)
    margin = np.sort(logits, -1)[:, ::-1]
    if top_k < num_experts:
        assert (margin[:, top_k - 1] - margin[:, top_k] > 2 * moved).all(), "rounding may choose another expert"
    errors = weights * (2 * moved[:, None] + 4 * u) + u * (4 + (margin[:, :1] - margin[:, -1:])) * weights
    if capacity_factor is not None:
        capacity = math.ceil(top_k * len(tokens) / num_experts * capacity_factor)
        drop = ~kept(chosen, capacity)
        weights, errors = np.where(drop, 0, weights), np.where(drop, 0, errors)
    offset = kv_len - q_len
    seen, bias = split_mask(mask)
    full = (*lead, q_len, kv_len)
    seen = np.broadcast_to(seen, full).reshape(batch, q_len, kv_len)
    bias = None if bias is None else np.broadcast_to(bias, full).reshape(batch, q_len, kv_len)
    if causal:
        seen = seen & positions(q_len, kv_len, offset, None, 0)
    v_width = value.shape[-1]
    out = np.zeros((len(tokens), v_width if w_o is None else np.shape(w_o)[2]), wide_type(working))
    parts = []
    head = width // num_experts
    for e in range(num_experts):
        rows = np.flatnonzero((chosen == e).any(-1) & (np.where(chosen == e, weights, 0).sum(-1) > 0))
        weight = np.where(chosen == e, weights, 0).sum(-1)[rows]
        error = np.where(chosen == e, errors, 0).sum(-1)[rows]
        columns = slice(e * head, (e + 1) * head) if w_q is None else slice(None)
        for b in range(batch):
            mine = rows // q_len == b
            at = rows[mine] % q_len
            q = query[b, at][:, columns] if w_q is None else query[b, at]
            moved_q = None
            if w_q is not None:
                projection = np.asarray(w_q)[e].astype(working)
                moved_q = (width + 2) * u * (np.abs(wide(q)) @ np.abs(wide(projection)))
                q = (wide(q) @ wide(projection)).astype(working)
            part = attend(q, key[b][:, columns], value[b], seen[b, at], None if bias is None else bias[b, at], scale)
            part.attention_bound = Expected.bound(part)
            if moved_q is not None:
                factor = 1 / math.sqrt(key.shape[-1]) if scale is None else abs(scale)
                part.attention_bound = (
                    part.attention_bound
                    + 2 * factor * part.peak * ((moved_q @ np.abs(wide(key[b])).T).max(-1, initial=0)[:, None])
                )
            o = None if w_o is None else np.asarray(w_o)[e].astype(working)
            result = part.out if o is None else part.out @ wide(o)
            out[rows[mine]] += weight[mine, None] * result
            parts.append((part, rows[mine], weight[mine], error[mine], None if o is None else np.abs(wide(o))))
    out = out.reshape(*lead, q_len, -1)
    expected = MixtureExpected(out[0] if single else out, None, None, None, None, None, dtype, width)
    expected.parts, expected.top_k = parts, top_k
    return expected


# Graphs --------------------------------------------------------------------------------------------------------------


def leaky(x, slope):
    return np.where(x > 0, x, slope * x)


def edge_counts(edge_index, targets, sources):
    """(targets, sources): how often each edge comes; every pair once without edges."""
    if edge_index is None:
        return np.ones((targets, sources))
    counts = np.zeros((targets, sources))
    np.add.at(counts, (edge_index[1], edge_index[0]), 1)
    return counts


def graph_type(query, key, value, logits, edge_index, num_heads, mask, causal, scale):
    """Attention over the edges key -> query; logits(q, k) gives heads' logits (..., H, L, S) and the size of their terms."""
    query, single = as_rows(query)
    key, value = np.asarray(key), np.asarray(value)
    dtype, dim = common_dtype(query, key, value), query.shape[-1] // num_heads
    q, k, v = (split_heads(wide(x, dtype), num_heads) for x in (query, key, value))
    scale = 1.0 if scale is None else scale
    q_len, kv_len = q.shape[-2], k.shape[-2]
    if single and mask is not None and np.ndim(mask) == 1:
        mask = np.asarray(mask)[None, :]
    if mask is not None and 2 < np.ndim(mask) <= max(query.ndim, key.ndim, value.ndim):
        mask = np.expand_dims(mask, -3)
    visible, bias = split_mask(mask)
    batch = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    counts = edge_counts(edge_index, q_len, kv_len)
    visible = np.broadcast_to(np.asarray(visible) & (counts > 0), (*batch, q_len, kv_len))
    if causal:
        visible = visible & positions(q_len, kv_len, kv_len - q_len, None, 0)
    with np.errstate(all="ignore"):
        e, size = (np.broadcast_to(x * s, visible.shape) for x, s in zip(logits(q, k), (scale, abs(scale))))
        if bias is not None:
            bias = wide(bias, dtype)
            visible = visible & ~np.isneginf(bias)
            e, size = e + np.where(visible, bias, 0), size + np.where(visible, np.abs(bias), 0)
        e = np.where(visible, e, -np.inf)
        some = visible.any(-1, keepdims=True)
        top = e.max(-1, keepdims=True, initial=-np.inf)
        p = np.where(visible, counts * np.exp(e - np.where(some, top, 0)), 0)
        weights = p / np.where(some, p.sum(-1, keepdims=True), 1)
        if np.isfinite(v).all():
            out = weights @ v
        else:
            out = np.where(visible[..., None], weights[..., None] * v[..., None, :, :], 0).sum(-2)
    kappa = np.where(visible, size, 0).max(-1, initial=0)
    result = HeadedExpected(out, None, kappa, visible_peak(visible, v, visible.shape), weights, visible, dtype, dim)
    result.single = single
    result.out = result.layout(result.out)
    return result


def graph_vector(a, seed, num_heads, dim, dtype):
    if a is None:
        a = fixed_uniform(seed, (num_heads, dim)) * np.sqrt(6 / (num_heads + dim))
    # given in float64, taken in the type of the arithmetic
    return wide(np.asarray(a).astype(F64 if dtype == F64 else F32), dtype)


def gat_type(
    query,
    key,
    value,
    *,
    num_heads=8,
    edge_index=None,
    a_src=None,
    a_dst=None,
    negative_slope=0.2,
    mask=None,
    causal=False,
    scale=None,
):
    """LeakyReLU(a_dst . q + a_src . k), heads slices of the width."""
    dtype = common_dtype(query, key, value)
    dim = np.shape(query)[-1] // num_heads
    a_src, a_dst = graph_vector(a_src, 1, num_heads, dim, dtype), graph_vector(a_dst, 2, num_heads, dim, dtype)

    def logits(q, k):
        x = (q @ a_dst[:, :, None]) + np.swapaxes(k @ a_src[:, :, None], -1, -2)
        size = (abs(q) @ abs(a_dst[:, :, None])) + np.swapaxes(abs(k) @ abs(a_src[:, :, None]), -1, -2)
        return leaky(x, negative_slope), max(1, abs(negative_slope)) * size

    return graph_type(query, key, value, logits, edge_index, num_heads, mask, causal, scale)


def gatv2_type(
    query, key, value, *, num_heads=8, edge_index=None, a=None, negative_slope=0.2, mask=None, causal=False, scale=None
):
    """a . LeakyReLU(q + k), heads slices of the width."""
    dtype = common_dtype(query, key, value)
    a = graph_vector(a, 2, num_heads, np.shape(query)[-1] // num_heads, dtype)

    def logits(q, k):
        sums, size = q[..., :, None, :] + k[..., None, :, :], abs(q)[..., :, None, :] + abs(k)[..., None, :, :]
        weigh = lambda x, a: (x * a[:, None, None, :]).sum(-1)
        return weigh(leaky(sums, negative_slope), a), max(1, abs(negative_slope)) * weigh(size, abs(a))

    return graph_type(query, key, value, logits, edge_index, num_heads, mask, causal, scale)


@dataclass
class GraphExpected:
    """What a call of gat or gatv2 must return, with its bounds."""

    out: np.ndarray  # (N, heads * out) or (N, out)
    bound: np.ndarray
    edge_index: np.ndarray  # (2, E)
    weights: np.ndarray  # (E, heads)
    weights_bound: np.ndarray
    dtype: np.dtype

    def check(self, actual, what=""):
        actual = np.asarray(actual)
        assert actual.dtype == self.dtype, f"{what}: dtype {actual.dtype}, expected {self.dtype}"
        return within(actual, self.out, self.bound, what)


def self_loops(edge_index, rows, both):
    """Edges without those from a node to itself, then one for each node, whose row is the mean over the edges into it."""
    keep = edge_index[0] != edge_index[1]
    edge_index = edge_index[:, keep]
    if rows is not None:
        rows = rows[keep]
        into = [rows[edge_index[1] == i] for i in range(both)]
        means = [r.mean(0) if len(r) else np.zeros(rows.shape[1], rows.dtype) for r in into]
        rows = np.concatenate([rows, np.reshape(means, (both, rows.shape[1]))])
    return np.concatenate([edge_index, np.tile(np.arange(both), (2, 1))], 1), rows


def graph_attention(
    version, x, edge_index, w_src, w_dst, a_src, a_dst=None, bias=None, edge_attr=None, w_edge=None, a_edge=None,
    negative_slope=0.2, concat=True, add_self_loops=False,
):  # fmt: skip
    """gat (version 1) and gatv2 (2, whose vector is a_src), one target at a time.

    The bound is that of the types, u max|h| (8 + 4 kappa), on top of what the projections bring: each is a chain of `in`
    products in the type of the arithmetic, u (in + 2) |x||W|, which enters the values, and the logits through the vectors; a
    change of a logit by d changes a softmax by 2 d at the most. With edge features their rows are means and products as well.
    """
    x_src, x_dst = x if isinstance(x, tuple) else (x, x)
    given = [v for v in (x_src, x_dst, w_src, w_dst, a_src, a_dst, bias, edge_attr, w_edge, a_edge) if v is not None]
    dtype = common_dtype(*given)
    u = unit(dtype) * share(dtype)
    wider = lambda v: None if v is None else wide(v, dtype)
    x_src, x_dst, w_src, w_dst, a_src, a_dst, bias, edge_attr, w_edge, a_edge = map(
        wider, (x_src, x_dst, w_src, w_dst, a_src, a_dst, bias, edge_attr, w_edge, a_edge)
    )
    heads, _, width = w_src.shape
    project = lambda x, w: np.einsum("ni,hic->nhc", x, w)
    with np.errstate(all="ignore"):
        source, target = project(x_src, w_src), project(x_dst, w_dst)
        source_error = (w_src.shape[1] + 2) * project(abs(x_src), abs(w_src))
        target_error = (w_dst.shape[1] + 2) * project(abs(x_dst), abs(w_dst))
    if edge_attr is not None and edge_attr.ndim == 1:
        edge_attr = edge_attr[:, None]
    edge_index = np.asarray(edge_index).astype(np.int64).reshape(2, -1)
    if add_self_loops:
        edge_index, edge_attr = self_loops(edge_index, edge_attr, min(len(x_src), len(x_dst)))
    edges = edge_index.shape[1]
    edge = edge_error = np.zeros((edges, heads, 1))
    if edge_attr is not None:
        edge = project(edge_attr, w_edge)
        edge_error = (w_edge.shape[1] + width + 4) * project(abs(edge_attr), abs(w_edge))
    steep = max(1, abs(negative_slope))
    out = np.zeros((len(x_dst), heads, width), source.dtype)
    bound, peak = np.zeros_like(out), np.zeros_like(out)
    weights, weights_bound = np.zeros((edges, heads), source.dtype), np.zeros((edges, heads))
    order = np.argsort(edge_index[1], kind="stable")
    starts = np.searchsorted(edge_index[1][order], np.arange(len(x_dst) + 1))
    with np.errstate(all="ignore"):
        for i in range(len(x_dst)):
            into = order[starts[i] : starts[i + 1]]
            if not len(into):
                continue
            j = edge_index[0][into]
            if version == 1:
                e = (source[j] * a_src).sum(-1) + (target[i] * a_dst).sum(-1)
                size = (abs(source[j]) * abs(a_src)).sum(-1) + (abs(target[i]) * abs(a_dst)).sum(-1)
                error = (source_error[j] * abs(a_src)).sum(-1) + (target_error[i] * abs(a_dst)).sum(-1)
                if edge_attr is not None:
                    e = e + (edge[into] * a_edge).sum(-1)
                    size = size + (abs(edge_attr[into, None, :, None] * w_edge * a_edge[:, None, :])).sum((-1, -2))
                    error = error + (edge_error[into] * abs(a_edge)).sum(-1)
                e = leaky(e, negative_slope)
            else:
                e = (leaky(source[j] + target[i] + edge[into], negative_slope) * a_src).sum(-1)
                size = abs(source[j]) + abs(target[i])
                if edge_attr is not None:
                    size = size + project(abs(edge_attr[into]), abs(w_edge))
                size = (size * abs(a_src)).sum(-1)
                error = ((source_error[j] + target_error[i] + edge_error[into]) * abs(a_src)).sum(-1)
            kappa, shift = steep * size.max(0), steep * error.max(0)
            p = np.exp(e - e.max(0))
            p = p / p.sum(0)
            weights[into] = p
            weights_bound[into] = p * u * (8 + 2 * (math.ceil(width / 16) + 8) * kappa + 2 * shift)
            out[i] = (p[..., None] * source[j]).sum(0)
            peak[i] = abs(source[j]).max(0)
            bound[i] = u * (source_error[j].max(0) + peak[i] * (8 + 4 * kappa + 2 * shift)[:, None])
    if concat:
        out, bound, peak = (v.reshape(len(v), -1) for v in (out, bound, peak))
    else:
        out, bound, peak = out.mean(1), bound.mean(1) + u * (heads + 2) * peak.mean(1), peak.mean(1)
    if bias is not None:
        out = out + bias
        bound = bound + u * (peak + abs(bias))
    if is_half(dtype):
        bound = bound + storage_unit(dtype) * abs(np.where(np.isfinite(out), out, 0))
        weights_bound = weights_bound + storage_unit(dtype) * weights
    least = smallest(dtype) if is_half(dtype) else float(np.finfo(dtype).tiny)
    return GraphExpected(out, bound + smallest(dtype), edge_index, weights, weights_bound + least, dtype)


def gat(x, edge_index, w, a_src, a_dst, **options):
    w_src, w_dst = w if isinstance(w, tuple) else (w, w)
    return graph_attention(1, x, edge_index, w_src, w_dst, a_src, a_dst, **options)


def gatv2(x, edge_index, w_l, w_r, a, **options):
    return graph_attention(2, x, edge_index, w_r, w_l, a, **options)


# Hyperbolic types ----------------------------------------------------------------------------------------------------


class PointsExpected(Expected):
    """An Expected whose bound is that of averages of points."""

    def bound(self):
        return self.limit + smallest(self.dtype)


def ball_distance(x, y, c):
    """2 asinh(sqrt(c |x-y|^2 / ((1 - c|x|^2) (1 - c|y|^2)))) / sqrt(c) over the last axis."""
    gaps = (1 - c * (x * x).sum(-1)) * (1 - c * (y * y).sum(-1))
    return 2 * np.arcsinh(np.sqrt(c * ((x - y) ** 2).sum(-1) / gaps)) / np.sqrt(c)


def sheet_distance(x, y, c):
    """2 asinh(sqrt(c (|x-y|^2 - (x0-y0)^2)) / 2) / sqrt(c), x and y the space-like parts."""
    step = np.sqrt(1 / c + (x * x).sum(-1)) - np.sqrt(1 / c + (y * y).sum(-1))
    return 2 * np.arcsinh(np.sqrt(c * np.maximum(((x - y) ** 2).sum(-1) - step**2, 0)) / 2) / np.sqrt(c)


def visible_softmax(logits, mask, causal):
    """Weights over the visible keys of every row (0 where there are none), who is visible, and max |bias|."""
    q_len, kv_len = logits.shape[-2:]
    visible, bias = split_mask(mask)
    visible = np.broadcast_to(visible, np.broadcast_shapes(logits.shape, np.shape(visible)))
    if causal:
        visible = visible & positions(q_len, kv_len, kv_len - q_len, None, 0)
    size = 0
    if bias is not None:
        hidden = np.isneginf(bias)
        visible, bias = visible & ~hidden, np.where(hidden, 0, bias)
        logits = logits + bias
        size = np.where(visible, np.abs(bias), 0).max(-1, initial=0)
    top = np.where(visible, logits, -np.inf).max(-1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        e = np.where(visible, np.exp(logits - np.where(np.isneginf(top), 0, top)), 0)
    total = e.sum(-1, keepdims=True)
    return e / np.where(total == 0, 1, total), visible, size


def midpoints(weights, visible, value, c):
    """Gyromidpoints of the visible values by the definition, and the largest l = 2 / (1 - c|v|^2)."""
    factor = 2 / (1 - c * (value * value).sum(-1, keepdims=True))
    space = weights @ np.where(np.isfinite(factor), factor * value, 0)
    time = weights @ np.where(np.isfinite(factor), factor - 1, 0)
    minkowski = np.sqrt(np.maximum(time**2 - c * (space * space).sum(-1, keepdims=True), 1))
    most = np.where(visible, np.swapaxes(factor, -1, -2), 0).max(-1, initial=0)
    return space / (time + minkowski), most[..., None]


def points_result(out, kappa, limit, weights, visible, dtype, dim, single):
    lse = peak = np.zeros(out.shape[:-1], out.dtype)
    result = PointsExpected(out, lse, kappa, peak[..., None], weights, visible, dtype, dim)
    result.limit = limit
    if single:
        limit = limit[..., 0, :]
        result = PointsExpected(**vars(drop_row(result)))
        result.limit = limit
    return result


def points_of(query, key, value, curvature):
    dtype = common_dtype(query, key, value)
    query, single = as_rows(query)
    q, k, v = wide(query, dtype), wide(key, dtype), wide(value, dtype)
    return q, k, v, np.abs(wide(curvature, F64).astype(q.dtype))[..., None, None], dtype, single


def row_mask(mask, single):
    return np.asarray(mask)[None, :] if single and mask is not None and np.ndim(mask) == 1 else mask


def poincare(query, key, value, *, curvature=1.0, mask=None, causal=False, scale=None):
    """softmax(-scale d) and gyromidpoints.

    Bound, in radii of the ball. A distance is off by 2 ULP, 4 u, so that a weight is off by 8 u kappa relatively; numerator N
    and denominator P + q of the midpoint N / (P + q) pass that on once each: 16 u kappa. The average itself is float64, with
    errors of (16 + 16 kappa) v in N, P and q^2 = P^2 - |N|^2, which is 1 at least: (16 + 16 kappa) (2 + l) v, v = 2^-53.
    """
    q, k, v, c, dtype, single = points_of(query, key, value, curvature)
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = ball_distance(q[..., :, None, :], k[..., None, :, :], c)
        beta = 1 if scale is None else scale
        weights, visible, size = visible_softmax(-beta * distance, row_mask(mask, single), causal)
        out, most = midpoints(weights, visible, v, c)
    kappa = np.where(visible, np.abs(beta * distance), 0).max(-1, initial=0) + size
    u = unit(dtype) * share(dtype)
    v64 = 2.0**-53 * share(dtype)
    radius = 1 / np.sqrt(c)
    limit = (16 * u * kappa[..., None] + (16 + 16 * kappa[..., None]) * (2 + most) * v64) * radius
    limit = limit + storage_unit(dtype) * np.maximum(np.abs(out), 2.0**-10 * radius) * np.ones_like(out)
    return points_result(out, kappa, limit, weights, visible, dtype, q.shape[-1], single)


def lorentz(query, key, value, *, curvature=1.0, space_only=False, mask=None, causal=False, scale=None):
    """softmax(-scale d) and Lorentz centroids.

    Bound, in units of 1 / sqrt(c), X = max sqrt(c) x0: a relative error e of the weights moves s / sqrt(-<s, s>) by 2 e X,
    since all <x_i, x_j> have one sign; the average is float64, s^2 - |s|^2 cancels up to X^2: 16 X^3 v.
    """
    q, k, v, c, dtype, single = points_of(query, key, value, curvature)
    if not space_only:
        q, k, v = q[..., 1:], k[..., 1:], v[..., 1:]
    with np.errstate(invalid="ignore"):
        distance = sheet_distance(q[..., :, None, :], k[..., None, :, :], c)
        beta = 1 if scale is None else scale
        weights, visible, size = visible_softmax(-beta * distance, row_mask(mask, single), causal)
        time = np.sqrt(1 / c + (v * v).sum(-1, keepdims=True))
        space, total = weights @ np.where(np.isfinite(time), v, 0), weights @ np.where(np.isfinite(time), time, 0)
        norm = np.sqrt(np.maximum(c * (total**2 - (space * space).sum(-1, keepdims=True)), 1))
        out = space / norm
        if not space_only:
            out = np.concatenate([np.sqrt(1 / c + (out * out).sum(-1, keepdims=True)), out], -1)
        most = np.where(visible, np.swapaxes(np.sqrt(c) * time, -1, -2), 1).max(-1, initial=1)[..., None]
    kappa = np.where(visible, np.abs(beta * distance), 0).max(-1, initial=0) + size
    u = unit(dtype) * share(dtype)
    v64 = 2.0**-53 * share(dtype)
    weight_error = 8 * u * kappa[..., None] + (16 + 16 * kappa[..., None]) * v64
    limit = (2 * weight_error * most + 16 * most**3 * v64) / np.sqrt(c)
    limit = limit + storage_unit(dtype) * np.maximum(np.abs(out), 2.0**-10 / np.sqrt(c))
    return points_result(out, kappa, limit, weights, visible, dtype, q.shape[-1], single)


def mixed_curvature(
    query,
    key,
    value,
    *,
    curvature=1.0,
    euclidean_dim=-1,
    value_euclidean_dim=-1,
    euclidean_weight=1.0,
    hyperbolic_weight=1.0,
    mask=None,
    causal=False,
    scale=None,
):
    """softmax(-scale (w_e |q_e-k_e|^2 + w_h d_c(q_h, k_h)^2)), mean of the Euclidean and midpoint of the other columns.

    All in float64, so that only the last rounding is that of the dtype; the squares double the relative error of a distance.
    """
    q, k, v, c, dtype, single = points_of(query, key, value, curvature)
    part = q.shape[-1] // 2 if euclidean_dim < 0 else euclidean_dim
    v_part = v.shape[-1] // 2 if value_euclidean_dim < 0 else value_euclidean_dim
    q_, k_ = q[..., :, None, :], k[..., None, :, :]
    beta = 1 if scale is None else scale
    with np.errstate(invalid="ignore", divide="ignore"):
        score = -euclidean_weight * ((q_[..., :part] - k_[..., :part]) ** 2).sum(-1)
        if part < q.shape[-1]:
            score = score - hyperbolic_weight * ball_distance(q_[..., part:], k_[..., part:], c) ** 2
        weights, visible, size = visible_softmax(beta * score, row_mask(mask, single), causal)
        flat = np.where(np.isfinite(v), v, 0)[..., :v_part]
        out, most = midpoints(weights, visible, v[..., v_part:], c)
    peak = np.abs(flat).max(initial=0) + (1 / np.sqrt(c)).max()
    # an expanded square is off by the largest of its terms
    terms = (
        beta
        * euclidean_weight
        * (np.square(q[..., :part]).sum(-1).max(initial=0) + np.square(k[..., :part]).sum(-1).max(initial=0))
    )
    kappa = np.where(visible, np.abs(beta * score), 0).max(-1, initial=0) + size + np.abs(terms)
    out = np.concatenate([weights @ flat, out], -1)
    limit = (64 + 64 * kappa[..., None]) * (2 + most) * peak * 2.0**-53 * share(dtype)
    limit = limit + storage_unit(dtype) * np.maximum(np.abs(out), 2.0**-10 * peak)
    return points_result(out, kappa, limit, weights, visible, dtype, q.shape[-1], single)


class LinearExpected(Expected):
    """An Expected of linear attention: `factor` units of the largest value seen, `spread` times where weights cancel."""

    def bound(self):
        u = unit(self.dtype) * share(self.dtype)
        bound = u * (self.factor * self.spread)[..., None] * self.peak
        if is_half(self.dtype):
            bound = bound + storage_unit(self.dtype) * (np.abs(self.out) + bound)
        return bound + smallest(self.dtype)

    def weights_bound(self):
        u = unit(self.dtype) * share(self.dtype)
        # one weight of n: where weights cancel, its share of the error
        size = np.where(
            self.spread[..., None] == 1, np.abs(self.weights), self.spread[..., None] / self.seen[..., None]
        )
        bound = u * self.factor[..., None] * size
        return bound + (3 * storage_unit(self.dtype) * np.abs(self.weights) if is_half(self.dtype) else 0)


def linear_result(logs, signs, value, mask, causal, dtype, dim, single, factor):
    """Weights signs * exp(logs) over the visible keys, divided by their sum."""
    q_len, kv_len = logs.shape[-2:]
    v = wide(value, dtype)
    visible, bias = split_mask(row_mask(mask, single))
    assert bias is None, "a bias has no linear form"
    full = (*np.broadcast_shapes(logs.shape[:-2], np.shape(visible)[:-2], v.shape[:-2]), q_len, kv_len)
    visible = np.broadcast_to(visible, full)
    if causal:
        visible = visible & positions(q_len, kv_len, kv_len - q_len, None, 0)
    top = np.where(visible, logs, -np.inf).max(-1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        w = np.where(visible, signs * np.exp(logs - np.where(np.isneginf(top), 0, top)), 0)
    total = w.sum(-1, keepdims=True)
    weights = w / np.where(total == 0, 1, total)
    if np.isfinite(v).all():
        out = weights @ v
    else:
        with np.errstate(invalid="ignore"):
            out = np.where(visible[..., None], weights[..., None] * v[..., None, :, :], 0).sum(-2)
    zero = np.zeros(full[:-1], out.dtype)
    peak = visible_peak(visible, v, full)
    result = LinearExpected(out, zero, zero, peak, weights, visible, dtype, dim)
    seen = np.maximum(visible.sum(-1), 1)
    # what is divided is the features' largest product, 1, for every key seen; 1 where all weights are positive
    spread = (
        np.ones(full[:-1]) if (signs > 0).all() else np.maximum(1, seen / np.maximum(np.abs(total[..., 0]), 1e-300))
    )
    factor, spread = np.broadcast_to(factor, full[:-1]), spread.astype(out.dtype)
    if single:
        result = LinearExpected(**vars(drop_row(result)))
        factor, spread, seen = factor[..., 0], spread[..., 0], seen[..., 0]
    result.factor, result.spread, result.seen = factor, spread, seen
    return result


def feature_map_of(x, feature_map):
    return np.maximum(x, 0) if feature_map == "relu" else np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def linear(query, key, value, *, feature_map="elu", mask=None, causal=False):
    """phi(q_i) . phi(k_j) over its sum, phi = elu + 1 or relu.

    Bound: features are off by 2 u each. Sums over keys are chains of 64, carried over 4 of them: 68 u, and one rounding of the wide
    sum; those over d features 64 + d / 64 u at most. Numerator and divisor: (280 + d) u.
    """
    dtype = common_dtype(query, key, value)
    query, single = as_rows(query)
    q, k = wide(query, dtype), wide(key, dtype)
    weights = feature_map_of(q, feature_map) @ np.swapaxes(feature_map_of(k, feature_map), -1, -2)
    with np.errstate(divide="ignore"):
        logs = np.log(weights)
    return linear_result(logs, np.ones(()), value, mask, causal, dtype, q.shape[-1], single, 280 + q.shape[-1])


def normals(seed, count):
    """Standard normal numbers: Marsaglia's polar method over uniform ones in [-1, 1)."""
    uniform, x, at = fixed_uniform(seed, (4 * count + 64,)), [], 0
    while len(x) < count:
        u, v = uniform[at : at + 2]
        at += 2
        s = u * u + v * v
        if 0 < s < 1:
            s = math.sqrt(-2 * math.log(s) / s)
            x += [u * s, v * s]
    return np.array(x[:count])


def draw_features(rows, dim, orthogonal=True, seed=42):
    """Normal rows; orthogonal: of each block, the directions of its QR decomposition, with the lengths that the rows had."""
    w = normals(seed, rows * dim).reshape(rows, dim)
    if orthogonal:
        for first in range(0, rows, dim):
            block = w[first : first + dim]
            q, upper = np.linalg.qr(block.T)
            w[first : first + dim] = (q * np.sign(np.diag(upper))).T * np.linalg.norm(block, axis=1, keepdims=True)
    return w


def features_given(projection, num_features, dim, orthogonal, dtype):
    """Those of the library where none are given: orthogonal ones have rounding errors as large as the block's condition, and
    these tests are about what is done with them. test_linear.py compares them with draw_features above."""
    import ruvector

    w = (
        ruvector.draw_features(num_features, dim, orthogonal=orthogonal)
        if projection is None
        else np.asarray(projection)
    )
    return wide(w, F64).astype(wide_type(dtype))


def performer(
    query, key, value, *, num_features=256, orthogonal=True, projection=None, mask=None, causal=False, scale=None
):
    """sum_f exp(w_f . q - |q|^2 / 2) exp(w_f . k - |k|^2 / 2) over its sum, q and k times sqrt(scale), in logarithms.

    Bound: an exponent of size kappa is off by some u kappa in either factor, as the logit of softmax attention is, and so are
    numerator and divisor: 16 kappa u. The rest as in `linear`, with num_features in place of d.
    """
    dtype = common_dtype(query, key, value)
    query, single = as_rows(query)
    q, k = wide(query, dtype), wide(key, dtype)
    root = np.sqrt(1 / np.sqrt(wide_type(dtype).type(q.shape[-1])) if scale is None else wide_type(dtype).type(scale))
    w = features_given(projection, num_features, q.shape[-1], orthogonal, dtype)
    q, k = q * root, k * root
    a = q @ w.T - (q * q).sum(-1, keepdims=True) / 2
    b = k @ w.T - (k * k).sum(-1, keepdims=True) / 2
    # a row at a time: features x keys
    logs = np.empty((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-2]), a.dtype)
    for i in range(a.shape[-2]):
        exponents = a[..., i, None, :] + b
        most = exponents.max(-1, keepdims=True)
        with np.errstate(invalid="ignore"):
            logs[..., i, :] = (most + np.log(np.exp(exponents - most).sum(-1, keepdims=True)))[..., 0]
    size_q = (np.abs(q) @ np.abs(w).T).max(-1) + (q * q).sum(-1) / 2
    size_k = (np.abs(k) @ np.abs(w).T).max(-1) + (k * k).sum(-1) / 2
    if mask is not None or not np.isfinite(size_k).all():
        size_k = np.where(np.isfinite(size_k), size_k, 0)
    kappa = np.maximum(size_q, size_k.max(-1, keepdims=True, initial=0))
    return linear_result(logs, np.ones(()), value, mask, causal, dtype, q.shape[-1], single, 300 + len(w) + 16 * kappa)


def random_feature(
    query, key, value, *, num_features=64, orthogonal=False, projection=None, mask=None, causal=False, scale=None
):
    """mean_f cos(w_f . (q - k)) over its sum, q and k of length 1, w times sqrt(scale).

    Bound: as in `performer`, but a sine is off by u times its argument however small it is itself: errors are relative to what a
    product of features can be, 1, not to what it is.
    """
    dtype = common_dtype(query, key, value)
    query, single = as_rows(query)
    q, k = wide(query, dtype), wide(key, dtype)
    root = np.sqrt(wide_type(dtype).type(1 if scale is None else scale))
    w = features_given(projection, num_features, q.shape[-1], orthogonal, dtype) * root
    q, k = (x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), np.finfo(x.dtype).tiny) for x in (q, k))
    a, b = q @ w.T, np.swapaxes(k @ w.T, -1, -2)
    products = (np.cos(a) @ np.cos(b) + np.sin(a) @ np.sin(b)) / len(w)
    with np.errstate(divide="ignore"):
        logs = np.log(np.abs(products))
    angles = np.abs(w).sum(-1).max(initial=0)
    # linear_result measures weights against the largest: here 1 is the measure
    result = linear_result(
        logs, np.sign(products), value, mask, causal, dtype, q.shape[-1], single, 300 + 2 * len(w) + 16 * angles
    )
    total = np.where(
        result.visible, np.broadcast_to(products if not single else products[..., 0, :], result.visible.shape), 0
    )
    result.spread = np.maximum(1, result.seen / np.maximum(np.abs(total.sum(-1)), 1e-300))
    return result


# Positions -----------------------------------------------------------------------------------------------------------


class PlacedExpected(HeadedExpected):
    """An Expected over heads whose queries and keys, or biases, are computed in the dtype first.

    `slope`, in place of 4, and `extra` (..., H, L), in units of u max|V|, are what that adds.
    """

    constant = 8
    slope = 4
    extra = 0.0

    def bound(self):
        u = unit(self.dtype) * share(self.dtype)
        factor = self.constant + self.slope * self.kappa + self.extra
        bound = u * self.peak * factor[..., None] + smallest(self.dtype)
        if is_half(self.dtype):
            bound = bound + 3 * storage_unit(self.dtype) * self.peak
        return self.layout(bound)


def placed(query, key, value, num_heads, num_kv_heads, mask, causal, scale, place):
    """Attention over heads; `place(q, k, first)` gives queries and keys (..., H, n, d) at their positions, a bias or None,
    and what kappa is made of: two arrays whose product over the last axis is at least sum |q||k|, and a bound of |bias|.
    """
    query, single = as_rows(query)
    key, value = np.asarray(key), np.asarray(value)
    dtype = common_dtype(query, key, value)
    if single and mask is not None and np.ndim(mask) == 1:
        mask = np.asarray(mask)[None, :]
    if mask is not None and 2 < np.ndim(mask) <= max(query.ndim, key.ndim, value.ndim):
        mask = np.expand_dims(mask, -3)
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    q, k, v = split_heads(query, num_heads), split_heads(key, num_kv_heads), split_heads(value, num_kv_heads)
    k, v = repeat_heads(q, k, v)
    first = k.shape[-2] - q.shape[-2]
    seen = positions(q.shape[-2], k.shape[-2], first, None, 0 if causal else None)
    q, k, v = (wide(x, dtype) for x in (q, k, v))
    scale = 1 / np.sqrt(wide_type(dtype).type(q.shape[-1])) if scale is None else scale
    q, k, bias, (q_size, k_size, bias_size) = place(q, k, first, dtype, scale)
    visible, given = split_mask(mask)
    total = bias if given is None else wide(given, dtype) if bias is None else wide(given, dtype) + bias
    result = PlacedExpected(**vars(attend(q, k, v, seen & visible, total, scale, dtype=dtype)))
    sizes = abs(scale) * (q_size @ np.swapaxes(k_size, -1, -2)) + bias_size
    added = 0 if given is None else np.where(np.isinf(given), 0, np.abs(wide(given, dtype)))
    result.kappa = np.where(result.visible, sizes + added, 0).max(-1, initial=0)
    result.single = single
    return result


def laid_out(result):
    result.out = result.layout(result.out)
    return result


def radians_of(dim, base, scaling, length, kind):
    """Radians a position of each pair, and the factor on rotated pairs, as the models' code computes them."""
    i = np.arange(0, dim, 2).astype(kind)
    base, pi = kind.type(base), kind.type("3.14159265358979323846264338327950288") if kind == LONG else kind.type(np.pi)
    extrapolated = 1 / base ** (i / dim)
    keys = dict(scaling or {"rope_type": "default"})
    method = keys["rope_type"]
    if method == "default":
        return extrapolated, 1.0
    factor = kind.type(keys["factor"])
    if method == "linear":
        return extrapolated / factor, 1.0
    if dim == 2 and method in ("ntk", "dynamic"):
        return extrapolated, 1.0  # a base to the power 0
    if method == "ntk":
        return 1 / (base * factor ** (kind.type(dim) / (dim - 2))) ** (i / dim), 1.0
    original = keys["original_max_position_embeddings"]
    if method == "dynamic":
        longest = max(length, original)
        grown = base * (factor * longest / original - (factor - 1)) ** (kind.type(dim) / (dim - 2))
        return 1 / grown ** (i / dim), 1.0
    if method == "llama3":
        low, high = keys["low_freq_factor"], keys["high_freq_factor"]
        wavelength = 2 * pi / extrapolated
        smooth = (original / wavelength - low) / (high - low)
        between = (1 - smooth) * extrapolated / factor + smooth * extrapolated
        slow, fast = wavelength > kind.type(original) / low, wavelength < kind.type(original) / high
        return np.where(slow, extrapolated / factor, np.where(fast, extrapolated, between)), 1.0
    assert method == "yarn"

    def correction(rotations):
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(float(base)))

    first, last = correction(keys.get("beta_fast", 32)), correction(keys.get("beta_slow", 1))
    if keys.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    last = last + 0.001 if first == last else last
    ramp = np.clip((i / 2 - first) / (last - first), 0, 1)
    mscale = lambda m: 0.1 * m * math.log(keys["factor"]) + 1
    attention = mscale(1.0)
    if "mscale" in keys and "mscale_all_dim" in keys:
        attention = mscale(keys["mscale"]) / mscale(keys["mscale_all_dim"])
    return extrapolated / factor * ramp + extrapolated * (1 - ramp), keys.get("attention_factor", attention)


def pairs_of(x, dim, interleaved):
    """The columns that turn, as complex numbers."""
    a, b = (x[..., 0:dim:2], x[..., 1:dim:2]) if interleaved else (x[..., : dim // 2], x[..., dim // 2 : dim])
    return a + 1j * b


def rope_rotation(x, places, radians, interleaved, size=1.0):
    """x (..., n, d) wide, its first columns multiplied by size * exp(i angle), and the lengths (..., n, pairs and the rest)."""
    dim = 2 * len(radians)
    angles = np.multiply.outer(np.asarray(places, x.dtype), radians)
    turned = pairs_of(x, dim, interleaved) * (np.cos(angles) + 1j * np.sin(angles)) * size
    rest = x[..., dim:]
    parts = (turned.real, turned.imag)
    columns = np.stack(parts, -1).reshape(*turned.shape[:-1], dim) if interleaved else np.concatenate(parts, -1)
    return np.concatenate([columns, rest], -1), np.concatenate([np.abs(turned), np.abs(rest)], -1)


def rotated(result, farthest, own):
    """The bound of attention over rotated rows.

    Each component of a rotated row is off by 3 u |pair| (the table, a product, a sum): the logit by 6 sqrt(2) u kappa over
    the pairs' lengths, the result by twice that and the 4 u kappa of the core. In float64 an angle is off by 4 u times the
    position, that of the query and that of the key, and cosines, sines and factors by `own` u.
    """
    result.slope = 21
    result.logit = 9
    if result.dtype == F64:
        result.extra = (own + 16 * farthest) * result.kappa
    return laid_out(result)


def rope(
    query,
    key,
    value,
    *,
    num_heads=8,
    num_kv_heads=None,
    base=10000.0,
    interleaved=False,
    rotary_dim=None,
    scaling=None,
    mask=None,
    causal=False,
    scale=None,
):
    kv_len, q_len = np.shape(key)[-2], as_rows(query)[0].shape[-2]

    def place(q, k, first, dtype, scale):
        dim = q.shape[-1] if rotary_dim is None else rotary_dim
        radians, factor = radians_of(dim, base, scaling, kv_len, wide_type(dtype))
        q, q_size = rope_rotation(q, np.arange(q_len) + first, radians, interleaved, factor)
        k, k_size = rope_rotation(k, np.arange(kv_len), radians, interleaved, factor)
        return q, k, None, (q_size, k_size, 0)

    result = placed(query, key, value, num_heads, num_kv_heads, mask, causal, scale, place)
    return rotated(result, max(q_len, kv_len), 6)


def xpos(
    query,
    key,
    value,
    *,
    num_heads=8,
    num_kv_heads=None,
    base=10000.0,
    interleaved=False,
    gamma=0.4,
    scale_base=512.0,
    mask=None,
    causal=False,
    scale=None,
):
    kv_len, q_len = np.shape(key)[-2], as_rows(query)[0].shape[-2]

    def place(q, k, first, dtype, scale):
        dim, kind = q.shape[-1], wide_type(dtype)
        radians, _ = radians_of(dim, base, None, 0, kind)
        zeta = (np.arange(0, dim, 2).astype(kind) / dim + gamma) / (1 + kind.type(gamma))
        at, there = np.arange(q_len) + first, np.arange(kv_len)
        q, q_size = rope_rotation(q, at, radians, interleaved, zeta ** (at[:, None] / kind.type(scale_base)))
        k, k_size = rope_rotation(k, there, radians, interleaved, zeta ** (-there[:, None] / kind.type(scale_base)))
        return q, k, None, (q_size, k_size, 0)

    result = placed(query, key, value, num_heads, num_kv_heads, mask, causal, scale, place)
    return rotated(result, max(q_len, kv_len), 30)


def fixed_table(shape, fan):
    return math.sqrt(6 / fan) * fixed_uniform(42, shape)


def t5_bucket(distance, bidirectional, num_buckets, max_distance):
    """The bucket of one distance j - p, in integers: range b of n begins where (r / exact)^n = (max / exact)^b."""
    offset = 0
    if bidirectional:
        num_buckets //= 2
        offset = num_buckets if distance > 0 else 0
        distance = -abs(distance)
    r, exact = max(-distance, 0), num_buckets // 2
    if r < exact:
        return offset + r
    if r >= max_distance:
        return offset + num_buckets - 1
    n = num_buckets - exact
    b = max(b for b in range(n) if b == 0 or r**n * exact**b >= max_distance**b * exact**n)
    return offset + exact + b


def t5(
    query,
    key,
    value,
    *,
    num_heads=8,
    num_kv_heads=None,
    num_buckets=32,
    max_distance=128,
    bidirectional=None,
    bias=None,
    mask=None,
    causal=False,
    scale=None,
):
    bidirectional = not causal if bidirectional is None else bidirectional
    table = fixed_table((num_buckets, num_heads), num_buckets + num_heads) if bias is None else np.asarray(bias)

    def place(q, k, first, dtype, scale):
        distances = np.arange(k.shape[-2])[None, :] - np.arange(q.shape[-2])[:, None] - first
        bucket = {t: t5_bucket(t, bidirectional, num_buckets, max_distance) for t in np.unique(distances).tolist()}
        rows = np.array([bucket[t] for t in distances.ravel().tolist()], int).reshape(distances.shape)
        biases = np.moveaxis(wide(table, dtype)[rows], -1, 0)
        return q, k, biases, (np.abs(q), np.abs(k), np.abs(biases))

    return laid_out(
        placed(query, key, value, num_heads, num_kv_heads, mask, causal, 1.0 if scale is None else scale, place)
    )


def relative(
    query,
    key,
    value,
    *,
    num_heads=8,
    num_kv_heads=None,
    max_distance=16,
    key_embedding=None,
    value_embedding=None,
    mask=None,
    causal=False,
    scale=None,
):
    rows, head = 2 * max_distance + 1, np.shape(query)[-1] // num_heads
    table = fixed_table((rows, head), rows + head) if key_embedding is None else np.asarray(key_embedding)
    sizes, at = {}, {}

    def place(q, k, first, dtype, scale):
        distances = np.arange(k.shape[-2])[None, :] - np.arange(q.shape[-2])[:, None] - first
        at["rows"] = np.clip(distances, -max_distance, max_distance) + max_distance
        embedded = wide(table, dtype)[..., at["rows"], :]  # (L, S, d), with heads in front where each has its own
        products = q[..., :, None, :] * embedded
        sizes["products"] = abs(scale) * np.abs(products).sum(-1)
        return q, k, scale * products.sum(-1), (np.abs(q), np.abs(k), sizes["products"])

    result = placed(query, key, value, num_heads, num_kv_heads, mask, causal, scale, place)
    result.constant = 10
    if result.dtype == F64:
        # the products are sums of `head` terms in float64, one after the other at worst
        most = np.where(result.visible, sizes["products"], 0).max(-1, initial=0)
        result.extra = 2 * head * most + rows + 1
    if value_embedding is not None:
        embedded = wide(np.asarray(value_embedding), result.dtype)[..., at["rows"], :]
        result.out = result.out + (result.weights[..., None] * embedded).sum(-2)
        result.peak = result.peak + np.abs(embedded).max((-2, -3), initial=0)[..., None, :]
    return laid_out(result)


# Canonical name -> oracle. A type of attention_types() that is missing here fails the suite.
TYPES = {
    "scaled_dot": scaled_dot,
    "multi_head": multi_head,
    "flash_v2": flash_v2,
    "cross": cross,
    "self": self_attention,
    "causal": causal,
    "grouped_query": grouped_query,
    "alibi": alibi,
    "sliding_window": sliding_window,
    "local": local,
    "sparse": sparse,
    "dilated": dilated,
    "longformer": longformer,
    "bigbird": bigbird,
    "axial": axial,
    "block_sparse": block_sparse,
    "moe": moe,
    "gat": gat_type,
    "gatv2": gatv2_type,
    "poincare": poincare,
    "lorentz": lorentz,
    "mixed_curvature": mixed_curvature,
    "linear": linear,
    "performer": performer,
    "random_feature": random_feature,
    "multi_query": multi_query,
    "rope": rope,
    "xpos": xpos,
    "relative": relative,
    "t5": t5,
}


def check(actual, expected, what=""):
    """Asserts that `actual` is within the bound of `expected` (an Expected), NaN exactly where NaN is expected.

    Returns the worst error as a share of the bound.
    """
    actual = np.asarray(actual)
    assert actual.shape == expected.out.shape, f"{what}: shape {actual.shape}, expected {expected.out.shape}"
    assert actual.dtype == expected.dtype, f"{what}: dtype {actual.dtype}, expected {expected.dtype}"
    return within(actual, expected.out, expected.bound(), what)


def within(actual, exact, bound, what=""):
    """Asserts |actual - exact| <= bound everywhere, and NaN and infinities exactly where `exact` has them."""
    actual = np.asarray(actual)
    assert actual.shape == np.shape(exact), f"{what}: shape {actual.shape}, expected {np.shape(exact)}"
    if actual.size == 0:
        return 0.0
    actual = actual.astype(exact.dtype)
    nan = np.isnan(exact)
    assert (np.isnan(actual) == nan).all(), (
        f"{what}: NaN at {first(np.isnan(actual) != nan)}: got {actual[first(np.isnan(actual) != nan)]}, "
        f"expected {exact[first(np.isnan(actual) != nan)]}"
    )
    endless = np.isinf(exact)
    assert (actual[endless] == exact[endless]).all(), f"{what}: infinities differ"
    bound = np.broadcast_to(bound, exact.shape)
    regular = ~nan & ~endless
    with np.errstate(all="ignore"):
        share = np.where(regular, np.abs(actual - np.where(regular, exact, 0)) / bound, 0)
    worst = np.unravel_index(np.argmax(share), share.shape)
    assert share[worst] <= 1, (
        f"{what}: error {float(abs(actual[worst] - exact[worst])):.3g} is {float(share[worst]):.3g} times the bound "
        f"{float(bound[worst]):.3g} at {tuple(int(i) for i in worst)}: got {actual[worst]}, expected {exact[worst]}"
    )
    return float(share[worst])


def first(where):
    return tuple(int(i) for i in np.argwhere(where)[0])
