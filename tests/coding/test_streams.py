from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding.bits import symbol_dtype
from deepcompress.coding.huffman import HuffmanCode
from deepcompress.coding.streams import FixedLanes, Geometry, HuffmanLanes, decode_stream, encode_stream
from deepcompress.errors import FormatError, ParameterError

LANES = (1, 2, 4, 8, 16, 32)
Coder = HuffmanLanes | FixedLanes
Reader = Callable[[str, int], tuple[list[int], int]]

# A second reader, plain Python, written from the layout's description alone.


def to_text(data: bytes) -> str:
    """Bits in reading order."""
    return "".join(f"{byte:08b}"[::-1] for byte in data)


def huffman_reader(lengths: Sequence[int]) -> Reader:
    words, value, before = {}, 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        value <<= length - before
        words[f"{value:0{length}b}"] = symbol
        value, before = value + 1, length

    def read(text: str, count: int) -> tuple[list[int], int]:
        symbols, start, end = [], 0, 0
        while len(symbols) < count:
            end += 1
            assert end <= len(text)
            if text[start:end] in words:
                symbols.append(words[text[start:end]])
                start = end
        return symbols, end

    return read


def fixed_reader(width: int, base: int) -> Reader:
    def read(text: str, count: int) -> tuple[list[int], int]:
        fields = [text[width * i : width * (i + 1)] for i in range(count)]
        return [base + int(field[::-1] or "0", 2) for field in fields], width * count

    return read


def u32s(data: bytes, count: int) -> tuple[list[int], bytes]:
    return [int.from_bytes(data[4 * i : 4 * i + 4], "little") for i in range(count)], data[4 * count :]


def slow_section(data: bytes, read: Reader, lanes: int, counts: list[int], known: bool) -> list[int]:
    lengths = [len(data)]
    if len(counts) > 1:
        lengths, data = u32s(data, len(counts))
        if not known:
            written, data = u32s(data, len(counts))
            assert written == counts
    assert sum(lengths) == len(data)
    symbols = []
    for length, count in zip(lengths, counts, strict=True):
        symbols += slow_chunk(data[:length], read, lanes, count)
        data = data[length:]
    return symbols


