"""The squared error of any run of sorted values around its own mean, in constant time, and dynamic programming over it.

The error of a run is the sum of squares less the square of the sum over the count: two large numbers whose difference may be
small. So both running sums carry what rounding took from them, and the product is taken apart into parts that are exact
(Dekker 1971): errors are right to 2^-75 of the sum of squares. Sums run outward from zero, as in `sums`, so that no outlier
has a share in them.

A table of moments holds one column per cut: (5, m), its rows being the place, the sum, the sum's rest, the sum of squares,
and its rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.jit import inline, jit

Array = NDArray[Any]
Floats = NDArray[np.float64]

_COLUMNS = 256
_HALF = 134217729.0  # 2^27 + 1: splits a number in two halves of 26 bits
_SHORT = 2147483649.0  # 2^31 + 1: leaves 22 bits, so that products with counts below 2^31 are exact


def moments(ordered: Array) -> Floats:
    """The table of all n + 1 cuts of ascending finite values, (n,), n >= 1.

    Values are scaled by a power of two so that no square overflows. Where all are of one sign and less than twofold apart, the
    middle one is subtracted, which is exact; the errors of runs stay as they are.
    """
    least, greatest = float(ordered[0]), float(ordered[-1])
    close = greatest <= 2 * least or 2 * greatest <= least
    center = float(ordered[len(ordered) // 2]) if close else 0.0
    exponent = max(np.frexp(least - center)[1], np.frexp(greatest - center)[1])
    unit = float(np.ldexp(1.0, -int(np.clip(exponent, -1000, 1000))))
    table = np.zeros((5, len(ordered) + 1))
    _sum_up(ordered, int(np.searchsorted(ordered, center)), center, unit, table)
    return table


@jit
def _sum_up(ordered: Array, zero: int, center: float, unit: float, table: Floats) -> None:
    for cut in range(len(ordered) + 1):
        table[0, cut] = cut
    for sign in (1, -1):
        sums = rests = squares = lows = 0.0
        for step in range(len(ordered) - zero if sign > 0 else zero):
            value = (np.float64(ordered[zero + step if sign > 0 else zero - 1 - step]) - center) * unit
            sums, lost = _two_sum(sums, sign * value)
            rests += lost
            square = value * value
            high = _HALF * value - (_HALF * value - value)
            low = value - high
            squares, lost = _two_sum(squares, sign * square)
            lows += lost + sign * (((high * high - square) + 2.0 * high * low) + low * low)
            cut = zero + sign * (step + 1)
            table[1, cut], table[2, cut], table[3, cut], table[4, cut] = sums, rests, squares, lows


@inline
def _two_sum(one: float, other: float) -> tuple[float, float]:
    """A sum and what rounding took from it (Knuth 1969); as much goes for the product above (Dekker 1971)."""
    total = one + other
    added = total - one
    return total, (one - (total - added)) + (other - added)


@jit
def best_before(before: Floats, starts: Floats, ends: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """For each end the least of before[i] + error of the run from start i to there, and its i, the first of several.

    As the best start never moves back from one end to the next (errors of runs obey the quadrangle inequality), every second
    end is done first, and confines the search for those between: (starts + ends) log2(ends) errors in all.

    Args:
        before: (s,); where starts lie beyond an end, as their run is empty then, no less than at the end itself.
        starts, ends: tables of moments, (5, s) and (5, e), places ascending.

    Source: Grønlund, Larsen, Mathiasen, Nielsen, Schneider, Song. Fast exact k-means, k-medians and Bregman divergence
    clustering in 1D. 2017. arXiv:1701.07204, sec. 2.
    """
    rows = ends.shape[1]
    least, picks = np.empty(rows), np.empty(rows, np.int64)
    sums = np.empty(_COLUMNS)
    stride = 1
    while 2 * stride <= rows:
        stride *= 2
    while stride > 0:
        for row in range(stride - 1, rows, 2 * stride):
            first = picks[row - stride] if row >= stride else 0
            last = picks[row + stride] if row + stride < rows else len(before) - 1
            found, pick = np.inf, first
            for start in range(first, last + 1, _COLUMNS):
                count = min(_COLUMNS, last + 1 - start)
                _errors(before, starts, start, count, ends, row, sums)
                for column in range(count):
                    if sums[column] < found:
                        found, pick = sums[column], start + column
            least[row], picks[row] = found, pick
        stride //= 2
    return least, picks


@jit
def _errors(before: Floats, starts: Floats, first: int, count: int, ends: Floats, row: int, sums: Floats) -> None:
    """before + squared error for a stretch of starts and one end: no branches, so that one instruction does four or eight.

    With a reference r of few bits near the mean, and d = sum - size r, the error is squares - size r r - 2 r d - d d / size.
    """
    place, total_there, rest_there = ends[0, row], ends[1, row], ends[2, row]
    squares_there, low_there = ends[3, row], ends[4, row]
    for column in range(count):
        start = first + column
        size = max(place - starts[0, start], 1.0)
        inverse = np.divide(1.0, size)
        here = starts[1, start]
        total = total_there - here
        back = total_there - total
        rest = ((back - here) + (total_there - (total + back))) + (rest_there - starts[2, start])
        here = starts[3, start]
        squares = squares_there - here
        back = squares_there - squares
        low = ((back - here) + (squares_there - (squares + back))) + (low_there - starts[4, start])
        mean = total * inverse
        reference = _SHORT * mean - (_SHORT * mean - mean)
        product = size * reference
        beyond = (total - product) + rest
        high = _HALF * product - (_HALF * product - product)
        error = (squares - high * reference) - (product - high) * reference
        error = (error - 2.0 * reference * beyond) - (beyond * beyond * inverse - low)
        sums[column] = before[start] + (max(error, 0.0) if place > starts[0, start] else 0.0)
