"""A catalogue of bad input to the SDK: the exact exception, and a message that names the argument and its value."""

import json
import re

import numpy as np
import pytest
import ruvector
from ruvector import sdk
from support import normal

Builder, Pipeline, N = sdk.AttentionBuilder, sdk.AttentionPipeline, sdk.NormType


def says(*parts):
    """A message that contains all of these, in any order."""
    return "(?s)" + "".join(f"(?=.*{re.escape(str(p))})" for p in parts)


def exactly(text):
    return f"^{re.escape(text)}$"


def x(*shape, dtype=np.float32):
    return normal(shape, dtype, "bad sdk input", len(shape))


CASES = []


def case(name, error, pattern, call, *arguments, **options):
    CASES.append(pytest.param(call, arguments, options, error, pattern, id=name))


def built(builder, strict=False):
    """`build` as a function of its builder."""
    return builder.build(strict)


# What build refuses --------------------------------------------------------------------------------------------------

for bad, error in (
    (0, ValueError),
    (-3, ValueError),
    (2.5, TypeError),
    ("8", TypeError),
    (None, TypeError),
    (True, TypeError),
):
    case(f"dim {bad!r}", error, says("dim", bad), built, Builder(bad))
    case(
        f"num_heads {bad!r}",
        error,
        says("num_heads", bad),
        built,
        Builder(8).num_heads(bad if bad is not None else "None"),
    )
    if bad is not None:
        case(f"num_kv_heads {bad!r}", error, says("num_kv_heads", bad), built, sdk.scaled_dot(8).num_heads(2, bad))
        case(f"head_dim {bad!r}", error, says("head_dim", bad), built, sdk.scaled_dot(8).head_dim(bad))
        case(f"flash {bad!r}", error, says("block_size", bad), built, sdk.flash(8, bad))
        case(f"linear {bad!r}", error, says("num_features", bad), built, sdk.linear(8, bad))
        case(f"local_global {bad!r}", error, says("window_size", bad), built, sdk.local_global(8, bad))
        case(f"moe experts {bad!r}", error, says("num_experts", bad), built, sdk.moe(8, bad, 1))
        case(f"moe top_k {bad!r}", error, says("top_k", bad), built, sdk.moe(8, 2, bad))
for bad, error in ((-0.1, ValueError), (1.0, ValueError), (np.nan, ValueError), ("x", TypeError), (True, TypeError)):
    case(f"dropout {bad!r}", error, says("dropout", bad), built, sdk.multi_head(8, 2).dropout(bad))
    case(f"jitter_noise {bad!r}", error, says("jitter_noise", bad), built, sdk.moe(8, 2, 1).jitter_noise(bad))
    # checked where it is not used, too
    case(f"dropout of linear {bad!r}", error, says("dropout", bad), built, sdk.linear(8, 4).dropout(bad))
for bad, error in ((0, ValueError), (-1.0, ValueError), (np.inf, ValueError), ("x", TypeError), (True, TypeError)):
    case(f"expert_capacity {bad!r}", error, says("expert_capacity", bad), built, sdk.moe(8, 2, 1).expert_capacity(bad))
for bad in (1, 0, "yes", np.array([True])):
    case(f"causal {bad!r}", TypeError, says("causal", bad), built, sdk.multi_head(8, 2).causal(bad))
    case(f"strict {bad!r}", TypeError, says("strict", bad), built, sdk.multi_head(8, 2), bad)
for bad, error in ((np.nan, ValueError), (np.inf, ValueError), ("x", TypeError)):
    case(f"scale {bad!r}", error, says("scale", bad), built, sdk.multi_head(8, 2).scale(bad))
case("scale of performer", ValueError, says("scale", "positive", -1.0), built, sdk.linear(8, 4).scale(-1.0))
for bad, error in ((0, ValueError), (0.0, ValueError), (np.nan, ValueError), ("x", TypeError), (None, None)):
    if error:
        case(f"hyperbolic {bad!r}", error, says("curvature", bad), built, sdk.hyperbolic(8, bad))

