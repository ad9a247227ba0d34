"""The record of one tensor: what it is, how it is stored, and how many bytes each of its sections takes.

A record is all that a reader needs in order to know where every section lies and how much memory the tensor will want, before
it reads or allocates anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from deepcompress.container import layout
from deepcompress.container.layout import DTYPE_OF_CODE, DTYPE_OF_NAME, NARROWER
from deepcompress.container.varint import Cursor, varint
from deepcompress.errors import FormatError

_OF_SYMBOLS = (layout.CODEC_FIXED, layout.CODEC_HUFFMAN, layout.CODEC_CONTEXT)


@dataclass(frozen=True)
class StreamRecord:
    """A run of symbols in a section: codec id, bytes, chunk and lane geometry (one byte), the codec's own parameters.

    The raw codec (0) has neither geometry nor parameters, and its length follows from the shape.
    """

    codec: int
    length: int
    geometry: int = 0
    parameters: bytes = b""

    def pack(self, *, compact: bool = False) -> bytes:
        """The record's bytes: one where it is raw."""
        if self.codec == layout.CODEC_RAW:
            return varint(layout.CODEC_RAW)
        if compact and self.codec == layout.CODEC_CONTEXT:
            return varint(self.codec) + varint(self.length) + _shortened(self.parameters)
        head = varint(self.codec) + varint(self.length) + bytes([self.geometry])
        return head + varint(len(self.parameters)) + self.parameters

    @classmethod
    def unpack(cls, cursor: Cursor, raw_length: int | None, levels: int | None = None) -> StreamRecord:
        """Read a stream record.

        Args:
            cursor: where it begins.
            raw_length: the length that raw values have here, None where there must be symbols.
            levels: in a compact file, how many parameters codec 4 has here.
        """
        codec = cursor.varint()
        if raw_length is None and codec in (layout.CODEC_RAW, layout.CODEC_PLANES):
            raise cursor.error(f"a stream of symbols cannot have codec {codec}, which stores values")
        if codec != layout.CODEC_RAW:
            length = cursor.varint()
            if levels is not None and codec == layout.CODEC_CONTEXT:
                return cls(codec, length, layout.CONTEXT_GEOMETRY, _read_levels(cursor, levels))
            geometry = cursor.byte()
            return cls(codec, length, geometry, cursor.take(cursor.varint()))
        return cls(codec, raw_length or 0)


@dataclass(frozen=True)
class Sparse:
    """Where the nonzeros of a tensor are: their number, and a stream of gaps of `gap_bits` bits before coding.

    `gap_count` is the stream's symbols, nonzeros + escapes; the file holds the number of escapes.
    """

    nonzeros: int
    gap_bits: int
    gap_count: int
    stream: StreamRecord


@dataclass(frozen=True)
class SectionSize:
    """One section of a tensor: "codebook" | "affine" | "gaps" | "values", its bytes, and whether it is raw elements."""

    kind: str
    length: int
    raw: bool


