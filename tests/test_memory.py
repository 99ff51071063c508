"""Attention with a memory, against its definition, in its limits and step by step."""

import copy

import numpy as np
import pytest
import reference
import reference_memory as oracle
import ruvector
from support import generator, normal, qkv, same_bits

D = 12
W = {
    name: normal(shape, np.float64, name, scale=0.3)
    for name, shape in (("key", (3, D, D)), ("value", (3, D, D)), ("w", (D, D)))
}
SMALL = {"segment_length": 5, "memory_length": 7, "compressed_length": 4}
CASES = {
    "compressive": [
        SMALL,
        {**SMALL, "segment_length": 4},
        {**SMALL, "memory_length": 3},
        {**SMALL, "compressed_length": 2},
        {**SMALL, "compressed_length": 0},
        {**SMALL, "rate": 2},
        {**SMALL, "compression": "max"},
        {**SMALL, "compression": "conv"},
        {**SMALL, "compression": "conv", "key_conv": W["key"]},
        {**SMALL, "compression": "conv", "value_conv": W["value"]},
        {},
    ],
    "feedback": [{}, {"layer_weights": [1.0, -0.5]}, {"w_key": W["w"]}, {"w_value": W["w"].T}],
}
RECORDS = {record.name: record for record in ruvector.attention_types() if record.family == "memory"}
LENGTHS = ((41, 41), (9, 45), (1, 30), (33, 20))


def arrays(dtype_name, q_len, kv_len, *seed, batch=()):
    return tuple(x.copy() for x in qkv(batch, q_len, kv_len, D, D, dtype_name, "memory", *seed))


def check(out, expected, q, k, v, what, steps=1):
    """S + d roundings of the values and of logits of kappa, `steps` times.

    A row of feedback is half of what was made before, whose error it carries on: twice the error in values, and in keys, which move the
    weights by twice as much once more; a compressed state adds the roundings of `rate` terms.
    """
    dtype = q.dtype
    kappa = (np.abs(q.astype(float)) @ np.abs(k.astype(float)).T).max() / np.sqrt(D)
    peak = max(np.abs(v.astype(float)).max(), np.abs(expected).max())
    bound = reference.unit(dtype) * peak * (len(k) + 16 + 2 * (D + 8) * kappa) * steps
    if reference.is_half(dtype):
        bound += 3 * reference.storage_unit(dtype) * peak
    assert out.dtype == dtype
    reference.within(out, expected, np.full(expected.shape, bound), what)


def test_every_type_has_a_case():
    assert set(CASES) == set(RECORDS) == set(oracle.TYPES)


@pytest.mark.parametrize("name", sorted(CASES))
def test_types_are_what_their_papers_define(isa, dtype_name, name):
    outputs = []
    for own in CASES[name]:
        for q_len, kv_len in LENGTHS[::-1]:
            q, k, v = arrays(dtype_name, q_len, kv_len)
            out = ruvector.attention(q, k, v, name, **own)
            check(out, oracle.TYPES[name](q, k, v, **own), q, k, v, f"{own} {q_len} x {kv_len}", 8)
            for alias in (*RECORDS[name].aliases, name.upper()):
                assert same_bits(ruvector.attention(q, k, v, alias, **own), out)
            assert same_bits(getattr(ruvector, f"{name}_attention")(q, k, v, **own), out)
            if q_len == 1:
                assert same_bits(ruvector.attention(q[0], k, v, name, **own), out[0])
        outputs.append(out.astype(float))
    for a, b in zip(outputs[1:], outputs):
        assert np.abs(a - b).max() > 0.005, f"a parameter of {name} changes nothing"


