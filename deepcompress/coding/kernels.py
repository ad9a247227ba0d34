"""The loops over bits. Every index is proven or checked where it is used: no input reads or writes out of bounds.

A bit string fills each byte from its least significant bit up. A position counts bits from the start of the first byte.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.jit import inline, jit
from deepcompress.coding.memory import leading_zeros, load64, store_low

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint32]
Lanes = NDArray[np.uint64]

LENGTH_BITS = 5  # an entry of the encoder's table is codeword << LENGTH_BITS | code length
SLACK = 8  # bytes behind the last one that an encoder may touch

# An entry of the decoder's table, 32 or 64 bits, is what one look at the next bits finds:
#   | bytes | symbols, the first one lowest ..... | bits |
#     2 or 3                                        6
ENTRY_BITS = 6
TURN = 4  # looks per refill: 4 of at most 14 bits find what a load of 64 bits at any bit holds, 56 bits and a marker
MAX_WIDTH = 14
WIDE = 2  # looks per refill of codes with longer codewords


@inline
def _peek(data: Bytes, position: Any) -> Any:
    """The next 57 bits or more, the next one lowest, as uint64; near the end of `data` the ones there are.

    `data` has eight bytes or more. No position leads outside: what lies too far on, reads the last eight bytes (and gets
    nonsense, if it lies behind them).
    """
    at = min(np.uint64(position) >> np.uint64(3), np.uint64(len(data) - 8))
    return load64(data, at) >> min(np.uint64(position) - np.uint64(8) * at, np.uint64(63))


@jit
def pack(values: NDArray[Any], width: int, out: Bytes) -> None:
    """Concatenate fields of `width` <= 32 bits; `out` has ceil(width x len(values) / 8) + SLACK bytes."""
    word, filled, at = np.uint64(0), np.uint64(0), np.uint64(0)
    for value in values:
        word |= np.uint64(value) << filled
        filled += np.uint64(width)
        store_low(out, at, word)
        at += filled >> np.uint64(3)
        word >>= filled & np.uint64(56)
        filled &= np.uint64(7)


@jit
def unpack(data: Bytes, width: int, out: NDArray[Any]) -> None:
    """Fill `out` with fields of `width` <= 32 bits, which must fit its type; `data` has eight bytes or more."""
    mask = (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    for i in range(len(out)):
        out[i] = _peek(data, i * width) & mask


@jit
def count(symbols: NDArray[Any], counts: NDArray[np.int64]) -> None:
    """Add each symbol's occurrences to a row of `counts`, (4, alphabet); every symbol must be below the alphabet.

    Four rows in turn, as a counter that is raised twice in a row waits for itself.
    """
    whole = len(symbols) // 4 * 4
    for i in range(0, whole, 4):
        counts[0, symbols[i]] += 1
        counts[1, symbols[i + 1]] += 1
        counts[2, symbols[i + 2]] += 1
        counts[3, symbols[i + 3]] += 1
    for i in range(whole, len(symbols)):
        counts[0, symbols[i]] += 1


@inline
def _append(entry: Any, word: Any, filled: Any) -> Any:
    word |= np.uint64(entry >> np.uint32(LENGTH_BITS)) << filled
    return word, filled + np.uint64(entry & np.uint32((1 << LENGTH_BITS) - 1))


@inline
def _flush(out: Bytes, at: Any, word: Any, filled: Any) -> Any:
    """Write all eight bytes and step over the whole ones: cheaper than asking how many there are."""
    store_low(out, at, word)
    return at + (filled >> np.uint64(3)), word >> (filled & np.uint64(56)), filled & np.uint64(7)


@inline
def _append_pairs(symbols: NDArray[Any], pairs: Words, out: Bytes, at: Any) -> Any:
    """The codewords of eight symbols after eight; one entry for each two, so half the steps."""
    word, filled = np.uint64(0), np.uint64(0)
    for i in range(0, len(symbols) - 7, 8):
        eight = load64(symbols, np.uint64(i))
        word, filled = _append(pairs[eight & np.uint64(0xFFFF)], word, filled)
        word, filled = _append(pairs[eight >> np.uint64(16) & np.uint64(0xFFFF)], word, filled)
        at, word, filled = _flush(out, at, word, filled)
        word, filled = _append(pairs[eight >> np.uint64(32) & np.uint64(0xFFFF)], word, filled)
        word, filled = _append(pairs[eight >> np.uint64(48)], word, filled)
        at, word, filled = _flush(out, at, word, filled)
    return at, word, filled


@inline
def _encode_lane(symbols: NDArray[Any], table: Words, pairs: Words, out: Bytes, at: Any) -> Any:
    """Concatenate the symbols' codewords from out[at] on; returns the byte behind."""
    word, filled, start = np.uint64(0), np.uint64(0), 0
    if len(pairs):
        at, word, filled = _append_pairs(symbols, pairs, out, at)
        start = len(symbols) // 8 * 8
    whole = start + (len(symbols) - start) // 2 * 2
    for i in range(start, whole, 2):
        word, filled = _append(table[symbols[i]], word, filled)
        word, filled = _append(table[symbols[i + 1]], word, filled)
        at, word, filled = _flush(out, at, word, filled)
    if whole < len(symbols):
        word, filled = _append(table[symbols[whole]], word, filled)
    store_low(out, at, word)
    return at + ((filled + np.uint64(7)) >> np.uint64(3))


