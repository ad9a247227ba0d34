"""Tensors whose elements are all equal: a compact file says the one value in the record, and has no section for them."""

from __future__ import annotations

import numpy as np

from deepcompress.container import layout
from deepcompress.container.layout import DTYPE_OF_NAME, NARROWER
from deepcompress.container.records import TensorRecord
from deepcompress.tensors.affine import AffineTensor
from deepcompress.tensors.compressed import CompressedTensor, DenseTensor
from deepcompress.tensors.elements import Array, numpy_dtype, round_to_bfloat16, widen

__all__ = ["constant_record"]

_FEW = 64


def constant_record(name: str, tensor: DenseTensor | CompressedTensor | AffineTensor) -> TensorRecord | None:
    """The record of a tensor whose elements are equal in every bit; None of others, and of one without elements."""
    if isinstance(tensor, DenseTensor):
        flat, stored = np.ascontiguousarray(tensor.elements).reshape(-1), tensor.stored
    elif _are_equal(tensor.symbols[:, None]):
        flat, stored = np.ascontiguousarray(tensor.to_dense()).reshape(-1), tensor.dtype
    else:
        return None
    if not len(flat) or not _are_equal(flat.view(np.uint8).reshape(len(flat), DTYPE_OF_NAME[stored].itemsize)):
        return None
    stored, value = _narrowest(flat[:1], stored, tensor.dtype)
    return TensorRecord(name, tensor.dtype, tensor.shape, stored, layout.MAP_CONSTANT, constant=value)


def _are_equal(rows: Array) -> bool:
    """Whether all rows are as the first; a few tell it of most tensors."""
    return not (rows[:_FEW] != rows[:1]).any() and not (rows[_FEW:] != rows[:1]).any()


def _narrowest(value: Array, stored: str, dtype: str) -> tuple[str, bytes]:
    """A type that holds the value, and its bytes; of zeros the tensor's own, for nothing is stored of them."""
    if not any(value.tobytes()):
        return dtype, bytes(DTYPE_OF_NAME[dtype].itemsize)
    for narrow in NARROWER.get(dtype, ()) if stored == dtype and not (value != value).any() else ():
        with np.errstate(over="ignore", under="ignore"):
            wide = value.astype(np.float32) if narrow == "bfloat16" else value
            found = round_to_bfloat16(wide) if narrow == "bfloat16" else wide.astype(numpy_dtype(narrow))
        if widen(found, narrow, dtype).tobytes() == value.tobytes():
            return narrow, found.tobytes()
    return stored, value.tobytes()
