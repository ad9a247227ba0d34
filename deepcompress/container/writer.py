"""Writes a file front to back: the head, the sections as they come, the directory, the trailer."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from deepcompress.container import layout
from deepcompress.container.block import pack_block
from deepcompress.container.directory import (
    Lengths,
    MetaSection,
    directory_checksum,
    pack_directory,
    section_start,
)
from deepcompress.container.records import TensorRecord

Piece = bytes | bytearray | memoryview | NDArray[np.uint8]
Section = Piece | list[NDArray[np.uint8]]  # whole or in pieces


class Writer:
    """Takes tensors one by one and keeps none of them, so that a file may be larger than memory.

    `flags` and `minor`, the least version that knows the file, are of the head, which is written before any record.
    """

    def __init__(self, file: BinaryIO, flags: int = 0, minor: int = layout.PLAIN_MINOR) -> None:
        self._file = file
        flagged = layout.COMPACT_MINOR if flags & layout.COMPACT else layout.FLAGS_MINOR
        minor = max(minor, flagged if flags else layout.PLAIN_MINOR)
        self._flags = flags
        self._head = layout.HEAD.pack(layout.MAGIC, layout.MAJOR, minor, flags)
        self._offset = len(self._head)
        self._records: list[TensorRecord] = []
        self._metadata: list[MetaSection] = []
        self._checksums = GroupChecksums()
        file.write(self._head)

    def add(self, record: TensorRecord, sections: Mapping[str, Section]) -> None:
        """Write a tensor's sections, keyed by kind as `record.sections()` names them."""
        for section in record.sections():
            given: Any = sections[section.kind]
            pieces = [memoryview(piece) for piece in (given if isinstance(given, list) else [given])]
            if (size := sum(map(len, pieces))) != section.length:
                raise ValueError(f"{record.name}: {section.kind} has {size} bytes, its record says {section.length}")
            self._write(bytes(section_start(self._offset, section) - self._offset))
            for piece in pieces:
                self._write(piece)
        self._records.append(record)

    def add_metadata(self, kind: int, content: bytes) -> None:
        """Write a metadata section, block-coded. After the last tensor."""
        block = pack_block(content, compact=bool(self._flags & layout.COMPACT))
        self._metadata.append(MetaSection(kind, len(block)))
        self._write(block)

    def finish(self, tables: Sequence[Lengths]) -> None:
        """Write the directory and the trailer: the file is whole."""
        directory, _ = pack_directory(self._records, tables, self._metadata, self._checksums.finish(), self._flags)
        self._file.write(directory)
        self._file.write(layout.TRAILER.pack(len(directory), directory_checksum(self._head, directory)))

    def _write(self, content: bytes | memoryview) -> None:
        self._file.write(content)
        self._checksums.update(content)
        self._offset += len(content)


class GroupChecksums:
    """CRC-32 of each 64 KiB group of the bytes that pass through."""

    def __init__(self) -> None:
        self._done: list[int] = []
        self._crc = 0
        self._filled = 0

    def update(self, content: bytes | memoryview) -> None:
        """Take the next bytes."""
        view = memoryview(content)
        while len(view):
            piece = view[: layout.GROUP_BYTES - self._filled]
            self._crc = zlib.crc32(piece, self._crc)
            self._filled += len(piece)
            view = view[len(piece) :]
            if self._filled == layout.GROUP_BYTES:
                self._close_group()

    def finish(self) -> list[int]:
        """The checksums of all groups, the last one perhaps not full."""
        if self._filled:
            self._close_group()
        return self._done

    def _close_group(self) -> None:
        self._done.append(self._crc)
        self._crc = self._filled = 0
