"""Scales for activations from calibration data: watch a network at work, then choose a range for what layers take and give."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from deepcompress.errors import ModelError, ParameterError
from deepcompress.quantize.clipping import Clipping
from deepcompress.quantize.grid import Grid
from deepcompress.quantize.observe import Observed, Observer
from deepcompress.quantize.watching import call_with, evaluating, first_tensor, output_tensor, select_modules
from deepcompress.tensors.wrappers import as_written, bare

_FORMAT = "deepcompress calibration"
_VERSION = 1
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Activation:
    """One tensor of activations: what was observed, and the grid that was chosen for it."""

    observed: Observed
    grid: Grid

    def __str__(self) -> str:
        seen, grid = self.observed, self.grid
        codes = f"{grid.bits} bits: scale {grid.scale:.4g}, zero point {grid.zero_point}, {grid.low:.4g} to {grid.high:.4g}"
        return f"{seen.low:.4g} to {seen.high:.4g} ({seen.zeros / seen.total:.0%} zeros), {codes}"

    @property
    def scale(self) -> float:
        """The step of the grid."""
        return self.grid.scale

    @property
    def zero_point(self) -> int:
        """The code of 0.0."""
        return self.grid.zero_point

    @property
    def bits(self) -> int:
        """Of a code."""
        return self.grid.bits


@dataclass(frozen=True)
class LayerActivations:
    """What a layer takes and what it gives, over all its calls; None where that was no tensor of a floating-point type."""

    input: Activation | None
    output: Activation | None
    calls: int


@dataclass(frozen=True)
class Calibration:
    """Scales and zero points for the activations of a network, with the histograms that they come from.

    Attributes:
        layers: module name -> its activations, in the model's order; a module that is called several times has one entry.
        input: of the whole network, None where its first argument is no tensor of a floating-point type.
        clipping: method, bits and the rest.
        batches: how many were seen.
        uncalled: chosen modules that no batch reached; they have no entry in `layers`.
    """

    layers: Mapping[str, LayerActivations]
    input: Activation | None
    clipping: Clipping
    batches: int
    uncalled: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A line for each activation: what was observed, what codes it gets."""
        named = [("network", "takes", self.input)]
        for name, layer in self.layers.items():
            named += [(repr(name), "takes", layer.input), (repr(name), "gives", layer.output)]
        width = max(len(name) for name, _, _ in named)
        return "\n".join(f"{name:<{width}} {what} {activation}" for name, what, activation in named if activation is not None)

    def rescaled(self, **changes: Any) -> Calibration:
        """The same observations with other `method`, `bits`, `symmetric` or `percentile`; no data is needed.

        Raises:
            ParameterError: a value is out of its range, or there is no such field.
        """
        unknown = changes.keys() - asdict(self.clipping).keys()
        if unknown:
            expected = f"among {', '.join(map(repr, asdict(self.clipping)))}"
            raise ParameterError.of("changes", "Calibration.rescaled", expected, sorted(unknown))
        clipping = replace(self.clipping, **changes)
        layers = {
            name: LayerActivations(_regridded(layer.input, clipping), _regridded(layer.output, clipping), layer.calls)
            for name, layer in self.layers.items()
        }
        return replace(self, layers=layers, input=_regridded(self.input, clipping), clipping=clipping)

    def to_json(self, *, indent: int | None = None) -> str:
        """As JSON text, histograms included; floats come back in every bit."""
        data = {"format": _FORMAT, "version": _VERSION, **asdict(self), "layers": {k: asdict(v) for k, v in self.layers.items()}}
        return json.dumps(data, indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """What `to_json` wrote.

        Raises:
            ParameterError: this is no JSON, of something else, or contradicts itself.
        """
        try:
            data = json.loads(text)
            if not isinstance(data, dict) or (data.get("format"), data.get("version")) != (_FORMAT, _VERSION):
                expected = f"JSON of format {_FORMAT!r}, version {_VERSION}"
                raise ParameterError.of("text", "Calibration.from_json", expected, text[:60])
            return cls(
                {name: _layer_of(layer) for name, layer in data["layers"].items()},
                _activation_of(data["input"]),
                Clipping(**data["clipping"]),
                data["batches"],
                tuple(data["uncalled"]),
            )
        except ParameterError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise ParameterError.of("text", "Calibration.from_json", "JSON as to_json writes it", what) from error


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    bits: int = 8,
    method: str = "minmax",
    symmetric: bool = False,
    percentile: float = 99.99,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    types: Sequence[str] | None = None,
) -> Calibration:
    """Run batches through a model and choose a grid for the input and the output of its layers, and for the model's input.

    The model runs in eval mode, without gradients; afterwards modes and hooks are as they were, also after an error. Memory does
    not grow with the number of batches: ranges are exact, all else comes from histograms (see `Observer`).

    Args:
        model: any module, on any device. What `torch.compile` and data parallelism put around it is left out, also of names.
        batches: inputs alone, (inputs, targets) of which the first item is taken, or mappings of keyword arguments; some
            hundred images are usually enough. They are moved to the model's device, and read once.
        bits: of a code, from 2 to 16.
        method: "minmax", "percentile", or "mse": see `Clipping`.
        symmetric: the same range on both sides of zero, so that the zero point is 0.
        percentile: of the method "percentile".
        include, exclude: glob patterns, matched against a module's name and those of the modules around it.
        types: class names of modules, base classes among them; by default convolutions (not transposed) and linear layers. Of a
            module that gives a tuple, an LSTM say, the first tensor is observed.

    Raises:
        ParameterError: no batches, a pattern or a type that matches nothing, or another argument out of its range.
        ModelError: an activation that is NaN or infinite, or batches that reach none of the chosen layers.

    Source: Krishnamoorthi. Quantizing deep convolutional networks for efficient inference. 2018. arXiv:1806.08342; Nagel et al.
    A white paper on neural network quantization. 2021, sec. 3.1. arXiv:2106.08295.
    """
    clipping, model = Clipping(method, bits, symmetric, percentile), bare(model)
    modules = select_modules(model, include=include, exclude=exclude, types=types, owner="calibrate")
    watch = _Watch(modules)
    seen = watch.run(model, batches)
    layers = {name: layer for name in modules if (layer := watch.layer(name, clipping)) is not None}
    uncalled = tuple(name for name in modules if name not in layers)
    if not layers:
        raise ModelError(f"calibrate: {seen} batches reached none of the chosen layers ({', '.join(map(repr, modules))})")
    if uncalled:
        _LOGGER.info("calibrate: no batch reached %s; they are left out", ", ".join(map(repr, uncalled)))
    return Calibration(layers, _activation(watch.input, clipping), clipping, seen, uncalled)


