"""Float64 oracle of entmax: the threshold by bisection in long double, from the definition."""

import numpy as np
from reference import is_half, storage_unit, unit


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
