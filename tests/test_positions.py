"""Rotary positions and biases by distance: the rotation, frequencies of long contexts, and what the types promise."""

import itertools
import math
import pickle

import numpy as np
import pytest
import reference
import ruvector
from ruvector.mechanisms.relative import _t5_buckets
from support import DTYPES, check_python, generator, normal, peak_allocation, same_bits

FLOATS = ("float32", "float64")
SCALINGS = {
    "none": None,
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "ntk": {"rope_type": "ntk", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 20},
    "yarn": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64},
    "yarn, own ramp": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 8.0,
        "beta_slow": 2.0,
        "truncate": False,
        "attention_factor": 0.7,
    },
    "yarn, mscale": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "mscale": 1.0,
        "mscale_all_dim": 0.707,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}
# The types of this family, with parameters under which everything they have is at work.
TYPES = {
    "multi_query": {"num_heads": 4},
    "rope": {"num_heads": 4, "interleaved": True},
    "xpos": {"num_heads": 4, "scale_base": 3.0},  # blocks of 24 queries
    "relative": {"num_heads": 4, "max_distance": 5},
    "relative values": {"num_heads": 4, "max_distance": 5, "value_embedding": normal((4, 11, 6), np.float64, "b")},
    "t5": {"num_heads": 4, "num_buckets": 12, "max_distance": 20},
}
EACH = pytest.mark.parametrize("case", TYPES)


def arrays_of(case, batch, q_len, kv_len, dtype, *seed):
    """The name, parameters, query, key and value of a case: 4 heads of width 8, values of width 6."""
    kv_heads = 1 if case == "multi_query" else 4
    query = normal((*batch, q_len, 32), dtype, "position q", *seed)
    key = normal((*batch, kv_len, 8 * kv_heads), dtype, "position k", *seed)
    value = normal((*batch, kv_len, 6 * kv_heads), dtype, "position v", *seed)
    return case.split()[0], TYPES[case], query, key, value


# The rotation --------------------------------------------------------------------------------------------------------


def check_rope(x, places, what="", **options):
    """rope within its bound: 3.2 u |pair| in float32, (4 + 4 |position|) u |pair| in float64."""
    dtype = reference.common_dtype(x)
    kind = reference.wide_type(dtype)
    wide = np.asarray(x).astype(kind)
    dim = options.get("rotary_dim") or wide.shape[-1]
    interleaved = options.get("interleaved", False)
    length = np.max(places, initial=-1) + 1
    radians, factor = reference.radians_of(dim, options.get("base", 10000.0), options.get("scaling"), length, kind)
    places = np.broadcast_to(np.asarray(places, np.float64), wide.shape[:-1])
    expected = rotated(wide, places, radians, interleaved, factor)
    pairs = np.abs(reference.pairs_of(wide, dim, interleaved)) * factor
    u = reference.unit(dtype) * reference.share(dtype)
    size = (4 + 4 * np.abs(places))[..., None] if dtype == np.float64 else 3.2
    if factor != 1 and dtype == np.float64:
        size = size + 2  # the factor itself is rounded
    bound = np.repeat(u * size * pairs, 2, -1) if interleaved else np.concatenate([u * size * pairs] * 2, -1)
    bound = np.concatenate([bound, np.zeros_like(wide[..., dim:])], -1) + reference.smallest(dtype)
    if reference.is_half(dtype):
        bound = bound + reference.storage_unit(dtype) * np.abs(expected)
    actual = ruvector.rope(x, places, **options)
    assert actual.dtype == dtype
    reference.within(actual, expected, bound, what)
    return actual


def rotated(wide, places, radians, interleaved, factor):
    """The definition, one complex multiplication a pair."""
    dim = 2 * len(radians)
    angles = places.astype(wide.dtype)[..., None] * radians
    turned = reference.pairs_of(wide, dim, interleaved) * (np.cos(angles) + 1j * np.sin(angles)) * factor
    parts = (turned.real, turned.imag)
    columns = np.stack(parts, -1).reshape(*turned.shape[:-1], dim) if interleaved else np.concatenate(parts, -1)
    return np.concatenate([columns, wide[..., dim:]], -1)


@pytest.mark.parametrize("interleaved", (False, True))
@pytest.mark.parametrize("scaling", SCALINGS)
def test_rope_is_the_rotation(dtype_name, dtype, scaling, interleaved):
    for width, rotary_dim in ((2, None), (8, None), (64, None), (10, 4), (33, 32), (128, 2)):
        x = normal((2, 41, width), dtype, "rope")
        options = {"interleaved": interleaved, "scaling": SCALINGS[scaling], "rotary_dim": rotary_dim}
        check_rope(x, np.arange(41), f"{scaling} {width} {rotary_dim}", **options)
        check_rope(x, np.arange(41) + 1000, f"{scaling} {width} {rotary_dim} from 1000", base=500.0, **options)


