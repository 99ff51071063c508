"""`ruvector bench`: the table of rows, the check that catches wrong results, the processes, and every report."""

import argparse
import ast
import dataclasses
import html.parser
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ruvector
from ruvector import _ruvector_core as core
from ruvector import cli
from ruvector.bench import (
    charts,
    command,
    compare,
    crew,
    fresh,
    growth,
    machine,
    markdown,
    measure,
    page,
    peaks,
    peers,
    problems,
    results,
    rows,
    sources,
    tables,
    view,
    worker,
)
from ruvector.bench.results import OURS, Entry, Fresh, Growth, Measured, Run
from support import DTYPES, TIME_FACTOR, check_python

FOLDER = Path(peers.__file__).parent
CACHES = {"L1": 48 << 10, "L2": 1 << 20, "L3": 32 << 20}


# The table -----------------------------------------------------------------------------------------------------------


def test_names_are_unique_and_found():
    names = [row.name for row in rows.ROWS] + [claim.name for claim in sources.CLAIMS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[\w/.-]+", name) for name in names)
    assert all(rows.by_name(row.name) is row for row in rows.ROWS)
    assert all(sources.by_name(claim.name) is claim for claim in sources.CLAIMS)
    assert rows.by_name("nothing") is None
    assert sources.by_name("nothing") is None


def methods(peer):
    tree = ast.parse((FOLDER / f"{peer}.py").read_text(encoding="utf-8"))
    (adapter,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Adapter")
    return {node.name for node in adapter.body if isinstance(node, ast.FunctionDef)}


def test_every_peer_of_a_row_can_do_its_kind():
    assert {p.stem for p in FOLDER.glob("*.py")} == {*peers.NAMES, "__init__"}
    can = {peer: methods(peer) for peer in peers.NAMES}
    for row in rows.ROWS:
        assert row.kind in problems.KINDS, row.name
        assert hasattr(peers.Peer, row.kind), row.name
        assert len(set(row.peers)) == len(row.peers) > 0, row.name
        for peer in row.peers:
            assert row.kind in can[peer], f"{row.name}: {peer}"
    assert {peer for row in rows.ROWS for peer in row.peers} == set(peers.NAMES)
    assert "numpy" in {peer for row in rows.ROWS for peer in row.peers}


def test_rows_are_well_formed():
    for row in rows.ROWS:
        assert row.dtype in rows.SHORT
        assert rows.SHORT[row.dtype] in row.name
        assert row.group in row.name
        assert row.bytes > 0
        assert row.operations > 0 or row.kind == "softmax" or row.work is not None
        assert row.reads or row.operations > 0 or row.kind == "softmax"
        for goal in (row.goal.best_for(1), row.goal.best_for(2), row.goal.torch):
            assert goal is None or goal >= 1
        assert row.goal.peak is None or 0 < row.goal.peak < 1
        assert row.goal.torch is None or {"torch", "torch_geometric"} & set(row.peers)
        assert row.series[1] > 0


@pytest.mark.parametrize(
    ("group", "shapes"),
    [
        ("dense", {(8, 512, 64), (12, 1024, 64), (8, 2048, 64), (8, 4096, 64), (8, 8192, 64), (16, 2048, 128)}),
        (
            "causal",
            {
                (8, 512, 64),
                (12, 1024, 64),
                (8, 2048, 64),
                (8, 4096, 64),
                (8, 8192, 64),
                (16, 2048, 128),
                (32, 1024, 128),
            },
        ),
        ("decode", {(8, n, d) for n in (4096, 32768) for d in (64, 128)} | {(32, 4096, 128), (32, 32768, 128)}),
        ("tiny", {(1, n, d) for n in (10, 32, 128) for d in (64, 128, 384, 768)}),
    ],
)
def test_shapes_of_float32(group, shapes):
    found = {
        (r.sizes["heads"], r.sizes["keys"], r.sizes["dim"])
        for r in rows.ROWS
        if r.group == group and r.dtype == "float32"
    }
    assert found == shapes


def test_goals_may_differ_with_threads():
    row = rows.by_name("softmax-f32-1x1000000")
    assert (row.goal.best_for(1), row.goal.best_for(2), row.goal.best_for(8)) == (1.5, 2.0, 2.0)
    assert rows.Goal(1.2).best_for(1) == rows.Goal(1.2).best_for(2) == 1.2
    assert rows.Goal().best_for(1) is None


def test_operations_are_those_of_the_visible_pairs():
    for name in ("dense-f32-8x512x64", "causal-f32-8x512x64", "causal-f32-32/8x1024x128", "decode-f32-8x4096x64"):
        row = rows.by_name(name)
        s = row.sizes
        visible = np.ones((s["length"], s["keys"]), bool)
        if row.options["causal"]:
            visible = np.tri(s["length"], s["keys"], s["keys"] - s["length"], dtype=bool)
        assert row.operations == 4 * s["heads"] * s["dim"] * visible.sum()


def test_bytes_are_those_of_the_arrays():
    for name in (
        "decode-f32-32/8x4096x128",
        "decode-bf16-8x4096x64",
        "matvec-f32-1000x64",
        "softmax-f32-64x1024",
        "dot-f32-768",
    ):
        row = rows.by_name(name)
        if row.dtype == "bfloat16" and "bfloat16" not in DTYPES:
            continue
        problem = problems.make(row)
        arrays = [x for n, x in vars(problem).items() if isinstance(x, np.ndarray) and n not in ("rows", "vector")]
        touched = sum(x.nbytes for x in arrays)
        if row.kind in ("attention", "softmax"):
            touched += arrays[0].nbytes  # the result, of the query's or the input's size
        assert row.bytes == touched


def test_rows_of_what_does_not_exist_yet_do_not_appear(monkeypatch):
    cache = [row for row in rows.ROWS if row.group == "cache"]
    assert cache
    assert all(row.needs == "KVCache" for row in cache)
    monkeypatch.delattr(ruvector, "KVCache", raising=False)
    assert not {row.name for row in cache} & {row.name for row in rows.select()}
    monkeypatch.setattr(ruvector, "KVCache", object, raising=False)
    assert {row.name for row in cache} <= {row.name for row in rows.select()}


def test_selection():
    assert {row.group for row in rows.select(["tiny"])} == {"tiny"}
    assert {row.group for row in rows.select(["tiny", "dot"])} == {"tiny", "dot"}
    quick = rows.select(quick=True)
    assert 8 <= len(quick) <= 20
    assert {row.group for row in quick} >= {"dense", "causal", "decode", "tiny", "softmax", "dot", "matvec"}
    assert rows.select(["nothing"]) == []


# Problems and their check --------------------------------------------------------------------------------------------


def small(kind, dtype="float32", **sizes):
    """A row of a kind whose data are small."""
    shapes = {
        "attention": {"heads": 4, "key_heads": 2, "length": 40, "keys": 40, "dim": 16},
        "built": {"heads": 4, "key_heads": 4, "length": 1, "keys": 10, "dim": 16},
        "cache": {"heads": 4, "key_heads": 2, "length": 1, "keys": 50, "dim": 16},
        "linear": {"heads": 4, "key_heads": 4, "length": 256, "keys": 256, "dim": 16, "features": 16},
        "window": {"heads": 2, "key_heads": 2, "length": 40, "keys": 40, "dim": 16, "window": 8},
        "blocks": {"heads": 2, "key_heads": 2, "length": 48, "keys": 64, "dim": 16, "block": 8, "blocks": 3},
        "pattern": {"heads": 2, "key_heads": 2, "length": 64, "keys": 64, "dim": 16},
        "softmax": {"rows": 20, "columns": 100},
        "dot": {"keys": 1, "dim": 100},
        "matvec": {"keys": 30, "dim": 100},
        "distance": {"points": 7, "keys": 30, "dim": 20},
        "hyperboloid": {"points": 7, "keys": 30, "dim": 20},
        "graph": {"nodes": 50, "edges": 300},
        "gating": {"tokens": 70, "experts": 9},
        "search": {"queries": 3, "keys": 60, "dim": 20},
    }
    options = {"causal": sizes.pop("causal", False)}
    return rows.Row(f"small-{kind}", "small", kind, {**shapes[kind], **sizes}, dtype, options)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_right_and_wrong_ones_are_caught(isa, dtype_name, causal):
    problem = problems.make(small("attention", dtype_name, causal=causal))
    call = problem.ours()
    right = call.read(call.run())
    assert call.precision == "bounded"
    assert problem.check(right, "bounded").right
    assert problem.check(right, "plain").right
    wide = right.astype(np.float64)
    other = problems.make(small("attention", dtype_name, causal=not causal)).ours()
    wrong = {
        "zeros": np.zeros_like(right),
        "a tenth less": wide * 0.9,
        "heads in another order": right[:, ::-1],
        "the other mask": other.read(other.run()),
        "not a number": np.where(np.arange(right.size).reshape(right.shape) % 7 == 0, np.nan, wide),
        "without the scale": wide[..., ::-1],
        "another shape": right[:, :2],
    }
    for what, out in wrong.items():
        for precision in ("bounded", "plain"):
            check = problem.check(out, precision)
            assert not check.right, f"{what}, {precision}: {check}"
        assert not problem.check(out, "half").right or what == "a tenth less", what


@pytest.mark.parametrize("kind", ["window", "blocks"])
def test_sparse_rows_are_right_and_count_their_pairs(isa, kind):
    row = small(kind)
    problem = problems.make(row)
    call = problem.ours()
    right = call.read(call.run())
    assert problem.check(right, "bounded").right
    assert not problem.check(problems.Attention.ours(problem).run(), "plain").right, "all keys"
    assert row.operations == 4 * 2 * 16 * problem.mask().sum()


@pytest.mark.parametrize(
    ("group", "sizes"),
    [
        ("dilated", {"window": 8, "step": 3}),
        ("dilated", {"window": 60, "step": 9}),
        ("longformer", {"window": 8, "tokens": 3}),
        ("longformer", {"window": 2, "tokens": 9}),
        ("bigbird", {"block": 8, "near": 3, "first": 1, "random": 2}),
    ],
)
def test_patterns_are_right_and_count_their_pairs(isa, group, sizes):
    row = dataclasses.replace(small("pattern", **sizes), group=group)
    problem = problems.make(row)
    right = np.asarray(problem.ours().run())
    assert problem.check(right, "bounded").right
    assert not problem.check(problems.Attention.ours(problem).run(), "plain").right, "all keys"
    assert row.operations == 4 * 2 * 16 * problem.mask().sum()
    assert all((problem.visible(i) == np.flatnonzero(problem.mask()[i])).all() for i in range(64))


@pytest.mark.parametrize(
    "kind", ["built", "softmax", "dot", "matvec", "distance", "hyperboloid", "graph", "gating", "search"]
)
def test_other_kinds_are_right_and_wrong_ones_are_caught(isa, kind):
    problem = problems.make(small(kind))
    call = problem.ours()
    right = call.read(call.run())
    assert problem.check(right, "bounded").right
    assert problem.check(right, "plain").right
    for wrong in (np.zeros_like(right), right * np.float32(1.5), right * np.float32(np.nan), right + np.float32(0.01)):
        assert not problem.check(wrong, "plain").right


@pytest.mark.parametrize("group", ["linear", "favor"])
@pytest.mark.parametrize("causal", [False, True])
def test_linear_attention_is_right_and_wrong_ones_are_caught(isa, group, causal):
    make = lambda causal: problems.make(dataclasses.replace(small("linear", causal=causal), group=group))  # noqa: E731
    problem = make(causal)
    right = np.asarray(problem.ours().run())
    assert problem.check(right, "bounded").right
    assert problem.check(right, "plain").right
    other = np.asarray(make(not causal).ours().run())
    for wrong in (np.zeros_like(right), right * np.float32(1.5), right[:, ::-1], other, right[..., ::-1], right[:, :2]):
        assert not problem.check(wrong, "bounded").right
        assert not problem.check(wrong, "plain").right


def test_one_point_is_as_good_as_many(isa):
    for kind in ("distance", "hyperboloid"):
        problem = problems.make(small(kind, points=1))
        assert problem.check(problem.ours().run(), "bounded").right


def test_gating_by_the_wrong_experts_is_caught():
    problem = problems.make(small("gating"))
    indices, weights = ruvector.top_k_gating(problem.logits, 2)
    assert problem.check(problem.both((indices, weights)), "plain").right
    assert not problem.check(problem.both((indices[:, ::-1], weights)), "plain").right
    assert not problem.check(problem.both((indices, weights[:, ::-1])), "plain").right
    assert not problem.check(problem.both((ruvector.top_k_gating(problem.logits[::-1], 2)[0], weights)), "plain").right


def test_tolerances_are_ordered_and_stated():
    problem = problems.make(small("attention"))
    right = np.asarray(problem.ours().run())
    shares = [problem.check(right + np.float32(1e-5), precision).share for precision in ("bounded", "plain", "half")]
    assert shares == sorted(shares, reverse=True)
    assert all(text for text, _ in problems.TOLERANCES.values())


def test_data_are_the_same_in_every_process():
    a, b = (problems.make(small("attention")) for _ in range(2))
    assert (a.query == b.query).all()
    assert (a.rows == b.rows).all()
    assert not np.array_equal(a.key, a.value)


def test_a_cache_is_filled_before_a_block_and_grows_in_it(monkeypatch):
    class Cache:
        def __init__(self, heads, dim, *, capacity, dtype):
            self.k = np.empty((1, heads, 0, dim), dtype)
            self.v = self.k

        def append(self, k, v):
            self.k, self.v = np.concatenate([self.k, k], 2), np.concatenate([self.v, v], 2)

        def attend(self, q):
            return ruvector.scaled_dot_product_attention(q, self.k, self.v, enable_gqa=True)

    monkeypatch.setattr(ruvector, "KVCache", Cache, raising=False)
    problem = problems.make(small("cache"))
    call = problem.ours()
    for _ in range(2):
        call.before()
        assert problem.check(call.read(call.run()), call.precision).right
        assert not problem.check(call.read(call.run()), call.precision).right  # one more key by now
    assert call.limit == problem.ROOM
    theirs = peers.load("numpy", 1).calls(problem)["numpy"]
    theirs.before()
    assert problem.check(theirs.read(theirs.run()), theirs.precision).right


@pytest.mark.parametrize("peer", [n if n == "numpy" else pytest.param(n, marks=pytest.mark.peer) for n in peers.NAMES])
def test_peers_agree_with_exact_values(peer):
    """In a process of its own, as in the benchmark: several of these libraries do not like each other."""
    out = check_python(
        f"""
import sys
from ruvector.bench import peers, problems, rows
try:
    peer = peers.load({peer!r}, 1)
except (ImportError, peers.Unsupported) as missing:
    sys.exit(print("missing:", missing))
for name in ("dense-f32-8x512x64", "causal-f32-8x512x64", "tiny-f32-1x10x64", "dense-f16-8x512x64", "softmax-f32-64x1024",
             "dot-f32-768", "matvec-f32-100x64", "causal-f32-32/8x1024x128", "poincare-f32-1000x1000x64",
             "gat-f32-1000x5000", "gating-f32-512x64", "linear-f32-8x4096x64", "linear-causal-f32-8x4096x64",
             "favor-f32-8x4096x64", "search-f32-1x100000x768", "built-f32-12x10x64"):
    row = rows.by_name(name)
    if {peer!r} not in row.peers:
        continue
    problem = problems.make(row)
    try:
        calls = peer.calls(problem)
    except peers.Unsupported as reason:
        print(name, "refused:", reason)
        continue
    for label, call in calls.items():
        assert label.split()[0] == {peer!r}, label
        if call.before:
            call.before()
        check = problem.check(call.read(call.run()), call.precision)
        assert check.right, (name, label, check)
        print(name, label, "right")
""",
        env=peers.environment(1),
        timeout=240,
    )
    if out.startswith("missing:"):
        pytest.skip(out.strip())
    assert "right" in out


# Workers -------------------------------------------------------------------------------------------------------------


def test_a_worker_prepares_checks_and_times():
    w = worker.Worker("ruvector", 1)
    isas = list(ruvector.isas())
    try:
        checks = w.prepare("tiny-f32-1x10x64", isas)
        assert list(checks) == [OURS + isa for isa in isas]
        assert all(check["share"] <= 1 and check["precision"] == "bounded" for check in checks.values())
        for isa in isas:
            times = w.time(OURS + isa, 0.01)["times"]
            assert core.isa() == isa
            assert 1 <= len(times) <= 500  # a reading spans many calls
            assert 0 < min(times) < 1e-3 * TIME_FACTOR
    finally:
        core.isa_use(ruvector.isas()[0])


def test_a_worker_keeps_to_the_limit_of_a_block():
    calls = []
    w = worker.Worker("ruvector", 1)
    w.calls["x"] = problems.Call(lambda: calls.append("call"), before=lambda: calls.append("before"), limit=100)
    w.seconds["x"] = 0.0
    w.time("x", 5.0)
    assert calls[0] == "before"
    assert calls.count("before") == 1
    assert 50 <= calls.count("call") <= 100


def test_a_worker_makes_one_call_of_a_long_one():
    calls = []
    w = worker.Worker("ruvector", 1)
    w.calls["x"] = problems.Call(lambda: (calls.append(0), time.sleep(0.03)))
    w.seconds["x"] = 0.03
    times = w.time("x", 0.001)["times"]
    assert len(times) == len(calls) == 1
    assert times[0] >= 0.03


def stubs(folder, *names):
    """A folder whose modules of these names cannot be imported, as the variable that a child finds it by."""
    for name in names:
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} is broken here')\n")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}


OTHERS = ("torch", "zentorch", "onnxruntime", "openvino", "jax", "numba", "simsimd", "numkong", "faiss")


def test_missing_libraries_are_reasons(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", stubs(tmp_path, "faiss", "torch")["PYTHONPATH"])
    with crew.hire(["numpy", "faiss", "torch", "nonsense"], 1) as (members, versions, missing):
        assert list(members) == ["numpy"]
        assert versions == {"numpy": np.__version__}
        assert "faiss is broken here" in missing["faiss"]
        assert "torch is broken here" in missing["torch"]
        assert "nonsense" in missing["nonsense"]
        with pytest.raises(crew.Refused, match="nobody"):
            members["numpy"].ask(do="time", label="nobody", seconds=1)
    assert members["numpy"].process.returncode is not None


def test_a_process_that_dies_is_a_reason_and_is_started_again():
    with crew.hire(["numpy"], 1) as (members, _, _):
        numpy = members["numpy"]
        numpy.process.kill()
        numpy.process.wait()
        with pytest.raises(crew.Refused, match="its process ended with code"):
            numpy.ask(do="prepare", row_name="tiny-f32-1x10x64", isas=[])
        numpy.revive()
        assert "numpy" in numpy.ask(do="prepare", row_name="tiny-f32-1x10x64", isas=[])


def test_a_process_that_hangs_is_a_reason(monkeypatch):
    with crew.hire(["numpy"], 1) as (members, _, _):
        numpy = members["numpy"]
        numpy.patience = 0.3
        monkeypatch.setattr(numpy, "send", lambda **request: None)  # so that it waits on
        with pytest.raises(crew.Refused, match="no answer in 0.3 s"):
            numpy.ask(do="prepare", row_name="tiny-f32-1x10x64", isas=[])


def test_what_a_library_prints_does_not_disturb():
    code = "import ruvector.bench.worker as w; w.main('numpy', 1)"
    child = subprocess.run(
        [sys.executable, "-P", "-c", f"print('noise', flush=True); {code}"],
        input='{"do": "prepare", "row_name": "tiny-f32-1x10x64", "isas": []}\n{"do": "nothing"}\n',
        capture_output=True,
        text=True,
        timeout=60 * TIME_FACTOR,
        check=False,
    )
    lines = child.stdout.splitlines()
    assert "noise" in lines[0]
    assert json.loads(lines[1]) == {"version": np.__version__}
    assert "numpy" in json.loads(lines[2])


def test_threads_are_set_before_libraries_are_loaded(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Nehalem")
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "512")
    env = peers.environment(3)
    assert not {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"} & set(env)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RUVECTOR_NUM_THREADS"):
        assert env[name] == "3"
    out = check_python(
        "import ruvector.bench.worker as w; w.Worker('ruvector', 3); import ruvector; print(ruvector.get_num_threads())"
    )
    assert out.strip() == "3"


# Peaks ---------------------------------------------------------------------------------------------------------------


def test_peaks_are_measured(isa):
    found = peaks.measure([isa], [1, 2], machine.describe()["caches"], 0.002)
    assert {p.isa for p in found} == {isa}
    for threads in (1, 2):
        assert peaks.find(found, "float32", isa, threads) > 0
        assert peaks.find(found, "float64", isa, threads) > 0
        assert peaks.find(found, "memory", isa, threads) > 0
        assert any(p.what == "bfloat16" for p in found) == (isa == "avx512bf16")
    assert peaks.find(found, "float32", "none", 1) is None


def test_peak_counts_what_was_done(isa):
    one, two = core.peak_fma("float32", 10, 1), core.peak_fma("float32", 20, 3)
    assert two == 6 * one > 0
    lanes = core.peak_fma("float32", 1, 1) / core.peak_fma("float64", 1, 1)
    assert lanes == (1 if isa == "scalar" else 2)
    buffer = np.ones(50_000, np.float32)
    assert core.peak_read(buffer, 2, 1) == 2 * core.peak_read(buffer, 1, 1)
    for threads in (1, 2, 3):
        assert 0.9 * buffer.nbytes < core.peak_read(buffer, 1, threads) <= buffer.nbytes


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: core.peak_fma("float32", 0, 1), ValueError),
        (lambda: core.peak_fma("float32", 1, 0), ValueError),
        (lambda: core.peak_fma("float32", 1, 5000), ValueError),
        (lambda: core.peak_fma("float16", 1, 1), LookupError),
        (lambda: core.peak_fma("int8", 1, 1), LookupError),
        (lambda: core.peak_read(b"too short", 1, 1), ValueError),
        (lambda: core.peak_read(np.ones(2000, np.float32), 1, 2), ValueError),
        (lambda: core.peak_read(np.ones(2000, np.float32), 0, 1), ValueError),
        (lambda: core.peak_read(np.ones((100, 100), np.float32)[:, ::2], 1, 1), (ValueError, BufferError)),
        (lambda: core.peak_read("text", 1, 1), TypeError),
    ],
)
def test_peaks_refuse_what_makes_no_sense(call, error):
    with pytest.raises(error):
        call()