@dataclass(frozen=True)
class TensorRecord:
    """One tensor in the directory.

    `stored` is the type in which elements lie in the file (values, centroids or scales); `size` is the number of centroids
    of a codebook, or of channels of an affine map; `axis` is 0 for one scale per tensor, else 1 + the channel's dimension;
    `one_offset` says that those channels share an offset; `tie` is the position of the earlier record that holds the same tensor.

    In a compact file: `offset` is the one offset of all channels, which then is not in the section; `constant` are the bytes of
    the one value, in the stored type, of a tensor whose elements are all equal, which has no sections.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    stored: str
    value_map: int = layout.MAP_NONE
    size: int = 0
    axis: int = 0
    sparse: Sparse | None = None
    values: StreamRecord | None = None
    tie: int | None = None
    one_offset: bool = False
    offset: int | None = None
    constant: bytes | None = None

    @property
    def numel(self) -> int:
        """Elements of the dense tensor."""
        return layout.numel(self.shape)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the dense tensor; a tie takes none of its own."""
        return 0 if self.tie is not None else self.numel * DTYPE_OF_NAME[self.dtype].itemsize

    @property
    def value_count(self) -> int:
        """How many values or symbols are stored: all, or the nonzeros."""
        return self.numel if self.sparse is None else self.sparse.nonzeros

    def sections(self) -> Iterator[SectionSize]:
        """The tensor's sections, in file order."""
        if self.values is None:
            return
        if self.value_map == layout.MAP_CODEBOOK:
            yield SectionSize("codebook", self.size * DTYPE_OF_NAME[self.stored].itemsize, raw=True)
        elif self.value_map == layout.MAP_AFFINE:
            offsets = 0 if self.offset is not None else 1 if self.one_offset else self.size
            yield SectionSize("affine", self.size * DTYPE_OF_NAME[self.stored].itemsize + 4 * offsets, raw=True)
        if self.sparse is not None:
            yield SectionSize("gaps", self.sparse.stream.length, raw=False)
        yield SectionSize("values", self.values.length, raw=self.values.codec == layout.CODEC_RAW)

    @property
    def plain(self) -> bool:
        """Whether its values lie in the file as they are, or are all equal and in the record."""
        raw = self.values is not None and self.values.codec == layout.CODEC_RAW
        return self.constant is not None or (raw and self.sparse is None)

    @property
    def parameters_of_levels(self) -> int:
        """How many parameters codec 4 has: where the levels are, `first` and `lag` (see `open_context`)."""
        return 3 if self.value_map == layout.MAP_CODEBOOK else 5 if self.offset is None else 4

    def is_like(self, other: TensorRecord) -> bool:
        """Whether both are plain, and the same but for their names."""
        return self.plain and other.plain and replace(other, name=self.name) == self

    def pack(self, position: int, earlier: Sequence[TensorRecord] = (), *, compact: bool = False) -> bytes:
        """The record's bytes, as number `position` of the directory, after `earlier`. The name lies with the other names."""
        if self.tie is not None:
            return bytes([layout.TIE]) + varint(position - self.tie)
        if (back := self._likeness(earlier, layout.SAME_BACK if compact else 0)) is not None:
            return bytes([layout.SAME | back])
        if self.values is None and self.constant is None:
            raise FormatError(f"tensor {self.name!r} has neither values nor a tie")
        zeros = self.constant is not None and not any(self.constant)
        other = layout.OTHER_TYPE if self.stored != self.dtype else 0
        usual = layout.FLOAT32 if self.dtype == "float32" else 0
        one_offset = layout.ONE_OFFSET if self.one_offset or self.offset is not None else 0
        out = bytearray([self.value_map | (layout.SPARSE if self.sparse or zeros else 0) | other | usual | one_offset])
        if not usual:
            out.append(DTYPE_OF_NAME[self.dtype].code)
        out.append(len(self.shape))
        out += b"".join(varint(side) for side in self.shape)
        if other:
            out.append(DTYPE_OF_NAME[self.stored].code)
        if self.value_map == layout.MAP_CODEBOOK:
            out += varint(self.size)
        elif self.value_map == layout.MAP_AFFINE:
            out += varint(self.axis) + (b"" if self.offset is None else varint(self.offset))
        return bytes(out) + self._pack_values(compact)

    def _likeness(self, earlier: Sequence[TensorRecord], most: int) -> int | None:
        """How many records, at most `most`, lie between this one and the last one like it."""
        near = range(min(len(earlier), most + 1)) if self.plain else range(0)
        return next((back for back in near if self.is_like(earlier[-1 - back])), None)

    def _pack_values(self, compact: bool) -> bytes:
        """What the record says of gaps and values."""
        if self.values is None:
            return self.constant if self.constant is not None and any(self.constant) else b""
        if self.sparse is None:
            return self.values.pack(compact=compact)
        escapes = varint(self.sparse.gap_count - self.sparse.nonzeros)
        gaps = varint(self.sparse.nonzeros) + bytes([self.sparse.gap_bits]) + escapes + self.sparse.stream.pack()
        return gaps + self.values.pack(compact=compact)


