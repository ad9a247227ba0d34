"""Values that were cut into planes, back again; `cutting` says how the planes are laid out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding import pool
from deepcompress.coding.bits import byte_count, sealed, symbol_dtype
from deepcompress.coding.planes import join_planes, put_fields, put_plane, rotate_back
from deepcompress.coding.streams import Geometry, Stream, open_stream
from deepcompress.container import layout
from deepcompress.container.directory import Lengths
from deepcompress.container.records import StreamRecord
from deepcompress.container.varint import Cursor
from deepcompress.errors import FormatError
from deepcompress.tensors.streams import chunk_count, dense_counts, open_huffman

Bytes = NDArray[np.uint8]

MAX_PLAIN_WIDTH = 56  # what eight bytes hold from any bit on
_AT_ONCE = 1 << 17  # words that are put together while they are still in the cache


@dataclass(frozen=True)
class Words:
    """How a type's elements are cut: unsigned words of `bits` bits, `per_element` of them; a float's exponent bits, or 0."""

    bits: int
    per_element: int
    exponent: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(f"<u{self.bits // 8}")

    @property
    def rotated(self) -> bool:
        """Floats have their sign put last, behind the mantissa."""
        return self.exponent > 0


_FLOATS = {
    "float16": Words(16, 1, 5),
    "bfloat16": Words(16, 1, 8),
    "float32": Words(32, 1, 8),
    "float64": Words(64, 1, 11),
    "complex32": Words(16, 2, 5),
    "complex64": Words(32, 2, 8),
    "complex128": Words(64, 2, 11),
}


def rotated(word: int, kind: Words) -> int:
    """A word with its sign put last, if it has one."""
    return (word << 1 & (1 << kind.bits) - 1) | word >> kind.bits - 1 if kind.rotated else word


def words_of(stored: str) -> Words:
    """How elements of torch's dtype `stored` are cut."""
    return _FLOATS.get(stored) or Words(8 * layout.DTYPE_OF_NAME[stored].itemsize, 1, 0)


@dataclass(frozen=True, eq=False)
class _Part:
    """A plane of a file: its bits, and what they are read from: a number, a stream, or a bit string."""

    shift: int
    width: int
    content: int | Stream | Bytes

    def symbols(self, first: int, last: int, count: int) -> NDArray[Any]:
        """What a stream has for the chunks [first, last), `count` words."""
        symbols = np.empty(count, symbol_dtype(1 << self.width))
        if isinstance(self.content, Stream):
            self.content.decode(first, last, symbols)
        return symbols


@dataclass(frozen=True, eq=False)
class _Parts:
    """All planes of some values."""

    base: int  # the constant ones as they lie in a word
    coded: list[_Part]
    plain: list[_Part]
    rotated: bool

    @classmethod
    def of(cls, parts: Sequence[_Part], kind: Words) -> _Parts:
        base = reduce(or_, (part.content << part.shift for part in parts if isinstance(part.content, int)), 0)
        coded = [part for part in parts if isinstance(part.content, Stream)]
        plain = [part for part in parts if isinstance(part.content, np.ndarray)]
        return cls(base, coded, plain, kind.rotated)

    def fill(self, first: int, last: int, start: int, words: NDArray[Any]) -> None:
        """The words of the chunks [first, last), which begin with number `start`."""
        if len(self.coded) == len(self.plain) == 1:
            (coded,), (plain,) = self.coded, self.plain
            symbols = coded.symbols(first, last, len(words))
            data: Any = plain.content
            join_planes(symbols, coded.shift, data, start, plain.width, plain.shift, self.base, self.rotated, words)
            return
        words[:] = words.dtype.type(self.base)
        for part in self.coded:
            put_plane(part.symbols(first, last, len(words)), part.shift, words)
        for part in self.plain:
            data = part.content
            put_fields(data, start, part.width, part.shift, words)
        if self.rotated:
            rotate_back(words)