@pytest.mark.parametrize("name", sorted(CASES))
def test_common_options(isa, name):
    own = CASES[name][0]
    q, k, v = arrays("float32", 21, 33, "options", batch=(2,))
    plain = ruvector.attention(q, k, v, name, **own)
    shown = generator(name, "mask").random((2, 1, 33)) < 0.7
    for options in ({"scale": 0.9}, {"mask": shown}):
        out = ruvector.attention(q, k, v, name, **own, **options)
        assert not same_bits(out, plain)
        for b in range(2):
            given = dict(options)
            if "mask" in given:
                given["mask"] = shown[b, 0] if name == "compressive" else np.broadcast_to(shown[b], (21, 33))
            expected = oracle.TYPES[name](q[b], k[b], v[b], **own, **given)
            check(out[b], expected, q[b], k[b], v[b], list(options), 8)
    for b in range(2):
        np.testing.assert_allclose(ruvector.attention(q[b], k[b], v[b], name, **own), plain[b], rtol=0, atol=1e-5)
    out = np.empty_like(plain)
    assert ruvector.attention(q, k, v, name, **own, out=out) is out
    assert same_bits(out, plain)
    dropped = [ruvector.attention(q, k, v, name, **own, dropout=0.5, training=True, rng=seed) for seed in (3, 3, 4)]
    assert same_bits(dropped[0], dropped[1])
    assert not same_bits(dropped[0], dropped[2])
    assert same_bits(ruvector.attention(q, k, v, name, **own, dropout=0.5), plain)
    with pytest.raises(ValueError, match="rng"):
        ruvector.attention(q, k, v, name, **own, dropout=0.5, training=True)
    with pytest.raises(TypeError, match="causal"):
        ruvector.attention(q, k, v, name, causal=True)


def test_a_float_mask_of_feedback_is_added(isa):
    q, k, v = arrays("float64", 21, 21, "bias")
    bias = normal((21, 21), np.float64, "bias")
    bias[3, :2] = -np.inf
    check(ruvector.feedback_attention(q, k, v, mask=bias), oracle.feedback(q, k, v, mask=bias), q, k, v, "bias", 8)


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_future_and_hidden_keys_change_no_bit(isa, dtype_name, name):
    q, k, v = arrays(dtype_name, 40, 40, "future")
    own = CASES[name][0]
    clean = ruvector.attention(q, k, v, name, **own)
    for at in (1, 7, 20, 39):
        other_k, other_v = k.copy(), v.copy()
        other_k[at:], other_v[at:] = np.nan, 7
        assert same_bits(ruvector.attention(q, other_k, other_v, name, **own)[:at], clean[:at]), at
    mask = np.arange(40) % 6 != 2
    clean = ruvector.attention(q, k, v, name, **own, mask=mask)
    k[~mask], v[~mask] = np.nan, np.inf
    dirty = ruvector.attention(q, k, v, name, **own, mask=mask)
    assert np.isfinite(dirty.astype(float)).all()
    np.testing.assert_allclose(dirty.astype(float), clean.astype(float), rtol=0, atol=0.05 if q.itemsize == 2 else 1e-5)
    assert (ruvector.attention(q, k, v, name, **own, mask=np.zeros(40, bool)) == 0).all()
    assert (ruvector.attention(q, k[:0], v[:0], name, **own) == 0).all()


def test_compressive_attention_without_eviction_is_causal_attention(isa):
    for q_len, kv_len in LENGTHS:
        q, k, v = arrays("float64", q_len, kv_len, "limit")
        exact = ruvector.scaled_dot_attention(q, k, v, causal=True)
        for own in (
            {},
            {"segment_length": 4, "memory_length": 45},
            {"segment_length": 4, "memory_length": 0, "compressed_length": 45, "rate": 1},
        ):
            np.testing.assert_allclose(ruvector.compressive_attention(q, k, v, **own), exact, rtol=0, atol=1e-13)
        third = np.repeat(np.eye(D)[None] / 3, 3, 0)
        mean = ruvector.compressive_attention(q, k, v, **SMALL)
        conv = ruvector.compressive_attention(q, k, v, **SMALL, compression="conv", key_conv=third, value_conv=third)
        np.testing.assert_allclose(conv, mean, rtol=0, atol=1e-13)


def test_feedback_of_inputs_alone_is_strictly_causal_attention(isa):
    q, k, v = arrays("float64", 30, 30, "limit")
    out = ruvector.feedback_attention(q, k, v, [0.0, -800.0])
    exact = ruvector.scaled_dot_attention(q, k, v, mask=np.tri(30, k=-1, dtype=bool))
    np.testing.assert_allclose(out, exact, rtol=0, atol=1e-13)
    # a step at a time, on keys and values that are memory already
    a, b = np.exp([0.3, -0.4]) / np.exp([0.3, -0.4]).sum()
    whole, keys, values = ruvector.feedback_attention(q, k, v, [0.3, -0.4]), k.copy(), v.copy()
    for t in range(30):
        row = ruvector.feedback_attention(q[t], keys[: t + 1], values[: t + 1], [0.3, -0.4])
        np.testing.assert_allclose(row, whole[t], rtol=0, atol=1e-13)
        keys[t], values[t] = a * k[t] + b * row, a * v[t] + b * row


