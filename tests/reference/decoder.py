"""A reader of .dcz files written from FORMAT.md alone: simple and slow. Standard library only."""

import json
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from tests.reference import compact, context
from tests.reference.coding import (
    FLOATS,
    Bits,
    Bytes,
    Code,
    MalformedError,
    block,
    code_lengths,
    element,
    numbers,
    refuse,
    to_float32,
    widen_all,
)

__all__ = ["File", "LimitError", "MalformedError", "Tensor", "read", "read_whole"]

MAGIC = b"\xdcDCZ"
HEAD, TRAILER = 8, 8
GROUP = 65_536
LARGE_RAW, ALIGNMENT = 4_096, 64
MAX_ALPHABET = 65_537
MAX_CENTROIDS = 65_536
MAX_NAME = 65_535
MAX_ALL_NAMES = MAX_ALL_ALPHABETS = 2**26
MAX_DIMENSIONS = 64
MAX_WIDTH = 17
MAX_SYMBOL = 65_535
MAX_CHUNK = 2**32 - 1
TIE, MAP, SPARSE, STORED, SINGLE, ONE_OFFSET, SAME = 0x80, 0x03, 0x04, 0x08, 0x10, 0x20, 0x40
BACK = 0x3F
ONE_OFFSET_USED, COMPACT = 0x0001, 0x0002
CODEBOOK, AFFINE, EQUAL = 1, 2, 3
CONTEXT_GEOMETRY = 20
RAW, FIXED, HUFFMAN, PLANES, CONTEXT = 0, 1, 2, 3, 4
PLAIN, CONSTANT, CODED = 0, 1, 2
MAX_PLAIN, MAX_CODED = 56, 16
STRINGS, RECIPE, MODULES, AROUND, INFERENCE = 2, 4, 6, 8, 10
WORDS = {0xF8: b"weight", 0xF9: b"bias", 0xFA: b"running_mean", 0xFB: b"running_var", 0xFC: b"num_batches_tracked"}

SIZES = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "bool": 1,
    "complex64": 8,
    "complex128": 16,
    "complex32": 4,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,
}
DTYPES = tuple(SIZES)
NARROWER = {
    "float32": ("float16", "bfloat16"),
    "float64": ("float16", "bfloat16", "float32"),
    "int64": ("int8", "int16", "int32"),
    "int32": ("int8", "int16"),
    "int16": ("int8",),
}


COMPLEX = ("complex64", "complex128", "complex32")
ROTATED = (*FLOATS, *COMPLEX)


class LimitError(ValueError):
    """The tensors are larger than the caller allows."""


@dataclass(frozen=True)
class Tensor:
    """One tensor: its elements' bits, little-endian, dense, row-major; `tie` names the tensor that it shares memory with."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes
    tie: str | None = None


@dataclass(frozen=True)
class File:
    """A file's content; `failed` gives a reason for each tensor that needs a codec unknown to this reader, `malformed` for
    each tensor (by name) or metadata section (by kind) that breaks a rule."""

    version: tuple[int, int]
    tensors: dict[str, Tensor]
    metadata: dict[int, bytes]
    failed: dict[str, str]
    malformed: dict[str | int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stream:
    """A stream record; `length` is None for codec 0, whose length follows from the tensor."""

    codec: int
    length: int | None = None
    geometry: int = 0
    parameters: bytes = b""

    @property
    def g(self) -> int:
        return self.geometry & 31

    @property
    def lanes(self) -> int:
        return 1 << (self.geometry >> 5)


@dataclass(frozen=True)
class Coder:
    """What turns a stream's bits into symbols, none above `largest`."""

    stream: Stream
    read: Callable[[Bits], int]
    largest: int

    def symbol(self, bits: Bits) -> int:
        symbol = self.read(bits)
        refuse(symbol > self.largest, f"symbol {symbol} above {self.largest}")
        return symbol


@dataclass(frozen=True)
class Record:
    """A tensor's record."""

    dtype: str
    shape: tuple[int, ...]
    stored: str
    value_map: int
    k: int
    axis: int
    nonzeros: int
    gap_bits: int
    gap_count: int
    gaps: Stream | None
    values: Stream
    one_offset: bool = False
    offset: int | None = None
    equal: bytes | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def channels(self) -> int:
        return self.shape[self.axis - 1] if self.axis else 1

    @property
    def offsets(self) -> int:
        return 0 if self.offset is not None else 1 if self.one_offset else self.channels


