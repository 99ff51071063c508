"""The builder and what it builds: each option's effect, weights, heads, values, and the presets."""

import copy
import doctest
import importlib
import inspect
import itertools
import pickle

import numpy as np
import pytest
import reference
import reference_sdk as oracle
import ruvector
from ruvector import sdk
from support import check_python, generator, normal, points, same_bits

NAMES = tuple(record.name for record in ruvector.attention_types())


def qkv(length=6, keys=9, dim=16, v_dim=None, dtype=np.float32, lead=()):
    shapes = ((*lead, length, dim), (*lead, keys, dim), (*lead, keys, v_dim or dim))
    return [normal(shape, dtype, "sdk", role) for shape, role in zip(shapes, "qkv")]


def inputs_of(name):
    """Queries, keys and values of a type: one sequence where it pairs positions, product keys where they are its keys."""
    q, k, v = (points(name, x) for x in qkv(5, 9, 64))
    if name == "reformer":
        return q, q, v[:5]
    if name == "sparse_sinkhorn":
        return q, k[:5], v[:5]
    return (q, k[:3], v) if name == "product_key" else (q, k, v)


def built_like(name):
    return {"lorentz": {"space_only": True}}.get(name, {})


# Options -------------------------------------------------------------------------------------------------------------


def test_causality_is_seen():
    q, k, v = qkv(6, 9)
    attention = sdk.multi_head(16, 2).causal().build()
    reference.check(attention(q, k, v), reference.multi_head(q, k, v, num_heads=2, causal=True))
    assert same_bits(sdk.multi_head(16, 2).causal(False).build()(q, k, v), sdk.multi_head(16, 2).build()(q, k, v))


def test_scale_is_seen():
    q, k, v = qkv()
    reference.check(sdk.scaled_dot(16).scale(0.7).build()(q, k, v), reference.scaled_dot(q, k, v, scale=0.7))
    assert sdk.scaled_dot(16).scale(0.7).scale(None).build() == sdk.scaled_dot(16).build()


def test_dropout_works_in_training_only():
    q, k, v = qkv(64, 64)
    attention, plain = sdk.multi_head(16, 2).dropout(0.4).build(), sdk.multi_head(16, 2).build()
    assert same_bits(attention(q, k, v), plain(q, k, v))
    dropped = attention(q, k, v, training=True, rng=3)
    assert same_bits(dropped, attention(q, k, v, training=True, rng=3))
    assert not np.allclose(dropped, plain(q, k, v))
    assert not same_bits(dropped, attention(q, k, v, training=True, rng=4))
    with pytest.raises(ValueError, match="rng"):
        attention(q, k, v, training=True)


def test_capacity_and_jitter_are_seen():
    q, k, v = qkv(40, 9)
    plain = sdk.moe(16, 4, 2).build()
    few = sdk.moe(16, 4, 2).expert_capacity(0.5).build()
    assert not np.allclose(few(q, k, v), plain(q, k, v))
    assert same_bits(few(q, k, v), ruvector.moe_attention(q, k, v, 4, 2, capacity_factor=0.5))
    jitter = sdk.moe(16, 4, 2).jitter_noise(0.3).build()
    assert same_bits(jitter(q, k, v), plain(q, k, v))
    noisy = jitter(q, k, v, training=True, rng=1)
    assert not np.allclose(noisy, plain(q, k, v))
    assert same_bits(noisy, jitter(q, k, v, training=True, rng=1))