def test_columns_are_the_best_of_each_width():
    shown = peaks.columns()
    assert shown == [name for name in ruvector.isas() if name in shown]
    assert shown[0] == ruvector.isas()[0]
    assert ("scalar" in shown) == (shown == ["scalar"])
    assert not {"avx512", "avx512bf16"} <= set(shown)
    if "avx2" in ruvector.isas():
        assert "avx2" in shown


def test_buffers_lie_on_whole_pages():
    for n in (1024, 5000, 100_000):
        buffer = peaks._aligned(n)
        assert buffer.size == n
        assert buffer.ctypes.data % 4096 == 0
        assert (buffer == 1).all()


def test_levels():
    assert [peaks.level_of(n, 1, CACHES) for n in (1000, 100_000, 2 << 20, 1 << 30)] == list(peaks.LEVELS)
    assert peaks.level_of(90_000, 2, CACHES) == "L1"
    assert peaks.level_of(40 << 20, 8, CACHES) == "memory"
    assert peaks.footprint("L1", 1, CACHES) == 24 << 10
    assert peaks.footprint("L2", 2, CACHES) == 1 << 20
    assert peaks.footprint("L3", 1, CACHES) == 16 << 20
    assert peaks.footprint("memory", 1, CACHES) == 256 << 20
    assert peaks.footprint("L3", 1, {**CACHES, "L3": 0}) == 0


