"""The published example values, corrected, and the conformance cases: exact to seven digits."""

import math

import numpy as np
import pytest
import ruvector
from support import normal

# Values are given to seven decimals: half a unit of the last one.
SEVEN = 0.5e-7


def agrees(actual, expected, size=1.0):
    """Equal to the seven decimals given; float32 results also carry their own error, 64 units of the largest value."""
    actual, expected = np.asarray(actual), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{actual.shape} != {expected.shape}"
    own = 0 if actual.dtype == np.float64 else 64 * 2.0**-24 * size
    np.testing.assert_allclose(actual.astype(np.float64), expected, rtol=0, atol=SEVEN * 1.0001 + own)


E4 = np.eye(4)
GUIDE_QUERY = [1, 0, 0, 0, 1, 0, 0, 0]
GUIDE_KEYS = [[1, 0, 0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 1, 0, 0]]
GUIDE_VALUES = [[1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3, 2, 1]]
GUIDE_ONE_HEAD = [3.3116692, 3.6511923, 3.9907154, 4.3302385, 4.6697615, 5.0092846, 5.3488077, 5.6883308]

SOFTMAX = {
    "the guide's example": ([1, 2, 3, 4], [0.0320586033, 0.0871443187, 0.2368828181, 0.6439142599]),
    "three": ([1, 2, 3], [0.0900306, 0.2447285, 0.6652410]),
    "large": ([1000, 1001, 1002], [0.0900306, 0.2447285, 0.6652410]),
    "large negative": ([-1000, -999, -998], [0.0900306, 0.2447285, 0.6652410]),
    "permuted": ([1000, 999, 998], [0.6652410, 0.2447285, 0.0900306]),
}

SCORES = {
    "the guide's example": ([1, 0, 0], [[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]], {}, [0.4327806, 0.2429561, 0.3242633]),
    "scale of width 64": (
        [1, 0, 0],
        [[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]],
        {"scale": 0.125},
        [0.3543699, 0.3127304, 0.3328997],
    ),
    "unscaled": ([1, 0, 0], [[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]], {"scale": 1.0}, [0.5064804, 0.1863237, 0.3071959]),
    "two axes": ([1, 0], [[1, 0], [0, 1]], {}, [0.6697615, 0.3302385]),
    "two axes unscaled": ([1, 0], [[1, 0], [0, 1]], {"scale": 1.0}, [0.7310586, 0.2689414]),
    "four axes": (E4[0], E4[:2], {}, [0.6224593, 0.3775407]),
    "three axes": (np.eye(3)[0], np.eye(3), {}, [0.4710831, 0.2644585, 0.2644585]),
    "low scale": (np.ones(4), [[1] * 4, [0.5] * 4], {"scale": 0.1}, [0.5498340, 0.4501660]),
    "high scale": (np.ones(4), [[1] * 4, [0.5] * 4], {"scale": 2.0}, [0.9820138, 0.0179862]),
    "one key": (E4[0], [[0.5, 0.5, 0, 0]], {}, [1.0]),
    "no keys": (E4[0], np.empty((0, 4)), {}, np.empty(0)),
    "large": (np.full(4, 1000.0), [[1000] * 4, [999] * 4], {}, [1.0, 0.0]),
    "masked": ([1], [[1], [2], [3], [4]], {"mask": np.array([True, True, False, False])}, [0.2689414, 0.7310586, 0, 0]),
    "tiled": (
        E4[0],
        [E4[0], [0.9, 0.1, 0, 0], [0.8, 0.2, 0, 0], E4[1]],
        {},
        [0.2888005, 0.2747156, 0.2613175, 0.1751664],
    ),
    "request": ([0.1, 0.2, 0.3], [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], {}, [0.4740426, 0.5259574]),
    "orthogonal": ([0, 0, 0, 1], E4[:3], {}, [1 / 3] * 3),
    "identical keys": ([0.3, -0.2], [[0.5, 0.7]] * 10, {}, [0.1] * 10),
    "zero query": ([0, 0], [[1, 2], [3, -4], [0.5, 9]], {}, [1 / 3] * 3),
    "zero keys": ([1, -2], np.zeros((4, 2)), {}, [0.25] * 4),
}

