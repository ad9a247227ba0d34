"""How many bits each layer gets where nothing is trained: one price for all, counted from what each width costs and loses.

A layer's noise is the squared error of its weights over their squares. For inputs that know nothing of the weights this is what
its rounding adds to the noise of the network's answer, layer after layer: the sum over the layers is what is held to a limit.

Source: Shoham, Gersho. Efficient bit allocation for an arbitrary set of quantizers. IEEE Trans. ASSP 36, 1988.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from torch import Tensor

from deepcompress.coding.denormals import denormals_kept
from deepcompress.coding.entropy import entropy
from deepcompress.coding.pool import run
from deepcompress.coding.streams import count_symbols
from deepcompress.pipeline.stages.chosen import finite_values
from deepcompress.quantize.gridding import GridKind, share_levels
from deepcompress.tensors.elements import dtype_name

__all__ = ["Width", "allocate", "noise_of", "widths_of"]

_WIDTHS = range(2, 17)


@dataclass(frozen=True)
class Width:
    """A layer in so many bits.

    Attributes:
        bits: of a fixed-width index.
        cost: bits of all its weights at the entropy of their levels.
        noise: squared error / squares of the weights.
    """

    bits: int
    cost: float
    noise: float


@denormals_kept()
def widths_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[Width, ...]]:
    """Weight name -> the widths worth having: each costs more, loses less, and has less for its bits than the one before.

    Raises:
        ModelError: weights that are NaN or infinite.
    """
    found = run([partial(_hull_of, name, weight) for name, weight in weights.items()])
    return dict(zip(weights, found, strict=True))


def allocate(widths: Mapping[str, tuple[Width, ...]], noise: float) -> dict[str, Width]:
    """The fewest bits in all whose noise, summed over the layers, is at most `noise`; where that cannot be, the least noise.

    Bits are spent where they save the most, so that less noise never takes bits from any layer.
    """
    chosen = {name: steps[0] for name, steps in widths.items()}
    steps = [(_slope(low, high), name, high) for name, hull in widths.items() for low, high in pairwise(hull)]
    steps.sort(key=lambda step: -step[0])  # of one layer, in order: a hull's slopes fall
    for _, name, width in steps:
        if noise_of(chosen.values()) <= noise:
            break
        chosen[name] = width
    return chosen


def noise_of(chosen: Iterable[Width]) -> float:
    """The sum over the layers."""
    return sum(width.noise for width in chosen)


def _hull_of(name: str, weight: Tensor) -> tuple[Width, ...]:
    values, dtype = finite_values(name, weight, "a grid"), dtype_name(weight)
    power = float(np.square(values, dtype=np.float64).mean())
    found = []
    for bits in _WIDTHS:
        gridded = share_levels(values, dtype, GridKind(bits))
        cost = entropy(count_symbols(gridded.symbols.reshape(-1))) * values.size
        found.append(Width(bits, cost, gridded.error**2 / power if power else 0.0))
    return tuple(_hull(found))


def _hull(widths: list[Width]) -> list[Width]:
    """The lower convex hull, from the cheapest on: from each to the one that saves most noise for its bits."""
    hull = [min(widths, key=lambda width: (width.cost, width.noise))]
    while further := [width for width in widths if width.noise < hull[-1].noise and width.cost > hull[-1].cost]:
        hull.append(max(further, key=lambda width: (_slope(hull[-1], width), width.cost)))
    return hull


def _slope(low: Width, high: Width) -> float:
    """Noise saved per bit."""
    return (low.noise - high.noise) / (high.cost - low.cost)
