"""The process-wide state of the C core: the active instruction set, the number of threads, and what the machine has."""

import contextlib
import importlib
import importlib.machinery
import operator
import os
import platform
import pprint
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, SupportsIndex

import numpy as np

from ruvector import _ruvector_core as _core

__all__ = ["get_num_threads", "isa", "isas", "set_num_threads", "show_runtime", "use_isa"]


def isa() -> str:
    """Name of the active instruction set, the one that every call runs on.

    Returns
    -------
    str
        One of `isas`: the first of them unless the environment variable ``RUVECTOR_ISA`` or `use_isa` says otherwise.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.isa() in ruvector.isas()
    True
    """
    return _core.isa()


def isas() -> tuple[str, ...]:
    """Names of the instruction sets that this build has and this machine can use.

    Returns
    -------
    tuple of str
        Best first: of ``"avx512bf16"``, ``"avx512"``, ``"avx2"`` and ``"neon"`` those that work here, then ``"scalar"``, which always does.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.isas()[-1]
    'scalar'
    """
    return _core.isas()


@contextlib.contextmanager
def use_isa(name: str) -> Iterator[str]:
    """Run the calls inside a ``with`` block on one instruction set.

    Parameters
    ----------
    name : str
        One of `isas`.

    Yields
    ------
    str
        `name`.

    Raises
    ------
    ValueError
        If `name` is not one of `isas`.

    Notes
    -----
    The choice holds for the whole process, other threads included; calls that run already stay on theirs. Leaving the
    block brings back what was active when it was entered. Nothing happens before: a call without ``with`` has no effect.
    To choose for the life of a process, set ``RUVECTOR_ISA`` before the import; there too a name that cannot be used is
    an error (ImportError). Instruction sets agree within the stated error bounds, not bit for bit.

    Examples
    --------
    >>> import ruvector
    >>> with ruvector.use_isa("scalar"):
    ...     print(ruvector.isa())
    scalar
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {type(name).__name__}")
    if name not in _core.isas():
        raise ValueError(f"name must be an instruction set usable here, {', '.join(map(repr, isas()))}, got {name!r}")
    before = _core.isa()
    _core.isa_use(name)
    try:
        yield name
    finally:
        _core.isa_use(before)


def get_num_threads() -> int:
    """Number of threads that one call may use.

    Returns
    -------
    int
        What `set_num_threads` or ``RUVECTOR_NUM_THREADS`` set; otherwise the CPUs that the affinity mask and the
        cgroup's quota leave to this process, counted once.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def set_num_threads(n: SupportsIndex) -> None:
    """Set the number of threads that one call may use, the calling one included, for the whole process.

    Parameters
    ----------
    n : int
        At least 1. More than 1024 count as 1024.

    Raises
    ------
    ValueError
        If `n` is less than 1.
    TypeError
        If `n` is not an integer.

    Notes
    -----
    Results do not depend on it: they are bitwise equal for every number of threads. Small calls use fewer threads or
    one. Threads start when they are first needed and sleep between calls. Python threads that call at the same time
    share one pool: the first to come has its helpers, the others work alone until it is done. ``threadpoolctl`` knows
    the pool as ``user_api="ruvector"``.

    Examples
    --------
    >>> import ruvector
    >>> before = ruvector.get_num_threads()
    >>> ruvector.set_num_threads(1)
    >>> ruvector.get_num_threads()
    1
    >>> ruvector.set_num_threads(before)
    """
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"n must be an integer, got {n!r}") from None
    if count < 1:
        raise ValueError(f"n must be at least 1, got {count}")
    _core.set_num_threads(min(count, 2**31 - 1))


def _size(count: int) -> str | None:
    if count == 0:
        return None
    return f"{count / 2**20:g} MiB" if count >= 2**20 else f"{count / 2**10:g} KiB"


def _describe() -> list[dict[str, Any]]:
    online, affinity, quota = _core.cpu_counts()
    blas = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    report: list[dict[str, Any]] = [
        {
            "ruvector_version": _core.version(),
            "numpy_version": np.__version__,
            "numpy_blas": f"{blas.get('name')} {blas.get('version', '')}".strip(),
            "python": sys.version,
            "platform": platform.platform(),
            "stable_abi": _core.stable_abi(),
        },
        {
            "cpu": _core.cpu_brand(),
            "caches": {f"L{level}": _size(_core.cpu_cache(level)) for level in (1, 2, 3)},
            "cpus": {"online": online, "affinity": affinity, "cgroup_quota": quota or None},
        },
        {
            "instruction_sets": {"compiled": _core.compiled_isas(), "usable": isas(), "active": isa()},
            "num_threads": get_num_threads(),
            "environment": {key: os.environ.get(key) for key in ("RUVECTOR_ISA", "RUVECTOR_NUM_THREADS")},
        },
    ]
    try:
        threadpoolctl = importlib.import_module("threadpoolctl")
    except ImportError:
        return report
    report.extend(threadpoolctl.threadpool_info())
    return report


def show_runtime() -> None:
    """Print what `ruvector` runs on: versions, CPU, caches, instruction sets, threads, and NumPy's BLAS.

    A list of dictionaries, as `numpy.show_runtime` prints. ``"compiled"`` instruction sets are in this build,
    ``"usable"`` ones work on this CPU as well, and the ``"active"`` one runs. ``threadpoolctl``, where it is installed,
    adds the thread pools of the process.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.show_runtime()  # doctest: +ELLIPSIS
    [{'ruvector_version': '...',
    ...
    """
    pprint.pprint(_describe(), width=120, sort_dicts=False)


def _register_with(threadpoolctl: ModuleType) -> None:
    if not hasattr(threadpoolctl, "register"):  # threadpoolctl < 3.2
        return

    class RuvectorController(threadpoolctl.LibController):  # type: ignore[misc, name-defined]
        """Threads of ruvector, for `threadpoolctl.threadpool_limits`."""

        user_api = "ruvector"
        internal_api = "ruvector"
        filename_prefixes = ("_ruvector_core",)

        def get_num_threads(self) -> int:
            return get_num_threads()

        def set_num_threads(self, num_threads: int) -> None:
            set_num_threads(num_threads)

        def get_version(self) -> str:
            return _core.version()

    threadpoolctl.register(RuvectorController)


class _ThreadpoolctlWatch:
    """Finder that registers ruvector with threadpoolctl when that is imported later.

    threadpoolctl asks nobody: libraries register with it. Importing it here would cost every user of ruvector its 5 ms,
    and registering only where it is loaded already would make ``threadpool_limits`` depend on the order of imports.
    """

    @staticmethod
    def find_spec(
        name: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "threadpoolctl":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            load(module)
            _register_with(module)

        spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


if "threadpoolctl" in sys.modules:
    _register_with(sys.modules["threadpoolctl"])
else:
    sys.meta_path.insert(0, _ThreadpoolctlWatch)