HEADS = exactly("Query dimension 768 must be divisible by num_heads 5")
case("heads of multi_head", ValueError, HEADS, built, sdk.multi_head(768, 5))
case("heads of an option", ValueError, HEADS, built, Builder(768).multi_head().num_heads(5))
case("heads of scaled_dot", ValueError, HEADS, built, sdk.scaled_dot(768).num_heads(5))
case("heads of alibi", ValueError, HEADS, built, Builder(768).alibi(5))
case("heads of rope", ValueError, HEADS, built, Builder(768).rope(5))
case("heads of t5", ValueError, HEADS, built, Builder(768).t5(5))
case("heads of relative", ValueError, HEADS, built, Builder(768).relative(5))
case("heads of gat", ValueError, HEADS, built, Builder(768).gat(5))
case("heads of gqa", ValueError, HEADS, built, Builder(768).grouped_query(5, 1))
case("small head count", ValueError, says(10, "num_heads 3"), built, sdk.multi_head(10, 3))
case("too many heads", ValueError, says("num_heads", 2000, 1024), built, sdk.multi_head(2000, 2000))
case("key heads", ValueError, says("num_heads 8", "num_kv_heads 3"), built, Builder(64).grouped_query(8, 3))
case(
    "key heads of leading axes",
    ValueError,
    says("num_heads 8", "num_kv_heads 3"),
    built,
    sdk.flash(64, 8).num_heads(8, 3),
)
case("head_dim", ValueError, says("100", "head_dim 64"), built, sdk.flash(100, 8).head_dim(64))
case(
    "heads wider than dim",
    ValueError,
    says("num_heads 4 * head_dim 32", 64, "init"),
    built,
    sdk.flash(64, 8).num_heads(4).head_dim(32),
)
case("experts", ValueError, says(512, "num_experts 7"), built, sdk.moe(512, 7, 2))
case("top_k above experts", ValueError, says("top_k", 5, 4), built, sdk.moe(8, 4, 5))
case("gate", ValueError, says("gate", "(8, 4)", "(4, 8)"), built, Builder(8).moe(4, 1, gate=x(4, 8)))
case("odd heads turn", ValueError, says("even", 3), built, Builder(12).rope(4))
case("odd heads rotate", ValueError, says("even", 3), built, sdk.flash(12, 4).num_heads(4).rotate())
case("rotary_dim", ValueError, says("rotary_dim", 6), built, sdk.flash(8, 4).num_heads(2).rotate(rotary_dim=6))
case("base", ValueError, says("base", 0.5), built, sdk.flash(8, 4).rotate(0.5))
case(
    "projection",
    ValueError,
    says("projection", "(num_features, 8)", "(3, 7)"),
    built,
    Builder(8).performer(projection=x(3, 7)),
)
case("slopes", ValueError, says("slopes", "(2,)", "(3,)"), built, Builder(8).alibi(2, [0.1, 0.2, 0.3]))
case("t5 bias", ValueError, says("bias", "(3, 2)"), built, Builder(8).t5(2, bias=x(3, 2)))
case("summary of strided", ValueError, says("summary", "fixed"), built, Builder(8).sparse(summary=2))
case(
    "parameter of another type",
    TypeError,
    says("multi_head", "block_size", "num_heads"),
    built,
    Builder(8).type("mha", block_size=3),
)
case("mixed_curvature dims", ValueError, says("euclidean_dim", 9), built, Builder(8).mixed_curvature(euclidean_dim=9))

# Types ---------------------------------------------------------------------------------------------------------------