OUTPUTS = {
    "four axes": (E4[0], E4[:2], [[1, 2, 3, 4], [5, 6, 7, 8]], [2.5101627, 3.5101627, 4.5101627, 5.5101627]),
    "value wider than key": ([1, 0], np.eye(2), [[1, 2, 3], [4, 5, 6]], [1.9907154, 2.9907154, 3.9907154]),
    "one key": ([1, 0], [[1, 0]], [[5, 10]], [5, 10]),
    "tiled": (E4[0], [E4[0], [0.9, 0.1, 0, 0], [0.8, 0.2, 0, 0], E4[1]], [[1], [2], [3], [4]], [2.32284975]),
    "flash = standard": (
        [1, 0.5, 0.25, 0],
        [[1, 0.5, 0.25, 0], [0, 0.25, 0.5, 1], [0.5] * 4],
        [[1, 0], [0, 1], [0.5, 0.5]],
        [0.5861695, 0.4138305],
    ),
    "large": (np.full(4, 100.0), [[100] * 4, [99] * 4, [98] * 4], [[1, 0], [0, 1], [0.5, 0.5]], [1, 0]),
    "two axes": ([1, 0], [[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], [[10], [20], [30], [40]], [21.8668304]),
    "sixteen keys": (
        np.full(32, 0.5),
        np.arange(16)[:, None] * 0.1 * np.ones(32),
        np.arange(16)[:, None] * 0.2 * np.ones(32),
        [2.4232192] * 32,
    ),
    "constant values": (normal(64, float, "q"), normal((256, 64), float, "k"), np.ones((256, 64)), [1.0] * 64),
    "request": (
        [0.1, 0.2, 0.3],
        [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]],
        [[0.7, 0.8, 0.9], [1.0, 1.1, 1.2]],
        [0.8577872, 0.9577872, 1.0577872],
    ),
    "the guide's example, one head": (GUIDE_QUERY, GUIDE_KEYS, GUIDE_VALUES, GUIDE_ONE_HEAD),
}

CROSSED = [[1, 0, 0, 1], [0, 1, 1, 0]]
RAMP = np.arange(64)
MULTI_HEAD = {
    "the guide's example": (
        GUIDE_QUERY,
        GUIDE_KEYS,
        GUIDE_VALUES,
        4,
        [3.3116692, 3.6511923, 4.5, 4.5, 4.6697615, 5.0092846, 4.5, 4.5],
    ),
    "the guide's example, 1 head": (GUIDE_QUERY, GUIDE_KEYS, GUIDE_VALUES, 1, GUIDE_ONE_HEAD),
    "the guide's example, 2 heads": (
        GUIDE_QUERY,
        GUIDE_KEYS,
        GUIDE_VALUES,
        2,
        [3.6427847, 3.8877033, 4.1326220, 4.3775407, 4.6224593, 4.8673780, 5.1122967, 5.3572153],
    ),
    "the guide's example, 8 heads": (
        GUIDE_QUERY,
        GUIDE_KEYS,
        GUIDE_VALUES,
        8,
        [2.8825899, 4.5, 4.5, 4.5, 4.7310586, 4.5, 4.5, 4.5],
    ),
    "two heads": ([1, 0, 0, 1], CROSSED, [[1] * 4, [2] * 4], 2, [1.3302385] * 4),
    "two heads, tens": ([1, 0, 0, 1], CROSSED, [[10] * 4, [20] * 4], 2, [13.3023845] * 4),
    "one key": (normal(8, float, "q"), normal((1, 8), float, "k"), [np.arange(1, 9)], 4, np.arange(1.0, 9.0)),
    "eight heads of a ramp": (
        RAMP / 64,
        [(RAMP + 1) / 64, (63 - RAMP) / 64],
        [np.ones(64), np.full(64, 2.0)],
        8,
        np.repeat([1.5313780, 1.5750423, 1.5750423, 1.5313780, 1.4432762, 1.3190358, 1.18765605, 1.0871297], 8),
    ),
    "ten equal keys": (np.full(512, 0.5), np.full((10, 512), 0.5), np.full((10, 512), 0.5), 8, [0.5] * 512),
}


@pytest.fixture(params=("float64", "float32"))
def kind(request):
    return np.dtype(request.param)


@pytest.mark.parametrize("case", SOFTMAX)
def test_softmax_values(isa, kind, case):
    x, expected = SOFTMAX[case]
    agrees(ruvector.softmax(np.array(x, kind)), expected)


@pytest.mark.parametrize("case", SCORES)
def test_attention_scores_values(isa, kind, case):
    query, keys, options, expected = SCORES[case]
    query, keys = np.array(query, kind), np.array(keys, kind)
    agrees(ruvector.attention_scores(query, keys, **options), expected)
    if not options:
        agrees(ruvector.attention_scores(query, keys, "flash"), expected)
        agrees(ruvector.attention_scores(query, keys, "multi_head", num_heads=1), expected)


