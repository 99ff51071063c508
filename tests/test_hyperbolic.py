"""Hyperbolic geometry against mpmath to the sphere, golden values, what must hold between calls, and attention by distance."""

import functools
import itertools
import math

import mpmath
import numpy as np
import pytest
import reference
import ruvector
from support import DTYPES, generator, normal, peak_allocation, same_bits

mp = mpmath.mp.clone()
# squares of sinh(60) and a rounding of double beside each other
mp.prec = 600

FLOATS = ("float32", "float64")
ULP = 2  # what distances promise
CURVATURES = (1.0, 0.3, 2.5)


# Exact values --------------------------------------------------------------------------------------------------------


def exact_ball(x, y, c=1.0):
    x, y, c = [mp.mpf(float(v)) for v in x], [mp.mpf(float(v)) for v in y], mp.mpf(c)
    gaps = (1 - c * mp.fsum(v * v for v in x)) * (1 - c * mp.fsum(v * v for v in y))
    return 2 * mp.asinh(mp.sqrt(c * mp.fsum((u - v) ** 2 for u, v in zip(x, y)) / gaps)) / mp.sqrt(c)


def exact_sheet(x, y, c=1.0):
    """Of space-like parts."""
    x, y, c = [mp.mpf(float(v)) for v in x], [mp.mpf(float(v)) for v in y], mp.mpf(c)
    step = mp.sqrt(1 / c + mp.fsum(v * v for v in x)) - mp.sqrt(1 / c + mp.fsum(v * v for v in y))
    return 2 * mp.asinh(mp.sqrt(c * (mp.fsum((u - v) ** 2 for u, v in zip(x, y)) - step**2)) / 2) / mp.sqrt(c)


def ulps(actual, exact, dtype):
    """|actual - exact| in units in the last place of `exact`, subnormal spacing included."""
    info = np.finfo(dtype)
    if exact == 0:
        return 0.0 if actual == 0 else np.inf
    exponent = int(mp.frexp(exact)[1])
    spacing = mp.ldexp(1, max(exponent - info.nmant - 1, int(info.minexp) - info.nmant))
    return float(abs(mp.mpf(float(actual)) - exact) / spacing)


