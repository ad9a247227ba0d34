"""Train shared values: one number per centroid learns, and all weights that share it move along."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deepcompress.errors import ParameterError
from deepcompress.training.loop import Hooks, Loss, Measure, fit
from deepcompress.training.settings import TrainSettings


def finetune_centroids(
    model: nn.Module,
    train: Iterable[Any] | None,
    symbols: Mapping[str, Tensor],
    centroids: Mapping[str, Tensor],
    settings: TrainSettings,
    *,
    loss: Loss | None = None,
    validate: Measure | None = None,
    restore_best: bool = False,
    rest: bool = False,
    quiet: bool = True,
) -> dict[str, Tensor]:
    """Train the centroids; the gradient of a centroid is the sum of the gradients of its weights.

    Args:
        model: its weights named in `symbols` hold nothing but zeros and centroids; it is trained in place.
        symbols: weight name -> int64 tensor of the weight's shape; 0 is a pruned weight, s is centroid s - 1.
        centroids: weight name -> (k,) values.
        rest: train all other parameters along; else they keep every bit (batch-norm statistics follow the batches all the same).
        train, settings, loss, validate, restore_best, quiet: as for `fit`.

    Returns:
        Weight name -> (k,) trained centroids, in the order given, no more sorted.

    Raises:
        ParameterError: names or shapes do not fit the model; otherwise as `fit`.

    Source: Han, Mao, Dally. Deep Compression. ICLR 2016, sec. 3.3.
    """
    shared = [_Shared(name, model, symbols[name], centroids[name]) for name in symbols]
    with _only_these_learn(model, {id(one.weight) for one in shared}, rest):
        others = [p for p in model.parameters() if p.requires_grad and all(p is not one.weight for one in shared)]
        hooks = Hooks(
            parameters=[one.centroids for one in shared] + others,
            after_backward=lambda: [one.gather() for one in shared],
            after_step=lambda: [one.scatter() for one in shared],
        )
        fit(
            model, train, settings, loss=loss, validate=validate, restore_best=restore_best, hooks=hooks, title="finetune", quiet=quiet
        )  # fmt: skip
    return {one.name: one.values() for one in shared}


class _Shared:
    """One weight and the values that it shares."""

    def __init__(self, name: str, model: nn.Module, symbols: Tensor, centroids: Tensor) -> None:
        parameters = dict(model.named_parameters())
        if name not in parameters or parameters[name].shape != symbols.shape:
            raise ParameterError(f"finetune: {name!r} with symbols of shape {tuple(symbols.shape)} is no such parameter of the model")
        self.name, self.weight = name, parameters[name]
        self._symbols = symbols.reshape(-1).to(self.weight.device)
        self.centroids = centroids.detach().to(self.weight.device, torch.float32).clone().requires_grad_()

    def gather(self) -> None:
        """Sum the weights' gradients into their centroids; in float64, for a centroid may have a million weights."""
        gradient = self.weight.grad
        sums = torch.zeros(len(self.centroids) + 1, dtype=torch.float64, device=self.weight.device)
        if gradient is not None:
            sums.index_add_(0, self._symbols, gradient.reshape(-1).double())
        self.centroids.grad = sums[1:].to(self.centroids.dtype)
        self.weight.grad = None

    def scatter(self) -> None:
        """Write the centroids into the weights; pruned ones stay +0.0."""
        with torch.no_grad():
            table = torch.cat([self.centroids.new_zeros(1), self.centroids.detach()])
            self.weight.copy_(table[self._symbols].reshape(self.weight.shape))

    def values(self) -> Tensor:
        """The centroids as the weights have them now (the best epoch's, perhaps); those without weights as they came."""
        table = torch.cat([self.centroids.new_zeros(1), self.centroids.detach()])
        table[self._symbols] = self.weight.detach().reshape(-1).to(table.dtype)
        return table[1:].clone()


@contextmanager
def _only_these_learn(model: nn.Module, shared: set[int], rest: bool) -> Iterator[None]:
    """Turn gradients off for all other parameters, unless `rest`, and on again afterwards."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for parameter in before:
        parameter.requires_grad_(id(parameter) in shared or (rest and before[parameter]))
    try:
        yield
    finally:
        for parameter, learns in before.items():
            parameter.requires_grad_(learns)
