"""Values that no codebook stands for, without loss: cut into planes, of which each is coded if that makes it smaller.

    section       plane 0 | plane 1 | ...         from the most significant bits down
    plain         a bit string of fields          constant: nothing          coded: a stream, as of codec 2
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding import pool
from deepcompress.coding.bits import byte_count, sealed, symbol_dtype
from deepcompress.coding.merge import least_bits
from deepcompress.coding.planes import (
    MAX_PLAIN_WIDTH,
    count_plane,
    pack_plane,
    put_fields,
    put_plane,
    rotate_back,
    take_plane,
    varying_bits,
)
from deepcompress.coding.streams import Geometry, Stream, encode_stream, open_stream
from deepcompress.container import layout
from deepcompress.container.directory import Lengths
from deepcompress.container.records import StreamRecord
from deepcompress.container.varint import Cursor, varint
from deepcompress.errors import FormatError
from deepcompress.tensors.streams import StreamPlan, Tables, chunk_count, dense_counts, open_huffman

Bytes = NDArray[np.uint8]
Counts = NDArray[np.int64]

_MANTISSA_BITS = 3  # of the most that are coded along with the exponent
_BYTE = 8
_CHUNK_LOG2, _LANES = 17, 4
_AT_ONCE = 1 << 17  # words that are put together while they are still in the cache
_FEW = 1 << 12  # with fewer values one lane serves
_COUNTED = 1 << 10  # values from which on bits below the exponent are looked at byte by byte
_SAMPLE = 1 << 15  # values that say whether a plane is worth counting
_WORTH_COUNTING = 0.98  # of a byte's entropy in the sample
_TABLE_BITS = 2  # of a symbol's code length in a table, about
_LEAST_SAVED = 8 * 8  # bits that a plane of equal bits must save
_PLANE_BYTES = 2  # of a plane's width and kind in the record
_CODED_BYTES = 5  # of its table's number and its length, at most but in huge tensors


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


@dataclass(frozen=True)
class Plane:
    """Bits [shift, shift + width) of each word: all equal to `constant`; or `coded`, with `counts` of them; or plain.

    `bits` are what they take, a table of code lengths and what a record says of them but for width and kind included.
    """

    shift: int
    width: int
    bits: int
    constant: int | None = None
    coded: StreamPlan | None = None
    counts: Counts | None = None


@dataclass(frozen=True)
class PlanesPlan:
    """The planes of some values, from the top, and the bits that they take."""

    words: Words
    planes: tuple[Plane, ...]
    bits: int


def plan_planes(elements: NDArray[Any], stored: str, tables: Tables) -> PlanesPlan:
    """The cheapest way found to cut `elements`, (n,) of type `stored`, n > 0."""
    kind = words_of(stored)
    words = elements.view(kind.dtype)
    top = _top_plane(words, kind, tables)
    varying = varying_bits(words, kind.rotated)
    planes = [top]
    for high, low in _runs(varying, top.shift, _LEAST_SAVED // len(words)):
        planes += _lower_planes(words, kind, high, low, varying, tables)
    merged = tuple(_merged(planes))
    record = len(varint(elements.nbytes)) + 3 + _PLANE_BYTES * len(merged)  # length, geometry, two counts; planes
    return PlanesPlan(kind, merged, sum(plane.bits for plane in merged) + 8 * record)


def _top_plane(words: NDArray[Any], kind: Words, tables: Tables) -> Plane:
    """The exponent with as many bits of the mantissa as make the smallest sum; of integers the highest byte."""
    least = kind.exponent if kind.rotated else _BYTE
    most = min(least + _MANTISSA_BITS, kind.bits) if kind.rotated else least
    counts = {most: count_plane(words, kind.rotated, kind.bits - most, most)}
    for width in range(most - 1, least - 1, -1):
        counts[width] = counts[width + 1].reshape(-1, 2).sum(axis=1)
    costs = {width: _estimate(found) + (kind.bits - width) * len(words) for width, found in counts.items()}
    width = min(costs, key=lambda width: (costs[width], width))
    return _decide(Plane(kind.bits - width, width, width * len(words)), counts[width], tables)


def _estimate(counts: Counts) -> float:
    """Bits of a coded plane, about."""
    return least_bits(counts) + _TABLE_BITS * int(np.count_nonzero(counts))


def _runs(varying: int, top: int, longest: int) -> Iterator[tuple[int, int]]:
    """The bits below `top` as runs [low, high), from the top: bits that vary, or more than `longest` that are equal everywhere.

    Shorter equal runs are not worth a plane and go with what varies.
    """
    text = f"{varying & (1 << top) - 1:0{top}b}" if top else ""
    equal = [match.span() for match in re.finditer("0+", text) if len(match[0]) > longest]
    edges = sorted({0, top, *(edge for span in equal for edge in span)})
    yield from ((top - start, top - stop) for start, stop in pairwise(edges))


def _lower_planes(words: NDArray[Any], kind: Words, high: int, low: int, varying: int, tables: Tables) -> Iterator[Plane]:
    """A run of bits below the top plane: constant, or, where there are many words, in bytes of which each may be worth coding."""
    if not varying >> low & (1 << high - low) - 1:
        value = int(rotated(int(words[0]), kind)) >> low & (1 << high - low) - 1
        yield Plane(low, high - low, 8 * len(varint(value)), constant=value)
        return
    step = _BYTE if len(words) >= _COUNTED else MAX_PLAIN_WIDTH
    edges = [*range(low, high, step), high][::-1]
    for top, shift in pairwise(edges):
        plane = Plane(shift, top - shift, (top - shift) * len(words))
        yield _lower_plane(words, kind, plane, tables) if step == _BYTE else plane


def _lower_plane(words: NDArray[Any], kind: Words, plane: Plane, tables: Tables) -> Plane:
    """Most of these are noise: a sample says so before all are counted."""
    sample = words[:: max(len(words) // _SAMPLE, 1)]
    if least_bits(count_plane(sample, kind.rotated, plane.shift, plane.width)) > _WORTH_COUNTING * plane.width * len(sample):
        return plane
    return _decide(plane, count_plane(words, kind.rotated, plane.shift, plane.width), tables)


def _decide(plane: Plane, counts: Counts, tables: Tables) -> Plane:
    """A plain plane, or what is smaller: a constant or coded one."""
    used = np.flatnonzero(counts)
    if len(used) == 1:
        return Plane(plane.shift, plane.width, 8 * len(varint(int(used[0]))), constant=int(used[0]))
    words, counts = int(counts.sum()), counts[: used[-1] + 1]
    if least_bits(counts) + _frame_bits(words) >= plane.bits:  # not even with a table that is there already
        return plane
    plan = tables.plan_huffman(counts, 1 << plane.width)
    if plan is not None and (bits := plan.total + _frame_bits(words)) < plane.bits:
        return Plane(plane.shift, plane.width, bits, coded=plan, counts=counts)
    return plane


def _geometry(words: int) -> Geometry:
    return Geometry(_CHUNK_LOG2, 1 if words < _FEW else _LANES)


def _frame_bits(words: int) -> int:
    """What a coded plane takes besides codewords and a table: lengths of chunks and lanes, the lanes' last bytes, its record."""
    chunks, lanes = chunk_count(words, _CHUNK_LOG2), _geometry(words).lanes
    return 8 * (_CODED_BYTES + chunks * (4 * (lanes - (chunks == 1)) + lanes))


