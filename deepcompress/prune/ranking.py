"""Which of many scores are the lowest: checked shares, exact counts, and the same answer everywhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_within(value: Any, low: float, high: float) -> bool:
    """Whether this is a finite number in [low, high]; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    return bool(low <= value <= high) and math.isfinite(value)


def pruned_count(share: float, total: int) -> int:
    """round-half-even(share x total): how many of `total` go."""
    return round(share * total)


def keep_highest(scores: NDArray[Any], count: int, kept: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Drop the `count` lowest scores.

    Args:
        scores: shape (n,), no NaN.
        count: 0 <= count <= n, of all n, dropped earlier or now.
        kept: shape (n,); what is False here was dropped earlier and is the first to go. It never returns, even where
            that makes more than `count`.

    Returns:
        bool, shape (n,), True = kept. Among equal scores the lower index is dropped first.
    """
    result = np.ones(scores.shape, np.bool_) if kept is None else kept.copy()
    drop = count - int(result.size - np.count_nonzero(result))
    if drop <= 0:
        return result
    alive = scores if kept is None else scores[kept]
    stays = _without_lowest(alive, drop)
    result[result] = stays
    return result


def _without_lowest(scores: NDArray[Any], drop: int) -> NDArray[np.bool_]:
    """A threshold by partial sorting, then the ties at it by index: far cheaper than a stable sort of all."""
    if drop == scores.size:
        return np.zeros(scores.shape, np.bool_)
    threshold = np.partition(scores, drop - 1)[drop - 1]
    stays = scores > threshold
    ties = np.flatnonzero(scores == threshold)
    below = scores.size - int(np.count_nonzero(stays)) - ties.size
    stays[ties[drop - below :]] = True
    return np.asarray(stays)
