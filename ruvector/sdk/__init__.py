"""Attention by description: a builder for every type, pipelines, configurations of known models, and models from files."""

from ruvector.sdk.attention import Attention
from ruvector.sdk.builder import (
    AttentionBuilder,
    UnusedOptionWarning,
    flash,
    hyperbolic,
    linear,
    local_global,
    moe,
    multi_head,
    scaled_dot,
)
from ruvector.sdk.layers import LayerNorm, RMSNorm, TransformerLayer
from ruvector.sdk.models import Decoder, Encoder, load
from ruvector.sdk.pipeline import AttentionPipeline, prenorm_transformer_block, transformer_block
from ruvector.sdk.presets import (
    AttentionPreset,
    for_generation,
    for_graphs,
    for_large_scale,
    for_moe,
    for_sequences,
    for_vision,
    from_model_name,
)
from ruvector.sdk.stages import FeedForward, NormType

__all__ = [
    "Attention",
    "AttentionBuilder",
    "AttentionPipeline",
    "AttentionPreset",
    "Decoder",
    "Encoder",
    "FeedForward",
    "LayerNorm",
    "NormType",
    "RMSNorm",
    "TransformerLayer",
    "UnusedOptionWarning",
    "flash",
    "for_generation",
    "for_graphs",
    "for_large_scale",
    "for_moe",
    "for_sequences",
    "for_vision",
    "from_model_name",
    "hyperbolic",
    "linear",
    "load",
    "local_global",
    "moe",
    "multi_head",
    "prenorm_transformer_block",
    "scaled_dot",
    "transformer_block",
]
