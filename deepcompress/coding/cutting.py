"""Words of 8, 16, 32 or 64 bits cut into planes of a few bits each: counted, taken as symbols, packed as fields.

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
from deepcompress.coding.bits import Bytes, Symbols, byte_count, sealed, symbol_dtype
from deepcompress.coding.jit import inline, jit
from deepcompress.coding.kernels import SLACK
from deepcompress.coding.memory import load64, store_low

MAX_PLAIN_WIDTH = 56  # what eight bytes hold from any bit on
_AT_ONCE = 1 << 18  # words that a thread works on; a multiple of 8, so that each run begins with a whole byte
_GLANCE = 1 << 12  # words in which every bit of noise is found to vary

Words = NDArray[Any]
Counts = NDArray[np.int64]


def count_plane(words: Words, rotate: bool, shift: int, width: int) -> Counts:
    """How often each number occurs in the `width` bits above the lowest `shift` of each word; (2**width,).

    Args:
        words: (n,) uint8, uint16, uint32 or uint64.
        rotate: take each word rotated left by one bit.
        shift, width: the plane; width at most 16.
    """
    words, shift = _upright(words, rotate, shift)

    def count(start: int, stop: int) -> Counts:
        counts = np.zeros((4, 1 << width), np.int64)
        _count(words[start:stop], words[start:stop].view(np.uint8), shift, counts)
        return np.asarray(counts.sum(axis=0))

    total: Counts = sum(pool.share(len(words), count, _AT_ONCE))  # type: ignore[assignment]
    return total


def varying_bits(words: Words, rotate: bool, among: int = -1) -> int:
    """Those of the bits `among`, a mask, in which not all of `words`, (n,), n > 0, are alike; see `count_plane`."""
    words = sealed(words)
    bits = 8 * words.itemsize

    def turned(found: int) -> int:
        return ((found << 1 & (1 << bits) - 1) | found >> bits - 1 if rotate else found) & among

    glance = turned(int(_varying(words[:_GLANCE], words[0])))
    if glance == among or len(words) <= _GLANCE:
        return glance
    parts = pool.share(len(words), lambda start, stop: _varying(words[start:stop], words[0]), _AT_ONCE)
    return turned(int(np.bitwise_or.reduce(np.array(parts, np.uint64))))


def take_plane(words: Words, rotate: bool, shift: int, width: int, base: int = 0, alphabet: int = 0) -> Symbols:
    """A plane of at most 16 bits as symbols, (n,) in the smallest unsigned type; see `count_plane`.

    With an `alphabet`, symbols are less `base`, those below 0, and must be below the alphabet then.
    """
    words, shift = _upright(words, rotate, shift)
    symbols = np.empty(len(words), symbol_dtype(alphabet or 1 << width))
    _take(words, shift, width, base, symbols)
    return symbols


def pack_plane(words: Words, rotate: bool, shift: int, width: int) -> Bytes:
    """A plane of at most 56 bits as a bit string of fields, (ceil(n x width / 8),) bytes; see `count_plane`."""
    return np.concatenate(pack_pieces(words, rotate, shift, width))


def pack_pieces(words: Words, rotate: bool, shift: int, width: int) -> list[Bytes]:
    """What `pack_plane` gives, in pieces: no second copy is needed to write them."""
    words = sealed(words)

    def pack(first: int, last: int) -> Bytes:
        run = words[8 * first : 8 * last]
        out = np.empty(byte_count(len(run) * width) + SLACK, np.uint8)
        _pack(run, run.view(np.uint8), rotate, shift, width, out)
        return out[:-SLACK]

    return pool.share(-(-len(words) // 8), pack, _AT_ONCE >> 3)


def _upright(words: Words, rotate: bool, shift: int) -> tuple[Words, int]:
    """The same plane of words that need not be rotated: only its lowest bit comes from the word's other end."""
    if rotate and shift:
        return sealed(words), shift - 1
    if rotate:
        words = words << words.dtype.type(1) | words >> words.dtype.type(8 * words.itemsize - 1)
    return sealed(words), shift


@jit
def _varying(words: Words, first: Any) -> Any:
    found = first ^ first
    for word in words:
        found |= word ^ first
    return np.uint64(found)


