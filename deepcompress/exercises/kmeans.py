"""K-means in one dimension: weights that share values.

Write `kmeans(values, centroids)`: Lloyd's algorithm from the given centroids, until no value changes its cluster. Each pass gives
every value the index of the nearest centroid, the first one where two are equally near, and then moves every centroid to the mean
of its values. A centroid without values stays where it is. The answer is (indices, centroids): an index for each value, and the
centroids in the order in which they were given.

    kmeans(np.array([0.0, 1.0, 9.0, 11.0]), np.array([0.0, 5.0]))    gives ([0, 0, 1, 1], [0.5, 10.0])

Source: Lloyd. Least squares quantization in PCM. 1982; Han, Mao, Dally. Deep Compression. ICLR 2016, sec. 3.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.exercises.answers import array, integers, is_close, parts
from deepcompress.exercises.exercise import Case, WrongAnswerError
from deepcompress.exercises.show import shown

STARTER = '''\
import numpy as np


def kmeans(values: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices (n,) and centroids (k,) of Lloyd's algorithm, started from `centroids`."""
    raise NotImplementedError
'''

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

_PASSES = 1000  # more than any case takes


def cases() -> list[Case]:
    """The hidden cases."""
    return [_case(name, np.asarray(values, np.float64), np.asarray(start, np.float64)) for name, values, start in _given()]


def _given() -> Iterator[tuple[str, Any, Any]]:
    rng = np.random.default_rng(1982)
    yield "two groups", [0, 1, 9, 11], [0, 5]
    yield "centroids that are right already", [1, 2, 3, 10, 11, 12], [2, 11]
    yield "several passes", [1, 2, 3, 4, 5, 6, 20, 21, 22], [1, 2]
    weights = rng.normal(0, 0.1, 400)
    yield "a layer's weights, centroids evenly spread", weights, np.linspace(weights.min(), weights.max(), 8)
    yield "values not in order", [30, 1, 29, 2, 31, 3], [0, 40]
    yield "centroids not in order", [1, 2, 3, 10, 11, 12, 20, 21], [20, 1, 10]
    yield "values half-way between two centroids", [0, 2, 4, 6, 8], [0, 4, 8]
    yield "half-way, the first one being the greater", [0, 2, 4, 6, 8], [8, 4, 0]
    yield "a centroid without values", [1, 2, 3, 4], [1.5, 3.5, 100]
    yield "a centroid that loses its values", [0, 1, 4, 4.5, 5, 5.5, 6, 8], [0, 3, 5]
    yield "two equal centroids", [1, 2, 3, 7, 8, 9], [2, 2, 8]
    yield "one centroid", rng.normal(5, 1, 20), [0]
    yield "more centroids than values", [1, 5], [0, 4, 9, 12]
    yield "one value, many times", [0.25] * 6, [0, 1]
    heavy = rng.standard_t(2, 300)
    yield "outliers, and centroids drawn from the values", heavy, rng.choice(heavy, 16, replace=False)


def _case(name: str, values: Floats, start: Floats) -> Case:
    return Case(name, "kmeans", {"values": values, "centroids": start}, partial(_check, values, start))


def _lloyd(values: Floats, start: Floats, passes: int = _PASSES) -> tuple[Indices, Floats]:
    """What is asked for, from SciPy, whose missing="warn" leaves a centroid without values where it is."""
    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings(action="ignore"):
        centroids, indices = kmeans2(values, start, iter=passes, minit="matrix", missing="warn")
    return indices.astype(np.int64), centroids


def _check(values: Floats, start: Floats, answer: Any) -> None:
    indices, centroids = parts(answer, "indices", "centroids")
    expected = _lloyd(values, start)
    found = array(centroids, "the centroids as numbers")
    if array(indices, "the indices as integers").shape != values.shape and found.shape == values.shape:
        raise WrongAnswerError(shown(expected), shown(answer), "the indices come first, then the centroids")
    places = integers(indices, "the indices as integers")
    if found.shape != start.shape or not is_close(found, expected[1]) or not np.array_equal(places, expected[0]):
        raise WrongAnswerError(shown(expected), shown(answer), _hint(values, start, places, found))


def _hint(values: Floats, start: Floats, indices: Indices, centroids: Floats) -> str:
    """The likely mistake, by laws that the answer breaks, and by what other rules would have given."""
    right = _lloyd(values, start)
    if centroids.shape != start.shape:
        return f"{len(start)} centroids were given, and as many are asked for: one without values stays where it is"
    if not np.isfinite(centroids).all():
        return "the mean of no values is nan: a centroid without values stays where it is"
    if indices.shape != values.shape:
        return "each value has one index"
    if is_close(centroids, np.sort(right[1])):
        return "the centroids were sorted; they keep the order in which they were given"
    if is_close(centroids, _lloyd(values, start[::-1])[1][::-1]):
        return "of two equally near centroids the first one is meant"
    if _emptied(start, right, centroids):
        return "a centroid without values stays where it is: here it was moved"
    return _hint_from_passes(values, start, indices, centroids)


def _emptied(start: Floats, right: tuple[Indices, Floats], centroids: Floats) -> bool:
    """Whether a centroid that ends without values, and should have stayed, was moved."""
    alone = ~np.isin(np.arange(len(start)), right[0])
    return bool(alone.any() and not is_close(centroids[alone], right[1][alone]))


def _hint_from_passes(values: Floats, start: Floats, indices: Indices, centroids: Floats) -> str:
    """Mistakes about what a pass is, and when to stop."""
    if is_close(centroids, start):
        return "the centroids were not moved at all"
    if is_close(centroids, _lloyd(values, start, 1)[1]):
        return "this is a single pass; go on until no value changes its cluster"
    served = np.unique(indices[(indices >= 0) & (indices < len(start))])
    if is_close(centroids[served], [np.median(values[indices == place]) for place in served]):
        return "a centroid is the mean of its values, not their median"
    nearest, moved = _lloyd(values, centroids, 1)
    if not np.array_equal(nearest, indices):
        return "a value is nearer to another centroid of the answer: indices and centroids are of different passes"
    if not is_close(moved, centroids):
        return "another pass still moves the centroids: stopped too early, or they are not the means of their values"
    return "every value is at its nearest centroid, but the way from the given centroids leads elsewhere"