def test_heads_of_a_type_that_has_none_are_leading_axes():
    q, k, v = qkv(6, 9, 32)
    split = sdk.scaled_dot(32).num_heads(4).build()
    assert split.num_heads == 4
    assert split.head_dim == 8
    reference.check(split(q, k, v), reference.multi_head(q, k, v, num_heads=4))
    shared = sdk.scaled_dot(32).num_heads(4, 2).causal().build()
    assert (shared.num_heads, shared.num_kv_heads) == (4, 2)
    reference.check(
        shared(q, k[:, :16], v[:, :16]),
        reference.grouped_query(q, k[:, :16], v[:, :16], num_heads=4, num_kv_heads=2, causal=True),
    )
    by_width = sdk.flash(32, 16).head_dim(8).build()
    assert by_width.num_heads == 4
    reference.check(by_width(q, k, v), reference.multi_head(q, k, v, num_heads=4))
    for h in range(4):
        one = slice(8 * h, 8 * h + 8)
        linear = sdk.linear(32, 16).num_heads(4).build()(q, k, v)
        alone = sdk.linear(8, 16).build()(q[:, one], k[:, one], v[:, one])
        assert same_bits(linear[:, one], alone)


@pytest.mark.parametrize(
    "builder", [sdk.multi_head(32, 4), sdk.scaled_dot(32).num_heads(4), sdk.scaled_dot(32).num_heads(4, 2)]
)
def test_masks_of_heads(builder):
    attention = builder.build()
    kv = 8 * attention.num_kv_heads
    q, k, v = qkv(6, 9, 32, lead=(3,))
    k, v = k[..., :kv], v[..., :kv]
    rng = generator("masks of heads")
    options = {"num_heads": 4, "num_kv_heads": attention.num_kv_heads}
    for shape in ((9,), (6, 9), (6, 1), (3, 6, 9), (3, 1, 9), (3, 4, 6, 9), (1, 4, 1, 9)):
        mask = rng.random(shape) < 0.7
        reference.check(attention(q, k, v, mask=mask), reference.grouped_query(q, k, v, mask=mask, **options), shape)
        assert same_bits(attention.with_mask(mask)(q, k, v), attention(q, k, v, mask=mask))
    one = rng.random(9) < 0.7
    reference.check(
        attention(q[0, 0], k[0], v[0], mask=one), reference.grouped_query(q[0, 0], k[0], v[0], mask=one, **options)
    )


def test_bound_masks_join_those_of_the_call():
    q, k, v = qkv()
    a, b = generator("a").random((6, 9)) < 0.7, generator("b").random(9) < 0.7
    bias = normal((6, 9), np.float32, "bias")
    for builder in (sdk.scaled_dot(16), sdk.scaled_dot(16).num_heads(2), sdk.multi_head(16, 2).init()):
        attention = builder.build()
        masked = attention.with_mask(a)
        assert same_bits(masked(q, k, v, mask=b), attention(q, k, v, mask=a & b))
        both = np.where(a, bias, np.float32(-np.inf))
        for first, second in ((a, bias), (bias, a)):
            assert same_bits(attention.with_mask(first)(q, k, v, mask=second), attention(q, k, v, mask=both))
        assert same_bits(attention.with_mask(bias)(q, k, v, mask=both), attention(q, k, v, mask=bias + both))
        assert masked.with_mask(None) == attention
        assert masked != attention
        assert same_bits(masked(q[0], k, v, mask=b) if a.ndim == 1 else masked(q, k, v)[0], masked(q, k, v)[0])


def test_rotation_gives_any_pattern_rotary_positions():
    q, k, v = qkv(6, 9, 32)
    attention = sdk.scaled_dot(32).num_heads(4, 2).rotate(500.0).causal().build()
    expected = reference.rope(q, k[:, :16], v[:, :16], num_heads=4, num_kv_heads=2, base=500.0, causal=True)
    reference.check(attention(q, k[:, :16], v[:, :16]), expected)
    single = attention(q[-1], k[:, :16], v[:, :16])
    np.testing.assert_allclose(single, attention(q, k[:, :16], v[:, :16])[-1], rtol=0, atol=1e-5)
    window = sdk.AttentionBuilder(32).sliding_window(3).num_heads(4).rotate().build()(q, k, v)
    mask = reference.positions(6, 9, 3, 2, 0)
    reference.check(window, reference.rope(q, k, v, num_heads=4, mask=mask))
    assert not np.allclose(window, sdk.AttentionBuilder(32).sliding_window(3).num_heads(4).build()(q, k, v))
    alone = sdk.scaled_dot(32).rotate().build()
    reference.check(alone(q, k, v), reference.rope(q, k, v, num_heads=1))
    assert alone(q[0], k, v).shape == (32,)


