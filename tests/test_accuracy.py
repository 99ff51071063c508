"""`ruvector accuracy`: its exact values against the oracles of this suite, its measures, and that it sees what is wrong."""

import json
import math

import numpy as np
import pytest
import reference
import ruvector
from ruvector import _primitives, cli
from ruvector.accuracy import attention, exact, report, ulp
from support import DTYPES, TIME_FACTOR, generator, qkv

FUNCTIONS = {function.name: function for function in ulp.FUNCTIONS}


# Exact values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
def test_exact_attention_is_that_of_the_oracle(dtype_name, causal):
    q, k, v = qkv(4, 9, 33, 16, 12, dtype_name, "exact")
    k, v = k[:2], v[:2]
    expected = reference.core(q, *reference.repeat_heads(q, k, v), causal=causal, offset=33 - 9)
    rows = [(h, i) for h in range(4) for i in range(9)]
    found = exact.attention_rows(q, k, v, rows, causal=causal)
    np.testing.assert_allclose(found.value.reshape(4, 9, 12).astype(float), expected.out.astype(float), rtol=1e-12)
    np.testing.assert_allclose(found.bound.reshape(4, 9, 12).astype(float), expected.bound().astype(float), rtol=1e-6)
    np.testing.assert_array_equal(found.peak.reshape(4, 9, 12), expected.peak)


def test_exact_softmax_and_dots_are_those_of_the_oracles(dtype_name):
    x = qkv((), 7, 33, 16, 12, dtype_name, "exact")[1]
    np.testing.assert_allclose(
        exact.softmax_rows(x).value.astype(float), reference.softmax(x).astype(float), rtol=1e-13
    )
    np.testing.assert_allclose(
        exact.softmax_rows(x).bound.astype(float), reference.softmax_bound(x).astype(float), rtol=1e-6
    )
    found = exact.dots(x[0], x[1:])
    np.testing.assert_allclose(found.value.astype(float), reference.dot(x[:1], x[1:]).astype(float), rtol=1e-12)
    np.testing.assert_allclose(found.bound.astype(float), reference.dot_bound(x[:1], x[1:]).astype(float), rtol=1e-6)


def test_units_are_those_of_the_oracle():
    for dtype in DTYPES.values():
        assert exact.storage_unit(dtype) == reference.storage_unit(dtype)
        assert exact.unit(dtype) == reference.unit(dtype)
        assert exact.smallest(dtype) == reference.smallest(dtype)


# Elementary functions ------------------------------------------------------------------------------------------------

NEIGHBOURS = np.array([1, 1.5, 2, 3e38, 1e-38, 1e-40, 1.4e-45, 2**-126])


@pytest.mark.parametrize("dtype_name", ["float32", "float64"])
def test_ulp_errors_are_those_of_the_oracle(dtype_name):
    if dtype_name == "float64" and not exact.LONG_IS_WIDER:
        pytest.skip("long double is no wider here")
    dtype = DTYPES[dtype_name]
    rng = generator("ulp", dtype_name)
    wide = np.float64 if dtype == np.float32 else np.longdouble
    limit = np.finfo(dtype).max
    values = np.concatenate([NEIGHBOURS, np.exp(rng.uniform(-85, 85, 1000)), [limit, np.inf, np.nan]])
    precise = np.concatenate([values, -values]).astype(wide)
    precise[:5] *= wide(1 + 1e-10)
    for step in (-2, -1, 0, 1, 2):
        actual = precise.astype(dtype)
        for _ in range(abs(step)):
            with np.errstate(over="ignore"):
                actual = np.nextafter(actual, dtype.type(math.copysign(np.inf, step)))
        error = (ulp.float32_error if dtype == np.float32 else ulp.float64_error)(actual, precise)
        expected = reference.ulp_error(actual, precise, dtype)
        # an exact value of the largest number counts as finite here, one rounded beyond it as 2^128
        same = np.isfinite(expected) & np.isfinite(actual)
        np.testing.assert_allclose(error[same], expected[same], rtol=1e-9, atol=1e-12)
        assert (np.isinf(error) == (np.isnan(actual) != np.isnan(precise)))[np.isnan(precise)].all()


