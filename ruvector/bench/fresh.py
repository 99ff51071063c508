"""One call in a fresh process: ``python -m ruvector.bench.fresh WHAT SPECIFICATION`` prints a JSON object.

first    seconds of the first call, and of the steady state after it
memory   the largest growth of resident memory during a call, less its result: what it used beyond inputs and outputs
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import ruvector

Sizes = Mapping[str, int]
STEADY = 0.3  # seconds of the steady state


def _qkv(s: Sizes, *lead: int) -> list[Any]:
    """query (..., length, dim), key and value (..., keys, dim), drawn as float32, so that no copy is ever held."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((*lead, n, s["dim"]), dtype=np.float32) for n in (s["length"], s["keys"], s["keys"])]


def _attention(s: Sizes) -> tuple[Callable[..., Any], list[Any]]:
    return ruvector.scaled_dot_product_attention, _qkv(s, 1, s["heads"])


def _typed(
    name: str, *, heads_inside: bool = False, **parameters: Any
) -> Callable[[Sizes], tuple[Callable[..., Any], list[Any]]]:
    """A call of a registered type; heads are an axis unless the type cuts them out of the width itself."""

    def build(s: Sizes) -> tuple[Callable[..., Any], list[Any]]:
        lead = () if heads_inside or s["heads"] == 1 else (s["heads"],)
        return ruvector.get_attention(name, **parameters), _qkv(s, *lead)

    return build


def _softmax(s: Sizes) -> tuple[Callable[..., Any], list[Any]]:
    return ruvector.softmax, [np.random.default_rng(0).standard_normal((s["length"], s["keys"]), dtype=np.float32)]


def _gat(s: Sizes) -> tuple[Callable[..., Any], list[Any]]:
    """Random edges, five a node."""
    rng, nodes, width = np.random.default_rng(0), s["keys"], s["dim"] // s["heads"]
    x = rng.standard_normal((nodes, s["dim"]), dtype=np.float32)
    edges = rng.integers(0, nodes, (2, 5 * nodes))
    w = rng.standard_normal((s["heads"], s["dim"], width), dtype=np.float32) / np.float32(np.sqrt(s["dim"]))
    ends = [rng.standard_normal((s["heads"], width), dtype=np.float32) for _ in range(2)]
    return getattr(ruvector, "gat"), [x, edges, w, *ends]  # noqa: B009 - exists where the type does


def _moe_route(s: Sizes) -> tuple[Callable[..., Any], list[Any]]:
    """Tokens to eight experts, two each, by the gate that the library makes."""
    tokens = np.random.default_rng(0).standard_normal((s["keys"], s["heads"] * s["dim"]), dtype=np.float32)
    return partial(getattr(ruvector, "moe_route"), num_experts=8, top_k=2), [tokens]  # noqa: B009


CALLS: dict[str, Callable[[Sizes], tuple[Callable[..., Any], list[Any]]]] = {
    "attention": _attention,
    "softmax": _softmax,
    "scaled_dot": _typed("scaled_dot"),
    "multi_head": _typed("multi_head", heads_inside=True, num_heads=8),
    "flash_v2": _typed("flash_v2", block_size=64),
    "linear": _typed("linear"),
    "moe": _typed("moe"),
    "moe_route": _moe_route,
    "gat": _gat,
}


def first(call: Callable[[], Any], inputs: list[Any]) -> dict[str, float]:
    """Seconds of the first call, and the least of those that follow.

    What is fresh is the library: memory of the inputs' size has been used once and the inputs read before, so that neither
    the system's first pages nor cold caches are taken for it.
    """
    for x in inputs:
        for _ in range(2):  # glibc keeps freed memory of a size from the second time on
            x.copy()
    for _ in range(3):
        for x in inputs:
            x.sum()
    start = time.perf_counter()
    call()
    taken = time.perf_counter() - start
    times: list[float] = []
    end = time.perf_counter() + STEADY
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return {"first": taken, "steady": min(times)}


def _linux_memory() -> tuple[int, int]:
    """Resident bytes, and their largest number so far."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(fields[name].split()[0]) << 10 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def high_water() -> tuple[int, Callable[[], int]]:
    """Resident bytes now, and what tells the largest number from now on."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
        return _linux_memory()[0], lambda: _linux_memory()[1]
    try:
        import resource
    except ImportError:
        raise OSError("this system does not tell the largest resident memory") from None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(
        resource.RUSAGE_SELF
    ).ru_maxrss * unit, lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _held(out: Any) -> int:
    """Bytes of a result: an array, a tuple of arrays, or an object with arrays in it."""
    if isinstance(out, np.ndarray):
        return out.nbytes
    if isinstance(out, tuple):
        return sum(map(_held, out))
    names = getattr(out, "__slots__", ()) or getattr(out, "__dict__", ())
    return sum(_held(x) for name in names if isinstance(x := getattr(out, name, None), np.ndarray | tuple))


def memory(call: Callable[[], Any], inputs: list[Any]) -> dict[str, int]:
    """Bytes of inputs and outputs, and those used beyond them; the code and the threads are there before."""
    before, largest = high_water()
    out = call()
    grown = largest() - before
    outputs = _held(out)
    return {"extra": max(0, grown - outputs), "inputs": sum(x.nbytes for x in inputs), "outputs": outputs}


def main(what: str, specification: Mapping[str, Any]) -> dict[str, Any]:
    """Make the call that a specification {call, sizes, threads} describes."""
    ruvector.set_num_threads(specification["threads"])
    function, inputs = CALLS[specification["call"]](specification["sizes"])
    call = partial(function, *inputs)
    if what == "first":
        return first(call, inputs)
    warm = {**specification["sizes"], "length": min(64, specification["sizes"]["length"]), "keys": 64}
    small, little = CALLS[specification["call"]](warm)
    small(*little)
    return memory(call, inputs)


if __name__ == "__main__":
    try:
        print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
    except Exception as problem:  # a reason to print, not a traceback
        print(json.dumps({"refused": f"{type(problem).__name__}: {' '.join(str(problem).split())}"[:200]}))
