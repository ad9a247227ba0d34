"""A record and its sections back into the tensor's values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding import pool
from deepcompress.coding.bits import sealed, symbol_dtype
from deepcompress.coding.gaps import check_walk, decode_gaps, scatter
from deepcompress.coding.jit import jit
from deepcompress.coding.streams import Geometry, Stream, open_stream
from deepcompress.container import layout
from deepcompress.container.directory import Lengths
from deepcompress.container.layout import DTYPE_OF_NAME
from deepcompress.container.records import Sparse, StreamRecord, TensorRecord
from deepcompress.errors import FormatError
from deepcompress.tensors.compressed import AffineTensor
from deepcompress.tensors.elements import Array, bfloat16_to_float32, numpy_dtype, widen
from deepcompress.tensors.planes import decode_planes
from deepcompress.tensors.streams import check_symbols, chunk_count, dense_counts, open_coder

_CHUNKS_AT_ONCE = 8  # enough that little time goes between them, few enough for the cache

Memory = Callable[[int, "np.dtype[Any]"], Array]  # (elements, dtype) -> zeros
Bytes = NDArray[np.uint8]
Counts = NDArray[np.int64]


def decode_tensor(
    record: TensorRecord, sections: Mapping[str, Bytes], tables: Sequence[Lengths], memory: Memory | None = None
) -> Array:  # fmt: skip
    """The dense values of a tensor that is no tie, shape `record.shape`, in `numpy_dtype(record.dtype)`; writable.

    `memory` gives memory to decode to; by default each tensor has its own.

    Raises:
        UnsupportedError: a codec that this reader does not know.
        FormatError: a section that is not what the record says.
    """
    return _Decoder(record, sections, tables, memory).decode()


def prepare_tensor(
    record: TensorRecord, sections: Mapping[str, Bytes], tables: Sequence[Lengths], memory: Memory | None = None
) -> Array | SharedValues:  # fmt: skip
    """Like `decode_tensor`, but of values that are shared only the symbols: writing them cannot fail any more."""
    return _Decoder(record, sections, tables, memory).prepare()


@dataclass(frozen=True, eq=False)
class SharedValues:
    """A dense tensor's symbols, (numel,), all below len(table), and the bits of the value that each stands for."""

    symbols: NDArray[Any]
    table: Array

    def write(self, out: Bytes) -> None:
        """Write the tensor's elements over `out`, its bytes."""
        look_up(self.symbols, self.table, out.view(self.table.dtype))