def decode_planes(record: StreamRecord, section: Bytes, tables: Sequence[Lengths], count: int, stored: str) -> NDArray[Any]:
    """`count` elements of type `stored`, as bytes, (bytes,); writable.

    Raises:
        FormatError: a section that is not what the record says.
    """
    kind, geometry = words_of(stored), Geometry.unpack(record.geometry)
    total = count * kind.per_element
    parts = _Parts.of(list(_open_parts(record, sealed(section), tables, total, kind)), kind)
    words = np.empty(total, kind.dtype)
    size = 1 << geometry.chunk_log2
    step = max(_AT_ONCE >> geometry.chunk_log2, 1)  # chunks, of which there are as many as words if the file says so

    def work(first: int, last: int) -> None:
        for chunk in range(first, last, step):
            end = min(chunk + step, last)
            parts.fill(chunk, end, chunk * size, words[chunk * size : end * size])

    pool.share(chunk_count(total, geometry.chunk_log2), work)
    return words.view(np.uint8)


def coded_planes(parameters: bytes) -> Iterator[int]:
    """The tables of code lengths that a section's planes use, as far as its parameters make sense."""
    cursor = Cursor(parameters, "codec parameters")
    for _ in range(cursor.varint()):
        cursor.byte()
        plane = cursor.byte()
        if plane == layout.PLANE_CONSTANT:
            cursor.varint()
        elif plane == layout.PLANE_CODED:
            yield cursor.varint()
            cursor.varint()


def _open_parts(
    record: StreamRecord, section: Bytes, tables: Sequence[Lengths], total: int, kind: Words
) -> Iterator[_Part]:  # fmt: skip
    """The planes, from the top; together they fill the words and the section."""
    cursor, shift, at = Cursor(record.parameters, "codec parameters"), kind.bits, 0
    for _ in range(cursor.varint()):
        width = cursor.byte()
        if not 1 <= width <= shift:
            raise cursor.error(f"a plane of {width} bits, {shift} of {kind.bits} are left")
        shift -= width
        content, size = _open_content(cursor, record, section[at:], tables, total, width)
        at += size
        yield _Part(shift, width, content)
    if shift:
        raise cursor.error(f"the planes leave {shift} of {kind.bits} bits")
    cursor.finish()
    if at != len(section):
        raise FormatError(f"the planes take {at} bytes, the section has {len(section)}")


def _open_content(
    cursor: Cursor, record: StreamRecord, rest: Bytes, tables: Sequence[Lengths], total: int, width: int
) -> tuple[int | Stream | Bytes, int]:
    """What a plane is read from, and its bytes at the beginning of `rest`."""
    kind = cursor.byte()
    if kind == layout.PLANE_CONSTANT:
        value = cursor.varint()
        if value >> width:
            raise cursor.error(f"the constant {value} in a plane of {width} bits")
        return value, 0
    if kind == layout.PLANE_PLAIN:
        return _open_fields(cursor, rest, total, width), byte_count(total * width)
    if kind != layout.PLANE_CODED:
        raise cursor.error(f"unknown kind of plane {kind}")
    if width > layout.MAX_CODED_PLANE:
        raise cursor.error(f"a coded plane of {width} bits, at most {layout.MAX_CODED_PLANE} are allowed")
    coder = open_huffman(cursor, tables, 1 << width)
    size = cursor.varint()
    if size > len(rest):
        raise cursor.error(f"a plane of {size} bytes, {len(rest)} are left")
    geometry = Geometry.unpack(record.geometry)
    chunks = chunk_count(total, geometry.chunk_log2)
    if chunks > 1 and 4 * chunks > size:
        raise FormatError(f"a table of {chunks} chunks takes {4 * chunks} bytes, the plane has {size}")
    counts = dense_counts(total, geometry.chunk_log2)
    return open_stream(rest[:size], coder, geometry.lanes, counts=counts, chunks=chunks, total=total), size


def _open_fields(cursor: Cursor, rest: Bytes, total: int, width: int) -> Bytes:
    """A plain plane's bit string."""
    if width > MAX_PLAIN_WIDTH:
        raise cursor.error(f"a plain plane of {width} bits, at most {MAX_PLAIN_WIDTH} are allowed")
    size = byte_count(total * width)
    if size > len(rest):
        raise cursor.error(f"{total} fields of {width} bits take {size} bytes, {len(rest)} are left")
    if (used := total * width & 7) and rest[size - 1] >> used:
        last = f"its last byte is {rest[size - 1]:#04x}"
        raise FormatError(f"the last {8 - used} bits of a plane are padding and must be zero, {last}")
    return rest[:size]
