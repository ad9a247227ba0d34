"""A block of directory bytes, stored as it is or coded by our own Huffman coder where that is smaller.

    varint  2 n + coded       n = bytes of the block
    n bytes                                                      coded = 0
    varint m, m bytes: code lengths, then a codeword per byte    coded = 1

A general compressor would save little more, and its bytes differ from build to build.
"""

from __future__ import annotations

import numpy as np

from deepcompress.coding.huffman import HuffmanCode
from deepcompress.coding.tables import BitReader, BitWriter, read_lengths, write_lengths
from deepcompress.container.varint import Cursor, varint
from deepcompress.errors import FormatError

_MAX_LENGTH = 12


def pack_block(data: bytes) -> bytes:
    """The block that holds `data`, in the shorter of its two forms."""
    coded = _encode(data)
    if len(coded) < len(data):
        return varint(2 * len(data) + 1) + varint(len(coded)) + coded
    return varint(2 * len(data)) + data


def unpack_block(cursor: Cursor) -> bytes:
    """The block's bytes. Each coded byte takes a bit or more, so that no block grows beyond eight times its size."""
    size, coded = divmod(cursor.varint(), 2)
    if not coded:
        return cursor.take(size)
    data = cursor.take(cursor.varint())
    if size > 8 * len(data):
        raise cursor.error(f"a block of {size} bytes cannot come from {len(data)}")
    try:
        return _decode(data, size)
    except FormatError as error:
        raise cursor.error(f"a coded block: {error}") from None


def _encode(data: bytes) -> bytes:
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=1)
    code = HuffmanCode.from_counts(counts, _MAX_LENGTH)
    bits = BitWriter()
    write_lengths(bits, code.lengths)
    words = list(zip(code.codewords.tolist(), code.lengths.tolist(), strict=True))
    for byte in data:
        bits.write(*words[byte])
    return bits.getvalue()


def _decode(data: bytes, size: int) -> bytes:
    bits = BitReader(data)
    code = HuffmanCode.from_lengths(read_lengths(bits, 256))
    if code.max_length > _MAX_LENGTH:
        raise FormatError(f"a codeword of {code.max_length} bits, at most {_MAX_LENGTH} are allowed")
    lookup = {
        (length, word): symbol
        for symbol, (length, word) in enumerate(zip(code.lengths.tolist(), code.codewords.tolist(), strict=True))
        if length
    }
    out = bytearray()
    for _ in range(size):
        out.append(_symbol(bits, lookup))
    bits.finish()
    return bytes(out)


def _symbol(bits: BitReader, lookup: dict[tuple[int, int], int]) -> int:
    word = 0
    for length in range(1, _MAX_LENGTH + 1):
        word |= bits.read(1) << length - 1
        symbol = lookup.get((length, word))
        if symbol is not None:
            return symbol
    raise FormatError("a codeword that its code does not have")
