"""Uniform grids with zero on them: which step, and how many levels on either side of zero, serve a range of values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.quantize.codebooks import LARGEST, round_to_type

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Sides = list[tuple[Integers, Floats]]
Types = tuple[str, str]


def ends_of(cut: NDArray[Any]) -> tuple[Floats, Floats]:
    """(channels,) each: the least and the greatest of (outer, channels, inner) values, NaN where one is; of none, zeros."""
    if not cut.size:
        return np.zeros(cut.shape[1]), np.zeros(cut.shape[1])
    return cut.min(axis=(0, 2)).astype(np.float64), cut.max(axis=(0, 2)).astype(np.float64)


@dataclass(frozen=True, eq=False)
class UniformGrid:
    """The values step x level, for integer levels from `lowest` to `highest`, zero among them; a grid per channel.

    Attributes:
        step: (c,) above zero, float64 that the type in which it is stored holds exactly.
        lowest, highest: (c,) at most and at least 0.
    """

    step: Floats
    lowest: Integers
    highest: Integers


def fit_uniform(
    low: Floats, high: Floats, bits: int, *, symmetric: bool, cover: bool = False, types: Types = ("float32", "float32")
) -> UniformGrid:  # fmt: skip
    """The grid of at most 2**bits levels for values from `low` to `high`; zero is always in its range and on it.

    Args:
        low, high: (c,) finite, low <= high.
        bits: 1 to 16.
        symmetric: levels from -(2**(bits - 1) - 1) to 2**(bits - 1) - 1, so that the grid has each level's negative. One bit has
            no such levels but zero: there it is zero and one level on the side of the farther end. Otherwise there are
            2**bits levels, the range's share of them below zero; that share is rounded to an integer, so that an end of the range
            may lie half a step outside.
        cover: no end may lie outside. The step becomes longer by a factor of 1 + 1 / n at most, n being the levels on the
            shorter side; with one bit and ends on both sides of zero there is no such grid.
        types: those of the values and of the step. No level is beyond the largest of the values' type, though that may leave an
            end of the range a step outside.

    Source: Jacob et al. Quantization and training of neural networks for efficient integer-arithmetic-only inference. CVPR
    2018, sec. 3 (zero on the grid); Krishnamoorthi. Quantizing deep convolutional networks for efficient inference. 2018.
    arXiv:1806.08342, sec. 2 (symmetric, without -2**(bits - 1)).
    """
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    if symmetric:
        lowest, highest = _symmetric(low, high, bits)
        levels, reach = np.maximum(-lowest, highest), np.maximum(-low, high)
        step = _storable(reach / levels, [(levels, reach)], types[1])
    else:
        lowest, highest, step = _with_offset(low, high, (1 << bits) - 1, cover, types[1])
    return UniformGrid(np.minimum(step, _longest(np.maximum(-lowest, highest), types)), lowest, highest)


def _symmetric(low: Floats, high: Floats, bits: int) -> tuple[Integers, Integers]:
    """Lowest and highest levels."""
    if bits == 1:
        below = -low > high
        return np.where(below, -1, 0), np.where(below, 0, 1)
    highest = np.full(len(low), (1 << (bits - 1)) - 1)
    return -highest, highest


def _with_offset(low: Floats, high: Floats, top: int, cover: bool, stored: str) -> tuple[Integers, Integers, Floats]:
    """Lowest and highest levels, top + 1 of them with zero, and the step."""
    with np.errstate(over="ignore"):
        step = _storable(high / top - low / top, [(np.full(len(low), top), high - low)], stored)
    below = np.rint(-low / step).astype(np.int64).clip(0, top)
    if not cover or top == 1:
        return -below, top - below, step
    least, most = np.where(low < 0, 1, 0), np.where(high > 0, top - 1, top)
    under = np.floor(-low / step).astype(np.int64).clip(least, most)
    over = (under + 1).clip(least, most)
    below = np.where(_needed(low, high, over, top) < _needed(low, high, under, top), over, under)
    return -below, top - below, _storable(_needed(low, high, below, top), [(below, -low), (top - below, high)], stored)


def _needed(low: Floats, high: Floats, below: Integers, top: int) -> Floats:
    """The step at which so many levels below zero, and the others above it, reach both ends."""
    needed: Floats = np.maximum(-low / below.clip(1), high / (top - below).clip(1))
    return needed


def _storable(step: Floats, sides: Sides, stored: str) -> Floats:
    """Steps rounded to the type in which they are stored, up where for a side, (levels, length), levels x step < length.

    Rounding matters among the smallest numbers, of which there are few. A step of no length becomes 1.
    """
    found = round_to_type(step, stored).astype(np.float64)
    with np.errstate(over="ignore"):
        for levels, length in sides:
            found = np.where(found * levels < length, _beside(found, stored, up=True), found)
    return np.where(found > 0, found, 1.0)


def _longest(levels: Integers, types: Types) -> Floats:
    """The longest storable steps whose products with so many levels are not beyond the largest of the values' type."""
    found = round_to_type(LARGEST[types[0]] / levels, types[1]).astype(np.float64)
    with np.errstate(over="ignore"):
        beyond = found * levels > LARGEST[types[0]]
    return np.where(beyond, _beside(found, types[1], up=False), found)


def _beside(step: Floats, stored: str, *, up: bool) -> Floats:
    """The next number of a type above or below each of these of it, at least 0; infinity stays."""
    if stored == "bfloat16":
        bits = step.astype(np.float32).view(np.uint32).astype(np.int64) + (0x10000 if up else -0x10000)
        return bits.clip(0, 0x7F800000).astype(np.uint32).view(np.float32).astype(np.float64)
    kind: Any = np.dtype(stored).type
    beside: NDArray[Any] = np.nextafter(step.astype(kind), kind(np.inf if up else 0))
    return beside.astype(np.float64)
