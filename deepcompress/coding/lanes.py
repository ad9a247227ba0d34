"""Coders of one lane: a run of symbols into whole bytes, and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding import kernels
from deepcompress.coding.bits import (
    MAX_WIDTH,
    Bytes,
    Symbols,
    as_symbols,
    byte_count,
    check_length,
    pack_bits,
    readable,
    symbol_dtype,
    unpack_bits,
)
from deepcompress.coding.huffman import HuffmanCode, reverse_bits
from deepcompress.errors import FormatError, ParameterError

Bounds = NDArray[np.int64]


class LaneCoder(Protocol):
    """What a stream needs of an entropy coder. Another coder is another class with these methods."""

    @property
    def least_bits(self) -> int:
        """Bits that each symbol takes at least; bounds the symbols that a section can hold."""
        ...

    def encode(self, symbols: Symbols) -> Bytes:
        """The bytes of a lane.

        Raises:
            ParameterError: a symbol that the coder has no bits for.
        """
        ...

    def decode(self, data: Bytes, start: int, end: int, out: Symbols) -> None:
        """Fill `out` from the lane data[start:end], which must be within `data`; bytes around it may be looked at.

        Raises:
            FormatError: the lane does not hold exactly the bytes of len(out) symbols, or they do not fit `out`'s type.
        """
        self.decode_lanes(data, np.array([start, end], np.int64), out)

    def decode_lanes(self, data: Bytes, bounds: Bounds, out: Symbols) -> None:
        """Fill `out` from lanes data[bounds[j]:bounds[j + 1]], (lanes + 1,) ascending bounds within `data`.

        Raises:
            FormatError: as `decode` does, with the lane's number.
        """
        ...


def lane_counts(count: int, lanes: int) -> NDArray[np.int64]:
    """(lanes,) symbols in each lane: ceil(count / lanes) from the first one on, as far as they go."""
    step = -(-count // lanes)
    return np.clip(count - step * np.arange(lanes, dtype=np.int64), 0, step)


@dataclass(frozen=True, eq=False)
class HuffmanLanes(LaneCoder):
    """Codewords, back to back.

    Attributes:
        code: has a codeword for every symbol that is to be encoded.
    """

    code: HuffmanCode

    @property
    def least_bits(self) -> int:
        return max(self.code.min_length, 1)

    def encode(self, symbols: Symbols) -> Bytes:
        symbols, code = as_symbols(symbols, "symbols", "HuffmanLanes.encode"), self.code
        bits = kernels.codeword_bits(symbols, code.lengths)
        if bits < 0:
            expected = "symbols that the code has codewords for"
            absent = next(int(s) for s in np.unique(symbols) if s >= code.alphabet or not code.lengths[s])
            raise ParameterError.of("symbols", "HuffmanLanes.encode", expected, absent)
        out = np.empty(byte_count(bits), np.uint8)
        kernels.encode_lane(symbols, code.codewords, code.lengths, out)
        return out

    def decode_lanes(self, data: Bytes, bounds: Bounds, out: Symbols) -> None:
        if len(out) == 0:
            return _check_lanes(data, bounds, np.zeros(len(bounds) - 1, np.int64), 0)
        self._check_fits(out)
        ends = 8 * bounds[:-1]
        kernels.decode_lanes(readable(data), ends, self._table, kernels.PEEK_BITS // self.code.max_length, out)
        _check_lanes(data, bounds, ends - 8 * bounds[:-1], len(out))
        if len(self.code.ordered) == 1 and data[bounds[0] : bounds[-1]].any():
            raise FormatError("a one bit where the code's only codeword is a zero bit")
        return None

    def _check_fits(self, out: Symbols) -> None:
        if not len(self.code.ordered):
            raise FormatError(f"{len(out)} symbols are coded in a code without codewords")
        if (largest := int(self.code.ordered.max())) > np.iinfo(out.dtype).max:
            raise FormatError(f"the code has symbol {largest}, the largest that can stand here is {np.iinfo(out.dtype).max}")

    @cached_property
    def _table(self) -> NDArray[np.uint32]:
        """By the next max_length bits: symbol << LENGTH_BITS | code length. No entry is empty, as the code is complete."""
        ordered, width = self.code.ordered, self.code.max_length
        lengths = self.code.lengths[ordered].astype(np.int64)
        entries = (ordered << kernels.LENGTH_BITS | lengths).astype(np.uint32)
        if len(ordered) == 1:
            return np.repeat(entries, 2)  # the codeword 1 is not in use; `decode_lanes` looks for it afterwards
        by_codeword = np.repeat(entries, 1 << width - lengths)
        return by_codeword[reverse_bits(np.arange(1 << width), width)]


@dataclass(frozen=True)
class FixedLanes(LaneCoder):
    """Symbols from `base` on, each in `width` bits; with width 0 all symbols are `base` and take no bytes.

    Raises:
        ParameterError: a width outside 0 to 32, or symbols that could exceed 2**32 - 1.
    """

    width: int
    base: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.width <= MAX_WIDTH:
            raise ParameterError.of("width", "FixedLanes", f"an int from 0 to {MAX_WIDTH}", self.width)
        if not 0 <= self.base < 1 << 32:
            raise ParameterError.of("base", "FixedLanes", "an int from 0 to 2**32 - 1", self.base)

    @property
    def least_bits(self) -> int:
        return self.width

    def encode(self, symbols: Symbols) -> Bytes:
        symbols = as_symbols(symbols, "symbols", "FixedLanes.encode")
        if not len(symbols):
            return np.zeros(0, np.uint8)
        low, top = int(symbols.min()), int(symbols.max())
        if low < self.base or top - self.base >> self.width:
            expected = f"from {self.base} to {self.base + (1 << self.width) - 1}"
            raise ParameterError.of("symbols", "FixedLanes.encode", expected, f"{low} to {top}")
        return pack_bits(symbols - symbols.dtype.type(self.base), self.width)

    def decode(self, data: Bytes, start: int, end: int, out: Symbols) -> None:
        values = unpack_bits(data[start:end], self.width, len(out), symbol_dtype(1 << self.width))
        largest = self.base + int(values.max(initial=0))
        if len(out) and largest > np.iinfo(out.dtype).max:
            raise FormatError(f"symbol {largest}, the largest that can stand here is {np.iinfo(out.dtype).max}")
        np.add(values, out.dtype.type(self.base), out=out, casting="unsafe")

    def decode_lanes(self, data: Bytes, bounds: Bounds, out: Symbols) -> None:
        lanes = len(bounds) - 1
        stops = np.cumsum(lane_counts(len(out), lanes)).tolist()
        for lane, (low, high) in enumerate(zip([0, *stops], stops, strict=False)):
            try:
                self.decode(data, int(bounds[lane]), int(bounds[lane + 1]), out[low:high])
            except FormatError as error:
                raise FormatError(f"lane {lane}: {error}") from None


def _check_lanes(data: Bytes, bounds: Bounds, bits: NDArray[np.int64], count: int) -> None:
    """Each lane must end within its last byte, `bits` after its beginning, and zeros must follow."""
    lanes = len(bounds) - 1
    counts = lane_counts(count, lanes).tolist()
    for lane, (start, end) in enumerate(zip(bounds.tolist(), bounds[1:].tolist(), strict=False)):
        try:
            check_length(data[start:end], int(bits[lane]), counts[lane])
        except FormatError as error:
            raise FormatError(f"lane {lane}: {error}") from None
