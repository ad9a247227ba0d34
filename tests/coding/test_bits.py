from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding.bits import pack_bits, sealed, symbol_dtype, unpack_bits
from deepcompress.errors import FormatError, ParameterError


@st.composite
def fields(draw: st.DrawFn) -> tuple[int, list[int]]:
    width = draw(st.integers(0, 32))
    return width, draw(st.lists(st.integers(0, (1 << width) - 1), max_size=70))


def slow_pack(values: list[int], width: int) -> bytes:
    number = sum(value << width * place for place, value in enumerate(values))
    return number.to_bytes((width * len(values) + 7) // 8, "little")


@settings(deadline=None)
@given(fields())
def test_packing_is_one_long_number_and_comes_back(case: tuple[int, list[int]]) -> None:
    width, values = case
    packed = pack_bits(np.array(values, np.int64), width)
    assert packed.dtype == np.uint8
    assert packed.tobytes() == slow_pack(values, width)
    back = unpack_bits(packed, width, len(values), np.int64)
    assert back.dtype == np.int64
    assert back.tolist() == values


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int16, np.int32, np.bool_])
def test_any_integer_type_goes_in(dtype: Any) -> None:
    values = (np.arange(99) % 2).astype(dtype)
    assert pack_bits(values, 1).tobytes() == slow_pack(values.astype(int).tolist(), 1)


def test_strided_and_foreign_byte_order_go_in() -> None:
    values = np.arange(100, dtype=">u2")[::3]
    assert pack_bits(values, 7).tobytes() == slow_pack(values.tolist(), 7)


@pytest.mark.parametrize(("alphabet", "itemsize"), [(0, 1), (1, 1), (256, 1), (257, 2), (65_536, 2), (65_537, 4), (1 << 32, 4)])
def test_symbol_dtype_is_the_smallest(alphabet: int, itemsize: int) -> None:
    dtype = symbol_dtype(alphabet)
    assert (dtype.kind, dtype.itemsize) == ("u", itemsize)


@pytest.mark.parametrize("alphabet", [-1, (1 << 32) + 1])
def test_symbol_dtype_refuses(alphabet: int) -> None:
    with pytest.raises(ParameterError, match=rf"'alphabet' parameter .* from 0 to 2\*\*32\. Got {alphabet} instead"):
        symbol_dtype(alphabet)


def test_lengths_and_padding_are_checked() -> None:
    packed = pack_bits(np.array([1, 2, 3]), 3)
    with pytest.raises(FormatError, match=r"3 symbols take 2 bytes \(9 bits\), there are 1$"):
        unpack_bits(packed[:1], 3, 3, np.uint8)
    with pytest.raises(FormatError, match=r"0 symbols take 0 bytes \(0 bits\), there are 2$"):
        unpack_bits(packed, 3, 0, np.uint8)
    packed[1] |= 0x80
    with pytest.raises(FormatError, match=r"the last 7 bits are padding and must be zero, the last byte is 0x80"):
        unpack_bits(packed, 3, 3, np.uint8)


def test_bad_arguments() -> None:
    with pytest.raises(ParameterError, match=r"'width' parameter of pack_bits must be an int from 0 to 32\. Got 33"):
        pack_bits(np.array([1]), 33)
    with pytest.raises(ParameterError, match=r"'values' parameter of pack_bits must be below 2\*\*2\. Got 4"):
        pack_bits(np.array([1, 4]), 2)
    with pytest.raises(ParameterError, match=r"'values' parameter of pack_bits must be at least 0 and below 2\*\*32\. Got -1"):
        pack_bits(np.array([1, -1]), 2)
    with pytest.raises(ParameterError, match=r"a one-dimensional array of integers\. Got '1-d float64'"):
        pack_bits(np.array([0.5]), 2)
    with pytest.raises(ParameterError, match=r"'dtype' parameter of unpack_bits must be an integer type of 9 bits"):
        unpack_bits(np.zeros(2, np.uint8), 9, 1, np.uint8)
    with pytest.raises(ParameterError, match=r"'count' parameter of unpack_bits must be at least 0\. Got -1"):
        unpack_bits(np.zeros(0, np.uint8), 1, -1, np.uint8)


def test_sealing_leaves_the_callers_array_alone() -> None:
    values = np.arange(5)
    assert not sealed(values).flags.writeable
    assert values.flags.writeable
