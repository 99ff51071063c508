"""Every block of code of the SDK guide, in its order, in Python, with what it must give in numbers."""

import warnings

import numpy as np
import pytest
import reference
import reference_sdk as oracle
import ruvector
from ruvector import sdk
from ruvector.sdk import (
    AttentionBuilder,
    AttentionPipeline,
    AttentionPreset,
    NormType,
    flash,
    for_generation,
    for_graphs,
    for_large_scale,
    for_moe,
    for_sequences,
    for_vision,
    from_model_name,
    hyperbolic,
    linear,
    local_global,
    moe,
    multi_head,
    prenorm_transformer_block,
    scaled_dot,
    transformer_block,
)
from support import normal, points, same_bits


def qkv(length, keys, dim, dtype=np.float32):
    return [normal((n, dim), dtype, "guide", role) for n, role in ((length, "q"), (keys, "k"), (keys, "v"))]


def in_heads(out, function, q, k, v, heads, **options):
    """Each slice of the width is attention of its own."""
    width = q.shape[-1] // heads
    for h in range(heads):
        at = slice(width * h, width * (h + 1))
        reference.check(out[:, at], function(q[:, at], k[:, at], v[:, at], **options), f"head {h}")


# Quick start ---------------------------------------------------------------------------------------------------------


def test_basic_usage():
    attention = multi_head(768, 12).dropout(0.1).causal(True).build()
    query = np.full(768, 0.5)
    keys = [query] * 10
    values = [query] * 10
    output = attention.compute(query, keys, values)
    assert output.shape == (768,)
    # equal keys share the weight: the mean of equal values
    np.testing.assert_allclose(output, 0.5, rtol=0, atol=1e-15)
    query, keys, values = qkv(1, 10, 768)
    reference.check(
        attention.compute(query[0], list(keys), list(values)),
        reference.multi_head(query[0], keys, values, num_heads=12, causal=True),
    )


def test_using_presets():
    bert = AttentionPreset.Bert.builder(768).build()
    gpt = AttentionPreset.Gpt.builder(768).build()
    large = AttentionPreset.FlashOptimized.builder(1024).build()
    auto = for_sequences(512, 8192).build()
    assert [a.name for a in (bert, gpt, large, auto)] == ["multi_head", "multi_head", "flash_v2", "performer"]
    q, k, v = qkv(6, 9, 768)
    reference.check(bert(q, k, v), reference.multi_head(q, k, v, num_heads=12))
    reference.check(gpt(q, k, v), reference.multi_head(q, k, v, num_heads=12, causal=True))
    q, k, v = qkv(6, 300, 1024)
    reference.check(large(q, k, v), reference.multi_head(q, k, v, num_heads=16))
    q, k, v = qkv(6, 9, 512)
    in_heads(auto(q, k, v), reference.performer, q, k, v, 8, num_features=256)


def test_building_pipelines():
    attention = multi_head(768, 12).build()
    pipeline = AttentionPipeline().add_attention(attention).add_dropout(0.1).add_residual().add_norm(NormType.LayerNorm)
    query, keys, values = qkv(3, 10, 768)
    q, k, v = map(oracle.exact, (query, keys, values))
    attended = oracle.attention(reference.multi_head, q, k, v, num_heads=12)
    expected = oracle.layer_norm(oracle.add(attended, q))
    oracle.check(pipeline.run(query, keys, values), expected)
    oracle.check(pipeline.run(query[1], list(keys), list(values)), expected[:, 1])


# The types -----------------------------------------------------------------------------------------------------------

# What is written in the guide; the width, the oracle that knows nothing of builders, and the keys that show the options.
TYPES = {
    "scaled_dot(512)": (lambda: scaled_dot(512), reference.scaled_dot, {}, 10),
    "multi_head(768, 12)": (lambda: multi_head(768, 12).dropout(0.1), reference.multi_head, {"num_heads": 12}, 10),
    "flash(1024, 128)": (
        lambda: flash(1024, 128).causal(True),
        reference.flash_v2,
        {"block_size": 128, "causal": True},
        300,
    ),
    "linear(512, 256)": (lambda: linear(512, 256), reference.performer, {"num_features": 256}, 10),
    "local_global(512, 256)": (
        lambda: local_global(512, 256),
        reference.longformer,
        {"window_size": 256, "global_tokens": 1},
        400,
    ),
    "hyperbolic(512, -1.0)": (lambda: hyperbolic(512, -1.0), reference.poincare, {"curvature": -1.0}, 10),
    "moe(512, 8, 2)": (
        lambda: moe(512, 8, 2).expert_capacity(1.25).jitter_noise(0.01),
        reference.moe,
        {"num_experts": 8, "top_k": 2, "capacity_factor": 1.25},
        10,
    ),
    "moe(512, 16, 2)": (
        lambda: moe(512, 16, 2).expert_capacity(1.5).jitter_noise(0.1),
        reference.moe,
        {"num_experts": 16, "top_k": 2, "capacity_factor": 1.5},
        10,
    ),
}


