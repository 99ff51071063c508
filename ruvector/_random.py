"""Parameters that nobody gave: the same numbers in every process and language."""

from __future__ import annotations

import numpy as np

from ruvector import _coerce

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def fixed_uniform(seed, shape):
    """Uniform in [-1, 1): draw i is the SplitMix64 output of state ``seed + (i + 1) * golden ratio``, its upper 53 bits."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + _GOLDEN * np.arange(1, np.prod(shape, dtype=int) + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return ((z >> np.uint64(11)) * 2.0**-52 - 1).reshape(shape)


def glorot(shape, fan, rng, seed):
    """Uniform in +-sqrt(6 / fan) (Glorot and Bengio 2010), from `rng` or, where that is None, fixed."""
    draws = fixed_uniform(seed, shape) if rng is None else _coerce.generator(rng).uniform(-1, 1, shape)
    return draws * np.sqrt(6 / fan)
