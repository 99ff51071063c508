from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, SupportsIndex

from numpy.typing import ArrayLike, NDArray

from ruvector import AttentionType
from ruvector.index import AttentionIndex, SearchResult
from ruvector.mechanisms.graph import gat_search as gat_search

STAGES: tuple[Mapping[str, Any], ...]

class Matches(NamedTuple):
    query_ids: NDArray[Any]
    ids: NDArray[Any]
    scores: NDArray[Any]
    weights: NDArray[Any] | None

def mha_search(
    table: ArrayLike | AttentionIndex, query: ArrayLike, num_heads: SupportsIndex = 8, k: SupportsIndex = 10
) -> tuple[NDArray[Any], NDArray[Any]]: ...
def match(
    queries: ArrayLike | AttentionIndex,
    documents: ArrayLike | AttentionIndex,
    attention_type: str | AttentionType | None = None,
    *,
    k: SupportsIndex | None = 10,
    weights: Literal["table", "results"] | None = "table",
    **params: Any,
) -> Matches: ...
def rerank(
    query: ArrayLike,
    embeddings: ArrayLike | AttentionIndex,
    top_k: SupportsIndex = 10,
    stages: Sequence[str | AttentionType | Mapping[str, Any]] = ...,
) -> SearchResult: ...
