"""Top-k, routing to experts, the layer of experts and attention over expert heads, on every ISA and dtype."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import reference
import ruvector
from support import DTYPES, check_python, generator, normal, same_bits

ORDERS = (
    {"order": "softmax_topk", "normalize": True},
    {"order": "softmax_topk", "normalize": False},
    {"order": "topk_softmax", "normalize": True},
    {"order": "topk_softmax", "normalize": False},
)
# Around the lanes of every ISA, the 32 columns and the 64 places of the kernels.
WIDTHS = (
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    9,
    12,
    15,
    16,
    17,
    24,
    31,
    32,
    33,
    47,
    48,
    63,
    64,
    65,
    95,
    127,
    128,
    129,
    255,
    256,
    257,
    300,
)


FEWER_WIDTHS = (1, 2, 3, 5, 8, 12, 16, 17, 32, 33, 63, 64, 65, 128, 256, 300)


def counts(n):
    """Experts a token: around every change of method, and all of them."""
    return [k for k in sorted({1, 2, 3, 4, 5, 8, 9, 16, 17, n - 1, n}) if 1 <= k <= n]


def logit_rows(kind, rows, n, dtype, *seed):
    """What a router may give: independent logits, many equal ones, hidden experts, growing and falling rows."""
    rng = generator("logits", kind, n, *seed)
    if kind == "normal":
        x = rng.standard_normal((rows, n))
    elif kind == "ties":
        x = rng.integers(-2, 2, (rows, n), endpoint=True)
    elif kind == "hidden":
        x = np.where(rng.random((rows, n)) < 0.5, -np.inf, rng.standard_normal((rows, n)))
        x[:, rng.integers(n)] = 0.5
        x[rows // 2] = -np.inf
        x[rows // 2, n // 2] = 1
    elif kind == "sorted":
        x = np.sort(rng.standard_normal((rows, n)), axis=-1)
        x[::2] = x[::2, ::-1]
    else:
        x = rng.standard_normal((rows, n)) * 30
    return x.astype(dtype)


KINDS = ("normal", "ties", "hidden", "sorted", "far")


def same_numbers(a, b):
    """Equal with all NaN alike."""
    return a.dtype == b.dtype and np.array_equal(a.astype(float), b.astype(float), equal_nan=True)


def other_byte_order(x):
    """The same numbers in the other byte order; bfloat16 has none."""
    return x if x.dtype == reference.BFLOAT16 else x.astype(x.dtype.newbyteorder())


def check_gating(logits, k, options, what):
    indices, weights = ruvector.top_k_gating(logits, k, **options)
    expected, exact, bound = reference.top_k_gating(logits, k, **options)
    assert indices.dtype == np.int64
    assert weights.dtype == logits.dtype
    np.testing.assert_array_equal(indices, expected, err_msg=what)
    reference.within(weights, exact, bound, what)
    return indices, weights


# topk ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_topk_is_the_stable_order_of_the_definition(isa, dtype_name, dtype, kind):
    for n in WIDTHS:
        x = logit_rows(kind, 37, n, dtype, "topk")
        for k in counts(n):
            values, indices = ruvector.topk(x, k)
            exact, order = reference.topk(x, k)
            assert values.dtype == dtype
            assert indices.dtype == np.int64
            np.testing.assert_array_equal(indices, order, err_msg=f"{n}, {k}")
            assert same_bits(values, exact), f"{n}, {k}"


def test_topk_of_every_number_of_rows(isa):
    """Tiles of rows end anywhere."""
    for n, k in ((1, 1), (2, 2), (8, 2), (5, 1), (64, 2), (16, 8), (40, 3), (100, 2), (100, 16), (33, 20)):
        x = logit_rows("normal", 70, n, np.float32, "rows")
        exact, order = reference.topk(x, k)
        for rows in range(0, 70, 1 if n < 9 else 7):
            values, indices = ruvector.topk(x[:rows], k)
            np.testing.assert_array_equal(indices, order[:rows])
            assert same_bits(values, exact[:rows])


def test_topk_of_long_rows(isa, dtype_name, dtype):
    for n in (1000, 4099, 70001):
        x = normal((2, n), dtype, "long", n)
        for k in (1, 2, 10, 16, 17, 300, *((n,) if n < 5000 else ())):
            exact, order = reference.topk(x, k)
            values, indices = ruvector.topk(x, k)
            np.testing.assert_array_equal(indices, order, err_msg=f"{n}, {k}")
            assert same_bits(values, exact)


def test_equal_elements_keep_their_order(isa, dtype_name, dtype):
    for n in FEWER_WIDTHS:
        for value in (0.0, -1.5, -np.inf, np.inf, np.nan):
            x = np.full((5, n), value, dtype)
            for k in counts(n):
                values, indices = ruvector.topk(x, k)
                np.testing.assert_array_equal(
                    indices, np.broadcast_to(np.arange(k), (5, k)), err_msg=f"{n}, {k}, {value}"
                )
                assert same_numbers(values, x[:, :k])
    # one larger element among many equal ones, more of them than there is room for candidates
    for n, at in itertools.product((66, 200, 300), (0, 1, 64, 65)):
        x = np.zeros((3, n), dtype)
        x[:, at] = 1
        for k in (1, 2, 5, 16, 20):
            rest = [i for i in range(n) if i != at][: k - 1]
            np.testing.assert_array_equal(ruvector.topk(x, k)[1], np.broadcast_to([at, *rest], (3, k)))


def test_zeros_of_both_signs_are_equal(isa, dtype_name, dtype):
    for n in (2, 8, 33, 64, 100, 300):
        x = np.zeros((4, n), dtype)
        x[:, ::2] = -0.0
        for k in counts(n):
            values, indices = ruvector.topk(x, k)
            np.testing.assert_array_equal(indices, np.broadcast_to(np.arange(k), (4, k)))
            assert same_bits(values, x[:, :k].copy())


def test_topk_puts_nan_above_every_number(isa, dtype_name, dtype):
    for n in WIDTHS:
        x = logit_rows("normal", 33, n, dtype, "nan")
        x[generator("nan", n).random(x.shape) < 2 / n] = np.nan
        x[3, n // 2] = np.inf
        for k in counts(n):
            exact, order = reference.topk(x, k)
            values, indices = ruvector.topk(x, k)
            np.testing.assert_array_equal(indices, order, err_msg=f"{n}, {k}")
            assert same_numbers(values, exact)
    values, indices = ruvector.topk([2.0, np.nan, np.inf, np.nan, 3.0], 4)
    np.testing.assert_array_equal(indices, [1, 3, 2, 4])
    assert indices[0] == np.argmax([2.0, np.nan, np.inf, np.nan, 3.0])


def test_topk_works_along_any_axis_of_any_array(isa, dtype_name, dtype):
    x = normal((4, 5, 6, 7), dtype, "axes")
    for axis in range(-4, 4):
        values, indices = ruvector.topk(x, 3, axis)
        exact, order = reference.topk(np.moveaxis(x, axis, -1), 3)
        np.testing.assert_array_equal(indices, np.moveaxis(order, -1, axis))
        np.testing.assert_array_equal(values, np.take_along_axis(x, indices, axis))
        assert values.shape == np.moveaxis(exact, -1, axis).shape
    for view in (x[..., ::2], x[::-1], x.T, np.asfortranarray(x), other_byte_order(x)):
        values, indices = ruvector.topk(view, 2)
        plain = ruvector.topk(np.ascontiguousarray(view, dtype), 2)
        assert same_bits(values, plain[0])
        assert same_bits(indices, plain[1])
    assert ruvector.topk(x[:0], 2)[1].shape == (0, 5, 6, 2)


def test_topk_of_lists_integers_and_booleans_is_float64(isa):
    values, indices = ruvector.topk([3, 1, 2], 2)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, [3, 2])
    np.testing.assert_array_equal(indices, [0, 2])
    np.testing.assert_array_equal(ruvector.topk(np.array([False, True, True]), 2)[1], [1, 2])
    np.testing.assert_array_equal(ruvector.topk(np.arange(5, dtype=np.uint8), np.int64(2))[1], [4, 3])


# top_k_gating --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", ORDERS[:2], ids=("normalized", "shares"))
def test_gating_is_within_the_bound_of_a_softmax(isa, dtype_name, dtype, options, kind):
    for n in FEWER_WIDTHS:
        logits = logit_rows(kind, 35, n, dtype, "gating")
        for k in counts(n):
            check_gating(logits, k, options, f"{n}, {k}")


@pytest.mark.parametrize("dtype_name", ("float32", "float64"))
def test_gating_of_many_rows_is_within_the_bound(isa, dtype_name):
    """Thousands of rows of near-equal logits, where nothing but rounding is left."""
    for n, k in ((8, 2), (8, 4), (64, 2), (64, 8), (256, 2), (256, 16), (256, 40)):
        scale = np.repeat([0.01, 0.3, 1, 4], 250)[:, None]
        logits = (generator("many", n, k).standard_normal((1000, n)) * scale).astype(DTYPES[dtype_name])
        for options in ORDERS[:2]:
            check_gating(logits, k, options, f"{n}, {k}, {options}")


def test_normalized_weights_sum_to_one_and_shares_to_less(isa):
    for n, k in ((8, 2), (64, 6), (256, 8), (300, 300)):
        logits = logit_rows("normal", 50, n, np.float32, "sums")
        weights = ruvector.top_k_gating(logits, k)[1]
        shares = ruvector.top_k_gating(logits, k, normalize=False)[1]
        for row, share in zip(weights.tolist(), shares.tolist()):
            assert abs(math.fsum(row) - 1) <= 8 * reference.unit(np.float32)
            assert (row == sorted(row, reverse=True)) and (share == sorted(share, reverse=True))
            assert math.fsum(share) < 1 if k < n else abs(math.fsum(share) - 1) <= 8 * reference.unit(np.float32)


def test_the_options_of_gating(isa, dtype_name, dtype):
    logits = logit_rows("normal", 9, 16, dtype, "options")
    plain = ruvector.top_k_gating(logits, 3)
    # normalised weights are those of a softmax over the chosen: the same numbers by definition
    for options in ORDERS:
        indices, weights = ruvector.top_k_gating(logits, 3, **options)
        assert same_bits(indices, plain[0])
        same = options["normalize"] or options["order"] == "topk_softmax"
        assert same_bits(weights, plain[1]) == same, options
    assert same_bits(ruvector.top_k_gating(logits)[0], ruvector.top_k_gating(logits, 2)[0])
    for k in range(1, 17):
        assert ruvector.top_k_gating(logits, k)[1].shape == (9, k)


def test_all_experts_are_the_softmax_in_order(isa, dtype_name, dtype):
    for n in (1, 8, 16, 33, 64, 256, 300):
        logits = logit_rows("normal", 11, n, dtype, "all")
        indices, weights = ruvector.top_k_gating(logits, n)
        shares = ruvector.top_k_gating(logits, n, normalize=False)[1]
        np.testing.assert_array_equal(np.sort(indices, -1), np.broadcast_to(np.arange(n), (11, n)))
        exact = np.take_along_axis(reference.softmax(logits), indices, -1)
        bound = np.take_along_axis(reference.softmax_bound(logits), indices, -1)
        reference.within(weights, exact, bound)
        reference.within(shares, exact, bound)


@pytest.mark.parametrize("options", ORDERS[:2], ids=("normalized", "shares"))
def test_a_row_of_nan_poisons_itself_only(isa, dtype_name, dtype, options):
    for n in (1, 2, 5, 8, 16, 33, 64, 65, 128, 256, 300):
        logits = logit_rows("normal", 40, n, dtype, "poison")
        for k in counts(n):
            clean = ruvector.top_k_gating(logits, k, **options)
            bad = logits.copy()
            rows = [0, 7, 15, 16, 39]
            for i, r in enumerate(rows):
                bad[r, (i * 7) % n] = np.nan
            indices, weights = ruvector.top_k_gating(bad, k, **options)
            assert np.isnan(weights[rows]).all(), f"{n}, {k}"
            np.testing.assert_array_equal(indices[rows], np.broadcast_to(np.arange(k), (5, k)))
            others = np.delete(np.arange(40), rows)
            assert same_bits(weights[others], clean[1][others])
            assert same_bits(indices[others], clean[0][others])


@pytest.mark.parametrize("options", ORDERS[:2], ids=("normalized", "shares"))
def test_infinite_logits(isa, dtype_name, dtype, options):
    """-inf hides an expert; where the largest logit is infinite, the softmax of the definition is NaN."""
    for n in (3, 8, 16, 33, 64, 65, 256, 300):
        logits = logit_rows("normal", 4, n, dtype, "infinite")
        logits[1, n // 2] = np.inf
        logits[2] = -np.inf
        logits[3, 1:] = -np.inf
        for k in counts(n):
            indices, weights = check_gating(logits, k, options, f"{n}, {k}")
            assert indices[1, 0] == n // 2
            assert np.isnan(weights[1:3]).all()
            np.testing.assert_array_equal(indices[2:], np.broadcast_to(np.arange(k), (2, k)))
            np.testing.assert_array_equal(weights[3], np.eye(1, k)[0])


def test_large_and_small_logits_neither_overflow_nor_vanish(isa):
    top = np.finfo(np.float32).max
    for n in (4, 40, 300):
        logits = np.full((2, n), -top, np.float32)
        logits[0, 2:4] = top
        logits[1, :2] = np.float32(1e-40), np.float32(2e-40)
        indices, weights = ruvector.top_k_gating(logits, 3)
        np.testing.assert_array_equal(indices, [[2, 3, 0], [1, 0, 2]])
        np.testing.assert_array_equal(weights, [[0.5, 0.5, 0], [0.5, 0.5, 0]])


def test_gating_of_a_row_does_not_depend_on_the_others(isa, dtype_name, dtype):
    for n in (3, 8, 16, 40, 64, 100, 256):
        logits = logit_rows("normal", 37, n, dtype, "alone")
        logits[::5, 0] = np.nan
        for k in counts(n):
            for options in ORDERS[:2]:
                together = ruvector.top_k_gating(logits, k, **options)
                for i in (0, 1, 17, 36):
                    alone = ruvector.top_k_gating(logits[i], k, **options)
                    assert all(same_bits(a, t[i]) for a, t in zip(alone, together)), f"{n}, {k}, row {i}"


def test_the_number_of_threads_does_not_change_a_bit(isa, dtype_name, dtype, threads):
    for n, k in ((8, 2), (64, 2), (256, 2), (200, 8), (300, 40)):
        logits = normal((600_000 // n, n), dtype, "threads")  # more than a megabyte in 16 bits
        results = []
        for count in (1, 2, 3, 8):
            ruvector.set_num_threads(count)
            results.append((*ruvector.top_k_gating(logits, k), *ruvector.topk(logits, k)))
        for other in results[1:]:
            assert all(itertools.starmap(same_bits, zip(other, results[0], strict=True)))


def test_gating_accepts_any_array(isa, dtype_name, dtype):
    logits = logit_rows("normal", 24, 20, dtype, "views")
    expected = ruvector.top_k_gating(logits, 3)
    padded = np.zeros((24, 33), dtype)
    padded[:, 5:25] = logits
    deep = logits.reshape(2, 3, 4, 20)
    for view in (padded[:, 5:25], np.asfortranarray(logits), other_byte_order(logits)):
        assert all(itertools.starmap(same_bits, zip(ruvector.top_k_gating(view, 3), expected, strict=True)))
    indices, weights = ruvector.top_k_gating(deep, 3)
    assert same_bits(indices, expected[0].reshape(2, 3, 4, 3))
    assert same_bits(weights, expected[1].reshape(2, 3, 4, 3))
    assert ruvector.top_k_gating(logits[:0], 3)[1].shape == (0, 3)
    assert ruvector.top_k_gating([1, 2, 3])[1].dtype == np.float64


# The gate ------------------------------------------------------------------------------------------------------------


def test_default_gate_is_that_of_splitmix64():
    for dim, experts in ((1, 1), (3, 8), (64, 4), (33, 5)):
        weights = ruvector.gate_weights(dim, experts)
        assert weights.dtype == np.float64
        # a, in either way of taking a root, is off by at most 1 ULP
        np.testing.assert_allclose(weights, reference.gate_weights(dim, experts), rtol=2**-51, atol=0)
        assert np.abs(weights).max() < math.sqrt(6 / (dim + experts))
    assert ruvector.gate_weights(5).shape == (5, 8)
    np.testing.assert_allclose(ruvector.gate_weights(768, 8).std(), math.sqrt(2 / 776), rtol=0.02)
    assert abs(ruvector.gate_weights(768, 8).mean()) < 4 * math.sqrt(2 / 776 / 6144)


def test_gate_of_a_seed():
    plain = ruvector.gate_weights(16, 4)
    seed = int(np.random.default_rng(5).integers(2**63))
    np.testing.assert_allclose(ruvector.gate_weights(16, 4, rng=5), reference.gate_weights(16, 4, seed), rtol=2**-51)
    assert not np.array_equal(ruvector.gate_weights(16, 4, rng=5), plain)
    rng = np.random.default_rng(5)
    assert same_bits(ruvector.gate_weights(16, 4, rng=rng), ruvector.gate_weights(16, 4, rng=5))
    assert not same_bits(ruvector.gate_weights(16, 4, rng=rng), ruvector.gate_weights(16, 4, rng=5))


def test_default_gate_is_the_same_in_every_process(isa):
    code = "import ruvector; print(ruvector.gate_weights(7, 3).tobytes().hex())"
    assert check_python(code).strip() == ruvector.gate_weights(7, 3).tobytes().hex()


# moe_route -----------------------------------------------------------------------------------------------------------


def exact_case(dtype, shape=(40, 12), experts=8, *seed):
    """Integers whose products and sums are exact in every dtype, and the logits they give."""
    rng = generator("exact", *shape, experts, *seed)
    x = rng.integers(-3, 3, shape, endpoint=True)
    gate = rng.integers(-2, 2, (shape[-1], experts), endpoint=True) / 4
    return x.astype(dtype), gate.astype(dtype), (x @ gate).astype(np.float64)


def test_route_is_the_gating_of_the_logits(isa, dtype_name, dtype):
    for shape, experts, k in (((40, 12), 8, 2), ((12,), 5, 3), ((2, 3, 7), 4, 1), ((9, 5), 70, 4), ((0, 4), 3, 2)):
        x, gate, logits = exact_case(dtype, shape, experts)
        for options in ORDERS:
            routing = ruvector.moe_route(x, experts, k, gate=gate, **options)
            indices, exact, bound = reference.top_k_gating(logits.astype(reference.unit_dtype(dtype)), k, **options)
            assert routing.indices.shape == routing.weights.shape == (*shape[:-1], k)
            assert routing.weights.dtype == dtype
            np.testing.assert_array_equal(routing.indices, indices)
            if reference.is_half(dtype):
                bound = bound + reference.storage_unit(dtype) * exact + reference.smallest(dtype)
            reference.within(routing.weights, exact, bound, f"{shape} {options}")
            np.testing.assert_array_equal(routing.logits, logits)
            a, b = routing
            assert a is routing.indices
            assert b is routing.weights


def test_route_of_random_embeddings(isa, dtype_name, dtype):
    """Routing in the type of the arithmetic against float64, where no two experts are closer than rounding."""
    for dim, experts, k in ((64, 4, 2), (768, 8, 2), (33, 64, 6)):
        x, gate = normal((50, dim), dtype, "embedding"), normal((dim, experts), dtype, "gate", scale=dim**-0.5)
        logits = reference.wide(x) @ reference.wide(gate)
        u = reference.unit(dtype) * reference.share(dtype)
        moved = (dim + 2) * u * (np.abs(reference.wide(x)) @ np.abs(reference.wide(gate))).max(-1, keepdims=True)
        order = np.sort(logits, -1)[:, ::-1]
        assert (order[:, k - 1] - order[:, k] > 2 * moved[:, 0]).all(), "choose other data"
        indices, exact, _ = reference.top_k_gating(logits, k)
        routing = ruvector.moe_route(x, experts, k, gate=gate)
        np.testing.assert_array_equal(np.sort(routing.indices, -1), np.sort(indices, -1))
        if (np.diff(order[:, : k + 1]) < -2 * moved).all():
            np.testing.assert_array_equal(routing.indices, indices)
        bound = exact * (2 * moved + u * (4 + order[:, :1] - order[:, -1:]))
        if reference.is_half(dtype):
            bound = bound + reference.storage_unit(dtype) * exact
        weight = np.take_along_axis(routing.weights, np.argsort(routing.indices, -1), -1)
        sort = np.argsort(indices, -1)
        reference.within(weight, np.take_along_axis(exact, sort, -1), np.take_along_axis(bound, sort, -1), f"{dim}")


def test_route_without_a_gate_uses_the_fixed_one(isa, dtype_name, dtype):
    x = normal((6, 24), dtype, "default")
    routing = ruvector.moe_route(x)
    working = reference.unit_dtype(dtype)
    gate = ruvector.gate_weights(24, 8).astype(working)
    explicit = ruvector.moe_route(x.astype(working), 8, 2, gate=gate)
    np.testing.assert_array_equal(routing.indices, explicit.indices)
    assert same_bits(routing.logits, explicit.logits)
    assert routing.weights.dtype == dtype
    assert same_bits(routing.weights, explicit.weights.astype(dtype))
    for experts, k in ((4, 2), (3, 1)):
        assert ruvector.moe_route(x, experts, k).indices.max() < experts
    assert not same_bits(ruvector.moe_route(x, gate=ruvector.gate_weights(24, 8, rng=1)).weights, routing.weights)


def test_route_promotes_as_numpy_does(isa):
    x, gate = normal((3, 8), np.float32, "x"), normal((8, 4), np.float64, "gate")
    assert ruvector.moe_route(x, 4, gate=gate).weights.dtype == np.float64
    assert ruvector.moe_route(x, 4, gate=gate.astype(np.float16)).weights.dtype == np.float32
    assert ruvector.moe_route([1, 2, 3], 4).weights.dtype == np.float64
    assert same_bits(ruvector.moe_route(x[:, ::-1][:, ::-1], 4).weights, ruvector.moe_route(x, 4).weights)


def test_route_through_a_callable_gate(isa, dtype_name, dtype):
    x, gate, logits = exact_case(dtype)
    seen = []

    def network(tokens):
        seen.append((tokens.shape, tokens.dtype))
        return logits + 1

    routing = ruvector.moe_route(x.reshape(2, 20, 12), gate=network)
    assert seen == [((40, 12), dtype)]
    assert same_bits(routing.indices, ruvector.moe_route(x, gate=gate).indices.reshape(2, 20, 2))
    np.testing.assert_array_equal(routing.logits.reshape(40, 8), logits + 1)
    with pytest.raises(ValueError, match=r"gate\(tokens\).*\(40, 8\).*\(40, 7\)"):
        ruvector.moe_route(x, gate=lambda tokens: logits[:, :7])


def test_nan_in_an_embedding_or_a_gate(isa, dtype_name, dtype):
    x, gate, _ = exact_case(dtype)
    plain = ruvector.moe_route(x, gate=gate)
    x[5, 3] = np.nan
    routing = ruvector.moe_route(x, gate=gate)
    assert np.isnan(routing.weights[5]).all()
    np.testing.assert_array_equal(routing.indices[5], [0, 1])
    assert same_bits(np.delete(routing.weights, 5, 0), np.delete(plain.weights, 5, 0))
    gate[0, 0] = np.nan
    routing = ruvector.moe_route(x, gate=gate)
    assert np.isnan(routing.weights).all()
    np.testing.assert_array_equal(routing.indices, np.broadcast_to([0, 1], (40, 2)))


def test_jitter_moves_the_input_of_the_router_in_training_only(isa):
    x, gate = normal((30, 16), np.float32, "jitter"), normal((16, 8), np.float32, "gate")
    plain = ruvector.moe_route(x, gate=gate)
    for options in ({"jitter": 0.3}, {"jitter": 0.3, "rng": 1}, {"training": True}, {"training": True, "rng": 1}):
        assert same_bits(ruvector.moe_route(x, gate=gate, **options).weights, plain.weights), options
    moved = ruvector.moe_route(x, gate=gate, jitter=0.3, training=True, rng=7)
    noise = np.random.default_rng(7).uniform(0.7, 1.3, x.shape).astype(np.float32)
    by_hand = ruvector.moe_route(x * noise, gate=gate)
    assert same_bits(moved.weights, by_hand.weights)
    assert same_bits(moved.indices, by_hand.indices)
    assert not same_bits(moved.weights, plain.weights)
    rng = np.random.default_rng(7)
    assert same_bits(ruvector.moe_route(x, gate=gate, jitter=0.3, training=True, rng=rng).weights, moved.weights)
    assert not same_bits(ruvector.moe_route(x, gate=gate, jitter=0.3, training=True, rng=rng).weights, moved.weights)
    before = np.random.get_state()[1].copy()
    ruvector.moe_route(x, gate=gate, jitter=0.3, training=True, rng=7)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    with pytest.raises(ValueError, match="rng"):
        ruvector.moe_route(x, jitter=0.3, training=True)


def test_different_tokens_may_go_to_different_experts(isa):
    routing = ruvector.moe_route(normal((400, 32), np.float32, "spread"))
    assert (routing.load.counts > 0).all()
    assert same_bits(routing.weights, ruvector.moe_route(normal((400, 32), np.float32, "spread")).weights)


def test_a_routing_can_be_copied_and_pickled(isa):
    routing = ruvector.moe_route(normal((5, 8), np.float32, "pickle"), capacity_factor=1.0)
    for other in (copy.copy(routing), copy.deepcopy(routing), pickle.loads(pickle.dumps(routing))):
        assert all(itertools.starmap(same_bits, zip(other, routing, strict=True)))
        assert other.capacity == routing.capacity
        np.testing.assert_array_equal(other.load.dropped, routing.load.dropped)
    with pytest.raises(AttributeError):
        routing.weights = None


# Capacity ------------------------------------------------------------------------------------------------------------


def test_expert_capacity_is_the_formula():
    for tokens, experts, k, factor, expected in (
        (512, 8, 2, 1.25, 160),
        (10, 4, 2, 1.25, 7),
        (10, 4, 1, 1.0, 3),
        (1, 8, 2, 1.25, 1),
        (0, 8, 2, 1.25, 0),
        (100, 3, 3, 0.5, 50),
        (7, 7, 7, 2.0, 14),
    ):
        assert ruvector.expert_capacity(tokens, experts, k, factor) == expected
        assert expected == math.ceil(k * tokens / experts * factor)
    assert ruvector.expert_capacity(512, 8) == 80


@pytest.mark.parametrize("factor", (0.25, 0.5, 1.0, 1.25, 2.0, 100.0))
def test_capacity_drops_in_the_order_of_the_tokens_and_says_which(isa, factor):
    for shape, experts, k in (((60, 12), 4, 2), ((5, 6, 12), 8, 3), ((30, 12), 3, 1), ((1, 12), 8, 8), ((0, 12), 8, 2)):
        x, gate, _ = exact_case(np.float32, shape, experts, "capacity")
        free = ruvector.moe_route(x, experts, k, gate=gate)
        routing = ruvector.moe_route(x, experts, k, gate=gate, capacity_factor=factor)
        tokens = math.prod(shape[:-1])
        capacity = math.ceil(k * tokens / experts * factor)
        kept = reference.kept(free.indices.reshape(-1, k), capacity).reshape(free.indices.shape)
        assert routing.capacity == routing.load.capacity == capacity
        assert same_bits(routing.indices, free.indices)
        np.testing.assert_array_equal(routing.load.kept, kept)
        assert routing.load.kept.dtype == bool
        np.testing.assert_array_equal(routing.weights, np.where(kept, free.weights, 0))
        np.testing.assert_array_equal(routing.load.counts, np.bincount(free.indices.ravel(), minlength=experts))
        np.testing.assert_array_equal(routing.load.dropped, np.flatnonzero(~kept.reshape(tokens, k).all(1)))
        taken = np.bincount(free.indices[kept], minlength=experts)
        np.testing.assert_array_equal(taken, np.minimum(routing.load.counts, capacity))
        assert free.capacity is None
        assert free.load.kept.all()
        assert free.load.dropped.size == 0


def test_early_tokens_are_served_first():
    x = np.eye(2)[[0] * 6 + [1] * 2]
    routing = ruvector.moe_route(x, 2, 1, gate=np.eye(2) * 4, capacity_factor=1.0)
    np.testing.assert_array_equal(routing.load.kept[:, 0], [True] * 4 + [False] * 2 + [True] * 2)
    np.testing.assert_array_equal(routing.load.counts, [6, 2])
    np.testing.assert_array_equal(routing.load.dropped, [4, 5])
    np.testing.assert_array_equal(routing.weights[:, 0], [1, 1, 1, 1, 0, 0, 1, 1])


def test_the_choices_of_a_token_stand_together():
    """Not in GShard's order, where every first choice comes before any second one."""
    x = np.array([[2.0, 1.0], [1.0, 2.0]])
    routing = ruvector.moe_route(x, 2, 2, gate=np.eye(2), capacity_factor=0.5)
    np.testing.assert_array_equal(routing.indices, [[0, 1], [1, 0]])
    np.testing.assert_array_equal(routing.load.kept, [[True, True], [False, False]])


