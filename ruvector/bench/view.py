"""What a run means: rates, parts of the machine's limits, ratios, and where a goal is missed. Every report is made from this."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ruvector.bench import growth, peaks, rows, sources
from ruvector.bench.results import OURS, Entry, Fresh, Growth, Measured, Run


@dataclass
class Cell:
    """The library on one instruction set."""

    isa: str
    entry: Entry | None
    rate: float = 0.0  # operations or bytes a second
    part: float | None = None  # of the machine's limit for that kind of work
    versus: dict[str, float] = field(default_factory=dict)  # time of a library over ours; "best" is the fastest peer

    @property
    def spread(self) -> float | None:
        """The quietest median over the best."""
        if self.entry is None or not self.entry.best or self.entry.median is None:
            return None
        return self.entry.median / self.entry.best

    @property
    def drift(self) -> float | None:
        """The worst over the best of several runs."""
        if self.entry is None or len(self.entry.bests) < 2:
            return None
        return max(self.entry.bests) / min(self.entry.bests)


@dataclass
class Line:
    """One row with one number of threads."""

    measured: Measured
    row: rows.Row | None
    unit: str  # of the rates
    limit: str  # the dtype or the level of memory whose peak is the limit
    cells: list[Cell]
    best: Entry | None
    misses: list[str]
    notes: list[str]  # who was wrong, who refused and why

    @property
    def name(self) -> str:
        """The row's name."""
        return self.measured.row

    @property
    def threads(self) -> int:
        """Its number of threads."""
        return self.measured.threads


def rate_of(measured: Measured, seconds: float) -> float:
    """Operations or, where reading is the work, bytes a second."""
    return (measured.bytes if measured.reads else measured.operations) / seconds


def limit_of(run: Run, measured: Measured) -> str:
    """What bounds a row: multiply-adds in its dtype, or reading from a level of memory."""
    if measured.reads:
        return peaks.level_of(measured.bytes, measured.threads, run.machine["caches"])
    return measured.dtype


def short(reached: float, goal: float) -> str:
    """By how much a goal is missed."""
    return f"{100 * (1 - reached / goal):.2g} % short"


def _misses(row: rows.Row, cells: Sequence[Cell], threads: int) -> list[str]:
    """Where the first column misses the row's goals, and another its own."""
    if not cells or cells[0].entry is None:
        return []
    first, missed = cells[0], []
    for who, goal in (("best", row.goal.best_for(threads)), ("torch", row.goal.torch)):
        reached = first.versus.get(who)
        if goal and reached and reached < goal:
            missed.append(f"{'best peer' if who == 'best' else who} {short(reached, goal)}")
    for cell in cells:
        part = row.goal.peak and (row.goal.peak if cell is first else min(row.goal.peak, rows.OTHER_ISA_PEAK))
        if part and cell.part is not None and cell.part < part:
            missed.append(f"{cell.isa} peak {short(cell.part, part)}")
    return missed


def line(run: Run, measured: Measured) -> Line:
    """One row's line."""
    row, limit, best = rows.by_name(measured.row), limit_of(run, measured), measured.best_peer()
    cells = []
    for isa in run.isas:
        cell = Cell(isa, measured.entry(OURS + isa))
        cells.append(cell)
        if cell.entry is None or not cell.entry.best:
            continue
        cell.rate = rate_of(measured, cell.entry.best)
        roof = peaks.find(run.peaks, limit, isa, measured.threads)
        cell.part = cell.rate / roof if roof else None
        others = {
            "numpy": measured.library("numpy"),
            "torch": measured.library("torch") or measured.library("torch_geometric"),
        }
        for who, other in {"best": best, **others}.items():
            if other and other.best:
                cell.versus[who] = other.best / cell.entry.best
    notes = [f"{e.label}: WRONG, {e.share:.3g} of its tolerance" for e in measured.entries if e.wrong]
    notes += [f"{e.label}: {e.refused}" for e in measured.entries if e.refused]
    misses = _misses(row, cells, measured.threads) if row else []
    misses += [f"{e.label} is WRONG" for e in measured.entries if e.wrong and e.isa]
    unit = "GB/s" if measured.reads else "GFLOP/s"
    return Line(measured, row, unit, limit, cells, best, misses, notes)


def lines(run: Run) -> list[Line]:
    """All rows, those of one group together."""
    order = {row.name: i for i, row in enumerate(rows.ROWS)}
    known = sorted(run.rows, key=lambda m: (order.get(m.row, len(order)), m.threads))
    return [line(run, measured) for measured in known]


@dataclass
class Scaling:
    """A row on one thread and on several."""

    name: str
    threads: int
    one: float
    many: float
    goal: float | None

    @property
    def ratio(self) -> float:
        """Time of one thread over that of several."""
        return self.one / self.many

    @property
    def missed(self) -> bool:
        """Whether the goal is missed."""
        return self.goal is not None and self.ratio < self.goal


