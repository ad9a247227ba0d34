"""Sums over any run of sorted values, in constant time and without a share of the values outside the run.

Running sums lie only at every 64th value; the rest of a run is added on the spot. They start at zero and go outward,

    -9e8  -3  -2  -2  -1 | 1  1  2  4  1e30        anchors every 64 values, from | to both sides
    <------------------- | --------------->

so that the sum of a run near zero is a difference of small numbers and never meets the outlier, and each carries what its
own rounding lost (Neumaier 1974), so that a run far out is right as well.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.jit import inline, jit

BLOCK = 64

Array = NDArray[Any]
Floats = NDArray[np.float64]


class SortedValues(NamedTuple):
    """Ascending values, and running sums of them.

    Attributes:
        values: (n,) float32 or float64.
        zero: how many of the values are negative; the place where the sums start.
        high, low: sums from `zero` to each anchor, signed by direction, and what rounding took from them.
    """

    values: Array
    zero: int
    high: Floats
    low: Floats


def sorted_values(values: Array) -> SortedValues:
    """Running sums of `values`, (n,), ascending and finite."""
    zero = int(np.searchsorted(values, 0))
    return SortedValues(values, zero, *_running_sums(values, zero))


@jit
def _running_sums(values: Array, zero: int) -> tuple[Floats, Floats]:
    below, above = zero // BLOCK, (len(values) - zero) // BLOCK
    high, low = np.zeros(below + above + 1), np.zeros(below + above + 1)
    for block in range(above):
        _carry(high, low, below + block, below + block + 1, _block_sum(values, zero + block * BLOCK))
    for block in range(below):
        _carry(high, low, below - block, below - block - 1, -_block_sum(values, zero - (block + 1) * BLOCK))
    return high, low


@inline
def _block_sum(values: Array, start: int) -> float:
    """Sum of BLOCK values, four at a time: an addition need not wait for the one before."""
    first = second = third = fourth = 0.0
    for place in range(start, start + BLOCK, 4):
        first += np.float64(values[place])
        second += np.float64(values[place + 1])
        third += np.float64(values[place + 2])
        fourth += np.float64(values[place + 3])
    return (first + second) + (third + fourth)


@jit
def _residual(values: Array, start: int, end: int) -> float:
    """Sum from `start` outward to `end`: positive where end > start, the negated sum where end < start."""
    total = 0.0
    for place in range(start, end):
        total += np.float64(values[place])
    for place in range(start - 1, end - 1, -1):
        total -= np.float64(values[place])
    return total


@inline
def _carry(high: Floats, low: Floats, source: int, target: int, part: float) -> None:
    """high[target] + low[target] = high[source] + low[source] + part, to twice the precision."""
    total = high[source] + part
    added = total - high[source]
    lost = (high[source] - (total - added)) + (part - added)
    high[target] = total
    low[target] = low[source] + lost


@inline
def _anchor(zero: int, place: int) -> int:
    """The number of blocks from zero to the anchor on the near side of `place`, negative below zero."""
    return (place - zero) // BLOCK if place >= zero else -((zero - place) // BLOCK)


@jit
def _run_sum(data: SortedValues, start: int, end: int) -> float:
    values, zero, high, low = data
    if end - start <= 2 * BLOCK:  # as exact as can be, however large the sums that it would be a difference of
        return _residual(values, start, end)
    origin = zero // BLOCK
    first, last = _anchor(zero, start), _anchor(zero, end)
    rest = _residual(values, zero + last * BLOCK, end) - _residual(values, zero + first * BLOCK, start)
    coarse = high[origin + last] - high[origin + first]
    total: float = coarse + (low[origin + last] - low[origin + first] + rest)
    return total


@jit
def run_mean(data: SortedValues, start: int, end: int) -> float:
    """Mean of values[start:end], not empty: float64, and never outside the run, so that means ascend as their runs do."""
    mean = _run_sum(data, start, end) / (end - start)
    bounded: float = min(max(mean, np.float64(data.values[start])), np.float64(data.values[end - 1]))
    return bounded