# Losses --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experts", (1, 2, 4, 8, 64))
def test_switch_loss_of_uniform_routing_is_one(experts):
    for k in {1, 2, experts} & set(range(1, experts + 1)):
        indices = (np.arange(experts * 4)[:, None] * k + np.arange(k)) % experts
        for dtype in DTYPES.values():
            assert ruvector.load_balancing_loss(np.full((experts * 4, experts), 1 / experts, dtype), indices) == 1.0
    # f even and P whatever, or P even and f whatever: still 1
    p = reference.softmax(normal((experts * 4, experts), np.float64, "any")).astype(float)
    assert ruvector.load_balancing_loss(p, np.arange(experts * 4)[:, None] % experts) == pytest.approx(1, abs=1e-14)
    even = np.full((7, experts), 1 / experts)
    assert ruvector.load_balancing_loss(even, np.zeros((7, 1), int)) == pytest.approx(1, abs=1e-14)


def test_switch_loss_is_its_definition(isa):
    for tokens, experts, k in ((10, 4, 2), (50, 8, 1), (33, 3, 3)):
        x = normal((tokens, 16), np.float32, "loss")
        routing = ruvector.moe_route(x, experts, k)
        p = reference.softmax(routing.logits).astype(float)
        share = np.array([(routing.indices == e).sum() for e in range(experts)]) / (tokens * k)
        exact = experts * (share * p.mean(0)).sum()
        assert routing.load_balancing_loss == pytest.approx(exact, rel=1e-6)
        assert routing.load_balancing_loss == ruvector.load_balancing_loss(routing.probabilities, routing.indices)
        assert routing.load_balancing_loss > 0
        np.testing.assert_allclose(routing.fractions, share, rtol=1e-15)
        reference.within(routing.probabilities, p, reference.softmax_bound(routing.logits))
        # axes do not matter
        assert ruvector.load_balancing_loss(p[None], routing.indices[None]) == pytest.approx(exact, rel=1e-14)
    one = np.eye(1, 8).repeat(5, 0)
    assert ruvector.load_balancing_loss(one, np.zeros((5, 1), int)) == 8.0


