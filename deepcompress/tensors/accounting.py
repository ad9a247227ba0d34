"""Where the bits of a file go, read off its directory alone."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from deepcompress.coding.tables import length_bits
from deepcompress.container import layout
from deepcompress.container.directory import Directory, Span
from deepcompress.container.records import StreamRecord, TensorRecord
from deepcompress.container.varint import Cursor
from deepcompress.errors import FormatError
from deepcompress.tensors.cost import BitCount
from deepcompress.tensors.planes import coded_planes
from deepcompress.tensors.streams import chunk_count

_CODECS = {
    layout.CODEC_RAW: "raw", layout.CODEC_FIXED: "fixed", layout.CODEC_HUFFMAN: "huffman", layout.CODEC_PLANES: "planes",
    layout.CODEC_CONTEXT: "context",
}  # fmt: skip


@dataclass(frozen=True)
class FileBits:
    """Bits per tensor, in the order of the records, and of the whole file; `file.total` is 8 x its bytes exactly.

    What no single tensor owns (head, names, records, checksums, trailer, padding, metadata) is in the file's `header` only. A
    table of code lengths that several tensors share is counted at the first of them, as dense if its values are cut into planes:
    it is a part of what they cost. The lanes' length fields count as codewords or gaps, chunk tables as header.
    """

    tensors: tuple[BitCount, ...]
    file: BitCount


def count_bits(directory: Directory, file_bytes: int) -> FileBits:
    """Account for every bit of a file of `file_bytes` bytes."""
    tables = [length_bits(lengths) for lengths in directory.tables]
    rows = []
    for record, spans in zip(directory.records, directory.spans, strict=True):
        row = _tensor_bits(record, spans)
        mine = {index for index in _table_indices(record) if index < len(tables)}
        own = sum(tables[index] for index in mine)
        planes = record.values is not None and record.values.codec == layout.CODEC_PLANES
        rows.append(replace(row, dense=row.dense + own) if planes else replace(row, code_lengths=own))
        for index in mine:
            tables[index] = 0
    owned = sum(rows, BitCount())
    return FileBits(tuple(rows), replace(owned, header=owned.header + 8 * file_bytes - owned.total))


def _tensor_bits(record: TensorRecord, spans: dict[str, Span]) -> BitCount:
    bits = {kind: 8 * span.length for kind, span in spans.items()}
    values = bits.get("values", 0)
    raw = record.values is not None and record.values.codec in (layout.CODEC_RAW, layout.CODEC_PLANES)
    gap_table = _chunk_table(record, record.sparse.stream, dense=False) if record.sparse else 0
    value_table = _chunk_table(record, record.values, dense=record.sparse is None)
    return BitCount(
        codewords=0 if raw else values - value_table,
        gaps=bits.get("gaps", 0) - gap_table,
        codebook=bits.get("codebook", 0) + bits.get("affine", 0),
        dense=values if raw else 0,
        header=gap_table + value_table,
    )


def _chunk_table(record: TensorRecord, stream: StreamRecord | None, *, dense: bool) -> int:
    """Bits of the table of chunk lengths (and symbol counts, where the shape does not give them)."""
    if stream is None or stream.codec not in (layout.CODEC_FIXED, layout.CODEC_HUFFMAN, layout.CODEC_CONTEXT):
        return 0
    chunks = chunk_count(record.numel, stream.geometry & 31)
    bits = (32 if dense else 64) * chunks
    return bits if chunks > 1 and bits <= 8 * stream.length else 0


def _table_indices(record: TensorRecord) -> set[int]:
    """The tables of a tensor's streams. Parameters that make no sense name none; they are an error where it is decoded."""
    indices: set[int] = set()
    for stream in (record.values, record.sparse.stream if record.sparse else None):
        with suppress(FormatError):
            if stream is not None and stream.codec == layout.CODEC_HUFFMAN:
                indices.add(Cursor(stream.parameters, record.name).varint())
            elif stream is not None and stream.codec == layout.CODEC_PLANES:
                indices.update(coded_planes(stream.parameters))
    return indices


def describe(directory: Directory, file_bytes: int) -> dict[str, Any]:
    """A file as plain data: totals, the directory's parts, a row per tensor."""
    bits = count_bits(directory, file_bytes)
    rows = zip(directory.records, bits.tensors, directory.spans, strict=True)
    return {
        "format": ".".join(map(str, directory.version)),
        "file_bytes": file_bytes,
        "dense_bytes": directory.dense_bytes,
        "file_ratio": directory.dense_bytes / file_bytes,
        "bits": bits.file.as_dict(),
        "directory_bytes": dict(directory.parts),
        "metadata_bytes": {str(meta.kind): meta.length for meta in directory.metadata},
        "tensors": [_describe_tensor(directory, record, row, spans) for record, row, spans in rows],
    }


def _describe_tensor(directory: Directory, record: TensorRecord, bits: BitCount, spans: dict[str, Span]) -> dict[str, Any]:
    return {
        "name": record.name,
        "dtype": record.dtype,
        "stored": record.stored,
        "shape": list(record.shape),
        "representation": representation(record),
        "codec": None if record.values is None else _CODECS.get(record.values.codec, f"unknown ({record.values.codec})"),
        "tie": None if record.tie is None else directory.records[record.tie].name,
        "centroids": record.size if record.value_map == layout.MAP_CODEBOOK else None,
        "scales": record.size if record.value_map == layout.MAP_AFFINE else None,
        "nonzeros": None if record.sparse is None else record.sparse.nonzeros,
        "gap_bits": None if record.sparse is None else record.sparse.gap_bits,
        "bytes": sum(span.length for span in spans.values()),
        "bits": bits.as_dict(),
    }


def representation(record: TensorRecord) -> str:
    """ "tie", "constant" (all elements are equal), "gaps" (nonzeros only), "raw" (values as they are), "planes" (values cut into
    planes) or "dense" (a symbol per weight)."""
    if record.constant is not None:
        return "constant"
    if record.values is None:
        return "tie"
    if record.sparse is not None:
        return "gaps"
    if record.values.codec == layout.CODEC_PLANES:
        return "planes"
    return "raw" if record.values.codec == layout.CODEC_RAW else "dense"
