"""A record and its sections back into the tensor's values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.bits import symbol_dtype
from deepcompress.coding.gaps import decode_gaps
from deepcompress.coding.streams import Geometry, decode_stream
from deepcompress.container import layout
from deepcompress.container.directory import Lengths
from deepcompress.container.layout import DTYPE_OF_NAME
from deepcompress.container.records import StreamRecord, TensorRecord
from deepcompress.errors import FormatError
from deepcompress.tensors.compressed import AffineTensor, lookup
from deepcompress.tensors.elements import Array, bfloat16_to_float32, numpy_dtype, widen
from deepcompress.tensors.streams import check_symbols, chunk_count, dense_counts, open_coder

Bytes = NDArray[np.uint8]
Counts = NDArray[np.int64]


def decode_tensor(record: TensorRecord, sections: Mapping[str, Bytes], tables: Sequence[Lengths]) -> Array:
    """The dense values of a tensor that is no tie, shape `record.shape`, in `numpy_dtype(record.dtype)`; writable.

    Raises:
        UnsupportedError: a codec that this reader does not know.
        FormatError: a section that is not what the record says.
    """
    return _Decoder(record, sections, tables).decode()


@dataclass(frozen=True)
class _Decoder:
    record: TensorRecord
    sections: Mapping[str, Bytes]
    tables: Sequence[Lengths]

    def decode(self) -> Array:
        record = self.record
        if record.sparse is None:
            with self._place("values"):
                values = self._values(None, None)
            return (values if values.flags.writeable else values.copy()).reshape(record.shape)
        with self._place("gaps"):
            positions, nonzeros = self._positions()
        with self._place("values"):
            values = self._values(positions, nonzeros)
        dense = np.zeros(record.numel, numpy_dtype(record.dtype))
        dense[positions] = values
        return dense.reshape(record.shape)

    @contextmanager
    def _place(self, section: str) -> Iterator[None]:
        """Say once, on the way out, which tensor and section an error belongs to."""
        try:
            yield
        except FormatError as error:
            raise type(error)(f"tensor {self.record.name!r}, {section}: {error}") from error

    def _positions(self) -> tuple[NDArray[np.int64], Counts]:
        """Flat positions of the nonzeros, and how many of them each chunk has."""
        sparse = self.record.sparse
        if sparse is None:
            raise FormatError("a dense tensor has no gaps")
        gaps, counts = self._symbols("gaps", sparse.stream, 1 << sparse.gap_bits, sparse.gap_count, implied=False)
        nonzeros = _sum_chunks(gaps != (1 << sparse.gap_bits) - 1, counts)
        if (found := int(nonzeros.sum())) != sparse.nonzeros:
            raise FormatError(f"the gaps lead to {found} nonzeros, the record says {sparse.nonzeros}")
        chunk_log2 = Geometry.unpack(sparse.stream.geometry).chunk_log2
        positions = decode_gaps(gaps, counts, nonzeros, self.record.numel, sparse.gap_bits, chunk_log2)
        return positions, nonzeros

    def _values(self, positions: NDArray[np.int64] | None, nonzeros: Counts | None) -> Array:
        """The stored values, (value_count,), through the record's value map."""
        record, stream = self.record, self.record.values
        if stream is None:
            raise FormatError("a tie has no values of its own")
        if stream.codec == layout.CODEC_RAW:
            if record.dtype == "bool" and np.any(self.sections["values"] > 1):
                raise FormatError("a bool element is neither 0 nor 1")
            return widen(self.sections["values"].view(numpy_dtype(record.stored)), record.stored, record.dtype)
        shared = record.value_map == layout.MAP_CODEBOOK
        alphabet = record.size + 1 if shared else layout.MAX_CENTROIDS
        symbols, counts = self._symbols("values", stream, alphabet, record.value_count, implied=positions is None)
        if record.sparse is not None and (stream.geometry ^ record.sparse.stream.geometry) & 31:
            raise FormatError("the gaps are cut into chunks of another size")
        if nonzeros is not None and not np.array_equal(counts, nonzeros):
            raise FormatError("its chunks hold other numbers of nonzeros than the gaps lead to")
        if shared:
            return self._shared_values(symbols, sparse=positions is not None)
        return self._affine_values(symbols, np.arange(record.numel) if positions is None else positions)

    def _symbols(
        self, kind: str, stream: StreamRecord, alphabet: int, total: int, *, implied: bool
    ) -> tuple[NDArray[Any], Counts]:
        """A stream's symbols, all below `alphabet`, and their number in each chunk, which `implied` says the shape gives."""
        coder = open_coder(stream, self.tables, alphabet)
        section, geometry = self.sections[kind], Geometry.unpack(stream.geometry)
        chunks = chunk_count(self.record.numel, geometry.chunk_log2)
        if chunks > 1 and 4 * chunks > len(section):
            raise FormatError(f"a table of {chunks} chunks takes {4 * chunks} bytes, the section has {len(section)}")
        counts = dense_counts(self.record.numel, geometry.chunk_log2) if implied else None
        symbols, counts = decode_stream(
            section, coder, geometry.lanes, counts=counts, chunks=chunks, total=total, out_dtype=symbol_dtype(alphabet)
        )
        check_symbols(symbols, alphabet)
        return symbols, counts

    def _shared_values(self, symbols: NDArray[Any], *, sparse: bool) -> Array:
        record = self.record
        centroids = self.sections["codebook"].view(numpy_dtype(record.stored))
        _check_centroids(bfloat16_to_float32(centroids) if record.stored == "bfloat16" else centroids)
        if sparse and len(symbols) and int(symbols.min()) == 0:
            raise FormatError("a nonzero has the zero symbol")
        return lookup(centroids, record.stored, record.dtype, symbols)

    def _affine_values(self, symbols: NDArray[Any], positions: NDArray[np.int64]) -> Array:
        record, section = self.record, self.sections["affine"]
        split = record.size * DTYPE_OF_NAME[record.stored].itemsize
        scales, offsets = section[:split].view(numpy_dtype(record.stored)), section[split:].copy().view("<i4")
        if not np.isfinite(bfloat16_to_float32(scales) if record.stored == "bfloat16" else scales).all():
            raise FormatError("a scale is not finite")
        axis = record.axis - 1 if record.axis else None
        tensor = AffineTensor(record.shape, record.dtype, record.stored, scales, offsets, axis, symbols)
        return tensor.values_at(positions)


def _check_centroids(centroids: Array) -> None:
    """One spelling for each codebook: finite, ascending, none zero."""
    if not np.isfinite(centroids).all() or np.any(centroids == 0) or np.any(centroids[1:] <= centroids[:-1]):
        raise FormatError("the codebook is not finite, ascending and free of zero")


def _sum_chunks(flags: NDArray[np.bool_], counts: Counts) -> Counts:
    """How many flags are set in each chunk's run of `counts[c]` of them."""
    running = np.concatenate([[0], np.cumsum(flags, dtype=np.int64)])
    ends = np.concatenate([[0], np.cumsum(counts)])
    sums: Counts = np.diff(running[ends])
    return sums
