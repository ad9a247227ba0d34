"""How much a weight matters: a score per weight; the lowest go first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcompress.errors import ModelError

Score = Callable[[Tensor], Tensor]


def magnitude(weight: Tensor) -> Tensor:
    """|w|. Source: Han, Pool, Tran, Dally. Learning both Weights and Connections. NeurIPS 2015. arXiv:1506.02626."""
    return weight.detach().abs()


def filter_norms(weight: Tensor) -> Tensor:
    """The L1 norm of each filter, a slice along dimension 0: shape (filters,), float64.

    Source: Li, Kadav, Durdanovic, Samet, Graf. Pruning Filters for Efficient ConvNets. ICLR 2017, sec. 3.1.
    arXiv:1608.08710.
    """
    return weight.detach().abs().flatten(1).sum(1, dtype=torch.float64)


SCORES: dict[str, Score] = {"magnitude": magnitude}


def scores_of(name: str, weight: Tensor, score: str = "magnitude") -> NDArray[Any]:
    """The scores of one tensor, flat, as float32 or float64: whichever holds them exactly.

    Raises:
        ModelError: the weights hold NaN, which has no rank.
    """
    check_rankable(name, weight)
    scores = SCORES[score](weight).flatten()
    wide = scores if scores.dtype == torch.float64 else scores.float()
    return wide.cpu().numpy()


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
    check_rankable(name, weight)
    values = weight.detach().double().cpu().numpy()
    if not np.isfinite(values).all():
        raise ModelError(f"{name!r} holds infinite weights, so it has no standard deviation")
    return float(values.std()) if values.size else 0.0
