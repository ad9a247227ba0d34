"""A small encoder-decoder transformer, every part of it in sight."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepcompress.errors import ParameterError
from deepcompress.nn.attention import causal_mask, padding_mask, start_linear_layers
from deepcompress.nn.positions import SinusoidalPositions
from deepcompress.nn.transformer_layers import DecoderLayer, EncoderLayer

_COUNTS = ("source_tokens", "target_tokens", "d_model", "heads", "layers", "d_ff", "max_length")


@dataclass(frozen=True)
class TransformerConfig:
    """The hyperparameters of a transformer; the paper's base model has 512, 8, 6, 2048 and 0.1 from `d_model` on.

    Attributes:
        source_tokens, target_tokens: sizes of the two vocabularies.
        d_model: width of a token's vector, a multiple of `heads`.
        heads: per attention.
        layers: of the encoder, and as many of the decoder.
        d_ff: width within the feed-forward networks.
        dropout: while training, in [0, 1).
        max_length: longest sequence.
        norm_first: layer norms before attention and feed-forward networks, and one after the last layer, instead of after each
            sum as in the paper. Pre-norm trains without warm-up.
        padding: the token that fills rows up, in both vocabularies; None where none does.

    Raises:
        ParameterError: a number out of its range.
    """

    source_tokens: int
    target_tokens: int
    d_model: int = 64
    heads: int = 4
    layers: int = 2
    d_ff: int = 256
    dropout: float = 0.1
    max_length: int = 128
    norm_first: bool = False
    padding: int | None = 0

    def __post_init__(self) -> None:
        for name in _COUNTS:
            self._require(name, _is_int(getattr(self, name), 1), "an int of at least 1")
        self._require("heads", self.d_model % self.heads == 0, f"a divisor of d_model, {self.d_model}")
        self._require("dropout", isinstance(self.dropout, int | float) and 0 <= self.dropout < 1, "a number in [0, 1)")
        self._require("padding", self.padding is None or _is_int(self.padding, 0), "None or a token, an int of at least 0")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ParameterError.of(name, "TransformerConfig", expected, getattr(self, name))

    @property
    def products(self) -> int:
        """Matrix products of one forward pass, heads counted one by one: layers x (15 heads + 7) + 1."""
        return self.layers * (15 * self.heads + 7) + 1

    @property
    def fused_products(self) -> int:
        """The same where each projection and each attention takes all heads in one product: layers x 22 + 1."""
        return self.layers * 22 + 1


class Transformer(nn.Module):
    """Encoder and decoder of `layers` layers each, over learned embeddings and sinusoidal positions.

    One forward pass runs N (5 h + 3) matrix products in the encoder, N (10 h + 4) in the decoder and one for the logits:
    N (15 h + 7) + 1 for N layers of h heads, each head by itself. Fused heads would take 22 N + 1 (see MultiHeadAttention).

    Matrices start Xavier-uniform, biases at zero, norms at one and zero; embeddings are Gaussian with variance 1 / d_model and
    multiplied by sqrt(d_model), so that they are of the size of the positions that are added. Embeddings and the projection to
    logits are matrices of their own.

    Input: source (b, n) and target (b, m), int64 tokens; output logits (b, m, target_tokens), those at t a function of the
    target up to t: for training, give the target without its last token and compare with the target without its first.

    Args:
        config: the hyperparameters.

    Raises:
        ParameterError: in `forward`, tokens of another shape or longer than `max_length`.

    Source: Vaswani et al. Attention is all you need. NIPS 2017. arXiv:1706.03762.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        sizes = (config.d_model, config.heads, config.d_ff, config.dropout, config.norm_first)
        self.source_embedding = nn.Embedding(config.source_tokens, config.d_model)
        self.target_embedding = nn.Embedding(config.target_tokens, config.d_model)
        self.positions = SinusoidalPositions(config.d_model, config.max_length)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(config.layers))
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(config.layers))
        self.encoder_norm = _last_norm(config)
        self.decoder_norm = _last_norm(config)
        self.logits = nn.Linear(config.d_model, config.target_tokens)
        start_linear_layers(self.logits)
        for embedding in (self.source_embedding, self.target_embedding):
            nn.init.normal_(embedding.weight, std=config.d_model**-0.5)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, seen = self.encode(source)
        return self.decode(target, memory, seen)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor | None]:
        """The encoder's output, (b, n, d_model), and which of it are tokens, (b, 1, n)."""
        mask = self._tokens_mask(source)
        hidden = self._embedded(self.source_embedding, source)
        for layer in self.encoder:
            hidden = layer(hidden, mask)
        return self.encoder_norm(hidden), mask

    def decode(self, target: Tensor, memory: Tensor, memory_mask: Tensor | None = None) -> Tensor:
        """Logits (b, m, target_tokens) of a target (b, m) so far, given what `encode` returned."""
        mask, tokens = causal_mask(target.shape[-1], target.device), self._tokens_mask(target)
        mask = mask if tokens is None else mask & tokens
        hidden = self._embedded(self.target_embedding, target)
        for layer in self.decoder:
            hidden = layer(hidden, memory, mask, memory_mask)
        out: Tensor = self.logits(self.decoder_norm(hidden))
        return out

    @torch.no_grad()
    def greedy(self, source: Tensor, start: int, *, end: int | None = None, limit: int | None = None) -> Tensor:
        """The likeliest next token, again and again; in evaluation mode, whatever the mode is. Each step decodes from the start.

        Args:
            source: (b, n) tokens.
            start: the token that every target begins with.
            end: the token that ends one; what follows it in its row is padding (`end` itself where there is no padding token).
            limit: tokens to write at most; None for `max_length`.

        Returns:
            (b, tokens written), without `start`: as many as the longest row takes.
        """
        mode = self.training
        try:
            return self._greedy(source, start, end, self.config.max_length if limit is None else limit)
        finally:
            self.train(mode)

    def _greedy(self, source: Tensor, start: int, end: int | None, limit: int) -> Tensor:
        memory, seen = self.eval().encode(source)
        written = source.new_full((len(source), 1), start)
        done = torch.zeros(len(source), dtype=torch.bool, device=source.device)
        after = end if self.config.padding is None else self.config.padding
        while written.shape[1] <= limit and not bool(done.all()):
            token = self.decode(written, memory, seen)[:, -1].argmax(-1)
            if end is not None and after is not None:
                token = token.masked_fill(done, after)
                done |= token == end
            written = torch.cat([written, token[:, None]], 1)
        return written[:, 1:]

    def _embedded(self, embedding: nn.Module, tokens: Tensor) -> Tensor:
        if tokens.ndim != 2:
            raise ParameterError.of("tokens", "Transformer", "of shape (b, n)", tuple(tokens.shape))
        vectors: Tensor = self.dropout(self.positions(embedding(tokens) * math.sqrt(self.config.d_model)))
        return vectors

    def _tokens_mask(self, tokens: Tensor) -> Tensor | None:
        return None if self.config.padding is None else padding_mask(tokens, self.config.padding)


def _last_norm(config: TransformerConfig) -> nn.Module:
    """After the sums of pre-norm layers, which nothing has normalised; post-norm layers end with a norm of their own."""
    return nn.LayerNorm(config.d_model) if config.norm_first else nn.Identity()


def _is_int(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
