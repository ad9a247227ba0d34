"""Levels for weights by what they cost and what they spoil: rate-distortion choice with error compensation, no training.

Every layer has a uniform grid. Weights are taken column by column; of the nearest level, the one below it and zero a weight gets
the one with the least of

    sensitivity x (squared error that remains when the later weights of its row have made up for it) + price x bits

and the later weights make up for it. One price holds for all layers, so that a bit buys as much in each; it also says how fine
each grid is: at a high rate a step is best where its noise, step^2 / 12, changes by what a bit costs.

Source: error compensation: Frantar, Alistarh. Optimal brain compression. NeurIPS 2022. arXiv:2208.11580, and Frantar et al. GPTQ.
ICLR 2023. arXiv:2210.17323; rate-distortion choice: Wiedemann et al. DeepCABAC. 2020. arXiv:1907.11900.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcompress.coding.jit import jit
from deepcompress.coding.pool import share
from deepcompress.errors import ModelError
from deepcompress.quantize.codebooks import STORAGE_TYPES, round_to_type
from deepcompress.quantize.curvature import Curvature, rows_of
from deepcompress.quantize.level_costs import LevelCosts, level_costs
from deepcompress.tensors.elements import dtype_name

Array = NDArray[Any]

_COARSE = 2.0  # a step is coarser than a high rate has it, in squares: many weights are zero all the same, and zeros cost less
_DAMPING = 0.01  # of the mean second moment, added to all: few inputs do not know every direction
_PASSES = 3  # levels cost what those of the pass before say
_CLOSE = 0.002  # of the bits per weight, where the search for the price ends
_TRIES = 24


@dataclass(frozen=True, eq=False)
class RateLevels:
    """What one weight becomes: `levels` int16 of its shape, times `step`, (1,) in a type that the file may store for it (of
    bfloat16, float32 that bfloat16 holds); `bits` of all of them, as reckoned."""

    levels: NDArray[np.int16]
    step: Array
    bits: float


class RateLayer:
    """One weight with its curvature, made ready for any price.

    Args:
        weight: any shape, of a type in STORAGE_TYPES or bfloat16; finite.
        curvature: of the same weight.
        kept: bool of the weight's shape, True = kept; the others are level zero. None: all are kept.
        most: levels on each side of zero.

    Raises:
        ModelError: second moments that are not finite.
    """

    def __init__(self, name: str, weight: Tensor, curvature: Curvature, kept: Tensor | None, most: int) -> None:
        self.shape, self.dtype, self.most = tuple(weight.shape), dtype_name(weight), most
        rows = rows_of(weight.detach().float().cpu())
        self._sensitivity = curvature.sensitivity.cpu().numpy().astype(np.float64)
        self._order, self._factors = _factors(name, curvature.moments, rows.shape[1])
        self._back = np.argsort(self._order, axis=1)
        self._rows = _taken(rows.numpy(), self._order)
        self._kept = np.ones(rows.shape, bool) if kept is None else _taken(rows_of(kept).cpu().numpy(), self._order)
        pivots = self._factors.diagonal(axis1=1, axis2=2)
        self.curvature = float(np.exp(np.mean(np.log(self._sensitivity)) - 2 * np.mean(np.log(pivots))))
        self._largest = float(np.abs(self._rows).max(initial=0.0))

    def energy(self) -> float:
        """What it would spoil to make all weights zero, per weight."""
        return self.curvature * float(np.square(self._rows, dtype=np.float64).mean())

    def step_at(self, price: float) -> Array:
        """The grid's step, (1,), in a type that the file may store; the narrowest that is as good. None is beyond the weights."""
        step = math.sqrt(_COARSE * 6 * price / (math.log(2) * self.curvature))
        step = min(max(step, self._largest / self.most), self._largest)
        types: tuple[str, ...] = ("bfloat16",) if self.dtype == "bfloat16" else STORAGE_TYPES[self.dtype]
        rounded = [round_to_type(np.array([step]), name) for name in types]
        found: Array = next((one for one in rounded if abs(float(one[0]) - step) <= 0.001 * step), rounded[-1])
        return found if found[0] > 0 else np.full(1, np.finfo(found.dtype).tiny)

    def at(self, price: float) -> RateLevels:
        """Levels at this price of a bit."""
        stored = self.step_at(price)
        step = float(stored[0])
        levels = np.clip(np.rint(self._rows / step), -self.most, self.most).astype(np.int16) * self._kept
        for _ in range(_PASSES):
            levels = self._assigned(step, price, self._costs(levels))
        return RateLevels(np.ascontiguousarray(self._in_place(levels)), stored, self._costs(levels).total)

    def _in_place(self, levels: Array) -> Array:
        return _taken(levels, self._back).reshape(self.shape)

    def _costs(self, levels: Array) -> LevelCosts:
        return level_costs(torch.from_numpy(np.abs(self._in_place(levels))), self.most)

    def _assigned(self, step: float, price: float, costs: LevelCosts) -> Array:
        levels: Array = np.zeros(self._rows.shape, np.int16)
        sizes = costs.sizes.numpy().astype(np.float64) * price
        extra = np.broadcast_to((costs.nonzero * price).double().numpy(), self.shape).reshape(levels.shape)
        extra = _taken(extra, self._order)
        in_group = len(levels) // len(self._factors)

        def work(start: int, stop: int) -> None:
            _assign(
                self._rows[start:stop], self._kept[start:stop], self._sensitivity[start:stop], self._factors, start, in_group,
                step, sizes, extra[start:stop], levels[start:stop],
            )  # fmt: skip

        share(len(levels), work, max((1 << 20) // max(levels.shape[1] ** 2, 1), 1))
        return levels


def levels_for_bits(layers: Mapping[str, RateLayer], bits: float) -> tuple[dict[str, RateLevels], float]:
    """Levels that take so many bits per weight in the mean over all layers, at one price.

    Returns:
        name -> levels, and the price of a bit that led there. Where steps cannot be as fine as `bits` asks (a layer has `most`
        levels on each side of zero and no more), all that can be had.
    """
    total = sum(math.prod(layer.shape) for layer in layers.values())
    place = math.log2(max(layer.energy() for layer in layers.values()) or 1.0) - 2 * bits  # logarithm of the price
    low, high = -math.inf, math.inf  # too many bits, too few
    best: tuple[float, dict[str, RateLevels], float] | None = None
    for _ in range(_TRIES):
        found = {name: layer.at(2.0**place) for name, layer in layers.items()}
        excess = sum(one.bits for one in found.values()) / total - bits
        if best is None or abs(excess) < best[0]:
            best = abs(excess), found, 2.0**place
        if abs(excess) <= _CLOSE * bits or high - low < 1e-4:
            break
        low, high = (place, high) if excess > 0 else (low, place)
        step = 2 * excess if abs(excess) < 2 else math.copysign(4.0, excess)  # half a bit for each doubling
        place = place + step if low < place + step < high else (low + high) / 2
    if best is None:
        raise ModelError("there are no weights to choose levels for")
    return best[1], best[2]


def _taken(matrix: Array, order: NDArray[np.int64]) -> Array:
    """Columns of a matrix in an order, (groups, columns), that rows of a group have in common."""
    grouped = matrix.reshape(len(order), -1, matrix.shape[1])
    return np.ascontiguousarray(np.take_along_axis(grouped, order[:, None], 2).reshape(matrix.shape))


def _factors(name: str, moments: Tensor | None, columns: int) -> tuple[NDArray[np.int64], Array]:
    """Per group: the order in which columns are taken, those that weigh most first, and the upper Cholesky factor of the
    inverse of the moments in that order; (groups, columns), (groups, columns, columns) float32."""
    if moments is None:
        return np.arange(columns)[None], np.ones((1, 1, 1), np.float32)
    if not bool(torch.isfinite(moments).all()):
        raise ModelError(f"{name}: what it is multiplied by is NaN or infinite")
    moments = moments.cpu()
    diagonal = moments.diagonal(dim1=1, dim2=2)
    order = torch.argsort(diagonal, dim=1, descending=True, stable=True)
    sorted_rows = torch.take_along_dim(moments, order[:, :, None], 1)
    matrices = torch.take_along_dim(sorted_rows, order[:, None, :], 2)
    damping = _DAMPING * diagonal.mean(1).clamp_min(1e-30)
    while True:
        damped = matrices + torch.diag_embed(damping[:, None].expand(diagonal.shape))
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not bool(failed.any()):
            break
        damping = damping * 10
    upper = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    return order.numpy(), np.ascontiguousarray(upper.float().numpy())


@jit
def _assign(
    rows: Array, kept: Array, sensitivity: Array, factors: Array, first: int, in_group: int, step: float, sizes: Array,
    extra: Array, levels: Array,
) -> None:  # fmt: skip
    """Choose the levels of rows; a factor of one entry stands for the identity.

    rows, kept, extra, levels: (n, columns); sizes: (count + 1,) price x bits of a level's size, extra: more of it, for nonzeros.
    """
    most, columns = len(sizes) - 1, rows.shape[1]
    alone = factors.shape[1] != columns
    left = np.empty(columns, np.float32)
    for row in range(len(rows)):
        factor = factors[0 if alone else (first + row) // in_group]
        left[:] = rows[row]
        for at in range(columns):
            pivot = 1.0 if alone else np.float64(factor[at, at])
            value = np.float64(left[at])
            weight = sensitivity[row] / (pivot * pivot)
            level, least = 0, weight * value * value + sizes[0]
            if kept[row, at]:
                near = min(int(np.floor(abs(value) / step + 0.5)), most)
                for size in range(max(near - 1, 1), near + 1):
                    error = abs(value) - size * step
                    cost = weight * error * error + sizes[size] + extra[row, at]
                    if cost < least:
                        level, least = size, cost
            if value < 0:
                level = -level
            levels[row, at] = level
            if not alone:
                error32 = np.float32((value - level * step) / pivot)
                for later in range(at + 1, columns):
                    left[later] -= error32 * factor[at, later]
