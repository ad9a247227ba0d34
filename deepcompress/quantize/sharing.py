"""Whole tensors, zeros included, and the values that their nonzeros share: one pass each, and no wide copies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.jit import jit
from deepcompress.tensors.codebook import Codebook, nearest

Array = NDArray[Any]
Floats = NDArray[np.float64]

_PART = 1024  # squares that are summed by themselves: a long plain sum loses its last digits


@dataclass(frozen=True, eq=False)
class Shared:
    """What sharing makes of a tensor.

    Attributes:
        codebook: of the levels other than zero.
        symbols: the tensor's shape, smallest unsigned type; 0 stands for zero, s for centroid s - 1.
        error: RMSE over all elements, zeros included; infinite where a square is.
    """

    codebook: Codebook
    symbols: NDArray[Any]
    error: float


def nonzeros(values: Array) -> Array:
    """The elements other than zero, in order, (n,), as float32 or, of float64, as float64. NaN is not zero."""
    flat = _flat(values)
    kept = np.empty(np.count_nonzero(flat) + 1, flat.dtype)  # the last one is written and given up
    _gather(flat, kept)
    return kept[:-1]


def share_nonzeros(values: Array, levels: Array) -> Shared:
    """Give each nonzero its nearest level, while zeros stay zero.

    Args:
        values: any shape, finite floats; those of a bfloat16 tensor as float32.
        levels: ascending and distinct, (k,), as `round_centroids` returns them; k may be 0 where all values are zero.
    """
    flat, kept = _flat(values), levels != 0
    codebook = Codebook(levels[kept])
    symbols = np.zeros(len(flat), np.min_scalar_type(codebook.k))
    squares = 0.0
    if len(levels):
        places = nearest(levels, flat).astype(symbols.dtype, copy=False)  # where 256 levels have symbols up to 256
        table = np.where(kept, np.cumsum(kept), 0).astype(symbols.dtype)
        squares = _name(flat, places, table, levels.astype(np.float64), symbols)
    return Shared(codebook, symbols.reshape(np.shape(values)), math.sqrt(squares / max(len(flat), 1)))


def looked_up(codebook: Codebook, symbols: NDArray[Any], dtype: np.dtype[Any]) -> Array:
    """What `symbols` (any shape) stand for, as `dtype`, which holds each centroid or rounds it."""
    table = np.concatenate([np.zeros(1, dtype), codebook.centroids.astype(dtype)])
    found = np.empty(symbols.shape, dtype)
    bits = f"u{dtype.itemsize}"  # copying is the same for all types of a size
    _look_up(table.view(bits), symbols.ravel(), found.reshape(-1).view(bits))
    return found


def squared_error(values: Array, places: NDArray[Any], levels: Floats) -> float:
    """Sum of squared differences of `values`, (n,) float32 or float64, from the levels that `places` name."""
    return float(_squares(values, places, levels))


def _flat(values: Array) -> Array:
    """In memory's order, of a type that kernels calculate in."""
    values = np.asarray(values)
    return np.ascontiguousarray(values, np.float32 if values.dtype in (np.float16, np.float32) else np.float64).reshape(-1)


@jit
def _gather(values: Array, kept: Array) -> None:
    """Write each value, and go on only after one that is kept: no branch to guess wrong."""
    count = 0
    for place in range(len(values)):
        value = values[place]
        kept[count] = value
        count += value != 0


@jit
def _name(values: Array, places: NDArray[Any], table: NDArray[Any], levels: Floats, symbols: NDArray[Any]) -> float:
    """Symbols of the nearest levels; the sum of squared differences. Without branches: where zeros stand is hard to guess."""
    total = 0.0
    for start in range(0, len(values), _PART):
        part = 0.0
        for place in range(start, min(start + _PART, len(values))):
            value = np.float64(values[place])
            symbol, level = table[places[place]], levels[places[place]]
            kept = value != 0.0
            symbols[place] = symbol if kept else 0
            distance = value - level if kept else 0.0
            part += distance * distance
        total += part
    return total


@jit
def _squares(values: Array, places: NDArray[Any], levels: Floats) -> float:
    total = 0.0
    for start in range(0, len(values), _PART):
        part = 0.0
        for place in range(start, min(start + _PART, len(values))):
            distance = np.float64(values[place]) - levels[places[place]]
            part += distance * distance
        total += part
    return total


@jit
def _look_up(table: NDArray[Any], symbols: NDArray[Any], found: NDArray[Any]) -> None:
    for place in range(len(symbols)):
        found[place] = table[symbols[place]]
