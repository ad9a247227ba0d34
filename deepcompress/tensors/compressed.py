"""One tensor in compressed form, as it stands between the stages and the file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding import pool
from deepcompress.coding.bits import symbol_dtype
from deepcompress.errors import ModelError
from deepcompress.tensors.codebook import Codebook, nearest
from deepcompress.tensors.elements import Array, bfloat16_to_float32, float32_to_bfloat16, numpy_dtype, widen

_AT_ONCE = 1 << 18  # weights whose values and symbols stay in the cache


@dataclass(frozen=True, eq=False)
class DenseTensor:
    """A tensor that keeps its values: stored as they are, in a narrower type, or, where pruned, as its nonzeros.

    `elements` (any shape) are in the type `stored`; `dtype` is the tensor's own.
    """

    elements: Array
    dtype: str
    stored: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.elements.shape

    def to_dense(self) -> Array:
        """The tensor's values in its own type."""
        return widen(self.elements, self.stored, self.dtype)


@dataclass(frozen=True, eq=False)
class CompressedTensor:
    """A tensor whose kept weights share the values of a codebook.

    `symbols` (numel,), the smallest unsigned type: 0 is a pruned weight, s is centroid s - 1.
    """

    shape: tuple[int, ...]
    dtype: str
    codebook: Codebook
    symbols: NDArray[Any]

    @property
    def stored(self) -> str:
        """The type in which the centroids lie in the file."""
        return "bfloat16" if self.dtype == "bfloat16" else str(self.codebook.centroids.dtype)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """True = kept."""
        mask: NDArray[np.bool_] = (self.symbols != 0).reshape(self.shape)
        return mask

    def to_dense(self) -> Array:
        """The tensor's values: centroids and exact zeros (+0.0)."""
        return lookup(centroid_elements(self.codebook, self.stored), self.stored, self.dtype, self.symbols).reshape(self.shape)

    @classmethod
    def from_values(cls, values: Array, dtype: str, codebook: Codebook) -> CompressedTensor:
        """The compressed form of a tensor that holds nothing but zeros and centroids.

        Raises:
            ModelError: some value is neither; the tensor was changed after it was quantized.
        """
        flat = (bfloat16_to_float32(values) if dtype == "bfloat16" else values).reshape(-1)
        own = np.float32 if dtype == "bfloat16" else flat.dtype
        table = np.concatenate([np.zeros(1, own), codebook.centroids.astype(own)])
        symbols = np.zeros(len(flat), symbol_dtype(codebook.k + 1))

        def assign(start: int, stop: int) -> int:
            """Name the weights [start, stop); how many of them have no name."""
            part = flat[start:stop]
            places = nearest(table[1:], part).astype(symbols.dtype, copy=False) + symbols.dtype.type(1)
            symbols[start:stop] = np.where(part == 0, symbols.dtype.type(0), places)
            return len(part) - int(np.count_nonzero(table[symbols[start:stop]] == part))

        parts = [range(at, min(at + _AT_ONCE, len(flat))) for at in range(0, len(flat), _AT_ONCE)] if codebook.k else []
        strangers = sum(pool.run([partial(assign, part.start, part.stop) for part in parts]))
        if strangers := strangers if codebook.k else int(np.count_nonzero(flat)):
            raise ModelError(f"{strangers} of {len(flat)} weights are neither zero nor one of the {codebook.k} centroids")
        return cls(values.shape, dtype, codebook, symbols)


def centroid_elements(codebook: Codebook, stored: str) -> Array:
    """A codebook's centroids as they lie in the file."""
    if stored == "bfloat16":
        return float32_to_bfloat16(codebook.centroids)
    return codebook.centroids.astype(numpy_dtype(stored))


def lookup(centroids: Array, stored: str, dtype: str, symbols: NDArray[Any]) -> Array:
    """Values of symbols (n,): +0.0 for symbol 0, centroid s - 1 for symbol s."""
    values = widen(centroids, stored, dtype)
    table = np.concatenate([np.zeros(1, values.dtype), values]).view(numpy_dtype(dtype))
    found: Array = table[symbols]
    return found
