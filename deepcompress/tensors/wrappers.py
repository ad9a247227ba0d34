"""What torch puts around a model: compiled modules and data-parallel ones. A file has the names of the model inside.

    model = torch.compile(DataParallel(net))    model.state_dict()      "_orig_mod.module.conv.weight"
    bare(model) is net                          in a file               "conv.weight"

A wrapper may also stand around a part of a model. Its name is left out there too, and nothing is taken apart for that.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

T = TypeVar("T")

_COMPILED, _PARALLEL = "_orig_mod", "module"


def is_compiled(model: object) -> bool:
    """Whether this is what `torch.compile` makes of a module."""
    dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")  # slow to import; whoever compiles has done it
    return dynamo is not None and isinstance(model, dynamo.OptimizedModule)


def place_inside(model: object) -> str | None:
    """The name under which a wrapper holds the module inside; None for what is no wrapper."""
    if isinstance(model, DataParallel | DistributedDataParallel):
        return _PARALLEL
    return _COMPILED if is_compiled(model) else None


def layers_of_wrapping(model: Any) -> Iterator[Any]:
    """The model as it is given, and what is inside of it, down to what is no wrapper."""
    yield model
    while (place := place_inside(model)) is not None:
        model = getattr(model, place)
        yield model


def bare(model: Any) -> Any:
    """The module inside of all wrappers; anything else as it is."""
    *_, inside = layers_of_wrapping(model)
    return inside


def bare_paths(model: nn.Module) -> dict[str, str]:
    """Path of each module -> the same without the names under which wrappers hold what is inside."""
    modules: dict[str, nn.Module] = {}
    found: dict[str, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):  # a module comes before those that it holds
        above, _, leaf = path.rpartition(".")
        inside = path == "" or place_inside(modules[above]) == leaf
        found[path] = found.get(above, "") if inside else _joined(found[above], leaf)
        modules[path] = module
    return found


def bare_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module that is no wrapper, under each of its paths without those of wrappers."""
    paths = bare_paths(model)
    for path, module in model.named_modules(remove_duplicate=False):
        if place_inside(module) is None:
            yield paths[path], module


def bare_names(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Name of each tensor -> its name in a file."""
    if not any(place_inside(module) for module in model.modules()):
        return {name: name for name in names}
    paths = bare_paths(model)
    return {name: _bare_name(name, paths) for name in names}


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Name of each tensor in a state dict -> the same without what wrappers put before it.

    "_orig_mod." is left out wherever it stands, "module." where all names begin so.
    """
    given = list(names)
    plain = [_without_compiled(name) for name in given]
    while plain and all(name.startswith(f"{_PARALLEL}.") for name in plain):
        plain = [name.removeprefix(f"{_PARALLEL}.") for name in plain]
    return dict(zip(given, plain if len(set(plain)) == len(plain) and all(plain) else given, strict=True))


def bare_state(tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    """A state dict under the names of the model inside of all wrappers; as it is, where it has these."""
    if not all(isinstance(name, str) for name in tensors):
        return tensors
    return renamed(tensors, plain_names(tensors))


def renamed(tensors: Mapping[str, Any], names: Mapping[str, str]) -> Mapping[str, Any]:
    """A state dict under other names, its module versions too; as it is, where they are the same. `names`: old -> new."""
    if all(old == new for old, new in names.items()):
        return tensors
    found: OrderedDict[str, Any] = OrderedDict((names[name], tensor) for name, tensor in tensors.items())
    if (versions := getattr(tensors, "_metadata", None)) is not None:
        found._metadata = OrderedDict(renamed_versions(versions, names))  # type: ignore[attr-defined]
    return found


def renamed_versions(versions: Mapping[str, T], names: Mapping[str, str]) -> dict[str, T]:
    """What is kept by a module's path, for the modules around tensors that get other names. `names`: old -> new."""
    paths: dict[str, str] = {}
    for old, new in names.items():
        for old_path, new_path in _paths_around(old, new):
            paths.setdefault(new_path, old_path)
    return {new: versions[old] for new, old in paths.items() if old in versions}


@contextmanager
def as_written(model: nn.Module) -> Iterator[None]:
    """Compiled modules in a model run as Python does: compiled code does not look whether a module has got hooks since."""
    outside: list[Any] = [module for module in model.modules() if is_compiled(module)]
    inside: list[Any] = [module for module in model.modules() if module.__dict__.get("_compiled_call_impl") is not None]
    before = [module.forward for module in outside], [module._compiled_call_impl for module in inside]
    try:
        for module in outside:
            module.forward = module._orig_mod.__call__
        for module in inside:  # module.compile()
            module._compiled_call_impl = None
        yield
    finally:
        for module, forward in zip(outside, before[0], strict=True):
            module.forward = forward
        for module, call in zip(inside, before[1], strict=True):
            module._compiled_call_impl = call


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _bare_name(name: str, paths: Mapping[str, str]) -> str:
    """By the nearest module that is there: a state dict may hold names that a hook made up."""
    path, _, rest = name.rpartition(".")
    while path not in paths:
        path, _, part = path.rpartition(".")
        rest = f"{part}.{rest}"
    return _joined(paths[path], rest)


def _without_compiled(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def _paths_around(old: str, new: str) -> Iterator[tuple[str, str]]:
    """The modules around a tensor, from the one that holds it up, by old and by new name."""
    old, new = old.rpartition(".")[0], new.rpartition(".")[0]
    yield old, new
    while new:
        (old_above, _, old_leaf), (new_above, _, new_leaf) = old.rpartition("."), new.rpartition(".")
        if old_leaf == new_leaf:
            old, new = old_above, new_above
        elif old_leaf in (_COMPILED, _PARALLEL):
            old = old_above
        else:
            new = new_above
        yield old, new
