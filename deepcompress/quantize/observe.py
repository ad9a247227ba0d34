"""What values a tensor takes over many batches: their exact range, and a histogram of bounded size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcompress.errors import ModelError, ParameterError

_HALF = 2048  # bins on each side of zero
_HALF_BITS = 11
_NARROWEST = -1000  # a bin of 2^-1000; all that is narrower is as good as zero
_PIECE = 1 << 20  # values that are counted at a time, so that counting needs little memory


@dataclass(frozen=True)
class Observed:
    """The values of one tensor, all batches together.

    Attributes:
        low, high: the least and the greatest, exactly.
        total: how many values there were.
        zeros: how many of them were exactly 0: a ReLU makes many.
        exponent: a bin is 2^exponent wide, and bins meet at 0.
        start: bin i holds the values in [(start + i) 2^exponent, (start + i + 1) 2^exponent).
        counts: how many values each bin holds, zeros included; the first bin and the last are not empty.

    Raises:
        ParameterError: the fields contradict each other.
    """

    low: float
    high: float
    total: int
    zeros: int
    exponent: int
    start: int
    counts: tuple[int, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ParameterError.of("low, high", "Observed", "finite and ascending", (self.low, self.high))
        at_zero = self.counts[-self.start] if 0 <= -self.start < len(self.counts) else 0
        if sum(self.counts) != self.total or not self.total or not 0 <= self.zeros <= at_zero:
            expected = f"{self.total} values in sum, with {self.zeros} zeros in the bin that begins at 0"
            raise ParameterError.of("counts", "Observed", expected, (sum(self.counts), at_zero))

    @property
    def edges(self) -> NDArray[np.float64]:
        """Where the bins begin and end, (bins + 1,), ascending."""
        return np.ldexp(np.arange(self.start, self.start + len(self.counts) + 1, dtype=np.float64), self.exponent)

    @property
    def magnitudes(self) -> Observed:
        """The absolute values, as if they had been observed (a value at a bin's very edge may count one bin too low)."""
        negative, positive = self._halves()
        size = max(len(negative), len(positive))
        folded = np.pad(negative, (0, size - len(negative))) + np.pad(positive, (0, size - len(positive)))
        low = 0.0 if self.low <= 0 <= self.high else min(abs(self.low), abs(self.high))
        return self._with(low, max(abs(self.low), abs(self.high)), 0, folded, self.zeros)

    def rectified(self, ceiling: float = math.inf) -> Observed:
        """The values after a ReLU, or after one with a ceiling (6 for ReLU6), as if they had been observed."""
        negative, positive = self._halves()
        counts = np.pad(positive, (0, max(0, 1 - len(positive))))
        counts[0] += negative.sum()
        low, high = (min(max(value, 0.0), ceiling) for value in (self.low, self.high))
        last = min(int(high // 2.0**self.exponent), len(counts) - 1)
        counts[last] += counts[last + 1 :].sum()
        return self._with(low, high, 0, counts[: last + 1], self.zeros + int(negative.sum()))

    def config(self) -> dict[str, Any]:
        """The fields as JSON."""
        return {item.name: getattr(self, item.name) for item in fields(self)} | {"counts": list(self.counts)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Observed:
        """What `config()` described."""
        return cls(**{**config, "counts": tuple(config["counts"])})

    def _halves(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The counts of the bins below zero and above it, each from zero outwards."""
        counts = np.array(self.counts, np.int64)
        split = min(max(-self.start, 0), len(counts))
        below = np.pad(counts[:split][::-1], (max(-self.start - len(counts), 0), 0))
        return below, np.pad(counts[split:], (max(self.start, 0), 0))

    def _with(self, low: float, high: float, start: int, counts: NDArray[np.int64], zeros: int) -> Observed:
        used = np.flatnonzero(counts)
        kept = counts[used[0] : used[-1] + 1]
        return Observed(low, high, self.total, zeros, self.exponent, start + int(used[0]), tuple(kept.tolist()))


class Observer:
    """Counts the values of one tensor, batch by batch, in memory that does not grow.

    The bins are as wide as a power of two and meet at zero. When a value comes that lies beyond them, they are joined two by
    two, which takes no count into a wrong bin: so the result does not depend on the order of the batches, nor on how the values
    were cut into batches.

    Args:
        name: what is observed, for errors: "the output of layer 'conv1'".
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._low, self._high = math.inf, -math.inf
        self._total = self._zeros = 0
        self._exponent = _NARROWEST
        self._counts = np.zeros(2 * _HALF, np.int64)

    def add(self, values: Tensor) -> None:
        """Count the values of a tensor of any shape, floating-point type and device.

        Raises:
            ModelError: some of them are NaN or infinite.
        """
        flat = values.detach().reshape(-1)
        if not flat.numel():
            return
        low, high = (float(end) for end in torch.aminmax(flat))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise self._not_finite(flat)
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._total += flat.numel()
        self._zeros += flat.numel() - int(torch.count_nonzero(flat))
        self._widen(max(abs(low), abs(high)))
        for piece in flat.split(_PIECE):
            self._counts += self._count(piece)

    def result(self) -> Observed | None:
        """What was observed so far; None where there were no values."""
        if not self._total:
            return None
        used = np.flatnonzero(self._counts)
        counts = self._counts[used[0] : used[-1] + 1].tolist()
        start = int(used[0]) - _HALF
        return Observed(self._low, self._high, self._total, self._zeros, self._exponent, start, tuple(counts))

    def _widen(self, magnitude: float) -> None:
        """Make the bins reach beyond `magnitude`."""
        exponent = math.frexp(magnitude)[1] - _HALF_BITS if magnitude else _NARROWEST
        if exponent > self._exponent:
            places = np.arange(-_HALF, _HALF) >> min(exponent - self._exponent, _HALF_BITS)
            joined = np.zeros_like(self._counts)
            np.add.at(joined, places + _HALF, self._counts)
            self._counts, self._exponent = joined, exponent

    def _count(self, piece: Tensor) -> NDArray[np.int64]:
        precise = piece.cpu().double() if piece.device.type == "mps" else piece.double()
        places = (precise * 2.0**-self._exponent).floor_().long() + _HALF
        return torch.bincount(places, minlength=2 * _HALF).cpu().numpy()

    def _not_finite(self, flat: Tensor) -> ModelError:
        nans, infinite = int(torch.isnan(flat).sum()), int(torch.isinf(flat).sum())
        return ModelError(f"{self._name} has {nans} NaN and {infinite} infinite values among {flat.numel()}")
