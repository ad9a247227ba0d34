"""What choosing a code asks most often, compiled. Apart from codes and tables, which readers need without a compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.jit import inline, jit


def package_merge(counts: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """Code lengths for two or more ascending positive counts, none above `limit` >= ceil(log2(len(counts))).

    A list per bit of depth, deepest first: the symbols, merged with the pairs ("packages") of the list before. Of the last
    list the cheapest 2 n - 2 items are taken, and with each package its pair; a symbol's length is how often it is
    taken. What is taken of a list are always its first items, so it is enough to know which of them are packages.

    Source: Larmore, Hirschberg. A fast algorithm for optimal length-limited Huffman codes. JACM 37(3), 1990.
    """
    count = len(counts)
    lists, packed = np.empty((2, 2 * count), np.int64), np.zeros((limit, 2 * count), np.uint8)
    lengths = np.zeros(count, np.int64)
    _package_merge(np.ascontiguousarray(counts), lists, packed, lengths)
    return lengths


@jit
def _package_merge(
    counts: NDArray[np.int64], lists: NDArray[np.int64], packed: NDArray[np.uint8], lengths: NDArray[np.int64]
) -> None:
    """`lists` (2, 2 n) hold the list before and the one that is made of it; packed[level, i] says whether item i is a package."""
    count, old = len(counts), 0
    size: Any = len(counts)
    for place in range(count):
        lists[old, place] = counts[place]
    for level in range(1, len(packed)):
        size_before, size = size, 0
        symbol, pair = 0, 0
        while symbol < count or pair + 1 < size_before:
            package = lists[old, pair] + lists[old, pair + 1] if pair + 1 < size_before else np.int64(0)
            if pair + 1 >= size_before or (symbol < count and counts[symbol] <= package):  # of equals the symbol first
                lists[1 - old, size] = counts[symbol]
                symbol += 1
            else:
                lists[1 - old, size] = package
                packed[level, size] = 1
                pair += 2
            size += 1
        old = 1 - old
    taken = 2 * count - 2
    for level in range(len(packed) - 1, -1, -1):
        packages: Any = 0
        for item in range(taken):
            packages += np.int64(packed[level, item])
        for place in range(taken - packages):
            lengths[place] += 1
        taken = 2 * packages


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
