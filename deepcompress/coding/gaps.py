"""Positions of the nonzeros as the gaps between them, each at most so long; a longer one takes escapes.

    weights   0 0 5 0 0 0 0 7 1      gap_bits = 2, escape = 3
    symbols       2       3 1 0      2 zeros, nonzero; 3 zeros; 1 zero, nonzero; 0 zeros, nonzero

Each chunk of 2**chunk_log2 weights starts anew, and nothing is written behind its last nonzero.

Source: Han, Mao, Dally. Deep Compression. ICLR 2016, sec. 2 (where a zero-valued weight stands in for the escape).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.bits import Symbols, as_symbols, sealed, symbol_dtype
from deepcompress.coding.jit import jit
from deepcompress.errors import FormatError, ParameterError

MAX_GAP_BITS = 16
MAX_CHUNK_LOG2 = 31
_TOO_FAR, _ESCAPE_LAST, _MISCOUNTED = 1, 2, 3

Positions = NDArray[np.int64]
Counts = NDArray[np.int64]


def encode_gaps(positions: Positions, numel: int, gap_bits: int, chunk_log2: int) -> tuple[Symbols, Counts, Counts]:
    """Gaps that lead to the nonzeros of `numel` weights.

    Args:
        positions: (n,) integers, ascending and distinct, in [0, numel).
        numel: weights, zeros included.
        gap_bits: 1 to 16; symbols are below 2**gap_bits, of which the last one is the escape.
        chunk_log2: 0 to 31; a chunk has 2**chunk_log2 weights.

    Returns:
        Symbols (m,) in the smallest unsigned type; symbols per chunk (C,) and nonzeros per chunk (C,), int64, C = max(1,
        ceil(numel / 2**chunk_log2)).

    Raises:
        ParameterError: an argument is anything else.
    """
    _check_cut(numel, gap_bits, chunk_log2, "encode_gaps")
    positions = _checked_positions(positions, numel, "encode_gaps")
    gaps = _gaps(positions, chunk_log2)
    escape = (1 << gap_bits) - 1
    ends = np.cumsum(gaps // escape + 1)
    symbols = np.full(ends[-1] if len(ends) else 0, escape, symbol_dtype(escape + 1))
    symbols[ends - 1] = gaps % escape
    limits = np.searchsorted(positions, _chunk_starts(numel, chunk_log2)[1:])
    stops = np.append(limits, len(gaps))
    ends = np.concatenate([[0], ends])
    return symbols, np.diff(ends[stops], prepend=0), np.diff(stops, prepend=0)


def decode_gaps(
    gap_symbols: Symbols,
    gap_counts: Counts,
    nonzero_counts: Counts,
    numel: int,
    gap_bits: int,
    chunk_log2: int,
) -> Positions:
    """The positions (n,) int64, ascending, that `encode_gaps` was given.

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
    kept = gap_symbols.astype(symbol_dtype(escape + 1), copy=False)
    chunk, error = _walk(sealed(kept), counts, escape, numel, chunk_log2, positions)
    if error == _TOO_FAR:
        raise FormatError(f"chunk {chunk}: a gap runs past its {min(numel - (chunk << chunk_log2), 1 << chunk_log2)} weights")
    if error == _ESCAPE_LAST:
        raise FormatError(f"chunk {chunk}: its last gap is an escape, which leads to no nonzero")
    if error == _MISCOUNTED:
        raise FormatError(f"chunk {chunk}: its gaps do not lead to {counts[1, chunk]} nonzeros")
    return positions


def best_gap_bits(
    positions: Positions,
    numel: int,
    chunk_log2: int,
    cost: Callable[[Counts], int],
    choices: Iterable[int] = range(2, 13),
) -> int:
    """The choice of gap_bits that costs least; of equals, the first.

    Args:
        positions: as for `encode_gaps`.
        numel: weights, zeros included.
        chunk_log2: 0 to 31.
        cost: bits of symbols that occur `counts[s]` times, (largest symbol + 1,) int64.
        choices: values of gap_bits, 1 to 16.

    Raises:
        ParameterError: an argument is anything else, or `choices` is empty.
    """
    choices = list(choices)
    if not choices:
        raise ParameterError.of("choices", "best_gap_bits", "one number of bits or more", choices)
    for gap_bits in choices:
        _check_cut(numel, gap_bits, chunk_log2, "best_gap_bits")
    positions = _checked_positions(positions, numel, "best_gap_bits")
    gaps, times = np.unique(_gaps(positions, chunk_log2), return_counts=True)
    return min(choices, key=lambda gap_bits: cost(_symbol_counts(gaps, times.astype(np.int64), gap_bits)))


def _symbol_counts(gaps: Positions, times: Counts, gap_bits: int) -> Counts:
    """How often each symbol occurs where each of `gaps` does `times`."""
    escape = (1 << gap_bits) - 1
    counts = np.zeros(escape + 1, np.int64)
    np.add.at(counts, gaps % escape, times)
    counts[escape] = (gaps // escape) @ times
    return counts[: int(np.flatnonzero(counts)[-1]) + 1] if len(gaps) else counts[:1]


def _gaps(positions: Positions, chunk_log2: int) -> Positions:
    """Zeros before each nonzero: since the one before it, or since the start of its chunk."""
    gaps = positions - (positions >> chunk_log2 << chunk_log2)
    gaps[1:] = np.minimum(gaps[1:], np.diff(positions) - 1)
    return gaps


def _checked_positions(positions: Any, numel: int, owner: str) -> Positions:
    values = np.asarray(positions)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        got = f"{values.dtype} of shape {values.shape}"
        raise ParameterError.of("positions", owner, "a one-dimensional array of integers", got)
    if len(values) and not 0 <= int(values.min()) <= int(values.max()) < numel:
        got = f"{int(values.min())} to {int(values.max())}"
        raise ParameterError.of("positions", owner, f"at least 0 and below {numel}", got)
    unordered = np.flatnonzero(values[1:] <= values[:-1])
    if len(unordered):
        pair = values[unordered[0] : unordered[0] + 2].tolist()
        raise ParameterError.of("positions", owner, "ascending and distinct", pair)
    return values.astype(np.int64, copy=False)


@jit
def _walk(symbols: Symbols, counts: Counts, escape: int, numel: int, chunk_log2: int, out: Positions) -> tuple[int, int]:
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
                return chunk, _TOO_FAR
            if symbol != escape:
                if filled >= len(out):
                    return chunk, _MISCOUNTED
                out[filled] = position
                filled += 1
                position += 1
            elif at == stop:
                return chunk, _ESCAPE_LAST
        if filled - first != counts[1, chunk]:
            return chunk, _MISCOUNTED
    return 0, 0


def _chunk_starts(numel: int, chunk_log2: int) -> Positions:
    return np.arange(max(-(-numel >> chunk_log2), 1), dtype=np.int64) << chunk_log2


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
