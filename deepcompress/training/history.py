"""What was measured while training, and its form as plain data, which plots and JSON share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from deepcompress.errors import ParameterError


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Attributes:
        epoch: from 1.
        loss: mean over the epoch's steps.
        accuracy: on its batches, while they trained; None for losses other than the default one.
        validation: the user's measure.
        sparsity: of the masked weights.
        seconds: the whole epoch: waiting for batches, moving them to the device, steps, schedules; without `validate`.
        lr: learning rate at its end.
        seconds_loading: of those, waiting for the loader.
        seconds_training: of those, in steps: forward and backward pass and update, the device synchronised at both ends.
        seconds_validating: in `validate`, on top of `seconds`.
        step_losses: the loss of each step.
    """

    epoch: int
    loss: float
    accuracy: float | None
    validation: float | None
    sparsity: float | None
    seconds: float
    lr: float
    seconds_loading: float = 0.0
    seconds_training: float = 0.0
    seconds_validating: float = 0.0
    step_losses: tuple[float, ...] = ()

    def __str__(self) -> str:
        measured = {"accuracy": self.accuracy, "validation": self.validation, "sparsity": self.sparsity}
        shares = "".join(f", {name} {value:.4f}" for name, value in measured.items() if value is not None)
        return f"epoch {self.epoch}: loss {self.loss:.4f}{shares}, {self.seconds:.0f} s"


_NAMES = tuple(field.name for field in fields(EpochRecord))


@dataclass(frozen=True)
class History:
    """All epochs of a training, and the one (from 1) that the model ended with."""

    epochs: tuple[EpochRecord, ...] = ()
    kept: int | None = None

    @property
    def step_losses(self) -> tuple[float, ...]:
        """The loss of every step, from the first epoch's first on."""
        return tuple(loss for record in self.epochs for loss in record.step_losses)

    @property
    def seconds(self) -> float:
        """Of all epochs, without `validate`."""
        return sum(record.seconds for record in self.epochs)

    def column(self, name: str) -> list[Any]:
        """One field of each epoch, such as "loss" or "validation".

        Raises:
            ParameterError: no such field.
        """
        if name not in _NAMES:
            raise ParameterError.of("name", "History.column", f"one of {', '.join(_NAMES)}", name)
        return [getattr(record, name) for record in self.epochs]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as strict JSON takes it: a number that is not finite is a string, "nan" or "inf"."""
        return {"kept": self.kept, "epochs": [_plain(record) for record in self.epochs]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> History:
        """The history that `as_dict` came from.

        Raises:
            ParameterError: `data` is no such dict.
        """
        try:
            kept = data["kept"]
            return cls(tuple(_record(entry) for entry in data["epochs"]), None if kept is None else int(kept))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise ParameterError.of("data", "History.from_dict", "a dict as as_dict makes them", what) from error


class Records:
    """The epochs so far, as a part of a checkpoint."""

    def __init__(self) -> None:
        self.history = History()

    @property
    def last(self) -> EpochRecord:
        return self.history.epochs[-1]

    def add(self, record: EpochRecord) -> None:
        self.history = History((*self.history.epochs, record))

    def state_dict(self) -> dict[str, Any]:
        return self.history.as_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.history = History.from_dict(state)


def _plain(record: EpochRecord) -> dict[str, Any]:
    values = {**asdict(record), "step_losses": [_finite(loss) for loss in record.step_losses]}
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _record(data: Mapping[str, Any]) -> EpochRecord:
    numbers = {name: _number(value) for name, value in data.items() if name not in ("epoch", "step_losses")}
    return EpochRecord(epoch=int(data["epoch"]), step_losses=tuple(float(loss) for loss in data["step_losses"]), **numbers)


def _number(value: float | str | None) -> Any:
    return None if value is None else float(value)
