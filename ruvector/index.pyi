from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import Any, Literal, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ruvector import AttentionType

_Id = int | str
_Ids = _Id | Iterable[_Id] | NDArray[Any]
_Weights = Literal["table", "results"] | None
_Filter = NDArray[np.bool_] | Iterable[_Id] | Callable[[NDArray[Any]], ArrayLike] | None

class IndexFileError(ValueError): ...

class SearchResult(NamedTuple):
    ids: NDArray[Any]
    scores: NDArray[Any]
    weights: NDArray[Any] | None

class AttentionIndex:
    dim: int
    dtype: np.dtype[Any]
    @property
    def attention_type(self) -> AttentionType: ...
    @property
    def query_dim(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    @property
    def ids(self) -> NDArray[Any]: ...
    @property
    def vectors(self) -> NDArray[Any]: ...
    def __init__(
        self,
        dim: SupportsIndex,
        attention_type: str | AttentionType = "scaled_dot",
        num_heads: SupportsIndex | None = None,
        *,
        head_dim: SupportsIndex | None = None,
        dtype: DTypeLike = ...,
        capacity: SupportsIndex = 0,
        **params: Any,
    ) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[_Id]: ...
    def __contains__(self, id: object) -> bool: ...
    def __getitem__(self, id: _Id) -> NDArray[Any]: ...
    def add(self, vectors: ArrayLike, ids: _Ids | None = None) -> NDArray[Any]: ...
    def update(self, ids: _Ids, vectors: ArrayLike) -> None: ...
    def remove(self, ids: _Ids) -> None: ...
    def search(
        self, queries: ArrayLike, k: SupportsIndex = 10, *, filter: _Filter = None, weights: _Weights = "table"
    ) -> SearchResult: ...
    def save(self, path: str | PathLike[str]) -> None: ...
    @classmethod
    def load(cls, path: str | PathLike[str], *, mmap: bool = False, verify: bool = True) -> AttentionIndex: ...
