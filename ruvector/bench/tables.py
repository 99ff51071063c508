"""A run as tables on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ruvector.bench import rows, view
from ruvector.bench.results import Run
from ruvector.cli import print_table


def show(title: str, headers: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Print a table: by rich where it is installed and the output is a terminal, in aligned columns elsewhere."""
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text
        except ImportError:
            pass
        else:
            table = Table(*headers, title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
            for row in cells:
                table.add_row(*(Text(cell, style="red" if "short" in cell or "WRONG" in cell else "") for cell in row))
            Console().print(table)
            print()
            return
    print(title)
    print_table(headers, cells)
    print()


def peaks(run: Run) -> tuple[list[str], list[list[str]]]:
    """The machine's limits: a row for each instruction set and number of threads."""
    whats = list(dict.fromkeys(p.what for p in run.peaks))
    keys = dict.fromkeys((p.isa, p.threads) for p in run.peaks)
    values = {(p.isa, p.threads, p.what): p.value for p in run.peaks}
    units = {what: "GFLOP/s" if what.startswith(("float", "bfloat")) else "GB/s" for what in whats}
    headers = ["ISA", "threads", *(f"{what} {units[what]}" for what in whats)]
    cells = [
        [
            isa,
            str(threads),
            *(f"{values[isa, threads, w] / 1e9:.1f}" if (isa, threads, w) in values else "-" for w in whats),
        ]
        for isa, threads in keys
    ]
    return headers, cells


def cell_text(cell: view.Cell, unit: str) -> str:
    """Time, rate and part of the limit."""
    if cell.entry is None:
        return "-"
    return f"{view.duration(cell.entry.best)}  {view.rate(cell.rate, unit)}  {view.percent(cell.part)}"


def speed(run: Run, some: Sequence[view.Line]) -> tuple[list[str], list[list[str]]]:
    """Rows beside the other libraries."""
    headers = ["row", "threads", *run.isas, "numpy", "torch", "best peer", "goal", ""]
    cells = []
    for x in some:
        first = x.cells[0]
        best = f"{view.ratio(first.versus.get('best'))} {x.best.label}" if x.best else "-"
        cells.append(
            [
                x.name,
                str(x.threads),
                *(cell_text(cell, x.unit) for cell in x.cells),
                view.ratio(first.versus.get("numpy")),
                view.ratio(first.versus.get("torch")),
                best,
                view.goals(x.row, x.threads),
                "; ".join(x.misses),
            ]
        )
    return headers, cells


def scaling(run: Run) -> tuple[list[str], list[list[str]]]:
    """One thread against several."""
    return ["row", "1 thread", "threads", "time", "ratio", "goal", ""], [
        [
            s.name,
            view.duration(s.one),
            str(s.threads),
            view.duration(s.many),
            view.ratio(s.ratio),
            f"{s.goal:g}x" if s.goal else "-",
            view.short(s.ratio, s.goal) if s.goal and s.missed else "",
        ]
        for s in view.scaling(run)
    ]


def fresh(run: Run) -> tuple[list[str], list[list[str]]]:
    """Calls in fresh processes beside the figures of the sources and our goals."""
    headers = ["of", "call", "threads", "first", "steady", "claimed", "extra memory", "inputs + outputs", "claimed", ""]
    cells = []
    for x in view.fresh_lines(run):
        f, claim = x.fresh, x.claim
        held = view.size(f.inputs + f.outputs) if f.inputs is not None and f.outputs is not None else "-"
        reason = f.refused or (f"short: {x.missed}" if x.missed else "")
        cells.append(
            [
                claim.origin,
                claim.title,
                str(f.threads),
                view.duration(f.first),
                view.duration(f.steady),
                view.duration(claim.seconds),
                view.size(f.extra),
                held,
                view.size(claim.bytes),
                reason,
            ]
        )
    return headers, cells


def growth(run: Run) -> tuple[list[str], list[list[str]]]:
    """What the time of each type grows as."""
    return ["type", "cost", "n", "times", "exponent", "expected", ""], [
        [
            x.growth.name,
            x.growth.complexity,
            f"{x.growth.sizes[0]} - {x.growth.sizes[-1]}",
            ", ".join(map(view.duration, x.growth.times)),
            "-" if x.exponent is None else f"{x.exponent:.2f}",
            f"{x.expected:g}",
            x.growth.refused or (f"{x.exponent - x.expected:.2f} above" if x.missed and x.exponent is not None else ""),
        ]
        for x in view.growth_lines(run)
    ]


def notes(run: Run) -> list[str]:
    """Libraries that are missing, and what was refused or wrong in which rows."""
    texts = [f"{name}: {why}" for name, why in run.missing.items()]
    found: dict[str, list[str]] = {}
    for x in view.lines(run):
        for text in x.notes:
            found.setdefault(text, []).append(x.name)
    for text, names in found.items():
        names = list(dict.fromkeys(names))
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        texts.append(f"{text} ({', '.join(names[:2])}{more})")
    return texts


def report(run: Run) -> None:
    """Print everything that a run has found."""
    show(f"limits of {run.machine['cpu']}", *peaks(run))
    for group, some in view.by_group(view.lines(run)).items():
        show(f"{group}: best time, rate, part of the limit; times of others over ours", *speed(run, some))
    for title, table in (("threads", scaling(run)), ("fresh processes", fresh(run)), ("growth with n", growth(run))):
        if table[1]:
            show(title, *table)
    for text in notes(run):
        print(text)
    counted = sum(1 for m in run.rows if (row := rows.by_name(m.row)) and row.goal != rows.Goal())
    print(f"{len(run.rows)} measurements, {counted} with goals, {len(view.missed(run))} goals missed")
