"""A block of directory bytes, stored as it is or coded by our own coders where that is smaller.

    varint  2 n + coded       n = bytes of the block
    n bytes                                                      coded = 0
    varint m, m bytes: code lengths, then a codeword per byte    coded = 1

and in a compact file

    varint  4 n + form
    n bytes, or varint m, m bytes                                form = 0 or 1, as above
    varint m, m bytes: the bytes by context                      form = 2

A general compressor would save little more, and its bytes differ from build to build.
"""

from __future__ import annotations

import numpy as np

from deepcompress.coding.bytewise import decode_bytes, encode_bytes
from deepcompress.coding.huffman import HuffmanCode
from deepcompress.coding.tables import BitReader, BitWriter, read_lengths, write_lengths
from deepcompress.container import layout
from deepcompress.container.varint import Cursor, varint
from deepcompress.errors import FormatError

_MAX_LENGTH = 12


def pack_block(data: bytes, *, compact: bool = False, before: bytes = b"") -> bytes:
    """The block that holds `data`, in the shortest of its forms; in a compact file the coder has learned from `before`."""
    forms = {layout.BLOCK_PLAIN: data, layout.BLOCK_CODED: _encode(data)}
    if compact and len(data) <= layout.MAX_CONTEXT_BLOCK:
        forms[layout.BLOCK_CONTEXT] = encode_bytes(data, before)
    form = min(forms, key=lambda form: len(forms[form]))
    head = varint((4 if compact else 2) * len(data) + form)
    return head + (varint(len(forms[form])) if form else b"") + forms[form]


def unpack_block(cursor: Cursor, *, compact: bool = False, before: bytes = b"") -> bytes:
    """The block's bytes. How far they may grow is bounded: each codeword takes a bit or more, and few bytes are by context."""
    size, form = divmod(cursor.varint(), 4 if compact else 2)
    if form == layout.BLOCK_PLAIN:
        return cursor.take(size)
    if form > layout.BLOCK_CONTEXT:
        raise cursor.error(f"a block of form {form}")
    data = cursor.take(cursor.varint())
    by_context = form == layout.BLOCK_CONTEXT
    if size > (layout.MAX_CONTEXT_BLOCK if by_context else 8 * len(data)):
        raise cursor.error(f"a block of {size} bytes cannot come from {len(data)}")
    try:
        return decode_bytes(data, size, before) if by_context else _decode(data, size)
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
    out = _decode_codewords(bits, code, size)
    bits.finish()
    return out


def _decode_codewords(bits: BitReader, code: HuffmanCode, size: int) -> bytes:
    """`size` bytes, each by a look at the next twelve bits. Plain Python: a directory opens without compiled code."""
    return bits.read_codewords(_first_codewords(code), _MAX_LENGTH, size)


def _first_codewords(code: HuffmanCode) -> list[tuple[int, int]]:
    """By the next twelve bits: the length and the symbol of the codeword that they begin with; (0, 0) where there is none."""
    lengths, symbols = np.zeros(1 << _MAX_LENGTH, np.int64), np.zeros(1 << _MAX_LENGTH, np.int64)
    for symbol in code.ordered.tolist():
        places = slice(int(code.codewords[symbol]), None, 1 << int(code.lengths[symbol]))
        lengths[places], symbols[places] = int(code.lengths[symbol]), symbol
    return list(zip(lengths.tolist(), symbols.tolist(), strict=True))
