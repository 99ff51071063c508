"""Largest error of the elementary functions in units in the last place, on samples or on every float32."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ruvector
from ruvector import _primitives
from ruvector.accuracy.exact import LONG, LONG_IS_WIDER

Array = NDArray[Any]

CHUNK = 1 << 20  # arguments at a time: their exact values and errors stay in the L3 cache
STEP = 2039  # of the sample: every so many bit patterns, a prime, so that all mantissas take part
WORDS = 1 << 31  # float32 of one sign, infinities and NaN included


@dataclass(frozen=True)
class Function:
    """An elementary function: where it is compared in float64, and how its exact value is computed."""

    name: str
    low: float  # float64 is sampled on [low, high], where results are neither 0, 1 nor infinite
    high: float
    exact: Callable[[Array], Array]
    odd: bool = False


def _erf_float64(x: Array) -> Array:
    """The C library's erf, within 1 ULP of float64: 2^-29 of a float32's."""
    return np.fromiter(map(math.erf, x.tolist()), np.float64, x.size)


def _erf_long(x: Array) -> Array:
    """The series exp(-x^2) 2/sqrt(pi) sum 2^n x^(2n+1) / (2n+1)!!, whose terms are all positive, in long double."""
    square = x * x
    term, total = x.copy(), x.copy()
    for n in range(1, 300):  # 290 terms leave 2^-70 at |x| = 7
        term = term * 2 * square / (2 * n + 1)
        total = total + term
    pi = LONG.type("3.14159265358979323846264338327950288")
    return np.exp(-square) * 2 / np.sqrt(pi) * total


def _erf(x: Array) -> Array:
    return _erf_float64(x) if x.dtype == np.float64 else _erf_long(x)


def _turned(x: Array, ahead: int) -> Array:
    """sin(pi x), or cos(pi x) one quarter turn ahead: the reduction to |r| <= 1/4 is exact."""
    a = np.fmod(np.abs(x), 2)
    turns = np.rint(2 * a)
    angle = (a - turns / 2) * x.dtype.type("3.14159265358979323846264338327950288")
    turns = np.where(np.isfinite(turns), turns, 0).astype(int) + ahead
    y = np.where(turns % 2, np.cos(angle), np.sin(angle)) * np.where(turns % 4 >= 2, -1, 1)
    return y if ahead else y * np.where(np.signbit(x), -1, 1)


def _sinpi(x: Array) -> Array:
    return _turned(x, 0)


def _cospi(x: Array) -> Array:
    return _turned(x, 1)


# NumPy's float64 functions are within 4 ULP of float64, 2^-27 of a float32's.
FUNCTIONS = (
    Function("exp", -746, 711, np.exp),
    Function("exp2", -1077, 1026, np.exp2),
    Function("exp2_flush", -1022, 1, np.exp2),
    Function("log", 0, 4, np.log),
    Function("tanh", -22, 22, np.tanh, odd=True),
    Function("erf", -7, 7, _erf, odd=True),
    Function("asinh", -50, 50, np.arcsinh, odd=True),
    Function("sinpi", -9, 9, _sinpi, odd=True),
    Function("cospi", -9, 9, _cospi),
)


@dataclass
class Worst:
    """The largest error found, and the argument that it was found at."""

    function: str
    dtype: str
    isa: str
    bound: float
    ulp: float = -1.0
    at: float = math.nan
    arguments: int = 0

    def see(self, x: Array, errors: Array) -> None:
        """Take the errors at arguments x into account."""
        self.arguments += x.size
        if x.size and (worst := errors.max()) > self.ulp:
            self.ulp, self.at = float(worst), float(x[errors.argmax()])


@np.errstate(all="ignore")
def float32_error(actual: Array, exact: Array) -> Array:
    """|actual - exact| in units in the last place of a float32 at `exact`, which is float64; inf where NaN or inf differ.

    2^128 stands for infinity where the exact value is less than that: rounding up to it is an error like any other.
    """
    limit = 2.0**128
    near = np.clip(actual.astype(np.float64), -limit, limit)
    error = np.abs(near - exact)
    exponent = np.maximum(np.abs(exact).view(np.int64) >> 52, 1023 - 126)
    error *= ((1023 + 23 + 1023 - exponent) << 52).view(np.float64)
    strange = np.flatnonzero(~(np.abs(exact) < limit))
    if strange.size:
        a, e = actual[strange], exact[strange]
        same = (np.isinf(a) & (np.sign(a) == np.sign(e))) | (np.isnan(a) & np.isnan(e))
        error[strange] = np.where(same, 0, np.inf)
    error[np.isnan(error)] = np.inf
    return error


@np.errstate(all="ignore")
def float64_error(actual: Array, exact: Array) -> Array:
    """As `float32_error` for float64, the exact value in long double."""
    limit = np.ldexp(LONG.type(1), 1024)
    near = np.clip(actual.astype(LONG), -limit, limit)
    _, exponent = np.frexp(exact)
    error = np.ldexp(np.abs(near - exact), 53 - np.maximum(exponent, -1021))
    same = (np.isinf(actual) & (np.sign(actual) == np.sign(exact))) | (np.isnan(actual) & np.isnan(exact))
    error = np.where(np.abs(exact) < limit, error, np.where(same, 0, np.inf))
    return np.where(np.isnan(error), np.inf, error).astype(np.float64)


@np.errstate(all="ignore")
def _errors(function: Function, x: Array, exact: Array) -> Array:
    """Errors of the active ISA's function at x."""
    actual = getattr(_primitives, function.name)(x)
    if function.name == "exp2_flush":
        least = np.finfo(x.dtype).tiny
        flushed = x < np.log2(least)
        lost = np.where(actual == 0, 0, np.inf)  # exactly 0 below, never subnormal above
        error = (float32_error if x.dtype == np.float32 else float64_error)(actual, exact)
        return np.where(flushed, lost, np.where(actual < least, np.inf, error))
    return (float32_error if x.dtype == np.float32 else float64_error)(actual, exact)