def test_rope_at_a_million_is_exact_to_the_rounding(dtype_name, dtype):
    places = np.array([0, 1, 999, 65_535, 500_001, 999_983, 1_000_000, -1_000_000])
    for base in (10000.0, 500_000.0, 1.0):
        for interleaved in (False, True):
            check_rope(normal((8, 128), dtype, "far"), places, f"base {base}", base=base, interleaved=interleaved)


def test_rope_of_known_values():
    half = [-0.3011687, 0.9899502, 1.3817733, 1.0099498]
    np.testing.assert_allclose(ruvector.rope(np.ones(4), 1), half, rtol=0, atol=5e-8)
    np.testing.assert_allclose(
        ruvector.rope(np.ones(4), 1, interleaved=True), np.array(half)[[0, 2, 1, 3]], rtol=0, atol=5e-8
    )
    assert abs(np.linalg.norm(ruvector.rope(np.ones(16, np.float32), 5)) - 4.0) < 1e-5


def test_rope_at_position_0_changes_nothing(dtype_name, dtype):
    x = normal((3, 16), dtype, "zero")
    for interleaved in (False, True):
        assert same_bits(ruvector.rope(x, np.zeros(3), interleaved=interleaved), x)
        assert same_bits(ruvector.rope(x[0], interleaved=interleaved), x[0])


def test_layouts_agree_after_a_permutation(dtype_name, dtype):
    x = normal((2, 50, 24), dtype, "layout")
    for rotary_dim in (24, 10):
        order = np.concatenate([np.arange(rotary_dim).reshape(-1, 2).T.ravel(), np.arange(rotary_dim, 24)])
        half = ruvector.rope(x[..., order], rotary_dim=rotary_dim)
        pairs = ruvector.rope(x, rotary_dim=rotary_dim, interleaved=True)[..., order]
        # each is off by at most 3 u |pair| by arithmetic; the angles are the same
        bound = 6 * reference.unit(dtype) * 2 * np.abs(x.astype(float)).max() + reference.smallest(dtype)
        bound += 2 * reference.storage_unit(dtype) * np.abs(pairs.astype(float)) if reference.is_half(dtype) else 0
        reference.within(half, pairs.astype(np.float64), bound)


def test_positions_of_every_kind(dtype_name, dtype):
    x = normal((2, 3, 5, 8), dtype, "positions")
    assert same_bits(ruvector.rope(x), ruvector.rope(x, np.arange(5)))
    for places in (
        7,
        [4, 0, 4, 1, 2],
        np.array([0.5, -3.25, 1e5, -0.0, 2]),
        np.arange(10).reshape(2, 1, 5),
        np.uint8([[[3]]]),
    ):
        check_rope(x, np.asarray(places, np.float64), f"{places}")
        assert same_bits(ruvector.rope(x, places), ruvector.rope(x, np.asarray(places, np.float64)))
    assert same_bits(ruvector.rope(x, 7)[1, 2, 3], ruvector.rope(x[1, 2, 3], 7))


def test_rope_takes_any_array():
    x = normal((4, 6, 8), np.float32, "any")
    expected = ruvector.rope(x)
    for view in (np.asfortranarray(x), x.astype(">f4"), np.repeat(x, 2, -1)[..., ::2], x[:, ::-1][:, ::-1]):
        for interleaved in (False, True):
            assert same_bits(ruvector.rope(view, interleaved=interleaved), ruvector.rope(x, interleaved=interleaved))
    locked = x.copy()
    locked.setflags(write=False)
    assert same_bits(ruvector.rope(locked), expected)
    assert same_bits(ruvector.rope(x.tolist()), ruvector.rope(x.astype(np.float64)))
    assert ruvector.rope(np.arange(6)).dtype == np.float64
    for shape in ((0, 8), (2, 0, 4), (0, 3, 2)):
        for interleaved in (False, True):
            assert ruvector.rope(np.empty(shape, np.float32), interleaved=interleaved).shape == shape


@pytest.mark.parametrize("dtype_name", FLOATS)
@pytest.mark.parametrize("shift", (1, 1000, 123_456, -777))
def test_a_shift_of_all_positions_changes_nothing(isa, dtype_name, shift):
    dtype = DTYPES[dtype_name]
    q, k, v = normal((2, 9, 16), dtype, "q"), normal((2, 21, 16), dtype, "k"), normal((2, 21, 6), dtype, "v")
    expected = reference.rope(q, k, v, num_heads=1, scale=0.25)
    far = np.abs(shift) + 21
    # the bound of attention over rotated rows, with angles as far away as these (see reference.rotated)
    expected.extra = (6 + 16 * far) * expected.kappa if dtype == np.float64 else expected.extra
    out = ruvector.scaled_dot_product_attention(
        ruvector.rope(q, np.arange(9) + 12 + shift), ruvector.rope(k, np.arange(21) + shift), v, scale=0.25
    )
    reference.check(out, expected, f"shift {shift}")


# Frequencies ---------------------------------------------------------------------------------------------------------


