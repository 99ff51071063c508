"""A catalogue of bad input: the exact exception, and a message that names the argument and its value."""

import inspect
import re

import numpy as np
import numpy.ma
import pytest
import reference
import ruvector
from ruvector import retrieval
from support import normal

sdpa = ruvector.scaled_dot_product_attention
Unknown = ruvector.UnknownAttentionType


def says(*parts):
    """A message that contains all of these, in any order."""
    return "(?s)" + "".join(f"(?=.*{re.escape(str(p))})" for p in parts)


def exactly(text):
    return f"^{re.escape(text)}$"


def x(*shape, dtype=np.float32):
    return normal(shape, dtype, "bad input", len(shape))


Q, K, V = x(2, 5, 8), x(2, 7, 8), x(2, 7, 6)
VECTOR, KEYS, VALUES = x(8), x(7, 8), x(7, 6)
OUT = np.zeros((2, 5, 6), np.float32)
LOCKED = OUT.copy()
LOCKED.setflags(write=False)
CASES = []


def case(name, error, pattern, call, *arguments, **options):
    CASES.append(pytest.param(call, arguments, options, error, pattern, id=name))


# Types of the arrays -------------------------------------------------------------------------------------------------

WRONG = {
    "complex64": np.ones((2, 5, 8), np.complex64),
    "complex128": np.ones((2, 5, 8), np.complex128),
    "object": np.ones((2, 5, 8), object),
    "str": np.full((2, 5, 8), "a"),
    "bytes": np.full((2, 5, 8), b"a"),
    "structured": np.zeros((2, 5, 8), [("re", "f4"), ("im", "f4")]),
    "datetime64": np.zeros((2, 5, 8), "M8[s]"),
    "timedelta64": np.zeros((2, 5, 8), "m8[s]"),
    "longdouble": np.zeros((2, 5, 8), np.longdouble),
    "masked": np.ma.masked_array(np.ones((2, 5, 8), np.float32), mask=True),
}
SHOWN = {"str": "<U1", "bytes": "S1", "structured": "re", "masked": "mask"}
if np.dtype(np.longdouble) == np.dtype(np.float64):
    del WRONG["longdouble"]

for kind, array in WRONG.items():
    shown = SHOWN.get(kind, array.dtype.name if kind != "masked" else "mask")
    for position, role in enumerate(("query", "key", "value")):
        arrays = [Q, Q, Q]
        arrays[position] = array
        case(f"sdpa {role} {kind}", TypeError, says(role, shown), sdpa, *arrays)
    case(f"attention query {kind}", TypeError, says("query", shown), ruvector.attention, array, Q, Q)
    case(f"softmax x {kind}", TypeError, says("x", shown), ruvector.softmax, array)
    case(f"log_softmax x {kind}", TypeError, says("x", shown), ruvector.log_softmax, array)
    case(f"layer_norm x {kind}", TypeError, says("x", shown), ruvector.layer_norm, array)
    case(f"rms_norm x {kind}", TypeError, says("x", shown), ruvector.rms_norm, array)
    case(f"gelu x {kind}", TypeError, says("x", shown), ruvector.gelu, array)
    case(f"silu x {kind}", TypeError, says("x", shown), ruvector.silu, array)
    case(f"swiglu up {kind}", TypeError, says("up", shown), ruvector.swiglu, Q, array)
    case(f"layer_norm bias {kind}", TypeError, says("bias", shown), ruvector.layer_norm, Q, None, array)
    case(f"dot a {kind}", TypeError, says("a", shown), ruvector.dot, array, Q)
    case(f"dot b {kind}", TypeError, says("b", shown), ruvector.dot, Q, array)
    case(f"batched keys {kind}", TypeError, says("keys", shown), ruvector.batched_dot_products, Q[0, 0], array[0])
    case(f"multi_head values {kind}", TypeError, says("values", shown), ruvector.multi_head_attention, Q, Q, array, 2)
    case(f"flash keys {kind}", TypeError, says("keys", shown), ruvector.flash_attention, Q, array, Q)
    case(f"score key {kind}", TypeError, says("key", shown), ruvector.attention_score, Q[0, 0], array[0, 0])

for nothing in (None, "abc", {}, object()):
    case(f"sdpa query of type {type(nothing).__name__}", TypeError, says("query"), sdpa, nothing, K, V)
    case(f"softmax {type(nothing).__name__}", TypeError, says("x"), ruvector.softmax, nothing)
case("sdpa ragged key", ValueError, says("key"), sdpa, Q, [[1.0, 2.0], [3.0]], V)
case("softmax ragged", ValueError, says("x"), ruvector.softmax, [[1.0, 2.0], [3.0]])
case("sdpa missing value", TypeError, says("3 positional arguments"), sdpa, Q, K)
case("sdpa unknown keyword", TypeError, says("masks"), sdpa, Q, K, V, masks=None)

# Shapes --------------------------------------------------------------------------------------------------------------

WIDTHS = exactly("Query and key dimensions must match: 768 vs 384")
WIDE, NARROW, LONG = x(2, 768), x(7, 384), x(7, 768)
case("width sdpa", ValueError, WIDTHS, sdpa, WIDE, NARROW, x(7, 6))
case("width attention", ValueError, WIDTHS, ruvector.attention, WIDE, NARROW, x(7, 6))
case("width attention flash", ValueError, WIDTHS, ruvector.attention, WIDE, NARROW, x(7, 6), "flash")
case("width attention multi_head", ValueError, WIDTHS, ruvector.attention, WIDE, NARROW, NARROW, "multi_head")
case("width single query", ValueError, WIDTHS, ruvector.attention, WIDE[0], NARROW, x(7, 6))
case("width multi_head_attention", ValueError, WIDTHS, ruvector.multi_head_attention, WIDE, NARROW, NARROW, 8)
case("width flash_attention", ValueError, WIDTHS, ruvector.flash_attention, WIDE, NARROW, x(7, 6))
case("width partial_attention", ValueError, WIDTHS, ruvector.partial_attention, WIDE, NARROW, x(7, 6))
case("width attention_score", ValueError, WIDTHS, ruvector.attention_score, WIDE[0], NARROW[0])
case("width attention_scores", ValueError, WIDTHS, ruvector.attention_scores, WIDE[0], NARROW)
case("width batched", ValueError, WIDTHS, ruvector.batched_dot_products, WIDE[0], NARROW)
case("width get_attention", ValueError, WIDTHS, ruvector.get_attention("cross"), WIDE, NARROW, x(7, 6))
case(
    "width varlen",
    ValueError,
    WIDTHS,
    ruvector.varlen_attention,
    x(2, 1, 768),
    x(7, 1, 384),
    x(7, 1, 6),
    [0, 2],
    [0, 7],
)

LENGTHS = exactly("Keys and values must have same length: 5 vs 4")
case("length sdpa", ValueError, LENGTHS, sdpa, x(3, 8), x(5, 8), x(4, 8))
case("length attention", ValueError, LENGTHS, ruvector.attention, x(3, 8), x(5, 8), x(4, 8))
case("length attention local", ValueError, LENGTHS, ruvector.attention, x(3, 8), x(5, 8), x(4, 8), "local")
case("length single query", ValueError, LENGTHS, ruvector.attention, x(8), x(5, 8), x(4, 8))
case("length multi_head", ValueError, LENGTHS, ruvector.multi_head_attention, x(3, 8), x(5, 8), x(4, 8), 2)
case("length flash", ValueError, LENGTHS, ruvector.flash_attention, x(3, 8), x(5, 8), x(4, 8))
case("length partial", ValueError, LENGTHS, ruvector.partial_attention, x(3, 8), x(5, 8), x(4, 8))

HEADS = exactly("Query dimension 768 must be divisible by num_heads 5")
case("heads multi_head_attention", ValueError, HEADS, ruvector.multi_head_attention, WIDE, LONG, LONG, 5)
case("heads attention", ValueError, HEADS, ruvector.attention, WIDE, LONG, LONG, "multi_head", num_heads=5)
case("heads alias", ValueError, HEADS, ruvector.attention, WIDE, LONG, LONG, "mha", num_heads=5)
case("heads alibi", ValueError, HEADS, ruvector.attention, WIDE, LONG, LONG, "alibi", num_heads=5)
case("heads score", ValueError, HEADS, ruvector.attention_score, WIDE[0], LONG[0], "multi_head", num_heads=5)
case("heads scores", ValueError, HEADS, ruvector.attention_scores, WIDE[0], LONG, "multi_head", num_heads=5)
case("heads single query", ValueError, HEADS, ruvector.multi_head_attention, WIDE[0], LONG, LONG, 5)
case(
    "heads grouped_query",
    ValueError,
    HEADS,
    ruvector.attention,
    WIDE,
    LONG,
    LONG,
    "gqa",
    num_heads=5,
    num_kv_heads=1,
)
case(
    "heads of values",
    ValueError,
    says("7", "num_heads", "4"),
    ruvector.multi_head_attention,
    x(3, 8),
    x(5, 8),
    x(5, 7),
    4,
)

case("sdpa 0-d query", ValueError, says("query"), sdpa, np.float32(1), K, V)
case("sdpa 0-d key", ValueError, says("key"), sdpa, Q, np.float32(1), V)
case("sdpa 1-d key", ValueError, says("key", "(8,)"), sdpa, Q, K[0, 0], V)
case("sdpa 1-d value", ValueError, says("value", "(6,)"), sdpa, Q, K, V[0, 0])
case("sdpa width 0", ValueError, r"(?i)dim", sdpa, x(2, 3, 0), x(2, 4, 0), x(2, 4, 3))
case("attention width 0", ValueError, r"(?i)dim", ruvector.attention, x(3, 0), x(4, 0), x(4, 3))
case("sdpa batch", ValueError, says("(2, 5, 8)", "(3, 7, 8)"), sdpa, Q, x(3, 7, 8), x(3, 7, 6))
case("sdpa batch of values", ValueError, says("(2, 5, 8)", "(3, 7, 6)"), sdpa, Q, K, x(3, 7, 6))
case("attention batch", ValueError, says("(2, 5, 8)", "(3, 7, 8)"), ruvector.attention, Q, x(3, 7, 8), x(3, 7, 6))
case("sdpa heads", ValueError, says("enable_gqa", "8", "2"), sdpa, x(1, 8, 5, 4), x(1, 2, 7, 4), x(1, 2, 7, 4))
case(
    "sdpa gqa does not divide",
    ValueError,
    says("8", "3"),
    sdpa,
    x(1, 8, 5, 4),
    x(1, 3, 7, 4),
    x(1, 3, 7, 4),
    enable_gqa=True,
)
case(
    "sdpa gqa more key heads",
    ValueError,
    says("2", "8"),
    sdpa,
    x(1, 2, 5, 4),
    x(1, 8, 7, 4),
    x(1, 8, 7, 4),
    enable_gqa=True,
)
case(
    "gqa type: width of keys",
    ValueError,
    says("24", "16"),
    ruvector.attention,
    x(3, 64),
    x(5, 24),
    x(5, 16),
    "grouped_query",
    num_heads=8,
    num_kv_heads=2,
)
case(
    "gqa type: heads do not divide",
    ValueError,
    says("num_kv_heads", "3", "8"),
    ruvector.attention,
    x(3, 64),
    x(5, 24),
    x(5, 24),
    "grouped_query",
    num_heads=8,
    num_kv_heads=3,
)
case(
    "sdpa huge product",
    ValueError,
    "shape|too big",
    sdpa,
    np.broadcast_to(x(1, 8), (2**40, 1, 1, 8)),
    np.broadcast_to(x(1, 8), (2**40, 1, 8)),
    np.broadcast_to(x(1, 8), (2**40, 1, 8)),
)
case("sdpa huge result", MemoryError, None, sdpa, np.broadcast_to(x(1, 8), (2**40, 8)), KEYS, VALUES)
case("dot lengths", ValueError, says("3", "4"), ruvector.dot, x(3), x(4))
case("dot batch", ValueError, says("(2, 4)", "(3, 4)"), ruvector.dot, x(2, 4), x(3, 4))
case("dot scalar", ValueError, says("a"), ruvector.dot, np.float32(1), x(3))
case("batched 1-d keys", ValueError, says("keys", "(8,)"), ruvector.batched_dot_products, VECTOR, x(8))
case("batched batch", ValueError, says("(2, 8)", "(3, 7, 8)"), ruvector.batched_dot_products, x(2, 8), x(3, 7, 8))
case("softmax axis", ValueError, says("axis", "3", "(4, 5)"), ruvector.softmax, x(4, 5), 3)
case("softmax negative axis", ValueError, says("axis", "-3", "(4, 5)"), ruvector.softmax, x(4, 5), -3)
case("softmax 0-d", ValueError, says("x", "()"), ruvector.softmax, np.float32(1))
case("log_softmax axis", ValueError, says("axis", "2", "(4, 5)"), ruvector.log_softmax, x(4, 5), 2)
case("softmax axis type", TypeError, says("axis"), ruvector.softmax, x(4, 5), "rows")
case("softmax axis float", TypeError, says("axis"), ruvector.softmax, x(4, 5), 0.5)

# Options of attention ------------------------------------------------------------------------------------------------

for call, name in ((sdpa, "sdpa"), (ruvector.attention, "attention"), (ruvector.flash_attention, "flash")):
    for bad in (np.nan, np.inf, -np.inf):
        case(f"{name} scale {bad}", ValueError, says("scale", bad), call, Q, K, V, scale=bad)
    case(f"{name} scale text", TypeError, says("scale", "big"), call, Q, K, V, scale="big")
    case(f"{name} scale array", TypeError, says("scale"), call, Q, K, V, scale=np.ones(3))
    case(f"{name} scale complex", TypeError, says("scale"), call, Q, K, V, scale=1j)
    for bad in (-1.0, np.nan, np.inf):
        case(f"{name} softcap {bad}", ValueError, says("softcap", bad), call, Q, K, V, softcap=bad)
    case(f"{name} softcap text", TypeError, says("softcap"), call, Q, K, V, softcap="low")
for bad in ((1,), (1, 2, 3), (-1, 2), (2, -1)):
    case(f"sdpa window {bad}", ValueError, says("window", bad), sdpa, Q, K, V, window=bad)
for bad in ((1.5, 2), "ab", 3, ("1", 2)):
    case(f"sdpa window {bad!r}", (TypeError, ValueError), says("window", bad), sdpa, Q, K, V, window=bad)
for bad in (-0.1, 1.0, 1.5, np.nan):
    case(f"sdpa dropout_p {bad}", ValueError, says("dropout_p", bad), sdpa, Q, K, V, dropout_p=bad, rng=1)
    case(
        f"attention dropout {bad}",
        ValueError,
        says("dropout", bad),
        ruvector.attention,
        Q,
        K,
        V,
        dropout=bad,
        training=True,
        rng=1,
    )
