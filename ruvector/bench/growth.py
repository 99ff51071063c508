"""How the time of each attention type grows with the number of keys, beside what its record says.

Queries and keys grow together; a graph has eight edges a node, and routing to experts, whose cost is that of its queries, has a
fixed number of keys. Points of hyperbolic types lie well inside the ball.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ruvector

PREFIX = "growth-"  # of a type's name among the rows of the command
WIDTH = 64
EDGES = 8  # of a node
KEYS = 512  # of types whose record counts queries alone
SECONDS = 0.1  # least time of a length

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "lorentz": {"space_only": True},
    "grouped_query": {"num_kv_heads": 8},
    "multi_query": {"num_heads": 1},
    "adaptive_span": {"span": [64.0]},
    "synthesizer": {"max_length": 8192},
}
FIXED_KEYS = ("moe",)
SHARED = ("reformer",)  # queries that are the keys
MEMORY = ("product_key",)  # a value for each pair of halves of keys: as many as there are queries


def expected(complexity: str) -> float:
    """The exponent of a record's cost: 2 for ``O(n²)`` and ``O(n*m)``, 1.5 for ``O(n√n)``, 1 for ``O(n)``, ``O(n*w)`` and ``O(E)``."""
    inside = re.match(r"O\((.*)\)", complexity)
    text = inside[1] if inside else complexity
    if "\u00b2" in text or re.fullmatch(r"n[* ]?m", text):
        return 2.0
    return 1.5 if "\u221a" in text else 1.0


def select(filters: Iterable[str] = ()) -> list[str]:
    """The types whose row's name holds one of the texts; all, when there is none."""
    texts = tuple(filters)
    names = [record.name for record in ruvector.attention_types() if record.family != "custom"]
    return [name for name in names if not texts or any(text in PREFIX + name for text in texts)]


def complexity(name: str) -> str:
    """What the type's record says."""
    return next(record.complexity for record in ruvector.attention_types() if record.name == name)


def sizes(name: str) -> list[int]:
    """The lengths that are timed: longer where cost grows slowly."""
    first = 1024 if expected(complexity(name)) > 1 else 4096
    return [first << i for i in range(4)]


def call(name: str, n: int) -> Callable[[], Any]:
    """The type on n queries, with its own parameters but for those that it cannot do without."""
    rng = np.random.default_rng(n)

    def normal(rows: int) -> NDArray[np.float32]:
        return rng.standard_normal((rows, WIDTH), dtype=np.float32) / np.float32(16)

    keys = values = KEYS if name in FIXED_KEYS else n
    if name in MEMORY:
        keys = math.isqrt(n)
        values = keys * keys
    options = dict(OPTIONS.get(name, {}))
    if complexity(name) == "O(E)":
        options["edge_index"] = rng.integers(0, n, (2, EDGES * n))
    attend = ruvector.get_attention(name, **options)
    query = normal(n)
    return partial(attend, query, query if name in SHARED else normal(keys), normal(values))


def measure(name: str) -> list[float]:
    """The best time of a call at each length, one after another so that all see the same neighbours."""
    calls = [call(name, n) for n in sizes(name)]
    best = [math.inf] * len(calls)
    spent, rounds = 0.0, 0
    while rounds < 3 or spent < SECONDS * len(calls):
        for i, attend in enumerate(calls):
            start = time.perf_counter()
            attend()
            taken = time.perf_counter() - start
            best[i], spent = min(best[i], taken), spent + taken
        rounds += 1
    return best


def exponent(lengths: Iterable[float], times: Iterable[float]) -> float:
    """The slope of the line through the logarithms."""
    return float(np.polyfit(np.log(list(lengths)), np.log(list(times)), 1)[0])
