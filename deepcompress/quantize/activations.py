"""Fake quantization: a network that runs in floats, on activations that have been rounded to few bits."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from deepcompress.errors import ParameterError
from deepcompress.quantize.calibration import Calibration, LayerActivations
from deepcompress.quantize.grid import Grid
from deepcompress.quantize.watching import first_tensor, output_tensor, with_first_tensor, with_output_tensor
from deepcompress.tensors.wrappers import as_written, bare, bare_modules


def fake_quantize(values: Tensor, grid: Grid) -> Tensor:
    """Each value's nearest one on the grid, of the values' type and shape.

    Gradients go straight through where a value lies within the grid's range, and are 0 where it is clipped.

    Source: Bengio, Léonard, Courville. Estimating or propagating gradients through stochastic neurons. 2013. arXiv:1308.3432;
    Krishnamoorthi 2018, sec. 2.4. arXiv:1806.08342.
    """
    rounded: Tensor = torch.fake_quantize_per_tensor_affine(values, grid.scale, grid.zero_point, grid.lowest, grid.highest)
    return rounded


class quantize_activations:  # noqa: N801 (used like a function: `with quantize_activations(...)`)
    """Let every calibrated layer of a model see, and give, activations rounded to its grids.

    From the moment it is made: as a context until that is left, or as a handle until `remove()`. Nothing else changes: not
    the state dict, no class, no parameter, and not the arithmetic, which stays in floats. A deepcopy of the model is a model of
    its own, whose activations nothing rounds. A compiled model that is given (it, not the module inside) runs uncompiled
    until then, for compiled code takes no notice.

    Args:
        model: the model that was calibrated, or one with the same modules.
        calibration: what `calibrate` gave.
        inputs: round what the layers take, and the model's own input.
        outputs: round what the layers give.

    Raises:
        ParameterError: the model lacks a layer of the calibration, or nothing is to be rounded.
    """

    def __init__(self, model: nn.Module, calibration: Calibration, *, inputs: bool = True, outputs: bool = True) -> None:
        if not isinstance(calibration, Calibration):
            raise ParameterError.of("calibration", "quantize_activations", "what calibrate gives", type(calibration).__name__)
        if not (inputs or outputs):
            raise ParameterError.of("inputs, outputs", "quantize_activations", "True, one of them at least", (inputs, outputs))
        modules = layers_of(model, calibration, "quantize_activations")
        with ExitStack() as hooks:
            hooks.enter_context(as_written(model))
            if inputs and calibration.input is not None:
                hooks.callback(bare(model).register_forward_pre_hook(_Input(calibration.input.grid), with_kwargs=True).remove)
            for name, layer in calibration.layers.items():
                _hook(modules[name], layer, inputs, outputs, hooks)
            self._hooks = hooks.pop_all()

    def remove(self) -> None:
        """Take every hook away; a second time does nothing."""
        self._hooks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()


def layers_of(model: nn.Module, calibration: Calibration, owner: str) -> dict[str, nn.Module]:
    """The modules of a model by the names in a calibration. Raises ParameterError where one is not there."""
    modules = dict(bare_modules(bare(model)))
    missing = [name for name in calibration.layers if name not in modules]
    if missing:
        expected = "of this model, or of one with the same modules"
        raise ParameterError.of("calibration", owner, expected, f"one with {', '.join(map(repr, missing[:6]))}")
    return {name: modules[name] for name in calibration.layers}


def _hook(module: nn.Module, layer: LayerActivations, inputs: bool, outputs: bool, hooks: ExitStack) -> None:
    if inputs and layer.input is not None:
        hooks.callback(module.register_forward_pre_hook(_Input(layer.input.grid), with_kwargs=True).remove)
    if outputs and layer.output is not None:
        hooks.callback(module.register_forward_hook(_Output(layer.output.grid)).remove)


class _Input:
    """The hook before a forward pass. Copied or pickled along with the model, it becomes one that does nothing."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        tensor = first_tensor(args, kwargs)
        return None if tensor is None else with_first_tensor(args, kwargs, fake_quantize(tensor, self._grid))

    def __reduce__(self) -> tuple[type[_Nothing], tuple[()]]:  # deepcopy asks this too
        return _Nothing, ()


class _Output:
    """The hook after a forward pass, with the same rule for copies."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        tensor = output_tensor(output)
        return None if tensor is None else with_output_tensor(output, fake_quantize(tensor, self._grid))

    def __reduce__(self) -> tuple[type[_Nothing], tuple[()]]:
        return _Nothing, ()


class _Nothing:
    def __call__(self, *_: Any) -> None:
        return None