case("sdpa dropout_p text", TypeError, says("dropout_p"), sdpa, Q, K, V, dropout_p="half", rng=1)
case("sdpa dropout without rng", ValueError, says("rng"), sdpa, Q, K, V, dropout_p=0.5)
case("attention dropout without rng", ValueError, says("rng"), ruvector.attention, Q, K, V, dropout=0.5, training=True)
case(
    "multi_head dropout without rng",
    ValueError,
    says("rng"),
    ruvector.multi_head_attention,
    Q,
    K,
    K,
    2,
    dropout=0.5,
    training=True,
)
case(
    "flash dropout without rng", ValueError, says("rng"), ruvector.flash_attention, Q, K, V, dropout=0.5, training=True
)
case("sdpa rng text", TypeError, says("rng", "seed"), sdpa, Q, K, V, dropout_p=0.5, rng="seed")

case(
    "mask shape",
    ValueError,
    exactly("attn_mask shape (3, 4) does not broadcast to (2, 5, 7)"),
    sdpa,
    Q,
    K,
    V,
    np.ones((3, 4), bool),
)
case("mask batch", ValueError, says("attn_mask", "(3, 5, 7)", "(2, 5, 7)"), sdpa, Q, K, V, np.ones((3, 5, 7), bool))
case("mask axes", ValueError, says("attn_mask", "(2, 2, 5, 7)"), sdpa, Q, K, V, np.ones((2, 2, 5, 7), bool))
case(
    "mask batch that only the mask has",
    ValueError,
    says("attn_mask", "(3, 1, 5, 7)", "(1, 2, 5, 7)"),
    sdpa,
    Q[None],
    K[None],
    V[None],
    np.ones((3, 1, 5, 7), bool),
)
case("mask float shape", ValueError, says("attn_mask", "(6,)"), sdpa, Q, K, V, np.zeros(6, np.float32))
case("mask of a type", ValueError, says("mask", "(3, 4)"), ruvector.attention, Q, K, V, mask=np.ones((3, 4), bool))
case(
    "mask of one query",
    ValueError,
    says("mask", "(6,)"),
    ruvector.attention,
    VECTOR,
    KEYS,
    VALUES,
    mask=np.ones(6, bool),
)
for kind in ("int64", "uint8", "int32", "complex64", "object", "U1", "M8[s]"):
    bad = np.zeros((5, 7), kind)
    shown = bad.dtype.name if kind != "U1" else "<U1"
    case(f"mask {kind}", TypeError, says("attn_mask", shown), sdpa, Q, K, V, bad)
case("mask of a type int64", TypeError, says("mask", "int64"), ruvector.attention, Q, K, V, mask=np.ones((5, 7), int))
case("mask of text", TypeError, says("attn_mask"), sdpa, Q, K, V, "causal")
case("slopes shape", ValueError, says("alibi_slopes", "(3,)"), sdpa, Q, K, V, alibi_slopes=np.ones(3))
case("slopes axes", ValueError, says("alibi_slopes", "(2, 2, 2)"), sdpa, Q, K, V, alibi_slopes=np.ones((2, 2, 2)))
case("slopes complex", TypeError, says("alibi_slopes", "complex128"), sdpa, Q, K, V, alibi_slopes=np.ones(2, complex))
case("slopes text", TypeError, says("alibi_slopes"), sdpa, Q, K, V, alibi_slopes="steep")
case(
    "alibi slopes shape",
    ValueError,
    says("slopes", "(3,)"),
    ruvector.attention,
    Q,
    K,
    x(2, 7, 8),
    "alibi",
    slopes=np.ones(3),
)

# out -----------------------------------------------------------------------------------------------------------------

for call, name in ((sdpa, "sdpa"), (ruvector.attention, "attention"), (ruvector.flash_attention, "flash")):
    case(f"{name} out dtype", TypeError, says("out", "float64", "float32"), call, Q, K, V, out=OUT.astype(float))
    case(f"{name} out shape", ValueError, says("out", "(2, 5, 5)", "(2, 5, 6)"), call, Q, K, V, out=OUT[..., :5])
    case(f"{name} out read-only", ValueError, says("out", "read-only"), call, Q, K, V, out=LOCKED)
    case(f"{name} out list", TypeError, says("out", "list"), call, Q, K, V, out=OUT.tolist())
case("sdpa out batch", ValueError, says("out", "(3, 5, 6)"), sdpa, Q, K, V, out=np.zeros((3, 5, 6), np.float32))
case("sdpa out axes", ValueError, says("out", "(5, 6)"), sdpa, Q, K, V, out=np.zeros((5, 6), np.float32))
case("softmax out dtype", TypeError, says("out", "float64"), ruvector.softmax, OUT, out=OUT.astype(float))
case("softmax out shape", ValueError, says("out", "(2, 5, 5)"), ruvector.softmax, OUT, out=OUT[..., :5])
case("softmax out read-only", ValueError, says("out", "read-only"), ruvector.softmax, OUT, out=LOCKED)
for call in (ruvector.layer_norm, ruvector.rms_norm, ruvector.gelu, ruvector.silu):
    name = call.__name__
    case(f"{name} out dtype", TypeError, says("out", "float64"), call, OUT, out=OUT.astype(float))
    case(f"{name} out shape", ValueError, says("out", "(2, 5, 5)"), call, OUT, out=OUT[..., :5])
    case(f"{name} out read-only", ValueError, says("out", "read-only"), call, OUT, out=LOCKED)
    case(f"{name} out of itself, read-only", ValueError, says("out", "read-only"), call, LOCKED, out=LOCKED)
    case(f"{name} 0-d", ValueError, says("x", "()"), call, np.float32(1))
for call in (ruvector.layer_norm, ruvector.rms_norm):
    name = call.__name__
    case(f"{name} weight", ValueError, says("weight", "(6,)", "(5,)"), call, OUT, np.ones(5))
    case(f"{name} weight axes", ValueError, says("weight", "(6,)", "(1, 6)"), call, OUT, np.ones((1, 6)))
    for bad in (-1.0, np.nan, np.inf):
        case(f"{name} eps {bad}", ValueError, says("eps", str(bad)), call, OUT, eps=bad)
    case(f"{name} eps word", TypeError, says("eps", "'small'"), call, OUT, eps="small")
case("layer_norm bias", ValueError, says("bias", "(6,)", "(7,)"), ruvector.layer_norm, OUT, None, np.ones(7))
case("gelu approximate", ValueError, says("approximate", "'erf'", "'tanh'"), ruvector.gelu, OUT, approximate="erf")
case("swiglu shapes", ValueError, says("gate", "(2, 5, 6)", "(2, 5, 5)"), ruvector.swiglu, OUT, OUT[..., :5])
case("swiglu 0-d", ValueError, says("gate", "()"), ruvector.swiglu, np.float32(1), np.float32(2))
case("softmax out tuple", TypeError, says("out", "tuple"), ruvector.softmax, OUT, out=(OUT,))
case(
    "multi_head out dtype",
    TypeError,
    says("out", "float64"),
    ruvector.multi_head_attention,
    Q,
    K,
    V,
    2,
    out=OUT.astype(float),
)
case(
    "multi_head out shape",
    ValueError,
    says("out", "(2, 5, 5)"),
    ruvector.multi_head_attention,
    Q,
    K,
    V,
    2,
    out=OUT[..., :5],
)

# Types and their parameters ------------------------------------------------------------------------------------------

for name in ("x", "flash_v3", "", " scaled_dot", "Scaled Dot", "scaled-dot", "softmax"):
    pattern = f"^{re.escape(f'Unknown attention type: {name!r}. Available: ')}.*scaled_dot.*flash_v2.*local"
    case(f"get_attention {name!r}", Unknown, pattern, ruvector.get_attention, name)
case("attention unknown", Unknown, says("'x'", "scaled_dot"), ruvector.attention, Q, K, V, "x")
case("score unknown", Unknown, says("'x'", "scaled_dot"), ruvector.attention_score, VECTOR, VECTOR, "x")
case("scores unknown", Unknown, says("'x'", "scaled_dot"), ruvector.attention_scores, VECTOR, KEYS, "x")
for bad in (None, 3, b"flash", ["flash"]):
    case(f"get_attention {bad!r}", TypeError, says("attention"), ruvector.get_attention, bad)
case("AttentionType unknown", AttributeError, says("Nope"), getattr, ruvector.AttentionType, "Nope")
case("AttentionType option", TypeError, says("blocks", "block_size"), lambda: ruvector.AttentionType.FlashV2(blocks=3))

OPTIONS = {
    "scaled_dot": "softcap",
    "multi_head": "num_heads",
    "flash_v2": "block_size_kv",
    "grouped_query": "num_kv_heads",
    "alibi": "slopes",
    "sliding_window": "window_size",
    "local": "window_size",
    "gat": "a_src",
    "gatv2": "edge_index",
    "cross": "scale",
    "self": "causal",
    "causal": "scale",
    "poincare": "curvature",
    "lorentz": "space_only",
    "mixed_curvature": "euclidean_dim",
    "linear": "feature_map",
    "performer": "num_features",
    "random_feature": "projection",
    "multi_query": "num_heads",
    "rope": "rotary_dim",
    "xpos": "scale_base",
    "relative": "value_embedding",
    "t5": "bidirectional",
}
for name, own in OPTIONS.items():
    case(f"option of {name}", TypeError, says("temperature", name, own), ruvector.get_attention, name, temperature=1.0)
case("attention option", TypeError, says("temperature", "softcap"), ruvector.attention, Q, K, V, temperature=1.0)
case("score option", TypeError, says("temperature"), ruvector.attention_score, VECTOR, VECTOR, temperature=1.0)
case("scores option", TypeError, says("temperature"), ruvector.attention_scores, VECTOR, KEYS, temperature=1.0)
case("option of another type", TypeError, says("block_size", "softcap"), ruvector.attention, Q, K, V, block_size=3)
case("causal is not an option of causal", TypeError, says("causal"), ruvector.get_attention, "causal", causal=False)
for name, option in (
    ("multi_head", "num_heads"),
    ("alibi", "num_heads"),
    ("grouped_query", "num_kv_heads"),
    ("flash_v2", "block_size"),
):
    for bad in (0, -1):
        case(f"{name} {option}={bad}", ValueError, says(option, bad), ruvector.get_attention, name, **{option: bad})
    for bad in (2.5, "8", None):
        case(f"{name} {option}={bad!r}", TypeError, says(option, bad), ruvector.get_attention, name, **{option: bad})
for name in ("sliding_window", "local"):
    case(f"{name} window_size=-1", ValueError, says("window_size", -1), ruvector.get_attention, name, window_size=-1)
    case(f"{name} window_size=2.5", TypeError, says("window_size", 2.5), ruvector.get_attention, name, window_size=2.5)
for bad in (0, -2):
    case(f"num_heads {bad}", ValueError, says("num_heads", bad), ruvector.multi_head_attention, Q, K, V, bad)
    case(f"block_size {bad}", ValueError, says("block_size", bad), ruvector.flash_attention, Q, K, V, bad)
for bad in (2.0, "2", None):
    case(f"num_heads {bad!r}", TypeError, says("num_heads", bad), ruvector.multi_head_attention, Q, K, V, bad)
case("block_size_q", ValueError, says("block_size_q", -4), ruvector.flash_attention, Q, K, V, block_size_q=-4)
case("block_size_kv", TypeError, says("block_size_kv", 1.5), ruvector.flash_attention, Q, K, V, block_size_kv=1.5)

# Weights of multi_head_attention -------------------------------------------------------------------------------------

MHA = ruvector.multi_head_attention
for role, given in (("q", "(9, 8)"), ("k", "(9, 8)"), ("v", "(9, 8)")):
    case(f"w_{role} rows", ValueError, says(f"w_{role}", given), MHA, Q, K, K, 2, **{f"w_{role}": x(9, 8)})
    case(f"w_{role} axes", ValueError, says(f"w_{role}", "(8,)"), MHA, Q, K, K, 2, **{f"w_{role}": x(8)})
    case(f"b_{role} length", ValueError, says(f"b_{role}", "(5,)"), MHA, Q, K, K, 2, **{f"b_{role}": x(5)})
case("w_o rows", ValueError, says("w_o", "(7, 3)"), MHA, Q, K, V, 2, w_o=x(7, 3))
case("b_o length", ValueError, says("b_o", "(5,)"), MHA, Q, K, V, 2, b_o=x(5))
case("w_q complex", TypeError, says("w_q", "complex128"), MHA, Q, K, K, 2, w_q=np.ones((8, 8), complex))
case(
    "w_q heads",
    ValueError,
    exactly("Query dimension 9 must be divisible by num_heads 2"),
    MHA,
    Q,
    K,
    K,
    2,
    w_q=x(8, 9),
    w_k=x(8, 9),
)
case("w_q and w_k", ValueError, exactly("Query and key dimensions must match: 4 vs 8"), MHA, Q, K, K, 2, w_q=x(8, 4))

# varlen --------------------------------------------------------------------------------------------------------------

VQ, VK, VV = x(6, 4, 8), x(9, 2, 8), x(9, 2, 5)
varlen = ruvector.varlen_attention
case("varlen start", ValueError, says("cu_seqlens_q", "1"), varlen, VQ, VK, VV, [1, 6], [0, 9])
case("varlen end", ValueError, says("cu_seqlens_q", "5", "6"), varlen, VQ, VK, VV, [0, 5], [0, 9])
case("varlen end of keys", ValueError, says("cu_seqlens_k", "10", "9"), varlen, VQ, VK, VV, [0, 6], [0, 10])
case("varlen falling", ValueError, says("cu_seqlens_k"), varlen, VQ, VK, VV, [0, 3, 6], [0, 12, 9])
case("varlen negative", ValueError, says("cu_seqlens_q", "-2"), varlen, VQ, VK, VV, [0, -2, 6], [0, 3, 9])
case("varlen counts", ValueError, says("cu_seqlens_q", "cu_seqlens_k"), varlen, VQ, VK, VV, [0, 3, 6], [0, 9])
case("varlen float", TypeError, says("cu_seqlens_q", "float64"), varlen, VQ, VK, VV, [0.0, 6.0], [0, 9])
case("varlen 2-d", ValueError, says("cu_seqlens_q", "(1, 2)"), varlen, VQ, VK, VV, [[0, 6]], [0, 9])
case("varlen empty", ValueError, says("cu_seqlens_q"), varlen, VQ, VK, VV, np.empty(0, int), np.empty(0, int))
case("varlen heads", ValueError, says("4", "3"), varlen, VQ, x(9, 3, 8), x(9, 3, 5), [0, 6], [0, 9])
case("varlen key and value heads", ValueError, says("2", "4"), varlen, VQ, VK, x(9, 3, 5), [0, 6], [0, 9])
case("varlen 2-d query", ValueError, says("query", "(6, 8)"), varlen, x(6, 8), VK, VV, [0, 6], [0, 9])
case(
    "varlen lengths",
    ValueError,
    exactly("Keys and values must have same length: 9 vs 8"),
    varlen,
    VQ,
    VK,
    VV[:8],
    [0, 6],
    [0, 9],
)
case("varlen scale", ValueError, says("scale", "nan"), varlen, VQ, VK, VV, [0, 6], [0, 9], scale=np.nan)
case("varlen window", ValueError, says("window", (-1, 0)), varlen, VQ, VK, VV, [0, 6], [0, 9], window=(-1, 0))
case("varlen slopes", ValueError, says("alibi_slopes", "(3,)"), varlen, VQ, VK, VV, [0, 6], [0, 9], alibi_slopes=x(3))
case("varlen out", ValueError, says("out", "(6, 4, 4)"), varlen, VQ, VK, VV, [0, 6], [0, 9], out=x(6, 4, 4))