@jit
def encode_chunks(
    symbols: NDArray[Any], counts: NDArray[np.int64], lanes: int, table: Words, pairs: Words, out: Bytes, sizes: NDArray[np.int64]
) -> int:
    """Write chunks of `counts` symbols back to back and their bytes to `sizes`; returns the bytes of all.

    Every symbol is below len(table); counts sum to len(symbols). A symbol without a codeword has the entry 0 and adds no bit.
    `pairs` has no entries, or, where symbols are bytes and no codeword is longer than 12 bits, 65,536: those of a symbol and
    256 x the next one, one behind the other. `out` has 4 (lanes - 1) bytes per chunk, the codewords' bits and 7 bits per
    lane, rounded up, and SLACK.
    """
    at, start = np.uint64(0), 0
    for chunk in range(len(counts)):
        first, stop = at, start + counts[chunk]
        step = (counts[chunk] + lanes - 1) // lanes
        if counts[chunk]:
            at += np.uint64(4 * (lanes - 1))
        for lane in range(lanes if counts[chunk] else 0):
            before = at
            low, high = min(start + lane * step, stop), min(start + (lane + 1) * step, stop)
            at = _encode_lane(symbols[low:high], table, pairs, out, at)
            if lane < lanes - 1:
                size = at - before
                for i in range(4):
                    out[first + np.uint64(4 * lane + i)] = np.uint8(size >> np.uint64(8 * i))
        sizes[chunk] = np.int64(at - first)
        start = stop
    return int(at)


@jit
def fill_single(ordered: NDArray[np.int64], lengths: Bytes, single: Words) -> None:
    """By the next bits: the first symbol << LENGTH_BITS | its code length.

    `single` has 2**width entries, no codeword is longer than `width`; `ordered` are the symbols in the order of their codewords.
    """
    codeword: Any = 0
    before: Any = 0
    for symbol in ordered:
        length = np.int64(lengths[symbol])
        codeword <<= length - before
        before = length
        first = 0
        for bit in range(length):
            first |= (codeword >> bit & 1) << (length - 1 - bit)
        for index in range(first, len(single), 1 << length):
            single[index] = np.uint32(symbol << LENGTH_BITS | length)
        codeword += 1