@pytest.mark.parametrize("written", TYPES)
def test_available_attention_types(written):
    make, function, options, count = TYPES[written]
    attention = make().build(strict=True)
    # as many queries as keys: each position of a pattern is seen from both sides
    query, key, value = (points(attention.name, x) for x in qkv(count, count, attention.dim))
    reference.check(attention(query, key, value), function(query, key, value, **options), written)
    if attention.name == "longformer":
        everything = reference.scaled_dot(query, key, value)
        assert np.abs(attention(query, key, value) - everything.out).max() > 1e-2
    last = attention.compute(query[-1], list(key), list(value))
    reference.check(last, function(query[-1], key, value, **options), f"{written} of one query")


def test_the_listing_of_all_options_builds_and_warns():
    builder = (
        AttentionBuilder(512)
        .multi_head(8)  # number of heads
        .dropout(0.1)
        .causal(True)
        .expert_capacity(1.25)
        .jitter_noise(0.01)
    )
    with pytest.warns(
        sdk.UnusedOptionWarning, match="'multi_head' does not use expert_capacity, jitter_noise"
    ) as caught:
        attention = builder.build()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert attention == multi_head(512, 8).dropout(0.1).causal().build(strict=True)
    q, k, v = qkv(6, 9, 512)
    reference.check(attention(q, k, v), reference.multi_head(q, k, v, num_heads=8, causal=True))
    with pytest.raises(TypeError, match="expert_capacity, jitter_noise"):
        builder.build(strict=True)


# Pipelines -----------------------------------------------------------------------------------------------------------


def test_creating_pipelines():
    attention = multi_head(768, 12).build()
    pipeline = (
        AttentionPipeline()
        .add_attention(attention)
        .add_norm(NormType.LayerNorm)
        .add_dropout(0.1)
        .add_residual()
        .add_custom(lambda x: [max(v, 0.0) for v in x])  # the guide's, of one vector
    )
    query, keys, values = qkv(1, 10, 768)
    q, k, v = map(oracle.exact, (query, keys, values))
    attended = oracle.attention(reference.multi_head, q, k, v, num_heads=12)
    expected = np.maximum(oracle.add(oracle.layer_norm(attended), q), 0)
    found = pipeline.run(query[0], keys, values)
    oracle.check(found, expected[:, 0])
    assert found.dtype == np.float32
    assert 0.3 < (found == 0).mean() < 0.7


@pytest.mark.parametrize("norm", NormType)
def test_normalisation_types(norm):
    x = normal((4, 768), np.float32, "norms", scale=3.0) + np.float32(1)
    e = oracle.exact(x)
    expected = {
        NormType.LayerNorm: lambda: oracle.layer_norm(e),
        NormType.RMSNorm: lambda: oracle.rms_norm(e),
        NormType.BatchNorm: lambda: oracle.batch_norm(e, 0.0, 1.0),
    }[norm]()
    oracle.check(AttentionPipeline().add_norm(norm).run(x), expected)


@pytest.mark.parametrize("make", [transformer_block, prenorm_transformer_block])
def test_pre_built_transformers(make):
    attention = multi_head(768, 12).build()
    block = make(attention, 0.1)
    x = normal((6, 768), np.float32, "block")
    e = oracle.exact(x)
    n = e if make is transformer_block else oracle.layer_norm(e)
    y = oracle.add(oracle.attention(reference.multi_head, n, n, n, num_heads=12), e)
    oracle.check(block.run(x), oracle.layer_norm(y) if make is transformer_block else y)
    # its dropout stands behind attention, in training alone
    trained = block.run(x, training=True, rng=0)
    if make is prenorm_transformer_block:
        dropped = np.isclose(trained, x, rtol=0, atol=0)
        assert 0.05 < dropped.mean() < 0.15
    assert not np.allclose(trained, block.run(x))


