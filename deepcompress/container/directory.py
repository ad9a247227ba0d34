"""The directory: what tensors there are and where every byte of the file belongs.

Sections carry no offsets. They lie back to back in the order of the records, so that they can neither overlap nor leave a gap;
a section's place is the sum of the lengths before it.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.huffman import HuffmanCode
from deepcompress.coding.tables import BitReader, BitWriter, read_lengths, write_lengths
from deepcompress.container import layout
from deepcompress.container.block import pack_block, unpack_block
from deepcompress.container.names import USUAL_NAMES, pack_names, unpack_names
from deepcompress.container.records import SectionSize, TensorRecord, read_record
from deepcompress.container.varint import Cursor, varint
from deepcompress.errors import FormatError, VersionError

Lengths = NDArray[np.uint8]


@dataclass(frozen=True)
class MetaSection:
    """A section that belongs to no tensor. A reader must know an odd `kind`; an even one may be skipped."""

    kind: int
    length: int


@dataclass(frozen=True)
class Span:
    """Where a section lies: bytes [start, stop) of the file."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Directory:
    """All that is known of a file before a section is read.

    `spans[i]` maps the kinds of record i's sections to their places, `meta_spans` those of the metadata; `parts` counts the
    bytes of the directory's own parts, `padding` the zero bytes between sections.
    """

    records: tuple[TensorRecord, ...]
    tables: tuple[Lengths, ...]
    metadata: tuple[MetaSection, ...]
    checksums: tuple[int, ...] = ()
    version: tuple[int, int] = (layout.MAJOR, layout.MINOR)
    parts: dict[str, int] = field(default_factory=dict)
    spans: tuple[dict[str, Span], ...] = ()
    meta_spans: dict[int, Span] = field(default_factory=dict)
    padding: tuple[Span, ...] = ()

    @property
    def dense_bytes(self) -> int:
        """Bytes of all tensors decoded, ties once."""
        return sum(record.dense_bytes for record in self.records)


def pack_directory(
    records: Sequence[TensorRecord], tables: Sequence[Lengths], metadata: Sequence[MetaSection], checksums: Sequence[int],
    flags: int = 0,
) -> tuple[bytes, dict[str, int]]:  # fmt: skip
    """The directory's bytes, for a file with these flags, and how many of them each part takes."""
    compact = bool(flags & layout.COMPACT)
    names = pack_block(pack_names(record.name for record in records), compact=compact, before=USUAL_NAMES)
    rows = pack_block(b"".join(_pack_records(records, compact)), compact=compact)
    parts = {
        "counts": varint(len(records)),
        "names": names,
        "code lengths": _pack_tables(tables),
        "records": rows,
        "metadata": varint(len(metadata)) + b"".join(varint(meta.kind) + varint(meta.length) for meta in metadata),
        "checksums": struct.pack(f"<{len(checksums)}I", *checksums),
    }
    return b"".join(parts.values()), {name: len(part) for name, part in parts.items()}


