"""Which of a model's tensors are meant: the weights there are, and the choice among them by name and by type."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from deepcompress.errors import ModelError, ParameterError
from deepcompress.layers.sharing import is_expanded, tied_names
from deepcompress.tensors.wrappers import bare_names

Model = nn.Module | Mapping[str, Tensor]

_NORM_TYPE = re.compile(r"Norm([1-3]d)?$")  # BatchNorm2d, and those of other libraries: LlamaRMSNorm, LayerNorm2d
_PARAMETRIZED = re.compile(r"^(?P<layer>.*?)\.?\bparametrizations\.(?P<leaf>[^.]+)\.original\d*$")
_NAMES_SHOWN = 6
# Scales that are powers of two, without a zero among them; and pairs of numbers, which are no elements.
_NO_WEIGHTS = {getattr(torch, name, None) for name in ("float8_e8m0fnu", "float4_e2m1fn_x2")}


@dataclass(frozen=True)
class _Place:
    """One name under which a weight stands in a model, and the classes of its layer (none in a state dict)."""

    name: str
    leaf: str
    scopes: tuple[str, ...]
    types: tuple[str, ...]

    @classmethod
    def of(cls, name: str, types: tuple[str, ...]) -> _Place:
        layer, _, leaf = name.rpartition(".")
        if match := _PARAMETRIZED.match(name):
            layer, leaf = match["layer"], match["leaf"]
        parts = layer.split(".") if layer else []
        plain = f"{layer}.{leaf}" if layer else leaf
        scopes = tuple(".".join(parts[: end + 1]) for end in range(len(parts)))
        return cls(name, leaf, (name, plain, *scopes), types)

    @property
    def in_norm(self) -> bool:
        return bool(self.types and _NORM_TYPE.search(self.types[0]))

    def lies_in(self, pattern: str) -> bool:
        """The pattern matches the parameter's name, its layer's, or that of a module around the layer."""
        return any(fnmatchcase(scope, pattern) for scope in self.scopes)

    def is_named_by(self, pattern: str) -> bool:
        """The pattern spells out the parameter: "*.bias" and "bn1.weight" do, "bn1", "conv*" and "fc.*" do not."""
        layer_pattern, dot, leaf_pattern = pattern.rpartition(".")
        layer, _, leaf = self.name.rpartition(".")
        if not dot:
            return fnmatchcase(self.name, pattern) and pattern.endswith(leaf)
        spelled = leaf_pattern.strip("*?") != ""
        return spelled and fnmatchcase(leaf, leaf_pattern) and fnmatchcase(layer, layer_pattern)


@dataclass(frozen=True)
class _Weight:
    """One tensor with every place where it stands, the first one first."""

    tensor: Tensor
    places: tuple[_Place, ...]
    magnitude: bool  # the vector of norms of a weight-normalized layer

    @property
    def ordinary(self) -> bool:
        """Taken without being named: two dimensions or more, and no part of a normalization."""
        return self.tensor.ndim >= 2 and not self.magnitude and not any(place.in_norm for place in self.places)

    def taken_by(self, pattern: str) -> bool:
        inside = self.ordinary and any(place.lies_in(pattern) for place in self.places)
        return inside or any(place.is_named_by(pattern) for place in self.places)

    def lies_in(self, pattern: str) -> bool:
        return any(place.lies_in(pattern) for place in self.places)

    def has_type(self, type_name: str) -> bool:
        return any(type_name in place.types for place in self.places)


def named_weights(model: Model) -> dict[str, Tensor]:
    """The floating-point weights of a model, live: writing to them writes to the model.

    Args:
        model: a module, or a state dict.

    Returns:
        name -> parameter, in the model's order, a tied one once under its first name. Of a state dict: its
        floating-point tensors, buffers among them, since nothing there tells them apart. Integer and complex tensors
        are left out, and the floating-point types that are scales (float8_e8m0fnu) or pairs (float4_e2m1fn_x2).

    Raises:
        ModelError: there are none, or a lazy module has not seen its first batch.
    """
    tensors = floating_tensors(model)
    if not tensors:
        what = f"The model ({type(model).__name__})" if isinstance(model, nn.Module) else "The state dict"
        raise ModelError(f"{what} has no parameters of a floating-point type")
    aliases = tied_names(tensors)
    return {name: tensor for name, tensor in tensors.items() if name not in aliases}


def floating_tensors(model: Model) -> dict[str, Tensor]:
    """Every name of every floating-point parameter, aliases too; of a state dict, of every floating-point tensor."""
    named: Iterable[tuple[str, Tensor]]
    named = model.named_parameters(remove_duplicate=False) if isinstance(model, nn.Module) else model.items()
    tensors = {}
    for name, tensor in named:
        if is_lazy(tensor):
            raise ModelError(f"{name!r} has no shape yet: pass one batch through the model first")
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dtype not in _NO_WEIGHTS:
            tensors[name] = tensor
    return tensors


def select_weights(
    model: Model,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    types: Sequence[str] | None = None,
    owner: str,
) -> dict[str, Tensor]:
    """Choose weights by name and by type.

    Without `include` these are the parameters of two or more dimensions outside of normalization layers: the weights of
    linear, convolutional, embedding, recurrent and attention layers.

    Args:
        model: a module, or a state dict (where there are no types).
        include: glob patterns, matched against the parameter's full name ("fc1.weight"), its layer's ("fc1", "conv*")
            and those of the modules around it ("layer1"). A bias, or a norm's weight, is taken only where a pattern
            names the parameter itself ("*.bias", "bn1.weight"). A tied weight answers to each of its names.
        exclude: patterns of what to leave out again; they match biases and norms too.
        types: class names of layers ("Conv2d"), base classes among them; `include` and `types` together narrow the
            choice.
        owner: who asks, for the errors.

    Returns:
        name -> live tensor, in the model's order, a tied one once under its first name.

    Raises:
        ParameterError: a pattern or a type matches nothing, or `include` and `types` leave nothing.
        ModelError: the model has no floating-point parameters, or a chosen one is expanded (stride 0).
    """
    weights = _weights(model)
    chosen = [weight for weight in weights if weight.ordinary]
    if include is not None:
        takes = _matches("include", strings_given("include", include, owner), weights, _Weight.taken_by, owner)
        chosen = [weight for weight in weights if any(weight is taken for taken in takes)]
    if types is not None:
        chosen = _of_types(model, strings_given("types", types, owner), weights, chosen, owner)
    if exclude is not None:
        drops = _matches("exclude", strings_given("exclude", exclude, owner), weights, _Weight.lies_in, owner)
        chosen = [weight for weight in chosen if not any(weight is dropped for dropped in drops)]
    if not chosen and not (include is None and types is None):
        raise ParameterError(
            f"{owner}: include={include!r}, exclude={exclude!r}, types={types!r} leave no weights. "
            "Biases and norms are taken only where include names them, as '*.bias' does."
        )
    for weight in chosen:
        if is_expanded(weight.tensor):
            what = f"{weight.places[0].name!r} is expanded, several of its elements being one place in memory"
            raise ModelError(f"{owner}: {what}: make it nn.Parameter(weight.clone())")
    return {weight.places[0].name: weight.tensor for weight in chosen}


def _weights(model: Model) -> list[_Weight]:
    firsts = named_weights(model)
    tensors = floating_tensors(model)
    aliases = tied_names(tensors)
    types = layer_types(model)
    places: dict[str, list[_Place]] = {name: [] for name in firsts}
    for name in tensors:
        places[aliases.get(name, name)].append(_Place.of(name, types.get(name, ())))
    for name, bare in (bare_names(model, tensors) if isinstance(model, nn.Module) else {}).items():
        if bare != name:  # a wrapper stands around a part of the model
            places[aliases.get(name, name)].append(_Place.of(bare, types.get(name, ())))
    return [_Weight(firsts[name], tuple(found), _is_magnitude(name, tensors)) for name, found in places.items()]


def layer_types(model: Model) -> dict[str, tuple[str, ...]]:
    """Parameter name -> class names of its layer, from its own class up."""
    if not isinstance(model, nn.Module):
        return {}
    modules = dict(model.named_modules(remove_duplicate=False))
    types = {}
    for name, _ in model.named_parameters(remove_duplicate=False):
        match = _PARAMETRIZED.match(name)
        layer = modules[match["layer"] if match else name.rpartition(".")[0]]
        types[name] = tuple(base.__name__ for base in type(layer).__mro__ if base is not object)
    return types


def _is_magnitude(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether this is weight normalization's vector of norms, in torch's form of today or in the older one."""
    for end, direction_end in ((".original0", ".original1"), ("_g", "_v")):
        direction = tensors.get(name.removesuffix(end) + direction_end) if name.endswith(end) else None
        if direction is not None and _is_vector_beside(tensors[name], direction):
            return True
    return False


