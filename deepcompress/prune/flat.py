"""Tensors one after another in flat order, as if they were one, handed out in blocks that stay in a core's cache.

Nothing is put together or copied as a whole: weights that are float32 already are looked at where they lie, and others are
widened a block at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcompress.tensors.elements import bfloat16_to_float32

Array = NDArray[Any]

BLOCK = 1 << 16  # elements: as float64, half a megabyte
_NATIVE = (torch.float32, torch.float64, torch.float16)


class Flat:
    """The elements of several tensors, in their order and then by flat index.

    Attributes:
        dtype: float64 where one of the tensors is, else float32; it holds every element exactly.
        size: elements of all together.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.dtype: type[Any] = np.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else np.float32
        self._arrays = [_as_numpy(tensor) for tensor in tensors]
        self._stops = list(accumulate(array.size for array in self._arrays))
        self.size = self._stops[-1] if self._stops else 0

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, Array]]:
        """Each block of elements start to stop, as (where it begins, shape (up to BLOCK,) of `dtype`)."""
        for array, end in zip(self._arrays, self._stops, strict=True):
            begin = end - array.size
            for low in range(max(start, begin), min(stop, end), BLOCK):
                part = array[low - begin : min(low + BLOCK, stop, end) - begin]
                yield low, self._widened(part)

    def _widened(self, part: Array) -> Array:
        if part.dtype == np.uint16:
            part = bfloat16_to_float32(part)
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
            return part.astype(self.dtype, copy=False)


def _as_numpy(tensor: Tensor) -> Array:
    """A tensor's elements in flat order, float16 to float64; bfloat16 as the bits that numpy has no type for."""
    tensor = tensor.detach().resolve_neg().flatten().cpu()
    if tensor.dtype == torch.bfloat16:
        return np.asarray(tensor.view(torch.uint16).numpy())
    return np.asarray((tensor if tensor.dtype in _NATIVE else tensor.float()).numpy())
