"""Hand-made files, right and wrong, for the reference decoder."""

import json
import math
import struct
from collections.abc import Callable, Sequence

import pytest

from tests.reference.coding import Bits, Bytes, Code, MalformedError, code_lengths, element, to_float32, widen
from tests.reference.decoder import File, LimitError
from tests.reference.decoder import read as read_leniently
from tests.reference.decoder import read_whole as read
from tests.reference.writer import (
    Entry,
    Parts,
    Raw,
    build,
    coded,
    coded_plane,
    codewords,
    constant_plane,
    fixed,
    gamma,
    huffman,
    low,
    pack,
    plain,
    plain_plane,
    planes,
    raw_stream,
    shape,
    stream,
    table,
    u32,
    varint,
)

F32, F64, F16, BF16, I64, U8, BOOL = 0, 1, 2, 3, 4, 8, 12
I16, C64, C32, F8, F4 = 6, 13, 15, 16, 21
TIE, STORED, SPARSE, CODEBOOK, AFFINE = 0x80, 8, 4, 1, 2
HUFFMAN_LENGTHS = [1, 2, 3, 3]


def f32s(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def f16s(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}e", *values)


def raw(name: str = "b", data: bytes = b"\0\0\x80?", dtype: int = F32, sides: Sequence[int] = (1,)) -> Entry:
    return Entry(name, bytes([0, dtype]) + shape(*sides) + raw_stream(), [Raw(data)])


def tie(name: str, back: int) -> Entry:
    return Entry(name, bytes([TIE]) + varint(back))


def codebook(
    symbols: Sequence[int] = (0, 1, 2, 3),
    centroids: bytes = f32s(-1.5, 0.25, 2.0),
    sides: Sequence[int] | None = None,
    *,
    flags: int = 0,
    dtype: bytes = bytes([F32]),
    k: int = 3,
    stored: bytes = b"",
    lengths: Sequence[int] = HUFFMAN_LENGTHS,
    section: bytes | None = None,
    number: int = 0,
    geometry: Sequence[int] = (31, 0),
) -> Entry:
    """A dense Huffman-coded tensor with a codebook."""
    section = pack(huffman(symbols, lengths)) if section is None else section
    record = bytes([CODEBOOK | flags]) + dtype + shape(*(sides or (len(symbols),))) + stored + varint(k)
    return Entry("w", record + stream(2, len(section), varint(number), *geometry), [Raw(centroids), section])


def packed(symbols: Sequence[int], width: int = 2) -> bytes:
    return pack("".join(low(s, width) for s in symbols))


def sparse(
    gaps: bytes,
    gap_count: int,
    values: bytes,
    nonzeros: int,
    numel: int,
    *,
    gap_bits: int = 2,
    g: int = 31,
    value_g: int | None = None,
    lanes_log: int = 0,
    gap_codec: int = 1,
) -> Entry:
    """A sparse tensor of fixed-width gaps (2 bits) and symbols (2 bits) over three centroids."""
    record = bytes([CODEBOOK | SPARSE, F32]) + shape(numel) + varint(3) + varint(nonzeros) + bytes([gap_bits])
    record += varint(gap_count - nonzeros) + (stream(gap_codec, len(gaps), fixed(2), g, lanes_log) if gap_codec else raw_stream())
    record += stream(1, len(values), fixed(2), g if value_g is None else value_g, lanes_log)
    return Entry("s", record, [Raw(f32s(-1.5, 0.25, 2.0)), gaps, values])


def cut(
    parameters: bytes,
    section: bytes,
    sides: Sequence[int] = (4,),
    dtype: int = U8,
    *,
    stored: int | None = None,
    g: int = 31,
    lanes_log: int = 0,
) -> Entry:
    """A dense tensor of values cut into planes."""
    record = bytes([0 if stored is None else STORED, dtype]) + shape(*sides) + (b"" if stored is None else bytes([stored]))
    return Entry("p", record + stream(3, len(section), parameters, g, lanes_log), [section])


def affine(
    symbols: Sequence[int],
    scales: bytes,
    offsets: Sequence[int],
    sides: Sequence[int],
    axis: int,
    dtype: int = F32,
    *,
    stored: int | None = None,
    width: int = 4,
) -> Entry:
    section = packed(symbols, width)
    parameters = scales + struct.pack(f"<{len(offsets)}i", *offsets)
    record = bytes([AFFINE | (0 if stored is None else STORED), dtype]) + shape(*sides)
    record += (b"" if stored is None else bytes([stored])) + varint(axis)
    return Entry("a", record + stream(1, len(section), fixed(width)), [Raw(parameters), section])


def file(*entries: Entry, tables: Sequence[str] = (table(HUFFMAN_LENGTHS),)) -> bytes:
    return build(Parts(list(entries), tables))


def data(entry: Entry, tables: Sequence[str] = (table(HUFFMAN_LENGTHS),)) -> bytes:
    return read(file(entry, tables=tables)).tensors[entry.name].data


def floats(content: bytes) -> list[float]:
    return [value for (value,) in struct.iter_unpack("<f", content)]


def named(content: bytes, names: int) -> File:
    return read(build(Parts([raw() for _ in range(names)], names=plain(content))))


class TestWholeFile:
    def test_empty(self) -> None:
        assert read(build(Parts([]))) == File((1, 0), {}, {}, {})

    def test_raw_tensors(self) -> None:
        entries = [raw("x", bytes(range(16)), I64, (2, 1)), raw("n", b"", F32, (3, 0)), raw("s", b"\1", BOOL, ())]
        tensors = read(file(*entries)).tensors
        assert [(t.name, t.dtype, t.shape, t.data, t.tie) for t in tensors.values()] == [
            ("x", "int64", (2, 1), bytes(range(16)), None),
            ("n", "float32", (3, 0), b"", None),
            ("s", "bool", (), b"\1", None),
        ]

    @pytest.mark.parametrize(
        ("code", "dtype", "size"), [(14, "complex128", 16), (15, "complex32", 4), (21, "float4_e2m1fn_x2", 1)]
    )
    def test_dtypes(self, code: int, dtype: str, size: int) -> None:
        tensor = read(file(raw("x", bytes(size), code))).tensors["x"]
        assert (tensor.dtype, len(tensor.data)) == (dtype, size)

    def test_a_later_minor_version(self) -> None:
        assert read(build(Parts([raw()], head=b"\xdcDCZ\x01\x07\0\0"))).version == (1, 7)

    def test_large_raw_sections_are_aligned(self) -> None:
        content = bytes(i % 251 for i in range(70_000))
        parts = Parts([raw("a", b"\7", U8), raw("b", content, U8, (70_000,)), raw("c", content[:4096], U8, (4096,))])
        whole = build(parts)
        assert whole.index(content) == 64
        assert [t.data for t in read(whole).tensors.values()] == [b"\7", content, content[:4096]]

    def test_limit(self) -> None:
        with pytest.raises(LimitError):
            read(file(raw(data=bytes(8), sides=(2,))), limit=7)
        assert read(file(raw(data=bytes(8), sides=(2,))), limit=8).tensors

    @pytest.mark.parametrize(
        "whole",
        [
            b"",
            b"\xdcDCZ\1\0\0\0",
            build(Parts([raw()], head=b"\x89DCZ\1\0\0\0")),
            build(Parts([raw()], head=b"\xdcDCZ\2\0\0\0")),
            build(Parts([raw()], head=b"\xdcDCZ\1\0\4\0")),
            build(Parts([raw()], wrong_crc=1)),
            build(Parts([raw()], wrong_sum=1)),
            build(Parts([raw()], extra_payload=b"\0")),
            build(Parts([raw()], extra_directory=b"\0")),
            build(Parts([raw(data=b"\0\0\0")])),
            build(Parts([raw(), raw("c", bytes(5000), U8, (5000,))], fill=b"\1")),
            file(raw())[:-1],
            file(raw()) + b"\0",
            b"\xdcDCZ\1\0\0\0" + u32(99, 0),
        ],
    )
    def test_malformed(self, whole: bytes) -> None:
        with pytest.raises(MalformedError):
            read(whole)

    def test_any_changed_byte_is_noticed(self) -> None:
        whole = file(codebook(), raw())
        for i in range(len(whole)):
            with pytest.raises(MalformedError):
                read(whole[:i] + bytes([whole[i] ^ 0x10]) + whole[i + 1 :])


class TestVarints:
    @pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**63 - 1])
    def test_round_trip(self, value: int) -> None:
        assert Bytes(varint(value)).varint() == value

    @pytest.mark.parametrize("content", [b"", b"\x80", b"\x80\0", b"\xff" * 9 + b"\1", b"\x81\x80\0"])
    def test_malformed(self, content: bytes) -> None:
        with pytest.raises(MalformedError):
            Bytes(content).varint()