def scaling(run: Run) -> list[Scaling]:
    """Rows that were measured with one thread and with more; the goal for long ones is for two."""
    found = []
    for measured in run.rows:
        one = run.find(measured.row, 1)
        label = OURS + run.isas[0]
        if measured.threads == 1 or one is None or not (a := one.entry(label)) or not (b := measured.entry(label)):
            continue
        assert a.best
        assert b.best
        goal = rows.TINY_THREADS if a.best < rows.TINY_BELOW else None
        if measured.threads == 2 and not measured.reads and a.best >= rows.TWO_THREADS_FROM:
            goal = rows.TWO_THREADS
        found.append(Scaling(measured.row, measured.threads, a.best, b.best, goal))
    return found


@dataclass
class FreshLine:
    """A call in a fresh process beside what is claimed or asked of it."""

    fresh: Fresh
    claim: sources.Claim
    missed: str | None


def fresh_lines(run: Run) -> list[FreshLine]:
    """Claims that were measured; those of the sources are figures to look at, only our own goals can be missed."""
    found = []
    for fresh in run.fresh:
        claim = sources.by_name(fresh.name)
        if claim is None:
            continue
        missed = None
        if claim.origin == sources.GOALS:
            allowed = rows.EXTRA_BYTES_A_THREAD * fresh.threads
            if fresh.extra is not None and fresh.extra > allowed:
                missed = f"{fresh.extra / 2**20:.1f} MiB of {allowed / 2**20:g} MiB"
            if claim.processes > 1 and fresh.first and fresh.steady and fresh.first > rows.FIRST_CALL * fresh.steady:
                missed = f"first call {fresh.first / fresh.steady:.1f}x of {rows.FIRST_CALL:g}x steady"
        found.append(FreshLine(fresh, claim, missed))
    return found


@dataclass
class GrowthLine:
    """An attention type's cost beside what its record says."""

    growth: Growth
    exponent: float | None
    expected: float

    @property
    def missed(self) -> bool:
        """Whether it grows faster than it should."""
        return self.exponent is not None and self.exponent > self.expected + rows.GROWTH


def growth_lines(run: Run) -> list[GrowthLine]:
    """All types that were measured."""
    return [
        GrowthLine(g, growth.exponent(g.sizes, g.times) if g.times else None, growth.expected(g.complexity))
        for g in run.growth
    ]


def missed(run: Run) -> list[str]:
    """Every goal that this run misses, with its row."""
    texts = [f"{x.name}, {plural(x.threads)}: {text}" for x in lines(run) for text in x.misses]
    texts += [f"{s.name}: {s.ratio:.2f}x of {s.goal}x with {s.threads} threads" for s in scaling(run) if s.missed]
    texts += [
        f"{g.growth.name}: exponent {g.exponent:.2f} of {g.expected:g}"
        for g in growth_lines(run)
        if g.missed and g.exponent is not None
    ]
    return texts + [f"{f.fresh.name}: {f.missed}" for f in fresh_lines(run) if f.missed]


def plural(threads: int) -> str:
    """The number of threads in words."""
    return f"{threads} thread" + "s" * (threads != 1)


def duration(seconds: float | None) -> str:
    """Seconds with three digits and the unit that suits them."""
    if seconds is None:
        return "-"
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us"), (1e9, "ns")):
        if seconds * factor >= 1 or unit == "ns":
            return f"{seconds * factor:.3g} {unit}" if seconds * factor < 999.5 else f"{seconds * factor:.0f} {unit}"
    raise AssertionError


def rate(value: float, unit: str) -> str:
    """A rate in its unit, both of which count in 1e9."""
    return f"{value / 1e9:.3g} {unit}" if value < 1e11 else f"{value / 1e9:.0f} {unit}"


def size(count: float | None) -> str:
    """Bytes in megabytes."""
    return "-" if count is None else f"{count / 1e6:.2g} MB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def ratio(value: float | None) -> str:
    """A ratio of times."""
    return "-" if value is None else f"{value:.2f}x" if value < 100 else f"{value:.0f}x"


def percent(value: float | None) -> str:
    """A part in per cent."""
    return "-" if value is None else f"{100 * value:.0f} %"


def goals(row: rows.Row | None, threads: int) -> str:
    """A row's goals in a word."""
    if row is None:
        return "-"
    parts = [
        f"{best:g}x" if (best := row.goal.best_for(threads)) else "",
        f"torch {row.goal.torch:g}x" if row.goal.torch else "",
    ]
    return ", ".join([p for p in parts if p] + ([f"{100 * row.goal.peak:g} %"] if row.goal.peak else [])) or "-"


def group_of(x: Line) -> str:
    """The group that a line stands in."""
    return x.row.group if x.row else "rows of another version"


def by_group(all_lines: Iterable[Line]) -> dict[str, list[Line]]:
    """Lines by their groups, in order."""
    groups: dict[str, list[Line]] = {}
    for x in all_lines:
        groups.setdefault(group_of(x), []).append(x)
    return groups
