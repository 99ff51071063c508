"""The PostgreSQL extension ``ruvector_postgres``: built from the C sources that the package carries.

It needs a C compiler, make, and the server's headers (``postgresql-server-dev-NN`` on Debian), nothing of Python afterwards.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import ruvector

EXTENSION = "ruvector_postgres"
_OLDEST = 15


class PostgresError(RuntimeError):
    """The extension could not be built or installed; the message says why."""


def sources() -> Path:
    """The folder of the C sources: in an installed package ``_csrc``, in a checkout ``csrc``."""
    package = Path(ruvector.__file__).parent
    for folder in (package / "_csrc", package.parent / "csrc"):
        if (folder / "pg" / "Makefile").exists():
            return folder
    raise PostgresError(f"no C sources beside {package}")


def _run(command: Sequence[str], **options: object) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    except OSError as error:
        raise PostgresError(f"cannot run {command[0]}: {error.strerror}") from error
    if done.returncode:
        output = (done.stdout + done.stderr).strip().splitlines()
        raise PostgresError(f"{' '.join(command[:2])} failed: {' / '.join(output[-6:])}")
    return str(done.stdout)


def server_version(pg_config: str = "pg_config") -> int:
    """The major version of the server that a ``pg_config`` belongs to."""
    text = _run([pg_config, "--version"]).split()
    try:
        version = int(re.match(r"\d+", text[1])[0])  # type: ignore[index]  # "19devel" too
    except (IndexError, TypeError):
        raise PostgresError(f"{pg_config} names no version: {' '.join(text)}") from None
    if version < _OLDEST:
        raise PostgresError(f"PostgreSQL {_OLDEST} or newer is needed, {pg_config} is of {version}")
    return version


def build(folder: str | os.PathLike[str], pg_config: str = "pg_config") -> Path:
    """Build the extension in a folder; returns where its Makefile, library and scripts are.

    Parameters
    ----------
    folder : path
        Gets a copy of the C sources. Must not have one yet.
    pg_config : str, default "pg_config"
        That of the server.

    Raises
    ------
    PostgresError
        If a compiler, make or the server's headers are missing, or the compiler fails.
    """
    server_version(pg_config)
    if not Path(_run([pg_config, "--pgxs"]).strip()).exists():
        raise PostgresError(
            f"the development files of {pg_config} are missing (on Debian: postgresql-server-dev-{server_version(pg_config)})"
        )
    compiler = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    make = next((name for name in ("gmake", "make") if shutil.which(name)), None)
    if compiler is None or make is None:
        raise PostgresError(f"no {'C compiler' if compiler is None else 'make'} found")
    here = Path(folder) / "csrc"
    shutil.copytree(sources(), here, ignore=shutil.ignore_patterns("*.o", "*.so", "__pycache__"))
    jobs = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    _run([make, "-s", "-j", jobs, f"PG_CONFIG={pg_config}", f"CC={compiler}"], cwd=here / "pg")
    return here / "pg"


def install(pg_config: str = "pg_config") -> list[Path]:
    """Build the extension and put it where a server looks for extensions; returns the files.

    Parameters
    ----------
    pg_config : str, default "pg_config"
        That of the server; its folders must be writable.

    Raises
    ------
    PostgresError
        As `build`, and where a folder cannot be written.
    """
    places = {
        "*.so": Path(_run([pg_config, "--pkglibdir"]).strip()),
        "*.control": Path(_run([pg_config, "--sharedir"]).strip()) / "extension",
        "*--*.sql": Path(_run([pg_config, "--sharedir"]).strip()) / "extension",
    }
    with tempfile.TemporaryDirectory() as folder:
        return _place(build(folder, pg_config), places)


def _place(built: Path, places: dict[str, Path]) -> list[Path]:
    files = []
    for pattern, place in places.items():
        for file in sorted(built.glob(pattern)):
            try:
                place.mkdir(parents=True, exist_ok=True)
                # replaced, not overwritten: running servers have the old one mapped
                with tempfile.NamedTemporaryFile(dir=place, delete=False) as new:
                    new.write(file.read_bytes())
                os.chmod(new.name, 0o755 if file.suffix == ".so" else 0o644)
                os.replace(new.name, place / file.name)
            except OSError as error:
                raise PostgresError(f"cannot write to {place}: {error.strerror}") from error
            files.append(place / file.name)
    return files


def path(pg_config: str = "pg_config", folder: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """Build the extension into a folder of one's own, for PostgreSQL 18 or newer: no server folder is written.

    Parameters
    ----------
    pg_config : str, default "pg_config"
    folder : path, optional
        ``~/.local/share/ruvector/postgres/VERSION`` (of XDG_DATA_HOME, where that is set) when None.

    Returns
    -------
    dict
        The server's settings ``extension_control_path`` and ``dynamic_library_path`` with which it finds the extension.
    """
    version = server_version(pg_config)
    if version < 18:
        raise PostgresError(
            f"servers before PostgreSQL 18 look for extensions in one folder: ruvector pg install (this is {version})"
        )
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    where = Path(folder) if folder is not None else Path(home) / "ruvector" / "postgres" / str(version)
    where = where.absolute()
    with tempfile.TemporaryDirectory() as scratch:
        _place(
            build(scratch, pg_config),
            {"*.so": where / "lib", "*.control": where / "extension", "*--*.sql": where / "extension"},
        )
    return {"extension_control_path": f"$system:{where}", "dynamic_library_path": f"$libdir:{where / 'lib'}"}