def test_z_loss_is_the_mean_square_of_the_log_sum_exp(isa):
    for dtype_name in ("float32", "float64", "float16"):
        for shift in (0, 30, -80):
            logits = (normal((20, 9), DTYPES[dtype_name], "z") + shift).astype(DTYPES[dtype_name])
            wide = logits.astype(np.longdouble)
            exact = (np.log(np.exp(wide).sum(-1)) ** 2).mean()
            assert ruvector.router_z_loss(logits) == pytest.approx(
                float(exact), rel=1e-14 if "64" in dtype_name else 1e-6
            )
    assert ruvector.router_z_loss(np.zeros((3, 8))) == pytest.approx(math.log(8) ** 2, rel=1e-15)
    routing = ruvector.moe_route(normal((4, 8), np.float64, "z of a routing"))
    assert routing.z_loss == ruvector.router_z_loss(routing.logits)


def test_router_statistics(isa):
    """Two experts of four a query, their weights sum to 1, the shares of the experts too; the loss is at least 0."""
    router = ruvector.MixtureOfExperts(4, 2)
    single = router.route(normal(64, np.float64, "one query"))
    assert single.indices.shape == single.weights.shape == (2,)
    assert math.fsum(single.weights) == pytest.approx(1, abs=1e-5)
    routing = router.route(normal((10, 64), np.float64, "ten queries"))
    assert routing.fractions.shape == (4,)
    assert routing.fractions.sum() == pytest.approx(1)
    assert routing.load_balancing_loss >= 0