# Presets -------------------------------------------------------------------------------------------------------------

P = AttentionPreset
# Width, type, heads, the type's parameters, dropout, the keys that show them, and the oracle of a head (or of all).
PRESETS = {
    P.Bert: (768, "multi_head", 12, {}, 0.1, 20, reference.scaled_dot, {}),
    P.Gpt: (768, "multi_head", 12, {"causal": True}, 0.1, 20, reference.scaled_dot, {"causal": True}),
    P.Longformer: (
        512,
        "longformer",
        8,
        {"window_size": 512, "global_tokens": 1},
        0.1,
        600,
        reference.longformer,
        {"window_size": 512, "global_tokens": 1},
    ),
    P.Performer: (
        512,
        "performer",
        8,
        {"num_features": 256, "orthogonal": True},
        0.0,
        20,
        reference.performer,
        {"num_features": 256},
    ),
    P.FlashOptimized: (1024, "flash_v2", 16, {"block_size": 128}, 0.0, 300, reference.scaled_dot, {}),
    P.SwitchTransformer: (
        512,
        "moe",
        1,
        {"num_experts": 8, "top_k": 2, "capacity_factor": 1.25, "jitter_noise": 0.01},
        0.1,
        40,
        reference.moe,
        {"num_experts": 8, "top_k": 2, "capacity_factor": 1.25},
    ),
    P.HyperbolicTree: (512, "poincare", 1, {"curvature": -1.0}, 0.0, 20, reference.poincare, {"curvature": -1.0}),
    P.T5: (768, "t5", 12, {"num_buckets": 32, "max_distance": 128}, 0.1, 150, reference.t5, {"num_heads": 12}),
    P.ViT: (768, "multi_head", 12, {}, 0.0, 20, reference.scaled_dot, {}),
    P.SparseTransformer: (
        512,
        "sparse",
        8,
        {"pattern": "strided", "stride": 128, "causal": True},
        0.0,
        300,
        reference.sparse,
        {"pattern": "strided", "stride": 128, "causal": True},
    ),
}


@pytest.mark.parametrize("preset", P)
def test_model_presets(preset):
    dim, name, heads, params, dropout, count, function, options = PRESETS[preset]
    attention = preset.builder(dim).build(strict=True)
    assert (attention.name, attention.num_heads, attention.dim) == (name, heads, dim)
    found = dict(attention.params)
    assert params.items() <= found.items()
    assert found.get("causal", False) == params.get("causal", False)
    assert (found.get("dropout") or 0.0) == dropout
    assert preset.description
    q, k, v = (points(name, x) for x in qkv(count, count, dim))
    out = attention(q, k, v)
    if name in ("moe", "poincare", "t5"):
        reference.check(out, function(q, k, v, **options), preset.name)
    else:
        in_heads(out, function, q, k, v, heads, **options)
    # dropout and jitter are what training changes, and the features of performer
    trained = attention(q, k, v, training=True, rng=0)
    assert same_bits(trained, out) == (not dropout and name != "performer")


def test_heads_of_presets_follow_from_the_width():
    for dim, heads in ((512, 8), (768, 12), (1024, 16)):
        assert P.Bert.builder(dim).build().num_heads == heads
    for preset in P:
        if preset not in (P.SwitchTransformer, P.HyperbolicTree):
            with pytest.raises(ValueError, match="Query dimension 100 must be divisible by head_dim 64"):
                preset.builder(100).build()


