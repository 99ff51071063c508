"""Attention by description, and transformers from the weights of published models."""

from ruvector.sdk.layers import FeedForward, LayerNorm, MultiHeadAttention, RMSNorm, TransformerLayer
from ruvector.sdk.models import Decoder, Encoder, load

__all__ = [
    "Decoder",
    "Encoder",
    "FeedForward",
    "LayerNorm",
    "MultiHeadAttention",
    "RMSNorm",
    "TransformerLayer",
    "load",
]
