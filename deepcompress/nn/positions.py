"""Where a token stands, as a vector of sines and cosines."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepcompress.errors import ParameterError

LONGEST_WAVE = 10_000.0  # in units of 2 pi tokens


def sinusoids(length: int, width: int) -> Tensor:
    """Positional encodings: columns 2i and 2i + 1 of row p are the sine and the cosine of p / 10000^(2i / width).

    The product of two rows depends on the distance of their positions alone, as sin a sin b + cos a cos b = cos(a - b): the Gram
    matrix has equal values along its diagonals.

    Returns:
        (length, width), float64; where `width` is odd, the last column is a sine without its cosine.

    Source: Vaswani et al. Attention is all you need. NIPS 2017, sec. 3.5. arXiv:1706.03762.
    """
    positions = torch.arange(length, dtype=torch.float64)[:, None]
    rates = LONGEST_WAVE ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = positions * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]


class SinusoidalPositions(nn.Module):
    """Adds the encoding of its position to each token. Input and output (..., n, width), n <= max_length.

    No weights: the table is a buffer that a state dict leaves out, calculated in float64 and rounded to the module's dtype.

    Args:
        width: of a token's vector.
        max_length: positions in the table.

    Source: Vaswani et al. Attention is all you need. NIPS 2017, sec. 3.5. arXiv:1706.03762.
    """

    table: Tensor

    def __init__(self, width: int, max_length: int) -> None:
        super().__init__()
        self.register_buffer("table", sinusoids(max_length, width).to(torch.get_default_dtype()), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[-2]
        if length > len(self.table):
            raise ParameterError.of("tokens", "SinusoidalPositions", f"at most {len(self.table)} positions long", length)
        return tokens + self.table[:length]
