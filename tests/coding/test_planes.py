"""Planes of words, against definitions in plain Python; the same on one thread and on several."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding import cutting, pool
from deepcompress.coding.bits import symbol_dtype
from deepcompress.coding.cutting import MAX_PLAIN_WIDTH, count_plane, pack_plane, take_plane, varying_bits
from deepcompress.coding.planes import join_planes, put_fields, put_plane, rotate_back

SIZES = (8, 16, 32, 64)


@st.composite
def cuts(draw: st.DrawFn, most: int) -> tuple[list[int], int, bool, int, int]:
    """(words, their bits, whether they are rotated, shift, width) with a width of at most `most`."""
    size = draw(st.sampled_from(SIZES))
    words = draw(st.lists(st.integers(0, 2**size - 1), max_size=40))
    width = draw(st.integers(1, min(most, size)))
    return words, size, draw(st.booleans()), draw(st.integers(0, size - width)), width


def fields(words: list[int], size: int, rotate: bool, shift: int, width: int) -> list[int]:
    """The plane of each word."""
    rotated = [(word << 1 | word >> (size - 1)) % 2**size if rotate else word for word in words]
    return [word // 2**shift % 2**width for word in rotated]


def array(words: list[int], size: int) -> Any:
    return np.array(words, f"u{size // 8}")


def slow_pack(numbers: list[int], width: int) -> bytes:
    whole = sum(number << width * place for place, number in enumerate(numbers))
    return whole.to_bytes((width * len(numbers) + 7) // 8, "little")


@settings(deadline=None)
@given(cuts(16))
def test_counts_and_symbols(cut: tuple[list[int], int, bool, int, int]) -> None:
    words, size, rotate, shift, width = cut
    expected = fields(*cut)
    counts = count_plane(array(words, size), rotate, shift, width)
    assert counts.dtype == np.int64
    assert counts.tolist() == np.bincount(np.array(expected, np.int64), minlength=2**width).tolist()
    symbols = take_plane(array(words, size), rotate, shift, width)
    assert (symbols.dtype, symbols.tolist()) == (symbol_dtype(2**width), expected)


@settings(deadline=None)
@given(cuts(MAX_PLAIN_WIDTH))
def test_a_bit_string_of_fields(cut: tuple[list[int], int, bool, int, int]) -> None:
    words, size, rotate, shift, width = cut
    packed = pack_plane(array(words, size), rotate, shift, width)
    assert packed.dtype == np.uint8
    assert packed.tobytes() == slow_pack(fields(*cut), width)


@settings(deadline=None)
@given(cuts(16))
def test_symbols_are_put_back(cut: tuple[list[int], int, bool, int, int]) -> None:
    words, size, _, shift, width = cut
    others = [word & ~((2**width - 1) << shift) for word in words]
    found = array(others, size)
    put_plane(take_plane(array(words, size), False, shift, width), shift, found)
    assert found.tolist() == words


@settings(deadline=None)
@given(cuts(MAX_PLAIN_WIDTH), st.data())
def test_fields_are_put_back_from_any_on(cut: tuple[list[int], int, bool, int, int], data: st.DataObject) -> None:
    words, size, _, shift, width = cut
    start = data.draw(st.integers(0, len(words)))
    stop = data.draw(st.integers(start, len(words)))
    packed = pack_plane(array(words, size), False, shift, width)
    found = array([0] * (stop - start), size)
    put_fields(packed, start, width, shift, found)
    assert found.tolist() == [field << shift for field in fields(words, size, False, shift, width)[start:stop]]


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_planes_are_joined(data: st.DataObject) -> None:
    """A coded plane on top, fields anywhere below it, and what is left as a constant; from any word on."""
    size = data.draw(st.sampled_from(SIZES))
    top = data.draw(st.integers(1, min(16, size - 1)))
    width = data.draw(st.integers(1, min(MAX_PLAIN_WIDTH, size - top)))
    low = data.draw(st.integers(0, size - top - width))
    varying = (2**top - 1) << (size - top) | (2**width - 1) << low
    base = data.draw(st.integers(0, 2**size - 1)) & ~varying
    words = [word & varying | base for word in data.draw(st.lists(st.integers(0, 2**size - 1), max_size=40))]
    start, rotate = data.draw(st.integers(0, len(words))), data.draw(st.booleans())
    start = data.draw(st.sampled_from([start, start // 8 * 8]))
    symbols = take_plane(array(words, size), False, size - top, top)[start:]
    packed = pack_plane(array(words, size), False, low, width)
    found = np.empty(len(words) - start, f"u{size // 8}")
    join_planes(symbols, size - top, packed, start, width, low, base, rotate, found)
    assert fields(found.tolist(), size, rotate, 0, size) == words[start:]


@settings(deadline=None)
@given(st.sampled_from((16, 32)), st.lists(st.integers(0, 255), min_size=1, max_size=40), st.integers(1, 700))
def test_symbols_less_a_base(size: int, near: list[int], base: int) -> None:
    words = array([0, *(base + number for number in near)], size)
    symbols = take_plane(words, False, 0, 10, base, 256)
    assert (symbols.dtype, symbols.tolist()) == (np.uint8, [0, *near])


def test_bits_that_vary_are_looked_for_no_longer_than_it_takes() -> None:
    words = np.zeros(10_000, np.uint16)
    words[1], words[-1] = 3, 4
    assert varying_bits(words, False, 3) == 3
    assert varying_bits(words, False) == 7
    assert varying_bits(words, True, 15) == 14


@settings(deadline=None)
@given(st.sampled_from(SIZES), st.lists(st.integers(0, 2**64 - 1), max_size=30))
def test_rotating_back(size: int, words: list[int]) -> None:
    words = [word % 2**size for word in words]
    found = array(fields(words, size, True, 0, size), size)
    rotate_back(found)
    assert found.tolist() == words


@settings(deadline=None)
@given(st.sampled_from(SIZES), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), st.booleans(), st.data())
def test_bits_that_vary(size: int, words: list[int], rotate: bool, data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, 2**size - 1))
    words = [word & kept for word in words]
    turned = fields([word % 2**size for word in words], size, rotate, 0, size)
    expected = sum(1 << bit for bit in range(size) if len({word >> bit & 1 for word in turned}) == 2)
    assert varying_bits(array([word % 2**size for word in words], size), rotate) == expected


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rotate", [False, True])
def test_runs_are_joined(size: int, rotate: bool) -> None:
    """Counts add up and bit strings meet at whole bytes, whatever the number of threads."""
    words = np.random.default_rng(size).integers(0, 2**size, 1_003, f"u{size // 8}")
    results = []
    for threads, at_once in ((1, 1 << 18), (2, 64), (3, 8), (4, 200)):
        with pool.limited(threads), mock.patch.object(cutting, "_AT_ONCE", at_once):
            widths = (1, 3, 8) if size == 8 else (1, 3, 7, 16)
            made: list[bytes] = []
            for width in widths:
                made += [function(words, rotate, size - width, width).tobytes() for function in (count_plane, take_plane)]
                made.append(pack_plane(words, rotate, size - width, width).tobytes())
            results.append(made)
    assert all(result == results[0] for result in results)
    numbers = fields(words.tolist(), size, rotate, size - 3, 3)
    assert pack_plane(words, rotate, size - 3, 3).tobytes() == slow_pack(numbers, 3)


@pytest.mark.parametrize("order", ["<", ">"])
def test_any_order_of_bytes_and_any_step_goes_in(order: str) -> None:
    words = np.arange(200, dtype=f"{order}u4")[::2]
    assert take_plane(words, False, 0, 8).tolist() == list(range(0, 200, 2))
    assert pack_plane(words, False, 0, 8).tolist() == list(range(0, 200, 2))


def test_nothing() -> None:
    none = np.zeros(0, np.uint16)
    assert count_plane(none, True, 3, 4).tolist() == [0] * 16
    assert (len(take_plane(none, True, 3, 4)), len(pack_plane(none, True, 3, 4))) == (0, 0)
    put_fields(np.zeros(0, np.uint8), 0, 9, 0, none)
    put_plane(none, 0, none.copy())
    join_planes(none, 9, np.zeros(0, np.uint8), 0, 9, 0, 0, True, none.copy())
    rotate_back(none)
