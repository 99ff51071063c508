from ruvector.sdk.attention import Attention as Attention
from ruvector.sdk.builder import (
    AttentionBuilder as AttentionBuilder,
    UnusedOptionWarning as UnusedOptionWarning,
    flash as flash,
    hyperbolic as hyperbolic,
    linear as linear,
    local_global as local_global,
    moe as moe,
    multi_head as multi_head,
    scaled_dot as scaled_dot,
)
from ruvector.sdk.layers import (
    LayerNorm as LayerNorm,
    RMSNorm as RMSNorm,
    TransformerLayer as TransformerLayer,
)
from ruvector.sdk.models import Decoder as Decoder, Encoder as Encoder, load as load
from ruvector.sdk.pipeline import (
    AttentionPipeline as AttentionPipeline,
    prenorm_transformer_block as prenorm_transformer_block,
    transformer_block as transformer_block,
)
from ruvector.sdk.presets import (
    AttentionPreset as AttentionPreset,
    for_generation as for_generation,
    for_graphs as for_graphs,
    for_large_scale as for_large_scale,
    for_moe as for_moe,
    for_sequences as for_sequences,
    for_vision as for_vision,
    from_model_name as from_model_name,
)
from ruvector.sdk.stages import FeedForward as FeedForward, NormType as NormType

__all__: list[str]
