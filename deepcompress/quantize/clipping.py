"""From observed values to the range that codes are spread over. One function and one line of the table for each method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepcompress.errors import ParameterError
from deepcompress.quantize.grid import Grid, check_bits
from deepcompress.quantize.observe import Observed

Floats = NDArray[np.float64]

_CANDIDATES = 9  # ends tried on each side of zero in each round
_ROUNDS = 4  # each looks four times as closely as the one before


@dataclass(frozen=True)
class Clipping:
    """How a range is chosen.

    Attributes:
        method: "minmax" (nothing is clipped), "percentile", or "mse" (the least expected squared error).
        bits: of a code, from 2 to 16.
        symmetric: the same range on both sides of zero.
        percentile: of "percentile": values above this percentile, and below 100 minus it, are clipped; with `symmetric`,
            magnitudes above it. In (50, 100].

    Raises:
        ParameterError: a field is out of its range.
    """

    method: str = "minmax"
    bits: int = 8
    symmetric: bool = False
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ParameterError.of("method", "calibrate", f"one of {', '.join(map(repr, METHODS))}", self.method)
        check_bits(self.bits, "calibrate")
        if not isinstance(self.percentile, int | float) or not 50 < self.percentile <= 100:
            raise ParameterError.of("percentile", "calibrate", "a number in (50, 100]", self.percentile)

    def grid(self, observed: Observed) -> Grid:
        """The grid over the chosen range."""
        return METHODS[self.method](observed, self)

    def over(self, low: float, high: float) -> Grid:
        """The grid of these bits over a range."""
        return Grid.over(low, high, bits=self.bits, symmetric=self.symmetric)


def min_max(observed: Observed, clipping: Clipping) -> Grid:
    """Over all values that were observed: no clipping, but one far outlier coarsens every other value."""
    return clipping.over(observed.low, observed.high)


def percentiles(observed: Observed, clipping: Clipping) -> Grid:
    """Over all but the farthest values; a percentile is exact to the width of a bin.

    Source: Krishnamoorthi. Quantizing deep convolutional networks for efficient inference. 2018. arXiv:1806.08342.
    """
    share = clipping.percentile / 100
    if clipping.symmetric:
        bound = quantile(observed.magnitudes, share)
        return clipping.over(-bound, bound)
    return clipping.over(quantile(observed, 1 - share), quantile(observed, share))


def least_squares(observed: Observed, clipping: Clipping) -> Grid:
    """Over the range that leaves the least expected squared error, clipping and rounding together.

    Ends are tried from zero out to what was observed, then ever closer around the best pair. The values of a bin count as
    spread evenly over it, so that the expectation is an integral in closed form, whatever the width of a step.

    Source: Nagel et al. A white paper on neural network quantization. 2021, sec. 3.1. arXiv:2106.08295.
    """
    low, high = min(observed.low, 0.0), max(observed.high, 0.0)
    if clipping.symmetric:
        low = 0.0
        high = max(high, -observed.low)
    best, error = clipping.over(low, high), expected_error(observed, clipping.over(low, high))
    around, width = (low, high), 1.0
    for _ in range(_ROUNDS):
        for low_end in _ends(around[0], low, width):
            for high_end in _ends(around[1], high, width):
                grid = clipping.over(low_end, high_end)
                tried = expected_error(observed, grid)
                if tried < error:
                    best, error, around = grid, tried, (low_end, high_end)
        width /= 4
    return best


METHODS: dict[str, Callable[[Observed, Clipping], Grid]] = {
    "minmax": min_max,
    "percentile": percentiles,
    "mse": least_squares,
}


def quantile(observed: Observed, share: float) -> float:
    """The value below which this share of the observed values lies, in [0, 1]; exact to the width of a bin."""
    edges, counts = observed.bins()
    below = np.concatenate([[0], np.cumsum(counts)])
    value = np.interp(share * observed.total, below, edges)
    return float(min(max(value, observed.low), observed.high))


def expected_error(observed: Observed, grid: Grid) -> float:
    """The mean squared distance between the observed values and the nearest value on the grid.

    Zeros have none; other values count as spread evenly over their bin, cut to what was observed.
    """
    places, counts = observed.bins()
    edges = np.clip(places, observed.low, observed.high) / grid.scale
    if observed.zeros:
        counts[np.searchsorted(places, 0.0, side="right") - 1] -= observed.zeros
    ends = (grid.lowest - grid.zero_point, grid.highest - grid.zero_point)
    widths = np.diff(edges)
    with np.errstate(over="ignore", invalid="ignore"):  # a range that is 1e200 times too short has an infinite error
        points = _squared(edges[:-1], *ends)  # of bins that hold one value
        means = np.divide(np.diff(_integral(edges, *ends)), widths, out=points, where=widths > 0)
        return float((counts * means).sum() / observed.total) * grid.scale * grid.scale


def _integral(places: Floats, lowest: int, highest: int) -> Floats:
    """The integral of the squared error from 0 to each place, all in steps of the grid."""
    inside = np.clip(places, lowest, highest)
    steps = np.round(inside)
    return np.asarray(steps / 12 + (inside - steps) ** 3 / 3 + (places - inside) ** 3 / 3)


def _squared(places: Floats, lowest: int, highest: int) -> Floats:
    return np.asarray((places - np.round(np.clip(places, lowest, highest))) ** 2)


def _ends(around: float, farthest: float, width: float) -> Floats:
    """Ends of a range to try: between 0 and the farthest, within a share of it around one of them."""
    if not farthest:
        return np.zeros(1)
    centre = around / farthest
    shares = np.linspace(centre - width, centre + width, 2 * _CANDIDATES - 1)
    return np.unique(shares.clip(0, 1)) * farthest