class TestCodes:
    def test_table(self) -> None:
        # gamma(9), then 5, 6, 6, absent, run of 3 absent, 20: a code that is not complete, but a table that can be read
        bits = Bits(pack("0001001" + "0" + "100" + "0" + "1110" + "1111" + gamma(2) + "110" + low(20, 5)))
        assert code_lengths(bits, 8) == [5, 6, 6, 0, 0, 0, 0, 20]

    @pytest.mark.parametrize(
        "bits",
        [
            gamma(10) + "0" * 9,  # alphabet above the limit of 8
            gamma(3) + "1111" + gamma(2),  # three absent symbols of two
            gamma(2) + "110" + low(0, 5),
            gamma(2) + "110" + low(21, 5),
            gamma(3) + "110" + low(20, 5) + "100",
            gamma(3) + "110" + low(1, 5) + "101",
            gamma(9) + "0",
        ],
    )
    def test_malformed_tables(self, bits: str) -> None:
        with pytest.raises(MalformedError):
            code_lengths(Bits(pack(bits)), 8)

    @pytest.mark.parametrize("lengths", [[1, 2], [2], [1, 1, 1], [0, 20], [1, 2, 3, 3, 3]])
    def test_incomplete(self, lengths: list[int]) -> None:
        with pytest.raises(MalformedError):
            Code(lengths)

    def test_canonical(self) -> None:
        lengths = [3, 3, 3, 3, 3, 2, 4, 4]  # the example of RFC 1951
        expected = ["010", "011", "100", "101", "110", "00", "1110", "1111"]
        assert list(codewords(lengths).values()) == expected
        for symbol, word in enumerate(expected):
            assert Code(lengths).read(Bits(pack(word))) == symbol

    def test_one_symbol(self) -> None:
        code = Code([0, 0, 1])
        assert code.read(Bits(b"\0")) == 2
        with pytest.raises(MalformedError):
            code.read(Bits(b"\1"))

    def test_no_symbol(self) -> None:
        with pytest.raises(MalformedError):
            Code([0, 0]).read(Bits(b"\0"))

    @pytest.mark.parametrize("bits", [b"", b"\x01\0", b"\x09"])
    def test_end(self, bits: bytes) -> None:
        reader = Bits(bits)
        with pytest.raises(MalformedError):  # noqa: PT012
            reader.field(3)
            reader.end()

    @pytest.mark.parametrize("section", [pack(table([1, 1])) + b"\0", pack(table([1, 1]) + "1"), b"", pack(table([1]) * 2)])
    def test_table_section(self, section: bytes) -> None:
        with pytest.raises(MalformedError):
            read(build(Parts([raw()], ["?"], table_section=section)))

    def test_alphabet_of_a_table(self) -> None:
        absent = "1111"
        read(build(Parts([], [gamma(65_538) + absent + gamma(65_536)])))
        with pytest.raises(MalformedError):
            read(build(Parts([], [gamma(65_539) + absent + gamma(65_537)])))


