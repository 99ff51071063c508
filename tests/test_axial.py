"""Attention along rows and then columns: masks, causality, lengths that differ, its weights, and PyTorch's on reshaped grids."""

import itertools

import numpy as np
import pytest
import reference_axial
import ruvector
from reference import Weights, check, scaled_dot, within
from support import generator, normal, same_bits

SIZES = ((36, 36), (35, 35), (1, 36), (7, 45), (40, 25), (33, 64), (9, 3))


def arrays_of(length, keys, dtype, *seed, lead=(2,)):
    return [
        normal((*lead, *s), dtype, role, "axial", *seed)
        for s, role in (((length, 16), "q"), ((keys, 16), "k"), ((keys, 12), "v"))
    ]


def test_both_passes_against_the_definition(isa, dtype_name, dtype):
    for (length, keys), causal in itertools.product(SIZES, (False, True)):
        arrays = arrays_of(length, keys, dtype)
        for options in ({}, {"width": 7}, {"height": 3} if keys % 3 == 0 else {"width": 1}, {"width": keys + 4}):
            out = ruvector.axial_attention(*arrays, causal=causal, **options)
            check(
                out,
                reference_axial.axial(*arrays, causal=causal, **options),
                f"{length} x {keys} {options} causal={causal}",
            )


def masks_of(length, keys):
    """Over keys, over pairs, of each head, with rows of the grid and of the mask that show nothing."""
    rng = generator("axial masks", length, keys)
    pairs = rng.random((length, keys)) < 0.6
    pairs[length // 2] = False
    padding = np.arange(keys) < keys - min(9, keys - 1)
    yield padding
    yield rng.random((2, 1, 1, keys)) < 0.7
    yield pairs
    yield pairs[:, :1]
    yield rng.random((3, length, keys)) < 0.3
    yield np.where(pairs, rng.standard_normal((length, keys)), -np.inf).astype(np.float32)
    yield np.where(padding, rng.standard_normal(keys), -np.inf).astype(np.float32)


@pytest.mark.parametrize("mode", ("sequential", "joint"))
def test_masks(isa, mode):
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        for length, keys in SIZES:
            arrays = arrays_of(length, keys, dtype, "masks", lead=(2, 3))
            for causal, mask in itertools.product((False, True), masks_of(length, keys)):
                options = {"width": 6, "mode": mode, "mask": mask, "causal": causal}
                what = f"{length} x {keys} {mask.dtype} {mask.shape} causal={causal}"
                expected = reference_axial.axial(*arrays, **options)
                check(ruvector.axial_attention(*arrays, **options), expected, what)
                p = ruvector.attention_scores(*arrays[:2], "axial", **options)
                within(p, Weights(expected).exact, Weights(expected).bound, f"{what}, weights")
                empty = (expected.weights == 0).all(-1)
                assert (np.abs(p.sum(-1, dtype=np.longdouble) - 1)[~empty] < 16 * np.finfo(dtype).eps).all(), what


def test_the_result_is_the_weights_times_the_values(isa):
    for (length, keys), causal in itertools.product(SIZES, (False, True)):
        query, key, _ = arrays_of(length, keys, np.float64, "weights")
        out = ruvector.axial_attention(query, key, np.eye(keys), width=6, causal=causal)
        np.testing.assert_allclose(
            out, ruvector.attention_scores(query, key, "axial", width=6, causal=causal), atol=1e-14
        )


def test_causal_reaches_all_of_the_past_and_none_of_the_future(isa):
    for n in (36, 33):
        query, key, _ = arrays_of(n, n, np.float32, "reach", lead=())
        weights = ruvector.attention_scores(query, key, "axial", causal=True)
        np.testing.assert_array_equal(weights > 0, np.tri(n, dtype=bool))
        # the columns that a short last row lacks do not reach it
        assert ((ruvector.attention_scores(query, key, "axial") > 0).mean() == 1) == (n == 36)
        value = normal((n, 5), np.float32, "reach v")
        out = ruvector.axial_attention(query, key, value, causal=True)
        for cut in (1, 5, 6, 17, n - 1):
            others = [a.copy() for a in (query, key, value)]
            for other in others:
                other[cut:] = np.nan
            assert same_bits(ruvector.axial_attention(*others, causal=True)[:cut], out[:cut]), cut


def test_hidden_keys_never_influence(isa):
    for (length, keys), causal in itertools.product(SIZES, (False, True)):
        query, key, value = arrays_of(length, keys, np.float32, "hidden")
        shown = np.arange(keys) % 5 != 2
        shown[-8:-2] = False
        out = ruvector.axial_attention(query, key, value, width=6, mask=shown, causal=causal)
        key[:, ~shown], value[:, ~shown] = np.nan, np.inf
        assert same_bits(ruvector.axial_attention(query, key, value, width=6, mask=shown, causal=causal), out)


def test_one_row_or_one_column_is_full_attention(isa, dtype_name, dtype):
    arrays = arrays_of(45, 45, dtype, "one")
    for causal in (False, True):
        for options in ({"height": 1}, {"width": 1}):
            full = scaled_dot(*arrays, causal=causal)
            bound = full.bound() + reference_axial.axial(*arrays, causal=causal, **options).bound()
            within(ruvector.axial_attention(*arrays, causal=causal, **options), full.out, bound)


def test_results_do_not_depend_on_batch_or_threads(isa, threads):
    arrays = arrays_of(130, 130, np.float32, "threads", lead=(2, 3))
    for causal in (False, True):
        ruvector.set_num_threads(1)
        out = ruvector.axial_attention(*arrays, causal=causal)
        assert same_bits(ruvector.axial_attention(*(a[1, 2] for a in arrays), causal=causal), out[1, 2])
        ruvector.set_num_threads(3)
        assert same_bits(ruvector.axial_attention(*arrays, causal=causal), out)


def test_dropout_drops_weights_of_both_passes(isa):
    query, key, _ = arrays_of(64, 64, np.float32, "dropout", lead=())
    value = normal((64, 6), np.float32, "dropout v")
    for causal in (False, True):
        call = ruvector.get_attention("axial", dropout=0.25, causal=causal)
        plain = ruvector.axial_attention(query, key, value, causal=causal)
        assert same_bits(call(query, key, value), plain)
        assert same_bits(call(query, key, value, training=True, rng=3), call(query, key, value, training=True, rng=3))
        dropped = call(query, key, np.eye(64, dtype=np.float32), training=True, rng=5) == 0
        reach = np.tri(64, dtype=bool) if causal else np.ones((64, 64), bool)
        # a weight of zero: of the first pass, or of the second, which takes a whole row
        assert 0.35 < dropped[reach].mean() < 0.52
        mean = np.mean([call(query, key, value, training=True, rng=seed) for seed in range(600)], 0)
        spread = np.std([call(query, key, value, training=True, rng=seed) for seed in range(40)], 0)
        assert (np.abs(mean - plain) < 6 * (spread / np.sqrt(600) + 1e-3)).mean() > 0.99


@pytest.mark.peer
def test_axial_against_torch():
    """Their attention on the grid and on the grid turned, the first's output the values of the second."""
    torch = pytest.importorskip("torch", reason="PyTorch, the peer of these tests, is not installed")
    sdpa = torch.nn.functional.scaled_dot_product_attention
    for height, width in ((6, 6), (3, 11), (16, 5)):
        arrays = arrays_of(height * width, height * width, np.float32, "torch", lead=(2, 3))
        q, k, v = (torch.from_numpy(a).unflatten(-2, (height, width)) for a in arrays)
        rows = sdpa(q, k, v)
        columns = sdpa(*(x.transpose(-2, -3) for x in (q, k, rows))).transpose(-2, -3)
        np.testing.assert_allclose(ruvector.axial_attention(*arrays, height, width), columns.flatten(-3, -2), atol=2e-6)