def test_every_scaling_changes_the_result():
    x = normal((60, 32), np.float64, "scalings")
    results = [ruvector.rope(x, scaling=scaling) for name, scaling in SCALINGS.items() if name != "default"]
    for a, b in itertools.combinations(results, 2):
        assert np.abs(a - b).max() > 1e-3
    assert same_bits(ruvector.rope(x, scaling=SCALINGS["default"]), results[0])


@pytest.mark.parametrize("name", ("yarn, own ramp", "llama3", "yarn, mscale", "dynamic"))
def test_every_key_of_a_scaling_changes_the_result(name):
    x = normal((200, 32), np.float64, "keys")
    scaling = SCALINGS[name]
    plain = ruvector.rope(x, scaling=scaling)
    for key, value in scaling.items():
        if key == "rope_type":
            continue
        other = scaling | {
            key: not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value * 1.3
        }
        other = other | ({key: 37} if isinstance(value, int) and not isinstance(value, bool) else {})
        assert np.abs(ruvector.rope(x, scaling=other) - plain).max() > 1e-6, key


def test_scalings_where_they_meet_the_plain_frequencies():
    x = normal((30, 16), np.float64, "meet")
    places, plain = np.arange(30), ruvector.rope(x)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)
    close(ruvector.rope(x, scaling={"rope_type": "linear", "factor": 4}), ruvector.rope(x, places / 4))
    for method in ("linear", "ntk"):
        close(ruvector.rope(x, scaling={"rope_type": method, "factor": 1}), plain)
    for method in ("dynamic", "yarn"):
        options = {"rope_type": method, "original_max_position_embeddings": 30}
        close(ruvector.rope(x, scaling=options | {"factor": 1}), plain)
    # nothing changes up to the original length, and what happens beyond depends on how far
    dynamic = {"rope_type": "dynamic", "factor": 4, "original_max_position_embeddings": 30}
    close(ruvector.rope(x, scaling=dynamic), plain)
    at_60 = ruvector.rope(x, places + 30, scaling=dynamic)
    close(at_60, ruvector.rope(x, places + 30, scaling={"rope_type": "ntk", "factor": 5}))
    # NTK: the first pair stays, the last is divided by the factor
    ntk = ruvector.rope(x, scaling={"rope_type": "ntk", "factor": 4})
    close(ntk[:, [0, 8]], plain[:, [0, 8]])
    close(ntk[:, [7, 15]], ruvector.rope(x, places / 4)[:, [7, 15]])


def test_scaling_is_a_value():
    keys = SCALINGS["yarn, own ramp"]
    scaling = ruvector.RopeScaling(**keys)
    older = {("type" if key == "rope_type" else key): value for key, value in keys.items()}
    for other in (keys, older, scaling, ruvector.RopeScaling.of(older)):
        a = ruvector.get_attention("rope", scaling=other)
        assert a == ruvector.get_attention("rope", scaling=scaling)
        assert hash(a) == hash(ruvector.get_attention("rope", scaling=scaling))
        assert pickle.loads(pickle.dumps(a)) == a
    assert ruvector.AttentionType.Rope(scaling=keys) == ruvector.AttentionType.Rope(scaling=scaling)
    assert ruvector.get_attention("rope", scaling=keys) != ruvector.get_attention("rope", scaling=SCALINGS["yarn"])
    assert repr(scaling).startswith(
        "RopeScaling('yarn', factor=4.0, original_max_position_embeddings=64, beta_fast=8.0"
    )
    with pytest.raises(AttributeError):
        scaling.factor = 2


@pytest.mark.peer
@pytest.mark.parametrize("name", [name for name in SCALINGS if name not in ("none", "ntk")])
def test_rope_is_that_of_llama(name):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    scaling, length, heads, dim, base = SCALINGS[name], 300, 3, 64, 10000.0
    original = scaling.get("original_max_position_embeddings", 4096)
    config = LlamaConfig(
        hidden_size=heads * dim,
        num_attention_heads=heads,
        max_position_embeddings=original,
        rope_parameters=scaling | {"rope_theta": base},
    )
    x = normal((2, heads, length, dim), np.float32, "llama")
    given = torch.from_numpy(x)
    cos, sin = LlamaRotaryEmbedding(config)(given, torch.arange(length)[None])
    theirs, _ = apply_rotary_pos_emb(given, given, cos, sin)
    # their angles are float32: off by up to length * 2 ** -24 and a few roundings, of pairs no longer than this
    longest = np.abs(reference.pairs_of(x, dim, False)).max() * 1.5
    bound = (2 * length + 8) * 2.0**-24 * longest
    reference.within(ruvector.rope(x, scaling=scaling), theirs.numpy().astype(np.float64), bound, name)