def read_record(cursor: Cursor, name: str, earlier: list[TensorRecord], *, compact: bool = False) -> TensorRecord:
    """Read and validate the next record; `earlier` are those before it, `compact` says whether the file is."""
    cursor.place = f"record of {name!r}"
    flags = cursor.byte()
    if flags == layout.TIE:
        return _read_tie(cursor, name, earlier)
    if flags == layout.SAME or (compact and flags & ~layout.SAME_BACK == layout.SAME):
        return _read_same(cursor, name, earlier, flags & layout.SAME_BACK)
    if flags & ~(layout.KNOWN_RECORD_FLAGS & ~layout.TIE):
        raise cursor.error(f"unknown flags {flags:#04x}")
    dtype = "float32" if flags & layout.FLOAT32 else _read_dtype(cursor)
    shape = _read_shape(cursor)
    if layout.extent(shape) * DTYPE_OF_NAME[dtype].itemsize > layout.MAX_TENSOR_BYTES:
        raise cursor.error(f"a tensor of shape {shape} and dtype {dtype} has more than 2**63 - 1 bytes")
    stored = _read_stored(cursor, dtype) if flags & layout.OTHER_TYPE else dtype
    base = TensorRecord(name, dtype, shape, stored, flags & layout.VALUE_MAP)
    if compact and base.value_map == layout.MAP_CONSTANT:
        return _read_constant(cursor, base, flags)
    size, axis = _read_map(cursor, base.value_map, dtype, shape)
    base = _read_offset(cursor, replace(base, size=size, axis=axis), flags, compact)
    sparse = _read_sparse(cursor, layout.numel(shape)) if flags & layout.SPARSE else None
    return _read_values(cursor, replace(base, sparse=sparse), compact)


def _shortened(parameters: bytes) -> bytes:
    """Parameters of codec 4 as a compact file has them: the first chance as its step."""
    cursor, numbers = Cursor(parameters, "codec parameters"), []
    while cursor.left:
        numbers.append(cursor.varint())
    numbers[-2] = layout.FIRST_CHANCES.index(numbers[-2])
    return b"".join(map(varint, numbers))


def _read_levels(cursor: Cursor, count: int) -> bytes:
    """The other way round."""
    numbers = [cursor.varint() for _ in range(count)]
    if numbers[-2] >= len(layout.FIRST_CHANCES):
        raise cursor.error(f"a first chance of step {numbers[-2]}, there are {len(layout.FIRST_CHANCES)}")
    numbers[-2] = layout.FIRST_CHANCES[numbers[-2]]
    return b"".join(map(varint, numbers))


def _read_offset(cursor: Cursor, record: TensorRecord, flags: int, compact: bool) -> TensorRecord:
    """The one offset of all channels: in a compact file it is here, in others in the section."""
    if not flags & layout.ONE_OFFSET:
        return record
    if compact and record.value_map == layout.MAP_AFFINE:
        offset = cursor.varint()
        if offset >= layout.MAX_CENTROIDS:
            raise cursor.error(f"an offset of {offset}, at most {layout.MAX_CENTROIDS - 1} is allowed")
        return replace(record, offset=offset)
    if not record.axis:
        raise cursor.error("one offset for all channels, and no channels of an affine map")
    return replace(record, one_offset=True)


def _read_values(cursor: Cursor, record: TensorRecord, compact: bool) -> TensorRecord:
    raw_length = record.value_count * DTYPE_OF_NAME[record.stored].itemsize if record.value_map == layout.MAP_NONE else None
    values = StreamRecord.unpack(cursor, raw_length, record.parameters_of_levels if compact else None)
    if record.value_map == layout.MAP_NONE and values.codec in _OF_SYMBOLS:
        raise cursor.error(f"codec {values.codec} stores symbols, and there is no value map for them")
    if record.sparse and values.codec == layout.CODEC_CONTEXT:
        raise cursor.error("codec 4 stores the symbols of all elements, and the tensor is sparse")
    return replace(record, values=values)


