"""How much a model's outputs change with its weights: measured on inputs alone, no labels are needed.

If the outputs are seen through many random directions, the mean square of a weight's gradient is its diagonal entry of the
Gauss-Newton matrix: the squared change of the outputs for a small change of this weight. How the changes of two weights of one
row add up follows from what the row is multiplied by.

Source: Martens, Grosse. Optimizing neural networks with Kronecker-factored approximate curvature. ICML 2015. arXiv:1503.05671
(its second factor without what two outputs have in common).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepcompress.errors import ModelError, PipelineError
from deepcompress.quantize.watching import call_with, evaluating, first_tensor
from deepcompress.tensors.wrappers import as_written, bare

_PLACES = 1 << 14  # of one call, whose second moments are taken
_MOST_COLUMNS = 8_192  # of a weight whose second moments are taken: they are half a gigabyte there, and grow with the square
_FLOOR = 1e-4  # of the mean sensitivity: what looks like no effect on few inputs has one on others


@dataclass(frozen=True, eq=False)
class Curvature:
    """Of one weight as a matrix of rows, one for each output: the outputs' squared change is about the sum over all rows of

        sensitivity x (change of the row)^T moments (change of the row)

    Attributes:
        sensitivity: (rows,) float64, above zero.
        moments: (groups, columns, columns) float64, the mean products of what a row is multiplied by; rows / groups rows that
            follow each other have one matrix in common. None: changes of a row's weights do not add up or cancel, or rows are so
            long (above 8,192) that it is not asked.
    """

    sensitivity: Tensor
    moments: Tensor | None = None


def relative_curvature(weight: Tensor) -> Curvature:
    """Where there are no inputs: a layer's relative squared error counts as much as any other layer's."""
    energy = float(weight.detach().double().square().sum())
    return Curvature(torch.full((rows_of(weight).shape[0],), 1 / energy if energy > 0 else 1.0, dtype=torch.float64))


def measure_curvature(
    model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Any], *, limit: int, probes: int = 4, seed: int = 0
) -> dict[str, Curvature]:
    """Run some batches through a model in eval mode, forwards and backwards.

    Args:
        model: any module; afterwards modes, gradients and hooks are as they were.
        weights: name -> weight of the model.
        batches: inputs alone, (inputs, ...) or mappings of keyword arguments.
        limit: so many batches are looked at, at most.
        probes: random directions of the outputs, for each batch.
        seed: of the directions.

    Returns:
        name -> curvature, of the weights that the outputs depend on.

    Raises:
        PipelineError: there are no batches, or no output that depends on a weight.
        ModelError: a gradient is not finite.
    """
    model = bare(model)
    squares = {name: torch.zeros(weight.shape, dtype=torch.float64, device=weight.device) for name, weight in weights.items()}
    moments = _Moments(weights)
    generator, seen = torch.Generator().manual_seed(seed), 0
    with ExitStack() as hooks, as_written(model), evaluating(model), _learning(weights), torch.enable_grad():
        moments.watch(model, hooks)
        for batch in islice(batches, limit):
            outputs = [found for found in _tensors(call_with(model, batch)) if found.requires_grad]
            _add_squares(outputs, weights, squares, probes, generator)
            seen += 1
    if not seen:
        raise PipelineError("curvature is measured on inputs, and the loader gives no batches")
    return {name: found for name in weights if (found := _curvature(name, squares[name], moments.of(name))) is not None}


def rows_of(weight: Tensor) -> Tensor:
    """A weight as a matrix with a row for each output; vectors are one row."""
    return weight.reshape(1, -1) if weight.ndim < 2 else weight.flatten(1)


def _curvature(name: str, squares: Tensor, moments: Tensor | None) -> Curvature | None:
    rows = rows_of(squares).mean(1)
    if not bool(torch.isfinite(rows).all()):
        raise ModelError(f"{name}: a gradient of the model's outputs is NaN or infinite")
    if not bool(rows.any()):
        return None
    if moments is not None:
        inputs = moments.diagonal(dim1=1, dim2=2).mean(1)
        rows = (rows.view(len(inputs), -1) / inputs.clamp_min(1e-30)[:, None]).reshape(-1)
    return Curvature(rows.clamp_min(float(rows.mean()) * _FLOOR), moments)


def _add_squares(
    outputs: list[Tensor], weights: Mapping[str, Tensor], squares: Mapping[str, Tensor], probes: int, generator: torch.Generator
) -> None:
    """Of the gradients of the outputs, seen through random directions."""
    if not outputs:
        raise PipelineError("curvature: no output of the model depends on a weight")
    for probe in range(probes):
        seen = torch.stack([(found * _direction(found, generator)).sum().float() for found in outputs]).sum()
        found = torch.autograd.grad(seen, list(weights.values()), retain_graph=probe + 1 < probes, allow_unused=True)
        for name, gradient in zip(weights, found, strict=True):
            if gradient is not None:
                squares[name].add_(gradient.detach().double().square_())


def _direction(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(tensor.shape, generator=generator).to(tensor)


def _tensors(output: Any) -> Iterator[Tensor]:
    """Every real floating-point tensor of an output."""
    if isinstance(output, Tensor):
        yield from (output,) if output.is_floating_point() else ()
    elif isinstance(output, Mapping):
        for item in output.values():
            yield from _tensors(item)
    elif isinstance(output, list | tuple):
        for item in output:
            yield from _tensors(item)


@contextmanager
def _learning(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Weights require gradients, and do as before afterwards."""
    before = {name: weight.requires_grad for name, weight in weights.items()}
    for weight in weights.values():
        weight.requires_grad_()
    try:
        yield
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(before[name])


