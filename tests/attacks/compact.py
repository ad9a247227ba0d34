"""Compact files that break a rule; `test_rules` opens them."""

from __future__ import annotations

import struct

from deepcompress.container import layout
from tests.reference.writer import Entry, Parts, fixed, raw_stream, shape, stream, varint

HEAD = b"\xdcDCZ\1\4\2\0"
F32, F16, I64, BOOL = 0, 2, 4, 12
ONE = struct.pack("<f", 1.0)


def block(content: bytes, form: int, packed: bytes = b"") -> bytes:
    return varint(4 * len(content) + form) + (varint(len(packed)) + packed if form else content)


def named(names: bytes, count: int = 1) -> Parts:
    """Tensors of zeros, whose names' block is as given."""
    return Parts([Entry("a", bytes([7, F32]) + shape(2)) for _ in range(count)], names=names, head=HEAD)


def record(*parts: bytes, before: tuple[bytes, ...] = ()) -> Parts:
    return Parts([*(Entry(f"a{i}", one) for i, one in enumerate(before)), Entry("w", b"".join(parts))], head=HEAD)


def levels(*numbers: int, flags: int = 0x22, offset: bytes = b"\3") -> bytes:
    """The record of two levels on a grid of one scale, whose section has no bytes."""
    head = bytes([flags, F32]) + shape(2) + b"\0" + offset
    return head + varint(layout.CODEC_CONTEXT) + varint(0) + b"".join(map(varint, numbers))


COMPACT: dict[str, tuple[Parts, str]] = {
    "compact: form 3": (named(block(b"\0\0\1w", 3, b"\0")), r"directory, byte \d+: a block of form 3"),
    "compact: too many bytes by context": (named(varint(4 * 4_097 + 2) + b"\0"), r"a block of 4097 bytes cannot come from 0"),
    "compact: bytes by context that go on": (named(varint(4 * 4 + 2) + b"\3\0\0\0"), r"a coded block: 3 bytes, of which"),
    "compact: bytes by context cut off": (named(varint(4 * 3_000 + 2) + b"\1\x88"), r"a coded block: the 1 bytes end early"),
    "compact: too many codewords": (named(varint(4 * 9 + 1) + b"\1\0"), r"a block of 9 bytes cannot come from 1"),
    "compact: 0x20 of a constant": (record(bytes([0x23, F32]), shape(1), ONE), r"one offset for all channels, and no channels"),
    "compact: zeros that follow": (record(bytes([3, F32]), shape(1), bytes(4)), r"zeros have a flag, and no value"),
    "compact: zeros of another type": (record(bytes([15, F32]), shape(1), bytes([F16])), r"zeros in a type of their own"),
    "compact: a constant cut off": (record(bytes([3, F32]), shape(1), ONE[:3]), r"record of 'w', byte \d+: 4 bytes are needed"),
    "compact: bool": (record(bytes([3, BOOL]), shape(1), b"\2"), r"record of 'w'.*a bool element is neither 0 nor 1"),
    "compact: a large constant": (record(bytes([7, F32]), shape(2**61)), r"more than 2\*\*63 - 1 bytes"),
    "compact: the same as nothing": (record(b"\x41", before=(bytes([7, F32]) + shape(2),)), r"like the tensor 2 before it"),
    "compact: the same as levels": (
        record(b"\x41", before=(levels(0, 0, 0, 0), bytes([7, F32]) + shape(2))),
        r"record of 'w'.*like the tensor 2 before it, which is none of raw values",
    ),
    "compact: 0x20 of a codebook": (
        record(bytes([0x21, F32]), shape(4), b"\0", stream(1, 0, fixed(0))), r"one offset for all channels, and no channels of",
    ),
    "compact: offset": (record(levels(0, 0, 0, 0, offset=varint(65_536))), r"an offset of 65536, at most 65535 is allowed"),
    "compact: step 24": (record(levels(0, 0, 24, 0)), r"record of 'w'.*a first chance of step 24, there are 24"),
    "compact: no value map": (record(bytes([0, F32]), shape(2), b"\4\0\0\0\0\0\0"), r"codec 4 stores symbols"),
    "compact: raw with a map": (record(bytes([2, F32]), shape(2), b"\0", raw_stream()), r"symbols cannot have codec 0"),
    "compact: a record of others": (
        record(bytes([2, F32]), shape(2), b"\0", stream(4, 0, b"\0\0\0\1\0", 20)), r"record of 'w'.*\d+ bytes are left over",
    ),
}  # fmt: skip
