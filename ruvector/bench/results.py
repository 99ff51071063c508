"""What a run has found, as it is kept in JSON, and runs put together."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ruvector.bench import peaks

FORMAT = 1  # of the JSON; a file of another format is refused
OURS = "ruvector "  # labels of the library's own entries: this and an instruction set


class BadResult(Exception):
    """A file is no result of the benchmark; the text names it and what is wrong."""


@dataclass
class Entry:
    """One participant of a row: its times in seconds, or why there are none."""

    label: str
    best: float | None = None
    median: float | None = None
    readings: int = 0
    error: float | None = None  # largest, of the checked elements
    share: float | None = None  # of its tolerance
    precision: str | None = None
    refused: str | None = None
    bests: list[float] = field(default_factory=list)  # one for each run

    @property
    def wrong(self) -> bool:
        """Whether the result was off by more than the tolerance; its time counts for nothing then."""
        return self.share is not None and not self.share <= 1

    @property
    def isa(self) -> str | None:
        """The instruction set of an entry of the library's, None for others."""
        return self.label.removeprefix(OURS) if self.label.startswith(OURS) else None

    @classmethod
    def of_times(cls, label: str, times: Sequence[float], **check: Any) -> Entry:
        """An entry from its readings."""
        best = min(times)
        return cls(label, best, statistics.median(times), len(times), bests=[best], **check)


@dataclass
class Measured:
    """A row with one number of threads."""

    row: str
    threads: int
    operations: float
    bytes: float
    reads: bool  # whether reading is the work
    dtype: str
    entries: list[Entry]

    def entry(self, label: str) -> Entry | None:
        """The entry of a participant that was right and has times."""
        return next((e for e in self.entries if e.label == label and e.best is not None and not e.wrong), None)

    def peers(self) -> list[Entry]:
        """Those of other libraries that were right."""
        return [e for e in self.entries if e.isa is None and e.best is not None and not e.wrong]

    def best_peer(self) -> Entry | None:
        """The fastest of them."""
        return min(self.peers(), key=lambda e: e.best or 0, default=None)

    def library(self, name: str) -> Entry | None:
        """The fastest of one library's entries: its name, or its name and a function."""
        mine = [e for e in self.peers() if e.label.split()[0] == name]
        return min(mine, key=lambda e: e.best or 0, default=None)


@dataclass
class Fresh:
    """A call in a fresh process: see `fresh`."""

    name: str
    threads: int
    first: float | None = None
    steady: float | None = None
    extra: int | None = None  # bytes beyond inputs and outputs
    inputs: int | None = None
    outputs: int | None = None
    refused: str | None = None


@dataclass
class Growth:
    """Times of an attention type at growing lengths: see `growth`."""

    name: str
    complexity: str
    sizes: list[int]
    times: list[float] = field(default_factory=list)
    refused: str | None = None


@dataclass
class Run:
    """All that one run has found."""

    date: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    peaks: list[peaks.Peak] = field(default_factory=list)
    rows: list[Measured] = field(default_factory=list)
    fresh: list[Fresh] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)
    dates: list[str] = field(default_factory=list)  # of the runs that were put together

    @property
    def isas(self) -> list[str]:
        """Instruction sets that were measured, best first."""
        return list(self.settings["isas"])

    @property
    def threads(self) -> list[int]:
        """Numbers of threads that were measured, in order."""
        return sorted({measured.threads for measured in self.rows})

    def find(self, row: str, threads: int) -> Measured | None:
        """One row."""
        return next((m for m in self.rows if (m.row, m.threads) == (row, threads)), None)