@pytest.mark.peer
def test_interleaved_rope_is_that_of_gpt_j():
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.models.gptj import modeling_gptj

    x = normal((2, 100, 3, 16), np.float32, "gpt-j")
    sin, cos = torch.chunk(modeling_gptj.create_sinusoidal_positions(100, 16)[None], 2, dim=-1)
    theirs = modeling_gptj.apply_rotary_pos_emb(torch.from_numpy(x), sin.repeat(2, 1, 1), cos.repeat(2, 1, 1)).numpy()
    ours = np.swapaxes(ruvector.rope(np.swapaxes(x, 1, 2), interleaved=True), 1, 2)
    reference.within(ours, theirs.astype(np.float64), 208 * 2.0**-24 * np.abs(x).max() * 1.5)


# What the types promise ----------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("dtype_name", FLOATS)
def test_lengths_around_the_blocks(isa, case, dtype_name):
    for q_len, kv_len in (
        (1, 1),
        (1, 40),
        (2, 3),
        (31, 31),
        (47, 48),
        (48, 49),
        (49, 47),
        (65, 64),
        (64, 90),
        (90, 20),
        (3, 1),
        (130, 135),
    ):
        for causal in (False, True):
            name, parameters, *arrays = arrays_of(case, (), q_len, kv_len, DTYPES[dtype_name])
            out = ruvector.attention(*arrays, name, causal=causal, **parameters)
            expected = reference.TYPES[name](*arrays, causal=causal, **parameters)
            reference.check(out, expected, f"{case} {q_len} x {kv_len} {causal}")


@EACH
def test_masks_of_every_shape_compose(isa, case):
    q_len, kv_len = 37, 50
    name, parameters, query, key, value = arrays_of(case, (2,), q_len, kv_len, np.float32)
    seen = generator("position mask").random((2, 4, q_len, kv_len)) < 0.7
    seen[:, :, 5] = False
    bias = np.where(seen, generator("position bias").standard_normal(seen.shape), -np.inf).astype(np.float32)
    for mask in (
        seen,
        seen[:, :1],
        seen[0],
        seen[:, 0],
        seen[0, 0],
        seen[0, 0, 1],
        bias,
        bias[:, 0],
        bias[1, 2],
        bias[0, 0, 2:3],
    ):
        if mask.shape == (4, q_len, kv_len):
            mask = mask[:2]  # two batch elements, all heads alike
        for options in ({}, {"causal": True}, {"scale": 0.4, "causal": True}):
            out = ruvector.attention(query, key, value, name, mask=mask, **options, **parameters)
            expected = reference.TYPES[name](query, key, value, mask=mask, **options, **parameters)
            reference.check(out, expected, f"{case} {mask.dtype} {mask.shape} {list(options)}")
            p = ruvector.attention_scores(query, key, name, mask=mask, **options, **parameters)
            weights = reference.Weights(expected)
            reference.within(p, weights.exact, weights.bound, f"{case} scores {mask.dtype} {mask.shape}")
    none = ruvector.attention(query, key, value, name, mask=np.zeros((), bool), **parameters)
    assert (none == 0).all()


@EACH
@pytest.mark.parametrize("dtype_name", FLOATS)
def test_the_future_does_not_reach_a_causal_row(isa, case, dtype_name):
    name, parameters, query, key, value = arrays_of(case, (2,), 70, 80, DTYPES[dtype_name])
    for mask in (None, np.arange(80) % 5 != 1):
        whole = ruvector.attention(query, key, value, name, causal=True, mask=mask, **parameters)
        for row in (0, 31, 47, 48):
            other_key, other_value, other_query = key.copy(), value.copy(), query.copy()
            other_key[:, row + 11 :] = np.nan
            other_value[:, row + 11 :] = np.inf
            other_query[:, row + 1 :] = np.nan
            out = ruvector.attention(other_query, other_key, other_value, name, causal=True, mask=mask, **parameters)
            assert same_bits(out[:, : row + 1], whole[:, : row + 1]), f"{case} {row}"


@EACH
@pytest.mark.parametrize("dtype_name", FLOATS)
def test_a_decoding_step_is_the_last_row(isa, case, dtype_name):
    name, parameters, query, key, value = arrays_of(case, (2,), 70, 70, DTYPES[dtype_name])
    expected = reference.TYPES[name](query, key, value, causal=True, **parameters)
    whole = ruvector.attention(query, key, value, name, causal=True, **parameters)
    for count in (1, 3, 40):
        step = ruvector.attention(query[:, -count:], key, value, name, causal=True, **parameters)
        bound = expected.bound()[:, -count:]
        reference.within(step, expected.out[:, -count:], bound, f"{case} {count}")
        reference.within(step, whole[:, -count:], 2 * bound.astype(whole.dtype), f"{case} {count}")


