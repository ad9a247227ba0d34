"""The one training loop. Retraining under masks and finetuning centroids hook into it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from deepcompress.errors import ParameterError, TrainingError
from deepcompress.training.batches import cross_entropy, device_of, epoch_batches, to_device
from deepcompress.training.history import EpochRecord, History
from deepcompress.training.progress import Report, progress_bar
from deepcompress.training.seeds import flushed_denormals, seeded
from deepcompress.training.settings import TrainSettings

Loss = Callable[[nn.Module, Any], Tensor]
Measure = Callable[[nn.Module], float]


def _nothing(*_: Any) -> None:
    return None


@dataclass
class Hooks:
    """Where a kind of training differs from the plain one.

    Attributes:
        parameters: what the optimizer gets; all that require gradients where None.
        started: called once with the optimizer, before the first step.
        before_step: called with the progress in epochs, before each batch.
        after_backward, after_step: called after each backward pass and each step of the optimizer.
        sparsity: what an epoch's record says of it.
        may_keep: whether the model as it is may be the one that `restore_best` keeps.
    """

    parameters: list[Tensor] | None = None
    started: Callable[[Optimizer], None] = _nothing
    before_step: Callable[[float], None] = _nothing
    after_backward: Callable[[], None] = _nothing
    after_step: Callable[[], None] = _nothing
    sparsity: Callable[[], float | None] = _nothing
    may_keep: Callable[[], bool] = field(default=lambda: True)


def fit(
    model: nn.Module,
    train: Iterable[Any] | None,
    settings: TrainSettings,
    *,
    loss: Loss | None = None,
    validate: Measure | None = None,
    restore_best: bool = False,
    hooks: Hooks | None = None,
    title: str = "train",
    quiet: bool = True,
) -> History:
    """Train a model in place.

    Args:
        model: in any mode; it is trained in train mode and gets its mode back.
        train: batches, iterated once per epoch; their tensors follow the model's device.
        settings: how long and how.
        loss: (model, batch) -> scalar tensor; cross entropy of `model(inputs)` for (inputs, targets) where None.
        validate: model -> float, more is better; called in eval mode, without gradients, after each epoch.
        restore_best: end with the epoch that `validate` liked best.
        hooks: what a kind of training does differently.
        title, quiet: of the progress bar.

    Raises:
        PipelineError: no batches, or batches that the default loss cannot take.
        TrainingError: a loss that is not finite. After this and any other exception the model is as it was before.
        ParameterError: `restore_best` without `validate`.
    """
    if restore_best and validate is None:
        raise ParameterError.of("restore_best", title, "False, unless run(..., validate=...) names the measure", True)
    with _restored_on_error(model), _mode_kept(model), seeded(settings.seed), flushed_denormals():
        return _Fit(model, settings, loss, validate, restore_best, hooks or Hooks()).run(train, title, quiet)


class _Fit:
    """One run of `fit`."""

    def __init__(
        self, model: nn.Module, settings: TrainSettings, loss: Loss | None, validate: Measure | None, restore_best: bool, hooks: Hooks
    ) -> None:
        self.model, self.settings, self.loss = model, settings, loss
        self.validate, self.restore_best, self.hooks = validate, restore_best, hooks
        self.device = device_of(model)
        parameters = hooks.parameters
        self.optimizer = settings.make_optimizer(
            parameters if parameters is not None else [p for p in model.parameters() if p.requires_grad]
        )
        self.best: tuple[float, int, dict[str, Tensor]] | None = None

    def run(self, train: Iterable[Any] | None, title: str, quiet: bool) -> History:
        if not self.settings.epochs:
            return History()
        steps = _length(train)
        self.schedule = _Schedule(self.optimizer, self.settings, steps)
        self.hooks.started(self.optimizer)
        records = []
        with progress_bar(title, steps * self.settings.epochs, quiet=quiet) as report:
            for epoch in range(self.settings.epochs):
                meter = _Meter(title, epoch, steps, report)
                self._epoch(train, meter)
                records.append(self._end_epoch(meter))
        if self.best is None:
            return History(tuple(records), self.settings.epochs)
        self.model.load_state_dict(self.best[2])
        return History(tuple(records), self.best[1])

    def _epoch(self, train: Iterable[Any] | None, meter: _Meter) -> None:
        self.model.train()
        for batch in epoch_batches(train):
            meter.add(*self._step(to_device(batch, self.device), meter.progress))
            self.schedule.after_batch()
        self.schedule.after_epoch()

    def _step(self, batch: Any, progress: float) -> tuple[float, float | None]:
        self.hooks.before_step(progress)
        if isinstance(self.optimizer, LBFGS):
            found: list[tuple[float, float | None]] = []

            def closure() -> float:
                found.append(self._backward(batch))
                return found[-1][0]

            self.optimizer.step(closure)
            value, accuracy = found[0]
        else:
            value, accuracy = self._backward(batch)
            self.optimizer.step()
        self.hooks.after_step()
        return value, accuracy

    def _backward(self, batch: Any) -> tuple[float, float | None]:
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            if self.loss is None:
                loss, accuracy = cross_entropy(self.model, batch, self.settings.label_smoothing)
            else:
                loss, accuracy = self.loss(self.model, batch), None
        loss.backward()  # type: ignore[no-untyped-call]
        self.hooks.after_backward()
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], self.settings.clip_norm)
        return float(loss.detach()), accuracy

    def _autocast(self) -> Any:
        if self.settings.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.settings.autocast))

    def _end_epoch(self, meter: _Meter) -> EpochRecord:
        seconds, validation = meter.seconds, None
        if self.validate is not None:
            self.model.eval()
            with torch.no_grad():
                validation = float(self.validate(self.model))
            if self.restore_best and self.hooks.may_keep() and (self.best is None or validation > self.best[0]):
                self.best = validation, meter.epoch + 1, _copy_of(self.model)
        rate = float(self.optimizer.param_groups[0]["lr"])
        return EpochRecord(meter.epoch + 1, meter.loss, meter.accuracy, validation, self.hooks.sparsity(), seconds, rate)


class _Meter:
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
            raise TrainingError(
                f"{self.title}: the loss is {loss} in epoch {self.epoch + 1}, step {len(self.losses)}; "
                "the model is as it was before; a smaller lr or clip_norm may help"
            )
        if accuracy is not None:
            self.accuracies.append(accuracy)
        self.report(self.epoch * self.steps + len(self.losses), self.loss, self.accuracy)


class _Schedule:
    """The learning rate's scheduler, stepped where it wants to be."""

    def __init__(self, optimizer: Optimizer, settings: TrainSettings, steps: int) -> None:
        self._scheduler, self._per_batch = settings.make_scheduler(optimizer, steps)
        self._left = settings.epochs * steps - 1  # a scheduler made for n steps must not be asked for one more

    def after_batch(self) -> None:
        if self._scheduler is not None and self._per_batch and self._left > 0:
            self._scheduler.step()
            self._left -= 1

    def after_epoch(self) -> None:
        if self._scheduler is not None and not self._per_batch:
            self._scheduler.step()


def _length(train: Iterable[Any] | None) -> int:
    """Batches in an epoch; counted once where the loader does not say."""
    if hasattr(train, "__len__"):
        return max(len(train), 1)
    return max(sum(1 for _ in epoch_batches(train)), 1)


def _copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() if isinstance(value, Tensor) else value for name, value in model.state_dict().items()}


@contextmanager
def _restored_on_error(model: nn.Module) -> Iterator[None]:
    before = _copy_of(model)
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if isinstance(tensor, Tensor):
                    tensor.copy_(before[name])
        model.zero_grad(set_to_none=True)
        raise


@contextmanager
def _mode_kept(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        model.zero_grad(set_to_none=True)
