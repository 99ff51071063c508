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

class MultiHeadAttention:
    num_heads: int
    num_kv_heads: int
    causal: bool
    head_dim: int
    v_dim: int
    width: int
    memory_width: int
    w_o: NDArray[Any]
    b_o: NDArray[Any] | None
    def __init__(
        self,
        w_q: ArrayLike,
        w_k: ArrayLike,
        w_v: ArrayLike,
        w_o: ArrayLike,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        b_q: ArrayLike | None = None,
        b_k: ArrayLike | None = None,
        b_v: ArrayLike | None = None,
        b_o: ArrayLike | None = None,
        causal: bool = False,
    ) -> None: ...
    @property
    def w_q(self) -> NDArray[Any]: ...
    @property
    def w_k(self) -> NDArray[Any]: ...
    @property
    def w_v(self) -> NDArray[Any]: ...
    def __call__(
        self,
        x: ArrayLike,
        memory: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        cache: KVCache | None = None,
    ) -> NDArray[Any]: ...

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
