"""The layers that a transformer stacks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from deepcompress.nn.attention import MultiHeadAttention, start_linear_layers


class Residual(nn.Module):
    """x + f(x) with a layer norm: after the sum (post-norm, as the paper has it), or before f (pre-norm).

    Pre-norm trains without warm-up and needs a norm after the last layer (Xiong et al. On layer normalization in the transformer
    architecture. ICML 2020).
    """

    def __init__(self, d_model: int, dropout: float, norm_first: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.norm_first = norm_first

    def forward(self, tokens: Tensor, inner: Callable[[Tensor], Tensor]) -> Tensor:
        out: Tensor = tokens + self.dropout(inner(self.norm(tokens) if self.norm_first else tokens))
        return out if self.norm_first else self.norm(out)


def feed_forward(d_model: int, d_ff: int, dropout: float) -> nn.Sequential:
    """Two linear layers with a ReLU between: two matrix products. Input and output (..., d_model)."""
    layers = nn.Sequential(nn.Linear(d_model, d_ff), nn.ReLU(), nn.Dropout(dropout), nn.Linear(d_ff, d_model))
    start_linear_layers(layers)
    return layers


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward network: (5 h + 1) + 2 = 5 h + 3 matrix products for h heads; fused, 8.

    Input (b, n, d_model) and its mask, output (b, n, d_model).

    Args:
        d_model, heads: see MultiHeadAttention.
        d_ff: width within the feed-forward network.
        dropout: while training, of attention weights, of the inner activations, and of what each part adds.
        norm_first: pre-norm; see Residual.

    Source: Vaswani et al. Attention is all you need. NIPS 2017, sec. 3.1. arXiv:1706.03762.
    """

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm_first: bool = False) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(d_model, heads, dropout)
        self.feed_forward = feed_forward(d_model, d_ff, dropout)
        self.around_attention = Residual(d_model, dropout, norm_first)
        self.around_feed_forward = Residual(d_model, dropout, norm_first)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens = self.around_attention(tokens, lambda inputs: self.attention(inputs, inputs, mask))
        out: Tensor = self.around_feed_forward(tokens, self.feed_forward)
        return out


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder's output, a feed-forward network: 2 (5 h + 1) + 2 = 10 h + 4 products; fused, 14.

    Input (b, n, d_model), the encoder's output (b, m, d_model) and a mask for each; output (b, n, d_model).

    Args: those of EncoderLayer.

    Source: Vaswani et al. Attention is all you need. NIPS 2017, sec. 3.1. arXiv:1706.03762.
    """

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm_first: bool = False) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(d_model, heads, dropout)
        self.cross_attention = MultiHeadAttention(d_model, heads, dropout)
        self.feed_forward = feed_forward(d_model, d_ff, dropout)
        self.around_attention = Residual(d_model, dropout, norm_first)
        self.around_cross_attention = Residual(d_model, dropout, norm_first)
        self.around_feed_forward = Residual(d_model, dropout, norm_first)

    def forward(
        self, tokens: Tensor, memory: Tensor, mask: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Tensor:
        tokens = self.around_attention(tokens, lambda inputs: self.attention(inputs, inputs, mask))
        tokens = self.around_cross_attention(tokens, lambda inputs: self.cross_attention(inputs, memory, memory_mask))
        out: Tensor = self.around_feed_forward(tokens, self.feed_forward)
        return out
