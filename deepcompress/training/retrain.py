"""Train what pruning left, while masks are held; prune further on the way, where a schedule says so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from deepcompress.errors import ParameterError
from deepcompress.layers.masking import Masks, apply_masks, hold_masks, sparsity_of
from deepcompress.prune.allocate import prune_masks
from deepcompress.prune.schedule import Schedule
from deepcompress.training.checkpoint import Checkpoint
from deepcompress.training.group import current_group
from deepcompress.training.history import History
from deepcompress.training.loop import Hooks, Loss, fit
from deepcompress.training.settings import TrainSettings
from deepcompress.training.validation import Measure

SHARE_OF_METHOD = {"percentile": "q", "unstructured": "sparsity", "filter_l1": "sparsity"}


@dataclass(frozen=True)
class Gradual:
    """Pruning while training.

    Attributes:
        weights: name -> live weight of the model.
        method: "percentile", "unstructured" or "filter_l1"; the schedule gives its share.
        schedule: share pruned as a function of epochs.
        parameters: the method's others, such as scope.
        every: epochs between two looks at the schedule; fractions are fine. Milestones and its end are never passed over.
        reversible: until the schedule ends, a pruned weight goes on learning behind its mask (its gradient passes straight
            through) and comes back where it has outgrown others. Else it is gone for good.
    """

    weights: Mapping[str, Tensor]
    method: str
    schedule: Schedule
    parameters: Mapping[str, Any] = field(default_factory=dict)
    every: float = 0.25
    reversible: bool = False

    def masks(self, sparsity: float, before: Masks | None) -> Masks:
        """The masks that this share means, within those of `before`; rank 0's where several processes train."""
        share = {SHARE_OF_METHOD[self.method]: sparsity}
        masks = current_group().once(lambda: prune_masks(self.weights, self.method, masks=before, **share, **self.parameters))
        return {name: mask.to(self.weights[name].device) for name, mask in masks.items()}


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
    checkpoint: Checkpoint | None = None,
    quiet: bool = True,
) -> tuple[Masks, History]:
    """Train a model in place while every forward pass sees exact zeros where `masks` are False.

    Args:
        masks: parameter name -> bool tensor of its shape, True = kept; may be empty.
        gradual: how to prune further on the way. The sparsity that its schedule ends with is met to one weight.
        model, train, settings, loss, validate, restore_best, checkpoint, quiet: as for `fit`; the best epoch is one
            of those at the final sparsity.

    Returns:
        The masks at the end, and what was measured.

    Raises:
        as `fit` does; the model is then as it was.

    Source: Han, Pool, Tran, Dally. Learning both weights and connections. NIPS 2015. With `gradual`: Zhu, Gupta. To prune, or not
    to prune. 2018; reversible: Lin et al. Dynamic model pruning with feedback. ICLR 2020.
    """
    keeper = _Keeper(model, dict(masks), gradual)
    hooks = Hooks(
        session=keeper.holding,
        look=keeper.look,
        after_backward=keeper.show_dense,
        after_step=keeper.hide_pruned,
        sparsity=keeper.sparsity,
        may_keep=lambda: keeper.finished,
        state=keeper,
        title="retrain",
    )
    history = fit(
        model, train, settings, loss=loss, validate=validate, restore_best=restore_best, checkpoint=checkpoint, hooks=hooks,
        quiet=quiet,
    )  # fmt: skip
    return keeper.masks, history


class _Keeper:
    """Holds the masks, moves them along the schedule, and keeps the pruned weights' values while they may come back."""

    def __init__(self, model: nn.Module, masks: Masks, gradual: Gradual | None) -> None:
        self.model, self.masks, self.gradual = model, masks, gradual
        self._hold: hold_masks | None = None
        self._fixed = dict(masks)  # what earlier stages pruned stays pruned, also under a reversible schedule
        self._dense: dict[str, Tensor] = {}
        self._next_look = 0.0
        self.finished = gradual is None

    @contextmanager
    def holding(self, optimizer: Optimizer) -> Iterator[None]:
        """All of training takes place in here."""
        if self.gradual is not None and self.gradual.reversible:
            if isinstance(optimizer, LBFGS):
                raise ParameterError("a reversible schedule does not go with LBFGS, which runs the model several times in a step")
            self._dense = {name: weight.detach().clone() for name, weight in self.gradual.weights.items()}
        held = {name: mask for name, mask in self.masks.items() if name not in self._dense}
        with hold_masks(self.model, held, optimizer) as self._hold:
            apply_masks(self.model, self.masks)
            yield
            self.finish()
        apply_masks(self.model, self.masks)

    def state_dict(self) -> dict[str, Any]:
        """Masks, what is behind them, and where the schedule is."""
        return {"masks": self.masks, "dense": self._dense, "next_look": self._next_look, "finished": self.finished}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; the model has its values already."""
        devices = {name: parameter.device for name, parameter in self.model.named_parameters()}
        self.masks, self._dense = (_on_devices(state[name], devices) for name in ("masks", "dense"))
        self._next_look, self.finished = state["next_look"], state["finished"]
        if self._hold is not None:
            self._hold.update({name: mask for name, mask in self.masks.items() if name not in self._dense})

    def sparsity(self) -> float | None:
        return sparsity_of(self.masks) if self.masks else None

    def look(self, progress: float) -> None:
        """Follow the schedule, where it is time to."""
        if self.gradual is None or self.finished or progress < self._next_look:
            return
        schedule = self.gradual.schedule
        self._prune_to(self.gradual, schedule.at(progress))
        self._next_look = min(progress + self.gradual.every, schedule.next_turn(progress))
        if progress >= schedule.end:
            self._freeze()

    def finish(self) -> None:
        """Meet the final sparsity where training ended before the schedule did."""
        if self.gradual is not None and not self.finished:
            self._prune_to(self.gradual, self.gradual.schedule.final)
            self._freeze()

    def show_dense(self) -> None:
        """Between backward pass and step the optimizer works on the dense values."""
        for weight, dense in self._pairs():
            weight.copy_(dense)

    def hide_pruned(self) -> None:
        """After the step keep the dense values aside, and show zeros where the masks are."""
        for weight, dense in self._pairs():
            dense.copy_(weight)
        apply_masks(self.model, {name: self.masks[name] for name in self._dense if name in self.masks})

    def _prune_to(self, gradual: Gradual, sparsity: float) -> None:
        self.show_dense()
        self.masks = {**self.masks, **gradual.masks(sparsity, self._fixed if self._dense else self.masks)}
        if self._hold is not None and not self._dense:
            self._hold.update(self.masks)
        apply_masks(self.model, self.masks)

    def _freeze(self) -> None:
        """From here on nothing comes back."""
        self._dense, self.finished = {}, True
        if self._hold is not None:
            self._hold.update(self.masks)

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Live weights, to be written to, beside their dense values."""
        weights = self.gradual.weights if self.gradual is not None else {}
        return [(weights[name].detach(), dense) for name, dense in self._dense.items()]


def _on_devices(tensors: Mapping[str, Tensor], devices: Mapping[str, torch.device]) -> dict[str, Tensor]:
    return {name: tensor.to(devices.get(name, tensor.device)) for name, tensor in tensors.items()}
