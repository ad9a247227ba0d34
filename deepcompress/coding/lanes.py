"""Coders of symbols: chunks of symbols into bytes, lanes of bytes back into symbols.

Every coder here is a prefix code: by the next bits, a table says which symbol they begin with and how many of them it takes.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding import kernels
from deepcompress.coding.bits import Bytes, Symbols, as_symbols, check_length, readable, sealed
from deepcompress.coding.huffman import HuffmanCode
from deepcompress.errors import FormatError, ParameterError

MAX_FIXED_WIDTH = 20
MAX_SYMBOL = (1 << 27) - 1  # a table entry has 27 bits for the symbol
_WIDTH = 12  # bits of a look where no codeword is longer: tables of 4,096 entries stay in the level-1 cache
_WIDTH_64 = 11  # with entries of eight bytes, 2,048 do
_MANY = 1 << 15  # symbols from which on the encoder's table of pairs is worth making
_FEW_ABSENT = 4  # symbols without codewords that are looked for one by one: faster than counting all
_NO_PAIRS = sealed(np.zeros(0, np.uint32))
_FEW = 3.3  # codewords in 12 bits on average, from which on an entry of eight bytes finds enough more to be worth it

Rows = NDArray[np.int64]
Counts = NDArray[np.int64]


class LaneCoder(Protocol):
    """What a stream needs of an entropy coder. Another coder is another class with these methods."""

    @property
    def least_bits(self) -> int:
        """Bits that each symbol takes at least; bounds the symbols that a section can hold."""
        ...

    def encode_chunks(self, symbols: Symbols, counts: Counts, lanes: int, first: int = 0) -> tuple[Bytes, Counts]:
        """Chunks of `counts` symbols, (C,) that sum to len(symbols), back to back, and the bytes of each.

        `first`: how many symbols of the stream come before these, for a coder that goes by their places.

        Raises:
            ParameterError: a symbol that the coder has no bits for.
        """
        ...

    def decode_lanes(self, data: Bytes, rows: Rows, out: Symbols, first: int = 0) -> None:
        """Decode lanes.

        Args:
            data: what lies around the lanes may be looked at.
            rows: (n, 4), n > 0, a lane's bytes, from and to, and where its symbols come in `out`, from and to. Each lane lies
                within `data`; their symbols are back to back, from the first of `out` on, and within it.
            out: uint8, uint16 or uint32.
            first: how many symbols of the stream come before these.

        Raises:
            FormatError: a lane does not hold exactly the bytes of its symbols, or they do not fit `out`'s type.
        """
        ...


class TableLanes(LaneCoder):
    """A prefix code whose codewords have at most 20 bits, by its tables."""

    @property
    @abstractmethod
    def longest(self) -> int:
        """Bits of the longest codeword."""

    @property
    @abstractmethod
    def largest(self) -> int:
        """The largest symbol that has a codeword, -1 where none has."""

    @property
    @abstractmethod
    def entries(self) -> NDArray[np.uint32]:
        """By symbol: its codeword, first bit lowest, << 5 | its length; 0 where it has none."""

    @property
    @abstractmethod
    def lengths(self) -> Bytes:
        """By symbol: its code length; one element where all have the same."""

    @abstractmethod
    def first_symbols(self, width: int) -> NDArray[np.uint32]:
        """By the next `width` >= `longest` bits: the first symbol << 5 | its length. (2**width,)"""

    def encode(self, symbols: Symbols) -> Bytes:
        """The bytes of one lane. Raises ParameterError as `encode_chunks` does."""
        return self.encode_chunks(symbols, np.array([len(symbols)], np.int64), 1)[0]

    def encode_chunks(self, symbols: Symbols, counts: Counts, lanes: int, first: int = 0) -> tuple[Bytes, Counts]:
        symbols = self._checked(as_symbols(symbols, "symbols", f"{type(self).__name__}.encode"))
        room = (self.longest * len(symbols) >> 3) + (4 * lanes + lanes) * len(counts) + kernels.SLACK
        out, sizes = np.empty(room, np.uint8), np.empty(len(counts), np.int64)
        pairs = self._pairs if len(symbols) >= _MANY and symbols.itemsize == 1 and self.longest <= 12 else _NO_PAIRS
        total = kernels.encode_chunks(symbols, sealed(counts), lanes, self.entries, pairs, out, sizes)
        return out[:total], sizes

    @cached_property
    def _pairs(self) -> NDArray[np.uint32]:
        """By symbol + 256 x the next symbol: the entry of their codewords as one."""
        words = self.entries[:256] >> np.uint32(kernels.LENGTH_BITS)
        sizes = self.entries[:256] & np.uint32((1 << kernels.LENGTH_BITS) - 1)
        both = words[:, None] << sizes | words
        pairs = np.zeros((256, 256), np.uint32)
        pairs[: len(words), : len(words)] = both << np.uint32(kernels.LENGTH_BITS) | sizes[:, None] + sizes
        return sealed(pairs.ravel())

    @abstractmethod
    def _checked(self, symbols: Symbols) -> Symbols:
        """Symbols as places in `entries`. Raises ParameterError for one that has no codeword."""

    def decode(self, data: Bytes, start: int, end: int, out: Symbols) -> None:
        """Fill `out` from the one lane data[start:end]. Raises FormatError as `decode_lanes` does."""
        self.decode_lanes(data, np.array([[start, end, 0, len(out)]], np.int64), out)

    def decode_lanes(self, data: Bytes, rows: Rows, out: Symbols, first: int = 0) -> None:
        total, size = int(rows[-1, 3]), out.dtype.itemsize
        if total:
            self._check_fits(out)
        data, ends = readable(data), (rows * np.array([8, 8, size, size])).astype(np.uint64)
        if not total or not self.longest:
            out[:total] = max(self.largest, 0)
        else:
            table = self._table(size)
            looks = kernels.TURN if len(table) <= 1 << kernels.MAX_WIDTH else kernels.WIDE
            kernels.decode_lanes(data, ends, table, self.lengths, looks, size, out.view(np.uint8))
        if (lane := kernels.wrong_lane(data, rows, ends)) >= 0:
            _complain(data, lane, rows[lane].tolist(), int(ends[lane, 0]))

    def _check_fits(self, out: Symbols) -> None:
        if self.largest < 0:
            raise FormatError(f"{len(out)} symbols are coded in a code without codewords")
        if self.largest > np.iinfo(out.dtype).max:
            raise FormatError(f"the code has symbol {self.largest}, the largest that can stand here is {np.iinfo(out.dtype).max}")

    def _table(self, size: int) -> NDArray[Any]:
        """What the kernel decodes symbols of `size` bytes by: made once, for all streams that share the coder."""
        if size not in self._tables:
            self._tables[size] = self._make_table(size)
        return self._tables[size]

    @cached_property
    def _tables(self) -> dict[int, NDArray[Any]]:
        return {}

    def _make_table(self, size: int) -> NDArray[Any]:
        wide = size > 1 or _WIDTH / max(self._mean_bits, 1e-9) > _FEW
        width = max(self.longest, _WIDTH_64 if wide else _WIDTH)
        table = np.empty(1 << width, np.uint64 if wide or width > kernels.MAX_WIDTH else np.uint32)
        most = max((6 if table.itemsize == 8 else 3) // size, 1)
        kernels.fill_table(self.first_symbols(width), width, size, most, table)
        return table

    @property
    @abstractmethod
    def _mean_bits(self) -> float:
        """Bits per symbol of a stream that the code fits perfectly."""


@dataclass(frozen=True, eq=False)
class HuffmanLanes(TableLanes):
    """Codewords, back to back.

    Attributes:
        code: has a codeword for every symbol that is to be encoded.
    """

    code: HuffmanCode

    @property
    def least_bits(self) -> int:
        return max(self.code.min_length, 1)

    @property
    def longest(self) -> int:
        return self.code.max_length

    @cached_property
    def largest(self) -> int:
        return int(self.code.ordered.max(initial=-1))

    @property
    def lengths(self) -> Bytes:
        return self.code.lengths

    @cached_property
    def entries(self) -> NDArray[np.uint32]:
        return sealed(self.code.codewords << np.uint32(kernels.LENGTH_BITS) | self.code.lengths)

    def first_symbols(self, width: int) -> NDArray[np.uint32]:
        single = np.zeros(1 << width, np.uint32)
        kernels.fill_single(self.code.ordered, self.code.lengths, single)
        if len(self.code.ordered) == 1:
            single[1::2] = single[0]  # the codeword 1 is not in use; `decode_lanes` looks for it afterwards
        return single

    @cached_property
    def _mean_bits(self) -> float:
        used = self.code.lengths[self.code.ordered].astype(np.float64)
        return float(used @ np.exp2(-used))

    def _checked(self, symbols: Symbols) -> Symbols:
        """All symbols have codewords: the code has no gaps below the largest, or they were counted."""
        lengths, top = self.code.lengths, int(symbols.max(initial=0))
        without = np.flatnonzero(lengths[: top + 1] == 0)
        few = top < len(lengths) and len(without) <= _FEW_ABSENT
        if len(symbols) and not (few and not any((symbols == symbol).any() for symbol in without)):
            counts = np.zeros((4, top + 1), np.int64)
            kernels.count(symbols, counts)
            used = np.flatnonzero(counts.any(axis=0))
            absent = [int(s) for s in used if s >= len(lengths) or not lengths[s]]
            if absent:
                expected = "symbols that the code has codewords for"
                raise ParameterError.of("symbols", "HuffmanLanes.encode", expected, absent[0])
        return symbols

    def decode_lanes(self, data: Bytes, rows: Rows, out: Symbols, first: int = 0) -> None:
        super().decode_lanes(data, rows, out)
        if len(self.code.ordered) == 1 and any(data[low:high].any() for low, high in rows[:, :2].tolist()):
            raise FormatError("a one bit where the code's only codeword is a zero bit")


@dataclass(frozen=True, eq=False)
class FixedLanes(TableLanes):
    """Symbols from `base` on, each in `width` bits; with width 0 all symbols are `base` and take no bytes.

    Raises:
        ParameterError: a width outside 0 to 20, or symbols that could exceed 2**27 - 1.
    """

    width: int
    base: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.width <= MAX_FIXED_WIDTH:
            raise ParameterError.of("width", "FixedLanes", f"an int from 0 to {MAX_FIXED_WIDTH}", self.width)
        if not 0 <= self.base <= MAX_SYMBOL >> 1:
            raise ParameterError.of("base", "FixedLanes", f"an int from 0 to {MAX_SYMBOL >> 1}", self.base)

    @property
    def least_bits(self) -> int:
        return self.width

    @property
    def longest(self) -> int:
        return self.width

    @property
    def largest(self) -> int:
        return self.base + (1 << self.width) - 1

    @property
    def lengths(self) -> Bytes:
        return sealed(np.array([self.width], np.uint8))

    @cached_property
    def entries(self) -> NDArray[np.uint32]:
        return sealed(np.arange(1 << self.width, dtype=np.uint32) << np.uint32(kernels.LENGTH_BITS) | np.uint32(self.width))

    def first_symbols(self, width: int) -> NDArray[np.uint32]:
        symbols = np.arange(self.base, self.base + (1 << self.width), dtype=np.uint32)
        return np.tile(symbols << np.uint32(kernels.LENGTH_BITS) | np.uint32(self.width), 1 << width - self.width)

    @property
    def _mean_bits(self) -> float:
        return float(self.width)

    def _checked(self, symbols: Symbols) -> Symbols:
        if not len(symbols) or (self.largest == np.iinfo(symbols.dtype).max and not self.base):
            return symbols
        low, top = int(symbols.min()), int(symbols.max())
        if low < self.base or top > self.largest:
            expected = f"from {self.base} to {self.largest}"
            raise ParameterError.of("symbols", "FixedLanes.encode", expected, f"{low} to {top}")
        return sealed(symbols - symbols.dtype.type(self.base)) if self.base else symbols

    def decode_lanes(self, data: Bytes, rows: Rows, out: Symbols, first: int = 0) -> None:
        """As fields can hold symbols that the code's user has no use for, those are refused only where they occur."""
        most = np.iinfo(out.dtype).max
        if self.largest <= most:
            return super().decode_lanes(data, rows, out)
        wide = np.empty(int(rows[-1, 3]), np.uint32)
        super().decode_lanes(data, rows, wide)
        if (top := int(wide.max(initial=0))) > most:
            raise FormatError(f"symbol {top}, the largest that can stand here is {most}")
        out[: len(wide)] = wide
        return None


def _complain(data: Bytes, lane: int, row: list[int], end: int) -> None:
    """Raise the FormatError for a lane that ended at bit `end`."""
    start, stop, first, last = row
    try:
        check_length(data[start:stop], end - 8 * start, last - first)
    except FormatError as error:
        raise FormatError(f"lane {lane}: {error}") from None
