"""Train weights on few levels, zero among them, towards a number of bits that the coder would take for them.

The model shows levels, the optimizer moves what lies behind them, and gradients pass straight through. Each weight is pulled
towards the next cheaper level as hard as the bits between the two are worth; what a bit is worth is steered so that the bits fall
along a schedule. What a level costs follows from how often it occurs, and zero also from how dense the weight's row and column
are: what a context coder foresees is cheap already while training.

Source: Oktay, Balle, Singh, Shrivastava. Scalable model compression by entropy penalized reparameterization. ICLR 2020.
arXiv:1906.06624; straight-through steps: Esser et al. Learned step size quantization. ICLR 2020. arXiv:1902.08153.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from deepcompress.errors import ParameterError
from deepcompress.quantize.level_costs import level_costs
from deepcompress.tensors.contexts import context_bits
from deepcompress.training.checkpoint import Checkpoint
from deepcompress.training.history import History
from deepcompress.training.loop import Hooks, Loss, fit
from deepcompress.training.settings import TrainSettings
from deepcompress.training.validation import Measure

__all__ = ["RateGoal", "retrain_for_rate"]

_LOOKS = 600  # in all of training, to reckon the bits; where it has fewer steps, after each
_LOOKS_PER_CODING = 15  # at each of these, what is reckoned is corrected by what the coder takes
_FIRST_PRICE = 1e-3  # of a bit, as a share of the mean gradient times the mean step
_FOLLOW, _DAMP, _FASTEST = 0.1, 1.0, 0.2  # how the price follows the bits: their excess, their change, and the limit
_LEAST_PULL = 1.0  # bits; also where rows and columns are so dense that a zero is dearer than what is beside it
_LARGEST_GROWTH = 50.0  # of a step, its logarithm: training is lost before


@dataclass(frozen=True)
class RateGoal:
    """Where training for the coder is to end.

    Attributes:
        bits: per weight, in the mean over all chosen weights, as the coder is reckoned to take.
        levels: on each side of zero.
        ramp: share of training after which `bits` is reached; the logarithm follows a parabola, fast at first and ever slower.
        freeze: share of training after which zeros stay zero, and nothing is pulled any more.
    """

    bits: float
    levels: int = 3
    ramp: float = 0.6
    freeze: float = 0.85

    def at(self, progress: float, first: float) -> float:
        """Bits per weight at this share of training, which began with `first`."""
        left = max(0.0, 1 - progress / self.ramp) if self.ramp else 0.0
        return float(self.bits * (max(first, self.bits) / self.bits) ** left**2)


def retrain_for_rate(
    model: nn.Module,
    train: Iterable[Any] | None,
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    settings: TrainSettings,
    goal: RateGoal,
    *,
    loss: Loss | None = None,
    validate: Measure | None = None,
    checkpoint: Checkpoint | None = None,
    quiet: bool = True,
) -> tuple[dict[str, Tensor], dict[str, float], History]:
    """Train a model in place; afterwards the weights are whole multiples of a step.

    Args:
        weights: name -> live weight of the model.
        masks: name -> bool tensor of a weight's shape, True = kept; the others stay zero.
        model, train, settings, loss, validate, checkpoint, quiet: as for `fit`.

    Returns:
        Name -> levels, int8 of the weight's shape; name -> step; and what was measured.

    Raises:
        as `fit` does; the model is then as it was.
    """
    price = _Price(weights, masks, goal, settings.epochs)
    hooks = Hooks(
        parameters=[*(p for p in model.parameters() if p.requires_grad), *price.steps],
        session=price.session,
        look=price.look,
        after_backward=price.after_backward,
        after_step=price.after_step,
        sparsity=price.sparsity,
        state=price,
        title="rate retrain",  # not "rate", which a checkpoint has for the schedule of the learning rate
    )
    history = fit(model, train, settings, loss=loss, validate=validate, checkpoint=checkpoint, hooks=hooks, quiet=quiet)
    levels = {name: one.levels.to(torch.int8) for name, one in price.layers.items()}
    return levels, {name: one.step for name, one in price.layers.items()}, history


class _Layer:
    """One weight: what lies behind its levels, its step, and what a level costs."""

    def __init__(self, weight: Tensor, mask: Tensor | None, count: int) -> None:
        self.weight, self.count = weight, count
        self.kept = None if mask is None else mask.to(weight.device)
        self.behind = self._masked(weight.detach().clone())
        self._first_step = _best_step(self.behind, count)
        self.growth = torch.zeros((), device=weight.device).requires_grad_()  # of the step, its logarithm: it stays above zero
        self._shown_step = self._first_step
        self.levels = torch.zeros_like(self.behind)
        self.costs = torch.zeros(count + 1, device=weight.device)
        self.nonzero_costs = torch.zeros((), device=weight.device)  # bits more for a nonzero, by its row and column
        self.beyond: Tensor | None = None

    @property
    def step(self) -> float:
        growth = float(self.growth.detach())
        return float(self._first_step * math.exp(min(growth, _LARGEST_GROWTH)))

    def show(self) -> None:
        """Write the levels nearest to what lies behind into the weight."""
        self._shown_step = self.step
        scaled = self.behind / self._shown_step
        nearest = torch.floor(scaled.abs() + 0.5).clamp_(max=self.count)
        if self.beyond is not None:  # zeros stay zero, and nothing else becomes zero
            nearest = nearest.clamp_(min=1) * self.beyond
        self.levels = nearest * torch.sign(scaled)
        self.weight.copy_(self.levels * self._shown_step)

    def freeze(self) -> None:
        """From here on nothing becomes zero, and no zero anything else."""
        self.beyond = self.levels != 0

    def bits(self) -> float:
        """What the coder is reckoned to take; the costs are counted anew."""
        found = level_costs(self.levels.abs(), self.count)
        self.costs, self.nonzero_costs = found.sizes, found.nonzero
        return found.total

    def coded_bits(self) -> int:
        """What the coder takes."""
        return context_bits(self.levels.to(torch.int32).cpu().numpy())

    def gather(self, price: float) -> None:
        """Gradients pass to what lies behind, and to the step; the bits pull as much as they are worth."""
        if self.weight.grad is not None:
            self._change(self.weight.grad, price)
        self.weight.copy_(self.behind)

    def _change(self, gradient: Tensor, price: float) -> None:
        self.growth.grad = (gradient * self.levels).sum().to(self.growth.dtype) * (self.step / math.sqrt(gradient.numel()))
        if self.beyond is None:
            between = (self.behind.abs() / self.step).floor_().clamp_(max=self.count - 1).long()
            bits = (self.costs[1:] - self.costs[:-1])[between]
            bits = torch.where(between == 0, bits + self.nonzero_costs, bits).clamp_(min=_LEAST_PULL)
            gradient.add_(torch.sign(self.behind) * bits, alpha=price / self.step)
        else:
            gradient.mul_(self.beyond)
        if self.kept is not None:
            gradient.mul_(self.kept)

    def scatter(self) -> None:
        """The optimizer has moved what lies behind, and the step; the one follows the other, so that no level changes by that.

        Weights that are worth just what they cost lie where zero begins: a longer step would take all of them at once.
        """
        grown = self.step / self._shown_step
        self.behind = self._masked(self.weight.detach() * grown)
        self.show()

    def _masked(self, values: Tensor) -> Tensor:
        return values if self.kept is None else values * self.kept

    def state_dict(self) -> dict[str, Any]:
        return {
            "behind": self.behind, "growth": self.growth, "levels": self.levels, "costs": self.costs, "beyond": self.beyond,
            "nonzero_costs": self.nonzero_costs,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        device = self.weight.device
        with torch.no_grad():
            self.growth.copy_(state["growth"])
        self.behind, self.levels, self.costs = (state[name].to(device) for name in ("behind", "levels", "costs"))
        self.beyond = None if state["beyond"] is None else state["beyond"].to(device)
        self.nonzero_costs = state["nonzero_costs"].to(device)
        self._shown_step = self.step


class _Price:
    """What a bit is worth, steered by the bits of all layers."""

    def __init__(self, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], goal: RateGoal, epochs: int) -> None:
        self.goal, self.epochs = goal, max(epochs, 1)
        self.layers = {name: _Layer(weight, masks.get(name), goal.levels) for name, weight in weights.items()}
        self.total = max(sum(weight.numel() for weight in weights.values()), 1)
        self._price: float | None = None
        self._bits: float | None = None  # the logarithm of what was counted last
        self._first = self._next_look = self._progress = 0.0
        self._correction, self._looks = 1.0, 0

    @property
    def steps(self) -> list[Tensor]:
        return [layer.growth for layer in self.layers.values()]

    @contextmanager
    def session(self, optimizer: Optimizer) -> Iterator[None]:
        if isinstance(optimizer, LBFGS):
            raise ParameterError("training for the coder does not go with LBFGS, which runs the model several times in a step")
        with torch.no_grad():
            for layer in self.layers.values():
                layer.show()
            self._first = self._count()
        yield

    def look(self, progress: float) -> None:
        """Count the bits now and then, and make a bit dearer or cheaper."""
        self._progress = progress / self.epochs
        if self._progress >= self.goal.freeze:
            for layer in self.layers.values():
                if layer.beyond is None:
                    layer.freeze()
            return
        if self._progress >= self._next_look and self._price is not None:
            self._next_look = self._progress + 1 / _LOOKS
            with torch.no_grad():
                bits = math.log(self._count())
            excess = bits - math.log(self.goal.at(self._progress, self._first))
            change = _FOLLOW * excess + _DAMP * (0.0 if self._bits is None else bits - self._bits)
            self._price *= math.exp(max(min(change, _FASTEST), -_FASTEST))
            self._bits = bits

    def _count(self) -> float:
        """Bits per weight."""
        reckoned = max(sum(layer.bits() for layer in self.layers.values()), 1e-3)
        if self._looks % _LOOKS_PER_CODING == 0:
            self._correction = sum(layer.coded_bits() for layer in self.layers.values()) / reckoned
        self._looks += 1
        return max(self._correction * reckoned / self.total, 1e-9)

    @torch.no_grad()
    def after_backward(self) -> None:
        if self._price is None:
            found = [layer for layer in self.layers.values() if layer.weight.grad is not None]
            slopes = [float(layer.weight.grad.abs().mean()) * layer.step for layer in found if layer.weight.grad is not None]
            self._price = _FIRST_PRICE * sum(slopes) / max(len(slopes), 1)
        for layer in self.layers.values():
            layer.gather(self._price)

    @torch.no_grad()
    def after_step(self) -> None:
        for layer in self.layers.values():
            layer.scatter()

    def sparsity(self) -> float:
        """Zeros / all of the chosen weights."""
        return 1 - sum(int((layer.levels != 0).sum()) for layer in self.layers.values()) / self.total

    def state_dict(self) -> dict[str, Any]:
        layers = {name: layer.state_dict() for name, layer in self.layers.items()}
        return {"price": self._price, "bits": self._bits, "first": self._first, "next_look": self._next_look,
                "correction": self._correction, "looks": self._looks, "layers": layers}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._price, self._bits, self._first = state["price"], state["bits"], state["first"]
        self._next_look, self._correction, self._looks = state["next_look"], state["correction"], state["looks"]
        for name, layer in self.layers.items():
            layer.load_state_dict(state["layers"][name])


def _best_step(values: Tensor, count: int) -> float:
    """Of 40 steps the one whose levels are nearest to the values, in least squares."""
    largest = float(values.abs().max())
    steps = [largest * place / 40 / count for place in range(1, 41)] if largest > 0 else [1e-8]

    def error(step: float) -> float:
        return float(((values / step).round_().clamp_(-count, count).mul_(step) - values).square_().sum())

    return max(min(steps, key=error), 1e-8)
