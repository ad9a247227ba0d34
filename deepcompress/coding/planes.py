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
def _count(words: Words, rotate: bool, shift: int, counts: NDArray[np.int64]) -> None:
    mask, size = np.uint64(counts.shape[1] - 1), words.itemsize
    for i in range(len(words)):
        counts[i & 3, _bits(words[i], rotate, size) >> np.uint64(shift) & mask] += 1


@jit
def _take(words: Words, rotate: bool, shift: int, width: int, symbols: Symbols) -> None:
    mask, size = (np.uint64(1) << np.uint64(width)) - np.uint64(1), words.itemsize
    for i in range(len(words)):
        symbols[i] = _bits(words[i], rotate, size) >> np.uint64(shift) & mask


@jit
def _pack(words: Words, rotate: bool, shift: int, width: int, out: Bytes) -> None:
    """Each field is or-ed to what is left of the last one, and all eight bytes are written: `out` has SLACK bytes more."""
    mask, size = (np.uint64(1) << np.uint64(width)) - np.uint64(1), words.itemsize
    word, filled, at = np.uint64(0), np.uint64(0), np.uint64(0)
    for i in range(len(words)):
        word |= (_bits(words[i], rotate, size) >> np.uint64(shift) & mask) << filled
        filled += np.uint64(width)
        store_low(out, at, word)
        at += filled >> np.uint64(3)
        word = word >> (filled & np.uint64(56)) if filled < np.uint64(64) else np.uint64(0)
        filled &= np.uint64(7)


@jit
def _put(symbols: Symbols, shift: int, words: Words) -> None:
    for i in range(len(symbols)):
        words[i] |= np.uint64(symbols[i]) << np.uint64(shift)


@jit
def _put_fields(data: Bytes, position: int, width: int, shift: int, words: Words) -> None:
    """`data` has eight bytes or more, and the fields; those in its last bytes are read from the last eight."""
    mask, last = (np.uint64(1) << np.uint64(width)) - np.uint64(1), np.uint64(len(data) - 8)
    at = np.uint64(position)
    for i in range(len(words)):
        start = min(at >> np.uint64(3), last)
        words[i] |= (load64(data, start) >> (at - np.uint64(8) * start) & mask) << np.uint64(shift)
        at += np.uint64(width)


@jit
def _rotate_back(words: Words) -> None:
    top = np.uint64(8 * words.itemsize - 1)
    for i in range(len(words)):
        words[i] = np.uint64(words[i]) >> np.uint64(1) | (np.uint64(words[i]) & np.uint64(1)) << top
