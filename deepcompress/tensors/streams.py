"""Which coder a run of symbols gets: the cheapest, by counting its bits; and the same coder again when the file is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.huffman import DEFAULT_MAX_CODE_LENGTH, HuffmanCode
from deepcompress.coding.streams import FixedLanes, Geometry, HuffmanLanes, LaneCoder
from deepcompress.coding.tables import length_bits
from deepcompress.container import layout
from deepcompress.container.directory import Lengths
from deepcompress.container.records import StreamRecord
from deepcompress.container.varint import Cursor, varint
from deepcompress.errors import FormatError, UnsupportedError

Counts = NDArray[np.int64]

_CHUNK_SYMBOLS = 1 << 18  # enough to keep a thread busy, few enough to share out
_SINGLE_LANE = 1 << 15  # below so many symbols a second lane is not worth its length field
_LANES = 4
_ABSENT = 255  # above every code length


@dataclass(frozen=True)
class Encoding:
    """How the symbols of a file are coded: `coder` "huffman", "context" (by contexts where that is shorter, else by Huffman) or
    "fixed" (bit-packed); Huffman codes of at most so many bits.

    `one_offset`: the file may say once what offset the channels of a grid share, which readers before 1.2 do not know. `compact`:
    it has the shorter forms of format 1.4: a directory by contexts, constants without sections, records that leave out more.
    """

    coder: str = "huffman"
    max_code_length: int = DEFAULT_MAX_CODE_LENGTH
    one_offset: bool = False
    compact: bool = False

    @property
    def flags(self) -> int:
        """Those of the file's head; a compact file has a form of its own for one offset."""
        return layout.COMPACT if self.compact else layout.ONE_OFFSET_USED if self.one_offset else 0


@dataclass(frozen=True)
class StreamPlan:
    """A coder chosen for a stream, with its bits: those of the symbols, and those that a new table of code lengths adds."""

    codec: int
    coder: LaneCoder
    bits: int
    table_bits: int
    parameters: bytes
    code: HuffmanCode | None = None
    tables: int = 0  # how many there were when this was planned: of a new table, its number

    @property
    def total(self) -> int:
        """All bits that the choice of this plan costs."""
        return self.bits + self.table_bits


@dataclass
class Tables:
    """The file's tables of code lengths, each shared by all streams that it serves better than a table of their own."""

    encoding: Encoding
    codes: list[HuffmanCode] = field(default_factory=list)
    _alphabets: int = 0  # of all codes together
    # All tables as rows, absent symbols as _ABSENT; so that all of them are tried on a stream in one step.
    _rows: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0), np.uint8))

    def plan(self, counts: Counts, alphabet: int) -> StreamPlan:
        """The cheapest coder for symbols below `alphabet` that occur `counts[s]` times; nothing is added to the tables yet."""
        plans = [_fixed_plan(counts)]
        if self.encoding.coder != "fixed" and counts.any():
            plans += self._huffman_plans(counts, alphabet)
        return min(plans, key=lambda plan: plan.total)

    def plan_huffman(self, counts: Counts, alphabet: int) -> StreamPlan | None:
        """The cheapest Huffman code; None where no symbol occurs, or there are too many tables."""
        plans = self._huffman_plans(counts, alphabet) if counts.any() else []
        return min(plans, key=lambda plan: plan.total, default=None)

    def adopt(self, plan: StreamPlan) -> None:
        """Add the plan's table, if it brings a new one."""
        if plan.code is not None and plan.table_bits:
            self.codes.append(plan.code)
            self._alphabets += plan.code.alphabet
            self._add_row(plan.code)

    def _add_row(self, code: HuffmanCode) -> None:
        count, width = len(self.codes), max(code.alphabet, self._rows.shape[1])
        if count > len(self._rows) or width > self._rows.shape[1]:
            rows = np.full((2 * count, width), _ABSENT, np.uint8)
            rows[: count - 1, : self._rows.shape[1]] = self._rows[: count - 1]
            self._rows = rows
        self._rows[count - 1, : code.alphabet] = np.where(code.lengths, code.lengths, _ABSENT)

    def _huffman_plans(self, counts: Counts, alphabet: int) -> list[StreamPlan]:
        """A code of its own, and the best known code that has these symbols and none that cannot stand here."""
        own = HuffmanCode.from_counts(counts, self.encoding.max_code_length)
        fits = self._alphabets + own.alphabet <= layout.MAX_ALL_ALPHABETS
        count = len(self.codes)
        plans = [_huffman_plan(own, counts, count, count)] if fits else []
        if (known := self._best_known(counts, alphabet)) is not None:
            plans.append(_huffman_plan(self.codes[known], counts, known, count))
        return plans

    def _best_known(self, counts: Counts, alphabet: int) -> int | None:
        """The known code of fewest bits, of equals the first."""
        used = np.flatnonzero(counts)
        if not self.codes or used[-1] >= self._rows.shape[1]:
            return None
        rows = self._rows[: len(self.codes)]
        lengths = rows[:, used]
        fits = (lengths != _ABSENT).all(axis=1) & (rows[:, alphabet:] == _ABSENT).all(axis=1)
        if not fits.any():
            return None
        bits = lengths.astype(np.int64) @ counts[used]
        return int(np.where(fits, bits, np.iinfo(np.int64).max).argmin())

    @property
    def lengths(self) -> list[Lengths]:
        """The code lengths of each table, in the order of the directory."""
        return [code.lengths for code in self.codes]


