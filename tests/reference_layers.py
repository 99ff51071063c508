"""float64 and wider oracles of normalisations, activations and transformer layers, from their definitions, with their bounds."""

import math
from fractions import Fraction

import numpy as np
from reference import is_half, smallest, storage_unit, unit


def _norm(x, weight, bias, eps, centre):
    """The result without bias, and the result; sums are exact, the rest is in the widest type."""
    wide = np.longdouble
    n = x.shape[-1]
    rows = x.reshape(-1, n)
    core = np.empty(rows.shape, wide)
    for i, row in enumerate(rows):
        exact = [Fraction(float(e)) for e in row]
        mean = sum(exact) / n if centre else Fraction(0)
        deviations = [e - mean for e in exact]
        square = sum(d * d for d in deviations) / n + Fraction(eps)
        # the root of a fraction to more digits than the widest type: scaled to an integer of some 260 bits
        shift = 2 * ((260 - square.numerator.bit_length() + square.denominator.bit_length()) // 2)
        scaled = square * Fraction(2) ** shift
        root = Fraction(math.isqrt(scaled.numerator // scaled.denominator)) / Fraction(2) ** (shift // 2)
        for j, d in enumerate(deviations):
            q = d / root
            head = float(q)
            core[i, j] = wide(head) + wide(float(q - Fraction(head)))
    core = core.reshape(x.shape)
    if weight is not None:
        core = core * weight.astype(wide)
    return core, core if bias is None else core + bias.astype(wide)


def _stored(bound, y, dtype):
    if is_half(np.dtype(dtype)):
        bound = bound + storage_unit(dtype) * np.abs(y)
    return bound + smallest(dtype)


def layer_norm(x, weight=None, bias=None, eps=1e-5):
    """y and its bound, u (6 |y - bias| + |y|): two subtractions, the inverse root, its product and that of the weight round
    once each and the sum of the bias once; deviations that are squared are off by a unit at the most, which is one of their root;
    the sums, which are wide, by much less."""
    core, y = _norm(x, weight, bias, eps, True)
    return y, _stored(unit(x.dtype) * (6 * np.abs(core) + np.abs(y)), y, x.dtype)


def rms_norm(x, weight=None, eps=1e-6):
    _, y = _norm(x, weight, None, eps, False)
    return y, _stored(4 * unit(x.dtype) * np.abs(y), y, x.dtype)


def _mp(function, x):
    """A function of mpmath at every element, as the widest type's head and rest."""
    import mpmath

    out = np.empty(x.shape, np.longdouble)
    with mpmath.workprec(160):
        for at, e in np.ndenumerate(x):
            y = function(mpmath, mpmath.mpf(float(e)))
            head = float(y)
            out[at] = np.longdouble(head) + np.longdouble(float(y - mpmath.mpf(head)))
    return out


def gelu(x):
    return _mp(lambda m, e: e * m.erfc(-e / m.sqrt(2)) / 2, x)


def gelu_tanh(x):
    return _mp(lambda m, e: e / (1 + m.exp(-m.sqrt(8 / m.pi) * (e + m.mpf("0.044715") * e**3))), x)


def silu(x):
    return _mp(lambda m, e: e / (1 + m.exp(-e)), x)


def ulp(y, dtype):
    """The unit in the last place of results near y, in the type of the arithmetic."""
    bits, least = (52, -1022) if np.dtype(dtype) == np.float64 else (23, -126)
    _, exponent = np.frexp(np.abs(y).astype(np.float64))
    return 2.0 ** (np.maximum(exponent - 1, least) - bits)


def activation_bound(y, ulps, dtype):
    return _stored(ulps * ulp(y, dtype), y, dtype)
