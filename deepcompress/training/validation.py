"""The user's measure, and the epoch that it liked best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from deepcompress.training.snapshot import Snapshot

Measure = Callable[[nn.Module], float]


class Validation:
    """The user's measure after each epoch, and the epoch that it liked best."""

    def __init__(self, model: nn.Module, validate: Measure | None, keep_best: bool, may_keep: Callable[[], bool]) -> None:
        self._model, self._validate, self._keep_best, self._may_keep = model, validate, keep_best, may_keep
        self._highest = -math.inf
        self._best: tuple[int, Snapshot] | None = None

    def __call__(self, epoch: int) -> float | None:
        if self._validate is None:
            return None
        self._model.eval()
        with torch.no_grad():
            value = float(self._validate(self._model))
        better = value > self._highest or (self._best is None and not math.isnan(value))
        if self._keep_best and self._may_keep() and better:
            self._highest, self._best = value, (epoch, Snapshot(self._model))
        return value

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far, and its values."""
        best = None if self._best is None else (self._best[0], self._best[1].values())
        return {"highest": self._highest, "best": best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them for the best again."""
        self._highest, best = state["highest"], state["best"]
        self._best = None if best is None else (best[0], Snapshot(self._model).take(best[1]))

    def restore(self) -> int | None:
        """Back to the best epoch, whose number it gives; None where no epoch was kept."""
        if self._best is None:
            return None
        self._best[1].restore()
        return self._best[0]
