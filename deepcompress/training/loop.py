"""The one training loop. Retraining under masks and finetuning of centroids hook into it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from deepcompress.errors import PipelineError, TrainingError
from deepcompress.training.batches import batches_per_epoch, default_loss, device_of, epoch_batches, own_loss, to_device
from deepcompress.training.history import EpochRecord, History, Tally
from deepcompress.training.pace import Pace, make_optimizer
from deepcompress.training.progress import Report, progress_bar
from deepcompress.training.seeds import flushed_denormals, seeded
from deepcompress.training.settings import TrainSettings
from deepcompress.training.snapshot import Snapshot, modes_kept, restored_on_error

Loss = Callable[[nn.Module, Any], Tensor]
Measure = Callable[[nn.Module], float]
_STEPS_AHEAD = 16  # that a GPU may be given before the loss is looked at


class FitOptions(TypedDict, total=False):
    """What every kind of training takes by keyword.

    Keys:
        loss: (model, batch) -> scalar tensor; by default cross entropy of `model(inputs)` for (inputs, targets).
        validate: model -> float, more is better; called after each epoch in eval mode, without gradients.
        restore_best: end with the weights of the epoch that `validate` likes best, False by default.
        title: what the progress bar and errors call it.
        quiet: no progress bar, False by default; there is none either where standard error is no terminal.
    """

    loss: Loss | None
    validate: Measure | None
    restore_best: bool
    title: str
    quiet: bool


class Hooks:
    """Where a kind of training differs from the plain one, which this is.

    Attributes:
        sparsity: what an epoch's record says of it.
        settled: whether an epoch that ends now may be the one that `restore_best` keeps.
    """

    sparsity: float | None = None
    settled: bool = True

    def parameters(self, model: nn.Module) -> list[Tensor]:
        """What the optimizer moves."""
        return [parameter for parameter in model.parameters() if parameter.requires_grad]

    def others(self) -> Sequence[Tensor]:
        """What the optimizer moves outside of the model."""
        return ()

    def training(self, optimizer: Optimizer) -> AbstractContextManager[object]:
        """Entered before the first step, left after the last."""
        return nullcontext()

    def passing(self) -> AbstractContextManager[object]:
        """Around each forward and backward pass, of which an optimizer may make several in a step, and `validate`."""
        return nullcontext()

    def after_step(self, progress: float) -> None:
        """After each step; progress counts epochs, in fractions as far as their length is known."""

    def after_epoch(self, epoch: int) -> None:
        """After each epoch, counted from 1, before it is validated."""


def fit(
    model: nn.Module,
    train: Iterable[Any] | None,
    settings: TrainSettings,
    *,
    hooks: Hooks | None = None,
    **options: Unpack[FitOptions],
) -> History:
    """Train a model in place.

    Args:
        model: in any mode; it gets its mode back.
        train: batches, iterated anew in each epoch; tensors in them follow the model's device.
        settings: how long and how.
        hooks: what a kind of training does differently.
        options: see FitOptions.

    Returns:
        A record of each epoch.

    Raises:
        PipelineError: no batches, batches that the default loss cannot take, or `restore_best` without `validate`.
        TrainingError: a loss that is not finite, or nothing to train.
        ParameterError: torch refuses an option of the optimizer or of the scheduler.

    After any exception, from the loader or from the user's functions too, the model is as it was before.
    """
    if options.get("restore_best") and options.get("validate") is None:
        raise PipelineError("restore_best chooses by a validation measure: give validate=..., model -> float")
    device = device_of(model)
    with restored_on_error(model), modes_kept(model), seeded(settings.seed, device), flushed_denormals():
        return _Fit(model, settings, hooks or Hooks(), options).run(train)


class _Fit:
    """One run of `fit`."""

    def __init__(self, model: nn.Module, settings: TrainSettings, hooks: Hooks, options: FitOptions) -> None:
        self.model = model
        self.settings = settings
        self.hooks = hooks
        self.loss = options.get("loss")
        self.validate = options.get("validate")
        self.restore_best = options.get("restore_best", False)
        self.title = options.get("title", "train")
        self.quiet = options.get("quiet", False)
        self.device = device_of(model)
        self.parameters = hooks.parameters(model)
        self.best: tuple[float, int, Snapshot] | None = None

    def run(self, train: Iterable[Any] | None) -> History:
        epochs = self.settings.epochs
        self.steps = batches_per_epoch(train) if epochs else None
        self.optimizer = make_optimizer(self.settings, self.parameters)
        self.pace = Pace(self.settings, self.optimizer, self.steps)
        records = []
        with (
            self.hooks.training(self.optimizer),
            progress_bar(self.title, epochs, self.steps, quiet=self.quiet) as report,
        ):
            for epoch in range(1, epochs + 1):
                records.append(self._epoch(epoch, train or (), report))
                self.pace.after_epoch(records[-1])
            if self.best is not None:
                self.best[2].restore()
        kept = self.best[1] if self.best is not None else epochs or None
        return History(tuple(records), kept)

    def _epoch(self, epoch: int, train: Iterable[Any], report: Report) -> EpochRecord:
        start = time.perf_counter()
        tally = Tally(f"{self.title}: epoch {epoch}", 1 if self.device.type == "cpu" else _STEPS_AHEAD)
        self.model.train()
        step, rate = 0, math.nan
        for step, batch in enumerate(epoch_batches(train, epoch), 1):  # noqa: B007 (counted to the end)
            tally.add(*self._step(to_device(batch, self.device)))
            rate = float(self.optimizer.param_groups[0]["lr"])
            self.pace.after_batch()
            self.hooks.after_step(epoch - 1 + (min(step / self.steps, 1.0) if self.steps else 0.0))
            report(epoch, tally)
        tally.settle()
        self.steps = self.steps or step
        self.hooks.after_epoch(epoch)
        validation = self._validate(epoch)
        seconds = time.perf_counter() - start
        return EpochRecord(epoch, tally.loss, tally.accuracy, validation, self.hooks.sparsity, seconds, rate)

    def _step(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """One step of the optimizer. Every optimizer of torch takes a closure; some, as LBFGS, evaluate it often."""
        measured: list[tuple[Tensor, Tensor | None]] = []

        def closure() -> Tensor:
            with torch.enable_grad(), self.hooks.passing():
                measured.append(self._forward_and_backward(batch))
            if self.settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
            return measured[-1][0]

        self.optimizer.step(closure)
        if not measured:
            raise TrainingError(f"{type(self.optimizer).__name__}.step(closure) did not call its closure")
        return measured[0]

    def _forward_and_backward(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        self.optimizer.zero_grad(set_to_none=True)
        hits: Tensor | None = None
        with self._autocast():
            if self.loss is None:
                loss, hits = default_loss(self.model, batch, self.settings.label_smoothing)
            else:
                loss = own_loss(self.loss(self.model, batch))
        loss.backward()
        return loss.detach(), hits

    def _autocast(self) -> AbstractContextManager[object]:
        if self.settings.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _validate(self, epoch: int) -> float | None:
        """The user's measure of the model as it is, which is kept where it is the best one so far."""
        if self.validate is None:
            return None
        self.model.eval()
        with torch.no_grad(), self.hooks.passing():
            measure = float(self.validate(self.model))
        best = self.best[0] if self.best is not None else -math.inf
        if self.restore_best and self.hooks.settled and measure > best:
            self.best = measure, epoch, Snapshot(self.model, self.hooks.others())
        return measure