Span = tuple[int, int]


@dataclass(frozen=True)
class Sections:
    """Where a tensor's sections are."""

    parameters: Span
    gaps: Span
    values: Span


def read(data: bytes, limit: int | None = None) -> File:
    """Decode a file; raise MalformedError if as a whole it breaks a rule, LimitError if it has more than `limit` bytes."""
    version, flags, end, directory = _frame(data)
    is_compact = bool(flags & COMPACT)
    names = _names(directory.varint(), _block(directory, is_compact, compact.USUAL_NAMES))
    codes = _codes(directory)
    records = _records(len(names), RecordReader(_block(directory, is_compact), flags))
    kinds = [(directory.varint(), directory.varint()) for _ in range(directory.varint())]
    payload = Payload(data[HEAD:end], directory)
    refuse(len(dict(kinds)) != len(kinds), "a metadata kind stands twice")
    refuse(any(kind % 2 for kind, _ in kinds), "unknown critical metadata")
    walker = Walker(data, end)
    sections = [walker.tensor(record) if isinstance(record, Record) else None for record in records]
    spans = {kind: walker.section(length) for kind, length in kinds}
    walker.finish()
    _check_limit(records, limit)
    file = File(version, {}, {}, {})
    for kind, span in spans.items():
        _load_metadata(file, kind, span, payload, names, is_compact)
    for name, record, own in zip(names, records, sections, strict=True):
        _load(file, name, names[record] if isinstance(record, int) else TensorReader(record, own, codes, payload))
    return file


def read_whole(data: bytes, limit: int | None = None) -> File:
    """Like `read`, but raise MalformedError if anything in the file breaks a rule."""
    file = read(data, limit)
    refuse(file.malformed, f"{file.malformed}")
    return file


def _frame(data: bytes) -> tuple[tuple[int, int], int, int, Bytes]:
    """The version, the flags, where the sections end, and the directory."""
    refuse(data[:4] != MAGIC, "not a .dcz file")
    refuse(len(data) < HEAD + TRAILER, "file too short")
    major, minor, flags = struct.unpack_from("<BBH", data, 4)
    refuse(major != 1, f"major version {major}")
    refuse(flags & ~(ONE_OFFSET_USED | COMPACT), f"unknown flags {flags:#06x}")
    size, crc = struct.unpack("<II", data[-TRAILER:])
    end = len(data) - TRAILER - size
    refuse(end < HEAD, "directory longer than the file")
    refuse(zlib.crc32(data[:HEAD] + data[end:-4]) != crc, "the directory's checksum is wrong")
    return (major, minor), flags, end, Bytes(data[end:-TRAILER])


