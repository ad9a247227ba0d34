"""Values on a uniform grid, one for all of a tensor or one for each of its channels.

    value = scale x (symbol - offset)

The difference is an exact integer, rounded to float32 (for float64 tensors to float64); the product is rounded to the same
type, then to the tensor's; always to nearest even, beyond the largest number to infinity. So every reader gets the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding import pool
from deepcompress.coding.bits import symbol_dtype
from deepcompress.coding.jit import jit
from deepcompress.container.layout import numel
from deepcompress.errors import ModelError, ParameterError
from deepcompress.tensors.elements import Array, bfloat16_to_float32, float32_to_bfloat16, numpy_dtype, round_to_bfloat16

Offsets = NDArray[np.int64]

_SHARED = 1 << 16  # values that are worth a thread's while
_AT_ONCE = 1 << 18  # weights whose values and symbols stay in the cache
_CALCULATED_IN = {"float64": np.float64}  # every other type is computed in float32


@dataclass(frozen=True, eq=False)
class AffineGrid:
    """The values that a tensor's weights share, at equal distances: scale x (symbol - offset), symbols from 0 to count - 1.

    Attributes:
        scales: (c,) above zero, in a type that the file may store: float16, float32 or float64; of a bfloat16 tensor, float32
            that bfloat16 holds exactly.
        offsets: (c,) int32, the symbol of zero.
        count: of symbols, the same for all channels.
        axis: the dimension of the channels; None for one scale.

    Raises:
        ParameterError: a scale is not finite and above zero, or has no offset.
    """

    scales: Array
    offsets: NDArray[np.int32]
    count: int
    axis: int | None

    def __post_init__(self) -> None:
        if not bool((np.isfinite(self.scales) & (self.scales > 0)).all()):
            raise ParameterError("The 'scales' parameter of AffineGrid must be finite and above zero.")
        if len(self.offsets) != len(self.scales):
            raise ParameterError.of("offsets", "AffineGrid", f"{len(self.scales)}, one for each scale", len(self.offsets))

    @property
    def k(self) -> int:
        """Levels other than zero, to compare with a codebook's centroids."""
        return self.count - 1

    @property
    def bit_width(self) -> int:
        """Bits of a symbol of fixed length."""
        return self.k.bit_length()


@dataclass(frozen=True, eq=False)
class AffineMap:
    """What the symbols of one tensor stand for.

    `scales` (c,) are in the type of the calculation; the channel of the element at a flat place is place // inner % c.
    """

    scales: Array
    offsets: Offsets
    inner: int
    dtype: str

    @classmethod
    def of(cls, scales: Array, offsets: NDArray[Any], shape: tuple[int, ...], axis: int | None, dtype: str) -> AffineMap:
        """The map of a tensor of this shape and dtype; its scales as floats of any type."""
        inner = by_channel(shape, axis)[2]
        return cls(scales.astype(_CALCULATED_IN.get(dtype, np.float32)), offsets.astype(np.int64), max(inner, 1), dtype)

    def write(self, symbols: NDArray[Any], first: int, out: Array, *, absent: bool = False) -> None:
        """Write the values of `symbols`, those of the elements from the flat place `first` on, over `out`.

        Args:
            symbols: (n,) integers.
            out: (n,) elements of the tensor's dtype, or of unsigned integers of their size.
            absent: symbol 0 stands for +0.0, and s for what s - 1 does otherwise.
        """
        for at in range(0, len(symbols), _AT_ONCE):
            self._write(symbols[at : at + _AT_ONCE], first + at, out[at : at + _AT_ONCE], absent)

    def _write(self, symbols: NDArray[Any], first: int, out: Array, absent: bool) -> None:
        kind = self.scales.dtype
        own = out.view(numpy_dtype(self.dtype))
        values = own if own.dtype == kind else np.empty(len(symbols), kind)
        _multiply(symbols, first, self.inner, self.scales, self.offsets, absent, values)
        if self.dtype == "bfloat16":
            own[:] = round_to_bfloat16(values)
        elif values is not own:
            with np.errstate(over="ignore"):
                own[:] = values

    def values(self, symbols: NDArray[Any]) -> Array:
        """The values of all symbols of a tensor, (numel,)."""
        found = np.empty(len(symbols), numpy_dtype(self.dtype))
        pool.share(len(symbols), lambda start, stop: self.write(symbols[start:stop], start, found[start:stop]), _SHARED)
        return found

    def nearest(self, values: Array, first: int, symbols: NDArray[Any], count: int) -> None:
        """Write the symbols, below `count`, of the levels nearest to `values`, those from the flat place `first` on."""
        wide = values.astype(np.float32) if values.dtype == np.float16 else values  # which no kernel calculates in
        _name(wide, first, self.inner, self.scales.astype(np.float64), self.offsets, count, symbols)