def test_infinities_and_nans_must_be_where_the_exact_ones_are():
    precise = np.array([1e300, 1e300, -1e300, np.nan, np.nan, 1.0, 1.0])
    actual = np.array([np.inf, 3e38, np.inf, np.nan, 1, np.nan, 1], np.float32)
    np.testing.assert_array_equal(ulp.float32_error(actual, precise), [0, np.inf, np.inf, 0, np.inf, np.inf, 0])


def test_chunks_are_every_float_once(monkeypatch):
    monkeypatch.setattr(ulp, "WORDS", 10_001)
    monkeypatch.setattr(ulp, "CHUNK", 1000)
    words = np.concatenate(list(ulp._float32_chunks(True)))
    np.testing.assert_array_equal(words, np.arange(10_001))
    sample = np.concatenate(list(ulp._float32_chunks(False)))
    np.testing.assert_array_equal(sample, np.arange(0, 10_001, ulp.STEP))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_both_signs_are_compared(name):
    words = np.array([0.5, 2.0, 100.0], np.float32).view(np.uint32)
    arguments = np.concatenate([x for x, _ in ulp._both_signs(FUNCTIONS[name], words)])
    expected = [0.5, -0.5, -2, -100] if name == "exp2_flush" else [0.5, 2, 100, -0.5, -2, -100]
    np.testing.assert_array_equal(arguments, expected)


def test_exact_functions_are_those_of_mpmath():
    mpmath = pytest.importorskip("mpmath", reason="mpmath is the reference of this test")
    names = {"exp2_flush": lambda x: mpmath.power(2, x), "exp2": lambda x: mpmath.power(2, x), "log": mpmath.log}
    rng = generator("mpmath")
    with mpmath.workprec(120):
        for name, function in FUNCTIONS.items():
            x = np.float32(rng.uniform(max(function.low, -80), min(function.high, 80), 40))
            for wide in (np.float64, np.longdouble) if exact.LONG_IS_WIDER else (np.float64,):
                found = function.exact(x.astype(wide))
                for argument, value in zip(x, found):
                    truth = names.get(name, getattr(mpmath, name, None))(mpmath.mpf(float(argument)))
                    whole, rest = float(value), float(value - wide(float(value)))
                    error = abs((mpmath.mpf(whole) + mpmath.mpf(rest)) / truth - 1)
                    # some thousandths of a unit of the type that is measured
                    assert error < 2.0 ** (-50 if wide is np.float64 else -58), f"{name}({argument})"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_samples_are_within_the_bounds(name, monkeypatch):
    if TIME_FACTOR > 1:
        monkeypatch.setattr(ulp, "STEP", 20_011)
    worst = ulp.measure_float32(FUNCTIONS[name], ruvector.isas(), threads=2)
    worst += ulp.measure_float64(FUNCTIONS[name], ruvector.isas(), samples=20_000)
    assert [w.isa for w in worst[: len(ruvector.isas())]] == list(ruvector.isas())
    for w in worst:
        assert 0.5 <= w.ulp <= w.bound, w
        assert w.arguments > 20_000
    assert ruvector.isa() == ruvector.isas()[0]


def test_a_wrong_function_is_seen(monkeypatch):
    right = _primitives.exp

    def wrong(x):
        y = right(x)
        y[x == np.float32(1.0)] *= 1 + 2**-22
        return y

    x = np.array([0.5, 1.0, 2.0], np.float32)
    words = x.view(np.uint32)
    monkeypatch.setattr(ulp, "_float32_chunks", lambda exhaustive: iter([words]))
    monkeypatch.setattr(_primitives, "exp", wrong)
    (worst,) = ulp.measure_float32(FUNCTIONS["exp"], ["scalar"])
    assert worst.ulp > 1.5
    assert worst.at == 1.0


def test_progress_reaches_the_end():
    seen = []
    ulp.measure_float32(FUNCTIONS["log"], ["scalar"], progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]


# Attention -----------------------------------------------------------------------------------------------------------


def one_by_one(query, key, value):
    """Attention whose sums are float32, a term after another."""
    logits = query @ key.T / np.float32(8)
    weights = np.exp(logits - logits.max(1, keepdims=True)).astype(np.float32)
    total = np.cumsum(weights, axis=1, dtype=np.float32)[:, -1:]
    out = np.cumsum(weights[:, :, None] * value[None], axis=1, dtype=np.float32)[:, -1]
    return out / total