def test_smart_selection():
    assert for_sequences(512, 512) == P.Bert.builder(512)
    assert for_sequences(512, 513) == for_sequences(512, 4096) == P.Longformer.builder(512)
    assert for_sequences(512, 4097) == for_sequences(512, 8192) == P.Performer.builder(512)
    assert for_graphs(256, True) == hyperbolic(256, -1.0)
    assert for_graphs(256, False).build() == multi_head(256, 4).build()
    assert for_large_scale(1024) == P.FlashOptimized.builder(1024)
    assert for_vision(768, 16) == P.ViT.builder(768)
    assert for_generation(768, 2048) == P.Gpt.builder(768)
    assert for_generation(768, 2049).build() == flash(768, 128).num_heads(12).causal().build()
    assert (
        for_moe(512, 16, 4).build().params.items() >= {"num_experts": 16, "top_k": 4, "capacity_factor": 1.25}.items()
    )
    for builder in (
        for_sequences(512, 512),
        for_sequences(512, 4096),
        for_sequences(512, 9000),
        for_graphs(256, False),
        for_graphs(256, True),
        for_large_scale(1024),
        for_vision(768, 16),
        for_generation(768, 2048),
        for_generation(768, 4096),
        for_moe(512, 4, 1),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            attention = builder.build()
        q, k, v = (points(attention.name, x) for x in qkv(3, 5, attention.dim))
        out = attention(q, k, v)
        assert out.shape == (3, attention.dim)
        later = k.copy()
        later[-1] = k[0]
        # context that is generated is not seen before it is there
        assert same_bits(attention(q, later, v)[:2], out[:2]) == bool(attention.params.get("causal"))


# Models by name ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dim", "expected"),
    [
        ("bert", 768, P.Bert),
        ("gpt2", 768, P.Gpt),
        ("longformer", 512, P.Longformer),
        ("t5", 768, P.T5),
        ("vit", 768, P.ViT),
    ],
)
def test_names_of_the_guide(name, dim, expected):
    for written in (name, name.upper(), name.title()):
        assert from_model_name(written, dim) == expected.builder(dim)


# Width, type, heads, heads of keys, width of a head: as published.
FAMILIES = {
    "bert": ("multi_head", 12, 12, 64),
    "roberta": ("multi_head", 12, 12, 64),
    "distilbert": ("multi_head", 12, 12, 64),
    "gpt": ("multi_head", 12, 12, 64),
    "gpt2": ("multi_head", 12, 12, 64),
    "distilgpt2": ("multi_head", 12, 12, 64),
    "longformer": ("longformer", 12, 12, 64),
    "bigbird": ("bigbird", 12, 12, 64),
    "performer": ("performer", 12, 12, 64),
    "flash": ("flash_v2", 12, 12, 64),
    "switch": ("moe", 1, 1, 768),
    "switch-transformer": ("moe", 1, 1, 768),
    "hyperbolic": ("poincare", 1, 1, 768),
    "t5": ("t5", 12, 12, 64),
    "vit": ("multi_head", 12, 12, 64),
    "sparse-transformer": ("sparse", 12, 12, 64),
    "llama": ("rope", 6, 1, 128),
    "mistral": ("sliding_window", 6, 1, 128),
    "mixtral": ("moe", 1, 1, 768),
}
SIZES = {
    "bert-tiny": (128, "multi_head", 2, 2, 64),
    "bert-mini": (256, "multi_head", 4, 4, 64),
    "bert-small": (512, "multi_head", 8, 8, 64),
    "bert-medium": (512, "multi_head", 8, 8, 64),
    "bert-base": (768, "multi_head", 12, 12, 64),
    "bert-large": (1024, "multi_head", 16, 16, 64),
    "roberta-base": (768, "multi_head", 12, 12, 64),
    "roberta-large": (1024, "multi_head", 16, 16, 64),
    "distilbert-base": (768, "multi_head", 12, 12, 64),
    "gpt2-small": (768, "multi_head", 12, 12, 64),
    "gpt2-medium": (1024, "multi_head", 16, 16, 64),
    "gpt2-large": (1280, "multi_head", 20, 20, 64),
    "gpt2-xl": (1600, "multi_head", 25, 25, 64),
    "longformer-base": (768, "longformer", 12, 12, 64),
    "longformer-large": (1024, "longformer", 16, 16, 64),
    "bigbird-base": (768, "bigbird", 12, 12, 64),
    "bigbird-large": (1024, "bigbird", 16, 16, 64),
    "t5-small": (512, "t5", 8, 8, 64),
    "t5-base": (768, "t5", 12, 12, 64),
    "t5-large": (1024, "t5", 16, 16, 64),
    "t5-3b": (1024, "t5", 32, 32, 128),
    "t5-11b": (1024, "t5", 128, 128, 128),
    "vit-tiny": (192, "multi_head", 3, 3, 64),
    "vit-small": (384, "multi_head", 6, 6, 64),
    "vit-base": (768, "multi_head", 12, 12, 64),
    "vit-large": (1024, "multi_head", 16, 16, 64),
    "vit-huge": (1280, "multi_head", 16, 16, 80),
    "llama-2-7b": (4096, "rope", 32, 32, 128),
    "llama-2-13b": (5120, "rope", 40, 40, 128),
    "llama-2-70b": (8192, "rope", 64, 8, 128),
    "llama-3-8b": (4096, "rope", 32, 8, 128),
    "llama-3-70b": (8192, "rope", 64, 8, 128),
    "llama-3.1-8b": (4096, "rope", 32, 8, 128),
    "llama-3.1-70b": (8192, "rope", 64, 8, 128),
    "llama-3.2-1b": (2048, "rope", 32, 8, 64),
    "llama-3.2-3b": (3072, "rope", 24, 8, 128),
    "mistral-7b": (4096, "sliding_window", 32, 8, 128),
    "mixtral-8x7b": (4096, "moe", 1, 1, 4096),
    "mixtral-8x22b": (6144, "moe", 1, 1, 6144),
    **{f"switch-base-{n}": (768, "moe", 1, 1, 768) for n in (8, 16, 32, 64, 128, 256)},
}
CAUSAL = ("gpt", "distilgpt", "llama", "mistral", "mixtral", "sparse")
OWN = {
    "longformer": {"window_size": 512, "global_tokens": 1},
    "bigbird": {"block_size": 64, "window_blocks": 3, "global_blocks": 2, "random_blocks": 3},
    "t5": {"num_buckets": 32, "max_distance": 128},
    "llama-2": {"base": 10000.0, "scaling": None},
    "llama-3-": {"base": 500000.0, "scaling": None},
    "llama-3.": {"base": 500000.0},
    "mistral": {"window_size": 4096},
    "mixtral": {"num_experts": 8, "top_k": 2},
    "switch-base-64": {"num_experts": 64, "top_k": 2},
    "performer": {"num_features": 256},
    "flash": {"block_size": 128},
}


