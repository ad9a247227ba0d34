from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bitarray import bitarray
from bitarray.util import canonical_decode
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding.huffman import HuffmanCode
from deepcompress.coding.lanes import FixedLanes, HuffmanLanes
from deepcompress.errors import FormatError, ParameterError


def code_of(symbols: list[int], limit: int = 12) -> HuffmanCode:
    return HuffmanCode.from_counts(np.bincount(np.array(symbols, np.int64), minlength=1), limit)


def decoded(coder: HuffmanLanes | FixedLanes, data: np.ndarray, count: int, dtype: Any = np.uint8) -> list[int]:
    out = np.full(count, 77, dtype)
    coder.decode(data, 0, len(data), out)
    return [int(symbol) for symbol in out]


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(0, 4), st.integers(0, 250)), max_size=400), st.integers(1, 20))
def test_a_lane_is_bitarrays_canonical_code(symbols: list[int], limit: int) -> None:
    code = code_of(symbols, limit)
    data = HuffmanLanes(code).encode(np.array(symbols, np.uint8))
    bits = code.bits(np.bincount(np.array(symbols, np.int64), minlength=1))
    assert len(data) == (bits + 7) // 8
    text = bitarray(endian="little")
    text.frombytes(data.tobytes())
    per_length = np.bincount(code.lengths[code.lengths > 0], minlength=1).tolist()
    assert list(canonical_decode(text[:bits], per_length, code.ordered.tolist())) == symbols
    assert not text[bits:].any()
    assert decoded(HuffmanLanes(code), data, len(symbols)) == symbols


@settings(deadline=None)
@given(st.integers(0, 20), st.integers(0, 2**26 - 1), st.data())
def test_fixed_lanes_come_back(width: int, base: int, data: st.DataObject) -> None:
    symbols = data.draw(st.lists(st.integers(base, base + (1 << width) - 1), max_size=50))
    coder = FixedLanes(width, base)
    lane = coder.encode(np.array(symbols, np.int64))
    assert len(lane) == (width * len(symbols) + 7) // 8
    assert decoded(coder, lane, len(symbols), np.uint32) == symbols


def test_a_lane_between_other_bytes() -> None:
    symbols = [0, 1, 2, 3] * 9
    coder = HuffmanLanes(code_of([0, 0, 0, 1, 1, 2, 3]))
    lane = coder.encode(np.array(symbols))
    data = np.concatenate([np.full(3, 255, np.uint8), lane, np.full(9, 255, np.uint8)])
    out = np.empty(len(symbols), np.uint16)
    coder.decode(data, 3, 3 + len(lane), out)
    assert out.tolist() == symbols


def test_what_a_lane_can_get_wrong() -> None:
    coder = HuffmanLanes(HuffmanCode.from_lengths([1, 2, 2]))
    lane = coder.encode(np.array([0, 1, 2, 2, 1]))  # 9 bits
    with pytest.raises(FormatError, match=r"^lane 0: 5 symbols take 2 bytes \(9 bits\), there are 3$"):
        decoded(coder, np.append(lane, np.uint8(0)), 5)
    with pytest.raises(FormatError, match=r"^lane 0: 6 symbols take 2 bytes \(10 bits\), there are 1$"):
        decoded(coder, lane[:1], 6)
    with pytest.raises(FormatError, match=r"^lane 0: 0 symbols take 0 bytes \(0 bits\), there are 2$"):
        decoded(coder, lane, 0)
    lane[1] |= 4
    with pytest.raises(FormatError, match=r"^lane 0: the last 7 bits are padding and must be zero, the last byte is 0x0[4567]$"):
        decoded(coder, lane, 5)


def test_a_single_symbol_has_only_zero_bits() -> None:
    coder = HuffmanLanes(HuffmanCode.from_lengths([0, 0, 1]))
    assert coder.encode(np.full(9, 2)).tolist() == [0, 0]
    assert decoded(coder, np.zeros(2, np.uint8), 9) == [2] * 9
    for bad, count in (([0, 1], 9), ([4, 0], 9), ([0], 9), ([0, 0], 8), ([128], 8)):
        with pytest.raises(FormatError):
            decoded(coder, np.array(bad, np.uint8), count)


def test_a_code_without_symbols() -> None:
    coder = HuffmanLanes(HuffmanCode.from_lengths([0, 0]))
    assert coder.encode(np.zeros(0, np.uint8)).tolist() == []
    assert decoded(coder, np.zeros(0, np.uint8), 0) == []
    with pytest.raises(FormatError, match="1 symbols are coded in a code without codewords"):
        decoded(coder, np.zeros(1, np.uint8), 1)
    with pytest.raises(ParameterError, match=r"symbols that the code has codewords for\. Got 0 instead"):
        coder.encode(np.array([0]))


def test_symbols_that_the_output_cannot_hold() -> None:
    wide = HuffmanLanes(HuffmanCode.from_lengths([1] + [0] * 255 + [1]))
    with pytest.raises(FormatError, match="the code has symbol 256, the largest that can stand here is 255"):
        decoded(wide, wide.encode(np.array([256])), 1, np.uint8)
    assert decoded(wide, wide.encode(np.array([256])), 1, np.uint16) == [256]
    fixed = FixedLanes(8, 200)
    with pytest.raises(FormatError, match="symbol 256, the largest that can stand here is 255"):
        decoded(fixed, fixed.encode(np.array([256, 201])), 2, np.uint8)
    with pytest.raises(FormatError, match="symbol 300, the largest that can stand here is 255"):
        decoded(FixedLanes(0, 300), np.zeros(0, np.uint8), 2, np.uint8)


def test_symbols_without_bits() -> None:
    coder = HuffmanLanes(HuffmanCode.from_lengths([1, 0, 1]))
    for symbol in (1, 3, 70_000):
        with pytest.raises(ParameterError, match=rf"'symbols' parameter of HuffmanLanes.encode .* Got {symbol} instead"):
            coder.encode(np.array([0, symbol]))
    with pytest.raises(ParameterError, match=r"at least 0 and below 2\*\*32\. Got -1 instead"):
        coder.encode(np.array([-1]))
    for symbols in ([4, 5], [5, 9]):
        with pytest.raises(
            ParameterError, match=rf"of FixedLanes.encode must be from 5 to 8\. Got '{symbols[0]} to {symbols[1]}'"
        ):
            FixedLanes(2, 5).encode(np.array(symbols))


@pytest.mark.parametrize(("width", "base", "name"), [(21, 0, "width"), (-1, 0, "width"), (3, -1, "base"), (3, 1 << 27, "base")])
def test_bad_fixed_widths(width: int, base: int, name: str) -> None:
    with pytest.raises(ParameterError, match=f"The '{name}' parameter of FixedLanes must be an int from 0 to"):
        FixedLanes(width, base)