# MixtureOfExperts ----------------------------------------------------------------------------------------------------


def dense_mixture(x, logits, k, experts, capacity=None, **options):
    """The sum over all experts of what each gives every token, weighted: no grouping."""
    indices, weights, _ = reference.top_k_gating(logits, k, **options)
    if capacity is not None:
        weights = np.where(reference.kept(indices, capacity), weights, 0)
    results = np.stack([np.asarray(expert(x), np.float64) for expert in experts], 1)
    return (weights[..., None] * np.take_along_axis(results, indices[..., None], 1)).sum(1)


@pytest.mark.parametrize("options", ORDERS[:2], ids=("normalized", "shares"))
@pytest.mark.parametrize("factor", (None, 0.5, 1.25))
def test_layer_is_the_weighted_sum_of_its_experts(isa, dtype_name, dtype, factor, options):
    for tokens, experts, k in ((40, 8, 2), (7, 4, 4), (33, 5, 1), (1, 3, 2)):
        x, gate, logits = exact_case(dtype, (tokens, 12), experts, "layer")
        weights = generator("experts", experts).integers(-2, 2, (experts, 12, 6), endpoint=True).astype(dtype) / 4
        weights = weights.astype(dtype)
        layer = ruvector.MixtureOfExperts(experts, k, gate=gate, experts=weights, capacity_factor=factor, **options)
        capacity = None if factor is None else ruvector.expert_capacity(tokens, experts, k, factor)
        functions = [lambda t, w=w: t.astype(float) @ w.astype(float) for w in weights]
        exact = dense_mixture(x, logits, k, functions, capacity, **options)
        largest = np.abs(np.stack([f(x) for f in functions])).max(0)
        # products are exact: what rounds are the weights, their products and sums, and the storage
        bound = reference.unit(dtype) * (12 + k + np.ptp(logits, -1)[:, None]) * largest
        if reference.is_half(dtype):
            bound = bound + 2 * reference.storage_unit(dtype) * largest
        out, routing = layer(x, return_routing=True)
        assert out.dtype == dtype
        assert out.shape == (tokens, 6)
        reference.within(out, exact, bound + reference.smallest(dtype), f"{tokens} {experts} {k}")
        assert same_bits(routing.weights, layer.route(x).weights)
        assert routing.capacity == capacity
        assert same_bits(layer.forward(x), out)
        assert same_bits(layer(x.reshape(1, tokens, 12)), out[None])
        by_callables = ruvector.MixtureOfExperts(
            experts,
            k,
            gate=gate,
            experts=[lambda t, w=w: (t.astype(float) @ w.astype(float)).astype(dtype) for w in weights],
            capacity_factor=factor,
            **options,
        )
        assert by_callables(x).dtype == dtype
        reference.within(by_callables(x), exact, 2 * bound + reference.smallest(dtype), "callables")


