import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ruvector import KVCache
from ruvector.sdk.layers import LayerNorm, RMSNorm, TransformerLayer

class Encoder:
    layers: tuple[TransformerLayer, ...]
    width: int
    num_heads: int
    vocabulary_size: int
    max_tokens: int
    num_parameters: int
    def __init__(
        self,
        words: NDArray[Any],
        positions: NDArray[Any],
        segments: NDArray[Any] | None,
        norm: LayerNorm,
        layers: Sequence[TransformerLayer],
        *,
        num_heads: int,
        first_position: int = 0,
        num_parameters: int = 0,
    ) -> None: ...
    def __call__(
        self, ids: ArrayLike, mask: ArrayLike | None = None, *, token_types: ArrayLike | None = None
    ) -> NDArray[Any]: ...

class Decoder:
    layers: tuple[TransformerLayer, ...]
    width: int
    num_heads: int
    vocabulary_size: int
    max_tokens: int
    num_parameters: int
    def __init__(
        self,
        words: NDArray[Any],
        positions: NDArray[Any] | None,
        norm: LayerNorm | RMSNorm,
        layers: Sequence[TransformerLayer],
        *,
        num_heads: int,
        max_tokens: int,
        head: NDArray[Any] | None = None,
        num_parameters: int = 0,
    ) -> None: ...
    def caches(self, *, batch: int = 1, capacity: int = 0, dtype: DTypeLike | None = None) -> list[KVCache]: ...
    def __call__(self, ids: ArrayLike, caches: Sequence[KVCache] | None = None) -> NDArray[Any]: ...
    def generate(self, ids: ArrayLike, count: int) -> NDArray[np.int64]: ...

def load(path: str | os.PathLike[str]) -> Encoder | Decoder: ...