@jit
def fill_table(single: Words, width: int, size: int, most: int, table: NDArray[Any]) -> None:
    """By the next `width` bits: all whole codewords among them, at most `most`, as an entry of symbols of `size` bytes."""
    top = 8 * table.itemsize - (2 if table.itemsize == 4 else 3)
    for index in range(len(table)):
        entry, found = np.uint64(0), 0
        used: Any = 0
        while found < most:
            first = single[index >> used]
            length = np.int64(first & np.uint32((1 << LENGTH_BITS) - 1))
            if used + length > width:
                break
            entry |= np.uint64(first >> np.uint32(LENGTH_BITS)) << np.uint64(ENTRY_BITS + 8 * size * found)
            used += length
            found += 1
        table[index] = entry | np.uint64(used) | np.uint64(found * size) << np.uint64(top)


@inline
def _look(table: NDArray[Any], word: Any, out: Bytes, at: Any) -> Any:
    """Write what the next bits stand for; the bits and the place behind. No entry is empty, so each look gets on.

    The entry's code length lies lowest, where the processor's shift looks for it; all bytes are written, and those that are
    no symbols are written over by the next look.
    """
    entry = table[word & np.uint64(len(table) - 1)]
    top = np.uint64(8 * table.itemsize - (2 if table.itemsize == 4 else 3))
    store_low(out, at, entry >> table.dtype.type(ENTRY_BITS))
    return word >> (np.uint64(entry) & np.uint64(63)), at + (np.uint64(entry) >> top)


@inline
def _refill(data: Bytes, position: Any) -> Any:
    """56 bits or more and above them a one, whose way down tells how many were used."""
    return load64(data, position >> np.uint64(3)) >> (position & np.uint64(7)) | np.uint64(1 << 63)


@inline
def _turns(lane: NDArray[np.uint64], position: Any, at: Any, most: int) -> Any:
    """Refills that surely stay within the lane's bytes and its symbols."""
    bits = (np.int64(lane[1]) - np.int64(position) - 64) // 56
    room = (np.int64(lane[3]) - np.int64(at) - SLACK) // most
    return min(bits, room)


@inline
def _decode_four(data: Bytes, lanes: Lanes, table: NDArray[Any], looks: int, out: Bytes) -> None:
    """Decode four lanes side by side, until one of them is near its end.

    They do not wait for each other, so that the processor overlaps them; all their state is in its registers.
    """
    most = 12 if table.itemsize == 4 else 24
    p0, p1, p2, p3 = lanes[0, 0], lanes[1, 0], lanes[2, 0], lanes[3, 0]
    a0, a1, a2, a3 = lanes[0, 2], lanes[1, 2], lanes[2, 2], lanes[3, 2]
    turns = np.int64(1)
    while turns > 0:
        turns = min(
            min(_turns(lanes[0], p0, a0, most), _turns(lanes[1], p1, a1, most)),
            min(_turns(lanes[2], p2, a2, most), _turns(lanes[3], p3, a3, most)),
        )
        for _ in range(turns):
            w0, w1, w2, w3 = _refill(data, p0), _refill(data, p1), _refill(data, p2), _refill(data, p3)
            for _ in range(looks):
                w0, a0 = _look(table, w0, out, a0)
                w1, a1 = _look(table, w1, out, a1)
                w2, a2 = _look(table, w2, out, a2)
                w3, a3 = _look(table, w3, out, a3)
            p0, p1, p2, p3 = p0 + leading_zeros(w0), p1 + leading_zeros(w1), p2 + leading_zeros(w2), p3 + leading_zeros(w3)
    lanes[0, 0], lanes[1, 0], lanes[2, 0], lanes[3, 0] = p0, p1, p2, p3
    lanes[0, 2], lanes[1, 2], lanes[2, 2], lanes[3, 2] = a0, a1, a2, a3


