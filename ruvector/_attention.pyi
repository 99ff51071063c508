from typing import Any

from numpy.typing import NDArray

class CompiledType:
    def __call__(
        self,
        query: Any,
        key: Any,
        value: Any,
        *,
        mask: Any = None,
        training: bool = False,
        rng: Any = None,
        out: Any = None,
    ) -> NDArray[Any]: ...

def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    softcap: float = 0.0,
    window: Any = None,
    alibi_slopes: Any = None,
    return_lse: bool = False,
    rng: Any = None,
    out: Any = None,
) -> Any: ...
def heads_mean(weights: NDArray[Any], out: NDArray[Any]) -> None: ...
def partial(
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    scale: float,
    causal: bool,
    enable_gqa: bool,
    softcap: float,
    window: Any,
    slopes: Any,
    offset: int,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
def sparse(
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    scale: float,
    softcap: float,
    window: Any,
    offset: int,
    blocks: tuple[bool, int, int, int, Any, Any] | None,
    shared: tuple[Any, int | None] | None,
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
    causal: bool,
    softcap: float,
    window: Any,
    slopes: Any,
    return_lse: bool,
    out: Any,
) -> Any: ...
def merge(outputs: list[NDArray[Any]], lses: list[NDArray[Any]], out: NDArray[Any], lse: NDArray[Any]) -> None: ...
