"""Elements of a tensor as numpy arrays, also of the types that numpy lacks, and the bridge to torch.

bfloat16, the float8 types and complex32 travel as unsigned integers that hold their bits; the array's dtype carries the name:
`array.dtype.metadata == {"torch_dtype": "bfloat16"}`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.container.layout import DTYPE_OF_NAME
from deepcompress.errors import ModelError

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype that carries elements of torch's dtype `name`, tagged where numpy lacks it."""
    dtype = DTYPE_OF_NAME[name]
    if dtype.tagged:
        return np.dtype(dtype.numpy, metadata={"torch_dtype": name})
    return np.dtype(dtype.numpy)


def widen(elements: Array, stored: str, dtype: str) -> Array:
    """Elements of type `stored` as type `dtype`, which holds each of them exactly (see `layout.NARROWER`)."""
    if stored == dtype:
        return elements.view(numpy_dtype(dtype))
    if stored == "bfloat16":
        elements = bfloat16_to_float32(elements)
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return elements.astype(numpy_dtype(dtype))


def bfloat16_to_float32(bits: Array) -> Array:
    """bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(values: Array) -> Array:
    """The upper halves of float32 values that bfloat16 holds exactly, tagged."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    if np.any(bits & 0xFFFF):
        raise ModelError("values are not exact in bfloat16")
    return (bits >> 16).astype(np.uint16).view(numpy_dtype("bfloat16"))


def round_to_bfloat16(values: Array) -> Array:
    """float32 values rounded to the nearest bfloat16, ties to even; tagged."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype(np.uint16).view(numpy_dtype("bfloat16"))


def dtype_name(tensor: torch.Tensor) -> str:
    """torch's name of a tensor's dtype. Raises ModelError where the format has no code for it."""
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in DTYPE_OF_NAME:
        raise ModelError(f"dtype {name} cannot be stored")
    return name


def from_torch(tensor: torch.Tensor) -> Array:
    """A tensor's elements, shape kept, C order, on the CPU; bits of the types that numpy lacks. Copies only if it must.

    Raises:
        ModelError: a dtype without a code in the format, a sparse tensor, or one without data.
    """
    import torch

    name = dtype_name(tensor)
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise ModelError(f"a tensor without dense values ({tensor.layout}, on {tensor.device}) cannot be stored")
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if DTYPE_OF_NAME[name].tagged:
        integer = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}[DTYPE_OF_NAME[name].itemsize]
        tensor = tensor.view(integer)
    array: Array = tensor.numpy()
    return array.view(numpy_dtype(name))


def to_torch(array: Array, name: str) -> torch.Tensor:
    """A tensor over a writable array's memory."""
    import torch

    dtype = getattr(torch, name, None)
    if dtype is None:
        raise ModelError(f"this torch ({torch.__version__}) has no dtype {name}")
    plain = np.ascontiguousarray(array.view(np.dtype(array.dtype.str))).reshape(array.shape)
    if not plain.flags.writeable:
        plain = plain.copy()
    tensor = torch.from_numpy(plain)
    return tensor.view(dtype) if tensor.dtype != dtype else tensor