def test_each_option_of_rotation_is_seen():
    q, k, v = qkv(6, 40, 32)
    plain = sdk.scaled_dot(32).num_heads(4).rotate().build()(q, k, v)
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    for options in ({"base": 500.0}, {"interleaved": True}, {"rotary_dim": 4}, {"scaling": yarn}):
        out = sdk.scaled_dot(32).num_heads(4).rotate(**options).build()(q, k, v)
        reference.check(out, reference.rope(q, k, v, num_heads=4, num_kv_heads=4, **options), options)
        assert np.abs(out - plain).max() > 1e-3, options


# Of every type: the option's name in messages, what gives it, and the builder without it.
OPTIONS = {
    "causal": lambda b: b.causal(),
    "scale": lambda b: b.scale(0.37),
    "dropout": lambda b: b.dropout(0.5),
    "num_heads": lambda b: b.num_heads(2),
    "head_dim": lambda b: b.head_dim(32),
    "rotate": lambda b: b.rotate(),
    "expert_capacity": lambda b: b.expert_capacity(0.25),
    "jitter_noise": lambda b: b.jitter_noise(0.3),
}
# What a type does by itself already.
ALREADY = {("sliding_window", "causal"), ("sparse", "causal")}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_an_option_of_any_type_is_seen_or_named(name, option):
    # rezero's branch counts for nothing until its factor is learned
    builder = sdk.AttentionBuilder(64).type(name, **built_like(name), **({"alpha": 0.5} if name == "rezero" else {}))
    with_it, plain = OPTIONS[option](builder), builder.build(strict=True)
    try:
        changed = with_it.build(strict=True)
    except TypeError as error:
        assert str(error) == f"attention type {name!r} does not use {option}"
        with pytest.warns(sdk.UnusedOptionWarning, match=f"does not use {option}$"):
            assert with_it.build() == plain
        return
    q, k, v = inputs_of(name)
    call = {"training": True, "rng": 0} if option in ("dropout", "jitter_noise") else {}
    outputs = []
    for attention in (plain, changed):
        width = attention.num_kv_heads * attention.head_dim
        outputs.append(attention(q, k[:, :width], v[:, :width], **call))
    assert same_bits(*outputs) == ((name, option) in ALREADY)


# Weights -------------------------------------------------------------------------------------------------------------


def weights(dim=16, inner=24, kv=12, out=10):
    shapes = {"w_q": (dim, inner), "w_k": (dim, kv), "w_v": (14, kv), "w_o": (inner, out)}
    shapes |= {"b_q": (inner,), "b_k": (kv,), "b_v": (kv,), "b_o": (out,)}
    return {name: normal(shape, np.float32, name, scale=0.3) for name, shape in shapes.items()}


@pytest.mark.parametrize("lead", [(), (3,)])
def test_weights_project(isa, lead):
    w = weights()
    q, k, _ = qkv(lead=lead)
    v = normal((*lead, 9, 14), np.float32, "values")
    attention = sdk.AttentionBuilder(16).grouped_query(4, 2).weights(**w).build()
    projected = [oracle.linear(oracle.exact(x), w[f"w_{n}"], w[f"b_{n}"]) for x, n in zip((q, k, v), "qkv")]
    result = oracle.attention(reference.grouped_query, *projected, num_heads=4, num_kv_heads=2)
    expected = oracle.linear(result, w["w_o"], w["b_o"])
    oracle.check(attention(q, k, v), expected)
    out = np.empty((*lead, 6, 10), np.float32)
    assert attention(q, k, v, out=out) is out
    assert same_bits(out, attention(q, k, v))
    split = sdk.scaled_dot(16).num_heads(4, 2).weights(**w).build()
    oracle.check(split(q, k, v), expected)
    if not lead:
        oracle.check(attention(q[0], k, v), expected[:, 0])


