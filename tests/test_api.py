"""The public surface: names, signatures, records, the registry, docstrings and their examples, type stubs."""

import ast
import copy
import dataclasses
import importlib
import importlib.util
import inspect
import pickle
import re
import types
from pathlib import Path

import numpy as np
import pytest
import reference
import ruvector
from support import check_python, normal, run_python, same_bits

FOLDER = Path(ruvector.__file__).parent

FUNCTIONS = {
    "adaptive_span_attention",
    "additive_attention",
    "alibi_attention",
    "attention",
    "attention_score",
    "attention_scores",
    "attention_types",
    "axial_attention",
    "batched_dot_products",
    "bigbird_attention",
    "block_sparse_attention",
    "causal_attention",
    "compressive_attention",
    "cosine_attention",
    "cross_attention",
    "differential_attention",
    "dilated_attention",
    "dot",
    "draw_features",
    "expert_capacity",
    "entmax",
    "entmax_attention",
    "exp_map",
    "feedback_attention",
    "fixup_attention",
    "fixup_scale",
    "flash_attention",
    "gate_weights",
    "gat",
    "gat_search",
    "gatv2",
    "gelu",
    "get_attention",
    "get_num_threads",
    "grouped_query_attention",
    "gyromidpoint",
    "hyperbolic_cdist",
    "hyperbolic_distance",
    "isa",
    "isas",
    "layer_norm",
    "linear_attention",
    "load_balancing_loss",
    "local_attention",
    "log_map",
    "log_softmax",
    "longformer_attention",
    "lorentz_attention",
    "lorentz_cdist",
    "lorentz_centroid",
    "lorentz_distance",
    "lorentz_to_poincare",
    "merge_states",
    "mha_search",
    "moe_attention",
    "moe_route",
    "minkowski_dot",
    "mixed_curvature_attention",
    "mobius_add",
    "multi_head_attention",
    "multi_query_attention",
    "partial_attention",
    "performer_attention",
    "poincare_attention",
    "poincare_to_lorentz",
    "project_to_ball",
    "random_feature_attention",
    "realformer_attention",
    "realformer_logits",
    "register",
    "relative_attention",
    "rezero_attention",
    "rms_norm",
    "rope",
    "rope_attention",
    "router_z_loss",
    "scaled_dot_attention",
    "scaled_dot_product_attention",
    "self_attention",
    "set_num_threads",
    "show_runtime",
    "sigmoid_attention",
    "silu",
    "sliding_attention",
    "sliding_window_attention",
    "softmax",
    "sparsemax_attention",
    "swiglu",
    "synthesizer_attention",
    "t5_attention",
    "t_fixup_scale",
    "sparse_attention",
    "sparsemax",
    "talking_heads_attention",
    "top_k_gating",
    "topk",
    "use_isa",
    "varlen_attention",
    "xpos_attention",
}
CLASSES = {
    "AttentionCache",
    "AttentionIndex",
    "AttentionState",
    "AttentionType",
    "CSRGraph",
    "CompressiveMemory",
    "ExpertLoad",
    "FeedbackMemory",
    "GATLayer",
    "KVCache",
    "LinearState",
    "MixtureOfExperts",
    "RopeScaling",
    "Routing",
    "SparsePattern",
    "UnknownAttentionType",
}

