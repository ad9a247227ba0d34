"""A file as records, sections and tables that can be changed one by one, and written again whatever they say."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce

from deepcompress.container import layout
from deepcompress.container.block import pack_block
from deepcompress.container.names import USUAL_NAMES
from deepcompress.container.reader import Reader
from deepcompress.container.records import StreamRecord, TensorRecord
from deepcompress.container.varint import Cursor, varint
from deepcompress.tensors.planes import words_of
from tests.reference.writer import pack, plain, table

LARGEST = 1 << 16  # bytes to which `fit` lets a section grow
PADDING = b"\0"


@dataclass
class Stream:
    """A stream record: codec, geometry, parameters as numbers, the length that it tells."""

    codec: int
    geometry: int
    numbers: list[int]  # of codec 4 in a compact file as it has them
    length: int

    def pack(self, *, compact: bool = False) -> bytes:
        if self.codec == layout.CODEC_RAW:
            return b"\0"
        content = b"".join(spell(form, number) for form, number in zip(self.forms(), self.numbers, strict=False))
        head = varint(self.codec) + varint(self.length)
        if compact and self.codec == layout.CODEC_CONTEXT:
            return head + content
        head += bytes([self.geometry & 255])
        return head + varint(len(content)) + content

    def forms(self) -> Iterator[str]:
        """How each parameter is spelled: b for a byte, v for a varint. Never ends."""
        if self.codec == layout.CODEC_PLANES:
            yield "v"
            at = 1
            while True:
                yield from "bb"
                kind = min(self.numbers[at + 1], 4) if at + 1 < len(self.numbers) else 0
                yield from "v" * kind
                at += 2 + kind
        if self.codec == layout.CODEC_FIXED:
            yield "b"
        while True:
            yield "v"

    def planes(self) -> Iterator[tuple[int, int]]:
        """Of planes of codec 3: where their numbers begin, and their kind."""
        at = 1
        while at + 1 < len(self.numbers):
            yield at, self.numbers[at + 1]
            at += 2 + min(self.numbers[at + 1], 4)

    def table_places(self) -> list[int]:
        """Which of the numbers are those of code-length tables."""
        if self.codec == layout.CODEC_PLANES:
            return [at + 2 for at, kind in self.planes() if kind == layout.PLANE_CODED and at + 2 < len(self.numbers)]
        return [0] if self.codec == layout.CODEC_HUFFMAN and self.numbers else []


@dataclass
class Row:
    """A tensor's name, record and sections. `flags` says which fields are written; `tie` and `same` stand for a whole record."""

    name: bytes
    flags: int
    dtype: int
    sides: list[int]
    stored: int
    size: int  # of a codebook
    axis: int
    nonzeros: int
    gap_bits: int
    escapes: int
    gaps: Stream
    values: Stream
    sections: dict[str, bytes]
    tie: Row | None = None
    back: int | None = None  # instead of where `tie` is
    same: bool = False
    same_back: int = 0  # in a compact file
    compact: bool = False
    offset: int = 0  # the one of all channels, in a compact file
    constant: bytes = b""

    @property
    def numel(self) -> int:
        return layout.numel(tuple(self.sides))

    @property
    def value_map(self) -> int:
        return self.flags & layout.VALUE_MAP

    @property
    def sparse(self) -> bool:
        return bool(self.flags & layout.SPARSE)

    @property
    def count(self) -> int:
        """Values that the record says there are."""
        return self.nonzeros if self.sparse else self.numel

    @property
    def offset_in_record(self) -> bool:
        return self.compact and self.value_map == layout.MAP_AFFINE and bool(self.flags & layout.ONE_OFFSET)

    def type_of_elements(self) -> layout.DType:
        own = 0 if self.flags & layout.FLOAT32 else self.dtype
        return layout.DTYPE_OF_CODE.get(self.stored if self.flags & layout.OTHER_TYPE else own, layout.DTYPES[0])

    def pack(self, earlier: Sequence[Row]) -> bytes:
        if self.back is not None or self.tie is not None:
            places = [place for place, row in enumerate(earlier) if row is self.tie]
            return bytes([layout.TIE]) + varint(len(earlier) - places[0] if self.back is None and places else self.back or 1)
        if self.same:
            return bytes([layout.SAME | self.same_back & layout.SAME_BACK])
        out = bytearray([self.flags & 255])
        if not self.flags & layout.FLOAT32:
            out.append(self.dtype & 255)
        out.append(len(self.sides) & 255)
        out += b"".join(map(varint, self.sides))
        if self.flags & layout.OTHER_TYPE:
            out.append(self.stored & 255)
        if self.value_map in (layout.MAP_CODEBOOK, layout.MAP_AFFINE):
            out += varint(self.size if self.value_map == layout.MAP_CODEBOOK else self.axis)
        if self.offset_in_record:
            out += varint(self.offset)
        if self.compact and self.value_map == layout.MAP_CONSTANT:
            return bytes(out) + (b"" if self.sparse else self.constant)
        if self.sparse:
            out += varint(self.nonzeros) + bytes([self.gap_bits & 255]) + varint(self.escapes) + self.gaps.pack()
        return bytes(out + self.values.pack(compact=self.compact))

    def fit(self) -> None:
        """Make sections as long as the record says, and the record say how long they are."""
        if self.tie is not None:
            return
        if self.compact and self.value_map == layout.MAP_CONSTANT:
            self.sections = dict.fromkeys(self.sections, b"")
            return
        element = self.type_of_elements().itemsize
        channels = self.sides[self.axis - 1] if 0 < self.axis <= len(self.sides) else 1
        offsets = 0 if self.offset_in_record else 1 if self.flags & layout.ONE_OFFSET else channels
        self._resize("map", (0, self.size * element, channels * element + 4 * offsets, 0)[self.value_map])
        if not self.sparse:
            self.sections["gaps"] = b""
        if self.values.codec == layout.CODEC_RAW:
            self._resize("values", self.count * element)
        elif self.values.codec == layout.CODEC_PLANES:
            self._resize("values", self._bytes_of_planes())
        self.values.length, self.gaps.length = len(self.sections["values"]), len(self.sections["gaps"])

    def _bytes_of_planes(self) -> int:
        kind, total = words_of(self.type_of_elements().name), 0
        for at, plane in self.values.planes():
            width = self.values.numbers[at] & 255
            if plane == layout.PLANE_PLAIN:
                total += self.count * kind.per_element * width + 7 >> 3
            elif plane == layout.PLANE_CODED and at + 3 < len(self.values.numbers):
                total += self.values.numbers[at + 3]
        return total

    def _resize(self, kind: str, size: int) -> None:
        old = self.sections[kind]
        if size <= LARGEST and size != len(old):
            more = (old or b"\1") * (-(-size // max(len(old), 1)) if size > len(old) else 1)
            self.sections[kind] = more[:size]


@dataclass
class Parsed:
    """A whole file."""

    head: list[int]  # major, minor, flags
    rows: list[Row]
    tables: list[tuple[int, ...]]
    metadata: list[list[bytes | int]]  # kind, content
    coded: bool = True  # whether blocks are coded where that is shorter
    altered: dict[str, bytes] = field(default_factory=dict)  # instead of the contents of the blocks

    def names(self) -> bytes:
        return pack_names([row.name for row in self.rows])

    def records(self) -> bytes:
        return b"".join(row.pack(self.rows[:place]) for place, row in enumerate(self.rows))

    def pack(self) -> bytes:
        head = layout.HEAD.pack(layout.MAGIC, self.head[0] & 255, self.head[1] & 255, self.head[2] & 0xFFFF)
        body, blocks = self._sections(len(head))
        compact = bool(self.head[2] & layout.COMPACT)
        usual = USUAL_NAMES if compact else b""
        tables = pack_tables(tuple(self.tables))
        directory = b"".join(
            [
                varint(len(self.rows)),
                _block(self.altered.get("names") or self.names(), compact, self.coded, usual),
                varint(len(self.tables)) + varint(len(tables)) + tables,
                _block(self.altered.get("records") or self.records(), compact, self.coded),
                varint(len(self.metadata)),
                *(varint(int(kind)) + varint(len(content)) for (kind, _), content in zip(self.metadata, blocks, strict=True)),
            ]
        )
        directory += checksums(body)
        size = struct.pack("<I", len(directory))
        return head + body + directory + size + struct.pack("<I", zlib.crc32(head + directory + size))

    def _sections(self, start: int) -> tuple[bytes, list[bytes]]:
        out = bytearray()
        for row in self.rows:
            raw = row.values.codec == layout.CODEC_RAW
            for kind, content in row.sections.items() if row.tie is None and row.back is None else ():
                aligned = kind == "map" or (kind == "values" and raw)
                if aligned and len(content) > layout.RAW_ALIGNED:
                    out += PADDING * (-(len(out) + start) % layout.ALIGNMENT)
                out += content
        compact = bool(self.head[2] & layout.COMPACT)
        blocks = [_block(bytes(content), compact) if isinstance(content, bytes) else b"" for _, content in self.metadata]
        return bytes(out) + b"".join(blocks), blocks


def checksums(body: bytes) -> bytes:
    """Those of the groups of the sections."""
    groups = range(0, len(body), layout.GROUP_BYTES)
    return b"".join(struct.pack("<I", zlib.crc32(body[at : at + layout.GROUP_BYTES])) for at in groups)


@lru_cache(1024)
def _block(content: bytes, compact: bool, coded: bool = True, before: bytes = b"") -> bytes:
    if coded:
        return pack_block(content, compact=compact, before=before)
    return varint(4 * len(content)) + content if compact else plain(content)


@lru_cache(4096)
def pack_tables(tables: tuple[tuple[int, ...], ...]) -> bytes:
    return pack("".join(_spelled(lengths) for lengths in tables))


@lru_cache(4096)
def _spelled(lengths: tuple[int, ...]) -> str:
    return table(lengths)


def pack_names(names: Sequence[bytes]) -> bytes:
    """Each name with what it shares with the one before it left out; tails that came before by their number."""
    out, last = bytearray(), b""
    tails: dict[bytes, int] = {}
    for name in names:
        keep = next((i for i, (a, b) in enumerate(zip(last, name, strict=False)) if a != b), min(len(last), len(name)))
        tail, last = name[keep:], name
        if number := tails.get(tail):
            out += varint(keep) + varint(number)
        else:
            tails[tail] = len(tails) + 1
            short = reduce(lambda text, pair: text.replace(pair[1], pair[0]), layout.WORDS.items(), tail)
            out += varint(keep) + b"\0" + varint(len(short)) + short
    return bytes(out)


def spell(form: str, number: int) -> bytes:
    return bytes([number & 255]) if form == "b" else varint(number)


def parse(data: bytes) -> Parsed:
    """The parts of a file that is well-formed."""
    reader = Reader(data)
    compact = bool(reader.flags & layout.COMPACT)
    rows: list[Row] = []
    for place, (record, spans) in enumerate(zip(reader.directory.records, reader.directory.spans, strict=True)):
        sections = {"map": b"", "gaps": b"", "values": b""}
        for kind, span in spans.items():
            sections["map" if kind in ("codebook", "affine") else kind] = bytes(reader.section(span))
        row = _row(record, sections, rows, compact)
        near = range(min(place, layout.SAME_BACK + 1 if compact else 1))
        alike = [back for back in near if record.is_like(reader.directory.records[place - 1 - back])]
        row.same, row.same_back = bool(alike), alike[0] if alike else 0
        rows.append(row)
    metadata: list[list[bytes | int]] = [[meta.kind, reader.metadata(meta.kind) or b""] for meta in reader.directory.metadata]
    tables = [tuple(lengths.tolist()) for lengths in reader.directory.tables]
    return Parsed([*reader.version, layout.HEAD.unpack(data[:8])[-1]], rows, tables, metadata)


def _row(record: TensorRecord, sections: dict[str, bytes], rows: Sequence[Row], compact: bool) -> Row:
    flags = record.value_map | (layout.SPARSE if record.sparse else 0) | (layout.ONE_OFFSET if record.one_offset else 0)
    flags |= layout.ONE_OFFSET if record.offset is not None else 0
    flags |= layout.SPARSE if record.constant is not None and not any(record.constant) else 0
    flags |= (layout.OTHER_TYPE if record.stored != record.dtype else 0) | (layout.FLOAT32 if record.dtype == "float32" else 0)
    codes = [layout.DTYPE_OF_NAME[name].code for name in (record.dtype, record.stored)]
    sparse = record.sparse
    counts = (sparse.nonzeros, sparse.gap_bits, sparse.gap_count - sparse.nonzeros) if sparse else (0, 4, 0)
    codebook = record.size if record.value_map == layout.MAP_CODEBOOK else 0
    return Row(
        record.name.encode(), flags, codes[0], list(record.shape), codes[1], codebook, record.axis, *counts,
        _stream(sparse.stream if sparse else None, compact), _stream(record.values, compact), sections,
        None if record.tie is None else rows[record.tie],
        compact=compact, offset=record.offset or 0, constant=record.constant or b"",
    )  # fmt: skip


def _stream(record: StreamRecord | None, compact: bool) -> Stream:
    if record is None or record.codec == layout.CODEC_RAW:
        return Stream(layout.CODEC_RAW, 31, [0, 0], 0)
    cursor = Cursor(record.parameters, "")
    found = Stream(record.codec, record.geometry, [], record.length)
    forms = found.forms()
    while cursor.left:
        found.numbers.append(cursor.byte() if next(forms) == "b" else cursor.varint())
    if compact and record.codec == layout.CODEC_CONTEXT:
        found.numbers[-2] = layout.FIRST_CHANCES.index(found.numbers[-2])
    return found
