"""Error of attention against exact values, over distributions and lengths: the table of this command and of the tests.

Errors are in units of u max|V|, u the unit roundoff of the storage type, beside the bound in the same unit. The bound does
not grow with the number of keys; that is what the lengths are for.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

import ruvector
from ruvector.accuracy import exact

Array = NDArray[Any]
Attend = Callable[[Array, Array, Array], Array]

QUERIES, DIM, V_DIM = 4, 64, 8


def _one(n: int, draw: Callable[[tuple[int, ...]], Array]) -> tuple[Array, Array, Array]:
    """query, key and value drawn alike."""
    return draw((QUERIES, DIM)), draw((n, DIM)), draw((n, V_DIM))


def _normal(rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
    return _one(n, rng.standard_normal)


def _lognormal(rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
    return _one(n, lambda shape: rng.lognormal(size=shape))


def _cauchy(rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
    # cut where squares still fit into float16, so that every type sees the same
    return _one(n, lambda shape: np.clip(rng.standard_cauchy(shape), -200, 200))


def _constant(rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
    query, key, value = _normal(rng, n)
    return query, key, np.full_like(value, 0.1)


def _one_hot(rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
    query, key, value = _normal(rng, n)
    return query, key, np.eye(V_DIM)[rng.permutation(n) % V_DIM]


def _dominant(rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
    query, key, value = _normal(rng, n)
    key[n // 3] = query.sum(0) * 4
    return query, key, value


def _alternating(rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
    query, key, value = _normal(rng, n)
    return query, key, (1 + 0.01 * value) * np.where(np.arange(n) % 2, -1.0, 1.0)[:, None]


def _equal(rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
    query, key, _ = _normal(rng, 1)
    return query, np.broadcast_to(key, (n, DIM)), 0.1 + 0.9 * rng.random((n, V_DIM))


def _equal_constant(rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
    query, key, value = _equal(rng, n)
    return query, key, np.full_like(value, 0.1)


def _near_equal(rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
    query, key, value = _equal(rng, n)
    return query, key * (1 + 1e-3 * rng.standard_normal((n, 1))), value


def _scaled(factor: float) -> Callable[[np.random.Generator, int], tuple[Array, Array, Array]]:
    def draw(rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
        query, key, value = _normal(rng, n)
        return query * factor, key * factor, value * factor

    return draw


# The adverse ones break implementations that add terms one by one: with equal weights every rounding error has one sign.
DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int], tuple[Array, Array, Array]]] = {
    "normal": _normal,
    "lognormal": _lognormal,
    "Cauchy": _cauchy,
    "constant V": _constant,
    "one-hot V": _one_hot,
    "one dominant key": _dominant,
    "alternating sign": _alternating,
    "normal * 1e-30": _scaled(1e-30),
    "normal * 1e15": _scaled(1e15),
    "normal * 1e-3": _scaled(1e-3),
    "normal * 1e3": _scaled(1e3),
    "equal keys": _equal,
    "equal keys, V = 0.1": _equal_constant,
    "near-equal keys": _near_equal,
}
ADVERSE = ("equal keys", "equal keys, V = 0.1", "near-equal keys")
# Scales near the ends of a type's range: those of float16, and those of the others.
SCALED = {True: ("normal * 1e-3", "normal * 1e3"), False: ("normal * 1e-30", "normal * 1e15")}

LENGTHS = (16, 1024, 65_536)
LONG_LENGTH = 1_000_000


@dataclass(frozen=True)
class Row:
    """The largest error of one call, of several implementations, and the bound there; NaN errors are infinite."""

    distribution: str
    n: int
    dtype: str
    errors: dict[str, float]  # ISAs and the names of others
    shares: dict[str, float]  # largest error / bound, element by element: at most 1 where the bound is kept
    bound: float


def inputs(distribution: str, n: int, dtype: DTypeLike) -> tuple[Array, Array, Array]:
    """query (4, 64), key (n, 64) and value (n, 8), the same on every machine."""
    rng = np.random.default_rng([list(DISTRIBUTIONS).index(distribution), n])
    query, key, value = DISTRIBUTIONS[distribution](rng, n)
    return tuple(np.ascontiguousarray(x, dtype) for x in (query, key, value))  # type: ignore[return-value]


def fits(distribution: str, dtype: DTypeLike) -> bool:
    """Whether the distribution's scale is one for the type."""
    return distribution not in SCALED[np.dtype(dtype) != np.float16]


