"""Opens a file: everything that the directory says is checked before a section is read or memory for a tensor is taken."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding import pool
from deepcompress.container import layout
from deepcompress.container.block import unpack_block
from deepcompress.container.directory import Span, check_head, directory_checksum, unpack_directory
from deepcompress.container.source import FileSource, Source
from deepcompress.container.varint import Cursor
from deepcompress.errors import FormatError

_VERIFIED_AT_ONCE = 16  # groups


class Reader:
    """A well-formed file: its directory, and its sections on demand, each checked against its checksums when it is read.

    Raises:
        FormatError: the file is of another format, truncated, or altered.
        VersionError: the file needs a newer reader.
        StorageError: the file cannot be read.
    """

    def __init__(self, source: FileSource) -> None:
        self.source = Source(source)
        self._verified = False  # all checksums hold, and the bytes are in memory, where they stay as they are
        try:
            head, directory, self.payload = _read_ends(self.source)
            self.version = check_head(head)
            self.flags: int = layout.HEAD.unpack(head)[-1]
            self.directory = unpack_directory(directory, self.payload, self.version, self.flags)
            self._check_padding()
        except FormatError as error:
            self.close()
            raise type(error)(f"{self.source.name}: {error}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.source.close()

    def section(self, span: Span) -> NDArray[np.uint8]:
        """The bytes of a section, after the checksums of the 64 KiB groups that it touches."""
        return np.frombuffer(self._checked(span), np.uint8)

    def metadata(self, kind: int) -> bytes | None:
        """The content of a metadata section, or None where the file has none of this kind."""
        span = self.directory.meta_spans.get(kind)
        if span is None:
            return None
        cursor = Cursor(bytes(self._checked(span)), f"{self.source.name}: metadata of kind {kind}")
        content = unpack_block(cursor, compact=bool(self.flags & layout.COMPACT))
        cursor.finish()
        return content

    def verify(self) -> None:
        """Check every group's checksum. Raises FormatError naming the first that differs."""
        groups = len(self.directory.checksums)
        pool.share(groups, self._check_groups, _VERIFIED_AT_ONCE)
        self._verified = self.source.in_memory

    def _check_groups(self, first: int, last: int) -> None:
        for group in range(first, last, _VERIFIED_AT_ONCE):
            self._read_groups(group, min(group + _VERIFIED_AT_ONCE, last))

    def _checked(self, span: Span) -> memoryview:
        """The bytes of `span`, after a look at the checksums of the groups around it."""
        if span.length == 0:
            return memoryview(b"")
        if self._verified:
            return memoryview(self.source.read(span.start, span.length))
        base, group = layout.HEAD.size, layout.GROUP_BYTES
        first, last = (span.start - base) // group, (span.stop - 1 - base) // group
        start = base + first * group
        return self._read_groups(first, last + 1)[span.start - start : span.stop - start]

    def _read_groups(self, first: int, last: int) -> memoryview:
        """Whole groups [first, last), each of which fits its checksum."""
        base, group = layout.HEAD.size, layout.GROUP_BYTES
        start, stop = base + first * group, min(base + last * group, base + self.payload)
        data = memoryview(self.source.read(start, stop - start))
        for index in range(first, last):
            piece = data[(index - first) * group : (index - first + 1) * group]
            if (found := zlib.crc32(piece)) != self.directory.checksums[index]:
                where = base + index * group
                raise FormatError(
                    f"{self.source.name}: bytes {where} to {min(where + group, base + self.payload)} are altered: "
                    f"their checksum is {found:#010x}, the directory says {self.directory.checksums[index]:#010x}"
                )
        return data

    def _check_padding(self) -> None:
        for span in self.directory.padding:
            if any(self.source.read(span.start, span.length)):
                raise FormatError(f"padding: bytes {span.start} to {span.stop} are not zero")


def _read_ends(source: Source) -> tuple[bytes, bytes, int]:
    """(head, directory, bytes of the sections), once head and trailer hold."""
    head = bytes(source.read(0, layout.HEAD.size))
    check_head(head)
    smallest = layout.HEAD.size + layout.TRAILER.size
    if source.size < smallest:
        raise FormatError(f"truncated: a .dcz file has at least {smallest} bytes, this has {source.size}")
    trailer_at = source.size - layout.TRAILER.size
    length, checksum = layout.TRAILER.unpack(source.read(trailer_at, layout.TRAILER.size))
    payload = trailer_at - length - layout.HEAD.size
    if payload < 0:
        raise FormatError(f"truncated or altered: the trailer says {length} bytes of directory, the file has {source.size}")
    directory = bytes(source.read(trailer_at - length, length))
    if (actual := directory_checksum(head, directory)) != checksum:
        raise FormatError(f"truncated or altered: the directory's checksum is {actual:#010x}, the trailer says {checksum:#010x}")
    return head, directory, payload
