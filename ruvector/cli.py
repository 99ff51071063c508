"""Console script ``ruvector``: one function a subcommand, imports inside it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

Argument = tuple[tuple[str, ...], dict[str, Any]]
Run = Callable[[argparse.Namespace], int | None]  # the exit code, 0 for None

EXIT_OK = 0
EXIT_WRONG = 1  # a measurement that contradicts what the library promises, or a statement that failed
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_CLOSED_PIPE = 141  # 128 + SIGPIPE


class UserError(Exception):
    """A mistake of the user's: printed in one line, exit code 2."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"{self.prog}: error: {message} (--help shows the usage)\n")


def argument(*flags: str, **settings: Any) -> Argument:
    """Describe an argument of a command; the parameters are those of ``add_argument``."""
    return flags, settings


def positive(text: str) -> int:
    """Read an integer of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return number


def seconds(text: str) -> float:
    """Read a number of seconds."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 3600:
        raise argparse.ArgumentTypeError(f"expected a number of seconds, above 0 and below 3600, got {text!r}")
    return number


COMPUTE_ARGUMENTS = (
    argument(
        "--threads", type=positive, metavar="N", help="threads of ruvector's kernels (default: every usable core)"
    ),
    argument("--isa", metavar="NAME", help="force an instruction set; `ruvector info` lists those usable here"),
)

_commands: list[tuple[Run, tuple[Argument, ...]]] = []


def command(*arguments: Argument) -> Callable[[Run], Run]:
    """Make a function a subcommand: its name, and its docstring as the help text."""

    def add(run: Run) -> Run:
        _commands.append((run, arguments))
        return run

    return add


@command()
def info(options: argparse.Namespace) -> None:
    """Show the CPU, the instruction sets compiled, usable and active, threads and versions."""
    import ruvector

    ruvector.show_runtime()


@command(argument("--markdown", metavar="FILE", help="write a document like docs/types.md instead"))
def types(options: argparse.Namespace) -> None:
    """List the attention types with their aliases, family, complexity, use, parameters with ranges, and papers."""
    import ruvector

    records = ruvector.attention_types()
    if options.markdown is not None:
        with user_errors(OSError), open(options.markdown, "w", encoding="utf-8", newline="\n") as file:
            from ruvector.accuracy import approximations

            file.write(types_document(records) + "\n" + approximations.document())
        return
    print_table(
        ("name", "aliases", "family", "complexity", "best for", "parameters", "paper"),
        [
            (
                record.name,
                ", ".join(record.aliases),
                record.family,
                record.complexity,
                record.best_for,
                "; ".join(f"{p.name}={p.default} ({p.range_text()})" for p in record.parameters),
                record.reference,
            )
            for record in records
        ],
    )


def types_document(records: Sequence[Any]) -> str:
    """Return the attention types as Markdown: a table of all, then the parameters of each."""

    def code(text: object) -> str:
        return f"`{text}`"

    def table(*rows: Sequence[str]) -> list[str]:
        head, *body = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        return [head, "|---" * len(rows[0]) + "|", *body, ""]

    lines = [
        "# Attention types",
        "",
        "Written by `ruvector types --markdown docs/types.md` from the table of types. All types take `mask`, `causal` (but "
        "for `causal`), `scale`, `dropout`, `training`, `rng` and `out` as well; `help(ruvector.rope_attention)` and its "
        "siblings have formulas, costs and examples.",
        "",
        *table(
            ("name", "aliases", "family", "cost", "best for", "paper"),
            *(
                (
                    f"[{code(r.name)}](#{r.name})" if r.parameters else code(r.name),
                    ", ".join(map(code, r.aliases)),
                    r.family,
                    r.complexity.replace("*", "\\*"),
                    r.best_for,
                    r.reference,
                )
                for r in records
            ),
        ),
    ]
    for record in records:
        if not record.parameters:
            continue
        lines += [
            f"## {record.name}",
            "",
            *table(
                ("parameter", "default", "range", "what it does"),
                *((code(p.name), code(p.default), p.range_text(), p.description) for p in record.parameters),
            ),
        ]
    return "\n".join(lines)


