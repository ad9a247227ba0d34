"""A reader of .dcz files written from FORMAT.md alone: simple and slow. Standard library only."""

import json
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

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

__all__ = ["File", "LimitError", "MalformedError", "Tensor", "read"]

MAGIC = b"\xdcDCZ"
HEAD, TRAILER = 8, 8
GROUP = 65_536
LARGE_RAW, ALIGNMENT = 4_096, 64
MAX_ALPHABET = 65_537
MAX_CENTROIDS = 65_536
MAX_NAME = 65_535
MAX_DIMENSIONS = 64
MAX_CHUNK = 2**32 - 1
TIE, MAP, SPARSE, STORED = 0x80, 0x03, 0x04, 0x08
CODEBOOK, AFFINE = 1, 2
RAW, FIXED, HUFFMAN = 0, 1, 2
STRINGS, RECIPE, MODULES = 2, 4, 6

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
NARROWER = {"float32": ("float16", "bfloat16"), "float64": ("float16", "bfloat16", "float32")}


class LimitError(ValueError):
    """A tensor is larger than the caller allows."""


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
    """A file's content; `failed` gives a reason for each tensor that needs a codec unknown to this reader."""

    version: tuple[int, int]
    tensors: dict[str, Tensor]
    metadata: dict[int, bytes]
    failed: dict[str, str]


@dataclass(frozen=True)
class Stream:
    """A stream record; `length` is None for codec 0, whose length follows from the tensor."""

    codec: int
    length: int | None = None
    g: int = 0
    lanes: int = 1
    read: Callable[[Bits], int] | None = None


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

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def channels(self) -> int:
        return self.shape[self.axis - 1] if self.axis else 1


@dataclass(frozen=True)
class Sections:
    """A tensor's sections."""

    parameters: bytes
    gaps: bytes
    values: bytes


def read(data: bytes, limit: int | None = None) -> File:
    """Decode a file; raise MalformedError if it breaks a rule, LimitError if a tensor has more than `limit` bytes."""
    version, end, directory = _frame(data)
    names = _names(directory.varint(), block(directory))
    records = _records(len(names), _record_reader(directory))
    kinds = [(directory.varint(), directory.varint()) for _ in range(directory.varint())]
    _check_sums(data[HEAD:end], directory)
    refuse(len(dict(kinds)) != len(kinds), "a metadata kind stands twice")
    walker = Walker(data, end)
    sections = [walker.tensor(record) if isinstance(record, Record) else None for record in records]
    metadata = {kind: walker.metadata(length) for kind, length in kinds}
    walker.finish()
    _check_metadata(metadata, names)
    _check_limit(records, limit)
    tensors, failed = _load(names, records, sections)
    return File(version, tensors, metadata, failed)


def _frame(data: bytes) -> tuple[tuple[int, int], int, Bytes]:
    """The version, where the sections end, and the directory."""
    refuse(data[:4] != MAGIC, "not a .dcz file")
    refuse(len(data) < HEAD + TRAILER, "file too short")
    major, minor, flags = struct.unpack_from("<BBH", data, 4)
    refuse(major != 1, f"major version {major}")
    refuse(flags, f"unknown flags {flags:#06x}")
    size, crc = struct.unpack("<II", data[-TRAILER:])
    end = len(data) - TRAILER - size
    refuse(end < HEAD, "directory longer than the file")
    refuse(zlib.crc32(data[:HEAD] + data[end:-4]) != crc, "the directory's checksum is wrong")
    return (major, minor), end, Bytes(data[end:-TRAILER])


def _check_sums(payload: bytes, directory: Bytes) -> None:
    groups = range(0, len(payload), GROUP)
    sums = directory.u32s(len(groups))
    directory.end("directory")
    refuse(sums != [zlib.crc32(payload[i : i + GROUP]) for i in groups], "a checksum of the sections is wrong")


def _names(count: int, content: bytes) -> list[str]:
    source, names, tails = Bytes(content), dict[str, None](), list[bytes]()
    name = b""
    for _ in range(count):
        keep, number = source.varint(), source.varint()
        refuse(keep > len(name), "a name keeps more than there is")
        refuse(number > len(tails), "a name's tail does not exist")
        if number == 0:
            tails.append(source.take(source.varint()))
        name = name[:keep] + tails[number - 1]
        text = _checked_name(name)
        refuse(text in names, f"name {text!r} stands twice")
        names[text] = None
    source.end("names")
    return list(names)


