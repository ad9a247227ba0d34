"""Train what pruning left, while masks are held; prune further on the way, where a schedule says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from deepcompress.errors import ParameterError
from deepcompress.layers.masking import Masks, apply_masks, hold_masks, sparsity_of
from deepcompress.prune.allocate import prune_masks
from deepcompress.prune.schedule import Schedule
from deepcompress.training.history import History
from deepcompress.training.loop import Hooks, Loss, Measure, fit
from deepcompress.training.settings import TrainSettings

SHARE_OF_METHOD = {"percentile": "q", "unstructured": "sparsity", "filter_l1": "sparsity"}


@dataclass(frozen=True)
class Gradual:
    """Pruning while training.

    Attributes:
        weights: name -> live weight of the model.
        method: "percentile", "unstructured" or "filter_l1"; the schedule gives its share.
        schedule: share pruned as a function of epochs.
        parameters: the method's others, such as scope.
        every: epochs between two looks at the schedule; fractions are fine.
        reversible: until the schedule ends, a pruned weight goes on learning behind its mask (its gradient passes straight through)
            and comes back where it has outgrown others. Else it is gone for good.
    """

    weights: Mapping[str, Tensor]
    method: str
    schedule: Schedule
    parameters: Mapping[str, Any] = field(default_factory=dict)
    every: float = 0.25
    reversible: bool = False

    def masks(self, sparsity: float, before: Masks | None) -> Masks:
        return prune_masks(self.weights, self.method, masks=before, **{SHARE_OF_METHOD[self.method]: sparsity}, **self.parameters)


def retrain(
    model: nn.Module,
    train: Iterable[Any] | None,
    masks: Mapping[str, Tensor],
    settings: TrainSettings,
    *,
    gradual: Gradual | None = None,
    loss: Loss | None = None,
    validate: Measure | None = None,
    restore_best: bool = False,
    quiet: bool = True,
) -> tuple[Masks, History]:
    """Train a model in place while every forward pass sees exact zeros where `masks` are False.

    Args:
        masks: parameter name -> bool tensor of its shape, True = kept; may be empty.
        gradual: how to prune further on the way. The sparsity that its schedule ends with is met to one weight.
        model, train, settings, loss, validate, restore_best, quiet: as for `fit`; the best epoch is chosen among those at the
            final sparsity.

    Returns:
        The masks at the end, and what was measured.

    Raises:
        as `fit` does; the model is then as it was.

    Source: Han, Pool, Tran, Dally. Learning both weights and connections. NIPS 2015. With `gradual`: Zhu, Gupta. To prune, or not
    to prune. 2018; reversible: Lin et al. Dynamic model pruning with feedback. ICLR 2020.
    """
    with ExitStack() as stack:
        keeper = _Keeper(model, dict(masks), gradual, stack)
        hooks = Hooks(
            started=keeper.start,
            before_step=keeper.look,
            after_backward=keeper.show_dense,
            after_step=keeper.hide_pruned,
            sparsity=keeper.sparsity,
            may_keep=lambda: keeper.finished,
        )
        history = fit(
            model, train, settings, loss=loss, validate=validate, restore_best=restore_best, hooks=hooks, title="retrain", quiet=quiet
        )  # fmt: skip
        keeper.finish()
    apply_masks(model, keeper.masks)
    return keeper.masks, history


class _Keeper:
    """Holds the masks, moves them along the schedule, and keeps the pruned weights' values while they may come back."""

    def __init__(self, model: nn.Module, masks: Masks, gradual: Gradual | None, stack: ExitStack) -> None:
        self.model, self.masks, self.gradual, self._stack = model, masks, gradual, stack
        self._hold: hold_masks | None = None
        self._fixed = dict(masks)  # what earlier stages pruned stays pruned, also under a reversible schedule
        self._dense: dict[str, Tensor] = {}
        self._next_look = 0.0
        self.finished = gradual is None

    def start(self, optimizer: Optimizer) -> None:
        gradual = self.gradual
        if gradual is not None and gradual.reversible:
            if isinstance(optimizer, LBFGS):
                raise ParameterError("a reversible schedule does not go with LBFGS, which runs the model several times in a step")
            self._dense = {name: weight.detach().clone() for name, weight in gradual.weights.items()}
        held = {name: mask for name, mask in self.masks.items() if name not in self._dense}
        self._hold = self._stack.enter_context(hold_masks(self.model, held, optimizer))
        apply_masks(self.model, self.masks)

    def sparsity(self) -> float | None:
        return sparsity_of(self.masks) if self.masks else None

    def look(self, progress: float) -> None:
        """Follow the schedule, where it is time to."""
        if self.gradual is None or self.finished or progress < self._next_look:
            return
        self._next_look = progress + self.gradual.every
        self._prune_to(self.gradual.schedule.at(progress))
        if progress >= self.gradual.schedule.end:
            self._freeze()

    def finish(self) -> None:
        """Meet the final sparsity where the last epoch ended before a look could."""
        if self.gradual is not None and not self.finished:
            self._prune_to(self.gradual.schedule.final)
            self._freeze()

    def show_dense(self) -> None:
        """Between backward pass and step the optimizer works on the dense values."""
        self._copy(self._dense, self._live())

    def hide_pruned(self) -> None:
        """After the step keep the dense values aside, and show zeros where the masks are."""
        self._copy(self._live(), self._dense)
        apply_masks(self.model, {name: self.masks[name] for name in self._dense if name in self.masks})

    def _prune_to(self, sparsity: float) -> None:
        if self.gradual is None:
            return
        self._copy(self._dense, self._live())
        self.masks = {**self.masks, **self.gradual.masks(sparsity, self._fixed if self._dense else self.masks)}
        if self._hold is not None and not self._dense:
            self._hold.update(self.masks)
        apply_masks(self.model, self.masks)

    def _freeze(self) -> None:
        """From here on nothing comes back."""
        self._dense, self.finished = {}, True
        if self._hold is not None:
            self._hold.update(self.masks)

    def _live(self) -> dict[str, Tensor]:
        return {name: self.gradual.weights[name] for name in self._dense} if self.gradual is not None else {}

    @staticmethod
    def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in source.items():
                if name in target:
                    target[name].copy_(tensor)
