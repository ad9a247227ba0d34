"""Where the nonzeros are: bounded gaps, with an escape.

Positions of the nonzeros of a sparse layer cost least as gaps, the zeros before each nonzero, in a few bits. A gap of b bits is
below 2**b - 1; the largest symbol, 2**b - 1, is the escape: so many zeros, and no nonzero behind them yet.

    weights   0 0 5 0 0 0 0 7 1      b = 2, escape = 3
    gaps          2         4 0      zeros before each nonzero
    symbols       2       3 1 0      2 zeros, nonzero; 3 zeros; 1 zero, nonzero; 0 zeros, nonzero

Write `encode_gaps(positions, gap_bits)`: the symbols, a list of integers, for ascending positions, which count from 0; and
`decode_gaps(symbols, gap_bits)`: the positions again.

    encode_gaps([2, 7, 8], 2)       gives [2, 3, 1, 0]
    decode_gaps([2, 3, 1, 0], 2)    gives [2, 7, 8]

Source: Han, Mao, Dally. Deep Compression. ICLR 2016, sec. 2 (where a weight of zero stands behind a gap that is too long; here an
escape takes no place of its own).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from deepcompress.coding import gaps as library
from deepcompress.exercises.answers import Mistake, integers, recognised
from deepcompress.exercises.exercise import Case, WrongAnswerError
from deepcompress.exercises.show import shown

STARTER = '''\
def encode_gaps(positions: list[int], gap_bits: int) -> list[int]:
    """Symbols below 2**gap_bits for ascending positions; the largest one is the escape."""
    raise NotImplementedError


def decode_gaps(symbols: list[int], gap_bits: int) -> list[int]:
    """The positions that `encode_gaps` was given."""
    raise NotImplementedError
'''

_CHUNK_LOG2 = 31  # one chunk: all positions of a case are below 2**31


def cases() -> list[Case]:
    """The hidden cases: each way alone, so that two mistakes cannot undo each other."""
    found = []
    for name, positions, gap_bits in _given():
        symbols = _symbols(positions, gap_bits)
        there = {"positions": positions, "gap_bits": gap_bits}
        back = {"symbols": symbols, "gap_bits": gap_bits}
        found.append(Case(f"encode: {name}", "encode_gaps", there, partial(_check, symbols, there, _ENCODING)))
        found.append(Case(f"decode: {name}", "decode_gaps", back, partial(_check, positions, back, _DECODING)))
    return found


def _given() -> Iterator[tuple[str, list[int], int]]:
    rng = np.random.default_rng(2016)
    yield "no gap is too long", [1, 3, 6], 3
    yield "the task's example", [2, 7, 8], 2
    yield "no zeros at all", [0, 1, 2, 3], 4
    yield "no nonzero at all", [], 4
    yield "a gap as long as an escape", [3, 7], 2
    yield "several escapes in a row", [20], 2
    yield "one bit", [0, 1, 3, 6], 1
    yield "a layer of which one in twenty is kept", np.flatnonzero(rng.random(3000) < 0.05).tolist(), 4
    yield "far apart", [300, 70_000, 70_001], 8


def _symbols(positions: list[int], gap_bits: int) -> list[int]:
    gaps = np.diff(np.array(positions, np.int64), prepend=-1) - 1
    symbols, _ = library.encode_gaps(gaps.astype(np.uint32), np.array([len(gaps)]), gap_bits)
    return [int(symbol) for symbol in symbols]


def _spelled(gaps: Any, gap_bits: int, *, span: int = 0, least: int = 0) -> list[int]:
    """Gaps with escapes where they are `least` longer than the escape, each for `span` zeros more than it says."""
    escape = (1 << gap_bits) - 1
    symbols = []
    for gap in map(int, gaps):
        left = gap
        while left >= escape + least:
            symbols.append(escape)
            left -= escape + span
        symbols.append(left)
    return symbols


def _zeros(positions: list[int]) -> Any:
    return np.diff(np.array(positions, np.int64), prepend=-1) - 1


_LONG = "an escape stands for 2**b - 1 zeros, not for 2**b: it takes no place of its own"
_DISTANCE = "these are distances; a gap counts the zeros between two nonzeros, one less"

_ENCODING: Sequence[Mistake] = (
    (lambda p, b: _zeros(p), "a gap that is too long for its bits needs escapes"),
    (lambda p, b: np.minimum(_zeros(p), (1 << b) - 1), "a long gap was cut to the largest symbol; it takes escapes and the rest"),
    (lambda p, b: _spelled(_zeros(p) + 1, b), _DISTANCE),
    (lambda p, b: _spelled(np.diff(p, prepend=0), b), _DISTANCE),
    (lambda p, b: _spelled(_zeros(p), b, least=1), "a gap as long as the escape reads as one: it is an escape, and then 0"),
    (lambda p, b: _spelled(_zeros(p), b, span=1), _LONG),
    (lambda p, b: _spelled(_zeros(p), b, span=1, least=1), _LONG),
    (lambda p, b: p, "these are the positions themselves"),
)


def _walked(symbols: list[int], gap_bits: int, *, span: int = 0, start: int = 0, step: int = 1) -> list[int]:
    """Positions, where an escape is `span` longer than it says, the first place is `start`, and a nonzero takes `step`."""
    escape = (1 << gap_bits) - 1
    at, positions = start, []
    for symbol in symbols:
        at += symbol
        if symbol == escape:
            at += span
        else:
            positions.append(at)
            at += step
    return positions


_DECODING: Sequence[Mistake] = (
    (lambda s, b: np.cumsum(np.add(s, 1)) - 1, "an escape was read as a gap: there is no nonzero behind it yet"),
    (lambda s, b: _walked(s, b, step=0), "a nonzero takes a place itself: the next gap begins behind it"),
    (lambda s, b: np.cumsum(s), "a nonzero takes a place itself, and an escape has no nonzero behind it"),
    (lambda s, b: _walked(s, b, start=1), "positions count from 0: all of these are one too large"),
    (lambda s, b: _walked(s, b, start=-1), "positions count from 0: all of these are one too small"),
    (lambda s, b: _walked(s, b, span=1), _LONG),
)


def _check(expected: list[int], arguments: dict[str, Any], mistakes: Sequence[Mistake], answer: Any) -> None:
    found = integers(answer)
    if not np.array_equal(found, np.array(expected, np.int64)):
        raise WrongAnswerError(shown(expected), shown(answer), recognised(found, arguments, mistakes))
