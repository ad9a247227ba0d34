"""Every number of the format, once. FORMAT.md says the same in words, with the reasons.

| head 8 | sections, back to back ............. | directory | trailer 8 |
  magic    tensor by tensor: codebook, gaps,      names, tables, records,
  version  values; then metadata                  metadata, checksums
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

MAGIC = b"\xdcDCZ"  # not ASCII in its first byte, and no UTF-8: a mangled transfer shows at once
MAJOR, MINOR = 1, 4  # what this reader knows
PLAIN_MINOR, FLAGS_MINOR, CONTEXT_MINOR, COMPACT_MINOR = 1, 2, 3, 4  # what a file needs: no flags; some; codec 4; COMPACT
ONE_OFFSET_USED = 0x0001  # in the head: records may have the flag ONE_OFFSET
COMPACT = 0x0002  # in the head: blocks, records and streams have their shorter forms
KNOWN_FLAGS = ONE_OFFSET_USED | COMPACT  # bits of the head that a reader must know
HEAD = struct.Struct("<4sBBH")  # magic, major, minor, flags
TRAILER = struct.Struct("<II")  # directory length, CRC-32 over head, directory and directory length

GROUP_BYTES = 65_536  # one CRC-32 covers so many bytes of the sections
ALIGNMENT = 64  # of raw sections above RAW_ALIGNED bytes, so that they can be mapped
RAW_ALIGNED = 4_096

MAX_NAME_BYTES = 65_535
MAX_ALL_NAMES_BYTES = 1 << 26  # front coding makes long names of few bytes
MAX_PATHS_AROUND = 1 << 22  # characters: a name of nothing but dots has a path for each
MAX_DIMENSIONS = 64
MAX_TENSOR_BYTES = 2**63 - 1
MAX_ALPHABET = 65_537  # 16-bit indices and the zero symbol
MAX_ALL_ALPHABETS = 1 << 26  # a run of absent symbols takes a few bits
MAX_CENTROIDS = 65_536
MAX_GAP_BITS = 16
MAX_FIXED_WIDTH = 17
MAX_VARINT_BYTES = 9  # 63 bits

# Flags of a tensor record.
TIE = 0x80  # the tensor is an earlier one under a second name
VALUE_MAP = 0x03  # 0 none, 1 codebook, 2 affine, 3 constant (in a compact file)
SPARSE = 0x04  # only the nonzeros are stored, and the gaps between them
OTHER_TYPE = 0x08  # elements (codebook entries, scales) are stored in a narrower type, which follows
FLOAT32 = 0x10  # the dtype is float32, and no dtype code follows
ONE_OFFSET = 0x20  # the channels of an affine map have one offset; in a compact file it follows in the record
SAME = 0x40  # a tensor of raw values like the one before it: same dtype, shape and stored dtype; nothing follows
SAME_BACK = 0x3F  # in a compact file, below SAME: how many records lie between
KNOWN_RECORD_FLAGS = TIE | VALUE_MAP | SPARSE | OTHER_TYPE | FLOAT32 | ONE_OFFSET

# Bytes that no UTF-8 text has stand in names for the words that most of them end with.
WORDS = {
    b"\xf8": b"weight",
    b"\xf9": b"bias",
    b"\xfa": b"running_mean",
    b"\xfb": b"running_var",
    b"\xfc": b"num_batches_tracked",
}

MAP_NONE, MAP_CODEBOOK, MAP_AFFINE, MAP_CONSTANT = 0, 1, 2, 3
CODEC_RAW, CODEC_FIXED, CODEC_HUFFMAN, CODEC_PLANES, CODEC_CONTEXT = 0, 1, 2, 3, 4
BLOCK_PLAIN, BLOCK_CODED, BLOCK_CONTEXT = 0, 1, 2
MAX_CONTEXT_BLOCK = 4_096  # bytes of content: they are read bit by bit, in plain Python
PLANE_PLAIN, PLANE_CONSTANT, PLANE_CODED = 0, 1, 2
MAX_CODED_PLANE = 16
CONTEXT_GEOMETRY = 20  # of codec 4 in a compact file, whose stream records do not tell it
# What levels begin with where codec 4 is in a compact file, by steps of half a factor of two: a chance in 4,096ths.
FIRST_CHANCES = tuple(min((4_096 if step % 2 == 0 else 2_896) >> step // 2, 4_095) for step in range(24))
MAX_CONTEXT_CHUNK_LOG2 = 20  # of codec 4, whose reader takes several bytes for each level of a chunk

# Metadata sections: an odd kind is critical, a reader that does not know it must refuse the file.
META_STRINGS, META_RECIPE, META_VERSIONS, META_VERSIONS_AROUND, META_INFERENCE = 2, 4, 6, 8, 10
KNOWN_META = frozenset({META_STRINGS, META_RECIPE, META_VERSIONS, META_VERSIONS_AROUND, META_INFERENCE})


@dataclass(frozen=True)
class DType:
    """An element type: its code in the file, torch's name for it, bytes per element, and the numpy type that carries it."""

    code: int
    name: str
    itemsize: int
    numpy: str  # little-endian; an unsigned integer where numpy has no such type

    @property
    def tagged(self) -> bool:
        """Whether numpy lacks the type, so that its bits travel as unsigned integers."""
        return self.numpy[1] == "u" and not self.name.startswith("uint")


