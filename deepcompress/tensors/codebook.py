"""The few values that a tensor's kept weights share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.jit import jit
from deepcompress.coding.pool import share
from deepcompress.container.layout import MAX_CENTROIDS
from deepcompress.errors import ParameterError

Array = NDArray[Any]
_STORABLE = ("float16", "float32", "float64")
_COUNTED = 63  # up to so many limits, counting those below a value is faster than a search
_SHARED = 1 << 16  # values that are worth a thread's while


@dataclass(frozen=True, eq=False)
class Codebook:
    """Centroids, and the way from values to their indices and back.

    Zero is never a centroid: a pruned weight is no index at all, so that pruned means pruned.

    Attributes:
        centroids: (k,) ascending, distinct, finite, none zero; float16, float32 or float64. k may be 0.

    Raises:
        ParameterError: `centroids` are anything else.
    """

    centroids: Array

    def __post_init__(self) -> None:
        if problem := _problem(self.centroids):
            raise ParameterError(f"The 'centroids' parameter of Codebook must be {problem}.")

    def __len__(self) -> int:
        return len(self.centroids)

    @property
    def k(self) -> int:
        """How many centroids there are."""
        return len(self.centroids)

    @property
    def bit_width(self) -> int:
        """Bits of a fixed-length index: ceil(log2(k)), 0 where one centroid or none leaves nothing to tell apart."""
        return max(self.k - 1, 0).bit_length()

    def assign(self, values: Array) -> NDArray[Any]:
        """Indices of the nearest centroids, a tie going to the lower one; any shape, the smallest unsigned type.

        Raises:
            ParameterError: there are values, but no centroids.
        """
        values = np.asarray(values)
        if not self.k and values.size:
            raise ParameterError(f"{values.size} values cannot be assigned to a codebook without centroids.")
        return nearest(self.centroids, values)

    def lookup(self, indices: NDArray[Any]) -> Array:
        """The centroids that `indices` (any shape, any integer type) name, in the centroids' type.

        Raises:
            ParameterError: an index below 0 or above k - 1.
        """
        indices = np.asarray(indices)
        if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < self.k:
            span = f"{int(indices.min())} to {int(indices.max())}"
            raise ParameterError(f"Indices must be at least 0 and below k = {self.k}. They run from {span} instead.")
        found: Array = self.centroids[indices]
        return found


def nearest(levels: Array, values: Array) -> NDArray[Any]:
    """Places of the nearest levels, (k,) ascending, k >= 1, for finite values of any shape; see `Codebook.assign`."""
    values = np.asarray(values)
    flat = np.ascontiguousarray(values.ravel(), _comparable(values.dtype))
    limits = _below(midpoints(levels), flat.dtype)
    if count_them := len(limits) <= _COUNTED:
        table = limits
    else:  # 2^d - 1 of them, the missing ones above all values
        table = np.full((1 << len(limits).bit_length()) - 1, np.inf, flat.dtype)
        table[: len(limits)] = limits
    places = np.empty(len(flat), np.min_scalar_type(max(len(levels) - 1, 0)))
    kernel = _count_below if count_them else _search
    share(len(flat), lambda start, stop: kernel(flat[start:stop], table, places[start:stop]), _SHARED)
    return places.reshape(values.shape)


def _comparable(dtype: np.dtype[Any]) -> Any:
    """The type in which values of `dtype` are compared with limits."""
    return np.float32 if dtype.itemsize <= 2 or dtype.newbyteorder("=") == np.float32 else np.float64


@jit
def _count_below(values: Array, limits: Array, places: NDArray[Any]) -> None:
    """How many limits lie below each value, limit by limit: no branches, and one instruction compares 16 values."""
    for start in range(0, len(values), 4096):  # stays in the innermost cache
        part, found = values[start : start + 4096], places[start : start + 4096]
        for place in range(len(part)):
            found[place] = 0
        for limit in limits:
            for place in range(len(part)):
                found[place] += part[place] > limit


@jit
def _search(values: Array, limits: Array, places: NDArray[Any]) -> None:
    """The same by bisection, step by step for 256 values at once, so that no value's steps wait for each other."""
    steps = np.zeros(256, np.uint32)
    for start in range(0, len(values), 256):
        part, found = values[start : start + 256], places[start : start + 256]
        for place in range(len(part)):
            steps[place] = 0
        half = np.uint32((len(limits) + 1) // 2)
        while half > 0:
            for place in range(len(part)):
                step = steps[place]
                steps[place] = step + (half if limits[step + half - np.uint32(1)] < part[place] else np.uint32(0))
            half >>= np.uint32(1)
        for place in range(len(part)):
            found[place] = steps[place]


def midpoints(centroids: Array) -> NDArray[np.float64]:
    """The last values, (k - 1,), that are no farther from the lower than from the upper of two neighbours.

    Args:
        centroids: (k,) ascending, distinct, finite.
    """
    lower, upper = centroids[:-1].astype(np.float64), centroids[1:].astype(np.float64)
    with np.errstate(over="ignore"):
        scale = np.where(np.isfinite(lower + upper), 1.0, 0.5)  # halves of such large numbers are exact
    one, other = lower * scale, upper * scale
    total = one + other
    added = total - one
    lost = (one - (total - added)) + (other - added)  # by rounding (Knuth 1969)
    middle = total * (0.5 / scale)
    doubled = middle * (2.0 * scale)  # not the total, where half of a denormal number was rounded
    beyond = (doubled > total) | ((doubled == total) & (lost < 0))
    return np.where(beyond, np.nextafter(middle, -np.inf), middle)


def _below(limits: NDArray[np.float64], dtype: np.dtype[Any]) -> Array:
    """Limits as the next lower numbers of a narrower type, whose comparisons with numbers of that type come out the same."""
    if dtype != np.float32:
        return limits
    with np.errstate(over="ignore", under="ignore"):
        narrow = limits.astype(dtype)
    return np.where(narrow > limits, np.nextafter(narrow, np.float32(-np.inf)), narrow)


def _problem(centroids: object) -> str | None:
    """What a codebook's centroids must be and are not, or None."""
    if not isinstance(centroids, np.ndarray) or centroids.ndim != 1:
        return f"a 1-d array. Got {_describe(centroids)} instead"
    if centroids.dtype.name not in _STORABLE or not centroids.dtype.isnative:
        return f"of {', '.join(_STORABLE)}. Got {centroids.dtype} instead"
    if len(centroids) > MAX_CENTROIDS:
        return f"at most {MAX_CENTROIDS}. Got {len(centroids)} instead"
    if bad := int(np.count_nonzero(~np.isfinite(centroids))):
        return f"finite. {bad} of {len(centroids)} are not"
    if np.any(centroids == 0):
        return "free of zero, which stands for a pruned weight"
    if places := np.flatnonzero(centroids[1:] <= centroids[:-1]).tolist():
        first = places[0]
        return f"ascending and distinct. {centroids[first]} is followed by {centroids[first + 1]}"
    return None


def _describe(value: object) -> str:
    return f"shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