class _Moments:
    """Second moments of what the rows of convolutions and linear layers are multiplied by."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._names = {id(weight): name for name, weight in weights.items()}
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def watch(self, model: nn.Module, hooks: ExitStack) -> None:
        for module in model.modules():
            name = self._names.get(id(getattr(module, "weight", None)))
            if name is None or not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
                continue
            if module.weight[0].numel() <= _MOST_COLUMNS:
                hooks.callback(module.register_forward_pre_hook(self._on_call(name), with_kwargs=True).remove)

    def of(self, name: str) -> Tensor | None:
        return self._sums[name] / self._counts[name] if name in self._sums else None

    def _on_call(self, name: str) -> Any:
        def add(module: Any, args: Any, kwargs: Any) -> None:
            taken = first_tensor(args, kwargs)
            if taken is not None and taken.numel():
                rows = _multiplied(module, taken.detach())
                self._sums[name] = self._sums.get(name, 0.0) + (rows.transpose(1, 2) @ rows).double()
                self._counts[name] = self._counts.get(name, 0) + rows.shape[1]

        return add


def _multiplied(module: nn.Linear | nn.Conv1d | nn.Conv2d, taken: Tensor) -> Tensor:
    """What rows of a weight are multiplied by, (groups, places, columns), at some thousand places."""
    if isinstance(module, nn.Linear):
        return taken.reshape(-1, taken.shape[-1])[None, :_PLACES].float()
    sides = 1 if isinstance(module, nn.Conv1d) else 2
    images = taken.reshape(-1, *taken.shape[-1 - sides :])
    images = images[: max(_PLACES // max(images[0, 0].numel() // _area(module.stride), 1), 1)].float()
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    images = F.pad(images, module._reversed_padding_repeated_twice, mode)
    if sides == 1:
        images = images.unsqueeze(2)
    size, dilation, stride = (_pair(side) for side in (module.kernel_size, module.dilation, module.stride))
    patches = F.unfold(images, size, dilation, 0, stride)  # (images, columns of all groups, places)
    return patches.transpose(0, 1).reshape(module.groups, -1, len(images) * patches.shape[2]).transpose(1, 2)


def _area(sides: tuple[int, ...]) -> int:
    return sides[0] * sides[-1] if len(sides) > 1 else sides[0]


def _pair(sides: tuple[int, ...]) -> tuple[int, int]:
    return (sides[0], sides[1]) if len(sides) > 1 else (1, sides[0])
