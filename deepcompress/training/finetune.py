"""Train shared values: one number per centroid learns, and all weights that share it move along."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deepcompress.errors import ParameterError
from deepcompress.training.checkpoint import Checkpoint
from deepcompress.training.history import History
from deepcompress.training.loop import Hooks, Loss, fit
from deepcompress.training.settings import TrainSettings
from deepcompress.training.validation import Measure


def finetune_centroids(
    model: nn.Module,
    train: Iterable[Any] | None,
    symbols: Mapping[str, Tensor],
    centroids: Mapping[str, Tensor],
    settings: TrainSettings,
    *,
    factors: Mapping[str, Tensor] | None = None,
    loss: Loss | None = None,
    validate: Measure | None = None,
    restore_best: bool = False,
    rest: bool = False,
    checkpoint: Checkpoint | None = None,
    quiet: bool = True,
) -> tuple[dict[str, Tensor], History]:
    """Train the centroids; the gradient of a centroid is the sum of the gradients of its weights.

    Args:
        model: its weights named in `symbols` hold nothing but zeros and centroids; it is trained in place. A weight that does
            not require gradients keeps every bit.
        symbols: weight name -> int64 tensor of the weight's shape; 0 is a pruned weight, s is centroid s - 1.
        centroids: weight name -> (k,) values.
        factors: weight name -> tensor of its shape; such a weight is the product of its factor and its centroid.
        rest: train all other parameters along; else they keep every bit (batch-norm statistics follow the batches all the same).
        train, settings, loss, validate, restore_best, checkpoint, quiet: as for `fit`.

    Returns:
        Weight name -> (k,) trained centroids, in the order given, no more sorted; float64 for float64 weights, else float32.
        And what was measured.

    Raises:
        ParameterError: names or shapes do not fit the model; otherwise as `fit`.

    Source: Han, Mao, Dally. Deep Compression. ICLR 2016, sec. 3.3.
    """
    parameters = dict(model.named_parameters())
    factors = factors or {}
    shared = [_Shared(name, parameters, symbols[name], centroids[name], factors.get(name)) for name in symbols]
    learning = [one for one in shared if one.weight.requires_grad]
    theirs = {id(one.weight) for one in shared}
    others = [p for p in parameters.values() if rest and p.requires_grad and id(p) not in theirs]

    def gather() -> None:
        for one in learning:
            one.gather()

    def scatter() -> None:
        for one in learning:
            one.scatter()

    def look(progress: float) -> None:
        for one in learning:
            one.remember(progress)

    learns = [*(one.centroids for one in learning), *others]
    hooks = Hooks(learns, look=look, after_backward=gather, after_step=scatter, state=_All(shared), title="finetune")
    with _only_these_learn(model, [*(one.weight for one in learning), *others]):
        history = fit(
            model, train, settings, loss=loss, validate=validate, restore_best=restore_best, checkpoint=checkpoint, hooks=hooks,
            quiet=quiet,
        )  # fmt: skip
    return {one.name: one.values(history.kept) for one in shared}, history


class _Shared:
    """One weight and the values that it shares."""

    def __init__(
        self, name: str, parameters: Mapping[str, nn.Parameter], symbols: Tensor, centroids: Tensor, factors: Tensor | None
    ) -> None:  # fmt: skip
        if name not in parameters or parameters[name].shape != symbols.shape:
            shape = tuple(symbols.shape)
            raise ParameterError(f"finetune: {name!r} with symbols of shape {shape} is no such parameter of the model")
        self.name, self.weight = name, parameters[name]
        self._symbols = symbols.reshape(-1).to(self.weight.device)
        if symbols.numel() and not 0 <= int(symbols.min()) <= int(symbols.max()) <= len(centroids):
            expected = f"from 0 to {len(centroids)}, the number of centroids"
            raise ParameterError.of("symbols", f"finetune, {name!r}", expected, f"{int(symbols.min())} to {int(symbols.max())}")
        kind = torch.float64 if self.weight.dtype == torch.float64 else torch.float32
        self.centroids = centroids.detach().to(self.weight.device, kind).clone().requires_grad_()
        self._factors = None if factors is None else factors.detach().to(self.weight.device, kind).reshape(-1)
        self._remembered: dict[int, Tensor] = {}

    def gather(self) -> None:
        """Sum the weights' gradients into their centroids; in float64, for a centroid may have a million weights."""
        gradient = self.weight.grad
        sums = torch.zeros(len(self.centroids) + 1, dtype=torch.float64, device=self.weight.device)
        if gradient is not None:
            flat = gradient.to_dense().reshape(-1).double()
            sums.index_add_(0, self._symbols, flat if self._factors is None else flat * self._factors)
        self.centroids.grad = sums[1:].to(self.centroids.dtype)
        self.weight.grad = None

    def scatter(self) -> None:
        """Write the centroids into the weights; pruned ones stay +0.0."""
        with torch.no_grad():
            found = self._table()[self._symbols]
            self.weight.copy_((found if self._factors is None else found * self._factors).reshape(self.weight.shape))

    def remember(self, progress: float) -> None:
        """Keep what cannot be read off the weights: the centroids at the end of each epoch."""
        if self._factors is not None and progress == int(progress):
            self._remembered[int(progress)] = self.centroids.detach().clone()

    def state_dict(self) -> dict[str, Any]:
        return {"centroids": self.centroids, "remembered": self._remembered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            self.centroids.copy_(state["centroids"])
        self._remembered = {epoch: values.to(self.centroids.device) for epoch, values in state["remembered"].items()}

    def values(self, epoch: int | None) -> Tensor:
        """The centroids as the weights have them now (those of `epoch`, which was kept); those without weights as they came."""
        if self._factors is not None:
            return self._remembered.get(epoch or 0, self.centroids.detach()).clone()
        table = self._table()
        table[self._symbols] = self.weight.detach().reshape(-1).to(table.dtype)
        return table[1:].clone()

    def _table(self) -> Tensor:
        """Symbol -> value."""
        return torch.cat([self.centroids.new_zeros(1), self.centroids.detach()])


class _All:
    """All of them as one part of a checkpoint."""

    def __init__(self, shared: Sequence[_Shared]) -> None:
        self._shared = shared

    def state_dict(self) -> dict[str, Any]:
        return {one.name: one.state_dict() for one in self._shared}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for one in self._shared:
            one.load_state_dict(state[one.name])


@contextmanager
def _only_these_learn(model: nn.Module, learning: list[Tensor]) -> Iterator[None]:
    """Turn gradients off for all other parameters, and on again afterwards."""
    chosen = {id(tensor) for tensor in learning}
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for parameter in before:
        parameter.requires_grad_(id(parameter) in chosen)
    try:
        yield
    finally:
        for parameter, learns in before.items():
            parameter.requires_grad_(learns)