# Positions -----------------------------------------------------------------------------------------------------------

rope = ruvector.rope
PQ, PK, PV = x(2, 5, 32), x(2, 7, 32), x(2, 7, 24)
for bad in (0.5, -1, np.nan, np.inf):
    case(f"rope base {bad}", ValueError, says("base", bad), rope, Q, base=bad)
for bad in ("ten", None, True, [1.0]):
    case(f"rope base {bad!r}", TypeError, says("base", repr(bad)), rope, Q, base=bad)
case("rope width", ValueError, says("even", "7", "rotary_dim"), rope, x(5, 7))
case("rope no columns", ValueError, says("(5, 0)"), rope, x(5, 0))
case("rope number", ValueError, says("x", "()"), rope, np.float32(3))
case("rope complex", TypeError, says("x", "complex64"), rope, Q.astype(np.complex64))
for bad in (0, 3, 10, -2):
    case(f"rope rotary_dim {bad}", ValueError, says("rotary_dim", "8", bad), rope, Q, rotary_dim=bad)
case("rope rotary_dim 4.0", TypeError, says("rotary_dim", "4.0"), rope, Q, rotary_dim=4.0)
case("rope interleaved", TypeError, says("interleaved", "1"), rope, Q, interleaved=1)
case("rope positions shape", ValueError, says("positions", "(4,)", "(2, 5)"), rope, Q, np.arange(4))
case("rope positions axes", ValueError, says("positions", "(1, 2, 5)"), rope, Q, np.zeros((1, 2, 5)))
case("rope positions of a vector", ValueError, says("positions", "(2,)"), rope, VECTOR, [1, 2])
case("rope positions nan", ValueError, says("positions", "nan"), rope, Q, [0, 1, np.nan, 3, 4])
case("rope positions text", TypeError, says("positions"), rope, Q, ["a"] * 5)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = YARN | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
for name, error, pattern, scaling in (
    ("type", ValueError, says("rope_type", "longrope", "yarn"), {"rope_type": "longrope", "factor": 2}),
    ("no type", TypeError, says("rope_type"), {"factor": 2.0}),
    ("text", TypeError, says("scaling", "'yarn'"), "yarn"),
    ("number", TypeError, says("scaling", "4.0"), 4.0),
    ("key", TypeError, says("rope_theta", "factor"), YARN | {"rope_theta": 5e5}),
    ("no factor", TypeError, says("linear", "factor"), {"rope_type": "linear"}),
    ("no length", TypeError, says("original_max_position_embeddings"), {"rope_type": "dynamic", "factor": 2.0}),
    (
        "unread key",
        TypeError,
        says("linear", "beta_fast", "factor"),
        {"rope_type": "linear", "factor": 2.0, "beta_fast": 3},
    ),
    ("unread key of default", TypeError, says("default", "factor", "no key"), {"rope_type": "default", "factor": 2.0}),
    ("factor", ValueError, says("factor", "0.5", "at least 1"), YARN | {"factor": 0.5}),
    ("factor text", TypeError, says("factor", "'two'"), YARN | {"factor": "two"}),
    ("length", ValueError, says("original_max_position_embeddings", 0), YARN | {"original_max_position_embeddings": 0}),
    (
        "length 2.5",
        TypeError,
        says("original_max_position_embeddings"),
        YARN | {"original_max_position_embeddings": 2.5},
    ),
    ("beta_slow", ValueError, says("beta_slow", "-1"), YARN | {"beta_slow": -1}),
    ("betas", ValueError, says("beta_fast", "beta_slow", "0.5"), YARN | {"beta_fast": 0.5}),
    ("truncate", TypeError, says("truncate", "1"), YARN | {"truncate": 1}),
    ("ramp of llama3", ValueError, says("high_freq_factor", "low_freq_factor"), LLAMA3 | {"high_freq_factor": 1.0}),
):
    case(f"rope scaling {name}", error, pattern, rope, Q, scaling=scaling)
    case(f"rope_attention scaling {name}", error, pattern, ruvector.rope_attention, PQ, PK, PV, scaling=scaling)
case("rope scaling base", ValueError, says("base", "yarn"), rope, Q, base=1, scaling=YARN)
case("RopeScaling type", ValueError, says("rope_type", "3"), ruvector.RopeScaling, 3)

for name in ("rope", "xpos", "relative", "t5"):
    function = getattr(ruvector, f"{name}_attention")
    case(f"{name} heads", ValueError, HEADS, function, WIDE, LONG, LONG, 5)
    case(f"{name} widths", ValueError, says("Query and key dimensions must match: 32 vs 24"), function, PQ, PV, PV)
    case(f"{name} lengths", ValueError, says("same length: 7 vs 5"), function, PQ, PK, PV[:, :5])
    case(f"{name} value heads", ValueError, says("Value dimension 6", "num_heads", "4"), function, PQ, PK, V, 4)
    case(f"{name} kv heads", ValueError, says("num_kv_heads", "3", "8"), function, PQ, PK, PV, 8, 3)
    case(f"{name} key width", ValueError, says("num_kv_heads * head_dim = 2 * 4 = 8", "32"), function, PQ, PK, PV, 8, 2)
    case(f"{name} batch", ValueError, says("(2, 5, 32)", "(3, 7, 32)"), function, PQ, x(3, 7, 32), PV)
    case(f"{name} axes", ValueError, says("key", "(32,)"), function, PQ, PK[0, 0], PV)
    case(f"{name} type no columns", ValueError, r"(?i)dim", function, x(5, 0), x(7, 0), x(7, 0))
    case(
        f"{name} mask",
        ValueError,
        says("mask", "(4, 7)", "(2, 5, 7)"),
        function,
        PQ,
        PK,
        PV,
        mask=np.ones((4, 7), bool),
    )
    case(
        f"{name} mask of a vector",
        ValueError,
        says("mask", "(6,)"),
        function,
        PQ[0, 0],
        PK[0],
        PV[0],
        mask=np.ones(6, bool),
    )
    case(f"{name} training", TypeError, says("training", "1"), ruvector.get_attention(name), PQ, PK, PV, training=1)
    case(f"{name} rng", ValueError, says("dropout", "rng"), function, PQ, PK, PV, dropout=0.5, training=True)
    case(
        f"{name} out", ValueError, says("out", "(2, 5, 24)"), function, PQ, PK, PV, out=np.zeros((2, 5, 6), np.float32)
    )
    for bad in (0, -1, 1025):
        case(f"{name} num_heads {bad}", ValueError, says("num_heads", bad), function, PQ, PK, PV, bad)
        case(f"{name} num_kv_heads {bad}", ValueError, says("num_kv_heads", bad), function, PQ, PK, PV, 8, bad)
    case(f"{name} num_kv_heads 2.0", TypeError, says("num_kv_heads", "2.0"), function, PQ, PK, PV, 8, 2.0)
    score = ruvector.attention_score
    case(f"{name} score heads", ValueError, HEADS, score, WIDE[0], LONG[0], name, num_heads=5)
    case(
        f"{name} score widths",
        ValueError,
        exactly("Query and key dimensions must match: 32 vs 24"),
        score,
        PQ[0, 0],
        PV[0, 0],
        name,
    )
    case(f"{name} score key width", ValueError, says("= 2 * 4 = 8"), score, PQ[0, 0], PK[0, 0], name, num_kv_heads=2)
    case(f"{name} score axes", ValueError, says("axis"), score, np.float32(1), PK[0, 0], name)
    case(f"{name} score no columns", ValueError, r"(?i)dim", score, x(0), x(0), name)
for name in ("rope", "xpos"):
    function = getattr(ruvector, f"{name}_attention")
    case(f"{name} odd heads", ValueError, says("even", "3"), function, x(5, 9), x(7, 9), x(7, 9), 3)
    case(f"{name} type base", ValueError, says("base", "0.9"), function, PQ, PK, PV, base=0.9)
    case(f"{name} type interleaved", TypeError, says("interleaved"), function, PQ, PK, PV, interleaved="yes")
for bad in (3, 6, 0):
    case(
        f"rope type rotary_dim {bad}",
        ValueError,
        says("rotary_dim", bad),
        ruvector.rope_attention,
        PQ,
        PK,
        PV,
        rotary_dim=bad,
    )
for bad in (0, -0.5):
    case(f"xpos gamma {bad}", ValueError, says("gamma", bad), ruvector.xpos_attention, PQ, PK, PV, gamma=bad)
case("xpos scale_base", ValueError, says("scale_base", "0.5"), ruvector.xpos_attention, PQ, PK, PV, scale_base=0.5)
relative = ruvector.relative_attention
case("relative distance", ValueError, says("max_distance", 0), relative, PQ, PK, PV, max_distance=0)
for option, width in (("key_embedding", 4), ("value_embedding", 3)):
    want = says(option, f"(33, {width})", "8 heads")
    case(f"relative {option} rows", ValueError, want, relative, PQ, PK, PV, **{option: x(32, width)})
    case(f"relative {option} columns", ValueError, want, relative, PQ, PK, PV, **{option: x(33, width + 1)})
    case(f"relative {option} heads", ValueError, want, relative, PQ, PK, PV, **{option: x(4, 33, width)})
    bad = np.full((33, width), np.nan)
    case(f"relative {option} nan", ValueError, says(option, "finite"), relative, PQ, PK, PV, **{option: bad})
    case(f"relative {option} text", TypeError, says(option), relative, PQ, PK, PV, **{option: "abc"})
t5 = ruvector.t5_attention
case("t5 bias shape", ValueError, says("bias", "(32, 8)", "(8, 32)"), t5, PQ, PK, PV, bias=x(8, 32))
case("t5 bias inf", ValueError, says("bias", "finite"), t5, PQ, PK, PV, bias=np.full((32, 8), np.inf))
case("t5 odd buckets", ValueError, says("num_buckets", "even", 7), t5, PQ, PK, PV, num_buckets=7)
case("t5 two buckets", ValueError, says("num_buckets", "at least 4", 2), t5, PQ, PK, PV, num_buckets=2)
case("t5 one bucket", ValueError, says("num_buckets", 1), t5, PQ, PK, PV, num_buckets=1)
case("t5 distance", ValueError, says("max_distance", "8", "5"), t5, PQ, PK, PV, max_distance=5)
case(
    "t5 score distance",
    ValueError,
    says("max_distance", "5"),
    ruvector.attention_score,
    PQ[0, 0],
    PK[0, 0],
    "t5",
    max_distance=5,
)
case("t5 bidirectional", TypeError, says("bidirectional", "0"), t5, PQ, PK, PV, bidirectional=0)
for bad in (0, 1025):
    case(
        f"multi_query num_heads {bad}",
        ValueError,
        says("num_heads", bad),
        ruvector.multi_query_attention,
        PQ,
        PK,
        PV,
        bad,
    )
case("multi_query key width", ValueError, says("1 * 4 = 4", "32"), ruvector.multi_query_attention, PQ, PK, PV)
case("multi_query heads", ValueError, HEADS, ruvector.multi_query_attention, WIDE, LONG, LONG, 5)
case("multi_query score", ValueError, says("4 vs 32"), ruvector.attention_score, PQ[0, 0], PK[0, 0], "multi_query")

# Hyperbolic geometry -------------------------------------------------------------------------------------------------

distance, sheet = ruvector.hyperbolic_distance, ruvector.lorentz_distance
INSIDE, OUTSIDE = np.full((3, 2), 0.3), np.array([[0.3, 0.4], [0.6, 0.8], [0.9, 0.9]])
SHEET = np.array([[np.sqrt(1.25), 0.5], [1.0, 0.0]])
for function, arguments in (
    (distance, (INSIDE, INSIDE)),
    (ruvector.hyperbolic_cdist, (INSIDE, INSIDE)),
    (sheet, (SHEET, SHEET)),
    (ruvector.lorentz_cdist, (SHEET, SHEET)),
    (ruvector.mobius_add, (INSIDE, INSIDE)),
    (ruvector.exp_map, (INSIDE, INSIDE)),
    (ruvector.log_map, (INSIDE, INSIDE)),
    (ruvector.project_to_ball, (INSIDE,)),
    (ruvector.poincare_to_lorentz, (INSIDE,)),
    (ruvector.lorentz_to_poincare, (SHEET,)),
    (ruvector.gyromidpoint, (INSIDE,)),
    (ruvector.lorentz_centroid, (SHEET,)),
    (ruvector.poincare_attention, (INSIDE, INSIDE, INSIDE)),
    (ruvector.lorentz_attention, (SHEET, SHEET, SHEET)),
    (ruvector.mixed_curvature_attention, (INSIDE, INSIDE, INSIDE)),
):
    name = function.__name__
    case(f"{name} flat", ValueError, exactly("curvature must not be 0, got 0.0"), function, *arguments, curvature=0)
    for bad in (np.nan, np.inf, -np.inf):
        case(f"{name} curvature {bad}", ValueError, says("curvature", bad), function, *arguments, curvature=bad)
    for bad in ("round", None, 1j, True):
        case(f"{name} curvature {bad!r}", TypeError, says("curvature"), function, *arguments, curvature=bad)
    for position, array in enumerate(arguments):
        changed = list(arguments)
        changed[position] = array.astype(complex)
        role = list(inspect.signature(function).parameters)[position]
        case(f"{name} {role} complex", TypeError, says(role, "complex128"), function, *changed)
        changed[position] = "points"
        case(f"{name} {role} text", TypeError, says(role, "<U6"), function, *changed)
