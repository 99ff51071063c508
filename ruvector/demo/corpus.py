"""NumPy's own docstrings as a search corpus."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import NamedTuple

# numpy.ma, numpy.char and the modules below numpy.polynomial are left out: they
# repeat these functions under the same words, and a reader wants np.sort once.
MODULES = ("numpy", "numpy.linalg", "numpy.fft", "numpy.random", "numpy.polynomial", "numpy.strings")


class Entry(NamedTuple):
    """One documented function or class."""

    name: str
    summary: str
    text: str


def numpy_docstrings() -> list[Entry]:
    """Return the public functions and classes of the running NumPy, in a fixed order.

    An object with several names is listed once, under its own name where
    that is public. Names come from ``__all__`` and are looked up in the
    module's dictionary: a module's ``__getattr__`` is where NumPy emits its
    deprecation warnings.
    """
    found: dict[int, Entry] = {}
    for module_name in MODULES:
        try:
            module = importlib.import_module(module_name)
        except ImportError:  # numpy.strings is new in NumPy 2.0
            continue
        prefix = "np" + module_name.removeprefix("numpy")
        public = sorted(name for name in module.__all__ if not name.startswith("_"))
        # Second pass over the names that differ from the object's own: aliases.
        for aliases in (False, True):
            for name in public:
                thing = vars(module).get(name)
                own_name = getattr(thing, "__name__", None)
                if not callable(thing) or own_name is None or id(thing) in found or (name != own_name) != aliases:
                    continue
                paragraphs = _paragraphs(thing)
                if paragraphs:
                    found[id(thing)] = Entry(f"{prefix}.{name}", paragraphs[0], f"{name}: " + " ".join(paragraphs))
    return sorted(found.values())


def _paragraphs(thing: object) -> list[str]:
    """Prose of a docstring up to its first section or directive, a line a paragraph."""
    kept: list[str] = []
    for paragraph in re.split(r"\n[ \t]*\n", inspect.getdoc(thing) or ""):
        lines = [line.strip() for line in paragraph.strip().splitlines()]
        if len(lines) > 1 and re.fullmatch(r"[-=]{3,}", lines[1]):
            break
        if not lines or lines[0].startswith(("..", ">>>")) or _is_signature(lines[0], thing):
            continue
        # reStructuredText markup carries no words: ``a``, `a`, :func:`a`.
        kept.append(re.sub(r":[a-z]+:`|`+", "", " ".join(lines)).strip())
    return kept


def _is_signature(line: str, thing: object) -> bool:
    return line.removeprefix("np.").startswith(f"{getattr(thing, '__name__', '')}(")
