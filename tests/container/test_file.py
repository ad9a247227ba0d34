"""Writer and reader: sections come back, aligned where they should be, each read alone and checked alone."""

from __future__ import annotations

import io
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.container import layout
from deepcompress.container.reader import Reader
from deepcompress.container.records import StreamRecord, TensorRecord
from deepcompress.container.writer import GroupChecksums, Writer
from deepcompress.errors import FormatError

SIZES = st.sampled_from([0, 1, 3, 63, 64, 4_096, 4_097, 65_535, 65_536, 65_537, 140_000])


class Recorder(io.BytesIO):
    """Remembers which bytes were read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.ranges: list[tuple[int, int]] = []

    def read(self, size: int | None = -1) -> bytes:
        start = self.tell()
        data = super().read(size)
        self.ranges.append((start, start + len(data)))
        return data


def raw(name: str, size: int) -> TensorRecord:
    return TensorRecord(name, "uint8", (size,), "uint8", values=StreamRecord(0, size))


def write(sizes: list[int]) -> bytes:
    file = io.BytesIO()
    writer = Writer(file)
    for index, size in enumerate(sizes):
        writer.add(raw(f"t{index}", size), {"values": bytes([index + 1]) * size})
    writer.add_metadata(8, b"meta" * 9)
    writer.finish([])
    return file.getvalue()


@settings(deadline=None, max_examples=40)
@given(st.lists(SIZES, max_size=5))
def test_sections(sizes: list[int]) -> None:
    data = write(sizes)
    reader = Reader(data)
    reader.verify()
    for index, (size, spans) in enumerate(zip(sizes, reader.directory.spans, strict=True)):
        assert reader.section(spans["values"]).tobytes() == bytes([index + 1]) * size
        assert size <= layout.RAW_ALIGNED or spans["values"].start % 64 == 0
    assert reader.metadata(8) == b"meta" * 9
    assert reader.metadata(10) is None
    assert len(reader.directory.checksums) == -(-reader.payload // 65_536)
    assert sum(span.length for span in reader.directory.padding) <= 63 * len(sizes)


def test_only_what_is_asked_for_is_read() -> None:
    sizes = [10, 100_000, 200_000, 10]
    data = write(sizes)
    for index, size in enumerate(sizes):
        file = Recorder(data)
        reader = Reader(file)
        file.ranges.clear()
        span = reader.directory.spans[index]["values"]
        assert len(reader.section(span)) == size
        (start, stop) = file.ranges[0]
        assert len(file.ranges) == 1
        assert start <= span.start < span.stop <= stop <= span.stop + 65_536
        assert span.start - start < 65_536


def test_opening_reads_head_trailer_directory_and_padding() -> None:
    file = Recorder(write([10, 100_000, 200_000]))
    Reader(file)
    assert sum(stop - start for start, stop in file.ranges) < 400


def test_an_altered_byte_spoils_its_group_only() -> None:
    data = bytearray(write([65_536, 65_536 * 2, 65_536 * 2]))
    reader = Reader(bytes(data))
    spans = [spans["values"] for spans in reader.directory.spans]
    data[spans[2].stop - 1] ^= 1
    reader = Reader(bytes(data))
    assert reader.section(spans[0]).tobytes() == b"\1" * 65_536
    assert len(reader.section(spans[1])) == 131_072
    for fails in (lambda: reader.section(spans[2]), reader.verify):
        with pytest.raises(FormatError, match=r"<bytes>: bytes \d+ to \d+ are altered: their checksum is 0x"):
            fails()


def test_altered_padding() -> None:
    data = bytearray(write([1, 5_000]))
    data[20] = 1
    with pytest.raises(FormatError, match="<bytes>: padding: bytes 9 to 64 are not zero"):
        Reader(bytes(data))


def test_a_section_of_another_length() -> None:
    with pytest.raises(ValueError, match="t: values has 2 bytes, its record says 3"):
        Writer(io.BytesIO()).add(raw("t", 3), {"values": b"12"})


@given(st.lists(st.sampled_from([0, 1, 1_000, 65_535, 65_536, 70_000]), max_size=6))
def test_group_checksums(sizes: list[int]) -> None:
    sums, everything = GroupChecksums(), b""
    for index, size in enumerate(sizes):
        sums.update(bytes([index]) * size)
        everything += bytes([index]) * size
    assert sums.finish() == [zlib.crc32(everything[i : i + 65_536]) for i in range(0, len(everything), 65_536)]


def test_the_smallest_file() -> None:
    file = io.BytesIO()
    Writer(file).finish([])
    reader = Reader(file.getvalue())
    assert (reader.payload, reader.directory.records, reader.directory.dense_bytes) == (0, (), 0)
    reader.verify()
