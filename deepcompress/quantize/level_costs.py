"""How many bits the coder is reckoned to take for the levels of a weight, before there is a file."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_PRIOR = 8.0  # weights that a row's density counts as known beforehand
_LEAST = 1e-4  # density that is told apart from none


@dataclass(frozen=True, eq=False)
class LevelCosts:
    """What the levels of one weight cost.

    Attributes:
        sizes: (count + 1,) bits of a level by its size: by how often it occurs in the weight, with a bit for the sign.
        rows, columns: bits that a level other than zero costs more in a row (rows, 1, ...) or column (1, columns, ...) of the
            weight, which are sparser or denser than the whole; a column is what belongs to one input.
        total: bits of all levels.
    """

    sizes: Tensor
    rows: Tensor
    columns: Tensor
    total: float

    @property
    def nonzero(self) -> Tensor:
        """Bits that a level other than zero costs more by its place, of a shape that the weight's broadcasts with."""
        return self.rows + self.columns


def level_costs(sizes: Tensor, count: int) -> LevelCosts:
    """Costs from the levels there are.

    Args:
        sizes: of the levels, how far they are from zero: the weight's shape, 0 to `count`.
        count: levels on each side of zero.
    """
    counts = torch.bincount(sizes.flatten().long(), minlength=count + 1).float()
    costs = torch.log2(counts.sum().clamp_min(1) / counts.clamp_min(0.5))
    costs[1:] += 1  # the sign
    total = float((costs * counts).sum())
    rows, columns, difference = _by_rows_and_columns(sizes != 0)
    return LevelCosts(costs, rows, columns, total + difference)


def _by_rows_and_columns(nonzero: Tensor) -> tuple[Tensor, Tensor, float]:
    """How many bits more a nonzero costs than the whole's density says, by its row's and column's; and what that saves in all."""
    if nonzero.ndim < 2 or not nonzero.numel():
        none = torch.zeros((), device=nonzero.device)
        return none, none, 0.0
    filled = nonzero.float()
    density = filled.mean().clamp(_LEAST, 1 - _LEAST)
    kernel = filled.flatten(2).shape[2] if filled.ndim > 2 else 1
    counts = filled.flatten(2).sum(2) if filled.ndim > 2 else filled
    rows = (counts.sum(1) + _PRIOR * density) / (counts.shape[1] * kernel + _PRIOR)
    columns = (counts.sum(0) + _PRIOR * density) / (counts.shape[0] * kernel + _PRIOR)
    ends = (1,) * (filled.ndim - 2)
    by_row = _logit(rows).view(-1, 1, *ends) - _logit(density)
    by_column = _logit(columns).view(1, -1, *ends) - _logit(density)
    chance = torch.sigmoid(by_row + by_column + _logit(density)).clamp(1e-5, 1 - 1e-5)
    foreseen = torch.where(nonzero, torch.log2(chance), torch.log2(1 - chance)).sum()
    flat = filled.sum() * torch.log2(density) + (1 - filled).sum() * torch.log2(1 - density)
    return -by_row / math.log(2), -by_column / math.log(2), float(flat - foreseen)


def _logit(share: Tensor) -> Tensor:
    return torch.logit(share.clamp(_LEAST, 1 - _LEAST))