def _checked_name(name: bytes) -> str:
    refuse(not 1 <= len(name) <= MAX_NAME, "a name's length")
    refuse(b"\0" in name or b".." in name, "NUL or .. in a name")
    return _utf8(name)


def _utf8(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError("not UTF-8") from error


def _record_reader(directory: Bytes) -> "RecordReader":
    """The code-length tables and, behind them, the records."""
    count = directory.varint()
    bits = Bits(directory.take(directory.varint()))
    codes = [Code(code_lengths(bits, MAX_ALPHABET)) for _ in range(count)]
    bits.end()
    return RecordReader(block(directory), codes)


def _records(count: int, reader: "RecordReader") -> list[Record | int]:
    """Per tensor its record, or for a tie the number of the tensor that it is."""
    records: list[Record | int] = []
    for position in range(count):
        record = reader.record()
        if isinstance(record, int):
            refuse(not 1 <= record <= position, "a tie leads out of the records")
            record = position - record
            refuse(isinstance(records[record], int), "a tie to a tie")
        records.append(record)
    reader.source.end("records")
    return records


class RecordReader:
    """Reads the records' block."""

    def __init__(self, content: bytes, codes: Sequence[Code]) -> None:
        self.source = Bytes(content)
        self.codes = codes

    def record(self) -> Record | int:
        """A record, or a tie's `back`."""
        flags = self.source.u8()
        if flags & TIE:
            refuse(flags != TIE, "a tie with other flags")
            return self.source.varint()
        refuse(flags & ~(MAP | SPARSE | STORED), f"unknown flags {flags:#04x} in a record")
        value_map = flags & MAP
        refuse(value_map == MAP, "value map 3")
        dtype, shape = self.dtype(), self.shape()
        stored = self.dtype() if flags & STORED else dtype
        refuse(flags & STORED and stored not in NARROWER.get(dtype, ()), f"{dtype} stored as {stored}")
        refuse(value_map and dtype not in FLOATS, f"a value map for {dtype}")
        refuse(math.prod(shape) * SIZES[dtype] >= 2**63, "a tensor of 2^63 bytes or more")
        k = self.source.varint() if value_map == CODEBOOK else 0
        axis = self.source.varint() if value_map == AFFINE else 0
        refuse(k > MAX_CENTROIDS, f"{k} centroids")
        refuse(axis > len(shape), f"axis {axis} of {len(shape)} dimensions")
        record = Record(dtype, shape, stored, value_map, k, axis, math.prod(shape), 0, 0, None, Stream(RAW))
        if flags & SPARSE:
            record = self.sparse(record)
        return self.values(record)

    def dtype(self) -> str:
        code = self.source.u8()
        refuse(code >= len(DTYPES), f"unknown dtype {code}")
        return DTYPES[code]

    def shape(self) -> tuple[int, ...]:
        dimensions = self.source.u8()
        refuse(dimensions > MAX_DIMENSIONS, f"{dimensions} dimensions")
        return tuple(self.source.varint() for _ in range(dimensions))

    def sparse(self, record: Record) -> Record:
        nonzeros, gap_bits, gap_count = self.source.varint(), self.source.u8(), self.source.varint()
        refuse(not 1 <= gap_bits <= 16, f"gap_bits {gap_bits}")
        refuse(not nonzeros <= gap_count <= record.numel, "not nonzeros <= gap count <= numel")
        gaps = self.stream()
        refuse(gaps.codec == RAW, "a raw gap stream")
        return replace(record, nonzeros=nonzeros, gap_bits=gap_bits, gap_count=gap_count, gaps=gaps)

    def values(self, record: Record) -> Record:
        values = self.stream()
        if values.codec == RAW:
            refuse(record.value_map, "raw values with a value map")
        elif values.read:
            refuse(not record.value_map, "symbols without a value map")
        if record.gaps and record.gaps.read and values.read:
            refuse(record.gaps.g != values.g, "two chunk sizes in one tensor")
        return replace(record, values=values)

    def stream(self) -> Stream:
        codec = self.source.varint()
        if codec == RAW:
            return Stream(RAW)
        length, geometry = self.source.varint(), self.source.u8()
        parameters = Bytes(self.source.take(self.source.varint()))
        if codec not in (FIXED, HUFFMAN):
            return Stream(codec, length)
        refuse(geometry >> 5 > 5, "more than 32 lanes")
        read = self.fixed(parameters) if codec == FIXED else self.huffman(parameters)
        parameters.end("codec parameters")
        return Stream(codec, length, geometry & 31, 1 << (geometry >> 5), read)

    def fixed(self, parameters: Bytes) -> Callable[[Bits], int]:
        width, base = parameters.u8(), parameters.varint()
        return lambda bits: base + bits.field(width)

    def huffman(self, parameters: Bytes) -> Callable[[Bits], int]:
        number = parameters.varint()
        refuse(number >= len(self.codes), "a code-length table that does not exist")
        return self.codes[number].read


class Walker:
    """Cuts the sections out of the file, one behind the other."""

    def __init__(self, data: bytes, end: int) -> None:
        self.data, self.at, self.end = data, HEAD, end

    def section(self, length: int, raw: bool = False) -> bytes:
        start = self.at
        if raw and length > LARGE_RAW:
            start += -start % ALIGNMENT
        refuse(start + length > self.end, "sections longer than their part of the file")
        refuse(any(self.data[self.at : start]), "padding is not zero")
        self.at = start + length
        return self.data[start : self.at]

    def tensor(self, record: Record) -> Sections:
        size = SIZES[record.stored]
        parameters = record.k * size if record.value_map == CODEBOOK else 0
        if record.value_map == AFFINE:
            parameters = record.channels * (size + 4)
        values = record.values.length
        return Sections(
            self.section(parameters, raw=True),
            self.section(record.gaps.length or 0) if record.gaps else b"",
            self.section(record.nonzeros * size, raw=True) if values is None else self.section(values),
        )

    def metadata(self, length: int) -> bytes:
        source = Bytes(self.section(length))
        content = block(source)
        source.end("metadata section")
        return content

    def finish(self) -> None:
        refuse(self.at != self.end, "sections shorter than their part of the file")


def _check_metadata(metadata: dict[int, bytes], names: Sequence[str]) -> None:
    for kind, content in metadata.items():
        refuse(kind % 2, f"unknown critical metadata kind {kind}")
        if kind in (STRINGS, RECIPE):
            found = _json_object(content)
            refuse(kind == STRINGS and not all(isinstance(v, str) for v in found.values()), "metadata other than strings")
        elif kind == MODULES:
            source = Bytes(content)
            for _ in {name.rpartition(".")[0] for name in names}:
                source.varint()
            source.end("module versions")


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
    for record in records:
        if isinstance(record, Record) and limit is not None and record.numel * SIZES[record.dtype] > limit:
            raise LimitError(f"a tensor of {record.numel * SIZES[record.dtype]} bytes")


def _load(
    names: Sequence[str], records: Sequence[Record | int], sections: Sequence[Sections | None]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors: dict[str, Tensor] = {}
    failed: dict[str, str] = {}
    for name, record, own in zip(names, records, sections, strict=True):
        if isinstance(record, int):
            first = names[record]
            if first in tensors:
                tensors[name] = replace(tensors[first], name=name, tie=first)
            else:
                failed[name] = failed[first]
            continue
        unknown = [s.codec for s in (record.gaps, record.values) if s and s.codec not in (RAW, FIXED, HUFFMAN)]
        if unknown:
            failed[name] = f"unknown codec {unknown[0]}"
        elif own:
            tensors[name] = Tensor(name, record.dtype, record.shape, _elements(record, own))
    return tensors, failed


def _elements(record: Record, own: Sections) -> bytes:
    """A tensor's elements."""
    places: Sequence[int] = range(record.numel)
    counts: list[int] = []
    if record.gaps:
        places, counts = _places(record, record.gaps, own.gaps)
    if record.values.codec == RAW:
        values = widen_all(own.values, record.stored, record.dtype)
    else:
        chunks = _chunks(record.values, own.values, record.numel, record.nonzeros if record.gaps else None)
        refuse(record.gaps and counts != [len(chunk) for chunk in chunks], "gaps and values differ in a chunk's nonzeros")
        symbols = [symbol for chunk in chunks for symbol in chunk]
        values = (_codebook if record.value_map == CODEBOOK else _affine)(record, own.parameters, symbols, places)
    return _scatter(values, places, record) if record.gaps else values


def _scatter(values: bytes, places: Sequence[int], record: Record) -> bytes:
    size = SIZES[record.dtype]
    dense = bytearray(record.numel * size)
    for i, place in enumerate(places):
        dense[place * size : (place + 1) * size] = values[i * size : (i + 1) * size]
    return bytes(dense)


def _places(record: Record, stream: Stream, section: bytes) -> tuple[list[int], list[int]]:
    """The nonzeros' flat indices, and how many each chunk has."""
    places: list[int] = []
    counts: list[int] = []
    for i, gaps in enumerate(_chunks(stream, section, record.numel, record.gap_count)):
        start = i << stream.g
        found = _walk(gaps, start, min(start + (1 << stream.g), record.numel), (1 << record.gap_bits) - 1)
        places += found
        counts.append(len(found))
    refuse(len(places) != record.nonzeros, "the gaps lead to another number of nonzeros")
    return places, counts


def _walk(gaps: Sequence[int], at: int, end: int, escape: int) -> list[int]:
    found = []
    for gap in gaps:
        refuse(gap > escape, f"gap {gap} above the escape")
        at += gap
        if gap < escape:
            refuse(at >= end, "gaps run past their chunk")
            found.append(at)
            at += 1
    refuse(gaps and gaps[-1] == escape, "a chunk's gaps end with an escape")
    return found


def _chunks(stream: Stream, section: bytes, numel: int, total: int | None) -> list[list[int]]:
    """A stream's symbols by chunk; `total` is their number in a sparse tensor, None in a dense one."""
    source = Bytes(section)
    size = 1 << stream.g
    count = max(1, -(-numel // size))
    lengths = source.u32s(count) if count > 1 else [len(section)]
    refuse(max(lengths) > MAX_CHUNK, "a chunk of 2^32 bytes or more")
    if total is None:
        symbols = [min(size, numel - i * size) for i in range(count)]
    else:
        symbols = source.u32s(count) if count > 1 else [total]
        refuse(sum(symbols) != total, "the chunk table's symbols do not add up")
    chunks = [_chunk(stream, source.take(n), s) for n, s in zip(lengths, symbols, strict=True)]
    source.end("stream section")
    return chunks


def _chunk(stream: Stream, chunk: bytes, count: int) -> list[int]:
    source = Bytes(chunk)
    symbols: list[int] = []
    share = -(-count // stream.lanes)
    lengths = source.u32s(stream.lanes - 1) if count else []
    for j in range(stream.lanes if count else 0):
        lane = Bits(source.take(lengths[j]) if j < len(lengths) else source.rest())
        symbols += [_symbol(stream, lane) for _ in range(share * j, min(share * (j + 1), count))]
        lane.end()
    source.end("chunk")
    return symbols


def _symbol(stream: Stream, lane: Bits) -> int:
    assert stream.read is not None
    return stream.read(lane)


def _codebook(record: Record, section: bytes, symbols: Sequence[int], _places: Sequence[int]) -> bytes:
    centroids = numbers(section, record.stored)
    refuse(not all(math.isfinite(c) and c for c in centroids), "a centroid is zero or not finite")
    refuse(not all(a < b for a, b in pairwise(centroids)), "centroids do not ascend")
    refuse(record.gaps and 0 in symbols, "symbol 0 in a sparse tensor")
    refuse(max(symbols, default=0) > record.k, "a symbol above the number of centroids")
    size = SIZES[record.dtype]
    table = bytes(size) + widen_all(section, record.stored, record.dtype)
    return b"".join(table[s * size : (s + 1) * size] for s in symbols)


def _affine(record: Record, section: bytes, symbols: Sequence[int], places: Sequence[int]) -> bytes:
    refuse(max(symbols, default=0) > 65_535, "a symbol above 65,535")
    size = record.channels * SIZES[record.stored]
    scales = numbers(section[:size], record.stored)
    offsets = struct.unpack(f"<{record.channels}i", section[size:])
    inner = math.prod(record.shape[record.axis :])
    result = bytearray()
    for symbol, place in zip(symbols, places, strict=True):
        c = place // inner % record.channels if record.axis else 0
        step = float(symbol - offsets[c])
        value = scales[c] * step if record.dtype == "float64" else to_float32(scales[c] * to_float32(step))
        result += element(value, record.dtype)
    return bytes(result)
