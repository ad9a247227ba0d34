"""A linear or convolutional layer in integers: codes in, codes out, 32-bit accumulators in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepcompress.errors import ModelError, ParameterError
from deepcompress.quantize.affine import AffineArray, quantize_affine
from deepcompress.quantize.fixed_point.convolution import Convolution
from deepcompress.quantize.fixed_point.multiplier import MOST, fixed_multiplier, requantize
from deepcompress.quantize.grid import Grid

WEIGHTS = ("per-channel", "per-layer")
_MOST_BIAS = 2**30  # where this code chooses the weights' scale: as much again is left for the sum

Weights = str | Mapping[str, AffineArray]


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A linear layer or a two-dimensional convolution, with a ReLU perhaps, in integers alone.

    accumulator = sum over weight x (input code - input zero point) + bias, which 32 bits hold for any input: `reach` says so
    beforehand. A padded border has the input's zero point as its code, and so counts as 0. See `requantize` for the rest.

    Attributes:
        weight: int32 in the layer's shape: codes less their zero point.
        bias: int32, (out,), on the scale of input x weight.
        multiplier, shift: int64, (out,), of input scale x weight scale / output scale.
        weight_scale: float64, (out,); the arithmetic does not use it.
        input, output: the grids of the codes.
        lowest, highest: output codes are clamped to these; a ReLU raises the lowest to the zero point.
        reach: the greatest magnitude that an accumulator can have.
        convolution: its geometry; None for a linear layer.
    """

    weight: Tensor
    bias: Tensor
    multiplier: Tensor
    shift: Tensor
    weight_scale: Tensor
    input: Grid
    output: Grid
    lowest: int
    highest: int
    reach: int
    convolution: Convolution | None

    def __call__(self, codes: Tensor) -> Tensor:
        """Codes of the output grid, (n, out, h, w) or (..., out), from codes of the input's, (n, in, h, w) or (..., in)."""
        channels = (-1, 1, 1) if self.convolution is not None else (-1,)
        found = requantize(
            self.accumulate(codes),
            self.multiplier.view(channels),
            self.shift.view(channels),
            zero_point=self.output.zero_point,
            lowest=self.lowest,
            highest=self.highest,
        )
        return found.to(self.output.dtype)

    def accumulate(self, codes: Tensor) -> Tensor:
        """The accumulators, int32, bias included."""
        centred = codes.to(torch.int32) - self.input.zero_point
        if self.convolution is None:
            return F.linear(centred, self.weight) + self.bias
        return self.convolution.in_integers(centred, self.weight) + self.bias.view(-1, 1, 1)

    def in_floats(self, codes: Tensor, bias: Tensor | None) -> Tensor:
        """The same output by arithmetic in float64, with the layer's own bias: what the integers are checked against."""
        values = (codes.double() - self.input.zero_point) * self.input.scale
        weight = self.weight.double() * self.weight_scale.view(-1, *[1] * (self.weight.ndim - 1))
        offset = torch.zeros(len(weight)).double() if bias is None else bias.double()
        if self.convolution is None:
            given = F.linear(values, weight, offset)
        else:
            given = self.convolution.in_floats(values, weight) + offset.view(-1, 1, 1)
        places = torch.round(given / self.output.scale) + self.output.zero_point
        return places.clamp_(self.lowest, self.highest).to(self.output.dtype)


