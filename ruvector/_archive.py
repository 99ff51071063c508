"""Arrays in one file: an uncompressed npz without pickle whose arrays lie on cache lines, sealed by a checksum over all its bytes.

The seal is the comment at the end of the zip archive: what it is, the version of the format, and the SHA-256 of every byte before.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import secrets
import stat
import struct
import tokenize
import zipfile

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

VERSION = 1
ALIGN = 64
# Field of a zip header that readers skip, as Android's zipalign pads: two bytes of alignment, then zeros.
PADDING = 0xD935
_LOCAL = struct.Struct("<4s22xHH")
_CHUNK = 1 << 24
# What the zip module and NumPy's reader of headers raise on damaged files.
_DAMAGE = (
    ArithmeticError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
)


class IndexFileError(ValueError):
    """A file that is no index, is damaged or cut off, or is of a later version."""


def _seal(kind, version, digest):
    return f"ruvector {kind} {version:04d} sha256 {digest}\n".encode()


def _npy(array):
    """The header of an npy file for an array in C order."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    return head.getvalue()


def _write(file, kind, arrays):
    seal = _seal(kind, VERSION, "0" * 64)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = seal
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            # the local header: 30 bytes, the name, this field, and the 20 of the sizes in 64 bits that follow it
            before = file.tell() + 30 + len(member.filename) + 6 + 20
            member.extra = struct.pack("<HHH", PADDING, 2 + -before % ALIGN, ALIGN) + bytes(-before % ALIGN)
            with archive.open(member, "w", force_zip64=True) as out:
                out.write(_npy(array))
                data = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
                for first in range(0, len(data), _CHUNK):
                    out.write(data[first : first + _CHUNK])
    file.flush()
    end = file.seek(0, os.SEEK_END) - len(seal)
    file.seek(0)
    digest = hashlib.sha256()
    while file.tell() < end:
        digest.update(file.read(min(_CHUNK, end - file.tell())))
    file.seek(end)
    file.write(_seal(kind, VERSION, digest.hexdigest()))


def _sync_folder(folder):
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create(folder, name):
    """A new file beside the one to replace, locked until it is closed where files have such locks."""
    while True:
        new = os.path.join(folder, f".{name}.{secrets.token_hex(8)}.tmp")
        file = open(new, "x+b")
        if fcntl is None:
            return file, new
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # this file system has no locks, so that nothing is swept either
            return file, new
        # a sweep may have had the lock first, and taken the file for one that is left over
        if os.path.exists(new):
            return file, new
        file.close()


def _sweep(folder, name):
    """Removes what saves of this name that were killed have left: files of theirs that no process has locked."""
    if fcntl is None:
        return
    left_over = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}\.tmp")
    for each in filter(left_over.fullmatch, os.listdir(folder)):
        with contextlib.suppress(OSError), open(os.path.join(folder, each), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(file.name)


def save(path, kind, facts, arrays):
    """Writes a file that readers see whole or not at all: a new one beside it, on the disk, then renamed."""
    path = os.path.realpath(os.fspath(path))
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)
    text = json.dumps(facts, allow_nan=False, sort_keys=True).encode()
    arrays = {"facts": np.frombuffer(text, np.uint8), **arrays}
    with contextlib.suppress(OSError):
        _sweep(folder, name)
    file, new = _create(folder, name)
    try:
        with file:
            _write(file, kind, arrays)
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                os.chmod(new, stat.S_IMODE(os.stat(path).st_mode))
            if os.name == "posix":  # under the lock
                os.replace(new, path)
        if os.name != "posix":  # where open files cannot be renamed
            os.replace(new, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        raise
    _sync_folder(folder)


def _check_seal(data, path, kind, verify):
    length = len(_seal(kind, VERSION, "0" * 64))
    found = re.fullmatch(rb"ruvector (\w+) (\d{4}) sha256 ([0-9a-f]{64})\n", data[-length:].tobytes())
    if found is None or found[1] != kind.encode():
        raise IndexFileError(f"{path} does not end as a ruvector {kind} does: it is cut off, damaged or something else")
    if int(found[2]) != VERSION:
        raise IndexFileError(
            f"{path} is of version {int(found[2])} of the format; this release reads version {VERSION}"
        )
    if verify and hashlib.sha256(data[:-length]).hexdigest() != found[3].decode():
        raise IndexFileError(f"{path} is damaged: its checksum is not that of its contents")


def _view(data, start, size, name):
    """The array of an npy file inside a buffer."""
    head = io.BytesIO(data[start : start + min(size, 4096)].tobytes())
    if np.lib.format.read_magic(head) != (1, 0):
        raise ValueError(f"{name} has another npy format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
    if fortran or dtype.hasobject:
        raise ValueError(f"{name} has dtype {dtype}")
    length = dtype.itemsize
    for n in shape:
        length *= n
    if head.tell() + length != size:
        raise ValueError(f"{name} holds {size - head.tell()} bytes, not {length}")
    first = start + head.tell()
    return data[first : first + length].view(dtype).reshape(shape)


def load(path, kind, *, mmap, verify):
    """Facts and arrays of a file: views of one read-only buffer, which is the file itself with `mmap`."""
    path = os.fspath(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise IndexFileError(f"{path} is empty")
        if mmap:
            data = np.asarray(np.memmap(file, np.uint8, "r"))
        else:
            room = np.empty(size + ALIGN, np.uint8)
            start = -room.ctypes.data % ALIGN
            data = room[start : start + size]
            if file.readinto(memoryview(data)) != size:
                raise IndexFileError(f"{path} became shorter while it was read")
            data.flags.writeable = False
        _check_seal(data, path, kind, verify)
        try:
            arrays = {}
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    local = data[member.header_offset : member.header_offset + 30].tobytes()
                    magic, name, extra = _LOCAL.unpack(local)
                    if magic != b"PK\3\4" or member.compress_type != zipfile.ZIP_STORED:
                        raise ValueError(f"{member.filename} is compressed")
                    start = member.header_offset + 30 + name + extra
                    name = member.filename.removesuffix(".npy")
                    arrays[name] = _view(data, start, member.file_size, name)
            facts = json.loads(arrays.pop("facts").tobytes())
            if not isinstance(facts, dict):
                raise ValueError("facts are no object")
        except _DAMAGE as error:
            raise IndexFileError(f"{path} cannot be read as a ruvector {kind}: {error}") from error
    return facts, arrays