# The usage guide's rows, in its order: name -> (complexity, best_for). Types that are still to come have no row here yet.
GUIDE = {
    "scaled_dot": ("O(n\u00b2)", "Small sequences (<512)"),
    "multi_head": ("O(n\u00b2)", "General purpose, parallel processing"),
    "flash_v2": ("O(n\u00b2) memory-efficient", "GPU acceleration, large sequences"),
    "linear": ("O(n)", "Very long sequences (>4K)"),
    "gat": ("O(E)", "Graph-structured data"),
    "sparse": ("O(n\u221an)", "Ultra-long sequences (>16K)"),
    "moe": ("O(n*k)", "Conditional computation, routing"),
    "cross": ("O(n*m)", "Query-document matching"),
    "sliding_window": ("O(n*w)", "Local context, streaming"),
    "poincare": ("O(n\u00b2)", "Hierarchical data structures"),
}
ALIASES = {
    "scaleddot": "scaled_dot",
    "multihead": "multi_head",
    "mha": "multi_head",
    "flash": "flash_v2",
    "flashv2": "flash_v2",
    "sliding": "sliding_window",
    "gqa": "grouped_query",
    "mixture_of_experts": "moe",
    "hyperbolic": "poincare",
    "linear_attention": "linear",
    "favor": "performer",
    "rfa": "random_feature",
    "mqa": "multi_query",
    "rotary": "rope",
    "relative_position": "relative",
    "t5_relative": "t5",
    "local_global": "longformer",
    "entmax15": "entmax",
    "residual_attention": "realformer",
    "qk_norm": "cosine",
    "bahdanau": "additive",
    "diff": "differential",
}
PARAMETERS = {
    "scaled_dot": {"softcap": 0.0},
    "multi_head": {"num_heads": 8},
    "flash_v2": {"block_size": 64, "block_size_q": 0, "block_size_kv": 0, "softcap": 0.0},
    "cross": {},
    "self": {},
    "causal": {},
    "grouped_query": {"num_heads": 8, "num_kv_heads": 2},
    "multi_query": {"num_heads": 8},
    "rope": {
        "num_heads": 8,
        "num_kv_heads": None,
        "base": 10000.0,
        "interleaved": False,
        "rotary_dim": None,
        "scaling": None,
    },
    "xpos": {
        "num_heads": 8,
        "num_kv_heads": None,
        "base": 10000.0,
        "interleaved": False,
        "gamma": 0.4,
        "scale_base": 512.0,
    },
    "relative": {
        "num_heads": 8,
        "num_kv_heads": None,
        "max_distance": 16,
        "key_embedding": None,
        "value_embedding": None,
    },
    "t5": {
        "num_heads": 8,
        "num_kv_heads": None,
        "num_buckets": 32,
        "max_distance": 128,
        "bidirectional": None,
        "bias": None,
    },
    "alibi": {"num_heads": 8, "slopes": None},
    "sliding_window": {"window_size": 256},
    "local": {"window_size": 256},
    "moe": {
        "num_experts": 8,
        "top_k": 2,
        "capacity_factor": None,
        "jitter_noise": 0.0,
        "gate": None,
        "w_q": None,
        "w_k": None,
        "w_v": None,
        "w_o": None,
    },
    "sparse": {"pattern": "strided", "stride": None, "summary": None, "bidirectional": False},
    "dilated": {"window_size": 64, "dilation": 2},
    "longformer": {"window_size": 512, "global_tokens": 1},
    "bigbird": {"block_size": 64, "window_blocks": 3, "global_blocks": 2, "random_blocks": 3, "seed": 0},
    "axial": {"height": None, "width": None, "mode": "sequential"},
    "block_sparse": {"layout": None, "block_size": 128},
    "gat": {"num_heads": 8, "edge_index": None, "a_src": None, "a_dst": None, "negative_slope": 0.2},
    "gatv2": {"num_heads": 8, "edge_index": None, "a": None, "negative_slope": 0.2},
    "poincare": {"curvature": 1.0},
    "lorentz": {"curvature": 1.0, "space_only": False},
    "mixed_curvature": {
        "curvature": 1.0,
        "euclidean_dim": -1,
        "value_euclidean_dim": -1,
        "euclidean_weight": 1.0,
        "hyperbolic_weight": 1.0,
    },
    "linear": {"feature_map": "elu"},
    "performer": {"num_features": 256, "orthogonal": True, "projection": None},
    "random_feature": {"num_features": 64, "orthogonal": False, "projection": None},
    "rezero": {"alpha": 0.0},
    "fixup": {"multiplier": 1.0, "bias_in": 0.0, "bias_out": 0.0},
    "realformer": {"num_heads": 8, "previous": None},
    "adaptive_span": {"num_heads": 8, "span": None, "ramp": 32.0},
    "entmax": {"alpha": 1.5},
    "sparsemax": {},
    "sigmoid": {"bias": None},
    "cosine": {"tau": 0.1},
    "additive": {"hidden": 64, "w_q": None, "w_k": None, "v": None},
    "differential": {"lambda_init": 0.8, "norm": False},
    "talking_heads": {"num_heads": 8, "w_logits": None, "w_weights": None},
}