@pytest.mark.parametrize("compression", ["mean", "max", "conv"])
def test_a_compressive_memory_does_not_depend_on_how_it_was_filled(isa, compression):
    q, k, v = arrays("float64", 50, 50, "fill", batch=(2,))
    own = {"memory_length": 7, "compressed_length": 6, "compression": compression, "batch": (2,), "dtype": np.float64}
    shown = generator("fill").random((2, 50)) < 0.8
    one, other = ruvector.CompressiveMemory(D, **own), ruvector.CompressiveMemory(D, **own)
    assert (one.attend(q) == 0).all()
    assert one.append(k, v, mask=shown) is one
    for start, stop in ((0, 1), (1, 2), (2, 20), (20, 33), (33, 50)):
        other.append(k[:, start:stop], v[:, start:stop], mask=shown[:, start:stop])
    assert same_bits(one.keys, other.keys)
    assert same_bits(one.values, other.values)
    assert (one.length, one.compressed, one.keys.shape) == (8, 6, (2, 14, D))
    assert same_bits(one.attend(q), other.attend(q))
    assert not same_bits(one.attend(q), one.attend(q, scale=1.0))
    twin = copy.deepcopy(one)
    one.append(k[:, 0], v[:, 0])
    assert same_bits(twin.keys, other.keys)
    assert one.reset().keys.shape == (2, 0, D)
    segments = [
        one.step(q[:, i : i + 5], k[:, i : i + 5], v[:, i : i + 5], mask=shown[:, i : i + 5]) for i in range(0, 50, 5)
    ]
    options = {"segment_length": 5, "memory_length": 7, "compressed_length": 6, "compression": compression}
    whole = ruvector.compressive_attention(q, k, v, **options, mask=shown[:, None])
    assert same_bits(np.concatenate(segments, 1), whole)
    assert "compressed" not in repr(one) and f"{compression} of 3" in repr(one)


def test_a_feedback_memory_is_the_weighted_sum_of_layers(isa):
    states = normal((20, 4, 2, D), np.float64, "states")
    weights = np.array([0.5, -1.0, 0.0, 2.0])
    shares = oracle.softmax(weights)
    w_key, w_value = normal((D, 6), np.float64, "k"), normal((D, 5), np.float64, "v")
    memory = ruvector.FeedbackMemory(D, 3, weights=weights, w_key=w_key, w_value=w_value, batch=2, dtype=np.float64)
    query = normal((2, 3, 6), np.float64, "query")
    assert (memory.attend(query) == 0).all()
    for step in states:
        assert memory.append(step) is memory
    made = np.einsum("l,tlbd->btd", shares, states)
    np.testing.assert_allclose(memory.keys, made @ w_key, rtol=0, atol=1e-13)
    np.testing.assert_allclose(memory.values, made @ w_value, rtol=0, atol=1e-13)
    for scale in (None, 0.2):
        exact = ruvector.scaled_dot_attention(query, made @ w_key, made @ w_value, scale=scale)
        np.testing.assert_allclose(memory.attend(query, scale=scale), exact, rtol=0, atol=1e-13)
    assert memory.attend(query[:, 0]).shape == (2, 5)
    assert memory.length == 20
    assert memory.reset().length == 0
    plain = ruvector.FeedbackMemory(D, 3, batch=2).append(states[0])
    assert plain.keys.dtype == np.float32
    np.testing.assert_allclose(plain.values[:, 0], states[0].mean(0), rtol=0, atol=1e-6)
    assert "3 layers" in repr(plain)


