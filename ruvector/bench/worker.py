"""A process that does the calls of one library: ``python -m ruvector.bench.worker NAME THREADS``.

One request a line on standard input, one answer a line on standard output, both JSON:

prepare ROW   builds the row's data and calls, makes each once and checks its result -> {label: {error, share, precision}}
time LABEL    calls for some seconds                                                 -> {times: seconds of each reading}

An answer {"refused": text} says why something cannot be done. "ruvector" is one of the libraries, with a label for each
instruction set. Everything else that is written to standard output goes to standard error.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

READING = 2e-4  # seconds that a reading of the clock should span: the clock's own cost is 1e-7
WARM_BELOW = 0.02  # calls shorter than this are made once before a block is timed


class Worker:
    """What a process knows between requests."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self.threads = threads
        self.calls: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.peer: Any = None
        if name == "ruvector":
            import ruvector

            ruvector.set_num_threads(threads)
            self.version = ruvector.__version__
        else:
            from ruvector.bench import peers

            self.peer = peers.load(name, threads)
            self.version = self.peer.version

    def prepare(self, row_name: str, isas: list[str]) -> dict[str, Any]:
        """Forget the last row, build this one, and check what everybody's call returns."""
        from ruvector.bench import problems, rows

        self.calls.clear()
        gc.collect()
        row = rows.by_name(row_name)
        assert row is not None
        problem = problems.make(row)
        if self.peer is None:
            self.calls = {f"ruvector {isa}": _on(isa, problem.ours()) for isa in isas}
        else:
            self.calls = self.peer.calls(problem)
        checks = {}
        for label, call in self.calls.items():
            if call.before:
                call.before()
            start = time.perf_counter()
            out = call.run()
            self.seconds[label] = time.perf_counter() - start
            check = problem.check(call.read(out), call.precision)
            checks[label] = {"error": check.error, "share": check.share, "precision": call.precision}
        return checks

    def grow(self, name: str) -> dict[str, list[float]]:
        """Times of an attention type at growing lengths."""
        from ruvector.bench import growth

        return {"times": growth.measure(name)}

    def time(self, label: str, seconds: float) -> dict[str, list[float]]:
        """Call for `seconds`, at least once; short calls are repeated inside one reading of the clock."""
        call, clock = self.calls[label], time.perf_counter
        if call.before:
            call.before()
        left, repeats = call.limit or sys.maxsize, 1
        if self.seconds[label] < WARM_BELOW:
            # warm caches, and enough calls a reading; a limit leaves at least half of its calls to be timed
            while (taken := _repeat(call.run, repeats, clock)) < READING and 4 * repeats <= left:
                left -= repeats
                repeats = max(repeats + 1, min(int(1.2 * repeats * READING / taken), left // 4, 1000 * repeats))
            left -= repeats
        times: list[float] = []
        collecting = gc.isenabled()
        gc.disable()
        try:
            end = clock() + seconds
            while True:
                taken = _repeat(call.run, repeats, clock)
                times.append(taken / repeats)
                left -= repeats
                if left < repeats or clock() >= end:
                    break
        finally:
            if collecting:
                gc.enable()
        self.seconds[label] = min(times)
        return {"times": times}


def _repeat(run: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    counter = itertools.repeat(None, repeats)
    start = clock()
    for _ in counter:
        run()
    return clock() - start


def _on(isa: str, call: Any) -> Any:
    """The call on an instruction set, which is chosen before a block and so costs its calls nothing."""
    from ruvector import _ruvector_core as core

    before = call.before

    def start() -> None:
        core.isa_use(isa)
        if before:
            before()

    return call._replace(before=start)


def main(name: str, threads: int) -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    def attempt(action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return action()
        except MemoryError:
            return {"refused": "not enough memory"}
        except Exception as error:  # whatever a library raises is a reason to print
            text = " ".join(str(error).split()) or type(error).__name__
            known = type(error).__name__ in ("Unsupported", "ImportError", "ModuleNotFoundError")
            return {"refused": (text if known else f"{type(error).__name__}: {text}")[:200]}

    worker: Worker | None = None

    def begin() -> dict[str, Any]:
        nonlocal worker
        worker = Worker(name, threads)
        return {"version": worker.version}

    answer(attempt(begin))
    if worker is None:
        return
    for line in sys.stdin:
        request = json.loads(line)
        answer(attempt(partial(getattr(worker, request.pop("do")), **request)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