class Payload:
    """The sections' bytes; a group's checksum is checked when it is read."""

    def __init__(self, payload: bytes, directory: Bytes) -> None:
        self.payload = payload
        self.sums = directory.u32s(-(-len(payload) // GROUP))
        directory.end("directory")

    def take(self, span: Span) -> bytes:
        start, stop = span[0] - HEAD, span[1] - HEAD
        for i in range(start // GROUP, -(-stop // GROUP) if stop > start else 0):
            refuse(self.sums[i] != zlib.crc32(self.payload[i * GROUP : (i + 1) * GROUP]), f"checksum {i} is wrong")
        return self.payload[start:stop]


def _names(count: int, content: bytes) -> list[str]:
    source, names, tails = Bytes(content), dict[str, None](), list[bytes]()
    name, total = b"", 0
    for _ in range(count):
        keep, number = source.varint(), source.varint()
        refuse(keep > len(name), "a name keeps more than there is")
        refuse(number > len(tails), "a name's tail does not exist")
        if number == 0:
            tails.append(_spelled_out(source.take(source.varint())))
        name = name[:keep] + tails[number - 1]
        total += len(name)
        refuse(total > MAX_ALL_NAMES, "names longer than 2^26 bytes together")
        text = _checked_name(name)
        refuse(text in names, f"name {text!r} stands twice")
        names[text] = None
    source.end("names")
    return list(names)


def _spelled_out(tail: bytes) -> bytes:
    return b"".join(WORDS.get(byte, bytes([byte])) for byte in tail)


def _checked_name(name: bytes) -> str:
    refuse(not 1 <= len(name) <= MAX_NAME, "a name's length")
    refuse(b"\0" in name or b".." in name, "NUL or .. in a name")
    return _utf8(name)


def _utf8(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError("not UTF-8") from error


def _codes(directory: Bytes) -> list[Code]:
    count = directory.varint()
    bits = Bits(directory.take(directory.varint()))
    codes, total = [], 0
    for _ in range(count):
        lengths = code_lengths(bits, MAX_ALPHABET)
        total += len(lengths)
        refuse(total > MAX_ALL_ALPHABETS, "alphabets of more than 2^26 symbols together")
        codes.append(Code(lengths))
    bits.end()
    return codes


def _records(count: int, reader: "RecordReader") -> list[Record | int]:
    """Per tensor its record, or for a tie the number of the tensor that it is."""
    records: list[Record | int] = []
    for position in range(count):
        record = reader.record(records)
        if isinstance(record, int):
            refuse(not 1 <= record <= position, "a tie leads out of the records")
            record = position - record
            refuse(isinstance(records[record], int), "a tie to a tie")
        records.append(record)
    reader.source.end("records")
    return records


class RecordReader:
    """Reads the records' block; `announced` are the flags of the head."""

    def __init__(self, content: bytes, announced: int) -> None:
        self.source, self.announced = Bytes(content), announced
        self.compact = bool(announced & COMPACT)

    def record(self, earlier: Sequence[Record | int]) -> Record | int:
        """A record, or a tie's `back`."""
        flags = self.source.u8()
        if flags == SAME or (self.compact and flags & ~BACK == SAME):
            back = flags & BACK
            before = earlier[-1 - back] if back < len(earlier) else None
            plain = isinstance(before, Record) and not before.gaps and before.values.codec == RAW
            refuse(not plain, "the same as a tensor whose values are not raw")
            return before
        if flags & TIE:
            refuse(flags != TIE, "a tie with other flags")
            return self.source.varint()
        refuse(flags & ~(MAP | SPARSE | STORED | SINGLE | ONE_OFFSET), f"unknown flags {flags:#04x} in a record")
        value_map = flags & MAP
        refuse(value_map == MAP and not self.compact, "value map 3")
        dtype = "float32" if flags & SINGLE else self.dtype()
        shape = self.shape()
        stored = self.dtype() if flags & STORED else dtype
        refuse(flags & STORED and stored not in NARROWER.get(dtype, ()), f"{dtype} stored as {stored}")
        refuse(value_map in (CODEBOOK, AFFINE) and dtype not in FLOATS, f"a value map for {dtype}")
        refuse(math.prod(side or 1 for side in shape) * SIZES[dtype] >= 2**63, "a tensor of 2^63 bytes or more")
        if value_map == EQUAL:
            return self.equal(flags, dtype, shape, stored)
        k = self.source.varint() if value_map == CODEBOOK else 0
        axis = self.source.varint() if value_map == AFFINE else 0
        refuse(k > MAX_CENTROIDS, f"{k} centroids")
        refuse(axis > len(shape), f"axis {axis} of {len(shape)} dimensions")
        record = Record(dtype, shape, stored, value_map, k, axis, math.prod(shape), 0, 0, None, Stream(RAW))
        if flags & ONE_OFFSET:
            record = self.one_offset(record)
        if flags & SPARSE:
            record = self.sparse(record)
        return self.values(record)

    def one_offset(self, record: Record) -> Record:
        if self.compact and record.value_map == AFFINE:
            offset = self.source.varint()
            refuse(offset > MAX_SYMBOL, f"an offset of {offset}")
            return replace(record, offset=offset)
        refuse(not record.axis, "one offset without channels")
        refuse(not self.announced & ONE_OFFSET_USED, "one offset, which the head does not announce")
        return replace(record, one_offset=True)

    def equal(self, flags: int, dtype: str, shape: tuple[int, ...], stored: str) -> Record:
        """A tensor of equal elements."""
        refuse(flags & ONE_OFFSET, "one offset without channels")
        refuse(flags & SPARSE and flags & STORED, "a type for zeros")
        element = bytes(SIZES[dtype]) if flags & SPARSE else self.source.take(SIZES[stored])
        refuse(not flags & SPARSE and not any(element), "zeros that are spelled out")
        refuse(dtype == "bool" and element[0] > 1, "a bool other than 0 and 1")
        return Record(dtype, shape, stored, EQUAL, 0, 0, 0, 0, 0, None, Stream(RAW, 0), equal=element)

    def dtype(self) -> str:
        code = self.source.u8()
        refuse(code >= len(DTYPES), f"unknown dtype {code}")
        return DTYPES[code]

    def shape(self) -> tuple[int, ...]:
        dimensions = self.source.u8()
        refuse(dimensions > MAX_DIMENSIONS, f"{dimensions} dimensions")
        return tuple(self.source.varint() for _ in range(dimensions))

    def sparse(self, record: Record) -> Record:
        nonzeros, gap_bits, escapes = self.source.varint(), self.source.u8(), self.source.varint()
        gap_count = nonzeros + escapes
        refuse(not 1 <= gap_bits <= 16, f"gap_bits {gap_bits}")
        refuse(gap_count > record.numel, "a gap count above numel")
        gaps = self.stream()
        refuse(gaps.codec in (RAW, PLANES), "gaps that are not symbols")
        refuse(gaps.codec == CONTEXT, "gaps by context")
        return replace(record, nonzeros=nonzeros, gap_bits=gap_bits, gap_count=gap_count, gaps=gaps)

    def values(self, record: Record) -> Record:
        values = self.stream(record)
        refuse(values.codec in (RAW, PLANES) and record.value_map, "elements with a value map")
        refuse(values.codec in (FIXED, HUFFMAN, CONTEXT) and not record.value_map, "symbols without a value map")
        refuse(values.codec == CONTEXT and record.gaps, "symbols by context in a sparse tensor")
        return replace(record, values=values)

    def stream(self, record: Record | None = None) -> Stream:
        """A stream record; `record` is that of a tensor whose values it holds."""
        codec = self.source.varint()
        if codec == RAW:
            return Stream(RAW)
        if codec == CONTEXT and record and self.compact:
            return Stream(CONTEXT, self.source.varint(), CONTEXT_GEOMETRY, self.levels(record))
        length, geometry = self.source.varint(), self.source.u8()
        return Stream(codec, length, geometry, self.source.take(self.source.varint()))


    def levels(self, record: Record) -> bytes:
        """The parameters of codec 4 in a compact file, as they are in others."""
        zero = [] if record.offset is None else [record.offset]
        count = 1 if record.value_map == CODEBOOK else 3 - len(zero)
        zero += [self.source.varint() for _ in range(count)]
        step, lag = self.source.varint(), self.source.varint()
        refuse(step >= len(compact.FIRSTS), f"a first chance of step {step}")
        return b"".join(map(_varint, [*zero, compact.FIRSTS[step], lag]))


def _varint(number: int) -> bytes:
    more, last = number >> 7, number & 127
    return bytes([last | 128]) + _varint(more) if more else bytes([last])


class Walker:
    """Cuts the sections out of the file, one behind the other."""

    def __init__(self, data: bytes, end: int) -> None:
        self.data, self.at, self.end = data, HEAD, end

    def section(self, length: int, raw: bool = False) -> Span:
        start = self.at
        if raw and length > LARGE_RAW:
            start += -start % ALIGNMENT
        refuse(start + length > self.end, "sections longer than their part of the file")
        refuse(any(self.data[self.at : start]), "padding is not zero")
        self.at = start + length
        return start, self.at

    def tensor(self, record: Record) -> Sections:
        size = SIZES[record.stored]
        parameters = record.k * size if record.value_map == CODEBOOK else 0
        if record.value_map == AFFINE:
            parameters = record.channels * size + record.offsets * 4
        values = record.values.length
        return Sections(
            self.section(parameters, raw=True),
            self.section(record.gaps.length or 0 if record.gaps else 0),
            self.section(record.nonzeros * size, raw=True) if values is None else self.section(values),
        )

    def finish(self) -> None:
        refuse(self.at != self.end, "sections shorter than their part of the file")


def _block(source: Bytes, is_compact: bool, before: bytes = b"") -> bytes:
    return compact.block(source, before) if is_compact else block(source)


def _load_metadata(
    file: File, kind: int, span: Span, payload: Payload, names: Sequence[str], is_compact: bool
) -> None:  # fmt: skip
    try:
        source = Bytes(payload.take(span))
        content = _block(source, is_compact)
        source.end("metadata section")
        _check_metadata(kind, content, names)
        file.metadata[kind] = content
    except MalformedError as error:
        file.malformed[kind] = str(error)


def _check_metadata(kind: int, content: bytes, names: Sequence[str]) -> None:
    if kind in (STRINGS, RECIPE):
        found = _json_object(content)
        refuse(kind == STRINGS and not all(isinstance(v, str) for v in found.values()), "metadata other than strings")
    elif kind == INFERENCE:
        refuse(bool(content), "something where nothing but its being there is said")
    elif kind in (MODULES, AROUND):
        source = Bytes(content)
        holders = {name.rpartition(".")[0] for name in names}
        for _ in holders if kind == MODULES else _around(holders):
            source.varint()
        source.end("module versions")


def _around(holders: set[str]) -> set[str]:
    """The paths that others lie in, which are none of them."""
    parts = [path.split(".") for path in holders if path]
    paths = {".".join(each[:end]) for each in parts for end in range(len(each))} - holders
    return paths if sum(map(len, paths)) <= 1 << 22 else set()


def _json_object(content: bytes) -> dict[str, object]:
    def constant(name: str) -> None:
        raise MalformedError(f"{name} in JSON")

    try:
        found = json.loads(_utf8(content), parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise MalformedError("metadata is not JSON") from error
    if not isinstance(found, dict):
        raise MalformedError("metadata is not a JSON object")
    return found


def _check_limit(records: Sequence[Record | int], limit: int | None) -> None:
    total = sum(record.numel * SIZES[record.dtype] for record in records if isinstance(record, Record))
    if limit is not None and total > limit:
        raise LimitError(f"tensors of {total} bytes")


def _load(file: File, name: str, content: "TensorReader | str") -> None:
    """Add a tensor, or the one that it is tied to, under `name`, or the reason why it cannot be read."""
    if isinstance(content, str):
        if content in file.tensors:
            file.tensors[name] = replace(file.tensors[content], name=name, tie=content)
        elif content in file.failed:
            file.failed[name] = file.failed[content]
        else:
            file.malformed[name] = file.malformed[content]
    elif content.unknown:
        file.failed[name] = f"unknown codec {content.unknown[0]}"
    else:
        try:
            file.tensors[name] = Tensor(name, content.record.dtype, content.record.shape, content.elements())
        except MalformedError as error:
            file.malformed[name] = str(error)


class TensorReader:
    """Reads a tensor's elements."""

    def __init__(self, record: Record, own: Sections | None, codes: Sequence[Code], payload: Payload) -> None:
        assert own is not None
        self.record, self.own, self.codes, self.payload = record, own, codes, payload
        streams = (record.gaps, record.values)
        self.unknown = [s.codec for s in streams if s and s.codec not in (RAW, FIXED, HUFFMAN, PLANES, CONTEXT)]

    def elements(self) -> bytes:
        record = self.record
        if record.equal is not None:
            return widen_all(record.equal, record.stored, record.dtype) * math.prod(record.shape)
        places: Sequence[int] = range(record.numel)
        counts: list[int] = []
        if record.gaps:
            places, counts = self.places(record.gaps)
        section = self.payload.take(self.own.values)
        if record.values.codec in (RAW, PLANES):
            stored = section if record.values.codec == RAW else self.planes(section, len(places))
            refuse(record.dtype == "bool" and any(byte > 1 for byte in stored), "a bool other than 0 and 1")
            values = widen_all(stored, record.stored, record.dtype)
        else:
            chunks = self.chunks(section, counts)
            symbols = [symbol for chunk in chunks for symbol in chunk]
            parameters = self.payload.take(self.own.parameters)
            values = (_codebook if record.value_map == CODEBOOK else _affine)(record, parameters, symbols, places)
        return _scatter(values, places, record) if record.gaps else values

    def places(self, stream: Stream) -> tuple[list[int], list[int]]:
        """The nonzeros' flat indices, and how many each chunk has."""
        record, escape = self.record, (1 << self.record.gap_bits) - 1
        coder = self.coder(stream, escape)
        places: list[int] = []
        counts: list[int] = []
        for i, gaps in enumerate(_chunks(coder, self.payload.take(self.own.gaps), record.numel, record.gap_count)):
            start = i << stream.g
            found = _walk(gaps, start, min(start + (1 << stream.g), record.numel), escape)
            places += found
            counts.append(len(found))
        refuse(len(places) != record.nonzeros, "the gaps lead to another number of nonzeros")
        return places, counts

    def chunks(self, section: bytes, counts: list[int]) -> list[list[int]]:
        """The symbols of the values, by chunk."""
        record = self.record
        if record.values.codec == CONTEXT:
            return self.by_context(section)
        coder = self.coder(record.values, record.k if record.value_map == CODEBOOK else MAX_SYMBOL)
        refuse(record.gaps and record.gaps.g != record.values.g, "two chunk sizes in one tensor")
        chunks = _chunks(coder, section, record.numel, record.nonzeros if record.gaps else None)
        refuse(record.gaps and counts != [len(chunk) for chunk in chunks], "gaps and values differ in a chunk's nonzeros")
        return chunks

    def by_context(self, section: bytes) -> list[list[int]]:
        """The symbols of values by context, by chunk."""
        record, stream = self.record, self.record.values
        refuse(stream.lanes > 1, "lanes by context")
        refuse(stream.g > context.MAX_CHUNK_LOG2, f"chunks of 2^{stream.g} levels")
        shape = context.places(record.shape)
        known = context.levels(Bytes(stream.parameters), shape, record.k if record.value_map == CODEBOOK else None)
        parts = _parts(section, stream.g, record.numel, None)
        return [context.read_chunk(known, shape, chunk, i << stream.g, count) for i, (chunk, count) in enumerate(parts)]

    def planes(self, section: bytes, elements: int) -> bytes:
        """The stored elements, put together from the planes of their words."""
        stream, stored = self.record.values, self.record.stored
        refuse(stream.lanes > 32, "more than 32 lanes")
        parts = 2 if stored in COMPLEX else 1
        size = SIZES[stored] // parts
        words = [0] * (elements * parts)
        source = Bytes(section)
        for plane in _planes(Bytes(stream.parameters), 8 * size):
            fields = self.plane(plane, source, len(words))
            words = [word << plane.width | number for word, number in zip(words, fields, strict=True)]
        source.end("planes")
        if stored in ROTATED:
            words = [word >> 1 | (word & 1) << (8 * size - 1) for word in words]
        return b"".join(word.to_bytes(size, "little") for word in words)

    def plane(self, plane: "Plane", source: Bytes, count: int) -> list[int]:
        """The numbers that `count` words have in a plane."""
        if plane.kind == CONSTANT:
            return [plane.number] * count
        if plane.kind == PLAIN:
            bits = Bits(source.take((count * plane.width + 7) // 8))
            fields = [bits.field(plane.width) for _ in range(count)]
            bits.end()
            return fields
        stream, largest = self.record.values, (1 << plane.width) - 1
        coder = Coder(stream, self.table(plane.number, largest), largest)
        return [symbol for chunk in _chunks(coder, source.take(plane.length), count, None) for symbol in chunk]

    def coder(self, stream: Stream, largest: int) -> Coder:
        refuse(stream.lanes > 32, "more than 32 lanes")
        parameters = Bytes(stream.parameters)
        read = (_fixed if stream.codec == FIXED else self.huffman)(parameters, largest)
        parameters.end("codec parameters")
        return Coder(stream, read, largest)

    def huffman(self, parameters: Bytes, largest: int) -> Callable[[Bits], int]:
        return self.table(parameters.varint(), largest)

    def table(self, number: int, largest: int) -> Callable[[Bits], int]:
        refuse(number >= len(self.codes), "a code-length table that does not exist")
        refuse(max(self.codes[number].symbols.values(), default=0) > largest, "a codeword for a symbol that cannot stand here")
        return self.codes[number].read


@dataclass(frozen=True)
class Plane:
    """A plane of words: `number` is what is constant, or a code-length table's; `length` the bytes of a coded plane."""

    width: int
    kind: int
    number: int = 0
    length: int = 0


def _planes(parameters: Bytes, word: int) -> list[Plane]:
    """What codec 3's parameters say of the planes of words of `word` bits."""
    planes, left = [], word
    for _ in range(parameters.varint()):
        plane = _plane(parameters)
        refuse(not 1 <= plane.width <= left, f"a plane of {plane.width} of {left} bits")
        left -= plane.width
        planes.append(plane)
    refuse(left, f"{left} bits are in no plane")
    parameters.end("codec parameters")
    return planes


def _plane(parameters: Bytes) -> Plane:
    width, kind = parameters.u8(), parameters.u8()
    refuse(kind > CODED, f"a plane of kind {kind}")
    refuse(kind == PLAIN and width > MAX_PLAIN, f"a plain plane of {width} bits")
    refuse(kind == CODED and width > MAX_CODED, f"a coded plane of {width} bits")
    number = parameters.varint() if kind != PLAIN else 0
    refuse(kind == CONSTANT and number >> width, "a constant wider than its plane")
    return Plane(width, kind, number, parameters.varint() if kind == CODED else 0)


def _fixed(parameters: Bytes, largest: int) -> Callable[[Bits], int]:
    width, base = parameters.u8(), parameters.varint()
    refuse(width > MAX_WIDTH, f"width {width}")
    refuse(base > largest, f"base {base} above {largest}")
    return lambda bits: base + bits.field(width)


def _scatter(values: bytes, places: Sequence[int], record: Record) -> bytes:
    size = SIZES[record.dtype]
    dense = bytearray(record.numel * size)
    for i, place in enumerate(places):
        dense[place * size : (place + 1) * size] = values[i * size : (i + 1) * size]
    return bytes(dense)


def _walk(gaps: Sequence[int], at: int, end: int, escape: int) -> list[int]:
    found = []
    for gap in gaps:
        at += gap
        refuse(at > end, "gaps run past their chunk")
        if gap < escape:
            refuse(at >= end, "gaps run past their chunk")
            found.append(at)
            at += 1
    refuse(gaps and gaps[-1] == escape, "a chunk's gaps end with an escape")
    return found


def _chunks(coder: Coder, section: bytes, numel: int, total: int | None) -> list[list[int]]:
    """A stream's symbols by chunk; `total` is their number in a sparse tensor, None in a dense one."""
    return [_chunk(coder, chunk, count) for chunk, count in _parts(section, coder.stream.g, numel, total)]


def _parts(section: bytes, g: int, numel: int, total: int | None) -> list[tuple[bytes, int]]:
    """Each chunk's bytes and number of symbols."""
    source = Bytes(section)
    size = 1 << g
    count = max(1, -(-numel // size))
    lengths = source.u32s(count) if count > 1 else [len(section)]
    refuse(max(lengths) > MAX_CHUNK, "a chunk of 2^32 bytes or more")
    if total is None:
        symbols = [min(size, numel - i * size) for i in range(count)]
    else:
        symbols = source.u32s(count) if count > 1 else [total]
        refuse(sum(symbols) != total, "the chunk table's symbols do not add up")
    parts = [(source.take(n), s) for n, s in zip(lengths, symbols, strict=True)]
    source.end("stream section")
    return parts


def _chunk(coder: Coder, chunk: bytes, count: int) -> list[int]:
    source = Bytes(chunk)
    symbols: list[int] = []
    lanes = coder.stream.lanes
    share = -(-count // lanes)
    lengths = source.u32s(lanes - 1) if count else []
    for j in range(lanes if count else 0):
        lane = Bits(source.take(lengths[j]) if j < len(lengths) else source.rest())
        symbols += [coder.symbol(lane) for _ in range(share * j, min(share * (j + 1), count))]
        lane.end()
    source.end("chunk")
    return symbols


def _codebook(record: Record, section: bytes, symbols: Sequence[int], _places: Sequence[int]) -> bytes:
    centroids = numbers(section, record.stored)
    refuse(not all(math.isfinite(c) and c for c in centroids), "a centroid is zero or not finite")
    refuse(not all(a < b for a, b in pairwise(centroids)), "centroids do not ascend")
    refuse(record.gaps and 0 in symbols, "symbol 0 in a sparse tensor")
    size = SIZES[record.dtype]
    table = bytes(size) + widen_all(section, record.stored, record.dtype)
    return b"".join(table[s * size : (s + 1) * size] for s in symbols)


def _affine(record: Record, section: bytes, symbols: Sequence[int], places: Sequence[int]) -> bytes:
    size = record.channels * SIZES[record.stored]
    scales = numbers(section[:size], record.stored)
    refuse(not all(map(math.isfinite, scales)), "a scale is not finite")
    offsets = struct.unpack(f"<{record.offsets}i", section[size:])
    if len(offsets) < record.channels:
        offsets = record.channels * (offsets[0] if record.offset is None else record.offset,)
    inner = math.prod(record.shape[record.axis :])
    result = bytearray()
    for symbol, place in zip(symbols, places, strict=True):
        c = place // inner % record.channels if record.axis else 0
        step = float(symbol - offsets[c])
        value = scales[c] * step if record.dtype == "float64" else to_float32(scales[c] * to_float32(step))
        result += element(value, record.dtype)
    return bytes(result)