# The signatures, as Python would write them.
class Signatures:
    @staticmethod
    def dot(a, b): ...

    @staticmethod
    def batched_dot_products(query, keys): ...

    @staticmethod
    def softmax(x, axis=-1, *, out=None): ...

    @staticmethod
    def log_softmax(x, axis=-1, *, out=None): ...

    @staticmethod
    def layer_norm(x, weight=None, bias=None, *, eps=1e-5, out=None): ...

    @staticmethod
    def rms_norm(x, weight=None, *, eps=1e-6, out=None): ...

    @staticmethod
    def gelu(x, *, approximate="none", out=None): ...

    @staticmethod
    def silu(x, *, out=None): ...

    @staticmethod
    def swiglu(gate, up, *, out=None): ...

    @staticmethod
    def entmax(x, alpha=1.5, axis=-1, *, out=None): ...

    @staticmethod
    def sparsemax(x, axis=-1, *, out=None): ...

    @staticmethod
    def scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None,
        dropout_p=0.0,
        is_causal=False,
        *,
        scale=None,
        enable_gqa=False,
        softcap=0.0,
        window=None,
        alibi_slopes=None,
        return_lse=False,
        rng=None,
        out=None,
    ): ...

    @staticmethod
    def varlen_attention(
        query,
        key,
        value,
        cu_seqlens_q,
        cu_seqlens_k,
        *,
        causal=False,
        scale=None,
        softcap=0.0,
        window=None,
        alibi_slopes=None,
        return_lse=False,
        out=None,
    ): ...

    @staticmethod
    def merge_states(states): ...

    @staticmethod
    def attention(query, key, value, attention_type="scaled_dot", **params): ...

    @staticmethod
    def attention_types(): ...

    @staticmethod
    def attention_score(query, key, attention_type="scaled_dot", **params): ...

    @staticmethod
    def attention_scores(query, keys, attention_type="scaled_dot", **params): ...

    @staticmethod
    def multi_head_attention(
        query,
        keys,
        values,
        num_heads,
        *,
        w_q=None,
        w_k=None,
        w_v=None,
        w_o=None,
        b_q=None,
        b_k=None,
        b_v=None,
        b_o=None,
        mask=None,
        causal=False,
        scale=None,
        dropout=0.0,
        training=False,
        rng=None,
        out=None,
    ): ...

    @staticmethod
    def flash_attention(
        query,
        keys,
        values,
        block_size=64,
        *,
        block_size_q=None,
        block_size_kv=None,
        mask=None,
        causal=False,
        scale=None,
        softcap=0.0,
        dropout=0.0,
        training=False,
        rng=None,
        return_lse=False,
        out=None,
    ): ...

    @staticmethod
    def sparse_attention(
        query,
        key,
        value,
        pattern="strided",
        *,
        stride=None,
        summary=None,
        bidirectional=False,
        mask=None,
        causal=False,
        scale=None,
        dropout=0.0,
        training=False,
        rng=None,
        out=None,
    ): ...

    @staticmethod
    def sliding_attention(embeddings, window_size=256, stride=128, *, causal=False, scale=None): ...

    @staticmethod
    def gat(
        x,
        edge_index,
        w,
        a_src,
        a_dst,
        *,
        bias=None,
        edge_attr=None,
        w_edge=None,
        a_edge=None,
        negative_slope=0.2,
        concat=True,
        add_self_loops=False,
        dropout=0.0,
        training=False,
        rng=None,
        return_attention_weights=False,
    ): ...

    @staticmethod
    def gatv2(
        x,
        edge_index,
        w_l,
        w_r,
        a,
        *,
        bias=None,
        edge_attr=None,
        w_edge=None,
        negative_slope=0.2,
        concat=True,
        add_self_loops=False,
        dropout=0.0,
        training=False,
        rng=None,
        return_attention_weights=False,
    ): ...

    @staticmethod
    def mha_search(table, query, num_heads=8, k=10): ...

    @staticmethod
    def gat_search(nodes, edges, query_node_id, num_heads=4, k=10): ...

    @staticmethod
    def register(name, fn, *, aliases=(), complexity="", best_for="", family="custom", parameters=(), reference=""): ...

    @staticmethod
    def draw_features(num_features, dim, *, orthogonal=True, rng=None): ...

    @staticmethod
    def LinearState(head_dim, v_dim=None, attention_type="linear", *, batch=(), dtype=np.float32, **params): ...

    @staticmethod
    def topk(x, k, axis=-1): ...

    @staticmethod
    def top_k_gating(logits, top_k=2, *, order="softmax_topk", normalize=True): ...

    @staticmethod
    def moe_route(
        embedding,
        num_experts=8,
        top_k=2,
        *,
        gate=None,
        order="softmax_topk",
        normalize=True,
        capacity_factor=None,
        jitter=0.0,
        training=False,
        rng=None,
    ): ...

    @staticmethod
    def MixtureOfExperts(
        num_experts=8,
        top_k=2,
        *,
        gate=None,
        experts=None,
        capacity_factor=None,
        jitter=0.0,
        order="softmax_topk",
        normalize=True,
        rng=None,
    ): ...

    @staticmethod
    def expert_capacity(num_tokens, num_experts, top_k=1, capacity_factor=1.25): ...

    @staticmethod
    def gate_weights(dim, num_experts=8, *, rng=None): ...

    @staticmethod
    def load_balancing_loss(probabilities, indices): ...

    @staticmethod
    def router_z_loss(logits): ...

    @staticmethod
    def hyperbolic_distance(a, b, curvature=1.0): ...

    @staticmethod
    def hyperbolic_cdist(a, b, curvature=1.0): ...

    @staticmethod
    def lorentz_distance(a, b, curvature=1.0, *, space_only=False): ...

    @staticmethod
    def lorentz_cdist(a, b, curvature=1.0, *, space_only=False): ...

    @staticmethod
    def exp_map(base, tangent, curvature=1.0): ...

    @staticmethod
    def log_map(base, target, curvature=1.0): ...

    @staticmethod
    def project_to_ball(x, curvature=1.0, eps=None): ...

    @staticmethod
    def gyromidpoint(points, weights=None, curvature=1.0): ...

    @staticmethod
    def isa(): ...

    @staticmethod
    def isas(): ...

    @staticmethod
    def use_isa(name): ...

    @staticmethod
    def get_num_threads(): ...

    @staticmethod
    def set_num_threads(n): ...

    @staticmethod
    def rope(x, positions=None, *, base=10000.0, interleaved=False, rotary_dim=None, scaling=None): ...

    @staticmethod
    def multi_query_attention(query, key, value, num_heads=8, **common): ...

    @staticmethod
    def rope_attention(
        query,
        key,
        value,
        num_heads=8,
        num_kv_heads=None,
        *,
        base=10000.0,
        interleaved=False,
        rotary_dim=None,
        scaling=None,
        **common,
    ): ...

    @staticmethod
    def xpos_attention(
        query,
        key,
        value,
        num_heads=8,
        num_kv_heads=None,
        *,
        base=10000.0,
        interleaved=False,
        gamma=0.4,
        scale_base=512.0,
        **common,
    ): ...

    @staticmethod
    def relative_attention(
        query,
        key,
        value,
        num_heads=8,
        num_kv_heads=None,
        *,
        max_distance=16,
        key_embedding=None,
        value_embedding=None,
        **common,
    ): ...

    @staticmethod
    def t5_attention(
        query,
        key,
        value,
        num_heads=8,
        num_kv_heads=None,
        *,
        num_buckets=32,
        max_distance=128,
        bidirectional=None,
        bias=None,
        **common,
    ): ...

    @staticmethod
    def additive_attention(query, key, value, hidden=64, *, w_q=None, w_k=None, v=None, **common): ...

    @staticmethod
    def cosine_attention(query, key, value, tau=0.1, **common): ...

    @staticmethod
    def differential_attention(query, key, value, lambda_init=0.8, *, norm=False, **common): ...

    @staticmethod
    def entmax_attention(query, key, value, alpha=1.5, **common): ...

    @staticmethod
    def sigmoid_attention(query, key, value, bias=None, **common): ...

    @staticmethod
    def sparsemax_attention(query, key, value, **common): ...

    @staticmethod
    def talking_heads_attention(query, key, value, num_heads=8, *, w_logits=None, w_weights=None, **common): ...

    @staticmethod
    def rezero_attention(query, key, value, alpha=0.0, **common): ...

    @staticmethod
    def fixup_attention(query, key, value, multiplier=1.0, *, bias_in=0.0, bias_out=0.0, **common): ...

    @staticmethod
    def realformer_attention(query, key, value, num_heads=8, *, previous=None, **common): ...

    @staticmethod
    def adaptive_span_attention(query, key, value, num_heads=8, *, span=None, ramp=32.0, **common): ...

    @staticmethod
    def fixup_scale(num_layers, layers_per_branch=2): ...

    @staticmethod
    def realformer_logits(query, key, num_heads=8, *, previous=None, scale=None): ...

    @staticmethod
    def show_runtime(): ...


