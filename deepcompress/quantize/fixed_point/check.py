"""Whole layers in integers against the same layers in floats, on real activations."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepcompress.errors import ModelError, ParameterError
from deepcompress.quantize.activations import layers_of
from deepcompress.quantize.affine import AffineArray
from deepcompress.quantize.calibration import Calibration, LayerActivations
from deepcompress.quantize.fixed_point.layer import IntegerLayer, Weights, integer_layer, weights_for
from deepcompress.quantize.watching import call_with, evaluating, first_tensor
from deepcompress.tensors.wrappers import as_written, bare

_OWNER = "check_fixed_point"


@dataclass(frozen=True)
class FixedPointRow:
    """How far one layer in integers is from float arithmetic on the same codes, weights and grids.

    Attributes:
        layer, kind: the module's name and class.
        values: how many output codes were compared.
        largest, mean: distance between the codes, in output steps. Roundings make at most 1, as long as a step of the
            accumulator (input scale x weight scale) is no longer than one of the output.
        differing: the share of codes that are not the same.
        reach_bits: of the greatest accumulator that any input could bring, with its sign; at most 32.
        seen_bits: of the greatest accumulator that there was.
    """

    layer: str
    kind: str
    values: int
    largest: int
    mean: float
    differing: float
    reach_bits: int
    seen_bits: int


def check_fixed_point(
    model: nn.Module, inputs: Any, calibration: Calibration, *, weights: Weights = "per-channel", bits: int = 8
) -> tuple[FixedPointRow, ...]:  # fmt: skip
    """Run every calibrated convolution (two-dimensional) and linear layer in integers, on what a batch brings it.

    Each layer takes the codes of its own float input, so that one layer's difference is not counted in the next. Beside it runs
    the same layer in float64 with the dequantized input and weight and the bias as it is; both outputs are compared as codes.

    Args:
        model: the model that was calibrated. It is left as it is.
        inputs: a batch, as for `calibrate`.
        calibration: of this model.
        weights: "per-channel", "per-layer", or module name -> what `quantize_affine` made of its weight.
        bits: of a weight, where it is quantized here.

    Returns:
        A row for each of these layers that the batch reached, in the model's order; calibrated layers of other kinds have none.

    Raises:
        ModelError: no such layer was reached, or one has no integer form (see `integer_layer`).
        ParameterError: the calibration is not of this model, or another argument is out of its range.
    """
    modules = layers_of(model, calibration, _OWNER)
    own = weights_for(modules, weights, _OWNER)
    comparisons = {
        name: _Comparison(name, modules[name], _integers(name, modules[name], layer, own(name), bits))
        for name, layer in calibration.layers.items()
        if isinstance(modules[name], nn.Linear | nn.Conv2d) and layer.input is not None
    }
    with ExitStack() as hooks, as_written(model), evaluating(model), torch.no_grad():
        for name, comparison in comparisons.items():
            hooks.callback(modules[name].register_forward_hook(comparison, with_kwargs=True).remove)
        call_with(bare(model), inputs)
    rows = tuple(comparison.row() for comparison in comparisons.values() if comparison.values)
    if not rows:
        raise ModelError(f"{_OWNER}: the batch reached no calibrated Linear or Conv2d")
    return rows


def _integers(name: str, module: nn.Module, layer: LayerActivations, weights: str | AffineArray, bits: int) -> IntegerLayer:
    if layer.input is None or layer.output is None:
        raise ParameterError.of("calibration", _OWNER, f"one with input and output of {name!r}", layer)
    try:
        return integer_layer(module, layer.input.grid, layer.output.grid, weights=weights, bits=bits)
    except ModelError as error:
        raise ModelError(f"{_OWNER}, layer {name!r}: {error}") from error


class _Comparison:
    """The hook behind one layer: runs it both ways, and sums up the differences over its calls."""

    def __init__(self, name: str, module: nn.Module, integers: IntegerLayer) -> None:
        self._name, self._integers, self._kind = name, integers, type(module).__name__
        self._bias: Any = None if module.bias is None else module.bias
        self.values = self._largest = self._sum = self._differing = self._seen = 0

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        taken = first_tensor(args, kwargs)
        if taken is None:
            return
        codes = self._integers.input.quantize(taken.cpu())
        bias: Tensor | None = None if self._bias is None else self._bias.detach().cpu()
        apart = (self._integers(codes).int() - self._integers.in_floats(codes, bias).int()).abs()
        if apart.numel():
            self.values += apart.numel()
            self._largest = max(self._largest, int(apart.max()))
            self._sum += int(apart.sum())
            self._differing += int(torch.count_nonzero(apart))
            self._seen = max(self._seen, int(self._integers.accumulate(codes).abs().max()))

    def row(self) -> FixedPointRow:
        """What was found."""
        return FixedPointRow(
            self._name,
            self._kind,
            self.values,
            self._largest,
            self._sum / self.values,
            self._differing / self.values,
            self._integers.reach.bit_length() + 1,
            self._seen.bit_length() + 1,
        )