@pytest.mark.parametrize("missing", ["w_q", "w_k", "w_v", "w_o"])
def test_each_weight_may_be_left_out(missing):
    w = {n: normal((16, 16), np.float32, n, scale=0.3) for n in ("w_q", "w_k", "w_v", "w_o") if n != missing}
    q, k, v = qkv()
    attention = sdk.multi_head(16, 4).weights(**w).build()
    assert tuple(attention.weights) == tuple(w)
    identity = {missing: np.eye(16, dtype=np.float32)}
    same = sdk.multi_head(16, 4).weights(**w, **identity).build()(q, k, v)
    np.testing.assert_allclose(attention(q, k, v), same, rtol=0, atol=1e-5)
    assert not np.allclose(attention(q, k, v), sdk.multi_head(16, 4).build()(q, k, v))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtype_of_projected_attention_is_the_promotion(dtype):
    q, k, v = qkv(dtype=dtype)
    assert sdk.multi_head(16, 2).init(dtype=dtype).build()(q, k, v).dtype == dtype
    wide = sdk.multi_head(16, 2).init(dtype=np.float64).build()
    assert wide(q, k, v).dtype == np.float64
    half = sdk.multi_head(16, 2).init(dtype=np.float16).build()
    exact = sdk.multi_head(16, 2).weights(**{n: x.astype(np.float64) for n, x in half.weights.items()}).build()
    # in float32 and rounded once
    got, expected = (
        half(q.astype(np.float16), k.astype(np.float16), v.astype(np.float16)),
        exact(*(x.astype(np.float16).astype(np.float64) for x in (q, k, v))),
    )
    np.testing.assert_allclose(got.astype(np.float64), expected, rtol=2**-11 + 1e-4, atol=1e-5)


def test_drawn_weights():
    builder = sdk.multi_head(64, 4).init()
    assert builder.build() == builder.build()
    assert builder.build() == sdk.multi_head(64, 4).init().build()
    assert sdk.multi_head(64, 4).init(1).build() != builder.build()
    attention = sdk.AttentionBuilder(64).rope(8, 2).init(0).build()
    assert {n: x.shape for n, x in attention.weights.items()} == {
        "w_q": (64, 64),
        "w_k": (64, 16),
        "w_v": (64, 16),
        "w_o": (64, 64),
    }
    for x in attention.weights.values():
        limit = np.sqrt(6 / sum(x.shape))
        assert 0.9 * limit < np.abs(x).max() <= limit
        assert abs(x.mean()) < limit / 10
        assert not x.flags.writeable
    parts = [x.ravel()[:16] for x in attention.weights.values()]
    assert all(not np.allclose(a / a.max(), b / b.max()) for a, b in itertools.combinations(parts, 2))
    rng = np.random.default_rng(5)
    assert sdk.multi_head(64, 4).init(rng).build() != sdk.multi_head(64, 4).init(rng).build()
    wide = sdk.AttentionBuilder(64).t5(8).head_dim(32).init().build()
    assert wide.weights["w_q"].shape == (64, 256)
    assert wide.head_dim == 32
    assert wide(*qkv(3, 5, 64)).shape == (3, 64)
    given = np.eye(64, dtype=np.float32)
    mixed = sdk.multi_head(64, 4).weights(w_o=given).init().build()
    assert same_bits(mixed.weights["w_o"], given)
    assert set(mixed.weights) == {"w_q", "w_k", "w_v", "w_o"}


