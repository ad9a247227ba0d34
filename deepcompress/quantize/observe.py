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

from deepcompress.coding.denormals import denormals_kept
from deepcompress.errors import ModelError, ParameterError

_HALF_BITS = 11  # 2048 bins on each side of zero
_KEPT_BITS = _HALF_BITS - 1  # of a mantissa: bins of an observer are as wide as those beside the largest magnitude would be
_DROPPED_BITS = 52 - _KEPT_BITS
_MAGNITUDE = (1 << 63) - 1  # the bits of a float64 without its sign
_BIAS = 1023  # of its exponent
_LARGEST = float(np.finfo(np.float64).max)
_CROWDED = 1 / 64  # of the values other than zero; where the two bins beside zero hold so many, they are told apart
_NARROWEST = -1000  # a bin of 2^-1000; all that is narrower is as good as zero
_PIECE = 1 << 20  # values that are counted at a time, so that counting needs little memory

_Octaves = dict[int, NDArray[np.int64]]  # a float64's exponent bits -> how often each of the bins between two powers of two
_Keys = tuple[NDArray[np.int64], NDArray[np.int64]]  # exponent and upper mantissa bits, ascending; how often each


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
        fine: the values of the two bins beside zero by themselves, in narrower bins, where one far value makes bins so wide that
            those two hold many others (their `low` and `high` are exact to a bin); else None.

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
    fine: Observed | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ParameterError.of("low, high", "Observed", "finite and ascending", (self.low, self.high))
        at_zero = self.counts[-self.start] if 0 <= -self.start < len(self.counts) else 0
        if sum(self.counts) != self.total or not self.total or not 0 <= self.zeros <= at_zero:
            expected = f"{self.total} values in sum, with {self.zeros} zeros in the bin that begins at 0"
            raise ParameterError.of("counts", "Observed", expected, (sum(self.counts), at_zero))
        if self.fine is not None and (self.fine.total, self.fine.zeros) != (beside := self._beside_zero(), self.zeros):
            expected = f"of {beside} values with {self.zeros} zeros, as the bins beside zero are"
            raise ParameterError.of("fine", "Observed", expected, (self.fine.total, self.fine.zeros))

    @property
    def edges(self) -> NDArray[np.float64]:
        """Where the bins begin and end, (bins + 1,), ascending."""
        places = np.arange(self.start, self.start + len(self.counts) + 1, dtype=np.float64)
        with np.errstate(over="ignore"):
            return np.clip(np.ldexp(places, self.exponent), -_LARGEST, _LARGEST)

    def bins(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Edges, (n + 1,) ascending, and counts, (n,), of all bins, each as narrow as it is known."""
        edges, counts = self.edges, np.array(self.counts, np.int64)
        if self.fine is None:
            return edges, counts
        inner, between = self.fine.bins()
        first, last = max(-1 - self.start, 0), min(1 - self.start, len(counts))  # the bins beside zero, one of them perhaps
        inner = np.clip(inner, edges[first], edges[last])
        return (
            np.concatenate([edges[: first + 1], inner, edges[last:]]),
            np.concatenate([counts[:first], [0], between, [0], counts[last:]]),
        )

    @property
    def magnitudes(self) -> Observed:
        """The absolute values, as if they had been observed (a value at a bin's very edge may count one bin too low)."""
        negative, positive = self._halves()
        size = max(len(negative), len(positive))
        folded = np.pad(negative, (0, size - len(negative))) + np.pad(positive, (0, size - len(positive)))
        low = 0.0 if self.low <= 0 <= self.high else min(abs(self.low), abs(self.high))
        fine = None if self.fine is None else self.fine.magnitudes
        return self._with(low, max(abs(self.low), abs(self.high)), 0, folded, self.zeros, fine)

    def rectified(self, ceiling: float = math.inf) -> Observed:
        """The values after a ReLU, or after one with a ceiling (6 for ReLU6), as if they had been observed."""
        negative, positive = self._halves()
        counts = np.pad(positive, (0, max(0, 1 - len(positive))))
        counts[0] += negative.sum()
        low, high = (min(max(value, 0.0), ceiling) for value in (self.low, self.high))
        last = min(int(high // 2.0**self.exponent), len(counts) - 1)
        fine = None if self.fine is None else self.fine.rectified(ceiling)._with_zeros(int(negative[1:].sum()))
        if counts[last + 1 :].any() and last == 0:  # they join the values of the bin beside zero
            fine = None
        counts[last] += counts[last + 1 :].sum()
        return self._with(low, high, 0, counts[: last + 1], self.zeros + int(negative.sum()), fine)

    def config(self) -> dict[str, Any]:
        """The fields as JSON."""
        return {item.name: getattr(self, item.name) for item in fields(self)} | {
            "counts": list(self.counts),
            "fine": None if self.fine is None else self.fine.config(),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Observed:
        """What `config()` described."""
        fine = config.get("fine")
        parts = {"counts": tuple(config["counts"]), "fine": None if fine is None else cls.from_config(fine)}
        return cls(**{**config, **parts})

    def _halves(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The counts of the bins below zero and above it, each from zero outwards."""
        counts = np.array(self.counts, np.int64)
        split = min(max(-self.start, 0), len(counts))
        below = np.pad(counts[:split][::-1], (max(-self.start - len(counts), 0), 0))
        return below, np.pad(counts[split:], (max(self.start, 0), 0))

    def _beside_zero(self) -> int:
        """How many values the two bins beside zero hold, zeros included."""
        return sum(self.counts[max(-1 - self.start, 0) : max(1 - self.start, 0)])

    def _with(
        self, low: float, high: float, start: int, counts: NDArray[np.int64], zeros: int, fine: Observed | None
    ) -> Observed:  # fmt: skip
        used = np.flatnonzero(counts)
        kept = counts[used[0] : used[-1] + 1]
        fine = None if fine is None or fine.zeros == fine.total else fine
        return Observed(low, high, int(counts.sum()), zeros, self.exponent, start + int(used[0]), tuple(kept.tolist()), fine)

    def _with_zeros(self, more: int) -> Observed:
        """With so many zeros more; none of the values is below zero."""
        counts = np.pad(np.array(self.counts, np.int64), (self.start, 0))
        counts[0] += more
        fine = None if self.fine is None else self.fine._with_zeros(more)
        return self._with(0.0 if more else self.low, self.high, 0, counts, self.zeros + more, fine)


class Observer:
    """Counts the values of one tensor, batch by batch, in memory that does not grow with them.

    Values are counted by sign, exponent and the first ten bits of their mantissas, so that a bin is as wide as its values are
    large, and neither the order of the batches nor how values were cut into batches has an influence. The bins of equal width
    that `result` gives are these, put together.

    Args:
        name: what is observed, for errors: "the output of layer 'conv1'".
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._low, self._high = math.inf, -math.inf
        self._total = 0
        self._octaves: tuple[_Octaves, _Octaves] = ({}, {})  # of the values above zero and of those below

    @denormals_kept()
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
        for piece in flat.split(_PIECE):
            self._count(piece)

    @denormals_kept()
    def result(self) -> Observed | None:
        """What was observed so far; None where there were no values."""
        if not self._total:
            return None
        above, below = map(_keys_of, self._octaves)
        zeros = self._total - int(above[1].sum() + below[1].sum())
        return _observed(self._low, self._high, zeros, above, below)

    def _count(self, piece: Tensor) -> None:
        precise = piece.cpu().double() if piece.device.type == "mps" else piece.double()
        bits = precise.view(torch.int64) & _MAGNITUDE
        for below, octaves in enumerate(self._octaves):
            # One less below zero, where a bin's farther edge belongs to it: bins hold [from, to) on both sides.
            keys = (bits[precise < 0 if below else precise > 0] - below) >> _DROPPED_BITS
            if not keys.numel():
                continue
            first = int(keys.min()) >> _KEPT_BITS
            counts = torch.bincount(keys - (first << _KEPT_BITS)).cpu().numpy()
            for octave, start in enumerate(range(0, len(counts), 1 << _KEPT_BITS), first):
                part = counts[start : start + (1 << _KEPT_BITS)]
                if part.any():
                    known = octaves.setdefault(octave, np.zeros(1 << _KEPT_BITS, np.int64))
                    known[: len(part)] += part

    def _not_finite(self, flat: Tensor) -> ModelError:
        nans, infinite = int(torch.isnan(flat).sum()), int(torch.isinf(flat).sum())
        return ModelError(f"{self._name} has {nans} NaN and {infinite} infinite values among {flat.numel()}")


def _keys_of(octaves: _Octaves) -> _Keys:
    """The bins that are not empty, from zero outwards, and their counts."""
    if not octaves:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    keys = np.concatenate([np.flatnonzero(octaves[octave]) + (octave << _KEPT_BITS) for octave in sorted(octaves)])
    return keys, np.concatenate([octaves[octave][octaves[octave] > 0] for octave in sorted(octaves)])


def _observed(low: float, high: float, zeros: int, above: _Keys, below: _Keys) -> Observed:
    """Bins of equal width, as wide as the largest magnitude asks for; and again for those beside zero, where they are crowded."""
    largest = max(abs(low), abs(high))
    exponent = max(math.frexp(largest)[1] - _HALF_BITS, _NARROWEST) if largest else _NARROWEST
    places = (_places(above[0], exponent), -1 - _places(below[0], exponent))
    counts = np.zeros(2 << _HALF_BITS, np.int64)
    for place, (_, count) in zip(places, (above, below), strict=True):
        np.add.at(counts, place + (1 << _HALF_BITS), count)
    beside = [(keys[at], count[at]) for at, (keys, count) in ((places[0] == 0, above), (places[1] == -1, below))]
    inside, nonzero = (sum(int(count.sum()) for _, count in pair) for pair in (beside, (above, below)))
    fine = None
    if inside and inside >= _CROWDED * nonzero and exponent > _NARROWEST:
        fine = _observed(-_farthest(beside[1][0]), _farthest(beside[0][0]), zeros, beside[0], beside[1])
    counts[1 << _HALF_BITS] += zeros
    used = np.flatnonzero(counts)
    kept = tuple(counts[used[0] : used[-1] + 1].tolist())
    return Observed(low, high, zeros + nonzero, zeros, exponent, int(used[0]) - (1 << _HALF_BITS), kept, fine)


def _places(keys: NDArray[np.int64], exponent: int) -> NDArray[np.int64]:
    """How many bins of 2^exponent lie between zero and each of these."""
    mantissas = (keys & (1 << _KEPT_BITS) - 1) + (1 << _KEPT_BITS)
    shifts = exponent + _KEPT_BITS - ((keys >> _KEPT_BITS) - _BIAS)
    return np.asarray(mantissas >> np.clip(shifts, 0, _HALF_BITS))


def _farthest(keys: NDArray[np.int64]) -> float:
    """The farther edge of the last of these bins, 0 where there are none."""
    if not len(keys):
        return 0.0
    octave, mantissa = divmod(int(keys[-1]), 1 << _KEPT_BITS)
    return math.ldexp(mantissa + 1 + (1 << _KEPT_BITS), octave - _BIAS - _KEPT_BITS)
