"""How a layer's weights are spread, before and after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepcompress.errors import ParameterError

__all__ = ["Histogram"]

_BINS = 80
_LARGEST = float(np.finfo(np.float64).max)
_TAIL = 5e-4  # beyond these quantiles and a margin, the end bins count: one outlier must not flatten all the others


@dataclass(frozen=True)
class Histogram:
    """Counts of weights per bin.

    Attributes:
        edges: n + 1 ascending values.
        before: n counts, of the weights as they were.
        after: n counts, of the kept weights as the file stores them.

    Raises:
        ParameterError: the lengths do not fit, or the edges do not ascend.
    """

    edges: tuple[float, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("before", "after"):
            if len(getattr(self, name)) != len(self.edges) - 1:
                expected = f"one count fewer than edges ({len(self.edges)})"
                raise ParameterError.of(name, "Histogram", expected, len(getattr(self, name)))
        if any(not low < high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ParameterError.of("edges", "Histogram", "ascending", self.edges)

    @classmethod
    def of(cls, before: ArrayLike, after: ArrayLike, *, bins: int = _BINS) -> Histogram:
        """Count two versions of one layer over the same bins.

        Args:
            before: weights, any shape; values that are not finite are left out.
            after: the weights that take their place, any shape; exact zeros (pruned) are left out.
            bins: how many, at least 1. The outermost also count what lies beyond them.
        """
        if bins < 1:
            raise ParameterError.of("bins", "Histogram.of", "at least 1", bins)
        old, new = _finite(before), _finite(after)
        new = new[new != 0]
        edges = _edges(old if old.size else new, bins)
        return cls(tuple(edges.tolist()), _counts(old, edges), _counts(new, edges))


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    flat = np.asarray(values, np.float64).ravel()
    return flat[np.isfinite(flat)]


def _edges(values: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    if not values.size:
        return np.linspace(-1.0, 1.0, bins + 1)
    values = values / 2  # so that no difference overflows
    low, high = np.quantile(values, (_TAIL, 1 - _TAIL))
    margin = 0.15 * (high - low)
    low, high = max(low - margin, values.min()), min(high + margin, values.max())
    narrowest = 4 * np.spacing(max(abs(low), abs(high)))
    if not (high - low) / bins > narrowest:  # one value, or as good as one
        half = max(abs(low) / 2, 2 * bins * narrowest) if low else 0.5
        low, high = max(low - half, -_LARGEST / 2), min(high + half, _LARGEST / 2)
    edges: NDArray[np.float64] = 2 * np.linspace(low, high, bins + 1)
    return edges


def _counts(values: NDArray[np.float64], edges: NDArray[np.float64]) -> tuple[int, ...]:
    return tuple(np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].tolist())