def integer_layer(
    module: nn.Module,
    input: Grid,
    output: Grid,
    *,
    weights: str | AffineArray = "per-channel",
    bits: int = 8,
    ceiling: float | None = None,
) -> IntegerLayer:
    """A layer's integer form.

    Args:
        module: nn.Linear, or nn.Conv2d with any stride, padding by zeros, dilation and groups. It is left as it is.
        input, output: grids of what it takes and gives; that of a ReLU's output where one is fused.
        weights: "per-channel" (each output channel has its own scale) or "per-layer"; symmetric, over all of the weights, and
            coarser where a bias would otherwise not fit 32 bits. Or the module's weight as `quantize_affine` gives it, along
            axis 0 or none.
        bits: of a weight, from 2 to 16, where it is quantized here.
        ceiling: None where no ReLU follows; infinite for a ReLU, 6 for a ReLU6: both become a clamp of the codes.

    Raises:
        ModelError: another kind of module, an accumulator or a bias that may not fit 32 bits, or weights that are not finite.
        ParameterError: an argument out of its range.

    Source: Jacob et al. 2018, sec. 2.2 to 2.4; scales per channel: Krishnamoorthi 2018, sec. 2.1. arXiv:1806.08342.
    """
    if not isinstance(module, nn.Linear | nn.Conv2d):
        raise ModelError(f"integer_layer: a {type(module).__name__} has no integer form here; Linear and Conv2d have")
    convolution = Convolution.of(module) if isinstance(module, nn.Conv2d) else None
    bias = torch.zeros(len(module.weight)) if module.bias is None else module.bias.detach().cpu()
    if not (bool(torch.isfinite(module.weight).all()) and bool(torch.isfinite(bias).all())):
        raise ModelError("integer_layer: weights or biases are NaN or infinite")
    weight, scale = _integer_weight(module.weight.detach().cpu(), bias.double(), input, weights, bits)
    integer_bias = torch.round(bias.double() / (input.scale * scale))
    farthest = max(input.highest - input.zero_point, input.zero_point - input.lowest)
    reach = int((weight.long().abs().flatten(1).sum(1) * farthest).double().add(integer_bias.abs()).max())
    if reach > MOST:
        raise ModelError(f"integer_layer: an accumulator may reach {reach:,}, and 32 bits hold {MOST:,}: give weights fewer bits")
    pairs = torch.tensor([fixed_multiplier(input.scale * float(each) / output.scale) for each in scale], dtype=torch.int64)
    lowest, highest = _clamp(output, ceiling)
    multiplier, shift = pairs.view(-1, 2).unbind(1)
    return IntegerLayer(
        weight, integer_bias.int(), multiplier, shift, scale, input, output, lowest, highest, reach, convolution
    )  # fmt: skip


def weights_for(names: Iterable[str], weights: Weights, owner: str) -> Callable[[str], str | AffineArray]:
    """Layer name -> how its weight is quantized; layers that a mapping leaves out get a scale per channel.

    Raises:
        ParameterError: a mapping has names of other layers.
    """
    if isinstance(weights, str):
        return lambda name: weights
    known = list(names)
    for name in weights:
        if name not in known:
            raise ParameterError.of("weights", owner, f"a mapping of layers, which are {known}", name)
    return lambda name: weights.get(name, "per-channel")


def _integer_weight(
    weight: Tensor, bias: Tensor, input: Grid, weights: str | AffineArray, bits: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Codes less their zero point, int32, and a scale for each output channel, float64."""
    if isinstance(weights, str):
        weights = _quantized(weight, bias, input, weights, bits)
    if tuple(weights.shape) != tuple(weight.shape) or weights.axis not in (None, 0):
        expected = f"a quantized weight of shape {tuple(weight.shape)}, along axis 0 or none"
        raise ParameterError.of("weights", "integer_layer", expected, f"{weights.shape} along axis {weights.axis}")
    codes, zero_point, scale = (torch.as_tensor(part).cpu() for part in (weights.codes, weights.zero_point, weights.scale))
    centred = codes.to(torch.int32) - zero_point.to(torch.int32).view(-1, *[1] * (weight.ndim - 1))
    return centred, scale.double().expand(len(weight)).clone()


def _quantized(weight: Tensor, bias: Tensor, input: Grid, weights: str, bits: int) -> AffineArray:
    """Symmetric codes over all of the weights, or over more where that keeps the bias within 31 bits."""
    if weights not in WEIGHTS:
        expected = f"one of {', '.join(map(repr, WEIGHTS))}, or what quantize_affine gives"
        raise ParameterError.of("weights", "integer_layer", expected, weights)
    if bits < 2:
        raise ParameterError.of("bits", "integer_layer", "an int from 2 to 16", bits)
    needed = bias.abs() / (input.scale * _MOST_BIAS) * (2 ** (bits - 1) - 1)
    bounds = torch.maximum(weight.double().abs().flatten(1).amax(1), needed)
    if weights == "per-layer":
        return quantize_affine(weight, bits, symmetric=True, low=-float(bounds.max()), high=float(bounds.max()))
    return quantize_affine(weight, bits, axis=0, symmetric=True, low=-bounds.numpy(), high=bounds.numpy())


def _clamp(output: Grid, ceiling: float | None) -> tuple[int, int]:
    """The codes between which a layer's output lies."""
    if ceiling is None:
        return output.lowest, output.highest
    top = output.quantize(torch.tensor(min(ceiling, output.high), dtype=torch.float64))
    return max(output.lowest, output.zero_point), int(top)