def test_each_expert_works_once_on_its_tokens_in_their_order(isa):
    calls = []

    def expert(e):
        def run(tokens):
            calls.append((e, tokens.copy()))
            return tokens * (e + 1)

        return run

    x, gate, _ = exact_case(np.float32, (30, 12), 5, "calls")
    gate[:, 3] = 0
    gate[0, 3] = -100
    x[:, 0] = 1
    layer = ruvector.MixtureOfExperts(5, 2, gate=gate, experts=[expert(e) for e in range(5)])
    out, routing = layer(x, return_routing=True)
    assert [e for e, _ in calls] == [0, 1, 2, 4], "an expert without tokens is not called"
    for e, tokens in calls:
        np.testing.assert_array_equal(tokens, x[(routing.indices == e).any(-1)])
    np.testing.assert_allclose(out, (routing.weights * (routing.indices + 1)).sum(-1)[:, None] * x, rtol=1e-6)


def test_dropped_tokens_are_zero_and_their_experts_do_not_see_them(isa):
    x = np.ones((6, 2), np.float32) * [[1], [2], [3], [4], [5], [np.nan]]
    x[:, 1] = 0
    seen = []
    experts = [lambda t: seen.append(t.copy()) or t * 2, lambda t: t]
    layer = ruvector.MixtureOfExperts(2, 1, gate=np.eye(2), experts=experts, capacity_factor=1.0)
    out, routing = layer(x, return_routing=True)
    np.testing.assert_array_equal(seen[0], x[:3])
    np.testing.assert_array_equal(out[:3], 2 * x[:3])
    np.testing.assert_array_equal(out[3:], np.zeros((3, 2)))
    np.testing.assert_array_equal(routing.load.dropped, [3, 4, 5])


