"""Configurations as plain Python values and JSON: what is written is read to the same bits, or refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import numpy as np

from ruvector._rotary import RopeScaling


def encoded(value, name):
    """A plain value, or an array or RopeScaling as a dictionary of such."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, RopeScaling):
        return {"rope_scaling": {k: v for k, v in dataclasses.asdict(value).items() if v is not None}}
    if isinstance(value, (list, tuple)):
        return [encoded(v, name) for v in value]
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} is a {type(value).__name__}, which has no form of plain values; pickle keeps it")
    known = value.dtype.kind in "biuf"
    plain = (value if known else value.astype(np.float64)).tolist()
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        # JSON has no word for them
        plain = np.where(np.isfinite(value), value.astype(object), value.astype(str)).tolist()
    return {"dtype": value.dtype.name, "shape": list(value.shape), "data": plain}


def decoded(value, name):
    """The value that `encoded` has written."""
    if isinstance(value, (list, tuple)):
        return [decoded(v, name) for v in value]
    if not isinstance(value, Mapping):
        return value
    if set(value) == {"rope_scaling"}:
        return RopeScaling(**value["rope_scaling"])
    fields(value, ("dtype", "shape", "data"), (), name)
    if value["dtype"] == "bfloat16":
        import ml_dtypes

        dtype = np.dtype(ml_dtypes.bfloat16)
    else:
        dtype = np.dtype(value["dtype"])
    try:
        array = np.array(value["data"], dtype if dtype.kind in "biuf" else np.float64).astype(dtype, copy=False)
        return array.reshape(value["shape"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} does not hold an array of shape {value['shape']}: {error}") from None


def fields(config, needed, optional, name="config"):
    """Refuses what is no mapping, lacks a key or has one too many."""
    if not isinstance(config, Mapping):
        raise TypeError(f"{name} must be a mapping, got {type(config).__name__}")
    missing = [key for key in needed if key not in config]
    extra = [key for key in config if key not in needed and key not in optional]
    if missing or extra:
        wrong = f"lacks {', '.join(missing)}" if missing else f"has no key {extra[0]!r}"
        raise ValueError(f"{name} {wrong}; its keys are {', '.join((*needed, *optional))}")


def text_of(config):
    return json.dumps(config, allow_nan=False)


def config_of(text):
    if not isinstance(text, (str, bytes)):
        raise TypeError(f"text must be a JSON string, got {type(text).__name__}")
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"text is no JSON: {error}") from None


def frozen(x):
    """An array that nobody writes to: itself where it is read-only already, such as a memory-mapped one."""
    if x.flags.writeable:
        x = x.copy()
        x.setflags(write=False)
    return x


def frozen_value(value):
    """A copy that nobody changes: arrays read-only, lists as tuples, keys of a model file as the RopeScaling that they are."""
    if isinstance(value, np.ndarray):
        return frozen(value)
    if isinstance(value, (list, tuple)):
        return tuple(map(frozen_value, value))
    return RopeScaling.of(value) if isinstance(value, Mapping) and "rope_type" in value else value


def key_of(value):
    """What tells values apart: hashable, and equal for equal arrays."""
    if isinstance(value, np.ndarray):
        return value.dtype.name, value.shape, value.tobytes()
    if isinstance(value, (list, tuple)):
        return tuple(map(key_of, value))
    if isinstance(value, Mapping):
        return frozenset((k, key_of(v)) for k, v in value.items())
    return value