class TestBlocks:
    LENGTHS = tuple(2 if i in b"\0\1bw" else 0 for i in range(120))

    def test_coded_names(self) -> None:
        names = b"\0\0\1b\0\0\1w"
        parts = Parts([raw(), raw()], names=coded(names, self.LENGTHS))
        assert list(read(build(parts)).tensors) == ["b", "w"]

    def test_coded_metadata_and_records(self) -> None:
        parts = Parts([raw()], records=coded(bytes([0, 0, 1, 1, 0]), [1, 1]), metadata=[(98, coded(b"bw\0", self.LENGTHS))])
        whole = read(build(parts))
        assert whole.metadata == {98: b"bw\0"}
        assert whole.tensors["b"].shape == (1,)

    def test_empty_coded(self) -> None:
        assert read(build(Parts([], metadata=[(98, coded(b"", []))]))).metadata == {98: b""}

    @pytest.mark.parametrize(
        "block",
        [
            varint(2 * 9 + 1) + b"\1" + pack(table([1]))[:1],  # nine bytes from one
            coded(b"\0", [1, *range(2, 14), 13]),  # 13 bits
            varint(3) + b"\2" + pack(table([1, 1]) + "0") + b"\0",
            varint(3) + varint(3) + pack(table([1, 1]) + "0" + "1"),
            varint(3) + varint(60) + pack(table([1, 1] + [0] * 255) + "0"),
            varint(3) + b"\0",
            plain(b"abc")[:-1],
            plain(b"abc") + b"d",
        ],
    )
    def test_malformed(self, block: bytes) -> None:
        with pytest.raises(MalformedError):
            read(build(Parts([], metadata=[(98, block)])))


class TestNames:
    def test_keep_and_tail(self) -> None:
        content = b"\0\0\x08l.weight" + b"\2\0\4bias" + b"\0\0\2m." + b"\2\2" + b"\1\1"
        assert list(named(content, 5).tensors) == ["l.weight", "l.bias", "m.", "m.bias", "ml.weight"]

    @pytest.mark.parametrize(
        "content",
        [
            b"\0\0\0",  # empty
            b"\0\0\3a\0b",
            b"\0\0\4a..b",
            b"\0\0\2\xc3\x28",
            b"\1\0\1a",
            b"\0\1",
            b"\0\0\1a!",
            b"\0\0\2a",
            b"\0\0" + varint(65_536) + b"a" * 65_536,
        ],
    )
    def test_malformed(self, content: bytes) -> None:
        with pytest.raises(MalformedError):
            named(content, 1)

    def test_longest(self) -> None:
        assert named(b"\0\0" + varint(65_535) + b"a" * 65_535, 1).tensors

    def test_twice(self) -> None:
        with pytest.raises(MalformedError, match="twice"):
            named(b"\0\0\1a\0\1", 2)


class TestRecords:
    def test_ties(self) -> None:
        tensors = read(file(raw("a"), raw("b", b"\7", U8), tie("c", 2), tie("d", 2))).tensors
        assert (tensors["c"].tie, tensors["c"].data, tensors["c"].dtype) == ("a", b"\0\0\x80?", "float32")
        assert (tensors["d"].tie, tensors["d"].data) == ("b", b"\7")

    @pytest.mark.parametrize("record", [b"\x80\0", b"\x80\2", b"\x81\1", b"\x88\1"])
    def test_malformed_ties(self, record: bytes) -> None:
        with pytest.raises(MalformedError):
            read(file(raw(), Entry("c", record)))

    def test_tie_to_a_tie(self) -> None:
        with pytest.raises(MalformedError, match="tie to a tie"):
            read(file(raw(), tie("c", 1), tie("d", 1)))

    @pytest.mark.parametrize(
        "record",
        [
            b"\x10\0\1\1\0",
            b"\x20\0\1\1\0",
            b"\x40\0\1\1\0",
            b"\x03\0\1\1\0",
            b"\0\x16\1\1\0",  # dtype 22
            b"\x08\0\1\1\0\0",  # float32 stored as float32
            b"\x08\2\1\1\3\0",  # float16 stored as bfloat16
            b"\x08\0\1\1\1\0",  # float32 stored as float64
            b"\x08\0\1\1\x16\0",
            bytes([0, F32, 65]) + b"\1" * 65 + b"\0",
            bytes([0, F32]) + shape(2**61) + b"\0",
            bytes([0, F32]) + shape(0, 2**61) + b"\0",
            bytes([0, BOOL]) + shape(4) + b"\0",  # of which one is 2
            bytes([CODEBOOK, F32]) + shape(0) + varint(0) + stream(1, 0, fixed(18)),
            bytes([CODEBOOK, F32]) + shape(0) + varint(0) + stream(1, 0, fixed(0, 1)),
            bytes([0, F32]) + shape(1) + b"\0\0",
            bytes([0, F32]) + shape(1),
            bytes([CODEBOOK, F32]) + shape(1) + varint(0) + b"\0",  # raw with a codebook
            bytes([AFFINE, F32]) + shape(1) + varint(0) + b"\0",
            bytes([0, F32]) + shape(1) + stream(1, 0, fixed(0)),  # symbols without a map
            bytes([CODEBOOK, I64]) + shape(1) + varint(0) + stream(1, 0, fixed(0)),
            bytes([AFFINE, U8]) + shape(1) + varint(0) + stream(1, 0, fixed(0)),
            bytes([CODEBOOK, F32]) + shape(1) + varint(65_537) + stream(1, 0, fixed(0)),
            bytes([AFFINE, F32]) + shape(1) + varint(2) + stream(1, 0, fixed(0)),
            bytes([CODEBOOK, F32]) + shape(1) + varint(0) + stream(1, 0, fixed(0), lanes_log=6),
            bytes([CODEBOOK, F32]) + shape(1) + varint(0) + stream(1, 0, fixed(0) + b"\0"),
            bytes([CODEBOOK, F32]) + shape(1) + varint(0) + stream(1, 0, b"\0"),
            bytes([CODEBOOK, F32]) + shape(1) + varint(0) + stream(2, 0, varint(1)),  # no such table
        ],
    )
    def test_malformed(self, record: bytes) -> None:
        with pytest.raises(MalformedError):
            read(file(Entry("x", record, [Raw(b"\0\1\2\0")] if record[-1] == 0 else [])))

    def test_the_largest_shape_is_allowed(self) -> None:
        record = bytes([0, F32]) + shape(*[1] * 62, 0, 2**60) + b"\0"
        assert read(file(Entry("x", record))).tensors["x"].data == b""

    def test_unknown_codecs_fail_one_tensor(self) -> None:
        unknown = Entry("u", bytes([0, F32]) + shape(9) + stream(29, 3, b"???", 31, 7), [b"abc"])
        gaps = sparse(b"x", 3, b"", 0, 9, gap_codec=9)
        whole = read(file(raw("a"), unknown, tie("t", 1), gaps, raw("b")))
        assert set(whole.tensors) == {"a", "b"}
        assert whole.failed == {"u": "unknown codec 29", "t": "unknown codec 29", "s": "unknown codec 9"}

    @pytest.mark.parametrize(
        ("code", "stored", "content", "expected"),
        [
            (F32, F16, f16s(1.5, -0.0, 6e-8, math.inf), f32s(1.5, -0.0, 2**-24, math.inf)),
            (F32, BF16, b"\x80\x3f\x01\x00", b"\0\0\x80\x3f\0\0\1\0"),
            (F64, F16, f16s(-2.5, 2**-15), struct.pack("<2d", -2.5, 2**-15)),
            (F64, BF16, b"\x80\x3f\1\0", struct.pack("<2d", 1.0, 2.0**-133)),
            (F64, F32, f32s(0.1, 2**-149), struct.pack("<2d", *floats(f32s(0.1)), 2**-149)),
        ],
    )
    def test_stored(self, code: int, stored: int, content: bytes, expected: bytes) -> None:
        length = len(expected) // (4 if code == F32 else 8)
        assert data(Entry("x", bytes([STORED, code]) + shape(length) + bytes([stored]) + b"\0", [Raw(content)])) == expected


