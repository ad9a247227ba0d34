"""How to train: numbers and names, so that a configuration can hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from deepcompress.errors import ParameterError
from deepcompress.prune.ranking import is_within
from deepcompress.training.rates import SHORT_NAMES, Rate, Span, is_class, is_known, named_scheduler

MakeOptimizer = Callable[[Iterable[Any]], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler]


@dataclass(frozen=True)
class TrainSettings:
    """How long, how fast and by which optimizer.

    Attributes:
        epochs: passes over the training batches, at least 0.
        lr: learning rate, at its highest where a scheduler changes it.
        optimizer: name of a class of torch.optim, or parameters -> Optimizer (which then has its own lr). Adam by default, which
            needs no tuning for the few epochs after pruning.
        optimizer_options: its keyword arguments besides lr, such as {"momentum": 0.9}.
        scheduler: "constant", "cosine" (to 0, step by step), "onecycle" (warm-up, then cosine), "multistep" (gamma, milestones
            in epochs, at a half and three quarters by default), another class name of torch.optim.lr_scheduler, or optimizer ->
            LRScheduler. ReduceLROnPlateau looks at the mean loss.
        scheduler_options: its keyword arguments. Of "SequentialLR" and "ChainedScheduler", `schedulers` are mappings themselves,
            so that a configuration holds a warm-up: {"schedulers": [{"scheduler": "LinearLR", "total_iters": 5},
            {"scheduler": "CosineAnnealingLR", "T_max": 45}], "milestones": [5]}.
        autocast: None for the model's own precision, or "bfloat16" for mixed precision.
        label_smoothing: of the default loss, in [0, 1).
        clip_norm: largest norm of the gradient, None for no clipping.
        seed: of every random generator while training, None to leave them alone.
        scheduler_per: "batch" or "epoch": when a scheduler by its class or a callable is stepped. Where None, OneCycleLR and
            CyclicLR by name are stepped after each batch, the others after each epoch.
        frozen_statistics: True: batch norms use the running statistics that they have, and leave them as they are: for inputs
            that are few, or made up.

    Raises:
        ParameterError: a value out of its range or an unknown name.
    """

    epochs: int = 10
    lr: float = 1e-3
    optimizer: str | MakeOptimizer = "Adam"
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    scheduler: str | MakeScheduler = "constant"
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    autocast: str | None = None
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    seed: int | None = 0
    scheduler_per: str | None = None
    frozen_statistics: bool = False

    def __post_init__(self) -> None:
        self._check_numbers()
        expected = "the name of a class of torch.optim, or a callable"
        self._require("optimizer", callable(self.optimizer) or is_class(torch.optim, self.optimizer, Optimizer), expected)
        expected = f"one of {', '.join(SHORT_NAMES)}, the name of a class of torch.optim.lr_scheduler, or a callable"
        self._require("scheduler", callable(self.scheduler) or is_known(self.scheduler), expected)
        free = self.scheduler not in SHORT_NAMES
        expected = "None, 'batch' or 'epoch'" if free else f"None for the scheduler {self.scheduler!r}"
        self._require("scheduler_per", self.scheduler_per in (None, "batch", "epoch")[: 3 if free else 1], expected)
        for name in ("optimizer_options", "scheduler_options"):
            self._require(name, isinstance(getattr(self, name), Mapping), "a mapping of keyword arguments")
        self._require("frozen_statistics", isinstance(self.frozen_statistics, bool), "True or False")
        self._require("autocast", self.autocast in (None, "bfloat16"), "None or 'bfloat16'")

    def _check_numbers(self) -> None:
        infinite = float("inf")
        self._require("epochs", _is_count(self.epochs, infinite), "an int of at least 0")
        self._require("lr", is_within(self.lr, 0, infinite) and self.lr > 0, "a number above 0")
        smooths = is_within(self.label_smoothing, 0, 1) and self.label_smoothing < 1
        self._require("label_smoothing", smooths, "a number in [0, 1)")
        clips = self.clip_norm is None or (is_within(self.clip_norm, 0, infinite) and self.clip_norm > 0)
        self._require("clip_norm", clips, "None or a number above 0")
        self._require("seed", self.seed is None or _is_count(self.seed, 2**63 - 1), "None or an int from 0 to 2**63 - 1")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ParameterError.of(name, type(self).__name__, expected, getattr(self, name))

    def make_optimizer(self, parameters: Iterable[Any]) -> Optimizer:
        """The optimizer over these parameters. Raises ParameterError where it does not take its options."""
        if callable(self.optimizer):
            return self.optimizer(parameters)
        try:
            optimizer: Optimizer = getattr(torch.optim, self.optimizer)(parameters, lr=self.lr, **self.optimizer_options)
        except (TypeError, ValueError) as error:
            raise ParameterError(f"optimizer {self.optimizer}: {error}") from None
        return optimizer

    def make_rate(self, optimizer: Optimizer, steps_per_epoch: int) -> Rate:
        """The learning rate over time, for the loop to step.

        Raises:
            ParameterError: the scheduler does not take its options.
        """
        name = "" if callable(self.scheduler) else self.scheduler
        per_batch = None if self.scheduler_per is None else self.scheduler_per == "batch"
        return Rate(self._scheduler(optimizer, steps_per_epoch), per_batch, name, self.epochs * steps_per_epoch)

    def _scheduler(self, optimizer: Optimizer, steps: int) -> LRScheduler | None:
        if callable(self.scheduler):
            return self.scheduler(optimizer)
        try:
            return named_scheduler(optimizer, self.scheduler, self.scheduler_options, Span(self.lr, self.epochs, steps))
        except (TypeError, ValueError) as error:
            raise ParameterError(f"scheduler {self.scheduler}: {error}") from None


def _is_count(value: object, most: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