@dataclass(frozen=True)
class _Decoder:
    record: TensorRecord
    sections: Mapping[str, Bytes]
    tables: Sequence[Lengths]
    memory: Memory | None

    def decode(self) -> Array:
        record = self.record
        shared = record.value_map == layout.MAP_CODEBOOK and record.values is not None
        if shared and record.values and record.values.codec != layout.CODEC_RAW:
            return self._shared_dense() if record.sparse is None else self._shared_sparse(record.sparse)
        if record.sparse is None:
            with self._place("values"):
                values = self._values(None)
            return (values if values.flags.writeable else values.copy()).reshape(record.shape)
        if not record.sparse.gap_count and not any(map(len, self.sections.values())):
            return self._zeros(record.sparse)
        with self._place("gaps"):
            positions, nonzeros = self._positions(record.sparse)
        with self._place("values"):
            values = self._values(positions, nonzeros)
        dense = np.zeros(record.numel, numpy_dtype(record.dtype))
        dense[positions] = values
        return dense.reshape(record.shape)

    def _shared_dense(self) -> Array:
        """Symbols become values chunk by chunk, while they are still in the cache."""
        record = self.record
        with self._place("values"):
            stream, alphabet = self._open("values", record.values, record.size + 1, record.value_count, implied=True)
            table = self._value_table()
            dense = (self.memory or np.empty)(record.numel, table.dtype)
            stops = np.concatenate([[0], np.cumsum(stream.counts)])

            def work(first: int, last: int) -> None:
                for chunk in range(first, last, _CHUNKS_AT_ONCE):
                    end = min(chunk + _CHUNKS_AT_ONCE, last)
                    symbols = _decode_run(stream, chunk, end, alphabet)
                    look_up(sealed(symbols), table, dense[stops[chunk] : stops[end]])

            pool.share(len(stream.counts), work)
        return dense.view(numpy_dtype(record.dtype)).reshape(record.shape)

    def prepare(self) -> Array | SharedValues:
        """Everything that can fail; what is left is to write values."""
        record = self.record
        coded = record.values is not None and record.values.codec != layout.CODEC_RAW
        if record.value_map != layout.MAP_CODEBOOK or record.sparse is not None or not coded:
            return self.decode()
        with self._place("values"):
            stream, alphabet = self._open("values", record.values, record.size + 1, record.value_count, implied=True)
            symbols = (self.memory or np.empty)(record.numel, symbol_dtype(alphabet))
            stops = np.concatenate([[0], np.cumsum(stream.counts)])
            chunks = len(stream.counts)
            pool.share(chunks, lambda first, last: stream.decode(first, last, symbols[stops[first] : stops[last]]))
            check_symbols(symbols, alphabet)
            return SharedValues(sealed(symbols), self._value_table())

    def _shared_sparse(self, sparse: Sparse) -> Array:
        """Gaps and symbols of a chunk are decoded, and its values written to where they belong."""
        record = self.record
        with self._place("gaps"):
            gaps, _ = self._open("gaps", sparse.stream, 1 << sparse.gap_bits, sparse.gap_count, implied=False)
        with self._place("values"):
            values, alphabet = self._open("values", record.values, record.size + 1, record.value_count, implied=False)
            if record.values is not None and (record.values.geometry ^ sparse.stream.geometry) & 31:
                raise FormatError("the gaps are cut into chunks of another size")
            table = self._value_table()
        dense = (self.memory or np.zeros)(record.numel, table.dtype)
        chunk_log2 = Geometry.unpack(sparse.stream.geometry).chunk_log2
        counts = np.stack([gaps.counts, values.counts])

        def work(first: int, last: int) -> None:
            for chunk in range(first, last, _CHUNKS_AT_ONCE):
                end = min(chunk + _CHUNKS_AT_ONCE, last)
                mine = counts[:, chunk:end]
                with self._place("gaps"):
                    skips = _decode_run(gaps, chunk, end, 1 << sparse.gap_bits)
                with self._place("values"):
                    symbols = _decode_run(values, chunk, end, alphabet)
                    if len(symbols) and int(symbols.min()) == 0:
                        raise FormatError("a nonzero has the zero symbol")
                part = dense[chunk << chunk_log2 : end << chunk_log2]
                outcome = scatter(skips, symbols, mine, table, sparse.gap_bits, chunk_log2, part)
                with self._place("gaps"):
                    check_walk(outcome, chunk, mine, record.numel, chunk_log2)

        pool.share(len(gaps.counts), work)
        return dense.view(numpy_dtype(record.dtype)).reshape(record.shape)

    def _value_table(self) -> Array:
        """By symbol, the bits of its value: those of +0.0 for symbol 0, then the centroids'."""
        record = self.record
        centroids = self.sections["codebook"].view(numpy_dtype(record.stored))
        _check_centroids(bfloat16_to_float32(centroids) if record.stored == "bfloat16" else centroids)
        values = widen(centroids, record.stored, record.dtype)
        bits = values.view(f"<u{values.dtype.itemsize}")
        return sealed(np.concatenate([np.zeros(1, bits.dtype), bits]))

    def _zeros(self, sparse: Sparse) -> Array:
        """A tensor of zeros, of which a network that has not been trained has many; its streams must make sense all the same."""
        record = self.record
        with self._place("gaps"):
            self._symbols("gaps", sparse.stream, 1 << sparse.gap_bits, 0, implied=False)
        with self._place("values"):
            if record.values is not None and record.values.codec != layout.CODEC_RAW:
                self._values(np.zeros(0, np.int64))
        return np.zeros(record.shape, numpy_dtype(record.dtype))

    @contextmanager
    def _place(self, section: str) -> Iterator[None]:
        """Say once, on the way out, which tensor and section an error belongs to."""
        try:
            yield
        except FormatError as error:
            raise type(error)(f"tensor {self.record.name!r}, {section}: {error}") from error

    def _positions(self, sparse: Sparse) -> tuple[NDArray[np.int64], Counts]:
        """Flat positions of the nonzeros, and how many of them each chunk has."""
        gaps, counts = self._symbols("gaps", sparse.stream, 1 << sparse.gap_bits, sparse.gap_count, implied=False)
        nonzeros = _sum_chunks(gaps != (1 << sparse.gap_bits) - 1, counts)
        if (found := int(nonzeros.sum())) != sparse.nonzeros:
            raise FormatError(f"the gaps lead to {found} nonzeros, the record says {sparse.nonzeros}")
        chunk_log2 = Geometry.unpack(sparse.stream.geometry).chunk_log2
        positions = decode_gaps(gaps, counts, nonzeros, self.record.numel, sparse.gap_bits, chunk_log2)
        return positions, nonzeros

    def _values(self, positions: NDArray[np.int64] | None, nonzeros: Counts | None = None) -> Array:
        """The stored values, (value_count,): as they lie in the file, or on a uniform grid."""
        record, stream = self.record, self.record.values
        if stream is None:
            raise FormatError("a tie has no values of its own")
        if stream.codec == layout.CODEC_RAW:
            if record.dtype == "bool" and np.any(self.sections["values"] > 1):
                raise FormatError("a bool element is neither 0 nor 1")
            return widen(self.sections["values"].view(numpy_dtype(record.stored)), record.stored, record.dtype)
        if stream.codec == layout.CODEC_PLANES:
            found = decode_planes(stream, self.sections["values"], self.tables, record.value_count, record.stored)
            if record.dtype == "bool" and np.any(found > 1):
                raise FormatError("a bool element is neither 0 nor 1")
            return widen(found.view(numpy_dtype(record.stored)), record.stored, record.dtype)
        symbols, counts = self._symbols(
            "values", stream, layout.MAX_CENTROIDS, record.value_count, implied=positions is None
        )  # fmt: skip
        if record.sparse is not None and (stream.geometry ^ record.sparse.stream.geometry) & 31:
            raise FormatError("the gaps are cut into chunks of another size")
        if nonzeros is not None and not np.array_equal(counts, nonzeros):
            raise FormatError("its chunks hold other numbers of nonzeros than the gaps lead to")
        return self._affine_values(symbols, np.arange(record.numel) if positions is None else positions)

    def _open(
        self, kind: str, record: StreamRecord | None, alphabet: int, total: int, *, implied: bool
    ) -> tuple[Stream, int]:  # fmt: skip
        """A stream, checked but not decoded, whose symbols must be below `alphabet`, which is handed back.

        `implied` says that the shape gives the number of symbols in each chunk.
        """
        if record is None:
            raise FormatError("a tie has no values of its own")
        coder = open_coder(record, self.tables, alphabet)
        section, geometry = self.sections[kind], Geometry.unpack(record.geometry)
        chunks = chunk_count(self.record.numel, geometry.chunk_log2)
        if chunks > 1 and 4 * chunks > len(section):
            raise FormatError(f"a table of {chunks} chunks takes {4 * chunks} bytes, the section has {len(section)}")
        counts = dense_counts(self.record.numel, geometry.chunk_log2) if implied else None
        return open_stream(section, coder, geometry.lanes, counts=counts, chunks=chunks, total=total), alphabet

    def _symbols(
        self, kind: str, record: StreamRecord, alphabet: int, total: int, *, implied: bool
    ) -> tuple[NDArray[Any], Counts]:  # fmt: skip
        """A stream's symbols, all below `alphabet`, and their number in each chunk."""
        stream, _ = self._open(kind, record, alphabet, total, implied=implied)
        return _decode_run(stream, 0, len(stream.counts), alphabet), stream.counts

    def _affine_values(self, symbols: NDArray[Any], positions: NDArray[np.int64]) -> Array:
        record, section = self.record, self.sections["affine"]
        split = record.size * DTYPE_OF_NAME[record.stored].itemsize
        scales, offsets = section[:split].view(numpy_dtype(record.stored)), section[split:].copy().view("<i4")
        if not np.isfinite(bfloat16_to_float32(scales) if record.stored == "bfloat16" else scales).all():
            raise FormatError("a scale is not finite")
        axis = record.axis - 1 if record.axis else None
        tensor = AffineTensor(record.shape, record.dtype, record.stored, scales, offsets, axis, symbols)
        return tensor.values_at(positions)


def _decode_run(stream: Stream, first: int, last: int, alphabet: int) -> NDArray[Any]:
    """The symbols of some chunks, all below `alphabet`."""
    symbols = np.empty(int(stream.counts[first:last].sum()), symbol_dtype(alphabet))
    stream.decode(first, last, symbols)
    check_symbols(symbols, alphabet)
    return symbols


@jit
def look_up(symbols: NDArray[Any], table: Array, out: Array) -> None:
    """out[i] = table[symbols[i]]; every symbol must be below len(table)."""
    for i in range(len(symbols)):
        out[i] = table[symbols[i]]


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
