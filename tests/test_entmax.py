"""entmax and sparsemax: exact where they are closed forms, the optimality conditions where they are not."""

import numpy as np
import pytest
import reference
import ruvector
from reference_weights import entmax, entmax_bound
from support import EDGES, LONG_EDGES, generator, normal, same_bits

EXACT = (1.5, 2.0)
SEARCHED = (1.0001, 1.1, 1.25, 1.75, 2.5, 4.0, 8.0, 12.0, 16.0)


def rows(n, dtype, *seed):
    """Rows of much and of little support, with equal elements, and of ties for the largest."""
    x = [normal(n, dtype, "entmax", *seed, s, scale=s) for s in (0.01, 0.5, 2.0, 30.0)]
    tied = x[1].copy()
    tied[generator("ties", n).random(n) < 0.3] = tied.max()
    return np.stack([*x, tied, np.full(n, dtype.type(3) if isinstance(dtype, np.dtype) else dtype(3), dtype)])


@pytest.mark.parametrize("alpha", EXACT)
def test_closed_forms_are_within_their_bound(isa, dtype_name, dtype, alpha):
    for n in (*EDGES, *LONG_EDGES):
        x = rows(n, dtype)
        y = ruvector.entmax(x, alpha)
        assert y.dtype == dtype
        reference.within(y, entmax(x, alpha), entmax_bound(x, alpha), f"{alpha} {n}")
        if not reference.is_half(dtype):
            total = np.abs(y.astype(np.longdouble).sum(-1) - 1)
            assert (total <= 8 * reference.unit(dtype)).all(), n


@pytest.mark.parametrize("alpha", SEARCHED)
def test_searched_weights_are_optimal(isa, alpha):
    """On the support p^(alpha - 1) - (alpha - 1) x is one number, elsewhere (alpha - 1) x is no larger than that; the sum is 1."""
    for dtype in (np.float32, np.float64):
        u = reference.unit(np.dtype(dtype))
        for n in (1, 2, 15, 16, 17, 33, 257, 1000):
            x = rows(n, dtype, alpha)
            p = ruvector.entmax(x, alpha).astype(np.longdouble)
            assert (np.abs(p.sum(-1) - 1) <= 8 * u).all()
            z = np.longdouble(alpha - 1) * (x.astype(np.longdouble) - x.max(-1, keepdims=True))
            d = np.where(p > 0, p, 0) ** np.longdouble(alpha - 1)
            for row in range(len(x)):
                t = -d[row][np.argmax(x[row])]
                # z is off by u |z|, p by its exponential and logarithm, 8 u (1 + |log p|), alpha - 1 times of which are in d
                log = np.abs(np.log(np.where(p[row] > 0, p[row], 1)))
                lost = 8 * u * (1 + log) + np.finfo(dtype).smallest_subnormal / np.where(p[row] > 0, p[row], 1)
                slack = 4 * u + (alpha - 1) * (d[row] * lost + 16 * u)
                # weights below the least number are 0
                least = np.finfo(dtype).smallest_subnormal ** np.longdouble(alpha - 1)
                assert (np.where(p[row] > 0, np.abs(d[row] - (z[row] - t)), z[row] - t - least) <= slack).all(), (
                    alpha,
                    n,
                    row,
                )


def test_golden_values(isa):
    for dtype in (np.float32, np.float64):
        for function, x, expected in (
            (ruvector.entmax, [1, 2, 3, 4], [0, 0, 0.1692811, 0.8307189]),
            (ruvector.entmax, [1, 0.5, 0], [0.6241975, 0.2916667, 0.0841358]),
            (ruvector.sparsemax, [1, 0.5, 0], [0.75, 0.25, 0]),
        ):
            np.testing.assert_allclose(function(np.array(x, dtype)), expected, rtol=0, atol=1e-7)


def test_limits_of_alpha(isa):
    for dtype in (np.float32, np.float64):
        x = rows(100, dtype)
        assert same_bits(ruvector.entmax(x, 1), ruvector.softmax(x))
        assert same_bits(ruvector.entmax(x, 2), ruvector.sparsemax(x))
        soft, u = ruvector.softmax(x.astype(float)), reference.unit(np.dtype(dtype))
        for alpha in (1 + 1e-4, 1 + 1e-8):
            # (1 + (a - 1) w)^(1 / (a - 1)) = exp(w - (a - 1) w^2 / 2 ...), w = log p >= log of the smallest weight that counts
            near = ruvector.entmax(x, alpha)
            assert np.abs(near - soft).max() <= (alpha - 1) * 30 + 64 * u
        # bisection beside the closed forms
        for alpha in EXACT:
            either = [ruvector.entmax(x, a) for a in (alpha - 1e-9, alpha)]
            assert np.abs(either[0] - either[1]).max() <= 1e-7 + 64 * u


