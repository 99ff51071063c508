from typing import Any, Literal

from numpy.typing import ArrayLike, NDArray

def layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
def rms_norm(
    x: ArrayLike, weight: ArrayLike | None = None, *, eps: float = 1e-6, out: NDArray[Any] | None = None
) -> NDArray[Any]: ...
def gelu(
    x: ArrayLike, *, approximate: Literal["none", "tanh"] = "none", out: NDArray[Any] | None = None
) -> NDArray[Any]: ...
def silu(x: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]: ...
def swiglu(gate: ArrayLike, up: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]: ...
