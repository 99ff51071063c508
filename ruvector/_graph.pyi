from typing import Any

from numpy.typing import NDArray

def sort(
    source: NDArray[Any], target: NDArray[Any], sources: int, targets: int, loops: bool, numbered: bool
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]: ...
def attend(
    version: int,
    heads: int,
    query: NDArray[Any],
    key: NDArray[Any],
    value: NDArray[Any],
    out: NDArray[Any],
    starts: NDArray[Any],
    ends: NDArray[Any],
    indices: NDArray[Any],
    order: NDArray[Any] | None,
    a_target: NDArray[Any] | None,
    a_source: NDArray[Any],
    edge: NDArray[Any] | None,
    w_edge: NDArray[Any] | None,
    mask: NDArray[Any] | None,
    bias: NDArray[Any] | None,
    weights: NDArray[Any] | None,
    mean: bool,
    slope: float,
    scale: float,
    dropout: float,
    dropout_seed: int,
) -> None: ...