case("curvature array", ValueError, says("curvature", "(2,)"), distance, INSIDE, INSIDE, [1.0, 2.0])
case(
    "zero in a curvature array",
    ValueError,
    says("curvature", "0.0"),
    ruvector.get_attention,
    "poincare",
    curvature=[1.0, 0.0],
)
case(
    "curvature array that does not broadcast",
    ValueError,
    exactly("curvature shape (3,) does not broadcast to the leading axes (2,)"),
    ruvector.poincare_attention,
    np.zeros((2, 3, 4)),
    np.zeros((2, 3, 4)),
    np.zeros((2, 3, 4)),
    [1.0, 2.0, 3.0],
)
RADIUS = "not less than the radius 1 of the ball of curvature 1"
for function, names in (
    (distance, "ab"),
    (ruvector.hyperbolic_cdist, "ab"),
    (ruvector.mobius_add, "xy"),
    (ruvector.log_map, ("base", "target")),
):
    for position, name in enumerate(names):
        arrays = [INSIDE, INSIDE]
        arrays[position] = OUTSIDE
        case(
            f"{function.__name__} {name} on the sphere",
            ValueError,
            says(f"{name}[1] has norm 1,", RADIUS),
            function,
            *arrays,
        )
case("exp_map base outside", ValueError, says("base[1]", RADIUS), ruvector.exp_map, OUTSIDE, INSIDE)
case("exp_map infinite tangent", ValueError, says("tangent", "(0, 1)"), ruvector.exp_map, INSIDE, INSIDE * [1, np.inf])
case("poincare_to_lorentz outside", ValueError, says("x[1]", RADIUS), ruvector.poincare_to_lorentz, OUTSIDE)
case("gyromidpoint outside", ValueError, says("points[1]", RADIUS), ruvector.gyromidpoint, OUTSIDE)
case(
    "outside at c = 4",
    ValueError,
    says("a has norm 0.5", "radius 0.5", "curvature 4"),
    distance,
    [0.3, 0.4],
    [0.1, 0.2],
    4,
)
case(
    "outside in a batch",
    ValueError,
    says("b[0, 2] has norm"),
    distance,
    np.zeros((4, 3, 2)),
    OUTSIDE[None] * [[[1], [0.5], [1]]],
)
case("infinite point", ValueError, says("b[1] has norm inf"), distance, INSIDE, INSIDE * [[1], [np.inf], [1]])
for position, role in enumerate(("query", "key", "value")):
    arrays = [INSIDE, INSIDE, INSIDE]
    arrays[position] = OUTSIDE
    case(
        f"poincare {role} outside",
        ValueError,
        says(f"{role}[1] has norm 1,", RADIUS),
        ruvector.poincare_attention,
        *arrays,
    )
case("score outside", ValueError, says("key has norm 1,"), ruvector.attention_score, [0.1, 0.2], [0.6, 0.8], "poincare")
case("scores outside", ValueError, says("key[1] has norm"), ruvector.attention_scores, INSIDE, OUTSIDE, "poincare")
WRONG_TIME = SHEET * [[1], [1.1]]
WANTED = ("its time component is 1.1", "makes it 1;", "space_only")
for function, names in ((sheet, "ab"), (ruvector.lorentz_cdist, "ab")):
    for position, name in enumerate(names):
        arrays = [SHEET, SHEET]
        arrays[position] = WRONG_TIME
        case(f"{function.__name__} {name} off the sheet", ValueError, says(f"{name}[1]", *WANTED), function, *arrays)
for function, name in ((ruvector.lorentz_to_poincare, "x"), (ruvector.lorentz_centroid, "points")):
    case(f"{function.__name__} off the sheet", ValueError, says(f"{name}[1]", *WANTED), function, WRONG_TIME)
for position, role in enumerate(("query", "key", "value")):
    arrays = [SHEET, SHEET, SHEET]
    arrays[position] = WRONG_TIME
    case(f"lorentz {role} off the sheet", ValueError, says(f"{role}[1]", *WANTED), ruvector.lorentz_attention, *arrays)
case("lorentz other curvature", ValueError, says("a[0]", "curvature 4"), sheet, SHEET, SHEET, 4)
case("lorentz negative time", ValueError, says("a[0]", "-1.118"), sheet, -SHEET, SHEET)
case(
    "lorentz infinite",
    ValueError,
    says("b[0]", "inf", "finite"),
    sheet,
    SHEET,
    SHEET * [[np.inf], [1]],
    space_only=True,
)
case("lorentz without space", ValueError, says("a time and a space component", "(3, 1)"), sheet, x(3, 1), x(3, 1))
case(
    "lorentz_attention without space",
    ValueError,
    says("points", "(3, 1)"),
    ruvector.lorentz_attention,
    x(3, 1),
    x(3, 1),
    SHEET[:1].repeat(3, 0),
)
for bad in (1, "yes", None):
    case(f"space_only {bad!r}", TypeError, says("space_only", repr(bad)), sheet, SHEET, SHEET, space_only=bad)
    case(
        f"space_only {bad!r} of the type",
        TypeError,
        says("space_only"),
        ruvector.get_attention,
        "lorentz",
        space_only=bad,
    )
case("distance widths", ValueError, says("a and b", "2 vs 3"), distance, INSIDE, x(3, 3) * 0.1)
case("distance axes", ValueError, says("broadcast", "(3, 2)", "(4, 2)"), distance, INSIDE, np.zeros((4, 2)))
case("distance of numbers", ValueError, says("a and b", "()"), distance, 0.1, 0.2)
case("distance of nothing", ValueError, says("a component", "(3, 0)"), distance, np.empty((3, 0)), np.empty((3, 0)))
case("cdist of vectors", ValueError, says("(..., m, d)", "(2,)"), ruvector.hyperbolic_cdist, INSIDE[0], INSIDE)
case("mobius_add widths", ValueError, says("x and y", "2 vs 3"), ruvector.mobius_add, INSIDE, np.zeros((3, 3)))
case("minkowski_dot of one", ValueError, says("a", "(1,)"), ruvector.minkowski_dot, [1.0], [1.0])
for bad in (0.0, 1.0, -0.1):
    case(f"project_to_ball eps {bad}", ValueError, says("eps", bad), ruvector.project_to_ball, INSIDE, eps=bad)
case("project_to_ball eps text", TypeError, says("eps"), ruvector.project_to_ball, INSIDE, eps="small")
case(
    "project_to_ball infinity",
    ValueError,
    says("x", "infinity", "(1, 0)"),
    ruvector.project_to_ball,
    INSIDE * [[1], [np.inf], [1]],
)
for function, points in ((ruvector.gyromidpoint, INSIDE), (ruvector.lorentz_centroid, SHEET)):
    n = function.__name__
    case(f"{n} weights shape", ValueError, says("weights", "(5,)"), function, points, np.ones(5))
    case(f"{n} negative weight", ValueError, says("weights", "-1.0"), function, points, [1.0, -1.0, 2.0][: len(points)])
    case(
        f"{n} infinite weight", ValueError, says("weights", "inf"), function, points, [1.0, np.inf, 2.0][: len(points)]
    )
    case(f"{n} one point", ValueError, says("points", "(2,)"), function, points[0])
case(
    "mixed euclidean_dim",
    ValueError,
    says("euclidean_dim", 3),
    ruvector.mixed_curvature_attention,
    INSIDE,
    INSIDE,
    INSIDE,
    euclidean_dim=3,
)
case(
    "mixed euclidean_dim -2",
    ValueError,
    says("euclidean_dim", -2),
    ruvector.get_attention,
    "mixed_curvature",
    euclidean_dim=-2,
)
case(
    "mixed curvature of three heads",
    ValueError,
    exactly("curvature shape (3,) does not broadcast to the leading axes (2,)"),
    ruvector.attention,
    [INSIDE, INSIDE],
    [INSIDE, INSIDE],
    [INSIDE, INSIDE],
    "mixed_curvature",
    curvature=[1.0, 2.0, 3.0],
)
case(
    "mixed mask of other keys",
    ValueError,
    says("mask", "(4,)"),
    ruvector.mixed_curvature_attention,
    INSIDE,
    INSIDE,
    INSIDE,
    mask=[True] * 4,
)
case(
    "mixed weight",
    ValueError,
    says("hyperbolic_weight", -1),
    ruvector.get_attention,
    "mixed_curvature",
    hyperbolic_weight=-1,
)
case(
    "mixed value outside",
    ValueError,
    says("value[0]"),
    ruvector.mixed_curvature_attention,
    INSIDE,
    INSIDE,
    OUTSIDE * 2,
    value_euclidean_dim=0,
)

# States --------------------------------------------------------------------------------------------------------------

STATE = ruvector.AttentionState(x(2, 5, 6), np.zeros((2, 5)))
merge = ruvector.merge_states
case("merge nothing", ValueError, says("states"), merge, [])
case("merge numbers", TypeError, says("states"), merge, [1, 2])
case("merge one thing", TypeError, says("states"), merge, 3)
case(
    "merge shapes",
    ValueError,
    says("(2, 5, 6)", "(2, 5, 7)"),
    merge,
    [STATE, ruvector.AttentionState(x(2, 5, 7), np.zeros((2, 5)))],
)
case(
    "merge lse shape", ValueError, says("lse", "(2, 4)"), merge, [ruvector.AttentionState(x(2, 5, 6), np.zeros((2, 4)))]
)
case(
    "merge complex",
    TypeError,
    says("complex64"),
    merge,
    [ruvector.AttentionState(np.ones((2, 5, 6), np.complex64), np.zeros((2, 5)))],
)

# Top-k and experts ---------------------------------------------------------------------------------------------------

topk, gating, route = ruvector.topk, ruvector.top_k_gating, ruvector.moe_route
Layer, moe = ruvector.MixtureOfExperts, ruvector.moe_attention
for kind, array in WRONG.items():
    shown = SHOWN.get(kind, array.dtype.name)
    case(f"topk x {kind}", TypeError, says("x", shown), topk, array, 2)
    case(f"gating logits {kind}", TypeError, says("logits", shown), gating, array)
    case(f"route embedding {kind}", TypeError, says("embedding", shown), route, array)
    case(f"route gate {kind}", TypeError, says("gate", shown), route, Q, gate=array)
    case(f"layer x {kind}", TypeError, says("x", shown), Layer(2, 1, experts=x(2, 8, 3)), array)
    case(f"layer experts {kind}", TypeError, says("experts", shown), Layer, 2, 1, experts=array)
    case(f"loss probabilities {kind}", TypeError, says("probabilities", shown), ruvector.load_balancing_loss, array, 0)
    case(f"z-loss {kind}", TypeError, says("logits", shown), ruvector.router_z_loss, array)
    case(f"moe value {kind}", TypeError, says("value", shown), moe, Q, Q, array)
for nothing in (None, "abc", {}):
    case(f"topk {nothing!r}", TypeError, says("x"), topk, nothing, 2)
    case(f"route {nothing!r}", TypeError, says("embedding"), route, nothing)
    case(f"gating {nothing!r}", TypeError, says("logits"), gating, nothing)
for bad in (0, -1, 9):
    case(f"topk k={bad}", ValueError, says("k", bad, 8), topk, Q, bad)
    case(f"gating top_k={bad}", ValueError, says("top_k", bad, 8), gating, Q, bad)
    case(f"gating options top_k={bad}", ValueError, says("top_k", bad, 8), gating, Q, bad, normalize=False)
    case(f"route top_k={bad}", ValueError, says("top_k", "num_experts 8", bad), route, Q, 8, bad)
    case(f"layer top_k={bad}", ValueError, says("top_k", "num_experts 8", bad), Layer, 8, bad)
    case(f"moe top_k={bad}", ValueError, says("top_k", bad), moe, Q, K, V, 8, bad)
    case(f"capacity top_k={bad}", ValueError, says("top_k", "num_experts 8", bad), ruvector.expert_capacity, 4, 8, bad)
for bad in (2.0, "2", None, True):
    case(f"topk k={bad!r}", TypeError, says("k", bad), topk, Q, bad)
    case(f"gating top_k={bad!r}", TypeError, says("top_k", bad), gating, Q, bad)
    case(f"route top_k={bad!r}", TypeError, says("top_k", bad), route, Q, 8, bad)
    case(f"route num_experts={bad!r}", TypeError, says("num_experts", bad), route, Q, bad)
    case(f"layer num_experts={bad!r}", TypeError, says("num_experts", bad), Layer, bad)
    case(f"moe num_experts={bad!r}", TypeError, says("num_experts", bad), moe, Q, K, V, bad)
    case(f"gate_weights dim={bad!r}", TypeError, says("dim", bad), ruvector.gate_weights, bad)
for bad in (0, -3):
    case(f"route num_experts={bad}", ValueError, says("num_experts", bad), route, Q, bad)
    case(f"layer num_experts={bad}", ValueError, says("num_experts", bad), Layer, bad)
    case(f"moe num_experts={bad}", ValueError, says("num_experts", bad), moe, Q, K, V, bad)
    case(f"gate_weights dim={bad}", ValueError, says("dim", bad), ruvector.gate_weights, bad)
    case(f"gate_weights num_experts={bad}", ValueError, says("num_experts", bad), ruvector.gate_weights, 8, bad)
    case(f"route capacity_factor={bad}", ValueError, says("capacity_factor", bad), route, Q, capacity_factor=bad)
    case(f"layer capacity_factor={bad}", ValueError, says("capacity_factor", bad), Layer, capacity_factor=bad)
    case(f"moe capacity_factor={bad}", ValueError, says("capacity_factor", bad), moe, Q, K, V, capacity_factor=bad)
    case(f"capacity factor={bad}", ValueError, says("capacity_factor", bad), ruvector.expert_capacity, 4, 8, 2, bad)
for bad in (np.nan, np.inf):
    case(f"route capacity_factor={bad}", ValueError, says("capacity_factor", bad), route, Q, capacity_factor=bad)
    case(f"route jitter={bad}", ValueError, says("jitter", bad), route, Q, jitter=bad)
for bad in (-0.1, 1.0, 2.0):
    case(f"route jitter={bad}", ValueError, says("jitter", bad), route, Q, jitter=bad)
    case(f"layer jitter={bad}", ValueError, says("jitter", bad), Layer, jitter=bad)
    case(f"moe jitter_noise={bad}", ValueError, says("jitter_noise", bad), moe, Q, K, V, jitter_noise=bad)
for bad in ("x", None, []):
    case(f"route jitter={bad!r}", TypeError, says("jitter", bad), route, Q, jitter=bad)
