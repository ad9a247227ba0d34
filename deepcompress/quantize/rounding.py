"""From values to levels of a uniform grid: to the nearest one, or at random to a neighbour, so that the mean is the value."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.jit import inline, jit
from deepcompress.coding.pool import share
from deepcompress.errors import ParameterError
from deepcompress.quantize.uniform import UniformGrid

Array = NDArray[Any]
Floats = NDArray[np.float64]

ROUNDINGS = ("nearest-even", "stochastic")

_SHARED = 1 << 16  # values that are worth a thread's while
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd


def check_rounding(rounding: object, seed: object, owner: str) -> None:
    """Raise ParameterError unless these are a way of rounding and a seed."""
    if rounding not in ROUNDINGS:
        raise ParameterError.of("rounding", owner, f"one of {', '.join(map(repr, ROUNDINGS))}", rounding)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ParameterError.of("seed", owner, "an integer of at least 0", seed)


def round_into(codes: Array, values: Array, grid: UniformGrid, shift: NDArray[np.int64], rounding: str, seed: int) -> None:
    """Write each value's level, plus its channel's shift, over `codes`; a value beyond the grid takes the last level.

    Args:
        codes: the shape of `values`, contiguous, of an integer type that has all that is written.
        values: (outer, channels, inner) contiguous, finite, float32 or float64; divided by the step in float64.
        grid, shift: a grid for each channel, (channels,) integers.
        rounding: "nearest-even" (a tie goes to the even level), or "stochastic": up with the probability of the fraction, so
            that the expectation is the value itself, where it is not beyond the grid. A value that is on the grid stays it.
        seed: of "stochastic". What is drawn depends on it and on the value's place, on nothing else.

    Source: Gupta, Agrawal, Gopalakrishnan, Narayanan. Deep learning with limited numerical precision. ICML 2015, sec. 3.
    """
    flat, out, inner = values.reshape(-1), codes.reshape(-1), values.shape[-1]
    ends = np.stack([grid.lowest, grid.highest, shift])
    start = np.array([_mixed(seed)], np.uint64)
    random = rounding == "stochastic"
    share(len(flat), lambda first, last: _round(flat, first, last, inner, grid.step, ends, random, start, out), _SHARED)


def _mixed(seed: int) -> int:
    """64 bits in which neighbouring seeds have nothing in common."""
    bits = (int(seed) + 1) * _GOLDEN % 2**64
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % 2**64
    return bits ^ bits >> 31


@inline
def _draw(start: Any, place: Any) -> Any:
    """A number in [0, 1) for a place: SplitMix64, whose state at any place is known, so that threads need not share it."""
    bits = start + (np.uint64(place) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.float64((bits ^ (bits >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


@jit
def _round(
    values: Array,
    first: int,
    last: int,
    inner: int,
    steps: Floats,
    ends: NDArray[np.int64],
    random: bool,
    start: NDArray[np.uint64],
    codes: Array,
) -> None:
    """The values [first, last), run by run of one channel; `ends` are lowest and highest levels, and shifts."""
    channels = len(steps)
    while first < last:
        row = first // inner
        channel, end = row % channels, min((row + 1) * inner, last)
        step, shift = steps[channel], ends[2, channel]
        lowest, highest = np.float64(ends[0, channel]), np.float64(ends[1, channel])
        for place in range(first, end):
            exact = np.float64(values[place]) / step
            if random:
                level = np.floor(exact)
                level += _draw(start[0], place) < exact - level
            else:
                level = np.rint(exact)
            codes[place] = np.int64(min(max(level, lowest), highest)) + shift
        first = end
