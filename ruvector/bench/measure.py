"""A run: the peaks, then every row with every participant in turn, then calls in fresh processes."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from typing import Any

from ruvector.bench import crew, growth, machine, peaks, rows, sources
from ruvector.bench.results import Entry, Growth, Measured, Run

ROUNDS = 3  # blocks that a participant's time is cut into, each behind one of everybody else's
SETTLE = 0.003  # seconds between blocks of several threads: those of other libraries spin for a while
SECONDS = 1.0  # of one participant of one row
QUICK_SECONDS = 0.045

Progress = Callable[[int, int], None]


def measure_row(
    row: rows.Row, threads: int, isas: Sequence[str], members: dict[str, crew.Member], seconds: float
) -> Measured:
    """Time a row: everybody prepares and is checked, then works in short blocks, one after another."""
    entries: list[Entry] = []
    asked: list[crew.Member] = []
    for name in ("ruvector", *row.peers):
        if name in members:
            try:
                members[name].revive()
                members[name].send(do="prepare", row_name=row.name, isas=list(isas))
                asked.append(members[name])
            except crew.Refused as reason:
                entries.append(Entry(name, refused=str(reason)))
    ready: list[tuple[crew.Member, str, dict[str, Any]]] = []
    for member in asked:
        try:
            for label, check in member.answer().items():
                if check["share"] <= 1:
                    ready.append((member, label, check))
                else:
                    entries.append(Entry(label, **check))
        except crew.Refused as reason:
            entries.append(Entry(member.name, refused=str(reason)))
    times: dict[str, list[float]] = {label: [] for _, label, _ in ready}
    failed: dict[str, str] = {}
    for _ in range(ROUNDS):
        for member, label, _ in ready:
            if label in failed:
                continue
            if threads > 1:
                time.sleep(SETTLE)
            try:
                times[label] += member.ask(do="time", label=label, seconds=seconds / ROUNDS)["times"]
            except crew.Refused as reason:
                failed[label] = str(reason)
    for _, label, check in ready:
        entries.append(
            Entry(label, refused=failed[label]) if label in failed else Entry.of_times(label, times[label], **check)
        )
    order = [label for _, label, _ in ready]
    entries.sort(key=lambda e: order.index(e.label) if e.label in order else len(order))
    return Measured(row.name, threads, row.operations, row.bytes, row.reads, row.dtype, entries)


def _grow(name: str, member: crew.Member) -> Growth:
    growing = Growth(name, growth.complexity(name), growth.sizes(name))
    try:
        member.revive()
        growing.times = member.ask(do="grow", name=name)["times"]
    except crew.Refused as reason:
        growing.refused = str(reason)
    return growing


def run(
    selected: Sequence[rows.Row],
    threads: Sequence[int],
    isas: Sequence[str],
    *,
    seconds: float = SECONDS,
    claims: Sequence[sources.Claim] = (),
    types: Sequence[str] = (),
    quick: bool = False,
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Run:
    """Measure rows and claims.

    Parameters
    ----------
    selected : sequence of Row
    threads : sequence of int
        Each row is measured with each; one that is too small for several, with the first.
    isas : sequence of str
        The library's columns.
    seconds : float
        Time of each participant of a row.
    claims : sequence of Claim
        Calls to make in fresh processes.
    types : sequence of str
        Attention types whose growth is measured, on one thread.
    quick : bool
        Measure the peaks shortly.
    progress : callable, optional
        Called with the number of things done and of all.
    note : callable, optional
        Called with what the user should know: which library is missing and why.

    Returns
    -------
    Run
    """
    here = machine.describe()
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    found = Run(date, here, {"threads": list(threads), "isas": list(isas), "seconds": seconds})
    update = progress or (lambda done, total: None)
    work = {count: [r for r in selected if count == threads[0] or not r.one_thread] for count in threads}
    total, done = sum(map(len, work.values())) + len(claims) + len(types) + 2, 0
    peak_seconds = 0.03 if quick else 0.15
    first = peaks.measure(isas, threads, here["caches"], peak_seconds)
    update(done := done + 1, total)
    for count, some in work.items():
        names = dict.fromkeys(name for row in some for name in ("ruvector", *row.peers))
        with crew.hire(names, count) as (members, versions, missing):
            found.versions |= versions
            for name, why in missing.items():
                if name not in found.missing:
                    note(f"{name} is left out: {why}")
                    found.missing[name] = why
            for row in some:
                found.rows.append(measure_row(row, count, isas, members, seconds))
                update(done := done + 1, total)
    for claim in claims:
        found.fresh.append(sources.measure(claim, max(threads) if claim.all_threads else 1))
        update(done := done + 1, total)
    if types:
        with crew.hire(["ruvector"], 1) as (members, _, _):
            for name in types:
                found.growth.append(_grow(name, members["ruvector"]))
                update(done := done + 1, total)
    # a neighbour that was busy at the start may have gone: the peaks are those of the whole run
    found.peaks = peaks.join(first, peaks.measure(isas, threads, here["caches"], peak_seconds))
    update(done + 1, total)
    return found