def test_the_best_of_two_measurements_counts():
    a, b = peaks.Peak("float32", "avx2", 1, 5.0), peaks.Peak("float32", "avx2", 1, 7.0)
    assert peaks.join([a], [b]) == peaks.join([b, a]) == [b]
    assert peaks.find([b], "float16", "avx2", 1) == 7.0
    assert peaks.find([b, peaks.Peak("bfloat16", "avx2", 1, 9.0)], "bfloat16", "avx2", 1) == 9.0


# Runs ----------------------------------------------------------------------------------------------------------------


def entry(label, best, **more):
    return Entry(label, best, best * 1.1, 10, 1e-7, 0.1, "plain", bests=[best], **more)


def synthetic(
    ours=1e-3, torch=2e-3, cpu="A & B <CPU>", peak=1e12, isas=("avx512", "avx2"), date="2026-01-01T00:00:00+00:00"
):
    """A run of two rows, as if measured."""
    run = Run(
        date,
        {
            "cpu": cpu,
            "architecture": "x86_64",
            "system": "Linux",
            "caches": CACHES,
            "cpus": 2,
            "isas": list(isas),
            "python": "3.11.7",
            "numpy": "2.0",
            "ruvector": "0.1.0",
        },
        {"threads": [1, 2], "isas": list(isas), "seconds": 1.0},
        {"ruvector": "0.1.0", "torch": "2.13"},
        {"faiss": "No module named 'faiss'"},
        [peaks.Peak(w, isa, t, peak * t) for w in ("float32", "float64") for isa in isas for t in (1, 2)]
        + [peaks.Peak(w, isa, t, 1e11) for w in peaks.LEVELS for isa in isas for t in (1, 2)],
    )
    for n, name in enumerate(
        ("dense-f32-8x512x64", "dense-f32-12x1024x64", "dense-f32-8x2048x64", "decode-f32-8x4096x64")
    ):
        row = rows.by_name(name)
        for threads in (1, 2):
            scale = 30 * (n + 1) / threads
            mine = [entry(OURS + isa, ours * scale * (i + 1)) for i, isa in enumerate(isas)]
            others = [
                entry("torch", torch * scale),
                entry("numpy", 4e-3 * scale),
                entry("onnxruntime MHA", 3e-3 * scale),
            ]
            wrong = dataclasses.replace(entry("openvino", 1e-9), share=7.0)
            refused = Entry("jax", refused="no such <thing>")
            run.rows.append(
                Measured(
                    name, threads, row.operations, row.bytes, row.reads, row.dtype, [*mine, *others, wrong, refused]
                )
            )
    run.fresh = [
        Fresh("first-call-8x512x64", 1, 5e-3, 2e-3, 1000, 10**6, 10**6),
        Fresh("memory-8x32768x64", 2, None, None, 5 << 20, 10**8, 10**7),
        Fresh("usage-guide-scaled_dot-128-one-query", 1, 1e-4, 5e-6, 0, 10**6, 3000),
        Fresh("integration-plan-GAT-1000-nodes", 1, refused="it went wrong"),
    ]
    sizes = [1000, 2000, 4000]
    run.growth = [
        Growth("scaled_dot", "O(n\u00b2)", sizes, [ours * (n / 1000) ** 2 for n in sizes]),
        Growth("sliding_window", "O(n*w)", sizes, [ours * (n / 1000) ** 1.5 for n in sizes]),
        Growth("gat", "O(E)", sizes, refused="no edges today"),
    ]
    return run


