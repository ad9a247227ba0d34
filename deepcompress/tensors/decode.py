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
from deepcompress.coding.gaps import check_walk, place
from deepcompress.coding.streams import Geometry, LaneCoder, Stream, open_stream
from deepcompress.container import layout
from deepcompress.container.directory import Lengths
from deepcompress.container.records import Sparse, StreamRecord, TensorRecord
from deepcompress.errors import FormatError
from deepcompress.tensors.contexts import open_context
from deepcompress.tensors.elements import Array, numpy_dtype, widen
from deepcompress.tensors.maps import Grid, Lookup, alphabet_of, look_up, open_map, value_table
from deepcompress.tensors.planes import decode_planes
from deepcompress.tensors.streams import check_symbols, chunk_count, dense_counts, open_coder, unknown_codec

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
        if record.constant is not None:
            return self._equal(record.constant)
        if self._has_symbols:
            return self._shared_dense() if record.sparse is None else self._shared_sparse(record.sparse)
        if record.sparse is None:
            with self._place("values"):
                values = self._values()
            return (values if values.flags.writeable else values.copy()).reshape(record.shape)
        if not record.sparse.gap_count and not any(map(len, self.sections.values())):
            return self._zeros(record.sparse)
        return self._placed(record.sparse)

    @property
    def _has_symbols(self) -> bool:
        """Whether the values are symbols, and not the elements themselves."""
        record = self.record
        return record.value_map != layout.MAP_NONE and record.values is not None and record.values.codec != layout.CODEC_RAW

    def _shared_dense(self) -> Array:
        """Symbols become values chunk by chunk, while they are still in the cache."""
        record = self.record
        with self._place("values"):
            stream, alphabet = self._open("values", record.values, alphabet_of(record), record.value_count, implied=True)
        values = self._open_map()
        dense = (self.memory or np.empty)(record.numel, _bits_of(record))
        stops = np.concatenate([[0], np.cumsum(stream.counts)])

        def work(first: int, last: int) -> None:
            for chunk in range(first, last, _CHUNKS_AT_ONCE):
                end = min(chunk + _CHUNKS_AT_ONCE, last)
                symbols = _decode_run(stream, chunk, end, alphabet)
                values.write(symbols, int(stops[chunk]), dense[stops[chunk] : stops[end]])

        with self._place("values"):
            pool.share(len(stream.counts), work)
        return dense.view(numpy_dtype(record.dtype)).reshape(record.shape)

    def prepare(self) -> Array | SharedValues:
        """Everything that can fail; what is left is to write values."""
        record = self.record
        if not self._has_symbols or record.value_map != layout.MAP_CODEBOOK or record.sparse is not None:
            return self.decode()
        with self._place("values"):
            stream, alphabet = self._open("values", record.values, alphabet_of(record), record.value_count, implied=True)
            symbols = (self.memory or np.empty)(record.numel, symbol_dtype(alphabet))
            stops = np.concatenate([[0], np.cumsum(stream.counts)])
            chunks = len(stream.counts)
            pool.share(chunks, lambda first, last: stream.decode(first, last, symbols[stops[first] : stops[last]]))
            check_symbols(symbols, alphabet)
        with self._place("codebook"):
            return SharedValues(sealed(symbols), value_table(record, self.sections["codebook"]))

    def _shared_sparse(self, sparse: Sparse) -> Array:
        """Gaps and symbols of a chunk are decoded, and its values written to where they belong."""
        record = self.record
        with self._place("gaps"):
            gaps, _ = self._open("gaps", sparse.stream, 1 << sparse.gap_bits, sparse.gap_count, implied=False)
        with self._place("values"):
            stream, alphabet = self._open("values", record.values, alphabet_of(record), record.value_count, implied=False)
            if record.values is not None and (record.values.geometry ^ sparse.stream.geometry) & 31:
                raise FormatError("the gaps are cut into chunks of another size")
        values = self._open_map()
        dense = (self.memory or np.zeros)(record.numel, _bits_of(record))
        cut = (sparse.gap_bits, Geometry.unpack(sparse.stream.geometry).chunk_log2)
        counts = np.stack([gaps.counts, stream.counts])

        def work(first: int, last: int) -> None:
            for chunk in range(first, last, _CHUNKS_AT_ONCE):
                end = min(chunk + _CHUNKS_AT_ONCE, last)
                mine, start = counts[:, chunk:end], chunk << cut[1]
                with self._place("gaps"):
                    skips = _decode_run(gaps, chunk, end, 1 << sparse.gap_bits)
                with self._place("values"):
                    symbols = _decode_run(stream, chunk, end, alphabet)
                    outcome = values.scatter(skips, symbols, mine, cut, start, dense[start : end << cut[1]])
                with self._place("gaps"):
                    check_walk(outcome, chunk, mine, record.numel, cut[1])

        pool.share(len(gaps.counts), work)
        return dense.view(numpy_dtype(record.dtype)).reshape(record.shape)

    def _zeros(self, sparse: Sparse) -> Array:
        """A tensor of zeros, of which a network that has not been trained has many; its streams must make sense all the same."""
        record = self.record
        with self._place("gaps"):
            self._symbols("gaps", sparse.stream, 1 << sparse.gap_bits, 0, implied=False)
        with self._place("values"):
            if record.values is not None and record.values.codec != layout.CODEC_RAW:
                self._values()
        return np.zeros(record.shape, numpy_dtype(record.dtype))

    def _equal(self, constant: bytes) -> Array:
        """A tensor of equal values."""
        record = self.record
        value = widen(np.frombuffer(constant, numpy_dtype(record.stored)), record.stored, record.dtype)
        dense = (self.memory or np.empty)(record.numel, value.dtype)
        dense[:] = value
        return dense.reshape(record.shape)

    def _open_map(self) -> Lookup | Grid:
        with self._place("codebook" if self.record.value_map == layout.MAP_CODEBOOK else "affine"):
            return open_map(self.record, self.sections)

    @contextmanager
    def _place(self, section: str) -> Iterator[None]:
        """Say once, on the way out, which tensor and section an error belongs to."""
        try:
            yield
        except FormatError as error:
            placed = type(error)(f"tensor {self.record.name!r}, {section}: {error}")
            placed.section = section
            raise placed from error

    def _placed(self, sparse: Sparse) -> Array:
        """Nonzeros that are elements themselves."""
        record = self.record
        with self._place("gaps"):
            gaps, counts = self._symbols("gaps", sparse.stream, 1 << sparse.gap_bits, sparse.gap_count, implied=False)
        with self._place("values"):
            values = self._values()
            if len(values) != sparse.nonzeros:
                raise FormatError(f"{len(values)} elements, the record says {sparse.nonzeros} nonzeros")
        dense = np.zeros(record.numel, numpy_dtype(record.dtype))
        words = f"<u{dense.itemsize}" if dense.itemsize <= 8 else dense.dtype
        with self._place("gaps"):
            chunk_log2 = Geometry.unpack(sparse.stream.geometry).chunk_log2
            place(gaps, counts, values.view(words), sparse.gap_bits, chunk_log2, dense.view(words))
        return dense.reshape(record.shape)

    def _values(self) -> Array:
        """The stored elements, (value_count,), in the tensor's own type."""
        record, stream = self.record, self.record.values
        if stream is None:
            raise FormatError("a tie has no values of its own")
        if stream.codec not in (layout.CODEC_RAW, layout.CODEC_PLANES):
            raise unknown_codec(stream)
        found = self.sections["values"]
        if stream.codec == layout.CODEC_PLANES:
            found = decode_planes(stream, self.sections["values"], self.tables, record.value_count, record.stored)
        if record.dtype == "bool" and np.any(found.view(np.uint8) > 1):
            raise FormatError("a bool element is neither 0 nor 1")
        return widen(found.view(numpy_dtype(record.stored)), record.stored, record.dtype)

    def _open(
        self, kind: str, record: StreamRecord | None, alphabet: int, total: int, *, implied: bool
    ) -> tuple[Stream, int]:  # fmt: skip
        """A stream, checked but not decoded, whose symbols must be below `alphabet`, which is handed back.

        `implied` says that the shape gives the number of symbols in each chunk.
        """
        if record is None:
            raise FormatError("a tie has no values of its own")
        if record.codec == layout.CODEC_CONTEXT and kind == "values":
            coder: LaneCoder = open_context(self.record, record)
        else:
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


def _decode_run(stream: Stream, first: int, last: int, alphabet: int) -> NDArray[Any]:
    """The symbols of some chunks, all below `alphabet`."""
    symbols = np.empty(int(stream.counts[first:last].sum()), symbol_dtype(alphabet))
    stream.decode(first, last, symbols)
    check_symbols(symbols, alphabet)
    return symbols


def _bits_of(record: TensorRecord) -> np.dtype[Any]:
    """Unsigned integers of the size of a tensor's elements."""
    return np.dtype(f"<u{layout.DTYPE_OF_NAME[record.dtype].itemsize}")
