"""What this machine can do at the most: multiply-adds a second, and bytes read a second from each level of memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import ruvector
from ruvector import _ruvector_core as core

DTYPES = ("float32", "float64", "bfloat16")
LEVELS = ("L1", "L2", "L3", "memory")
MEMORY = 256 << 20  # bytes read from memory, or eight times the L3 cache
READING = 0.0015  # seconds of one call: short enough to fall between the turns of a busy neighbour; waking threads takes 20 us


@dataclass(frozen=True)
class Peak:
    """The best of many short measurements.

    Attributes
    ----------
    what : str
        A dtype, whose multiply-adds are counted as two operations, or a level of memory.
    isa : str
    threads : int
    value : float
        Operations or bytes a second, all threads together.
    """

    what: str
    isa: str
    threads: int
    value: float


def columns() -> list[str]:
    """The best usable instruction set of each vector width, scalar left out where there is another: what is shown by default.

    Two are alike when a round of multiply-adds is as much work on both, such as AVX-512 with and without products of bfloat16.
    """
    widths: dict[float, str] = {}
    for isa in ruvector.isas():
        with ruvector.use_isa(isa):
            widths.setdefault(core.peak_fma("float32", 1, 1), isa)
    return [isa for isa in widths.values() if isa != "scalar"] or ["scalar"]


def _best(call: Callable[[int], float], seconds: float) -> float:
    """The best rate of calls whose argument is a number of rounds."""
    rounds, best, end = 1, 0.0, None
    while end is None or time.perf_counter() < end:
        start = time.perf_counter()
        amount = call(rounds)
        taken = time.perf_counter() - start
        best = max(best, amount / taken)
        if taken < READING / 2:  # also after an interruption has made a short call seem long enough
            rounds = int(rounds * max(2.0, min(100.0, READING / taken)))
        elif end is None:
            end = time.perf_counter() + seconds
    return best


def footprint(level: str, threads: int, caches: Mapping[str, int]) -> int:
    """Bytes that are read to measure a level: half of a cache, of all its copies together; 0 where its size is unknown."""
    if level == "memory":
        return max(MEMORY, 8 * caches["L3"])
    copies = threads if level in ("L1", "L2") else 1
    size = caches[level] * copies // 2
    smaller = {"L1": 0, "L2": caches["L1"] * threads, "L3": caches["L2"] * threads}[level]
    return size if size > smaller else 0


def level_of(size: float, threads: int, caches: Mapping[str, int]) -> str:
    """The nearest level that holds so many bytes, each thread having a part of them in its own caches."""
    for level in LEVELS[:-1]:
        if size <= caches[level] * (threads if level != "L3" else 1):
            return level
    return "memory"


def _aligned(n: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Ones on whole pages: a vector that lies on two cache lines takes two loads, which halves the rate of the L1 cache."""
    room = np.ones(n + 1024, np.float32)
    start = -room.ctypes.data % 4096 // 4
    return room[start : start + n]


def measure(
    isas: Iterable[str], threads: Sequence[int], caches: Mapping[str, int], seconds: float = 0.15
) -> list[Peak]:
    """Every peak of every instruction set and number of threads; `seconds` for each."""
    peaks = []
    largest = max(footprint(level, count, caches) for level in LEVELS for count in threads)
    buffer = _aligned(largest // 4)
    for isa in isas:
        with ruvector.use_isa(isa):
            for count in threads:
                for dtype in DTYPES:
                    try:
                        value = _best(partial(core.peak_fma, dtype, threads=count), seconds)
                    except LookupError:
                        continue  # no arithmetic of its own in that type
                    peaks.append(Peak(dtype, isa, count, value))
                for level in LEVELS:
                    size = footprint(level, count, caches)
                    if size >= 4096 * count:
                        value = _best(partial(core.peak_read, buffer[: size // 4], threads=count), seconds)
                        peaks.append(Peak(level, isa, count, value))
    return peaks


def join(*measurements: Iterable[Peak]) -> list[Peak]:
    """The best of several measurements of the same peaks: a busy neighbour only ever takes from a peak."""
    best: dict[tuple[str, str, int], Peak] = {}
    for peak in (p for measured in measurements for p in measured):
        key = peak.what, peak.isa, peak.threads
        if key not in best or peak.value > best[key].value:
            best[key] = peak
    return list(best.values())


def find(peaks: Iterable[Peak], what: str, isa: str, threads: int) -> float | None:
    """The value of one peak, None where it was not measured; a type that has none of its own is computed in float32."""
    values = {p.what: p.value for p in peaks if (p.isa, p.threads) == (isa, threads)}
    if what in ("float16", "bfloat16"):
        return values.get(what, values.get("float32"))
    return values.get(what)


def to_json(peaks: Iterable[Peak]) -> list[dict[str, Any]]:
    """Peaks as dictionaries."""
    return [vars(peak) for peak in peaks]
