"""Noise for every kernel that reads; run by test_jit, with bounds checks and without. Prints a digest of what came out.

Each array, also those that the package makes, lies directly before a page that nobody may touch, or directly behind one: an
access outside ends the process.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))

from deepcompress.coding import bits, cutting, kernels, planes
from deepcompress.coding.context import Levels, decode_levels, encode_levels
from deepcompress.coding.gaps import decode_gaps, encode_gaps, find_nonzeros, place, scatter
from deepcompress.coding.huffman import HuffmanCode
from deepcompress.coding.jit import CHECKED
from deepcompress.coding.streams import FixedLanes, HuffmanLanes, decode_stream, encode_stream
from deepcompress.container.reader import Reader
from deepcompress.errors import FormatError
from deepcompress.tensors.affine import AffineMap
from deepcompress.tensors.maps import look_up
from tests.attacks.agreement import by_package
from tests.attacks.mutants import mutate
from tests.attacks.seeds import SEEDS

PAGE = mmap.PAGESIZE
_LIBC = ctypes.CDLL(None, use_errno=True)
rng = np.random.default_rng(1)
sides = np.random.default_rng(2)  # threads take turns with it as they come
seen = hashlib.sha256()


def fenced_empty(shape: Any, dtype: Any = float) -> NDArray[Any]:
    """Like `np.empty`, or `np.zeros`, between two pages that cannot be touched; its last byte, or its first, beside one."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    if not size or kind.hasobject:
        return real_zeros(shape, dtype)
    pages = -(-size // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    data = np.frombuffer(memory, np.uint8)
    for page in (0, pages + 1):
        address = ctypes.c_void_p(data.ctypes.data + page * PAGE)
        if _LIBC.mprotect(address, ctypes.c_size_t(PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    start = PAGE if size % 2 == 0 and sides.random() < 0.3 else (pages + 1) * PAGE - size
    return data[start : start + size].view(kind).reshape(shape)


def fence(array: Any) -> NDArray[Any]:
    array = np.asarray(array)
    copy = fenced_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def note(*found: Any) -> None:
    for one in found:
        seen.update(one.tobytes() if isinstance(one, np.ndarray) else repr(one).encode())


def attempt(call: Callable[[], Any]) -> int:
    """Note what comes of a call; whether it was refused."""
    try:
        found = call()
    except FormatError as error:
        note(str(error))
        return 1
    note(*found if isinstance(found, tuple) else (found,))
    return 0


real_zeros = np.zeros
skewed = HuffmanLanes(HuffmanCode.from_lengths([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11]))
even = HuffmanLanes(HuffmanCode.from_lengths([4] * 16))
deep = HuffmanLanes(HuffmanCode.from_lengths([*range(1, 18), 17]))


def noise_for_lanes(turns: int) -> int:
    refused = 0
    for turn in range(turns):
        size, lanes, chunks = int(rng.integers(0, (60, 400)[turn % 2])), 1 << int(rng.integers(0, 3)), int(rng.integers(1, 3))
        data = fence(rng.integers(0, 3, size).astype(np.uint8) * rng.integers(0, 128, size).astype(np.uint8))
        coder = (skewed, even, deep, FixedLanes(int(rng.integers(0, 9)), 0))[int(rng.integers(0, 4))]
        dtype, total = (np.uint8, np.uint16, np.uint32)[int(rng.integers(0, 3))], int(rng.integers(0, (90, 900)[turn % 2]))
        refused += attempt(
            lambda: decode_stream(data, coder, lanes, counts=None, chunks=chunks, total=total, out_dtype=dtype)  # noqa: B023
        )
        out, rows = fenced_empty(800, np.uint8), rng.integers(0, (2**62, 40)[turn % 2], (4, 4)).astype(np.uint64)
        bits_there = 8 * max(size, 8)
        rows[:, 1] = rng.integers(0, bits_there + 1, 4) if turn % 3 else bits_there
        rows[:, 2:] = 4 * np.sort(rng.integers(0, 201, (4, 2)), axis=1)
        for table in (skewed, even, deep):
            for width in (1, 2, 4):
                looks = kernels.TURN if table is not deep else kernels.WIDE
                kernels.decode_lanes(
                    bits.readable(data), fence(rows), table._table(width), table.lengths, looks, width, out
                )  # fmt: skip
                note(out)
    return refused


def noise_for_gaps(turns: int) -> int:
    refused = 0
    for _ in range(turns):
        counts = rng.integers(0, 4, (2, 4))
        gaps = fence(rng.integers(0, 4, counts[0].sum()).astype(np.uint8))
        values = fence(rng.integers(0, 9, int(rng.integers(0, 9))).astype(np.uint16))
        dense, table = fenced_empty(30, np.uint16), fence(np.arange(6, dtype=np.uint16))
        symbols = fence(rng.integers(0, 8, counts[1].sum()).astype(np.uint8))
        refused += attempt(lambda: decode_gaps(gaps, *counts, 30, 2, 3))  # noqa: B023
        refused += attempt(lambda: place(gaps, counts[0], values, 2, 3, dense))  # noqa: B023
        note(dense, scatter(gaps, symbols, counts, table, 2, 3, dense), dense)
        weights = fence(rng.integers(0, 3, int(rng.integers(0, 40))).astype(np.uint8))
        found = find_nonzeros(weights, 3)
        note(found.gaps, found.kept, *encode_gaps(fence(found.gaps), found.counts, 2))
        numbers, values_of = fence(rng.integers(0, 9, 21).astype(np.uint8)), fenced_empty(21, np.uint32)
        look_up(bits.sealed(numbers), bits.sealed(fence(np.arange(9, dtype=np.uint32))), values_of)
        levels = AffineMap.of(fence(np.ones(3, np.float32)), fence(np.arange(3)), (7, 3), 1, "float32")
        note(values_of, levels.values(numbers))
    return refused


def noise_for_planes(turns: int) -> None:
    for turn in range(turns):
        kind, rotate = (np.uint16, np.uint32, np.uint64)[turn % 3], bool(turn & 4)
        words = fence(rng.integers(0, 2**64, int(rng.integers(0, 30)), np.uint64).astype(kind))
        width = int(rng.integers(1, min(8 * words.itemsize, 56) + 1))
        shift, first = int(rng.integers(0, 8 * words.itemsize - width + 1)), int(rng.integers(0, len(words) + 1))
        fields, found = fence(cutting.pack_plane(words, rotate, shift, width)), fence(real_zeros(len(words), kind))
        planes.put_fields(fields, first, width, shift, found[first:])
        noise = fence(rng.permutation(fields))
        other = fence(real_zeros(len(words) - first, kind))
        planes.put_fields(noise, first, width, shift, other)
        narrow, again = min(width, 16), fence(real_zeros(len(words), kind))
        symbols = fence(cutting.take_plane(words, rotate, shift, narrow))
        assert np.array_equal(np.bincount(symbols, minlength=1 << narrow), cutting.count_plane(words, rotate, shift, narrow))
        planes.put_plane(symbols, shift, again)
        assert np.array_equal(again[first:], found[first:] & kind((2**narrow - 1) << shift))
        note(found, other, again)
        planes.rotate_back(words)
        if width < 8 * words.itemsize:
            above = fence(rng.integers(0, 2**16, len(words) - first).astype(np.uint16))
            joined = fenced_empty(len(words) - first, kind)
            planes.join_planes(above, width, noise, first, width, 0, 0, rotate, joined)
            note(joined)


def noise_for_levels(turns: int) -> int:
    """Levels come back, and other bytes are refused or are other levels; places and neighbours of every shape."""
    refused = 0
    for turn in range(turns):
        kernel_row, size, start = (int(rng.integers(low, high)) for low, high in ((1, 6), (0, 60), (0, 400)))
        kernel = (1, kernel_row, 2 * kernel_row, 40)[turn % 4]
        columns = kernel * int(rng.integers(1, 9)) if turn % 5 else 2**40 * kernel
        lowest, highest = (int(rng.choice([0, 1, 3, 15, 16, 65_535])) for _ in range(2))
        lag = int(rng.integers(0, columns)) if kernel == 1 else 0
        known = Levels(lowest, highest, int(rng.integers(1, 4_096)), columns, kernel, kernel_row, lag)
        levels = fence(rng.integers(-lowest, highest + 1, size).astype(np.int32))
        data, found = fence(encode_levels(levels, known, start)), fence(real_zeros(size, np.int32))
        decode_levels(data, known, found, start)
        assert np.array_equal(found, levels)
        for noise in (data[: len(data) // 2], rng.permutation(data), rng.integers(0, 256, turn % 50).astype(np.uint8)):
            refused += attempt(lambda: decode_levels(fence(noise), known, found, start))  # noqa: B023
            note(found)
    return refused


def noise_for_long_streams() -> None:
    for size in (40_000, 40_003):
        symbols = fence(rng.integers(0, 12, size).astype(np.uint8))
        for coder, lanes in ((skewed, 4), (even, 32), (FixedLanes(4), 1)):
            counts = np.array([size - 7, 7])
            section = fence(encode_stream(symbols, coder, lanes, counts, counts_known=True))
            found = decode_stream(section, coder, lanes, counts=counts, chunks=2, total=size, out_dtype=np.uint8)[0]
            assert np.array_equal(found, symbols)
            section[rng.integers(16, len(section), 5)] ^= 255
            attempt(
                lambda: decode_stream(section, coder, lanes, counts=counts, chunks=2, total=size, out_dtype=np.uint8)  # noqa: B023
            )


def noise_for_fields(turns: int) -> None:
    for _ in range(turns):
        width, size = int(rng.integers(1, 33)), int(rng.integers(0, 40))
        values = fence(rng.integers(0, 1 << width, size).astype(np.uint32))
        packed = fence(bits.pack_bits(values, width))
        assert np.array_equal(bits.unpack_bits(packed, width, size, np.uint32), values)
        note(packed)


def whole_files(mutants: int) -> int:
    """Mutants of files, the sections fenced too."""
    section, whole = Reader.section, 0
    with mock.patch.object(Reader, "section", lambda self, span: fence(section(self, span))):
        for number in range(mutants):
            found = by_package(mutate(number % len(SEEDS), random.Random(number)))
            whole += found is not None and None not in found.values()
            note(found)
    return whole


def main() -> None:
    if "--overrun" in sys.argv:  # to show that the fence is there
        array = fenced_empty(1, np.uint8)
        ctypes.string_at(array.ctypes.data + 1, 1)
    with mock.patch.multiple(np, empty=fenced_empty, zeros=fenced_empty):
        refused = noise_for_lanes(1500) + noise_for_gaps(500)
        refused += noise_for_levels(300)
        noise_for_planes(1500)
        noise_for_fields(300)
        noise_for_long_streams()
        whole = whole_files(400)
    print(refused > 500, whole > 60, CHECKED, seen.hexdigest())


if __name__ == "__main__":
    main()
