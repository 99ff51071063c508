"""Linear attention, Performers, random feature attention and their states."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import reference
import ruvector
from support import DTYPES, generator, normal, same_bits

TYPES = {
    "linear": (ruvector.linear_attention, {"feature_map": "elu"}, {"feature_map": "relu"}),
    "performer": (ruvector.performer_attention, {"num_features": 24}, {"num_features": 70, "orthogonal": False}),
    "random_feature": (
        ruvector.random_feature_attention,
        {"num_features": 24},
        {"num_features": 70, "orthogonal": True},
    ),
}
FLOATS = ("float32", "float64")


def arrays(q_len, kv_len, dim, v_dim, dtype, *batch, size=1.0):
    query = normal((*batch, q_len, dim), dtype, "linear q", scale=size)
    key = normal((*batch, kv_len, dim), dtype, "linear k", scale=size)
    return query, key, normal((*batch, kv_len, v_dim), dtype, "linear v")


# Features ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "dim"), ((1, 1), (3, 8), (8, 8), (20, 8), (33, 16), (5, 64)))
def test_features_are_those_of_the_seed(rows, dim):
    for orthogonal in (False, True):
        exact = reference.draw_features(rows, dim, orthogonal)
        drawn = ruvector.draw_features(rows, dim, orthogonal=orthogonal)
        assert drawn.shape == (rows, dim)
        assert drawn.dtype == np.float64
        # directions are as sensitive as the blocks are ill-conditioned
        blocks = [reference.normals(42, rows * dim).reshape(rows, dim)[i : i + dim] for i in range(0, rows, dim)]
        worst = max(np.linalg.cond(block) for block in blocks) if orthogonal else 1
        assert np.abs(drawn - exact).max() <= 16 * 2.0**-52 * dim * worst


def test_features_are_normal_and_orthogonal_in_blocks():
    for dim, seed in itertools.product((7, 32), range(3)):
        w = ruvector.draw_features(3 * dim + 2, dim, rng=seed)
        for first in range(0, len(w), dim):
            block = w[first : first + dim] / np.linalg.norm(w[first : first + dim], axis=1, keepdims=True)
            assert np.abs(block @ block.T - np.eye(len(block))).max() < 64 * 2.0**-52
    for orthogonal in (True, False):
        w = np.concatenate([ruvector.draw_features(64, 16, orthogonal=orthogonal, rng=seed) for seed in range(60)])
        n = w.size
        assert abs(w.mean()) < 5 / math.sqrt(n)
        assert abs((w**2).mean() - 1) < 5 * math.sqrt(2 / n)
        assert abs((w**4).mean() - 3) < 5 * math.sqrt(96 / n)
        # lengths of rows are chi-distributed either way
        lengths = (w**2).sum(1)
        assert abs(lengths.mean() - 16) < 5 * math.sqrt(2 * 16 / len(w))
        assert abs(lengths.var() - 32) < 5 * 32 * math.sqrt((2 + 12 / 16) / len(w))


def test_features_come_from_rng_alone():
    before = np.random.get_state()[1].copy()
    a, b = ruvector.draw_features(9, 4, rng=7), ruvector.draw_features(9, 4, rng=np.random.default_rng(7))
    assert same_bits(a, b)
    assert not same_bits(a, ruvector.draw_features(9, 4))
    assert same_bits(ruvector.draw_features(9, 4), ruvector.draw_features(9, 4))
    np.testing.assert_array_equal(np.random.get_state()[1], before)


# The types -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("dtype_name", DTYPES)
def test_linear_types_are_within_their_bound_at_every_edge(isa, dtype_name, name):
    function, *cases = TYPES[name]
    for length, (dim, v_dim) in itertools.product((1, 17, 63, 65, 300), ((1, 3), (16, 17), (64, 48))):
        query, key, value = arrays(length, length + 5, dim, v_dim, DTYPES[dtype_name])
        for parameters, causal in ((cases[0], False), (cases[1], True)):
            out = function(query, key, value, causal=causal, **parameters)
            expected = getattr(reference, name)(query, key, value, causal=causal, **parameters)
            reference.check(out, expected, f"{name} {length} {dim} {v_dim} causal={causal}")


@pytest.mark.parametrize("name", TYPES)
def test_the_function_is_the_type(isa, name):
    function, *cases = TYPES[name]
    query, key, value = arrays(20, 31, 16, 9, np.float32, 2)
    mask = generator("seen").random((2, 1, 31)) < 0.7
    for parameters in cases:
        for options in ({}, {"causal": True}, {"mask": mask}, {"mask": mask[0, 0], "causal": True}):
            out = ruvector.attention(query, key, value, name, **parameters, **options)
            assert same_bits(function(query, key, value, **parameters, **options), out)
            assert not options or not same_bits(out, function(query, key, value, **parameters))
            reference.check(out, getattr(reference, name)(query, key, value, **parameters, **options))
    if name == "linear":
        assert same_bits(function(query, key, value), function(query, key, value, "elu"))
        return
    plain = function(query, key, value)
    own = ruvector.draw_features(cases[0]["num_features"], 16, orthogonal=name == "performer")
    assert same_bits(function(query, key, value, projection=own), function(query, key, value, **cases[0]))
    for options in ({"scale": 0.6}, {"num_features": 99}, {"orthogonal": name != "performer"}, {"projection": own}):
        changed = function(query, key, value, **options)
        assert not same_bits(changed, plain), options
        reference.check(changed, getattr(reference, name)(query, key, value, **options), f"{options}")
    # features are drawn anew in training, with an rng
    assert same_bits(function(query, key, value, rng=1), plain)
    assert same_bits(function(query, key, value, training=True), plain)
    drawn = function(query, key, value, training=True, rng=1)
    assert not same_bits(drawn, plain)
    assert same_bits(drawn, function(query, key, value, training=True, rng=1))
    fresh = ruvector.draw_features(256 if name == "performer" else 64, 16, orthogonal=name == "performer", rng=1)
    assert same_bits(drawn, function(query, key, value, projection=fresh))
    assert same_bits(
        function(query, key, value, projection=own, training=True, rng=1), function(query, key, value, projection=own)
    )


@pytest.mark.parametrize("name", TYPES)
def test_strides_and_broadcast_axes(isa, name):
    function, parameters, _ = TYPES[name]
    query, key, value = arrays(70, 70, 16, 20, np.float32, 2, 3)
    plain = function(query, key, value, **parameters)
    swapped = [np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2) for x in (query, key, value)]
    assert same_bits(function(*swapped, **parameters), plain)
    assert same_bits(
        function(query[:1], key[:, :1], value, **parameters)[1, 2],
        function(query[0, 2], key[1, 0], value[1, 2], **parameters),
    )
    # a place in the batch changes nothing
    assert same_bits(function(query[1, 1], key[1, 1], value[1, 1], **parameters), plain[1, 1])
    assert same_bits(function(query[1, 1, 5], key[1, 1], value[1, 1], **parameters), plain[1, 1, 5])
    out = np.empty((2, 70, 3, 20), np.float32).swapaxes(1, 2)
    assert function(query, key, value, out=out, **parameters) is out
    assert same_bits(np.ascontiguousarray(out), plain)
    overlapping = value.copy()
    function(query, key, overlapping, out=overlapping, **parameters)
    assert same_bits(overlapping, plain)


@pytest.mark.parametrize("name", TYPES)
def test_hidden_keys_have_no_influence(isa, name):
    function, parameters, _ = TYPES[name]
    query, key, value = arrays(150, 150, 16, 20, np.float32, 2)
    for mask in (
        np.arange(150) % 3 != 0,
        np.arange(150) >= 70,
        np.arange(150) < 1,
        generator("holes").random((2, 1, 150)) < 0.5,
    ):
        hidden = np.broadcast_to(~mask, (2, 1, 150))[:, 0]
        for causal in (False, True):
            out = function(query, key, value, mask=mask, causal=causal, **parameters)
            assert np.isfinite(out).all()
            poisoned = key.copy(), value.copy()
            for x, bad in zip(poisoned, (np.nan, np.inf)):
                x[hidden] = bad
            assert same_bits(function(query, *poisoned, mask=mask, causal=causal, **parameters), out)
            reference.check(out, getattr(reference, name)(query, key, value, mask=mask, causal=causal, **parameters))
    # appended keys behind a mask change no bit
    seen = np.arange(150) < 110
    longer = function(query, key, value, mask=seen, **parameters)
    assert same_bits(longer, function(query, key[:, :110], value[:, :110], **parameters))


@pytest.mark.parametrize("name", TYPES)
def test_rows_that_see_nothing_are_zero(isa, name):
    function, parameters, _ = TYPES[name]
    query, key, value = arrays(40, 25, 16, 20, np.float32, 2)
    assert (function(query, key, value, mask=np.zeros(25, bool), **parameters) == 0).all()
    assert (function(query, key, value, mask=np.zeros(25, bool), causal=True, **parameters) == 0).all()
    out = function(query, key, value, causal=True, **parameters)
    assert (out[:, :15] == 0).all()
    assert (out[:, 15:] != 0).any(-1).all()
    reference.check(out, getattr(reference, name)(query, key, value, causal=True, **parameters))


def test_relu_features_without_a_product_give_zero(isa):
    out = ruvector.linear_attention([[-1.0, 2.0], [-1.0, -2.0]], [[3.0, -1.0], [1.0, -0.5]], [[1.0], [2.0]], "relu")
    np.testing.assert_array_equal(out, [[0.0], [0.0]])


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("dtype_name", FLOATS)
def test_causal_never_sees_the_future(isa, dtype_name, name):
    function, *cases = TYPES[name]
    dtype = DTYPES[dtype_name]
    query, key, value = arrays(200, 200, 16, 20, dtype)
    for parameters in cases:
        plain = function(query, key, value, causal=True, **parameters)
        for row in (0, 30, 63, 64, 198):
            for bad in (3.0, 1e4, np.nan, -np.inf):
                changed = key.copy(), value.copy()
                for x in changed:
                    x[row + 1 :] = bad * (1 + np.arange(x[row + 1 :].size).reshape(x[row + 1 :].shape) % 7)
                out = function(query, *changed, causal=True, **parameters)
                assert same_bits(out[: row + 1], plain[: row + 1]), (row, bad)
                assert not same_bits(out, plain)
        # a row of the causal form is the full form over the keys up to its own
        for row in (0, 77, 199):
            full = function(query[row], key[: row + 1], value[: row + 1], **parameters)
            exact = getattr(reference, name)(query[row], key[: row + 1], value[: row + 1], **parameters)
            reference.within(full, plain[row].astype(exact.out.dtype), 2 * exact.bound())


@pytest.mark.parametrize("name", TYPES)
def test_nan_stays_in_its_row(isa, name):
    function, parameters, _ = TYPES[name]
    query, key, value = arrays(90, 90, 16, 20, np.float32)
    poisoned = query.copy()
    poisoned[7, 3] = np.nan
    out = function(poisoned, key, value, **parameters)
    assert np.isnan(out[7]).all()
    others = np.arange(90) != 7
    assert same_bits(out[others], function(query, key, value, **parameters)[others])
    for x, columns in ((key, slice(None)), (value, 3)):
        poisoned = x.copy()
        poisoned[40, 3] = np.nan
        changed = (query, poisoned, value) if x is key else (query, key, poisoned)
        assert np.isnan(function(*changed, **parameters)[:, columns]).all()
        out = function(*changed, causal=True, **parameters)
        assert np.isnan(out[40:, columns]).all()
        assert np.isfinite(out[:40]).all()


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("dtype_name", FLOATS)
def test_constant_values_come_back(isa, dtype_name, name):
    function, *cases = TYPES[name]
    dtype = DTYPES[dtype_name]
    for size, causal, parameters in itertools.product((0.1, 1.0, 4.0, 30.0), (False, True), cases):
        query, key, _ = arrays(70, 300, 16, 1, dtype, size=size)
        if parameters.get("feature_map") == "relu":
            query = np.abs(query)
        for constant in (1.0, -0.1, 1e-30, 1e15):
            value = np.full((300, 18), constant, dtype)
            out = function(query, key, value, causal=causal, **parameters)
            error = np.abs(out.astype(np.longdouble) / value[0, 0] - 1).max()
            if name == "random_feature":
                assert error <= 2000 * reference.unit(dtype), (size, causal, parameters, constant)
            else:
                assert error <= 64 * reference.unit(dtype), (size, causal, parameters, constant)


@pytest.mark.parametrize("dtype_name", FLOATS)
def test_large_inputs_of_a_performer_neither_overflow_nor_vanish(isa, dtype_name):
    dtype = DTYPES[dtype_name]
    for size, dim in itertools.product((10.0, 30.0, 100.0), (4, 16, 64)):
        query, key, value = arrays(100, 100, dim, 10, dtype, size=size)
        for causal in (False, True):
            out = ruvector.performer_attention(query, key, value, 50, causal=causal)
            expected = reference.performer(query, key, value, num_features=50, causal=causal)
            reference.check(out, expected, f"size {size}, dim {dim}, causal={causal}")
            # values are averaged: the largest weights sum to 1
            assert (np.abs(out).max(0) > 0.1).all()
    # keys of growing length: each begins a chunk of its own
    query, key, value = arrays(100, 100, 16, 10, dtype)
    for order in (1, -1):
        growing = (key * np.geomspace(1e-3, 300, 100)[::order, None]).astype(dtype)
        out = ruvector.performer_attention(query, growing, value, 50, causal=True)
        reference.check(out, reference.performer(query, growing, value, num_features=50, causal=True), "growing keys")


def test_overflow_is_nan_never_a_number(isa):
    query, key, value = arrays(5, 9, 16, 3, np.float32)
    key[4] = 1e25
    assert np.isnan(ruvector.performer_attention(query, key, value)).all()
    out = ruvector.performer_attention(query, key, value, causal=True)
    assert np.isfinite(out[0]).all() or np.isnan(out[0]).all()
    assert np.isnan(out[1:]).all()


@pytest.mark.parametrize("dtype_name", FLOATS)
def test_random_features_look_at_directions_alone(isa, dtype_name):
    query, key, value = arrays(20, 30, 16, 10, DTYPES[dtype_name])
    plain = ruvector.random_feature_attention(query, key, value)
    limit = 4 * reference.random_feature(query, key, value).bound()
    sizes = (1e-30, 1e-12, 1e12, 1e30) if dtype_name == "float32" else (1e-300, 1e-160, 1e160, 1e300)
    for size in sizes:
        scaled = ruvector.random_feature_attention(query * DTYPES[dtype_name].type(size), key, value)
        assert (np.abs(scaled - plain) <= limit).all(), size
    # a row of zeros has no direction: all its sines are 0
    key[3] = 0
    reference.check(ruvector.random_feature_attention(query, key, value), reference.random_feature(query, key, value))


def test_the_error_does_not_grow_with_the_keys(isa):
    """Equal keys, so that every rounding of a plain sum would go the same way: off by 1e-2 at a million."""
    n = 1 << 17
    query, key = np.full((3, 4), 0.3, np.float32), np.full((n, 4), 0.3, np.float32)
    value = np.full((n, 3), 0.1, np.float32)
    for name, (function, parameters, _) in TYPES.items():
        out = function(query, key, value, **parameters)
        assert np.abs(out.astype(float) / float(value[0, 0]) - 1).max() <= 32 * 2.0**-24, name
    key, value = normal((n, 4), np.float32, "long k"), np.abs(normal((n, 3), np.float32, "long v"))
    out = ruvector.linear_attention(query, key, value)
    reference.check(out, reference.linear(query, key, value))
    expected = reference.linear(query, key, value)
    assert (np.abs(out - expected.out) <= 0.1 * expected.bound()).all()


@pytest.mark.parametrize("name", TYPES)
def test_results_do_not_depend_on_threads(isa, threads, name):
    function, parameters, _ = TYPES[name]
    query, key, value = arrays(3000, 9000, 16, 20, np.float32)
    mask = generator("thread mask").random(9000) < 0.8
    results = []
    for n in (1, 2, 3, 8):
        ruvector.set_num_threads(n)
        results.append([function(query, key, value, mask=mask, causal=c, **parameters) for c in (False, True)])
        many = [np.broadcast_to(x, (9, *x.shape)) for x in (query[:300], key, value)]
        results[-1] += [function(*many, mask=mask, **parameters)[4]]
    for others in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(results[0], others, strict=True))


@pytest.mark.parametrize("name", ("performer", "random_feature"))
def test_the_error_falls_with_the_root_of_the_features(name):
    function = TYPES[name][0]
    query, key, value = (x / 2 for x in arrays(100, 100, 16, 8, np.float64))
    if name == "performer":
        exact = ruvector.scaled_dot_attention(query, key, value)
    else:
        unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, key)]
        exact = ruvector.scaled_dot_attention(*unit, value, scale=1.0)
    counts = (32, 128, 512, 2048)
    errors = []
    for m in counts:
        drawn = [ruvector.draw_features(m, 16, orthogonal=name == "performer", rng=seed) for seed in range(12)]
        out = [function(query, key, value, projection=w) for w in drawn]
        errors.append(math.sqrt(np.mean([(o - exact) ** 2 for o in out])))
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -0.6 < slope < -0.4, (slope, errors)
    # the mean over draws comes nearer to the exact weights than one draw does: no bias beyond that of the quotient
    assert math.sqrt(((np.mean(out, 0) - exact) ** 2).mean()) < 0.5 * errors[-1]


def test_orthogonal_features_have_less_variance():
    query, key, value = (x / 2 for x in arrays(100, 100, 32, 8, np.float64))
    exact = ruvector.scaled_dot_attention(query, key, value)
    error = {}
    for orthogonal in (True, False):
        drawn = [ruvector.draw_features(32, 32, orthogonal=orthogonal, rng=seed) for seed in range(40)]
        error[orthogonal] = np.mean(
            [(ruvector.performer_attention(query, key, value, projection=w) - exact) ** 2 for w in drawn]
        )
    assert error[True] < error[False]


@pytest.mark.parametrize("name", TYPES)
def test_score_of_a_pair_ranks_and_weights_are_its_share(isa, name):
    function, parameters, _ = TYPES[name]
    query, key, _ = arrays(5, 40, 16, 1, np.float64)
    score = ruvector.attention_score(query[:, None], key, name, **parameters)
    assert score.shape == (5, 40)
    share = np.exp(score - score.max(-1, keepdims=True)) if name == "performer" else score
    weights = ruvector.attention_scores(query, key, name, **parameters)
    np.testing.assert_allclose(weights, share / share.sum(-1, keepdims=True), rtol=1e-11, atol=1e-14)
    if name == "performer":
        many = ruvector.attention_score(query[:, None] / 2, key / 2, name, num_features=4096)
        np.testing.assert_allclose(many, query @ key.T / 16, atol=0.3)
    single = ruvector.attention_score(query[0].astype(np.float32), key[0].astype(np.float32), name, **parameters)
    assert isinstance(single, np.float32)
    with pytest.raises(ValueError, match="16 vs 4"):
        ruvector.attention_score(query[0], np.ones(4), name)


# States --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("dtype_name", FLOATS)
def test_a_state_gives_the_rows_of_the_causal_form(isa, dtype_name, name):
    _, *cases = TYPES[name]
    dtype = DTYPES[dtype_name]
    query, key, value = arrays(150, 150, 16, 20, dtype, 2, 3)
    mask = generator("state mask").random((2, 3, 1, 150)) < 0.8
    for parameters in cases:
        exact = getattr(reference, name)(query, key, value, mask=mask, causal=True, **parameters)
        for cuts in (range(1, 150), (1, 2, 66, 100), (64, 128)):
            state = ruvector.LinearState(16, 20, name, batch=(2, 3), dtype=dtype, **parameters)
            rows = []
            for first, last in itertools.pairwise((0, *cuts, 150)):
                part = query[..., first:last, :], key[..., first:last, :], value[..., first:last, :]
                rows.append(state.step(*part, mask=mask[..., first:last]))
            assert len(state) == state.length == 150
            reference.check(np.concatenate(rows, -2), exact, f"{name} {len(cuts)} cuts")
        seen = getattr(reference, name)(query, key, value, mask=mask, **parameters)
        reference.check(state.attend(query), seen, "all keys")
        appended = ruvector.LinearState(16, 20, name, batch=(2, 3), dtype=dtype, **parameters)
        appended.append(key[..., :70, :], value[..., :70, :], mask=mask[..., :70])
        appended.append(key[..., 70:, :], value[..., 70:, :], mask=mask[..., 70:])
        reference.check(appended.attend(query), seen, "appended")


def test_a_state_carries_on_over_calls_and_instruction_sets():
    query, key, value = arrays(40, 40, 16, 20, np.float32)
    for name, dtype in itertools.product(TYPES, (np.float32, np.float64)):
        state = ruvector.LinearState(16, 20, name, dtype=dtype)
        parts = [tuple(x[i : i + 5] for x in (query, key, value)) for i in range(0, 40, 5)]
        rows = []
        for part, isa in zip(parts, itertools.cycle(ruvector.isas())):
            with ruvector.use_isa(isa):
                rows.append(state.step(*part))
        wide = [x.astype(dtype) for x in (query, key, value)]
        reference.check(np.concatenate(rows), getattr(reference, name)(*wide, causal=True), f"{name} {dtype}")


@pytest.mark.parametrize("name", TYPES)
def test_states_are_copied_pickled_and_reset(isa, name):
    query, key, value = arrays(30, 30, 16, 20, np.float32)
    state = ruvector.LinearState(16, 20, name).append(key[:20], value[:20])
    before = state.attend(query)
    others = [state.copy(), copy.copy(state), copy.deepcopy(state), pickle.loads(pickle.dumps(state))]
    state.append(key[20:], value[20:])
    assert not same_bits(state.attend(query), before)
    for other in others:
        assert other.length == 20
        assert (other.head_dim, other.v_dim, other.batch, other.dtype) == (16, 20, (), np.float32)
        assert same_bits(other.attend(query), before)
        other.append(key[20:], value[20:])
        assert same_bits(other.attend(query), state.attend(query))
    assert state.nbytes == others[0].nbytes > 0
    state.reset()
    assert len(state) == 0
    assert (state.attend(query) == 0).all()
    assert same_bits(state.append(key[:20], value[:20]).attend(query), before)
    assert repr(state) == f"<LinearState {name}, head_dim 16, v_dim 20, batch (), float32, 20 keys>"


def test_single_rows_and_outputs_of_a_state(isa):
    query, key, value = arrays(7, 7, 8, 5, np.float32, 2)
    state, rows = ruvector.LinearState(8, 5, batch=2), ruvector.LinearState(8, 5, batch=(2,))
    out = np.empty((2, 7, 5), np.float32)
    assert state.step(query, key, value, out=out) is out
    for i in range(7):
        row = np.empty((2, 5), np.float32)
        assert rows.step(query[:, i], key[:, i], value[:, i], out=row) is row
        assert row.shape == (2, 5)
    np.testing.assert_allclose(row, out[:, 6], rtol=1e-5)
    assert state.attend(query[:, 0]).shape == (2, 5)
    assert state.attend(query[:, :0]).shape == (2, 0, 5)
    assert state.append(key[:, :0], value[:, :0]).length == 7
    # lists, other dtypes and 16 bits are taken in the state's arithmetic
    half = ruvector.LinearState(8, 5, batch=2).append(key.astype(np.float16), value.tolist())
    assert half.attend(query.astype(np.float64)).dtype == np.float32


def test_features_of_a_state(isa):
    query, key, value = arrays(9, 9, 8, 5, np.float64)
    for name, orthogonal in (("performer", True), ("random_feature", False)):
        own = ruvector.draw_features(12, 8, orthogonal=orthogonal, rng=3)
        given = ruvector.LinearState(8, 5, name, dtype=np.float64, projection=own).step(query, key, value)
        drawn = ruvector.LinearState(8, 5, name, dtype=np.float64, num_features=12, rng=3).step(query, key, value)
        fixed = ruvector.LinearState(8, 5, name, dtype=np.float64, num_features=12).step(query, key, value)
        assert same_bits(given, drawn)
        assert not same_bits(given, fixed)
        scaled = ruvector.LinearState(8, 5, name, dtype=np.float64, num_features=12, scale=0.2).step(query, key, value)
        reference.check(scaled, getattr(reference, name)(query, key, value, num_features=12, scale=0.2, causal=True))
        assert not same_bits(scaled, fixed)


def test_the_size_of_a_state_does_not_grow():
    state = ruvector.LinearState(64, 48, batch=(2, 8))
    size = state.nbytes
    assert 2 * 8 * 64 * 48 * 8 <= size <= 1.1 * 2 * 8 * 64 * 48 * 8
    state.append(np.ones((2, 8, 1000, 64)), np.ones((2, 8, 1000, 48)))
    assert state.nbytes == size


def test_a_bad_call_leaves_the_state_alone(isa):
    query, key, value = arrays(9, 9, 8, 5, np.float32)
    state = ruvector.LinearState(8, 5).append(key, value)
    before = state.attend(query)
    for bad in (
        lambda: state.append(key, value[:5]),
        lambda: state.step(query, key, value, mask=np.ones((9, 9), bool)),
        lambda: state.step(query, key, value, out=np.empty((9, 4), np.float32)),
        lambda: state.append(key, value, mask=np.ones(7, bool)),
    ):
        with pytest.raises(ValueError):
            bad()
    assert state.length == 9
    assert same_bits(state.attend(query), before)


@pytest.mark.parametrize("causal", [False, True])
def test_constant_values_come_back_where_all_elements_are_far_below_zero(isa, causal):
    for dtype, low in ((np.float32, -80.0), (np.float64, -600.0)):
        query = (low + normal((6, 8), dtype, "low q")).astype(dtype)
        key = (low / 2 + normal((9, 8), dtype, "low k")).astype(dtype)
        for q in (query, np.full((6, 8), low, dtype), np.where(np.arange(8) == 3, -0.5, query).astype(dtype)):
            out = ruvector.linear_attention(q, key, np.full((9, 3), 1.5, dtype), causal=causal)
            assert np.abs(out[-6:] - 1.5).max() <= 300 * reference.unit(dtype) * 1.5