def test_nan_in_a_token_stays_in_its_row(isa, dtype_name, dtype):
    x, gate, _ = exact_case(dtype, (20, 12), 4, "layer nan")
    layer = ruvector.MixtureOfExperts(4, 2, gate=gate, experts=normal((4, 12, 3), dtype, "w"))
    clean = layer(x)
    x[7, 2] = np.nan
    out = layer(x)
    assert np.isnan(out[7]).all()
    assert np.isfinite(np.delete(out, 7, 0)).all()
    np.testing.assert_allclose(
        np.delete(out, 7, 0).astype(float), np.delete(clean, 7, 0).astype(float), rtol=1e-2, atol=1e-2
    )


def test_layer_of_one_token_or_none(isa):
    weights = normal((4, 6, 3), np.float32, "w")
    layer = ruvector.MixtureOfExperts(4, 2, experts=weights)
    x = normal(6, np.float32, "x")
    out, routing = layer(x, return_routing=True)
    assert out.shape == (3,)
    np.testing.assert_allclose(
        out, sum(w * (x @ weights[e]) for e, w in zip(routing.indices, routing.weights)), rtol=1e-5
    )
    assert layer(np.empty((0, 6), np.float32)).shape == (0, 3)
    functions = ruvector.MixtureOfExperts(2, 1, experts=[lambda t: t[:, :4], lambda t: t[:, :4]])
    assert functions(np.empty((3, 0, 6))).shape == (3, 0, 4)


def test_layer_promotes_as_numpy_does(isa):
    x = normal((5, 6), np.float32, "x")
    assert ruvector.MixtureOfExperts(2, 1, experts=np.ones((2, 6, 3)))(x).dtype == np.float64
    assert ruvector.MixtureOfExperts(2, 1, experts=[lambda t: t.astype(float)] * 2)(x).dtype == np.float64
    assert ruvector.MixtureOfExperts(2, 1, experts=[lambda t: t] * 2)(x).dtype == np.float32
    assert (
        ruvector.MixtureOfExperts(2, 1, experts=np.ones((2, 6, 3), np.float32))([[1, 2, 3, 4, 5, 6]]).dtype
        == np.float64
    )


def test_the_options_of_the_layer(isa):
    x, weights = normal((30, 8), np.float32, "x"), normal((4, 8, 3), np.float32, "w")
    make = lambda **options: ruvector.MixtureOfExperts(4, 2, experts=weights, **options)
    plain = make()(x)
    for options in (
        {"gate": normal((8, 4), np.float32, "gate")},
        {"gate": lambda t: t[:, :4]},
        {"normalize": False},
        {"capacity_factor": 0.5},
        {"rng": 3},
    ):
        assert not same_bits(make(**options)(x), plain), options
    shares = make(order="topk_softmax", normalize=False)(x)
    assert same_bits(shares, plain)
    assert not same_bits(make(normalize=False)(x), shares)
    jittered = make(jitter=0.5)
    assert same_bits(jittered(x), plain)
    assert same_bits(jittered(x, rng=1), plain)
    moved = jittered(x, training=True, rng=1)
    assert not same_bits(moved, plain)
    assert same_bits(jittered(x, training=True, rng=1), moved)
    assert same_bits(make()(x, training=True), plain)
    with pytest.raises(ValueError, match="rng"):
        jittered(x, training=True)
    # the gate of a seed is drawn once
    assert same_bits(make(rng=3)(x), make(rng=3)(x))
    gate = ruvector.gate_weights(8, 4, rng=3).astype(np.float32)
    assert same_bits(make(rng=3)(x), make(gate=gate)(x))


def test_the_gating_of_the_layer(isa):
    logits = normal((5, 4), np.float32, "logits")
    router = ruvector.MixtureOfExperts(4, 2, normalize=False)
    for a, b in zip(router.top_k_gating(logits), ruvector.top_k_gating(logits, 2, normalize=False)):
        assert same_bits(a, b)
    with pytest.raises(ValueError, match="experts"):
        router(normal((3, 8), np.float32, "x"))
    assert "4 experts" in repr(router)


