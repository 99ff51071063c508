"""What stands beside attention in a pipeline: normalisations, dropout and feed-forward layers."""

from __future__ import annotations

from enum import Enum

import numpy as np

from ruvector import _coerce
from ruvector._layers import gelu, layer_norm, rms_norm, swiglu
from ruvector._options import number, one_of, probability
from ruvector._random import seed_of
from ruvector.sdk import config as plain
from ruvector.sdk.attention import _projected
from ruvector.sdk.builder import _INIT_SEED, _count, _drawn


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


def dropped(x, p, rng):
    """x with a share p of its elements 0, the others scaled."""
    if not p:
        return x
    kept = _coerce.explicit_generator(rng, "dropout").random(x.shape) >= p
    work = x.astype(_coerce.computed_in(x.dtype), copy=False)
    with np.errstate(all="ignore"):
        return np.where(kept, work * work.dtype.type(1 / (1 - p)), work.dtype.type(0)).astype(x.dtype, copy=False)


class Dropout:
    """Dropout as a stage: nothing but in training."""

    def __init__(self, p):
        self.p = probability(p, "p")

    def __call__(self, x, training, rng):
        return dropped(x, self.p, rng) if training else x

    def __repr__(self):
        return f"dropout({self.p:g})"


_ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "swiglu")


class FeedForward:
    """Two layers over each vector: ``gelu(x @ w_up + b_up) @ w_down + b_down``, or with a gate, SwiGLU's three.

    Parameters
    ----------
    w_up : array_like, shape (dim, hidden)
    w_down : array_like, shape (hidden, out)
    b_up, b_down : array_like, shape (hidden,) and (out,), optional
    w_gate : array_like, shape (dim, hidden)
        With "swiglu" alone: ``(silu(x @ w_gate + b_gate) * (x @ w_up + b_up)) @ w_down + b_down``.
    b_gate : array_like, shape (hidden,), optional
    activation : {"gelu", "gelu_tanh", "relu", "swiglu"}, default "gelu"
    dropout : float, default 0.0
        Share of hidden numbers dropped in training.

    Raises
    ------
    TypeError
        For a dtype that is not real.
    ValueError
        For shapes that do not fit, a gate without "swiglu" or the other way round.

    Notes
    -----
    ``4 dim hidden`` operations a vector, 6 with a gate, NumPy's matmul. From Vaswani et al. 2017, arXiv:1706.03762, and
    Shazeer 2020, GLU Variants Improve Transformer, arXiv:2002.05202.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvector import sdk
    >>> sdk.FeedForward(np.eye(2), np.ones((2, 1)))([1.0, -1.0]).round(4)
    array([0.6827])
    """

    def __init__(
        self,
        w_up,
        w_down,
        *,
        b_up=None,
        b_down=None,
        w_gate=None,
        b_gate=None,
        activation="gelu",
        dropout=0.0,
    ):
        self.activation = one_of(activation, "activation", _ACTIVATIONS)
        self.dropout = probability(dropout, "dropout")
        if (activation == "swiglu") != (w_gate is not None) or (b_gate is not None and w_gate is None):
            raise ValueError(f"w_gate goes with the activation 'swiglu', and that with w_gate; got {activation!r}")
        arrays = {"w_up": w_up, "w_down": w_down, "w_gate": w_gate, "b_up": b_up, "b_down": b_down, "b_gate": b_gate}
        arrays = {k: plain.frozen(_coerce.array(v, k)) for k, v in arrays.items() if v is not None}
        up, down = arrays.get("w_up"), arrays.get("w_down")
        for name, weight in (("w_up", up), ("w_down", down)):
            if weight is None or weight.ndim != 2 or 0 in weight.shape:
                raise ValueError(f"{name} must have shape (in, out), got {None if weight is None else weight.shape}")
        hidden = up.shape[1]
        wanted = {"w_down": (hidden, down.shape[1]), "w_gate": up.shape, "b_up": (hidden,), "b_gate": (hidden,)}
        wanted["b_down"] = (down.shape[1],)
        for name, shape in wanted.items():
            if name in arrays and arrays[name].shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {arrays[name].shape}")
        self.weights = arrays

    @classmethod
    def init(cls, dim, hidden=None, *, activation="gelu", dropout=0.0, rng=None, dtype="float32"):
        """A layer whose weights are drawn as `AttentionBuilder.init` draws them; without biases.

        Parameters
        ----------
        dim : int
        hidden : int, optional
            ``4 * dim`` when None, with a gate ``8 * dim // 3``: as many weights.
        activation : {"gelu", "gelu_tanh", "relu", "swiglu"}, default "gelu"
        dropout : float, default 0.0
        rng : numpy.random.Generator or seed, optional
            None: one fixed seed.
        dtype : dtype, default "float32"

        Returns
        -------
        FeedForward

        Raises
        ------
        TypeError, ValueError
            For an option of the wrong type or out of its range.

        Examples
        --------
        >>> from ruvector import sdk
        >>> sdk.FeedForward.init(512, activation="swiglu")
        feed_forward(512 -> 1365 -> 512, swiglu)
        """
        dim, gated = _count(dim, "dim"), one_of(activation, "activation", _ACTIVATIONS) == "swiglu"
        hidden = max(1, 8 * dim // 3 if gated else 4 * dim) if hidden is None else _count(hidden, "hidden")
        if not _coerce.is_floating(np.dtype(dtype)):
            raise TypeError(f"dtype must be float16, bfloat16, float32 or float64, got {dtype!r}")
        shapes = {"w_up": (dim, hidden), "w_down": (hidden, dim)} | ({"w_gate": (dim, hidden)} if gated else {})
        # another stream than that of the projections of attention beside it
        arrays = _drawn(seed_of(rng, _INIT_SEED + 1), np.dtype(dtype), shapes)
        return cls(**arrays, activation=activation, dropout=dropout)

    def __call__(self, x, training=False, rng=None):
        """The layer on vectors x (..., dim)."""
        x, w = _coerce.array(x, "x"), self.weights
        if x.ndim < 1 or x.shape[-1] != len(w["w_up"]):
            raise ValueError(f"the input of a feed-forward layer must be {len(w['w_up'])} wide, got shape {x.shape}")
        dtype = _coerce._promote((x, *w.values()))
        x = x.astype(_coerce.computed_in(dtype), copy=False)
        hidden = _projected(x, w["w_up"], w.get("b_up"))
        if self.activation == "swiglu":
            hidden = swiglu(_projected(x, w["w_gate"], w.get("b_gate")), hidden, out=hidden)
        elif self.activation == "relu":
            hidden = np.maximum(hidden, 0, out=hidden)
        else:
            hidden = gelu(hidden, approximate="tanh" if self.activation == "gelu_tanh" else "none", out=hidden)
        if training:
            hidden = dropped(hidden, self.dropout, rng)
        with np.errstate(over="ignore"):
            return _projected(hidden, w["w_down"], w.get("b_down")).astype(dtype, copy=False)

    def __repr__(self):
        up, down = self.weights["w_up"], self.weights["w_down"]
        dropout = f", dropout={self.dropout:g}" if self.dropout else ""
        return f"feed_forward({up.shape[0]} -> {up.shape[1]} -> {down.shape[1]}, {self.activation}{dropout})"
