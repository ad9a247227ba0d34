"""Where the centroids of k-means start: one function per way, and the table of them.

Each takes sorted values, (n,) of more than k distinct ones, k, and a seed, and returns up to k centroids in any order;
what is missing, or would serve no value, is placed by k-means itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.jit import jit
from deepcompress.quantize.optimal import optimal

Array = NDArray[Any]
Floats = NDArray[np.float64]
Init = Callable[[Array, int, int], Floats]

_BLOCK = 1024


def linear(ordered: Array, k: int, seed: int) -> Floats:
    """Evenly from the least to the greatest value, both included (Han et al. 2016, sec. 3.2: best for accuracy)."""
    return np.linspace(float(ordered[0]), float(ordered[-1]), k)


def density(ordered: Array, k: int, seed: int) -> Floats:
    """The medians of k runs of equally many values (Han et al. 2016, sec. 3.2)."""
    return ordered[(2 * np.arange(k) + 1) * len(ordered) // (2 * k)].astype(np.float64)


def random(ordered: Array, k: int, seed: int) -> Floats:
    """k distinct values, drawn as often as they occur (Forgy 1965)."""
    rng = np.random.default_rng(seed)
    drawn = np.unique(ordered[rng.choice(len(ordered), k, replace=False, shuffle=False)])
    if len(drawn) < k:  # values that occur often were drawn twice
        others = np.setdiff1d(ordered, drawn)
        drawn = np.concatenate([drawn, rng.choice(others, k - len(drawn), replace=False)])
    return drawn.astype(np.float64)


def kmeans_plus_plus(ordered: Array, k: int, seed: int) -> Floats:
    """Values drawn one by one, each as likely as its squared distance to the nearest drawn before it is large.

    Source: Arthur, Vassilvitskii. k-means++: the advantages of careful seeding. SODA 2007.
    """
    draws = np.random.default_rng(seed).random(k)
    exponent = max(np.frexp(ordered[0])[1], np.frexp(ordered[-1])[1])
    unit = float(np.ldexp(1.0, -int(np.clip(exponent, -1000, 1000))))  # keeps squares from overflowing
    return ordered[_draw_far_apart(ordered, draws, unit)].astype(np.float64)


INITS: dict[str, Init] = {
    "linear": linear,
    "density": density,
    "random": random,
    "kmeans++": kmeans_plus_plus,
    "optimal": optimal,
}


@jit
def _draw_far_apart(ordered: Array, draws: Floats, unit: float) -> NDArray[np.int64]:
    """Places of the drawn values, fewer than asked for once no squared distance is above zero."""
    squares = np.full(len(ordered), np.inf)
    blocks = np.zeros((len(ordered) + _BLOCK - 1) // _BLOCK)
    places = np.empty(len(draws), np.int64)
    place = int(draws[0] * len(ordered))
    for count in range(len(draws)):
        places[count] = place
        _come_near(ordered, place, unit, squares, blocks)
        if count + 1 < len(draws):
            place = _pick(squares, blocks, draws[count + 1])
            if place < 0:
                return places[: count + 1]
    return places


@jit
def _come_near(ordered: Array, place: int, unit: float, squares: Floats, blocks: Floats) -> None:
    """Lower the squared distances of the values that are nearer to a new centroid than to all earlier ones."""
    centroid = np.float64(ordered[place])
    first, last = place, place
    while first >= 0 and _lower(ordered, first, centroid, unit, squares):
        first -= 1
    while last + 1 < len(ordered) and _lower(ordered, last + 1, centroid, unit, squares):
        last += 1
    for block in range((first + 1) // _BLOCK, last // _BLOCK + 1):
        blocks[block] = squares[block * _BLOCK : (block + 1) * _BLOCK].sum()


@jit
def _lower(ordered: Array, place: int, centroid: float, unit: float, squares: Floats) -> bool:
    distance = (np.float64(ordered[place]) - centroid) * unit
    if distance * distance >= squares[place]:
        return False
    squares[place] = distance * distance
    return True


@jit
def _pick(squares: Floats, blocks: Floats, draw: float) -> int:
    """The place where the running sum of squares passes `draw` (0 to 1) of its total, or -1 where all are zero."""
    left = draw * blocks.sum()
    found = -1
    for block in range(len(blocks)):
        if blocks[block] > 0.0:
            found = block
            if left < blocks[block]:
                break
            left -= blocks[block]
    if found < 0:
        return found
    last = -1
    for place in range(found * _BLOCK, min((found + 1) * _BLOCK, len(squares))):
        if squares[place] > 0.0:
            last = place
            left -= squares[place]
            if left < 0.0:
                break
    return last