def save(run: Run, path: str | Path) -> None:
    """Write a run."""
    content = {"format": FORMAT, **asdict(run)}
    Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load(path: str | Path) -> Run:
    """Read a run.

    Raises
    ------
    BadResult
        For a file that cannot be read or is no result of this format.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadResult(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise BadResult(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise BadResult(f"{path} is not a result of `ruvector bench --json` in format {FORMAT}")
    try:
        rows = [Measured(**{**m, "entries": [Entry(**e) for e in m["entries"]]}) for m in content.pop("rows")]
        roofs = [peaks.Peak(**p) for p in content.pop("peaks")]
        fresh = [Fresh(**f) for f in content.pop("fresh")]
        growth = [Growth(**g) for g in content.pop("growth", [])]
        return Run(**content, rows=rows, peaks=roofs, fresh=fresh, growth=growth)
    except (KeyError, TypeError) as error:
        raise BadResult(f"{path} does not have the fields of format {FORMAT}: {error}") from error


def merge(runs: Sequence[Run]) -> Run:
    """Runs of one machine and version as one: the best and the quietest median of each entry, the best peaks.

    Raises
    ------
    BadResult
        For runs of different CPUs, versions or instruction sets.
    """
    first = runs[0]
    for other in runs[1:]:
        for what, a, b in (
            ("machine", first.machine["cpu"], other.machine["cpu"]),
            ("version", first.machine["ruvector"], other.machine["ruvector"]),
            ("instruction sets", first.isas, other.isas),
        ):
            if a != b:
                raise BadResult(f"runs of one {what} can be put together, not of {a} and {b}; see --compare")
    merged = Run(
        date=max(run.date for run in runs),
        machine=first.machine,
        settings=first.settings,
        versions={name: version for run in runs for name, version in run.versions.items()},
        missing={name: why for run in runs for name, why in run.missing.items()},
        peaks=peaks.join(*(run.peaks for run in runs)),
        dates=sorted(date for run in runs for date in (run.dates or [run.date])),
    )
    names = dict.fromkeys((m.row, m.threads) for run in runs for m in run.rows)
    for row, threads in names:
        same = [m for run in runs if (m := run.find(row, threads))]
        labels = dict.fromkeys(e.label for m in same for e in m.entries)
        entries = [_merge_entries([e for m in same for e in m.entries if e.label == label]) for label in labels]
        merged.rows.append(replace(same[0], entries=entries))
    for name, threads in dict.fromkeys((f.name, f.threads) for run in runs for f in run.fresh):
        merged.fresh.append(
            _merge_fresh([f for run in runs for f in run.fresh if (f.name, f.threads) == (name, threads)])
        )
    for name in dict.fromkeys(g.name for run in runs for g in run.growth):
        merged.growth.append(_merge_growth([g for run in runs for g in run.growth if g.name == name]))
    return merged


def _merge_growth(found: Sequence[Growth]) -> Growth:
    """The best time of each length."""
    timed = [g for g in found if g.times and g.sizes == found[-1].sizes]
    return (
        replace(timed[0], times=[min(times) for times in zip(*(g.times for g in timed), strict=True)])
        if timed
        else found[0]
    )


def _least(values: Iterable[Any]) -> Any:
    return min((v for v in values if v is not None), default=None)


def _merge_entries(entries: Sequence[Entry]) -> Entry:
    wrong = next((e for e in entries if e.wrong), None)
    timed = [e for e in entries if e.best is not None]
    if wrong or not timed:
        return wrong or entries[0]
    return Entry(
        timed[0].label,
        _least(e.best for e in timed),
        _least(e.median for e in timed),
        sum(e.readings for e in timed),
        max(e.error or 0.0 for e in timed),
        max(e.share or 0.0 for e in timed),
        timed[0].precision,
        bests=[best for e in timed for best in e.bests],
    )


def _merge_fresh(found: Sequence[Fresh]) -> Fresh:
    """The least of each figure, and the call whose first time was nearest to its steady one."""
    measured = [f for f in found if f.refused is None]
    if not measured:
        return found[0]
    whole = [f for f in measured if f.first is not None and f.steady]
    near = min(whole, key=lambda f: (f.first or 0) / (f.steady or 1), default=measured[0])
    return Fresh(
        near.name, near.threads, near.first, near.steady, _least(f.extra for f in measured), near.inputs, near.outputs
    )