class TestFloats:
    @pytest.mark.parametrize(("source", "form", "step"), [("float16", "<e", 1), ("bfloat16", "", 1), ("float32", "<f", 65_521)])
    @pytest.mark.parametrize("target", ["float32", "float64"])
    def test_widening(self, source: str, form: str, step: int, target: str) -> None:
        if source == target:
            return
        size, out = (4, "<f") if target == "float32" else (8, "<d")
        for bits in range(0, 2**32 if source == "float32" else 2**16, step):
            whole = bits.to_bytes(4 if source == "float32" else 2, "little")
            value = struct.unpack(form or "<f", whole if form else b"\0\0" + whole)[0]
            if not math.isnan(value):
                assert widen(bits, source, target).to_bytes(size, "little") == struct.pack(out, value)

    def test_nan_payloads(self) -> None:
        assert widen(0xFC01, "float16", "float32") == 0xFF802000
        assert widen(0x7E03, "float16", "float64") == 0x7FF80C0000000000
        assert widen(0xFF81, "bfloat16", "float32") == 0xFF810000
        assert widen(0x7F800001, "float32", "float64") == 0x7FF0000020000000

    def test_rounding(self) -> None:
        assert to_float32(1e39) == math.inf
        assert to_float32(-1e39) == -math.inf
        assert to_float32(16_777_217.0) == 16_777_216.0
        assert element(65_520.0, "float16") == f16s(math.inf)
        assert element(1.00390625, "bfloat16") == b"\x80\x3f"  # half way, to even
        assert element(1.01171875, "bfloat16") == b"\x82\x3f"
        assert element(3.4e38, "bfloat16") == b"\x80\x7f"
        assert element(math.nan, "bfloat16") == b"\xc0\x7f"


class TestCodebooks:
    def test_huffman(self) -> None:
        assert floats(data(codebook([0, 3, 1, 2, 0, 1], sides=(2, 3)))) == [0.0, 2.0, -1.5, 0.25, 0.0, -1.5]

    def test_stored_centroids(self) -> None:
        half = codebook(centroids=f16s(-1.5, 0.25, 2.0), flags=STORED, stored=bytes([F16]))
        assert floats(data(half)) == [0.0, -1.5, 0.25, 2.0]

    def test_large_codebook_is_aligned(self) -> None:
        centroids = f32s(*range(1, 1026))
        record = bytes([CODEBOOK, F32]) + shape(2) + varint(1025) + stream(1, 3, fixed(11, 1))
        symbols = packed([0, 1024], 11)
        assert floats(data(Entry("w", record, [Raw(centroids), symbols]))) == [1.0, 1025.0]

    def test_second_table(self) -> None:
        entry = codebook([1, 1, 1], lengths=[0, 1], number=1)
        assert floats(data(entry, [table([1, 1]), table([0, 1])])) == [-1.5] * 3

    @pytest.mark.parametrize(
        "entry",
        [
            codebook(centroids=f32s(-1.5, 0.0, 2.0)),
            codebook(centroids=f32s(-1.5, -0.0, 2.0)),
            codebook(centroids=f32s(-1.5, 0.25, 0.25)),
            codebook(centroids=f32s(-1.5, 2.0, 0.25)),
            codebook(centroids=f32s(-1.5, 0.25, math.inf)),
            codebook(centroids=f32s(-1.5, 0.25, math.nan)),
            codebook(centroids=f32s(-1.5, 2.0), k=2),  # symbol 3
            codebook(section=pack(huffman([0, 1, 2, 3], HUFFMAN_LENGTHS)) + b"\0"),
            codebook(section=pack(huffman([0, 1, 2, 3], HUFFMAN_LENGTHS) + "1")),
            codebook(section=pack(huffman([0, 1], HUFFMAN_LENGTHS)), sides=(9,)),
            codebook([], section=b"\0", sides=(0,)),
        ],
    )
    def test_malformed(self, entry: Entry) -> None:
        with pytest.raises(MalformedError):
            read(file(entry))

    def test_empty(self) -> None:
        assert data(codebook([], sides=(0,), geometry=(0, 5))) == b""

    def test_a_code_with_a_symbol_that_cannot_stand(self) -> None:
        with pytest.raises(MalformedError, match="cannot stand"):
            data(codebook([0, 1], centroids=f32s(-1.5, 0.25), k=2))


