"""Oracles of the SDK: projections, norms and feed-forward layers in float64, with errors that are carried along.

A value has an axis in front: first the exact one, then `SAMPLES` others that are off by random amounts. Every stage adds to
those, element by element, up to what float32 arithmetic may be off by in that stage alone (`gamma(n)` for sums of n products in
any order); what comes of it behind all stages is what a result may be off by. Bounds that were carried along instead would
assume the worst at every step at once: 2e11 behind one block.
"""

import numpy as np
import reference

U = 2.0**-24
SAMPLES = 12


def gamma(n):
    return (n + 2) * U / (1 - (n + 2) * U)


def exact(x):
    """An input, which is what it is in all samples."""
    x = np.asarray(x, np.float64)
    return np.broadcast_to(x, (SAMPLES + 1, *x.shape))


def off(y, bound):
    """A stage's result, off by up to `bound` in all samples but the first."""
    noise = np.random.default_rng([y.size, int(np.abs(y[0]).sum() * 2**20) % 2**32]).uniform(-1, 1, y.shape)
    noise[0] = 0
    return y + noise * bound


def linear(x, weight, bias=None):
    """x @ weight + bias"""
    w = np.asarray(weight, np.float64)
    b = 0.0 if bias is None else np.asarray(bias, np.float64)
    return off(x @ w + b, gamma(len(w)) * (np.abs(x) @ np.abs(w) + np.abs(b)))


def add(a, b):
    return off(a + b, U * np.abs(a + b))


def attention(function, query, key, value, **options):
    """A type's oracle within its own bound for float32."""
    result = function(query, key, value, **options)
    bound = function(*(x.astype(np.float32) for x in (query, key, value)), **options).bound()
    return off(result.out.astype(np.float64), np.asarray(bound, np.float64))


def affine(y, bound, weight, bias):
    w = 1.0 if weight is None else np.asarray(weight, np.float64)
    b = 0.0 if bias is None else np.asarray(bias, np.float64)
    return off(y * w + b, bound * np.abs(w) + 2 * U * (np.abs(y * w) + np.abs(b)))


def layer_norm(x, weight=None, bias=None, eps=1e-5):
    """The mean is taken away within a unit of the largest element."""
    deviation = np.sqrt(x.var(-1, keepdims=True) + eps)
    y = (x - x.mean(-1, keepdims=True)) / deviation
    return affine(y, U * np.abs(x).max(-1, keepdims=True) / deviation + 4 * U * np.abs(y), weight, bias)


def rms_norm(x, weight=None, eps=1e-6):
    y = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return affine(y, 4 * U * np.abs(y), weight, None)


def batch_norm(x, mean, var, weight=None, bias=None, eps=1e-5):
    """With statistics that are given."""
    y = (x - mean) / np.sqrt(var + eps)
    return affine(y, 4 * U * np.abs(y), weight, bias)


def gelu(x):
    y = x * 0.5 * (1 + reference.erf(x / np.sqrt(2.0)))
    return off(y, 14 * U * np.abs(y))


def silu(x):
    y = x / (1 + np.exp(-x))
    return off(y, 4 * U * np.abs(y))


def multiply(a, b):
    return off(a * b, U * np.abs(a * b))


def check(actual, value):
    """Asserts that a result is off by no more than twice what the samples of its vector are; returns the share."""
    actual = np.asarray(actual)
    assert actual.shape == value.shape[1:]
    error = np.abs(value[1:] - value[0]).max(0)
    bound = 2 * error.max(-1, keepdims=True)
    assert bound.max() < 1e-3 * np.abs(value[0]).max(), "a bound that would pass anything"
    return reference.within(actual, value[0], bound)