Unknown = ruvector.UnknownAttentionType
case("unknown type", Unknown, says("'flahs'", "flash_v2", "'flash'"), Builder(8).type, "flahs")
case("type of a number", TypeError, says("type", 3), Builder(8).type, 3)
case("unknown method", AttributeError, says("'flahs'", "'flash'"), getattr, Builder(8), "flahs")
case("method of an option", AttributeError, says("'heads'", "Did you mean 'num_heads'?"), getattr, Builder(8), "heads")
case("method of what is built", AttributeError, says("'compute'", "build()"), getattr, Builder(8), "compute")
case("too many by position", TypeError, says("multi_head", "1 parameters", 2), Builder(8).multi_head, 2, 3)
case("twice", TypeError, says("multi_head", "num_heads"), Builder(8).multi_head, 2, num_heads=3)
case(
    "unused and strict",
    TypeError,
    says("multi_head", "jitter_noise"),
    built,
    sdk.multi_head(8, 2).jitter_noise(0.1),
    True,
)
for name, builder in {
    "dropout": sdk.linear(8, 4).dropout(0.1),
    "scale": Builder(8).type("linear").scale(2.0),
    "causal": Builder(8).type("causal").causal(False),
    "num_heads": sdk.moe(8, 2, 1).num_heads(2),
    "num_kv_heads": sdk.multi_head(8, 4).num_heads(4, 2),
    "rotate": sdk.multi_head(8, 2).rotate(),
    "expert_capacity": sdk.flash(8, 4).expert_capacity(1.0),
}.items():
    case(f"unused {name}", TypeError, says("does not use", name), built, builder, True)

# Weights -------------------------------------------------------------------------------------------------------------

W = sdk.multi_head(8, 2)
for kind, array in {
    "complex": np.ones((8, 8), complex),
    "object": np.ones((8, 8), object),
    "text": np.full((8, 8), "a"),
    "masked": np.ma.masked_array(np.ones((8, 8)), mask=True),
}.items():
    for name in ("w_q", "w_o", "b_v"):
        case(f"{name} {kind}", TypeError, says(name), W.weights, **{name: array})
case("unknown weight", TypeError, says("w_x"), W.weights, w_x=x(8, 8))
case("w_q rows", ValueError, says("w_q", "(8, out)", "(7, 8)"), built, W.weights(w_q=x(7, 8)))
case("w_q axes", ValueError, says("w_q", "(8,)"), built, W.weights(w_q=x(8)))
case("w_q width", ValueError, says("Query dimension 9", "num_heads 2"), built, W.weights(w_q=x(8, 9)))
case("w_k width", ValueError, says("w_k", "(in, 8)", "(8, 6)"), built, W.weights(w_k=x(8, 6)))
case("w_v width", ValueError, says("w_v", "2 heads", "(8, 5)"), built, W.weights(w_v=x(8, 5)))
case("w_o rows", ValueError, says("w_o", "(6, out)", "(8, 8)"), built, W.weights(w_v=x(8, 6), w_o=x(8, 8)))
case("b_q", ValueError, says("b_q", "(8,)", "(7,)"), built, W.weights(b_q=x(7)))
case("b_k", ValueError, says("b_k", "(8,)", "(7,)"), built, W.weights(w_k=x(8, 8), b_k=x(7)))
case("b_o", ValueError, says("b_o", "(3,)", "(8,)"), built, W.weights(w_o=x(8, 3), b_o=x(8)))
case("b_v axes", ValueError, says("b_v", "(1, 8)"), built, W.weights(b_v=x(1, 8)))
case("init dtype", TypeError, says("dtype", "int32"), W.init, dtype="int32")
case("init rng", TypeError, says("rng", "'x'"), W.init, "x")

# Calls ---------------------------------------------------------------------------------------------------------------