class TestAffine:
    def test_one_channel(self) -> None:
        assert floats(data(affine([0, 5, 9], f32s(0.1), [5], (3,), 0))) == floats(
            f32s(*[to_float32(0.1) * i for i in (-5, 0, 4)])
        )

    def test_channels_of_a_middle_dimension(self) -> None:
        entry = affine(range(12), f32s(1.0, 10.0, 100.0), [0, 1, -2], (2, 3, 2), 2)
        assert floats(data(entry)) == [0, 1, 10, 20, 600, 700, 6, 7, 70, 80, 1200, 1300]

    def test_half(self) -> None:
        assert data(affine([3], f16s(0.1), [0], (1,), 0, F16)) == f16s(3 * struct.unpack("<e", f16s(0.1))[0])

    def test_bfloat16(self) -> None:
        assert data(affine([3], b"\xcd\x3d", [0], (), 0, BF16)) == b"\x9a\x3e"

    def test_double_with_stored_scales(self) -> None:
        assert data(affine([3], f32s(0.1), [1], (1,), 0, F64, stored=F32)) == struct.pack("<d", floats(f32s(0.1))[0] * 2)

    @pytest.mark.parametrize("scale", [math.inf, -math.inf, math.nan])
    def test_scales_are_finite(self, scale: float) -> None:
        with pytest.raises(MalformedError, match="not finite"):
            data(affine([0], f32s(scale), [0], (1,), 0))

    def test_overflow(self) -> None:
        assert floats(data(affine([9], f32s(3e38), [0], (1,), 0))) == [math.inf]

    def test_sparse_channels(self) -> None:
        record = bytes([AFFINE | SPARSE, F32]) + shape(2, 3) + varint(1) + varint(2) + b"\2" + varint(0)
        record += stream(1, 1, fixed(2)) + stream(1, 1, fixed(2))
        entry = Entry("a", record, [Raw(f32s(1.0, 10.0) + u32(0, 0)), packed([1, 2]), packed([2, 3])])
        assert floats(data(entry)) == [0, 2, 0, 0, 30, 0]

    @pytest.mark.parametrize("axis", [1, 2])
    def test_one_offset_of_all_channels(self, axis: int) -> None:
        record = bytes([AFFINE | 0x20, F32]) + shape(2, 2) + varint(axis) + stream(1, 2, fixed(4))
        entry = Entry("a", record, [Raw(f32s(1.0, 10.0) + u32(3)), packed([1, 3, 4, 9], 4)])
        found = read(build(Parts([entry], head=b"\xdcDCZ\1\2\1\0"))).tensors["a"].data
        assert floats(found) == ([-2, 0, 10, 60] if axis == 1 else [-2, 0, 1, 60])

    def test_one_offset_is_announced_and_has_channels(self) -> None:
        record = bytes([AFFINE | 0x20, F32]) + shape(2) + varint(1) + stream(1, 0, fixed(0))
        with pytest.raises(MalformedError, match="does not announce"):
            read(build(Parts([Entry("a", record, [Raw(f32s(1.0, 10.0) + u32(3)), b""])])))
        record = bytes([AFFINE | 0x20, F32]) + shape(2) + varint(0) + stream(1, 0, fixed(0))
        with pytest.raises(MalformedError, match="one offset without channels"):
            read(build(Parts([Entry("a", record, [Raw(f32s(1.0) + u32(3)), b""])], head=b"\xdcDCZ\1\2\1\0")))

    def test_largest_symbol(self) -> None:
        assert floats(data(affine([65_535], f32s(1.0), [0], (1,), 0, width=17))) == [65_535.0]
        with pytest.raises(MalformedError):
            data(affine([65_536], f32s(1.0), [0], (1,), 0, width=17))


class TestStreams:
    def test_chunks(self) -> None:
        symbols = [0, 3, 1, 2, 0, 1, 1, 2, 3, 0]
        chunks = [pack(huffman(symbols[i : i + 4], HUFFMAN_LENGTHS)) for i in (0, 4, 8)]
        section = u32(*map(len, chunks)) + b"".join(chunks)
        assert floats(data(codebook(symbols, section=section, geometry=(2, 0)))) == [[0, -1.5, 0.25, 2][s] for s in symbols]

    def test_lanes(self) -> None:
        symbols = [0, 3, 1, 2, 0]  # four lanes of two: the third has one symbol, the last none
        lanes = [pack(huffman(symbols[i : i + 2], HUFFMAN_LENGTHS)) for i in (0, 2, 4)]
        section = u32(*map(len, lanes)) + b"".join(lanes)
        assert floats(data(codebook(symbols, section=section, geometry=(31, 2)))) == [0, 2, -1.5, 0.25, 0]

    def test_width_zero(self) -> None:
        record = bytes([CODEBOOK, F32]) + shape(5) + varint(1) + stream(1, 0, fixed(0, 1))
        assert floats(data(Entry("w", record, [Raw(f32s(7.0))]))) == [7.0] * 5

    @pytest.mark.parametrize(
        ("section", "geometry"),
        [
            (u32(1, 1) + b"\0\0\0", (1, 0)),  # one byte more than the table says
            (u32(1, 2) + b"\0\0", (1, 0)),
            (u32(1, 1), (1, 0)),
            (u32(1), (1, 0)),
            (u32(9) + b"\0\0", (31, 1)),  # a lane longer than the chunk
            (u32(1) + b"\0\0\0", (31, 1)),  # the last lane too long
            (u32(2) + b"\0\0\0", (31, 1)),
            (u32(1) + b"\x80\0", (31, 1)),  # filled with a one
            (u32(1, 1, 1) + b"\0\0\0", (31, 2)),  # the last lane lacks its symbol
        ],
    )
    def test_malformed(self, section: bytes, geometry: tuple[int, int]) -> None:
        with pytest.raises(MalformedError):
            read(file(codebook([0] * 4, section=section, geometry=geometry)))