case("route capacity_factor text", TypeError, says("capacity_factor", "x"), route, Q, capacity_factor="x")
case("capacity factor None", TypeError, says("capacity_factor"), ruvector.expert_capacity, 4, 8, 2, None)
case("capacity tokens", ValueError, says("num_tokens", -1), ruvector.expert_capacity, -1, 8)
case("capacity tokens float", TypeError, says("num_tokens", 2.5), ruvector.expert_capacity, 2.5, 8)
case("route jitter without rng", ValueError, says("jitter", "rng"), route, Q, jitter=0.1, training=True)
case("layer jitter without rng", ValueError, says("jitter", "rng"), Layer(jitter=0.1).route, Q, training=True)
case("moe jitter without rng", ValueError, says("jitter_noise", "rng"), moe, Q, K, V, jitter_noise=0.1, training=True)
case("moe dropout without rng", ValueError, says("rng"), moe, Q, K, V, dropout=0.1, training=True)
case("route rng text", TypeError, says("rng", "seed"), route, Q, jitter=0.1, training=True, rng="seed")
case("gate_weights rng text", TypeError, says("rng", "seed"), ruvector.gate_weights, 8, rng="seed")
case("layer rng text", TypeError, says("rng", "seed"), Layer, rng="seed")
for bad in (1, None, "yes"):
    case(f"route training={bad!r}", TypeError, says("training", bad), route, Q, training=bad)
    case(f"route normalize={bad!r}", TypeError, says("normalize", bad), route, Q, normalize=bad)
    case(f"gating normalize={bad!r}", TypeError, says("normalize", bad), gating, Q, normalize=bad)
    case(f"layer normalize={bad!r}", TypeError, says("normalize", bad), Layer, normalize=bad)
    case(f"moe training={bad!r}", TypeError, says("training", bad), moe, Q, K, V, training=bad)
for bad in ("topk", "", "TOPK_SOFTMAX", None):
    case(f"route order={bad!r}", ValueError, says("order", repr(bad), "topk_softmax"), route, Q, order=bad)
    case(f"gating order={bad!r}", ValueError, says("order", repr(bad), "topk_softmax"), gating, Q, order=bad)
    case(f"layer order={bad!r}", ValueError, says("order", repr(bad), "topk_softmax"), Layer, order=bad)
case("route gate shape", ValueError, says("gate", "(8, 4)", "(4, 8)"), route, Q, 4, gate=x(4, 8))
case("route gate experts", ValueError, says("gate", "(8, 8)", "(8, 5)"), route, Q, gate=x(8, 5))
case("route gate axes", ValueError, says("gate", "(8,)"), route, Q, gate=x(8))
case("layer gate axes", ValueError, says("gate", "(8,)"), Layer, gate=x(8))
case("layer gate experts", ValueError, says("gate", "(8, 5)"), Layer, gate=x(8, 5))
case("layer gate width", ValueError, says("gate", "(8, 4)", "(9, 4)"), Layer(4, gate=x(9, 4)).route, Q)
case("moe gate shape", ValueError, says("gate", "(8, 4)", "(4, 8)"), moe, Q, K, V, 4, gate=x(4, 8))
case("moe gate of nan", ValueError, says("gate", "finite"), moe, Q, K, V, 8, gate=np.full((8, 8), np.nan))
case("route no axis", ValueError, says("embedding", "()"), route, 3.0)
case("route no width", ValueError, says("embedding", "(3, 0)"), route, np.empty((3, 0)))
case("gating no axis", ValueError, says("logits", "()"), gating, 3.0)
case("gating no expert", ValueError, says("top_k", "0 experts"), gating, np.empty((3, 0)))
case("topk no axis", ValueError, says("x", "()"), topk, 3.0, 1)
case("topk no element", ValueError, says("k", "0"), topk, np.empty((3, 0)), 1)
for bad in (3, -4):
    case(f"topk axis={bad}", ValueError, says("axis", bad, "(2, 5, 8)"), topk, Q, 1, bad)
for bad in (1.5, "0"):
    case(f"topk axis={bad!r}", TypeError, says("axis", bad), topk, Q, 1, bad)
case("topk k along another axis", ValueError, says("k", 6, 5), topk, Q, 6, 1)
case("layer experts number", ValueError, says("experts", 3, 2), Layer, 3, 1, experts=x(2, 8, 4))
case("layer experts list", ValueError, says("experts", 3, 2), Layer, 3, 1, experts=[abs, abs])
case("layer experts axes", ValueError, says("experts", "(8, 4)"), Layer, 8, experts=x(8, 4))
case("layer experts mixed", TypeError, says("experts[1]", "int"), Layer, 2, 1, experts=[abs, 3])
case("layer without experts", ValueError, says("experts"), Layer(), Q)
case("layer width", ValueError, says("x", "9", "(2, 5, 8)"), Layer(2, 1, experts=x(2, 9, 4)), Q)
case("layer rows", ValueError, says("experts[0]", "(10, out)", "(3, 8)"), Layer(1, 1, experts=[lambda t: t[:3]]), Q)
case("layer axes", ValueError, says("experts[0]", "(10,)"), Layer(1, 1, experts=[lambda t: t[:, 0]]), Q)
case(
    "layer unequal widths",
    ValueError,
    says("experts[1]", "(10, 8)", "(10, 3)"),
    Layer(2, 2, experts=[lambda t: t, lambda t: t[:, :3]]),
    Q,
)
case("layer return_routing", TypeError, says("return_routing", 1), Layer(1, 1, experts=[abs]), Q, return_routing=1)
case("layer logits", ValueError, says("logits", "8", "(2, 5, 7)"), Layer().top_k_gating, x(2, 5, 7))
loss = ruvector.load_balancing_loss
case("loss shapes", ValueError, says("(4, 8)", "(3, 2)"), loss, x(4, 8), np.zeros((3, 2), int))
case("loss axes", ValueError, says("(8,)", "()"), loss, x(8), 0)
case("loss indices float", TypeError, says("indices", "float64"), loss, x(4, 8), np.zeros((4, 2)))
for bad in (8, -1):
    case(f"loss index {bad}", ValueError, says("indices", bad, 7), loss, x(4, 8), np.full((4, 1), bad))
case("loss without tokens", ValueError, says("token", "(0, 8)"), loss, x(0, 8), np.zeros((0, 2), int))
case("z-loss without tokens", ValueError, says("token", "(0, 8)"), ruvector.router_z_loss, x(0, 8))
case("moe width", ValueError, WIDTHS, moe, WIDE, NARROW, x(7, 6))
case("moe lengths", ValueError, LENGTHS, moe, x(3, 8), x(5, 8), x(4, 8))
case(
    "moe experts of the width",
    ValueError,
    exactly("Query dimension 8 must be divisible by num_experts 3"),
    moe,
    Q,
    K,
    V,
    3,
)
case("moe axes", ValueError, says("query", "(8,)"), moe, VECTOR, VECTOR, VECTOR)
case("moe head_dim", ValueError, says("head_dim", "(2, 5, 0)"), moe, x(2, 5, 0), x(2, 7, 0), V)
case("moe batch", ValueError, says("(2, 5, 8)", "(3, 7, 8)"), moe, Q, x(3, 7, 8), V)
case("moe mask", ValueError, says("mask", "(3, 4)", "(2, 5, 7)"), moe, Q, K, V, mask=np.ones((3, 4), bool))
case("moe mask axes", ValueError, says("mask", "(1, 2, 5, 7)"), moe, Q, K, V, mask=np.ones((1, 2, 5, 7), bool))
case("moe w_q", ValueError, says("w_q", "(8, 8, 8)", "(4, 8, 8)"), moe, Q, K, V, w_q=x(4, 8, 8))
case("moe w_q of the keys", ValueError, says("w_q", "(8, 8, 8)", "(8, 8, 3)"), moe, Q, K, V, w_q=x(8, 8, 3))
case("moe w_k", ValueError, says("w_k", "(8, out)", "(9, 4)"), moe, Q, K, V, w_k=x(9, 4))
case("moe w_v", ValueError, says("w_v", "(6, out)", "(8, 4)"), moe, Q, K, V, w_v=x(8, 4))
case("moe w_o", ValueError, says("w_o", "(8, 6, out)", "(8, 5, 4)"), moe, Q, K, V, w_o=x(8, 5, 4))
case("moe w_o axes", ValueError, says("w_o", "(6, 4)"), moe, Q, K, V, w_o=x(6, 4))
case("moe out", ValueError, says("out", "(2, 5, 5)"), moe, Q, K, V, out=OUT[..., :5])
case("moe option", TypeError, says("temperature", "moe", "top_k"), ruvector.get_attention, "moe", temperature=1.0)

# Graphs --------------------------------------------------------------------------------------------------------------

gat, gatv2, CSRGraph, GATLayer = ruvector.gat, ruvector.gatv2, ruvector.CSRGraph, ruvector.GATLayer
NODES, EDGES = x(5, 4), np.array([[0, 1, 2, 4], [1, 1, 0, 3]])
GW, GA, GB = x(2, 4, 3), x(2, 3), x(2, 3)
GRAPH = CSRGraph.from_coo(EDGES, 5)
for kind, array in WRONG.items():
    shown = SHOWN.get(kind, array.dtype.name if kind != "masked" else "mask")
    features, matrix, vector = array[0, :, :4], array[:, :4, :3], array[:, 0, :3]
    case(f"gat x {kind}", TypeError, says("x", shown), gat, features, EDGES, GW, GA, GB)
    case(f"gat w {kind}", TypeError, says("w", shown), gat, NODES, EDGES, matrix, GA, GB)
    case(f"gat a_src {kind}", TypeError, says("a_src", shown), gat, NODES, EDGES, GW, vector, GB)
    case(f"gat a_dst {kind}", TypeError, says("a_dst", shown), gat, NODES, EDGES, GW, GA, vector)
    case(f"gat bias {kind}", TypeError, says("bias", shown), gat, NODES, EDGES, GW, GA, GB, bias=array[0, 0, :6])
    case(f"gatv2 w_l {kind}", TypeError, says("w_l", shown), gatv2, NODES, EDGES, matrix, GW, GA)
    case(f"gatv2 a {kind}", TypeError, says("a", shown), gatv2, NODES, EDGES, GW, GW, vector)
    case(f"gat_search nodes {kind}", TypeError, says("nodes", shown), ruvector.gat_search, features, EDGES, 0)
for kind in ("float64", "bool", "complex64", "object", "U1", "M8[s]"):
    edges = np.zeros((2, 4), kind)
    shown = edges.dtype.name if kind != "U1" else "<U1"
    case(f"edge_index {kind}", TypeError, says("edge_index", shown), gat, NODES, edges, GW, GA, GB)
    case(f"from_coo {kind}", TypeError, says("edge_index", shown), CSRGraph.from_coo, edges)
    case(f"from_csr indices {kind}", TypeError, says("indices", shown), CSRGraph.from_csr, [0, 4], edges[0])
    case(
        f"edge_index of a type {kind}",
        TypeError,
        says("edge_index", shown),
        ruvector.get_attention,
        "gat",
        edge_index=edges,
    )
for row, side in enumerate(("source", "target")):
    for bad in (-1, 5, 2**40):
        edges = EDGES.copy()
        edges[row, 2] = bad
        message = exactly(f"edge_index[{row}, 2] is {bad}, out of range for 5 {side} nodes")
        case(f"{side} {bad}", IndexError, message, gat, NODES, edges, GW, GA, GB)
        case(f"gatv2 {side} {bad}", IndexError, message, gatv2, NODES, edges, GW, GW, GA)
        case(f"from_coo {side} {bad}", IndexError, message, CSRGraph.from_coo, edges, 5)
        case(f"gat_search {side} {bad}", IndexError, message, ruvector.gat_search, NODES, edges, 0)
        case(f"layer {side} {bad}", IndexError, message, GATLayer(4, 3), NODES, edges)
        if bad < 2**31:
            case(f"int32 {side} {bad}", IndexError, message, gat, NODES, edges.astype(np.int32), GW, GA, GB)
case(
    "uint64 source",
    IndexError,
    says("edge_index[0, 1] is", 2**64 - 1, "out of range"),
    gat,
    NODES,
    np.array([[0, 2**64 - 1], [1, 1]], np.uint64),
    GW,
    GA,
    GB,
)
case(
    "type source",
    IndexError,
    says("edge_index[0, 3]", "4 source"),
    ruvector.attention,
    Q[0],
    Q[0, :4],
    Q[0, :4],
    "gat",
    edge_index=EDGES,
)
case("edges into nothing", IndexError, says("0 source"), gat, NODES[:0], EDGES, GW, GA, GB)
for shape in ((4,), (3, 4), (4, 2), (2, 2, 2), ()):
    case(f"edge_index {shape}", ValueError, says("edge_index", shape), gat, NODES, np.zeros(shape, int), GW, GA, GB)
case("edge_index ragged", ValueError, says("edge_index"), gat, NODES, [[0, 1], [2]], GW, GA, GB)
for nothing in (None, "edges", {}):
    case(f"edge_index {nothing!r}", TypeError, says("edge_index"), gat, NODES, nothing, GW, GA, GB)
case("gat x 1-d", ValueError, says("x", "(4,)"), gat, NODES[0], EDGES, GW, GA, GB)
case("gat x 3-d", ValueError, says("x", "(1, 5, 4)"), gat, NODES[None], EDGES, GW, GA, GB)
case("gat width", ValueError, says("x", "5", "w", "4"), gat, x(5, 5), EDGES, GW, GA, GB)
case("gat width of targets", ValueError, says("x[1]", "5", "w", "4"), gat, (NODES, x(5, 5)), EDGES, GW, GA, GB)
case("gat w 2-d", ValueError, says("w", "(4, 3)"), gat, NODES, EDGES, GW[0], GA, GB)
case("gat without heads", ValueError, says("w", "(0, 4, 3)"), gat, NODES, EDGES, GW[:0], GA, GB)
case("gat without columns", ValueError, says("w", "(2, 4, 0)"), gat, NODES, EDGES, GW[..., :0], GA, GB)
case("gat too many heads", ValueError, says("w", "1024", "(1025, 4, 1)"), gat, NODES, EDGES, x(1025, 4, 1), GA, GB)
case("gat a_src shape", ValueError, says("a_src", "(2, 3)", "(3, 2)"), gat, NODES, EDGES, GW, GA.T, GB)
case("gat a_dst shape", ValueError, says("a_dst", "(2, 3)", "(3,)"), gat, NODES, EDGES, GW, GA, GB[0])
case("gat w pair", ValueError, says("w[1]", "(2, 4, 3)", "(2, 4, 5)"), gat, NODES, EDGES, (GW, x(2, 4, 5)), GA, GB)
case("gat bias shape", ValueError, says("bias", "(6,)", "(3,)"), gat, NODES, EDGES, GW, GA, GB, bias=x(3))
case(
    "gat bias of a mean",
    ValueError,
    says("bias", "(3,)", "(6,)"),
    gat,
    NODES,
    EDGES,
    GW,
    GA,
    GB,
    bias=x(6),
    concat=False,
)
case("gatv2 w_l heads", ValueError, says("w_l", "(3, 4, 3)"), gatv2, NODES, EDGES, x(3, 4, 3), GW, GA)
case("gatv2 w_r width", ValueError, says("x", "4", "w_r", "5"), gatv2, NODES, EDGES, GW, x(2, 5, 3), GA)
case("gatv2 a shape", ValueError, says("a", "(2, 3)", "(2, 4)"), gatv2, NODES, EDGES, GW, GW, x(2, 4))
WE, AE, ATTR = x(2, 2, 3), x(2, 3), x(4, 2)
case(
    "gat w_edge missing", ValueError, says("missing", "w_edge", "a_edge"), gat, NODES, EDGES, GW, GA, GB, edge_attr=ATTR
)
case(
    "gat edge_attr missing", ValueError, says("missing: edge_attr"), gat, NODES, EDGES, GW, GA, GB, w_edge=WE, a_edge=AE
)
case("gatv2 w_edge missing", ValueError, says("missing: w_edge"), gatv2, NODES, EDGES, GW, GW, GA, edge_attr=ATTR)
ALL = {"edge_attr": ATTR, "w_edge": WE, "a_edge": AE}
for name, bad, shown in (
    ("edge_attr", x(3, 2), "(4, 2)"),
    ("edge_attr", x(4, 3), "(4, 2)"),
    ("edge_attr", x(4), "(4, 2)"),
    ("w_edge", x(2, 3), "(2, edge_dim, 3)"),
    ("w_edge", x(3, 2, 3), "(2, edge_dim, 3)"),
    ("a_edge", x(3, 2), "(2, 3)"),
):
    options = {**ALL, name: bad}
    case(f"gat {name} {bad.shape}", ValueError, says(name, shown, bad.shape), gat, NODES, EDGES, GW, GA, GB, **options)
