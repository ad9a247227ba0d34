"""What is to be compressed, and with what: the arguments of `compress` that no search changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepcompress.auto.diary import Diary
from deepcompress.auto.plans import Plan
from deepcompress.errors import ParameterError
from deepcompress.pipeline.pipeline import Pipeline, Result
from deepcompress.pipeline.state import Loss, Measure, Model
from deepcompress.report.choice import Choice, RunRow
from deepcompress.training.checkpoint import described
from deepcompress.training.group import current_group
from deepcompress.training.seeds import generators_kept
from deepcompress.training.snapshot import mode_kept

__all__ = ["Asked", "Task", "explained"]


@dataclass(frozen=True)
class Asked:
    """One run: its name, what is asked of it in the choice's unit, its stages, and how many epochs they train."""

    name: str
    asked: float | None
    plan: Plan
    epochs: int | None = None

    @property
    def words(self) -> str:
        """The stages, in words that are the same in every process."""
        return described(self.plan)


@dataclass(frozen=True)
class Task:
    """A model and what belongs to it.

    Attributes:
        model, train, loss, validate, evaluate, quiet: as for `compress`.
        diary: what was measured.
    """

    model: Model
    diary: Diary
    train: Iterable[Any] | None = None
    loss: Loss | None = None
    validate: Measure | None = None
    evaluate: Measure | None = None
    quiet: bool = False

    def run(self, asked: Asked, *, looks: bool = False, kept: bool = False) -> Result:
        """Run the stages, from the model as it came and from the generators as they were.

        Args:
            looks: measure `evaluate`, or else `validate`, after each stage, for the report.
            kept: in a folder, where there is one.
        """
        self.diary.rewind()
        evaluate = (self.evaluate or self.validate) if looks else None
        folder: Path | None = self.diary.folder_of(asked.words) if kept else None
        return Pipeline(asked.plan).run(
            self.model, train=self.train, loss=self.loss, evaluate=evaluate, workdir=folder, quiet=self.quiet
        )  # fmt: skip

    def row(self, asked: Asked, file_bytes: int, score: Any) -> RunRow:
        """A run as the report shows it; the score as a diary has it."""
        known = None if score is None else float(score)
        return RunRow(name=asked.name, asked=asked.asked, epochs=asked.epochs, file_bytes=file_bytes, score=known)

    def score(self, model: Model) -> float | None:
        """What `validate` gives; None where there is none. It only looks: nothing after it may depend on it."""
        validate = current_group().measured_once(self.validate)
        if validate is None or not isinstance(model, nn.Module):
            return None
        with mode_kept(model), generators_kept(), torch.no_grad():
            found = validate(model.eval())
        try:
            return float(found)
        except (TypeError, ValueError):
            raise ParameterError.of("validate", "compress", "a function that returns a number", found) from None


def explained(result: Result, goal: str, unit: str, dense: float | None, runs: Sequence[RunRow], best: str, *why: str) -> Result:
    """The result, whose report says how it came to be."""
    choice = Choice(goal=goal, unit=unit, dense_score=dense, runs=tuple(runs), chosen=best, reasons=why)
    return replace(result, report=replace(result.report, choice=choice))