def test_a_layer_of_a_feedback_memory_is_the_type(isa):
    """One layer that is attention alone, with the keys and values of the type being projections of its inputs."""
    x, w_q = normal((25, D), np.float64, "x"), normal((D, D), np.float64, "wq")
    weights = [0.2, -0.7]
    memory = ruvector.FeedbackMemory(D, 1, weights=weights, w_key=W["w"], w_value=W["w"].T, dtype=np.float64)
    rows = []
    for row in x:
        rows.append(memory.attend(row @ w_q))
        memory.append([row, rows[-1]])
    out = ruvector.feedback_attention(x @ w_q, x @ W["w"], x @ W["w"].T, weights, w_key=W["w"], w_value=W["w"].T)
    np.testing.assert_allclose(out, rows, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "own", "words"),
    [
        ("compressive", {"segment_length": 0}, ("segment_length", "0")),
        ("compressive", {"memory_length": -1}, ("memory_length", "-1")),
        ("compressive", {"rate": 0}, ("rate", "0")),
        ("compressive", {"compression": "median"}, ("compression", "'mean'", "'median'")),
        ("compressive", {"key_conv": W["key"]}, ("'mean'", "key_conv")),
        (
            "compressive",
            {"compression": "conv", "value_conv": np.ones((2, 3, 3))},
            ("value_conv", f"(3, {D}, {D})", "(2, 3, 3)"),
        ),
        ("compressive", {"mask": np.ones((4, 5), bool)}, ("mask", "(4, 5)")),
        ("feedback", {"layer_weights": [1.0, 2.0, 3.0]}, ("layer_weights", "(2,)", "(3,)")),
        ("feedback", {"w_key": np.ones((2, 2))}, ("w_key", f"({D}, {D})", "(2, 2)")),
        ("feedback", {"w_value": np.ones((2, 2))}, ("w_value", f"({D}, {D})", "(2, 2)")),
    ],
)
def test_bad_parameters(name, own, words):
    q, k, v = arrays("float32", 4, 5)
    with pytest.raises(ValueError) as caught:
        ruvector.attention(q, k, v, name, **own)
    assert all(word in str(caught.value) for word in words), caught.value


def test_bad_memories():
    with pytest.raises(ValueError, match="without w_key"):
        ruvector.feedback_attention(np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 4)))
    compressive, feedback = ruvector.CompressiveMemory, ruvector.FeedbackMemory
    for call, kind, words in (
        (lambda: compressive(0), ValueError, "head_dim.*0"),
        (lambda: compressive(4, batch=(-1,)), ValueError, "batch"),
        (lambda: compressive(4, dtype="float16"), TypeError, "float16"),
        (lambda: compressive(4).append(np.ones((3, 5)), np.ones((3, 4))), ValueError, r"key must have shape \(n, 4\)"),
        (lambda: compressive(4).append(np.ones((3, 4)), np.ones((2, 4))), ValueError, "3 vs 2"),
        (lambda: compressive(4).append(np.ones((3, 4)), np.ones((3, 4)), mask=np.ones(3)), TypeError, "mask"),
        (
            lambda: compressive(4).append(np.ones((3, 4)), np.ones((3, 4)), mask=[True] * 2),
            ValueError,
            r"mask shape \(2,\)",
        ),
        (lambda: compressive(4).step(np.ones((2, 4)), np.ones((3, 4)), np.ones((3, 4))), ValueError, "2 vs 3"),
        (lambda: feedback(4, 0), ValueError, "num_layers.*0"),
        (lambda: feedback(4, 2, weights=[1.0, 2.0]), ValueError, r"weights.*\(3,\).*\(2,\)"),
        (lambda: feedback(4, 2, w_key=np.ones((3, 4))), ValueError, r"w_key.*\(4, width\)"),
        (lambda: feedback(4, 2).append(np.ones((2, 4))), ValueError, r"\(3, 4\), got \(2, 4\)"),
        (lambda: feedback(4, 2).attend(np.ones(5)), ValueError, "query"),
    ):
        with pytest.raises(kind, match=words):
            call()


def test_the_scale_of_t_fixup():
    assert ruvector.t_fixup_scale(16) == pytest.approx(0.335, rel=1e-15)
    assert ruvector.t_fixup_scale(9, decoder=True) == pytest.approx(1 / 3, rel=1e-15)
    with pytest.raises(ValueError, match="num_layers.*0"):
        ruvector.t_fixup_scale(0)
    with pytest.raises(TypeError, match="decoder"):
        ruvector.t_fixup_scale(4, 1)