def test_weights_are_copies_that_nobody_changes():
    w = np.eye(16, dtype=np.float32)
    attention = sdk.multi_head(16, 2).weights(w_q=w).build()
    before = attention(*qkv())
    w[:] = 7
    assert same_bits(attention(*qkv()), before)
    with pytest.raises(ValueError):
        attention.weights["w_q"][0, 0] = 1
    w.setflags(write=False)
    assert sdk.multi_head(16, 2).weights(w_q=w).build().weights["w_q"] is w


# Builders and attention as values ------------------------------------------------------------------------------------


def test_chaining_leaves_builders_as_they_are():
    base = sdk.multi_head(64, 8)
    varied = base.causal().dropout(0.1)
    assert base == sdk.multi_head(64, 8)
    assert base != varied
    assert base.build() == sdk.multi_head(64, 8).build()
    assert varied.causal(None).dropout(None) == base
    with pytest.raises(AttributeError, match="cannot be changed"):
        base.dim = 3
    with pytest.raises(AttributeError, match="cannot be changed"):
        base.build().dim = 3
    slopes = [0.5, 0.25]
    alibi = sdk.AttentionBuilder(8).alibi(2, slopes)
    before = alibi.build()
    slopes[0] = 9.0
    assert alibi.build() == before


def test_the_last_of_an_option_counts():
    assert sdk.multi_head(64, 8).num_heads(4).build() == sdk.multi_head(64, 4).build()
    assert sdk.AttentionBuilder(64).num_heads(4).multi_head(8).build().num_heads == 8
    assert sdk.AttentionBuilder(64).num_heads(4).multi_head().build().num_heads == 4
    moe = sdk.AttentionBuilder(64).expert_capacity(2.0).moe(capacity_factor=1.5)
    assert moe.build().params["capacity_factor"] == 1.5
    assert moe.expert_capacity(3.0).build().params["capacity_factor"] == 3.0
    assert sdk.AttentionBuilder(64).type("local", window_size=3).type("local").build().params["window_size"] == 256
    assert sdk.AttentionBuilder(64).type("local", scale=0.5, causal=True).build().params["scale"] == 0.5


@pytest.mark.parametrize("name", NAMES)
def test_every_type_has_one_way_in(name):
    params = built_like(name)
    builder = sdk.AttentionBuilder(64).type(name, **params)
    attention = builder.build(strict=True)
    assert attention.name == name
    q, k, v = inputs_of(name)
    k, v = (x[:, : attention.num_kv_heads * attention.head_dim] for x in (k, v))
    expected = ruvector.attention(q, k, v, name, **params)
    assert same_bits(attention(q, k, v), expected)
    assert same_bits(attention.compute(q, list(k), list(v)), expected)
    if len(q) != len(k):
        assert attention(q[0], k, v).shape == expected.shape[1:]
    assert name in repr(attention)
    for other in (builder, attention):
        for again in (pickle.loads(pickle.dumps(other)), copy.copy(other), copy.deepcopy(other)):
            assert again == other
            assert hash(again) == hash(other)
        assert type(other).from_dict(other.to_dict()) == other
        assert type(other).from_json(other.to_json()) == other
    record = next(r for r in ruvector.attention_types() if r.name == name)
    for alias in (name, *record.aliases):
        if alias not in ("causal",):
            assert getattr(sdk.AttentionBuilder(64), alias)(**params) == builder
            assert alias in dir(sdk.AttentionBuilder(64))
    assert sdk.AttentionBuilder(64).type(ruvector.AttentionType(name, **params)) == builder


REGISTERED = """
import numpy as np, ruvector
from ruvector import sdk

def mean(query, key, value, *, factor, **options):
    return np.broadcast_to(factor * np.mean(value, -2, keepdims=True), (*query.shape[:-1], value.shape[-1])).copy()

factor = ruvector.Parameter("factor", "float", 2.0, 0.0, None, "of the mean")
ruvector.register("later", mean, aliases=("much_later",), parameters=[factor])
x = np.random.default_rng(0).standard_normal((6, 16))
for builder in (sdk.AttentionBuilder(16).later(3.0), sdk.AttentionBuilder(16).much_later(factor=3.0).num_heads(2)):
    np.testing.assert_allclose(builder.build(strict=True)(x, x, x), np.broadcast_to(3 * x.mean(0), (6, 16)), atol=1e-12)
assert {"later", "much_later"} <= set(dir(sdk.AttentionBuilder(3)))
"""


