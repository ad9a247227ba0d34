"""How to train, in numbers and names, so that a configuration can hold it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from deepcompress.errors import ParameterError

MakeOptimizer = Callable[[Iterable[Any]], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler]

# What a scheduler's name means: the class, and whether it moves once a batch or once an epoch.
SCHEDULERS = {
    "cosine": ("CosineAnnealingLR", "batch"),
    "onecycle": ("OneCycleLR", "batch"),
    "multistep": ("MultiStepLR", "epoch"),
    "OneCycleLR": ("OneCycleLR", "batch"),
    "CyclicLR": ("CyclicLR", "batch"),
}
_FRIENDLY = ("constant", "cosine", "onecycle", "multistep")


@dataclass(frozen=True)
class TrainSettings:
    """How long, how fast and by which optimizer.

    Attributes:
        epochs: passes over the training batches, at least 0.
        lr: learning rate, the highest one where a scheduler changes it. An optimizer made by a callable has its own.
        optimizer: name of a class in torch.optim, or parameters -> Optimizer. Adam, which at 1e-3 recovers a LeNet as
            well as a ResNet without tuning; SGD with momentum and a schedule may end higher after long training.
        optimizer_options: its keyword arguments besides lr and weight_decay, such as {"momentum": 0.9}.
        weight_decay: None leaves the optimizer its own default.
        scheduler: "constant"; "cosine" (down to 0) and "onecycle" (up to lr, then down), both moving with every batch;
            "multistep" (a tenth after half and after three quarters of the epochs); the name of a class in
            torch.optim.lr_scheduler; or optimizer -> LRScheduler.
        scheduler_options: its keyword arguments. Lengths that are not given span the training.
        scheduler_unit: "batch" or "epoch", after which the scheduler moves; None for what is usual for its kind.
        autocast: "bfloat16" (or True) for mixed precision, None (or False) for the model's own.
        label_smoothing: of the default loss, in [0, 1).
        clip_norm: largest norm of the gradient, None for no clipping.
        seed: of Python's, numpy's and torch's generators while training; None leaves them alone.

    Raises:
        ParameterError: a value is out of its range, a name unknown, or an option is none of its optimizer's.
    """

    epochs: int = 10
    lr: float = 1e-3
    optimizer: str | MakeOptimizer = "Adam"
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    weight_decay: float | None = None
    scheduler: str | MakeScheduler = "constant"
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    scheduler_unit: str | None = None
    autocast: bool | str | None = None
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    seed: int | None = 0

    def __post_init__(self) -> None:
        if isinstance(self.autocast, bool):
            object.__setattr__(self, "autocast", "bfloat16" if self.autocast else None)
        for name, (holds, expected) in _RANGES.items():
            if not holds(getattr(self, name)):
                raise ParameterError.of(name, type(self).__name__, expected, getattr(self, name))
        self._check_optimizer()
        self._check_scheduler()

    def _check_optimizer(self) -> None:
        owner = type(self).__name__
        if "lr" in self.optimizer_options or "weight_decay" in self.optimizer_options:
            expected = "without 'lr' and 'weight_decay', which are parameters of their own"
            raise ParameterError.of("optimizer_options", owner, expected, dict(self.optimizer_options))
        if isinstance(self.optimizer, str):
            known = class_in(torch.optim, self.optimizer, Optimizer)
            if known is None:
                expected = "the name of a class in torch.optim, or a callable"
                raise ParameterError.of("optimizer", owner, expected, self.optimizer)
            _check_options("optimizer_options", owner, known, self.optimizer_options)
        elif self.optimizer_options or self.weight_decay is not None:
            raise ParameterError(f"{owner}: a callable optimizer takes neither optimizer_options nor weight_decay")

    def _check_scheduler(self) -> None:
        owner = type(self).__name__
        if not isinstance(self.scheduler, str) or self.scheduler == "constant":
            if self.scheduler_options:
                raise ParameterError(f"{owner}: a constant or callable scheduler takes no scheduler_options")
            return
        known = class_in(torch.optim.lr_scheduler, SCHEDULERS.get(self.scheduler, (self.scheduler,))[0], LRScheduler)
        if known is None:
            friendly = ", ".join(map(repr, _FRIENDLY))
            expected = f"one of {friendly}, the name of a class in torch.optim.lr_scheduler, or a callable"
            raise ParameterError.of("scheduler", owner, expected, self.scheduler)
        _check_options("scheduler_options", owner, known, self.scheduler_options)


def class_in(module: Any, name: str, base: type) -> type[Any] | None:
    """The subclass of `base` that a module has under this name."""
    found = getattr(module, name, None)
    return found if isinstance(found, type) and issubclass(found, base) and found is not base else None


def _check_options(parameter: str, owner: str, known: type, options: Mapping[str, Any]) -> None:
    names = list(inspect.signature(known).parameters)[1:]  # the first one is ours to give
    if not isinstance(options, Mapping) or any(name not in names for name in options):
        raise ParameterError.of(parameter, owner, f"a mapping of what {known.__name__} takes ({', '.join(names)})", options)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "epochs": (lambda value: _is_int(value) and value >= 0, "an int of at least 0"),
    "lr": (lambda value: _is_number(value) and value > 0, "a finite number above 0"),
    "optimizer": (
        lambda value: isinstance(value, str) or callable(value),
        "the name of a class in torch.optim, or a callable",
    ),
    "optimizer_options": (lambda value: isinstance(value, Mapping), "a mapping"),
    "weight_decay": (
        lambda value: value is None or (_is_number(value) and value >= 0),
        "None or a finite number of at least 0",
    ),
    "scheduler": (lambda value: isinstance(value, str) or callable(value), "a name or a callable"),
    "scheduler_options": (lambda value: isinstance(value, Mapping), "a mapping"),
    "scheduler_unit": (lambda value: value in (None, "batch", "epoch"), "None, 'batch' or 'epoch'"),
    "autocast": (lambda value: value in (None, "bfloat16"), "None, 'bfloat16' or a bool"),
    "label_smoothing": (lambda value: _is_number(value) and 0 <= value < 1, "a number in [0, 1)"),
    "clip_norm": (lambda value: value is None or (_is_number(value) and value > 0), "None or a finite number above 0"),
    "seed": (lambda value: value is None or (_is_int(value) and 0 <= value < 2**32), "None or an int in [0, 2**32)"),
}