PLAIN, PROJECTED, SPLIT = W.build(), W.init().build(), sdk.scaled_dot(8).num_heads(2).build()
for name, attention in {"plain": PLAIN, "projected": PROJECTED, "split": SPLIT}.items():
    case(f"{name} width", ValueError, says("query", "dim = 8", "(5, 6)"), attention, x(5, 6), x(7, 8), x(7, 8))
    case(f"{name} 0-d", ValueError, says("query", "()"), attention, np.float32(1), x(7, 8), x(7, 8))
    case(f"{name} lengths", ValueError, says("7 vs 6"), attention, x(5, 8), x(7, 8), x(6, 8))
    case(f"{name} key width", ValueError, says("6", "8"), attention, x(5, 8), x(7, 6), x(7, 8))
    case(f"{name} key axes", ValueError, says("key", "(8,)"), attention, x(5, 8), x(8), x(7, 8))
    case(f"{name} batches", ValueError, says("broadcast"), attention, x(2, 5, 8), x(3, 7, 8), x(3, 7, 8))
    case(f"{name} mask", ValueError, says("mask"), attention, x(5, 8), x(7, 8), x(7, 8), mask=np.ones((5, 6), bool))
    case(
        f"{name} integer mask",
        TypeError,
        says("mask", "int"),
        attention,
        x(5, 8),
        x(7, 8),
        x(7, 8),
        mask=np.ones(7, int),
    )
    case(f"{name} training", TypeError, says("training", 1), attention, x(5, 8), x(7, 8), x(7, 8), training=1)
    case(f"{name} option", TypeError, says("window"), attention, x(5, 8), x(7, 8), x(7, 8), window=3)
    case(
        f"{name} out",
        ValueError,
        says("out", "(5, 7)"),
        attention,
        x(5, 8),
        x(7, 8),
        x(7, 8),
        out=np.zeros((5, 7), np.float32),
    )
    case(
        f"{name} out dtype",
        TypeError,
        says("out", "float64"),
        attention,
        x(5, 8),
        x(7, 8),
        x(7, 8),
        out=np.zeros((5, 8)),
    )
    for kind, array in {"complex": np.ones((7, 8), complex), "object": np.ones((7, 8), object)}.items():
        case(f"{name} {kind} query", TypeError, says("query"), attention, array, x(7, 8), x(7, 8))
        case(f"{name} {kind} key", TypeError, says("key"), attention, x(5, 8), array, x(7, 8))
        case(f"{name} {kind} values", TypeError, says("values"), attention.compute, x(8), x(7, 8), array)
    case(f"{name} ragged keys", ValueError, says("keys"), attention.compute, x(8), [[1.0, 2.0], [3.0]], x(7, 8))
case("projected values", ValueError, says("Value dimension 6", 8), PROJECTED, x(5, 8), x(7, 8), x(7, 6))
case(
    "bias of other values",
    ValueError,
    says("Value dimension 8", 6, "b_v"),
    W.weights(b_v=x(6)).build(),
    x(5, 8),
    x(7, 8),
    x(7, 8),
)
case(
    "bias of other results",
    ValueError,
    says("Result dimension 8", 6, "b_o"),
    W.weights(b_o=x(6)).build(),
    x(5, 8),
    x(7, 8),
    x(7, 8),
)
case(
    "w_o of other results",
    ValueError,
    says("Result dimension 8", 6, "w_o"),
    W.weights(w_o=x(6, 3)).build(),
    x(5, 8),
    x(7, 8),
    x(7, 8),
)
case("dropout without rng", ValueError, says("rng"), W.dropout(0.1).build(), x(5, 8), x(7, 8), x(7, 8), training=True)
case(
    "bound mask",
    ValueError,
    says("(5, 7)", "(4, 7)"),
    PLAIN.with_mask(np.ones((5, 7), bool)),
    x(5, 8),
    x(7, 8),
    x(7, 8),
    mask=np.ones((4, 7), bool),
)
case("mask of integers", TypeError, says("mask", "int"), PLAIN.with_mask, np.ones(7, int))
case("masked mask", TypeError, says("mask"), PLAIN.with_mask, np.ma.masked_array([True], mask=[True]))

# Configurations ------------------------------------------------------------------------------------------------------

