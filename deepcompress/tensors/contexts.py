"""A tensor's symbols as levels around zero, for the coder that learns from their neighbours (codec 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.bits import Bytes, Symbols
from deepcompress.coding.context import Levels, decode_levels, encode_levels
from deepcompress.coding.streams import Geometry, encode_stream
from deepcompress.container import layout
from deepcompress.container.records import StreamRecord, TensorRecord
from deepcompress.container.varint import Cursor, varint
from deepcompress.errors import FormatError
from deepcompress.tensors.streams import dense_counts

__all__ = ["ContextLanes", "context_bits", "encode_context", "open_context"]

Counts = NDArray[np.int64]

_CHUNK_LOG2 = layout.MAX_CONTEXT_CHUNK_LOG2  # threads take a chunk each; what is learned is forgotten at its end
_LAGS = 1_024  # the farthest second neighbour that is looked for
_LIKE = 0.3  # correlation of columns at a lag, from which on it is worth a try


@dataclass(frozen=True)
class ContextLanes:
    """What a stream needs of a coder, by contexts.

    Attributes:
        levels: what is known of the levels.
        zero: the symbol of level 0 on a grid; None in a codebook, whose symbols are 0, then the centroids from below.
        known: the tensor's record says what `zero` is.
    """

    levels: Levels
    zero: int | None
    known: bool = False

    @property
    def least_bits(self) -> int:
        """A symbol that was foreseen costs a thousandth of a bit."""
        return 0

    def encode_chunks(self, symbols: Symbols, counts: Counts, lanes: int, first: int = 0) -> tuple[Bytes, Counts]:
        """The chunks' bytes, and how many each has; see `LaneCoder`."""
        stops = np.cumsum(counts)
        parts = [
            encode_levels(self.to_levels(symbols[stop - count : stop]), self.levels, first + int(stop - count))
            for stop, count in zip(stops, counts, strict=True)
        ]
        return np.concatenate(parts), np.array([len(part) for part in parts], np.int64)

    def decode_lanes(self, data: Bytes, rows: NDArray[np.int64], out: Symbols, first: int = 0) -> None:
        """Read the chunks of these rows; see `LaneCoder`."""
        for begin, end, start, stop in rows.tolist():
            levels = np.empty(stop - start, np.int32)
            decode_levels(data[begin:end], self.levels, levels, first + start)
            out[start:stop] = self.to_symbols(levels)

    def to_levels(self, symbols: Symbols) -> NDArray[np.int32]:
        """Symbol -> level."""
        wide = symbols.astype(np.int32)
        if self.zero is not None:
            return wide - np.int32(self.zero)
        below = self.levels.lowest
        return np.where(wide > below, wide - below, np.where(wide > 0, wide - 1 - below, 0)).astype(np.int32)

    def to_symbols(self, levels: NDArray[np.int32]) -> NDArray[np.int32]:
        """Level -> symbol, in place: a chunk may have a million."""
        if self.zero is not None:
            levels += np.int32(self.zero)
            return levels
        others = levels != 0
        levels += levels < 0
        np.add(levels, np.int32(self.levels.lowest), out=levels, where=others)
        return levels

    def parameters(self) -> bytes:
        """What the stream's record says."""
        lowest, highest, chance, lag = self.levels.lowest, self.levels.highest, self.levels.chance, self.levels.lag
        numbers = [lowest] if self.zero is None else [lowest, highest] if self.known else [self.zero, lowest, highest]
        return b"".join(map(varint, [*numbers, chance, lag]))


def encode_context(
    record: TensorRecord, symbols: Symbols, zero: int | None, below: int = 0, *, compact: bool = False
) -> tuple[StreamRecord, Bytes]:  # fmt: skip
    """The shortest section that was found, and its record.

    Args:
        record: of the tensor, without its values.
        symbols: (numel,) all of them.
        zero: the symbol of level 0 on a grid, None in a codebook.
        below: centroids below zero in a codebook.
        compact: the file has only some first chances.
    """
    if zero is None:
        lowest, highest = below, record.size - below
    else:
        lowest, highest = zero - int(symbols.min(initial=zero)), int(symbols.max(initial=zero)) - zero
    bounds = (zero, lowest, highest)
    return _shortest(symbols, record.shape, bounds, known=record.offset is not None, compact=compact)