def test_json_round_trip(tmp_path):
    run = synthetic()
    results.save(run, tmp_path / "a.json")
    assert results.load(tmp_path / "a.json") == run
    content = json.loads((tmp_path / "a.json").read_text())
    del content["growth"]  # which earlier versions did not measure
    (tmp_path / "b.json").write_text(json.dumps(content))
    assert results.load(tmp_path / "b.json") == dataclasses.replace(run, growth=[])


# Growth --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cost", "exponent"),
    [
        ("O(n\u00b2)", 2),
        ("O(n\u00b2) memory-efficient", 2),
        ("O(n*m)", 2),
        ("O(n\u221an)", 1.5),
        ("O(n*w)", 1),
        ("O(n*k)", 1),
        ("O(n)", 1),
        ("O(E)", 1),
    ],
)
def test_expected_exponents(cost, exponent):
    assert growth.expected(cost) == exponent


def test_every_type_has_an_expected_exponent_and_can_be_called():
    names = growth.select()
    assert names == [record.name for record in ruvector.attention_types() if record.family != "custom"]
    assert growth.select(["growth-sliding"]) == ["sliding_window"]
    assert growth.select(["dense-"]) == []
    for name in names:
        assert len(growth.sizes(name)) == 4
        assert np.isfinite(np.asarray(growth.call(name, 128)())).all(), name


