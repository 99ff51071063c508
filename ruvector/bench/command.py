"""What ``ruvector bench`` does with its options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import ruvector
from ruvector.bench import compare, growth, markdown, measure, page, peaks, results, rows, sources, tables, view
from ruvector.bench.results import BadResult, Run

__all__ = ["BadOption", "BadResult", "bench"]


class BadOption(Exception):
    """Options that do not go together, or name what does not exist."""


MEASURING = (
    "filter",
    "quick",
    "sources",
    "threads",
    "isa",
    "seconds",
)  # options without effect where nothing is measured


def _exclusive(options: argparse.Namespace) -> None:
    """Refuse options that would have no effect."""
    modes = [
        f"--{'from' if name == 'results' else name}"
        for name in ("list", "results", "compare")
        if getattr(options, name)
    ]
    if len(modes) > 1:
        raise BadOption(f"{' and '.join(modes)} do not go together")
    if not modes:
        if options.sources and (options.filter or options.quick):
            raise BadOption("--sources has rows of its own: --filter and --quick do not go with it")
        return
    given = [f"--{name}" for name in MEASURING if getattr(options, name)]
    if modes == ["--list"]:
        given = [name for name in given if name not in ("--filter", "--quick")]
    writes = [f"--{name}" for name in ("json", "html", "markdown") if getattr(options, name)]
    if modes != ["--from"]:
        given += writes
    if given:
        raise BadOption(f"{given[0]} has no effect with {modes[0]}")


def _writable(options: argparse.Namespace) -> None:
    """Find out before minutes of measuring whether the results can be written."""
    for name in ("json", "html", "markdown"):
        path = getattr(options, name)
        if path and not Path(path).resolve().parent.is_dir():
            raise BadOption(f"--{name}: there is no folder {Path(path).resolve().parent}")


def _isas(names: Sequence[str] | None) -> list[str]:
    usable = ruvector.isas()
    unknown = [name for name in names or () if name not in usable]
    if unknown:
        raise BadOption(f"--isa: {unknown[0]!r} is not usable here; usable are {', '.join(usable)}")
    chosen = names or peaks.columns()
    return [name for name in usable if name in chosen]  # best first: its column is what goals are for


def _select(options: argparse.Namespace) -> tuple[list[rows.Row], list[sources.Claim], list[str]]:
    """Rows, calls in fresh processes, and types whose growth is measured, that the options ask for."""
    if options.sources:
        return [], sources.select(own=False, sources=True), []
    selected = rows.select(options.filter, quick=options.quick)
    claims = [] if options.quick else sources.select(own=True, sources=True)
    if options.filter:
        claims = [claim for claim in claims if any(text in claim.name for text in options.filter)]
    types = [] if options.quick else growth.select(options.filter or ())
    if not selected and not claims and not types:
        raise BadOption(f"no row's name holds {' or '.join(map(repr, options.filter))}; --list shows them")
    return selected, claims, types


def _list(options: argparse.Namespace) -> None:
    selected, claims, types = _select(options)
    listed = [[r.name, "1" if r.one_thread else "1, all", view.goals(r, 1), ", ".join(r.peers)] for r in selected]
    listed += [[c.name, "all" if c.all_threads else "1", "-", ""] for c in claims]
    listed += [
        [growth.PREFIX + name, "1", f"exponent {growth.expected(growth.complexity(name)):g}", ""] for name in types
    ]
    tables.show("rows", ("row", "threads", "goal", "other libraries"), listed)


def bench(options: argparse.Namespace, progress: Callable[[int, int], None], note: Callable[[str], None]) -> bool:
    """Run the command; True when the library itself was found wrong.

    Raises
    ------
    BadOption
        For options that do not go together or name what does not exist.
    BadResult
        For a file that is no result of this command.
    """
    _exclusive(options)
    if options.list:
        _list(options)
        return False
    if options.compare:
        a, b = map(results.load, options.compare)
        tables.show("\n".join(compare.heads(a, b)), *compare.table(a, b))
        return False
    _writable(options)
    if options.results:
        run = results.merge([results.load(path) for path in options.results])
    else:
        run = _measure(options, progress, note)
    if options.json:
        results.save(run, options.json)
    for path, write in ((options.html, page.page), (options.markdown, markdown.page)):
        if path:
            Path(path).write_text(write(run), encoding="utf-8")
    tables.report(run)
    return any(entry.wrong and entry.isa for measured in run.rows for entry in measured.entries)


def _measure(options: argparse.Namespace, progress: Callable[[int, int], None], note: Callable[[str], None]) -> Run:
    selected, claims, types = _select(options)
    isas = _isas(options.isa)
    threads = sorted(set(options.threads or (1, ruvector.get_num_threads())))
    default = measure.QUICK_SECONDS if options.quick else measure.SECONDS
    return measure.run(
        selected,
        threads,
        isas,
        seconds=options.seconds or default,
        claims=claims,
        types=types,
        quick=options.quick,
        progress=progress,
        note=note,
    )
