"""Sorted copies of weights: of many float32 values by their bits, eight at a time, in four passes over them.

4 M values take 25 ms, and `numpy.sort` 150 ms, on the processor of `benchmarks/bench_kmeans.py`'s figures (Zen 4, one thread).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.jit import jit

Array = NDArray[Any]
Keys = NDArray[np.uint32]

_FEW, _MANY = 1 << 12, 1 << 32  # so few values numpy sorts as fast; so many places do not fit 32 bits
_DIGIT_BITS = 8  # 256 places to write to: as many cache lines as the innermost cache holds; 11 bits take twice as long


def ascending(values: Array) -> Array:
    """A flat, ascending copy; -0.0 may stand before or after 0.0, NaNs stand at either end.

    Args:
        values: any shape, float32 or float64.

    Source: radix sort from the least digit on, Knuth, The Art of Computer Programming 3, sec. 5.2.5.
    """
    if values.dtype != np.float32 or not _FEW < values.size < _MANY:
        return np.sort(values, axis=None)
    source = np.ascontiguousarray(values.ravel(order="K"))
    keys, counts = _keys(source.view(np.uint32))
    spare = np.empty_like(keys)
    for digit in range(len(counts)):
        if counts[digit].max() < len(keys):  # not all in one place, as low digits of float16 and bfloat16 numbers are
            _scatter(keys, spare, (np.cumsum(counts[digit]) - counts[digit]).astype(np.uint32), np.uint32(digit * _DIGIT_BITS))
            keys, spare = spare, keys
    _bits(keys)
    return keys.view(np.float32)


@jit
def _keys(bits: Keys) -> tuple[Keys, NDArray[np.int64]]:
    """Unsigned integers in the order of the numbers, and how often each digit has each value.

    Of positive numbers the sign is flipped; of negative ones, whose sizes run the other way, all bits are.
    """
    keys = np.empty_like(bits)
    counts = np.zeros((4, 256), np.int64)
    for place in range(len(bits)):
        key = bits[place] ^ (np.uint32(np.int32(bits[place]) >> 31) | np.uint32(1 << 31))
        keys[place] = key
        counts[0, key & np.uint32(255)] += 1
        counts[1, (key >> np.uint32(8)) & np.uint32(255)] += 1
        counts[2, (key >> np.uint32(16)) & np.uint32(255)] += 1
        counts[3, key >> np.uint32(24)] += 1
    return keys, counts


@jit
def _scatter(keys: Keys, target: Keys, places: Keys, shift: np.uint32) -> None:
    """Order by one digit, equal ones as they came. `places` is where the next key of each digit goes."""
    for source in range(len(keys)):
        key = keys[source]
        digit = (key >> shift) & np.uint32(255)
        place = places[digit]  # read once: the compiler must take each write below for one to any of the arrays
        places[digit] = place + np.uint32(1)
        target[place] = key


@jit
def _bits(keys: Keys) -> None:
    """Back to the numbers' own bits, in place."""
    for place in range(len(keys)):
        keys[place] ^= np.uint32(np.int32(~keys[place]) >> 31) | np.uint32(1 << 31)
