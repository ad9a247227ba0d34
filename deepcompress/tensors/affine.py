"""Values on a uniform grid: one scale and offset for all of a tensor, or for each of its channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.jit import jit
from deepcompress.coding.pool import share
from deepcompress.tensors.elements import Array, numpy_dtype

_SHARED = 1 << 16  # values that are worth a thread's while
_CALCULATED_IN = {"float64": np.float64}  # every other type is computed in float32


def affine_values(codes: NDArray[Any], scales: Array, offsets: NDArray[np.int64], dtype: str) -> Array:
    """scale x (code - offset), in IEEE arithmetic, so that every reader gets the same bits.

    The difference is an exact integer, rounded to float32 (for float64 to float64); the product is rounded to the same type,
    then to the tensor's; always to nearest even, beyond the largest number to infinity.

    Args:
        codes: (outer, channels, inner) contiguous integers.
        scales, offsets: (channels,); scales that the type of the calculation holds exactly.
        dtype: of the values, by torch's name: float16, bfloat16, float32 or float64.
    """
    kind = _CALCULATED_IN.get(dtype, np.float32)
    values = np.empty(codes.size, kind)
    flat, factors = codes.reshape(-1), scales.astype(kind)
    with np.errstate(over="ignore"):
        share(len(flat), lambda first, last: _multiply(flat, first, last, codes.shape[-1], factors, offsets, values), _SHARED)
        if dtype == "bfloat16":
            return round_to_bfloat16(values).reshape(codes.shape)
        return values.astype(numpy_dtype(dtype), copy=False).reshape(codes.shape)


def by_channel(shape: tuple[int, ...], axis: int | None) -> tuple[int, int, int]:
    """The shape (outer, channels, inner) in which the channels of a tensor are the middle dimension; of none, one channel."""
    if axis is None:
        return 1, 1, int(np.prod(shape, dtype=np.int64))
    outer, inner = (int(np.prod(part, dtype=np.int64)) for part in (shape[:axis], shape[axis + 1 :]))
    return outer, shape[axis], inner


def round_to_bfloat16(values: Array) -> Array:
    """float32 values rounded to the nearest bfloat16, ties to even; tagged."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype(np.uint16).view(numpy_dtype("bfloat16"))


@jit
def _multiply(
    codes: NDArray[Any], first: int, last: int, inner: int, scales: Array, offsets: NDArray[np.int64], values: Array
) -> None:  # fmt: skip
    """The codes [first, last), run by run of one channel."""
    channels = len(scales)
    while first < last:
        row = first // inner
        channel, end = row % channels, min((row + 1) * inner, last)
        scale, offset = scales[channel], offsets[channel]
        for place in range(first, end):
            values[place] = scale * values.dtype.type(np.int64(codes[place]) - offset)
        first = end
