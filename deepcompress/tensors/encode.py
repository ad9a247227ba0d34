"""A tensor into its record and sections: every representation is counted, the smallest is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.bits import symbol_dtype
from deepcompress.coding.gaps import Nonzeros, best_gap_bits, encode_gaps, find_nonzeros
from deepcompress.coding.streams import Geometry, count_symbols, encode_stream
from deepcompress.container import layout
from deepcompress.container.layout import DTYPE_OF_NAME, NARROWER
from deepcompress.container.records import Sparse, StreamRecord, TensorRecord
from deepcompress.errors import ModelError
from deepcompress.tensors.affine import AffineTensor
from deepcompress.tensors.compressed import CompressedTensor, DenseTensor, centroid_elements
from deepcompress.tensors.constants import constant_record
from deepcompress.tensors.contexts import encode_context
from deepcompress.tensors.cutting import encode_planes, plan_planes
from deepcompress.tensors.elements import Array, bfloat16_to_float32
from deepcompress.tensors.streams import Encoding, StreamPlan, Tables, choose_geometry, dense_counts

AnyTensor = DenseTensor | CompressedTensor | AffineTensor
Section = bytes | NDArray[np.uint8] | list[NDArray[np.uint8]]  # whole or in pieces
Sections = Mapping[str, Section]
Counts = NDArray[np.int64]

_LEAST_SAVED = 24  # bytes that planes must save: less is not worth a reader's time, nor a longer directory
_SPARSE_RECORD_BITS = 8 * 10  # what a record grows by for nonzeros, gap bits, escapes and a second stream, about


@dataclass(frozen=True)
class Encoded:
    """A tensor ready to be written."""

    record: TensorRecord
    sections: Sections


def encode_tensor(name: str, tensor: AnyTensor, tables: Tables) -> Encoded:
    """Encode one tensor; tables that it brings are added to `tables`.

    Raises:
        ModelError: its elements lie in a type that the format does not widen to the tensor's own.
    """
    if tensor.stored != tensor.dtype and tensor.stored not in NARROWER.get(tensor.dtype, ()):
        raise ModelError(f"{name!r}: {tensor.dtype} elements cannot be stored as {tensor.stored}")
    if tables.encoding.compact and (equal := constant_record(name, tensor)) is not None:
        return Encoded(equal, {})
    if isinstance(tensor, DenseTensor):
        return _encode_dense_values(name, _narrowed(tensor), tables)
    if isinstance(tensor, AffineTensor):
        return _encode_affine(name, tensor, tables)
    return _encode_shared(name, tensor, tables)


@dataclass(frozen=True)
class _GapPlan:
    """The nonzeros of a tensor, and the cheapest way to write the gaps between them."""

    nonzeros: Nonzeros
    gap_bits: int
    geometry: Geometry
    stream: StreamPlan

    @property
    def bits(self) -> int:
        return self.stream.total + _SPARSE_RECORD_BITS

    def encode(self, tables: Tables) -> tuple[Sparse, Section]:
        tables.adopt(self.stream)
        gaps, counts = encode_gaps(self.nonzeros.gaps, self.nonzeros.counts, self.gap_bits)
        section = encode_stream(gaps, self.stream.coder, self.geometry.lanes, counts, counts_known=False)
        record = _stream_record(self.stream, self.geometry, section)
        return Sparse(len(self.nonzeros.gaps), self.gap_bits, len(gaps), record), section


def _plan_gaps(symbols: NDArray[Any], count: int, tables: Tables) -> _GapPlan:
    """`symbols` are zero where a weight is pruned, and `count` of them are not."""
    geometry = choose_geometry(len(symbols), count)
    nonzeros = find_nonzeros(symbols, geometry.chunk_log2)
    bits, counts = best_gap_bits(nonzeros.gaps, lambda counts: tables.plan(counts, len(counts)).total)
    return _GapPlan(nonzeros, bits, geometry, tables.plan(counts, 1 << bits))


def _encode_shared(name: str, tensor: CompressedTensor, tables: Tables) -> Encoded:
    """Gaps and indices, indices with a zero symbol, or the plain values, whichever takes the fewest bits."""
    counts = count_symbols(tensor.symbols, tensor.codebook.k + 1)
    centroids = centroid_elements(tensor.codebook, tensor.stored).tobytes()
    dense = tables.plan(counts, len(counts))
    gaps = _plan_gaps(tensor.symbols, int(counts[1:].sum()), tables) if counts[0] else None
    kept = tables.plan(np.concatenate([[0], counts[1:]]), len(counts)) if gaps else None
    bits = {"dense": dense.total + 8 * len(centroids), "raw": 8 * len(tensor.symbols) * DTYPE_OF_NAME[tensor.dtype].itemsize}
    if gaps and kept:
        bits["gaps"] = gaps.bits + kept.total + 8 * len(centroids)
    best = min(bits, key=lambda kind: bits[kind])
    base = TensorRecord(name, tensor.dtype, tensor.shape, tensor.stored, layout.MAP_CODEBOOK, tensor.codebook.k)
    below = int(np.count_nonzero(tensor.codebook.centroids < 0))
    if encoded := _by_contexts(base, {"codebook": centroids}, tensor.symbols, (None, below), bits[best], tables):
        return encoded
    if best == "raw":
        return _encode_dense_values(name, DenseTensor(tensor.to_dense(), tensor.dtype, tensor.dtype), tables)
    if best == "gaps" and gaps:
        counts[0] = 0
        return _sparse_symbols(base, {"codebook": centroids}, gaps, (gaps.nonzeros.kept, counts, base.size + 1), tables)
    return _dense_symbols(base, {"codebook": centroids}, tensor.symbols, dense, tables)


def _encode_affine(name: str, tensor: AffineTensor, tables: Tables) -> Encoded:
    """As `_encode_shared`; what is zero can be left out where its channel's zero is +0.0."""
    offsets = tensor.offsets
    base = _affine_record(name, tensor, tables.encoding)
    there = 0 if base.offset is not None else 1 if base.one_offset else len(offsets)
    parameters = tensor.scales.tobytes() + offsets[:there].astype("<i4").tobytes()
    dense = tables.plan(count_symbols(tensor.symbols), layout.MAX_CENTROIDS)
    gaps = _plan_levels(tensor, tables)
    bits = {"dense": dense.total + 8 * len(parameters), "raw": 8 * len(tensor.symbols) * DTYPE_OF_NAME[tensor.dtype].itemsize}
    if gaps:
        kept = (gaps.nonzeros.kept - gaps.nonzeros.kept.dtype.type(1)).astype(tensor.symbols.dtype)
        counts = count_symbols(kept)
        bits["gaps"] = gaps.bits + tables.plan(counts, layout.MAX_CENTROIDS).total + 8 * len(parameters)
    best = min(bits, key=lambda kind: bits[kind])
    zero = min(max(int(np.median(offsets)), 0), layout.MAX_CENTROIDS - 1) if len(offsets) else 0
    if encoded := _by_contexts(base, {"affine": parameters}, tensor.symbols, (zero, 0), bits[best], tables):
        return encoded
    if best == "raw":
        return _encode_dense_values(name, DenseTensor(tensor.to_dense(), tensor.dtype, tensor.dtype), tables)
    if best == "gaps" and gaps:
        return _sparse_symbols(base, {"affine": parameters}, gaps, (kept, counts, layout.MAX_CENTROIDS), tables)
    return _dense_symbols(base, {"affine": parameters}, tensor.symbols, dense, tables)