def ours(query: Array, key: Array, value: Array) -> Array:
    """The library's result on the active ISA."""
    return ruvector.scaled_dot_product_attention(query, key, value)


def torch_attention() -> Attend | None:
    """PyTorch's function for arrays of any of our types, None where it is not installed."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return None

    def tensor(x: Array) -> Any:
        bits = torch.from_numpy(x.view(np.int16)) if x.dtype.name == "bfloat16" else torch.from_numpy(x)
        return (bits.view(torch.bfloat16) if x.dtype.name == "bfloat16" else bits)[None, None]

    def attend(query: Array, key: Array, value: Array) -> Array:
        with torch.no_grad():
            out = torch.nn.functional.scaled_dot_product_attention(*map(tensor, (query, key, value)))[0, 0]
        return (out.double() if out.dtype == torch.bfloat16 else out).numpy()

    return attend


def _measure(result: Array, truth: exact.Exact, dtype: DTypeLike) -> tuple[float, float, float]:
    """Largest error and the bound, in units of u max|V|, and the largest share of the bound."""
    with np.errstate(invalid="ignore"):
        error = np.abs(exact.wide(result) - truth.value)
    error = np.where(np.isfinite(error), error, np.inf)
    one = exact.storage_unit(dtype) * truth.peak
    at = np.unravel_index((error / one).argmax(), error.shape)
    return float((error / one)[at]), float((truth.bound / one)[at]), float((error / truth.bound).max())


def error_rows(
    lengths: Iterable[int],
    dtypes: Sequence[DTypeLike],
    isas: Sequence[str],
    *,
    distributions: Iterable[str] = tuple(DISTRIBUTIONS),
    others: dict[str, Attend] | None = None,
) -> Iterator[Row]:
    """Rows of the table, one for each distribution, length and type that goes together.

    Parameters
    ----------
    lengths : iterable of int
        Numbers of keys.
    dtypes : sequence of dtype
    isas : sequence of str
        Instruction sets to force in turn.
    distributions : iterable of str
        Of `DISTRIBUTIONS`.
    others : dict, optional
        Functions of other libraries: query, key, value -> output.
    """
    lengths = tuple(lengths)
    for distribution in distributions:
        for dtype in [np.dtype(d) for d in dtypes]:
            for n in lengths if fits(distribution, dtype) else ():
                query, key, value = inputs(distribution, n, dtype)
                truth = exact.attention_rows(query[None], key[None], value[None], [(0, i) for i in range(QUERIES)])
                errors, shares, bounds = {}, {}, {}
                for isa in isas:
                    with ruvector.use_isa(isa):
                        errors[isa], bounds[isa], shares[isa] = _measure(ours(query, key, value), truth, dtype)
                for name, attend in (others or {}).items():
                    errors[name], bounds[name], shares[name] = _measure(attend(query, key, value), truth, dtype)
                yield Row(distribution, n, dtype.name, errors, shares, min(bounds.values()))


def softmax_sum_rows(
    lengths: Iterable[int], isas: Sequence[str], others: dict[str, Callable[[Array], Array]]
) -> Iterator[Row]:
    """|sum of the weights - 1| in units of roundoff, float32, the sum taken exactly; the bound is 8 for any length."""
    for name, scale in (("equal", 0.0), ("normal * 3", 3.0)):
        for n in lengths:
            x = (np.random.default_rng(n).standard_normal(n) * scale + 1).astype(np.float32)
            errors = {}
            for isa in isas:
                with ruvector.use_isa(isa):
                    errors[isa] = abs(math.fsum(ruvector.softmax(x).tolist()) - 1) * 2.0**24
            for other, function in others.items():
                errors[other] = abs(math.fsum(function(x).tolist()) - 1) * 2.0**24
            yield Row(name, n, "float32", errors, {who: error / 8 for who, error in errors.items()}, 8.0)