for maker in (Builder.from_dict, sdk.Attention.from_dict):
    name = maker.__self__.__name__
    case(f"{name} of a list", TypeError, says("config", "list"), maker, [])
    case(f"{name} without a type", ValueError, says("config", "type"), maker, {"dim": 8})
    case(f"{name} with more", ValueError, says("config", "'heads'"), maker, {"dim": 8, "type": "mha", "heads": 2})
    case(f"{name} of an unknown type", Unknown, says("'x'"), maker, {"dim": 8, "type": "x"})
    case(
        f"{name} unknown option",
        ValueError,
        says("options", "'p'"),
        maker,
        {"dim": 8, "type": "mha", "options": {"p": 1}},
    )
    case(
        f"{name} unknown weight",
        ValueError,
        says("weights", "'w'"),
        maker,
        {"dim": 8, "type": "mha", "weights": {"w": 1}},
    )
    short = {"dtype": "float32", "shape": [8, 8], "data": [1.0]}
    case(
        f"{name} short weight",
        ValueError,
        says("w_q", "[8, 8]"),
        maker,
        {"dim": 8, "type": "mha", "weights": {"w_q": short}},
    )
    case(
        f"{name} weight without shape",
        ValueError,
        says("w_q", "shape"),
        maker,
        {"dim": 8, "type": "mha", "weights": {"w_q": {"dtype": "float32", "data": []}}},
    )
for maker in (Builder.from_json, sdk.Attention.from_json):
    name = maker.__self__.__name__
    case(f"{name} of no JSON", ValueError, says("JSON"), maker, "{")
    case(f"{name} of a number", TypeError, says("text", "int"), maker, 3)
case(
    "Attention of a bad option",
    ValueError,
    says("dropout", 2),
    sdk.Attention.from_json,
    json.dumps({"dim": 8, "type": "mha", "options": {"dropout": 2}}),
)
case(
    "Attention of an unused option",
    TypeError,
    says("jitter_noise"),
    sdk.Attention.from_dict,
    {"dim": 8, "type": "mha", "options": {"jitter_noise": 0.1}},
)

# Pipelines -----------------------------------------------------------------------------------------------------------

ATTENDS = Pipeline().add_attention(PLAIN)
for bad in (W, "multi_head", None, np.dot):
    case(f"add_attention {type(bad).__name__}", TypeError, says("attention", "built"), Pipeline().add_attention, bad)
case(
    "add_norm text",
    ValueError,
    says("norm", "LayerNorm, RMSNorm, BatchNorm", "'GroupNorm'"),
    Pipeline().add_norm,
    "GroupNorm",
)
case("add_norm number", TypeError, says("norm", 3), Pipeline().add_norm, 3)
case("norm weight axes", ValueError, says("weight", "(2, 2)"), Pipeline().add_norm, N.LayerNorm, weight=x(2, 2))
case("norm weight type", TypeError, says("weight"), Pipeline().add_norm, N.LayerNorm, weight=["a"])
case("norm weight width", ValueError, says("weight", 8, 7), Pipeline().add_norm(N.LayerNorm, weight=x(7)).run, x(5, 8))
case("batch norm width", ValueError, says("weight", 7, 8), Pipeline().add_norm(N.BatchNorm, weight=x(7)).run, x(5, 8))
case("RMSNorm bias", ValueError, says("bias", "RMSNorm"), Pipeline().add_norm, N.RMSNorm, bias=x(8))
for bad, error in ((-1.0, ValueError), (np.nan, ValueError), ("x", TypeError)):
    case(f"eps {bad!r}", error, says("eps", bad), Pipeline().add_norm, N.LayerNorm, eps=bad)
for bad, error in ((0.0, ValueError), (1.5, ValueError), ("x", TypeError)):
    case(f"momentum {bad!r}", error, says("momentum", bad), Pipeline().add_norm, N.BatchNorm, momentum=bad)