def unpack_directory(data: bytes, payload: int, version: tuple[int, int], flags: int = 0) -> Directory:
    """Read and validate a whole directory, for a file with these flags whose sections take `payload` bytes from byte 8 on."""
    cursor, compact = Cursor(data, "directory"), bool(flags & layout.COMPACT)
    ends = {}
    count = cursor.varint()
    ends["counts"] = cursor.offset
    listed = unpack_block(cursor, compact=compact, before=USUAL_NAMES)
    if 2 * count > len(listed):  # a name takes two bytes at least: the count is bounded before anything of its size is made
        raise cursor.error(f"{count} tensors in a directory of {len(data)} bytes, whose names have {len(listed)}")
    names = unpack_names(listed, count)
    ends["names"] = cursor.offset
    tables = _unpack_tables(cursor)
    ends["code lengths"] = cursor.offset
    records = _unpack_records(unpack_block(cursor, compact=compact), names, compact)
    _check_announced(records, flags)
    ends["records"] = cursor.offset
    metadata = _unpack_metadata(cursor)
    ends["metadata"] = cursor.offset
    groups = -(-payload // layout.GROUP_BYTES)
    checksums = struct.unpack(f"<{groups}I", cursor.take(4 * groups))
    ends["checksums"] = cursor.offset
    cursor.finish()
    stops = list(ends.values())
    parts = {name: stop - start for name, stop, start in zip(ends, stops, [0, *stops], strict=False)}
    return place(Directory(tuple(records), tuple(tables), metadata, checksums, version, parts), payload)


def place(directory: Directory, payload: int) -> Directory:
    """Add the places of all sections, and check that they fill the payload exactly."""
    spans: list[dict[str, Span]] = []
    padding: list[Span] = []
    offset = layout.HEAD.size
    for record in directory.records:
        mine: dict[str, Span] = {}
        for section in record.sections():
            start = section_start(offset, section)
            if start != offset:
                padding.append(Span(offset, start))
            mine[section.kind] = Span(start, start + section.length)
            offset = start + section.length
        spans.append(mine)
    meta_spans = {}
    for meta in directory.metadata:
        meta_spans[meta.kind] = Span(offset, offset + meta.length)
        offset += meta.length
    if offset != layout.HEAD.size + payload:
        start = layout.HEAD.size
        problem = f"the sections take {offset - start} bytes, the file has {payload} for them, from byte {start} on"
        raise FormatError(f"directory: {problem}")
    return replace(directory, spans=tuple(spans), meta_spans=meta_spans, padding=tuple(padding))


def section_start(offset: int, section: SectionSize) -> int:
    """Where a section begins when the one before it ended at `offset`."""
    return layout.aligned(offset, section.length) if section.raw else offset


def directory_checksum(head: bytes, directory: bytes) -> int:
    """CRC-32 over the head, the directory and the directory's length."""
    return zlib.crc32(struct.pack("<I", len(directory)), zlib.crc32(directory, zlib.crc32(head)))


def _check_announced(records: Sequence[TensorRecord], flags: int) -> None:
    """A reader that does not know a form of record must see that in the head."""
    users = [record.name for record in records if record.one_offset]
    if users and not flags & layout.ONE_OFFSET_USED:
        raise FormatError(f"record of {users[0]!r}: one offset for all channels, which the head's flags do not announce")


def check_head(head: bytes) -> tuple[int, int]:
    """The version (major, minor) of a file that begins with `head`, or an error that says what it is instead."""
    if head[:4] != layout.MAGIC[: len(head)] or not head:
        raise FormatError(f"not a .dcz file: it begins with {head[:4]!r}, not with {layout.MAGIC!r}")
    if len(head) < layout.HEAD.size:
        raise FormatError(f"truncated: the head of a .dcz file has {layout.HEAD.size} bytes, this file has {len(head)}")
    _, major, minor, flags = layout.HEAD.unpack(head)
    if major != layout.MAJOR:
        raise VersionError(f"the file has format version {major}.{minor}, this reader knows {layout.MAJOR}.x")
    if unknown := flags & ~layout.KNOWN_FLAGS:
        raise VersionError(
            f"the file has flags {unknown:#06x}, which this reader (format {layout.MAJOR}.{layout.MINOR}) does not know"
        )
    return major, minor


def _pack_tables(tables: Sequence[Lengths]) -> bytes:
    bits = BitWriter()
    for lengths in tables:
        write_lengths(bits, lengths)
    data = bits.getvalue()
    return varint(len(tables)) + varint(len(data)) + data


def _unpack_tables(cursor: Cursor) -> list[Lengths]:
    count = cursor.varint()
    data = cursor.take(cursor.varint())
    if count > 8 * len(data):
        raise cursor.error(f"{count} code-length tables in {len(data)} bytes")
    try:
        return _read_codes(BitReader(data), count)
    except FormatError as error:
        raise cursor.error(f"code-length tables: {error}") from None


def _read_codes(bits: BitReader, count: int) -> list[Lengths]:
    """`count` tables, each of a complete code."""
    tables: list[Lengths] = []
    symbols = 0
    for _ in range(count):
        code = HuffmanCode.from_lengths(read_lengths(bits, layout.MAX_ALPHABET))
        tables.append(code.lengths)
        symbols += code.alphabet
        if symbols > layout.MAX_ALL_ALPHABETS:
            raise FormatError(f"the alphabets have more than {layout.MAX_ALL_ALPHABETS} symbols together")
    bits.finish()
    return tables


def _pack_records(records: Sequence[TensorRecord], compact: bool) -> Iterator[bytes]:
    near: deque[TensorRecord] = deque(maxlen=layout.SAME_BACK + 1)
    for position, record in enumerate(records):
        yield record.pack(position, near, compact=compact)
        near.append(record)


def _unpack_records(data: bytes, names: list[str], compact: bool) -> list[TensorRecord]:
    cursor = Cursor(data, "records")
    records: list[TensorRecord] = []
    for name in names:
        records.append(read_record(cursor, name, records, compact=compact))
    cursor.finish()
    return records


def _unpack_metadata(cursor: Cursor) -> tuple[MetaSection, ...]:
    cursor.place = "directory"
    sections: dict[int, MetaSection] = {}
    for _ in range(cursor.varint()):
        kind = cursor.varint()
        if kind % 2 and kind not in layout.KNOWN_META:
            raise VersionError(
                f"directory, byte {cursor.offset}: a critical metadata section of kind {kind}, which this reader does not know"
            )
        if kind in sections:
            raise cursor.error(f"metadata of kind {kind} is there twice")
        sections[kind] = MetaSection(kind, cursor.varint())
    return tuple(sections.values())