def test_exponent_is_the_slope():
    assert growth.exponent([10, 20, 40], [3e-3, 12e-3, 48e-3]) == pytest.approx(2)
    assert growth.exponent([10, 100], [5.0, 5.0]) == pytest.approx(0)


def test_growth_lines():
    square, window, graph = view.growth_lines(synthetic())
    assert square.exponent == pytest.approx(2)
    assert (square.expected, square.missed) == (2, False)
    assert window.exponent == pytest.approx(1.5)
    assert (window.expected, window.missed) == (1, True)
    assert (graph.exponent, graph.missed) == (None, False)
    assert "sliding_window: exponent 1.50 of 1" in view.missed(synthetic())
    text = markdown.page(synthetic())
    assert "## growth with n" in text
    assert "no edges today" in text
    assert "Growth with n" in page.page(synthetic())


def test_growth_of_runs_is_that_of_the_best_times():
    a, b = synthetic(), synthetic(date="2026-02-01T00:00:00+00:00")
    a.growth[0].times[0] /= 2
    b.growth[0].times[1] /= 2
    b.growth[2].refused, b.growth[2].times = None, [1.0, 2.0, 4.0]
    merged = results.merge([a, b]).growth
    assert merged[0].times == [a.growth[0].times[0], b.growth[0].times[1], a.growth[0].times[2]]
    assert merged[2].times == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{", "is not JSON"),
        ("[]", "not a result"),
        ('{"format": 99}', "in format 1"),
        ('{"format": 1, "rows": []}', "does not have the fields"),
        ('{"format": 1, "rows": [{"row": "x"}], "peaks": [], "fresh": []}', "does not have the fields"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(results.BadResult, match=message) as caught:
        results.load(path)
    assert "x.json" in str(caught.value)


def test_wrong_and_refused_entries_count_for_nothing():
    measured = synthetic().rows[0]
    assert measured.best_peer().label == "torch"
    assert {e.label for e in measured.peers()} == {"torch", "numpy", "onnxruntime MHA"}
    assert measured.library("onnxruntime").label == "onnxruntime MHA"
    assert measured.library("openvino") is None
    assert measured.entry("openvino") is None
    assert measured.entry(OURS + "avx2").isa == "avx2"


def test_merging_takes_the_best_and_keeps_all_bests():
    a, b = synthetic(ours=1e-3, torch=2e-3), synthetic(ours=1.2e-3, torch=1.5e-3, date="2026-01-02T00:00:00+00:00")
    merged = results.merge([a, b])
    mine, torch = merged.rows[0].entry(OURS + "avx512"), merged.rows[0].entry("torch")
    assert mine.best == pytest.approx(0.03)
    assert mine.bests == pytest.approx([0.03, 0.036])
    assert torch.best == pytest.approx(0.045)
    assert merged.dates == [a.date, b.date]
    assert results.merge([merged, a]).dates == [a.date, a.date, b.date]
    assert next(e for e in merged.rows[0].entries if e.label == "openvino").wrong
    assert next(e for e in merged.rows[0].entries if e.label == "jax").refused
    assert results.merge([a]).rows == a.rows


def test_only_like_runs_are_merged():
    with pytest.raises(results.BadResult, match="one machine"):
        results.merge([synthetic(), synthetic(cpu="other")])
    with pytest.raises(results.BadResult, match="instruction sets"):
        results.merge([synthetic(), synthetic(isas=("avx2",))])


def test_lines_have_rates_parts_ratios_and_misses():
    run = synthetic()
    line = view.line(run, run.rows[0])
    row = rows.by_name("dense-f32-8x512x64")
    first, second = line.cells
    assert first.rate == pytest.approx(row.operations / 0.03)
    assert first.part == pytest.approx(first.rate / 1e12)
    assert first.versus == pytest.approx({"best": 2.0, "torch": 2.0, "numpy": 4.0})
    assert second.versus["best"] == pytest.approx(1.0)
    assert line.best.label == "torch"
    assert line.unit == "GFLOP/s"
    assert any("avx512 peak" in text for text in line.misses)
    assert any("avx2 peak" in text for text in line.misses)
    assert not any("best" in text or "torch" in text for text in line.misses)
    assert {text.split(":")[0] for text in line.notes} == {"openvino", "jax"}
    decode = view.line(run, run.find("decode-f32-8x4096x64", 1))
    assert (decode.unit, decode.limit) == ("GB/s", "L3")
    assert decode.cells[0].part == pytest.approx(decode.cells[0].rate / 1e11)
    slow = synthetic(ours=1.9e-3)
    assert "best peer 2.5 % short" in view.line(slow, slow.rows[0]).misses
    assert "torch 16 % short" in view.line(slow, slow.rows[0]).misses


def test_rows_of_another_version_are_shown_without_goals():
    run = synthetic()
    run.rows[0].row = "long-gone"
    line = view.line(run, run.rows[0])
    assert (line.row, line.misses) == (None, [])
    assert "long-gone" in page.page(run)
    assert "long-gone" in markdown.page(run)


def test_scaling_has_goals_for_long_products_and_for_tiny_calls():
    run = synthetic()
    found = {s.name: s for s in view.scaling(run)}
    assert found["dense-f32-8x512x64"].ratio == pytest.approx(2)
    assert found["dense-f32-8x512x64"].goal == rows.TWO_THREADS
    assert found["decode-f32-8x4096x64"].goal is None
    run.rows[1].entries[0].best *= 1.2
    (missed,) = [s for s in view.scaling(run) if s.missed]
    assert missed.ratio == pytest.approx(2 / 1.2)
    assert sum("with 2 threads" in text for text in view.missed(run)) == 1
    for measured in run.rows:
        measured.entries[0].best = 5e-5 * measured.threads  # two threads take twice as long
    assert {(s.goal, s.missed) for s in view.scaling(run)} == {(rows.TINY_THREADS, True)}


def test_fresh_lines_know_goals_from_claims():
    found = {x.claim.name: x for x in view.fresh_lines(synthetic())}
    assert found["first-call-8x512x64"].missed == "first call 2.5x of 2x steady"
    assert found["memory-8x32768x64"].missed == "5.0 MiB of 2 MiB"
    assert found["usage-guide-scaled_dot-128-one-query"].missed is None
    # and the two above, and a type that grows too fast
    assert len(view.missed(synthetic())) == sum(len(x.misses) for x in view.lines(synthetic())) + 3


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.5, "1.5 s"), (0.0123, "12.3 ms"), (2.5e-7, "250 ns"), (9.999e-4, "1000 us"), (None, "-")]
)
def test_durations(seconds, text):
    assert view.duration(seconds) == text