def _affine_record(name: str, tensor: AffineTensor, encoding: Encoding) -> TensorRecord:
    """The record of a tensor on a grid, without its values."""
    offsets, axis = tensor.offsets, 0 if tensor.axis is None else tensor.axis + 1
    base = TensorRecord(name, tensor.dtype, tensor.shape, tensor.stored, layout.MAP_AFFINE, len(tensor.scales), axis)
    one = len(offsets) > 0 and bool((offsets == offsets[0]).all())
    if encoding.compact:
        return replace(base, offset=int(offsets[0])) if one and 0 <= offsets[0] < layout.MAX_CENTROIDS else base
    return replace(base, one_offset=one and encoding.one_offset and axis > 0)


def _by_contexts(
    base: TensorRecord, sections: Mapping[str, bytes], symbols: Array, around: tuple[int | None, int], bits: int, tables: Tables
) -> Encoded | None:
    """All symbols by contexts, where the file is to be small and that takes fewer than `bits`; `around`: see `encode_context`."""
    if tables.encoding.coder != "context" or not len(symbols):
        return None
    stream, section = encode_context(base, symbols, *around, compact=tables.encoding.compact)
    if 8 * (len(section) + sum(map(len, sections.values()))) >= bits:
        return None
    return Encoded(replace(base, values=stream), {**sections, "values": section})


def _plan_levels(tensor: AffineTensor, tables: Tables) -> _GapPlan | None:
    """The gaps between levels other than zero, whose `kept` are symbols + 1; None where there is nothing to leave out."""
    scales = bfloat16_to_float32(tensor.scales) if tensor.stored == "bfloat16" else tensor.scales
    nonzero = tensor.is_nonzero()
    count = int(np.count_nonzero(nonzero))
    if count == len(nonzero) or not bool((scales > 0).all()):
        return None  # zero times a negative scale is -0.0
    numbers = tensor.symbols.astype(symbol_dtype(int(tensor.symbols.max(initial=0)) + 2))
    numbers += 1
    return _plan_gaps(np.where(nonzero, numbers, numbers.dtype.type(0)), count, tables)


