"""The processes of all libraries, as the benchmark sees them: started together, asked in turn, ended whatever happens."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ruvector.bench import peers

PATIENCE = 240.0  # seconds that an answer may take: the slowest first call, NumPy's at 16 x 2048 x 128, takes 1


class Refused(Exception):
    """A library cannot do something, or its process ended; the text says why."""


class Member:
    """One library's process."""

    def __init__(self, name: str, threads: int, patience: float = PATIENCE) -> None:
        self.name, self.threads, self.patience = name, threads, patience
        self.start()

    def start(self) -> None:
        """Start the process; its first answer is the library's version."""
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ruvector.bench.worker", self.name, str(self.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=peers.environment(self.threads),
            encoding="utf-8",
        )

    def answer(self) -> dict[str, Any]:
        """The next line of the process; Refused when it says no, dies or takes too long."""
        late = threading.Event()

        def stop() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(self.patience, stop)
        timer.daemon = True  # Ctrl-C may come before it can be cancelled
        try:
            timer.start()
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise Refused(f"no answer in {self.patience:g} s" if late.is_set() else self.last_words())
        content: dict[str, Any] = json.loads(line)
        if "refused" in content:
            raise Refused(content["refused"])
        return content

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        self.send(**request)
        return self.answer()

    def revive(self) -> None:
        """Start again where the last row has ended the process."""
        if self.process.poll() is not None:
            self.end()
            self.start()
            self.answer()

    def send(self, **request: Any) -> None:
        """Send a request; `answer` gets what comes back."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise Refused(self.last_words()) from None

    def last_words(self) -> str:
        """Why the process ended, as far as it told."""
        code = self.process.wait()
        self.errors.seek(0)
        lines = [line for line in self.errors.read().splitlines() if line.strip()] or [""]
        told = next((line for line in lines if re.search("fatal|error|terminate", line, re.IGNORECASE)), lines[-1])
        return f"its process ended with code {code}: {told[:150]}".rstrip(": ")

    def end(self) -> None:
        """End the process and free its pipes."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            if stream is not None:
                try:
                    stream.close()
                except OSError:  # what was not sent cannot be flushed
                    pass


@contextmanager
def hire(names: Iterable[str], threads: int) -> Iterator[tuple[dict[str, Member], dict[str, str], dict[str, str]]]:
    """Start a process for each library; yields the members, their versions, and why the others are missing."""
    members = {}
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    started: list[Member] = []
    try:
        for name in names:
            started.append(Member(name, threads))
        for member in started:
            try:
                versions[member.name] = member.answer()["version"]
                members[member.name] = member
            except Refused as reason:
                missing[member.name] = str(reason)
        yield members, versions, missing
    finally:
        for member in started:
            member.end()
