"""One section of coded symbols: chunks that decode apart from each other, lanes within a chunk that decode side by side.

    section   [chunk bytes: C x u32] [chunk symbols: C x u32]  chunk 0 | chunk 1 | ...
               only if C > 1          and not known otherwise
    chunk     [lane bytes: (L - 1) x u32]  lane 0 | lane 1 | ... | lane L - 1          nothing if it has no symbols

With n symbols in a chunk and s = ceil(n / L), lane j holds symbols j s to min((j + 1) s, n). Lanes begin at whole bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from deepcompress.coding.bits import Bytes, Symbols, sealed
from deepcompress.coding.lanes import FixedLanes, HuffmanLanes, LaneCoder, lane_counts
from deepcompress.errors import FormatError, ParameterError

__all__ = ["FixedLanes", "Geometry", "HuffmanLanes", "LaneCoder", "decode_stream", "encode_stream"]

LANES = (1, 2, 4, 8, 16, 32)
MAX_CHUNK_LOG2 = 31
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


def encode_stream(symbols: Symbols, coder: LaneCoder, lanes: int, counts: Counts, *, counts_known: bool) -> Bytes:
    """Encode symbols as one section.

    Args:
        symbols: (n,) integers that `coder` can encode.
        coder: makes a lane's bytes.
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
    chunks = [
        _encode_chunk(symbols[start:stop], coder, lanes)
        for start, stop in zip((stops - counts).tolist(), stops.tolist(), strict=True)
    ]
    tables = []
    if len(counts) > 1:
        tables.append(_to_u32([len(chunk) for chunk in chunks], "bytes"))
        if not counts_known:
            tables.append(_to_u32(counts.tolist(), "symbols"))
    return np.concatenate([*tables, *chunks])


def _encode_chunk(symbols: Symbols, coder: LaneCoder, lanes: int) -> Bytes:
    if not len(symbols):
        return np.zeros(0, np.uint8)
    stops = np.cumsum(lane_counts(len(symbols), lanes)).tolist()
    parts = [coder.encode(symbols[start:stop]) for start, stop in zip([0, *stops], stops, strict=False)]
    return np.concatenate([_to_u32([len(part) for part in parts[:-1]], "bytes"), *parts])


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
    """Decode one section; all that is said about lengths and counts is checked before memory is taken for symbols.

    Args:
        section: the section's bytes.
        coder: reads a lane's bytes.
        lanes: per chunk.
        counts: (chunks,) symbols per chunk where they are known, else None.
        chunks: C >= 1.
        total: symbols in all. Only a coder that spends no bits on a symbol lets it exceed 8 x the section's bytes.
        out_dtype: uint8, uint16 or uint32; the symbols must fit it.

    Returns:
        The symbols, (total,) out_dtype, and the symbols per chunk, (chunks,) int64.

    Raises:
        FormatError: the section is not what `encode_stream` makes of `total` symbols.
    """
    section = sealed(section)
    lengths, counts, start = _read_tables(section, counts, chunks, total)
    _check_sizes(lengths, counts, coder, len(section) - start)
    symbols = np.empty(total, out_dtype)
    stops = np.cumsum(counts)
    starts = start + np.cumsum(lengths) - lengths
    for chunk, (low, high, at, size) in enumerate(
        zip((stops - counts).tolist(), stops.tolist(), starts.tolist(), lengths.tolist(), strict=True)
    ):
        if low == high:
            continue
        try:
            coder.decode_lanes(section, _lane_bounds(section, at, at + size, lanes), symbols[low:high])
        except FormatError as error:
            raise FormatError(f"chunk {chunk}, {error}" if chunks > 1 else str(error)) from None
    return symbols, counts


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


def _lane_bounds(section: Bytes, start: int, stop: int, lanes: int) -> Counts:
    """(lanes + 1,) the byte at which each lane begins, and the end of the last one."""
    head = 4 * (lanes - 1)
    if head > stop - start:
        raise FormatError(f"{lanes - 1} lane lengths take {head} bytes, there are {stop - start}")
    lengths = section[start : start + head].view(_U32).astype(np.int64)
    bounds = np.concatenate([[0], np.cumsum(lengths)]) + start + head
    if bounds[-1] > stop:
        raise FormatError(f"lane lengths sum to {int(lengths.sum())}, there are {stop - start - head} bytes for lanes")
    return np.append(bounds, stop)


def _to_u32(values: list[int], what: str) -> Bytes:
    if max(values, default=0) > _MAX_BYTES:
        raise ParameterError.of("counts", "encode_stream", f"small enough for chunks below 2**32 {what}", max(values))
    return np.array(values, _U32).view(np.uint8)


def _check_lanes(lanes: int, owner: str) -> None:
    if lanes not in LANES:
        raise ParameterError.of("lanes", owner, f"one of {', '.join(map(str, LANES))}", lanes)