def test_nan_and_infinity_as_in_softmax(isa, dtype_name, dtype):
    for alpha in (1.5, 2, 1.3):
        for n in (1, 5, 33):
            x = np.stack([normal(n, dtype, "policy", i) for i in range(4)])
            x[1, n // 2], x[2, n // 2], x[3] = np.nan, np.inf, -np.inf
            y = ruvector.entmax(x, alpha)
            assert np.isnan(y[1:]).all()
            assert same_bits(y[0], ruvector.entmax(x[0], alpha))
            x = normal(n + 1, dtype, "hidden")
            x[0] = -np.inf
            y = ruvector.entmax(x, alpha)
            assert y[0] == 0
            assert (
                same_bits(y[1:].copy(), ruvector.entmax(x[1:], alpha))
                or n < 2
                or np.abs(y[1:].astype(float) - ruvector.entmax(x[1:], alpha).astype(float)).max() < 1e-6
            )


def test_axis_strides_out_and_threads(isa, threads):
    x = normal((6, 50, 40), np.float32, "axes")
    expected = ruvector.entmax(np.ascontiguousarray(np.moveaxis(x, 1, -1)))
    assert same_bits(np.moveaxis(ruvector.entmax(x, axis=1), 1, -1).copy(), expected)
    assert same_bits(ruvector.entmax(x[:, ::2], 1.3), ruvector.entmax(x[:, ::2].copy(), 1.3))
    out = np.empty_like(x)
    assert ruvector.entmax(x, out=out) is out
    assert same_bits(out, ruvector.entmax(x))
    own = x.copy()
    assert ruvector.sparsemax(own, out=own) is own
    assert same_bits(own, ruvector.sparsemax(x))
    assert ruvector.entmax([1, 2]).dtype == np.float64
    assert ruvector.entmax(np.empty((3, 0))).shape == (3, 0)
    large, results = normal((700, 300), np.float32, "threads"), []
    for n in (1, 2, 3):
        ruvector.set_num_threads(n)
        results.append(ruvector.entmax(large))
    assert all(same_bits(r, results[0]) for r in results)


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (ValueError, (0.5,), ("alpha", "0.5", "between 1 and 16")),
        (ValueError, (65,), ("alpha", "65")),
        (ValueError, (np.nan,), ("alpha",)),
        (TypeError, ("two",), ("alpha", "'two'")),
        (TypeError, (True,), ("alpha", "True")),
        (ValueError, (1.5, 3), ("axis 3", "(2, 3)")),
    ],
)
def test_bad_alpha_and_axis(kind, arguments, words):
    with pytest.raises(kind) as caught:
        ruvector.entmax(np.ones((2, 3)), *arguments)
    assert all(word in str(caught.value) for word in words), caught.value


def test_bad_arrays():
    for function in (ruvector.entmax, ruvector.sparsemax):
        with pytest.raises(TypeError, match="complex"):
            function(np.ones(3, complex))
        with pytest.raises(TypeError, match="float64"):
            function(np.ones(3, np.float32), out=np.ones(3))
        with pytest.raises(ValueError, match="at least one axis"):
            function(1.0)


@pytest.mark.peer
def test_against_the_entmax_package():
    torch, package = pytest.importorskip("torch"), pytest.importorskip("entmax")
    x = np.concatenate([rows(200, np.float64), normal((50, 200), np.float64, "peer")])
    for ours, theirs in (
        (ruvector.entmax(x), package.entmax15(torch.tensor(x), dim=-1)),
        (ruvector.sparsemax(x), package.sparsemax(torch.tensor(x), dim=-1)),
        (ruvector.entmax(x, 1.25), package.entmax_bisect(torch.tensor(x), 1.25, dim=-1, n_iter=80)),
        (ruvector.entmax(x, 2.5), package.entmax_bisect(torch.tensor(x), 2.5, dim=-1, n_iter=80)),
    ):
        # its sums are in float64 throughout: cumulative sums of up to 200 elements
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-7)