def _is_vector_beside(norms: Tensor, direction: Tensor) -> bool:
    fits = all(a in (1, b) for a, b in zip(norms.shape, direction.shape, strict=False))
    return fits and norms.ndim in (0, direction.ndim) and sum(size != 1 for size in norms.shape) <= 1


def _matches(
    parameter: str, patterns: Sequence[str], weights: list[_Weight], test: Callable[[_Weight, str], bool], owner: str
) -> list[_Weight]:
    """The weights that any pattern takes; each pattern must take one."""
    taken: list[_Weight] = []
    for pattern in patterns:
        found = [weight for weight in weights if test(weight, pattern)]
        if not found:
            hint = " (biases and norms only by their own names)" if any(w.lies_in(pattern) for w in weights) else ""
            expected = f"patterns that match weights{hint}; there are {some_of([w.places[0].name for w in weights])}"
            raise ParameterError.of(parameter, owner, expected, pattern)
        taken += found
    return taken


def _of_types(model: Model, types: Sequence[str], weights: list[_Weight], chosen: list[_Weight], owner: str) -> list[_Weight]:
    if not isinstance(model, nn.Module):
        raise ParameterError.of("types", owner, "left out for a bare state dict, which has no layers", list(types))
    for type_name in types:
        if not any(weight.has_type(type_name) for weight in weights):
            there = some_of(sorted({place.types[0] for weight in weights for place in weight.places}))
            raise ParameterError.of("types", owner, f"class names of layers in the model, which has {there}", type_name)
    return [weight for weight in chosen if any(weight.has_type(type_name) for type_name in types)]


def strings_given(parameter: str, value: Sequence[str], owner: str) -> Sequence[str]:
    """The patterns or class names that were given. Raises ParameterError where they are no sequence of strings."""
    if isinstance(value, str) or not all(isinstance(item, str) for item in value):
        raise ParameterError.of(parameter, owner, "a sequence of strings", value)
    return value


def some_of(names: Sequence[str]) -> str:
    """The first few names, for an error, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"