class TestSparse:
    def test_float32_by_flag(self) -> None:
        record = bytes([0x10]) + shape(2) + raw_stream()
        assert floats(data(Entry("f", record, [Raw(f32s(1.0, -2.0))]))) == [1.0, -2.0]

    def test_gaps_and_escapes(self) -> None:
        # numel 12: nonzeros at 1, 2, 7 (an escape over 3, then 1), 10
        entry = sparse(packed([1, 0, 3, 1, 2]), 5, packed([1, 2, 3, 1]), 4, 12)
        assert floats(data(entry)) == [0, -1.5, 0.25, 0, 0, 0, 0, 2, 0, 0, -1.5, 0]

    def test_chunks_and_lanes(self) -> None:
        # chunks of 8, 8 and 2 elements: nonzeros 0, 7 | none | 17; two lanes each
        gaps = [u32(1) + packed([0, 3]) + packed([3, 0]), b"", u32(1) + packed([1])]
        values = [u32(1) + packed([1]) + packed([2]), b"", u32(1) + packed([3])]
        entry = sparse(
            u32(*map(len, gaps), 4, 0, 1) + b"".join(gaps),
            5,
            u32(*map(len, values), 2, 0, 1) + b"".join(values),
            3,
            18,
            g=3,
            lanes_log=1,
        )
        assert floats(data(entry)) == [-1.5, *[0] * 6, 0.25, *[0] * 9, 2.0]

    def test_raw_values(self) -> None:
        record = bytes([SPARSE | STORED, F32]) + shape(2, 2) + bytes([F16]) + varint(2) + b"\1" + varint(1)
        entry = Entry("s", record + stream(1, 1, fixed(1)) + raw_stream(), [packed([1, 0, 0], 1), Raw(f16s(1.5, 2.5))])
        assert floats(data(entry)) == [0, 1.5, 2.5, 0]

    def test_nothing(self) -> None:
        assert floats(data(sparse(b"", 0, b"", 0, 3))) == [0, 0, 0]
        assert data(sparse(b"", 0, b"", 0, 0)) == b""

    @pytest.mark.parametrize(
        "entry",
        [
            sparse(packed([1, 2]), 2, packed([1, 0]), 2, 9),  # symbol 0
            sparse(packed([1, 2]), 2, packed([1, 1]), 2, 4),  # past the end
            sparse(packed([1, 3]), 2, packed([1]), 1, 9),  # ends with an escape
            sparse(packed([1, 2]), 2, packed([1]), 1, 9),  # two nonzeros, not one
            sparse(packed([1, 3]), 2, packed([1, 1]), 2, 9, gap_bits=1),  # a gap above the escape
            sparse(packed([1, 3, 1]), 3, packed([1, 1]), 2, 2),  # gap count > numel
            sparse(packed([1]), 1, packed([1]), 1, 9, gap_bits=0),
            sparse(packed([1]), 1, packed([1]), 1, 9, gap_bits=17),
            sparse(packed([1]), 1, packed([1]), 1, 9, value_g=30),
            sparse(b"", 1, packed([1]), 1, 9, gap_codec=0),
            sparse(u32(1, 1, 1, 1) + packed([3]) + packed([0]), 2, u32(0, 1, 0, 1) + packed([1]), 1, 8, g=2),  # escape in a chunk
            sparse(u32(1, 0, 2, 0) + packed([0, 0]), 2, u32(1, 1, 1, 1) + packed([1]) * 2, 2, 8, g=2),  # differ in a chunk
            sparse(u32(1, 0, 2, 0) + packed([0, 0]), 2, u32(1, 0, 1, 0) + packed([1]), 2, 8, g=2),  # sums
            sparse(u32(1, 0, 3, 0) + packed([0, 0, 0]), 2, u32(1, 0, 2, 0) + packed([1, 1]), 2, 8, g=2),
            sparse(
                u32(1, 1, 2, 0) + packed([0, 0]) + b"\0", 2, u32(1, 0, 2, 0) + packed([1, 1]), 2, 8, g=2
            ),  # bytes of no symbols
        ],
    )
    def test_malformed(self, entry: Entry) -> None:
        with pytest.raises(MalformedError):
            read(file(entry))