# Attention over experts ----------------------------------------------------------------------------------------------


def attention_arrays(dtype, batch=(2,), q_len=21, kv_len=34, width=32, v_width=10):
    return (
        normal((*batch, q_len, width), dtype, "moe q"),
        normal((*batch, kv_len, width), dtype, "moe k"),
        normal((*batch, kv_len, v_width), dtype, "moe v"),
    )


@pytest.mark.parametrize("factor", (None, 0.5, 1.25))
def test_attention_of_experts_with_every_weight(isa, dtype_name, dtype, factor):
    q, k, v = attention_arrays(dtype)
    rng, working = generator("projections"), reference.unit_dtype(dtype)
    weights = {
        "gate": rng.standard_normal((32, 4)),
        "w_q": rng.standard_normal((4, 32, 8)) / 6,
        "w_k": rng.standard_normal((32, 8)) / 6,
        "w_v": rng.standard_normal((10, 10)) / 3,
        "w_o": rng.standard_normal((4, 10, 5)) / 3,
    }
    outputs = []
    for names in ((), ("gate",), ("w_q", "w_k"), ("w_v",), ("w_o",), ("w_v", "w_o"), tuple(weights)):
        options = {name: weights[name] for name in names} | {"num_experts": 4, "top_k": 2, "capacity_factor": factor}
        # as they are rounded to the type of the arithmetic, so that they carry no error of their own
        key = k.astype(working) @ weights["w_k"].astype(working) if "w_k" in names else k
        value = v.astype(working) @ weights["w_v"].astype(working) if "w_v" in names else v
        own = {name: option for name, option in options.items() if name not in ("w_k", "w_v")}
        expected = reference.moe(q, key, value, **own)
        expected.dtype = dtype
        out = ruvector.moe_attention(q, k, v, **options)
        assert out.shape == (2, 21, 5 if "w_o" in names else 10)
        reference.check(out, expected, str(names))
        outputs.append(out)
    for a, b in itertools.combinations(outputs, 2):
        assert a.shape != b.shape or not same_bits(a, b)


def test_constant_values_come_back(isa, dtype_name, dtype):
    q, k, _ = attention_arrays(dtype)
    value = np.full((2, 34, 3), 0.75, dtype)
    for top_k in (1, 2, 8):
        out = ruvector.moe_attention(q, k, value, top_k=top_k).astype(float)
        tolerance = 0.75 * (
            3 * reference.storage_unit(dtype) if reference.is_half(dtype) else 40 * reference.unit(dtype)
        )
        assert np.abs(out - 0.75).max() <= tolerance


def test_one_expert_is_attention(isa, dtype_name):
    q, k, v = attention_arrays(DTYPES[dtype_name])
    out = ruvector.moe_attention(q, k, v, 1, 1)
    reference.check(out, reference.scaled_dot(q, k, v))


def test_a_gate_that_is_certain_picks_one_slice(isa):
    q, k, v = attention_arrays(np.float64)
    for e in range(4):
        gate = np.zeros((32, 4))
        q[..., 0] = 1
        gate[0, e] = 2000
        out = ruvector.moe_attention(q, k, v, 4, 2, gate=gate)
        part = slice(8 * e, 8 * e + 8)
        reference.check(out, reference.scaled_dot(q[..., part], k[..., part], v))


def test_all_experts_of_an_indifferent_gate_are_the_mean_of_the_heads(isa):
    q, k, v = attention_arrays(np.float64)
    out = ruvector.moe_attention(q, k, v, 4, 4, gate=np.zeros((32, 4)))
    heads = [ruvector.attention(q[..., i : i + 8], k[..., i : i + 8], v) for i in range(0, 32, 8)]
    np.testing.assert_allclose(out, np.mean(heads, 0), rtol=0, atol=1e-14)


def test_attention_of_experts_takes_masks_causality_and_batches(isa):
    for batch in ((), (2,), (2, 3)):
        q, k, v = attention_arrays(np.float32, batch)
        full = (*batch, 21, 34)
        rng = generator("moe masks", len(batch))
        rows = rng.random(full) < 0.6
        bias = np.where(rng.random((21, 34)) < 0.8, rng.standard_normal((21, 34)), -np.inf).astype(np.float32)
        for options in (
            {"mask": rows},
            {"mask": rows[..., :1, :]},
            {"mask": rows[..., :1]},
            {"mask": bias},
            {"mask": bias[3]},
            {"causal": True},
            {"causal": True, "mask": rows},
            {"causal": True, "mask": bias},
            {"scale": 0.4},
        ):
            out = ruvector.moe_attention(q, k, v, 4, **options)
            reference.check(out, reference.moe(q, k, v, num_experts=4, **options), f"{batch} {list(options)}")
    q, k, v = attention_arrays(np.float32, (2,))
    shared = ruvector.moe_attention(q, k[0], v, 4)
    reference.check(shared, reference.moe(q, k[0], v, num_experts=4))
    reference.check(ruvector.moe_attention(q[0], k, v, 4), reference.moe(q[0], k, v, num_experts=4))


def test_causal_attention_of_experts_never_sees_the_future(isa):
    q, k, v = (a.copy() for a in attention_arrays(np.float32, (), 20, 20))
    before = ruvector.moe_attention(q, k, v, 4, causal=True)
    k[12:], v[12:] = np.nan, np.inf
    assert same_bits(ruvector.moe_attention(q, k, v, 4, causal=True)[:12], before[:12])


def test_jitter_of_attention_in_training_only(isa):
    q, k, v = attention_arrays(np.float32)
    plain = ruvector.moe_attention(q, k, v, 4)
    for options in ({}, {"rng": 1}):
        assert same_bits(ruvector.moe_attention(q, k, v, 4, jitter_noise=0.4, **options), plain)
    assert same_bits(ruvector.moe_attention(q, k, v, 4, training=True), plain)
    moved = ruvector.moe_attention(q, k, v, 4, jitter_noise=0.4, training=True, rng=5)
    noise = np.random.default_rng(5).uniform(0.6, 1.4, (42, 32))
    reference.check(moved, reference.moe(q, k, v, num_experts=4, noise=noise))
    assert not same_bits(moved, plain)
    assert same_bits(ruvector.moe_attention(q, k, v, 4, jitter_noise=0.4, training=True, rng=5), moved)
    with pytest.raises(ValueError, match="jitter_noise.*rng"):
        ruvector.moe_attention(q, k, v, 4, jitter_noise=0.4, training=True)