case("momentum of LayerNorm", ValueError, says("momentum", "LayerNorm"), Pipeline().add_norm, N.LayerNorm, momentum=0.1)
case("mean alone", ValueError, says("running_mean", "running_var"), Pipeline().add_norm, N.BatchNorm, running_mean=x(3))
case(
    "negative variance",
    ValueError,
    says("running_var", -1.0),
    Pipeline().add_norm,
    N.BatchNorm,
    running_mean=[0.0],
    running_var=[-1.0],
)
case(
    "statistics",
    ValueError,
    says("(2,)", "(3,)"),
    Pipeline().add_norm,
    N.BatchNorm,
    running_mean=x(2),
    running_var=np.ones(3),
)
case("batch of one", ValueError, says("two vectors", "(8,)"), Pipeline().add_norm(N.BatchNorm).run, x(8), training=True)
for bad, error in ((1.0, ValueError), (-0.1, ValueError), ("x", TypeError), (None, TypeError)):
    case(f"add_dropout {bad!r}", error, says("p must be", bad), Pipeline().add_dropout, bad)
    case(f"transformer_block dropout {bad!r}", error, says("p must be", bad), sdk.transformer_block, PLAIN, bad)
case("residual first", ValueError, says("add_residual", "sub-layer"), Pipeline().add_residual)
case("residual twice", ValueError, says("add_residual", "sub-layer"), ATTENDS.add_residual().add_residual)
case(
    "residual shapes",
    ValueError,
    says("residual", "(5, 8)", "(5, 3)"),
    Pipeline().add_custom(lambda a: a[:, :3]).add_residual().run,
    x(5, 8),
)
case("add_custom", TypeError, says("function", 3), Pipeline().add_custom, 3)
case("custom result", ValueError, says("custom", "()"), Pipeline().add_custom(np.sum).run, x(5, 8))
case("custom text", TypeError, says("custom"), Pipeline().add_custom(lambda a: np.array(["a"])).run, x(5, 8))
case("add_feed_forward", TypeError, says("feed_forward", "FeedForward"), Pipeline().add_feed_forward, x(8, 8))
case("block of a builder", TypeError, says("attention", "built"), sdk.transformer_block, W)
case("prenorm of a builder", TypeError, says("attention", "built"), sdk.prenorm_transformer_block, W)
case("run 0-d", ValueError, says("query", "()"), ATTENDS.run, 1.0)
case("run text", TypeError, says("query"), ATTENDS.run, ["a"])
case("run values alone", ValueError, says("values", "keys"), ATTENDS.run, x(5, 8), values=x(7, 8))
case("run one vector", ValueError, says("one vector", "(8,)"), ATTENDS.run, x(8))
case("run keys for nothing", ValueError, says("keys", "attention"), Pipeline().add_dropout(0.1).run, x(8), x(7, 8))
case("run mask for nothing", ValueError, says("mask", "attention"), Pipeline().run, x(8), mask=[True])
case("run training", TypeError, says("training", 1), ATTENDS.run, x(5, 8), training=1)
case("run rng", TypeError, says("rng", "'x'"), ATTENDS.run, x(5, 8), training=True, rng="x")
case("run width", ValueError, says("query", "dim = 8", "(5, 6)"), ATTENDS.run, x(5, 6))

FEED = sdk.FeedForward
case("feed-forward w_up", ValueError, says("w_up", "(in, out)", "(8,)"), FEED, x(8), x(8, 8))
case("feed-forward w_down", ValueError, says("w_down", "(6, 8)", "(7, 8)"), FEED, x(8, 6), x(7, 8))
case("feed-forward b_up", ValueError, says("b_up", "(6,)", "(8,)"), FEED, x(8, 6), x(6, 8), b_up=x(8))
case("feed-forward b_down", ValueError, says("b_down", "(8,)", "(6,)"), FEED, x(8, 6), x(6, 8), b_down=x(6))
case("feed-forward type", TypeError, says("w_up"), FEED, np.ones((8, 6), complex), x(6, 8))
case("activation", ValueError, says("activation", "'gelu'", "'relu'"), FEED, x(8, 6), x(6, 8), activation="elu")
case("swiglu without a gate", ValueError, says("w_gate", "swiglu"), FEED, x(8, 6), x(6, 8), activation="swiglu")
case("gate without swiglu", ValueError, says("w_gate", "'gelu'"), FEED, x(8, 6), x(6, 8), w_gate=x(8, 6))
case(
    "gate shape",
    ValueError,
    says("w_gate", "(8, 6)", "(8, 5)"),
    FEED,
    x(8, 6),
    x(6, 8),
    w_gate=x(8, 5),
    activation="swiglu",
)
case("feed-forward dropout", ValueError, says("dropout", 1.0), FEED, x(8, 6), x(6, 8), dropout=1.0)
case("feed-forward width", ValueError, says("8 wide", "(5, 6)"), FEED(x(8, 6), x(6, 8)), x(5, 6))
case("feed-forward init dim", ValueError, says("dim", 0), FEED.init, 0)
case("feed-forward init hidden", TypeError, says("hidden", 2.5), FEED.init, 8, 2.5)
case("feed-forward init dtype", TypeError, says("dtype", "int8"), FEED.init, 8, dtype="int8")
case("feed-forward init activation", ValueError, says("activation", "'relu'"), FEED.init, 8, activation="elu")

