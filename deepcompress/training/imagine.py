"""Inputs for a network whose data nobody has: made so that its batch norms see the statistics that they saw in training.

Source: Cai et al. ZeroQ: a novel zero shot quantization framework. CVPR 2020. arXiv:2001.00281; Yin et al. Dreaming to distill.
CVPR 2020. arXiv:1912.08795 (the smoothness).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from deepcompress.errors import ModelError, ParameterError, TrainingError
from deepcompress.prune.ranking import is_within
from deepcompress.tensors.wrappers import as_written, bare
from deepcompress.training.batches import device_of
from deepcompress.training.progress import Report, progress_bar
from deepcompress.training.snapshot import mode_kept

_TOGETHER = 256  # inputs whose statistics are taken together
_LEAST_VARIANCE = 1e-8
_MOVE = 2  # places by which inputs are rolled at each step, at most, so that no edge is learned


def imagine_inputs(
    model: nn.Module, shape: Sequence[int], count: int = 256, *, steps: int = 200, lr: float = 0.1, smoothness: float = 0.2,
    seed: int = 0, quiet: bool = True,
) -> Tensor:  # fmt: skip
    """Make inputs that a network with batch norms takes for its training data, as far as their statistics go.

    They begin as noise, and follow the gradient of the distance between the mean and deviation that each batch norm sees in them
    and the running ones that it holds. They serve where a stage wants inputs and no labels: `RateQuantize`, distillation.

    Args:
        model: a module with batch norms that keep running statistics; afterwards it is as it was.
        shape: of one input, such as (3, 32, 32).
        count: of inputs; made 256 at a time.
        steps: of Adam, for each 256.
        lr: its learning rate, which falls to 0 along a cosine.
        smoothness: weight of the mean squared difference of neighbours along the dimensions of `shape` but the first; 0 for none.
        seed: of the noise.
        quiet: no progress bar.

    Returns:
        (count, *shape), float32, on the model's device.

    Raises:
        ModelError: there is no batch norm with running statistics that the inputs reach.
        ParameterError: an argument out of its range.
        TrainingError: inputs that are not finite: `lr` is too high.
    """
    shape = tuple(shape)
    _check(shape, count, steps, lr, smoothness)
    model = bare(model)
    generator, device = torch.Generator().manual_seed(seed), device_of(model)
    parts: list[Tensor] = []
    bar = progress_bar("imagine", steps * -(-count // _TOGETHER), quiet=quiet)
    with as_written(model), mode_kept(model), _fixed(model), torch.enable_grad(), bar as report:
        dream = _Dream(model.eval(), smoothness)
        for first in range(0, count, _TOGETHER):
            noise = torch.randn(min(_TOGETHER, count - first), *shape, generator=generator).to(device)
            parts.append(dream.follow(noise, steps, lr, generator, partial(_tell, report, len(parts) * steps)))
    return torch.cat(parts)


def _tell(report: Report, before: int, step: int, loss: float) -> None:
    report(before + step, loss, None)


class _Dream:
    """The distance of inputs from what a model's batch norms know, and the way to make it small."""

    def __init__(self, model: nn.Module, smoothness: float) -> None:
        self._model, self._smoothness = model, smoothness
        self._norms = [
            module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None
        ]  # fmt: skip
        if not self._norms:
            raise ModelError("inputs are imagined from the running statistics of batch norms, and the model has none")

    def follow(
        self, noise: Tensor, steps: int, lr: float, generator: torch.Generator, report: Callable[[int, float], None]
    ) -> Tensor:
        """Inputs (n, ...) that begin as `noise`."""
        inputs = noise.requires_grad_()
        optimizer = torch.optim.Adam([inputs], lr)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        sides = tuple(range(2, inputs.ndim))
        for step in range(steps):
            moves = torch.randint(-_MOVE, _MOVE + 1, (len(sides),), generator=generator).tolist()
            moved = inputs.roll(moves, sides) if sides else inputs
            loss = self._distance(moved) + self._smoothness * _roughness(moved)
            if not bool(torch.isfinite(loss)):
                raise TrainingError(f"imagined inputs became NaN or infinite at step {step + 1}; try a lower lr")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            report(step + 1, float(loss.detach()))
        return inputs.detach()

    def _distance(self, inputs: Tensor) -> Tensor:
        """Squared differences of mean and deviation, in running deviations; the sum over norms of the mean over channels."""
        found: list[Tensor] = []

        def look(norm: _BatchNorm, args: tuple[Tensor, ...]) -> None:
            found.append(_difference(norm, args[0].float()))

        with ExitStack() as hooks:
            for norm in self._norms:
                hooks.callback(norm.register_forward_pre_hook(look).remove)
            self._model(inputs)
        if not found:
            raise ModelError("inputs are imagined from the running statistics of batch norms, and these inputs reach none")
        return torch.stack(found).sum()


def _difference(norm: _BatchNorm, seen: Tensor) -> Tensor:
    places = [dim for dim in range(seen.ndim) if dim != 1]
    variance, mean = torch.var_mean(seen, places, correction=0)
    if norm.running_mean is None or norm.running_var is None:
        raise ModelError("a batch norm lost its running statistics")
    known = norm.running_var.float() + _LEAST_VARIANCE
    shift = (mean - norm.running_mean.float()).square()
    spread = ((variance + _LEAST_VARIANCE).sqrt() - known.sqrt()).square()
    return ((shift + spread) / known).mean()


def _roughness(inputs: Tensor) -> Tensor:
    """Mean squared difference of neighbours, summed over the dimensions after the second."""
    found = [inputs.diff(dim=dim).square().mean() for dim in range(2, inputs.ndim) if inputs.shape[dim] > 1]
    return torch.stack(found).sum() if found else inputs.new_zeros(())


@contextmanager
def _fixed(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient; afterwards each does as before."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def _check(shape: tuple[int, ...], count: int, steps: int, lr: float, smoothness: float) -> None:
    def require(name: str, value: object, holds: bool, expected: str) -> None:
        if not holds:
            raise ParameterError.of(name, "imagine_inputs", expected, value)

    require("shape", shape, bool(shape) and all(isinstance(side, int) and side > 0 for side in shape), "of ints above 0")
    require("count", count, isinstance(count, int) and count > 0, "an int above 0")
    require("steps", steps, isinstance(steps, int) and steps > 0, "an int above 0")
    require("lr", lr, is_within(lr, 0, math.inf) and lr > 0, "a number above 0")
    require("smoothness", smoothness, is_within(smoothness, 0, math.inf), "a number of at least 0")