def slow_chunk(data: bytes, read: Reader, lanes: int, count: int) -> list[int]:
    if not count:
        assert data == b""
        return []
    lengths, data = u32s(data, lanes - 1)
    lengths.append(len(data) - sum(lengths))
    step, symbols = -(-count // lanes), []
    for lane, length in enumerate(lengths):
        text = to_text(data[:length])
        found, bits = read(text, max(min((lane + 1) * step, count) - lane * step, 0))
        assert (bits + 7) // 8 == length
        assert "1" not in text[bits:]
        symbols += found
        data = data[length:]
    return symbols


def huffman(symbols: np.ndarray, limit: int = 12) -> HuffmanLanes:
    return HuffmanLanes(HuffmanCode.from_counts(np.bincount(symbols, minlength=1), limit))


def round_trip(symbols: np.ndarray, coder: Coder, lanes: int, counts: list[int], known: bool, dtype: Any = None) -> bytes:
    array = np.array(counts, np.int64)
    section = encode_stream(symbols, coder, lanes, array, counts_known=known)
    back, found = decode_stream(
        section,
        coder,
        lanes,
        counts=array if known else None,
        chunks=len(counts),
        total=len(symbols),
        out_dtype=dtype or symbols.dtype,
    )
    assert back.dtype == (dtype or symbols.dtype)
    assert np.array_equal(back, symbols)
    assert found.tolist() == counts
    return section.tobytes()


@st.composite
def streams(draw: st.DrawFn) -> tuple[np.ndarray, int, list[int], bool]:
    counts = draw(st.lists(st.one_of(st.just(0), st.integers(0, 90)), min_size=1, max_size=6))
    top = draw(st.sampled_from([0, 1, 3, 31, 255]))
    skew = draw(st.floats(0.5, 6))
    seed = draw(st.integers(0, 2**32 - 1))
    symbols = (np.random.default_rng(seed).random(sum(counts)) ** skew * (top + 1)).astype(np.uint8)
    return symbols, draw(st.sampled_from(LANES)), counts, draw(st.booleans())


@settings(deadline=None, max_examples=150)
@given(streams(), st.integers(1, 20))
def test_huffman_streams_come_back_to_both_readers(case: tuple[np.ndarray, int, list[int], bool], limit: int) -> None:
    symbols, lanes, counts, known = case
    coder = huffman(symbols, limit)
    data = round_trip(symbols, coder, lanes, counts, known)
    assert slow_section(data, huffman_reader(coder.code.lengths.tolist()), lanes, counts, known) == symbols.tolist()


@settings(deadline=None)
@given(streams(), st.integers(0, 3))
def test_fixed_streams_come_back_to_both_readers(case: tuple[np.ndarray, int, list[int], bool], spare: int) -> None:
    symbols, lanes, counts, known = case
    base = max(int(symbols.min(initial=255)) - spare, 0)
    width = (int(symbols.max(initial=base)) - base).bit_length()
    data = round_trip(symbols, FixedLanes(width, base), lanes, counts, known)
    assert slow_section(data, fixed_reader(width, base), lanes, counts, known) == symbols.tolist()


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("limit", [17, 20])
def test_the_largest_alphabet(lanes: int, limit: int) -> None:
    rng = np.random.default_rng(limit)
    symbols = np.concatenate([np.arange(65_537), (65_537 * rng.random(100_000) ** 9).astype(np.int64)])
    rng.shuffle(symbols)
    round_trip(symbols.astype(np.uint32), huffman(symbols, limit), lanes, [len(symbols)], True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_long_lanes(dtype: Any) -> None:
    symbols = np.minimum(np.random.default_rng(0).geometric(0.2, 300_000), 200).astype(dtype)
    counts = [1 << 16] * 4 + [300_000 - (1 << 18)]
    for lanes in LANES:
        round_trip(symbols, huffman(symbols, 20), lanes, counts, lanes % 8 == 0)


def test_a_stream_without_symbols() -> None:
    for coder in (huffman(np.zeros(0, np.int64)), FixedLanes(0, 0), FixedLanes(5, 2)):
        for lanes in LANES:
            assert round_trip(np.zeros(0, np.uint8), coder, lanes, [0], True) == b""
            assert round_trip(np.zeros(0, np.uint8), coder, lanes, [0, 0], False) == bytes(16)


def test_a_million_equal_symbols_take_no_bytes() -> None:
    assert round_trip(np.full(1_000_000, 3, np.uint8), FixedLanes(0, 3), 1, [1_000_000], False) == b""


def test_the_bytes_of_the_specification() -> None:
    """Codewords 0, 10, 110, 111; two chunks; two lanes; counts written."""
    coder = HuffmanLanes(HuffmanCode.from_lengths([1, 2, 3, 3]))
    section = encode_stream(np.array([0, 1, 2, 3, 0, 1]), coder, 2, np.array([5, 1]), counts_known=False)
    lane = lambda text: int(text[::-1], 2)  # noqa: E731
    assert section.tolist() == [
        *(6, 0, 0, 0), *(5, 0, 0, 0), *(5, 0, 0, 0), *(1, 0, 0, 0),
        *(1, 0, 0, 0), lane("010110"), lane("1110"),
        *(1, 0, 0, 0), lane("10"),
    ]  # fmt: skip


def small_sections() -> list[Any]:
    rng = np.random.default_rng(5)
    symbols = np.minimum(rng.geometric(0.4, 40), 6).astype(np.uint8)
    same = np.full(40, 2, np.uint8)
    shapes: list[tuple[int, list[int], bool]] = [
        (1, [40], True), (4, [40], True), (1, [13, 0, 27], True), (2, [13, 0, 27], False), (32, [2, 38], False)
    ]  # fmt: skip
    coders = [(huffman(symbols), symbols), (huffman(same), same), (FixedLanes(3, 0), symbols), (FixedLanes(0, 2), same)]
    return [(coder, values, *shape) for coder, values in coders for shape in shapes]


@pytest.mark.parametrize(("coder", "symbols", "lanes", "counts", "known"), small_sections())
def test_every_cut_and_every_flipped_bit(coder: Coder, symbols: np.ndarray, lanes: int, counts: list[int], known: bool) -> None:
    array = np.array(counts, np.int64)
    section = encode_stream(symbols, coder, lanes, array, counts_known=known)

    def read(data: np.ndarray) -> np.ndarray | None:
        given = array if known else None
        try:
            back, found = decode_stream(
                data, coder, lanes, counts=given, chunks=len(counts), total=len(symbols), out_dtype=np.uint8
            )
        except FormatError:
            return None
        assert len(back) == int(found.sum()) == len(symbols)
        return back

    for size in range(len(section)):
        assert read(section[:size]) is None
    assert read(np.append(section, np.uint8(0))) is None
    for bit in range(8 * len(section)):
        flipped = section.copy()
        flipped[bit >> 3] ^= 1 << (bit & 7)
        back = read(flipped)
        assert back is None or not np.array_equal(back, symbols) or coder.least_bits == 0


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=80), st.integers(0, 90), st.sampled_from(LANES), st.integers(1, 4), st.integers(0, 20), st.booleans())
def test_noise_is_refused_or_read(data: bytes, total: int, lanes: int, chunks: int, width: int, coded: bool) -> None:
    coder: Coder = HuffmanLanes(HuffmanCode.from_lengths([1, 2, 3, 3])) if coded else FixedLanes(width, 1)
    try:
        symbols, _ = decode_stream(
            np.frombuffer(data, np.uint8), coder, lanes, counts=None, chunks=chunks, total=total, out_dtype=np.uint8
        )
    except FormatError:
        return
    assert len(symbols) == total


