"""Two results side by side: other machines or other versions, each also in units of what its machine can do."""

from __future__ import annotations

import math

from ruvector.bench import peaks, view
from ruvector.bench.results import OURS, Measured, Run


def _roof(run: Run, measured: Measured, isa: str) -> float | None:
    """The limit of a row on its machine; of the memory that its data fit into there."""
    return peaks.find(run.peaks, view.limit_of(run, measured), isa, measured.threads)


def pairs(a: Run, b: Run) -> list[tuple[str, int, str, str, float, float, float | None]]:
    """Rows in both: name, threads, instruction set of each, seconds of each, and how much of its limit b reaches over a.

    The same instruction set is compared where both have it; where they share none, each one's first.
    """
    shared = [isa for isa in a.isas if isa in b.isas]
    columns = [(isa, isa) for isa in shared] or [(a.isas[0], b.isas[0])]
    found = []
    for mine in a.rows:
        other = b.find(mine.row, mine.threads)
        for isa_a, isa_b in columns if other else ():
            assert other is not None
            x, y = mine.entry(OURS + isa_a), other.entry(OURS + isa_b)
            if not x or not y or not x.best or not y.best:
                continue
            roof_a, roof_b = _roof(a, mine, isa_a), _roof(b, other, isa_b)
            normalised = None
            if roof_a and roof_b:
                normalised = (view.rate_of(other, y.best) / roof_b) / (view.rate_of(mine, x.best) / roof_a)
            found.append((mine.row, mine.threads, isa_a, isa_b, x.best, y.best, normalised))
    return found


def table(a: Run, b: Run) -> tuple[list[str], list[list[str]]]:
    """The comparison as rows of text, the geometric means last."""
    headers = ["row", "threads", "ISA", "A", "B", "B's speed", "of its own limit"]
    found = pairs(a, b)
    cells = [
        [
            name,
            str(threads),
            isa_a if isa_a == isa_b else f"{isa_a} / {isa_b}",
            view.duration(x),
            view.duration(y),
            view.ratio(x / y),
            view.ratio(normalised),
        ]
        for name, threads, isa_a, isa_b, x, y, normalised in found
    ]
    if found:
        raw = [math.log(x / y) for *_, x, y, _ in found]
        own = [math.log(n) for *_, n in found if n]
        means = [view.ratio(math.exp(sum(v) / len(v))) if v else "-" for v in (raw, own)]
        cells.append(["geometric mean", "", "", "", "", *means])
    return headers, cells


def heads(a: Run, b: Run) -> list[str]:
    """A line for each that says what it is."""
    return [
        f"{letter}: {run.machine['cpu']}, ruvector {run.machine['ruvector']}, {run.date}, {', '.join(run.isas)}"
        for letter, run in (("A", a), ("B", b))
    ]
