"""A run as Markdown: what bench/RESULTS.md is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ruvector.bench import rows, tables, view
from ruvector.bench.problems import TOLERANCES
from ruvector.bench.results import Run


def table(headers: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""

    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    return "\n".join([line(headers), "|" + "---|" * len(headers), *map(line, cells)])


def _cell(cell: view.Cell, unit: str) -> list[str]:
    if cell.entry is None:
        return ["-", "-"]
    drift = f", runs {cell.drift:.2f}" if cell.drift else ""
    figure = f"{view.duration(cell.entry.best)}, {view.rate(cell.rate, unit)}, {view.percent(cell.part)}"
    return [figure, f"{cell.spread:.2f}{drift}" if cell.spread else "-"]


def _speed(run: Run, some: Sequence[view.Line]) -> str:
    headers = [
        "row",
        "threads",
        *(h for isa in run.isas for h in (isa, "median / best")),
        "best peer",
        "torch",
        "NumPy",
        "goal",
        "short",
    ]
    cells = []
    for x in some:
        first = x.cells[0]
        best = (
            f"{view.ratio(first.versus.get('best'))} {x.best.label} ({view.duration(x.best.best)})" if x.best else "-"
        )
        ratios = [view.ratio(first.versus.get(who)) for who in ("torch", "numpy")]
        figures = [text for cell in x.cells for text in _cell(cell, x.unit)]
        missed = f"**{'; '.join(x.misses)}**" if x.misses else ""
        cells.append([f"`{x.name}`", str(x.threads), *figures, best, *ratios, view.goals(x.row, x.threads), missed])
    return table(headers, cells)


def _head(run: Run) -> str:
    here = run.machine
    caches = ", ".join(f"{level} {count >> 10} KiB" for level, count in here["caches"].items() if count)
    others = ", ".join(f"{name} {version}" for name, version in sorted(run.versions.items()) if name != "ruvector")
    dates = run.dates or [run.date]
    return "\n".join(
        [
            "# Results of `ruvector bench`",
            "",
            f"{here['cpu']}, {here['cpus']} CPUs, {caches}; {here['system']} {here['architecture']}, Python {here['python']}.",
            f"ruvector {here['ruvector']} beside {others}.",
            f"Measured {' and '.join(dates)}; instruction sets {', '.join(run.isas)}.",
            "",
            "Limits of this machine, measured in the same runs:",
            "",
            table(*tables.peaks(run)),
            "",
            "Each figure is the best time, the rate and the part of the machine's limit for that work (multiply-adds, or reading "
            "from the level of memory that the row's data fit into); beside it the quietest median over the best and, of several "
            "runs, the worst best over the best. Ratios are times of others over ours on the first instruction set: above 1 we are "
            "faster. Every call was checked against exact values; its tolerance:",
            "",
            *(f"- {name}: {text}" for name, (text, _) in TOLERANCES.items()),
        ]
    )


def page(run: Run) -> str:
    """The whole document."""
    parts = [_head(run)]
    for group, some in view.by_group(view.lines(run)).items():
        parts += [f"## {group}", _speed(run, some)]
        if group in rows.TRIED and any(x.misses for x in some):
            parts.append(f"Where a row falls short: {rows.TRIED[group]}")
    if view.scaling(run):
        text = (
            f"The goal is {rows.TWO_THREADS}x with two threads where one takes {view.duration(rows.TWO_THREADS_FROM)} or more over "
            f"products, and {rows.TINY_THREADS}x where it takes less than {view.duration(rows.TINY_BELOW)}: no slower."
        )
        parts += ["## threads", text, table(*tables.scaling(run))]
    if view.fresh_lines(run):
        text = (
            f"Goals: a first call within {rows.FIRST_CALL:g}x of the steady state, and at most "
            f"{rows.EXTRA_BYTES_A_THREAD >> 20} MiB a thread beyond inputs and outputs. The claims are figures of the project's "
            "sources, which do not say on what they were measured."
        )
        parts += ["## calls in fresh processes", text, table(*tables.fresh(run))]
    if run.growth:
        text = (
            "Times of every attention type on one thread at growing lengths, and the exponent of the line through their "
            f"logarithms; it may lie {rows.GROWTH:g} above that of the type's record."
        )
        parts += ["## growth with n", text, table(*tables.growth(run))]
    missed = view.missed(run)
    parts += [f"## goals missed: {len(missed)}", "\n".join(f"- {text}" for text in missed) or "None."]
    notes = tables.notes(run)
    if notes:
        parts += ["## left out, refused or wrong", "\n".join(f"- {text}" for text in notes)]
    return "\n\n".join(parts) + "\n"
