"""Shared values for many weights: k-means of scalars, and the error that it leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.denormals import denormals_kept
from deepcompress.coding.jit import jit
from deepcompress.container.layout import MAX_CENTROIDS
from deepcompress.errors import ParameterError
from deepcompress.quantize.init import INITS
from deepcompress.quantize.lloyd import lloyd
from deepcompress.quantize.sharing import squared_error
from deepcompress.quantize.sort import ascending
from deepcompress.quantize.sums import sorted_values
from deepcompress.tensors.codebook import nearest

Array = NDArray[Any]
Floats = NDArray[np.float64]

_NEAR_OVERFLOW = 960  # sums of float64 values from 2^960 on might not be finite
_HEADROOM = 64


@denormals_kept()
def fit_kmeans(values: Array, k: int, *, init: str = "linear", max_iter: int = 300, seed: int = 0) -> Floats:
    """Cluster scalar weights around at most `k` shared values.

    Values are sorted once, which takes most of the time; then a cluster is a run of them, and a pass costs k log n. A cluster
    without values moves to the worst-served one, the one farthest from its centroid (several to as many different ones), so
    that as many clusters come out as were asked for. The squared error never grows from one pass to the next.

    Args:
        values: any shape, finite; float16, float32, float64 or integers. Their order has no influence.
        k: 1 <= k <= 65_536.
        init: "linear" (even over [min, max], both included), "density" (equal numbers per cluster), "random" (k of the
            values), "kmeans++", or "optimal": the least squared error there is, in several times the time (see `optimal`).
        max_iter: stop after this many passes even if centroids still move.
        seed: of "random" and "kmeans++".

    Returns:
        Centroids, (min(k, distinct values),), ascending and distinct: the means of their clusters, which are the distinct
        values themselves where there are no more than k. (Beside a float64 value beyond 2^960, values below 2^-1010 count as
        equal to their neighbours.)

    Raises:
        ParameterError: `values` are not finite, or another argument is out of its range.

    Source: Lloyd. Least squares quantization in PCM. 1982; for weights: Han, Mao, Dally. Deep Compression. ICLR 2016,
    sec. 3. arXiv:1510.00149.
    """
    _check_arguments(k, init, max_iter, seed)
    ordered = _sort(values)
    few = _distinct(ordered, k)
    shift = _headroom(ordered) if len(few) > k else 0
    if shift:
        ends = ordered[0], ordered[-1]
        ordered = np.ldexp(ordered, -shift)
        few = np.clip(np.ldexp(_distinct(ordered, k), shift), *ends)
    if len(few) <= k:
        return few.astype(np.float64) + 0.0  # no negative zero
    data = sorted_values(ordered)
    start = np.unique(INITS[init](data.values, k, seed))
    return np.ldexp(lloyd(data, start, k, max_iter), shift) + 0.0


@denormals_kept()
def quantization_error(values: Array, centroids: Array) -> float:
    """Sum of squared distances from `values` (any shape) to the nearest of `centroids` (k,), in float64.

    Raises:
        ParameterError: there are values, but no centroids.
    """
    flat, levels = _floating(values).ravel(), np.unique(np.asarray(centroids, np.float64))
    if not len(flat):
        return 0.0
    if not len(levels):
        raise ParameterError.of("centroids", "quantization_error", "at least one number", [])
    return squared_error(flat, nearest(levels, flat), levels)


def _check_arguments(k: int, init: str, max_iter: int, seed: int) -> None:
    """The parameters' ranges. Values are checked once they are sorted, which costs nothing then."""
    if not _is_integer(k) or not 1 <= k <= MAX_CENTROIDS:
        raise ParameterError.of("k", "fit_kmeans", f"an integer from 1 to {MAX_CENTROIDS}", k)
    if init not in INITS:
        raise ParameterError.of("init", "fit_kmeans", f"one of {', '.join(map(repr, INITS))}", init)
    if not _is_integer(max_iter) or max_iter < 1:
        raise ParameterError.of("max_iter", "fit_kmeans", "an integer of at least 1", max_iter)
    if not _is_integer(seed) or seed < 0:
        raise ParameterError.of("seed", "fit_kmeans", "an integer of at least 0", seed)


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _floating(values: Array) -> Array:
    """Values as float32 or float64, whichever holds them."""
    values = np.asarray(values)
    if values.dtype.kind not in "fiu":
        raise ParameterError.of("values", "k-means", "real numbers", str(values.dtype))
    return values.astype(np.float32 if values.dtype in (np.float16, np.float32) else np.float64, copy=False)


def _sort(values: Array) -> Array:
    """Finite values, flat and ascending."""
    ordered = ascending(_floating(values))
    if not len(ordered) or (np.isfinite(ordered[0]) and np.isfinite(ordered[-1])):
        return ordered
    nans, infinite = int(np.isnan(ordered).sum()), int(np.isinf(ordered).sum())
    found = f"{nans} NaN and {infinite} infinite among {len(ordered)}"
    raise ParameterError(f"The 'values' parameter of fit_kmeans must be finite. Got {found} instead.")


def _headroom(ordered: Array) -> int:
    """The power of two by which values are divided so that no sum of them overflows."""
    exponent = max(np.frexp(ordered[0])[1], np.frexp(ordered[-1])[1])
    return _HEADROOM if exponent > _NEAR_OVERFLOW else 0


@jit
def _distinct(ordered: Array, k: int) -> Array:
    """The distinct values, or k + 1 of them where there are more than k."""
    found = np.empty(min(k + 1, len(ordered)), ordered.dtype)
    count = 0
    for place in range(len(ordered)):
        if count == len(found) and count > k:
            break
        if place == 0 or ordered[place] != ordered[place - 1]:
            found[count] = ordered[place]
            count += 1
    return found[:count]
