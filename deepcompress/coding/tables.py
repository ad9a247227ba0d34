"""Bit strings in plain Python, and the few bits in which a table of code lengths is written.

    gamma(n + 1)             n = the alphabet's size; then tokens, until all n symbols have a length
    0                        the last nonzero length again (5 at first)
    100                      one more
    101                      one less
    110 bbbbb                this length, least significant bit first
    1110                     0: the symbol does not occur
    1111 gamma(r)            r + 1 symbols that do not occur

gamma(m), m >= 1: as many zeros as m has bits below its first one, the one, those bits, most significant first
(Elias. Universal codeword sets and representations of the integers. IEEE Trans. Inf. Theory 21(2), 1975).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepcompress.coding.huffman import MAX_ALPHABET, MAX_CODE_LENGTH
from deepcompress.errors import FormatError, ParameterError

_FIRST = 5  # the most common length where indices have 5 bits
_SAME, _MORE, _LESS, _NEW, _ABSENT, _RUN = (0, 1), (0b001, 3), (0b101, 3), (0b011, 3), (0b0111, 4), (0b1111, 4)
_TOKENS = [next(t for t in (_SAME, _MORE, _LESS, _NEW, _ABSENT, _RUN) if bits & (1 << t[1]) - 1 == t[0]) for bits in range(16)]
_NEW_BITS = 5
_REFILL = 8


class BitWriter:
    """Bits into bytes, the first one least significant."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._word = 0
        self._filled = 0

    @property
    def bit_length(self) -> int:
        """Bits written so far."""
        return 8 * len(self._bytes) + self._filled

    def write(self, value: int, width: int) -> None:
        """Append the `width` low bits of `value`, least significant first.

        Raises:
            ParameterError: `value` needs more bits, or is negative.
        """
        if value >> width:
            raise ParameterError.of("value", "BitWriter.write", f"in [0, 2**{width})", value)
        self._word |= value << self._filled
        self._filled += width
        if self._filled >= 64:
            count = self._filled >> 3
            self._bytes += (self._word & (1 << 8 * count) - 1).to_bytes(count, "little")
            self._word >>= 8 * count
            self._filled &= 7

    def write_gamma(self, value: int) -> None:
        """Append the Elias gamma code of `value` >= 1."""
        if value < 1:
            raise ParameterError.of("value", "BitWriter.write_gamma", "at least 1", value)
        below = value.bit_length() - 1
        reversed_value = int(f"{value:b}"[::-1], 2)
        self.write(reversed_value << below, 2 * below + 1)

    def getvalue(self) -> bytes:
        """All bytes, the last one filled up with zero bits."""
        return bytes(self._bytes) + self._word.to_bytes((self._filled + 7) >> 3, "little")


class BitReader:
    """Bits out of bytes; reading past the end is a FormatError that says how much was asked for and left."""

    def __init__(self, data: bytes) -> None:
        self._data = bytes(data)
        self._next = 0  # first byte that is not in the word
        self._word = 0
        self._filled = 0

    @property
    def bits_left(self) -> int:
        """Bits not yet read, padding included."""
        return 8 * (len(self._data) - self._next) + self._filled

    def read(self, width: int) -> int:
        """The next `width` bits as a number, the first bit least significant.

        Raises:
            FormatError: fewer bits are left.
        """
        if width > self._filled:
            self._refill(width)
        value = self._word & (1 << width) - 1
        self._word >>= width
        self._filled -= width
        return value

    def peek(self, width: int) -> int:
        """The next `width` <= 57 bits as `read` would give them, zeros behind the end, without going on."""
        if width > self._filled and self._next < len(self._data):
            self._refill(min(width, self.bits_left))
        return self._word & (1 << width) - 1

    def read_codewords(self, table: list[tuple[int, int]], width: int, count: int) -> bytes:
        """`count` bytes, each by a look at the next `width` bits in a table of (code length, byte); length 0 is no codeword.

        Raises:
            FormatError: bits that begin with no codeword, or too few bits.
        """
        out, mask = bytearray(), (1 << width) - 1
        word, filled = self._word, self._filled
        for _ in range(count):
            if filled < width and self._next < len(self._data):
                piece = self._data[self._next : self._next + _REFILL]
                word |= int.from_bytes(piece, "little") << filled
                filled += 8 * len(piece)
                self._next += len(piece)
            length, symbol = table[word & mask]
            if not 0 < length <= filled:
                problem = f"{length} bits are needed, {filled} are left" if length else "a codeword that its code does not have"
                raise FormatError(problem)
            out.append(symbol)
            word >>= length
            filled -= length
        self._word, self._filled = word, filled
        return bytes(out)

    def read_gamma(self, largest: int) -> int:
        """A number from 1 to `largest` in Elias gamma code.

        Raises:
            FormatError: a larger number, or too few bits.
        """
        below = 0
        while not self.read(1):
            below += 1
            if below >= largest.bit_length():
                raise FormatError(f"a number of more than {below} bits, the largest that can stand here is {largest}")
        value = 1
        for _ in range(below):
            value = value << 1 | self.read(1)
        if value > largest:
            raise FormatError(f"number {value}, the largest that can stand here is {largest}")
        return value

    def finish(self) -> None:
        """Raise FormatError unless all that is left is less than a byte of zeros."""
        if self.bits_left > 7:
            raise FormatError(f"{self.bits_left} bits are left over")
        if self._word:
            raise FormatError(f"the last {self.bits_left} bits are padding and must be zero, they are {self._word:#b}")

    def _refill(self, width: int) -> None:
        if width > self.bits_left:
            raise FormatError(f"{width} bits are needed, {self.bits_left} are left")
        piece = self._data[self._next : self._next + max(_REFILL, (width + 7) >> 3)]
        self._word |= int.from_bytes(piece, "little") << self._filled
        self._next += len(piece)
        self._filled += 8 * len(piece)


