"""Rotary position embeddings: the frequencies of models that read further than they were trained, and the rotation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from ruvector._options import flag, number, one_of

# rope_type: the keys it needs, the keys it may have
_KEYS = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "ntk": (("factor",), ()),
    "dynamic": (("factor", "original_max_position_embeddings"), ()),
    "yarn": (
        ("factor", "original_max_position_embeddings"),
        ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"),
    ),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), ()),
}


@dataclass(frozen=True, repr=False)
class RopeScaling:
    """How rotary frequencies change for sequences longer than a model was trained on, in the words of model files.

    Parameters
    ----------
    rope_type : {"default", "linear", "ntk", "dynamic", "yarn", "llama3"}
        The method; the other keys are those that it reads, and no others.
    factor : float
        How many times longer, at least 1. All but "default".
    original_max_position_embeddings : int
        The length of training, at least 1. "dynamic", "yarn", "llama3".
    low_freq_factor, high_freq_factor : float
        "llama3": frequencies with fewer rotations in that length than the first are divided by factor, those with more than
        the second stay; the second is larger.
    beta_fast, beta_slow : float, default 32 and 1
        "yarn": frequencies with more rotations than the first stay, those with fewer than the second are divided.
    attention_factor : float, optional
        "yarn": factor on rotated queries and keys; ``0.1 * log(factor) + 1`` when None.
    mscale, mscale_all_dim : float, optional
        "yarn": the same as ``(0.1 * mscale * log(factor) + 1) / (0.1 * mscale_all_dim * log(factor) + 1)``.
    truncate : bool, default True
        "yarn": the ends of the ramp between the two are whole numbers of pairs.

    Raises
    ------
    TypeError
        For a key that is missing, or that the method does not read.
    ValueError
        For a value out of its range.

    Notes
    -----
    With frequency ``w_i = base ** (-2 i / d)`` of pair i, in models' own formulas:

    - linear: ``w_i / factor``, from Chen et al. 2023, arXiv:2306.15595;
    - ntk: base becomes ``base * factor ** (d / (d - 2))``: the slowest pair is divided by factor, the fastest stays;
    - dynamic: the same with ``factor * n / original - (factor - 1)`` for n positions beyond the original length;
    - yarn: a ramp over the pairs between ``w_i / factor`` and ``w_i``, from Peng et al. 2023, arXiv:2309.00071;
    - llama3: the same idea with a ramp over wavelengths, from Llama 3, arXiv:2407.21783.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.RopeScaling("linear", factor=4)
    RopeScaling('linear', factor=4.0)
    """

    rope_type: str
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool | None = None

    def __post_init__(self):
        one_of(self.rope_type, "rope_type", tuple(_KEYS))
        needed, optional = _KEYS[self.rope_type]
        for field in fields(self)[1:]:
            name, value = field.name, getattr(self, field.name)
            if value is None:
                if name in needed:
                    raise TypeError(f"rope_type {self.rope_type!r} needs {name}")
                continue
            if name not in needed and name not in optional:
                known = ", ".join(needed + optional) or "no key"
                raise TypeError(f"rope_type {self.rope_type!r} does not read {name}; it reads {known}")
            object.__setattr__(self, name, self._checked(name, value))
        for low, high in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
            a, b = self._value(low), self._value(high)
            if a is not None and a >= b:
                raise ValueError(f"{high} must be larger than {low}, got {b} and {a}")

    @staticmethod
    def _checked(name, value):
        if name == "truncate":
            return flag(value, name)
        whole = name == "original_max_position_embeddings"
        value = number(value, name, whole=whole)
        if value < 1 and (whole or name == "factor"):
            raise ValueError(f"{name} must be at least 1, got {value}")
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
        return value

    def _value(self, name):
        """A key's value, or its default in this method."""
        defaults = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True} if self.rope_type == "yarn" else {}
        value = getattr(self, name)
        return defaults.get(name) if value is None else value

    def __repr__(self):
        given = ((field.name, getattr(self, field.name)) for field in fields(self)[1:])
        return f"RopeScaling({', '.join([repr(self.rope_type), *(f'{k}={v!r}' for k, v in given if v is not None)])})"

    @classmethod
    def of(cls, value):
        """`value` as a RopeScaling: one, or a mapping of its keys, whose method older files call "type"."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise TypeError(f"scaling must be a RopeScaling or a mapping of its keys, got {value!r}")
        keys = dict(value)
        if "type" in keys:
            keys.setdefault("rope_type", keys.pop("type"))
        known = [field.name for field in fields(cls)]
        for key in keys:
            if key not in known:
                raise TypeError(f"scaling has no key {key!r}; it has {', '.join(known)}")
        if "rope_type" not in keys:
            raise TypeError(f"scaling needs rope_type, got {value!r}")
        return cls(**keys)


def frequencies(dim, base, scaling, length):
    """Radians a position of each of dim / 2 pairs, float64, and the factor on the rotated pairs."""
    exponents = np.arange(0, dim, 2) / dim
    plain = base**-exponents
    kind = "default" if scaling is None else scaling.rope_type
    if kind == "default":
        return plain, 1.0
    factor, original = scaling.factor, scaling.original_max_position_embeddings
    if kind == "linear":
        return plain / factor, 1.0
    if kind in ("ntk", "dynamic"):
        if kind == "dynamic":
            factor = factor * max(length, original) / original - (factor - 1)
        # a single pair has frequency 1 whatever the base
        return (base * factor ** (dim / (dim - 2)) if dim > 2 else base) ** -exponents, 1.0
    if kind == "llama3":
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        turns = original * plain / (2 * math.pi)
        keep = np.clip((turns - low) / (high - low), 0, 1)
        return (1 - keep) * plain / factor + keep * plain, 1.0
    first, last = (
        dim * math.log(original / (scaling._value(beta) * 2 * math.pi)) / (2 * math.log(base))
        for beta in ("beta_fast", "beta_slow")
    )
    if scaling._value("truncate"):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    if first == last:
        last += 0.001  # the models' way out of a ramp without width
    divided = np.clip((np.arange(dim // 2) - first) / (last - first), 0, 1)
    return divided * plain / factor + (1 - divided) * plain, _attention_factor(scaling)


def _attention_factor(scaling):
    def growth(mscale):
        return 0.1 * mscale * math.log(scaling.factor) + 1

    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale is not None and scaling.mscale_all_dim is not None:
        return growth(scaling.mscale) / growth(scaling.mscale_all_dim)
    return growth(1.0)


def tables(positions, radians, dtype, factor=1.0):
    """Cosines and sines (..., pairs) of positions (...), from float64 angles; `factor` broadcasts to them."""
    angles = np.multiply.outer(positions, radians)
    return (np.cos(angles) * factor).astype(dtype), (np.sin(angles) * factor).astype(dtype)


def rotate(x, cos, sin, interleaved):
    """x (..., d) with its first 2 * pairs columns rotated by tables (..., pairs), in the dtype of all three."""
    pairs = cos.shape[-1]
    out = np.empty(x.shape, x.dtype)
    out[..., 2 * pairs :] = x[..., 2 * pairs :]
    with np.errstate(all="ignore"):
        if interleaved:
            # neighbours are the parts of a complex number: one pass instead of six over every other column
            turn = np.empty(cos.shape, np.result_type(x.dtype, np.complex64))
            turn.real, turn.imag = cos, sin
            as_complex = [a[..., : 2 * pairs].view(turn.dtype) for a in (x, out)]
            np.multiply(as_complex[0], turn, out=as_complex[1])
            return out
        a, b = x[..., :pairs], x[..., pairs : 2 * pairs]
        product = a * cos
        np.multiply(b, sin, out=out[..., :pairs])
        np.subtract(product, out[..., :pairs], out=out[..., :pairs])
        np.multiply(b, cos, out=product)
        np.multiply(a, sin, out=out[..., pairs : 2 * pairs])
        out[..., pairs : 2 * pairs] += product
    return out


def turns(first, count, radians):
    """exp(i angle) of the positions first, first + 1 ..., complex128 (count, pairs).

    Products of two tables, one for every 64th position and one for 64 of them: 2048 positions of 32 pairs take 0.1 ms, and 1.3
    where each angle has a cosine and a sine of its own.
    """
    coarse = np.multiply.outer(first + 64.0 * np.arange(-(-count // 64)), radians)
    fine = np.multiply.outer(np.arange(64.0), radians)
    both = []
    for angles in (coarse, fine):
        table = np.empty(angles.shape, np.complex128)
        table.real, table.imag = np.cos(angles), np.sin(angles)
        both.append(table)
    product = both[0][:, None] * both[1]
    return product.reshape(64 * len(coarse), len(radians))[:count]
