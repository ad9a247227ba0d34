"""One file for each rule of FORMAT.md that a file can break: refused, with a text that says where and what."""

from __future__ import annotations

import math
import re
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

import deepcompress as dc
from deepcompress.container import layout
from deepcompress.container.reader import Reader
from deepcompress.errors import FormatError, VersionError
from tests.attacks.compact import COMPACT
from tests.reference.writer import (
    Entry,
    Parts,
    Raw,
    build,
    coded,
    coded_plane,
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

F32, F16, I64, U8, BOOL, F64 = 0, 2, 4, 8, 12, 1
V12 = b"\xdcDCZ\1\2\1\0"  # announces records with one offset
LENGTHS = [1, 2, 3, 3]


def f32s(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def raw(name: str = "b", data: bytes = b"\0\0\x80?", dtype: int = F32, sides: Sequence[int] = (1,)) -> Entry:
    return Entry(name, bytes([0, dtype]) + shape(*sides) + raw_stream(), [Raw(data)])


def record(head: Sequence[int], *rest: bytes) -> Entry:
    return Entry("w", bytes(head) + b"".join(rest))


def shared(
    symbols: Sequence[int] = (0, 1, 2, 3),
    centroids: bytes = f32s(-1.5, 0.25, 2.0),
    *,
    k: int = 3,
    section: bytes | None = None,
    number: bytes = b"\0",
    geometry: Sequence[int] = (31, 0),
    codec: int = 2,
) -> Entry:
    section = pack(huffman(symbols, LENGTHS)) if section is None else section
    head = bytes([1, F32]) + shape(len(symbols)) + varint(k)
    return Entry("w", head + stream(codec, len(section), number, *geometry), [Raw(centroids), section])


def sparse(
    gaps: Sequence[int] | bytes,
    values: Sequence[int] | bytes,
    numel: int,
    *,
    count: int | None = None,
    nonzeros: int | None = None,
    gap_bits: int = 2,
    g: int = 31,
    value_g: int = 31,
    gap_codec: int = 1,
) -> Entry:
    gap_bytes = gaps if isinstance(gaps, bytes) else pack("".join(low(s, 2) for s in gaps))
    value_bytes = values if isinstance(values, bytes) else pack("".join(low(s, 2) for s in values))
    nonzeros = len(values) if nonzeros is None else nonzeros
    head = bytes([5, F32]) + shape(numel) + varint(3) + varint(nonzeros)
    head += bytes([gap_bits]) + varint((len(gaps) if count is None else count) - nonzeros)
    head += stream(gap_codec, len(gap_bytes), fixed(2), g) if gap_codec else raw_stream()
    return Entry("w", head + stream(1, len(value_bytes), fixed(2), value_g), [Raw(f32s(-1.5, 0.25, 2.0)), gap_bytes, value_bytes])


def affine(scale: float = 1.0, symbols: bytes = b"\0", *, axis: int = 0, width: int = 4, sides: Sequence[int] = (1,)) -> Entry:
    head = bytes([2, F32]) + shape(*sides) + varint(axis) + stream(1, len(symbols), fixed(width))
    return Entry("w", head, [Raw(f32s(scale) + u32(0)), symbols])


def channels(symbols: bytes = b"\x21", *, offsets: bytes = u32(0), axis: int = 1) -> Entry:
    """Two channels of one weight each, with one offset."""
    head = bytes([0x22, F32]) + shape(2) + varint(axis) + stream(1, len(symbols), fixed(4))
    return Entry("w", head, [Raw(f32s(1.0, 2.0) + offsets), symbols])


def cut(
    parameters: bytes, section: bytes, dtype: int = U8, sides: Sequence[int] = (4,), *, geometry: Sequence[int] = (31, 0)
) -> Entry:
    head = bytes([0, dtype]) + shape(*sides)
    return Entry("w", head + stream(3, len(section), parameters, *geometry), [section])


def levels(
    parameters: Sequence[int] | bytes = (2, 2_048, 0),
    section: bytes = b"\x89\5",
    *,
    sides: Sequence[int] = (2, 3),
    geometry: Sequence[int] = (20, 0),
) -> Entry:
    """By context, and well-formed: levels 0, 1, 0, 0, 1, -2 of three centroids."""
    given = parameters if isinstance(parameters, bytes) else b"".join(map(varint, parameters))
    head = bytes([1, F32]) + shape(*sides) + varint(3) + stream(4, len(section), given, *geometry)
    return Entry("w", head, [Raw(f32s(-2.0, -1.0, 1.0)), section])


def affine_levels(*parameters: int, section: bytes = b"", numel: int = 1) -> Entry:
    """By context, on a grid; no bytes are as many answers yes as there may be."""
    head = bytes([2, F32]) + shape(numel) + b"\0" + stream(4, len(section), b"".join(map(varint, parameters)), 20)
    return Entry("w", head, [Raw(f32s(1.0) + u32(0)), section])


def names(content: bytes, count: int = 1) -> Parts:
    return Parts([raw() for _ in range(count)], names=plain(content))


def tables(bits: str, count: int = 1) -> Parts:
    return Parts([raw()], [""] * count, table_section=pack(bits))


LARGE = raw("c", bytes(5000), U8, (5000,))
ABSENT = "1111" + gamma(layout.MAX_ALPHABET - 2)
EXPANDING = b"\0\0" + varint(65_535) + b"a" * 65_535 + b"".join(varint(65_534) + b"\0\1" + bytes([c]) for c in range(98, 98 + 3))

# What is wrong with the whole file is found when it is opened.
WHOLE: dict[str, tuple[Parts, str]] = {
    "magic": (Parts([raw()], head=b"\x89DCZ\1\0\0\0"), r"not a \.dcz file: it begins with b'\\x89DCZ'"),
    "major version": (Parts([raw()], head=b"\xdcDCZ\2\0\0\0"), r"format version 2\.0, this reader knows 1\.x"),
    "flags": (Parts([raw()], head=b"\xdcDCZ\1\0\0\x80"), r"flags 0x8000"),
    "flag 0x0004": (Parts([raw()], head=b"\xdcDCZ\1\4\7\0"), r"flags 0x0004, which this reader \(format 1\.4\) does not know"),
    "directory checksum": (Parts([raw()], wrong_crc=1), r"directory's checksum is 0x[0-9a-f]{8}, the trailer says"),
    "a directory of 2 GiB": (Parts([raw()], directory_size=2**31), r"the trailer says 2147483648 bytes of directory, the file"),
    "a directory of 4 GiB": (Parts([raw()], directory_size=2**32 - 1), r"says 4294967295 bytes"),
    "a directory that begins early": (Parts([raw()], directory_size=23), r"directory's checksum is 0x[0-9a-f]{8}, the"),
    "2**62 tensors": (Parts([raw()], count=2**62), r"directory, byte \d+: 4611686018427387904 tensors in a directory"),
    "a tensor without a name": (Parts([raw()], count=2), r"names, byte 4: 1 bytes are needed, 0 are left"),
    "a gap behind the sections": (Parts([raw()], extra_payload=b"\0"), r"sections take 4 bytes, the file has 5 for them"),
    "sections past their end": (Parts([raw(data=b"\0\0\0")]), r"sections take 4 bytes, the file has 3 for them"),
    "a section past the end": (
        Parts([record([0, U8], shape(4), stream(3, 2**62, planes(plain_plane(8))))]),
        r"the sections take 4611686018427387904 bytes, the file has 0 for them, from byte 8 on",
    ),
    "sections of 2**64 bytes": (
        Parts([Entry(name, raw("w", dtype=U8, sides=(2**62,)).record) for name in "abcd"]),
        r"the sections take 18446744073709551672 bytes, the file has 0",
    ),
    "sections that overlap": (
        Parts([raw("a", b"", U8, (4,)), raw("b", b"\1\2\3\4", U8, (4,))]), r"the sections take 8 bytes, the file has 4 for them",
    ),
    "more directory": (Parts([raw()], extra_directory=b"\0"), r"directory, byte \d+: 1 bytes are left over"),
    "padding": (Parts([raw(), LARGE], fill=b"\1"), r"padding: bytes 12 to 64 are not zero"),
    "empty name": (names(b"\0\0\0"), r"the name '' is empty"),
    "NUL in a name": (names(b"\0\0\3a\0b"), r"the name 'a\\x00b' holds a NUL"),
    ".. in a name": (names(b"\0\0\4a..b"), r"the name 'a\.\.b' holds '\.\.'"),
    "UTF-8 in a name": (names(b"\0\0\2\xc3\x28"), r"names, byte 5: a name is not UTF-8"),
    "surrogate in a name": (names(b"\0\0\3\xed\xa0\x80"), r"a name is not UTF-8"),
    "long name": (names(b"\0\0" + varint(65_536) + b"a" * 65_536), r"is longer than 65535 bytes"),
    "long names together": (
        names(EXPANDING + (varint(65_534) + b"\2") * 1_100, 1_104),
        r"more than 67108864 bytes together|is there twice",
    ),
    "keep": (names(b"\1\0\1a"), r"1 bytes of the last name are kept, it has 0"),
    "tail": (names(b"\0\1"), r"tail 1 of 0"),
    "names left over": (names(b"\0\0\1a!"), r"names, byte 4: 1 bytes are left over"),
    "a name cut off": (names(b"\0\0\2a"), r"names, byte 3: 2 bytes are needed, 1 are left"),
    "a name twice": (names(b"\0\0\1a\0\1", 2), r"'a' is there twice"),
    "a name twice, spelled in two ways": (names(b"\0\0\1\xf8\0\0\6weight", 2), r"'weight' is there twice"),
    "block cut off": (replace(names(b""), names=varint(2 * 5_000)), r"directory, byte \d+: 5000 bytes are needed"),
    "block too large": (replace(names(b""), names=varint(2 * 9 + 1) + b"\1\0"), r"a block of 9 bytes cannot come from 1"),
    "block code": (replace(names(b""), names=varint(3) + b"\1" + pack(gamma(2))), r"a coded block: under-subscribed code"),
    "block with 13 bits": (
        Parts([], names=coded(b"", [1, *range(2, 14), 13])),
        r"a coded block: a codeword of 13 bits, at most 12",
    ),
    "block alphabet": (Parts([], names=varint(1) + b"\4" + pack(gamma(258) + "1111")), r"a coded block: number 258"),
    "block left over": (Parts([], names=varint(1) + b"\2" + pack("1") + b"\0"), r"a coded block: 15 bits are left over"),
    "block filled with ones": (Parts([], names=varint(1) + b"\1" + pack("11")), r"a coded block: .* must be zero"),
    "varint with a leading zero": (replace(names(b""), names=b"\x80\0"), r"a varint has a leading zero"),
    "varint of ten bytes": (replace(names(b""), names=b"\xff" * 10), r"a varint is longer than 9 bytes"),
    "table over-subscribed": (tables(gamma(4) + "110" + low(1, 5) + "00"), r"code-length tables: over-subscribed"),
    "table under-subscribed": (tables(gamma(2) + "0"), r"code-length tables: under-subscribed"),
    "table length 0": (tables(gamma(2) + "110" + low(0, 5)), r"code-length tables: code length 0"),
    "table length 21": (tables(gamma(2) + "110" + low(21, 5)), r"code-length tables: code length 21"),
    "table length 20 + 1": (tables(gamma(3) + "110" + low(20, 5) + "100"), r"code-length tables: code length 21"),
    "table length 1 - 1": (tables(gamma(3) + "110" + low(1, 5) + "101"), r"code-length tables: code length 0"),
    "table of one long codeword": (tables(gamma(2) + "110" + low(2, 5)), r"code-length tables: under-subscribed"),
    "table run": (tables(gamma(3) + "1111" + gamma(2)), r"code-length tables: a run of absent symbols goes to 3"),
    "table alphabet": (tables(gamma(65_539) + "1111" + gamma(65_537)), r"code-length tables: number 65539"),
    "tables cut off": (tables(gamma(9)), r"code-length tables: .* are needed"),
    "tables left over": (tables(gamma(1) + "0" * 16), r"code-length tables: \d+ bits are left over"),
    "tables filled with ones": (tables(gamma(1) + "1"), r"code-length tables: .* must be zero"),
    "more tables than bits": (tables("1" * 8, 9), r"9 code-length tables in 1 bytes"),
    "alphabets together": (
        tables((gamma(layout.MAX_ALPHABET + 1) + ABSENT + "0" * 0 + "1110") * 1_025, 1_025),
        r"more than 67108864 symbols together",
    ),
    "tie with flags": (Parts([raw("a"), record([0x84, 1])]), r"record of 'w'.*unknown flags 0x84"),
    "tie to itself": (Parts([raw("a"), record([0x80, 0])]), r"record of 'w'.*a tie 0 records back, there are 1"),
    "tie out of the records": (Parts([raw("a"), record([0x80, 2])]), r"a tie 2 records back, there are 1 before"),
    "tie to a tie": (Parts([raw("a"), Entry("t", b"\x80\1"), record([0x80, 1])]), r"a tie to 't', which is a tie itself"),
    "record flag 0x60": (Parts([record([0x60, 0, 0, 0])]), r"unknown flags 0x60"),
    "one offset without a map": (Parts([record([0x20, 0, 0, 0])], head=V12), r"one offset for all channels, and no channels of"),
    "one offset of a codebook": (
        Parts([record([0x21, F32, 1, 4, 0], stream(1, 0, fixed(0)))], head=V12),
        r"record of 'w'.*one offset for all channels, and no channels of an affine map",
    ),
    "one offset of one channel": (
        Parts([channels(b"\0", axis=0)], head=V12), r"record of 'w'.*one offset for all channels, and no channels of",
    ),
    "one offset, not announced": (
        Parts([channels()]), r"record of 'w': one offset for all channels, which the head's flags do not announce",
    ),
    "one offset, two there": (
        Parts([channels(offsets=u32(0, 0))], head=V12), r"the sections take 13 bytes, the file has 17 for them",
    ),
    "record flag 0x41": (Parts([record([0x41, 0, 0, 0])]), r"unknown flags 0x41"),
    "the same as nothing": (Parts([record([0x40])]), r"like the tensor before it, which is none of raw values"),
    "the same as a sparse one": (Parts([sparse([1], [1], 9), Entry("x", b"\x40")]), r"like the tensor before it, which is none"),
    "dtype": (Parts([record([0, 22, 0, 0])]), r"record of 'w'.*unknown dtype code 22"),
    "dimensions": (Parts([record([0, 0, 65], b"\1" * 65, b"\0")]), r"65 dimensions, at most 64"),
    "bytes": (Parts([record([0, F32], shape(2**61), b"\0")]), r"more than 2\*\*63 - 1 bytes"),
    "2**63 elements": (Parts([record([0, U8], shape(2**62, 2), b"\0")]), r"more than 2\*\*63 - 1 bytes"),
    "a product of 2**64": (Parts([record([0, U8], shape(2**32, 2**32), b"\0")]), r"more than 2\*\*63 - 1 bytes"),
    "a product of 2**64 + 4": (Parts([record([0, U8], shape(4, 2**62 + 1), b"\0")]), r"more than 2\*\*63 - 1 bytes"),
    "bytes of an empty shape": (Parts([record([0, F32], shape(0, 2**61), b"\0")]), r"more than 2\*\*63 - 1 bytes"),
    "stored as itself": (
        Parts([record([8, F32], shape(1), bytes([F32]), b"\0")]),
        r"cannot be stored as float32",
    ),
    "stored as wider": (
        Parts([record([8, F32], shape(1), bytes([F64]), b"\0")]),
        r"cannot be stored as float64",
    ),
    "stored in integers": (Parts([record([8, I64], shape(1), bytes([8]), b"\0")]), r"int64 elements cannot be stored as uint8"),
    "value map 3": (Parts([record([3, F32], shape(1), b"\0")]), r"unknown value map 3"),
    "map of integers": (Parts([record([1, I64], shape(0), b"\0", stream(1, 0, fixed(0)))]), r"the tensor is int64"),
    "affine map of integers": (Parts([record([2, I64], shape(0), b"\0", stream(1, 0, fixed(0)))]), r"the tensor is int64"),
    "codewords without a map": (Parts([record([0, F32], shape(0), stream(2, 0, b"\0"))]), r"codec 2 stores symbols"),
    "centroids": (Parts([record([1, F32], shape(0), varint(65_537), b"\0")]), r"a codebook of 65537 centroids, at most 65536"),
    "axis": (Parts([record([2, F32], shape(1), varint(2), b"\0")]), r"channel axis 1 of a tensor with 1 dimensions"),
    "raw with a map": (Parts([record([1, F32], shape(1), b"\0", b"\0")]), r"a stream of symbols cannot have codec 0"),
    "symbols without a map": (Parts([record([0, F32], shape(0), stream(1, 0, fixed(0)))]), r"codec 1 stores symbols"),
    "raw gaps": (Parts([sparse([1], [1], 9, gap_codec=0)]), r"a stream of symbols cannot have codec 0"),
    "planes with a codebook": (
        Parts([record([1, F32], shape(1), b"\0", stream(3, 0, planes(constant_plane(32, 0))))]),
        r"record of 'w'.*a stream of symbols cannot have codec 3, which stores values",
    ),
    "planes with an affine map": (
        Parts([record([2, F32], shape(1), b"\0", stream(3, 0, planes(constant_plane(32, 0))))]),
        r"record of 'w'.*a stream of symbols cannot have codec 3",
    ),
    "planes of gaps": (Parts([sparse([1], [1], 9, gap_codec=3)]), r"record of 'w'.*a stream of symbols cannot have codec 3"),
    "levels without a map": (
        Parts([record([0, F32], shape(0), stream(4, 0, b"\2\1\0", 20))]),
        r"record of 'w'.*codec 4 stores symbols, and there is no value map",
    ),
    "levels in a sparse tensor": (
        Parts([record([5, F32], shape(9), b"\3\1\2\0", stream(1, 1, fixed(2)), stream(4, 0, b"\2\1\0", 20))]),
        r"record of 'w'.*codec 4 stores the symbols of all elements, and the tensor is sparse",
    ),
    "levels as gaps": (
        Parts([record([4, F32], shape(9), b"\1\2\0", stream(4, 0, b"\2\1\0", 20), raw_stream())]),
        r"record of 'w'.*gaps cannot have codec 4",
    ),
    "the same as planes": (
        Parts([cut(planes(constant_plane(8, 0)), b""), Entry("x", b"\x40")]),
        r"record of 'x'.*like the tensor before it, which is none of raw values",
    ),
    "gap_bits 0": (Parts([sparse([1], [1], 9, gap_bits=0)]), r"gaps of 0 bits"),
    "gap_bits 17": (Parts([sparse([1], [1], 9, gap_bits=17)]), r"gaps of 17 bits"),
    "gaps > numel": (Parts([sparse([1, 1, 1], [1, 1], 2)]), r"2 nonzeros and 1 escapes in 2 weights"),
    "records left over": (Parts([record([0, F32], shape(0), b"\0\0")]), r"1 bytes are left over"),
    "records cut off": (Parts([record([0, F32], shape(0))]), r"record of 'w', byte \d+: 1 bytes are needed, 0 are left"),
    "nonzeros > numel": (Parts([sparse([1, 1, 1], [1, 1, 1], 2)]), r"3 nonzeros and 0 escapes in 2 weights"),
    "metadata twice": (Parts([], metadata=[(8, plain(b"")), (8, plain(b""))]), r"metadata of kind 8 is there twice"),
    **COMPACT,
    "critical metadata": (Parts([], metadata=[(9, plain(b""))]), r"directory, byte \d+: a critical metadata section of kind 9"),
}

# What is wrong with one tensor fails that one; the others load.
TENSOR: dict[str, tuple[Entry, str]] = {
    "bool": (raw("w", b"\2", BOOL), r"values: a bool element is neither 0 nor 1"),
    "centroid zero": (shared(centroids=f32s(-1.5, 0.0, 2.0)), r"codebook: .* is not finite, ascending and free of zero"),
    "centroid minus zero": (shared(centroids=f32s(-1.5, -0.0, 2.0)), r"the codebook is not finite"),
    "centroid infinite": (shared(centroids=f32s(-1.5, 0.25, math.inf)), r"the codebook is not finite"),
    "centroid NaN": (shared(centroids=f32s(-1.5, 0.25, math.nan)), r"the codebook is not finite"),
    "centroids equal": (shared(centroids=f32s(-1.5, 0.25, 0.25)), r"the codebook is not finite, ascending"),
    "centroids descending": (shared(centroids=f32s(0.25, -1.5, 2.0)), r"the codebook is not finite, ascending"),
    "base 2**62": (shared(section=b"", number=fixed(0, 2**62), codec=1), r"from 4611686018427387904 on, the largest .* is 3"),
    "code with symbol k + 1": (
        shared(centroids=f32s(-1.5, 2.0), k=2),
        r"the code has symbol 3, the largest .* is 2",
    ),
    "symbol k + 1": (shared(section=b"\3", number=fixed(2, 1), codec=1, symbols=[4]), r"symbol 4, the largest .* is 3"),
    "base k + 1": (
        shared([], b"", k=0, section=b"", number=fixed(0, 1), codec=1),
        r"width 0 from 1 on, the largest .* is 0",
    ),
    "width 18": (shared(section=bytes(9), number=fixed(18), codec=1), r"fixed width 18"),
    "table number": (shared(number=b"\1"), r"codec parameters, byte 1: code-length table 1 of 1"),
    "parameters left over": (shared(number=b"\0\0"), r"codec parameters, byte 1: 1 bytes are left over"),
    "parameters cut off": (shared(number=b""), r"codec parameters, byte 0: 1 bytes are needed"),
    "lanes": (shared(geometry=(31, 6)), r"geometry 0xdf means 2\*\*6 lanes, there can be 32"),
    "a symbol too many": (shared(section=pack(huffman([0, 1, 2, 3], LENGTHS)) + b"\0"), r"symbols take \d bytes .* there are \d"),
    "a symbol too few": (shared(section=b""), r"4 symbols in 0 bytes"),
    "filled with ones": (shared(section=pack(huffman([0, 1, 2, 3], LENGTHS) + "1")), r"padding and must be zero"),
    "one-symbol code": (shared([1, 1], section=b"\1", number=b"\1"), r"a one bit|symbols take|only codeword"),
    "no chunk table": (shared(geometry=(0, 0)), r"4 chunks takes? 16 bytes, the section has"),
    "chunk bytes": (
        shared([0] * 4, section=u32(1, 1) + bytes(3), geometry=(1, 0)),
        r"lengths sum to 2, the section has 3 bytes",
    ),
    "chunk bytes that sum to 2**32 + 4": (
        shared([0] * 4, section=u32(2**32 - 1, 5) + bytes(4), geometry=(1, 0)),
        r"lengths sum to 4294967300, the section has 4 bytes",
    ),
    "chunk bytes one too many, one too few": (
        shared([0] * 4, section=u32(0, 2) + bytes(2), geometry=(1, 0)), r"values: chunk 0 has 2 symbols in 0 bytes",
    ),
    "lane bytes that sum to 2**32 + 1": (
        shared([0] * 4, section=u32(2**32 - 1, 1, 1) + bytes(4), geometry=(31, 2)),
        r"lane lengths sum to 4294967297, there are 4 bytes",
    ),
    "bytes of a lane without symbols": (
        shared([0], section=u32(1, 1, 0) + bytes(2), geometry=(31, 2)), r"lane 1: 0 symbols take 0 bytes .0 bits., there are 1",
    ),
    "lane bytes": (shared([0] * 4, section=u32(9) + bytes(2), geometry=(31, 1)), r"lane lengths sum to 9, there are 2 bytes"),
    "lane table": (shared([0] * 4, section=b"\0\0", geometry=(31, 1)), r"1 lane lengths take 4 bytes, there are 2"),
    "lane": (
        shared([0] * 4, section=u32(2) + bytes(3), geometry=(31, 1)),
        r"lane 0: 2 symbols take 1 bytes .2 bits., there are 2",
    ),
    "symbol 0 in sparse": (sparse([1, 2], [1, 0], 9), r"values: a nonzero has the zero symbol"),
    "gap past the end": (sparse([1, 2], [1, 1], 4), r"gaps: chunk 0: a gap runs past its 4 weights"),
    "last gap an escape": (sparse([1, 3], [1], 9), r"gaps: chunk 0: its last gap is an escape"),
    "nonzeros": (sparse([1, 2], [1], 9), r"gaps: chunk 0: its gaps do not lead to 1 nonzeros"),
    "gap above the escape": (sparse([0, 3], [1, 1], 9, gap_bits=1), r"gaps: symbol 3, the largest that can stand here is 1"),
    "two chunk sizes": (sparse([1, 2], [1, 1], 9, value_g=30), r"values: the gaps are cut into chunks of another size"),
    "chunk counts": (
        sparse(u32(1, 0, 3, 0) + b"\0", u32(1, 0, 2, 0) + b"\5", 8, count=2, nonzeros=2, g=2, value_g=2),
        r"gaps: chunk counts sum to 3, the stream has 2 symbols",
    ),
    "chunk counts that sum to 2**32 + 2": (
        sparse(u32(1, 0, 2**32 - 1, 3) + b"\0", u32(1, 0, 2, 0) + b"\5", 8, count=2, nonzeros=2, g=2, value_g=2),
        r"gaps: chunk counts sum to 4294967298, the stream has 2 symbols",
    ),
    "escapes that are nonzeros": (
        Entry("w", bytes([4, U8]) + shape(9) + b"\1\2\1" + stream(1, 1, fixed(2)) + raw_stream(), [b"\5", Raw(b"\7")]),
        r"gaps: the gaps lead to 2 nonzeros, the record says 1",
    ),
    "gap code with a symbol above the escape": (
        Entry("w", bytes([4, U8]) + shape(9) + b"\1\1\0" + stream(2, 1, b"\0") + raw_stream(), [b"\0", Raw(b"\7")]),
        r"gaps: .*the code has symbol 3, the largest .* is 1",
    ),
    "bool, sparse": (
        Entry("w", bytes([4, BOOL]) + shape(9) + b"\1\2\0" + stream(1, 1, fixed(2)) + raw_stream(), [b"\0", Raw(b"\2")]),
        r"values: a bool element is neither 0 nor 1",
    ),
    "chunk nonzeros": (
        sparse(u32(1, 0, 2, 0) + b"\0", u32(1, 1, 1, 1) + b"\1\1", 8, count=2, nonzeros=2, g=2, value_g=2),
        r"gaps: chunk 0: its gaps do not lead to 1 nonzeros",
    ),
    "bytes of no symbols": (
        sparse(u32(1, 1, 2, 0) + b"\0\0", u32(1, 0, 2, 0) + b"\5", 8, count=2, nonzeros=2, g=2, value_g=2),
        r"gaps: chunk 1 has 0 symbols in 1 bytes",
    ),
    "scale infinite": (affine(math.inf), r"affine: a scale is not finite"),
    "scale NaN": (affine(math.nan), r"affine: a scale is not finite"),
    "affine symbol": (affine(symbols=pack(low(65_536, 17)), width=17), r"symbol 65536, the largest that can stand here is 65535"),
    "planes that leave bits": (
        cut(planes(plain_plane(4)), bytes(2)),
        r"values: codec parameters, byte 3: the planes leave 4 of 8",
    ),
    "no planes": (cut(planes(), b""), r"values: codec parameters, byte 1: the planes leave 8 of 8 bits"),
    "planes of too many bits": (
        cut(planes(plain_plane(4), plain_plane(5)), bytes(5)),
        r"values: codec parameters, byte 4: a plane of 5 bits, 4 of 8 are left",
    ),
    "a plane of no bits": (cut(planes(plain_plane(0), plain_plane(8)), bytes(4)), r"a plane of 0 bits, 8 of 8 are left"),
    "a plane behind the last bit": (cut(planes(plain_plane(8), plain_plane(1)), bytes(5)), r"a plane of 1 bits, 0 of 8 are left"),
    "a number of planes": (
        cut(varint(2**62) + constant_plane(8, 0), b""),
        r"values: codec parameters, byte 12: 1 bytes are needed, 0 are left",
    ),
    "a wide plain plane": (
        cut(planes(plain_plane(57), plain_plane(7)), bytes(64), I64, (8,)),
        r"a plain plane of 57 bits, at most 56 are allowed",
    ),
    "a wide coded plane": (
        cut(planes(coded_plane(17, 1), plain_plane(15)), bytes(9), F32),
        r"a coded plane of 17 bits, at most 16 are allowed",
    ),
    "kind of plane": (cut(planes(b"\x08\3"), bytes(4)), r"unknown kind of plane 3"),
    "constant": (cut(planes(constant_plane(8, 256)), b""), r"values: codec parameters, byte 5: the constant 256 in a plane of 8"),
    "constant of 63 bits": (cut(planes(constant_plane(8, 2**63 - 1)), b""), r"the constant 9223372036854775807 in a plane of 8"),
    "planes: bool": (
        cut(planes(constant_plane(7, 1), plain_plane(1)), b"\5", BOOL),
        r"values: a bool element is neither 0 nor 1",
    ),
    "planes: parameters left over": (
        cut(planes(plain_plane(8)) + b"\0", bytes(4)),
        r"values: codec parameters, byte 3: 1 bytes are left over",
    ),
    "planes: parameters cut off": (cut(planes(b"\x08"), bytes(4)), r"codec parameters, byte 2: 1 bytes are needed"),
    "planes: section too short": (cut(planes(plain_plane(8)), bytes(3)), r"4 fields of 8 bits take 4 bytes, 3 are left"),
    "planes: section far too short": (
        cut(planes(plain_plane(8)), bytes(3), U8, (2**60,)),
        r"1152921504606846976 fields of 8 bits take 1152921504606846976 bytes, 3 are left",
    ),
    "planes: section too long": (cut(planes(plain_plane(8)), bytes(5)), r"values: the planes take 4 bytes, the section has 5"),
    "planes: bytes of a constant": (cut(planes(constant_plane(8, 1)), bytes(1)), r"the planes take 0 bytes, the section has 1"),
    "planes: padding": (
        cut(planes(plain_plane(3), plain_plane(5)), b"\0\x10" + bytes(3)),
        r"values: the last 4 bits of a plane are padding and must be zero, its last byte is 0x10",
    ),
    "planes: table number": (cut(planes(coded_plane(8, 1, 1)), bytes(1)), r"codec parameters, byte 4: code-length table 1 of 1"),
    "planes: symbols beyond the plane": (
        cut(planes(coded_plane(1, 1), plain_plane(7)), bytes(5)),
        r"the code has symbol 3, the largest that can stand here is 1",
    ),
    "planes: a coded plane too long": (cut(planes(coded_plane(8, 2)), bytes(1)), r"a plane of 2 bytes, 1 are left"),
    "planes: a symbol too many": (cut(planes(coded_plane(8, 2)), bytes(2)), r"values: .*symbols take 1 bytes .* there are 2"),
    "planes: a symbol too few": (cut(planes(coded_plane(8, 0)), b""), r"values: .*4 symbols in 0 bytes"),
    "planes: filled with ones": (cut(planes(coded_plane(8, 1)), b"\x10"), r"values: .*padding and must be zero"),
    "planes: chunk table": (
        cut(planes(coded_plane(8, 15)), bytes(15), geometry=(0, 0)),
        r"values: a table of 4 chunks takes 16 bytes, the plane has 15",
    ),
    "planes: chunk table far too long": (
        cut(planes(coded_plane(8, 15)), bytes(15), U8, (2**60,), geometry=(0, 0)),
        r"a table of 1152921504606846976 chunks takes 4611686018427387904 bytes, the plane has 15",
    ),
    "planes: chunk bytes": (
        cut(planes(coded_plane(8, 11)), u32(1, 1) + bytes(3), geometry=(1, 0)),
        r"values: chunk lengths sum to 2, the section has 3 bytes",
    ),
    "planes: a broken chunk": (
        cut(planes(coded_plane(8, 10)), u32(1, 1) + b"\0\x80", geometry=(1, 0)),
        r"values: chunk 1, .*padding and must be zero",
    ),
    "planes: lanes": (cut(planes(plain_plane(8)), bytes(4), geometry=(31, 6)), r"values: geometry 0xdf means 2\*\*6 lanes"),
    "levels: centroids below zero": (levels((4, 2_048, 0)), r"values: codec parameters, byte 1: 4 of 3 centroids are below zero"),
    "levels: 2**62 centroids below zero": (levels((2**62, 2_048, 0)), r"4611686018427387904 of 3 centroids are below zero"),
    "levels: below symbol 0": (affine_levels(2, 3, 1, 9, 0), r"codec parameters, byte 3: levels from -3 to 1 around symbol 2"),
    "levels: above symbol 65,535": (affine_levels(2, 0, 65_534, 9, 0), r"codec parameters, byte 5: levels from -0 to 65534"),
    "levels: far above symbol 65,535": (affine_levels(2, 0, 2**63 - 1, 9, 0), r"levels from -0 to 9223372036854775807 around"),
    "levels: first 0": (levels((2, 0, 0)), r"values: codec parameters, byte 3: a chance of 0 in 4,096, a lag of 0"),
    "levels: first 4,096": (levels((2, 4_096, 0)), r"codec parameters, byte 4: a chance of 4096 in 4,096"),
    "levels: lag of a row": (levels((2, 1, 3)), r"codec parameters, byte 3: .* a lag of 3 in rows of 3"),
    "levels: lag of 2**63 - 1": (levels((2, 1, 2**63 - 1)), r"a lag of 9223372036854775807 in rows of 3"),
    "levels: lag beside a kernel": (levels((2, 1, 1), sides=(2, 1, 3)), r"a lag of 1 in rows of 3"),
    "levels: parameters left over": (levels((2, 2_048, 0, 0)), r"values: codec parameters, byte 4: 1 bytes are left over"),
    "levels: parameters cut off": (levels((2, 2_048)), r"values: codec parameters, byte 3: 1 bytes are needed, 0 are left"),
    "levels: two lanes": (levels(geometry=(20, 1)), r"values: 2 lanes of chunks of 2\*\*20 symbols, codec 4 has one lane"),
    "levels: large chunks": (levels(geometry=(21, 0)), r"values: 1 lanes of chunks of 2\*\*21 .* at most 2\*\*20"),
    "levels: 64 lanes": (levels(geometry=(20, 6)), r"values: geometry 0xd4 means 2\*\*6 lanes"),
    "levels: zeros behind": (levels(section=b"\x89\5\0"), r"values: 3 bytes of levels: 2 bytes would say the same"),
    "levels: other bytes at the end": (levels(section=b"\x89\6"), r"values: 2 bytes of levels: they end early or late"),
    "levels: a chunk too short": (levels(section=b"\x89", sides=(300,)), r"values: 1 bytes of levels: they end early or late"),
    "levels: bytes of no symbols": (levels(section=b"\0", sides=(0, 3)), r"values: chunk 0 has 0 symbols in 1 bytes"),
    "levels: no chunk table": (levels(geometry=(1, 0)), r"values: a table of 3 chunks takes 12 bytes, the section has 2"),
    "levels: chunk bytes": (
        levels(section=u32(2, 1) + bytes(2), geometry=(2, 0)), r"values: chunk lengths sum to 3, the section has 2 bytes",
    ),
    "levels: none but 0": (affine_levels(0, 0, 0, 9, 0), r"values: 0 bytes of levels: a level is above the largest that"),
    "levels: above the largest": (affine_levels(0, 0, 65_535, 9, 0), r"0 bytes of levels: a level is above the largest that"),
    "unknown codec": (record([0, F32], shape(9), stream(29, 0, b"?", 31, 7)), r"values: codec 29 is unknown to this reader"),
}

METADATA: dict[str, tuple[int, bytes, str]] = {
    "no JSON": (2, plain(b"{"), r"metadata of kind 2 \(bytes 12 to \d+\) is not JSON"),
    "no object": (2, plain(b"[]"), r"metadata of kind 2 \(bytes 12 to \d+\) is not a JSON object"),
    "no strings": (2, plain(b'{"a":1}'), r"metadata of kind 2 \(bytes 12 to \d+\) are not all strings"),
    "no UTF-8": (2, plain('{"a":"b"}'.encode("utf-16")), r"metadata of kind 2 \(bytes 12 to \d+\) is not JSON"),
    "recipe": (4, plain(b'"a"'), r"metadata of kind 4 \(bytes 12 to \d+\) is not a JSON object"),
    "NaN": (4, plain(b'{"a":NaN}'), r"metadata of kind 4 \(bytes 12 to \d+\) is not JSON: NaN"),
    "inference": (10, plain(b"yes"), r"metadata of kind 10 \(bytes 12 to \d+\) is not empty"),
    "deep": (4, plain(b'{"a":' + b"[" * 100_000), r"metadata of kind 4 \(bytes 12 to \d+\) is not JSON"),
    "versions cut off": (6, plain(b""), r"module versions, byte 0"),
    "versions left over": (6, plain(b"\1\1"), r"module versions, byte 1: 1 bytes are left over"),
    "versions around left over": (8, plain(b"\1\1\1"), r"module versions, byte 1: 2 bytes are left over"),
    "block": (2, plain(b"{}") + b"!", r"metadata of kind 2, byte 3: 1 bytes are left over"),
}


def test_checksums_are_of_groups() -> None:
    """What lies in a group that is as it was can be read."""
    data = bytearray(build(Parts([raw("a"), raw("b", bytes(70_000), U8, (70_000,)), raw("c")])))
    data[8 + 65_536 + 100] ^= 1
    model = dc.open(bytes(data), framework="numpy")
    assert model["a"].tolist() == [1.0]
    for name in "bc":
        with pytest.raises(FormatError, match=r"^<bytes>: bytes 65544 to \d+ are altered"):
            model[name]


def names_place(error: FormatError, text: str) -> bool:
    return str(error).startswith("<bytes>: ") and text in str(error)


def names_section(error: FormatError, data: bytes) -> bool:
    """Whether it says which section of 'w' it is about, and where in the file that lies."""
    found = re.search(r": tensor 'w', (codebook|affine|gaps|values): ", str(error))
    span = Reader(data).directory.spans[1][found[1]] if found else None
    return span is not None and str(error).endswith(f" (the section: bytes {span.start} to {span.stop})")


@pytest.mark.parametrize("rule", WHOLE)
def test_whole_file(rule: str) -> None:
    parts, text = WHOLE[rule]
    with pytest.raises(FormatError, match=text) as caught:
        dc.open(build(parts))
    assert names_place(caught.value, "")
    of_later = ("major version", "flags", "flag 0x0004", "critical metadata")
    assert isinstance(caught.value, VersionError) == (rule in of_later)


@pytest.mark.parametrize("rule", TENSOR)
def test_one_tensor(rule: str) -> None:
    entry, text = TENSOR[rule]
    data = build(Parts([raw("a"), entry, raw("z"), Entry("t", b"\x80\2")], [table(LENGTHS)] * 1))
    if rule == "one-symbol code":
        data = build(Parts([raw("a"), entry, raw("z"), Entry("t", b"\x80\2")], [table(LENGTHS), table([0, 1])]))
    model = dc.load(data, framework="numpy")
    assert model.inspect()["bits"]["header"] > 0
    assert model["a"].tolist() == model["z"].tolist() == [1.0]
    for fails in (lambda: model["w"], lambda: model["t"], model.numpy, model.verify):
        with pytest.raises(FormatError, match=text) as caught:
            fails()
        assert names_place(caught.value, "tensor 'w', ")
        assert names_section(caught.value, data)


@pytest.mark.parametrize("rule", METADATA)
def test_metadata_fail_only_who_asks(rule: str) -> None:
    kind, block, text = METADATA[rule]
    model = dc.load(build(Parts([raw("a.b")], metadata=[(kind, block)])), framework="numpy")
    assert model["a.b"].tolist() == [1.0]
    versions: Callable[[], object] = lambda: model.versions  # noqa: E731
    ask: dict[int, Callable[[], object]] = {2: lambda: model.metadata, 4: lambda: model.recipe, 6: versions, 8: versions}
    ask[10] = lambda: model.inference
    for fails in (ask[kind], model.verify):
        with pytest.raises(FormatError, match=text) as caught:
            fails()
        assert names_place(caught.value, "")


def test_an_altered_section_is_found_by_who_reads_it() -> None:
    data = build(Parts([raw("a"), raw("b")], wrong_sum=1))
    model = dc.open(data, framework="numpy")
    text = r"<bytes>: bytes 8 to 16 are altered: their checksum is 0x[0-9a-f]{8}, the directory says 0x[0-9a-f]{8}"
    for fails in (lambda: model["a"], model.verify, lambda: dc.load(data)):
        with pytest.raises(FormatError, match=text):
            fails()


def test_many_metadata_sections_take_no_time() -> None:
    model = dc.open(build(Parts([], metadata=[(2 * i, b"\0") for i in range(20_000)])))
    assert len(model.inspect()["metadata_bytes"]) == 20_000


@pytest.mark.parametrize("parameters", [planes(constant_plane(8, 1)), planes(constant_plane(7, 0), plain_plane(1))])
def test_chunks_of_one_word_take_no_time(parameters: bytes) -> None:
    """Without a coded plane nothing but the geometry says how many there are."""
    words = 1 << 24
    bits = b"\xff" * (words // 8 if plain_plane(1) in parameters else 0)
    model = dc.load(build(Parts([cut(parameters, bits, U8, (words,), geometry=(0, 0))])), framework="numpy")
    begin = time.process_time()
    assert int(model["w"].sum()) == words
    assert time.process_time() - begin < 2.0