DTYPES = (
    DType(0, "float32", 4, "<f4"),
    DType(1, "float64", 8, "<f8"),
    DType(2, "float16", 2, "<f2"),
    DType(3, "bfloat16", 2, "<u2"),
    DType(4, "int64", 8, "<i8"),
    DType(5, "int32", 4, "<i4"),
    DType(6, "int16", 2, "<i2"),
    DType(7, "int8", 1, "|i1"),
    DType(8, "uint8", 1, "|u1"),
    DType(9, "uint16", 2, "<u2"),
    DType(10, "uint32", 4, "<u4"),
    DType(11, "uint64", 8, "<u8"),
    DType(12, "bool", 1, "|b1"),
    DType(13, "complex64", 8, "<c8"),
    DType(14, "complex128", 16, "<c16"),
    DType(15, "complex32", 4, "<u4"),
    DType(16, "float8_e4m3fn", 1, "|u1"),
    DType(17, "float8_e5m2", 1, "|u1"),
    DType(18, "float8_e4m3fnuz", 1, "|u1"),
    DType(19, "float8_e5m2fnuz", 1, "|u1"),
    DType(20, "float8_e8m0fnu", 1, "|u1"),
    DType(21, "float4_e2m1fn_x2", 1, "|u1"),
)
DTYPE_OF_CODE = {dtype.code: dtype for dtype in DTYPES}
DTYPE_OF_NAME = {dtype.name: dtype for dtype in DTYPES}

# Types in which the elements of a tensor may be stored: itself, or one whose every value it holds exactly.
NARROWER = {
    "float32": ("float16", "bfloat16"),
    "float64": ("float16", "bfloat16", "float32"),
    "int64": ("int8", "int16", "int32"),
    "int32": ("int8", "int16"),
    "int16": ("int8",),
}


def check_name(name: str) -> str | None:
    """What is wrong with a tensor's name, or None."""
    if not name:
        return "is empty"
    if "\0" in name:
        return "holds a NUL"
    if ".." in name:
        return "holds '..'"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # half a surrogate pair
        return "has no UTF-8 form"
    if size > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    return None


def numel(shape: tuple[int, ...]) -> int:
    """Elements of a shape; 1 for a 0-d tensor."""
    return math.prod(shape)


def extent(shape: tuple[int, ...]) -> int:
    """Elements of a shape, sides of 0 left out; what must not overflow, for strides are computed from all sides."""
    return math.prod(side for side in shape if side)


def aligned(offset: int, raw_bytes: int) -> int:
    """Where a raw section of `raw_bytes` bytes begins when the last one ended at `offset`."""
    return -(-offset // ALIGNMENT) * ALIGNMENT if raw_bytes > RAW_ALIGNED else offset
