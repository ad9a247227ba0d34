"""A tensor decoded where it is wanted: its compressed sections are copied to a GPU, and the streams are decoded there.

    section ──plan──▶ lanes, table ──one copy──▶ device ──decode_codewords, decode_fields──▶ values (dense: the tensor itself)
                                                        ──scatter_nonzeros──▶ the tensor, where it is sparse

The result has the bits that `decode_tensor` gives. What tables of lengths say is checked before a launch, what codewords say
within it; one number comes back for each tensor, whether all was well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcompress.container import layout
from deepcompress.container.directory import Lengths
from deepcompress.container.layout import DTYPE_OF_NAME
from deepcompress.container.records import Sparse, StreamRecord, TensorRecord
from deepcompress.errors import FormatError
from deepcompress.tensors import gpu_launch as launch
from deepcompress.tensors.affine import by_channel
from deepcompress.tensors.decode import decode_tensor
from deepcompress.tensors.elements import Array, bfloat16_to_float32, numpy_dtype
from deepcompress.tensors.gpu_plan import MAX_COUNT, StreamPlan, plan_chunks, plan_stream
from deepcompress.tensors.maps import open_affine, value_table

Bytes = NDArray[np.uint8]

_CODED = (layout.CODEC_FIXED, layout.CODEC_HUFFMAN)
_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # what elements move as, by their bytes


def decode_on_device(
    record: TensorRecord, sections: Mapping[str, Bytes], tables: Sequence[Lengths], device: torch.device
) -> Tensor | None:
    """The tensor of a record that is no tie, on `device`.

    Args:
        record: what the directory says of it.
        sections: its sections by kind, bytes in the CPU's memory.
        tables: the directory's code lengths.
        device: a CUDA device.

    Returns:
        Shape `record.shape`, dtype `record.dtype`, memory of its own; or None where the record or the device is not one for
        this: then `decode_tensor` is. Planes, unknown codecs, and dtypes that this torch lacks are for the CPU.

    Raises:
        FormatError: a section that is not what the record says; the text is that of `decode_tensor`.
    """
    if not _takes(record, sections) or not launch.works_on(device):
        return None
    try:
        staged = stage_tensor(record, sections, tables, device)
        tensor = run(staged)
        if staged.flag.item():  # the one time that the CPU waits
            raise FormatError("its codewords, or what they stand for, are malformed")
        return tensor
    except FormatError as error:
        decode_tensor(record, sections, tables)  # finds the same, and says where
        raise FormatError(f"tensor {record.name!r}: {error}") from error


def _takes(record: TensorRecord, sections: Mapping[str, Bytes]) -> bool:
    """Whether the record is raw or of symbols, of a size that kernels count in int32, and of a dtype that torch has."""
    if record.values is None or not isinstance(getattr(torch, record.dtype, None), torch.dtype):
        return False
    coded = [] if record.values.codec == layout.CODEC_RAW else [record.values]
    if coded and record.value_map == layout.MAP_NONE:
        return False
    if not coded and _has_narrow_nan(sections["values"], record):
        return False
    if record.sparse is not None:
        coded.append(record.sparse.stream)
    movable = record.sparse is None or DTYPE_OF_NAME[record.dtype].itemsize in _INTEGER
    return movable and all(_is_countable(stream, record.numel) for stream in coded)


def _is_countable(stream: StreamRecord, numel: int) -> bool:
    return stream.codec in _CODED and min(numel, 1 << (stream.geometry & 31)) <= MAX_COUNT


def _has_narrow_nan(section: Bytes, record: TensorRecord) -> bool:
    """Whether elements are to be widened and one is NaN: processors differ in what they make of its payload."""
    if record.stored == record.dtype or not record.stored.endswith(("float16", "float32")):
        return False
    elements = section.view(numpy_dtype(record.stored))
    return bool(np.isnan(bfloat16_to_float32(elements) if record.stored == "bfloat16" else elements).any())


@dataclass(frozen=True)
class StagedTensor:
    """A tensor's sections on a device, checked as far as their tables go.

    Attributes:
        record: what the directory says of it.
        values: the value stream, or raw values in the tensor's own dtype.
        flag: (1,) int32, set while it runs where a stream is malformed.
        gaps: the gap stream of a sparse tensor.
        chunks: the arrays of `gpu_plan.Chunks`.
        edges: as in `launch.Nonzeros`; None where the values are raw.
        grid: scales and offsets of an affine map, (c, 1) each, whose value stream holds numbers of symbols.
    """

    record: TensorRecord
    values: launch.Staged | Tensor
    flag: Tensor
    gaps: launch.Staged | None = None
    chunks: Sequence[Tensor] = ()
    edges: Tensor | None = None
    grid: Sequence[Tensor] = ()


def stage_tensor(
    record: TensorRecord, sections: Mapping[str, Bytes], tables: Sequence[Lengths], device: torch.device
) -> StagedTensor:
    """Check and copy what `run` needs; the record must be one that `decode_on_device` takes.

    Raises:
        FormatError: lengths or counts that do not fit, a codebook out of order, a bool that is none.
    """
    plan = _plan_values(record, sections, tables)
    gaps = None if record.sparse is None else _plan_gaps(record, record.sparse, sections["gaps"], tables, plan)
    values = _raw(record, sections["values"], device) if plan is None else launch.stage(plan, device)
    flag, grid = launch.new_flag(device), _grid(record, sections, device)
    if record.sparse is None or gaps is None:
        return StagedTensor(record, values, flag, grid=grid)
    chunks = launch.upload(plan_chunks(gaps.chunk_counts, record.numel, record.sparse.stream.geometry & 31), device)
    edges = None
    if plan is not None:
        (edges,) = launch.upload([np.cumsum(np.append(0, plan.chunk_counts[gaps.chunk_counts > 0]))], device)
    return StagedTensor(record, values, flag, launch.stage(gaps, device), chunks, edges, grid)


def run(staged: StagedTensor) -> Tensor:
    """The tensor, with nothing copied to the device and nothing waited for; worth nothing where `staged.flag` gets set."""
    values, record = staged.values, staged.record
    with launch.on_device(staged.flag.device):
        flat = values if isinstance(values, Tensor) else launch.decode_stream(values, staged.flag)
        if staged.gaps is not None and record.sparse is not None:
            flat = _scattered(staged, staged.gaps, record.sparse, flat)
        if staged.grid:
            flat = _on_grid(record, flat, *staged.grid)
    return flat.view(getattr(torch, record.dtype)).reshape(record.shape)


def _plan_values(record: TensorRecord, sections: Mapping[str, Bytes], tables: Sequence[Lengths]) -> StreamPlan | None:
    """The plan of the value stream; None where the values are raw."""
    stream, sparse = record.values, record.sparse
    if stream is None or stream.codec == layout.CODEC_RAW:
        return None
    if sparse is not None and (stream.geometry ^ sparse.stream.geometry) & 31:
        raise FormatError("the gaps are cut into chunks of another size")
    total = None if sparse is None else sparse.nonzeros
    return plan_stream(sections["values"], stream, tables, _by_symbol(record, sections), record.numel, total)


def _plan_gaps(
    record: TensorRecord, sparse: Sparse, section: Bytes, tables: Sequence[Lengths], values: StreamPlan | None
) -> StreamPlan:
    """The plan of the gap stream: its symbols stand for themselves."""
    by_symbol = np.arange(1 << sparse.gap_bits, dtype=np.int32)
    gaps = plan_stream(section, sparse.stream, tables, by_symbol, record.numel, sparse.gap_count)
    if values is not None and np.any(values.chunk_counts > gaps.chunk_counts):
        raise FormatError("a chunk has more nonzeros than gaps")
    return gaps


def _by_symbol(record: TensorRecord, sections: Mapping[str, Bytes]) -> Array:
    """What is written for each symbol: the bits of its value; of an affine map, its number, from 1 on in a sparse tensor."""
    if record.value_map == layout.MAP_AFFINE:
        return np.arange(layout.MAX_CENTROIDS, dtype=np.int32) + np.int32(record.sparse is not None)
    table = value_table(record, sections["codebook"])
    return table.view(f"<i{table.itemsize}")


def _grid(record: TensorRecord, sections: Mapping[str, Bytes], device: torch.device) -> Sequence[Tensor]:
    """Scales, in the type of the calculation, and offsets of an affine map."""
    if record.value_map != layout.MAP_AFFINE:
        return ()
    found = open_affine(record, sections["affine"])
    return [part.reshape(-1, 1) for part in launch.upload([found.scales, found.offsets], device)]


def _on_grid(record: TensorRecord, numbers: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
    """(numel,) values from numbers of symbols; see `AffineMap` for the arithmetic."""
    cut = numbers.reshape(by_channel(record.shape, record.axis - 1 if record.axis else None))
    absent = record.sparse is not None
    values = scales * (cut - (offsets + int(absent))).to(scales.dtype)
    if absent:
        values = torch.where(cut == 0, values.new_zeros(()), values)
    return values.to(getattr(torch, record.dtype)).reshape(-1)


def _raw(record: TensorRecord, section: Bytes, device: torch.device) -> Tensor:
    """(value_count,) raw values on the device."""
    if record.dtype == "bool" and np.any(section > 1):
        raise FormatError("a bool element is neither 0 nor 1")
    own = torch.empty(len(section), dtype=torch.uint8)  # a section cannot be written, which torch would warn of
    own.numpy()[:] = section
    return own.to(device).view(getattr(torch, record.stored)).to(getattr(torch, record.dtype))


def _scattered(staged: StagedTensor, gaps: launch.Staged, sparse: Sparse, values: Tensor) -> Tensor:
    """(numel,) zeros and, where the gaps lead to, the values; as integers of the elements' size."""
    size, escape = 4 if staged.grid else DTYPE_OF_NAME[staged.record.dtype].itemsize, (1 << sparse.gap_bits) - 1
    kind = _INTEGER[size]
    dense = torch.zeros(staged.record.numel, dtype=kind, device=values.device)
    if not sparse.gap_count:
        return dense
    symbols, edges = launch.decode_stream(gaps, staged.flag), staged.edges
    if edges is None:
        edges = launch.count_nonzeros(symbols, staged.chunks, escape, sparse.nonzeros, staged.flag)
    nonzeros = launch.Nonzeros(values.view(kind), edges, may_be_zero=staged.edges is None)
    launch.scatter(symbols, staged.chunks, escape, nonzeros, dense, staged.flag)
    return dense