def test_dropout_of_attention_in_training_only(isa):
    q, k, v = attention_arrays(np.float32)
    plain = ruvector.moe_attention(q, k, v, 4)
    assert same_bits(ruvector.moe_attention(q, k, v, 4, dropout=0.5, rng=1), plain)
    dropped = ruvector.moe_attention(q, k, v, 4, dropout=0.5, training=True, rng=1)
    assert not same_bits(dropped, plain)
    assert same_bits(ruvector.moe_attention(q, k, v, 4, dropout=0.5, training=True, rng=1), dropped)
    assert not same_bits(ruvector.moe_attention(q, k, v, 4, dropout=0.5, training=True, rng=2), dropped)
    with pytest.raises(ValueError, match="rng"):
        ruvector.moe_attention(q, k, v, 4, dropout=0.5, training=True)


def test_queries_that_lose_their_experts_are_zero(isa):
    q, k, v = attention_arrays(np.float32, (), 12)
    q[:, 0], gate = 1, np.eye(32, 4)
    gate[0] = [9, 0, 0, 0]
    out = ruvector.moe_attention(q, k, v, 4, 1, gate=gate, capacity_factor=1.0)
    reference.check(out, reference.moe(q, k, v, num_experts=4, top_k=1, gate=gate, capacity_factor=1.0))
    assert (out[:3] != 0).all()
    np.testing.assert_array_equal(out[3:], 0)


def test_moe_is_a_type_like_the_others(isa):
    q, k, v = attention_arrays(np.float32)
    plain = ruvector.moe_attention(q, k, v)
    assert same_bits(ruvector.attention(q, k, v, "moe"), plain)
    assert same_bits(ruvector.attention(q, k, v, ruvector.AttentionType.MoE(num_experts=8, top_k=2)), plain)
    gate = normal((32, 4), np.float64, "type gate")
    layer = ruvector.get_attention("moe", num_experts=4, top_k=3, gate=gate, capacity_factor=1.25)
    assert same_bits(layer(q, k, v), ruvector.moe_attention(q, k, v, 4, 3, gate=gate, capacity_factor=1.25))
    again = pickle.loads(pickle.dumps(layer))
    assert again == layer
    assert same_bits(again(q, k, v), layer(q, k, v))
    assert ruvector.get_attention("moe", capacity_factor=None) == ruvector.get_attention("moe")
    out = np.empty_like(plain)
    assert ruvector.moe_attention(q, k, v, out=out) is out
    assert same_bits(out, plain)


# Other libraries -----------------------------------------------------------------------------------------------------


@pytest.mark.peer
def test_topk_and_softmax_agree_with_torch(isa, dtype_name, dtype):
    torch = pytest.importorskip("torch", reason="PyTorch, the peer of this test, is not installed")
    if dtype == reference.BFLOAT16:
        pytest.skip("NumPy and torch share no bfloat16")
    for n, k in ((8, 2), (64, 6), (256, 8), (300, 300)):
        # no two elements equal, so that torch's order is defined
        x = generator("torch", n).permuted(np.tile(np.arange(n) - n / 2, (20, 1)), axis=1).astype(dtype) / 16
        values, indices = torch.topk(torch.from_numpy(x), k)
        ours = ruvector.topk(x, k)
        np.testing.assert_array_equal(ours[0], values.numpy())
        np.testing.assert_array_equal(ours[1], indices.numpy())
        theirs = torch.softmax(values.double(), -1).numpy()
        bound = reference.softmax_bound(values.numpy()) + 1e-15
        reference.within(ruvector.top_k_gating(x, k)[1], theirs, bound, f"{n}, {k}")


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch", reason="PyTorch, which transformers runs on, is not installed")
    return pytest.importorskip("transformers", reason="transformers, the peer of this test, is not installed")


@pytest.mark.peer
def test_routing_agrees_with_mixtral(isa, transformers):
    import torch
    from transformers.models.mixtral import modeling_mixtral

    config = transformers.MixtralConfig(
        hidden_size=48, intermediate_size=32, num_local_experts=8, num_experts_per_tok=2
    )
    if not hasattr(modeling_mixtral, "MixtralTopKRouter"):
        pytest.skip(f"transformers {transformers.__version__} has no MixtralTopKRouter")
    block = modeling_mixtral.MixtralSparseMoeBlock(config).double().eval()
    with torch.no_grad():
        for i, p in enumerate(block.parameters()):
            p.copy_(torch.from_numpy(normal(tuple(p.shape), np.float64, "mixtral", i, scale=0.2)))
        x = normal((2, 30, 48), np.float64, "mixtral x")
        gate = block.gate.weight.numpy().T
        logits, scores, indices = block.gate(torch.from_numpy(x))
        routing = ruvector.moe_route(x, 8, 2, gate=gate)
        np.testing.assert_array_equal(routing.indices.reshape(60, 2), indices.numpy())
        # their probabilities pass through float32
        np.testing.assert_allclose(routing.weights.reshape(60, 2), scores.numpy(), rtol=1e-6)
        up, down = block.experts.gate_up_proj.numpy(), block.experts.down_proj.numpy()

        def expert(e):
            def run(tokens):
                a, b = np.split(tokens @ up[e].T, 2, axis=-1)
                return (a / (1 + np.exp(-a)) * b) @ down[e].T

            return run

        layer = ruvector.MixtureOfExperts(8, 2, gate=gate, experts=[expert(e) for e in range(8)])
        np.testing.assert_allclose(layer(x), block(torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.peer
@pytest.mark.parametrize("capacity", (3, 8, 64))
def test_routing_and_losses_agree_with_switch_transformers(isa, transformers, capacity):
    import torch
    from transformers.models.switch_transformers import modeling_switch_transformers as switch

    config = transformers.SwitchTransformersConfig(
        d_model=32, num_experts=4, expert_capacity=capacity, router_dtype="float32", router_jitter_noise=0.0
    )
    router = switch.SwitchTransformersTop1Router(config).eval()
    x = normal((1, 40, 32), np.float32, "switch x")
    with torch.no_grad():
        router.classifier.weight.copy_(torch.from_numpy(normal((4, 32), np.float32, "switch w")))
        mask, probabilities, logits = (t.numpy() for t in router(torch.from_numpy(x)))
        gate = router.classifier.weight.numpy().T
        # the capacity that gives theirs
        factor = capacity * 4 / 40
        routing = ruvector.moe_route(x[0], 4, 1, gate=gate, normalize=False, capacity_factor=factor)
        assert routing.capacity == capacity
        dispatched = np.zeros((40, 4), int)
        dispatched[np.flatnonzero(routing.load.kept[:, 0]), routing.indices[routing.load.kept[:, 0], 0]] = 1
        np.testing.assert_array_equal(dispatched, mask[0])
        kept = routing.load.kept[:, 0]
        np.testing.assert_allclose(routing.weights[kept, 0], probabilities[0, kept, 0], rtol=1e-5)
        p = torch.softmax(torch.from_numpy(logits), -1)
        loss = switch.load_balancing_loss_func(p, torch.from_numpy(routing.indices[None, :, 0]))
        assert routing.load_balancing_loss == pytest.approx(float(loss), rel=1e-5)
        z = switch.router_z_loss_func(torch.from_numpy(logits))
        assert routing.z_loss == pytest.approx(float(z), rel=1e-5)