def test_types_registered_later_have_a_method():
    """In a process of its own, which keeps what it registers."""
    check_python(REGISTERED)


def test_configurations_keep_arrays_to_the_bit():
    bias = np.where(generator("bias").random((6, 9)) < 0.5, normal((6, 9), np.float32, "b"), np.float32(-np.inf))
    scaling = {"rope_type": "linear", "factor": 4.0}
    for builder in (
        sdk.multi_head(16, 2).init(3),
        sdk.multi_head(16, 2).weights(w_q=normal((16, 16), np.float16, "w"), b_q=normal(16, np.float64, "b")),
        sdk.AttentionBuilder(16).alibi(2, [0.5, 0.1]).causal(),
        sdk.AttentionBuilder(16).rope(2, scaling=scaling).dropout(0.1),
        sdk.AttentionBuilder(16).sliding_window(3).num_heads(4, 2).rotate(500.0, scaling=scaling).init(),
        sdk.AttentionBuilder(16).longformer(4, [0, 3]),
        sdk.AttentionBuilder(16).gat(2, [[0, 1], [1, 2]]),
    ):
        attention = builder.build()
        masked = attention.with_mask(bias)
        for one in (attention, masked):
            again = sdk.Attention.from_json(one.to_json())
            assert again == one
            assert all(same_bits(again.weights[n], x) for n, x in one.weights.items())
            assert pickle.loads(pickle.dumps(one)) == one
        assert masked != attention
        assert sdk.AttentionBuilder.from_json(builder.to_json()) == builder
        assert attention.builder.build(strict=True) == attention


def test_what_has_no_plain_form_is_refused_and_pickled():
    pattern = ruvector.patterns.local(3) | ruvector.patterns.global_tokens(2)
    attention = sdk.AttentionBuilder(16).sparse(pattern).build()
    with pytest.raises(TypeError, match="pattern.*pickle"):
        attention.to_dict()
    assert pickle.loads(pickle.dumps(attention)) == attention


def test_reprs():
    assert repr(sdk.multi_head(8, 2).dropout(0.1)) == "<AttentionBuilder multi_head(dim=8, num_heads=2, dropout=0.1)>"
    text = repr(sdk.multi_head(8, 2).weights(w_q=np.eye(8)).build().with_mask([True] * 3))
    assert text == "<Attention multi_head(dim=8, num_heads=2, weights=(w_q,)), mask of shape (3,)>"
    assert "rotate=(base=500.0)" in repr(sdk.scaled_dot(8).rotate(500.0))
    assert "init=" in repr(sdk.scaled_dot(8).init(3))


@pytest.mark.parametrize(
    "builder", [sdk.multi_head(768, 12), sdk.moe(512, 8, 2), sdk.AttentionBuilder(768).rope(12), sdk.linear(512, 256)]
)
def test_building_is_quick(builder):
    import timeit

    from support import TIME_FACTOR

    assert min(timeit.repeat(builder.build, number=20, repeat=30)) / 20 < 100e-6 * TIME_FACTOR


# Models by name ------------------------------------------------------------------------------------------------------

P = sdk.AttentionPreset