def _merged(planes: Sequence[Plane]) -> Iterator[Plane]:
    """Neighbours that are both plain become one."""
    waiting: Plane | None = None
    for plane in planes:
        plain = plane.counts is None and plane.constant is None
        if waiting is not None and plain and waiting.width + plane.width <= MAX_PLAIN_WIDTH:
            waiting = Plane(plane.shift, waiting.width + plane.width, waiting.bits + plane.bits)
            continue
        if waiting is not None:
            yield waiting
        waiting = plane if plain else None
        if not plain:
            yield plane
    if waiting is not None:
        yield waiting


def encode_planes(elements: NDArray[Any], plan: PlanesPlan, tables: Tables) -> tuple[StreamRecord, Bytes]:
    """The record and the section of `elements`, (n,), cut as planned; tables that they bring are added to `tables`."""
    words = elements.view(plan.words.dtype)
    geometry = _geometry(len(words))
    parts = [_encode_plane(words, plan.words.rotated, plane, geometry, tables) for plane in plan.planes]
    parameters = varint(len(parts)) + b"".join(parameters for parameters, _ in parts)
    section = np.concatenate([data for _, data in parts])
    return StreamRecord(layout.CODEC_PLANES, len(section), geometry.pack(), parameters), section


def _encode_plane(
    words: NDArray[Any], rotate: bool, plane: Plane, geometry: Geometry, tables: Tables
) -> tuple[bytes, Bytes]:  # fmt: skip
    """A plane's parameters and bytes."""
    if plane.constant is not None:
        return bytes([plane.width, layout.PLANE_CONSTANT]) + varint(plane.constant), np.zeros(0, np.uint8)
    coded = plane.coded
    if coded is not None and plane.counts is not None and coded.tables != len(tables.codes):  # another plane brought a table
        coded = tables.plan_huffman(plane.counts, 1 << plane.width)
    if coded is None:
        return bytes([plane.width, layout.PLANE_PLAIN]), pack_plane(words, rotate, plane.shift, plane.width)
    tables.adopt(coded)
    symbols = take_plane(words, rotate, plane.shift, plane.width)
    counts = dense_counts(len(words), geometry.chunk_log2)
    data = encode_stream(symbols, coded.coder, geometry.lanes, counts, counts_known=True)
    return bytes([plane.width, layout.PLANE_CODED]) + coded.parameters + varint(len(data)), data


@dataclass(frozen=True, eq=False)
class _Part:
    """A plane of a file: its bits, and what they are read from: a number, a stream, or a bit string."""

    shift: int
    width: int
    content: int | Stream | Bytes

    def put(self, first: int, last: int, start: int, words: NDArray[Any]) -> None:
        """Set the plane of the chunks [first, last), whose words begin with number `start`."""
        if isinstance(self.content, int):
            words |= words.dtype.type(self.content << self.shift)
        elif isinstance(self.content, Stream):
            symbols = np.empty(len(words), symbol_dtype(1 << self.width))
            self.content.decode(first, last, symbols)
            put_plane(symbols, self.shift, words)
        else:
            put_fields(self.content, start, self.width, self.shift, words)


def decode_planes(record: StreamRecord, section: Bytes, tables: Sequence[Lengths], count: int, stored: str) -> NDArray[Any]:
    """`count` elements of type `stored`, as bytes, (bytes,); writable.

    Raises:
        FormatError: a section that is not what the record says.
    """
    kind, geometry = words_of(stored), Geometry.unpack(record.geometry)
    total = count * kind.per_element
    parts = list(_open_parts(record, sealed(section), tables, total, kind))
    words = np.zeros(total, kind.dtype)
    size = 1 << geometry.chunk_log2
    step = max(_AT_ONCE >> geometry.chunk_log2, 1)  # chunks, of which there are as many as words if the file says so

    def work(first: int, last: int) -> None:
        for chunk in range(first, last, step):
            end = min(chunk + step, last)
            run = words[chunk * size : end * size]
            for part in parts:
                part.put(chunk, end, chunk * size, run)
            if kind.rotated:
                rotate_back(run)

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
