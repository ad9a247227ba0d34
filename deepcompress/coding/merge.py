"""What choosing a code asks most often, compiled. Apart from codes and tables, which readers need without a compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.jit import inline, jit


@jit
def package_merge(counts: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """Code lengths for two or more ascending positive counts, none above `limit` >= ceil(log2(len(counts))).

    A list per bit of depth, deepest first: the symbols, merged with the pairs ("packages") of the list before. Of the last
    list the cheapest 2 n - 2 items are taken, and with each package its pair; a symbol's length is how often it is
    taken. What is taken of a list are always its first items, so it is enough to know which of them are packages.

    Source: Larmore, Hirschberg. A fast algorithm for optimal length-limited Huffman codes. JACM 37(3), 1990.
    """
    count = len(counts)
    packed = np.zeros((limit, 2 * count), np.bool_)
    items, merged = np.empty(2 * count, np.int64), np.empty(2 * count, np.int64)
    size = count
    items[:count] = counts
    for level in range(1, limit):
        symbol, pair, filled = 0, 0, 0
        while symbol < count or pair + 1 < size:
            package = items[pair] + items[pair + 1] if pair + 1 < size else np.int64(0)
            if pair + 1 >= size or (symbol < count and counts[symbol] <= package):  # of equals the symbol first
                merged[filled] = counts[symbol]
                symbol += 1
            else:
                merged[filled] = package
                packed[level, filled] = True
                pair += 2
            filled += 1
        items, merged = merged, items
        size = filled
    lengths = np.zeros(count, np.int64)
    taken = 2 * count - 2
    for level in range(limit - 1, -1, -1):
        packages = 0
        for item in range(taken):
            packages += packed[level, item]
        lengths[: taken - packages] += 1
        taken = 2 * packages
    return lengths


@jit
def spelled_bits(lengths: NDArray[np.uint8]) -> int:
    """Bits in which `tables.write_lengths` writes code lengths."""
    bits, absent = 2 * _floor_log2(len(lengths) + 1) + 1, 0
    last: Any = 5
    for length in lengths:
        if length == 0:
            absent += 1
            continue
        bits += _absent_bits(absent)
        absent = 0
        step = abs(np.int64(length) - last)
        bits += 1 if step == 0 else 3 if step == 1 else 8
        last = np.int64(length)
    return bits + _absent_bits(absent)


@jit
def least_bits(counts: NDArray[np.int64]) -> float:
    """The entropy of symbols that occur so often, times their number: bits that no code of single symbols undercuts."""
    total, bits = 0, 0.0
    for count in counts:
        if count:
            total += count
            bits -= count * np.log2(count)
    return bits + total * np.log2(total) if total else 0.0


@inline
def _absent_bits(count: int) -> int:
    return 0 if count == 0 else 4 if count == 1 else 5 + 2 * _floor_log2(count - 1)


@inline
def _floor_log2(value: int) -> int:
    found = 0
    while value >> (found + 1):
        found += 1
    return found
