"""Positions of the nonzeros as the gaps between them, each at most so long; a longer one takes escapes.

    weights   0 0 5 0 0 0 0 7 1      gap_bits = 2, escape = 3
    gaps          2         4 0      zeros before each nonzero
    symbols       2       3 1 0      2 zeros, nonzero; 3 zeros; 1 zero, nonzero; 0 zeros, nonzero

Each chunk of 2**chunk_log2 weights starts anew, and nothing is written behind its last nonzero.

Source: Han, Mao, Dally. Deep Compression. ICLR 2016, sec. 2 (where a zero-valued weight stands in for the escape).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding import pool, walks
from deepcompress.coding.bits import Symbols, as_symbols, sealed, symbol_dtype
from deepcompress.coding.merge import least_bits
from deepcompress.errors import FormatError, ParameterError

MAX_GAP_BITS = 16
MAX_CHUNK_LOG2 = 31
_COUNTED = 1 << 13  # gaps below are counted in a table that stays in the level-1 and level-2 caches
_TRIED = 3  # choices of gap_bits whose cost is counted, after all have been ranked by an estimate
_ALL_TRIED = 1 << 15  # with fewer gaps all choices are counted: tables weigh most there
_SYMBOL_BITS = 0.03  # that a codeword is longer than it should be, about; and each symbol takes time
_TABLE_BITS = 2  # of a symbol's code length in a table, about

Positions = NDArray[np.int64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Nonzeros:
    """The nonzeros of a run of weights, chunk by chunk.

    Attributes:
        gaps: (n,) uint32, zeros before each: since the one before it, or since the start of its chunk.
        kept: (n,) the nonzeros themselves, in the weights' type.
        counts: (C,) how many each chunk has, C = max(1, ceil(weights / 2**chunk_log2)).
    """

    gaps: NDArray[np.uint32]
    kept: Symbols
    counts: Counts


def find_nonzeros(symbols: Symbols, chunk_log2: int) -> Nonzeros:
    """Take a dense run of symbols apart; chunks are shared out to the threads.

    Args:
        symbols: (numel,) uint8, uint16 or uint32, zero where a weight is pruned.
        chunk_log2: 0 to 31; a chunk has 2**chunk_log2 weights.

    Raises:
        ParameterError: an argument is anything else.
    """
    _check_cut(len(symbols), 1, chunk_log2, "find_nonzeros")
    symbols = as_symbols(symbols, "symbols", "find_nonzeros")
    size = 1 << chunk_log2
    chunks = max(-(-len(symbols) >> chunk_log2), 1)
    counts = np.zeros(chunks, np.int64)
    pool.share(chunks, lambda first, last: walks.count_nonzeros(symbols[first * size : last * size], size, counts[first:last]))
    stops = np.cumsum(counts)
    gaps, kept = np.empty(stops[-1] + chunks, np.uint32), np.empty(stops[-1] + chunks, symbols.dtype)

    def split(first: int, last: int) -> None:
        start, stop = (int(stops[first] - counts[first]) + first, int(stops[last - 1]) + last)
        walks.split(symbols[first * size : last * size], size, gaps[start:stop], kept[start:stop])

    pool.share(chunks, split)
    if chunks == 1:
        return Nonzeros(gaps[:-1], kept[:-1], counts)
    places = np.ones(len(gaps), np.bool_)
    places[stops + np.arange(chunks)] = False  # each chunk has a place to spare behind it
    return Nonzeros(gaps[places], kept[places], counts)


def encode_gaps(gaps: NDArray[np.uint32], counts: Counts, gap_bits: int) -> tuple[Symbols, Counts]:
    """Gaps as symbols below 2**gap_bits, the last of which is the escape.

    Args:
        gaps: (n,) uint32.
        counts: (C,) gaps in each chunk, n in all.
        gap_bits: 1 to 16.

    Returns:
        Symbols (m,) in the smallest unsigned type, and how many of them each chunk has, (C,) int64.

    Raises:
        ParameterError: gap_bits out of range.
    """
    _check_cut(0, gap_bits, 0, "encode_gaps")
    escape = (1 << gap_bits) - 1
    dtype, gaps, counts = symbol_dtype(escape + 1), sealed(gaps), sealed(counts)
    if int(gaps.max(initial=0)) < escape:
        return gaps.astype(dtype), counts
    stops = np.cumsum(counts)
    totals = np.empty(len(counts), np.int64)

    def run(first: int, last: int) -> NDArray[np.uint32]:
        return gaps[stops[first] - counts[first] : stops[last - 1]]

    def count(first: int, last: int) -> None:
        walks.count_symbols(run(first, last), counts[first:last], escape, totals[first:last])

    def emit(first: int, last: int) -> None:
        walks.emit(run(first, last), escape, symbols[ends[first] - totals[first] : ends[last - 1]])

    pool.share(len(counts), count)
    ends = np.cumsum(totals)
    symbols = np.empty(ends[-1], dtype)
    pool.share(len(counts), emit)
    return symbols, totals


def decode_gaps(
    gap_symbols: Symbols,
    gap_counts: Counts,
    nonzero_counts: Counts,
    numel: int,
    gap_bits: int,
    chunk_log2: int,
) -> Positions:
    """Flat positions of the nonzeros, (n,) int64, ascending.

    Raises:
        ParameterError: numel, gap_bits or chunk_log2 out of range.
        FormatError: the gaps of a chunk run past its end, end in an escape, or do not lead to `nonzero_counts` nonzeros.
    """
    _check_cut(numel, gap_bits, chunk_log2, "decode_gaps")
    escape = (1 << gap_bits) - 1
    gap_symbols = as_symbols(gap_symbols, "gap_symbols", "decode_gaps")
    counts = _checked_counts(gap_counts, nonzero_counts, numel, chunk_log2)
    if (found := int(counts[0].sum())) != len(gap_symbols):
        raise FormatError(f"gap counts sum to {found}, there are {len(gap_symbols)} gaps")
    if len(gap_symbols) and int(gap_symbols.max()) > escape:
        raise FormatError(f"gap {int(gap_symbols.max())}, the largest of {gap_bits} bits is {escape}")
    nonzeros = int(np.count_nonzero(gap_symbols != escape))
    if (found := int(counts[1].sum())) != nonzeros:
        raise FormatError(f"nonzero counts sum to {found}, the gaps lead to {nonzeros} nonzeros")
    positions = np.empty(nonzeros, np.int64)
    kept = sealed(gap_symbols.astype(symbol_dtype(escape + 1), copy=False))
    check_walk(walks.walk(kept, counts, escape, numel, chunk_log2, positions), 0, counts, numel, chunk_log2)
    return positions


def scatter(
    gap_symbols: Symbols,
    symbols: Symbols,
    counts: Counts,
    table: NDArray[Any],
    gap_bits: int,
    chunk_log2: int,
    dense: NDArray[Any],
) -> tuple[int, int]:
    """Write table[symbol] to where the gaps lead, in `dense`, whose first element is the first chunk's.

    Args:
        gap_symbols, symbols: those of the chunks, back to back.
        counts: (2, C) gap symbols and symbols of each chunk, none negative; their sums are the lengths above.
        table: by symbol, the value to write; no symbol may be 0, or beyond it.
        gap_bits: 1 to 16.
        chunk_log2: 0 to 31.
        dense: the chunks' elements, in the type of `table`.

    Returns:
        (chunk, what is wrong with it), for `check_walk`.
    """
    found: tuple[int, int] = walks.scatter(
        sealed(gap_symbols), sealed(symbols), sealed(counts), sealed(table), (1 << gap_bits) - 1, chunk_log2, dense
    )
    return found


def place(
    gap_symbols: Symbols, counts: Counts, values: NDArray[Any], gap_bits: int, chunk_log2: int, dense: NDArray[Any]
) -> None:  # fmt: skip
    """Write `values` to where the gaps lead, in order; no memory is taken for the positions.

    Args:
        gap_symbols: below 2**gap_bits.
        counts: (C,) gap symbols of each chunk, none negative; their sum is the length above.
        values: (n,) what the nonzeros are.
        gap_bits: 1 to 16.
        chunk_log2: 0 to 31.
        dense: (numel,) zeros, in the type of `values`; C = max(1, ceil(numel / 2**chunk_log2)).

    Raises:
        FormatError: the gaps of a chunk run past its end or end in an escape, or all of them do not lead to n nonzeros.
    """
    escape = (1 << gap_bits) - 1
    outcome = walks.place(sealed(gap_symbols), sealed(counts), escape, chunk_log2, sealed(values), dense)
    if outcome[1] == walks.MISCOUNTED:
        steps = range(0, len(gap_symbols), _COUNTED)
        found = sum(int(np.count_nonzero(gap_symbols[at : at + _COUNTED] != escape)) for at in steps)
        raise FormatError(f"the gaps lead to {found} nonzeros, the record says {len(values)}")
    check_walk(outcome, 0, np.zeros((2, len(counts)), np.int64), len(dense), chunk_log2)


def check_walk(outcome: tuple[int, int], first: int, counts: Counts, numel: int, chunk_log2: int) -> None:
    """Raise the FormatError that a walk over the gaps of chunks from `first` on ended with, if any."""
    chunk, error = outcome
    at = first + chunk
    if error == walks.TOO_FAR:
        raise FormatError(f"chunk {at}: a gap runs past its {min(numel - (at << chunk_log2), 1 << chunk_log2)} weights")
    if error == walks.ESCAPE_LAST:
        raise FormatError(f"chunk {at}: its last gap is an escape, which leads to no nonzero")
    if error == walks.MISCOUNTED:
        raise FormatError(f"chunk {at}: its gaps do not lead to {counts[1, chunk]} nonzeros")
    if error == walks.NOT_A_VALUE:
        raise FormatError(f"chunk {at}: a nonzero has the zero symbol, or one that stands for nothing")


def best_gap_bits(
    gaps: NDArray[np.uint32], cost: Callable[[Counts], int], choices: Iterable[int] = range(2, 13)
) -> tuple[int, Counts]:
    """The choice of gap_bits that costs least, of equals the first, and how often each of its symbols occurs.

    Args:
        gaps: as for `encode_gaps`.
        cost: bits of symbols that occur `counts[s]` times, (largest symbol + 1,) int64. Asked, where there are
            many gaps, of the few choices that promise most.
        choices: values of gap_bits, 1 to 16.

    Raises:
        ParameterError: an argument is anything else, or `choices` is empty.
    """
    choices = list(choices)
    if not choices:
        raise ParameterError.of("choices", "best_gap_bits", "one number of bits or more", choices)
    for gap_bits in choices:
        _check_cut(0, gap_bits, 0, "best_gap_bits")
    distinct, times = _count_gaps(gaps)
    counts = {gap_bits: _symbol_counts(distinct, times, gap_bits) for gap_bits in choices}
    floors = {gap_bits: _least_bits(found) for gap_bits, found in counts.items()}
    few = sorted(choices, key=floors.__getitem__)[:_TRIED]
    tried = [gap_bits for gap_bits in choices if len(gaps) < _ALL_TRIED or gap_bits in few]
    best = min(tried, key=lambda gap_bits: cost(counts[gap_bits]))
    return best, counts[best]


def _least_bits(counts: Counts) -> float:
    """What symbols that occur so often take, about. Their entropy alone says little: escapes change it by next to nothing."""
    return least_bits(counts) + _SYMBOL_BITS * float(counts.sum()) + _TABLE_BITS * int(np.count_nonzero(counts))


def _count_gaps(gaps: NDArray[np.uint32]) -> tuple[Counts, Counts]:
    """The distinct gaps, and how often each occurs."""
    rows = np.zeros((4, _COUNTED + 1), np.int64)
    walks.count_capped(gaps, rows)
    few = rows.sum(axis=0)
    distinct = np.flatnonzero(few[:-1])
    if not few[-1]:
        return distinct, few[distinct]
    long, times = np.unique(gaps[gaps >= _COUNTED], return_counts=True)
    return np.concatenate([distinct, long.astype(np.int64)]), np.concatenate([few[distinct], times.astype(np.int64)])


def _symbol_counts(gaps: Counts, times: Counts, gap_bits: int) -> Counts:
    """How often each symbol occurs where each of `gaps` does `times`."""
    escape = (1 << gap_bits) - 1
    counts = np.zeros(escape + 1, np.int64)
    np.add.at(counts, gaps % escape, times)
    counts[escape] = (gaps // escape) @ times
    return counts[: int(np.flatnonzero(counts)[-1]) + 1] if len(gaps) else counts[:1]


def _checked_counts(gap_counts: Any, nonzero_counts: Any, numel: int, chunk_log2: int) -> Counts:
    """(2, C) gaps and nonzeros of each chunk, none negative."""
    chunks = max(-(-numel >> chunk_log2), 1)
    for name, counts in (("gap", np.asarray(gap_counts)), ("nonzero", np.asarray(nonzero_counts))):
        if len(counts) != chunks:
            raise FormatError(f"{chunks} chunks need {chunks} {name} counts, there are {len(counts)}")
        if counts.min() < 0:
            raise FormatError(f"{name} count {int(counts.min())}, it must be at least 0")
    return np.array([gap_counts, nonzero_counts], np.int64)


def _check_cut(numel: int, gap_bits: int, chunk_log2: int, owner: str) -> None:
    if not 0 <= numel < 1 << 63:
        raise ParameterError.of("numel", owner, "an int from 0 to 2**63 - 1", numel)
    if not 1 <= gap_bits <= MAX_GAP_BITS:
        raise ParameterError.of("gap_bits", owner, f"an int from 1 to {MAX_GAP_BITS}", gap_bits)
    if not 0 <= chunk_log2 <= MAX_CHUNK_LOG2:
        raise ParameterError.of("chunk_log2", owner, f"an int from 0 to {MAX_CHUNK_LOG2}", chunk_log2)
