"""Calls in fresh processes: memory and first-call goals, and the benchmark rows that the project's sources claim.

The usage guide gives a millisecond and a megabyte for each of five operations on embeddings 768 wide, the integration plan
a microsecond and a megabyte for eight heads; neither says whether one query or a whole sequence attends. Both are measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import ruvector
from ruvector.bench import peers
from ruvector.bench.results import Fresh

PATIENCE = 300.0  # seconds: 2.2e12 operations take some 20 on one old core


@dataclass(frozen=True)
class Claim:
    """A call, and what is claimed or asked of it."""

    name: str
    title: str
    call: str  # of `fresh.CALLS`
    sizes: Mapping[str, int]
    origin: str
    seconds: float | None = None
    bytes: float | None = None
    all_threads: bool = False
    processes: int = 1
    first: bool = True  # whether to time it: what takes half a minute is measured for its memory alone
    needs: str | None = None  # a type, or a public function, without which it does not exist

    @property
    def exists(self) -> bool:
        """Whether this version of the library can do it."""
        known = {name for record in ruvector.attention_types() for name in (record.name, *record.aliases)}
        return self.needs is None or self.needs in known or hasattr(ruvector, self.needs)


def _sizes(heads: int, length: int, keys: int, dim: int) -> dict[str, int]:
    return {"heads": heads, "length": length, "keys": keys, "dim": dim}


def _both(
    origin: str,
    title: str,
    call: str,
    heads: int,
    keys: int,
    dim: int,
    seconds: float,
    megabytes: float,
    needs: str | None = None,
) -> Iterable[Claim]:
    """One query, and a whole sequence."""
    for length, what in ((1, "one query"), (keys, "every query")):
        sizes = _sizes(heads, length, keys, dim)
        name = f"{origin}: {title}, {what}".replace(" ", "-").replace(",", "").replace(":", "")
        yield Claim(name, f"{title}, {what}", call, sizes, origin, seconds, megabytes * 1e6, needs=needs)


def _guide() -> Iterable[Claim]:
    origin = "usage guide"
    yield from _both(origin, "scaled_dot 128", "scaled_dot", 1, 128, 768, 0.5e-3, 1.2)
    yield from _both(origin, "scaled_dot 512", "scaled_dot", 1, 512, 768, 2.1e-3, 4.8)
    yield from _both(origin, "multi_head 512 of 8 heads", "multi_head", 8, 512, 768, 1.8e-3, 5.2)
    yield from _both(origin, "flash_v2 512 in blocks of 64", "flash_v2", 1, 512, 768, 1.6e-3, 2.1)
    yield from _both(origin, "flash_v2 2048 in blocks of 64", "flash_v2", 1, 2048, 768, 6.8e-3, 3.4)


def _plan() -> Iterable[Claim]:
    origin = "integration plan"
    yield from _both(origin, "ScaledDot 8 x 512", "scaled_dot", 8, 512, 64, 45e-6, 2)
    yield from _both(origin, "Flash 8 x 512", "flash_v2", 8, 512, 64, 38e-6, 0.5)
    yield from _both(origin, "Linear 8 x 4096", "linear", 8, 4096, 64, 120e-6, 4, needs="linear")
    gat = _sizes(4, 1000, 1000, 64)
    yield Claim(
        "integration-plan-GAT-1000-nodes", "GAT 1000 nodes of 4 heads", "gat", gat, origin, 85e-6, 1e6, needs="gat"
    )
    yield from _both(origin, "MoE 8 x 512 of 8 experts", "moe", 8, 512, 64, 95e-6, 3, needs="moe")
    sizes = _sizes(8, 512, 512, 64)
    name, title = "integration-plan-MoE-routing-of-512-tokens", "MoE routing of 512 tokens to 8 experts"
    yield Claim(name, title, "moe_route", sizes, origin, 95e-6, 3e6, needs="moe_route")


GOALS = "goal"

CLAIMS: tuple[Claim, ...] = (
    *_guide(),
    *_plan(),
    Claim("memory-8x32768x64", "attention 8 x 32768 x 64", "attention", _sizes(8, 32768, 32768, 64), GOALS,
          all_threads=True, first=False),
    Claim("first-call-8x512x64", "attention 8 x 512 x 64", "attention", _sizes(8, 512, 512, 64), GOALS, processes=5),
    Claim("first-call-decode-8x4096x64", "one query, 8 x 4096 x 64", "attention", _sizes(8, 1, 4096, 64), GOALS, processes=5),
    Claim("first-call-softmax-4096x512", "softmax 4096 x 512", "softmax", _sizes(1, 4096, 512, 1), GOALS, processes=5),
)  # fmt: skip


def select(*, own: bool, sources: bool) -> list[Claim]:
    """The claims that exist: those of our own goals, those of the sources."""
    return [c for c in CLAIMS if c.exists and (own if c.origin == GOALS else sources)]


def by_name(name: str) -> Claim | None:
    """The claim of this name, None for one that another version had."""
    return next((claim for claim in CLAIMS if claim.name == name), None)


def _ask(what: str, claim: Claim, threads: int) -> dict[str, float]:
    specification = json.dumps({"call": claim.call, "sizes": dict(claim.sizes), "threads": threads})
    command = [sys.executable, "-P", "-m", "ruvector.bench.fresh", what, specification]
    try:
        done = subprocess.run(
            command,
            env=peers.environment(threads),
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"refused": f"no answer in {PATIENCE:g} s"}  # type: ignore[dict-item]
    if done.returncode:
        words = done.stderr.strip().splitlines() or [""]
        return {"refused": f"its process ended with code {done.returncode}: {words[-1]}"}  # type: ignore[dict-item]
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def measure(claim: Claim, threads: int) -> Fresh:
    """Time and memory of a claim, each in processes of its own; the call that started nearest to its steady state counts."""
    found: dict[str, float] = {}
    for _ in range(claim.processes if claim.first else 0):
        answer = _ask("first", claim, threads)
        if "refused" in answer or not found or answer["first"] / answer["steady"] < found["first"] / found["steady"]:
            found = answer
        if "refused" in answer:
            break
    if "refused" not in found:
        found = {**found, **_ask("memory", claim, threads)}
    return Fresh(claim.name, threads, **found)  # type: ignore[arg-type]
