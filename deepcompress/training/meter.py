"""What an epoch comes to while it runs, and the end of training where that is no number."""

from __future__ import annotations

import math
import time

from deepcompress.errors import TrainingError
from deepcompress.training.progress import Report


class Meter:
    """Loss and accuracy of an epoch so far."""

    def __init__(self, title: str, epoch: int, steps: int, report: Report) -> None:
        self.title, self.epoch, self.steps, self.report = title, epoch, steps, report
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self._start = time.perf_counter()

    @property
    def progress(self) -> float:
        """In epochs since training began."""
        return self.epoch + min(len(self.losses) / self.steps, 1.0)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    @property
    def loss(self) -> float:
        return sum(self.losses) / len(self.losses)

    @property
    def accuracy(self) -> float | None:
        return sum(self.accuracies) / len(self.accuracies) if self.accuracies else None

    def add(self, loss: float, accuracy: float | None) -> None:
        self.losses.append(loss)
        if not math.isfinite(loss):
            raise lost(self.title, f"the loss is {loss} in epoch {self.epoch + 1}, step {len(self.losses)}")
        if accuracy is not None:
            self.accuracies.append(accuracy)
        self.report(self.epoch * self.steps + len(self.losses), self.loss, self.accuracy)


def lost(title: str, what: str) -> TrainingError:
    """The error for training that came to a value which is no number."""
    return TrainingError(f"{title}: {what}; the model is as it was before; a smaller lr or clip_norm may help")
