"""What the symbols of a stored tensor stand for: +0.0 and centroids, or the levels of a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.bits import sealed
from deepcompress.coding.gaps import scatter
from deepcompress.coding.jit import jit
from deepcompress.container import layout
from deepcompress.container.layout import DTYPE_OF_NAME
from deepcompress.container.records import TensorRecord
from deepcompress.errors import FormatError
from deepcompress.tensors.affine import AffineMap
from deepcompress.tensors.elements import Array, bfloat16_to_float32, numpy_dtype, widen

_AT_ONCE = 1 << 16  # weights whose numbers and values stay in the cache

Bytes = NDArray[np.uint8]
Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Lookup:
    """By symbol, the bits of its value: those of +0.0 for symbol 0, then the centroids'."""

    table: Array

    def write(self, symbols: NDArray[Any], first: int, out: Array) -> None:
        """Write the values of `symbols`, all below len(table), over `out`, unsigned integers of the elements' size."""
        look_up(sealed(symbols), self.table, out)

    def scatter(
        self, gaps: Array, symbols: NDArray[Any], counts: Counts, cut: tuple[int, int], first: int, out: Array
    ) -> tuple[int, int]:  # fmt: skip
        """Write the values of nonzeros to where the gaps lead, in `out`, which is zero and begins at the flat place `first`.

        Args:
            gaps, symbols: those of some chunks, back to back; the symbols may be overwritten.
            counts: (2, C) how many of each every chunk has.
            cut: gap_bits, and the logarithm of a chunk's elements.

        Returns:
            What `check_walk` takes.
        """
        if len(symbols) and int(symbols.min()) == 0:
            raise FormatError("a nonzero has the zero symbol")
        return scatter(gaps, symbols, counts, self.table, *cut, out)


@dataclass(frozen=True, eq=False)
class Grid:
    """The values of an affine map; see `Lookup` for what both do."""

    levels: AffineMap

    def write(self, symbols: NDArray[Any], first: int, out: Array) -> None:
        """Write the values of `symbols`, which are those from the flat place `first` on."""
        self.levels.write(symbols, first, out)

    def scatter(
        self, gaps: Array, symbols: NDArray[Any], counts: Counts, cut: tuple[int, int], first: int, out: Array
    ) -> tuple[int, int]:  # fmt: skip
        """Symbols go to their places first, as numbers above zero, for there they have a channel; in `out` itself if they fit."""
        top = int(symbols.max(initial=0)) + 1
        kind = out.dtype if top <= np.iinfo(out.dtype).max else np.dtype(np.uint32)
        numbers = out if kind == out.dtype else np.zeros(len(out), kind)
        shifted = symbols if top <= np.iinfo(symbols.dtype).max else symbols.astype(kind)
        shifted += shifted.dtype.type(1)
        outcome = scatter(gaps, shifted, counts, np.arange(top + 1, dtype=kind), *cut, numbers)
        for at in range(0, len(out), _AT_ONCE):
            self.levels.write(numbers[at : at + _AT_ONCE].copy(), first + at, out[at : at + _AT_ONCE], absent=True)
        return outcome


def alphabet_of(record: TensorRecord) -> int:
    """The symbols that may stand in a tensor's value stream."""
    return record.size + 1 if record.value_map == layout.MAP_CODEBOOK else layout.MAX_CENTROIDS


def open_map(record: TensorRecord, sections: Mapping[str, Bytes]) -> Lookup | Grid:
    """The map of a tensor whose values are symbols.

    Raises:
        FormatError: a codebook or scales that the format does not allow.
    """
    if record.value_map == layout.MAP_CODEBOOK:
        return Lookup(value_table(record, sections["codebook"]))
    return Grid(open_affine(record, sections["affine"]))


def value_table(record: TensorRecord, section: Bytes) -> Array:
    """(k + 1,) by symbol, the bits of its value, as unsigned integers."""
    centroids = section.view(numpy_dtype(record.stored))
    _check_centroids(_as_floats(centroids, record.stored))
    values = widen(centroids, record.stored, record.dtype)
    bits = values.view(f"<u{values.dtype.itemsize}")
    return sealed(np.concatenate([np.zeros(1, bits.dtype), bits]))


def open_affine(record: TensorRecord, section: Bytes) -> AffineMap:
    """Scales, then offsets: as many, or one for all channels, which may be in the record instead."""
    split = record.size * DTYPE_OF_NAME[record.stored].itemsize
    scales = _as_floats(section[:split].view(numpy_dtype(record.stored)), record.stored)
    offsets = section[split:].copy().view("<i4") if record.offset is None else np.array([record.offset], np.int32)
    if not np.isfinite(scales).all():
        raise FormatError("a scale is not finite")
    axis = record.axis - 1 if record.axis else None
    return AffineMap.of(scales, np.broadcast_to(offsets, scales.shape), record.shape, axis, record.dtype)


def _as_floats(elements: Array, stored: str) -> Array:
    return bfloat16_to_float32(elements) if stored == "bfloat16" else elements


def _check_centroids(centroids: Array) -> None:
    """One spelling for each codebook: finite, ascending, none zero."""
    if not np.isfinite(centroids).all() or np.any(centroids == 0) or np.any(centroids[1:] <= centroids[:-1]):
        raise FormatError("the codebook is not finite, ascending and free of zero")


@jit
def look_up(symbols: NDArray[Any], table: Array, out: Array) -> None:
    """out[i] = table[symbols[i]]; every symbol must be below len(table)."""
    for i in range(len(symbols)):
        out[i] = table[symbols[i]]
