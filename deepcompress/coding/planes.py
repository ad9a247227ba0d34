"""Values as integers of 8, 16, 32 or 64 bits, cut into planes of a few bits each, and back.

    float32       sign 1 | exponent 8 | mantissa 23
    rotated       exponent 8 | mantissa 23 | sign 1           the sign, which is noise, joins the mantissa's noise
    planes        exponent and 2 bits | 22 bits               the first is coded, the second is stored as it is

The exponents of a layer's weights take few values, and so do the first bits of their mantissas by Benford's law; what is
below them has as many values as bits can tell apart.

Source: Hershcovitch et al. ZipNN: Lossless compression for AI models. 2024. arXiv:2411.05239 (planes of bytes).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding import pool
from deepcompress.coding.bits import Bytes, Symbols, byte_count, readable, sealed, symbol_dtype
from deepcompress.coding.jit import inline, jit
from deepcompress.coding.kernels import SLACK
from deepcompress.coding.memory import load64, store_low

MAX_PLAIN_WIDTH = 56  # what eight bytes hold from any bit on
_AT_ONCE = 1 << 18  # values that a thread works on; a multiple of 8, so that each run begins with a whole byte

Words = NDArray[Any]
Counts = NDArray[np.int64]


def count_plane(words: Words, rotate: bool, shift: int, width: int) -> Counts:
    """How often each number occurs in the `width` bits above the lowest `shift` of each word; (2**width,).

    Args:
        words: (n,) uint8, uint16, uint32 or uint64.
        rotate: take each word rotated left by one bit.
        shift, width: the plane; width at most 16.
    """

    def count(start: int, stop: int) -> Counts:
        counts = np.zeros((4, 1 << width), np.int64)
        _count(words[start:stop], rotate, shift, counts)
        return np.asarray(counts.sum(axis=0))

    words = sealed(words)
    total: Counts = np.sum(pool.share(len(words), count, _AT_ONCE), axis=0)
    return total


def varying_bits(words: Words, rotate: bool) -> int:
    """The bits, as a mask, in which not all of `words`, (n,), n > 0, are alike; see `count_plane`."""
    words = sealed(words)
    parts = pool.share(len(words), lambda start, stop: _varying(words[start:stop], words[0]), _AT_ONCE)
    found = int(np.bitwise_or.reduce(np.array(parts, np.uint64)))
    bits = 8 * words.itemsize
    return (found << 1 & (1 << bits) - 1) | found >> bits - 1 if rotate else found


def take_plane(words: Words, rotate: bool, shift: int, width: int) -> Symbols:
    """A plane of at most 16 bits as symbols, (n,) in the smallest unsigned type; see `count_plane`."""
    words = sealed(words)
    symbols = np.empty(len(words), symbol_dtype(1 << width))
    pool.share(len(words), lambda start, stop: _take(words[start:stop], rotate, shift, width, symbols[start:stop]), _AT_ONCE)
    return symbols


def pack_plane(words: Words, rotate: bool, shift: int, width: int) -> Bytes:
    """A plane of at most 56 bits as a bit string of fields, (ceil(n x width / 8),) bytes; see `count_plane`."""
    words = sealed(words)

    def pack(first: int, last: int) -> Bytes:
        run = words[8 * first : 8 * last]
        out = np.empty(byte_count(len(run) * width) + SLACK, np.uint8)
        _pack(run, rotate, shift, width, out)
        return out[:-SLACK]

    return np.concatenate(pool.share(-(-len(words) // 8), pack, _AT_ONCE >> 3))


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
def _bits(word: Any, rotate: bool, size: Any) -> Any:
    wide = np.uint64(word)
    if not rotate:
        return wide
    top = np.uint64(8 * size - 1)
    return wide << np.uint64(1) & ((np.uint64(2) << top) - np.uint64(1)) | wide >> top


@jit
def _varying(words: Words, first: Any) -> Any:
    found = first ^ first
    for word in words:
        found |= word ^ first
    return np.uint64(found)


@jit
def _count(words: Words, rotate: bool, shift: int, counts: NDArray[np.int64]) -> None:
    """Four rows in turn: a counter that is raised twice in a row waits for itself."""
    mask, size, low = np.uint64(counts.shape[1] - 1), words.itemsize, np.uint64(shift)
    whole = len(words) // 4 * 4
    for i in range(0, whole, 4):
        counts[0, _bits(words[i], rotate, size) >> low & mask] += 1
        counts[1, _bits(words[i + 1], rotate, size) >> low & mask] += 1
        counts[2, _bits(words[i + 2], rotate, size) >> low & mask] += 1
        counts[3, _bits(words[i + 3], rotate, size) >> low & mask] += 1
    for i in range(whole, len(words)):
        counts[0, _bits(words[i], rotate, size) >> low & mask] += 1


@jit
def _take(words: Words, rotate: bool, shift: int, width: int, symbols: Symbols) -> None:
    mask, size = (np.uint64(1) << np.uint64(width)) - np.uint64(1), words.itemsize
    for i in range(len(words)):
        symbols[i] = _bits(words[i], rotate, size) >> np.uint64(shift) & mask


@inline
def _pack_groups(words: Words, rotate: bool, shift: int, width: int, count: int, out: Bytes) -> Any:
    """Pack whole groups of `count` fields, at most 56 bits, from the first on; where the next field comes in `out`, in bits.

    Fields of a group do not wait for each other; they are or-ed as one to what is left of the last group. All eight bytes are
    written each time: `out` has SLACK bytes more than the fields take.
    """
    mask, size = (np.uint64(1) << np.uint64(width)) - np.uint64(1), words.itemsize
    word, filled, at = np.uint64(0), np.uint64(0), np.uint64(0)
    for first in range(0, len(words) - count + 1, count):
        for i in range(count):
            field = _bits(words[first + i], rotate, size) >> np.uint64(shift) & mask
            word |= field << (filled + np.uint64(i * width))
        filled += np.uint64(count * width)
        store_low(out, at, word)
        at += filled >> np.uint64(3)
        word >>= filled & np.uint64(56)
        filled &= np.uint64(7)
    store_low(out, at, word)
    return np.uint64(8) * at + filled


@jit
def _pack(words: Words, rotate: bool, shift: int, width: int, out: Bytes) -> None:
    if width <= 7:
        group, position = 8, _pack_groups(words, rotate, shift, width, 8, out)
    elif width <= 28:
        group, position = 2, _pack_groups(words, rotate, shift, width, 2, out)
    else:
        group, position = len(words) + 1, np.uint64(0)
    mask, size = (np.uint64(1) << np.uint64(width)) - np.uint64(1), words.itemsize
    for i in range(len(words) // group * group, len(words)):
        at, used = position >> np.uint64(3), position & np.uint64(7)
        word = np.uint64(out[at]) & ((np.uint64(1) << used) - np.uint64(1))
        store_low(out, at, word | (_bits(words[i], rotate, size) >> np.uint64(shift) & mask) << used)
        position += np.uint64(width)


@jit
def _put(symbols: Symbols, shift: int, words: Words) -> None:
    for i in range(len(symbols)):
        words[i] |= np.uint64(symbols[i]) << np.uint64(shift)


@inline
def _put_groups(data: Bytes, position: Any, width: int, count: int, shift: int, words: Words) -> Any:
    """Whole groups of `count` fields, each from one load, from the first on; how many fields that are."""
    mask, stop = (np.uint64(1) << np.uint64(width)) - np.uint64(1), np.uint64(8 * len(data) - 64)
    at, done = np.uint64(position), 0
    while done + count <= len(words) and at <= stop:
        fields = load64(data, at >> np.uint64(3)) >> (at & np.uint64(7))
        for i in range(count):
            words[done + i] |= (fields >> np.uint64(i * width) & mask) << np.uint64(shift)
        at += np.uint64(count * width)
        done += count
    return done


@jit
def _put_fields(data: Bytes, position: int, width: int, shift: int, words: Words) -> None:
    """`data` has eight bytes or more, and the fields; those in its last bytes are read from the last eight."""
    done = 0
    if width <= 7:
        done = _put_groups(data, position, width, 8, shift, words)
    elif width <= 28:
        done = _put_groups(data, position, width, 2, shift, words)
    mask, last = (np.uint64(1) << np.uint64(width)) - np.uint64(1), np.uint64(len(data) - 8)
    for i in range(done, len(words)):
        at = np.uint64(position + i * width)
        start = min(at >> np.uint64(3), last)
        field = load64(data, start) >> min(at - np.uint64(8) * start, np.uint64(63)) & mask
        words[i] |= field << np.uint64(shift)


@jit
def _rotate_back(words: Words) -> None:
    top = np.uint64(8 * words.itemsize - 1)
    for i in range(len(words)):
        words[i] = np.uint64(words[i]) >> np.uint64(1) | (np.uint64(words[i]) & np.uint64(1)) << top
