"""Unsigned integers in seven bits a byte, least significant first, and a cursor over bytes that never runs past the end."""

from __future__ import annotations

from deepcompress.container.layout import MAX_VARINT_BYTES
from deepcompress.errors import FormatError


def varint(value: int) -> bytes:
    """The shortest form of 0 <= value < 2**63."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Cursor:
    """Reads forward through bytes; every read is checked against the end, every error says where it happened."""

    def __init__(self, data: bytes, place: str) -> None:
        self.data = data
        self.place = place
        self.offset = 0

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self.data) - self.offset

    def error(self, text: str) -> FormatError:
        """An error that says where the cursor stands; for the caller to raise."""
        return FormatError(f"{self.place}, byte {self.offset}: {text}")

    def take(self, count: int) -> bytes:
        """The next `count` bytes. Raises FormatError where fewer are left."""
        if count > self.left:
            raise self.error(f"{count} bytes are needed, {self.left} are left")
        start, self.offset = self.offset, self.offset + count
        return self.data[start : self.offset]

    def byte(self) -> int:
        """The next byte."""
        if self.offset >= len(self.data):
            raise self.error("1 bytes are needed, 0 are left")
        self.offset += 1
        return self.data[self.offset - 1]

    def varint(self) -> int:
        """One number. Only the shortest form is accepted, so that a number has one spelling."""
        value = self.data[self.offset] if self.offset < len(self.data) else 0x80
        if value < 0x80:  # most are
            self.offset += 1
            return value
        value = 0
        for position in range(MAX_VARINT_BYTES):
            byte = self.byte()
            value |= (byte & 0x7F) << 7 * position
            if byte < 0x80:
                if byte == 0 and position:
                    raise self.error("a varint has a leading zero")
                return value
        raise self.error(f"a varint is longer than {MAX_VARINT_BYTES} bytes")

    def finish(self) -> None:
        """Raise FormatError unless everything was read."""
        if self.left:
            raise self.error(f"{self.left} bytes are left over")