@command(
    argument("query", metavar="QUESTION", help='for example "eigenvalues of a symmetric matrix"'),
    argument("--top", type=positive, default=10, metavar="N", help="number of results (default: 10)"),
    argument(
        "--no-cache",
        dest="cache",
        action="store_false",
        help="neither read nor write the embeddings in the cache folder",
    ),
    *COMPUTE_ARGUMENTS,
)
def demo(options: argparse.Namespace) -> None:
    """Search NumPy's docstrings with a sentence encoder that computes its attention with ruvector."""
    from ruvector.demo import MissingModelError, QueryError, ask

    def note(text: str) -> None:
        print(f"ruvector: {text}", file=sys.stderr)

    with compute_settings(options), progress_bar("encoding") as progress:
        try:
            answer = ask(options.query, top=options.top, cache=options.cache, progress=progress, note=note)
        except (MissingModelError, QueryError) as error:
            raise UserError(str(error)) from error

    print_table(
        ("rank", "name", "score", "cosine", "summary"),
        [
            (f"{rank:4}", hit.name, f"{hit.score:.4f}", f"{hit.cosine:6.3f}", hit.summary)
            for rank, hit in enumerate(answer.hits, 1)
        ],
    )
    print(f"score: attention weight of the query among the {answer.shortlist} candidates of highest cosine\n")
    print_table(
        ("stage", "seconds", ""),
        [(stage.name, f"{stage.seconds:7.3f}", stage.detail) for stage in answer.stages],
    )
    threads = f"{answer.threads} thread" + "s" * (answer.threads != 1)
    print(f"\nISA {answer.isa}, {threads}, {answer.attention_calls} attention calls")


@command(
    argument(
        "action",
        choices=("install", "path", "demo"),
        help="install: into the server's folders; path: into a folder of yours, for PostgreSQL 18 and newer; demo: a server "
        "of its own with NumPy's docstrings as a table",
    ),
    argument("--pg-config", default="pg_config", metavar="FILE", help="the server's pg_config (default: that on PATH)"),
    argument("--server", type=int, choices=(16, 18), default=18, help="demo: which PostgreSQL (default: 18)"),
)
def pg(options: argparse.Namespace) -> None:
    """Build the PostgreSQL extension ruvector_postgres from the package's C sources, and install or show it."""
    from ruvector import postgres

    with user_errors(postgres.PostgresError):
        if options.action == "install":
            for file in postgres.install(options.pg_config):
                print(file)
            print("\nin a database: CREATE EXTENSION ruvector_postgres;")
        elif options.action == "path":
            for name, value in postgres.path(options.pg_config).items():
                print(f"ALTER SYSTEM SET {name} = '{value}';")
            print("SELECT pg_reload_conf();\nCREATE EXTENSION ruvector_postgres;")
        else:
            from ruvector.demo import postgres as demo_postgres
            from ruvector.demo.encoder import MissingModelError

            with user_errors(MissingModelError), progress_bar("encoding") as progress:
                demo_postgres.show(options.server, progress, print)


@command(
    argument(
        "--filter", action="append", default=[], metavar="TEXT", help="only rows whose name holds TEXT; may repeat"
    ),
    argument("--quick", action="store_true", help="a few rows and little time: under a minute"),
    argument("--sources", action="store_true", help="only the benchmark rows that the project's sources claim"),
    argument("--list", action="store_true", help="list the rows and their goals"),
    argument(
        "--threads", type=positive, action="append", metavar="N", help="may repeat (default: 1, and every usable core)"
    ),
    argument("--isa", action="append", metavar="NAME", help="may repeat (default: the best one of each vector width)"),
    argument(
        "--seconds", type=seconds, metavar="S", help="time of each library in each row (default: 1; quick: 0.045)"
    ),
    argument(
        "--from", nargs="+", dest="results", metavar="JSON", help="report these results together; measure nothing"
    ),
    argument("--compare", nargs=2, metavar=("A.json", "B.json"), help="two results side by side"),
    argument("--json", metavar="FILE", help="write the result"),
    argument("--html", metavar="FILE", help="write a page with charts"),
    argument("--markdown", metavar="FILE", help="write a document like bench/RESULTS.md"),
)
def bench(options: argparse.Namespace) -> int:
    """Measure the library beside others and this machine's limits, and report goals that are missed."""
    from ruvector.bench import command

    with user_errors(command.BadOption, command.BadResult, OSError), progress_bar("measuring") as progress:
        wrong = command.bench(options, progress, lambda text: print(f"ruvector: {text}", file=sys.stderr))
    return EXIT_WRONG if wrong else 0


@command(
    argument("--exhaustive", action="store_true", help="every float32, and a million keys in every type: minutes"),
    argument(
        "--function",
        action="append",
        metavar="NAME",
        help="only this elementary function, and no attention; may repeat",
    ),
    argument(
        "--approximations",
        action="store_true",
        help="only the types that approximate attention: time beside exact attention at n = 8192, and error",
    ),
    argument("--threads", type=positive, metavar="N", help="threads that compare (default: every usable core)"),
    argument("--isa", action="append", metavar="NAME", help="may repeat (default: every usable one)"),
    argument("--json", metavar="FILE", help="write the result"),
)
def accuracy(options: argparse.Namespace) -> int:
    """Measure the errors of elementary functions, softmax and attention beside the bounds they keep."""
    from ruvector.accuracy import report

    if options.approximations:
        isas = options.isa or [None]
        if options.function or options.exhaustive or options.json or len(isas) > 1:
            raise UserError("--approximations goes with --threads and one --isa, and nothing else")
        with compute_settings(argparse.Namespace(threads=options.threads, isa=isas[0])):
            report.approximations_table()
        return 0
    with user_errors(report.BadOption, OSError), progress_bar("comparing") as progress:
        beyond = report.accuracy(options, progress)
    return EXIT_WRONG if beyond else 0