def directions(n, dim, *seed):
    x = generator(*seed).standard_normal((n, dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def variants(x, dtype):
    """Partners that are hard for x: a unit in the last place away, equal, collinear, the origin, near it, opposite."""
    y = x.copy()
    y[0, 0] = np.nextafter(y[0, 0], dtype.type(0))
    y[2] *= dtype.type(0.5)
    y[3] = 0
    y[4] *= dtype.type(1e-3)
    y[5] *= dtype.type(-1)
    y[6] = (y[6] * dtype.type(1 - 1e-3)).astype(dtype)
    y[7] = np.nextafter(y[7], dtype.type(0))
    return y


@functools.cache
def ball_cases(dtype_name):
    """[(c, x, y, exact distances of x_i and y_i, of x_0 and y_i)], up to the sphere."""
    dtype, cases = DTYPES[dtype_name], []
    dims, gaps = (1, 2, 3, 5, 16, 17, 64), (0.5, 0.1, 1e-3, 1e-5, 1e-6)
    for number, (dim, gap) in enumerate(itertools.product(dims, gaps)):
        c = CURVATURES[number % 3]
        x = (directions(8, dim, "ball", dim, gap) * (1 - gap) / np.sqrt(c)).astype(dtype)
        for y in ((directions(8, dim, "other", dim, gap) * (1 - gap) / np.sqrt(c)).astype(dtype), variants(x, dtype)):
            pairs = [exact_ball(a, b, c) for a, b in zip(x, y)]
            cases.append((c, x, y, pairs, [exact_ball(x[0], b, c) for b in y]))
    return cases


@functools.cache
def sheet_cases(dtype_name):
    dtype, cases = DTYPES[dtype_name], []
    dims, radii = (1, 2, 3, 16, 33), (1e-3, 0.3, 1, 3, 6, 10, 17)
    for number, (dim, radius) in enumerate(itertools.product(dims, radii)):
        c = CURVATURES[number % 3]
        x = (directions(8, dim, "sheet", dim, radius) * np.sinh(radius)).astype(dtype)
        for y in (
            (directions(8, dim, "other", dim, radius) * np.sinh(1.01 * radius)).astype(dtype),
            variants(x, dtype),
        ):
            pairs = [exact_sheet(a, b, c) for a, b in zip(x, y)]
            cases.append((c, x, y, pairs, [exact_sheet(x[0], b, c) for b in y]))
    return cases


MODELS = {
    "ball": (ball_cases, ruvector.hyperbolic_distance, ruvector.hyperbolic_cdist),
    "sheet": (
        sheet_cases,
        functools.partial(ruvector.lorentz_distance, space_only=True),
        functools.partial(ruvector.lorentz_cdist, space_only=True),
    ),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


# Distances -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype_name", FLOATS)
def test_distances_are_within_2_ulp_up_to_the_sphere(isa, dtype_name, model):
    """Random, near, equal, collinear and opposite pairs; every form of call."""
    dtype = DTYPES[dtype_name]
    cases, distance, cdist = model
    for c, x, y, pairs, ones in cases(dtype_name):
        what = f"d {x.shape[1]} c {c} |x| {np.linalg.norm(x.astype(float), axis=1).max():.9g}"
        forms = {
            "pairs": distance(x, y, c),
            "scalars": np.array([distance(a, b, -c) for a, b in zip(x, y)]),
            "cdist": np.diagonal(cdist(x, y, c)),
        }
        for form, got in forms.items():
            assert got.dtype == dtype
            assert max(ulps(g, e, dtype) for g, e in zip(got, pairs)) <= ULP, f"{form} {what}"
        forms = {
            "one to many": distance(x[0], y, c),
            "many to one": distance(y, x[0], c),
            "a row of cdist": cdist(x, y, c)[0],
            "cdist of one": cdist(x[:1], y, c)[0],
            "a column of cdist": cdist(y, x, c)[:, 0],
        }
        for form, got in forms.items():
            assert max(ulps(g, e, dtype) for g, e in zip(got, ones)) <= ULP, f"{form} {what}"


@pytest.mark.parametrize("dtype_name", FLOATS)
def test_points_of_equal_components(isa, dtype_name, model):
    """All differences and squares round alike: sums in the inputs' precision would be off by several units."""
    dtype = DTYPES[dtype_name]
    _, distance, cdist = model
    exact = exact_ball if distance is ruvector.hyperbolic_distance else exact_sheet
    for dim in (1, 3, 7, 64):
        rng = generator("equal", dim)
        a, b = (
            (rng.uniform(-0.9, 0.9, 10) / np.sqrt(dim)).astype(dtype),
            (rng.uniform(-0.9, 0.9, 10) / np.sqrt(dim)).astype(dtype),
        )
        x, y = np.repeat(a[:, None], dim, 1), np.repeat(b[:, None], dim, 1)
        many = cdist(x, y)
        for i, j in itertools.product(range(10), range(0, 10, 3)):
            assert ulps(many[i, j], exact(x[i], y[j]), dtype) <= ULP, f"{dim} {a[i]} {b[j]}"
        for got, u, v in zip(distance(x, y), x, y):
            assert ulps(got, exact(u, v), dtype) <= ULP


@pytest.mark.slow
@pytest.mark.parametrize("dtype_name", FLOATS)
def test_many_random_distances_are_within_2_ulp(isa, dtype_name, model):
    dtype = DTYPES[dtype_name]
    _, distance, _ = model
    ball = distance is ruvector.hyperbolic_distance
    rng = generator("many", dtype_name)
    worst = 0.0
    for dim in (1, 2, 4, 8):
        n = 4000
        size = 1 - 10.0 ** -rng.uniform(0.05, 6, (2, n, 1)) if ball else np.sinh(rng.uniform(0, 12, (2, n, 1)))
        x, y = (directions(n, dim, s, dim, "many") * r for s, r in zip("xy", size))
        y = np.where(rng.random((n, 1)) < 0.3, x * (1 + 10.0 ** -rng.uniform(1, 7, (n, dim))), y)
        x, y = x.astype(dtype), y.astype(dtype)
        if ball:
            y = np.where((y.astype(float) ** 2).sum(-1, keepdims=True) < 1 - 1e-7, y, x * dtype.type(0.9))
        exact = exact_ball if ball else exact_sheet
        worst = max(worst, *(ulps(g, exact(a, b), dtype) for g, a, b in zip(distance(x, y), x, y)))
    assert worst <= ULP


def test_the_largest_float32_radius(isa):
    """1 - 2^-24 on an axis is 17.33 from the origin."""
    x = np.zeros((5, 3), np.float32)
    x[0, 0], x[1, 1], x[2, 2] = (np.float32(1 - 2.0**-24) * s for s in (1, -1, 1))
    x[3] = x[0] * np.float32(1 - 2.0**-23)
    assert abs(ruvector.hyperbolic_distance(x[0], x[4]) - 17.3286795) < 2e-6
    many = ruvector.hyperbolic_cdist(x, x)
    for i, j in itertools.product(range(5), repeat=2):
        assert ulps(many[i, j], exact_ball(x[i], x[j]), np.float32) <= ULP


def test_float64_points_next_to_the_sphere(isa):
    """Normed in float64, 1 - |x|^2 is some 2^-53, of which plain float64 keeps nothing."""
    x = directions(200, 3, "normed")
    gap = [1 - mp.fsum(mp.mpf(float(v)) ** 2 for v in row) for row in x]
    inside = [i for i, g in enumerate(gap) if g > 0]
    assert len(inside) > 20
    x = x[inside]
    many = ruvector.hyperbolic_cdist(x, x)
    for i in range(1, len(x)):
        assert ulps(many[0, i], exact_ball(x[0], x[i]), np.float64) <= ULP
        assert ulps(many[i, i - 1], exact_ball(x[i], x[i - 1]), np.float64) <= ULP


@pytest.mark.parametrize("dtype_name", FLOATS)
def test_tiny_distances_do_not_underflow(isa, dtype_name, model):
    dtype = DTYPES[dtype_name]
    _, distance, cdist = model
    exact = exact_ball if distance is ruvector.hyperbolic_distance else exact_sheet
    least = float(np.finfo(dtype).smallest_subnormal)
    for size in (
        1e-3,
        1e-12,
        1e-18,
        1e-25,
        1e-38,
        *((1e-100, 1e-160, 1e-300) if dtype == np.float64 else ()),
        40 * least,
    ):
        x, y = (normal((5, 4), float, s, "tiny") * size for s in "xy")
        x, y = x.astype(dtype), y.astype(dtype)
        for c in (1.0, 3.0):
            many = cdist(x, y, c)
            for got, u, v in zip(distance(x, y, c), x, y):
                assert ulps(got, exact(u, v, c), dtype) <= ULP, size
            for i in range(5):
                assert ulps(many[i, 0], exact(x[i], y[0], c), dtype) <= ULP, size


@pytest.mark.parametrize("dtype_name", FLOATS)
def test_lorentz_distances_far_out_in_one_direction(isa, dtype_name):
    """Where x0 - y0 takes all but e^-2r of |x - y|: radii to 55, beyond which only other directions are told apart."""
    dtype = DTYPES[dtype_name]
    for radius in (8.0, 20.0, 40.0, 50.0):
        for dim in (1, 3, 20):
            x = (directions(4, dim, "far", dim, radius) * np.sinh(radius)).astype(dtype)
            for y in (x * dtype.type(2), x * dtype.type(0.75), np.nextafter(x, dtype.type(np.inf)), x[::-1].copy(), -x):
                many = ruvector.lorentz_cdist(x, y, space_only=True)
                pairs = ruvector.lorentz_distance(x, y, space_only=True)
                for i in range(4):
                    exact = exact_sheet(x[i], y[i])
                    assert ulps(many[i, i], exact, dtype) <= ULP, f"{radius} {dim}"
                    assert ulps(pairs[i], exact, dtype) <= ULP, f"{radius} {dim}"


def test_time_components_are_checked_wherever_they_stand(isa, dtype_name, dtype):
    """Around lanes and blocks: what is within 2 ** -10 changes nothing, what is not is named, NaN stays where it is."""
    limit = {"bfloat16": 2.0**-6, "float16": 2.0**-8}.get(dtype_name, 2.0**-10)
    for n in (1, 7, 8, 9, 16, 17, 63, 64, 65, 130):
        x = lifted(scaled_points((n, 5), dtype, "times", n))
        one = lifted(scaled_points((5,), dtype, "time"))
        forms = {
            "one to many": lambda y: ruvector.lorentz_distance(one, y),
            "pairs": lambda y: ruvector.lorentz_distance(np.broadcast_to(one, (n, 6)).copy(), y),
            "all": lambda y: ruvector.lorentz_cdist(np.broadcast_to(one, (4, 6)).copy(), y)[2],
        }
        for (form, call), at in itertools.product(forms.items(), sorted({0, n // 2, n - 1})):
            clean = call(x)
            for share in (-0.95, 0.95, -1.1, 1.1, np.nan):
                y = x.copy()
                y[at, 0] = (1 + share * limit) * float(y[at, 0])
                if dtype_name in FLOATS and abs(share) > 1:
                    with pytest.raises(ValueError, match=rf"b\[{at}\] "):
                        call(y)
                elif np.isnan(share):
                    out = call(y)
                    assert np.isnan(out[at].astype(float)), form
                    assert same_bits(np.delete(out, at), np.delete(clean, at)), form
                elif dtype_name in FLOATS:
                    assert same_bits(call(y), clean), f"{form} {n} {at} {share}"


@pytest.mark.parametrize("dtype_name", FLOATS)
def test_extreme_curvatures(isa, dtype_name):
    dtype = DTYPES[dtype_name]
    for c in (1e-30, 1e-5, 100.0, 1e30):
        radius = c**-0.5
        x, y = ((directions(4, 5, s) * 0.7 * radius).astype(dtype) for s in "xy")
        for got, u, v in zip(ruvector.hyperbolic_distance(x, y, c), x, y):
            assert ulps(got, exact_ball(u, v, c), dtype) <= ULP, c
        for got, u, v in zip(ruvector.lorentz_distance(x, y, c, space_only=True), x, y):
            assert ulps(got, exact_sheet(u, v, c), dtype) <= ULP, c
    # the limit of flat space is twice the Euclidean distance
    x, y = np.eye(2)
    assert abs(ruvector.hyperbolic_distance(x, y, 0.001) - 2.8303) < 5e-5


def scaled_points(shape, dtype, *seed):
    """Points whose norms spread over (0, 0.95)."""
    x = normal(shape, float, *seed)
    r = generator(*seed, "r").uniform(0.05, 0.95, (*shape[:-1], 1))
    return (x / np.linalg.norm(x, axis=-1, keepdims=True) * r).astype(dtype)


def close(got, exact, dtype, factor=8.0):
    """To some units of roundoff of a storage type, relative."""
    np.testing.assert_allclose(
        got.astype(float), np.asarray(exact, float), rtol=factor * reference.storage_unit(dtype), atol=0
    )


def test_every_size_of_block_and_width(isa, dtype_name, dtype):
    """Edges of lanes, rows of tiles, blocks and panels; a double oracle, whose own error is far below these points' bound."""
    for m, n, dim in (
        *((m, 5, 7) for m in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 63, 64, 65, 129)),
        *((6, n, 9) for n in (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 257, 300)),
        *((5, 19, d) for d in (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 100, 257)),
    ):
        x, y = scaled_points((m, dim), dtype, "x", dim), scaled_points((n, dim), dtype, "y", dim)
        wide = reference.wide(x)[:, None], reference.wide(y)[None]
        exact = reference.ball_distance(*wide, 1.0)
        close(ruvector.hyperbolic_cdist(x, y), exact, dtype)
        close(ruvector.hyperbolic_distance(x[:, None], y[None]), exact, dtype)
        close(ruvector.lorentz_cdist(x, y, space_only=True), reference.sheet_distance(*wide, 1.0), dtype, 32)
        k = min(m, n)
        close(ruvector.hyperbolic_distance(x[:k], y[:k]), np.diagonal(exact), dtype)


def test_16_bit_distances_are_rounded_float32_distances(isa):
    for name in set(DTYPES) - set(FLOATS):
        dtype = DTYPES[name]
        x, y = scaled_points((9, 12), dtype, "half x"), scaled_points((70, 12), dtype, "half y")
        wide = ruvector.hyperbolic_cdist(x.astype(np.float32), y.astype(np.float32))
        got = ruvector.hyperbolic_cdist(x, y)
        assert got.dtype == dtype
        assert same_bits(got, wide.astype(dtype))
        assert same_bits(
            ruvector.hyperbolic_distance(x[0], y),
            ruvector.hyperbolic_distance(x[0].astype(np.float32), y.astype(np.float32)).astype(dtype),
        )
        assert same_bits(
            ruvector.hyperbolic_distance(x, y[:9]),
            ruvector.hyperbolic_distance(x.astype(np.float32), y[:9].astype(np.float32)).astype(dtype),
        )


def test_kinds_of_input(isa):
    x, y = scaled_points((6, 5), np.float64, "x"), scaled_points((9, 5), np.float64, "y")
    expected = ruvector.hyperbolic_cdist(x, y)
    assert same_bits(ruvector.hyperbolic_cdist(x.tolist(), y.tolist()), expected)
    misaligned = np.frombuffer(b"\0" + y.tobytes(), dtype=np.uint8)[1:].view(np.float64).reshape(9, 5)
    locked = y.copy()
    locked.setflags(write=False)
    wide = np.zeros((9, 11))
    wide[:, 3:8] = y
    for kind in (np.asfortranarray(y), y.astype(">f8"), misaligned, locked, wide[:, 3:8], y[::-1].copy()[::-1]):
        assert same_bits(ruvector.hyperbolic_cdist(x, kind), expected)
        assert same_bits(ruvector.hyperbolic_distance(x[0], kind), ruvector.hyperbolic_distance(x[0], y))
    assert ruvector.hyperbolic_distance([0, 0], [0, 0]).dtype == np.float64
    mixed = ruvector.hyperbolic_distance(x.astype(np.float32), y[:6])
    assert mixed.dtype == np.float64
    assert ruvector.hyperbolic_distance(x[0], y[0]).shape == ()


def test_leading_axes_broadcast(isa):
    x, y = scaled_points((3, 1, 4, 5), np.float32, "x"), scaled_points((2, 4, 5), np.float32, "y")
    got = ruvector.hyperbolic_distance(x, y)
    assert got.shape == (3, 2, 4)
    for i, j, k in itertools.product(range(3), range(2), range(4)):
        assert abs(got[i, j, k] - ruvector.hyperbolic_distance(x[i, 0, k], y[j, k])) <= 2e-7 * got[i, j, k]
    many = ruvector.lorentz_cdist(x, y, 0.5, space_only=True)
    assert many.shape == (3, 2, 4, 4)
    for i, j in itertools.product(range(3), range(2)):
        assert same_bits(many[i, j], ruvector.lorentz_cdist(x[i, 0], y[j], 0.5, space_only=True))
    assert ruvector.hyperbolic_cdist(x[:0], y).shape == (0, 2, 4, 4)
    assert ruvector.hyperbolic_cdist(x[..., :0, :], y).shape == (3, 2, 0, 4)
    assert ruvector.hyperbolic_distance(np.empty((0, 5)), np.zeros(5)).shape == (0,)


def test_a_distance_is_a_metric(isa, dtype_name, dtype, model):
    _, distance, cdist = model
    x = scaled_points((40, 6), dtype, "metric")
    d = cdist(x, x)
    assert same_bits(d, np.ascontiguousarray(d.T)), "symmetric to the bit"
    assert same_bits(distance(x, x[::-1]), distance(x[::-1], x))
    assert same_bits(distance(x[0], x), distance(x, x[0]))
    assert (np.diagonal(d) == 0).all()
    assert (distance(x, x) == 0).all()
    assert (distance(x[3], x)[3]) == 0
    assert (d + np.eye(40) > 0).all()
    slack = 8 * reference.storage_unit(dtype) * d.astype(float).max()
    assert (d[:, None, :].astype(float) <= d[:, :, None].astype(float) + d[None].astype(float) + slack).all()


def test_nan_and_only_nan_gives_nan(isa, dtype_name, dtype, model):
    _, distance, cdist = model
    x, y = scaled_points((9, 6), dtype, "x"), scaled_points((70, 6), dtype, "y")
    clean = cdist(x, y)
    y[5, 2] = np.nan
    many, one = cdist(x, y), distance(x[0], y)
    assert np.isnan(many[:, 5].astype(float)).all()
    assert np.isnan(one[5].astype(float))
    assert same_bits(np.delete(many, 5, 1), np.delete(clean, 5, 1))
    assert np.isfinite(np.delete(one, 5).astype(float)).all()


def test_threads_do_not_change_a_bit(isa, threads, model):
    _, distance, cdist = model
    x, y = scaled_points((300, 40), np.float32, "x"), scaled_points((2000, 40), np.float32, "y")
    results = []
    for n in (1, 2, 3, 8):
        ruvector.set_num_threads(n)
        results.append((cdist(x, y), distance(x[0], y), distance(y, y[::-1]), cdist(y, x[:2])))
    for other in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(other, results[0]))


def test_instruction_sets_agree(dtype_name, dtype, model):
    _, _, cdist = model
    x, y = scaled_points((30, 33), dtype, "x"), scaled_points((80, 33), dtype, "y")
    results = []
    for name in ruvector.isas():
        with ruvector.use_isa(name):
            assert ruvector.isa() == name
            results.append(cdist(x, y))
    for other in results[1:]:
        close(other, results[0], dtype)


# Golden values -------------------------------------------------------------------------------------------------------


def seven(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.51e-7)


def test_golden_distances(isa):
    d = ruvector.hyperbolic_distance
    a, b = [0.3, 0.4], [0.1, 0.2]
    seven([d(a, b), d(a, b, 0.5), d(a, b, 2), d(a, b, -2)], [0.6582194, 0.6077595, 0.7999308, 0.7999308])
    seven(d([0, 0], [0.5, 0]), np.log(3))
    points = np.array([[0.2, 0.3, 0.1], [0.4, 0.1, 0.2], [0.1, 0.4, 0.3]])
    seven(ruvector.hyperbolic_cdist(points, points)[[0, 1, 0], [1, 2, 2]], [0.7127454, 1.0860264, 0.6048402])
    with pytest.raises(ValueError, match="norm"):
        d(a, b, 4)


def test_golden_maps(isa):
    seven(ruvector.mobius_add([0.3, 0.4], [0.1, 0.2]), [0.3699797, 0.5338742])
    seven(ruvector.mobius_add([0.3, 0.4], [0.1, 0.1]), [0.3694323, 0.4707424])
    seven(ruvector.exp_map([0.2, 0.3], [0.1, 0.1]), [0.2927637, 0.3947854])
    seven(ruvector.log_map([0.2, 0.3], ruvector.exp_map([0.2, 0.3], [0.1, 0.1])), [0.1, 0.1])
    seven(ruvector.log_map([0.2, 0.3], [0.4, 0.5]), [0.2430339, 0.2307284])
    seven(ruvector.exp_map([0, 0, 0], [0.1, -0.1, 0.05]), [0.0992567, -0.0992567, 0.0496283])
    seven(ruvector.exp_map([0.3, 0.2, 0.1], [0.1, -0.1, 0.05]), [0.4027146, 0.1096283, 0.1501230])
    seven(ruvector.poincare_to_lorentz([0.3, 0.4]), [1.6666667, 0.8, 1.0666667])
    seven(ruvector.lorentz_to_poincare(ruvector.poincare_to_lorentz([0.3, 0.4])), [0.3, 0.4])
    assert ruvector.minkowski_dot([2, 1, 1], [3, 2, 1]) == -3
    x = [np.cosh(1), np.sinh(1), 0, 0]
    assert abs(ruvector.minkowski_dot(x, x) + 1) < 1e-15
    a, b = ruvector.poincare_to_lorentz([[0.2, 0.3], [0.4, 0.1]])
    seven([ruvector.lorentz_distance(a, b), ruvector.hyperbolic_distance([0.2, 0.3], [0.4, 0.1])], [0.6539799] * 2)


def test_golden_averages(isa):
    seven(ruvector.gyromidpoint([[0, 0.8], [0, 0]]), [0, 0.5])
    for end in ([0, 0.8], [0, 0]):
        seven(ruvector.hyperbolic_distance(end, [0, 0.5]), 1.0986123)
    time = np.sqrt(1.25)
    seven(ruvector.lorentz_centroid([[time, 0.5, 0], [time, -0.5, 0]]), [1, 0, 0])
    point = ruvector.poincare_to_lorentz([0.3, 0.4])
    seven(ruvector.lorentz_centroid([point, point]), point)


def test_golden_attention_weights(isa):
    scores = ruvector.attention_scores
    tree = [[0, 0, 0, 0], [0.3, 0, 0, 0], [-0.3, 0, 0, 0], [0.4, 0.1, 0, 0], [0.4, -0.1, 0, 0]]
    seven(scores([0.35, 0, 0, 0], tree, "poincare"), [0.1516445, 0.2816254, 0.0816547, 0.2425377, 0.2425377])
    near_far = [[0.15, 0, 0, 0], [0, 0.5, 0, 0]]
    seven(scores([0.1, 0, 0, 0], near_far, "hyperbolic"), [0.7353359, 0.2646641])
    origin, keys = [0.0, 0.0], [[0.1, 0.0], [0.5, 0.0]]
    seven(scores(origin, keys, "poincare", scale=10.0), [0.9998740, 0.0001260])
    seven(scores(origin, keys, "poincare", scale=0.1), [0.5224335, 0.4775665])
    low, high = (scores(origin, keys, "poincare", curvature=c) for c in (0.1, 3.9))
    assert abs(low - high).max() > 0.05
    for c in (1e-5, 3.999):
        assert np.isfinite(scores(origin, keys, "poincare", curvature=c)).all()


# Maps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", (1.0, 0.25, 7.0))
def test_exp_and_log_invert_each_other(isa, c):
    base = scaled_points((30, 5), float, "base") / np.sqrt(c)
    target = scaled_points((30, 5), float, "target") / np.sqrt(c)
    tangent = ruvector.log_map(base, target, c)
    np.testing.assert_allclose(ruvector.exp_map(base, tangent, c), target, rtol=1e-11, atol=1e-13)
    short = normal((30, 5), float, "tangent") * 0.1 * (1 - c * (base**2).sum(-1, keepdims=True))
    np.testing.assert_allclose(
        ruvector.log_map(base, ruvector.exp_map(base, short, c), c), short, rtol=1e-10, atol=1e-13
    )
    # lengths: the geodesic from the base is as long as the tangent in the metric of the ball
    length = 2 / (1 - c * (base**2).sum(-1)) * np.linalg.norm(tangent, axis=-1)
    np.testing.assert_allclose(length, ruvector.hyperbolic_distance(base, target, c), rtol=1e-13)
    assert (ruvector.log_map(base, base, c) == 0).all()
    assert same_bits(ruvector.exp_map(base, np.zeros_like(base), c), base)


def test_exp_map_of_long_tangents_stays_inside(isa, dtype_name, dtype):
    base = scaled_points((20, 4), dtype, "base")
    tangent = (normal((20, 4), float, "long") * 1e3).astype(dtype)
    end = ruvector.exp_map(base, tangent)
    assert end.dtype == dtype
    # which refuses points that are not inside
    assert np.isfinite(ruvector.hyperbolic_distance(base, end).astype(float)).all()
    assert ((end.astype(float) ** 2).sum(-1) > 1 - 64 * reference.storage_unit(dtype)).all()


@pytest.mark.parametrize("c", (1.0, 0.25, 7.0))
def test_mobius_addition(isa, c):
    x, y, a = (scaled_points((30, 5), float, s) / np.sqrt(c) for s in "xya")
    definition = (
        (1 + 2 * c * (x * y).sum(-1, keepdims=True) + c * (y * y).sum(-1, keepdims=True)) * x
        + (1 - c * (x * x).sum(-1, keepdims=True)) * y
    ) / (1 + 2 * c * (x * y).sum(-1, keepdims=True) + c * c * ((x * x).sum(-1) * (y * y).sum(-1))[:, None])
    np.testing.assert_allclose(ruvector.mobius_add(x, y, c), definition, rtol=1e-12, atol=1e-14)
    zero = np.zeros(5)
    np.testing.assert_allclose(ruvector.mobius_add(x, zero, c), x, rtol=4e-16)
    np.testing.assert_allclose(ruvector.mobius_add(zero, x, c), x, rtol=4e-16)
    assert (ruvector.mobius_add(x, -x, c) == 0).all()
    # a translation keeps distances
    moved = ruvector.hyperbolic_distance(ruvector.mobius_add(a, x, c), ruvector.mobius_add(a, y, c), c)
    np.testing.assert_allclose(moved, ruvector.hyperbolic_distance(x, y, c), rtol=1e-11)
    # d(x, y) = 2 artanh(sqrt(c) |(-x) + y|) / sqrt(c)
    difference = np.linalg.norm(ruvector.mobius_add(-x, y, c), axis=-1)
    np.testing.assert_allclose(
        2 * np.arctanh(np.sqrt(c) * difference) / np.sqrt(c), ruvector.hyperbolic_distance(x, y, c), rtol=1e-11
    )


def test_maps_next_to_the_sphere(isa):
    """A tangent of given length leads to that distance, wherever it starts."""
    for gap in (1e-3, 1e-6, 1e-9):
        base = directions(20, 4, "edge", gap) * (1 - gap)
        gaps = np.array([float(1 - mp.fsum(mp.mpf(float(v)) ** 2 for v in row)) for row in base])
        tangent = directions(20, 4, "tangent") * gaps[:, None] / 2 * 0.7
        end = ruvector.exp_map(base, tangent)
        # the end is rounded to float64, which next to the sphere is some 2^-53 / gap in distance
        np.testing.assert_allclose(ruvector.hyperbolic_distance(base, end), 0.7, rtol=8 * 2.0**-53 / gap)
        np.testing.assert_allclose(ruvector.log_map(base, end), tangent, atol=8 * 2.0**-53, rtol=16 * 2.0**-53 / gap)


def test_project_to_ball(isa, dtype_name, dtype):
    outside = ruvector.project_to_ball(np.array([2, 2], dtype), 1.0, 1e-7)
    assert outside.dtype == dtype
    assert (outside.astype(float) ** 2).sum() < 1
    if dtype == np.float64:
        assert abs(np.linalg.norm(outside) - (1 - 1e-7)) < 1e-15
    inside = scaled_points((20, 3), dtype, "project")
    assert same_bits(ruvector.project_to_ball(inside, eps=0.04), inside)
    far = (normal((50, 3), float, "far") * 100).astype(dtype)
    for c, eps in ((1.0, None), (4.0, 0.1), (-0.3, 0.5)):
        projected = ruvector.project_to_ball(far, c, eps).astype(float)
        eps = max(1e-5, 4 * reference.storage_unit(dtype)) if eps is None else eps
        np.testing.assert_allclose(
            np.linalg.norm(projected, axis=-1), (1 - eps) / np.sqrt(abs(c)), rtol=4 * reference.storage_unit(dtype)
        )
        assert (abs(c) * (projected**2).sum(-1) < 1).all()
        ruvector.hyperbolic_distance(ruvector.project_to_ball(far, c, eps), np.zeros(3, dtype), c)
    huge = np.full(3, np.finfo(dtype).max, dtype) if not reference.is_half(dtype) else far
    assert ((ruvector.project_to_ball(huge).astype(float) ** 2).sum(-1) < 1).all()


@pytest.mark.parametrize("c", (1.0, 0.25, 7.0))
def test_both_models_agree(isa, dtype_name, dtype, c):
    x, y = (scaled_points((20, 4), float, s) / np.sqrt(c) for s in "xy")
    a, b = ruvector.poincare_to_lorentz(x, c), ruvector.poincare_to_lorentz(y, c)
    assert a.shape == (20, 5)
    np.testing.assert_allclose(ruvector.minkowski_dot(a, a), -1 / c, rtol=1e-10)
    np.testing.assert_allclose(ruvector.lorentz_distance(a, b, c), ruvector.hyperbolic_distance(x, y, c), rtol=1e-11)
    np.testing.assert_allclose(ruvector.lorentz_to_poincare(a, c), x, rtol=1e-13)
    space = ruvector.poincare_to_lorentz(x, c, space_only=True)
    assert same_bits(space, np.ascontiguousarray(a[:, 1:]))
    assert same_bits(ruvector.lorentz_to_poincare(space, c, space_only=True), ruvector.lorentz_to_poincare(a, c))
    weights = generator("weights").random(20)
    middle = ruvector.poincare_to_lorentz(ruvector.gyromidpoint(x, weights, c), c)
    np.testing.assert_allclose(ruvector.lorentz_centroid(a, weights, c), middle, rtol=1e-11, atol=1e-13)
    # with and without the time component, in every dtype
    p, q = a.astype(dtype), b.astype(dtype)
    with_time = ruvector.lorentz_distance(p, q, c)
    assert same_bits(with_time, ruvector.lorentz_distance(p[:, 1:], q[:, 1:], c, space_only=True))
    assert same_bits(ruvector.lorentz_cdist(p, q, c), ruvector.lorentz_cdist(p[:, 1:], q[:, 1:], c, space_only=True))


def test_averages_are_averages(isa, dtype_name, dtype):
    points = scaled_points((3, 12, 4), dtype, "average")
    tolerance = 8 * reference.storage_unit(dtype)
    for average, at in (
        (ruvector.gyromidpoint, points),
        (functools.partial(ruvector.lorentz_centroid, space_only=True), points),
    ):
        middle = average(at)
        assert middle.shape == (3, 4)
        assert middle.dtype == dtype
        one = average(at[:, :1], [3.0])
        np.testing.assert_allclose(one.astype(float), at[:, 0].astype(float), rtol=tolerance, atol=tolerance)
        same = average(np.repeat(at[:, :1], 5, 1), [1, 2, 3, 4, 5])
        np.testing.assert_allclose(same.astype(float), at[:, 0].astype(float), rtol=tolerance, atol=tolerance)
        only = average(at, np.eye(12)[7] * 2.0)
        np.testing.assert_allclose(only.astype(float), at[:, 7].astype(float), rtol=tolerance, atol=tolerance)
        assert (average(at, np.zeros(12)) == 0).all()
        assert (average(at[:, :0]) == 0).all()
        order = generator("order").permutation(12)
        np.testing.assert_allclose(
            average(at[:, order]).astype(float), middle.astype(float), rtol=tolerance, atol=tolerance
        )
    # the gyromidpoint of two is the middle of their geodesic
    x, y = points[:, 0].astype(float), points[:, 1].astype(float)
    middle = ruvector.gyromidpoint(np.stack([x, y], 1))
    half = ruvector.hyperbolic_distance(x, y) / 2
    for end in (x, y):
        np.testing.assert_allclose(ruvector.hyperbolic_distance(end, middle), half, rtol=1e-12)


def test_averages_next_to_the_sphere(isa):
    """Equal points come back, and a midpoint is in the middle, where 1 - |x|^2 is 2e-9."""
    for gap in (1e-4, 1e-9):
        x = directions(10, 3, "edge", gap) * (1 - gap)
        same = ruvector.gyromidpoint(np.repeat(x[:, None], 4, 1), [1, 2, 3, 4])
        np.testing.assert_allclose(ruvector.hyperbolic_distance(same, x), 0, atol=32 * 2.0**-53 / gap)
        other = ruvector.exp_map(x, directions(10, 3, "step") * gap)
        middle = ruvector.gyromidpoint(np.stack([x, other], 1))
        half = ruvector.hyperbolic_distance(x, other) / 2
        np.testing.assert_allclose(ruvector.hyperbolic_distance(x, middle), half, atol=64 * 2.0**-53 / gap)
        sheet = np.sinh(gap**-0.15) * directions(10, 3, "sheet")
        back = ruvector.lorentz_centroid(np.repeat(sheet[:, None], 4, 1), [1, 2, 3, 4], space_only=True)
        np.testing.assert_allclose(back, sheet, rtol=1e-13)


# Attention -----------------------------------------------------------------------------------------------------------


def attention_inputs(q_len, kv_len, dim, v_dim, dtype, *lead):
    shapes = (("q", q_len, dim), ("k", kv_len, dim), ("v", kv_len, v_dim))
    return tuple(scaled_points((*lead, n, d), dtype, role) for role, n, d in shapes)


def test_attention_of_every_size(isa, dtype_name, dtype):
    for q_len, kv_len, dim, v_dim in (
        *((n, 20, 5, 3) for n in (1, 2, 3, 4, 5, 8, 9, 23, 24, 25, 47, 48, 49, 97)),
        *((7, n, 4, 6) for n in (1, 2, 63, 64, 65, 128, 129, 200)),
        *((6, 30, d, 4) for d in (1, 2, 15, 16, 17, 33, 64, 130)),
        *((6, 30, 3, d) for d in (1, 2, 7, 8, 9, 31, 65, 130)),
    ):
        q, k, v = attention_inputs(q_len, kv_len, dim, v_dim, dtype)
        what = f"{q_len} x {kv_len}, {dim}, {v_dim}"
        for causal in (False, True):
            out = ruvector.poincare_attention(q, k, v, causal=causal)
            reference.check(out, reference.poincare(q, k, v, causal=causal), what)
            out = ruvector.lorentz_attention(q, k, v, space_only=True, causal=causal)
            reference.check(out, reference.lorentz(q, k, v, space_only=True, causal=causal), what)


def lifted(x, c=1.0):
    """Space-like parts with their time component, in the same dtype."""
    wide = x.astype(float)
    return np.concatenate([np.sqrt(1 / c + (wide**2).sum(-1, keepdims=True)), wide], -1).astype(x.dtype)


def test_lorentz_attention_with_time_components(isa, dtype_name, dtype):
    q, k, v = attention_inputs(30, 70, 9, 5, dtype, 2)
    for c in (1.0, 0.4):
        expected = ruvector.lorentz_attention(q, k, v, c, space_only=True)
        out = ruvector.lorentz_attention(lifted(q, c), lifted(k, c), lifted(v, c), c)
        assert out.shape == (2, 30, 6)
        assert same_bits(np.ascontiguousarray(out[..., 1:]), expected)
        reference.check(out, reference.lorentz(lifted(q, c), lifted(k, c), lifted(v, c), curvature=c))
        # rounding of the time component does not reach the result
        other = lifted(k, c)
        other[..., 0] *= dtype.type(1 + 2.0**-11) if not reference.is_half(dtype) else dtype.type(1)
        assert same_bits(ruvector.lorentz_attention(lifted(q, c), other, lifted(v, c), c), out)
    hidden = ruvector.lorentz_attention(lifted(q), lifted(k), lifted(v), mask=np.zeros((30, 70), bool))
    np.testing.assert_array_equal(hidden.astype(float), np.broadcast_to(np.eye(6)[0], (2, 30, 6)))


@pytest.mark.parametrize("name", ("poincare", "lorentz", "mixed_curvature"))
def test_each_head_has_its_curvature(isa, name):
    options = {"space_only": True} if name == "lorentz" else {}
    q, k, v = attention_inputs(9, 20, 6, 4, np.float32, 2, 3)
    q, k, v = q * np.float32(0.6), k * np.float32(0.6), v * np.float32(0.6)
    curvature = np.array([0.5, -1.0, 2.0])
    out = ruvector.attention(q, k, v, name, curvature=curvature, **options)
    for h, c in enumerate(curvature):
        one = ruvector.attention(q[:, h], k[:, h], v[:, h], name, curvature=float(c), **options)
        assert same_bits(np.ascontiguousarray(out[:, h]), one), c
    by_batch = ruvector.attention(q, k, v, name, curvature=np.array([[0.5], [2.0]]), **options)
    assert same_bits(by_batch[0], ruvector.attention(q[0], k[0], v[0], name, curvature=0.5, **options))
    assert same_bits(by_batch[1], ruvector.attention(q[1], k[1], v[1], name, curvature=2.0, **options))
    weights = ruvector.attention_scores(q, k, name, curvature=curvature, **options)
    assert same_bits(
        np.ascontiguousarray(weights[:, 2]), ruvector.attention_scores(q[:, 2], k[:, 2], name, curvature=2.0, **options)
    )
    score = ruvector.attention_score(q[:, :, 0], k[:, :, 0], name, curvature=curvature, **options)
    assert abs(score[1, 0] - ruvector.attention_score(q[1, 0, 0], k[1, 0, 0], name, curvature=0.5, **options)) < 1e-6
    resolved = ruvector.get_attention(name, curvature=curvature, **options)
    assert resolved == ruvector.get_attention(name, curvature=curvature.copy(), **options)
    assert same_bits(resolved(q, k, v), out)


@pytest.mark.parametrize("name", ("poincare", "lorentz", "mixed_curvature"))
def test_hidden_rows_may_be_anything(isa, dtype_name, dtype, name):
    options = {"space_only": True} if name == "lorentz" else {}
    for q_len in (2, 30):
        q, k, v = attention_inputs(q_len, 80, 6, 4, dtype)
        keep = np.arange(80) % 4 != 1
        bias = np.where(keep, 0.25, -np.inf).astype(np.float32)
        for mask in (keep, np.broadcast_to(keep, (q_len, 80)), bias):
            clean = ruvector.attention(q, k, v, name, mask=mask, **options)
            for bad in (np.nan, np.inf, 2.0):
                dirty_k, dirty_v = k.copy(), v.copy()
                dirty_k[~keep], dirty_v[~keep] = bad, bad
                assert same_bits(ruvector.attention(q, dirty_k, dirty_v, name, mask=mask, **options), clean), bad
        # what some row sees must be a point
        if name != "lorentz":
            dirty_k = k.copy()
            dirty_k[5] = 2.0
            seen = np.broadcast_to(keep, (q_len, 80)).copy()
            seen[1, 5] = True
            with pytest.raises(ValueError, match=r"(key|b)\[.*5\] has norm"):
                ruvector.attention(q, dirty_k, v, name, mask=seen, **options)


@pytest.mark.parametrize("name", ("poincare", "lorentz"))
def test_nan_at_a_visible_position_makes_that_row_nan(isa, name):
    options = {"space_only": True} if name == "lorentz" else {}
    q, k, v = attention_inputs(30, 80, 6, 4, np.float32)
    keep = np.ones((30, 80), bool)
    keep[::2, 11] = False
    clean = ruvector.attention(q, k, v, name, mask=keep, **options)
    for which in (0, 1, 2):
        arrays = [q.copy(), k.copy(), v.copy()]
        arrays[which][11, 1] = np.nan
        out = ruvector.attention(*arrays, name, mask=keep, **options)
        bad = np.arange(30) == 11 if which == 0 else keep[:, 11]
        assert np.isnan(out[bad]).all(), which
        assert same_bits(out[~bad], clean[~bad]), which


@pytest.mark.parametrize("name", ("poincare", "lorentz", "mixed_curvature"))
def test_attention_is_the_average_by_its_weights(isa, name):
    """The weights of attention_scores, averaged one row at a time."""
    options = {"space_only": True} if name == "lorentz" else {}
    q, k, v = attention_inputs(7, 40, 6, 8, np.float64)
    weights = ruvector.attention_scores(q, k, name, scale=1.7, **options)
    out = ruvector.attention(q, k, v, name, scale=1.7, **options)
    for i in range(7):
        if name == "poincare":
            expected = ruvector.gyromidpoint(v, weights[i])
        elif name == "lorentz":
            expected = ruvector.lorentz_centroid(v, weights[i], space_only=True)
        else:
            expected = np.concatenate([weights[i] @ v[:, :4], ruvector.gyromidpoint(v[:, 4:], weights[i])])
        np.testing.assert_allclose(out[i], expected, rtol=1e-11, atol=1e-13)
        scores = [ruvector.attention_score(q[i], key, name, scale=1.7, **options) for key in k]
        np.testing.assert_allclose(weights[i], ruvector.softmax(scores), rtol=1e-11)


def test_attention_score_is_minus_the_distance(isa, dtype_name, dtype):
    q, k, _ = attention_inputs(5, 5, 6, 4, dtype)
    score = ruvector.attention_score(q, k, "poincare", curvature=0.7)
    assert score.dtype == dtype
    assert same_bits(score, -ruvector.hyperbolic_distance(q, k, 0.7))
    assert same_bits(
        ruvector.attention_score(q[0], k[0], "hyperbolic", scale=2.0), -2 * ruvector.hyperbolic_distance(q[0], k[0])
    )
    time = ruvector.attention_score(lifted(q), lifted(k), "lorentz")
    assert same_bits(time, -ruvector.lorentz_distance(q, k, space_only=True))
    mixed = ruvector.attention_score(q, k, "mixed_curvature", euclidean_dim=2, hyperbolic_weight=0.5).astype(float)
    a, b = q.astype(float), k.astype(float)
    exact = -((a[:, :2] - b[:, :2]) ** 2).sum(-1) - 0.5 * reference.ball_distance(a[:, 2:], b[:, 2:], 1.0) ** 2
    np.testing.assert_allclose(mixed, exact, rtol=8 * reference.storage_unit(dtype))


def test_mixed_curvature_lies_between_its_parts(isa):
    query, keys = [0.3, 0.1, 0.2, 0.1], [[0.3, 0.2, -0.5, 0.1], [0.9, -0.5, 0.25, 0.1]]
    first = [
        ruvector.attention_scores(query, keys, "mixed_curvature", euclidean_weight=1 - a, hyperbolic_weight=a)[0]
        for a in (0.0, 0.5, 1.0)
    ]
    assert min(first[0], first[2]) < first[1] < max(first[0], first[2])
    flat = ruvector.attention_scores(query, keys, "mixed_curvature", euclidean_dim=4)
    distances = ((np.array(query) - keys) ** 2).sum(-1)
    np.testing.assert_allclose(flat, ruvector.softmax(-distances), rtol=1e-14)
    curved = ruvector.attention_scores(query[2:], np.array(keys)[:, 2:], "mixed_curvature", euclidean_dim=0)
    square = ruvector.hyperbolic_cdist([query[2:]], np.array(keys)[:, 2:])[0] ** 2
    np.testing.assert_allclose(curved, ruvector.softmax(-square), rtol=1e-14)


@pytest.mark.parametrize("name", ("poincare", "lorentz", "mixed_curvature"))
def test_dropout_leaves_the_average_of_the_kept(isa, name):
    options = {"space_only": True} if name == "lorentz" else {}
    q, k, v = attention_inputs(20, 50, 6, 4, np.float64)
    plain = ruvector.attention(q, k, v, name, **options)
    assert same_bits(ruvector.attention(q, k, v, name, dropout=0.5, **options), plain)
    dropped = ruvector.attention(q, k, v, name, dropout=0.5, training=True, rng=3, **options)
    assert np.abs(dropped - plain).max() > 1e-3
    assert same_bits(ruvector.attention(q, k, v, name, dropout=0.5, training=True, rng=3, **options), dropped)
    assert not same_bits(ruvector.attention(q, k, v, name, dropout=0.5, training=True, rng=4, **options), dropped)
    most = ruvector.attention(q, k[:1], v[:1], name, dropout=0.9, training=True, rng=3, **options)
    gone = (most == 0).all(-1)
    assert gone.any()
    if name != "mixed_curvature":
        np.testing.assert_allclose(most[~gone], np.broadcast_to(v[0], most[~gone].shape), rtol=1e-12)
    with pytest.raises(ValueError, match="rng"):
        ruvector.attention(q, k, v, name, dropout=0.5, training=True, **options)


@pytest.mark.parametrize("name", ("poincare", "lorentz"))
def test_threads_and_neighbours_do_not_change_attention(isa, threads, name):
    options = {"space_only": True} if name == "lorentz" else {}
    q, k, v = attention_inputs(60, 150, 12, 9, np.float32, 3)
    results = []
    for n in (1, 2, 3, 8):
        ruvector.set_num_threads(n)
        results.append(ruvector.attention(q, k, v, name, causal=True, **options))
    assert all(same_bits(r, results[0]) for r in results[1:])
    for b in range(3):
        assert same_bits(ruvector.attention(q[b], k[b], v[b], name, causal=True, **options), results[0][b])
    shared = ruvector.attention(q, k[0], v[0], name, **options)
    assert same_bits(shared[1], ruvector.attention(q[1], k[0], v[0], name, **options))


def test_attention_next_to_the_sphere(isa, dtype_name, dtype):
    """Values that coincide come back; results stay inside."""
    gap = {"float64": 1e-6, "float32": 1e-5}.get(dtype_name, 2e-2)
    v = (directions(40, 4, "edge") * (1 - gap)).astype(dtype)
    same = np.repeat(v[:1], 40, 0)
    q, k, _ = attention_inputs(10, 40, 4, 4, dtype)
    out = ruvector.poincare_attention(q, k, same).astype(float)
    bound = 4 * reference.storage_unit(dtype) + 32 * 2.0**-53 / gap
    np.testing.assert_allclose(out, np.broadcast_to(v[0].astype(float), out.shape), rtol=0, atol=bound)
    out = ruvector.poincare_attention(q, k, v).astype(float)
    assert ((out**2).sum(-1) < 1).all()
    sharp = ruvector.poincare_attention(v, v, v, scale=50.0).astype(float)
    assert ((sharp**2).sum(-1) < 1).all()
    reference.check(ruvector.poincare_attention(v[:9], v, v), reference.poincare(v[:9], v, v))


def test_attention_needs_memory_for_blocks_only(isa):
    q, k, v = attention_inputs(2000, 3000, 16, 16, np.float32)
    out = np.empty((2000, 16), np.float32)
    assert peak_allocation(lambda: ruvector.poincare_attention(q, k, v, out=out)) < 1 << 16
    assert same_bits(out, ruvector.poincare_attention(q, k, v))


def test_mixed_curvature_in_blocks_of_queries(isa):
    """20,000 keys are more than a block of logits holds with two queries; 700 make blocks of 46 queries."""
    for length, count, lead in ((3, 20_000, ()), (400, 700, (2,)), (400, 700, ())):
        q, k, v = attention_inputs(length, count, 6, 4, np.float64, *lead)
        keep = generator("mixed blocks").random((length, count)) < 0.8
        for options in ({}, {"causal": True}, {"mask": keep}, {"mask": keep, "causal": True}):
            out = ruvector.mixed_curvature_attention(q, k, v, **options)
            reference.check(out, reference.mixed_curvature(q, k, v, **options), f"{length} {count} {list(options)}")
            row = {"mask": keep[-1:]} if "mask" in options else {}
            one = ruvector.mixed_curvature_attention(q[..., -1:, :], k, v, **row)
            np.testing.assert_allclose(out[..., -1:, :], one, rtol=0, atol=1e-12)


def test_memory_of_mixed_curvature_does_not_hold_all_logits():
    q, k, v = attention_inputs(2000, 3000, 16, 16, np.float64)
    for mask in (None, np.arange(3000) % 7 > 0):
        # a few times 2 ** 15 logits, and the arrays
        assert peak_allocation(lambda mask=mask: ruvector.mixed_curvature_attention(q, k, v, mask=mask)) < 6 << 20


# geoopt --------------------------------------------------------------------------------------------------------------


@pytest.mark.peer
def test_distances_and_maps_agree_with_geoopt(isa):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    geoopt = pytest.importorskip("geoopt", reason="geoopt, the peer of this test, is not installed")
    for c in (1.0, 0.4):
        ball = geoopt.PoincareBall(c=torch.tensor(c, dtype=torch.float64))
        x, y = (scaled_points((50, 6), float, s) * 0.9 / np.sqrt(c) for s in "xy")
        a, b = torch.from_numpy(x), torch.from_numpy(y)
        pairs = {
            "dist": (ruvector.hyperbolic_distance(x, y, c), ball.dist(a, b)),
            "mobius_add": (ruvector.mobius_add(x, y, c), ball.mobius_add(a, b)),
            "exp_map": (ruvector.exp_map(x, y * 0.1, c), ball.expmap(a, b * 0.1)),
            "log_map": (ruvector.log_map(x, y, c), ball.logmap(a, b)),
            "gyromidpoint": (
                ruvector.gyromidpoint(x, np.arange(1.0, 51), c),
                ball.weighted_midpoint(a, torch.arange(1.0, 51, dtype=torch.float64)),
            ),
        }
        for what, (ours, theirs) in pairs.items():
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-9, atol=1e-11, err_msg=what)
        sheet = geoopt.Lorentz(k=torch.tensor(1 / c, dtype=torch.float64))
        p, q = ruvector.poincare_to_lorentz(x, c), ruvector.poincare_to_lorentz(y, c)
        theirs = sheet.dist(torch.from_numpy(p), torch.from_numpy(q)).numpy()
        np.testing.assert_allclose(ruvector.lorentz_distance(p, q, c), theirs, rtol=1e-7)
    # its conversions are of curvature -1
    maps, one = geoopt.manifolds.lorentz.math, torch.tensor(1.0, dtype=torch.float64)
    x = scaled_points((50, 6), float, "x") * 0.9
    p = maps.poincare_to_lorentz(torch.from_numpy(x), one, eps=0.0)
    np.testing.assert_allclose(ruvector.poincare_to_lorentz(x), p.numpy(), rtol=1e-12)
    np.testing.assert_allclose(
        ruvector.lorentz_to_poincare(p.numpy()), maps.lorentz_to_poincare(p, one).numpy(), rtol=1e-12
    )


@pytest.mark.peer
def test_attention_is_that_of_distances_and_midpoints_of_geoopt(isa):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    geoopt = pytest.importorskip("geoopt", reason="geoopt, the peer of this test, is not installed")
    q, k, v = attention_inputs(9, 40, 6, 8, np.float64, 2)
    for c in (1.0, 0.4):
        a, b, values = (torch.from_numpy(x) for x in (q, k, v))
        ball = geoopt.PoincareBall(c=torch.tensor(c, dtype=torch.float64))
        pairs = a[:, :, None], b[:, None]
        weights = torch.softmax(-1.5 * ball.dist(*pairs), -1)
        theirs = ball.weighted_midpoint(values[:, None].expand(2, 9, 40, 8), weights, reducedim=[-2])
        out = ruvector.poincare_attention(q, k, v, c, scale=1.5)
        np.testing.assert_allclose(out, theirs.numpy(), rtol=0, atol=1e-9)
        sheet = geoopt.Lorentz(k=torch.tensor(1 / c, dtype=torch.float64))
        points = [torch.from_numpy(lifted(x, c)) for x in (q, k)]
        weights = torch.softmax(-1.5 * sheet.dist(points[0][:, :, None], points[1][:, None]), -1)
        ours = ruvector.attention_scores(lifted(q, c), lifted(k, c), "lorentz", curvature=c, scale=1.5)
        # its acosh loses half of the digits near 1
        np.testing.assert_allclose(ours, weights.numpy(), rtol=1e-6)
        product = geoopt.ProductManifold((geoopt.Euclidean(1), 2), (ball, 4))
        weights = torch.softmax(-1.5 * product.dist2(*pairs), -1)
        options = {"curvature": c, "euclidean_dim": 2, "scale": 1.5}
        ours = ruvector.attention_scores(q, k, "mixed_curvature", **options)
        np.testing.assert_allclose(ours, weights.numpy(), rtol=1e-9)
        flat = weights @ values[..., :3]
        curved = ball.weighted_midpoint(values[:, None, :, 3:].expand(2, 9, 40, 5), weights, reducedim=[-2])
        out = ruvector.mixed_curvature_attention(q, k, v, value_euclidean_dim=3, **options)
        np.testing.assert_allclose(out, torch.cat([flat, curved], -1).numpy(), rtol=0, atol=1e-9)


def test_exp_map_of_tangents_of_any_length():
    for dim in (1, 2, 7):
        direction = normal(dim, np.float64, "far")
        direction /= np.abs(direction).max()
        for size in (1e-310, 1e-200, 1e155, 1e200, 1e308):
            for base in (np.zeros(dim), np.full(dim, 0.1)):
                there = ruvector.exp_map(base, size * direction)
                assert np.linalg.norm(there) < 1
                if size < 1:
                    np.testing.assert_allclose(there, base + size * direction, rtol=1e-9, atol=0)
                else:
                    assert np.linalg.norm(there) > 1 - 1e-9
        tiny = 1e-200 * direction
        np.testing.assert_allclose(
            ruvector.log_map(np.zeros(dim), ruvector.exp_map(np.zeros(dim), tiny)), tiny, rtol=1e-12
        )


def test_mixed_curvature_far_from_the_origin():
    query, key = np.array([[1e8, 0.0]]), np.array([[1e8, 0.0], [1e8 + 1, 0.0]])
    out = ruvector.mixed_curvature_attention(query, key, np.array([[1.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_allclose(out, [[1 / (1 + math.exp(-1)), 0]], rtol=1e-7)
