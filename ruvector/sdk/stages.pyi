from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

_Rng = np.random.Generator | int | None
_Activation = Literal["gelu", "gelu_tanh", "relu", "swiglu"]

class NormType(Enum):
    LayerNorm = "layer_norm"
    RMSNorm = "rms_norm"
    BatchNorm = "batch_norm"

class Norm:
    kind: NormType
    weight: NDArray[Any] | None
    bias: NDArray[Any] | None
    eps: float
    def __init__(self, kind: NormType, weight: ArrayLike | None, bias: ArrayLike | None, eps: float | None) -> None: ...
    def __call__(self, x: NDArray[Any], training: bool, rng: _Rng) -> NDArray[Any]: ...

class BatchNorm:
    kind: NormType
    weight: NDArray[Any] | None
    bias: NDArray[Any] | None
    eps: float
    momentum: float
    def __init__(
        self,
        weight: ArrayLike | None,
        bias: ArrayLike | None,
        eps: float | None,
        momentum: float,
        running_mean: ArrayLike | None,
        running_var: ArrayLike | None,
    ) -> None: ...
    @property
    def running_mean(self) -> NDArray[np.float64] | None: ...
    @property
    def running_var(self) -> NDArray[np.float64] | None: ...
    @property
    def batches(self) -> int: ...
    def copy(self) -> BatchNorm: ...
    def __call__(self, x: NDArray[Any], training: bool, rng: _Rng) -> NDArray[Any]: ...

class Dropout:
    p: float
    def __init__(self, p: float) -> None: ...
    def __call__(self, x: NDArray[Any], training: bool, rng: _Rng) -> NDArray[Any]: ...

class FeedForward:
    activation: str
    dropout: float
    weights: Mapping[str, NDArray[Any]]
    def __init__(
        self,
        w_up: ArrayLike,
        w_down: ArrayLike,
        *,
        b_up: ArrayLike | None = None,
        b_down: ArrayLike | None = None,
        w_gate: ArrayLike | None = None,
        b_gate: ArrayLike | None = None,
        activation: _Activation = "gelu",
        dropout: float = 0.0,
    ) -> None: ...
    @classmethod
    def init(
        cls,
        dim: int,
        hidden: int | None = None,
        *,
        activation: _Activation = "gelu",
        dropout: float = 0.0,
        rng: _Rng = None,
        dtype: DTypeLike = "float32",
    ) -> FeedForward: ...
    def __call__(self, x: ArrayLike, training: bool = False, rng: _Rng = None) -> NDArray[Any]: ...

def norm_stage(
    norm: NormType | str,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float | None = None,
    momentum: float | None = None,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
) -> Norm | BatchNorm: ...
def dropped(x: NDArray[Any], p: float, rng: _Rng) -> NDArray[Any]: ...
