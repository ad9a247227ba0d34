"""Optimal one-dimensional k-means: of all ways to cut sorted values into k runs, the one of least squared error.

Dynamic programming over every place of every cut costs k n log n. Our own bounds, exact as well, spare nearly all of it:

    values   ....|....|....|....|....|....|....|....|....      | edges of cells
    cut j              ~~~~~~~~~~~                             ~ its window, the places where it may still be

A good clustering bounds the least error from above. From below: if cut j lies in a cell, then a cluster between two cells
costs at least what the values strictly between them cost, so that dynamic programming over cells, without the cells cut,
from the left and from the right, bounds every clustering whose cut j lies there. Where that is above the upper bound, no
optimal cut lies. Windows narrow, cells inside them are made smaller, and at last every place in the windows is tried.
Where bounds do not narrow, windows stay wide, and the result is the same.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.quantize.lloyd import cut_between, lloyd, means_of
from deepcompress.quantize.moments import best_before, moments
from deepcompress.quantize.sums import SortedValues, sorted_values

Array = NDArray[Any]
Floats = NDArray[np.float64]
Cuts = NDArray[np.int64]
Ranges = NDArray[np.int64]  # (k + 1, 2): the first and the last column, of a table of moments, where each cut may be

_CELLS = 2048  # of the first round, over all clusters
_FINER = 4  # cells of the next round for one of this
_BOUNDS = 1 << 26  # cells for all cuts together, beyond which bounds would take too much memory
_PICKS = 1 << 24  # likewise places whose best predecessors are remembered at a time
_SLACK = 1e-9  # of the upper bound, for rounding
_PASSES = 30  # of Lloyd's algorithm to better an upper bound


def optimal(ordered: Array, k: int, seed: int) -> Floats:
    """The means of the optimal k clusters, in time k n log n at most and k + n / 30 log n or so where bounds narrow.

    Errors of runs are exact to 2^-75 of their sums of squares; clusterings that differ by less are equally good.

    Args:
        ordered: ascending, (n,) of more than k distinct values.

    Source: Wang, Song. Ckmeans.1d.dp. The R Journal 3/2, 2011, for dynamic programming; Grønlund et al. 2017, arXiv:1701.07204,
    for n log n per cluster; Hirschberg 1975 for its memory. The bounds are our own.
    """
    data, table = sorted_values(ordered), moments(ordered)
    start = np.linspace(float(ordered[0]), float(ordered[-1]), k)
    windows = _everywhere(len(ordered), k)
    cells = max(_CELLS // k, 8)
    while k > 1 and 2 * cells * k < len(ordered) and cells * k * k <= _BOUNDS:
        cuts = _cuts(data, lloyd(data, np.unique(start), k, _PASSES))
        edges = _edges(cuts, windows, cells)
        tops = np.append(edges[1:] - 1, len(ordered))  # a cell is all places from its edge to its top
        lower, upper, ranges = table[:, edges], table[:, tops], np.searchsorted(edges, windows)
        found = edges[_solve(lower, ranges)]
        start = means_of(data, np.unique(found))
        most = min(_error(table, cuts), _error(table, found)) * (1 + _SLACK)
        ranges = _narrowed(lower, upper, ranges, most)
        windows = np.stack([edges[ranges[:, 0]], tops[ranges[:, 1]]], axis=1)
        cells *= _FINER
    return means_of(data, np.unique(_solve(table, windows)))


def _everywhere(count: int, k: int) -> Ranges:
    """All places that leave no cluster empty."""
    windows: Ranges = np.arange(k + 1)[:, None] + np.array([0, count - k])
    windows[0], windows[k] = 0, count
    return windows


def _cuts(data: SortedValues, centroids: Floats) -> Cuts:
    cuts, _ = cut_between(data.values, centroids)
    return cuts


def _edges(cuts: Cuts, windows: Ranges, cells: int) -> Cuts:
    """Edges of cells, so many per cluster: small where clusters are, whose errors are about alike. Windows are whole cells."""
    even = cuts[:-1, None] + np.diff(cuts)[:, None] * np.arange(cells) // cells
    beyond = np.minimum(windows[:, 1] + 1, cuts[-1])
    return np.unique(np.concatenate([even.ravel(), windows.ravel(), beyond]))


def _error(table: Floats, cuts: Cuts) -> float:
    least, _ = _chain(table, np.stack([cuts, cuts], axis=1))
    return float(least[0])


def _chain(table: Floats, ranges: Ranges, sign: int = 1) -> tuple[Floats, list[Cuts]]:
    """The least errors up to each place of the last range, and, range by range, the best places in the one before.

    Backward, ranges in descending order and sign = -1, they are the errors of what lies beyond.
    """
    least, picks = np.zeros(ranges[0, 1] + 1 - ranges[0, 0]), []
    for (first, last), (following, end) in pairwise(ranges.tolist()):
        least, pick = best_before(least, sign * table[:, first : last + 1], sign * table[:, following : end + 1])
        picks.append(pick)
    return least, picks


def _solve(table: Floats, ranges: Ranges) -> Cuts:
    """The columns of the best cuts, one from each range; those of the first and the last range are single.

    Where remembering the best predecessor of each place would take too much memory, the cut in the middle is found first, by
    errors from both sides, and then those on each side of it.
    """
    cuts = ranges[:, 0].copy()
    parts = [(0, len(ranges) - 1)]
    while parts:
        left, right = parts.pop()
        inside = np.clip(ranges[left : right + 1], cuts[left], cuts[right])
        inside[0], inside[-1] = cuts[left], cuts[right]
        if (inside[:, 1] + 1 - inside[:, 0]).sum() <= _PICKS:
            cuts[left : right + 1] = _traced(table, inside)
        elif right - left > 1:
            half = (right - left) // 2
            before, _ = _chain(table, inside[: half + 1])
            beyond, _ = _chain(table, inside[half:][::-1], -1)
            cuts[left + half] = inside[half, 0] + np.argmin(before + beyond)
            parts += [(left, left + half), (left + half, right)]
    return cuts


def _traced(table: Floats, ranges: Ranges) -> Cuts:
    _, picks = _chain(table, ranges)
    column, cuts = 0, [int(ranges[-1, 0])]
    for pick, first in zip(reversed(picks), ranges[-2::-1, 0].tolist(), strict=True):
        column = int(pick[column])
        cuts.append(first + column)
    return np.maximum.accumulate(cuts[::-1])


def _narrowed(lower: Floats, upper: Floats, ranges: Ranges, most: float) -> Ranges:
    """Ranges of cells without those at their ends where any clustering has a larger error than `most`.

    Args:
        lower, upper: moments of the first and of the last place of each cell.
    """
    before = _bounds(upper, lower, ranges, 1)
    beyond = _bounds(lower, upper, ranges[::-1], -1)[::-1]
    found = ranges.copy()
    for cut in range(1, len(ranges) - 1):
        cells = np.flatnonzero(before[cut] + beyond[cut] <= most)
        if len(cells):
            found[cut] = ranges[cut, 0] + cells[[0, -1]]
    found[:, 0] = np.maximum.accumulate(found[:, 0])
    found[:, 1] = np.minimum.accumulate(found[::-1, 1])[::-1]
    return found


def _bounds(near: Floats, far: Floats, ranges: Ranges, sign: int) -> list[Floats]:
    """For each cell of each cut, the least error of all clusters before it, values in the cells of their cuts left out."""
    bounds = [np.zeros(1)]
    for (first, last), (following, end) in pairwise(ranges.tolist()):
        least, _ = best_before(bounds[-1], sign * near[:, first : last + 1], sign * far[:, following : end + 1])
        bounds.append(least)
    return bounds