@pytest.mark.parametrize("case", OUTPUTS)
def test_attention_values(isa, kind, case):
    query, keys, values, expected = OUTPUTS[case]
    query, keys, values = np.array(query, kind), np.array(keys, kind), np.array(values, kind)
    size = np.abs(values).max()
    agrees(ruvector.attention(query, keys, values), expected, size)
    agrees(ruvector.scaled_dot_product_attention(query[None], keys, values)[0], expected, size)
    agrees(ruvector.multi_head_attention(query, keys, values, 1), expected, size)
    for block in (1, 2, 8, 16, 64):
        agrees(ruvector.flash_attention(query, keys, values, block), expected, size)
    state = ruvector.merge_states(
        [
            ruvector.partial_attention(query, keys[:1], values[:1]),
            ruvector.partial_attention(query, keys[1:], values[1:]),
        ]
    )
    agrees(state.output, expected, size)


@pytest.mark.parametrize("case", MULTI_HEAD)
def test_multi_head_values(isa, kind, case):
    query, keys, values, heads, expected = MULTI_HEAD[case]
    query, keys, values = np.array(query, kind), np.array(keys, kind), np.array(values, kind)
    size = np.abs(values).max()
    agrees(ruvector.multi_head_attention(query, keys, values, heads), expected, size)
    agrees(ruvector.attention(query, keys, values, "multi_head", num_heads=heads), expected, size)
    agrees(ruvector.attention(query[None], keys, values, "mha", num_heads=heads)[0], expected, size)


def test_multi_head_weights_of_the_guides_example(isa, kind):
    query, keys = np.array(GUIDE_QUERY, kind), np.array(GUIDE_KEYS, kind)
    agrees(ruvector.attention_scores(query, keys, "multi_head", num_heads=4), [0.5848808, 0.4151192])
    agrees(ruvector.attention_scores(query, keys, "multi_head", num_heads=2), [0.6224593, 0.3775407])
    crossed = np.array(CROSSED, kind)
    agrees(ruvector.attention_scores(crossed[0], crossed, "multi_head", num_heads=2), [0.6697615, 0.3302385])
    one = ruvector.attention_scores(normal(8, kind, "q"), normal((1, 8), kind, "k"), "multi_head", num_heads=2)
    agrees(one, [1.0])


def test_attention_score_values(isa, kind):
    agrees(ruvector.attention_score(np.array([1, 0, 0, 0], kind), np.array([1, 0, 0, 0], kind), "scaled_dot"), 0.5)
    agrees(ruvector.attention_score(np.array([1, 0], kind), np.array([1, 0], kind)), 0.7071068)
    agrees(ruvector.attention_score(np.array([1, 0, 0], kind), np.array([1, 0, 0], kind)), 0.5773503)


def test_single_key_logits_of_a_ramp_agree_between_instruction_sets(kind):
    """A softmax over one key is 1 whatever the dot product: the logit is compared."""
    query, key = (np.arange(128) / 128).astype(kind), ((128 - np.arange(128)) / 128).astype(kind)
    exact = math.fsum((query.astype(float) * key.astype(float)).tolist()) / math.sqrt(128)
    for name in ruvector.isas():
        with ruvector.use_isa(name):
            assert ruvector.isa() == name
            assert abs(float(ruvector.attention_score(query, key)) - exact) <= 13 * np.finfo(kind).eps * exact
            agrees(ruvector.attention_scores(query, key[None]), [1.0])


def test_dot_value(isa, kind):
    assert ruvector.dot(np.array([1, 2, 3], kind), np.array([4, 5, 6], kind)) == 32
    np.testing.assert_array_equal(
        ruvector.batched_dot_products(np.array([1, 2, 3], kind), np.array([[4, 5, 6], [1, 0, -1]], kind)), [32, -2]
    )


def test_weights_that_span_many_orders_of_magnitude(isa, kind):
    """Keys 100, 0.001 and 1 along one axis of four."""
    p = ruvector.attention_scores(np.array(E4[0], kind), np.array([100, 0.001, 1], kind)[:, None] * E4[0].astype(kind))
    np.testing.assert_allclose(p, [1.0, 1.9e-22, 3.2e-22], rtol=0.02)


def unit_weights(name, n, dtype, **parameters):
    """The weights that a type gives, read off a unit matrix as values; the scores are all alike."""
    zeros = np.zeros((n, 4), dtype)
    return ruvector.attention(zeros, zeros, np.eye(n, dtype=dtype), name, **parameters)


