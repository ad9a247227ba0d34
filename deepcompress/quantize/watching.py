"""Which modules of a network are watched, and the hooks through which their activations are seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from deepcompress.errors import ParameterError
from deepcompress.layers.select import some_of, strings_given
from deepcompress.tensors.wrappers import bare_modules

DEFAULT_TYPES = ("Conv1d", "Conv2d", "Conv3d", "Linear")


def select_modules(
    model: nn.Module,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    types: Sequence[str] | None = None,
    owner: str,
) -> dict[str, nn.Module]:
    """Choose modules by name and by type.

    Args:
        model: any module.
        include: glob patterns, matched against a module's full name ("layer1.0.conv1") and those of the modules around it
            ("layer1"). Without it, all of the types are taken.
        exclude: patterns of what to leave out again.
        types: class names, base classes among them; convolutions and linear layers by default.
        owner: who asks, for the errors.

    Returns:
        name -> module, in the model's order, a shared one once under its first name.

    Raises:
        ParameterError: a pattern or a type matches nothing, or nothing is left.
    """
    places = _places(model)
    kinds = strings_given("types", types, owner) if types is not None else DEFAULT_TYPES
    for kind in types or ():
        if not any(_is_a(module, kind) for module, _ in places.values()):
            there = some_of(sorted({type(module).__name__ for module, _ in places.values()}))
            raise ParameterError.of("types", owner, f"class names of modules in the model, which has {there}", kind)
    chosen = {name: scopes for name, (module, scopes) in places.items() if any(_is_a(module, kind) for kind in kinds)}
    if include is not None:
        taken = _matching("include", strings_given("include", include, owner), chosen, owner)
        chosen = {name: scopes for name, scopes in chosen.items() if name in taken}
    if exclude is not None:
        dropped = _matching("exclude", strings_given("exclude", exclude, owner), chosen, owner)
        chosen = {name: scopes for name, scopes in chosen.items() if name not in dropped}
    if not chosen:
        raise ParameterError(f"{owner}: include={include!r}, exclude={exclude!r}, types={list(kinds)!r} leave no modules")
    return {name: places[name][0] for name in chosen}


def first_tensor(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What a module was called with, where its first argument is a tensor of a floating-point type."""
    first = args[0] if args else next(iter(kwargs.values()), None)
    return first if isinstance(first, Tensor) and first.is_floating_point() else None


def with_first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any], tensor: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with another tensor as its first argument."""
    if args:
        return (tensor, *args[1:]), kwargs
    first = next(iter(kwargs))
    return args, {**kwargs, first: tensor}


def output_tensor(output: Any) -> Tensor | None:
    """What a module gave: a tensor, or the first of a tuple or list, as recurrent layers give them."""
    return first_tensor(output, {}) if isinstance(output, list | tuple) else first_tensor((output,), {})


def with_output_tensor(output: Any, tensor: Tensor) -> Any:
    """The same output with another tensor as its first one."""
    if not isinstance(output, list | tuple):
        return tensor
    rest = (tensor, *output[1:])
    return type(output)(*rest) if hasattr(output, "_fields") else type(output)(rest)


def call_with(model: nn.Module, batch: Any) -> Any:
    """The model's output for a batch: inputs alone, (inputs, targets), or a mapping of keyword arguments.

    Of a tuple or list the first item is taken as the inputs; inputs that are a mapping become keyword arguments, and those
    that are a tuple positional ones. Tensors follow the model's device.
    """
    if isinstance(batch, Mapping):
        return model(**_moved(batch, _device(model)))
    if isinstance(batch, list | tuple) and batch:
        batch = batch[0]
    inputs = _moved(batch, _device(model))
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, list | tuple) else model(inputs)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards each module has its mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _device(model: nn.Module) -> torch.device | None:
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return None


def _moved(value: Any, device: torch.device | None) -> Any:
    if isinstance(value, Tensor) and device is not None:
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    return tuple(_moved(item, device) for item in value) if isinstance(value, list | tuple) else value


def _places(model: nn.Module) -> dict[str, tuple[nn.Module, list[str]]]:
    """First name -> module, and every name under which it or a module around it goes."""
    named = list(bare_modules(model))
    names: dict[nn.Module, str] = {}
    for name, module in named:
        names.setdefault(module, name)
    places: dict[str, tuple[nn.Module, list[str]]] = {name: (module, []) for module, name in names.items()}
    for name, module in named:
        parts = name.split(".")
        places[names[module]][1].extend(".".join(parts[: end + 1]) for end in range(len(parts)))
    return places


def _matching(parameter: str, patterns: Sequence[str], scopes: Mapping[str, list[str]], owner: str) -> set[str]:
    """Names that any pattern matches; each pattern must match one."""
    return set().union(*(_matches(parameter, pattern, scopes, owner) for pattern in patterns))


def _matches(parameter: str, pattern: str, scopes: Mapping[str, list[str]], owner: str) -> Iterable[str]:
    found = [name for name, places in scopes.items() if any(fnmatchcase(place, pattern) for place in places)]
    if not found:
        raise ParameterError.of(parameter, owner, f"patterns that match modules, which are {some_of(list(scopes))}", pattern)
    return found


def _is_a(module: nn.Module, kind: str) -> bool:
    return any(base.__name__ == kind for base in type(module).__mro__)