def _huffman_plan(code: HuffmanCode, counts: Counts, index: int, tables: int) -> StreamPlan:
    """A plan with table `index`, of which there are `tables`: a new one costs its bits."""
    own = length_bits(code.lengths) if index == tables else 0
    return StreamPlan(layout.CODEC_HUFFMAN, HuffmanLanes(code), code.bits(counts), own, varint(index), code, tables)


def _fixed_plan(counts: Counts) -> StreamPlan:
    """Symbols less the smallest one, in as many bits as the largest needs: none where all are equal."""
    used = np.flatnonzero(counts)
    base, top = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
    width = (top - base).bit_length()
    parameters = bytes([width]) + varint(base)
    return StreamPlan(layout.CODEC_FIXED, FixedLanes(width, base), width * int(counts.sum()), 0, parameters)


def choose_geometry(numel: int, symbols: int) -> Geometry:
    """Chunks that hold about 2**18 of the `symbols` that stand for `numel` weights, and lanes where a chunk is long."""
    per_symbol = max(numel // max(symbols, 1), 1)
    chunk_log2 = min((_CHUNK_SYMBOLS * per_symbol).bit_length() - 1, 31)
    longest = min(symbols, (1 << chunk_log2) // per_symbol)
    return Geometry(chunk_log2, 1 if longest < _SINGLE_LANE else _LANES)


def chunk_count(numel: int, chunk_log2: int) -> int:
    """Chunks of a tensor; one at least."""
    return max(-(-numel >> chunk_log2), 1)


def dense_counts(numel: int, chunk_log2: int) -> Counts:
    """Symbols per chunk where each weight has one."""
    starts = np.arange(chunk_count(numel, chunk_log2), dtype=np.int64) << chunk_log2
    counts: Counts = np.minimum(numel - starts, 1 << chunk_log2)
    return counts


def open_coder(stream: StreamRecord, tables: Sequence[Lengths], alphabet: int) -> LaneCoder:
    """The coder of a stream whose symbols must be below `alphabet`.

    Raises:
        UnsupportedError: an unknown codec.
        FormatError: its parameters make no sense.
    """
    cursor = Cursor(stream.parameters, "codec parameters")
    if stream.codec == layout.CODEC_HUFFMAN:
        coder = open_huffman(cursor, tables, alphabet)
    elif stream.codec == layout.CODEC_FIXED:
        coder = _open_fixed(cursor, alphabet)
    else:
        raise unknown_codec(stream)
    cursor.finish()
    return coder


def unknown_codec(stream: StreamRecord) -> UnsupportedError:
    """The error for a codec of a later version."""
    return UnsupportedError(f"codec {stream.codec} is unknown to this reader (format {layout.MAJOR}.{layout.MINOR})")


def open_huffman(cursor: Cursor, tables: Sequence[Lengths], alphabet: int) -> LaneCoder:
    """The coder of the table whose number comes next, and whose symbols must be below `alphabet`.

    Raises:
        FormatError: there is no such table, or it has other symbols.
    """
    index = cursor.varint()
    if index >= len(tables):
        raise cursor.error(f"code-length table {index} of {len(tables)}")
    lengths = tables[index]
    if np.any(lengths[alphabet:]):
        largest = int(np.flatnonzero(lengths)[-1])
        raise cursor.error(f"the code has symbol {largest}, the largest that can stand here is {alphabet - 1}")
    return _huffman_lanes(lengths.tobytes())


@lru_cache(maxsize=128)
def _huffman_lanes(lengths: bytes) -> HuffmanLanes:
    """A coder with the tables that it has made, for all streams that share its code."""
    return HuffmanLanes(HuffmanCode.from_lengths(np.frombuffer(lengths, np.uint8)))


def _open_fixed(cursor: Cursor, alphabet: int) -> LaneCoder:
    width, base = cursor.byte(), cursor.varint()
    if width > layout.MAX_FIXED_WIDTH or base >= alphabet:
        raise cursor.error(f"fixed width {width} from {base} on, the largest symbol that can stand here is {alphabet - 1}")
    return FixedLanes(width, base)


def check_symbols(symbols: NDArray[np.unsignedinteger], alphabet: int) -> None:
    """Raise FormatError unless every symbol is below `alphabet` (fixed-width symbols can exceed it)."""
    if len(symbols) and int(symbols.max()) >= alphabet:
        raise FormatError(f"symbol {int(symbols.max())}, the largest that can stand here is {alphabet - 1}")
