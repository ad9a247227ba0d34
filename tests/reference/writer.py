"""A tiny writer that follows FORMAT.md: every part of a file can be replaced, so that tests can break one rule at a time."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

HEAD = b"\xdcDCZ\x01\x00\x00\x00"


class Raw(bytes):
    """A raw section: aligned if it is large."""


@dataclass
class Entry:
    """A tensor to write: its name, its record, its sections."""

    name: str
    record: bytes
    sections: list[bytes] = field(default_factory=list)


@dataclass
class Parts:
    """A file in parts; what is None is computed."""

    entries: list[Entry]
    tables: Sequence[str] = ()
    metadata: Sequence[tuple[int, bytes]] = ()
    head: bytes = HEAD
    names: bytes | None = None
    records: bytes | None = None
    table_section: bytes | None = None
    fill: bytes = b"\0"
    extra_payload: bytes = b""
    extra_directory: bytes = b""
    wrong_sum: int = 0
    wrong_crc: int = 0
    count: int | None = None
    directory_size: int | None = None


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def pack(bits: str) -> bytes:
    """A string of 0 and 1 in reading order as a bit string."""
    return bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


def low(value: int, width: int) -> str:
    """A field, least significant bit first."""
    return f"{value:0{width}b}"[::-1] if width else ""


def gamma(value: int) -> str:
    return "0" * (value.bit_length() - 1) + f"{value:b}"


def table(lengths: Sequence[int]) -> str:
    """A table of code lengths, without runs: every absent symbol has its own token."""
    bits, last = gamma(len(lengths) + 1), 5
    for length in lengths:
        if length == 0:
            bits += "1110"
        elif length == last:
            bits += "0"
        elif abs(length - last) == 1:
            bits += "100" if length > last else "101"
        else:
            bits += "110" + low(length, 5)
        last = length or last
    return bits


def codewords(lengths: Sequence[int]) -> dict[int, str]:
    """RFC 1951, 3.2.2, step by step."""
    count = [0] * 22
    for length in lengths:
        count[length] += 1
    count[0] = 0
    following, code = [0] * 22, 0
    for bits in range(1, 22):
        code = (code + count[bits - 1]) << 1
        following[bits] = code
    words = {}
    for symbol, length in enumerate(lengths):
        if length:
            words[symbol] = f"{following[length]:0{length}b}"
            following[length] += 1
    return words


def huffman(symbols: Sequence[int], lengths: Sequence[int]) -> str:
    words = codewords(lengths)
    return "".join(words[s] for s in symbols)


def plain(content: bytes) -> bytes:
    return varint(2 * len(content)) + content


def coded(content: bytes, lengths: Sequence[int]) -> bytes:
    packed = pack(table(lengths) + huffman(list(content), lengths))
    return varint(2 * len(content) + 1) + varint(len(packed)) + packed


def raw_stream() -> bytes:
    return varint(0)


def stream(codec: int, length: int, parameters: bytes, g: int = 31, lanes_log: int = 0) -> bytes:
    return varint(codec) + varint(length) + bytes([g | lanes_log << 5]) + varint(len(parameters)) + parameters


def fixed(width: int, base: int = 0) -> bytes:
    return bytes([width]) + varint(base)


def planes(*each: bytes) -> bytes:
    """Parameters of codec 3: the planes from the top, each made by one of the three functions below."""
    return varint(len(each)) + b"".join(each)


def plain_plane(width: int) -> bytes:
    return bytes([width, 0])


def constant_plane(width: int, number: int) -> bytes:
    return bytes([width, 1]) + varint(number)


def coded_plane(width: int, length: int, number: int = 0) -> bytes:
    return bytes([width, 2]) + varint(number) + varint(length)


def u32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def shape(*sides: int) -> bytes:
    return bytes([len(sides)]) + b"".join(map(varint, sides))


def simple_names(entries: Sequence[Entry]) -> bytes:
    return b"".join(b"\0\0" + varint(len(e.name.encode())) + e.name.encode() for e in entries)


def payload(parts: Parts) -> bytes:
    out = bytearray(HEAD)
    for section in (s for e in parts.entries for s in e.sections):
        if isinstance(section, Raw) and len(section) > 4096:
            out += parts.fill * (-len(out) % 64)
        out += section
    for _, content in parts.metadata:
        out += content
    return bytes(out[len(HEAD) :]) + parts.extra_payload


def build(parts: Parts) -> bytes:
    body = payload(parts)
    content = simple_names(parts.entries), b"".join(e.record for e in parts.entries)
    compact = len(parts.head) > 6 and parts.head[6] & 2
    blocks = [varint(4 * len(each)) + each if compact else plain(each) for each in content]
    names = blocks[0] if parts.names is None else parts.names
    records = blocks[1] if parts.records is None else parts.records
    section = pack("".join(parts.tables)) if parts.table_section is None else parts.table_section
    directory = varint(len(parts.entries) if parts.count is None else parts.count) + names
    directory += varint(len(parts.tables)) + varint(len(section)) + section + records
    directory += varint(len(parts.metadata))
    for kind, content in parts.metadata:
        directory += varint(kind) + varint(len(content))
    for i in range(0, len(body), 65536):
        directory += u32(zlib.crc32(body[i : i + 65536]) ^ parts.wrong_sum)
    directory += parts.extra_directory
    size = u32(len(directory) if parts.directory_size is None else parts.directory_size)
    return parts.head + body + directory + size + u32(zlib.crc32(parts.head + directory + size) ^ parts.wrong_crc)
