"""What an epoch comes to while it runs, and the end of training where that is no number."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from deepcompress.errors import TrainingError
from deepcompress.training.progress import Report


class Meter:
    """Loss, accuracy and time of an epoch so far."""

    def __init__(self, title: str, epoch: int, steps: int, report: Report) -> None:
        self.title, self.epoch, self.steps, self.report = title, epoch, steps, report
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self.loading = self.training = 0.0
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

    def waited_for(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches; the time until each is there counts as loading."""
        start = time.perf_counter()
        for batch in batches:
            self.loading += time.perf_counter() - start
            yield batch
            start = time.perf_counter()
        self.loading += time.perf_counter() - start

    @contextmanager
    def step(self, device: torch.device) -> Iterator[None]:
        """The time in here counts as training, from when the device has done all before to when it has done all within."""
        synchronize(device)
        start = time.perf_counter()
        yield
        synchronize(device)
        self.training += time.perf_counter() - start

    def add(self, loss: float, accuracy: float | None) -> None:
        self.losses.append(loss)
        if not math.isfinite(loss):
            raise lost(self.title, f"the loss is {loss} in epoch {self.epoch + 1}, step {len(self.losses)}")
        if accuracy is not None:
            self.accuracies.append(accuracy)
        self.report(self.epoch * self.steps + len(self.losses), self.loss, self.accuracy)


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given; the CPU always has."""
    if device.type in ("cuda", "xpu"):
        getattr(torch, device.type).synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def lost(title: str, what: str) -> TrainingError:
    """The error for training that came to a value which is no number."""
    return TrainingError(f"{title}: {what}; the model is as it was before; a smaller lr or clip_norm may help")
