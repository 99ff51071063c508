"""Checks of options: what is not an array. Each returns the value in its plain Python type or raises, naming the option."""

from __future__ import annotations

import math
import operator

import numpy as np

from ruvector import _coerce


def number(value, name, *, whole=False):
    """A real number as int or float; TypeError or ValueError naming it."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be {'an integer' if whole else 'a number'}, got {value!r}")
    if whole:
        try:
            value = operator.index(value)
        except TypeError:
            raise TypeError(f"{name} must be an integer, got {value!r}") from None
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{name} must be an integer of 64 bits, got {value}")
        return value
    try:
        value = float(value)
    except OverflowError:
        value = math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return value


def nonzero(value, name):
    """A finite float other than 0, or a float64 array of them."""
    if type(value) is not float and np.ndim(value):
        value = float64_array(value, name)
        if not value.all():
            raise ValueError(f"{name} must not be 0, got {value.tolist()}")
        return value
    value = number(value, name)
    if value == 0:
        raise ValueError(f"{name} must not be 0, got {value}")
    return value


def flag(value, name):
    """A boolean, Python's or NumPy's."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {value!r}")


def one_of(value, name, known):
    """One of some words."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}")
    return value


def probability(value, name):
    """A float in [0, 1)."""
    value = number(value, name)
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and less than 1, got {value}")
    return value


def float64_array(value, name):
    """A C-contiguous float64 copy of finite numbers with at least one axis."""
    array = np.array(_coerce.array(value, name), np.float64, order="C")
    if array.ndim < 1:
        raise ValueError(f"{name} must have at least one axis, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array.tolist()}")
    return array


def window_of(window, name="window"):
    """(left, right) as integers, -1 for an unbounded side."""
    try:
        left, right = window
    except (TypeError, ValueError):
        left = right = ""
    sides = []
    for side in (left, right):
        if side is None:
            sides.append(-1)
            continue
        if isinstance(side, (bool, np.bool_)) or not isinstance(side, (int, np.integer)) or side < 0:
            raise ValueError(f"{name} must be a pair (left, right) of non-negative integers or None, got {window!r}")
        sides.append(min(int(side), 2**62))
    return sides


def softcap_of(softcap):
    """A float that is 0 (none) or positive."""
    softcap = number(softcap, "softcap")
    if softcap < 0:
        raise ValueError(f"softcap must be 0 (none) or positive, got {softcap}")
    return softcap