def shape_of(function):
    """Names, kinds and defaults of the parameters, annotations aside."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_every_public_name_exists():
    for name in FUNCTIONS | CLASSES:
        assert hasattr(ruvector, name), name
        assert name in ruvector.__all__, name
    assert all(callable(getattr(ruvector, name)) for name in FUNCTIONS)
    assert issubclass(ruvector.UnknownAttentionType, ValueError)
    assert issubclass(ruvector.UnknownAttentionType, LookupError)
    assert ruvector.AttentionState._fields == ("output", "lse")


def test_version_is_that_of_the_distribution():
    from importlib import metadata

    assert re.fullmatch(r"\d+\.\d+\.\d+.*", ruvector.__version__)
    assert metadata.version("ruvector") == ruvector.__version__


def test_dir_shows_all_and_nothing_else():
    assert set(ruvector.__all__) <= set(dir(ruvector))
    assert len(ruvector.__all__) == len(set(ruvector.__all__))
    public = {name for name in dir(ruvector) if not name.startswith("_")}
    modules = {name for name in public if isinstance(getattr(ruvector, name), types.ModuleType)}
    assert public - modules <= set(ruvector.__all__)


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        ruvector.no_such_name  # noqa: B018


COMMON = {"mask", "causal", "scale", "dropout", "training", "rng", "out"}


@pytest.mark.parametrize("name", sorted(n for n in vars(Signatures) if not n.startswith("__")))
def test_signature(name):
    ours, expected = shape_of(getattr(ruvector, name)), shape_of(getattr(Signatures, name))
    if expected and expected[-1][1] == inspect.Parameter.VAR_KEYWORD:
        # the options that all types share may be spelled out
        ours = [p for p in ours if p[0] not in COMMON or p[1] != inspect.Parameter.KEYWORD_ONLY]
        if ours[-1][1] != inspect.Parameter.VAR_KEYWORD:
            expected = expected[:-1]
    assert ours == expected


def test_partial_attention_takes_the_options_of_attention():
    ours = shape_of(ruvector.partial_attention)
    all_ = shape_of(ruvector.scaled_dot_product_attention)
    left_out = {"dropout_p", "return_lse", "rng", "out"}
    expected = [p for p in all_ if p[0] not in left_out]
    assert [p for p in ours if p[0] != "key_offset"] == expected
    assert [p[0] for p in ours][:5] == ["query", "key", "value", "attn_mask", "is_causal"]


def test_functions_of_the_types_have_the_parameters_of_their_type():
    functions = {
        "scaled_dot_attention": "scaled_dot",
        "cross_attention": "cross",
        "causal_attention": "causal",
        "grouped_query_attention": "grouped_query",
        "alibi_attention": "alibi",
        "sliding_window_attention": "sliding_window",
        "local_attention": "local",
        "self_attention": "self",
        "moe_attention": "moe",
        "poincare_attention": "poincare",
        "lorentz_attention": "lorentz",
        "mixed_curvature_attention": "mixed_curvature",
        "linear_attention": "linear",
        "performer_attention": "performer",
        "random_feature_attention": "random_feature",
        "multi_query_attention": "multi_query",
        "rope_attention": "rope",
        "xpos_attention": "xpos",
        "relative_attention": "relative",
        "t5_attention": "t5",
    }
    for function, name in functions.items():
        parameters = inspect.signature(getattr(ruvector, function)).parameters
        assert list(parameters)[0] == ("x" if name == "self" else "query"), function
        for option, default in PARAMETERS[name].items():
            assert parameters[option].default == default, f"{function}({option})"
        for option in ("mask", "out") if name == "linear" else ("mask", "scale", "training", "rng", "out"):
            assert option in parameters, f"{function}({option})"
        assert ("causal" in parameters) == (name != "causal"), function


# Type stubs ----------------------------------------------------------------------------------------------------------


def stub_names(path):
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign):
            names.add(node.target.id)
        elif isinstance(node, ast.Assign):
            names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname for a in node.names if a.asname == a.name}
    return {n for n in names if not n.startswith("_") or n == "__version__"}


def test_the_package_is_typed_and_its_stub_has_its_names():
    assert (FOLDER / "py.typed").exists()
    path = FOLDER / "__init__.pyi"
    if path.exists():
        assert stub_names(path) - {"__version__"} == set(ruvector.__all__) - {"__version__"}


def public_names(module):
    """What dir() shows of a module's own: no submodules, no names that another module defines."""
    names = set()
    for name in dir(module):
        thing = getattr(module, name)
        if name.startswith("_") or isinstance(thing, types.ModuleType):
            continue
        if getattr(thing, "__module__", module.__name__) == module.__name__:
            names.add(name)
    return names


