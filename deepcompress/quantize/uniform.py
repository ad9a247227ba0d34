"""Uniform grids with zero on them: which step, and how many levels on either side of zero, serve a range of values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Sides = list[tuple[Integers, Floats]]

LARGEST = {"bfloat16": float.fromhex("0x1.fep127")} | {
    name: float(np.finfo(name).max) for name in ("float16", "float32", "float64")
}


@dataclass(frozen=True, eq=False)
class UniformGrid:
    """The values step x level, for integer levels from `lowest` to `highest`, zero among them; a grid per channel.

    Attributes:
        step: (c,) above zero, float64 that the storage type holds exactly: float32, or float64 for float64 values.
        lowest, highest: (c,) at most and at least 0.
    """

    step: Floats
    lowest: Integers
    highest: Integers


def fit_uniform(
    low: Floats, high: Floats, bits: int, *, symmetric: bool, cover: bool = False, dtype: str = "float32"
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
        dtype: of the values. No level is beyond its largest number, though that may leave an end of the range a step outside.

    Source: Jacob et al. Quantization and training of neural networks for efficient integer-arithmetic-only inference. CVPR
    2018, sec. 3 (zero on the grid); Krishnamoorthi. Quantizing deep convolutional networks for efficient inference. 2018.
    arXiv:1806.08342, sec. 2 (symmetric, without -2**(bits - 1)).
    """
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    if symmetric:
        lowest, highest = _symmetric(low, high, bits)
        levels, reach = np.maximum(-lowest, highest), np.maximum(-low, high)
        step = _storable(reach / levels, [(levels, reach)], dtype)
    else:
        lowest, highest, step = _with_offset(low, high, (1 << bits) - 1, cover, dtype)
    return UniformGrid(np.minimum(step, _longest(np.maximum(-lowest, highest), dtype)), lowest, highest)


def _symmetric(low: Floats, high: Floats, bits: int) -> tuple[Integers, Integers]:
    """Lowest and highest levels."""
    if bits == 1:
        below = -low > high
        return np.where(below, -1, 0), np.where(below, 0, 1)
    highest = np.full(len(low), (1 << (bits - 1)) - 1)
    return -highest, highest


def _with_offset(low: Floats, high: Floats, top: int, cover: bool, dtype: str) -> tuple[Integers, Integers, Floats]:
    """Lowest and highest levels, top + 1 of them with zero, and the step."""
    with np.errstate(over="ignore"):
        step = _storable(high / top - low / top, [(np.full(len(low), top), high - low)], dtype)
    below = np.rint(-low / step).astype(np.int64).clip(0, top)
    if not cover or top == 1:
        return -below, top - below, step
    least, most = np.where(low < 0, 1, 0), np.where(high > 0, top - 1, top)
    under = np.floor(-low / step).astype(np.int64).clip(least, most)
    over = (under + 1).clip(least, most)
    below = np.where(_needed(low, high, over, top) < _needed(low, high, under, top), over, under)
    return -below, top - below, _storable(_needed(low, high, below, top), [(below, -low), (top - below, high)], dtype)


def _needed(low: Floats, high: Floats, below: Integers, top: int) -> Floats:
    """The step at which so many levels below zero, and the others above it, reach both ends."""
    needed: Floats = np.maximum(-low / below.clip(1), high / (top - below).clip(1))
    return needed


def _storable(step: Floats, sides: Sides, dtype: str) -> Floats:
    """Steps rounded to the type in which they are stored, up where for a side, (levels, length), levels x step < length.

    Rounding matters among the smallest numbers, of which there are few. A step of no length becomes 1.
    """
    kind: Any = np.float64 if dtype == "float64" else np.float32
    with np.errstate(under="ignore", over="ignore"):
        stored = step.astype(kind)
        for levels, length in sides:
            stored = np.where(stored.astype(np.float64) * levels < length, np.nextafter(stored, kind(np.inf)), stored)
    return np.where(stored > 0, stored, 1).astype(np.float64)


def _longest(levels: Integers, dtype: str) -> Floats:
    """The longest storable steps whose products with so many levels are not beyond the type's largest number."""
    kind: Any = np.float64 if dtype == "float64" else np.float32
    stored = (LARGEST[dtype] / levels).astype(kind)
    with np.errstate(over="ignore"):
        beyond = stored.astype(np.float64) * levels > LARGEST[dtype]
    return np.where(beyond, np.nextafter(stored, kind(0)), stored).astype(np.float64)
