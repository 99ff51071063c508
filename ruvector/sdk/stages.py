"""What stands beside attention in a pipeline: normalisations and dropout."""

from __future__ import annotations

from enum import Enum

import numpy as np

from ruvector import _coerce
from ruvector._layers import layer_norm, rms_norm
from ruvector._options import number, probability
from ruvector.sdk import plain


class NormType(Enum):
    """Normalisations: over each vector (LayerNorm, RMSNorm), or over the batch (BatchNorm)."""

    LayerNorm = "layer_norm"
    RMSNorm = "rms_norm"
    BatchNorm = "batch_norm"


def _row(value, name):
    """A weight or bias of a norm."""
    if value is None:
        return None
    value = _coerce.array(value, name)
    if value.ndim != 1:
        raise ValueError(f"{name} must have one axis, got shape {value.shape}")
    return plain.frozen(value)


def _eps(value, default):
    value = default if value is None else number(value, "eps")
    if value < 0:
        raise ValueError(f"eps must be at least 0, got {value}")
    return value


class Norm:
    """LayerNorm or RMSNorm as a stage."""

    def __init__(self, kind, weight, bias, eps):
        if kind is NormType.RMSNorm and bias is not None:
            raise ValueError("bias goes with LayerNorm and BatchNorm; RMSNorm has a weight alone")
        self.kind, self.weight, self.bias = kind, _row(weight, "weight"), _row(bias, "bias")
        self.eps = _eps(eps, 1e-6 if kind is NormType.RMSNorm else 1e-5)

    def __call__(self, x, training, rng):
        if self.kind is NormType.RMSNorm:
            return rms_norm(x, self.weight, eps=self.eps)
        return layer_norm(x, self.weight, self.bias, eps=self.eps)

    def __repr__(self):
        affine = "".join(f", {name}" for name in ("weight", "bias") if getattr(self, name) is not None)
        return f"{self.kind.name}(eps={self.eps:g}{affine})"


class BatchNorm:
    """Normalisation of each column over all rows: their own statistics in training, running ones at inference.

    Attributes
    ----------
    running_mean, running_var : ndarray of float64, shape (d,), or None
        None until a training run has seen data, which stands for 0 and 1.
    batches : int
        Training runs so far.
    """

    kind = NormType.BatchNorm

    def __init__(self, weight, bias, eps, momentum, running_mean, running_var):
        self.weight, self.bias, self.eps = _row(weight, "weight"), _row(bias, "bias"), _eps(eps, 1e-5)
        self.momentum = number(momentum, "momentum")
        if not 0 < self.momentum <= 1:
            raise ValueError(f"momentum must be more than 0 and at most 1, got {momentum}")
        if (running_mean is None) != (running_var is None):
            raise ValueError("running_mean and running_var go together")
        mean, var = _row(running_mean, "running_mean"), _row(running_var, "running_var")
        if var is not None:
            if mean.shape != var.shape:
                raise ValueError(f"running_mean and running_var must have one shape, got {mean.shape} and {var.shape}")
            if not (var >= 0).all():
                raise ValueError(f"running_var must be at least 0, got {var.min()}")
            mean, var = mean.astype(np.float64), var.astype(np.float64)
        # one tuple, so that a reader in another thread never sees half of an update
        self._running = mean, var, 0

    @property
    def running_mean(self):
        return self._running[0]

    @property
    def running_var(self):
        return self._running[1]

    @property
    def batches(self):
        return self._running[2]

    def copy(self):
        """The same with statistics of its own."""
        other = object.__new__(BatchNorm)
        other.__dict__.update(self.__dict__)
        return other

    def __call__(self, x, training, rng):
        width = x.shape[-1]
        for name in ("running_mean", "weight", "bias"):
            value = getattr(self, name)
            if value is not None and len(value) != width:
                raise ValueError(f"{name} of BatchNorm has {len(value)} elements, the input {width} columns")
        with np.errstate(all="ignore"):
            mean, var = self._update(x) if training else self._running[:2]
            y = x.astype(np.float64)
            if mean is not None:
                y -= mean
            y /= np.sqrt((1.0 if var is None else var) + self.eps)
            if self.weight is not None:
                y *= self.weight
            if self.bias is not None:
                y += self.bias
            return y.astype(x.dtype)

    def _update(self, x):
        """Mean and variance of the batch, after they have moved the running ones."""
        rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
        count = len(rows)
        if count < 2:
            raise ValueError(f"BatchNorm in training needs at least two vectors, got shape {x.shape}")
        mean, var = rows.mean(0), rows.var(0)
        old_mean, old_var, batches = self._running
        old_mean, old_var = (0.0, 1.0) if old_mean is None else (old_mean, old_var)
        unbiased = var * (count / (count - 1))
        moved = (old + self.momentum * (new - old) for old, new in ((old_mean, mean), (old_var, unbiased)))
        self._running = *map(plain.frozen, moved), batches + 1
        return mean, var

    def __repr__(self):
        affine = "".join(f", {name}" for name in ("weight", "bias") if getattr(self, name) is not None)
        return f"BatchNorm(eps={self.eps:g}, momentum={self.momentum:g}{affine}, {self.batches} batches seen)"


def norm_stage(norm, weight=None, bias=None, eps=None, momentum=None, running_mean=None, running_var=None):
    """A stage of a NormType, or of its name."""
    if isinstance(norm, str):
        known = {kind.name.lower(): kind for kind in NormType} | {kind.value: kind for kind in NormType}
        if norm.lower() not in known:
            raise ValueError(f"norm must be {', '.join(kind.name for kind in NormType)}, got {norm!r}")
        norm = known[norm.lower()]
    if not isinstance(norm, NormType):
        raise TypeError(f"norm must be a NormType, got {norm!r}")
    if norm is NormType.BatchNorm:
        return BatchNorm(weight, bias, eps, 0.1 if momentum is None else momentum, running_mean, running_var)
    given = {"momentum": momentum, "running_mean": running_mean, "running_var": running_var}
    unused = [name for name, value in given.items() if value is not None]
    if unused:
        raise ValueError(f"{', '.join(unused)} go with BatchNorm, not {norm.name}")
    return Norm(norm, weight, bias, eps)


class Dropout:
    """Dropout as a stage: nothing but in training."""

    def __init__(self, p):
        self.p = probability(p, "p")

    def __call__(self, x, training, rng):
        return plain.dropped(x, self.p, rng) if training else x

    def __repr__(self):
        return f"dropout({self.p:g})"