def test_every_stub_has_the_names_of_its_module():
    stubs = sorted(FOLDER.rglob("*.pyi"))
    assert stubs, "no type stubs are installed"
    compiled = {p.name.split(".")[0] for p in FOLDER.rglob("*.so")} | {
        p.name.split(".")[0] for p in FOLDER.rglob("*.pyd")
    }
    assert compiled <= {p.stem for p in stubs}, "a compiled module without a stub"
    for path in stubs:
        extra = ("duckdb", "pyarrow") if path.stem == "duckdb" else ()
        if path.stem == "__init__" or any(importlib.util.find_spec(package) is None for package in extra):
            continue
        module = importlib.import_module(".".join(("ruvector", *path.relative_to(FOLDER).with_suffix("").parts)))
        assert stub_names(path) >= public_names(module), path
        assert all(hasattr(module, name) or name[:1].isupper() for name in stub_names(path)), path


def test_public_functions_are_annotated_or_stubbed():
    stub = FOLDER / "__init__.pyi"
    named = stub_names(stub) if stub.exists() else set()
    for name in FUNCTIONS:
        function = getattr(ruvector, name)
        module = FOLDER / Path(*function.__module__.split(".")[1:]).with_suffix(".pyi")
        annotated = bool(getattr(function, "__annotations__", {})) or not inspect.signature(function).parameters
        assert annotated or name in named or (module.exists() and name in stub_names(module)), name


# Docstrings ----------------------------------------------------------------------------------------------------------


def sections(doc):
    return re.findall(r"^([A-Z][A-Za-z ]+)\n-{3,}$", inspect.cleandoc(doc), re.MULTILINE)