@EACH
def test_batch_elements_and_threads(isa, case, threads):
    name, parameters, query, key, value = arrays_of(case, (2, 3), 40, 50, np.float32)
    for options in ({}, {"mask": np.arange(50) > 3}, {"causal": True}):
        ruvector.set_num_threads(1)
        out = ruvector.attention(query, key, value, name, **options, **parameters)
        ruvector.set_num_threads(3)
        assert same_bits(ruvector.attention(query, key, value, name, **options, **parameters), out)
        for at in ((0, 0), (1, 2)):
            alone = ruvector.attention(query[at], key[at], value[at], name, **options, **parameters)
            assert same_bits(alone, out[at]), f"{case} {at}"
        # one key and value for all of a leading axis
        shared = ruvector.attention(query, key[:, :1], value[0, 0], name, **options, **parameters)
        assert same_bits(
            shared[1, 2], ruvector.attention(query[1, 2], key[1, 0], value[0, 0], name, **options, **parameters)
        )


@EACH
def test_shared_heads_equal_repeated_ones(isa, case):
    if case == "multi_query":
        name, parameters, query, key, value = arrays_of(case, (2,), 40, 45, np.float32)
        repeated = [np.tile(x, 4) for x in (key, value)]
        shared = ruvector.attention(query, key, value, name, **parameters)
        assert same_bits(shared, ruvector.attention(query, *repeated, "multi_head", num_heads=4))
        assert same_bits(shared, ruvector.attention(query, key, value, "grouped_query", num_heads=4, num_kv_heads=1))
        return
    name, parameters, query, key, value = arrays_of(case, (2,), 40, 45, np.float32)
    key, value = key[..., :16], value[..., :12]
    heads = [np.repeat(x.reshape(2, 45, 2, -1), 2, axis=2).reshape(2, 45, -1) for x in (key, value)]
    for options in ({}, {"causal": True}, {"mask": np.arange(45) % 3 > 0}):
        shared = ruvector.attention(query, key, value, name, num_kv_heads=2, **options, **parameters)
        assert same_bits(shared, ruvector.attention(query, *heads, name, **options, **parameters)), case


@EACH
@pytest.mark.parametrize("dtype_name", FLOATS)
def test_no_keys_and_no_queries(isa, case, dtype_name):
    for q_len, kv_len in ((3, 0), (0, 4), (0, 0)):
        name, parameters, query, key, value = arrays_of(case, (2,), q_len, kv_len, DTYPES[dtype_name])
        for options in ({}, {"causal": True}, {"mask": np.ones(kv_len, bool)}):
            out = ruvector.attention(query, key, value, name, **options, **parameters)
            assert out.shape == (2, q_len, 24)
            assert (out == 0).all()
            assert ruvector.attention_scores(query, key, name, **options, **parameters).shape == (2, q_len, kv_len)


@EACH
def test_bad_numbers_stay_where_they_are_seen(isa, case):
    name, parameters, query, key, value = arrays_of(case, (), 40, 50, np.float32)
    mask = generator("position nan").random((40, 50)) < 0.6
    mask[:, 17] = False
    plain = ruvector.attention(query, key, value, name, mask=mask, **parameters)
    key[17], value[17] = np.nan, np.inf
    for hiding in (mask, np.where(mask, 0, -np.inf).astype(np.float32)):
        assert same_bits(ruvector.attention(query, key, value, name, mask=hiding, **parameters), plain)
    query[9] = np.nan
    out = ruvector.attention(query, key, value, name, mask=mask, **parameters)
    assert np.isnan(out[9]).all()
    assert same_bits(np.delete(out, 9, 0), np.delete(plain, 9, 0))


@EACH
def test_half_precision_is_computed_in_float32(isa, case):
    for dtype in (DTYPES[name] for name in DTYPES if name not in FLOATS):
        name, parameters, *arrays = arrays_of(case, (2,), 40, 50, dtype)
        for options in ({}, {"mask": np.arange(50) % 4 > 0}):
            out = ruvector.attention(*arrays, name, **options, **parameters)
            reference.check(out, reference.TYPES[name](*arrays, **options, **parameters), case)


@EACH
def test_dropout_of_a_type(isa, case):
    name, parameters, query, key, value = arrays_of(case, (2,), 40, 200, np.float64)
    call = ruvector.get_attention(name, dropout=0.4, **parameters)
    plain = ruvector.get_attention(name, **parameters)(query, key, value)
    assert same_bits(call(query, key, value), plain)
    first = call(query, key, value, training=True, rng=3)
    assert same_bits(call(query, key, value, training=True, rng=3), first)
    assert not same_bits(call(query, key, value, training=True, rng=4), first)
    assert same_bits(call(query, key, value, training=True, rng=np.random.default_rng(3)), first)
    ones = np.ones_like(value)
    kept = np.concatenate([call(query, key, ones, training=True, rng=seed)[..., 0].ravel() for seed in range(20)])
    exact = ruvector.get_attention(name, **parameters)(query, key, ones)[..., 0].mean()
    assert abs(kept.mean() - exact) < 6 * kept.std() / math.sqrt(kept.size) + 0.02
    assert kept.std() > 0.01