for call, arguments in ((gat, (NODES, EDGES, GW, GA, GB)), (gatv2, (NODES, EDGES, GW, GW, GA))):
    name = call.__name__
    for bad in (np.nan, np.inf):
        case(f"{name} slope {bad}", ValueError, says("negative_slope", bad), call, *arguments, negative_slope=bad)
    case(f"{name} slope text", TypeError, says("negative_slope"), call, *arguments, negative_slope="steep")
    for option in ("concat", "add_self_loops", "training", "return_attention_weights"):
        case(f"{name} {option}", TypeError, says(option, "'yes'"), call, *arguments, **{option: "yes"})
    for bad in (-0.1, 1.0, np.nan):
        case(f"{name} dropout {bad}", ValueError, says("dropout", bad), call, *arguments, dropout=bad)
    case(f"{name} dropout without rng", ValueError, says("rng"), call, *arguments, dropout=0.5, training=True)
    case(f"{name} unknown", TypeError, says("heads"), call, *arguments, heads=2)
case("graph of other nodes", ValueError, says("graph", "5 source", "6 and 6"), gat, x(6, 4), GRAPH, GW, GA, GB)
case(
    "graph of a type",
    ValueError,
    says("graph", "5 source", "7 and 5"),
    ruvector.attention,
    Q,
    K,
    x(2, 7, 8),
    "gat",
    edge_index=GRAPH,
)
for bad in (-1, 2**31):
    case(f"num_nodes {bad}", ValueError, says("num_nodes", bad), CSRGraph.from_coo, EDGES, bad)
for bad in (2.5, "5", True):
    case(f"num_nodes {bad!r}", TypeError, says("num_nodes", repr(bad)), CSRGraph.from_coo, EDGES, bad)
case("num_nodes triple", ValueError, says("num_nodes", (1, 2, 3)), CSRGraph.from_coo, EDGES, (1, 2, 3))
for bad in ([1, 4], [0, 3], [0, 3, 2, 4], []):
    case(f"indptr {bad}", (ValueError, TypeError), says("indptr"), CSRGraph.from_csr, bad, [0, 1, 2, 3])
case("indptr 2-d", ValueError, says("indptr", "(1, 2)"), CSRGraph.from_csr, [[0, 4]], [0, 1, 2, 3])
case(
    "indices out of range",
    IndexError,
    exactly("indices[1] is 7, out of range for 2 source nodes"),
    CSRGraph.from_csr,
    [0, 1, 2],
    [0, 7],
)
case("indices negative", IndexError, says("indices[0] is -3"), CSRGraph.from_csr, [0, 1, 2], [-3, 1])
case("targets differ", ValueError, says("3 targets", "indptr 2"), CSRGraph.from_csr, [0, 1, 2], [0, 1], (2, 3))
for name in ("in_features", "out_features", "num_heads"):
    for bad in (0, -1):
        case(
            f"layer {name}={bad}",
            ValueError,
            says(name, bad),
            GATLayer,
            **{"in_features": 4, "out_features": 3, name: bad},
        )
    case(f"layer {name}=2.5", TypeError, says(name, 2.5), GATLayer, **{"in_features": 4, "out_features": 3, name: 2.5})
case("layer edge_features", ValueError, says("edge_features", -1), GATLayer, 4, 3, edge_features=-1)
for bad in (0, 3, "2", True):
    case(f"layer version {bad!r}", ValueError, says("version", repr(bad)), GATLayer, 4, 3, version=bad)
case("layer rng", TypeError, says("rng", "seed"), GATLayer, 4, 3, rng="seed")
case("layer weights missing", ValueError, says("a_src", "w"), GATLayer, 4, 3, 2, weights={"w": GW})
case("layer weights of no kind", TypeError, says("weights"), GATLayer, 4, 3, 2, weights=3)
case(
    "layer weights shape",
    ValueError,
    says("weights['a_dst']", "(2, 3)", "(2, 4)"),
    GATLayer,
    4,
    3,
    2,
    bias=False,
    weights={"w": GW, "a_src": GA, "a_dst": x(2, 4)},
)
case(
    "layer without edge features", ValueError, says("edge_attr", "edge_features"), GATLayer(4, 3, 2), NODES, EDGES, ATTR
)
case(
    "layer with edge features",
    ValueError,
    says("edge_attr", "edge_features"),
    GATLayer(4, 3, 2, edge_features=2),
    NODES,
    EDGES,
)
for name, vectors in (("gat", ("a_src", "a_dst")), ("gatv2", ("a",))):
    for vector in vectors:
        shape = says(f"{vector} must have", "(2, 4)", "(4, 2)")
        case(
            f"{name} {vector}",
            ValueError,
            shape,
            ruvector.attention,
            Q,
            K,
            K[..., :4],
            name,
            num_heads=2,
            **{vector: x(4, 2)},
        )
    case(f"type {name} width", ValueError, WIDTHS, ruvector.attention, WIDE, NARROW, x(7, 8), name)
    case(f"type {name} length", ValueError, LENGTHS, ruvector.attention, x(3, 8), x(5, 8), x(4, 8), name)
    case(f"type {name} heads", ValueError, HEADS, ruvector.attention, WIDE, LONG, LONG, name, num_heads=5)
    case(
        f"type {name} heads of a score",
        ValueError,
        HEADS,
        ruvector.attention_score,
        WIDE[0],
        LONG[0],
        name,
        num_heads=5,
    )
    case(f"type {name} values", ValueError, says("Value", "6", "8"), ruvector.attention, Q, K, V, name)
    case(
        f"type {name} mask",
        ValueError,
        says("mask", "(3, 4)"),
        ruvector.attention,
        Q,
        K,
        x(2, 7, 8),
        name,
        mask=np.ones((3, 4), bool),
    )
search = ruvector.gat_search
case("gat_search 1-d", ValueError, says("nodes", "(4,)"), search, NODES[0], EDGES, 0)
for bad in (-1, 5):
    case(f"gat_search node {bad}", IndexError, says("query_node_id", bad, "5 nodes"), search, NODES, EDGES, bad)
    case(f"gat_search k {bad - 5}", ValueError, says("k", bad - 5), search, NODES, EDGES, 0, k=bad - 5)
case("gat_search node text", TypeError, says("query_node_id", "'0'"), search, NODES, EDGES, "0")
case("gat_search heads", ValueError, says("4", "num_heads", "3"), search, NODES, EDGES, 0, 3)

# KVCache -------------------------------------------------------------------------------------------------------------

cache = ruvector.KVCache
for size in ("num_kv_heads", "head_dim", "v_dim", "batch", "window"):
    for bad, error in ((0, ValueError), (-2, ValueError), (2.0, TypeError), ("3", TypeError), (True, TypeError)):
        sizes = {"num_kv_heads": 2, "head_dim": 8} | {size: bad}
        case(f"cache {size}={bad!r}", error, says(size, bad), cache, **sizes)
for bad, error in ((-1, ValueError), (1.5, TypeError), (None, TypeError)):
    case(f"cache capacity={bad!r}", error, says("capacity", bad), cache, 2, 8, capacity=bad)
case("cache of more heads than can be counted", ValueError, says("num_kv_heads", 2**50), cache, 2**50, 8)
case("cache of too wide heads", ValueError, says("head_dim", 2**30), cache, 2, 2**30)
case("cache of too wide values", ValueError, says("v_dim", 2**30), cache, 2, 8, 2**30)
for bad in ("int4", "int16", "complex64", ">f4", "bool", "object", "no dtype", np.longdouble, None, 3):
    if bad is not np.longdouble or np.dtype(bad) != np.float64:
        case(f"cache dtype={bad!r}", TypeError, says("dtype", "int8", repr(bad)), cache, 2, 8, dtype=bad)

KV = cache(2, 8, 6, window=4)
KV.append(x(2, 5, 8), x(2, 5, 6))
PAIR = cache(2, 8, 6, batch=3)
ONE = cache(1, 8)
for name, keys, values in (
    ("width of keys", x(2, 5, 7), x(2, 5, 6)),
    ("width of values", x(2, 5, 8), x(2, 5, 7)),
    ("heads", x(3, 5, 8), x(3, 5, 6)),
    ("heads of values", x(2, 5, 8), x(3, 5, 6)),
    ("lengths", x(2, 5, 8), x(2, 4, 6)),
    ("batch", x(2, 2, 5, 8), x(2, 2, 5, 6)),
    ("axes", x(1, 1, 2, 5, 8), x(1, 1, 2, 5, 6)),
    ("one axis", x(8), x(6)),
    ("no axis", np.float32(1), np.float32(1)),
):
    shapes = says("keys", "values", np.shape(keys), np.shape(values), "(1, 2, n, 8)", "(1, 2, 6)")
    case(f"append {name}", ValueError, shapes, KV.append, keys, values)
case("append without the batch axis", ValueError, says("(3, 2, n, 8)"), PAIR.append, x(2, 5, 8), x(2, 5, 6))
case("append another batch", ValueError, says("(3, 2, 8)"), PAIR.append, x(2, 2, 8), x(2, 2, 6))
for kind, array in WRONG.items():
    case(f"append keys {kind}", TypeError, says("keys"), KV.append, array, x(2, 5, 6))
    case(f"append values {kind}", TypeError, says("values"), KV.append, x(2, 5, 8), array)
    case(f"attend {kind}", TypeError, says("query"), KV.attend, array)
for name, query in (
    ("width", x(4, 5, 7)),
    ("heads", x(3, 5, 8)),
    ("batch", x(2, 4, 5, 8)),
    ("axes", x(1, 1, 4, 5, 8)),
    ("one axis", x(8)),
    ("no axis", np.float32(1)),
):
    case(f"attend {name}", ValueError, says("query", np.shape(query), "num_kv_heads=2"), KV.attend, query)
case("attend one token without the batch axis", ValueError, says("(3, H, L, 8)", "(4, 8)"), PAIR.attend, x(4, 8))
case("attend ambiguous", ValueError, says("ambiguous", "(1, 4, 8)"), ONE.attend, x(1, 4, 8))
for option, bad, error in (
    ("scale", np.nan, ValueError),
    ("scale", "one", TypeError),
    ("softcap", -1.0, ValueError),
    ("softcap", None, TypeError),
    ("alibi_slopes", [0.1, 0.2, 0.3], ValueError),
    ("alibi_slopes", [[0.1] * 4] * 2, ValueError),
    ("alibi_slopes", [[[0.1] * 4]], ValueError),
    ("alibi_slopes", 0.1, ValueError),
    ("alibi_slopes", [np.inf] * 4, ValueError),
    ("return_lse", 1, TypeError),
    ("out", [0.0], TypeError),
    ("out", np.zeros((4, 5, 6)), TypeError),
    ("out", np.zeros((4, 5, 7), np.float32), ValueError),
    ("out", np.broadcast_to(np.float32(0), (4, 5, 6)), ValueError),
):
    named = f"{bad.dtype} {bad.shape} {bad.strides}" if isinstance(bad, np.ndarray) else repr(bad)
    case(f"attend {option}={named}", error, says(option), KV.attend, x(4, 5, 8), **{option: bad})
case(
    "attend out for float64", TypeError, says("out", "float32"), KV.attend, x(4, 5, 8, dtype=np.float64), out=x(4, 5, 6)
)
case("attend an unknown option", TypeError, says("mask"), KV.attend, x(4, 5, 8), mask=None)
case("truncate more than there are", ValueError, says("length", 5, 6), KV.truncate, 6)
case("truncate below none", ValueError, says("length", -1), KV.truncate, -1)
case("truncate half a token", TypeError, says("length", 1.5), KV.truncate, 1.5)

# The run time --------------------------------------------------------------------------------------------------------


def enter(name):
    with ruvector.use_isa(name):
        pass


for bad in ("sse9", "", "AVX9000"):
    case(f"use_isa {bad!r}", ValueError, says(repr(bad), ruvector.isas()[0], "scalar"), enter, bad)
for bad in (None, 3):
    case(f"use_isa {bad!r}", TypeError, says("name"), enter, bad)
for bad in (0, -3):
    case(f"set_num_threads {bad}", ValueError, says(bad), ruvector.set_num_threads, bad)
for bad in ("2", 2.5, None):
    case(f"set_num_threads {bad!r}", TypeError, says("n", repr(bad)), ruvector.set_num_threads, bad)

# patterns ------------------------------------------------------------------------------------------------------------

P = ruvector.patterns
sparse = ruvector.sparse_attention
for bad in (0, -3):
    for maker in (P.local, P.sliding, P.strided, P.fixed, P.dilated, P.longformer):
        case(
            f"{maker.__name__} of {bad}",
            ValueError,
            says("window_size" if maker not in (P.strided, P.fixed) else "stride", "at least 1", bad),
            maker,
            bad,
        )
    case(f"dilation {bad}", ValueError, says("dilation", "at least 1", bad), P.dilated, 4, bad)
    case(
        f"dilated window {bad}",
        ValueError,
        says("window_size", "at least 1", bad),
        ruvector.dilated_attention,
        Q,
        K,
        V,
        bad,
    )
    case(f"blocks of {bad}", ValueError, says("block_size", "at least 1", bad), P.blocks, [[True]], bad)
    case(f"bigbird of {bad}", ValueError, says("block_size", "at least 1", bad), P.bigbird, bad)
    case(f"axial {bad}", ValueError, says("height", "at least 1", bad), ruvector.axial_attention, Q, K, V, bad)
    case(
        f"sliding_attention {bad}",
        ValueError,
        says("window_size", "at least 1", bad),
        ruvector.sliding_attention,
        K,
        bad,
    )
    case(
        f"sliding_attention stride {bad}",
        ValueError,
        says("stride", "between 1 and window_size 4", bad),
        ruvector.sliding_attention,
        K,
        4,
        bad,
    )
