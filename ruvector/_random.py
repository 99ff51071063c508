"""Parameters that nobody gave: the same numbers on every machine and in every language."""

from __future__ import annotations

import math

from ruvector import _coerce, _primitives


def seed_of(rng, fixed):
    """A seed from `rng` where there is one."""
    return fixed if rng is None else int(_coerce.generator(rng).integers(2**63))


def glorot(shape, fan, seed):
    """Uniform in +-sqrt(6 / fan) (Glorot and Bengio 2010), the numbers of `seed`."""
    return _primitives.draw(seed, math.sqrt(6 / fan), math.prod(shape)).reshape(shape)


def projection(rows, dim, orthogonal, rng):
    """Random features (rows, dim): those of the fixed seed where there is no `rng`."""
    return _primitives.projection(seed_of(rng, _primitives.PROJECTION_SEED), orthogonal, rows, dim)