@pytest.mark.parametrize("name", sorted(FUNCTIONS | CLASSES))
def test_docstring_has_the_numpydoc_sections(name):
    thing = getattr(ruvector, name)
    doc = inspect.getdoc(thing)
    assert doc, f"{name} has no docstring"
    summary = doc.splitlines()[0]
    assert summary, f"{name}: no summary in the first line"
    assert summary.endswith("."), f"{name}: the summary is one sentence"
    assert len(doc.splitlines()) == 1 or doc.splitlines()[1] == "", f"{name}: an empty line follows the summary"
    if name in CLASSES:
        return
    found = sections(doc)
    parameters = inspect.signature(thing).parameters
    if parameters:
        assert "Parameters" in found
        body = re.split(r"\n\n(?=[A-Z].*\n-+\n)", doc.split("Parameters\n----------\n")[1])[0]
        heads = " ".join(line.split(" : ")[0] for line in body.splitlines() if line[:1] not in ("", " "))
        explained = set(re.findall(r"\w+", heads))
        assert set(parameters) <= explained, f"{name} does not explain {set(parameters) - explained}"
    if name not in ("show_runtime", "set_num_threads", "register"):
        assert {"Returns", "Yields"} & set(found), f"{name} does not say what it returns"
    assert "Examples" in found
    order = ["Parameters", "Returns", "Yields", "Raises", "See Also", "Notes", "References", "Examples"]
    known = [s for s in found if s in order]
    assert known == sorted(known, key=order.index)


EXAMPLES = """
import doctest, importlib.util, sys
from pathlib import Path
import numpy as np
import ruvector

names = sorted(set(ruvector.__all__) - {"__version__"})
modules = [p.stem for p in sorted(Path(ruvector.__file__).parent.glob("*.py")) if p.stem[:2] != "__"]
if importlib.util.find_spec("duckdb") is None or importlib.util.find_spec("pyarrow") is None:
    modules = [m for m in modules if m not in ("duckdb", "_shell")]  # those of an extra
things = [("ruvector", ruvector)]
things += [(f"ruvector.{m}", importlib.import_module(f"ruvector.{m}")) for m in modules]
things += [(n, getattr(ruvector, n)) for n in names]
finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
seen = set()
for name, thing in things:
    for test in finder.find(thing, name, globs={"ruvector": ruvector, "np": np, "__name__": "__main__"}):
        if test.examples and test.docstring not in seen:
            seen.add(test.docstring)
            runner.run(test)
print(len(seen), runner.tries, runner.failures)
sys.exit(runner.failures > 0)
"""


def test_the_examples_of_the_docstrings_are_right():
    """In a process of its own: examples register types and set threads."""
    documented, tried, failed = map(int, check_python(EXAMPLES).split()[-3:])
    assert failed == 0
    assert documented >= len(FUNCTIONS)
    assert tried > documented


# Records and the registry --------------------------------------------------------------------------------------------


def test_records_are_complete():
    for record in ruvector.attention_types():
        assert record.name == record.name.lower()
        assert isinstance(record.aliases, tuple)
        for field in ("name", "complexity", "best_for", "family", "reference"):
            assert isinstance(getattr(record, field), str), f"{record.name}.{field}"
            assert getattr(record, field), f"{record.name}.{field} is empty"
        assert record.complexity.startswith("O(")
        for parameter in record.parameters:
            assert parameter.name
            assert parameter.type
            assert parameter.description
            if parameter.default is not None and parameter.low is not None:
                assert parameter.low <= parameter.default
            if parameter.default is not None and parameter.high is not None:
                assert parameter.default <= parameter.high


def test_records_start_with_the_rows_of_the_usage_guide():
    records = ruvector.attention_types()
    assert isinstance(records, tuple)
    names = [r.name for r in records]
    assert len(set(names)) == len(names)
    present = [name for name in GUIDE if name in names]
    assert {
        "scaled_dot",
        "multi_head",
        "flash_v2",
        "linear",
        "gat",
        "sparse",
        "moe",
        "cross",
        "sliding_window",
        "poincare",
    } <= set(present)
    assert names[: len(present)] == present
    for record in records[: len(present)]:
        assert (record.complexity, record.best_for) == GUIDE[record.name]


def test_every_type_of_this_release_is_listed_with_its_parameters():
    records = {r.name: r for r in ruvector.attention_types()}
    assert set(PARAMETERS) <= set(records)
    for name, parameters in PARAMETERS.items():
        assert {p.name: p.default for p in records[name].parameters} == parameters, name
    by_name = {p.name: p for p in records["multi_head"].parameters}
    assert by_name["num_heads"].low == 1
    for alias, name in ALIASES.items():
        assert alias in records[name].aliases
        assert ruvector.get_attention(alias).name == name


