"""What ``ruvector accuracy`` does with its options."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import ruvector
from ruvector.accuracy import approximations, attention, ulp
from ruvector.accuracy.exact import LONG_IS_WIDER
from ruvector.bench import machine
from ruvector.bench.tables import show

FUNCTIONS = {function.name: function for function in ulp.FUNCTIONS}


class BadOption(Exception):
    """An option names what does not exist."""


def _chosen(option: str, names: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise BadOption(f"--{option}: {unknown[0]!r} is not one of {', '.join(known)}")
    return [name for name in known if name in (names or known)]


def _dtypes() -> list[Any]:
    found: list[Any] = [np.float32, np.float64, np.float16]
    try:
        import ml_dtypes
    except ImportError:
        return found
    return [*found, ml_dtypes.bfloat16]


def _attention_rows(
    isas: Sequence[str], exhaustive: bool, others: dict[str, attention.Attend]
) -> Iterator[attention.Row]:
    """Every type to 65536 keys; float32, or in an exhaustive run every type, to a million."""
    dtypes = _dtypes()
    yield from attention.error_rows(attention.LENGTHS, dtypes, isas, others=others)
    yield from attention.error_rows([attention.LONG_LENGTH], dtypes if exhaustive else dtypes[:1], isas, others=others)


def _number(value: float) -> str:
    return (
        f"{value:.3g}"
        if value < 9.995
        else f"{value:.1f}"
        if value < 99.95
        else f"{value:.0f}"
        if value < 1e6
        else f"{value:.0e}"
    )


def _table(rows: Sequence[attention.Row], who: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    headers = ["of", "n", "dtype", *who, "bound", ""]
    cells = []
    for row in rows:
        beyond = [name for name in who if row.shares[name] > 1]
        errors = [_number(row.errors[name]) for name in who]
        text = f"beyond the bound: {', '.join(beyond)}" if beyond else ""
        cells.append([row.distribution, f"{row.n}", row.dtype, *errors, _number(row.bound), text])
    return headers, cells


def _functions_table(worst: Sequence[ulp.Worst], isas: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    found = {(w.function, w.dtype, w.isa): w for w in worst}
    cells = []
    for name, dtype in dict.fromkeys((w.function, w.dtype) for w in worst):
        some = [found[name, dtype, isa] for isa in isas]
        beyond = [w.isa for w in some if not w.ulp <= w.bound]
        text = f"beyond the bound: {', '.join(beyond)}" if beyond else ""
        figures = [f"{w.ulp:.4f} at {w.at:.9g}" for w in some]
        cells.append([name, dtype, f"{some[0].arguments}", *figures, f"{some[0].bound:g}", text])
    return ["function", "dtype", "arguments", *isas, "bound", ""], cells


def _softmax_of_torch() -> Callable[[Any], Any] | None:
    try:
        import torch
    except ImportError:
        return None
    return lambda x: torch.softmax(torch.from_numpy(x), -1).numpy()


def accuracy(options: argparse.Namespace, progress: Callable[[int, int], None]) -> bool:
    """Run the command; True when an error lies beyond the library's bound.

    Raises
    ------
    BadOption
        For a function or an instruction set that does not exist here.
    """
    isas = _chosen("isa", options.isa, ruvector.isas())
    names = _chosen("function", options.function, tuple(FUNCTIONS))
    if options.json and not Path(options.json).resolve().parent.is_dir():
        raise BadOption(f"--json: there is no folder {Path(options.json).resolve().parent}")
    threads = options.threads or ruvector.get_num_threads()
    worst: list[ulp.Worst] = []
    whole = not options.function
    torch = attention.torch_attention() if whole else None
    others = {"torch": torch} if torch else {}
    dtypes, lengths = len(_dtypes()), len(attention.LENGTHS)
    drawn = len(attention.DISTRIBUTIONS) - len(attention.SCALED[True])
    tables = drawn * (dtypes * lengths + (dtypes if options.exhaustive else 1)) if whole else 0
    # a function counts as so many rows of the attention table as it takes longer
    weight = 500 if options.exhaustive else 10
    total, done = weight * len(names) + tables, 0
    for name in names:
        start = done
        worst += ulp.measure_float32(
            FUNCTIONS[name],
            isas,
            exhaustive=options.exhaustive,
            threads=threads,
            progress=lambda part, parts: progress(start + weight * part // parts, total),  # noqa: B023
        )
        worst += ulp.measure_float64(FUNCTIONS[name], isas)
        done += weight
        progress(done, total)
    rows: list[attention.Row] = []
    if whole:
        for row in _attention_rows(isas, options.exhaustive, others):
            rows.append(row)
            progress(min(total, done := done + 1), total)
    softmax = _softmax_of_torch() if whole else None
    sums = (
        list(attention.softmax_sum_rows((16, 4096, 65_536, 1_000_000), isas, {"torch": softmax} if softmax else {}))
        if whole
        else []
    )
    progress(total, total)
    _print(worst, rows, sums, isas, list(others), options.exhaustive)
    if options.json:
        content = {
            "machine": machine.describe(),
            "exhaustive": options.exhaustive,
            "functions": [asdict(w) for w in worst],
            "attention": [asdict(row) for row in rows],
            "softmax": [asdict(row) for row in sums],
        }
        Path(options.json).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return any(not w.ulp <= w.bound for w in worst) or any(
        not row.shares[isa] <= 1 for row in rows + sums for isa in isas
    )


def approximations_table() -> None:
    """Print what approximations cost and how far they are off."""
    cells = [
        [c.name, c.options, f"{c.milliseconds:.1f}", f"{c.ratio:.2f}", f"{c.error:.2g}", c.exact]
        for c in approximations.costs()
    ]
    headers = ["type", "options", "ms", "of exact attention", "error", "compared with"]
    show(f"approximations of {approximations.LONG_LENGTH} positions in clusters, float32", headers, cells)


def _print(
    worst: Sequence[ulp.Worst],
    rows: Sequence[attention.Row],
    sums: Sequence[attention.Row],
    isas: Sequence[str],
    others: Sequence[str],
    exhaustive: bool,
) -> None:
    what = "every float32" if exhaustive else f"every {ulp.STEP}th float32"
    show(f"largest error in units in the last place, {what} and samples of float64", *_functions_table(worst, isas))
    if not LONG_IS_WIDER:
        print("float64 was not compared: long double is no wider here\n")
    if rows:
        show("largest error of attention in units of u max|V|, u of the stored type", *_table(rows, [*isas, *others]))
        show("|sum of softmax - 1| in units of roundoff", *_table(sums, [*isas, *others]))
