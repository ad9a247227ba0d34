"""From settings to a live optimizer and to the learning rate's way through the training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from deepcompress.errors import ParameterError, PipelineError, TrainingError
from deepcompress.training.history import EpochRecord
from deepcompress.training.settings import SCHEDULERS, TrainSettings, class_in


def make_optimizer(settings: TrainSettings, parameters: Sequence[Tensor]) -> Optimizer:
    """The optimizer over these parameters.

    Raises:
        TrainingError: there are no parameters.
        ParameterError: an option's value is refused, or the user's callable makes something else.
    """
    if not parameters:
        raise TrainingError("there is nothing to train: no parameter of the model requires gradients")
    if not isinstance(settings.optimizer, str):
        optimizer = settings.optimizer(parameters)
    else:
        decay = {} if settings.weight_decay is None else {"weight_decay": settings.weight_decay}
        options = {"lr": settings.lr, **decay, **settings.optimizer_options}
        optimizer = _make(torch.optim, settings.optimizer, parameters, options)
    if not isinstance(optimizer, Optimizer):
        raise ParameterError.of("optimizer", "TrainSettings", "a callable that returns a torch Optimizer", optimizer)
    return optimizer


class Pace:
    """Moves the scheduler, if there is one, after each batch or after each epoch.

    Args:
        settings: which scheduler, and what it spans.
        optimizer: its learning rates are what "onecycle" climbs to.
        steps: batches in an epoch; where that is unknown (None) the named schedules move with the epochs.
    """

    def __init__(self, settings: TrainSettings, optimizer: Optimizer, steps: int | None) -> None:
        unit = settings.scheduler_unit or _usual_unit(settings.scheduler, steps)
        self._left = settings.epochs * (steps or 1 if unit == "batch" else 1)
        self._scheduler = _make_scheduler(settings, optimizer, self._left)
        per_batch = isinstance(self._scheduler, (OneCycleLR, CyclicLR)) and callable(settings.scheduler)
        self._per_batch = unit == "batch" or (per_batch and settings.scheduler_unit is None)
        self._bounded = isinstance(settings.scheduler, str) and steps is not None

    def after_batch(self) -> None:
        if self._scheduler is not None and self._per_batch:
            self._left -= 1
            if self._left > 0 or not self._bounded:  # a loader may give more than it said; schedules end where they end
                self._scheduler.step()

    def after_epoch(self, record: EpochRecord) -> None:
        if self._scheduler is None or self._per_batch:
            return
        if not isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step()
        elif self._scheduler.mode == "min":
            self._scheduler.step(record.loss)
        elif record.validation is None:
            raise PipelineError("ReduceLROnPlateau with mode='max' follows the validation measure: give validate=...")
        else:
            self._scheduler.step(record.validation)


def _usual_unit(scheduler: Any, steps: int | None) -> str:
    named = SCHEDULERS.get(scheduler, ("", "epoch"))[1] if isinstance(scheduler, str) else "epoch"
    return named if steps is not None else "epoch"


def _make_scheduler(settings: TrainSettings, optimizer: Optimizer, total: int) -> LRScheduler | None:
    if settings.scheduler == "constant" or not settings.epochs:
        return None
    if not isinstance(settings.scheduler, str):
        made = settings.scheduler(optimizer)
        if not isinstance(made, LRScheduler):
            raise ParameterError.of("scheduler", "TrainSettings", "a callable that returns a torch LRScheduler", made)
        return made
    name = SCHEDULERS.get(settings.scheduler, (settings.scheduler,))[0]
    options = {**_spans(name, optimizer, total), **settings.scheduler_options}
    scheduler: LRScheduler = _make(torch.optim.lr_scheduler, name, optimizer, options)
    return scheduler


def _spans(name: str, optimizer: Optimizer, total: int) -> dict[str, Any]:
    """What these schedules need to know of the training."""
    if name == "CosineAnnealingLR":
        return {"T_max": total}
    if name == "MultiStepLR":
        return {"milestones": [total // 2, total * 3 // 4]}
    if name == "OneCycleLR":
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        return {"max_lr": rates, "total_steps": max(total, 2), "cycle_momentum": False}
    return {}


def _make(module: Any, name: str, first: Any, options: dict[str, Any]) -> Any:
    known = class_in(module, name, object)
    if known is None:  # the settings were checked with another torch
        raise ParameterError(f"torch has no {name}")
    try:
        return known(first, **options)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise ParameterError(f"torch refuses {name}({given}): {error}") from error
