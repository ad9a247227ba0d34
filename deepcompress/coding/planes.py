"""Words of 8, 16, 32 or 64 bits put together again from the planes that `cutting` made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.bits import Bytes, Symbols, readable, sealed
from deepcompress.coding.jit import inline, jit
from deepcompress.coding.memory import load64, store_low

Words = NDArray[Any]


def join_planes(
    symbols: Symbols, shift: int, data: Bytes, first: int, width: int, low: int, base: int, rotate: bool, words: Words
) -> None:  # fmt: skip
    """Fill `words`, (n,), with symbols << shift | fields << low | base, each rotated right by one bit if `rotate`.

    What most words are: one coded plane, one of fields, and constants; in one step.

    Args:
        symbols: (n,), uint8 or uint16.
        data, first, width, low: fields as in `put_fields`, and the lowest of their bits.
        base: all constant planes.
    """
    data, symbols, base = readable(data), sealed(symbols), words.dtype.type(base)
    start, odd = divmod(first * width, 8)
    done = 0
    if not odd and words.itemsize == 2 and width <= 8:
        done = _join_shorts(
            sealed(symbols.astype(np.uint16, copy=False)).view(np.uint8), shift, data, start, width, low, base, rotate,
            words.view(np.uint8),
        )  # fmt: skip
    elif not odd and words.itemsize == 4 and width <= 28:
        done = _join_pairs(symbols, shift, data, start, width, low, base, rotate, words)
    if done < len(words):
        rest = words[done:]
        rest[:] = base
        put_plane(symbols[done:], shift, rest)
        put_fields(data, first + done, width, low, rest)
        if rotate:
            rotate_back(rest)


def put_plane(symbols: Symbols, shift: int, words: Words) -> None:
    """Set the bits from `shift` on of each of `words`, (n,), where zeros are, to `symbols`, (n,)."""
    _put(sealed(symbols), shift, words)


def put_fields(data: Bytes, first: int, width: int, shift: int, words: Words) -> None:
    """Like `put_plane`, of fields of `width` <= 56 bits, the first of which is number `first` in the bit string `data`.

    `data` has all the fields, ceil((first + len(words)) x width / 8) bytes.
    """
    _put_fields(readable(data), first * width, width, shift, words)


def rotate_back(words: Words) -> None:
    """Rotate each of `words` right by one bit, in place."""
    _rotate_back(words)


@inline
def _groups(data: Bytes, start: int, width: int, last: int) -> int:
    """Groups of eight fields, `width` bytes each from byte `start` on, of which a load from byte `last` stays in `data`."""
    return max((len(data) - 8 - last - start) // width + 1, 0)


@jit
def _join_shorts(
    symbols: Bytes, shift: int, data: Bytes, start: int, width: int, low: int, base: Any, rotate: bool, words: Bytes
) -> int:
    """Words of 16 bits, four of which lie in one of 64, as do the symbols; fields are moved apart in two steps. How many words.

    | ............ 3 2 1 0 |   >   | ...... 3 2 | ...... 1 0 |   >   | ... 3 | ... 2 | ... 1 | ... 0 |
    """
    one, w = np.uint64(0x0001_0001_0001_0001), np.uint64(width)
    four, two = ((np.uint64(1) << w) - np.uint64(1)) * one, (np.uint64(1) << np.uint64(2 * width)) - np.uint64(1)
    groups = min(len(words) // 16, _groups(data, start, width, 0))
    for group in range(groups):
        fields = load64(data, np.uint64(start + group * width))
        for half in range(2):
            at = np.uint64(16 * group + 8 * half)
            apart = fields >> np.uint64(4 * width * half)
            apart = (apart & two) | (apart >> np.uint64(2 * width) & two) << np.uint64(32)
            apart = (apart | apart << np.uint64(16 - width)) & four
            word = load64(symbols, at) << np.uint64(shift) | apart << np.uint64(low) | np.uint64(base) * one
            if rotate:
                word = (word >> np.uint64(1) & ~(one << np.uint64(15))) | (word & one) << np.uint64(15)
            store_low(words, at, word)
    return 8 * groups


@jit
def _join_pairs(
    symbols: Symbols, shift: int, data: Bytes, start: int, width: int, low: int, base: Any, rotate: bool, words: Words
) -> int:
    """Words of 32 bits, in groups of eight; of their fields each two are in one load. How many words."""
    mask = np.uint32((1 << width) - 1)
    groups = min(len(words) // 8, _groups(data, start, width, 6 * width >> 3))
    for group in range(groups):
        for i in range(0, 8, 2):
            fields = load64(data, np.uint64(start + group * width + (i * width >> 3))) >> np.uint64(i * width & 7)
            for j in range(2):
                place = 8 * group + i + j
                word = np.uint32(np.uint32(fields >> np.uint64(j * width)) & mask) << np.uint32(low)
                word = np.uint32(word | np.uint32(symbols[place]) << np.uint32(shift) | base)
                words[place] = np.uint32(word >> np.uint32(1)) | np.uint32(word << np.uint32(31)) if rotate else word
    return 8 * groups


@jit
def _put(symbols: Symbols, shift: int, words: Words) -> None:
    for i in range(len(symbols)):
        words[i] |= np.uint64(symbols[i]) << np.uint64(shift)


@jit
def _put_fields(data: Bytes, position: int, width: int, shift: int, words: Words) -> None:
    """`data` has eight bytes or more, and the fields; those in its last bytes are read from the last eight."""
    mask, last = (np.uint64(1) << np.uint64(width)) - np.uint64(1), np.uint64(len(data) - 8)
    for i in range(len(words)):
        at = np.uint64(position + i * width)
        start = min(at >> np.uint64(3), last)
        field = load64(data, start) >> min(at - np.uint64(8) * start, np.uint64(63)) & mask
        words[i] |= field << np.uint64(shift)


@jit
def _rotate_back(words: Words) -> None:
    top = np.uint64(8 * words.itemsize - 1)
    for i in range(len(words)):
        words[i] = np.uint64(words[i]) >> np.uint64(1) | (np.uint64(words[i]) & np.uint64(1)) << top