def test_records_are_frozen():
    record = ruvector.attention_types()[0]
    with pytest.raises((AttributeError, TypeError, dataclasses.FrozenInstanceError)):
        record.name = "other"
    with pytest.raises((AttributeError, TypeError, dataclasses.FrozenInstanceError)):
        next(r for r in ruvector.attention_types() if r.parameters).parameters[0].default = 3
    assert ruvector.attention_types()[0].name == "scaled_dot"


def camel(name):
    return "".join(word.capitalize() for word in name.split("_"))


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_attention_type_records(name):
    make = getattr(ruvector.AttentionType, camel(name))
    plain = make()
    assert ruvector.get_attention(plain) == ruvector.get_attention(name)
    assert make() == plain
    assert hash(make()) == hash(plain)
    assert camel(name) in repr(plain) or name in repr(plain)
    # the enum of the sources writes some of them with more capitals: MoE, GAT
    assert getattr(ruvector.AttentionType, camel(name).upper())() == plain
    options = {p.name: p.default + 4 for p in type_record(name).parameters if type(p.default) is int}
    if options:
        other = make(**options)
        assert other != plain
        assert ruvector.get_attention(other) == ruvector.get_attention(name, **options)
        assert all(str(value) in repr(other) for value in options.values())
        assert pickle.loads(pickle.dumps(other)) == other
    assert pickle.loads(pickle.dumps(plain)) == plain


def type_record(name):
    return next(r for r in ruvector.attention_types() if r.name == name)


def test_attention_types_are_accepted_wherever_a_name_is():
    q, k, v = normal((3, 8), np.float32, "q"), normal((9, 8), np.float32, "k"), normal((9, 8), np.float32, "v")
    kind = ruvector.AttentionType.MultiHead(num_heads=2)
    expected = ruvector.attention(q, k, v, "multi_head", num_heads=2)
    assert same_bits(ruvector.attention(q, k, v, kind), expected)
    assert same_bits(ruvector.get_attention(kind)(q, k, v), expected)
    assert not same_bits(ruvector.attention(q, k, v, "multi_head", num_heads=1), expected)
    assert ruvector.attention_score(q[0], k[0], kind) == ruvector.attention_score(q[0], k[0], "mha", num_heads=2)
    assert same_bits(ruvector.attention_scores(q[0], k, kind), ruvector.attention_scores(q[0], k, "mha", num_heads=2))
    flash = ruvector.AttentionType.FlashV2(block_size=16)
    assert same_bits(ruvector.attention(q, k, v, flash), ruvector.flash_attention(q, k, v, 16))


def test_resolved_attention_is_a_value():
    a = ruvector.get_attention("local", window_size=8, scale=0.5)
    b = ruvector.get_attention("LOCAL", scale=0.5, window_size=8)
    assert a == b
    assert hash(a) == hash(b)
    assert a != ruvector.get_attention("local", window_size=9, scale=0.5)
    assert a != ruvector.get_attention("local", window_size=8)
    assert a != "local"
    assert ruvector.get_attention("local") == ruvector.get_attention("local", window_size=256)
    assert ruvector.get_attention("local", window_size=8) != ruvector.get_attention("sliding_window", window_size=8)
    assert a.name == "local"
    assert "local" in repr(a)
    assert "window_size=8" in repr(a)
    assert "scale=0.5" in repr(a)
    q, k, v = normal((9, 8), np.float32, "q"), normal((9, 8), np.float32, "k"), normal((9, 5), np.float32, "v")
    for again in (pickle.loads(pickle.dumps(a)), copy.copy(a), copy.deepcopy(a)):
        assert again == a
        assert same_bits(again(q, k, v), a(q, k, v))
    slopes = ruvector.get_attention("alibi", num_heads=2, slopes=[0.5, 0.1])
    again = pickle.loads(pickle.dumps(slopes))
    assert again == slopes
    assert slopes != ruvector.get_attention("alibi", num_heads=2, slopes=[0.5, 0.2])
    with pytest.raises(AttributeError):
        a.no_such_attribute = 1
    with pytest.raises(AttributeError):
        a.name = "other"


def test_resolved_attention_is_called_with_query_key_value():
    a = ruvector.get_attention("multi_head", num_heads=2)
    q, k, v = normal((3, 8), np.float32, "q"), normal((9, 8), np.float32, "k"), normal((9, 6), np.float32, "v")
    out = np.empty((3, 6), np.float32)
    assert a(query=q, key=k, value=v, out=out) is out
    reference.check(out, reference.multi_head(q, k, v, num_heads=2))
    mask = np.arange(9) < 4
    reference.check(a(q, k, v, mask=mask), reference.multi_head(q, k, v, num_heads=2, mask=mask))
    with pytest.raises(TypeError):
        a(q, k, v, mask)
    with pytest.raises(TypeError, match="window"):
        a(q, k, v, window=3)


