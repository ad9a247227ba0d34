"""What is measured while training: step by step, and as a record of each epoch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from deepcompress.errors import TrainingError


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Attributes:
        epoch: from 1.
        loss: mean over the epoch's batches.
        accuracy: share of the epoch's targets that were met; None under a loss of the user's own.
        validation: the user's measure after the epoch; None without one.
        sparsity: zeros over all weights under masks; None without masks.
        seconds: of training and validation.
        lr: learning rate of the last step, of the optimizer's first group.
    """

    epoch: int
    loss: float
    accuracy: float | None
    validation: float | None
    sparsity: float | None
    seconds: float
    lr: float


@dataclass(frozen=True)
class History:
    """All epochs, and the number of the one whose weights the model has now; None without any."""

    epochs: tuple[EpochRecord, ...] = ()
    kept: int | None = None

    def as_dicts(self) -> list[dict[str, Any]]:
        """The epochs as JSON data."""
        return [asdict(record) for record in self.epochs]


class Tally:
    """Loss and accuracy of an epoch so far.

    A number is fetched from a GPU only every few steps, for each fetch waits until the device has caught up.

    Args:
        place: the epoch, as an error names it.
        every: steps between two fetches.
    """

    def __init__(self, place: str, every: int = 1) -> None:
        self._place = place
        self._every = every
        self._pending: list[Tensor] = []
        self._steps = 0
        self._loss = self._right = self._counted = 0.0

    def add(self, loss: Tensor, hits: Tensor | None) -> None:
        """Count a step: its loss, 0-d, and (right, counted) targets, shape (2,), or None.

        Raises:
            TrainingError: a loss is not finite, this one or one of the few before it.
        """
        hits = loss.new_zeros(2) if hits is None else hits
        self._pending.append(torch.cat((loss.reshape(1).float(), hits.float())))
        if len(self._pending) >= self._every:
            self.settle()

    def settle(self) -> None:
        """Fetch what is still on the device. Raises as `add`."""
        pending, self._pending = self._pending, []
        for loss, right, counted in torch.stack(pending).tolist() if pending else ():
            self._steps += 1
            if not math.isfinite(loss):
                raise TrainingError(f"{self._place}, step {self._steps}: the loss is {loss}; a smaller lr may help")
            self._loss += loss
            self._right += right
            self._counted += counted

    @property
    def loss(self) -> float:
        return self._loss / self._steps if self._steps else math.nan

    @property
    def accuracy(self) -> float | None:
        return self._right / self._counted if self._counted else None
