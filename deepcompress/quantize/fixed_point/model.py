"""A whole network in integers: input codes to output codes without one float operation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepcompress.errors import ModelError, ParameterError
from deepcompress.quantize.affine import AffineArray
from deepcompress.quantize.calibration import Calibration
from deepcompress.quantize.fixed_point import pooling
from deepcompress.quantize.fixed_point.chain import Mean, Rows, chain_of
from deepcompress.quantize.fixed_point.layer import Weights, integer_layer, weights_for
from deepcompress.quantize.grid import Grid
from deepcompress.tensors.wrappers import bare

_OWNER = "FixedPointModel"
_PASS_ON = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

# A module between the layers -> (module, grid) -> codes to codes.
_BETWEEN: dict[type[nn.Module], Callable[[Any, Grid], Callable[[Tensor], Tensor]]] = {
    nn.ReLU: pooling.rectify,
    nn.ReLU6: pooling.rectify,
    nn.MaxPool2d: pooling.max_pool,
    nn.AvgPool2d: pooling.average_pool,
    nn.AdaptiveAvgPool2d: pooling.adaptive_average_pool,
    nn.Flatten: pooling.flatten,
    Rows: pooling.rows,
    Mean: pooling.mean,
}


@dataclass(frozen=True)
class Step:
    """One step of an integer network.

    Attributes:
        name: of the module, or of the function in the forward pass.
        run: codes to codes.
        grid: of the codes that it gives.
    """

    name: str
    run: Callable[[Tensor], Tensor]
    grid: Grid


class FixedPointModel:
    """A chain of layers as integers: convolutions, linear layers, ReLUs, poolings, flattening; dropout passes codes on.

    Floats occur before (`encode` an image) and after (`decode` the output's codes); in between, codes, accumulators of 32 bits,
    products of 64 bits. Between two layers there is one grid: that of the first one's output, after its ReLU.

    Args:
        model: a network whose forward pass is a chain of such modules or of the functions of the same names; batch norms folded
            (`fold_batch_norm`) before it was calibrated. It is left as it is.
        calibration: of this model, on it as it is.
        weights: "per-channel", "per-layer", or module name -> what `quantize_affine` made of its weight.
        bits: of a weight, where it is quantized here.

    Attributes:
        input, output: the grids of input and output.
        steps: what runs, in order.

    Raises:
        ModelError: a module or a function that has no integer form, named; or an accumulator that may not fit 32 bits.
        ParameterError: the calibration lacks a layer, or another argument is out of its range.

    Source: Jacob et al. Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference. CVPR 2018,
    sec. 2. arXiv:1712.05877.
    """

    def __init__(
        self, model: nn.Module, calibration: Calibration, *, weights: Weights = "per-channel", bits: int = 8
    ) -> None:  # fmt: skip
        if calibration.input is None:
            raise ParameterError.of("calibration", _OWNER, "of a network that takes a tensor of floats", "one without an input")
        chain = [(name, module) for name, module in chain_of(bare(model), _OWNER) if not isinstance(module, _PASS_ON)]
        layers = [name for name, module in chain if isinstance(module, nn.Linear | nn.Conv2d)]
        self.input = calibration.input.grid
        builder = _Builder(calibration, weights_for(layers, weights, _OWNER), bits)
        self.steps = tuple(builder.steps(chain, self.input))
        self.output = self.steps[-1].grid if self.steps else self.input

    def encode(self, inputs: Tensor) -> Tensor:
        """The codes of a batch of inputs, on the CPU."""
        return self.input.quantize(inputs.cpu())

    def run(self, codes: Tensor) -> Tensor:
        """The output's codes from the input's, in integers alone."""
        for step in self.steps:
            codes = step.run(codes)
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """The logits that output codes stand for, float32."""
        return self.output.dequantize(codes)

    def classes(self, inputs: Tensor) -> Tensor:
        """The class of each input, (n,) int64: where its greatest code is, the first where there are several."""
        return self.run(self.encode(inputs)).to(torch.int32).argmax(1)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits, float32, from inputs: `decode(run(encode(inputs)))`."""
        return self.decode(self.run(self.encode(inputs)))


@dataclass(frozen=True)
class _Builder:
    """Makes steps of modules."""

    calibration: Calibration
    weights: Callable[[str], str | AffineArray]
    bits: int

    def steps(self, chain: list[tuple[str, nn.Module]], grid: Grid) -> Iterator[Step]:
        """The chain's steps from a grid on; a ReLU right behind a layer becomes a part of it."""
        left = list(chain)
        while left:
            name, module = left.pop(0)
            if isinstance(module, nn.Linear | nn.Conv2d):
                relu = left.pop(0)[1] if left and isinstance(left[0][1], nn.ReLU | nn.ReLU6) else None
                step = self._layer(name, module, relu, grid)
            else:
                step = _between(name, module, grid)
            grid = step.grid
            yield step

    def _layer(self, name: str, module: nn.Module, relu: nn.Module | None, grid: Grid) -> Step:
        layers = self.calibration.layers
        given = layers[name].output if name in layers else None
        if given is None:
            expected = f"one with the output of layer {name!r}"
            raise ParameterError.of("calibration", _OWNER, expected, f"one of {', '.join(map(repr, layers))}")
        ceiling = None if relu is None else 6.0 if isinstance(relu, nn.ReLU6) else math.inf
        output = given.grid if ceiling is None else self.calibration.clipping.grid(given.observed.rectified(ceiling))
        try:
            layer = integer_layer(module, grid, output, weights=self.weights(name), bits=self.bits, ceiling=ceiling)
        except ModelError as error:
            raise ModelError(f"{_OWNER}, layer {name!r}: {error}") from error
        return Step(name, layer, output)


def _between(name: str, module: nn.Module, grid: Grid) -> Step:
    if isinstance(module, _BATCH_NORMS):
        raise ModelError(f"{_OWNER}: {name!r} is a batch norm by itself: fold_batch_norm(model), and calibrate what that gives")
    make = next((_BETWEEN[kind] for kind in type(module).__mro__ if kind in _BETWEEN), None)
    if make is None:
        raise ModelError(f"{_OWNER}: {name!r}, a {type(module).__name__}, has no integer form here")
    try:
        return Step(name, make(module, grid), grid)
    except ModelError as error:
        raise ModelError(f"{_OWNER}, {name!r}: {error}") from error