@np.errstate(all="ignore")
def _exact(function: Function, x: Array) -> Array:
    return function.exact(x.astype(np.float64 if x.dtype == np.float32 else LONG))


def _float32_chunks(exhaustive: bool) -> Iterator[Array]:
    """Bit patterns of positive float32, infinity and NaN included: all of them or a sample."""
    step = 1 if exhaustive else STEP
    for first in range(0, WORDS, CHUNK * step):
        yield np.arange(first, min(first + CHUNK * step, WORDS), step, dtype=np.uint32)


def _both_signs(function: Function, words: Array) -> list[tuple[Array, Array]]:
    """Arguments of both signs and their exact values; an odd function's are computed once."""
    x = words.view(np.float32)
    if function.odd:
        exact = _exact(function, x)
        return [(x, exact), (-x, -exact)]
    sides = [x, -x]
    if function.name == "exp2_flush":
        sides = [side[~(side > 1) & ~np.isnan(side)] for side in sides]
    return [(side, _exact(function, side)) for side in sides]


def measure_float32(
    function: Function,
    isas: Sequence[str],
    *,
    exhaustive: bool = False,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Worst]:
    """The largest error of every ISA over samples or all 2^32 float32 (all that `exp2_flush` takes).

    Chunks are dealt to threads; NumPy and the kernels work without the interpreter's lock.
    """
    bound = _primitives.ulp_bounds(np.float32)[function.name]
    worst = [Worst(function.name, "float32", isa, bound) for isa in isas]
    total = math.ceil(WORDS / CHUNK / (1 if exhaustive else STEP))
    done = 0
    chunks = _float32_chunks(exhaustive)
    with ThreadPoolExecutor(threads) as pool:
        while batch := list(itertools.islice(chunks, threads)):
            sides = [pair for pairs in pool.map(lambda words: _both_signs(function, words), batch) for pair in pairs]
            for one in worst:
                with ruvector.use_isa(one.isa):  # process-wide: the threads take turns on an ISA together
                    found = list(pool.map(lambda pair: _errors(function, *pair), sides))
                for (x, _), errors in zip(sides, found):
                    one.see(x, errors)
            done += len(batch)
            if progress:
                progress(done, total)
    return worst


def measure_float64(function: Function, isas: Sequence[str], *, samples: int = 200_000) -> list[Worst]:
    """The largest error of every ISA over random float64; none where long double is no wider."""
    if not LONG_IS_WIDER:
        return []
    rng = np.random.default_rng(0)
    spread = rng.uniform(function.low, function.high, samples)
    small = rng.uniform(-1, 1, samples // 4) * 2.0 ** rng.uniform(-60, 0, samples // 4)
    x = np.concatenate([spread, np.abs(small) if function.name == "log" else small])
    exact = _exact(function, x)
    bound = _primitives.ulp_bounds(np.float64)[function.name]
    worst = [Worst(function.name, "float64", isa, bound) for isa in isas]
    for one in worst:
        with ruvector.use_isa(one.isa):
            one.see(x, _errors(function, x, exact))
    return worst