def write_lengths(bits: BitWriter, lengths: ArrayLike) -> None:
    """Append a table of code lengths, the cheapest token at each place.

    Args:
        bits: where to.
        lengths: (alphabet,) integers from 0 (absent) to 20, at most 65,537 of them.

    Raises:
        ParameterError: `lengths` are anything else.
    """
    values = np.asarray(lengths)
    if len(values) > MAX_ALPHABET or (values.size and not 0 <= int(values.min()) <= int(values.max()) <= MAX_CODE_LENGTH):
        expected = f"at most {MAX_ALPHABET} integers from 0 to {MAX_CODE_LENGTH}"
        got = f"{len(values)} from {values.min()} to {values.max()}"
        raise ParameterError.of("lengths", "write_lengths", expected, got)
    bits.write_gamma(len(values) + 1)
    last = _FIRST
    starts = np.flatnonzero(np.diff(values.astype(np.int64), prepend=-1))
    for length, count in zip(values[starts].tolist(), np.diff(starts, append=len(values)).tolist(), strict=True):
        if length:
            _write_length(bits, length, last)
            bits.write(0, (count - 1) * _SAME[1])
            last = length
        else:
            _write_absent(bits, count)


def length_bits(lengths: ArrayLike) -> int:
    """Bits of the table that `write_lengths` makes of `lengths`, (alphabet,)."""
    from deepcompress.coding.merge import spelled_bits  # compiled, which a reader does without

    return int(spelled_bits(np.ascontiguousarray(lengths, np.uint8)))


def _write_length(bits: BitWriter, length: int, last: int) -> None:
    if length == last:
        bits.write(*_SAME)
    elif abs(length - last) == 1:
        bits.write(*(_MORE if length > last else _LESS))
    else:
        bits.write(*_NEW)
        bits.write(length, _NEW_BITS)


def _write_absent(bits: BitWriter, count: int) -> None:
    if count == 1:
        bits.write(*_ABSENT)
    else:
        bits.write(*_RUN)
        bits.write_gamma(count - 1)


def read_lengths(bits: BitReader, alphabet_max: int) -> NDArray[np.uint8]:
    """Read a table of code lengths, (alphabet,) with alphabet <= `alphabet_max`; whether they make a code is not asked here.

    Raises:
        FormatError: a larger alphabet, a length outside 1 to 20, a run past the alphabet's end, or too few bits.
    """
    alphabet = bits.read_gamma(alphabet_max + 1) - 1
    lengths = np.zeros(alphabet, np.uint8)
    symbol, last = 0, _FIRST
    while symbol < alphabet:
        token = _TOKENS[bits.peek(4)]
        bits.read(token[1])
        if token is _RUN:
            symbol += bits.read_gamma(alphabet_max) + 1
        elif token is _ABSENT:
            symbol += 1
        else:
            if token is not _SAME:
                last = _read_length(bits, token, last)
            lengths[symbol] = last
            symbol += 1
    if symbol > alphabet:
        raise FormatError(f"a run of absent symbols goes to {symbol}, the alphabet has {alphabet}")
    return lengths


def _read_length(bits: BitReader, token: tuple[int, int], last: int) -> int:
    length = bits.read(_NEW_BITS) if token is _NEW else last + (token is _MORE) - (token is _LESS)
    if not 1 <= length <= MAX_CODE_LENGTH:
        raise FormatError(f"code length {length}, it must be from 1 to {MAX_CODE_LENGTH}")
    return length
