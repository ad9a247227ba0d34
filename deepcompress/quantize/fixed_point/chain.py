"""A network's forward pass as a chain of modules, read from its code by torch.fx; and the pairs of layer and batch norm in it."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from deepcompress.errors import ModelError
from deepcompress.quantize.watching import evaluating

# What fx raises for code that it cannot follow: branches on values, len() of a batch, shapes used as numbers.
_UNTRACEABLE = (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError)


class Mean(nn.Module):
    """`maps.mean((2, 3))`, which some networks write for global average pooling; gives (n, c)."""


class Rows(nn.Module):
    """`maps.view(len(maps), features)`: one row for each image, of so many values where that is said."""

    def __init__(self, features: int | None) -> None:
        super().__init__()
        self.features = features


def chain_of(model: nn.Module, owner: str) -> list[tuple[str, nn.Module]]:
    """The modules that a batch passes in eval mode, in order, functions and methods as the modules that do the same.

    Raises:
        ModelError: the code cannot be followed, branches, adds or does anything else that is no chain of known steps.
    """
    if not any(True for _ in model.children()):
        return [("", model)]
    graph = _graph(model)
    if graph is None:
        raise ModelError(f"{owner}: torch.fx cannot follow the forward pass of {type(model).__name__}: is it a chain of modules?")
    modules, steps = dict(model.named_modules()), []
    last: fx.Node | None = None
    for node in graph.nodes:
        if _is_size(node) or node.op == "output":
            continue
        if node.op == "placeholder":
            if last is not None and node.users:
                raise ModelError(f"{owner}: {type(model).__name__} takes more than one input")
        else:
            _check_place(node, last, owner)
            steps.append((_name(node), _module(node, modules, owner)))
        if last is None or node.op != "placeholder":
            last = node
    return steps


def norm_pairs(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of each layer and the batch norm that alone takes its output, both called once.

    Where the code cannot be traced, the neighbours in the model's Sequentials.
    """
    graph = _graph(model)
    if graph is None:
        yield from _neighbours(model)
        return
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    modules = dict(model.named_modules())
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        if calls[node.target] == calls[before.target] == 1 and belong(modules[before.target], modules[node.target]):
            yield str(before.target), str(node.target)


def belong(layer: nn.Module, norm: nn.Module) -> bool:
    """Whether this norm's statistics are those of this layer's output channels."""
    kinds = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d, nn.Linear: nn.BatchNorm1d}
    fits = any(isinstance(layer, kind) and isinstance(norm, norm_kind) for kind, norm_kind in kinds.items())
    return fits and getattr(norm, "running_mean", None) is not None and len(layer.weight) == norm.num_features  # type: ignore[arg-type]


def _graph(model: nn.Module) -> fx.Graph | None:
    try:
        with evaluating(model):
            return fx.Tracer().trace(model)
    except _UNTRACEABLE:
        return None


def _neighbours(model: nn.Module) -> Iterator[tuple[str, str]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential):
            inside = [(f"{name}.{key}" if name else key, child) for key, child in module.named_children()]
            for (first, layer), (second, norm) in pairwise(inside):
                if belong(layer, norm):
                    yield first, second


def _check_place(node: fx.Node, last: fx.Node | None, owner: str) -> None:
    """A chain's step takes what the step before gave, and nothing else that was computed."""
    taken = [each for each in node.all_input_nodes if not _is_size(each)]
    if taken != [last]:
        what = f"{_name(node)} takes {_names(taken)}"
        raise ModelError(f"{owner}: {what}; only a chain, in which each step takes what the last one gave, has an integer form")


def _is_size(node: fx.Node) -> bool:
    """Part of a shape: x.size(0), x.shape, x.shape[0]."""
    if node.op == "call_method" and node.target == "size":
        return True
    if node.op == "call_function" and node.target is getattr and node.args[1] == "shape":
        return True
    source = node.args[0] if node.op == "call_function" and node.target is operator.getitem else None
    return isinstance(source, fx.Node) and _is_size(source)


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _names(nodes: list[fx.Node]) -> str:
    return " and ".join(_name(node) for node in nodes) or "no tensor"


def _module(node: fx.Node, modules: Mapping[str, nn.Module], owner: str) -> nn.Module:
    """The module that a step calls, or one that does what its function or method does."""
    if node.op == "call_module":
        return modules[str(node.target)]
    make = _SAME_AS.get(node.target)
    if make is None:
        what = getattr(node.target, "__name__", node.target)
        raise ModelError(f"{owner}: {node.name} ({what}) has no integer form here")
    try:
        return make(*node.args[1:], **{key: value for key, value in node.kwargs.items() if key != "input"})
    except TypeError:
        raise ModelError(f"{owner}: {node.name} is called in a way that has no integer form here") from None


def _relu(inplace: bool = False) -> nn.Module:
    return nn.ReLU()


def _dropout(p: float = 0.5, training: bool = True, inplace: bool = False) -> nn.Module:
    if training:  # F.dropout(x) without training=self.training
        raise TypeError("drops values in eval mode too")
    return nn.Identity()


def _flatten(start_dim: int = 0, end_dim: int = -1) -> nn.Module:
    return nn.Flatten(start_dim, end_dim)


def _reshape(*shape: Any) -> nn.Module:
    """`x.view(x.size(0), -1)` in its forms: what does not keep the images apart is none of ours."""
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
    if len(sizes) != 2 or not isinstance(sizes[1], int) or not (isinstance(sizes[0], fx.Node) or sizes[0] == -1 != sizes[1]):
        raise TypeError("no row per image")
    return Rows(sizes[1] if sizes[1] >= 0 else None)


def _mean(dim: Any = None, keepdim: bool = False) -> nn.Module:
    dims = tuple(dim) if isinstance(dim, tuple | list) else (dim,)
    if sorted(each % 4 for each in dims if isinstance(each, int)) != [2, 3]:
        raise TypeError("no global pooling")
    return nn.AdaptiveAvgPool2d(1) if keepdim else Mean()


_SAME_AS: dict[Any, Callable[..., nn.Module]] = {
    **dict.fromkeys((F.relu, torch.relu, "relu", "relu_"), _relu),
    **dict.fromkeys((F.dropout, F.dropout2d), _dropout),
    **dict.fromkeys((torch.flatten, "flatten"), _flatten),
    **dict.fromkeys(("view", "reshape", torch.reshape), _reshape),
    **dict.fromkeys((torch.mean, "mean"), _mean),
    F.relu6: lambda inplace=False: nn.ReLU6(),
    F.max_pool2d: nn.MaxPool2d,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    "contiguous": nn.Identity,
}