case("sliding_attention with gaps", ValueError, says("stride", 4, 5), ruvector.sliding_attention, K, 4, 5)
case("sliding_attention of a vector", ValueError, says("embeddings", "(8,)"), ruvector.sliding_attention, VECTOR)
case("window of a fraction", TypeError, says("window_size", 2.5), P.local, 2.5)
case("summary above the stride", ValueError, says("summary", 3, 4), P.fixed, 3, 4)
case("summary above the default stride", ValueError, says("summary", 3, 5), sparse, Q, K, V, "fixed", summary=5)
case("summary of strided", ValueError, says("summary", "fixed", "strided"), sparse, Q, K, V, summary=2)
case("stride of a Pattern", ValueError, says("stride", "Pattern"), sparse, Q, K, V, P.local(3), stride=2)
case("unknown pattern", ValueError, says("pattern", "strided", "fixed", "'zigzag'"), sparse, Q, K, V, "zigzag")
case("pattern of a mask", TypeError, says("pattern", "Pattern"), sparse, Q, K, V, np.ones((5, 7), bool))
case(
    "pattern of other lengths",
    ValueError,
    says("(5, 6)", "(5, 7)"),
    sparse,
    Q,
    K,
    V,
    P.from_mask(np.ones((5, 6), bool)),
)
case("csr of other lengths", ValueError, says("(2, 7)", "(5, 7)"), sparse, Q, K, V, P.from_csr([0, 1, 2], [0, 1], 7))
case(
    "layout of other lengths",
    ValueError,
    says("layout", "(1, 2)", "1 x 1"),
    sparse,
    Q,
    K,
    V,
    P.blocks([[True, True]], 8),
)
case("layout of no blocks", ValueError, says("layout", "at least one block", "(0, 3)"), P.blocks, np.ones((0, 3), bool))
case("layout of numbers", TypeError, says("layout", "boolean", "int64"), P.blocks, np.ones((2, 3), np.int64))
case("layout of one axis", ValueError, says("layout", "axes", "(3,)"), P.blocks, np.ones(3, bool))
case(
    "layout of other heads",
    ValueError,
    says("layout", "3 heads", "(2,)"),
    sparse,
    Q,
    K,
    V,
    P.blocks(np.ones((3, 1, 1), bool)),
)
case(
    "layouts of other heads",
    ValueError,
    says("numbers of heads", "[2, 3]"),
    sparse,
    Q,
    K,
    V,
    P.blocks(np.ones((3, 1, 1), bool)) | P.blocks(np.ones((2, 1, 1), bool)),
)
case("three block sizes", ValueError, says("block_size", "pair"), P.blocks, [[True]], (1, 2, 3))
case(
    "global token past the keys",
    IndexError,
    says("global_tokens", 7),
    ruvector.longformer_attention,
    Q,
    K,
    V,
    4,
    [2, 7],
)
case("global token before the keys", IndexError, says("tokens", -1), P.global_tokens, [-1])
case("global tokens of fractions", TypeError, says("tokens", "float64"), P.global_tokens, [0.5])
case("fewer than no global tokens", ValueError, says("tokens", -1), P.global_tokens, -1)
case("index past the keys", IndexError, says("indices[1]", 3), P.from_csr, [0, 2], [0, 3], 3)
case("index before the keys", IndexError, says("indices[0]", -1), P.from_csr, [0, 2], [-1, 2], 3)
case("indptr that falls", ValueError, says("indptr", "rise"), P.from_csr, [0, 2, 1], [0], 3)
for make, option in (
    (P.bigbird, "block_size"),
    (P.random_blocks, "block_size"),
    (P.strided, "stride"),
    (P.fixed, "stride"),
    (P.axial, "height"),
):
    case(f"{make.__name__} {option} past 2**40", ValueError, says(option, "2**40", 2**60), make, 2**60)
case("axial width past 2**40", ValueError, says("width", "2**40", 2**60), P.axial, None, 2**60)
case("dilation past 2**40", ValueError, says("dilation", "2**40", 2**60), P.dilated, 4, 2**60)
case("blocks past 2**40", ValueError, says("block_size", "2**40", 2**60), P.blocks, [[True]], (8, 2**60))
case(
    "bigbird of blocks past 2**40",
    ValueError,
    says("block_size", "2**40", 2**60),
    ruvector.attention,
    Q,
    K,
    V,
    "bigbird",
    block_size=2**60,
)
case(
    "block_sparse of blocks past 2**40",
    ValueError,
    says("block_size", "2**40", 2**60),
    ruvector.attention,
    Q,
    K,
    V,
    "block_sparse",
    block_size=2**60,
)
case("indices of fractions", TypeError, says("indices", "float64"), P.from_csr, [0, 1], [0.5], 3)
case("mask of numbers", TypeError, says("mask", "boolean"), P.from_mask, np.ones((2, 3)))
case("flash blocks past the core's", ValueError, says("block_size", 2**60), ruvector.flash_attention, Q, K, V, 2**60)
case("window past the core's", ValueError, says("window_size", 2**54), ruvector.local_attention, Q, K, V, 2**54)
case(
    "edges past 63 bits",
    IndexError,
    says("edge_index[0, 1]", 2**63 + 5),
    ruvector.CSRGraph.from_coo,
    np.array([[0, 2**63 + 5], [1, 1]], np.uint64),
)
case("grid of other keys", ValueError, says("2 x 3", 6, 7), ruvector.axial_attention, Q, K, V, 2, 3)
case("union of nothing", ValueError, says("at least one"), P.union)
case("union with a mask", TypeError, says("patterns[1]", "Pattern"), P.union, P.local(3), np.ones((2, 2), bool))
case("density of a word", TypeError, says("pattern", "'local'"), P.density, "local", 3)
case("to_mask of a negative length", ValueError, says("length", -1), P.to_mask, P.local(3), -1)
case(
    "sparse mask of another shape",
    ValueError,
    says("mask", "(3, 7)", "(2, 5, 7)"),
    sparse,
    Q,
    K,
    V,
    mask=np.ones((3, 7), bool),
)
case("sparse widths", ValueError, exactly("Query and key dimensions must match: 8 vs 6"), sparse, Q, V, V)
case("sparse batches", ValueError, says("leading axes", "(3, 5, 8)"), sparse, x(3, 5, 8), K, V)
case("bigbird seed", ValueError, says("seed", -1), ruvector.bigbird_attention, Q, K, V, seed=-1)

# register ------------------------------------------------------------------------------------------------------------


def constant(query, key, value, *, mask=None):
    return value


register = ruvector.register
case("register a name that is taken", ValueError, says("flash_v2"), register, "flash_v2", constant)
case("register a name in other case", ValueError, says("FLASH_V2"), register, "FLASH_V2", constant)
case("register an alias that is taken", ValueError, says("mha"), register, "bad_input_type", constant, aliases=("mha",))
case("register an alias as a name", ValueError, says("mha"), register, "mha", constant)
case("register what is no function", TypeError, says("fn"), register, "bad_input_type", 3)
case("register without a name", ValueError, says("name"), register, "", constant)
case("register a number", TypeError, says("name"), register, 3, constant)


# Linear attention ----------------------------------------------------------------------------------------------------

LINEAR = (ruvector.linear_attention, ruvector.performer_attention, ruvector.random_feature_attention)
for function in LINEAR:
    name = function.__name__
    case(
        f"{name} mask of rows",
        ValueError,
        says("mask over keys", "(5, 7)"),
        function,
        Q,
        K,
        V,
        mask=np.ones((5, 7), bool),
    )
    case(f"{name} bias", ValueError, says("boolean mask", "float32"), function, Q, K, V, mask=np.zeros(7, np.float32))
    case(f"{name} short mask", ValueError, says("mask", "(6,)"), function, Q, K, V, mask=np.ones(6, bool))
    case(f"{name} integer mask", TypeError, says("mask", "int64"), function, Q, K, V, mask=np.ones(7, int))
    case(f"{name} widths", ValueError, says("8 vs 6"), function, Q, V, V)
    case(f"{name} lengths", ValueError, says("same length: 7 vs 5"), function, Q, K, V[:, :5])
    case(f"{name} causal", TypeError, says("causal", "1"), function, Q, K, V, causal=1)
    case(f"{name} out", ValueError, says("out", "(2, 5, 8)", "(2, 5, 6)"), function, Q, K, V, out=np.zeros_like(Q))
    case(f"{name} locked out", ValueError, says("read-only"), function, Q, K, V, out=LOCKED)
    kind = name.removesuffix("_attention")
    case(f"{name} dropout", TypeError, says(kind, "dropout"), ruvector.attention, Q, K, V, kind, dropout=0.1)
case(
    "linear scale", TypeError, says("linear", "scale", "feature_map"), ruvector.attention, Q, K, V, "linear", scale=1.0
)
case(
    "feature_map",
    ValueError,
    says("feature_map", "'elu' or 'relu'", "'gelu'"),
    ruvector.linear_attention,
    Q,
    K,
    V,
    "gelu",
)
case("feature_map None", ValueError, says("feature_map", None), ruvector.linear_attention, Q, K, V, None)
for function in LINEAR[1:]:
    name = function.__name__
    for bad in (0, -1):
        case(f"{name} num_features={bad}", ValueError, says("num_features", bad), function, Q, K, V, bad)
    for bad in (2.5, "8", None):
        case(f"{name} num_features={bad!r}", TypeError, says("num_features", bad), function, Q, K, V, bad)
    for bad in (0, -0.5, np.nan, np.inf):
        case(f"{name} scale={bad}", ValueError, says("scale", bad), function, Q, K, V, scale=bad)
    case(f"{name} orthogonal", TypeError, says("orthogonal", 1), function, Q, K, V, orthogonal=1)
    case(f"{name} training", TypeError, says("training", 1), function, Q, K, V, training=1)
    case(f"{name} rng", TypeError, says("rng", "x"), function, Q, K, V, training=True, rng="x")
    for shape in ((3, 7), (8,), (0, 8), (2, 3, 8)):
        message = says("projection", "(num_features, 8)", shape)
        case(f"{name} projection {shape}", ValueError, message, function, Q, K, V, projection=np.ones(shape))
    case(f"{name} complex", TypeError, says("projection"), function, Q, K, V, projection=np.ones((3, 8), complex))
    case(f"{name} infinite", ValueError, says("projection"), function, Q, K, V, projection=np.full((3, 8), np.inf))
for bad in (0, -3):
    case(f"draw_features {bad}", ValueError, says("num_features", bad), ruvector.draw_features, bad, 4)
    case(f"draw_features dim {bad}", ValueError, says("dim", bad), ruvector.draw_features, 4, bad)
case("draw_features float", TypeError, says("num_features", 2.5), ruvector.draw_features, 2.5, 4)
case("draw_features orthogonal", TypeError, says("orthogonal", 1), ruvector.draw_features, 4, 4, orthogonal=1)
case("draw_features rng", TypeError, says("rng", "x"), ruvector.draw_features, 4, 4, rng="x")
STATE = ruvector.LinearState(8, 6, batch=2)
case(
    "state type",
    ValueError,
    says("scaled_dot", "linear, performer, random_feature"),
    ruvector.LinearState,
    8,
    6,
    "scaled_dot",
)
case("state unknown type", ruvector.UnknownAttentionType, says("no_such"), ruvector.LinearState, 8, 6, "no_such")
case("state causal", TypeError, says("causal"), ruvector.LinearState, 8, causal=True)
case("state option", TypeError, says("temperature"), ruvector.LinearState, 8, temperature=1)
case("state rng", TypeError, says("rng"), ruvector.LinearState, 8, rng=1)
case(
    "state projection",
    ValueError,
    says("projection", "(3, 7)"),
    ruvector.LinearState,
    8,
    6,
    "performer",
    projection=np.ones((3, 7)),
)
case(
    "state rng and projection",
    ValueError,
    says("rng"),
    ruvector.LinearState,
    8,
    6,
    "rfa",
    projection=np.ones((3, 8)),
    rng=1,
)
case("state dtype", TypeError, says("dtype", "float16"), ruvector.LinearState, 8, dtype=np.float16)
case("state too large", ValueError, says("too large"), ruvector.LinearState, 2**40)
for bad in (0, -1):
    case(f"state head_dim {bad}", ValueError, says("head_dim", bad), ruvector.LinearState, bad)
    case(f"state v_dim {bad}", ValueError, says("v_dim", bad), ruvector.LinearState, 8, bad)
case("state batch", ValueError, says("batch", "(-1,)"), ruvector.LinearState, 8, batch=-1)
case("state batch float", TypeError, says("batch", 2.5), ruvector.LinearState, 8, batch=2.5)
case("state key", ValueError, says("key", "(2, n, 8) or (2, 8)", "(2, 7, 6)"), STATE.append, V, V)
case("state value", ValueError, says("value", "(2, n, 6) or (2, 6)", "(2, 7, 8)"), STATE.append, K, K)
case("state query", ValueError, says("query", "(3, 8)"), STATE.attend, x(3, 8))
case("state rows", ValueError, says("same number of rows: 7 vs 5"), STATE.append, K, V[:, :5])
case("state step", ValueError, says("same number of rows: 5 vs 7"), STATE.step, Q, K, V)
case("state complex", TypeError, says("key", "complex128"), STATE.append, K.astype(complex), V)
case("state mask", ValueError, says("mask over keys"), STATE.step, Q, K[:, :5], V[:, :5], mask=np.ones((5, 5), bool))
case("state out", ValueError, says("out"), STATE.attend, Q, out=np.zeros((2, 5, 8), np.float32))


# Whatever the family -------------------------------------------------------------------------------------------------

X = np.full((4, 8), 0.1)
HUGE = 10**20
for name, call in {
    "dilated window_size": lambda: ruvector.dilated_attention(X, X, X, HUGE),
    "axial width": lambda: ruvector.axial_attention(X, X, X, width=HUGE),
    "bigbird block_size": lambda: ruvector.bigbird_attention(X, X, X, HUGE),
    "block_sparse block_size": lambda: ruvector.block_sparse_attention(X, X, X, None, HUGE),
    "patterns stride": lambda: ruvector.patterns.strided(HUGE),
    "relative max_distance": lambda: ruvector.relative_attention(X, X, X, 2, max_distance=HUGE),
    "moe_route num_experts": lambda: ruvector.moe_route(X, HUGE, 1),
    "draw_features dim": lambda: ruvector.draw_features(4, HUGE),
    "GATLayer in_features": lambda: ruvector.GATLayer(HUGE, 3),
    "LinearState head_dim": lambda: ruvector.LinearState(HUGE),
}.items():
    case(f"{name} past 64 bits", ValueError, says(name.split()[1], HUGE), call)