# Comparisons ---------------------------------------------------------------------------------------------------------


def test_comparison_is_normalised_by_each_ones_limits():
    a, b = synthetic(ours=1e-3, peak=1e12), synthetic(ours=2e-3, peak=0.5e12, cpu="half as fast")
    found = compare.pairs(a, b)
    assert {(isa_a, isa_b) for _, _, isa_a, isa_b, *_ in found} == {("avx512", "avx512"), ("avx2", "avx2")}
    for name, _, _, _, x, y, normalised in found:
        assert x / y == pytest.approx(0.5)
        assert normalised == pytest.approx(0.5 if "decode" in name else 1.0)  # memory is as fast on both
    headers, cells = compare.table(a, b)
    assert all(len(row) == len(headers) for row in cells)
    assert cells[-1][0] == "geometric mean"
    assert cells[-1][5] == "0.50x"


def test_machines_without_a_common_instruction_set_are_compared():
    found = compare.pairs(synthetic(), synthetic(isas=("neon",)))
    assert {(isa_a, isa_b) for _, _, isa_a, isa_b, *_ in found} == {("avx512", "neon")}


# Reports -------------------------------------------------------------------------------------------------------------


def test_markdown_is_a_document_of_tables():
    text = markdown.page(results.merge([synthetic(), synthetic(date="2026-01-02T00:00:00+00:00")]))
    for part in (
        "A & B <CPU>",
        "torch 2.13",
        "2026-01-02",
        "1.00",
        "goals missed",
        "`dense-f32-8x512x64`",
        "2.00x torch",
    ):
        assert part in text
    assert "openvino: WRONG" in text
    assert rows.TRIED["dense"] in text
    assert rows.TRIED["softmax"] not in text
    assert rows.TRIED.keys() <= {row.group for row in rows.ROWS}
    assert "No module named 'faiss'" in text
    assert "**avx512 peak" in text
    for block in re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().splitlines()}
        assert len(widths) == 1, block