def test_patterns_reach_the_stated_positions(isa, kind):
    local = unit_weights("local", 10, kind, window_size=3)
    assert np.flatnonzero(local[5]).tolist() == [4, 5, 6]
    assert np.count_nonzero(local) == 28
    assert np.count_nonzero(unit_weights("local", 10, kind, window_size=4)) == 44
    wide = unit_weights("local", 10, kind, window_size=5)
    assert wide[0, 5] == 0
    assert wide[9, 4] == 0
    causal = unit_weights("causal", 5, kind)
    assert np.count_nonzero(causal) == 15
    assert np.flatnonzero(causal[2]).tolist() == [0, 1, 2]
    agrees(causal[2], [1 / 3, 1 / 3, 1 / 3, 0, 0])
    three = unit_weights("causal", 3, kind)
    assert np.argwhere(three == 0).tolist() == [[0, 1], [0, 2], [1, 2]]
    both = unit_weights("longformer", 10, kind, window_size=3, global_tokens=1)
    assert np.count_nonzero(both[:, 0]) == 10
    assert np.count_nonzero(both) == 44
    for n, window, tokens in ((100, 8, 2), (5, 4, 1)):
        seen = np.count_nonzero(
            unit_weights("longformer", n, kind, window_size=window, global_tokens=tokens)[tokens:], axis=-1
        )
        assert seen.max() <= window + 1 + tokens
    sliding = unit_weights("sliding_window", 10, kind, window_size=3)
    assert np.flatnonzero(sliding[5]).tolist() == [3, 4, 5]
    assert np.count_nonzero(sliding) == 27


def test_heads_are_contiguous_slices_in_order(isa, kind):
    """Split and concatenated again: one key returns its value as it was."""
    value = np.arange(1, 9, dtype=kind)
    out = ruvector.multi_head_attention(normal(8, kind, "q"), normal((1, 8), kind, "k"), value[None], 4)
    agrees(out, value, 8.0)


def test_alibi_slopes_of_eight_heads(isa, kind):
    """Zero scores leave softmax(-slope |i - j|); two keys show the slope as the log of the ratio of the weights."""
    zeros = np.zeros((2, 8), kind)
    values = np.tile(np.eye(2, dtype=kind), (1, 8))
    out = ruvector.attention(zeros, zeros, values, "alibi").astype(np.float64)[0].reshape(8, 2)
    np.testing.assert_allclose(np.log(out[:, 0] / out[:, 1]), 0.5 ** np.arange(1, 9), rtol=1e-4)


def test_output_properties(isa, kind):
    q, k, v = normal((6, 8), kind, "q"), normal((40, 8), kind, "k"), normal((40, 5), kind, "v")
    weights = ruvector.attention_scores(q[0], k)
    assert (weights >= 0).all()
    assert abs(math.fsum(weights.tolist()) - 1) <= 8 * np.finfo(kind).eps / 2
    out = ruvector.attention(q, k, v)
    assert (out <= v.max(0)).all()
    assert (out >= v.min(0)).all()
    order = np.arange(40)[::-1]
    np.testing.assert_allclose(ruvector.attention(q, k[order], v[order]), out, atol=40 * np.finfo(kind).eps)


def test_errors_with_the_sources_texts(isa):
    with pytest.raises(ValueError, match=r"^Query and key dimensions must match: 768 vs 384$"):
        ruvector.attention_score(np.ones(768), np.ones(384))
    with pytest.raises(ValueError, match=r"^Query dimension 768 must be divisible by num_heads 5$"):
        ruvector.multi_head_attention(np.ones(768), np.ones((3, 768)), np.ones((3, 768)), 5)
    with pytest.raises(ValueError, match=r"^Query dimension 512 must be divisible by num_heads 7$"):
        ruvector.attention(np.ones(512), np.ones((3, 512)), np.ones((3, 512)), "multi_head", num_heads=7)


def test_type_names_parse(isa):
    for name in (
        "scaled_dot",
        "flash_v2",
        "multi_head",
        "ScaledDot",
        "MULTIHEAD",
        "mha",
        "FlashV2",
        "flash",
        "sliding",
    ):
        assert ruvector.get_attention(name).name in ("scaled_dot", "flash_v2", "multi_head", "sliding_window")
    with pytest.raises(ruvector.UnknownAttentionType):
        ruvector.get_attention("unknown")
    assert len(ruvector.attention_types()) >= 10
