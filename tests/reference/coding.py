"""Varints, bit strings, codes, blocks and floating-point bits, as FORMAT.md defines them. Standard library only."""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

MAX_LENGTH = 20
BLOCK_MAX_LENGTH = 12
BLOCK_ALPHABET = 256


class MalformedError(ValueError):
    """The file breaks a rule of FORMAT.md."""


def refuse(broken: object, rule: str) -> None:
    """Raise MalformedError if the rule is broken."""
    if broken:
        raise MalformedError(rule)


class Bytes:
    """Reads bytes from front to back."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        refuse(count > len(self.data) - self.at, f"{count} bytes wanted, {len(self.data) - self.at} left")
        self.at += count
        return self.data[self.at - count : self.at]

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def u8(self) -> int:
        return self.take(1)[0]

    def u32s(self, count: int) -> list[int]:
        return list(struct.unpack(f"<{count}I", self.take(4 * count)))

    def varint(self) -> int:
        value = 0
        for group in range(9):
            byte = self.u8()
            value |= (byte & 0x7F) << (7 * group)
            if byte < 0x80:
                refuse(byte == 0 and group, "varint with a leading zero group")
                return value
        raise MalformedError("varint of more than nine bytes")

    def end(self, what: str) -> None:
        refuse(self.at != len(self.data), f"{what}: {len(self.data) - self.at} bytes too many")


class Bits:
    """Reads a bit string; each byte from its least significant bit up."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def bit(self) -> int:
        refuse(self.at >= 8 * len(self.data), "bit string too short")
        bit = self.data[self.at >> 3] >> (self.at & 7) & 1
        self.at += 1
        return bit

    def field(self, count: int) -> int:
        """A field of `count` bits, least significant first."""
        return sum(self.bit() << i for i in range(count))

    def gamma(self) -> int:
        """A number >= 1 in Elias gamma code."""
        zeros = 0
        while self.bit() == 0:
            zeros += 1
        value = 1
        for _ in range(zeros):
            value = value << 1 | self.bit()
        return value

    def end(self) -> None:
        """Nothing may follow but the zero bits that fill the last byte."""
        refuse((self.at + 7) // 8 != len(self.data), "bit string too long")
        refuse(self.at & 7 and self.data[-1] >> (self.at & 7), "bit string filled up with other bits than zeros")


def code_lengths(bits: Bits, alphabet: int) -> list[int]:
    """A table of code lengths of at most `alphabet` symbols."""
    size = bits.gamma() - 1
    refuse(size > alphabet, f"alphabet of {size} symbols")
    lengths: list[int] = []
    last = 5
    while len(lengths) < size:
        run, last = _token(bits, last)
        refuse(not 1 <= last <= MAX_LENGTH, f"code length {last}")
        refuse(run > size - len(lengths), "run past the alphabet's end")
        lengths += [0] * run or [last]
    return lengths


def _token(bits: Bits, last: int) -> tuple[int, int]:
    """How many absent symbols a token means (0: one symbol of length `last`), and the new `last`."""
    if not bits.bit():
        return 0, last
    if not bits.bit():
        return 0, last - 1 if bits.bit() else last + 1
    if not bits.bit():
        return 0, bits.field(5)
    return bits.gamma() + 1 if bits.bit() else 1, last


class Code:
    """The code that belongs to code lengths."""

    def __init__(self, lengths: Sequence[int]) -> None:
        used = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
        self.longest = max(lengths, default=0)
        total = sum(1 << (MAX_LENGTH - length) for length, _ in used)
        alone = len(used) == 1 and used[0][0] == 1
        refuse(used and not alone and total != 1 << MAX_LENGTH, "code is not complete")
        self.symbols: dict[tuple[int, int], int] = {}
        word = before = 0
        for length, symbol in used:
            word <<= length - before
            self.symbols[length, word] = symbol
            word, before = word + 1, length

    def read(self, bits: Bits) -> int:
        word = 0
        for length in range(1, self.longest + 1):
            word = word << 1 | bits.bit()
            if (length, word) in self.symbols:
                return self.symbols[length, word]
        raise MalformedError("no such codeword")


def block(source: Bytes) -> bytes:
    """A block's content, plain or coded."""
    v = source.varint()
    if v % 2 == 0:
        return source.take(v // 2)
    return coded(source.take(source.varint()), v // 2)


def coded(packed: bytes, size: int) -> bytes:
    """A coded block's content of `size` bytes."""
    refuse(size > 8 * len(packed), "a coded block's content is longer than eight times its bytes")
    bits = Bits(packed)
    code = Code(code_lengths(bits, BLOCK_ALPHABET))
    refuse(code.longest > BLOCK_MAX_LENGTH, "codeword of more than 12 bits in a block")
    content = bytes(code.read(bits) for _ in range(size))
    bits.end()
    return content


@dataclass(frozen=True)
class Layout:
    """An IEEE-like type: one sign bit, then exponent and fraction bits."""

    exponent: int
    fraction: int

    @property
    def size(self) -> int:
        return (1 + self.exponent + self.fraction) // 8


FLOATS = {"float16": Layout(5, 10), "bfloat16": Layout(8, 7), "float32": Layout(8, 23), "float64": Layout(11, 52)}


def widen(bits: int, source: str, target: str) -> int:
    """The bits of the same number in a wider type. A NaN keeps sign and payload, a signalling one stays signalling."""
    a, b = FLOATS[source], FLOATS[target]
    exponent = bits >> a.fraction & ((1 << a.exponent) - 1)
    fraction = bits & ((1 << a.fraction) - 1)
    sign = bits >> (a.exponent + a.fraction) << (b.exponent + b.fraction)
    shift = b.fraction - a.fraction
    if exponent == (1 << a.exponent) - 1:  # infinite or NaN
        return sign | ((1 << b.exponent) - 1) << b.fraction | fraction << shift
    if a.exponent == b.exponent or not (exponent or fraction):
        return sign | exponent << b.fraction | fraction << shift
    if not exponent:  # subnormal there, normal here
        zeros = a.fraction + 1 - fraction.bit_length()
        exponent, fraction = 1 - zeros, (fraction << zeros) - (1 << a.fraction)
    exponent += (1 << (b.exponent - 1)) - (1 << (a.exponent - 1))
    return sign | exponent << b.fraction | fraction << shift


def widen_all(data: bytes, source: str, target: str) -> bytes:
    """Elements of one type as elements of a wider one."""
    if source == target:
        return data
    if source.startswith("int"):
        a, b = int(source[3:]) // 8, int(target[3:]) // 8
        signed = (int.from_bytes(data[i : i + a], "little", signed=True) for i in range(0, len(data), a))
        return b"".join(element.to_bytes(b, "little", signed=True) for element in signed)
    a, b = FLOATS[source].size, FLOATS[target].size
    elements = (int.from_bytes(data[i : i + a], "little") for i in range(0, len(data), a))
    return b"".join(widen(element, source, target).to_bytes(b, "little") for element in elements)


def numbers(data: bytes, dtype: str) -> list[float]:
    """The values of floating-point elements; float64 holds each of them exactly."""
    return [value for (value,) in struct.iter_unpack("<d", widen_all(data, dtype, "float64"))]


def _pack(form: str, value: float) -> bytes:
    """IEEE rounding to nearest even; struct refuses to round up to infinity by itself."""
    try:
        return struct.pack(form, value)
    except OverflowError:
        return struct.pack(form, math.copysign(math.inf, value))


def to_float32(value: float) -> float:
    """The nearest float32. Sums and products of two float32 are right after this one rounding."""
    rounded: float = struct.unpack("<f", _pack("<f", value))[0]
    return rounded


def element(value: float, dtype: str) -> bytes:
    """A number rounded to nearest even into a type's element."""
    if dtype != "bfloat16":
        return _pack({"float16": "<e", "float32": "<f", "float64": "<d"}[dtype], value)
    bits = int.from_bytes(_pack("<f", value), "little")
    if math.isnan(value):
        return (bits >> 16 | 0x40).to_bytes(2, "little")
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).to_bytes(2, "little")
