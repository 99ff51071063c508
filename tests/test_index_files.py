"""Files of an AttentionIndex: what comes back, what is refused, and what a crash leaves."""

import hashlib
import io
import os
import random
import signal
import stat
import subprocess
import threading
import time
import zipfile

import numpy as np
import pytest
import ruvector
from ruvector import _archive
from ruvector.index import IndexFileError
from support import TIME_FACTOR, generator, normal, python_command, same_bits

AttentionIndex = ruvector.AttentionIndex


def made(count=50, dim=24, text=False, dtype=np.float32, kind="scaled_dot", **options):
    index = AttentionIndex(dim, kind, dtype=dtype, **options)
    rows = normal((count, dim), np.float32, "file", count, dim) * 0.1
    index.add(rows, [f"text \u00fc {i} \ud800" for i in range(count)] if text else np.arange(count) * 7 - 3)
    return index


def equal(a, b):
    query = normal((a.query_dim,), np.float32, "query") * 0.1
    assert list(a) == list(b) and a.dtype == b.dtype and a.attention_type == b.attention_type
    assert same_bits(a.vectors, b.vectors)
    first, second = a.search(query, 9), b.search(query, 9)
    assert first.ids.tolist() == second.ids.tolist()
    assert same_bits(first.scores, second.scores) and same_bits(first.weights, second.weights)
    return True


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_what_is_saved_comes_back(tmp_path, mmap, text, count, dtype):
    index, path = made(count, text=text, dtype=dtype), tmp_path / "vectors.npz"
    index.save(path)
    loaded = AttentionIndex.load(path, mmap=mmap)
    assert equal(loaded, index)
    assert os.listdir(tmp_path) == ["vectors.npz"]
    assert loaded.vectors.ctypes.data % 64 == 0
    loaded.add(np.ones((2, 24)), ["a", "b"] if text else [1000, 1001])
    assert len(loaded) == count + 2
    if count:
        first = next(iter(index))
        loaded.update(first, np.zeros(24))
        loaded.remove(first)
    assert equal(AttentionIndex.load(path, mmap=True), index)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("multi_head", {"num_heads": 4}),
        ("flash", {"num_heads": 3, "head_dim": 8}),
        ("grouped_query", {"num_heads": 6, "num_kv_heads": 2, "scale": 0.3}),
        (ruvector.AttentionType.MultiHead(num_heads=2), {}),
        ("poincare", {"curvature": -0.5}),
        ("performer", {"projection": normal((8, 24), np.float64, "projection")}),
        (
            "rope",
            {"num_heads": 2, "scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}},
        ),
        ("scaled_dot", {"softcap": 3.0}),
    ],
)
def test_types_and_parameters_come_back(tmp_path, kind, options):
    index = made(kind=kind, **options)
    index.save(tmp_path / "typed.npz")
    assert equal(AttentionIndex.load(tmp_path / "typed.npz"), index)


def test_a_parameter_that_files_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    index = made(kind="sparse", pattern=ruvector.patterns.local(4))
    with pytest.raises(TypeError, match="whose pattern is a"):
        index.save(tmp_path / "no.npz")
    assert os.listdir(tmp_path) == []


def test_numpy_reads_the_file(tmp_path):
    index = made()
    index.save(tmp_path / "plain.npz")
    with np.load(tmp_path / "plain.npz", allow_pickle=False) as stored:
        assert same_bits(stored["vectors"], index.vectors)
        assert stored["ids"].tolist() == index.ids.tolist()


def test_a_mapped_index_is_searched_in_the_file(tmp_path):
    path = tmp_path / "mapped.npz"
    index = made(2000, 64)
    index.save(path)
    mapped, read = AttentionIndex.load(path, mmap=True), AttentionIndex.load(path)

    def mapped_by(x):
        while isinstance(x, np.ndarray):
            if isinstance(x, np.memmap):
                return True
            x = x.base
        return False

    assert mapped_by(mapped.vectors) and not mapped_by(read.vectors)
    # a file that takes its place leaves the mapped one as it was
    other = made(10, 64)
    other.save(path)
    assert equal(mapped, index) and equal(AttentionIndex.load(path), other)
    mapped.save(path)
    assert equal(AttentionIndex.load(path, mmap=True), index)


