from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

class Store:
    num_kv_heads: int
    head_dim: int
    v_dim: int
    batch: int
    length: int
    capacity: int
    dtype: np.dtype[Any]
    @property
    def window(self) -> int | None: ...
    def append(self, keys: ArrayLike, values: ArrayLike) -> None: ...
    def attend(
        self,
        query: ArrayLike,
        *,
        scale: float | None = None,
        softcap: float = 0.0,
        alibi_slopes: ArrayLike | None = None,
        return_lse: bool = False,
        out: NDArray[Any] | None = None,
    ) -> Any: ...