class TestPlanes:
    HALVES = planes(plain_plane(4), plain_plane(4))

    def test_the_top_comes_first(self) -> None:
        entry = cut(planes(plain_plane(3), plain_plane(5)), pack("110000010111") + pack("10000010000000011111"))
        assert data(entry) == bytes([0b011_00001, 0b000_00010, 0b010_00000, 0b111_11111])

    def test_a_float_has_its_exponent_first_and_its_sign_last(self) -> None:
        section = pack(low(0x7F, 8) + low(0x80, 8) + low(0, 23) + low(0, 23) + "0" + "1")
        parameters = planes(plain_plane(8), plain_plane(23), plain_plane(1))
        with pytest.raises(MalformedError):  # planes begin with whole bytes
            data(cut(parameters, section, (2,), F32))
        section = b"\x7f\x80" + bytes(6) + b"\2"
        assert floats(data(cut(parameters, section, (2,), F32))) == [1.0, -2.0]

    @pytest.mark.parametrize(("code", "size"), [(F16, 2), (BF16, 2), (F32, 4), (F64, 8), (C64, 4), (14, 8), (C32, 2)])
    def test_words_of_floats_and_complex_numbers_are_rotated(self, code: int, size: int) -> None:
        parts = 2 if code in (C64, 14, C32) else 1
        parameters = planes(*[plain_plane(8)] * size)  # a plane for each byte of the rotated words 1, 2 ...
        lowest = bytes(range(1, parts + 1))
        section = bytes(parts * (size - 1)) + lowest
        half = [(w >> 1 | (w & 1) << (8 * size - 1)).to_bytes(size, "little") for w in lowest]
        assert data(cut(parameters, section, (), code)) == b"".join(half)

    @pytest.mark.parametrize(("code", "size"), [(I64, 8), (I16, 2), (9, 2), (U8, 1), (F8, 1), (17, 1), (20, 1), (F4, 1)])
    def test_other_words_are_not(self, code: int, size: int) -> None:
        content = bytes(range(0x81, 0x81 + 3 * size))
        section = b"".join(content[byte::size] for byte in reversed(range(size)))
        assert data(cut(planes(*[plain_plane(8)] * size), section, (3,), code)) == content

    def test_constants_take_no_bytes(self) -> None:
        assert data(cut(planes(constant_plane(1, 1), constant_plane(7, 3)), b"", (2, 2))) == b"\x83" * 4
        wide = planes(constant_plane(63, 2**63 - 1), constant_plane(1, 0))
        assert data(cut(wide, b"", (1,), I64)) == b"\xfe" + b"\xff" * 7
        assert data(cut(planes(constant_plane(64, 2**62)), b"", (1,), 11)) == (2**62).to_bytes(8, "little")

    def test_no_words(self) -> None:
        assert data(cut(self.HALVES, b"", (0,))) == data(cut(planes(coded_plane(8, 0)), b"", (0, 3), g=2, lanes_log=5)) == b""

    def test_widest(self) -> None:
        entry = cut(planes(plain_plane(8), plain_plane(56)), b"\x08" + bytes(range(1, 8)), (), I64)
        assert data(entry) == bytes(range(1, 9))
        words = packed([9, 2**15], 16)
        assert data(cut(planes(coded_plane(16, 1)), b"\2", (2,), I16), [table([0] * 9 + [1] + [0] * 32758 + [1])]) == words

    def test_a_coded_plane(self) -> None:
        section = pack(huffman([0, 3, 1, 2], HUFFMAN_LENGTHS))
        entry = cut(planes(constant_plane(4, 5), coded_plane(2, len(section)), plain_plane(2)), section + packed([3, 2, 1, 0]))
        assert data(entry) == bytes([0x53, 0x5E, 0x55, 0x58])

    @pytest.mark.parametrize("lanes_log", [0, 1])
    def test_chunks_are_counted_in_words(self, lanes_log: int) -> None:
        """Of complex numbers there are two words in each: 3 elements are 6 words, and 3 chunks of 2."""
        pairs = ((0, 1), (2, 3), (1, 0))
        chunks = [pack(huffman(pair, HUFFMAN_LENGTHS)) for pair in pairs]
        if lanes_log:
            chunks = [u32(1) + pack(huffman([a], HUFFMAN_LENGTHS)) + pack(huffman([b], HUFFMAN_LENGTHS)) for a, b in pairs]
        section = u32(*map(len, chunks)) + b"".join(chunks)
        parameters = planes(coded_plane(2, len(section)), constant_plane(14, 0))
        entry = cut(parameters, section, (3,), C32, g=1, lanes_log=lanes_log)
        words = [symbol << 13 & 0x7FFF for symbol in (0, 1, 2, 3, 1, 0)]  # rotated right: the first bit is the exponent's
        assert data(entry) == packed(words, 16)

    def test_sparse(self) -> None:
        """The gaps are in chunks of 4 elements, one of them without a nonzero; the words, one for each nonzero, are not."""
        gaps = u32(1, 1, 0, 1, 1, 0) + packed([1]) + packed([3])
        record = bytes([SPARSE, U8]) + shape(9) + varint(2) + b"\3" + varint(0)
        record += stream(1, len(gaps), fixed(2), 2) + stream(3, 2, self.HALVES, 31)
        assert data(Entry("p", record, [gaps, b"\x21\x43"])) == bytes([0, 0x13, 0, 0, 0, 0, 0, 0x24, 0])

    def test_stored_in_another_type(self) -> None:
        """Words are those of the type in the file, here rotated halves; then they become singles."""
        assert floats(data(cut(planes(plain_plane(16)), packed([0x7800, 0x8001], 16), (2,), F32, stored=F16))) == [1.0, -2.0]
        assert data(cut(planes(constant_plane(8, 0xFE)), b"", (1,), I64, stored=7)) == b"\xfe" + b"\xff" * 7

    def test_bool(self) -> None:
        parameters = planes(constant_plane(7, 0), plain_plane(1))
        assert data(cut(parameters, b"\5", (4,), BOOL)) == b"\1\0\1\0"
        with pytest.raises(MalformedError, match="a bool"):
            data(cut(planes(constant_plane(7, 1), plain_plane(1)), b"\5", (4,), BOOL))

    @pytest.mark.parametrize(
        ("entry", "text"),
        [
            (cut(planes(), b""), "8 bits are in no plane"),
            (cut(b"", b""), "1 bytes wanted"),
            (cut(planes(plain_plane(4)), b"\0\0"), "4 bits are in no plane"),
            (cut(planes(plain_plane(4), plain_plane(5)), bytes(5)), "a plane of 5 of 4 bits"),
            (cut(planes(plain_plane(9)), bytes(5)), "a plane of 9 of 8 bits"),
            (cut(planes(plain_plane(8), constant_plane(0, 0)), bytes(4)), "a plane of 0 of 0 bits"),
            (cut(planes(constant_plane(0, 0), plain_plane(8)), bytes(4)), "a plane of 0 of 8 bits"),
            (cut(planes(plain_plane(57), plain_plane(7)), bytes(64), (8,), I64), "a plain plane of 57 bits"),
            (cut(planes(coded_plane(17, 1), plain_plane(15)), bytes(16), (8,), F32), "a coded plane of 17 bits"),
            (cut(planes(b"\x08\3"), bytes(4)), "a plane of kind 3"),
            (cut(planes(constant_plane(8, 256)), b""), "a constant wider than its plane"),
            (cut(planes(plain_plane(8)) + b"\0", bytes(4)), "codec parameters: 1 bytes too many"),
            (cut(varint(2) + plain_plane(8), bytes(4)), "1 bytes wanted, 0 left"),
            (cut(varint(2**62) + plain_plane(8), bytes(4)), "1 bytes wanted, 0 left"),
            (cut(planes(plain_plane(8)), bytes(3)), "4 bytes wanted, 3 left"),
            (cut(planes(plain_plane(8)), bytes(5)), "planes: 1 bytes too many"),
            (cut(planes(constant_plane(8, 0)), bytes(1)), "planes: 1 bytes too many"),
            (cut(planes(plain_plane(3), plain_plane(5)), b"\0\x10" + bytes(3)), "filled up with other bits"),
            (cut(planes(coded_plane(8, 2)), bytes(1)), "2 bytes wanted, 1 left"),
            (cut(planes(coded_plane(8, 2)), bytes(2)), "bit string too long"),
            (cut(planes(coded_plane(8, 1)), b"\x10"), "filled up with other bits"),
            (cut(planes(coded_plane(8, 1, 1)), bytes(1)), "a code-length table that does not exist"),
            (cut(planes(coded_plane(1, 1), plain_plane(7)), bytes(5)), "a codeword for a symbol that cannot stand here"),
            (cut(planes(coded_plane(8, 8)), u32(1, 1), g=0), "wanted"),
            (cut(planes(coded_plane(8, 11)), u32(1, 1) + bytes(3), g=1), "stream section: 1 bytes too many"),
            (cut(planes(plain_plane(8)), bytes(4), lanes_log=6), "more than 32 lanes"),
        ],
    )
    def test_malformed(self, entry: Entry, text: str) -> None:
        with pytest.raises(MalformedError, match=text):
            read(file(entry))

    @pytest.mark.parametrize("flags", [CODEBOOK, AFFINE])
    def test_no_value_map(self, flags: int) -> None:
        record = bytes([flags, F32]) + shape(1) + b"\0" + stream(3, 0, planes(constant_plane(32, 0)))
        with pytest.raises(MalformedError, match="elements with a value map"):
            read_leniently(file(Entry("p", record, [bytes(8 * (flags == AFFINE))])))

    def test_no_gaps(self) -> None:
        with pytest.raises(MalformedError, match="gaps that are not symbols"):
            read_leniently(file(sparse(b"\0", 1, b"\1", 1, 9, gap_codec=3)))

    def test_no_record_like_it(self) -> None:
        with pytest.raises(MalformedError, match="values are not raw"):
            read_leniently(file(cut(planes(constant_plane(8, 0)), b""), Entry("q", b"\x40")))


