"""``ruvector sql``: statements to DuckDB, results to the terminal."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ruvector.duckdb import duckdb, register

QUERY = duckdb.ExpectedResultType.QUERY_RESULT
PROMPT, CONTINUED = "ruvector> ", "     ...> "
HELP = "Statements end with ; and may have several lines. \\q or Ctrl-D leaves, Ctrl-C drops what was typed."


class BadDatabase(Exception):
    """A database that cannot be opened."""


def _box(relation: Any) -> None:
    print(relation)


def _csv(relation: Any) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(relation.columns)
    writer.writerows(relation.fetchall())


def _json(relation: Any) -> None:
    rows = [dict(zip(relation.columns, row)) for row in relation.fetchall()]
    print(json.dumps(rows, default=str, ensure_ascii=False))


PRINTERS: dict[str, Callable[[Any], None]] = {"box": _box, "csv": _csv, "json": _json}


def _execute(con: Any, text: str, show: Callable[[Any], None]) -> bool:
    """Runs statements up to the first that fails."""
    current = text
    try:
        for statement in con.extract_statements(text):
            current = statement.query
            relation = con.sql(current)
            if relation is not None and (QUERY in statement.expected_result_type and relation.columns != ["Count"]):
                show(relation)
    except duckdb.Error as error:
        sys.stdout.flush()
        print(f"ruvector: error: {error}\nin the statement: {current.strip()}", file=sys.stderr)
        return False
    return True


def _complete(con: Any, text: str) -> bool:
    """Whether text ends with the semicolon of a statement, rather than with one inside a string or a comment."""
    if not text.rstrip().endswith(";"):
        return False
    try:
        con.extract_statements(text)
    except duckdb.Error as error:
        # an open quote goes on in the next line; what is wrong otherwise, DuckDB shall say
        return "unterminated" not in str(error)
    return True


def _prompt(con: Any, show: Callable[[Any], None]) -> None:
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (history and keys)
    print(HELP)
    held = ""
    while True:
        try:
            line = input(CONTINUED if held else PROMPT)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            held = ""
            continue
        if not held and line.strip() in ("\\q", ".quit", ".exit"):
            return
        held += line + "\n"
        if _complete(con, held):
            _execute(con, held, show)
            held = ""


def run(file: str | None, statements: Sequence[str], database: str, style: str) -> bool:
    """Runs a file, the given statements, the standard input or a prompt; whether all statements succeeded."""
    texts = list(statements)
    if file is not None:
        texts = [Path(file).read_text(encoding="utf-8")]
    elif not texts and not sys.stdin.isatty():
        texts = [sys.stdin.read()]
    try:
        con = duckdb.connect(database)
    except duckdb.Error as error:
        raise BadDatabase(f"cannot open {database}: {error}") from error
    show = PRINTERS[style]
    with con:
        register(con)
        if not texts:
            _prompt(con, show)
            return True
        return all(_execute(con, text, show) for text in texts)
