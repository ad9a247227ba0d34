"""The loops over bits. Every index is proven or checked where it is used: no input reads or writes out of bounds.

A bit string fills each byte from its least significant bit up. A position counts bits from the start of the first byte.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.jit import inline, jit

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint32]

PEEK_BITS = 57  # what `_peek` sees at least: 64 less the 7 bits of its first byte that may lie before the position
LENGTH_BITS = 5  # a table entry is symbol << LENGTH_BITS | code length


@inline
def _peek(data: Bytes, position: int) -> Any:
    """The next 57 bits or more, the next one lowest, as uint64; near the end of `data` the ones there are.

    `data` has eight bytes or more. No position leads outside: what lies too far on, reads the last eight bytes (and gets
    nonsense, if it lies behind them).
    """
    at = min(np.uint64(position) >> np.uint64(3), np.uint64(len(data) - 8))
    word = np.uint64(0)
    for i in range(np.uint64(8)):  # compiles to one load
        word |= np.uint64(data[at + i]) << (np.uint64(8) * i)
    return word >> min(np.uint64(position) - np.uint64(8) * at, np.uint64(63))


@inline
def _store(out: Bytes, at: int, word: Any, count: Any) -> Any:
    """Write the `count` low bytes of `word`; returns the place behind. The callers have counted the bytes beforehand."""
    for i in range(count):
        out[at + i] = np.uint8(word >> np.uint64(8 * i))
    return at + count


@jit
def pack(values: NDArray[Any], width: int, out: Bytes) -> None:
    """Concatenate fields of `width` <= 32 bits; `out` has ceil(width x len(values) / 8) bytes."""
    word, filled, at = np.uint64(0), np.int64(0), 0
    for value in values:
        word |= np.uint64(value) << np.uint64(filled)
        filled += width
        if filled >= 32:
            at = _store(out, at, word, 4)
            word >>= np.uint64(32)
            filled -= 32
    _store(out, at, word, (filled + 7) >> 3)


@jit
def unpack(data: Bytes, width: int, out: NDArray[Any]) -> None:
    """Fill `out` with fields of `width` <= 32 bits, which must fit its type; `data` has eight bytes or more."""
    mask = (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    for i in range(len(out)):
        out[i] = _peek(data, i * width) & mask


@jit
def codeword_bits(symbols: NDArray[Any], lengths: Bytes) -> int:
    """Bits of the symbols' codewords; -1 where a symbol has none. What is not -1 is safe to encode."""
    total = 0
    for symbol in symbols:
        if symbol >= len(lengths) or lengths[symbol] == 0:
            return -1
        total += lengths[symbol]
    return total


@jit
def encode_lane(symbols: NDArray[Any], words: Words, lengths: Bytes, out: Bytes) -> None:
    """Concatenate codewords of at most 32 bits into `out`, which has ceil(codeword_bits(symbols) / 8) bytes."""
    word, filled, at = np.uint64(0), np.int64(0), 0
    for symbol in symbols:
        word |= np.uint64(words[symbol]) << np.uint64(filled)
        filled += np.int64(lengths[symbol])
        if filled >= 32:
            at = _store(out, at, word, 4)
            word >>= np.uint64(32)
            filled -= 32
    _store(out, at, word, (filled + 7) >> 3)


@inline
def _decode_burst(data: Bytes, position: Any, table: Words, out: NDArray[Any], start: int, stop: int) -> Any:
    """Fill out[start:stop] from one peek; returns the position behind. The mask keeps each lookup inside the table."""
    mask = np.uint64(len(table) - 1)
    word = _peek(data, position)
    for i in range(start, stop):
        entry = table[word & mask]
        length = entry & np.uint32((1 << LENGTH_BITS) - 1)
        out[i] = entry >> np.uint32(LENGTH_BITS)
        word >>= np.uint64(length)
        position += np.int64(length)
    return position


@jit
def decode_lanes(data: Bytes, positions: NDArray[np.int64], table: Words, burst: int, out: NDArray[Any]) -> None:
    """Decode `len(positions)` lanes side by side; `positions` says where each begins, and afterwards where it ended.

    Lane j fills out[j s : min((j + 1) s, n)], s = ceil(n / lanes). `table` has 2**width entries of lengths <= width, and
    burst x width <= PEEK_BITS; `data` has eight bytes or more. A lane that does not hold its symbols' codewords runs into its
    neighbours' bytes or past the end: harmless, and seen from where it ended.
    """
    lanes, count = len(positions), len(out)
    step = (count + lanes - 1) // lanes
    common = max(count - (lanes - 1) * step, 0) // burst * burst
    for i in range(0, common, burst):
        for lane in range(lanes):  # they do not wait for each other, so the processor overlaps them
            start = lane * step + i
            positions[lane] = _decode_burst(data, positions[lane], table, out, start, start + burst)
    for lane in range(lanes):
        for i in range(lane * step + common, min((lane + 1) * step, count)):
            positions[lane] = _decode_burst(data, positions[lane], table, out, i, i + 1)