def test_functions_named_after_the_types():
    for case, (options, width) in {
        "multi_query": ({"num_heads": 4}, 8),
        "rope": ({"num_heads": 4, "base": 90.0, "rotary_dim": 4, "interleaved": True, "scaling": SCALINGS["yarn"]}, 32),
        "xpos": (
            {"num_heads": 4, "num_kv_heads": 4, "base": 90.0, "gamma": 0.9, "scale_base": 20.0, "interleaved": True},
            32,
        ),
        "relative": (
            {
                "num_heads": 4,
                "max_distance": 2,
                "key_embedding": normal((5, 8), np.float64, "a"),
                "value_embedding": normal((5, 8), np.float64, "b"),
            },
            32,
        ),
        "t5": (
            {
                "num_heads": 4,
                "num_buckets": 8,
                "max_distance": 9,
                "bidirectional": True,
                "bias": normal((8, 4), float, "t"),
            },
            32,
        ),
    }.items():
        q, k, v = (
            normal((2, 9, 32), np.float32, "q"),
            normal((2, 12, width), np.float32, "k"),
            normal((2, 12, width), np.float32, "v"),
        )
        common = {"mask": np.arange(12) > 1, "causal": True, "scale": 0.4, "dropout": 0.2, "training": True, "rng": 1}
        function = getattr(ruvector, f"{case}_attention")
        out = np.empty((2, 9, 32), np.float32)
        assert function(q, k, v, out=out, **options, **common) is out
        assert same_bits(out, ruvector.attention(q, k, v, case, **options, **common)), case
        for option in options:
            if option in ("num_heads", "num_kv_heads"):
                continue
            # tables and a largest distance go by the sizes
            goes = {"max_distance": {"key_embedding", "value_embedding"}, "num_buckets": {"bias", "max_distance"}}.get(
                option, set()
            )
            fewer = {name: value for name, value in options.items() if name != option and name not in goes}
            assert not same_bits(out, function(q, k, v, **fewer, **common)), f"{case} {option}"


# rope, xpos ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", SCALINGS)
def test_rope_type_is_attention_over_rotated_rows(isa, scaling):
    """Each scaling against the oracle, and against `rope` and multi_head."""
    query, key = normal((2, 9, 32), np.float32, "q"), normal((2, 30, 32), np.float32, "k")
    value = normal((2, 30, 12), np.float32, "v")
    options = {"num_heads": 2, "scaling": SCALINGS[scaling]}
    out = ruvector.rope_attention(query, key, value, causal=True, **options)
    expected = reference.rope(query, key, value, causal=True, **options)
    reference.check(out, expected, scaling)
    split = lambda x: np.swapaxes(x.reshape(2, -1, 2, 16), 1, 2)
    join = lambda x: np.swapaxes(x, 1, 2).reshape(2, -1, 32)
    if scaling != "dynamic":
        turned = [
            join(ruvector.rope(split(x), places, scaling=SCALINGS[scaling]))
            for x, places in ((query, np.arange(21, 30)), (key, None))
        ]
        by_hand = ruvector.attention(*turned, value, "multi_head", num_heads=2, causal=True)
        reference.within(by_hand, expected.out, expected.bound(), scaling)


def test_xpos_decays_with_the_distance(isa):
    """All but the last pair are 0, and that one hardly turns: what is left is zeta ** (distance / scale_base)."""
    n, d, gamma, scale_base = 400, 8, 0.4, 50.0
    x = np.zeros((n, d))
    x[:, [3, 7]] = 1.0
    p = ruvector.attention_scores(x, x, "xpos", num_heads=1, base=1e30, causal=True, scale=5.0, scale_base=scale_base)
    zeta = (6 / d + gamma) / (1 + gamma)
    distance = np.arange(n)[:, None] - np.arange(n)
    logits = np.where(distance >= 0, 10 * zeta ** (distance / scale_base), -np.inf)
    exact = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(p, exact / exact.sum(-1, keepdims=True), rtol=1e-12, atol=0)
    assert (np.diff(p[-1]) > 0).all(), "nearer keys have more weight"


def test_xpos_of_long_sequences_stays_in_range(isa):
    """The factors alone, 0.2857 ** (120,000 / 512) and its inverse, are no float32 numbers."""
    q, k, v = (
        normal((3, 8), np.float32, "q"),
        normal((120_000, 8), np.float32, "k"),
        normal((120_000, 4), np.float32, "v"),
    )
    out = ruvector.xpos_attention(q, k, v, 1, causal=True)
    reference.check(out, reference.xpos(q, k, v, num_heads=1, causal=True), "120,000 keys")


def test_xpos_blocks_agree_with_one_another(isa):
    q, k, v = (normal((100, 16), np.float64, role) for role in "qkv")
    for scale_base in (1.0, 3.0, 7.5, 100.0):
        options = {"num_heads": 2, "scale_base": scale_base}
        for causal in (False, True):
            if scale_base < 3 and not causal:
                continue  # 3.5 ** 100 in the exponent
            out = ruvector.xpos_attention(q, k, v, causal=causal, **options)
            reference.check(out, reference.xpos(q, k, v, causal=causal, **options), f"{scale_base} {causal}")