def test_every_name_is_in_the_tables():
    with pytest.raises(ValueError, match="Available") as error:
        from_model_name("no such model", 768)
    known = str(error.value).split("Available: ")[1].split(". Did")[0].split(", ")
    assert sorted(known) == sorted([*FAMILIES, *SIZES])


@pytest.mark.parametrize("name", [*FAMILIES, *SIZES])
def test_every_model_is_as_published_and_runs(name):
    dim, kind, heads, kv_heads, width = (768, *FAMILIES[name]) if name in FAMILIES else SIZES[name]
    builder = from_model_name(name, dim if name in FAMILIES else None)
    # heads wider together than the model are projected to
    wide = heads * width != dim
    attention = (builder.init(0) if wide else builder).build(strict=True)
    assert (attention.dim, attention.name) == (dim, kind)
    assert (attention.num_heads, attention.num_kv_heads, attention.head_dim) == (heads, kv_heads, width)
    for prefix, params in OWN.items():
        if name.startswith(prefix):
            assert params.items() <= dict(attention.params).items()
    if name.startswith("llama-3."):
        scaling = attention.params["scaling"]
        assert (scaling.rope_type, scaling.factor) == ("llama3", 32.0 if "3.2" in name else 8.0)
    if kind == "sliding_window":
        assert attention.builder.options["rotate"]["base"] == 10000.0
    assert not wide or attention.weights["w_o"].shape == (heads * width, dim)
    query = points(kind, normal((4, dim), np.float32, name, "q"))
    keys = [points(kind, normal((4, kv_heads * width if not wide else dim), np.float32, name, n)) for n in "kv"]
    out = attention(query, *keys)
    assert out.shape == (4, dim)
    assert np.isfinite(out).all()
    later = [x.copy() for x in keys]
    for x in later:
        x[2:] = x[:2][::-1] * np.float32(0.5)
    assert same_bits(attention(query, *later)[:2], out[:2]) == name.startswith(CAUSAL)


# Advanced examples ---------------------------------------------------------------------------------------------------


def create_transformer_layer(dim, num_heads):
    attention = multi_head(dim, num_heads).dropout(0.1).build()
    return (
        AttentionPipeline()
        .add_norm(NormType.LayerNorm)  # pre-norm
        .add_attention(attention)
        .add_dropout(0.1)
        .add_residual()
        .add_norm(NormType.LayerNorm)  # post-norm
    )


def test_custom_transformer_layer():
    x = normal((6, 512), np.float32, "layer")
    e = oracle.exact(x)
    n = oracle.layer_norm(e)
    attended = oracle.attention(reference.multi_head, n, n, n, num_heads=8)
    oracle.check(create_transformer_layer(512, 8).run(x), oracle.layer_norm(oracle.add(attended, e)))
    with pytest.raises(ValueError, match="Query dimension 512 must be divisible by num_heads 12"):
        create_transformer_layer(512, 12)


