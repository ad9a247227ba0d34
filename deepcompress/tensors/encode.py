"""A tensor into its record and sections: every representation is counted, the smallest is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.gaps import best_gap_bits, encode_gaps
from deepcompress.coding.streams import Geometry, encode_stream
from deepcompress.container import layout
from deepcompress.container.layout import DTYPE_OF_NAME, NARROWER
from deepcompress.container.records import Sparse, StreamRecord, TensorRecord
from deepcompress.errors import ModelError
from deepcompress.tensors.compressed import AffineTensor, CompressedTensor, DenseTensor, centroid_elements
from deepcompress.tensors.elements import Array
from deepcompress.tensors.streams import StreamPlan, Tables, choose_geometry, dense_counts

AnyTensor = DenseTensor | CompressedTensor | AffineTensor
Sections = Mapping[str, bytes]

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
    if isinstance(tensor, DenseTensor):
        return _encode_dense_values(name, _narrowed(tensor), tables)
    if isinstance(tensor, AffineTensor):
        return _encode_affine(name, tensor, tables)
    return _encode_shared(name, tensor, tables)


@dataclass(frozen=True)
class _GapPlan:
    """Positions of the nonzeros, and the cheapest way to write the gaps between them."""

    positions: NDArray[np.int64]
    gap_bits: int
    gaps: NDArray[np.unsignedinteger]
    gap_counts: NDArray[np.int64]
    nonzero_counts: NDArray[np.int64]
    geometry: Geometry
    stream: StreamPlan

    @property
    def bits(self) -> int:
        return self.stream.total + _SPARSE_RECORD_BITS

    def encode(self, tables: Tables) -> tuple[Sparse, bytes]:
        tables.adopt(self.stream)
        section = encode_stream(
            self.gaps, self.stream.coder, self.geometry.lanes, self.gap_counts, counts_known=False
        ).tobytes()  # fmt: skip
        record = _stream_record(self.stream, self.geometry, section)
        return Sparse(len(self.positions), self.gap_bits, len(self.gaps), record), section


def _plan_gaps(positions: NDArray[np.int64], numel: int, tables: Tables) -> _GapPlan:
    geometry = choose_geometry(numel, len(positions))
    chunk_log2 = geometry.chunk_log2
    bits = best_gap_bits(positions, numel, chunk_log2, lambda counts: tables.plan(counts, len(counts)).total)
    gaps, gap_counts, nonzero_counts = encode_gaps(positions, numel, bits, chunk_log2)
    plan = tables.plan(np.bincount(gaps, minlength=1), 1 << bits)
    return _GapPlan(positions, bits, gaps, gap_counts, nonzero_counts, geometry, plan)


def _encode_shared(name: str, tensor: CompressedTensor, tables: Tables) -> Encoded:
    """Gaps and indices, indices with a zero symbol, or the plain values, whichever takes the fewest bits."""
    counts = np.bincount(tensor.symbols, minlength=tensor.codebook.k + 1)
    centroids = centroid_elements(tensor.codebook, tensor.stored).tobytes()
    dense = tables.plan(counts, len(counts))
    gaps = _plan_gaps(np.flatnonzero(tensor.symbols), len(tensor.symbols), tables) if counts[0] else None
    kept = tables.plan(np.concatenate([[0], counts[1:]]), len(counts)) if gaps else None
    bits = {"dense": dense.total + 8 * len(centroids), "raw": 8 * len(tensor.symbols) * DTYPE_OF_NAME[tensor.dtype].itemsize}
    if gaps and kept:
        bits["gaps"] = gaps.bits + kept.total + 8 * len(centroids)
    best = min(bits, key=lambda kind: bits[kind])
    if best == "raw":
        return _raw(name, DenseTensor(tensor.to_dense(), tensor.dtype, tensor.dtype))
    base = TensorRecord(name, tensor.dtype, tensor.shape, tensor.stored, layout.MAP_CODEBOOK, tensor.codebook.k)
    if best == "gaps" and gaps:
        return _sparse_symbols(base, {"codebook": centroids}, tensor.symbols, gaps, tables)
    return _dense_symbols(base, {"codebook": centroids}, tensor.symbols, dense, tables)


def _encode_affine(name: str, tensor: AffineTensor, tables: Tables) -> Encoded:
    axis = 0 if tensor.axis is None else tensor.axis + 1
    base = TensorRecord(
        name, tensor.dtype, tensor.shape, tensor.stored, layout.MAP_AFFINE, len(tensor.scales), axis
    )  # fmt: skip
    parameters = tensor.scales.tobytes() + tensor.offsets.astype("<i4").tobytes()
    plan = tables.plan(np.bincount(tensor.symbols, minlength=1), layout.MAX_CENTROIDS)
    return _dense_symbols(base, {"affine": parameters}, tensor.symbols, plan, tables)


def _encode_dense_values(name: str, tensor: DenseTensor, tables: Tables) -> Encoded:
    """All values as they are, or only those whose bits are not all zero, with gaps, where that is smaller."""
    flat = np.ascontiguousarray(tensor.elements).reshape(-1)
    itemsize = DTYPE_OF_NAME[tensor.stored].itemsize
    positions = np.flatnonzero(flat.view(np.uint8).reshape(len(flat), itemsize).any(axis=1)) if len(flat) else flat
    saved = 8 * itemsize * (len(flat) - len(positions))
    if saved <= _SPARSE_RECORD_BITS + len(positions):
        return _raw(name, tensor)
    gaps = _plan_gaps(positions, len(flat), tables)
    if gaps.bits >= saved:
        return _raw(name, tensor)
    sparse, section = gaps.encode(tables)
    values = flat[positions].tobytes()
    record = TensorRecord(
        name, tensor.dtype, tensor.shape, tensor.stored, sparse=sparse, values=StreamRecord(layout.CODEC_RAW, len(values))
    )  # fmt: skip
    return Encoded(record, {"gaps": section, "values": values})


def _narrowed(tensor: DenseTensor) -> DenseTensor:
    """Integers in the narrowest type that holds them all: counters of batches take two bytes instead of eight."""
    for stored in NARROWER.get(tensor.dtype, ()) if tensor.stored == tensor.dtype and tensor.dtype.startswith("int") else ():
        narrow = tensor.elements.astype(DTYPE_OF_NAME[stored].numpy)
        if np.array_equal(narrow, tensor.elements):
            return replace(tensor, elements=narrow, stored=stored)
    return tensor


def _raw(name: str, tensor: DenseTensor) -> Encoded:
    values = np.ascontiguousarray(tensor.elements).tobytes()
    record = TensorRecord(
        name, tensor.dtype, tensor.shape, tensor.stored, values=StreamRecord(layout.CODEC_RAW, len(values))
    )  # fmt: skip
    return Encoded(record, {"values": values})


def _dense_symbols(base: TensorRecord, sections: Sections, symbols: Array, plan: StreamPlan, tables: Tables) -> Encoded:
    tables.adopt(plan)
    geometry = choose_geometry(len(symbols), len(symbols))
    counts = dense_counts(len(symbols), geometry.chunk_log2)
    section = encode_stream(symbols, plan.coder, geometry.lanes, counts, counts_known=True).tobytes()
    record = replace(base, values=_stream_record(plan, geometry, section))
    return Encoded(record, {**sections, "values": section})


def _sparse_symbols(base: TensorRecord, sections: Sections, symbols: Array, gaps: _GapPlan, tables: Tables) -> Encoded:
    sparse, gap_section = gaps.encode(tables)
    kept = symbols[gaps.positions]
    plan = tables.plan(np.bincount(kept, minlength=1), base.size + 1)
    tables.adopt(plan)
    section = encode_stream(kept, plan.coder, gaps.geometry.lanes, gaps.nonzero_counts, counts_known=False).tobytes()
    record = replace(base, sparse=sparse, values=_stream_record(plan, gaps.geometry, section))
    return Encoded(record, {**sections, "gaps": gap_section, "values": section})


def _stream_record(plan: StreamPlan, geometry: Geometry, section: bytes) -> StreamRecord:
    return StreamRecord(plan.codec, len(section), geometry.pack(), plan.parameters)
