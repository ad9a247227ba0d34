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
from deepcompress.coding.cutting import MAX_PLAIN_WIDTH, count_plane, pack_pieces, take_plane, varying_bits
from deepcompress.coding.merge import least_bits
from deepcompress.coding.narrow import narrowed
from deepcompress.coding.streams import Geometry
from deepcompress.container import layout
from deepcompress.container.records import StreamRecord
from deepcompress.container.varint import varint
from deepcompress.tensors.planes import Words, rotated, words_of
from deepcompress.tensors.streams import StreamPlan, Tables, chunk_count, dense_counts

Bytes = NDArray[np.uint8]
Counts = NDArray[np.int64]

_MANTISSA_BITS = 3  # of the most that are coded along with the exponent
_BYTE = 8
_CHUNK_LOG2, _LANES = 17, 4
_FEW = 1 << 12  # with fewer values one lane serves
_COUNTED = 1 << 10  # values from which on bits below the exponent are looked at byte by byte
_SAMPLE = 1 << 15  # values that say whether a plane is worth counting
_WORTH_COUNTING = 0.98  # of a byte's entropy in the sample
_TABLE_BITS = 2  # of a symbol's code length in a table, about
_LEAST_SAVED = 8 * 8  # bits that a plane of equal bits must save
_PLANE_BYTES = 2  # of a plane's width and kind in the record
_CODED_BYTES = 5  # of its table's number and its length, at most but in huge tensors
_CHUNKS_AT_ONCE = 4  # whose symbols are still in the cache when they are encoded


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
    varying = varying_bits(words, kind.rotated, (1 << top.shift) - 1)
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


def encode_planes(elements: NDArray[Any], plan: PlanesPlan, tables: Tables) -> tuple[StreamRecord, list[Bytes]]:
    """The record and the section, in pieces, of `elements`, (n,), cut as planned; new tables are added to `tables`."""
    words = elements.view(plan.words.dtype)
    geometry = _geometry(len(words))
    parameters, section = varint(len(plan.planes)), []
    for plane in plan.planes:
        said, pieces = _encode_plane(words, plan.words.rotated, plane, geometry, tables)
        parameters += said
        section += pieces
    return StreamRecord(layout.CODEC_PLANES, sum(map(len, section)), geometry.pack(), parameters), section


def _encode_plane(
    words: NDArray[Any], rotate: bool, plane: Plane, geometry: Geometry, tables: Tables
) -> tuple[bytes, list[Bytes]]:  # fmt: skip
    """A plane's parameters and bytes."""
    if plane.constant is not None:
        return bytes([plane.width, layout.PLANE_CONSTANT]) + varint(plane.constant), []
    coded = plane.coded
    if coded is not None and plane.counts is not None and coded.tables != len(tables.codes):  # another plane brought a table
        coded = tables.plan_huffman(plane.counts, 1 << plane.width)
    if coded is None or coded.code is None or plane.counts is None:
        return bytes([plane.width, layout.PLANE_PLAIN]), pack_pieces(words, rotate, plane.shift, plane.width)
    tables.adopt(coded)
    coder, base, alphabet = narrowed(coded.code, plane.counts)

    def encode(first: int, last: int) -> list[tuple[Bytes, Counts]]:
        """Taken and encoded while symbols are in the cache."""
        made = []
        for chunk in range(first, last, _CHUNKS_AT_ONCE):
            end = min(chunk + _CHUNKS_AT_ONCE, last)
            run = words[chunk << geometry.chunk_log2 : end << geometry.chunk_log2]
            symbols = take_plane(run, rotate, plane.shift, plane.width, base, alphabet)
            made.append(coder.encode_chunks(symbols, counts[chunk:end], geometry.lanes))
        return made

    counts = dense_counts(len(words), geometry.chunk_log2)
    made = [piece for pieces in pool.share(len(counts), encode) for piece in pieces]
    pieces = [data for data, _ in made]
    if len(counts) > 1:
        pieces.insert(0, np.concatenate([sizes for _, sizes in made]).astype("<u4").view(np.uint8))
    size = sum(map(len, pieces))
    return bytes([plane.width, layout.PLANE_CODED]) + coded.parameters + varint(size), pieces