def test_every_distribution_keeps_the_bound(isa, dtype):
    for row in attention.error_rows((16, 257), [dtype], [isa]):
        assert row.shares[isa] <= 1, row
        assert row.errors[isa] <= row.bound or row.shares[isa] <= 1
    drawn = {row.distribution for row in attention.error_rows((16,), [dtype], [isa])}
    left_out = attention.SCALED[dtype != np.float16]
    assert drawn == set(attention.DISTRIBUTIONS) - set(left_out)


def test_plain_sums_break_the_bound_that_ours_keep(isa):
    rows = attention.error_rows(
        (65_536,), ["float32"], [isa], distributions=attention.ADVERSE, others={"plain": one_by_one}
    )
    for row in rows:
        assert row.shares[isa] <= 1
        assert row.shares["plain"] > 1


def test_a_wrong_attention_is_seen():
    others = {
        "zero": lambda q, k, v: np.zeros((len(q), v.shape[1]), np.float32),
        "nan": lambda q, k, v: np.full((len(q), v.shape[1]), np.nan, np.float32),
    }
    (row,) = attention.error_rows((64,), ["float32"], ["scalar"], distributions=["normal"], others=others)
    assert row.shares["zero"] > 1000
    assert row.errors["nan"] == np.inf


def test_softmax_sums(isa):
    for row in attention.softmax_sum_rows((16, 65_536), [isa], {"off": lambda x: np.full(x.size, 2 / x.size)}):
        assert row.errors[isa] <= row.bound == 8
        assert row.shares["off"] > 1000


def test_inputs_are_the_same_everywhere():
    query, key, value = attention.inputs("normal", 16, "float32")
    again = attention.inputs("normal", 16, "float32")
    assert all((a == b).all() for a, b in zip((query, key, value), again))
    assert (query.shape, key.shape, value.shape) == ((4, 64), (16, 64), (16, 8))
    assert not np.array_equal(key[:, :8], value)


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_prints_and_writes(tmp_path, capsys):
    path = tmp_path / "accuracy.json"
    arguments = [
        "accuracy",
        "--function",
        "exp",
        "--function",
        "erf",
        "--isa",
        "scalar",
        "--threads",
        "1",
        "--json",
        str(path),
    ]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "exp" in out
    assert "tanh" not in out
    assert "0.95" in out
    content = json.loads(path.read_text())
    assert {f["function"] for f in content["functions"]} == {"exp", "erf"}
    assert {f["isa"] for f in content["functions"]} == {"scalar"}
    assert content["exhaustive"] is False
    assert content["machine"]["ruvector"] == ruvector.__version__


def test_the_whole_command_has_every_table(monkeypatch, capsys):
    monkeypatch.setattr(attention, "LENGTHS", (16,))
    monkeypatch.setattr(attention, "LONG_LENGTH", 64)
    monkeypatch.setattr(ulp, "STEP", 200_003)
    monkeypatch.setattr(attention, "torch_attention", lambda: one_by_one)
    monkeypatch.setattr(report, "_softmax_of_torch", lambda: ruvector.softmax)
    monkeypatch.setattr(report, "_dtypes", lambda: [np.float32])
    assert cli.main(["accuracy"]) == 0
    out = capsys.readouterr().out
    for text in (*FUNCTIONS, *ruvector.isas(), "one dominant key", "alternating sign", "torch", "sum of softmax"):
        assert text in out
    assert "normal * 1e3" not in out


def test_an_error_beyond_the_bound_is_exit_code_1(monkeypatch, capsys):
    right = _primitives.log
    monkeypatch.setattr(_primitives, "log", lambda x: right(x) * np.float32(1 + 1e-6))
    assert cli.main(["accuracy", "--function", "log", "--isa", "scalar"]) == 1
    assert "beyond the bound: scalar" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--function", "sinh"], "--function: 'sinh' is not one of exp, exp2"),
        (["--isa", "sse9"], "--isa: 'sse9' is not one of "),
        (["--json", "/no/such/folder/x.json"], "there is no folder"),
        (["--threads", "0"], "expected an integer of at least 1"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    try:
        code = cli.main(["accuracy", *arguments])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