# relative, t5 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", (False, True))
def test_buckets_follow_the_definition(bidirectional):
    distances = np.arange(-700, 701)
    for num_buckets, max_distance in (
        (32, 128),
        (4, 2),
        (4, 3),
        (8, 64),
        (12, 20),
        (32, 17),
        (64, 600),
        (2, 100),
        (5, 9),
    ):
        if bidirectional and num_buckets in (2, 5):
            continue
        if max_distance <= num_buckets // (4 if bidirectional else 2):
            continue
        ours = _t5_buckets(distances, bidirectional, num_buckets, max_distance)
        exact = [reference.t5_bucket(t, bidirectional, num_buckets, max_distance) for t in distances.tolist()]
        np.testing.assert_array_equal(ours, exact, f"{num_buckets} {max_distance}")


@pytest.mark.peer
@pytest.mark.parametrize("bidirectional", (False, True))
def test_buckets_are_those_of_t5(bidirectional):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = np.arange(-1500, 1501)
    for num_buckets, max_distance in ((32, 128), (64, 256), (16, 100), (32, 1000)):
        theirs = T5Attention._relative_position_bucket(
            torch.from_numpy(distances), bidirectional, num_buckets, max_distance
        )
        np.testing.assert_array_equal(_t5_buckets(distances, bidirectional, num_buckets, max_distance), theirs.numpy())


