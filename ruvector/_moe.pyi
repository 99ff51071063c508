from typing import Any, Literal, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

GATE_SEED: int

def topk(x: ArrayLike, k: SupportsIndex, axis: SupportsIndex = -1) -> tuple[NDArray[Any], NDArray[np.int64]]: ...
def top_k_gating(
    logits: ArrayLike,
    top_k: SupportsIndex = 2,
    *,
    order: Literal["softmax_topk", "topk_softmax"] = "softmax_topk",
    normalize: bool = True,
) -> tuple[NDArray[np.int64], NDArray[Any]]: ...
def group(
    indices: NDArray[np.int64], num_experts: int, capacity: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]: ...