def _encode_dense_values(name: str, tensor: DenseTensor, tables: Tables) -> Encoded:
    """All values, or only those whose bits are not all zero, with gaps; as they are or cut into planes: the smallest."""
    flat = np.ascontiguousarray(tensor.elements).reshape(-1)
    itemsize = DTYPE_OF_NAME[tensor.stored].itemsize
    count = _count_nonzero_bits(flat, itemsize)
    saved = 8 * itemsize * (len(flat) - count)
    base = TensorRecord(name, tensor.dtype, tensor.shape, tensor.stored)
    if saved > _SPARSE_RECORD_BITS + count:
        kept = _nonzero_bits(flat, itemsize)
        gaps = _plan_gaps(kept.view(np.uint8), count, tables)
        if gaps.bits < saved - (len(flat) - count):  # as a plane's constant or shortest codeword a zero costs a bit at most
            sparse, section = gaps.encode(tables)
            values, stream = _encode_values(np.ascontiguousarray(flat[kept]), tensor.stored, tables)
            return Encoded(replace(base, sparse=sparse, values=stream), {"gaps": section, "values": values})
    values, stream = _encode_values(flat, tensor.stored, tables)
    return Encoded(replace(base, values=stream), {"values": values})


def _encode_values(flat: Array, stored: str, tables: Tables) -> tuple[Section, StreamRecord]:
    """Values as planes, where that is smaller than as they are."""
    size = len(flat) * DTYPE_OF_NAME[stored].itemsize
    if size > _LEAST_SAVED and tables.encoding.coder != "fixed":
        plan = plan_planes(flat, stored, tables)
        if plan.bits < 8 * (size - _LEAST_SAVED):
            record, section = encode_planes(flat, plan, tables)
            return section, record
    return flat.view(np.uint8), StreamRecord(layout.CODEC_RAW, size)


def _count_nonzero_bits(flat: Array, itemsize: int) -> int:
    return int(np.count_nonzero(flat.view(f"u{itemsize}") if itemsize <= 8 else _nonzero_bits(flat, itemsize)))


def _nonzero_bits(flat: Array, itemsize: int) -> NDArray[np.bool_]:
    """Where any bit of an element is set: -0.0 is no zero."""
    if itemsize <= 8:
        return np.asarray(flat.view(f"u{itemsize}") != 0)
    return np.asarray((flat.view(np.uint64).reshape(len(flat), 2) != 0).any(axis=1))


def _narrowed(tensor: DenseTensor) -> DenseTensor:
    """Integers in the narrowest type that holds them all: counters of batches take two bytes instead of eight."""
    for stored in NARROWER.get(tensor.dtype, ()) if tensor.stored == tensor.dtype and tensor.dtype.startswith("int") else ():
        narrow = tensor.elements.astype(DTYPE_OF_NAME[stored].numpy)
        if np.array_equal(narrow, tensor.elements):
            return replace(tensor, elements=narrow, stored=stored)
    return tensor


def _dense_symbols(base: TensorRecord, sections: Sections, symbols: Array, plan: StreamPlan, tables: Tables) -> Encoded:
    tables.adopt(plan)
    geometry = choose_geometry(len(symbols), len(symbols))
    counts = dense_counts(len(symbols), geometry.chunk_log2)
    section = encode_stream(symbols, plan.coder, geometry.lanes, counts, counts_known=True)
    record = replace(base, values=_stream_record(plan, geometry, section))
    return Encoded(record, {**sections, "values": section})


def _sparse_symbols(
    base: TensorRecord, sections: Sections, gaps: _GapPlan, kept: tuple[Array, Counts, int], tables: Tables
) -> Encoded:  # fmt: skip
    """`kept` are the nonzeros' symbols, how often each occurs, and how many there may be."""
    sparse, gap_section = gaps.encode(tables)
    plan = tables.plan(kept[1], kept[2])
    tables.adopt(plan)
    section = encode_stream(kept[0], plan.coder, gaps.geometry.lanes, gaps.nonzeros.counts, counts_known=False)
    record = replace(base, sparse=sparse, values=_stream_record(plan, gaps.geometry, section))
    return Encoded(record, {**sections, "gaps": gap_section, "values": section})


def _stream_record(plan: StreamPlan, geometry: Geometry, section: Section) -> StreamRecord:
    return StreamRecord(plan.codec, len(section), geometry.pack(), plan.parameters)
