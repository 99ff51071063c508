"""Attention by description: a builder for every type, pipelines of sub-layers, and configurations of known models."""

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

__all__ = [
    "Attention",
    "AttentionBuilder",
    "AttentionPreset",
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
    "local_global",
    "moe",
    "multi_head",
    "scaled_dot",
]
