"""Embeddings kept in the user's cache folder between runs."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np


# What NumPy's reader and the zip module raise on damaged files; AttributeError and
# TypeError are a bare .npy, which is no context manager.
DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    AttributeError,
    TypeError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


class CorruptCacheError(ValueError):
    """A cache file that cannot be read back as what was written."""


def cache_folder() -> Path:
    """Return ``ruvector`` below the platform's cache folder; it need not exist.

    ``XDG_CACHE_HOME`` is followed everywhere when it is an absolute path.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "ruvector"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local or Path.home() / "AppData" / "Local") / "ruvector" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ruvector"
    return Path.home() / ".cache" / "ruvector"


def cache_key(parts: Iterable[str]) -> str:
    """Return a SHA-256 over all parts, their boundaries included."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def read_embeddings(path: Path, key: str, shape: tuple[int, int]) -> np.ndarray | None:
    """Return the float32 matrix stored under `key`, or None where there is no file.

    Raises
    ------
    CorruptCacheError
        If the file is damaged or holds something else.
    OSError
        If it cannot be opened.
    """
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        return None
    with file:
        try:
            with np.load(file, allow_pickle=False) as stored:
                found_key = str(stored["key"])
                embeddings: np.ndarray = stored["embeddings"]
        except DAMAGE as error:
            raise CorruptCacheError(f"{path} is damaged ({type(error).__name__})") from error
    whole = found_key == key and embeddings.shape == shape and embeddings.dtype == np.float32
    if not whole or not np.isfinite(embeddings).all():
        raise CorruptCacheError(f"{path} does not hold the embeddings of its name")
    return embeddings


def write_embeddings(path: Path, key: str, embeddings: np.ndarray) -> None:
    """Store a matrix so that readers see the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f"{path.stem}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, key=np.array(key), embeddings=embeddings)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