def test_names_are_case_insensitive_and_unknown_ones_list_what_exists():
    for name in ("SCALED_DOT", "Flash_V2", "Mha", "GQA"):
        ruvector.get_attention(name)
    with pytest.raises(ruvector.UnknownAttentionType) as caught:
        ruvector.get_attention("no_such_type")
    text = str(caught.value)
    assert text.startswith("Unknown attention type: 'no_such_type'. Available: ")
    for record in ruvector.attention_types():
        assert record.name in text
    assert isinstance(caught.value, LookupError)


REGISTER = """
import pickle
import numpy as np
import ruvector

def mean_value(query, key, value, *, mask=None, factor=2.0, **options):
    assert not any(options.values()), options
    keep = np.ones(len(key), bool) if mask is None else mask
    out = factor * value[keep].mean(0)
    return np.broadcast_to(out, (*query.shape[:-1], len(out))).copy()

count = len(ruvector.attention_types())
Parameter = type(ruvector.attention_types()[1].parameters[0])
ruvector.register("mean_value", mean_value, aliases=("mean", "average"), complexity="O(n)", best_for="nothing much",
    parameters=(Parameter("factor", "float", 2.0, 0.0, 10.0, "what the mean is multiplied by"),), reference="none")
records = ruvector.attention_types()
assert len(records) == count + 1
record = records[-1]
assert (record.name, record.aliases, record.complexity) == ("mean_value", ("mean", "average"), "O(n)")
assert (record.best_for, record.family, record.reference) == ("nothing much", "custom", "none")
assert [p.name for p in record.parameters] == ["factor"]
q, k, v = np.ones((3, 4)), np.arange(20.0).reshape(5, 4), np.arange(10.0).reshape(5, 2)
np.testing.assert_array_equal(ruvector.attention(q, k, v, "mean_value"), [[8, 10]] * 3)
np.testing.assert_array_equal(ruvector.attention(q, k, v, "Average", factor=3.0), [[12, 15]] * 3)
mask = np.array([True, False, False, False, True])
np.testing.assert_array_equal(ruvector.attention(q, k, v, "mean", mask=mask), [[8, 10]] * 3)
resolved = ruvector.get_attention("mean", factor=1.0)
assert resolved == ruvector.get_attention("MEAN_VALUE", factor=1.0) != ruvector.get_attention("mean")
np.testing.assert_array_equal(resolved(q, k, v), [[4, 5]] * 3)
try:
    ruvector.get_attention("mean", factors=1.0)
except TypeError as error:
    assert "factors" in str(error) and "factor" in str(error).replace("factors", ""), error
else:
    raise AssertionError("an unknown option passed")
try:
    ruvector.get_attention("mean", factor=11.0)
except ValueError as error:
    assert "factor" in str(error) and "11" in str(error), error
else:
    raise AssertionError("a value out of range passed")
for name, aliases in (("mean_value", ()), ("Average", ()), ("other", ("mean",)), ("flash", ())):
    try:
        ruvector.register(name, mean_value, aliases=aliases)
    except ValueError as error:
        taken = aliases[0] if aliases else name
        assert taken.lower() in str(error).lower(), error
    else:
        raise AssertionError(f"{name} was taken twice")
assert len(ruvector.attention_types()) == count + 1
try:
    ruvector.get_attention("nothing")
except ruvector.UnknownAttentionType as error:
    assert "mean_value" in str(error)
print("registered")
"""


def test_register_adds_a_type():
    """In a process of its own: the registry of this one stays as it is."""
    assert check_python(REGISTER).strip() == "registered"


def test_the_package_imports_nothing_but_numpy():
    code = "import sys, ruvector; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = set(check_python(code).split())
    assert not loaded & {"torch", "scipy", "ml_dtypes", "rich", "onnx", "threadpoolctl", "safetensors", "tokenizers"}


def test_importing_the_source_tree_says_that_it_is_not_built():
    root = Path(__file__).resolve().parents[1]
    source = root / "ruvector"
    if not (source / "__init__.py").exists() or any(
        p.suffix in (".so", ".pyd") for p in source.glob("_ruvector_core.*")
    ):
        pytest.skip("no unbuilt source tree beside these tests")
    code = f"import sys; sys.path.insert(0, {str(root)!r}); import ruvector"
    result = run_python(code)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ruvector is not built here")
    assert "pip install" in last


def test_the_console_script_shows_the_run_time_and_the_types():
    out = check_python("import ruvector.cli, sys; sys.exit(ruvector.cli.main(['info']))")
    assert ruvector.__version__ in out
    for name in ruvector.isas():
        assert name in out
    out = check_python("import ruvector.cli, sys; sys.exit(ruvector.cli.main(['types']))")
    for record in ruvector.attention_types():
        assert record.name in out