def test_no_byte_can_change_unseen(tmp_path):
    """Every byte of a small file, one bit each, read either way."""
    path, bad = tmp_path / "whole.npz", tmp_path / "bad.npz"
    made(3, 4, text=True).save(path)
    data, rng = path.read_bytes(), random.Random(5)
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << rng.randrange(8)
        bad.write_bytes(changed)
        with pytest.raises(IndexFileError, match="bad.npz"):
            AttentionIndex.load(bad, mmap=at % 2 == 0)


def test_a_file_that_is_cut_off_or_longer_is_refused(tmp_path):
    path, bad = tmp_path / "whole.npz", tmp_path / "bad.npz"
    made(3, 4).save(path)
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        bad.write_bytes(data[:length])
        with pytest.raises(IndexFileError, match="bad.npz"):
            AttentionIndex.load(bad, mmap=length % 2 == 0)
    bad.write_bytes(data + b"\n")
    with pytest.raises(IndexFileError, match="cut off"):
        AttentionIndex.load(bad)
    assert issubclass(IndexFileError, ValueError)


def parts_of(data):
    """Start and end of every part of a file, by name: one begins where the one before ends."""
    parts, at = {}, 0

    def part(name, end):
        nonlocal at
        assert at < end <= len(data), name
        parts[name], at = (at, end), end

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            assert member.header_offset == at
            name, extra = (int.from_bytes(data[at + i : at + i + 2], "little") for i in (26, 28))
            part(f"{member.filename}: header", at + 30)
            part(f"{member.filename}: name and padding", at + name + extra)
            end = at + member.file_size
            part(f"{member.filename}: npy header", at + 10 + int.from_bytes(data[at + 8 : at + 10], "little"))
            if at < end:
                part(f"{member.filename}: numbers", end)
        assert archive.start_dir == at
        part("directory", len(data) - len(archive.comment) - 22)
        part("end of the directory", at + 22)
        words = archive.comment.split(b" ")
        assert words[0] == b"ruvector"
        for name, word in zip(("project", "kind", "version", "hash", "digest"), words):
            part(f"seal: {name}", at + len(word) + (name != "digest"))
    assert at == len(data)
    return parts


FILES = {
    "numbers": (lambda: made(40, 16), ("ids", "vectors")),
    "text": (lambda: made(40, 16, text=True), ("names", "ends", "vectors")),
    "parameter": (
        lambda: made(40, 16, kind="performer", projection=normal((8, 16), np.float64, "projection")),
        ("parameter.projection", "ids", "vectors"),
    ),
    "nothing": (lambda: AttentionIndex(16), ("ids", "vectors")),
}


@pytest.mark.parametrize("kind", FILES)
def test_no_part_of_a_file_can_be_damaged_unseen(tmp_path, kind):
    """Header, directory, seal and each array: bits that change, zeros of a page that was never written, a byte more or less, and
    an end that is missing."""
    path, bad = tmp_path / "whole.npz", tmp_path / "bad.npz"
    make, arrays = FILES[kind]
    make().save(path)
    data = path.read_bytes()
    parts = parts_of(data)
    expected = {f"{name}.npy: npy header" for name in ("facts", *arrays)}
    assert {name for name in parts if name.endswith("npy header")} == expected
    if kind != "nothing":
        assert {f"{name}.npy: numbers" for name in ("facts", *arrays)} <= set(parts)
    for name, (start, end) in parts.items():
        half = (start + end) // 2
        damaged = {
            f"bit {at - start}": data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :] for at in (start, half, end - 1)
        }
        damaged["zeros"] = data[:start] + bytes(end - start) + data[end:]
        damaged["a byte more"] = data[:half] + b"x" + data[half:]
        damaged["a byte less"] = data[:half] + data[half + 1 :]
        damaged["left out"] = data[:start] + data[end:]
        damaged["twice"] = data[:end] + data[start:]
        damaged["cut off before"] = data[:start]
        damaged["cut off inside"] = data[:half]
        for how, changed in damaged.items():
            bad.write_bytes(changed)
            for mmap in (False, True):
                if changed == data:
                    AttentionIndex.load(bad, mmap=mmap)
                    assert (how, bytes(end - start)) == ("zeros", data[start:end])
                    continue
                with pytest.raises(IndexFileError, match="bad.npz"):
                    AttentionIndex.load(bad, mmap=mmap)
                    pytest.fail(f"{name}, {how}")