def context_bits(levels: NDArray[np.signedinteger]) -> int:
    """Bits of the section of a tensor with these levels around zero, of its shape."""
    flat = levels.reshape(-1).astype(np.int32)
    lowest, highest = -int(flat.min(initial=0)), int(flat.max(initial=0))
    return 8 * _shortest(flat + lowest, levels.shape, (lowest, lowest, highest))[0].length


def _shortest(
    symbols: Symbols, shape: tuple[int, ...], bounds: tuple[int | None, int, int], *, known: bool = False, compact: bool = False
) -> tuple[StreamRecord, Bytes]:  # fmt: skip
    """See `encode_context`; `bounds`: the symbol of level 0, and the levels below and above it; `known`: see `ContextLanes`."""
    zero, lowest, highest = bounds
    nonzeros = int(np.count_nonzero(symbols != (zero or 0)))
    chance = min(max(round(4_096 * nonzeros / max(len(symbols), 1)), 1), 4_095)
    chunk_log2 = layout.CONTEXT_GEOMETRY if compact else _CHUNK_LOG2
    if compact:
        chance = min(layout.FIRST_CHANCES, key=lambda step: abs(math.log(step / chance)))
    columns, kernel, kernel_row = _rows_of(shape)
    geometry = Geometry(chunk_log2, 1)
    counts = dense_counts(len(symbols), chunk_log2)

    def coded(lag: int) -> tuple[StreamRecord, Bytes]:
        coder = ContextLanes(Levels(lowest, highest, chance, columns, kernel, kernel_row, lag), zero, known)
        section = encode_stream(symbols, coder, 1, counts, counts_known=True)
        return StreamRecord(layout.CODEC_CONTEXT, len(section), geometry.pack(), coder.parameters()), section

    lags = _lags(symbols != (zero or 0), columns) if kernel == 1 else [0]
    return min(map(coded, lags), key=lambda found: found[0].length)


def open_context(record: TensorRecord, stream: StreamRecord) -> ContextLanes:
    """The coder of a tensor's values.

    Raises:
        FormatError: its geometry or its parameters make no sense.
    """
    geometry = Geometry.unpack(stream.geometry)
    if geometry.lanes != 1 or geometry.chunk_log2 > layout.MAX_CONTEXT_CHUNK_LOG2:
        limit = f"one lane of chunks of at most 2**{layout.MAX_CONTEXT_CHUNK_LOG2}"
        raise FormatError(f"{geometry.lanes} lanes of chunks of 2**{geometry.chunk_log2} symbols, codec 4 has {limit}")
    cursor = Cursor(stream.parameters, "codec parameters")
    zero: int | None = None
    if record.value_map == layout.MAP_CODEBOOK:
        lowest = cursor.varint()
        highest = record.size - lowest
        if highest < 0:
            raise cursor.error(f"{lowest} of {record.size} centroids are below zero")
    else:
        zero = cursor.varint() if record.offset is None else record.offset
        lowest, highest = cursor.varint(), cursor.varint()
        if lowest > zero or zero + highest >= layout.MAX_CENTROIDS:
            raise cursor.error(f"levels from -{lowest} to {highest} around symbol {zero}")
    chance, lag = cursor.varint(), cursor.varint()
    columns, kernel, kernel_row = _rows_of(record.shape)
    if not 1 <= chance <= 4_095 or (lag and (lag >= columns or kernel > 1)):
        raise cursor.error(f"a chance of {chance} in 4,096, a lag of {lag} in rows of {columns}")
    cursor.finish()
    return ContextLanes(Levels(lowest, highest, chance, columns, kernel, kernel_row, lag), zero, record.offset is not None)


def _rows_of(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Elements of a row (one output's), of a kernel, and of a row of the kernel; at least 1 each."""
    columns = math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)
    return max(columns, 1), max(math.prod(shape[2:]), 1), max(shape[-1], 1) if len(shape) > 2 else 1


def _lags(nonzero: NDArray[np.bool_], columns: int) -> list[int]:
    """Distances worth a try: none, and the one at which columns are most alike, such as the width of an image."""
    if columns < 8 or len(nonzero) < 4 * columns:
        return [0]
    density = nonzero[: len(nonzero) // columns * columns].reshape(-1, columns).mean(axis=0)
    density = density - density.mean()
    power = float(density @ density)
    if not power:
        return [0]
    farthest = min(columns // 2, _LAGS)
    spectrum = np.abs(np.fft.rfft(density, 2 * columns)) ** 2
    likeness = np.fft.irfft(spectrum)[2 : farthest + 1] / power
    best = int(likeness.argmax()) + 2
    return [0, best] if likeness[best - 2] > _LIKE else [0]
