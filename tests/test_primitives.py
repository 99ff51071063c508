"""dot, batched dots, softmax, log-softmax and the elementwise functions, on every ISA and dtype."""

import math

import numpy as np
import pytest
import reference
import ruvector
from ruvector import _ruvector_core as core
from ruvector import _primitives
from support import DTYPES, EDGES, LONG_EDGES, generator, normal, same_bits

FLOATS = ("float32", "float64")

# Units in the last place, as stated in csrc/vec/math.h.
ULPS = {"exp": 1.0, "exp2": 1.0, "log": 2.0, "tanh": 2.0, "erf": 2.0, "asinh": 2.0, "sinpi": 2.0, "cospi": 2.0}


def all_signs_and_sizes(dtype, count, *seed):
    """Numbers of every exponent and sign, subnormals included: random bit patterns that are finite."""
    rng = generator("bits", *seed)
    word = np.uint32 if dtype == reference.F32 else np.uint64
    x = rng.integers(0, np.iinfo(word).max, count, dtype=word, endpoint=True).view(dtype)
    return x[np.isfinite(x)]


def samples(name, dtype, count, *seed):
    """Arguments spread over where the function is neither 0, 1 nor infinite, and random bit patterns."""
    rng = generator(name, dtype, *seed)
    low, high = {
        "exp": (-745.2, 709.8) if dtype == reference.F64 else (-104.0, 88.8),
        "exp2": (-1075.0, 1024.0) if dtype == reference.F64 else (-150.0, 128.0),
        "log": (0.0, 10.0),
        "tanh": (-20.0, 20.0),
        "erf": (-6.0, 6.0),
        "asinh": (-50.0, 50.0),
        "sinpi": (-9.0, 9.0),
        "cospi": (-9.0, 9.0),
    }[name]
    spread = rng.uniform(low, high, count)
    near_zero = rng.uniform(-1, 1, count) * 2.0 ** rng.uniform(-30, 1, count)
    around_one = 1 + rng.uniform(-1, 1, count // 4) * 2.0 ** rng.uniform(-20, -1, count // 4)
    x = np.concatenate([spread, near_zero, around_one]).astype(dtype)
    x = np.concatenate([x, all_signs_and_sizes(dtype, count // 2, name, *seed)])
    return np.abs(x) if name == "log" else x


def specials(dtype):
    info = np.finfo(dtype)
    # the products are exact: they step through the subnormals and around the ends of the range
    tiny = info.smallest_subnormal * np.array([1, 2, 3, 1000], dtype)
    ends = np.array([info.tiny, info.max, np.nextafter(info.tiny, dtype.type(0)), 1, 0.5, 2, np.e, np.pi, 1e-10, 1e10])
    edges = np.array(
        [88.72, 88.73, 103.97, 104, 104.1, 87.33, 709.78, 709.79, 745.13, 745.2, 128, 149, 150, 1024, 1075]
    )
    x = np.concatenate([tiny, ends.astype(dtype), edges.astype(dtype), [0.0, np.inf, np.nan]]).astype(dtype)
    return np.concatenate([x, -x])


@pytest.mark.parametrize("dtype_name", FLOATS)
@pytest.mark.parametrize("name", sorted(ULPS))
def test_elementwise_function_is_within_its_stated_ulp(isa, name, dtype_name):
    dtype = DTYPES[dtype_name]
    if dtype == reference.F64 and not reference.LONG_IS_WIDER:
        pytest.skip("long double is no wider than double: see the mpmath test")
    x = np.concatenate([samples(name, dtype, 8000), specials(dtype)])
    y = getattr(_primitives, name)(x)
    assert y.dtype == dtype
    assert y.shape == x.shape
    error = reference.ulp_error(y, reference.elementwise(name, x), dtype)
    worst = int(np.argmax(error))
    assert error[worst] <= ULPS[name], f"{name}({x[worst]!r}) = {y[worst]!r}: {error[worst]:.3f} ULP"


@pytest.mark.parametrize("dtype_name", FLOATS)
def test_elementwise_function_keeps_special_values(isa, dtype_name):
    dtype = DTYPES[dtype_name]
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype)
    expected = {
        "exp": [1, 1, np.inf, 0, np.nan],
        "exp2": [1, 1, np.inf, 0, np.nan],
        "log": [-np.inf, -np.inf, np.inf, np.nan, np.nan],
        "tanh": [0.0, -0.0, 1, -1, np.nan],
        "erf": [0.0, -0.0, 1, -1, np.nan],
        "asinh": [0.0, -0.0, np.inf, -np.inf, np.nan],
        "sinpi": [0.0, -0.0, np.nan, np.nan, np.nan],
        "cospi": [1, 1, np.nan, np.nan, np.nan],
    }
    for name, values in expected.items():
        y = getattr(_primitives, name)(x)
        np.testing.assert_array_equal(y, np.array(values, dtype), err_msg=name)
        if name in ("tanh", "erf", "asinh", "sinpi"):
            np.testing.assert_array_equal(np.signbit(y[:2]), [False, True], err_msg=name)
    assert np.isnan(_primitives.log(np.array([-1.0], dtype)))[0]


@pytest.mark.parametrize("dtype_name", FLOATS)
@pytest.mark.parametrize("name", sorted(ULPS))
def test_elementwise_function_does_not_depend_on_its_neighbours(isa, name, dtype_name):
    """A lane, a tail and a slow path for one special value must all give the bits of the element alone."""
    dtype = DTYPES[dtype_name]
    function = getattr(_primitives, name)
    x = np.concatenate([samples(name, dtype, 60, "alone")[:200], specials(dtype)])
    x = x[generator("order").permutation(len(x))]
    together = function(x)
    alone = np.concatenate([function(x[i : i + 1]) for i in range(len(x))])
    assert same_bits(together, alone)
    for n in (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33):
        assert same_bits(function(x[:n]), together[:n])


@pytest.mark.parametrize("name", ("exp", "log", "tanh", "erf", "asinh", "sinpi", "cospi"))
def test_float64_function_is_within_its_stated_ulp_of_mpmath(isa, name):
    mpmath = pytest.importorskip("mpmath", reason="mpmath is the reference of this test")
    x = samples(name, reference.F64, 400, "mpmath")
    y = getattr(_primitives, name)(x)
    assert mpmath_ulp(mpmath, name, x, y) <= ULPS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ("exp", "log", "tanh", "erf", "asinh", "sinpi", "cospi"))
def test_float64_function_is_within_its_stated_ulp_of_mpmath_in_1e5_places(isa, name):
    mpmath = pytest.importorskip("mpmath", reason="mpmath is the reference of this test")
    x = samples(name, reference.F64, 37000, "mpmath, many")[:100_000]
    assert len(x) == 100_000
    worst = mpmath_ulp(mpmath, name, x, getattr(_primitives, name)(x))
    print(f"{isa} float64 {name}: {worst:.4f} ULP")
    assert worst <= ULPS[name]


def mpmath_ulp(mpmath, name, x, y):
    function = getattr(mpmath, name)
    worst = 0.0
    with mpmath.workprec(110):
        for a, b in zip(x.tolist(), y.tolist(), strict=True):
            exact = function(mpmath.mpf(a))
            if exact == 0 or math.isinf(b) or abs(exact) >= mpmath.mpf(2) ** 1024:
                same = b == 0 if exact == 0 else math.isinf(b) and abs(exact) > float(np.finfo(float).max)
                assert same, f"{name}({a!r}) = {b!r}"
                continue
            _, exponent = mpmath.frexp(exact)
            spacing = mpmath.mpf(2) ** max(int(exponent) - 53, -1074)
            worst = max(worst, float(abs(mpmath.mpf(b) - exact) / spacing))
    return worst


@pytest.mark.slow
def test_float32_exp_is_within_one_ulp_of_every_argument_from_minus_104_to_0(isa):
    """All 1,120,927,745 floats, in blocks of bit patterns."""
    first, last = 0x80000000, int(np.float32(-104).view(np.uint32))
    worst, at, count = 0.0, 0.0, 0
    for start in range(first, last + 1, 1 << 22):
        x = np.arange(start, min(start + (1 << 22), last + 1), dtype=np.uint32).view(np.float32)
        exact = np.exp(x.astype(np.float64))
        _, exponent = np.frexp(exact)
        error = np.abs(_primitives.exp(x) - exact) * np.exp2(-np.maximum(exponent - 24, -149).astype(np.float64))
        count += len(x)
        if error.max() > worst:
            worst, at = float(error.max()), float(x[error.argmax()])
    print(f"{isa} float32 exp: {worst:.4f} ULP at {at!r} over {count} arguments")
    assert count == 1_120_927_745
    assert worst <= 1.0


def test_float32_exp_of_a_dense_sample_is_within_one_ulp(isa):
    """Every 1009th float of [-104, 0]: 1.1 million arguments."""
    x = np.arange(0x80000000, int(np.float32(-104).view(np.uint32)) + 1, 1009, dtype=np.uint32).view(np.float32)
    exact = np.exp(x.astype(np.float64))
    _, exponent = np.frexp(exact)
    error = np.abs(_primitives.exp(x) - exact) * np.exp2(-np.maximum(exponent - 24, -149).astype(np.float64))
    assert error.max() <= 1.0, f"exp({x[error.argmax()]!r}): {error.max():.3f} ULP"


# dot -----------------------------------------------------------------------------------------------------------------


def test_dot_is_within_its_bound_at_every_length(isa, dtype_name, dtype):
    for n in (*EDGES, 768, *LONG_EDGES, 65537):
        a, b = normal((3, n), dtype, "a"), normal((3, n), dtype, "b")
        reference.within(ruvector.dot(a, b), reference.dot(a, b), reference.dot_bound(a, b), f"n={n}")


def test_dot_of_large_cancelling_terms_is_within_its_bound(isa, dtype_name, dtype):
    for n in (16, 255, 4096):
        a = normal((4, n), dtype, "large", scale=100)
        b = normal((4, n), dtype, "small")
        a[:, 1::2], b[:, 1::2] = a[:, ::2][:, : n // 2], -b[:, ::2][:, : n // 2]
        a = np.concatenate([a, a[:, :1]], 1)
        b = np.concatenate([b, normal((4, 1), dtype, "rest", scale=0.01)], 1)
        reference.within(ruvector.dot(a, b), reference.dot(a, b), reference.dot_bound(a, b), f"n={n}")


def test_dot_returns_a_number_of_the_inputs_dtype(isa, dtype_name, dtype):
    a, b = normal(37, dtype, "scalar a"), normal(37, dtype, "scalar b")
    result = ruvector.dot(a, b)
    assert isinstance(result, np.generic)
    assert result.dtype == dtype
    reference.within(result, reference.dot(a, b), reference.dot_bound(a, b))
    assert ruvector.dot([1, 2, 3], [4, 5, 6]) == 32
    assert ruvector.dot([1, 2, 3], [4, 5, 6]).dtype == np.float64
    assert ruvector.dot([True, False], [2.5, 1.0]) == 2.5


def test_dot_contracts_the_last_axis_and_broadcasts_the_others(isa, dtype_name, dtype):
    for a_shape, b_shape, out_shape in (
        ((5, 1, 33), (4, 33), (5, 4)),
        ((33,), (4, 33), (4,)),
        ((2, 3, 33), (33,), (2, 3)),
        ((2, 1, 3, 9), (1, 4, 1, 9), (2, 4, 3)),
        ((0, 9), (9,), (0,)),
    ):
        a, b = normal(a_shape, dtype, "x", 1), normal(b_shape, dtype, "y", 2)
        result = ruvector.dot(a, b)
        assert result.shape == out_shape
        assert result.dtype == dtype
        reference.within(result, reference.dot(a, b), reference.dot_bound(a, b))


def test_dot_of_nothing_is_zero(isa, dtype_name, dtype):
    assert ruvector.dot(np.empty(0, dtype), np.empty(0, dtype)) == 0
    np.testing.assert_array_equal(ruvector.dot(np.empty((3, 0), dtype), np.empty(0, dtype)), np.zeros(3))


def test_batched_dot_products_are_within_the_bound(isa, dtype_name, dtype):
    for n, d in ((1, 1), (2, 3), (9, 8), (17, 15), (33, 64), (5, 257), (64, 128), (129, 768), (1000, 48)):
        query, keys = normal(d, dtype, "query", n), normal((n, d), dtype, "keys")
        result = ruvector.batched_dot_products(query, keys)
        assert result.shape == (n,)
        assert result.dtype == dtype
        reference.within(
            result,
            reference.dot(query, keys),
            reference.dot_bound(np.broadcast_to(query, keys.shape), keys),
            f"{n}, {d}",
        )
    query, keys = normal((2, 3, 20), dtype, "queries"), normal((2, 3, 7, 20), dtype, "many keys")
    result = ruvector.batched_dot_products(query, keys)
    wide_query = np.broadcast_to(query[..., None, :], keys.shape)
    reference.within(result, reference.dot(wide_query, keys), reference.dot_bound(wide_query, keys))
    assert ruvector.batched_dot_products(query[0, 0], keys[0, 0, :0]).shape == (0,)


@pytest.mark.parametrize("dtype_name", FLOATS)
def test_rows_from_any_distance_have_the_bits_of_near_ones(isa, dtype_name):
    """Many rows are asked for ahead, more are read in halves: by the size of the call, on which no bit depends."""
    dtype = np.dtype(dtype_name)
    second, last = (core.cpu_cache(level) or default for level, default in ((2, 1 << 20), (3, 32 << 20)))
    if last > 128 << 20:
        pytest.skip("the last cache is larger than what a test should take")
    pattern = normal((613, 136), dtype, "far rows")
    for total in (second, 3 * second, last // 2, last):
        for start, dim in ((0, 128), (4, 129), (1, 100)):
            count = total // (dim * dtype.itemsize) + 7
            room = np.resize(pattern, count * dim + start)
            keys = room[start:].reshape(count, dim)
            query = normal(dim, dtype, "far query")
            scores = ruvector.batched_dot_products(query, keys)
            for at in (0, 1, count // 2, count - 40):
                near = ruvector.batched_dot_products(query, keys[at : at + 40])
                assert same_bits(scores[at : at + 40], near), f"{count} x {dim} at {at}"


def test_batched_dot_products_are_the_same_for_every_number_of_rows(isa, dtype_name, dtype):
    """A key's score does not depend on which other keys are scored with it."""
    query, keys = normal(75, dtype, "query"), normal((70, 75), dtype, "keys")
    together = ruvector.batched_dot_products(query, keys)
    for n in (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33, 64, 65):
        assert same_bits(ruvector.batched_dot_products(query, keys[:n]), together[:n])


def test_dot_accepts_any_strides(isa, dtype_name, dtype):
    a, b = normal((6, 40), dtype, "a"), normal((6, 40), dtype, "b")
    plain = ruvector.dot(a[:, ::2].copy(), b[:, ::-2].copy())
    assert same_bits(ruvector.dot(a[:, ::2], b[:, ::-2]), plain)
    assert same_bits(ruvector.dot(np.asfortranarray(a), b), ruvector.dot(a, b))
    assert same_bits(ruvector.dot(a[::-1], b[::-1]), ruvector.dot(a, b)[::-1].copy())


# softmax -------------------------------------------------------------------------------------------------------------


def softmax_rows(n, dtype):
    """Rows of the distributions that a softmax meets: near, far, equal, one dominant, growing, alternating."""
    rng = generator("softmax", n)
    rows = [
        rng.standard_normal(n),
        rng.standard_normal(n) * 30,
        np.zeros(n),
        np.where(np.arange(n) == n // 2, 50.0, 0.0) + rng.standard_normal(n),
        np.linspace(-40, 40, n),
        np.where(np.arange(n) % 2, 80.0, -80.0),
        rng.standard_cauchy(n).clip(-1e4, 1e4),
        rng.standard_normal(n) + 1000,
    ]
    return np.array(rows).astype(dtype)


def test_softmax_is_within_its_bound_at_every_length(isa, dtype_name, dtype):
    for n in (*EDGES, *LONG_EDGES):
        x = softmax_rows(n, dtype)
        p = ruvector.softmax(x)
        assert p.dtype == dtype
        reference.within(p, reference.softmax(x), reference.softmax_bound(x), f"n={n}")
        assert (p >= 0).all()
        assert (p <= 1).all()


@pytest.mark.parametrize("dtype_name", FLOATS)
def test_softmax_of_many_rows_is_within_its_bound(isa, dtype_name):
    """The worst of hundreds of rows: near-equal scores, where nothing but the sum can be off, and one among many small ones."""
    dtype = DTYPES[dtype_name]
    for n in (63, 257, 511, 512, 1000):
        scale = np.repeat([0.01, 0.1, 1, 3, 4, 8], 80)[:, None]
        x = (generator("many rows", n).standard_normal((480, n)) * scale).astype(dtype)
        p = ruvector.softmax(x)
        reference.within(p, reference.softmax(x), reference.softmax_bound(x), f"n={n}")


@pytest.mark.parametrize("n", (1, 2, 100, 4096, 65536, pytest.param(1_000_000, marks=pytest.mark.slow)))
@pytest.mark.parametrize("dtype_name", FLOATS)
def test_softmax_sums_to_one_within_8u_for_any_number_of_scores(isa, dtype_name, n):
    """Exact sums: what the numbers add up to, not what adding them up in float32 gives."""
    dtype = DTYPES[dtype_name]
    for row in softmax_rows(n, dtype):
        total = math.fsum(ruvector.softmax(row).tolist())
        assert abs(total - 1) <= 8 * reference.unit(dtype)


def test_log_softmax_is_within_its_bound_at_every_length(isa, dtype_name, dtype):
    for n in (*EDGES, *LONG_EDGES):
        x = softmax_rows(n, dtype)
        y = ruvector.log_softmax(x)
        assert y.dtype == dtype
        reference.within(y, reference.log_softmax(x), reference.log_softmax_bound(x), f"n={n}")
        assert (y <= 0).all()


def test_log_softmax_stays_finite_where_softmax_underflows(isa):
    y = ruvector.log_softmax(np.array([0.0, -500.0, -1e30], np.float32))
    np.testing.assert_array_equal(y, np.array([0, -500, -1e30], np.float32))


def test_softmax_works_along_any_axis_and_into_out(isa, dtype_name, dtype):
    x = normal((4, 5, 6, 7), dtype, "axes")
    for function, oracle, bound in (
        (ruvector.softmax, reference.softmax, reference.softmax_bound),
        (ruvector.log_softmax, reference.log_softmax, reference.log_softmax_bound),
    ):
        last = function(x)
        for axis in range(-4, 4):
            y = function(x, axis)
            reference.within(y, oracle(x, axis), bound(x, axis), f"axis={axis}")
            assert same_bits(y, np.moveaxis(function(np.moveaxis(x, axis, -1).copy()), -1, axis).copy())
        out = np.empty_like(x)
        assert function(x, out=out) is out
        assert same_bits(out, last)
        copy = x.copy()
        assert function(copy, out=copy) is copy
        assert same_bits(copy, last)
        strided = np.zeros((4, 5, 6, 14), dtype)
        function(x, out=strided[..., ::2])
        assert same_bits(strided[..., ::2].copy(), last)
        assert (strided[..., 1::2] == 0).all()
        transposed = np.empty((7, 6, 5, 4), dtype).T
        function(x, axis=1, out=transposed)
        assert same_bits(transposed.copy(), function(x, axis=1))


def test_softmax_overlapping_output_behaves_as_if_the_input_were_copied(isa, dtype_name, dtype):
    base = normal((9, 33), dtype, "overlap")
    expected = ruvector.softmax(base[:-1].copy())
    shifted = base.copy()
    ruvector.softmax(shifted[:-1], out=shifted[1:])
    assert same_bits(shifted[1:].copy(), expected)
    reverse = base.copy()
    ruvector.softmax(reverse[:-1], out=reverse[:-1][:, ::-1])
    assert same_bits(reverse[:-1][:, ::-1].copy(), expected)


def test_softmax_of_empty_arrays(isa, dtype_name, dtype):
    for shape in ((0,), (3, 0), (0, 3), (2, 0, 4)):
        for function in (ruvector.softmax, ruvector.log_softmax):
            y = function(np.empty(shape, dtype))
            assert y.shape == shape
            assert y.dtype == dtype


def test_softmax_of_integers_and_lists_is_float64(isa):
    p = ruvector.softmax([1, 2, 3])
    assert p.dtype == np.float64
    np.testing.assert_allclose(p, [0.09003057317038046, 0.24472847105479764, 0.6652409557748218], rtol=4e-16)
    assert ruvector.softmax(np.array([True, False])).dtype == np.float64


def test_softmax_is_invariant_under_a_shift_that_float32_represents(isa):
    x = np.round(normal((5, 300), np.float32, "shift") * 64) / 64
    assert same_bits(ruvector.softmax(x), ruvector.softmax(x + np.float32(1024)))


def test_softmax_row_does_not_depend_on_the_other_rows(isa, dtype_name, dtype):
    x = softmax_rows(201, dtype)
    together = ruvector.softmax(x)
    for i, row in enumerate(x):
        assert same_bits(ruvector.softmax(row), together[i])


# Rows longer than this are done in parts, each with its own largest element; RV_PART of csrc/softmax.c.
PART = 32768


@pytest.mark.parametrize("n", (PART, PART + 1, 2 * PART, 3 * PART + 777))
def test_softmax_of_a_row_in_parts_is_within_its_bound(isa, dtype_name, dtype, n):
    rng = generator("parts", n)
    rows = np.array([rng.standard_normal(n) * 3, np.linspace(-30, 30, n), np.where(np.arange(n) < n // 2, -5.0, 5.0)])
    x = rows.astype(dtype)
    reference.within(ruvector.softmax(x), reference.softmax(x), reference.softmax_bound(x), f"n={n}")
    reference.within(ruvector.log_softmax(x), reference.log_softmax(x), reference.log_softmax_bound(x), f"n={n}")


@pytest.mark.parametrize("dtype_name", FLOATS)
def test_softmax_of_a_row_in_parts_keeps_the_rules_of_one_part(isa, dtype_name):
    dtype = DTYPES[dtype_name]
    n = 3 * PART
    x = normal(n, dtype, "rules of parts")
    for function in (ruvector.softmax, ruvector.log_softmax):
        hidden = x.copy()
        hidden[PART : 2 * PART] = -np.inf  # a part of nothing
        y = function(hidden)
        assert same_bits(y[PART : 2 * PART], np.full(PART, 0 if function is ruvector.softmax else -np.inf, dtype))
        rest = np.concatenate((hidden[:PART], hidden[2 * PART :]))
        assert same_bits(np.concatenate((y[:PART], y[2 * PART :])), function(rest))
        assert np.isnan(function(np.full(n, -np.inf, dtype))).all()
        for bad in (np.nan, np.inf):
            wrong = x.copy()
            wrong[n - 1] = bad
            assert np.isnan(function(wrong)).all()


def test_softmax_of_a_row_in_parts_is_the_same_for_every_number_of_threads(isa, dtype_name, dtype, threads):
    x = normal((2, 5 * PART + 3), dtype, "threads of parts")
    for function in (ruvector.softmax, ruvector.log_softmax):
        ruvector.set_num_threads(1)
        expected = function(x)
        for count in (2, 3, 8):
            ruvector.set_num_threads(count)
            assert same_bits(function(x), expected)
            out = x.copy()
            assert function(out, out=out) is out
            assert same_bits(out, expected)


@pytest.mark.parametrize("dtype_name", FLOATS)
def test_softmax_far_below_the_largest_element_underflows_gradually(isa, dtype_name):
    """Rows whose smallest elements leave the range of normal numbers, next to rows whose do not."""
    dtype = DTYPES[dtype_name]
    low = -102 if dtype == np.float32 else -744
    for n in (5, 64, 100, 300, 1030):
        x = np.stack([np.linspace(low, 0, n), np.linspace(-1, 0, n), np.linspace(low, 0, n)[::-1]] * 2).astype(dtype)
        reference.within(ruvector.softmax(x), reference.softmax(x), reference.softmax_bound(x), f"n={n}")


def test_results_in_place(isa):
    for dtype in (np.float32, np.float64):
        x = normal((5, 37), dtype, "in place")
        for function in (_primitives.exp, _primitives.tanh):
            own = x.copy()
            assert function(own, out=own) is own
            assert same_bits(own, function(x))
            for bad in (np.empty_like(x), x.astype(np.float16)):
                with pytest.raises(ValueError, match="out must be x itself"):
                    function(x, out=bad)
            with pytest.raises(ValueError, match="out must be x itself"):
                function(x[:, ::2], out=x[:, ::2])
        keys, room = normal((9, 37), dtype, "keys"), np.full((5, 20), 7, dtype)
        assert _primitives.scores(x, keys, 0.5, out=room[:, 3:12]).base is room
        assert same_bits(room[:, 3:12].copy(), _primitives.scores(x, keys, 0.5))
        assert (room[:, 12:] == 7).all()
        assert (room[:, :3] == 7).all()