class Page(html.parser.HTMLParser):
    VOID = {"meta", "br", "link", "img", "hr", "input"}

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.texts, self.links = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("isas", [("avx512", "avx2"), ("scalar",)])
def test_page_is_well_formed_and_needs_nothing_else(isas):
    text = page.page(synthetic(isas=isas))
    parsed = Page()
    parsed.feed(text)
    parsed.close()
    assert parsed.open == []
    assert parsed.links == []
    assert not re.search(r"https?:|@import|url\(", text)
    assert "script" not in parsed.seen
    assert {"svg", "polyline", "table", "title"} <= set(parsed.seen)
    everything = " ".join(parsed.texts)
    for part in ("A & B <CPU>", "no such <thing>", "dense-f32-8x512x64", "roofline", "dense f32 d=64", "openvino"):
        assert part in everything
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    used = set(re.findall(r"var\((--\w+)\)", text))
    assert used <= set(re.findall(r"(--\w+):", text))


def test_page_of_nothing_is_a_page():
    run = synthetic()
    run.rows, run.fresh, run.missing = [], [], {}
    parsed = Page()
    parsed.feed(page.page(run))
    assert parsed.open == []
    run.rows = [Measured("dense-f32-8x512x64", 1, 1.0, 1.0, False, "float32", [Entry("numpy", refused="no")])]
    page.page(run)
    markdown.page(run)


def test_charts_stay_inside_their_frame():
    curve = charts.Curve("a <b>", [(10, 3.0), (100, 70.0), (1e5, 20.0)], 0, ours=True)
    drawing = charts.curves("title", "n", "GB/s", [curve], [("roof", 80.0), ("far away", 1e5)])
    numbers = [(float(x), float(y)) for x, y in re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)"', drawing)]
    assert len(numbers) == 3
    for x, y in numbers:
        assert charts.LEFT <= x <= charts.WIDTH - charts.RIGHT
        assert charts.TOP <= y <= charts.HEIGHT - charts.BOTTOM
    assert "far away" not in drawing
    assert "a &lt;b&gt;" in drawing


@pytest.mark.parametrize("top", [0.3, 1, 7.2, 95, 101, 3000])
def test_ticks_are_few_and_reach_the_top(top):
    marks = charts.ticks(top)
    assert marks[0] == 0
    assert marks[-1] >= top
    assert 3 <= len(marks) <= 9


def test_report_on_a_terminal_and_elsewhere(monkeypatch, capsys):
    run = synthetic()
    tables.report(run)
    plain = capsys.readouterr().out
    for part in ("dense-f32-8x512x64", "limits of", "openvino: WRONG", "goals missed", "faiss: No module"):
        assert part in plain
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setenv("COLUMNS", "200")
    tables.report(run)
    assert "dense-f32-8x512x64" in capsys.readouterr().out


# Fresh processes -----------------------------------------------------------------------------------------------------


def test_claims_are_complete():
    titles = {claim.title for claim in sources.CLAIMS}
    for part in (
        "scaled_dot 128, one query",
        "flash_v2 2048 in blocks of 64, every query",
        "ScaledDot 8 x 512, one query",
    ):
        assert part in titles
    assert all(claim.call in fresh.CALLS for claim in sources.CLAIMS)
    assert {c.needs for c in sources.CLAIMS} == {None, "linear", "gat", "moe", "moe_route"}
    assert all(c.exists for c in sources.CLAIMS if c.needs is None)
    assert [c.name for c in sources.select(own=True, sources=False)] == [
        c.name for c in sources.CLAIMS if c.origin == sources.GOALS
    ]


def test_a_claim_is_measured():
    claim = dataclasses.replace(sources.by_name("usage-guide-scaled_dot-128-every-query"), processes=2)
    found = sources.measure(claim, 1)
    assert found.refused is None
    assert found.first > 0  # no order between them is asked: a neighbour's load is longer than the first call's extra
    assert found.steady > 0
    assert found.inputs == 3 * 128 * 768 * 4
    assert found.outputs == 128 * 768 * 4
    assert found.extra >= 0
    if TIME_FACTOR == 1:  # an emulator's own memory counts too
        assert found.extra < rows.EXTRA_BYTES_A_THREAD


def test_a_claim_that_cannot_be_made_is_a_reason():
    claim = dataclasses.replace(sources.CLAIMS[0], sizes={"heads": 0, "length": 1, "keys": 1, "dim": 0})
    found = sources.measure(claim, 1)
    assert "Error" in found.refused
    assert found.steady is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell the largest resident memory")
@pytest.mark.skipif(TIME_FACTOR > 1, reason="an emulator's own memory would be measured")
def test_memory_beyond_inputs_and_outputs_is_seen():
    out = check_python(
        "import numpy as np\n"
        "from ruvector.bench import fresh\n"
        "def frugal(): return np.ones(1 << 20)\n"
        "def greedy(): return np.ones(8 << 20)[: 1 << 10].copy()\n"
        "print(fresh.memory(frugal, [])['extra'], fresh.memory(greedy, [])['extra'])"
    )
    frugal, greedy = map(int, out.split())
    assert frugal < 1 << 20
    assert greedy > 60 << 20


# The command ---------------------------------------------------------------------------------------------------------


