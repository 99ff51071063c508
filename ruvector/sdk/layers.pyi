from collections.abc import Callable
from typing import Any

from numpy.typing import ArrayLike, NDArray

from ruvector import KVCache

class LayerNorm:
    weight: NDArray[Any]
    bias: NDArray[Any] | None
    eps: float
    def __init__(self, weight: ArrayLike, bias: ArrayLike | None = None, *, eps: float = 1e-5) -> None: ...
    def __call__(self, x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]: ...

class RMSNorm:
    weight: NDArray[Any]
    eps: float
    def __init__(self, weight: ArrayLike, *, eps: float = 1e-6) -> None: ...
    def __call__(self, x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]: ...

_Part = Callable[..., Any]

class TransformerLayer:
    attention: _Part
    feed_forward: _Part
    attention_norm: _Part
    feed_forward_norm: _Part
    cross_attention: _Part | None
    cross_norm: _Part | None
    norm_first: bool
    def __init__(
        self,
        attention: _Part,
        feed_forward: _Part,
        attention_norm: _Part,
        feed_forward_norm: _Part,
        *,
        cross_attention: _Part | None = None,
        cross_norm: _Part | None = None,
        norm_first: bool = False,
    ) -> None: ...
    def __call__(
        self,
        x: ArrayLike,
        memory: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        memory_mask: ArrayLike | None = None,
        cache: KVCache | None = None,
    ) -> NDArray[Any]: ...
