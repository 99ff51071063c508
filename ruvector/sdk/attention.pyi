from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ruvector import KVCache
from ruvector.sdk.builder import AttentionBuilder

_Rng = np.random.Generator | int | None

class Attention:
    dim: int
    builder: AttentionBuilder
    mask: NDArray[Any] | None
    weights: Mapping[str, NDArray[Any]]
    @property
    def name(self) -> str: ...
    @property
    def params(self) -> Mapping[str, Any]: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def v_dim(self) -> int: ...
    def __call__(
        self,
        query: ArrayLike,
        key: ArrayLike,
        value: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        cache: KVCache | None = None,
        training: bool = False,
        rng: _Rng = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]: ...
    def compute(
        self,
        query: ArrayLike,
        keys: ArrayLike,
        values: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        cache: KVCache | None = None,
        training: bool = False,
        rng: _Rng = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]: ...
    def cache(self, *, batch: int = 1, capacity: int = 0, dtype: DTypeLike = "float32") -> KVCache: ...
    def with_mask(self, mask: ArrayLike | None) -> Attention: ...
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...
    def to_dict(self) -> dict[str, Any]: ...
    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Attention: ...
    def to_json(self) -> str: ...
    @classmethod
    def from_json(cls, text: str) -> Attention: ...