case("rope base past float64", ValueError, says("base", "finite"), ruvector.rope, X, base=10**400)
MASKED_EDGES = np.ma.masked_array([[0, 1], [1, 0]], mask=[[0, 1], [0, 0]])
MASKED_LAYOUT = np.ma.masked_array([[True]], mask=[[True]])
case(
    "gat masked edges",
    TypeError,
    says("edge_index", "masked"),
    ruvector.gat,
    X,
    MASKED_EDGES,
    np.ones((1, 8, 3)),
    np.ones((1, 3)),
    np.ones((1, 3)),
)
case("from_coo masked", TypeError, says("edge_index", "masked"), ruvector.CSRGraph.from_coo, MASKED_EDGES)
case(
    "from_csr masked",
    TypeError,
    says("indices", "masked"),
    ruvector.CSRGraph.from_csr,
    np.array([0, 2]),
    MASKED_EDGES[0],
)
case(
    "patterns.from_csr masked",
    TypeError,
    says("indices", "masked"),
    ruvector.patterns.from_csr,
    [0, 2],
    MASKED_EDGES[0],
    4,
)
case("global_tokens masked", TypeError, says("tokens", "masked"), ruvector.patterns.global_tokens, MASKED_EDGES[0])
case("layout masked", TypeError, says("layout", "masked"), ruvector.block_sparse_attention, X, X, X, MASKED_LAYOUT)
case(
    "load_balancing_loss masked",
    TypeError,
    says("indices", "masked"),
    ruvector.load_balancing_loss,
    np.full((2, 2), 0.5),
    MASKED_EDGES.T[:, :1],
)
case("GATLayer dtype int32", TypeError, says("dtype", "int32"), ruvector.GATLayer, 4, 3, dtype="int32")
case("GATLayer num_heads", ValueError, says("num_heads", 2000), ruvector.GATLayer, 4, 3, num_heads=2000)
case(
    "sparse scores of axes that do not broadcast",
    ValueError,
    says("query", "keys"),
    ruvector.attention_scores,
    np.zeros((2, 3, 8)),
    np.zeros((4, 9, 8)),
    "sparse",
)
case(
    "sparse scores mask",
    ValueError,
    says("mask", "(4, 9)"),
    ruvector.attention_scores,
    np.zeros((3, 8)),
    np.zeros((9, 8)),
    "sparse",
    mask=np.ones((4, 9), bool),
)
case(
    "curvature too small",
    ValueError,
    says("curvature", "1e-310"),
    ruvector.lorentz_distance,
    [1.0],
    [2.0],
    1e-310,
    space_only=True,
)
case(
    "mixed_curvature values without columns",
    ValueError,
    says("value", "(4, 0)"),
    ruvector.mixed_curvature_attention,
    X,
    X,
    X[:, :0],
)
for window in (0, -1):
    case(f"local window {window}", ValueError, says("window_size", window), ruvector.local_attention, X, X, X, window)


# Search --------------------------------------------------------------------------------------------------------------

Index = ruvector.AttentionIndex
INDEX = Index(8)
INDEX.add(x(3, 8), [10, 20, 30])
NAMED = Index(8)
NAMED.add(x(2, 8), ["a", "b"])
TABLE = x(7, 8)
BALL = Index(2, "poincare")
BALL.add([[0.1, 0.2]])
for kind, array in WRONG.items():
    shown = SHOWN.get(kind, array.dtype.name if kind != "masked" else "mask")
    case(f"index add {kind}", TypeError, says("vectors", shown), INDEX.add, array[0])
    case(f"index update {kind}", TypeError, says("vectors", shown), INDEX.update, [10], array[0])
    case(f"index search {kind}", TypeError, says("queries", shown), INDEX.search, array[0])
    case(f"mha_search table {kind}", TypeError, says("table", shown), ruvector.mha_search, array[0], VECTOR)
    case(f"mha_search query {kind}", TypeError, says("query", shown), ruvector.mha_search, TABLE, array[0])
    case(f"match queries {kind}", TypeError, says("queries", shown), retrieval.match, array[0], TABLE)
    case(f"match documents {kind}", TypeError, says("documents", shown), retrieval.match, TABLE, array[0])
    case(f"rerank embeddings {kind}", TypeError, says("embeddings", shown), retrieval.rerank, VECTOR, array[0])
for bad in (0, -1):
    case(f"index dim {bad}", ValueError, says("dim", "at least 1", bad), Index, bad)
    case(f"index num_heads {bad}", ValueError, says("num_heads", "at least 1", bad), Index, 8, "flash", bad)
    case(f"index head_dim {bad}", ValueError, says("head_dim", bad), Index, 8, head_dim=bad)
    case(f"index k {bad}", ValueError, says("k", "at least 1", bad), INDEX.search, VECTOR, bad)
    case(f"mha_search k {bad}", ValueError, says("k", bad), ruvector.mha_search, TABLE, VECTOR, 2, bad)
    case(f"mha_search heads {bad}", ValueError, says("num_heads", bad), ruvector.mha_search, TABLE, VECTOR, bad)
    case(f"match k {bad}", ValueError, says("k", bad), retrieval.match, TABLE, TABLE, k=bad)
    case(f"rerank top_k {bad}", ValueError, says("top_k", bad), retrieval.rerank, VECTOR, TABLE, bad)
    stages = [{"type": "cross", "keep": bad}, "cross"]
    case(f"rerank keep {bad}", ValueError, says("stages[0] keep", bad), retrieval.rerank, VECTOR, TABLE, 3, stages)
for bad in (2.5, "3", None, True):
    case(f"index dim {bad!r}", TypeError, says("dim", repr(bad)), Index, bad)
    case(f"index k {bad!r}", TypeError, says("k", repr(bad)), INDEX.search, VECTOR, bad)
    case(f"index capacity {bad!r}", TypeError, says("capacity", repr(bad)), Index, 8, capacity=bad)
case("index capacity -1", ValueError, says("capacity", -1), Index, 8, capacity=-1)
case("index capacity large", ValueError, says("capacity", 2**60), Index, 8, capacity=2**60)
case("index type unknown", Unknown, says("'hnsw'", "scaled_dot"), Index, 8, "hnsw")
case("index type number", TypeError, says("attention type", 3), Index, 8, 3)
case("index type without score", ValueError, says("moe", "no pairwise score", "poincare"), Index, 8, "moe")
case("index option", TypeError, says("scaled_dot", "window"), Index, 8, window=3)
case("index dtype int8", TypeError, says("dtype", "int8"), Index, 8, dtype="int8")
case("index dtype int32", TypeError, says("dtype", "int32"), Index, 8, dtype="int32")
case("heads index", ValueError, HEADS, Index, 768, "multi_head", 5)
case("heads index flash", ValueError, HEADS, Index, 768, "flash", 5)
case("heads mha_search", ValueError, HEADS, ruvector.mha_search, LONG, WIDE[0], 5)
case("index head_dim", ValueError, says("num_heads * head_dim", 768, "8 * 95"), Index, 768, "flash", 8, head_dim=95)
case("index kv heads", ValueError, says("num_heads 4", "num_kv_heads 3"), Index, 12, "gqa", 4, num_kv_heads=3)
WIDE_INDEX = Index(384)
case("width index search", ValueError, WIDTHS, WIDE_INDEX.search, WIDE[0])
case("width index add", ValueError, WIDTHS, WIDE_INDEX.add, WIDE)
case("width mha_search", ValueError, WIDTHS, ruvector.mha_search, NARROW, WIDE[0])
case("width match", ValueError, WIDTHS, retrieval.match, WIDE, NARROW)
case("width rerank", ValueError, WIDTHS, retrieval.rerank, WIDE[0], NARROW)
case("index add 3-d", ValueError, says("vectors", "(2, 5, 8)"), INDEX.add, Q)
case("index add ragged", ValueError, says("vectors"), INDEX.add, [[1.0, 2.0], [3.0]])
case("index add twice", ValueError, says("ids", "distinct", 5), INDEX.add, x(2, 8), [5, 5])
case("index add there", ValueError, says("ids", "20", "update"), INDEX.add, x(2, 8), [5, 20])
case("index add too few ids", ValueError, says("ids", "2 vectors", 1), INDEX.add, x(2, 8), [5])
case("index add text", TypeError, says("ids", "integers", "'a'"), INDEX.add, x(1, 8), ["a"])
case("index add number", TypeError, says("ids", "strings", 5), NAMED.add, x(1, 8), [5])
case("index add no ids", TypeError, says("ids", "strings"), NAMED.add, x(1, 8))
case("index add mixed", TypeError, says("ids", "'a'"), INDEX.add, x(2, 8), [1, "a"])
case("index add float ids", TypeError, says("ids", "float64"), INDEX.add, x(2, 8), np.array([1.0, 2.0]))
case("index add bool ids", TypeError, says("ids", "True"), INDEX.add, x(1, 8), [True])
case("index add 2-d ids", ValueError, says("ids", "(1, 2)"), INDEX.add, x(2, 8), np.array([[1, 2]]))
case("index add large id", ValueError, says("ids", 2**63), INDEX.add, x(1, 8), [2**63])
case("index add large unsigned", ValueError, says("ids", 2**63), INDEX.add, x(1, 8), np.array([2**63], np.uint64))
case("index half overflow", ValueError, says("vectors", "1e+30", "float16"), Index(1, dtype="float16").add, [[1e30]])
case("index outside", ValueError, says("vectors[1]", "ball"), Index(2, "poincare").add, [[0.1, 0.2], [2.0, 0.0]])
case("index query outside", ValueError, says("query", "ball"), BALL.search, [2.0, 0.0])
case("index update absent", KeyError, says("ids", 5), INDEX.update, [5], x(1, 8))
case("index update too few", ValueError, says("ids", "2 vectors", 1), INDEX.update, [10], x(2, 8))
case("index update twice", ValueError, says("ids", "distinct", 10), INDEX.update, [10, 10], x(2, 8))
case("index remove absent", KeyError, says("ids", 5), INDEX.remove, 5)
case("index remove twice", ValueError, says("ids", "distinct", 10), INDEX.remove, [10, 10])
case("index remove None", TypeError, says("ids", "None"), INDEX.remove, None)
case("index item absent", KeyError, says("id", 5), INDEX.__getitem__, 5)
case("index query scalar", ValueError, says("queries", "()"), INDEX.search, 1.0)
case("index weights", ValueError, says("weights", "'all'", "table"), INDEX.search, VECTOR, weights="all")
case("index filter absent", KeyError, says("filter", 5), INDEX.search, VECTOR, filter=[10, 5])
case("index filter twice", ValueError, says("filter", "distinct", 10), INDEX.search, VECTOR, filter=[10, 10])
case("index filter length", ValueError, says("filter", "(3,)", "(2,)"), INDEX.search, VECTOR, filter=np.ones(2, bool))
case("index filter text", TypeError, says("filter", "'a'"), INDEX.search, VECTOR, filter="a")
case("index filter number", TypeError, says("filter", 10), INDEX.search, VECTOR, filter=10)
case("index filter result", ValueError, says("filter", "boolean"), INDEX.search, VECTOR, filter=lambda ids: ids)
case("index load mmap", TypeError, says("mmap", "'r'"), Index.load, "x", mmap="r")
case("index load verify", TypeError, says("verify", 1), Index.load, "x", verify=1)
case("index save number", TypeError, says("int"), INDEX.save, 3)
case("mha_search 1-d table", ValueError, says("table", "(8,)"), ruvector.mha_search, VECTOR, VECTOR)
case("mha_search no width", ValueError, says("table", "(3, 0)"), ruvector.mha_search, np.ones((3, 0)), np.ones(0))
case("match type", Unknown, says("'hnsw'"), retrieval.match, TABLE, TABLE, "hnsw")
case("match weights", ValueError, says("weights", "'k'"), retrieval.match, TABLE, TABLE, weights="k")
case("match 3-d", ValueError, says("documents", "(2, 5, 8)"), retrieval.match, TABLE, Q)
case("rerank queries", ValueError, says("query", "(8,)", "(7, 8)"), retrieval.rerank, TABLE, TABLE)
case("rerank text", TypeError, says("stages", "'cross'"), retrieval.rerank, VECTOR, TABLE, 3, "cross")
case("rerank none", ValueError, says("stages", "at least one"), retrieval.rerank, VECTOR, TABLE, 3, [])
case("rerank no type", TypeError, says("stages[0]", "type"), retrieval.rerank, VECTOR, TABLE, 3, [{"keep": 3}])
case("rerank no keep", ValueError, says("stages[0]", "keep"), retrieval.rerank, VECTOR, TABLE, 3, ["cross", "cross"])
case(
    "rerank last keep",
    ValueError,
    says("last", "keep 3"),
    retrieval.rerank,
    VECTOR,
    TABLE,
    3,
    [{"type": "cross", "keep": 3}],
)
case(
    "rerank option",
    TypeError,
    says("cross", "heads"),
    retrieval.rerank,
    VECTOR,
    TABLE,
    3,
    [{"type": "cross", "heads": 3}],
)


@pytest.mark.parametrize(("call", "arguments", "options", "error", "pattern"), CASES)
def test_bad_input(call, arguments, options, error, pattern):
    threads = ruvector.get_num_threads()
    with pytest.raises(error, match=pattern) as caught:
        call(*arguments, **options)
    # NumPy's own MemoryError is a subclass
    assert caught.type in (error if isinstance(error, tuple) else (error,)) or error is MemoryError
    assert ruvector.get_num_threads() == threads
    assert not any(r.name == "bad_input_type" for r in ruvector.attention_types())


def test_the_catalogue_is_long_enough():
    assert len(CASES) >= 150
    assert len({c.id for c in CASES}) == len(CASES)


def test_nothing_is_written_before_an_error():
    out = np.full((2, 5, 6), 7, np.float32)
    for options in ({"scale": np.nan}, {"attn_mask": np.ones((3, 4), bool)}, {"window": (-1, 1)}, {"dropout_p": 0.5}):
        with pytest.raises(ValueError):
            sdpa(Q, K, V, out=out, **options)
    assert (out == 7).all()


def test_a_failed_call_leaves_the_next_one_right():
    expected = reference.scaled_dot_product_attention(Q, K, V)
    for parameters in CASES[::7]:
        call, arguments, options, error, _ = parameters.values
        with pytest.raises(error):
            call(*arguments, **options)
        reference.check(sdpa(Q, K, V), expected)
