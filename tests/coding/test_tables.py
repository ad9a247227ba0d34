from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding.tables import BitReader, BitWriter, length_bits, read_lengths, write_lengths
from deepcompress.errors import FormatError, ParameterError

LENGTHS = st.lists(
    st.tuples(st.one_of(st.just(0), st.integers(0, 20)), st.integers(1, 40)).map(lambda run: [run[0]] * run[1]), max_size=12
).map(lambda runs: [length for run in runs for length in run])


def bits_of(text: str) -> bytes:
    """Bits in reading order, blanks ignored."""
    text = text.replace(" ", "")
    return int(text[::-1] or "0", 2).to_bytes((len(text) + 7) // 8, "little")


def written(lengths: list[int]) -> BitWriter:
    bits = BitWriter()
    write_lengths(bits, lengths)
    return bits


@given(
    st.lists(st.integers(0, 80).flatmap(lambda width: st.tuples(st.integers(0, (1 << width) - 1), st.just(width))), max_size=30)
)
def test_fields_come_back(fields: list[tuple[int, int]]) -> None:
    writer = BitWriter()
    for value, width in fields:
        writer.write(value, width)
    assert writer.bit_length == sum(width for _, width in fields)
    assert len(writer.getvalue()) == (writer.bit_length + 7) // 8
    reader = BitReader(writer.getvalue())
    assert [reader.read(width) for _, width in fields] == [value for value, _ in fields]
    reader.finish()


@given(st.lists(st.integers(1, 70_000), max_size=30))
def test_gamma_comes_back(values: list[int]) -> None:
    writer = BitWriter()
    for value in values:
        writer.write_gamma(value)
    reader = BitReader(writer.getvalue())
    assert [reader.read_gamma(70_000) for _ in values] == values


@given(LENGTHS)
def test_tables_come_back_and_stop_where_they_end(lengths: list[int]) -> None:
    bits = written(lengths)
    length = bits.bit_length
    bits.write(0b1011, 4)
    reader = BitReader(bits.getvalue())
    back = read_lengths(reader, 65_537)
    assert back.dtype == np.uint8
    assert back.tolist() == lengths
    assert reader.read(4) == 0b1011
    assert bits.bit_length == length + 4


@pytest.mark.parametrize(
    ("lengths", "text"),
    [
        ([], "1"),
        ([0], "010 1110"),
        ([5], "010 0"),
        ([6, 4], "011 100 110 00100"),
        ([5, 4, 5, 0, 5], "00110 0 101 100 1110 0"),
        ([20, 0, 0, 19], "00101 110 00101 1111 1 101"),
        ([1] + [0] * 6, "0001000 110 10000 1111 00101"),
    ],
)
def test_the_bits_of_the_specification(lengths: list[int], text: str) -> None:
    bits = written(lengths)
    assert bits.bit_length == len(text.replace(" ", ""))
    assert bits.getvalue() == bits_of(text)
    assert read_lengths(BitReader(bits_of(text)), 100).tolist() == lengths


def test_the_largest_alphabet() -> None:
    lengths = [16] * 65_535 + [17, 17]
    assert read_lengths(BitReader(written(lengths).getvalue()), 65_537).tolist() == lengths
    assert written([0] * 65_537).bit_length == 33 + 4 + 33
    assert len(read_lengths(BitReader(written([0] * 65_537).getvalue()), 65_537)) == 65_537


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1 bits are needed, 0 are left"),
        ("0000 0000", "a number of more than 7 bits, the largest that can stand here is 101"),
        ("0000001 100110", "number 102, the largest that can stand here is 101"),
        ("010 110 00000", "code length 0, it must be from 1 to 20"),
        ("010 110 10101", "code length 21, it must be from 1 to 20"),
        ("011 110 10000 101", "code length 0, it must be from 1 to 20"),
        ("011 110 00101 100", "code length 21, it must be from 1 to 20"),
        ("011 1111 010", "a run of absent symbols goes to 3, the alphabet has 2"),
        ("00101 0 0 1", "3 bits are needed, 1 are left"),
    ],
)
def test_bad_tables(text: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_lengths(BitReader(bits_of(text)), 100)
    assert str(caught.value) == message


@given(st.binary(max_size=40))
def test_noise_is_read_or_refused(data: bytes) -> None:
    reader = BitReader(data)
    try:
        lengths = read_lengths(reader, 300)
    except FormatError:
        return
    assert len(lengths) <= 300
    assert lengths.max(initial=0) <= 20


def test_finish() -> None:
    reader = BitReader(b"\x01\x80")
    reader.read(8)
    with pytest.raises(FormatError, match=r"^8 bits are left over$"):
        reader.finish()
    reader.read(3)
    with pytest.raises(FormatError, match=r"^the last 5 bits are padding and must be zero, they are 0b10000$"):
        reader.finish()
    reader.read(5)
    reader.finish()


def test_bad_arguments() -> None:
    with pytest.raises(ParameterError, match=r"'value' parameter of BitWriter.write must be in \[0, 2\*\*2\)\. Got 4"):
        BitWriter().write(4, 2)
    with pytest.raises(ParameterError, match=r"must be in \[0, 2\*\*2\)\. Got -1"):
        BitWriter().write(-1, 2)
    with pytest.raises(ParameterError, match=r"of BitWriter.write_gamma must be at least 1\. Got 0"):
        BitWriter().write_gamma(0)
    with pytest.raises(
        ParameterError, match=r"of write_lengths must be at most 65537 integers from 0 to 20\. Got '2 from 1 to 21'"
    ):
        write_lengths(BitWriter(), [1, 21])


@settings(deadline=None)
@given(LENGTHS)
def test_the_bits_of_a_table_are_counted(lengths: list[int]) -> None:
    bits = BitWriter()
    write_lengths(bits, lengths)
    assert length_bits(lengths) == bits.bit_length
