"""The loops from weights to gaps and back, see `gaps`. No gap leads outside of what a chunk has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.bits import Symbols
from deepcompress.coding.jit import jit

TOO_FAR, ESCAPE_LAST, MISCOUNTED, NOT_A_VALUE = 1, 2, 3, 4  # what can be wrong with a chunk's gaps

Counts = NDArray[np.int64]


@jit
def count_nonzeros(symbols: Symbols, size: int, counts: Counts) -> None:
    for chunk in range(len(counts)):
        total = 0
        for symbol in symbols[chunk * size : (chunk + 1) * size]:
            total += symbol != 0
        counts[chunk] = total


@jit
def split(symbols: Symbols, size: int, gaps: NDArray[np.uint32], kept: Symbols) -> None:
    """Gaps and nonzeros; each chunk has one place more than nonzeros.

    Each weight is written as if it were a nonzero, and the place moves on only if it is: a branch would be guessed wrong at
    every other nonzero.
    """
    at = np.uint64(0)
    for start in range(0, len(symbols), size):
        next_gap = np.uint32(0)
        for i in range(start, min(start + size, len(symbols))):
            nonzero = symbols[i] != 0
            gaps[at] = next_gap
            kept[at] = symbols[i]
            at += np.uint64(nonzero)
            next_gap = np.uint32(0) if nonzero else np.uint32(next_gap + np.uint32(1))
        at += np.uint64(1)


@jit
def count_symbols(gaps: NDArray[np.uint32], counts: Counts, escape: int, totals: Counts) -> None:
    """How many symbols the gaps of each chunk take, `counts` being how many gaps it has, all in all."""
    at, once, twice = 0, np.uint32(escape), np.uint32(2 * escape)
    for chunk in range(len(counts)):
        part, total, longest = gaps[at : at + counts[chunk]], counts[chunk], np.uint32(0)
        for gap in part:  # no division and no branch, so that many gaps are looked at in one instruction
            total += gap >= once
            longest = max(longest, gap)
        if longest >= twice:
            total = counts[chunk]
            for gap in part:
                total += gap // once
        totals[chunk] = total
        at += counts[chunk]


@jit
def emit(gaps: NDArray[np.uint32], escape: int, symbols: Symbols) -> None:
    """Each gap as escapes and what is left; `symbols` has as many places as `count_symbols` counts."""
    at, once = np.uint64(0), np.uint32(escape)
    for gap in gaps:
        left = gap
        while left >= once:
            symbols[at] = once
            at += np.uint64(1)
            left -= once
        symbols[at] = left
        at += np.uint64(1)


@jit
def count_capped(gaps: NDArray[np.uint32], counts: Counts) -> None:
    """`counts` has four rows, taken in turn: see `kernels.count`."""
    top, whole = np.uint32(counts.shape[1] - 1), len(gaps) // 4 * 4
    for place in range(0, whole, 4):
        counts[0, min(gaps[place], top)] += 1
        counts[1, min(gaps[place + 1], top)] += 1
        counts[2, min(gaps[place + 2], top)] += 1
        counts[3, min(gaps[place + 3], top)] += 1
    for place in range(whole, len(gaps)):
        counts[0, min(gaps[place], top)] += 1


@jit
def walk(symbols: Symbols, counts: Counts, escape: int, numel: int, chunk_log2: int, out: Counts) -> tuple[int, int]:
    """Fill `out` with positions; (chunk, what is wrong with it), or (0, 0).

    `counts` (2, C) are the gaps of each chunk, len(symbols) in all and none negative, and its nonzeros.
    """
    at, filled = 0, 0
    for chunk in range(counts.shape[1]):
        position: Any = chunk << chunk_log2
        end = min(position + (1 << chunk_log2), numel)
        stop, first = at + counts[0, chunk], filled
        while at < stop:
            symbol = np.int64(symbols[at])
            at += 1
            position += symbol
            if position > end or (symbol != escape and position >= end):
                return chunk, TOO_FAR
            if symbol != escape:
                if filled >= len(out):
                    return chunk, MISCOUNTED
                out[filled] = position
                filled += 1
                position += 1
            elif at == stop:
                return chunk, ESCAPE_LAST
        if filled - first != counts[1, chunk]:
            return chunk, MISCOUNTED
    return 0, 0


@jit
def place(
    gaps: Symbols, counts: Counts, escape: int, chunk_log2: int, values: NDArray[Any], dense: NDArray[Any]
) -> tuple[int, int]:  # fmt: skip
    """As `walk`, with the next of `values` written to each position; `counts` (C,) are the gaps of each chunk."""
    at, filled = 0, 0
    for chunk in range(len(counts)):
        position: Any = chunk << chunk_log2
        end = min(position + (1 << chunk_log2), len(dense))
        stop = at + counts[chunk]
        while at < stop:
            gap = np.int64(gaps[at])
            at += 1
            position += gap
            if position > end or (gap != escape and position >= end):
                return chunk, TOO_FAR
            if gap != escape:
                if filled >= len(values):
                    return chunk, MISCOUNTED
                dense[position] = values[filled]
                filled += 1
                position += 1
            elif at == stop:
                return chunk, ESCAPE_LAST
    return (0, 0) if filled == len(values) else (0, MISCOUNTED)


@jit
def scatter(
    gaps: Symbols, symbols: Symbols, counts: Counts, table: NDArray[Any], escape: int, chunk_log2: int, dense: NDArray[Any]
) -> tuple[int, int]:
    """As `walk`, with table[symbol] written to each position."""
    at, filled = 0, 0
    for chunk in range(counts.shape[1]):
        position: Any = chunk << chunk_log2
        end = min(position + (1 << chunk_log2), len(dense))
        stop, last = at + counts[0, chunk], filled + counts[1, chunk]
        while at < stop:
            gap = np.int64(gaps[at])
            at += 1
            position += gap
            if position > end or (gap != escape and position >= end):
                return chunk, TOO_FAR
            if gap != escape:
                if filled >= last:
                    return chunk, MISCOUNTED
                symbol = symbols[filled]
                if symbol == 0 or symbol >= len(table):
                    return chunk, NOT_A_VALUE
                dense[position] = table[symbol]
                filled += 1
                position += 1
            elif at == stop:
                return chunk, ESCAPE_LAST
        if filled != last:
            return chunk, MISCOUNTED
    return 0, 0
