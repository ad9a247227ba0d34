"""Lloyd's algorithm on sorted values: a cluster is a run, cluster i being values[cuts[i]:cuts[i + 1]]."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.jit import jit
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
        latest, served = _cut(data.values, centroids)
        if len(served) < k:
            latest = _fill(data.values, latest, served, k - len(served))
        if len(latest) == len(cuts) and (latest == cuts).all():
            break
        cuts = latest
        centroids = _means(data, cuts)
    return centroids


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


@jit
def _cut(values: Array, centroids: Floats) -> tuple[Cuts, Floats]:
    """Cut sorted values where the next centroid becomes nearer; the cuts, and the centroids of clusters that got something.

    A limit is as in `midpoints`; that values are far from overflowing has been seen to.
    """
    cuts, served = np.zeros(len(centroids) + 1, np.int64), np.empty(len(centroids))
    count = 0
    for i in range(len(centroids)):
        end = len(values)
        if i + 1 < len(centroids):
            middle = (centroids[i] + centroids[i + 1]) * 0.5
            limit = middle if middle < centroids[i + 1] else centroids[i]
            end = _first_above(values, limit, cuts[count], len(values))
        if end > cuts[count]:
            served[count] = centroids[i]
            count += 1
            cuts[count] = end
    return cuts[: count + 1], served[:count]


@jit
def _means(data: SortedValues, cuts: Cuts) -> Floats:
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
    heap = _outermost(values, starts, ends, centroids)
    filled = np.empty(len(cuts) + missing, np.int64)
    filled[: len(cuts)] = cuts
    count = len(cuts)
    while count < len(filled) and len(heap):
        _, cluster, side = heapq.heappop(heap)
        start, end = starts[cluster], ends[cluster]
        if values[start] == values[end - 1]:
            continue
        if side < 0:
            starts[cluster] = filled[count] = _past_equals(values, start, 1)
        else:
            ends[cluster] = filled[count] = _past_equals(values, end - 1, -1) + 1
        count += 1
        next_value = values[starts[cluster]] if side < 0 else values[ends[cluster] - 1]
        heapq.heappush(heap, (-abs(next_value - centroids[cluster]), cluster, side))
    filled = filled[:count]
    filled.sort()
    return filled


@jit
def _outermost(values: Array, starts: Cuts, ends: Cuts, centroids: Floats) -> list[tuple[float, int, int]]:
    """A heap of (minus the distance to the centroid, cluster, side) of the first and the last value of each cluster."""
    heap = [(-abs(values[starts[0]] - centroids[0]), 0, -1)]
    for cluster in range(len(centroids)):
        if cluster:
            heap.append((-abs(values[starts[cluster]] - centroids[cluster]), cluster, -1))
        heap.append((-abs(values[ends[cluster] - 1] - centroids[cluster]), cluster, 1))
    heapq.heapify(heap)
    return heap


@jit
def _past_equals(values: Array, place: int, step: int) -> int:
    """The next place in direction `step` whose value differs, of which there is one."""
    value = values[place]
    while values[place] == value:
        place += step
    return place