@jit
def _count(words: Words, data: Bytes, shift: int, counts: NDArray[np.int64]) -> None:
    """Four rows in turn: a counter that is raised twice in a row waits for itself. `data` are the bytes of `words`."""
    mask, low = np.uint64(counts.shape[1] - 1), np.uint64(shift)
    whole = len(words) // 4 * 4
    for i in range(0, whole, 4):
        if words.itemsize == 2:  # four words in one load
            four = load64(data, np.uint64(2 * i)) >> low
            counts[0, four & mask] += 1
            counts[1, four >> np.uint64(16) & mask] += 1
            counts[2, four >> np.uint64(32) & mask] += 1
            counts[3, four >> np.uint64(48) & mask] += 1
        else:
            counts[0, np.uint64(words[i]) >> low & mask] += 1
            counts[1, np.uint64(words[i + 1]) >> low & mask] += 1
            counts[2, np.uint64(words[i + 2]) >> low & mask] += 1
            counts[3, np.uint64(words[i + 3]) >> low & mask] += 1
    for i in range(whole, len(words)):
        counts[0, np.uint64(words[i]) >> low & mask] += 1


@jit
def _take(words: Words, shift: int, width: int, base: int, symbols: Symbols) -> None:
    mask = (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    for i in range(len(words)):
        symbols[i] = max(np.int64(np.uint64(words[i]) >> np.uint64(shift) & mask) - base, 0)


@inline
def _field(word: Any, rotate: bool, size: Any, shift: Any, mask: Any) -> Any:
    wide = np.uint64(word)
    if rotate:
        wide = wide << np.uint64(1) | wide >> np.uint64(8 * size - 1)
    return wide >> np.uint64(shift) & mask


@inline
def _pack_shorts(data: Bytes, rotate: bool, shift: int, width: int, out: Bytes) -> None:
    """Groups of eight fields of at most eight bits from words of 16 bits, four of which lie in one of 64.

    | ... 3 | ... 2 | ... 1 | ... 0 |   >   | ...... 3 2 | ...... 1 0 |   >   | ............ 3 2 1 0 |
    """
    one, w = np.uint64(0x0001_0001_0001_0001), np.uint64(width)
    four, two = (np.uint64(1) << w) - np.uint64(1), (np.uint64(1) << np.uint64(2 * width)) - np.uint64(1)
    four, two, all_four = four * one, two | two << np.uint64(32), (np.uint64(1) << np.uint64(4 * width)) - np.uint64(1)
    for group in range(len(data) // 16):
        fields = np.uint64(0)
        for half in range(2):
            words = load64(data, np.uint64(16 * group + 8 * half))
            if rotate:
                words = (words << np.uint64(1) & ~one) | (words >> np.uint64(15) & one)
            words = words >> np.uint64(shift) & four
            words = (words | words >> np.uint64(16 - width)) & two
            words = (words | words >> np.uint64(32 - 2 * width)) & all_four
            fields |= words << np.uint64(4 * width * half)
        store_low(out, np.uint64(group) * w, fields)


@inline
def _pack_groups(words: Words, rotate: bool, shift: int, width: int, each: int, out: Bytes) -> None:
    """Groups of eight fields, `each` of them, at most 56 bits, in one step. A group begins with a whole byte.

    All eight bytes are written each time: `out` has SLACK bytes more than the fields take.
    """
    mask, size, w = (np.uint64(1) << np.uint64(width)) - np.uint64(1), words.itemsize, np.uint64(width)
    for group in range(len(words) // 8):
        at, left = np.uint64(group) * w, np.uint64(0)
        for i in range(0, 8, each):
            fields = np.uint64(0)
            for j in range(each):
                fields |= _field(words[8 * group + i + j], rotate, size, shift, mask) << np.uint64(j * width)
            left |= fields << np.uint64(i * width & 7)
            byte = i * width >> 3
            store_low(out, at + np.uint64(byte), left)
            left >>= np.uint64(8 * (((i + each) * width >> 3) - byte))


@jit
def _pack(words: Words, data: Bytes, rotate: bool, shift: int, width: int, out: Bytes) -> None:
    """`data` are the bytes of `words`."""
    if width <= 8 and words.itemsize == 2:
        _pack_shorts(data, rotate, shift, width, out)
    elif width <= 28:
        _pack_groups(words, rotate, shift, width, 2, out)
    else:
        _pack_groups(words, rotate, shift, width, 1, out)
    mask, size, left = (np.uint64(1) << np.uint64(width)) - np.uint64(1), words.itemsize, np.uint64(0)
    first = len(words) // 8 * 8
    at, filled = np.uint64(first // 8) * np.uint64(width), np.uint64(0)
    for i in range(first, len(words)):
        left |= _field(words[i], rotate, size, shift, mask) << filled
        filled += np.uint64(width)
        store_low(out, at, left)
        at += filled >> np.uint64(3)
        left >>= filled & np.uint64(56)
        filled &= np.uint64(7)
