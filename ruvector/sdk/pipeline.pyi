from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ruvector.sdk.attention import Attention
from ruvector.sdk.stages import FeedForward, NormType

_Rng = np.random.Generator | int | None

class AttentionPipeline:
    stages: tuple[Any, ...]
    def __init__(self, stages: Iterable[Any] = ()) -> None: ...
    def add_attention(self, attention: Attention | Callable[..., NDArray[Any]]) -> AttentionPipeline: ...
    def add_norm(
        self,
        norm: NormType | str,
        *,
        weight: ArrayLike | None = None,
        bias: ArrayLike | None = None,
        eps: float | None = None,
        momentum: float | None = None,
        running_mean: ArrayLike | None = None,
        running_var: ArrayLike | None = None,
    ) -> AttentionPipeline: ...
    def add_dropout(self, p: float) -> AttentionPipeline: ...
    def add_residual(self) -> AttentionPipeline: ...
    def add_feed_forward(self, feed_forward: FeedForward) -> AttentionPipeline: ...
    def add_custom(self, function: Callable[[NDArray[Any]], Any]) -> AttentionPipeline: ...
    def run(
        self,
        query: ArrayLike,
        keys: ArrayLike | None = None,
        values: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        training: bool = False,
        rng: _Rng = None,
    ) -> NDArray[Any]: ...

def transformer_block(
    attention: Attention, dropout: float = 0.1, *, feed_forward: FeedForward | None = None, norm: NormType | str = ...
) -> AttentionPipeline: ...
def prenorm_transformer_block(
    attention: Attention, dropout: float = 0.1, *, feed_forward: FeedForward | None = None, norm: NormType | str = ...
) -> AttentionPipeline: ...
