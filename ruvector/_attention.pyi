from typing import Any

from numpy.typing import NDArray

class CompiledType:
    def __call__(
        self, query: Any, key: Any, value: Any, *, mask: Any = None, training: bool = False, rng: Any = None, out: Any = None
    ) -> NDArray[Any]: ...

def sdpa(
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    scale: float,
    causal: bool,
    enable_gqa: bool,
    softcap: float,
    left: int,
    right: int,
    slopes: Any,
    offset: int,
    dropout: float,
    seed: int,
    return_lse: bool,
    out: Any,
) -> Any: ...
def varlen(
    query: Any,
    key: Any,
    value: Any,
    query_starts: Any,
    key_starts: Any,
    scale: float,
    softcap: float,
    left: int,
    right: int,
    slopes: Any,
    return_lse: bool,
    out: Any,
) -> Any: ...
def merge(outputs: list[NDArray[Any]], lses: list[NDArray[Any]], out: NDArray[Any], lse: NDArray[Any]) -> None: ...