class TestScope:
    def test_a_broken_section_fails_its_tensor_and_ties(self) -> None:
        whole = read_leniently(file(raw("a"), codebook(centroids=f32s(3, 2, 1)), tie("t", 1), raw("b")))
        assert set(whole.tensors) == {"a", "b"}
        assert whole.malformed == {"w": "centroids do not ascend", "t": "centroids do not ascend"}

    def test_broken_parameters_fail_their_tensor(self) -> None:
        whole = read_leniently(file(codebook(number=7), raw("b")))
        assert (set(whole.tensors), set(whole.malformed)) == ({"b"}, {"w"})

    def test_an_altered_group_fails_what_lies_in_it(self) -> None:
        whole = bytearray(file(raw("a", bytes(65_536), U8, (65_536,)), raw("b", bytes(65_536), U8, (65_536,)), raw("c")))
        whole[64] ^= 1
        assert set(read_leniently(bytes(whole)).malformed) == {"a"}
        whole[64] ^= 1
        whole[65_596] ^= 1  # the padding before "a" moves its end to group 1
        assert set(read_leniently(bytes(whole)).malformed) == {"a", "b"}

    def test_broken_metadata_are_left_out(self) -> None:
        whole = read_leniently(build(Parts([raw()], metadata=[(2, plain(b"{")), (4, plain(b"{}"))])))
        assert (set(whole.tensors), whole.metadata, set(whole.malformed)) == ({"b"}, {4: b"{}"}, {2})


class TestMetadata:
    def test_known_kinds(self) -> None:
        strings, recipe = json.dumps({"ä": "1"}, ensure_ascii=False).encode(), b'{"a": [1]}'
        entries = [raw("l.w"), raw("l.b"), raw("b"), raw("m.n.w")]  # the modules l, the empty path, m.n; m around it
        metadata = [(2, plain(strings)), (4, plain(recipe)), (6, plain(b"\1\0\2")), (8, plain(b"\3")), (100, plain(b"?"))]
        assert read(build(Parts(entries, metadata=metadata))).metadata == {
            2: strings,
            4: recipe,
            6: b"\1\0\2",
            8: b"\3",
            100: b"?",
        }

    @pytest.mark.parametrize(
        "metadata",
        [
            [(8, plain(b"")), (8, plain(b""))],
            [(7, plain(b""))],
            [(2, plain(b"{"))],
            [(2, plain(b"[]"))],
            [(2, plain(b'{"a": 1}'))],
            [(2, plain(b'{"a": "\xff"}'))],
            [(4, plain(b'"a"'))],
            [(4, plain(b'{"a": NaN}'))],
            [(6, plain(b""))],
            [(6, plain(b"\1\1"))],
            [(8, plain(b"\1"))],
        ],
    )
    def test_malformed(self, metadata: list[tuple[int, bytes]]) -> None:
        with pytest.raises(MalformedError):
            read(build(Parts([raw()], metadata=metadata)))


@pytest.mark.parametrize("make", [codebook, raw, lambda: sparse(packed([1, 0, 3, 1, 2]), 5, packed([1, 2, 3, 1]), 4, 12)])
def test_a_broken_record_never_breaks_the_reader(make: Callable[[], Entry]) -> None:
    entry = make()
    for i in range(len(entry.record)):
        for byte in range(256):
            broken = Entry(entry.name, entry.record[:i] + bytes([byte]) + entry.record[i + 1 :], entry.sections)
            try:
                read(file(broken), limit=10_000)
            except (MalformedError, LimitError):
                continue