@inline
def _finish_lane(data: Bytes, lane: NDArray[np.uint64], table: NDArray[Any], lengths: Bytes, size: int, out: Bytes) -> None:
    """Decode what is left of a lane, without a look at more symbols than it has."""
    position, at, stop = lane[0], lane[2], lane[3]
    while at + np.uint64(SLACK) <= stop:
        word = _peek(data, position) | np.uint64(1 << 63)
        word, at = _look(table, word, out, at)
        position += leading_zeros(word)
    while at < stop:
        entry = np.uint64(table[_peek(data, position) & np.uint64(len(table) - 1)]) >> np.uint64(ENTRY_BITS)
        symbol = np.uint64(0)
        for i in range(size):
            byte = entry >> np.uint64(8 * i) & np.uint64(255)
            out[at + np.uint64(i)] = np.uint8(byte)
            symbol |= byte << np.uint64(8 * i)
        position += np.uint64(lengths[min(symbol, np.uint64(len(lengths) - 1))])
        at += np.uint64(size)
    lane[0], lane[2] = position, at


@jit
def decode_lanes(data: Bytes, lanes: Lanes, table: NDArray[Any], lengths: Bytes, looks: int, size: int, out: Bytes) -> None:
    """Decode lanes, four at a time.

    A row of `lanes`, (n, 4), is a lane's position and the position behind it, and the bytes of `out` from its first symbol to
    behind its last one; positions and first bytes are moved to where decoding ended. A lane that does not hold its symbols'
    codewords runs into its neighbours' bits or past the end: harmless, and seen from where it ended.

    `table` has 2**width entries for symbols of `size` bytes, looks x width <= 56; `data` has eight bytes or more.
    """
    for first in range(0, len(lanes) - 3, 4):
        if looks == TURN:
            _decode_four(data, lanes[first : first + 4], table, TURN, out)
    for lane in range(len(lanes)):
        _finish_lane(data, lanes[lane], table, lengths, size, out)


@jit
def cut_lanes(
    section: Bytes, lengths: NDArray[np.int64], counts: NDArray[np.int64], lanes: int, rows: NDArray[np.int64]
) -> tuple[int, int]:
    """Find the lanes of all chunks that hold symbols: a row is a lane's bytes, from and to, and its symbols, from and to.

    The chunks' `lengths` sum to what is left of `section` behind its tables, `rows` (lanes x chunks with symbols, 4) is filled.
    Returns (-1, 0), or a chunk that is too short for its lanes' lengths, and what these sum to (-1: for the lengths themselves).
    """
    at, symbol, row = len(section) - lengths.sum(), 0, 0
    for chunk in range(len(lengths)):
        end, last = at + lengths[chunk], symbol + counts[chunk]
        if counts[chunk]:
            begin, step = at + 4 * (lanes - 1), (counts[chunk] + lanes - 1) // lanes
            if begin > end:
                return chunk, -1
            for lane in range(lanes):
                size = end - begin
                if lane < lanes - 1:
                    size = np.int64(0)
                    for i in range(4):
                        size |= np.int64(section[at + 4 * lane + i]) << (8 * i)
                rows[row, 0], rows[row, 1] = begin, begin + size
                rows[row, 2], rows[row, 3] = min(symbol + lane * step, last), min(symbol + (lane + 1) * step, last)
                begin += size
                row += 1
            if rows[row - 1, 0] > end:
                return chunk, rows[row - 1, 0] - rows[row - lanes, 0]
        at, symbol = end, last
    return -1, 0


@jit
def wrong_lane(data: Bytes, rows: NDArray[np.int64], ends: Lanes) -> int:
    """The first lane that does not end in its last byte, or not in zeros, or -1; `ends[j, 0]` is the bit where lane j did end."""
    for lane in range(len(rows)):
        bits = np.int64(ends[lane, 0]) - 8 * rows[lane, 0]
        if (bits + 7) >> 3 != rows[lane, 1] - rows[lane, 0]:
            return lane
        if bits & 7 and data[rows[lane, 1] - 1] >> (bits & 7):
            return lane
    return -1
