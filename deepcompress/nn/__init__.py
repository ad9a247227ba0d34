"""Layers that the labs build from their parts; each is a plain module, which the pipeline compresses like any other."""

from deepcompress.nn.attention import AttentionHead, MultiHeadAttention, attention_weights, causal_mask, padding_mask
from deepcompress.nn.counts import trainable_parameters
from deepcompress.nn.depthwise import DepthwiseConv2d
from deepcompress.nn.lora import LoRALinear
from deepcompress.nn.positions import SinusoidalPositions, sinusoids
from deepcompress.nn.products import MatrixProducts
from deepcompress.nn.separable import DepthwiseSeparableConv2d, as_grouped, depthwise_separable_block, parameter_share
from deepcompress.nn.transformer import Transformer, TransformerConfig
from deepcompress.nn.transformer_layers import DecoderLayer, EncoderLayer

__all__ = [
    "AttentionHead",
    "DecoderLayer",
    "DepthwiseConv2d",
    "DepthwiseSeparableConv2d",
    "EncoderLayer",
    "LoRALinear",
    "MatrixProducts",
    "MultiHeadAttention",
    "SinusoidalPositions",
    "Transformer",
    "TransformerConfig",
    "as_grouped",
    "attention_weights",
    "causal_mask",
    "depthwise_separable_block",
    "padding_mask",
    "parameter_share",
    "sinusoids",
    "trainable_parameters",
]
