"""Oracles of the SDK in float64: projections, norms and feed-forward layers, each with a bound on its own error.

A value is a pair (exact, bound): what float32 arithmetic may be off by is carried from stage to stage, as in a running error
analysis. `gamma(n)` bounds the rounding of sums of n products in any order.
"""

import numpy as np
import reference

U = 2.0**-24


def gamma(n):
    return (n + 2) * U / (1 - (n + 2) * U)


def exact(x):
    x = np.asarray(x, np.float64)
    return x, np.zeros_like(x)


def linear(x, weight, bias=None):
    """x @ weight + bias"""
    (x, e), w = x, np.asarray(weight, np.float64)
    b = 0.0 if bias is None else np.asarray(bias, np.float64)
    y = x @ w + b
    return y, e @ np.abs(w) + gamma(len(w)) * ((np.abs(x) + e) @ np.abs(w) + np.abs(b))


def add(a, b):
    y = a[0] + b[0]
    return y, a[1] + b[1] + U * (np.abs(y) + a[1] + b[1])


def attention(function, query, key, value, **options):
    """A type's oracle on inputs that are off themselves: logits move by d, weights by a factor up to exp(2 d).

    The oracles of the types bound the error on exact inputs; `d` is the largest change of a logit, bounded over all heads by
    the norms of the rows.
    """
    scale = options.get("scale")
    (q, qe), (k, ke), (v, ve) = query, key, value
    result = function(q.astype(np.float32), k.astype(np.float32), v.astype(np.float32), **options)
    truth = function(q, k, v, **options).out.astype(np.float64)
    heads = options.get("num_heads", 1)
    scale = 1 / np.sqrt(q.shape[-1] // heads) if scale is None else abs(scale)

    def norm(x):
        return np.linalg.norm(x, axis=-1).max(initial=0)

    change = scale * (norm(qe) * (norm(k) + norm(ke)) + norm(q) * norm(ke))
    spread = np.expm1(2 * change) * np.abs(v).max(initial=0) + np.exp(2 * change) * ve.max(initial=0)
    # the inputs of the bound are rounded to float32, which moves logits and values by a unit each
    rounding = scale * 2 * U * norm(q) * norm(k)
    own = result.bound() + 2 * rounding * np.abs(v).max(initial=0) + U * np.abs(v).max(initial=0)
    return truth, own + spread


def layer_norm(x, weight=None, bias=None, eps=1e-5):
    (x, e), n = x, x[0].shape[-1]
    mean, deviation = x.mean(-1, keepdims=True), x.std(-1, keepdims=True)
    sigma = np.sqrt(deviation**2 + eps)
    y = (x - mean) / sigma
    size = np.abs(x).max(-1, keepdims=True)
    moved = e + e.mean(-1, keepdims=True) + gamma(n) * size
    # sigma moves by at most the root mean square of what the deviations move by
    shift = (np.sqrt((moved**2).mean(-1, keepdims=True)) + gamma(n) * sigma) / sigma
    b = moved / sigma + (np.abs(y) + moved / sigma) * shift / np.maximum(1 - shift, 1e-9) + 4 * U * np.abs(y)
    return _affine(y, b, weight, bias)


def rms_norm(x, weight=None, eps=1e-6):
    (x, e), n = x, x[0].shape[-1]
    sigma = np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    y = x / sigma
    shift = (np.sqrt((e**2).mean(-1, keepdims=True)) + gamma(n) * sigma) / sigma
    b = e / sigma + (np.abs(y) + e / sigma) * shift / np.maximum(1 - shift, 1e-9) + 4 * U * np.abs(y)
    return _affine(y, b, weight, None)


def _affine(y, b, weight, bias):
    w = 1.0 if weight is None else np.asarray(weight, np.float64)
    c = 0.0 if bias is None else np.asarray(bias, np.float64)
    out = y * w + c
    return out, b * np.abs(w) + 2 * U * (np.abs(y * w) + np.abs(out))


def batch_norm(x, mean, var, weight=None, bias=None, eps=1e-5):
    """With statistics that are given."""
    (x, e), sigma = x, np.sqrt(var + eps)
    y = (x - mean) / sigma
    return _affine(y, (e + U * (np.abs(x) + np.abs(mean))) / sigma + 4 * U * np.abs(y), weight, bias)


def gelu(x):
    """x times the normal distribution function; its slope is at most 1.13."""
    x, e = x
    y = x * 0.5 * (1 + reference.erf(x / np.sqrt(2.0)))
    return y, 1.13 * e + 8 * U * np.abs(x)


def silu(x):
    """x / (1 + exp(-x)); its slope is at most 1.1."""
    x, e = x
    y = x / (1 + np.exp(-x))
    return y, 1.1 * e + 8 * U * np.abs(y) + 1e-38


def multiply(a, b):
    y = a[0] * b[0]
    return y, np.abs(a[0]) * b[1] + np.abs(b[0]) * a[1] + a[1] * b[1] + U * np.abs(y)


def check(actual, value):
    """Asserts that a result is within the bound."""
    y, b = value
    assert np.asarray(actual).shape == y.shape
    return reference.within(np.asarray(actual), y, b)
