"""Exact attention on the CPU for NumPy arrays.

Axes, in every docstring of the package:

=====  =======================================================
L      queries (target length)
S      keys and values (source length)
d      width of queries and keys, `head_dim` where heads are split
dv     width of values and outputs
H, G   query heads; key and value heads
=====  =======================================================

Arrays are ``(..., length, width)``; leading axes broadcast. Masks are boolean (True = attend) or floating (added to the
logits) and broadcast to ``(..., L, S)``.
"""

try:
    import ruvector._ruvector_core
except ModuleNotFoundError as error:
    if error.name != "ruvector._ruvector_core":
        raise
    raise ImportError(
        "ruvector is not built here: this is its source tree; run `pip install .` and import it from another folder"
    ) from None

from ruvector._layers import gelu, layer_norm, rms_norm, silu, swiglu
from ruvector._moe import top_k_gating, topk
from ruvector._primitives import batched_dot_products, dot, log_softmax, softmax
from ruvector._registry import (
    AttentionRecord,
    AttentionType,
    Parameter,
    UnknownAttentionType,
    attention_types,
    get_attention,
    register,
)
from ruvector._rotary import RopeScaling
from ruvector.cache import AttentionCache, KVCache
from ruvector.csr import CSRGraph
from ruvector.functional import (
    AttentionState,
    alibi_attention,
    attention,
    attention_score,
    attention_scores,
    causal_attention,
    cross_attention,
    flash_attention,
    grouped_query_attention,
    local_attention,
    merge_states,
    multi_head_attention,
    multi_query_attention,
    partial_attention,
    scaled_dot_attention,
    scaled_dot_product_attention,
    self_attention,
    sliding_window_attention,
    varlen_attention,
)
from ruvector.mechanisms.graph import GATLayer, gat, gat_search, gatv2
from ruvector.mechanisms.hyperbolic import (
    exp_map,
    gyromidpoint,
    hyperbolic_cdist,
    hyperbolic_distance,
    log_map,
    lorentz_attention,
    lorentz_cdist,
    lorentz_centroid,
    lorentz_distance,
    lorentz_to_poincare,
    minkowski_dot,
    mixed_curvature_attention,
    mobius_add,
    poincare_attention,
    poincare_to_lorentz,
    project_to_ball,
)
from ruvector.mechanisms.linear import (
    LinearState,
    draw_features,
    linear_attention,
    performer_attention,
    random_feature_attention,
)
from ruvector.mechanisms.moe import (
    ExpertLoad,
    MixtureOfExperts,
    Routing,
    expert_capacity,
    gate_weights,
    load_balancing_loss,
    moe_attention,
    moe_route,
    router_z_loss,
)
from ruvector.mechanisms.positions import relative_attention, rope, rope_attention, t5_attention, xpos_attention
from ruvector.mechanisms.sparse import (
    axial_attention,
    bigbird_attention,
    block_sparse_attention,
    dilated_attention,
    longformer_attention,
    sliding_attention,
    sparse_attention,
)
from ruvector.patterns import Pattern as SparsePattern
from ruvector.runtime import get_num_threads, isa, isas, set_num_threads, show_runtime, use_isa

from ruvector import sdk  # last: types are listed in the order in which the modules above add them

__version__ = "0.1.0"

__all__ = [
    "AttentionCache",
    "AttentionRecord",
    "AttentionState",
    "AttentionType",
    "CSRGraph",
    "ExpertLoad",
    "GATLayer",
    "KVCache",
    "LinearState",
    "MixtureOfExperts",
    "Parameter",
    "RopeScaling",
    "Routing",
    "SparsePattern",
    "UnknownAttentionType",
    "__version__",
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
    "cross_attention",
    "dilated_attention",
    "dot",
    "draw_features",
    "exp_map",
    "expert_capacity",
    "flash_attention",
    "gat",
    "gat_search",
    "gate_weights",
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
    "minkowski_dot",
    "mixed_curvature_attention",
    "mobius_add",
    "moe_attention",
    "moe_route",
    "multi_head_attention",
    "multi_query_attention",
    "partial_attention",
    "performer_attention",
    "poincare_attention",
    "poincare_to_lorentz",
    "project_to_ball",
    "random_feature_attention",
    "register",
    "relative_attention",
    "rms_norm",
    "rope",
    "rope_attention",
    "router_z_loss",
    "scaled_dot_attention",
    "scaled_dot_product_attention",
    "self_attention",
    "set_num_threads",
    "show_runtime",
    "silu",
    "sliding_attention",
    "sliding_window_attention",
    "softmax",
    "sparse_attention",
    "swiglu",
    "t5_attention",
    "top_k_gating",
    "topk",
    "use_isa",
    "varlen_attention",
    "xpos_attention",
]