@pytest.mark.parametrize(
    ("name", "dim", "expected"),
    [
        ("bert", 768, P.Bert.builder(768)),
        ("BERT", 768, P.Bert.builder(768)),
        ("bert-base-uncased", None, P.Bert.builder(768)),
        ("bert-large", 1024, P.Bert.builder(1024)),
        ("roberta-base", None, P.Bert.builder(768)),
        ("distilbert", 768, P.Bert.builder(768)),
        ("gpt2", 768, P.Gpt.builder(768)),
        ("GPT2-XL", None, sdk.multi_head(1600, 25).causal().dropout(0.1)),
        ("gpt2-large", None, sdk.multi_head(1280, 20).causal().dropout(0.1)),
        ("longformer", 512, P.Longformer.builder(512)),
        ("allenai/longformer-base-4096", None, P.Longformer.builder(768)),
        ("t5", 768, P.T5.builder(768)),
        ("t5-small", None, P.T5.builder(512)),
        ("vit", 768, P.ViT.builder(768)),
        ("google/vit-large-patch16-224", None, P.ViT.builder(1024)),
        ("switch", 512, P.SwitchTransformer.builder(512)),
        ("switch-base-16", None, P.SwitchTransformer.builder(768).moe(16, 2)),
        ("performer", 512, P.Performer.builder(512)),
        ("bigbird", 768, sdk.AttentionBuilder(768).bigbird(64, 3, 2, 3).num_heads(12).dropout(0.1)),
        ("llama-2-7b", None, sdk.AttentionBuilder(4096).rope(32, 32, 10000.0).causal()),
        ("meta-llama/Meta-Llama-3-8B", None, sdk.AttentionBuilder(4096).rope(32, 8, 500000.0).causal()),
        ("llama", 1024, sdk.AttentionBuilder(1024).rope(8, 2, 500000.0).causal()),
        ("mistral-7b", None, sdk.AttentionBuilder(4096).sliding_window(4096).num_heads(32, 8).rotate()),
        ("mixtral", 512, sdk.moe(512, 8, 2).causal()),
    ],
)
def test_from_model_name(name, dim, expected):
    assert sdk.from_model_name(name, dim).build(strict=True) == expected.build(strict=True)


def test_models_with_fewer_key_heads_run():
    for name in ("llama", "mistral"):
        attention = sdk.from_model_name(name, 1024).init().build()
        x = normal((6, 1024), np.float32, name)
        assert attention(x, x, x).shape == (6, 1024)
        changed = x.copy()
        changed[3:] = 0
        # what comes later is not seen
        assert same_bits(attention(changed, changed, changed)[:3], attention(x, x, x)[:3])
    for name, heads in (("t5-3b", 32), ("google-t5/T5-11B", 128)):
        wide = sdk.from_model_name(name)
        with pytest.raises(ValueError, match=f"num_heads {heads} \\* head_dim 128 must be 1024.*init project"):
            wide.build()


# Docstrings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module", ["attention", "builder", "config", "layers", "models", "pipeline", "presets", "stages"]
)
def test_examples_of_the_docstrings_are_right(module):
    found = importlib.import_module(f"ruvector.sdk.{module}")
    result = doctest.testmod(found, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
    assert result.attempted > 0 or module == "config"


@pytest.mark.parametrize("name", sorted(sdk.__all__))
def test_docstring_says_what_there_is(name):
    thing = getattr(sdk, name)
    doc = inspect.getdoc(thing)
    assert doc
    assert doc.splitlines()[0].endswith((".", ":"))
    if inspect.isfunction(thing):
        for section in ("Parameters", "Returns", "Examples"):
            assert f"{section}\n{'-' * len(section)}\n" in doc, section
        heads = doc.split("Parameters\n----------\n")[1].split("\n\n")[0]
        explained = {
            word for line in heads.splitlines() if line[:1] != " " for word in line.split(" : ")[0].split(", ")
        }
        assert set(inspect.signature(thing).parameters) <= explained
    if inspect.isclass(thing):
        for method, function in vars(thing).items():
            if not method.startswith("_"):
                assert inspect.getdoc(function) or isinstance(function, property) or not callable(function), method


def test_every_name_is_public():
    assert set(sdk.__all__) <= set(dir(sdk))
    assert ruvector.sdk is sdk