class _Watch:
    """The observers of one calibration, and the hooks that feed them."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self.input = Observer("calibrate: the network's input")
        self._inputs = {name: Observer(f"calibrate: the input of layer {name!r}") for name in modules}
        self._outputs = {name: Observer(f"calibrate: the output of layer {name!r}") for name in modules}
        self._calls = dict.fromkeys(modules, 0)

    def run(self, model: nn.Module, batches: Iterable[Any]) -> int:
        """Feed all batches, whose number it gives."""
        seen = 0
        with ExitStack() as hooks, as_written(model), evaluating(model), torch.no_grad():
            hooks.callback(model.register_forward_pre_hook(self._on_input, with_kwargs=True).remove)
            for name, module in self._modules.items():
                hooks.callback(module.register_forward_hook(self._on_call(name), with_kwargs=True).remove)
            for batch in batches:
                call_with(model, batch)
                seen += 1
        if not seen:
            raise ParameterError.of("batches", "calibrate", "an iterable of at least one batch", "none")
        return seen

    def layer(self, name: str, clipping: Clipping) -> LayerActivations | None:
        """What was seen of a layer; None where it was never called."""
        if not self._calls[name]:
            return None
        taken, given = (_activation(observers[name], clipping) for observers in (self._inputs, self._outputs))
        return LayerActivations(taken, given, self._calls[name])

    def _on_input(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        tensor = first_tensor(args, kwargs)
        if tensor is not None:
            self.input.add(tensor)

    def _on_call(self, name: str) -> Any:
        def observe(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self._calls[name] += 1
            if (taken := first_tensor(args, kwargs)) is not None:
                self._inputs[name].add(taken)
            if (given := output_tensor(output)) is not None:
                self._outputs[name].add(given)

        return observe


def _activation(observer: Observer, clipping: Clipping) -> Activation | None:
    observed = observer.result()
    return None if observed is None else Activation(observed, clipping.grid(observed))


def _regridded(activation: Activation | None, clipping: Clipping) -> Activation | None:
    return None if activation is None else Activation(activation.observed, clipping.grid(activation.observed))


def _layer_of(data: Mapping[str, Any]) -> LayerActivations:
    return LayerActivations(_activation_of(data["input"]), _activation_of(data["output"]), data["calls"])


def _activation_of(data: Mapping[str, Any] | None) -> Activation | None:
    return None if data is None else Activation(Observed.from_config(data["observed"]), Grid.from_config(data["grid"]))