def create_long_context_attention(dim, max_len):
    if max_len <= 2048:
        return multi_head(dim, 12).build()
    if max_len <= 16384:
        return local_global(dim, 512).build()
    return linear(dim, dim // 4).build()


@pytest.mark.parametrize(
    ("max_len", "function", "options"),
    [
        (2048, reference.multi_head, {"num_heads": 12}),
        (2049, reference.longformer, {"window_size": 512, "global_tokens": 1}),
        (16384, reference.longformer, {"window_size": 512, "global_tokens": 1}),
        (16385, reference.performer, {"num_features": 192}),
    ],
)
def test_efficient_long_sequence_processing(max_len, function, options):
    q, k, v = qkv(5, 300, 768)
    out = create_long_context_attention(768, max_len)(q, k, v)
    reference.check(out, function(q, k, v, **options))


def create_graph_attention(dim, is_tree):
    return hyperbolic(dim, -1.0).build() if is_tree else multi_head(dim, 8).build()


def test_hierarchical_graph_attention():
    q, k, v = qkv(5, 12, 512)
    reference.check(create_graph_attention(512, False)(q, k, v), reference.multi_head(q, k, v, num_heads=8))
    q, k, v = (points("poincare", x) for x in (q, k, v))
    reference.check(create_graph_attention(512, True)(q, k, v), reference.poincare(q, k, v, curvature=-1.0))


def create_hybrid_pipeline(dim, in_sequence=False):
    local = flash(dim, 128).build()
    everywhere = multi_head(dim, 8).build()  # "can be added in sequence"
    pipeline = AttentionPipeline().add_attention(local).add_norm(NormType.LayerNorm).add_residual()
    return pipeline.add_attention(everywhere) if in_sequence else pipeline


def test_sparse_and_dense_hybrid():
    x = normal((150, 512), np.float32, "hybrid")
    e = oracle.exact(x)
    y = oracle.add(oracle.layer_norm(oracle.attention(reference.scaled_dot, e, e, e)), e)
    oracle.check(create_hybrid_pipeline(512).run(x), y)
    oracle.check(create_hybrid_pipeline(512, True).run(x), oracle.attention(reference.multi_head, y, y, y, num_heads=8))


def create_moe_attention(dim):
    return (
        moe(dim, 16, 2)  # 16 experts, the best 2 of each query
        .expert_capacity(1.5)
        .jitter_noise(0.1)
        .build()
    )


def test_moe_for_specialised_tasks():
    attention = create_moe_attention(512)
    q, k, v = qkv(40, 10, 512)
    out = attention(q, k, v)
    reference.check(out, reference.moe(q, k, v, num_experts=16, top_k=2, capacity_factor=1.5))
    # the capacity drops some of these queries
    assert not same_bits(out, moe(512, 16, 2).build()(q, k, v))
    # exploration is for training
    explored = attention(q, k, v, training=True, rng=0)
    assert same_bits(explored, attention(q, k, v, training=True, rng=0))
    assert not same_bits(explored, out)


# Testing -------------------------------------------------------------------------------------------------------------


def test_attention_pipeline():
    attention = multi_head(512, 8).build()
    pipeline = AttentionPipeline().add_attention(attention).add_norm(NormType.LayerNorm)
    query = np.full(512, 0.5)
    keys = [query] * 10
    values = [query] * 10
    output = pipeline.run(query, keys, values)
    assert len(output) == 512
    # equal numbers have nothing left when their mean is taken away
    np.testing.assert_allclose(output, 0, atol=1e-9)


def test_dropout_during_training_only():
    attention = multi_head(512, 8).dropout(0.1).build()
    q, k, v = qkv(20, 30, 512)
    assert same_bits(attention(q, k, v), multi_head(512, 8).build()(q, k, v))
    # a tenth of the weights is gone, the rest larger: constant values show the sum of what is left
    ones = np.ones((30, 512), np.float32)
    sums = attention(q, k, ones, training=True, rng=1)
    assert sums.std() > 0.05
    assert abs(sums.mean() - 1) < 0.02
    assert ruvector.attention(q, k, ones, "multi_head", num_heads=8).std() < 1e-6
