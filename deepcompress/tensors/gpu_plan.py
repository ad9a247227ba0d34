"""What a GPU is handed to decode one stream of symbols, and the proof that its kernels stay within it. numpy alone.

A stream becomes a list of lanes, whatever chunk they are of: bytes [start, stop) of the section hold symbols [first, first +
count). All that the chunk and lane tables say is checked here, by the rules of `coding.streams`; what only the codewords
themselves can show is left to the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.huffman import HuffmanCode, reverse_bits
from deepcompress.coding.lanes import FixedLanes, HuffmanLanes, LaneCoder
from deepcompress.coding.streams import Geometry
from deepcompress.container.directory import Lengths
from deepcompress.container.records import StreamRecord
from deepcompress.errors import FormatError
from deepcompress.tensors.elements import Array
from deepcompress.tensors.streams import chunk_count, dense_counts, open_coder

Bytes = NDArray[np.uint8]
Counts = NDArray[np.int64]
Table = NDArray[np.int32]

MAX_COUNT = 1 << 30  # symbols in a chunk that kernels count in int32
TABLE_BITS = 12  # a table looks at so many bits at least, so that short codewords come in pairs; its 16 KiB fit a level-1 cache
# An entry of a table, from the lowest bit: 5 bits, length of its first codeword; 5, of all its codewords; 1, whether they are
# two; then the symbols, a second one from SECOND_AT on, which leaves ten bits to the first. One alone may take 17.
LENGTH_MASK, ALL_AT, PAIR_AT, FIRST_AT, SECOND_AT = 31, 5, 10, 11, 21
_PAIRED_ALPHABET = 1 << SECOND_AT - FIRST_AT
_U32 = np.dtype("<u4")


class Lanes(NamedTuple):
    """The lanes that hold symbols, each array (n,): their bytes of the section, and their symbols of the stream."""

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    firsts: NDArray[np.int64]
    counts: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class StreamPlan:
    """A checked stream.

    Attributes:
        section: its bytes.
        total: its symbols.
        chunk_counts: (C,) symbols per chunk.
        values: what is written for a symbol (or for a field, of a fixed width), as integers of the elements' size.
        lanes: None where all symbols are equal, so that nothing is to decode; then `values` has one element.
        table: (2**n,) codewords by their bits, as `decode_codewords` wants them; None where fields have a fixed width.
        width: bits of a field, or those that `table` looks at.
        first_mask: the bits of an entry's first symbol.
    """

    section: Bytes
    total: int
    chunk_counts: Counts
    values: Array
    lanes: Lanes | None = None
    table: Table | None = None
    width: int = 0
    first_mask: int = 0


class Chunks(NamedTuple):
    """The chunks of a sparse tensor that have gaps, each array (n,): their gaps of the stream, and their elements."""

    firsts: NDArray[np.int64]
    counts: NDArray[np.int32]
    bases: NDArray[np.int64]
    ends: NDArray[np.int64]


class _Cut(NamedTuple):
    """The chunks that have symbols, by lane: (chunks, L + 1) bounds in bytes, (chunks, L) symbols, (chunks, L) first symbols."""

    bounds: Counts
    counts: Counts
    firsts: Counts

    def sizes(self) -> Counts:
        """(chunks, L) bytes of each lane."""
        return np.diff(self.bounds, axis=1)

    def lanes(self) -> Lanes:
        used = self.counts > 0
        starts, stops = self.bounds[:, :-1][used], self.bounds[:, 1:][used]
        return Lanes(starts, stops, self.firsts[used], self.counts[used].astype(np.int32))


def plan_stream(
    section: Bytes, stream: StreamRecord, tables: Sequence[Lengths], values: Array, numel: int, total: int | None
) -> StreamPlan:
    """Check a stream of codec 1 or 2 as far as its tables go.

    Args:
        section: its bytes.
        stream: its record.
        tables: code lengths of the directory.
        values: (alphabet,) by symbol.
        numel: elements of the dense tensor, which say how many chunks there are.
        total: symbols; None where each element has one, so that the section has no table of them.

    Raises:
        FormatError: what is said of lengths and counts does not fit, or no symbol could be read.
    """
    coder, geometry = open_coder(stream, tables, len(values)), Geometry.unpack(stream.geometry)
    lengths, counts, start = _read_tables(section, geometry, numel, total)
    _check_sizes(lengths, counts, coder)
    stream_total, used = int(counts.sum()), np.flatnonzero(counts)
    ends, firsts = start + np.cumsum(lengths), np.cumsum(counts) - counts
    cut = _cut(section, ends[used] - lengths[used], ends[used], geometry.lanes, counts[used], firsts[used])
    plan = StreamPlan(section, stream_total, counts, values[:1])
    if not stream_total:
        return plan
    if isinstance(coder, HuffmanLanes):
        return _plan_codewords(plan, cut, coder.code, values)
    if isinstance(coder, FixedLanes):
        return _plan_fields(plan, cut, coder, values)
    raise FormatError(f"codec {stream.codec} is not decoded here")


def _read_tables(section: Bytes, geometry: Geometry, numel: int, total: int | None) -> tuple[Counts, Counts, int]:
    """Bytes and symbols of each chunk, and where the first chunk begins. Both sums are checked."""
    chunks = chunk_count(numel, geometry.chunk_log2)
    start = 0 if chunks == 1 else 4 * chunks * (1 if total is None else 2)
    if start > len(section):
        raise FormatError(f"the tables of {chunks} chunks take {start} bytes, the section has {len(section)}")
    rows = section[:start].view(_U32).astype(np.int64).reshape(-1, chunks)
    lengths = np.array([len(section)], np.int64) if chunks == 1 else rows[0]
    if total is None:
        counts = dense_counts(numel, geometry.chunk_log2)
    else:
        counts = np.array([total], np.int64) if chunks == 1 else rows[1]
    if int(counts.sum()) != (numel if total is None else total):
        raise FormatError(f"chunk counts sum to {int(counts.sum())}")
    if np.any(counts > dense_counts(numel, geometry.chunk_log2)):  # each symbol, an escape too, moves on by one element or more
        raise FormatError("a chunk has more symbols than elements")
    if int(lengths.sum()) != len(section) - start:
        raise FormatError(f"chunk lengths sum to {int(lengths.sum())}, the section has {len(section) - start} bytes")
    return lengths, counts, start


def _check_sizes(lengths: Counts, counts: Counts, coder: LaneCoder) -> None:
    """No chunk has more symbols than its bytes can hold, so that work is bounded by the file's size."""
    wrong = (counts == 0) & (lengths > 0)
    if coder.least_bits:
        wrong |= counts > 8 * lengths // coder.least_bits
    if np.any(wrong):
        raise FormatError(f"chunk {int(np.flatnonzero(wrong)[0])} has not the bytes of its symbols")


