"""From centroids to what a file stores: the narrowest type that serves the values as well."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.denormals import denormals_kept
from deepcompress.errors import ParameterError
from deepcompress.quantize.kmeans import fit_kmeans, quantization_error
from deepcompress.tensors.codebook import Codebook, nearest
from deepcompress.tensors.elements import bfloat16_to_float32, round_to_bfloat16

Array = NDArray[Any]

# A tensor's own type -> the types in which its centroids may be stored, narrowest first.
STORAGE_TYPES = {
    "float16": ("float16",),
    "bfloat16": ("bfloat16",),
    "float32": ("float16", "float32"),
    "float64": ("float16", "float32", "float64"),
}
TOLERATED_GROWTH = 1e-3  # of the squared error; 0.05 % of the RMSE

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 5e-324}  # above zero
LARGEST = {"bfloat16": float.fromhex("0x1.fep127")} | {
    name: float(np.finfo(name).max) for name in ("float16", "float32", "float64")
}


@denormals_kept()
def fit_codebook(
    values: Array,
    k: int,
    *,
    init: str = "linear",
    max_iter: int = 300,
    seed: int = 0,
    dtype: str = "auto",
    own: str | None = None,
) -> Codebook:
    """Cluster scalar weights around at most `k` shared values, as they will be stored.

    Args:
        values, k, init, max_iter, seed: see `fit_kmeans`.
        dtype, own: see `round_centroids`.

    Returns:
        Codebook of at most `k` centroids. Those that rounding makes equal are one; one that becomes zero is left out, and
        `share_values` makes zeros of its weights.

    Raises:
        ParameterError: see `fit_kmeans` and `round_centroids`.
    """
    centroids = fit_kmeans(values, k, init=init, max_iter=max_iter, seed=seed)
    levels = round_centroids(values, centroids, dtype=dtype, own=own)
    return Codebook(levels[levels != 0])


@denormals_kept()
def round_centroids(values: Array, centroids: NDArray[np.float64], *, dtype: str = "auto", own: str | None = None) -> Array:
    """Round the centroids of `values` to the type in which they will be stored.

    Args:
        values: any shape, finite; those of a bfloat16 tensor as float32.
        centroids: (k,) ascending and distinct.
        dtype: "auto" is the narrowest type of `STORAGE_TYPES[own]` in which all centroids stay finite, distinct and as
            nonzero as in the tensor's own, and which lets the squared error grow by at most 0.1 %: where that is zero,
            not at all. A narrower type by name is taken if the centroids are finite in it. Otherwise it is the tensor's own.
        own: the tensor's type, by default that of `values`.

    Returns:
        Ascending distinct levels, at most k, zero perhaps among them; of bfloat16, float32 that bfloat16 holds exactly.

    Raises:
        ParameterError: an unknown type, or a narrower one that is not in `STORAGE_TYPES[own]`.
    """
    own = own or np.asarray(values).dtype.name
    narrower = _narrower(own, dtype)
    exact = round_to_type(np.clip(centroids, -LARGEST[own], LARGEST[own]), own)
    for name in narrower:
        narrow = round_to_type(centroids, name)
        if np.isfinite(narrow).all() and (dtype == name or _serves_as_well(values, narrow, exact)):
            return distinct(narrow)
    return distinct(exact)


@denormals_kept()
def share_values(values: Array, levels: Array) -> tuple[Codebook, NDArray[Any]]:
    """Give each value its nearest level, as a symbol: 0 stands for zero, s for centroid s - 1.

    Args:
        values: any shape, finite.
        levels: ascending and distinct, (k,), as `round_centroids` returns them, or a codebook's centroids.

    Returns:
        The codebook of the levels other than zero, and symbols of the values' shape, smallest unsigned type. There are
        zeros among the symbols only if zero is among the levels.

    Raises:
        ParameterError: there are values, but no levels.
    """
    values, kept = np.asarray(values), levels != 0
    codebook = Codebook(levels[kept])
    symbols = np.where(kept, np.cumsum(kept), 0).astype(np.min_scalar_type(codebook.k))
    if len(levels) == codebook.k:
        return codebook, symbols[codebook.assign(values)]
    return codebook, symbols[nearest(levels, values)]


def round_to_type(centroids: NDArray[np.float64], name: str) -> Array:
    """Round to the nearest numbers of a type of `STORAGE_TYPES`, infinite beyond its largest; float32 carries bfloat16."""
    with np.errstate(over="ignore", under="ignore"):
        if name == "bfloat16":
            return bfloat16_to_float32(round_to_bfloat16(centroids.astype(np.float32)))
        return centroids.astype(name)


def distinct(values: Array) -> Array:
    """The values, flat, ascending, each once. Not by a sort of float16: numpy 2.4 gets it wrong on processors with AVX-512."""
    return np.unique(values.astype(np.float32)).astype(np.float16) if values.dtype == np.float16 else np.unique(values)


def _narrower(own: str, dtype: str) -> tuple[str, ...]:
    """The types to try before the tensor's own."""
    if own not in STORAGE_TYPES:
        raise ParameterError.of("own", "round_centroids", f"one of {', '.join(map(repr, STORAGE_TYPES))}", own)
    narrower = STORAGE_TYPES[own][:-1]
    if dtype == "auto":
        return narrower
    if dtype in narrower:
        return (dtype,)
    if dtype not in _BYTES or _BYTES[dtype] < _BYTES[own]:
        expected = f"one of {', '.join(map(repr, ('auto', *STORAGE_TYPES[own])))} for a tensor of {own}"
        raise ParameterError.of("dtype", "round_centroids", expected, dtype)
    return ()


def _serves_as_well(values: Array, narrow: Array, exact: Array) -> bool:
    """Whether narrower centroids serve the values as well as those in the tensor's own type."""
    if len(distinct(narrow)) < len(distinct(exact)) or np.any((narrow == 0) & (exact != 0)):
        return False
    if np.array_equal(narrow.astype(np.float64), exact.astype(np.float64)):
        return True
    error = quantization_error(values, exact)
    return 0 < error < np.inf and quantization_error(values, narrow) <= error * (1 + TOLERATED_GROWTH)
