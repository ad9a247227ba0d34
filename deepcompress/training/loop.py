"""The one training loop. Retraining under masks and finetuning centroids hook into it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from deepcompress.errors import ParameterError, PipelineError
from deepcompress.training.batches import cross_entropy, device_of, epoch_batches, epoch_length, to_device
from deepcompress.training.checkpoint import Checkpoint, Generators, Keeper, LoaderState, Part, Values, described
from deepcompress.training.distributed import notice_of_equal_batches, tell_epoch, unwrapped
from deepcompress.training.group import NO_BATCH, Group, current_group, tensors_of
from deepcompress.training.history import EpochRecord, History, Records
from deepcompress.training.meter import Meter, lost
from deepcompress.training.progress import progress_bar
from deepcompress.training.rates import Rate
from deepcompress.training.seeds import flushed_denormals, seeded
from deepcompress.training.settings import TrainSettings
from deepcompress.training.snapshot import mode_kept, restored_on_error
from deepcompress.training.trace import Trace, fitted_trace
from deepcompress.training.validation import Measure, Validation

Loss = Callable[[nn.Module, Any], Tensor]
AfterEpoch = Callable[[EpochRecord], None]

_LOGGER = logging.getLogger(__name__)


def _nothing(*_: Any) -> None:
    return None


@dataclass
class Hooks:
    """Where a kind of training differs from the plain one.

    Attributes:
        parameters: what the optimizer gets; all that require gradients where None.
        session: optimizer -> context that training takes place in; an error inside of it leaves the model as it was before.
        look: called with the progress in epochs, before each batch and at the end of each epoch.
        after_backward: called after each backward pass.
        after_step: called when the optimizer has changed the parameters: after its step, and before each evaluation of the
            loss that it asks for within one (LBFGS asks for many).
        sparsity: what an epoch's record says of it.
        may_keep: whether the model as it is may be the one that `restore_best` keeps.
        state: what a checkpoint keeps of it.
        title: of the progress bar, in logs and in errors.
    """

    parameters: list[Tensor] | None = None
    session: Callable[[Optimizer], AbstractContextManager[Any]] = field(default=lambda optimizer: nullcontext())
    look: Callable[[float], None] = _nothing
    after_backward: Callable[[], None] = _nothing
    after_step: Callable[[], None] = _nothing
    sparsity: Callable[[], float | None] = _nothing
    may_keep: Callable[[], bool] = field(default=lambda: True)
    state: Part | None = None
    title: str = "train"


@dataclass(frozen=True)
class _Watching:
    """Who looks on while a model trains, and what is kept of it."""

    after_epoch: AfterEpoch
    trace: str | Path | None
    checkpoint: Checkpoint | None
    quiet: bool


def fit(
    model: nn.Module,
    train: Iterable[Any] | None,
    settings: TrainSettings,
    *,
    loss: Loss | None = None,
    validate: Measure | None = None,
    restore_best: bool = False,
    after_epoch: AfterEpoch = _nothing,
    trace: str | Path | None = None,
    checkpoint: Checkpoint | str | Path | None = None,
    hooks: Hooks | None = None,
    quiet: bool = True,
) -> History:
    """Train a model in place; on all ranks together within `process_group`.

    Args:
        model: in any mode; it is trained in train mode and gets its mode back. Gradients are gone afterwards. Of a model in
            DistributedDataParallel the module inside is trained; a compiled one is trained compiled.
        train: batches, iterated once per epoch (and once more to count them, where the loader has no length); their
            tensors follow the model's device. What has `set_epoch` is told the epoch: the loader, its sampler, its data set.
        settings: how long and how.
        loss: (model, batch) -> scalar tensor; cross entropy of `model(inputs)` for (inputs, targets) where None.
        validate: model -> float, more is better; called in eval mode, without gradients, after each epoch.
        restore_best: end with the epoch that `validate` liked best; NaN is never best.
        after_epoch: called with the record of each epoch, such as `print`; on rank 0 alone.
        trace: where to write a profiler's trace of three early steps, for chrome://tracing and ui.perfetto.dev; see
            `profile_trace`.
        checkpoint: a file to write to after each epoch (or every few: `Checkpoint(path, every=5)`), and to go on from where it
            is there: the same call again ends as if nothing had happened.
        hooks: what a kind of training does differently.
        quiet: no progress bar.

    Returns:
        What was measured: loss per step, accuracy and seconds per epoch.

    Raises:
        PipelineError: no batches, batches that the default loss cannot take, nothing that learns, a loss that is no scalar.
        TrainingError: a loss or a trained parameter that is not finite. After this and any other exception the model is as
            it was before.
        ParameterError: `restore_best` without `validate`, options that the optimizer or scheduler does not take, or a
            checkpoint of another training.
        FormatError, StorageError: the checkpoint is damaged, or cannot be read or written.
    """
    hooks, model, group = hooks or Hooks(), unwrapped(model), current_group()
    if restore_best and validate is None:
        raise ParameterError.of("restore_best", hooks.title, "False, unless run(..., validate=...) names the measure", True)
    measure = Validation(model, group.measured_once(validate), restore_best, hooks.may_keep)
    watching = _Watching(
        after_epoch, trace if group.is_first else None, Checkpoint.of(checkpoint), quiet or not group.is_first
    )  # fmt: skip
    seed = None if settings.seed is None else settings.seed + group.rank  # no two ranks drop out the same units
    with restored_on_error(model), mode_kept(model), seeded(seed), flushed_denormals(), torch.enable_grad():
        try:
            return group.agreed(lambda: _Fit(model, settings, hooks, loss, group)).run(train, measure, watching)
        finally:
            model.zero_grad(set_to_none=True)


class _Fit:
    """One run of `fit`."""

    def __init__(self, model: nn.Module, settings: TrainSettings, hooks: Hooks, loss: Loss | None, group: Group) -> None:
        self.model, self.settings, self.hooks, self.loss, self.group = model, settings, hooks, loss, group
        self.title = hooks.title
        self.trace = Trace()
        self.device = device_of(model)
        self.parameters = [p for p in model.parameters() if p.requires_grad] if hooks.parameters is None else hooks.parameters
        if not self.parameters:
            raise PipelineError(f"{self.title}: nothing learns, for no parameter that it may train requires gradients")
        self.optimizer = settings.make_optimizer(self.parameters)

    def run(self, train: Iterable[Any] | None, measure: Validation, watching: _Watching) -> History:
        self.group.align(tensors_of(self.model))
        with self.hooks.session(self.optimizer):
            epochs = self.settings.epochs
            steps = self._steps(train) if epochs else 0
            rate = self.settings.make_rate(self.optimizer, steps)
            records = Records()
            keeper = self._keeper(watching.checkpoint, train, rate, measure, records)
            begin = keeper.go_on()
            bar = progress_bar(self.title, steps * epochs, quiet=watching.quiet)
            with bar as report, fitted_trace(watching.trace, steps * (epochs - begin)) as self.trace:
                for epoch in range(begin, epochs):
                    meter = Meter(self.title, epoch, steps, report)
                    self._epoch(train, meter, rate)
                    records.add(self._record(meter, measure))
                    keeper.after(epoch + 1, epochs)
                    self.group.once(partial(self._tell, records.last, watching))
            kept = measure.restore() or epochs or None
        self.group.check_equal(tensors_of(self.model), f"after {self.title}")
        return replace(records.history, kept=kept)

    def _keeper(
        self, checkpoint: Checkpoint | None, train: object, rate: Rate, measure: Validation, records: Records
    ) -> Keeper:
        shared: dict[str, Part] = {
            "model": Values(self.model), "optimizer": self.optimizer, "rate": rate, "validation": measure, "records": records,
        }  # fmt: skip
        if self.hooks.state is not None:
            shared[self.title] = self.hooks.state
        own: dict[str, Part] = {"generators": Generators(), "loader": LoaderState(train)}
        return Keeper(checkpoint, self.group, f"{self.title} with {described(self.settings)}", shared, own)

    def _steps(self, train: Iterable[Any] | None) -> int:
        """Of an epoch; of the rank that takes most."""
        if self.group.size > 1 and self.group.is_first:
            notice_of_equal_batches(train)
        return max(self.group.together(lambda: epoch_length(train)))

    def _tell(self, record: EpochRecord, watching: _Watching) -> None:
        _LOGGER.info("%s, %s", self.title, record)
        watching.after_epoch(record)

    def _epoch(self, train: Iterable[Any] | None, meter: Meter, rate: Rate) -> None:
        self._to_train_mode()
        tell_epoch(train, meter.epoch)
        for batch in meter.waited_for(self.group.in_step(epoch_batches(train))):
            self.hooks.look(meter.progress)
            with self.trace.mark("to device"):
                batch = to_device(batch, self.device)
            with meter.step(self.device):
                found = self._step(batch)
            meter.add(*found)
            rate.after_batch(found[0])
            self.trace.step()
        self.group.copy_first(self.model.buffers())
        rate.after_epoch(meter.loss)
        self._check_parameters(meter.epoch + 1)
        self.hooks.look(meter.epoch + 1.0)

    def _to_train_mode(self) -> None:
        self.model.train()
        if self.settings.frozen_statistics:
            for module in self.model.modules():
                if isinstance(module, _NormBase):
                    module.eval()

    def _step(self, batch: Any) -> tuple[float, float | None]:
        found: list[tuple[float, float | None]] = []

        def closure() -> float:
            if found:
                self.hooks.after_step()
            found.append(self._backward(batch))
            return found[-1][0]

        self.optimizer.step(closure)
        self.hooks.after_step()
        return found[0]

    def _backward(self, batch: Any) -> tuple[float, float | None]:
        self.optimizer.zero_grad(set_to_none=True)
        found = self.group.averaged(partial(self._pass, batch), self.parameters)
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        return found

    def _pass(self, batch: Any) -> tuple[float, float | None]:
        """Forward and backward."""
        if batch is NO_BATCH:
            self.hooks.after_backward()
            return 0.0, None
        with self.trace.mark("forward"), self._autocast():
            loss, accuracy = self._loss_of(batch)
        with self.trace.mark("backward"):
            loss.backward()
        self.hooks.after_backward()
        return float(loss.detach()), accuracy

    def _loss_of(self, batch: Any) -> tuple[Tensor, float | None]:
        if self.loss is None:
            return cross_entropy(self.model, batch, self.settings.label_smoothing)
        loss = self.loss(self.model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            raise PipelineError(f"{self.title}: loss(model, batch) must give a scalar tensor, not {got}")
        return loss, None

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.settings.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.settings.autocast))

    def _check_parameters(self, epoch: int) -> None:
        """The last step's loss may be finite, and what came out of it not."""
        bad = sum(1 for p in self.parameters if p.grad is not None and not bool(torch.isfinite(p.detach()).all()))
        if bad:
            raise lost(self.title, f"{bad} parameters are NaN or infinite after epoch {epoch}")

    def _record(self, meter: Meter, measure: Validation) -> EpochRecord:
        seconds = meter.seconds
        validation = measure(meter.epoch + 1)
        return EpochRecord(
            epoch=meter.epoch + 1,
            loss=meter.loss,
            accuracy=meter.accuracy,
            validation=validation,
            sparsity=self.hooks.sparsity(),
            seconds=seconds,
            lr=float(self.optimizer.param_groups[0]["lr"]),
            seconds_loading=meter.loading,
            seconds_training=meter.training,
            seconds_validating=meter.seconds - seconds,
            step_losses=tuple(meter.losses),
        )
