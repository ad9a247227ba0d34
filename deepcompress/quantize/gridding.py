"""Whole tensors onto uniform grids, as a file holds them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.bits import symbol_dtype
from deepcompress.coding.pool import share
from deepcompress.quantize.codebooks import round_to_type
from deepcompress.quantize.rounding import round_into
from deepcompress.quantize.uniform import ends_of, fit_uniform
from deepcompress.tensors.affine import AffineGrid, AffineMap, by_channel
from deepcompress.tensors.elements import bfloat16_to_float32, numpy_dtype

Array = NDArray[Any]

_PART = 1 << 16  # values whose differences stay in the cache


@dataclass(frozen=True)
class GridKind:
    """How a tensor is put onto a grid; see `quantize_affine` for each of these. `step`: a narrower type for steps, or None."""

    bits: int
    axis: int | None = None
    symmetric: bool = True
    rounding: str = "nearest-even"
    seed: int = 0
    step: str | None = None


@dataclass(frozen=True, eq=False)
class Gridded:
    """A tensor on its grid.

    Attributes:
        grid: its scales in the tensor's own type or the narrower one, so that the file holds them (bfloat16 as float32).
        symbols: the tensor's shape, smallest unsigned type.
        error: RMSE over all elements.
    """

    grid: AffineGrid
    symbols: NDArray[Any]
    error: float


def share_levels(values: Array, dtype: str, kind: GridKind) -> Gridded:
    """Round each value to its level; zero is one.

    Args:
        values: any shape, finite floats; those of a bfloat16 tensor as float32.
        dtype: the tensor's type.
        kind: how.
    """
    array = np.ascontiguousarray(values, np.float64 if dtype == "float64" else np.float32).reshape(values.shape)
    cut = array.reshape(by_channel(values.shape, kind.axis))
    cover = kind.rounding == "stochastic"
    grid = fit_uniform(*ends_of(cut), kind.bits, symmetric=kind.symmetric, cover=cover, types=(dtype, kind.step or dtype))
    count = int((grid.highest - grid.lowest).max(initial=0)) + 1
    symbols = np.empty(cut.shape, symbol_dtype(count))
    round_into(symbols, cut, grid, -grid.lowest, kind.rounding, kind.seed)
    found = AffineGrid(round_to_type(grid.step, kind.step or dtype), (-grid.lowest).astype(np.int32), count, kind.axis)
    levels = AffineMap.of(found.scales, found.offsets, values.shape, found.axis, dtype)
    return Gridded(found, symbols.reshape(values.shape), _error(array.reshape(-1), symbols.reshape(-1), levels))


def values_on(grid: AffineGrid, symbols: NDArray[Any], dtype: str) -> Array:
    """What the symbols of a whole tensor stand for, its shape; of bfloat16 the bits."""
    found = AffineMap.of(grid.scales, grid.offsets, symbols.shape, grid.axis, dtype)
    return found.values(np.ascontiguousarray(symbols).reshape(-1)).reshape(symbols.shape)


def _error(values: Array, symbols: NDArray[Any], levels: AffineMap) -> float:
    """Root of the mean squared difference; part by part, for nothing as large as the tensor is to be made.

    Sums are of the same parts on any number of threads. Infinite where a square is.
    """

    def squares(first: int, last: int) -> list[float]:
        sums = []
        for at in range(first * _PART, min(last * _PART, len(values)), _PART):
            part = values[at : at + _PART]
            written = np.empty(len(part), numpy_dtype(levels.dtype))
            levels.write(symbols[at : at + len(part)], at, written)
            difference = part.astype(np.float64) - (bfloat16_to_float32(written) if levels.dtype == "bfloat16" else written)
            with np.errstate(over="ignore"):  # of its own in each thread
                sums.append(float(np.square(difference, out=difference).sum()))
        return sums

    parts = share(-(-len(values) // _PART), squares)
    return math.sqrt(sum(chain.from_iterable(parts)) / max(len(values), 1))
