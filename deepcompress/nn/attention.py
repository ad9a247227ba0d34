"""Attention, one head after another, and the masks that say who may look where."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from deepcompress.errors import ParameterError


def causal_mask(length: int, device: torch.device | str | None = None) -> Tensor:
    """(length, length), bool, True where position t (row) may look at position s (column): s <= t."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def padding_mask(tokens: Tensor, padding: int) -> Tensor:
    """(b, 1, n), bool, of tokens (b, n): True where there is a token, False where `padding` fills a row up."""
    return (tokens != padding).unsqueeze(-2)


def attention_weights(queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(d)), row by row; a row that may look nowhere is zero throughout.

    Args:
        queries: (..., n, d).
        keys: (..., m, d).
        mask: bool, broadcast to (..., n, m), True = may look; None for everywhere.

    Returns:
        (..., n, m): what is masked is exactly 0, and each other row sums to 1.

    Source: Vaswani et al. Attention is all you need. NIPS 2017, sec. 3.2.1. arXiv:1706.03762.
    """
    scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])
    if mask is None:
        return scores.softmax(-1)
    hidden = ~mask
    return scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(hidden, 0.0)


class AttentionHead(nn.Module):
    """One head: three projections, and two products of what they give; five matrix products.

    The projections are `query`, `key` and `value` (head_width, d_model) with biases. Calls of nn.Linear show the first three
    products to a module hook, the other two are calls of `@` and show to none.

    Args:
        d_model: width of a token's vector.
        head_width: width within the head.
        dropout: share of the attention weights that are zeroed while training.

    Source: Vaswani et al. Attention is all you need. NIPS 2017, sec. 3.2. arXiv:1706.03762.
    """

    def __init__(self, d_model: int, head_width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.query = nn.Linear(d_model, head_width)
        self.key = nn.Linear(d_model, head_width)
        self.value = nn.Linear(d_model, head_width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        weights = attention_weights(self.query(queries), self.key(memory), mask)
        out: Tensor = self.dropout(weights) @ self.value(memory)
        return out


class MultiHeadAttention(nn.Module):
    """Heads side by side and a projection of all that they found: 5 h + 1 matrix products for h heads.

    Each head has modules of its own and is calculated by itself, as the paper draws it. Fused, with the heads of each
    projection in one matrix and the heads a dimension of the batch, the same takes 6 products whatever h is (4 where queries,
    keys and values come from one input and are projected in one product, as in torch.nn.MultiheadAttention).

    Weights start Xavier-uniform, each head's projection by itself, biases at zero.

    Input: queries (b, n, d_model), memory (b, m, d_model), mask (n, m), (b, 1, m) or (b, n, m), True = may look.
    Output (b, n, d_model).

    Args:
        d_model: width of a token's vector, a multiple of `heads`.
        heads: at least 1.
        dropout: share of the attention weights that are zeroed while training.

    Raises:
        ParameterError: `d_model` is no multiple of `heads`.

    Source: Vaswani et al. Attention is all you need. NIPS 2017, sec. 3.2.2; Glorot, Bengio. AISTATS 2010 (initialisation).
    """

    def __init__(self, d_model: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or d_model < 1 or d_model % heads:
            raise ParameterError.of("heads", "MultiHeadAttention", f"at least 1, and a divisor of d_model, {d_model}", heads)
        self.heads = nn.ModuleList(AttentionHead(d_model, d_model // heads, dropout) for _ in range(heads))
        self.output = nn.Linear(d_model, d_model)
        start_linear_layers(self)

    def forward(self, queries: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        found = [head(queries, memory, mask) for head in self.heads]
        out: Tensor = self.output(torch.cat(found, -1))
        return out


def start_linear_layers(module: nn.Module) -> None:
    """Every linear layer within: weight Xavier-uniform, bias zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
