"""Plans onto a device and through the kernels: one copy for each stream, one launch, nothing waited for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepcompress.tensors.elements import Array
from deepcompress.tensors.gpu_plan import Lanes, StreamPlan

_ALIGNMENT = 16  # bytes; torch's own allocations have more, so that kernels meet one kind of pointer
_BURSTS = {12: 5, 20: 3}  # bits that a table looks at, at most -> entries that a peek of 64 bits is enough for
_FEW_LANES = 1 << 14  # up to here a warp takes four lanes, so that each SM has some; beyond, all its 32 threads have one
_BLOCK = 1024  # fields, or gaps, that a program takes at once


class Staged(NamedTuple):
    """A stream on a device: `lanes` are starts, stops, firsts and counts, or nothing where all symbols are equal."""

    plan: StreamPlan
    words: Tensor
    lanes: Sequence[Tensor]
    values: Tensor
    table: Tensor


@cache
def works_on(device: torch.device) -> bool:
    """Whether Triton is there, and compiles and runs a kernel for the device; tried once, with 16 fields of one bit.

    Without a GPU only Triton's interpreter will do, and the device is "cpu".
    """
    try:
        from deepcompress.tensors.gpu_kernels import INTERPRETED
    except ImportError:
        return False
    if not (torch.cuda.is_available() if device.type == "cuda" else INTERPRETED and device.type == "cpu"):
        return False
    none = np.zeros(1, np.int64)
    lanes = Lanes(none, none + 2, none, np.array([16], np.int32))
    plan = StreamPlan(np.array([0x01, 0x80], np.uint8), 16, none + 16, np.arange(2, dtype=np.int32), lanes, width=1)
    try:
        with on_device(device):
            return decode_stream(stage(plan, device), new_flag(device)).tolist() == [1, *[0] * 14, 1]
    except Exception as error:  # whatever a driver, a compiler or its absence raises: the CPU decodes as well
        text = f"tensors are decoded on the CPU, as Triton does not work on {device}: {error}"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
        return False


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Launches go to the current device: make it this one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def new_flag(device: torch.device) -> Tensor:
    """(1,) int32, 0: kernels set it where what they read is malformed."""
    return torch.zeros(1, dtype=torch.int32, device=device)


def upload(arrays: Sequence[Array], device: torch.device) -> list[Tensor]:
    """Copy arrays to the device with one transfer; each begins at a multiple of 16 bytes.

    Bytes come back as int64 words, filled up with zeros, and with one word of zeros more: a peek reads two words.
    """
    sizes = [-(-array.nbytes // 8) * 8 + 8 if array.dtype == np.uint8 else array.nbytes for array in arrays]
    starts = np.cumsum([0, *(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)]).tolist()
    staging = torch.zeros(starts[-1], dtype=torch.uint8)
    room = staging.numpy()
    for array, start in zip(arrays, starts, strict=False):
        room[start : start + array.nbytes] = np.ascontiguousarray(array).view(np.uint8)
    moved = staging.to(device)
    pieces = [moved[start : start + size] for start, size in zip(starts, sizes, strict=False)]
    kinds = ["int64" if array.dtype == np.uint8 else array.dtype.name for array in arrays]
    return [piece.view(getattr(torch, kind)) for piece, kind in zip(pieces, kinds, strict=True)]


def stage(plan: StreamPlan, device: torch.device) -> Staged:
    """Copy a stream to the device: section, lanes, table, and the values of its symbols."""
    table = np.zeros(0, np.int32) if plan.table is None else plan.table
    section = plan.section if plan.lanes is not None else plan.section[:0]
    words, values, table_there, *lanes = upload([section, plan.values, table, *(plan.lanes or ())], device)
    return Staged(plan, words, lanes, values, table_there)


def decode_stream(staged: Staged, flag: Tensor) -> Tensor:
    """(total,) values of a stream's symbols, as integers; `flag` is set where the stream is malformed."""
    plan, values = staged.plan, staged.values
    out = torch.empty(plan.total, dtype=values.dtype, device=values.device)
    if not staged.lanes:
        return out.copy_(values[:1].expand(plan.total))
    if plan.table is None:
        _launch_fields(staged, out, flag)
    else:
        _launch_codewords(staged, out, flag)
    return out


def _launch_fields(staged: Staged, out: Tensor, flag: Tensor) -> None:
    from deepcompress.tensors.gpu_kernels import decode_fields

    (starts, _, firsts, counts), words, values = staged.lanes, staged.words, staged.values
    decode_fields[(len(starts),)](
        words, len(words) - 2, starts, firsts, counts, staged.plan.width, values, len(values), out, flag,
        block=_BLOCK, enable_fp_fusion=False,
    )  # fmt: skip


def _launch_codewords(staged: Staged, out: Tensor, flag: Tensor) -> None:
    from deepcompress.tensors.gpu_kernels import decode_codewords

    plan, words, table = staged.plan, staged.words, staged.table
    lanes = len(staged.lanes[0])
    block = 4 if lanes <= _FEW_LANES else 32
    burst = next(entries for bits, entries in _BURSTS.items() if plan.width <= bits)
    decode_codewords[(-(-lanes // block),)](
        words, len(words) - 2, *staged.lanes, lanes, table, len(table) - 1, plan.first_mask, staged.values, out, flag,
        burst=burst, block=block, num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip


class Nonzeros(NamedTuple):
    """The nonzeros of a sparse tensor on a device, as integers, and `edges` (n + 1,): where those of each chunk begin and end."""

    values: Tensor
    edges: Tensor
    may_be_zero: bool


def count_nonzeros(gaps: Tensor, chunks: Sequence[Tensor], escape: int, nonzeros: int, flag: Tensor) -> Tensor:
    """The `edges` of `Nonzeros` where only the gaps tell; `flag` is set where they lead to other than `nonzeros`."""
    firsts, counts, _, _ = chunks
    ends = torch.cumsum(gaps != escape, 0)[firsts + counts - 1]
    edges = torch.cat([torch.zeros_like(ends[:1]), ends])
    flag |= edges[-1:] != nonzeros
    return edges.clamp_(max=nonzeros)


def scatter(gaps: Tensor, chunks: Sequence[Tensor], escape: int, nonzeros: Nonzeros, dense: Tensor, flag: Tensor) -> None:
    """Write nonzeros to where the gaps lead, `chunks` the arrays of `gpu_plan.Chunks`; `flag` is set if gaps are malformed."""
    from deepcompress.tensors.gpu_kernels import scatter_nonzeros

    firsts, counts, bases, ends = chunks
    numbers = torch.diff(nonzeros.edges).to(torch.int32)
    scatter_nonzeros[(len(counts),)](
        gaps, firsts, counts, escape, nonzeros.values, nonzeros.edges, numbers, bases, ends, dense, flag,
        zero=nonzeros.may_be_zero, block=_BLOCK, enable_fp_fusion=False,
    )  # fmt: skip
