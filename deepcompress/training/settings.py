"""How to train: numbers and names, so that a configuration can hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR

from deepcompress.errors import ParameterError

MakeOptimizer = Callable[[Iterable[Any]], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler]

SCHEDULERS = ("constant", "cosine", "onecycle", "multistep")
_PER_BATCH = ("cosine", "onecycle")


@dataclass(frozen=True)
class TrainSettings:
    """How long, how fast and by which optimizer.

    Attributes:
        epochs: passes over the training batches, at least 0.
        lr: learning rate, at its highest where a scheduler changes it.
        optimizer: name of a class of torch.optim, or parameters -> Optimizer (which then has its own lr). Adam by default, which
            needs no tuning for the few epochs after pruning.
        optimizer_options: its keyword arguments besides lr, such as {"momentum": 0.9}.
        scheduler: "constant", "cosine" (to 0, step by step), "onecycle" (warm-up, then cosine), "multistep" (options: milestones
            in epochs, gamma), another class name of torch.optim.lr_scheduler (stepped once an epoch), or optimizer -> LRScheduler.
        scheduler_options: its keyword arguments.
        autocast: None for the model's own precision, or "bfloat16" or "float16" for mixed precision.
        label_smoothing: of the default loss, in [0, 1).
        clip_norm: largest norm of the gradient, None for no clipping.
        seed: of every random generator while training, None to leave them alone.

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

    def __post_init__(self) -> None:
        owner = type(self).__name__
        if isinstance(self.epochs, bool) or not isinstance(self.epochs, int) or self.epochs < 0:
            raise ParameterError.of("epochs", owner, "an int of at least 0", self.epochs)
        if not isinstance(self.lr, Real) or not 0 < self.lr < float("inf"):
            raise ParameterError.of("lr", owner, "a number above 0", self.lr)
        if not callable(self.optimizer) and not _is_class(torch.optim, self.optimizer, Optimizer):
            raise ParameterError.of("optimizer", owner, "the name of a class of torch.optim, or a callable", self.optimizer)
        known = self.scheduler in SCHEDULERS or callable(self.scheduler)
        if not known and not _is_class(torch.optim.lr_scheduler, self.scheduler, LRScheduler):
            expected = f"one of {', '.join(SCHEDULERS)}, the name of a class of torch.optim.lr_scheduler, or a callable"
            raise ParameterError.of("scheduler", owner, expected, self.scheduler)
        if self.autocast not in (None, "bfloat16", "float16"):
            raise ParameterError.of("autocast", owner, "None, 'bfloat16' or 'float16'", self.autocast)
        if not 0 <= self.label_smoothing < 1:
            raise ParameterError.of("label_smoothing", owner, "a number in [0, 1)", self.label_smoothing)
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ParameterError.of("clip_norm", owner, "None or a number above 0", self.clip_norm)

    def make_optimizer(self, parameters: Iterable[Any]) -> Optimizer:
        """The optimizer over these parameters. Raises ParameterError where it does not take its options."""
        if callable(self.optimizer):
            return self.optimizer(parameters)
        try:
            optimizer: Optimizer = getattr(torch.optim, self.optimizer)(parameters, lr=self.lr, **self.optimizer_options)
        except TypeError as error:
            raise ParameterError(f"optimizer {self.optimizer}: {error}") from None
        return optimizer

    def make_scheduler(self, optimizer: Optimizer, steps_per_epoch: int) -> tuple[LRScheduler | None, bool]:
        """The scheduler, and whether it steps after each batch (else after each epoch)."""
        options, total = dict(self.scheduler_options), max(self.epochs * steps_per_epoch, 1)
        if callable(self.scheduler):
            return self.scheduler(optimizer), False
        try:
            if self.scheduler == "constant":
                return None, False
            if self.scheduler == "cosine":
                return CosineAnnealingLR(optimizer, **{"T_max": total, **options}), True
            if self.scheduler == "onecycle":
                return OneCycleLR(optimizer, self.lr, **{"total_steps": max(total, 2), "cycle_momentum": False, **options}), True
            if self.scheduler == "multistep":
                return MultiStepLR(optimizer, **options), False
            return getattr(torch.optim.lr_scheduler, self.scheduler)(optimizer, **options), False
        except TypeError as error:
            raise ParameterError(f"scheduler {self.scheduler}: {error}") from None


def _is_class(module: Any, name: str, base: type) -> bool:
    found = getattr(module, name, None) if isinstance(name, str) else None
    return isinstance(found, type) and issubclass(found, base) and found is not base
