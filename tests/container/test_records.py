"""Records and the directory: what is written is what is read, and sections lie where their lengths put them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.container import layout
from deepcompress.container.directory import MetaSection, check_head, pack_directory, place, unpack_directory
from deepcompress.container.layout import DTYPES, NARROWER
from deepcompress.container.records import Sparse, StreamRecord, TensorRecord, read_record
from deepcompress.container.varint import Cursor, varint
from deepcompress.errors import FormatError, VersionError

FLOATS = ("float16", "bfloat16", "float32", "float64")
coded = st.builds(
    StreamRecord, st.sampled_from([1, 2, 3, 77, 2**40]), st.integers(0, 9_000), st.integers(0, 255), st.binary(max_size=5)
)
symbols = coded.filter(lambda stream: stream.codec != layout.CODEC_PLANES)
values = coded.filter(lambda stream: stream.codec not in (layout.CODEC_FIXED, layout.CODEC_HUFFMAN))
shapes = st.lists(st.integers(0, 50), max_size=5).map(tuple)


@st.composite
def records(draw: st.DrawFn, name: str = "w") -> TensorRecord:
    value_map = draw(st.sampled_from([0, 1, 2]))
    dtype = draw(st.sampled_from(FLOATS if value_map else [kind.name for kind in DTYPES]))
    stored = draw(st.sampled_from([dtype, *NARROWER.get(dtype, ())]))
    shape = draw(shapes)
    numel = layout.numel(shape)
    axis = draw(st.integers(0, len(shape))) if value_map == layout.MAP_AFFINE else 0
    size = draw(st.integers(0, 65_536)) if value_map == layout.MAP_CODEBOOK else 0
    if value_map == layout.MAP_AFFINE:
        size = shape[axis - 1] if axis else 1
    sparse = None
    if draw(st.booleans()):
        nonzeros = draw(st.integers(0, numel))
        sparse = Sparse(nonzeros, draw(st.integers(1, 16)), draw(st.integers(nonzeros, numel)), draw(symbols))
    count = sparse.nonzeros if sparse else numel
    raw = StreamRecord(0, count * layout.DTYPE_OF_NAME[stored].itemsize)
    stream = draw(symbols if value_map else st.one_of(st.just(raw), values))
    one_offset = axis > 0 and draw(st.booleans())
    return TensorRecord(name, dtype, shape, stored, value_map, size, axis, sparse, stream, one_offset=one_offset)


@st.composite
def compact_records(draw: st.DrawFn, name: str = "w") -> TensorRecord:
    """Those that only compact files have: constants, offsets in the record, levels; and others."""
    record = replace(draw(records(name)), one_offset=False)
    kind = draw(st.sampled_from(["any", "constant", "levels", "offset"]))
    itemsize = layout.DTYPE_OF_NAME[record.stored].itemsize
    if kind == "constant":
        constant = draw(st.binary(min_size=itemsize, max_size=itemsize))
        stored = record.stored if any(constant) else record.dtype
        zeros = b"\1" if record.dtype == "bool" else constant if any(constant) else bytes(layout.DTYPE_OF_NAME[stored].itemsize)
        return TensorRecord(name, record.dtype, record.shape, stored, layout.MAP_CONSTANT, constant=zeros)
    if record.value_map == layout.MAP_AFFINE and kind != "any":
        record = replace(record, offset=draw(st.integers(0, 65_535)))
    if record.value_map and kind == "levels":
        numbers = [7] * (record.parameters_of_levels - 2) + [draw(st.sampled_from(layout.FIRST_CHANCES)), 300]
        levels = StreamRecord(layout.CODEC_CONTEXT, draw(st.integers(0, 999)), 20, b"".join(map(varint, numbers)))
        return replace(record, sparse=None, values=levels)
    return record


some_records = st.tuples(records(), st.just(False)) | st.tuples(compact_records(), st.just(True))


@given(some_records)
def test_records(made: tuple[TensorRecord, bool]) -> None:
    record, compact = made
    cursor = Cursor(record.pack(0, compact=compact), "")
    assert read_record(cursor, "w", [], compact=compact) == record
    cursor.finish()


@given(some_records)
def test_cut_records(made: tuple[TensorRecord, bool]) -> None:
    record, compact = made
    packed = record.pack(0, compact=compact)
    for stop in range(len(packed)):
        with pytest.raises(FormatError, match=r"^record of 'w', byte"):
            read_record(Cursor(packed[:stop], ""), "w", [], compact=compact)


def test_ties() -> None:
    first = TensorRecord("a", "uint8", (3,), "uint8", values=StreamRecord(0, 3))
    tie = TensorRecord("b", "uint8", (3,), "uint8", tie=0)
    assert read_record(Cursor(tie.pack(1), ""), "b", [first]) == tie
    assert (tie.dense_bytes, list(tie.sections())) == (0, [])
    with pytest.raises(FormatError, match="'x' has neither values nor a tie"):
        TensorRecord("x", "uint8", (3,), "uint8").pack(0)


@settings(deadline=None)  # kernels may have to be compiled
@given(
    st.tuples(st.lists(records(), max_size=4), st.just(layout.ONE_OFFSET_USED))
    | st.tuples(st.lists(compact_records(), max_size=4), st.just(layout.COMPACT)),
    st.lists(st.integers(0, 9).map(lambda i: 2 * i), unique=True, max_size=3),
)
def test_directories(listing: tuple[list[TensorRecord], int], kinds: list[int]) -> None:
    made, flags = listing
    listed = [TensorRecord(f"n{i}", *list(vars(record).values())[1:]) for i, record in enumerate(made)]
    metadata = [MetaSection(kind, 3 * kind) for kind in kinds]
    lengths = np.array([1, 2, 3, 3], np.uint8)
    end = layout.HEAD.size
    for section in (section for record in listed for section in record.sections()):
        start = -(-end // 64) * 64 if section.raw and section.length > 4_096 else end
        end = start + section.length
    payload = end - layout.HEAD.size + sum(meta.length for meta in metadata)
    sums = list(range(-(-payload // layout.GROUP_BYTES)))
    data, parts = pack_directory(listed, [lengths], metadata, sums, flags)
    found = unpack_directory(data, payload, (1, 0), flags)
    assert (found.records, found.metadata, list(found.checksums)) == (tuple(listed), tuple(metadata), sums)
    assert found.parts == parts
    assert sum(parts.values()) == len(data)
    check_spans(found.spans, found.padding, [span for span in found.meta_spans.values()], payload)  # noqa: C416
    for wrong in (payload - 1, payload + 1):
        with pytest.raises(FormatError, match=rf"the sections take {payload} bytes, the file has {wrong} for them"):
            place(found, wrong)


def check_spans(spans: object, padding: object, meta: object, payload: int) -> None:
    """Sections and padding lie back to back from byte 8 to the directory."""
    everything = [span for mine in spans for span in mine.values()] + list(padding) + list(meta)  # type: ignore[attr-defined, call-overload]
    at = layout.HEAD.size
    for span in sorted(everything, key=lambda span: (span.start, span.stop)):
        assert span.start == at
        at = span.stop
    assert at == layout.HEAD.size + payload


@pytest.mark.parametrize(
    ("head", "kind", "text"),
    [
        (b"", FormatError, "not a .dcz file"),
        (b"PK\3\4aaaa", FormatError, r"begins with b'PK\\x03\\x04'"),
        (b"\xdcDC", FormatError, "the head of a .dcz file has 8 bytes, this file has 3"),
        (b"\xdcDCZ\2\7\0\0", VersionError, r"format version 2\.7, this reader knows 1\.x"),
        (b"\xdcDCZ\0\0\0\0", VersionError, r"format version 0\.0"),
        (b"\xdcDCZ\1\0\5\0", VersionError, r"flags 0x0004, which this reader \(format 1\.4\) does not know"),
    ],
)
def test_heads(head: bytes, kind: type[FormatError], text: str) -> None:
    with pytest.raises(kind, match=text):
        check_head(head)


def test_a_newer_minor_version_is_read() -> None:
    assert check_head(b"\xdcDCZ\1\x09\0\0") == (1, 9)


def test_a_record_like_the_one_before_is_one_byte() -> None:
    first = TensorRecord("a", "float32", (3,), "float16", values=StreamRecord(0, 6))
    second = TensorRecord("b", "float32", (3,), "float16", values=StreamRecord(0, 6))
    assert second.pack(1, [first]) == b"\x40"
    assert read_record(Cursor(b"\x40", ""), "b", [first]) == second
    other = TensorRecord("c", "float32", (4,), "float16", values=StreamRecord(0, 8))
    assert len(other.pack(2, [first, second])) > 1
    assert len(second.pack(2, [first, other])) > 1


def test_in_a_compact_file_a_record_may_be_like_one_of_64_before() -> None:
    first = TensorRecord("a", "float32", (3,), "float16", values=StreamRecord(0, 6))
    zeros = TensorRecord("b", "int64", (), "int64", layout.MAP_CONSTANT, constant=bytes(8))
    many = [TensorRecord(f"{place}", "bool", (place,), "bool", values=StreamRecord(0, place)) for place in range(62)]
    earlier = [first, zeros, *many]
    for back, record in ((63, first), (62, zeros), (0, many[-1])):
        same = replace(record, name="z")
        assert same.pack(64, earlier, compact=True) == bytes([0x40 + back])
        assert read_record(Cursor(bytes([0x40 + back]), ""), "z", earlier, compact=True) == same
    assert len(replace(first, name="z").pack(65, [*earlier, zeros], compact=True)) > 1
    with pytest.raises(FormatError, match="like the tensor 4 before it, which is none of raw values"):
        read_record(Cursor(b"\x43", ""), "z", [first], compact=True)
    with pytest.raises(FormatError, match="unknown flags 0x43"):
        read_record(Cursor(b"\x43", ""), "z", earlier)
