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
from ruvector._primitives import batched_dot_products, dot, entmax, log_softmax, softmax, sparsemax
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
from ruvector._scores import attention_score, attention_scores
from ruvector._states import AttentionState, merge_states, partial_attention
from ruvector.cache import AttentionCache, KVCache
from ruvector.csr import CSRGraph
from ruvector.functional import (
    alibi_attention,
    attention,
    causal_attention,
    cross_attention,
    flash_attention,
    grouped_query_attention,
    local_attention,
    multi_head_attention,
    multi_query_attention,
    scaled_dot_attention,
    scaled_dot_product_attention,
    self_attention,
    sliding_window_attention,
    varlen_attention,
)
from ruvector.index import AttentionIndex
from ruvector.mechanisms.axial import axial_attention
from ruvector.mechanisms.clustering import clustered_attention, routing_attention, update_centroids
from ruvector.mechanisms.graph import GATLayer, gat, gat_search, gatv2
import ruvector.mechanisms.graph_attention  # types alone
from ruvector.mechanisms.hashing import hash_based_attention, reformer_attention
from ruvector.mechanisms.hyperbolic import (
    exp_map,
    gyromidpoint,
    hyperbolic_cdist,
    hyperbolic_distance,
    log_map,
    lorentz_cdist,
    lorentz_centroid,
    lorentz_distance,
    lorentz_to_poincare,
    minkowski_dot,
    mobius_add,
    poincare_to_lorentz,
    project_to_ball,
)
from ruvector.mechanisms.hyperbolic_attention import lorentz_attention, mixed_curvature_attention, poincare_attention
from ruvector.mechanisms.linear import (
    LinearState,
    draw_features,
    linear_attention,
    performer_attention,
    random_feature_attention,
)
from ruvector.mechanisms.lowrank import linformer_attention, nystrom_attention
from ruvector.mechanisms.positions import rope, rope_attention, xpos_attention
from ruvector.mechanisms.relative import relative_attention, t5_attention
from ruvector.mechanisms.memory import CompressiveMemory, FeedbackMemory, compressive_attention, feedback_attention
from ruvector.mechanisms.moe import (
    ExpertLoad,
    MixtureOfExperts,
    Routing,
    expert_capacity,
    gate_weights,
    load_balancing_loss,
    moe_route,
    router_z_loss,
)
from ruvector.mechanisms.moe_attention import moe_attention
from ruvector.mechanisms.product_key import product_key_attention
from ruvector.mechanisms.sinkhorn import sinkhorn_attention, sparse_sinkhorn_attention
from ruvector.mechanisms.residual import (
    adaptive_span_attention,
    fixup_attention,
    fixup_scale,
    realformer_attention,
    realformer_logits,
    rezero_attention,
    t_fixup_scale,
)
from ruvector.mechanisms.sparse import (
    bigbird_attention,
    block_sparse_attention,
    dilated_attention,
    longformer_attention,
    sliding_attention,
    sparse_attention,
)
from ruvector.mechanisms.weights import (
    additive_attention,
    cosine_attention,
    differential_attention,
    entmax_attention,
    sigmoid_attention,
    sparsemax_attention,
    talking_heads_attention,
)
from ruvector.mechanisms.synthesizer import synthesizer_attention
from ruvector.patterns import Pattern as SparsePattern
from ruvector.retrieval import mha_search
from ruvector.runtime import get_num_threads, isa, isas, set_num_threads, show_runtime, use_isa

from ruvector import sdk  # last: types are listed in the order in which the modules above add them

__version__ = "0.1.0"

__all__ = [
    "AttentionCache",
    "AttentionIndex",
    "AttentionRecord",
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
    "Parameter",
    "RopeScaling",
    "Routing",
    "SparsePattern",
    "UnknownAttentionType",
    "__version__",
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
    "clustered_attention",
    "compressive_attention",
    "cosine_attention",
    "cross_attention",
    "differential_attention",
    "dilated_attention",
    "dot",
    "draw_features",
    "entmax",
    "entmax_attention",
    "exp_map",
    "expert_capacity",
    "feedback_attention",
    "fixup_attention",
    "fixup_scale",
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
    "hash_based_attention",
    "hyperbolic_cdist",
    "hyperbolic_distance",
    "isa",
    "isas",
    "layer_norm",
    "linear_attention",
    "linformer_attention",
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
    "minkowski_dot",
    "mixed_curvature_attention",
    "mobius_add",
    "moe_attention",
    "moe_route",
    "multi_head_attention",
    "multi_query_attention",
    "nystrom_attention",
    "partial_attention",
    "performer_attention",
    "poincare_attention",
    "poincare_to_lorentz",
    "product_key_attention",
    "project_to_ball",
    "random_feature_attention",
    "realformer_attention",
    "realformer_logits",
    "reformer_attention",
    "register",
    "relative_attention",
    "rezero_attention",
    "rms_norm",
    "rope",
    "rope_attention",
    "router_z_loss",
    "routing_attention",
    "scaled_dot_attention",
    "scaled_dot_product_attention",
    "self_attention",
    "set_num_threads",
    "show_runtime",
    "sigmoid_attention",
    "silu",
    "sinkhorn_attention",
    "sliding_attention",
    "sliding_window_attention",
    "softmax",
    "sparse_attention",
    "sparse_sinkhorn_attention",
    "sparsemax",
    "sparsemax_attention",
    "swiglu",
    "synthesizer_attention",
    "t5_attention",
    "t_fixup_scale",
    "talking_heads_attention",
    "top_k_gating",
    "topk",
    "update_centroids",
    "use_isa",
    "varlen_attention",
    "xpos_attention",
]