@dataclass(frozen=True, eq=False)
class AffineTensor:
    """A tensor on a uniform grid: value = scale x (symbol - offset), one scale and offset per tensor or per channel.

    `symbols` (numel,) unsigned; `scales` (c,) in the type `stored`, `offsets` (c,) int32; `axis` is the channel dimension,
    None for one channel.
    """

    shape: tuple[int, ...]
    dtype: str
    stored: str
    scales: Array
    offsets: NDArray[np.int32]
    axis: int | None
    symbols: NDArray[Any]

    def to_dense(self) -> Array:
        """The tensor's values."""
        scales = bfloat16_to_float32(self.scales) if self.stored == "bfloat16" else self.scales
        return AffineMap.of(scales, self.offsets, self.shape, self.axis, self.dtype).values(self.symbols).reshape(self.shape)

    def is_nonzero(self) -> NDArray[np.bool_]:
        """(numel,) whether an element is off the level that stands for zero."""
        nonzero: NDArray[np.bool_] = self.symbols.reshape(by_channel(self.shape, self.axis)) != self.offsets[:, None]
        return nonzero.reshape(-1)

    @classmethod
    def from_values(cls, values: Array, dtype: str, grid: AffineGrid) -> AffineTensor:
        """The form of a tensor that holds nothing but values of the grid.

        Raises:
            ModelError: some value is none; the tensor was changed after it was quantized.
        """
        flat = (bfloat16_to_float32(values) if dtype == "bfloat16" else values).reshape(-1)
        found = AffineMap.of(grid.scales, grid.offsets, values.shape, grid.axis, dtype)
        symbols = np.empty(len(flat), symbol_dtype(grid.count))
        starts = range(0, len(flat), _AT_ONCE)
        tasks = [partial(_assign, found, flat[at : at + _AT_ONCE], at, symbols[at : at + _AT_ONCE], grid.count) for at in starts]
        if strangers := sum(pool.run(tasks)):
            raise ModelError(f"{strangers} of {len(flat)} weights are not on the grid of {grid.count} levels")
        stored = "bfloat16" if dtype == "bfloat16" else str(grid.scales.dtype)
        scales = float32_to_bfloat16(grid.scales) if stored == "bfloat16" else grid.scales
        return cls(values.shape, dtype, stored, scales, grid.offsets, grid.axis, symbols)


def by_channel(shape: tuple[int, ...], axis: int | None) -> tuple[int, int, int]:
    """The shape (outer, channels, inner) in which the channels of a tensor are the middle dimension; one where there are none."""
    if axis is None:
        return 1, 1, numel(shape)
    return numel(shape[:axis]), shape[axis], numel(shape[axis + 1 :])


def _assign(found: AffineMap, values: Array, first: int, symbols: NDArray[Any], count: int) -> int:
    """Name the values, which are those from the flat place `first` on; how many of them have no name.

    Where levels are closer than the numbers of the tensor's type, the nearest level may be one that is rounded to the number
    beside: then it is a neighbour of the nearest.
    """
    found.nearest(values, first, symbols, count)
    wrong = _differ(found, symbols, first, values)
    for step in (1, -1) if wrong.any() else ():
        beside = (symbols.astype(np.int64) + step).clip(0, count - 1).astype(symbols.dtype)
        better = wrong & ~_differ(found, beside, first, values)
        symbols[better], wrong = beside[better], wrong & ~better
    return int(np.count_nonzero(wrong))


def _differ(found: AffineMap, symbols: NDArray[Any], first: int, values: Array) -> NDArray[np.bool_]:
    """Where symbols do not stand for these values."""
    written = np.empty(len(symbols), numpy_dtype(found.dtype))
    found.write(symbols, first, written)
    differ: NDArray[np.bool_] = (bfloat16_to_float32(written) if found.dtype == "bfloat16" else written) != values
    return differ


@jit
def _multiply(
    symbols: NDArray[Any], first: int, inner: int, scales: Array, offsets: Offsets, absent: bool, values: Array
) -> None:  # fmt: skip
    """Run by run of one channel."""
    place, shift = 0, np.int64(absent)
    while place < len(symbols):
        row = (first + place) // inner
        channel, end = row % len(scales), min((row + 1) * inner - first, len(symbols))
        scale, offset = scales[channel], offsets[channel] + shift
        for i in range(place, end):
            product = scale * values.dtype.type(np.int64(symbols[i]) - offset)
            values[i] = values.dtype.type(0) if absent and symbols[i] == 0 else product
        place = end


@jit
def _name(
    values: Array, first: int, inner: int, scales: NDArray[np.float64], offsets: Offsets, count: int, symbols: NDArray[Any]
) -> None:  # fmt: skip
    """Run by run of one channel. What is no number, or beyond the grid, gets some symbol."""
    place = 0
    while place < len(values):
        row = (first + place) // inner
        channel, end = row % len(scales), min((row + 1) * inner - first, len(values))
        scale, offset = scales[channel], np.float64(offsets[channel])
        for i in range(place, end):
            symbol = np.rint(np.float64(values[i]) / scale) + offset
            symbols[i] = np.int64(min(max(symbol, 0.0), np.float64(count - 1))) if symbol == symbol else 0
        place = end