@command(
    argument(
        "file", nargs="?", metavar="FILE", help="statements to run; without it those of the standard input, or a prompt"
    ),
    argument("-c", dest="statements", action="append", default=[], metavar="SQL", help="run this instead; may repeat"),
    argument("--database", default=":memory:", metavar="F", help="a database file (default: in memory)"),
    argument("--csv", dest="style", action="store_const", const="csv", default="box", help="print results as CSV"),
    argument(
        "--json", dest="style", action="store_const", const="json", help="print results as JSON, a list of rows each"
    ),
    *COMPUTE_ARGUMENTS,
)
def sql(options: argparse.Namespace) -> int:
    """Run SQL in DuckDB with the attention functions: a file, statements, or a prompt. docs/sql.md lists the functions."""
    with user_errors(ImportError):
        from ruvector import _shell

    if options.file is not None and options.statements:
        raise UserError("give either FILE or -c, not both")
    with compute_settings(options), user_errors(_shell.BadDatabase, OSError, UnicodeDecodeError):
        return EXIT_OK if _shell.run(options.file, options.statements, options.database, options.style) else EXIT_WRONG


@contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Show these exceptions as mistakes of the user's."""
    try:
        yield
    except BrokenPipeError:  # an OSError that is nobody's mistake
        raise
    except kinds as error:
        raise UserError(str(error)) from error


@contextmanager
def compute_settings(options: argparse.Namespace) -> Iterator[None]:
    """Apply ``--threads`` and ``--isa`` inside the block."""
    import ruvector

    with ExitStack() as stack:
        try:
            if options.threads is not None:
                stack.callback(ruvector.set_num_threads, ruvector.get_num_threads())
                ruvector.set_num_threads(options.threads)
            if options.isa is not None:
                stack.enter_context(ruvector.use_isa(options.isa))
        except (ValueError, LookupError, ImportError, RuntimeError) as error:
            raise UserError(str(error)) from error
        yield


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield ``update(done, total)``: a rich bar on a terminal, a line each quarter elsewhere."""
    if not sys.stderr.isatty():
        quarter = 0

        def update(done: int, total: int) -> None:
            nonlocal quarter
            if 4 * done // total > quarter:
                quarter = 4 * done // total
                print(f"ruvector: {title}: {25 * quarter} %", file=sys.stderr)

        yield update
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:

        def overwrite(done: int, total: int) -> None:
            print(f"\r{title}: {100 * done // total:3} %", end="\n" * (done == total), file=sys.stderr, flush=True)

        yield overwrite
        return
    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(title, total=None)

    def draw(done: int, total: int) -> None:
        bar.start()  # on the first call: nothing flickers where nothing is long
        bar.update(task, completed=done, total=total)

    try:
        yield draw
    finally:
        bar.stop()


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns; on a terminal, cells wrap so that lines fit."""
    widths = [max(map(len, column)) for column in zip(headers, *rows)]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - 2 * (len(widths) - 1)
        while sum(widths) > room and max(widths) > 12:
            widths[widths.index(max(widths))] -= 1
    for row in (headers, *rows):
        cells = [textwrap.wrap(cell, width) if len(cell) > width else [cell] for cell, width in zip(row, widths)]
        for line in range(max(map(len, cells))):
            columns = (cell[line] if line < len(cell) else "" for cell in cells)
            print("  ".join(text.ljust(width) for text, width in zip(columns, widths)).rstrip())


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every subcommand; ``run`` in its result is the command's function."""
    import ruvector

    parser = _Parser(prog="ruvector", description="Attention kernels for NumPy.")
    parser.add_argument("--version", action="version", version=f"ruvector {ruvector.__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for run, arguments in _commands:
        text = (run.__doc__ or "").strip()
        subparser = subparsers.add_parser(run.__name__, help=text, description=text)
        for flags, settings in arguments:
            subparser.add_argument(*flags, **settings)
        subparser.set_defaults(run=run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the console script and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process when None.

    Returns
    -------
    int
        0; 1 when a result was found wrong or a statement failed; 2 after a user's mistake; 130
        after Ctrl-C; 141 when the reader of the output went away.
    """
    for stream in (sys.stdout, sys.stderr):
        # A docstring may hold characters the terminal's encoding lacks.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        try:
            options = build_parser().parse_args(argv)
            code = options.run(options) or 0
        finally:
            sys.stdout.flush()
    except UserError as error:
        print(f"ruvector: error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_CLOSED_PIPE
    return code