def test_a_real_run_of_one_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", stubs(tmp_path, *OTHERS)["PYTHONPATH"])
    files = {name: tmp_path / f"run.{name}" for name in ("json", "html", "markdown")}
    arguments = ["bench", "--filter", "tiny-f32-1x10x64", "--threads", "1", "--isa", "scalar", "--seconds", "0.01"]
    for name, path in files.items():
        arguments += [f"--{name}", str(path)]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert "tiny-f32-1x10x64" in out
    assert "torch is left out: torch is broken here" in err
    run = results.load(files["json"])
    (measured,) = run.rows
    assert (measured.row, measured.threads) == ("tiny-f32-1x10x64", 1)
    assert {e.label for e in measured.entries} == {OURS + "scalar", "numpy"}
    assert all(0 < e.best <= e.median and e.share <= 1 and e.readings > 1 for e in measured.entries)
    assert run.settings == {"threads": [1], "isas": ["scalar"], "seconds": 0.01}
    assert set(run.missing) == {"torch", "zentorch", "onnxruntime", "openvino", "jax"}
    assert "tiny-f32-1x10x64" in files["html"].read_text(encoding="utf-8")
    assert "tiny-f32-1x10x64" in files["markdown"].read_text(encoding="utf-8")

    again = tmp_path / "again.json"
    assert cli.main(["bench", "--from", str(files["json"]), str(files["json"]), "--json", str(again)]) == 0
    assert len(results.load(again).dates) == 2
    capsys.readouterr()
    assert cli.main(["bench", "--compare", str(files["json"]), str(again)]) == 0
    assert "1.00x" in capsys.readouterr().out


def test_rows_and_goals_are_listed(capsys):
    assert cli.main(["bench", "--list"]) == 0
    out = capsys.readouterr().out
    for row in rows.select():
        assert row.name in out
    assert "memory-8x32768x64" in out
    assert cli.main(["bench", "--list", "--quick"]) == 0
    quick = capsys.readouterr().out
    assert len(quick.splitlines()) < len(out.splitlines()) / 3
    assert cli.main(["bench", "--list", "--filter", "dot-"]) == 0
    assert len(capsys.readouterr().out.splitlines()) < 10


def test_the_options_reach_the_measurement(monkeypatch, capsys):
    seen = {}

    def run(selected, threads, isas, **options):
        seen.update(rows=[r.name for r in selected], threads=threads, isas=isas, **options)
        return synthetic()

    monkeypatch.setattr(measure, "run", run)
    assert cli.main(["bench", "--quick"]) == 0
    assert seen["rows"] == [row.name for row in rows.select(quick=True)]
    assert seen["claims"] == []
    assert seen["quick"] is True
    assert seen["seconds"] == measure.QUICK_SECONDS
    assert seen["isas"] == peaks.columns()
    assert seen["threads"] == sorted({1, ruvector.get_num_threads()})
    assert cli.main(["bench", "--threads", "3", "--threads", "1", "--isa", "scalar", "--seconds", "0.5"]) == 0
    assert (seen["threads"], seen["isas"], seen["seconds"], seen["quick"]) == ([1, 3], ["scalar"], 0.5, False)
    assert [c.name for c in seen["claims"]] == [c.name for c in sources.select(own=True, sources=True)]
    assert cli.main(["bench", "--sources"]) == 0
    assert seen["rows"] == []
    assert {c.origin for c in seen["claims"]} == {"usage guide", "integration plan"}
    assert cli.main(["bench", "--filter", "first-call"]) == 0
    assert (seen["rows"], len(seen["claims"])) == ([], 3)
    capsys.readouterr()


def test_a_wrong_result_of_ours_is_exit_code_1(monkeypatch, capsys):
    run = synthetic()
    run.rows[0].entries[0].share = 1.5
    monkeypatch.setattr(measure, "run", lambda *arguments, **options: run)
    assert cli.main(["bench", "--quick"]) == 1
    assert "ruvector avx512 is WRONG" in capsys.readouterr().out


BAD = [
    (["--filter", "nothing"], "no row's name holds 'nothing'; --list shows them"),
    (["--isa", "sse9"], "--isa: 'sse9' is not usable here"),
    (["--threads", "0"], "expected an integer of at least 1"),
    (["--seconds", "0"], "expected a number of seconds"),
    (["--seconds", "nan"], "expected a number of seconds"),
    (["--list", "--compare", "a", "b"], "--list and --compare do not go together"),
    (["--list", "--json", "x"], "--json has no effect with --list"),
    (["--compare", "a", "b", "--html", "x"], "--html has no effect with --compare"),
    (["--from", "a.json", "--quick"], "--quick has no effect with --from"),
    (["--from", "a.json", "--threads", "1"], "--threads has no effect with --from"),
    (["--sources", "--quick"], "--filter and --quick do not go with it"),
    (["--from", "no-such.json"], "no-such.json: No such file"),
    (["--compare", "no-such.json", "b.json"], "no-such.json: No such file"),
    (["--quick", "--json", "/no/such/folder/x.json"], "there is no folder /no/such/folder"),
    (["--compare", "a"], "expected 2 arguments"),
    (["--bogus"], "unrecognized arguments: --bogus"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_mistakes_are_one_line_and_nothing_is_measured(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(measure, "run", lambda *arguments, **options: pytest.fail("measured"))
    try:
        code = cli.main(["bench", *arguments])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    if os.name == "posix" or "/no/such" not in message:
        assert message in err
    assert err.count("\n") == 1


def test_options_without_effect_cannot_be_given():
    """Every option of the parser is one that some mode reads."""
    parser = cli.build_parser()
    options = vars(parser.parse_args(["bench"]))
    known = {*command.MEASURING, "list", "results", "compare", "json", "html", "markdown", "command", "run"}
    assert set(options) == known
    assert isinstance(parser, argparse.ArgumentParser)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a child alone")
def test_ctrl_c_ends_every_process(tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "ruvector",
            "bench",
            "--filter",
            "matvec-f32-100000x768",
            "--threads",
            "1",
            "--seconds",
            "60",
        ],
        cwd=tmp_path,
        env={**os.environ, **stubs(tmp_path, *OTHERS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while "is left out" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60 * TIME_FACTOR)
    finally:
        process.kill()
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err


def test_the_command_is_light_to_import():
    loaded = check_python(
        "import sys, ruvector.cli; print(*[m for m in sys.modules if m.startswith('ruvector')])"
    ).split()
    assert not [name for name in loaded if name.startswith(("ruvector.bench", "ruvector.accuracy"))]