# Presets -------------------------------------------------------------------------------------------------------------

for preset in sdk.AttentionPreset:
    if preset.name not in ("SwitchTransformer", "HyperbolicTree"):
        case(f"{preset.name} of 100", ValueError, says(100, "head_dim 64"), built, preset.builder(100))
    case(f"{preset.name} of 0", ValueError, says("dim", 0), built, preset.builder(0))
    case(f"{preset.name} of text", TypeError, says("dim", "'x'"), built, preset.builder("x"))
case("Switch of 100", ValueError, says(100, "num_experts 8"), built, sdk.AttentionPreset.SwitchTransformer.builder(100))
case("unknown model", ValueError, says("'brt-base'", "bert-large", "'bert-base'"), sdk.from_model_name, "brt-base", 768)
case("model of a number", TypeError, says("name", 3), sdk.from_model_name, 3, 768)
case("family without dim", ValueError, says("dim", "'bert'"), sdk.from_model_name, "bert")
case(
    "size of another width", ValueError, says("512", "num_heads 12"), built, sdk.from_model_name("bert-base", 500 + 12)
)
case("model dim", TypeError, says("dim", "'x'"), built, sdk.from_model_name("llama", "x"))
for bad, error in ((0, ValueError), (-1, ValueError), (2.5, TypeError), ("x", TypeError), (None, TypeError)):
    case(f"for_sequences {bad!r}", error, says("max_len", bad), sdk.for_sequences, 512, bad)
    case(f"for_generation {bad!r}", error, says("context_len", bad), sdk.for_generation, 512, bad)
    case(f"for_vision {bad!r}", error, says("patch_size", bad), sdk.for_vision, 512, bad)
    case(f"for_vision image {bad!r}", error, says("image_size", bad), sdk.for_vision, 512, 16, bad)
case("for_vision patches", ValueError, says("patch_size 15", "image_size 224"), sdk.for_vision, 512, 15)
for bad in (1, "yes", None):
    case(f"for_graphs {bad!r}", TypeError, says("hierarchical", bad), sdk.for_graphs, 512, bad)
case("for_moe top_k", ValueError, says("top_k", 9, 8), built, sdk.for_moe(512, 8, 9))


@pytest.mark.parametrize(("call", "arguments", "options", "error", "pattern"), CASES)
def test_bad_input(call, arguments, options, error, pattern):
    with pytest.raises(error, match=pattern) as caught:
        call(*arguments, **options)
    assert caught.type is error


def test_the_catalogue_is_long_enough():
    assert len(CASES) >= 200
    assert len({c.id for c in CASES}) == len(CASES)


def test_nothing_is_written_before_an_error():
    out = np.full((5, 8), 7, np.float32)
    for attention in (PLAIN, PROJECTED, SPLIT):
        for options in ({"mask": np.ones((3, 4), bool)}, {"training": 1}):
            with pytest.raises((TypeError, ValueError)):
                attention(x(5, 8), x(7, 8), x(7, 8), out=out, **options)
    assert (out == 7).all()