def _read_constant(cursor: Cursor, record: TensorRecord, flags: int) -> TensorRecord:
    """The one value of all elements: zeros have a flag, others follow."""
    if flags & layout.ONE_OFFSET:
        raise cursor.error("one offset for all channels, and no channels of an affine map")
    kind = DTYPE_OF_NAME[record.stored]
    if flags & layout.SPARSE:
        if flags & layout.OTHER_TYPE:
            raise cursor.error("zeros in a type of their own")
        return replace(record, constant=bytes(kind.itemsize))
    constant = cursor.take(kind.itemsize)
    if not any(constant):
        raise cursor.error("zeros have a flag, and no value")
    if kind.name == "bool" and constant != b"\1":
        raise cursor.error("a bool element is neither 0 nor 1")
    return replace(record, constant=constant)


def _read_tie(cursor: Cursor, name: str, earlier: list[TensorRecord]) -> TensorRecord:
    back = cursor.varint()
    if not 1 <= back <= len(earlier):
        raise cursor.error(f"a tie {back} records back, there are {len(earlier)} before it")
    target = earlier[-back]
    if target.tie is not None:
        raise cursor.error(f"a tie to {target.name!r}, which is a tie itself")
    return TensorRecord(name, target.dtype, target.shape, target.stored, tie=len(earlier) - back)


def _read_same(cursor: Cursor, name: str, earlier: list[TensorRecord], back: int) -> TensorRecord:
    if back >= len(earlier) or not earlier[-1 - back].plain:
        which = f"{back + 1} before it" if back else "before it"
        raise cursor.error(f"like the tensor {which}, which is none of raw values")
    return replace(earlier[-1 - back], name=name)


def _read_dtype(cursor: Cursor) -> str:
    code = cursor.byte()
    if code not in DTYPE_OF_CODE:
        raise cursor.error(f"unknown dtype code {code}")
    return DTYPE_OF_CODE[code].name


def _read_stored(cursor: Cursor, dtype: str) -> str:
    stored = _read_dtype(cursor)
    if stored not in NARROWER.get(dtype, ()):
        raise cursor.error(f"{dtype} elements cannot be stored as {stored}")
    return stored


def _read_shape(cursor: Cursor) -> tuple[int, ...]:
    dimensions = cursor.byte()
    if dimensions > layout.MAX_DIMENSIONS:
        raise cursor.error(f"{dimensions} dimensions, at most {layout.MAX_DIMENSIONS} are allowed")
    return tuple(cursor.varint() for _ in range(dimensions))


def _read_map(cursor: Cursor, value_map: int, dtype: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """(size, axis) of the value map."""
    if value_map == layout.MAP_NONE:
        return 0, 0
    if dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise cursor.error(f"a value map gives real numbers, the tensor is {dtype}")
    if value_map == layout.MAP_CODEBOOK:
        size = cursor.varint()
        if size > layout.MAX_CENTROIDS:
            raise cursor.error(f"a codebook of {size} centroids, at most {layout.MAX_CENTROIDS} are allowed")
        return size, 0
    if value_map == layout.MAP_AFFINE:
        axis = cursor.varint()
        if axis > len(shape):
            raise cursor.error(f"channel axis {axis - 1} of a tensor with {len(shape)} dimensions")
        return (shape[axis - 1] if axis else 1), axis
    raise cursor.error(f"unknown value map {value_map}")


def _read_sparse(cursor: Cursor, numel: int) -> Sparse:
    nonzeros, gap_bits, escapes = cursor.varint(), cursor.byte(), cursor.varint()
    if not 1 <= gap_bits <= layout.MAX_GAP_BITS:
        raise cursor.error(f"gaps of {gap_bits} bits, 1 to {layout.MAX_GAP_BITS} are allowed")
    if nonzeros + escapes > numel:
        raise cursor.error(f"{nonzeros} nonzeros and {escapes} escapes in {numel} weights")
    stream = StreamRecord.unpack(cursor, raw_length=None)
    if stream.codec == layout.CODEC_CONTEXT:
        raise cursor.error("gaps cannot have codec 4, which stores the symbols of all elements")
    return Sparse(nonzeros, gap_bits, nonzeros + escapes, stream)