def _cut(section: Bytes, starts: Counts, stops: Counts, lanes: int, counts: Counts, firsts: Counts) -> _Cut:
    """The lanes of chunks that have symbols; all arrays are (chunks,)."""
    head = 4 * (lanes - 1)
    if np.any(stops - starts < head):
        raise FormatError(f"a chunk has not the {head} bytes of its lane lengths")
    sizes = section[starts[:, None] + np.arange(head)].view(_U32).astype(np.int64)
    begins = np.cumsum(np.concatenate([starts[:, None] + head, sizes], axis=1), axis=1)
    if np.any(begins[:, -1] > stops):
        raise FormatError("lane lengths run past their chunk")
    steps = -(-counts // lanes)[:, None] * np.arange(lanes)
    within = np.clip(counts[:, None] - steps, 0, -(-counts // lanes)[:, None])
    cut = _Cut(np.concatenate([begins, stops[:, None]], axis=1), within, firsts[:, None] + steps)
    if np.any(cut.sizes()[within == 0]):
        raise FormatError("a lane without symbols has bytes")
    return cut


def _plan_codewords(plan: StreamPlan, cut: _Cut, code: HuffmanCode, values: Array) -> StreamPlan:
    if not len(code.ordered):
        raise FormatError("symbols are coded in a code without codewords")
    if len(code.ordered) == 1:
        _check_bytes(cut, 1)
        if any(plan.section[low:high].any() for low, high in cut.bounds[:, [0, -1]].tolist()):
            raise FormatError("a one bit where the code's only codeword is a zero bit")
        return replace(plan, values=values[code.ordered])
    paired = code.alphabet <= _PAIRED_ALPHABET
    table, width = _paired_table(code) if paired else _single_table(code)
    first_mask = _PAIRED_ALPHABET - 1 if paired else (1 << 17) - 1
    return replace(plan, values=values, lanes=cut.lanes(), table=table, width=width, first_mask=first_mask)


def _plan_fields(plan: StreamPlan, cut: _Cut, coder: FixedLanes, values: Array) -> StreamPlan:
    bits = _check_bytes(cut, coder.width)
    values = values[coder.base :]
    if not coder.width:
        return replace(plan, values=values[:1])
    lanes = cut.lanes()
    used = (bits[cut.counts > 0] - 1 & 7) + 1  # bits of the last byte
    if np.any(plan.section[lanes.stops - 1] >> used):
        raise FormatError("padding is not zero")
    return replace(plan, values=values, lanes=lanes, width=coder.width)


def _check_bytes(cut: _Cut, width: int) -> Counts:
    """(chunks, L) bits of lanes whose symbols take `width` bits each; their bytes must be as many."""
    bits: Counts = cut.counts * width
    if np.any((bits + 7) >> 3 != cut.sizes()):
        raise FormatError(f"a lane has not the bytes of its symbols, {width} bits each")
    return bits


def _codewords(code: HuffmanCode, width: int) -> tuple[Counts, Counts]:
    """(2**width,) the symbol, and the length, of the codeword that so many bits begin with: there is one, in a complete code."""
    longest = code.max_length
    lengths = code.lengths[code.ordered].astype(np.int64)
    order = reverse_bits(np.arange(1 << longest), longest)[np.arange(1 << width) & (1 << longest) - 1]
    symbols, bits = (np.repeat(column, 1 << longest - lengths)[order] for column in (code.ordered, lengths))
    return symbols, bits


def _single_table(code: HuffmanCode) -> tuple[Table, int]:
    """A table of one codeword an entry, and the bits that it looks at."""
    symbols, bits = _codewords(code, code.max_length)
    return (bits | bits << ALL_AT | symbols << FIRST_AT).astype(np.int32), code.max_length


def _paired_table(code: HuffmanCode) -> tuple[Table, int]:
    """A table whose entries have a second codeword where both lie within the bits that it looks at; and these bits."""
    width = max(code.max_length, TABLE_BITS)
    symbols, bits = _codewords(code, width)
    behind = np.arange(1 << width) >> bits  # what follows the first codeword, and zeros above it
    both = bits + bits[behind]
    second = np.where(both <= width, both << ALL_AT | 1 << PAIR_AT | symbols[behind] << SECOND_AT, bits << ALL_AT)
    return (bits | symbols << FIRST_AT | second).astype(np.int32), width


def plan_chunks(gap_counts: Counts, numel: int, chunk_log2: int) -> Chunks:
    """Where the gaps of each chunk are, `gap_counts` (C,) of them, and where its elements."""
    used = np.flatnonzero(gap_counts)
    counts, bases = gap_counts[used], used << chunk_log2
    return Chunks(np.cumsum(counts) - counts, counts.astype(np.int32), bases, np.minimum(bases + (1 << chunk_log2), numel))
