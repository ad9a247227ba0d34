"""One section of coded symbols: chunks that decode apart from each other, lanes within a chunk that decode side by side.

    section   [chunk bytes: C x u32] [chunk symbols: C x u32]  chunk 0 | chunk 1 | ...
               only if C > 1          and not known otherwise
    chunk     [lane bytes: (L - 1) x u32]  lane 0 | lane 1 | ... | lane L - 1          nothing if it has no symbols

With n symbols in a chunk and s = ceil(n / L), lane j holds symbols j s to min((j + 1) s, n). Lanes begin at whole bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from deepcompress.coding import kernels, pool
from deepcompress.coding.bits import Bytes, Symbols, as_symbols, sealed
from deepcompress.coding.lanes import MAX_SYMBOL, FixedLanes, HuffmanLanes, LaneCoder
from deepcompress.errors import FormatError, ParameterError

__all__ = [
    "FixedLanes",
    "Geometry",
    "HuffmanLanes",
    "LaneCoder",
    "Stream",
    "count_symbols",
    "decode_stream",
    "encode_stream",
    "open_stream",
]

LANES = (1, 2, 4, 8, 16, 32)
MAX_CHUNK_LOG2 = 31
_COUNTED_AT_ONCE = 1 << 19
_MAX_BYTES = (1 << 32) - 1
_U32 = np.dtype("<u4")

Counts = NDArray[np.int64]


class Geometry(NamedTuple):
    """How a stream is cut: chunks of 2**chunk_log2 weights, `lanes` in each. One byte in the file."""

    chunk_log2: int
    lanes: int

    def pack(self) -> int:
        """The byte: chunk_log2 in the low five bits, log2(lanes) in the high three.

        Raises:
            ParameterError: chunk_log2 outside 0 to 31, or lanes not 1, 2, 4, 8, 16 or 32.
        """
        if not 0 <= self.chunk_log2 <= MAX_CHUNK_LOG2:
            raise ParameterError.of("chunk_log2", "Geometry", f"an int from 0 to {MAX_CHUNK_LOG2}", self.chunk_log2)
        _check_lanes(self.lanes, "Geometry")
        return self.chunk_log2 | LANES.index(self.lanes) << 5

    @classmethod
    def unpack(cls, byte: int) -> Geometry:
        """What `pack` made a byte of.

        Raises:
            FormatError: the byte says more than 32 lanes.
        """
        if byte >> 5 >= len(LANES):
            raise FormatError(f"geometry {byte:#04x} means 2**{byte >> 5} lanes, there can be {LANES[-1]}")
        return cls(byte & 31, LANES[byte >> 5])


def count_symbols(symbols: Symbols, alphabet: int = 0) -> Counts:
    """How often each symbol occurs, (max(alphabet, largest symbol + 1, 1),) int64; runs are shared out to the threads.

    Args:
        symbols: (n,) integers from 0 to 2**27 - 1.
        alphabet: the least length of the result.

    Raises:
        ParameterError: `symbols` are anything else.
    """
    symbols = as_symbols(symbols, "symbols", "count_symbols")
    top = int(symbols.max(initial=0))
    if top > MAX_SYMBOL:
        raise ParameterError.of("symbols", "count_symbols", f"at most {MAX_SYMBOL}", top)
    size = max(alphabet, top + 1)

    def count(start: int, stop: int) -> Counts:
        counts = np.zeros((4, size), np.int64)
        kernels.count(symbols[start:stop], counts)
        return np.asarray(counts.sum(axis=0))

    total: Counts = np.sum(pool.share(len(symbols), count, _COUNTED_AT_ONCE), axis=0)
    return total


def encode_stream(symbols: Symbols, coder: LaneCoder, lanes: int, counts: Counts, *, counts_known: bool) -> Bytes:
    """Encode symbols as one section; its chunks are shared out to the threads.

    Args:
        symbols: (n,) integers that `coder` can encode.
        coder: makes a chunk's bytes.
        lanes: 1, 2, 4, 8, 16 or 32 per chunk.
        counts: (C,) symbols per chunk, C >= 1, n in all.
        counts_known: a reader knows `counts` from elsewhere, so that they are not written.

    Returns:
        The section's bytes.

    Raises:
        ParameterError: `lanes` or `counts` are anything else, a symbol that `coder` has no bits for, or a chunk of 4 GiB.
    """
    _check_lanes(lanes, "encode_stream")
    symbols, counts = np.asarray(symbols), np.asarray(counts, np.int64)
    if not len(counts) or counts.min() < 0 or int(counts.sum()) != len(symbols):
        raise ParameterError.of("counts", "encode_stream", f"one or more that sum to {len(symbols)}", counts.tolist()[:8])
    stops = np.cumsum(counts)

    def encode(first: int, last: int) -> tuple[Bytes, Counts]:
        start = int(stops[first] - counts[first])
        return coder.encode_chunks(symbols[start : stops[last - 1]], counts[first:last], lanes, start)

    parts = pool.share(len(counts), encode)
    tables = []
    if len(counts) > 1:
        tables.append(_to_u32(np.concatenate([sizes for _, sizes in parts]), "bytes"))
        if not counts_known:
            tables.append(_to_u32(counts, "symbols"))
    return np.concatenate([*tables, *(data for data, _ in parts)])


@dataclass(frozen=True, eq=False)
class Stream:
    """A section whose lengths and counts are all checked, ready to be decoded chunk by chunk.

    Attributes:
        section: the section's bytes.
        coder: reads its lanes.
        lanes: per chunk.
        counts: (C,) symbols of each chunk.
        rows: (lanes of all chunks that hold symbols, 4) the bytes of each lane, from and to, and its symbols, from and to.
        firsts: (C + 1,) the row of each chunk's first lane, and the number of rows.
    """

    section: Bytes
    coder: LaneCoder
    lanes: int
    counts: Counts
    rows: Counts
    firsts: Counts

    def decode(self, first: int, last: int, out: Symbols) -> None:
        """Decode the chunks [first, last) to the beginning of `out`, uint8, uint16 or uint32.

        Raises:
            FormatError: naming chunk and lane that do not hold exactly their symbols.
        """
        try:
            self._decode(first, last, out)
        except FormatError:
            if len(self.counts) == 1:
                raise
            for chunk in range(first, last):
                self._decode_alone(chunk, out)
            raise

    def _decode(self, first: int, last: int, out: Symbols) -> None:
        rows = self.rows[self.firsts[first] : self.firsts[last]].copy()
        if len(rows):
            start = int(rows[0, 2])
            rows[:, 2:] -= start
            self.coder.decode_lanes(self.section, rows, out, start)

    def _decode_alone(self, chunk: int, out: Symbols) -> None:
        try:
            self._decode(chunk, chunk + 1, out)
        except FormatError as error:
            raise FormatError(f"chunk {chunk}, {error}") from None


def open_stream(section: Bytes, coder: LaneCoder, lanes: int, *, counts: Counts | None, chunks: int, total: int) -> Stream:
    """Check all that a section says about lengths and counts; no memory is taken for symbols.

    Args:
        section: the section's bytes.
        coder: reads a lane's bytes.
        lanes: per chunk.
        counts: (chunks,) symbols per chunk where they are known, else None.
        chunks: C >= 1.
        total: symbols in all. Only a coder that spends no bits on a symbol lets it exceed 8 x the section's bytes.

    Raises:
        FormatError: the lengths and counts do not fit together.
    """
    section = sealed(section)
    if chunks == lanes == 1:
        return _open_lane(section, coder, total)
    lengths, counts, start = _read_tables(section, counts, chunks, total)
    _check_sizes(lengths, counts, coder, len(section) - start)
    used = counts > 0
    firsts = np.zeros(chunks + 1, np.int64)
    np.cumsum(lanes * used, out=firsts[1:])
    rows = np.empty((int(firsts[-1]), 4), np.int64)
    chunk, size = kernels.cut_lanes(section, sealed(lengths), sealed(counts), lanes, rows)
    if chunk >= 0:
        raise _bad_lanes(int(chunk), int(size), lanes, lengths)
    return Stream(section, coder, lanes, counts, rows, firsts)


def _open_lane(section: Bytes, coder: LaneCoder, total: int) -> Stream:
    """A short stream, of which a file has many: one lane in one chunk."""
    counts, lengths = np.array([total], np.int64), np.array([len(section)], np.int64)
    _check_sizes(lengths, counts, coder, len(section))
    filled = int(total > 0)
    rows = np.array([[0, len(section), 0, total]], np.int64)
    return Stream(section, coder, 1, counts, rows[:filled], np.array([0, filled], np.int64))


def _bad_lanes(chunk: int, size: int, lanes: int, lengths: Counts) -> FormatError:
    head = 4 * (lanes - 1)
    room = int(lengths[chunk])
    problem = f"lane lengths sum to {size}, there are {room - head} bytes for lanes"
    if size < 0:
        problem = f"{lanes - 1} lane lengths take {head} bytes, there are {room}"
    return FormatError(problem if len(lengths) == 1 else f"chunk {chunk}, {problem}")


def decode_stream(
    section: Bytes,
    coder: LaneCoder,
    lanes: int,
    *,
    counts: Counts | None,
    chunks: int,
    total: int,
    out_dtype: DTypeLike,
) -> tuple[Symbols, Counts]:
    """Decode one section, its chunks shared out to the threads.

    Args:
        section, coder, lanes, counts, chunks, total: see `open_stream`.
        out_dtype: uint8, uint16 or uint32; the symbols must fit it.

    Returns:
        The symbols, (total,) out_dtype, and the symbols per chunk, (chunks,) int64.

    Raises:
        FormatError: the section is not what `encode_stream` makes of `total` symbols.
    """
    stream = open_stream(section, coder, lanes, counts=counts, chunks=chunks, total=total)
    symbols = np.empty(total, out_dtype)
    stops = np.concatenate([[0], np.cumsum(stream.counts)])
    pool.share(chunks, lambda first, last: stream.decode(first, last, symbols[stops[first] : stops[last]]))
    return symbols, stream.counts


def _read_tables(section: Bytes, counts: Counts | None, chunks: int, total: int) -> tuple[Counts, Counts, int]:
    """Bytes and symbols of each chunk, and where the first chunk begins. Their sums are checked."""
    tables = 0 if chunks == 1 else 4 * chunks * (2 if counts is None else 1)
    if tables > len(section):
        raise FormatError(f"the tables of {chunks} chunks take {tables} bytes, the section has {len(section)}")
    if chunks == 1:
        lengths = np.array([len(section)], np.int64)
        counts = np.array([total], np.int64) if counts is None else counts
    else:
        table = section[:tables].view(_U32).astype(np.int64)
        lengths, counts = table[:chunks], table[chunks:] if counts is None else counts
    if len(counts) != chunks or int(counts.sum()) != total:
        raise FormatError(f"chunk counts sum to {int(counts.sum())}, the stream has {total} symbols")
    return lengths, counts, tables


def _check_sizes(lengths: Counts, counts: Counts, coder: LaneCoder, size: int) -> None:
    if (found := int(lengths.sum())) != size:
        raise FormatError(f"chunk lengths sum to {found}, the section has {size} bytes")
    wrong = (counts == 0) & (lengths > 0)
    if coder.least_bits:
        wrong |= counts > 8 * lengths // coder.least_bits
    for chunk in np.flatnonzero(wrong)[:1].tolist():
        raise FormatError(f"chunk {chunk} has {int(counts[chunk])} symbols in {int(lengths[chunk])} bytes")


def _to_u32(values: Counts, what: str) -> Bytes:
    if int(values.max(initial=0)) > _MAX_BYTES:
        raise ParameterError.of("counts", "encode_stream", f"small enough for chunks below 2**32 {what}", int(values.max()))
    return values.astype(_U32).view(np.uint8)


def _check_lanes(lanes: int, owner: str) -> None:
    if lanes not in LANES:
        raise ParameterError.of("lanes", owner, f"one of {', '.join(map(str, LANES))}", lanes)
