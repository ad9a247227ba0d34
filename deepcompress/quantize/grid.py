"""The values that activations may take in few bits: evenly spaced, with 0 among them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepcompress.errors import ParameterError
from deepcompress.quantize.uniform import fit_uniform

MOST_BITS = 16
_LEAST_SCALE = 2.0**-126  # the least normal float32: dividing by it stays finite


@dataclass(frozen=True)
class Grid:
    """What the codes of a tensor stand for: code q for scale x (q - zero_point).

    Codes and steps are those of `quantize_affine`. Zero is always exact: a padded border, or what a ReLU cuts off, costs nothing.

    Attributes:
        scale: the step between neighbours, above 0.
        zero_point: the code that stands for 0.0.
        bits: of a code, from 2 to 16.
        symmetric: the zero point is 0, and as many codes lie below as above it. Else codes count from 0 up.

    Raises:
        ParameterError: a field is out of its range.

    Source: Jacob et al. Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference. CVPR 2018,
    sec. 2.1. arXiv:1712.05877.
    """

    scale: float
    zero_point: int
    bits: int
    symmetric: bool

    def __post_init__(self) -> None:
        check_bits(self.bits, "Grid")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ParameterError.of("scale", "Grid", "a finite number above 0", self.scale)
        low, high = (0, 0) if self.symmetric else (self.lowest, self.highest)
        if not low <= self.zero_point <= high:
            raise ParameterError.of("zero_point", "Grid", f"an int from {low} to {high}", self.zero_point)

    @classmethod
    def over(cls, low: float, high: float, *, bits: int, symmetric: bool = False) -> Grid:
        """The grid over [low, high], widened to hold 0; its ends move by half a step at most for 0 to be exact.

        A range of zero length gets steps of 1.
        """
        check_bits(bits, "Grid.over")
        found = fit_uniform(np.array([low]), np.array([high]), bits, symmetric=symmetric)
        scale = max(float(found.step[0]), _LEAST_SCALE)
        return cls(scale, 0 if symmetric else -int(found.lowest[0]), bits, symmetric)

    @property
    def lowest(self) -> int:
        """The least code."""
        return -self.highest if self.symmetric else 0

    @property
    def highest(self) -> int:
        """The greatest code."""
        return int(2 ** (self.bits - 1) - 1 if self.symmetric else 2**self.bits - 1)

    @property
    def low(self) -> float:
        """The least value on the grid."""
        return self.scale * (self.lowest - self.zero_point)

    @property
    def high(self) -> float:
        """The greatest value on the grid."""
        return self.scale * (self.highest - self.zero_point)

    @property
    def dtype(self) -> torch.dtype:
        """The narrowest type of torch that holds the codes."""
        signed, unsigned = (torch.int8, torch.uint8) if self.bits <= 8 else (torch.int16, torch.uint16)
        return signed if self.symmetric else unsigned

    def quantize(self, values: Tensor) -> Tensor:
        """The code of the nearest value on the grid, halves to even, what lies beyond its ends to the end; in float64."""
        places = torch.round(values.detach().double() / self.scale) + self.zero_point
        return places.clamp_(self.lowest, self.highest).to(self.dtype)

    def dequantize(self, codes: Tensor) -> Tensor:
        """The values that codes stand for, float32."""
        return ((codes.double() - self.zero_point) * self.scale).float()

    def config(self) -> dict[str, Any]:
        """The fields as JSON."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Grid:
        """What `config()` described."""
        return cls(**config)


def check_bits(bits: object, owner: str) -> None:
    """Raises ParameterError for what is no number of bits of a code."""
    if not isinstance(bits, int) or isinstance(bits, bool) or not 2 <= bits <= MOST_BITS:
        raise ParameterError.of("bits", owner, f"an int from 2 to {MOST_BITS}", bits)
