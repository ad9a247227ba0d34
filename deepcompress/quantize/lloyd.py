"""Lloyd's algorithm on sorted values: a cluster is a run, cluster i being values[cuts[i]:cuts[i + 1]]."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.jit import inline, jit
from deepcompress.quantize.sums import SortedValues, run_mean

Array = NDArray[Any]
Floats = NDArray[np.float64]
Cuts = NDArray[np.int64]


def lloyd(data: SortedValues, centroids: Floats, k: int, max_iter: int) -> Floats:
    """Assign and average until no value changes its cluster, or `max_iter` times.

    Args:
        data: sorted values, more than k distinct ones.
        centroids: (1 to k,) ascending and distinct, where to start.
        k: how many clusters are wanted.
        max_iter: at least 1.

    Returns:
        The means of k clusters, none empty, ascending and distinct.
    """
    return _passes(data, centroids, k, max_iter)


@jit
def _passes(data: SortedValues, centroids: Floats, k: int, max_iter: int) -> Floats:
    """All passes without Python between them: one costs k binary searches and k short sums, microseconds."""
    cuts = np.zeros(0, np.int64)
    for _ in range(max_iter):
        latest, served = cut_between(data.values, centroids)
        if len(served) < k:
            latest = _fill(data.values, latest, served, k - len(served))
        if _are_equal(latest, cuts):
            break
        cuts = latest
        centroids = means_of(data, cuts)
    return centroids


@inline
def _are_equal(one: Cuts, other: Cuts) -> bool:
    if len(one) != len(other):
        return False
    for place in range(len(one)):  # noqa: SIM110
        if one[place] != other[place]:
            return False
    return True


@jit
def _first_above(values: Array, limit: float, start: int, end: int) -> int:
    """The first place from `start` to `end` whose value is above `limit`."""
    while start < end:
        middle = (start + end) // 2
        if values[middle] > limit:
            end = middle
        else:
            start = middle + 1
    return start


@inline
def _midpoint(lower: float, upper: float) -> float:
    """As `midpoints`: the last number that is no farther from the lower one."""
    total = lower + upper
    added = total - lower
    lost = (lower - (total - added)) + (upper - added)
    middle = total * 0.5
    beyond = middle * 2.0 > total or (middle * 2.0 == total and lost < 0.0)
    return np.nextafter(middle, -np.inf) if beyond else middle


@jit
def cut_between(values: Array, centroids: Floats) -> tuple[Cuts, Floats]:
    """Cut sorted values where the next centroid becomes nearer; the cuts, and the centroids of clusters that got something.

    A limit is as in `midpoints`; that values are far from overflowing has been seen to.
    """
    cuts, served = np.zeros(len(centroids) + 1, np.int64), np.empty(len(centroids))
    count = 0
    for i in range(len(centroids)):
        end = len(values)
        if i + 1 < len(centroids):
            limit = _midpoint(centroids[i], centroids[i + 1])
            end = _first_above(values, limit, cuts[count], len(values))
        if end > cuts[count]:
            served[count] = centroids[i]
            count += 1
            cuts[count] = end
    return cuts[: count + 1], served[:count]


@jit
def means_of(data: SortedValues, cuts: Cuts) -> Floats:
    """The mean of each run between cuts, (k + 1,) strictly ascending."""
    means = np.empty(len(cuts) - 1)
    for cluster in range(len(means)):
        means[cluster] = run_mean(data, cuts[cluster], cuts[cluster + 1])
    return means


@jit
def _fill(values: Array, cuts: Cuts, centroids: Floats, missing: int) -> Cuts:
    """Cut off the `missing` worst-served values, each a different one, as clusters of their own.

    They stand at the ends of the clusters, so that what is left of a cluster is a run as well. Its last value stays; still
    there are enough, as there are more distinct values than clusters.
    """
    starts, ends = cuts[:-1].copy(), cuts[1:].copy()
    distances = _outermost(values, starts, ends, centroids)
    heap = np.empty(len(distances), np.int64)  # each end is worse served than the two below it, at 2 i + 1 and 2 i + 2
    for end in range(len(heap) - 1, -1, -1):
        heap[end] = end
        _sink(heap, distances, end)
    count = 0
    while count < missing and distances[heap[0]] >= 0.0:
        cluster, is_last = heap[0] // 2, heap[0] % 2
        start, end = starts[cluster], ends[cluster]
        if values[start] == values[end - 1]:
            distances[heap[0]] = -1.0
        else:
            if is_last:
                ends[cluster] = _past_equals(values, end - 1, -1) + 1
            else:
                starts[cluster] = _past_equals(values, start, 1)
            outermost = values[ends[cluster] - 1] if is_last else values[starts[cluster]]
            distances[heap[0]] = abs(outermost - centroids[cluster])
            count += 1
        _sink(heap, distances, 0)
    return _with_cut_off(values, cuts, starts, ends, len(cuts) + count)


@jit
def _with_cut_off(values: Array, cuts: Cuts, starts: Cuts, ends: Cuts, count: int) -> Cuts:
    """All cuts, ascending, where each different value outside of starts[i]:ends[i] is a cluster of its own."""
    filled = np.zeros(count, np.int64)
    found = 0
    for cluster in range(len(starts)):
        for start, end in ((cuts[cluster], starts[cluster]), (ends[cluster] - 1, cuts[cluster + 1] - 1)):
            for place in range(start + 1, end + 1):
                if values[place] != values[place - 1]:
                    found += 1
                    filled[found] = place
        found += 1
        filled[found] = cuts[cluster + 1]
    return filled


@jit
def _outermost(values: Array, starts: Cuts, ends: Cuts, centroids: Floats) -> Floats:
    """Distances from the centroid of the first value of each cluster, at 2 i, and of its last one, at 2 i + 1."""
    distances = np.empty(2 * len(centroids))
    for cluster in range(len(centroids)):
        distances[2 * cluster] = abs(values[starts[cluster]] - centroids[cluster])
        distances[2 * cluster + 1] = abs(values[ends[cluster] - 1] - centroids[cluster])
    return distances


@jit
def _sink(heap: Cuts, distances: Floats, top: int) -> None:
    """Let an end sink below the ones that are worse served or, being served as badly, stand further left."""
    sinking = heap[top]
    while 2 * top + 1 < len(heap):
        below = 2 * top + 1
        if below + 1 < len(heap) and _goes_first(heap[below + 1], heap[below], distances):
            below += 1
        if not _goes_first(heap[below], sinking, distances):
            break
        heap[top] = heap[below]
        top = below
    heap[top] = sinking


@inline
def _goes_first(one: int, other: int, distances: Floats) -> bool:
    return distances[one] > distances[other] or (distances[one] == distances[other] and one < other)


@jit
def _past_equals(values: Array, place: int, step: int) -> int:
    """The next place in direction `step` whose value differs, of which there is one."""
    value = values[place]
    while values[place] == value:
        place += step
    return place
