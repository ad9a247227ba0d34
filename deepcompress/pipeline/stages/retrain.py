"""The stages that train under masks, with the masks as they are or with a schedule that prunes on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from deepcompress.errors import ParameterError
from deepcompress.pipeline.selection import Selection
from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.state import Context, State
from deepcompress.prune.allocate import check_parameters
from deepcompress.prune.ranking import is_within
from deepcompress.prune.schedule import Schedule
from deepcompress.training.history import History
from deepcompress.training.retrain import SHARE_OF_METHOD, Gradual, retrain
from deepcompress.training.settings import TrainSettings


@dataclass(frozen=True, eq=False)
class Retrain(Stage, TrainSettings):
    """Train while pruned weights stay exactly zero: in every forward pass, whatever the optimizer remembers.

    Args: those of TrainSettings (epochs, lr, optimizer, scheduler, autocast, ...), and
        restore_best: end with the epoch that `validate` liked best.

    Source: Han, Pool, Tran, Dally. Learning both weights and connections. NIPS 2015.
    """

    restore_best: bool = False

    kind: ClassVar[str] = "retrain"
    phase: ClassVar[str] = "train"

    def apply(self, state: State, context: Context) -> State:
        model = state.module("Retrain")
        masks, history = retrain(
            model, context.train, state.masks, self, loss=context.loss, validate=context.validate,
            restore_best=self.restore_best, checkpoint=context.checkpoint, quiet=context.quiet,
        )  # fmt: skip
        return replace(state, masks=masks, notes=_notes(history), history=history)


@dataclass(frozen=True, eq=False)
class GradualPrune(Stage, TrainSettings):
    """Prune while training, along a schedule; then train on at the final sparsity.

    Args: those of TrainSettings, and
        method: "unstructured" (scope="global" or "layer" in `parameters`), "percentile" or "filter_l1".
        sparsity: share of weights (or filters) pruned in the end, met to one weight; 0.9 where None.
        schedule: "cubic" (most of it early), "linear" or "step"; where None, "step" if there are milestones, else "cubic".
        initial: share pruned at the beginning.
        begin, end: epochs in which the schedule begins and ends; by default the first, and three quarters of all epochs.
        milestones: (epoch, sparsity) pairs, the sparsity that holds from an epoch on: they say what `sparsity`, `begin` and `end`
            are, which may be given if they say the same.
        every: epochs between two looks at the schedule.
        reversible: until `end`, pruned weights learn on behind their masks and may come back.
        restore_best: end with the epoch that `validate` liked best, among those at the final sparsity.
        include, exclude, types: which weights; as in Prune.

    Raises:
        ParameterError: a parameter out of its range, or a schedule that ends after training.

    Source: Zhu, Gupta. To prune, or not to prune. 2018. arXiv:1710.01878.
    """

    method: str = "unstructured"
    sparsity: float | None = None
    schedule: str | None = None
    initial: float = 0.0
    begin: float | None = None
    end: float | None = None
    milestones: Sequence[Sequence[float]] = ()
    every: float = 0.25
    reversible: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    restore_best: bool = False
    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None
    types: Sequence[str] | None = None

    kind: ClassVar[str] = "gradual_prune"
    phase: ClassVar[str] = "prune"

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        Selection(self.include, self.exclude, self.types).check(owner)
        self._require("method", self.method in tuple(SHARE_OF_METHOD), f"one of {', '.join(SHARE_OF_METHOD)}")
        share = SHARE_OF_METHOD[self.method]
        free = isinstance(self.parameters, Mapping) and share not in self.parameters
        self._require("parameters", free, f"a mapping without {share!r}, which the schedule gives")
        check_parameters(self.method, {share: self._final, **self.parameters}, owner)
        self._require("every", is_within(self.every, 0, math.inf) and self.every > 0, "a number of epochs above 0")
        if (end := self.as_schedule().end) > self.epochs:
            name = "milestones" if self._has_milestones else "end"
            raise ParameterError.of(name, owner, f"at most the {self.epochs} epochs of training", end)

    def as_schedule(self) -> Schedule:
        """The schedule that the parameters describe."""
        if self._has_milestones or self.schedule == "step":
            return self._steps()
        begin, end = self.begin or 0.0, 0.75 * self.epochs if self.end is None else self.end
        return Schedule(self.schedule or "cubic", self.initial, self._final, begin, end)

    def _steps(self) -> Schedule:
        """The milestones as a schedule, which nothing else that is given may contradict."""
        if self.schedule not in (None, "step"):
            raise ParameterError.of("schedule", "GradualPrune", "left out, or 'step', where there are milestones", self.schedule)
        steps = Schedule("step", initial=self.initial, milestones=self.milestones)  # type: ignore[arg-type]
        for name, said in (("sparsity", steps.final), ("begin", steps.begin), ("end", steps.end)):
            if getattr(self, name) not in (None, said):
                expected = f"left out, or the {said} of the milestones"
                raise ParameterError.of(name, "GradualPrune", expected, getattr(self, name))
        return steps

    @property
    def _final(self) -> float:
        return 0.9 if self.sparsity is None else self.sparsity

    @property
    def _has_milestones(self) -> bool:
        """Whether some are given, well-formed or not."""
        return not (isinstance(self.milestones, Sequence) and len(self.milestones) == 0)

    def apply(self, state: State, context: Context) -> State:
        model = state.module("GradualPrune")
        weights = Selection(self.include, self.exclude, self.types).of(model, "GradualPrune")
        gradual = Gradual(weights, self.method, self.as_schedule(), self.parameters, self.every, self.reversible)
        masks, history = retrain(
            model, context.train, state.masks, self, gradual=gradual, loss=context.loss, validate=context.validate,
            restore_best=self.restore_best, checkpoint=context.checkpoint, quiet=context.quiet,
        )  # fmt: skip
        return replace(state, masks=masks, notes=_notes(history), history=history)


def _notes(history: History) -> tuple[str, ...]:
    """What training came to, for the report."""
    if not history.epochs:
        return ()
    last = history.epochs[-1]
    kept = f"; epoch {history.kept} kept" if history.kept != len(history.epochs) else ""
    return (f"{len(history.epochs)} epochs, last loss {last.loss:.4f}{kept}",)
