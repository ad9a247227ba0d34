"""How much a weight matters: a score per weight; the lowest go first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcompress.coding.pool import run
from deepcompress.errors import ModelError
from deepcompress.prune.flat import BLOCK, Flat

Score = Callable[[Tensor], Tensor]

_SMALL_SQUARES = 1e-250  # a variance below may have lost squares that were too small for float64


def magnitude(weight: Tensor) -> Tensor:
    """|w|. Source: Han, Pool, Tran, Dally. Learning both Weights and Connections. NeurIPS 2015. arXiv:1506.02626."""
    return weight.detach()  # the sign is ignored where scores are ranked, so nothing is copied


def filter_norms(weight: Tensor) -> Tensor:
    """The L1 norm of each filter, a slice along dimension 0: shape (filters,), float64; where one would overflow, 2^-64 of all.

    Source: Li, Kadav, Durdanovic, Samet, Graf. Pruning Filters for Efficient ConvNets. ICLR 2017, sec. 3.1.
    arXiv:1608.08710.
    """
    sizes = weight.detach().abs().flatten(1)
    norms = sizes.sum(1, dtype=torch.float64)
    return norms if bool(torch.isfinite(norms).all()) else (sizes * 2.0**-64).sum(1, dtype=torch.float64)


SCORES: dict[str, Score] = {"magnitude": magnitude}


def scores_of(weights: Mapping[str, Tensor], score: str = "magnitude") -> dict[str, Tensor]:
    """The score of each weight, of its tensor's shape; only its magnitude counts."""
    return {name: SCORES[score](weight) for name, weight in weights.items()}


def check_rankable(name: str, weight: Tensor) -> None:
    """Raises ModelError where a weight is NaN."""
    missing = int(torch.isnan(weight.detach()).sum())
    if missing:
        raise ModelError(f"{name!r} holds NaN ({missing} of {weight.numel()} weights), so its weights cannot be ranked")


def standard_deviation(name: str, weight: Tensor) -> float:
    """Population standard deviation (divided by n, as numpy's) over all of a tensor's weights, zeros included, in
    float64.

    Raises:
        ModelError: a weight is infinite or NaN.
    """
    values = Flat([weight])
    if not values.size:
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        mean, variance = _moments(values, 1.0)
        if not math.isfinite(mean):  # where it is finite, all weights are; where not, float64 may have overflowed
            _check_finite(name, weight)
        if values.dtype is np.float32 or _SMALL_SQUARES < variance < math.inf:
            return math.sqrt(variance)
        unit = _unit(values)  # float64 weights beyond 1e125 or so, or below its inverse, whose squares have no place in float64
        return math.sqrt(_moments(values, unit)[1]) / unit


def _moments(values: Flat, unit: float) -> tuple[float, float]:
    """Mean and variance of all values times `unit`."""
    mean = pairwise_sum(values, lambda block: block * unit) / values.size
    return mean, pairwise_sum(values, lambda block: np.square(block * unit - mean)) / values.size


def _unit(values: Flat) -> float:
    """The power of two that brings the largest magnitude to about 1."""
    largest = max(float(np.abs(block).max()) for _, block in values.blocks(0, values.size))
    return math.ldexp(1.0, -min(max(math.frexp(largest)[1], -1000), 1000))


def pairwise_sum(values: Flat, term: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> float:
    """The sum of `term` of all values in float64, the same on any number of threads.

    Halves are summed before they are added, down to blocks that stay in a core's cache. That is numpy's own order of sums, so
    every bit is that of `term(values.astype(float64)).sum()`, without a copy of all values.
    """

    def block_sum(start: int, stop: int) -> float:
        with np.errstate(over="ignore", invalid="ignore"):  # of its own in each thread
            return float(sum(term(block.astype(np.float64)).sum() for _, block in values.blocks(start, stop)))

    sums = iter(run([partial(block_sum, start, stop) for start, stop in _halves(0, values.size)]))

    def combined(count: int) -> float:
        if count <= BLOCK:
            return next(sums)
        left = _left_half(count)
        return combined(left) + combined(count - left)

    return combined(values.size)


def _halves(start: int, stop: int) -> Iterator[tuple[int, int]]:
    if stop - start <= BLOCK:
        yield start, stop
    else:
        middle = start + _left_half(stop - start)
        yield from _halves(start, middle)
        yield from _halves(middle, stop)


def _left_half(count: int) -> int:
    return count // 2 - count // 2 % 8  # as numpy halves


def _check_finite(name: str, weight: Tensor) -> None:
    check_rankable(name, weight)
    if bool(torch.isinf(weight.detach()).any()):
        raise ModelError(f"{name!r} holds infinite weights, so it has no standard deviation")