def test_what_stands_behind_a_file_is_refused(tmp_path):
    path, other, bad = (tmp_path / f"{name}.npz" for name in ("whole", "other", "bad"))
    index, second = made(40, 16), made(7, 16)
    index.save(path)
    second.save(other)
    data, more = path.read_bytes(), other.read_bytes()
    seal = data[parts_of(data)["seal: project"][0] :]
    for behind in (b"\0", b"\n", bytes(4096), b"garbage" * 20, seal, data, more, more[: len(more) // 2]):
        bad.write_bytes(data + behind)
        for mmap in (False, True):
            with pytest.raises(IndexFileError, match="bad.npz"):
                AttentionIndex.load(bad, mmap=mmap)
            # without the checksum, the last whole file with a seal at the end is what counts
            if behind in (seal, data, more):
                assert equal(AttentionIndex.load(bad, mmap=mmap, verify=False), second if behind is more else index)
            else:
                with pytest.raises(IndexFileError, match="bad.npz"):
                    AttentionIndex.load(bad, mmap=mmap, verify=False)


@pytest.mark.parametrize("kind", ["numbers", "text", "parameter"])
def test_without_the_checksum_damaged_files_load_or_are_refused_cleanly(tmp_path, kind):
    path, bad = tmp_path / "whole.npz", tmp_path / "bad.npz"
    whole = FILES[kind][0]()
    whole.save(path)
    data, rng, loaded = path.read_bytes(), random.Random(7), 0
    vectors = parts_of(data)["vectors.npy: numbers"][0]
    assert data[vectors:].startswith(np.ascontiguousarray(whole.vectors).tobytes())
    for at in [vectors + 5, *(rng.randrange(len(data) - 90) for _ in range(800))]:
        changed = bytearray(data)
        changed[at] ^= 1 << rng.randrange(8)
        bad.write_bytes(changed)
        try:
            index = AttentionIndex.load(bad, verify=False)
            loaded += 1
        except IndexFileError:
            assert at != vectors + 5
            continue
        assert index.vectors.shape == (len(index), index.dim)
        assert index.search(whole.vectors[0], 5).ids.shape == (5,)
        if len(set(index)) < len(index):
            with pytest.raises(IndexFileError, match="an id more than once"):
                assert 0 in index
    assert loaded > 300


def sealed(path, kind=b"index", version=b"0001", body=b""):
    seal = b"ruvector " + kind + b" " + version + b" sha256 "
    path.write_bytes(body + seal + hashlib.sha256(body).hexdigest().encode() + b"\n")


def test_sealed_files_that_are_no_index(tmp_path):
    path = tmp_path / "odd.npz"
    sealed(path, version=b"0002")
    with pytest.raises(IndexFileError, match="version 2"):
        AttentionIndex.load(path)
    sealed(path, kind=b"other")
    with pytest.raises(IndexFileError, match="something else"):
        AttentionIndex.load(path)
    sealed(path, body=b"no archive")
    with pytest.raises(IndexFileError, match="cannot be read"):
        AttentionIndex.load(path)
    np.savez(path, vectors=np.eye(3))
    with pytest.raises(IndexFileError, match="something else"):
        AttentionIndex.load(path)
    facts = {
        "dim": 3,
        "dtype": "float32",
        "attention_type": "scaled_dot",
        "parameters": {},
        "num_heads": None,
        "head_dim": None,
    }
    arrays = {"ids": np.arange(2), "vectors": np.zeros((2, 3), np.float32)}
    for change, text in (
        ({"vectors": np.zeros((2, 4), np.float32)}, "width 3"),
        ({"vectors": np.zeros((2, 3))}, "float64"),
        ({"ids": np.arange(3)}, "3 ids for 2"),
    ):
        _archive.save(path, "index", facts, {**arrays, **change})
        with pytest.raises(IndexFileError, match=text):
            AttentionIndex.load(path)
    for change in ({"attention_type": "nothing"}, {"dim": 0}, {"dtype": "int32"}, {"parameters": {"x": 1}}):
        _archive.save(path, "index", {**facts, **change}, arrays)
        with pytest.raises(IndexFileError, match="cannot be read"):
            AttentionIndex.load(path)
    _archive.save(path, "index", facts, {**arrays, "ids": np.array([4, 4])})
    with pytest.raises(IndexFileError, match="more than once"):
        AttentionIndex.load(path).remove(4)


def test_files_that_are_not_there_or_cannot_be_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        AttentionIndex.load(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError, match="'.*no folder'$"):
        made().save(tmp_path / "no folder" / "x.npz")
    with pytest.raises(OSError):
        made().save(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")
def test_permissions_and_links_are_kept(tmp_path):
    path, link = tmp_path / "real.npz", tmp_path / "link.npz"
    made().save(path)
    os.chmod(path, 0o640)
    link.symlink_to(path)
    made(7).save(link)
    assert link.is_symlink() and len(AttentionIndex.load(path)) == 7
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "old.npz"
    made(5).save(path)
    for name in ("fsync", "replace"):

        def fail(*arguments):
            raise OSError("no space left")

        with monkeypatch.context() as patched:
            patched.setattr(_archive.os, name, fail)
            with pytest.raises(OSError, match="no space left"):
                made(9).save(path)
        assert os.listdir(tmp_path) == ["old.npz"] and len(AttentionIndex.load(path)) == 5


def test_the_file_reaches_the_disk_before_its_name(tmp_path, monkeypatch):
    steps = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(_archive.os, name, lambda *a, real=real, name=name: (steps.append(name), real(*a))[1])
    made().save(tmp_path / "x.npz")
    assert steps == (["fsync", "replace", "fsync"] if os.name == "posix" else ["fsync", "replace"])


CHILD = """
import sys, numpy as np, ruvector
path, number = sys.argv[1], int(sys.argv[2])
while True:
    number += 1
    index = ruvector.AttentionIndex(64)
    index.add(np.full((2000 + number % 7, 64), number, np.float32), np.arange(2000 + number % 7) + number)
    index.save(path)
    print(number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_kill_while_saving_never_breaks_or_loses_the_index(tmp_path):
    """Fifty children that save without end are killed at any moment: what the last one said to have saved is there, or newer."""
    path, rng, saved = tmp_path / "killed.npz", generator("kill"), 0
    midway = 0
    for _ in range(50):
        with subprocess.Popen(
            [*python_command(CHILD), str(path), str(saved)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        ) as child:
            said = int(child.stdout.readline())
            time.sleep(rng.uniform(0, 0.05) * TIME_FACTOR)
            child.send_signal(signal.SIGKILL)
            said = max([said, *map(int, child.stdout.read().split())])
            child.wait()
        index = AttentionIndex.load(path)
        number = int(index.vectors[0, 0])
        assert said <= number <= said + 1
        assert (index.vectors == number).all() and len(index) == 2000 + number % 7
        assert index.ids.tolist() == list(range(number, number + len(index)))
        saved = number
        left = [name for name in os.listdir(tmp_path) if name != path.name]
        assert all(name.startswith(".killed.npz.") and name.endswith(".tmp") for name in left)
        midway += len(left)
        # what the children before have left is gone
        assert len(left) <= 1 or _archive.fcntl is None
    assert midway > 10, "hardly any child was killed inside a save"


@pytest.mark.skipif(_archive.fcntl is None, reason="files have no such locks here")
def test_a_save_removes_what_killed_ones_have_left_and_nothing_else(tmp_path):
    import fcntl

    left = [".kept.npz.0123456789abcdef.tmp", ".kept.npz.fedcba9876543210.tmp"]
    others = [
        ".kept.npz.0123456789abcde.tmp",  # shorter
        ".kept.npz.0123456789ABCDEF.tmp",
        ".keptXnpz.0123456789abcdef.tmp",
        ".other.npz.0123456789abcdef.tmp",
        "kept.npz.0123456789abcdef.tmp",
    ]
    for name in left + others:
        (tmp_path / name).write_bytes(b"half")
    index = made()
    with open(tmp_path / left[0], "r+b") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)  # another process, or a thread, that is still writing
        index.save(tmp_path / "kept.npz")
        assert set(os.listdir(tmp_path)) == {left[0], *others, "kept.npz"}
    index.save(tmp_path / "kept.npz")
    assert set(os.listdir(tmp_path)) == {*others, "kept.npz"}


@pytest.mark.skipif(_archive.fcntl is None, reason="files have no such locks here")
@pytest.mark.parametrize("has_locks", [True, False])
def test_saves_at_one_time_do_not_sweep_each_other(tmp_path, monkeypatch, has_locks):
    if not has_locks:

        def refuse(file, operation):
            raise OSError("no locks")

        monkeypatch.setattr(_archive.fcntl, "flock", refuse)
    indices, errors = [made(20 + i) for i in range(4)], []

    def save(index):
        try:
            for _ in range(15):
                index.save(tmp_path / "one.npz")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=save, args=(index,)) for index in indices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and os.listdir(tmp_path) == ["one.npz"]
    assert len(AttentionIndex.load(tmp_path / "one.npz")) in range(20, 24)