@pytest.mark.parametrize(
    ("section", "lanes", "counts", "chunks", "total", "message"),
    [
        ([0] * 7, 1, None, 2, 5, "the tables of 2 chunks take 16 bytes, the section has 7"),
        ([0] * 7, 1, [2, 3], 2, 5, "the tables of 2 chunks take 8 bytes, the section has 7"),
        ([2, 0, 0, 0, 1, 0, 0, 0, 0, 0], 1, [2, 3], 2, 5, "chunk lengths sum to 3, the section has 2 bytes"),
        ([1, 0, 0, 0, 1, 0, 0, 0, 0, 0], 1, [2, 3], 2, 6, "chunk counts sum to 5, the stream has 6 symbols"),
        ([2, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1, [0, 3], 2, 3, "chunk 0 has 0 symbols in 2 bytes"),
        ([2, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1, [5, 1], 2, 6, "chunk 1 has 1 symbols in 0 bytes"),
        ([0], 1, None, 1, 1 << 60, "chunk 0 has 1152921504606846976 symbols in 1 bytes"),
        ([0] * 3, 2, None, 1, 5, "1 lane lengths take 4 bytes, there are 3"),
        ([3, 0, 0, 0, 0, 0], 2, None, 1, 5, "lane lengths sum to 3, there are 2 bytes for lanes"),
        ([1, 0, 0, 0, 0, 0, 0], 2, None, 1, 5, "lane 1: 2 symbols take 1 bytes (2 bits), there are 2"),
        (
            [1, 0, 0, 0, 1, 0, 0, 0, 0, 8], 1, [2, 3], 2, 5,
            "chunk 1, lane 0: the last 5 bits are padding and must be zero, the last byte is 0x08",
        ),
    ],
)  # fmt: skip
def test_errors_carry_the_arithmetic(
    section: list[int], lanes: int, counts: list[int] | None, chunks: int, total: int, message: str
) -> None:
    coder = HuffmanLanes(HuffmanCode.from_lengths([1, 2, 3, 3]))
    given_counts = None if counts is None else np.array(counts, np.int64)
    with pytest.raises(FormatError) as caught:
        decode_stream(
            np.array(section, np.uint8), coder, lanes, counts=given_counts, chunks=chunks, total=total, out_dtype=np.uint8
        )
    assert str(caught.value) == message


@given(st.integers(0, 31), st.sampled_from(LANES))
def test_geometry_is_a_byte(chunk_log2: int, lanes: int) -> None:
    byte = Geometry(chunk_log2, lanes).pack()
    assert byte == chunk_log2 | (lanes.bit_length() - 1) << 5
    assert Geometry.unpack(byte) == Geometry(chunk_log2, lanes)


def test_bad_geometry() -> None:
    with pytest.raises(FormatError, match=r"^geometry 0xc0 means 2\*\*6 lanes, there can be 32$"):
        Geometry.unpack(0xC0)
    with pytest.raises(ParameterError, match=r"'chunk_log2' parameter of Geometry must be an int from 0 to 31\. Got 32"):
        Geometry(32, 1).pack()
    with pytest.raises(ParameterError, match=r"'lanes' parameter of Geometry must be one of 1, 2, 4, 8, 16, 32\. Got 3"):
        Geometry(0, 3).pack()


def test_bad_arguments() -> None:
    symbols, coder = np.zeros(5, np.uint8), FixedLanes(1, 0)
    with pytest.raises(ParameterError, match=r"'lanes' parameter of encode_stream must be one of 1, 2, 4, 8, 16, 32\. Got 5"):
        encode_stream(symbols, coder, 5, np.array([5]), counts_known=True)
    for counts in ([], [4], [6, -1]):
        with pytest.raises(ParameterError, match=r"'counts' parameter of encode_stream must be one or more that sum to 5"):
            encode_stream(symbols, coder, 1, np.array(counts, np.int64), counts_known=True)


def test_the_smallest_type_holds_the_largest_alphabet() -> None:
    assert symbol_dtype(65_537) == np.uint32