@pytest.mark.peer
@pytest.mark.parametrize("decoder", (False, True))
def test_t5_attention_is_that_of_t5(isa, decoder):
    """A layer with its weights: its scale is 1, its decoder has buckets for the past alone."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention

    torch.manual_seed(0)
    config = T5Config(d_model=48, d_kv=8, num_heads=6, dropout_rate=0.0, is_decoder=decoder)
    layer = T5Attention(config, has_relative_attention_bias=True, layer_idx=0).eval().double()
    x = normal((2, 150, 48), np.float64, "t5 layer")
    hidden = torch.zeros(1, 1, 150, 150, dtype=torch.double)
    if decoder:
        hidden = torch.triu(torch.full((150, 150), -1e300, dtype=torch.double), 1)[None, None]
    with torch.no_grad():
        theirs = layer(torch.from_numpy(x), mask=hidden)[0].numpy()
    w = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
    q, k, v = (x @ w[f"{role}.weight"].T for role in "qkv")
    out = ruvector.t5_attention(q, k, v, 6, bias=w["relative_attention_bias.weight"], causal=decoder)
    np.testing.assert_allclose(out @ w["o.weight"].T, theirs, rtol=0, atol=1e-11 * np.abs(theirs).max())


@pytest.mark.parametrize("case", ("relative", "relative values", "t5"))
def test_blocks_of_some_heads(isa, case):
    """2000 keys: two heads a block; 3000: one; 12,000: fewer than 48 queries; 300,000: one."""
    for kv_len, q_len, heads, kv_heads, head in (
        (2000, 50, 4, 4, 4),
        (2000, 50, 6, 2, 4),
        (2000, 50, 5, 1, 4),
        (3000, 50, 4, 2, 4),
        (12_000, 45, 2, 2, 2),
        (300_000, 2, 2, 1, 2),
    ):
        query = normal((q_len, heads * head), np.float32, "q")
        key, value = normal((kv_len, kv_heads * head), np.float32, "k"), normal((kv_len, kv_heads * 2), np.float32, "v")
        parameters = {"num_heads": heads, "num_kv_heads": kv_heads}
        if case != "t5":
            parameters |= {"max_distance": 5, "key_embedding": normal((heads, 11, head), np.float64, "a")}
        if case == "relative values":
            parameters["value_embedding"] = normal((heads, 11, 2), np.float64, "b")
        name = case.split()[0]
        for options in ({}, {"mask": generator("heads mask").random((heads, q_len, kv_len)) < 0.8, "causal": True}):
            if options and kv_len > 3000:
                options = {"mask": np.arange(kv_len) % 3 > 0, "causal": True}
            out = ruvector.attention(query, key, value, name, **options, **parameters)
            expected = reference.TYPES[name](query, key, value, **options, **parameters)
            reference.check(out, expected, f"{case} {kv_len} {heads} {kv_heads} {list(options)}")
            if kv_len <= 3000:
                weights = reference.Weights(expected)
                p = ruvector.attention_scores(query, key, name, **options, **parameters)
                reference.within(p, weights.exact, weights.bound, f"{case} scores {kv_len} {heads} {kv_heads}")


def test_t5_biases_take_no_memory_of_a_matrix(isa):
    n = 3000
    q, k, v = (normal((n, 16), np.float32, role) for role in "qkv")
    whole = n * n * 4
    assert peak_allocation(lambda: ruvector.t5_attention(q, k, v, 2)) < whole / 8
    # in blocks: masked biases of 48 rows
    blocks = peak_allocation(lambda: ruvector.t5_attention(q, k, v, 2, mask=np.arange(n) > 3))
    assert blocks < whole / 8


def test_relative_biases_keep_their_bound_of_memory(isa):
    n, heads, reach = 3000, 2, 4
    q, k, v = (normal((n, 16), np.float32, role) for role in "qkv")
    b = normal((2 * reach + 1, 8), np.float64, "b")
    own = n * 16 * 4
    biases = (2**19 + 2**12) * 4
    for options in ({}, {"mask": np.arange(n) > 3}, {"value_embedding": b}):
        columns = n * heads * (8 + 50 + 2 * reach) * 4 if "value_embedding" in options else 0
        peak = peak_allocation(lambda: ruvector.relative_attention(q, k, v, heads, max_distance=reach, **options))
        assert peak < 2 * biases + columns + 4 * own + 2**20, options


def test_an_embedding_of_every_distance_alike_is_added_to_every_value(isa):
    q, k, v = normal((50, 8), np.float64, "q"), normal((60, 8), np.float64, "k"), normal((60, 6), np.float64, "v")
    b = np.broadcast_to(normal(6, np.float64, "b"), (9, 6))
    plain = ruvector.relative_attention(q, k, v, 1, max_distance=4)
    for options in ({}, {"causal": True}):
        plain = ruvector.relative_attention(q, k, v, 1, max_distance=4, **options)
        out = ruvector.relative_attention(q, k, v, 1, max_distance=4, value_embedding=b, **options)
        np.testing.assert_allclose(out, plain + b[0], rtol=0, atol=1e-13)
    # dropout takes a key from both sums
    common = {"max_distance": 4, "dropout": 0.5, "training": True, "rng": 5}
    ones, zeros = np.ones((9, 6)), np.zeros((9, 6))
    one = ruvector.relative_attention(q, k, np.ones_like(v), 1, value_embedding=zeros, **common)
    two = ruvector.relative_attention(q, k, np.ones_like(v), 1, value_embedding=ones, **common)
    assert np.abs(one - 1).max() > 0.1
    np.testing.assert_allclose(two, 2 * one, rtol=0, atol=1e-13)


def test_clipping_begins_at_the_distance(isa):
    """Keys farther than max_distance share an embedding: one that is the same there and beyond changes nothing."""
    q, k, v = normal((40, 8), np.float32, "q"), normal((40, 8), np.float32, "k"), normal((40, 6), np.float32, "v")
    table = normal((7, 8), np.float64, "a")
    longer = np.concatenate([table[:1]] * 5 + [table] + [table[-1:]] * 5)
    short = ruvector.relative_attention(q, k, v, 1, max_distance=3, key_embedding=table)
    assert same_bits(ruvector.relative_attention(q, k, v, 1, max_distance=8, key_embedding=longer), short)


# Scores of a pair ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype_name", FLOATS)
def test_scores_of_a_pair_are_those_at_one_position(isa, dtype_name):
    dtype = DTYPES[dtype_name]
    q, k = normal((3, 32), dtype, "pair q"), normal((3, 32), dtype, "pair k")
    plain = ruvector.attention_score(q, k, "multi_head", num_heads=4).astype(np.float64)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=40 * reference.unit(dtype) * 32)
    score = lambda name, **options: ruvector.attention_score(q, k, name, num_heads=4, **options)
    assert score("rope").dtype == dtype
    close(score("rope"), plain)
    close(score("xpos"), plain)
    close(score("rope", scale=0.3), ruvector.attention_score(q, k, "multi_head", num_heads=4, scale=0.3))
    factor = 0.1 * math.log(8) + 1
    close(score("rope", scaling=SCALINGS["yarn"]), plain * factor**2)
    bias = normal((32, 4), np.float64, "pair bias")
    close(score("t5", bias=bias), plain * math.sqrt(8) + bias[0].mean())
    a = normal((4, 7, 8), np.float64, "pair a")
    term = (q.reshape(3, 4, 8) * a[:, 3]).sum((-1, -2)) / 4 / math.sqrt(8)
    close(score("relative", max_distance=3, key_embedding=a), plain + term)
    single = ruvector.attention_score(q, k[:, :8], "multi_query", num_heads=4)
    close(single, ruvector.attention_score(q, np.tile(k[:, :8], 4), "multi_head", num_heads=4))
    shared = ruvector.attention_score(
        q, k[:, :16], "relative", num_heads=4, num_kv_heads=2, max_distance=3, key_embedding=a
    )
    repeated = np.repeat(k[:, :16].reshape(3, 2, 8), 2, 1).reshape(3, 32)
    close(shared, ruvector.attention_score(q, repeated, "relative", num_heads=4, max_distance=3, key_embedding=a))


def test_fixed_parameters_are_the_same_in_every_process():
    code = """
import numpy as np, ruvector
x = np.arange(48.0).reshape(6, 8) % 5 - 2
print([ruvector.attention(x, x, x, name, num_heads=2).tobytes().hex() for name in ("relative", "t5")])
"""
    assert check_python(code) == check_python(code)
