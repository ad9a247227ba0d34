"""Keeping pruned weights at zero: once, or for as long as a training loop runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from deepcompress.coding.denormals import denormals_kept
from deepcompress.errors import ParameterError
from deepcompress.layers.held import Held, bits_of
from deepcompress.layers.select import Model, floating_tensors
from deepcompress.layers.sharing import tied_names
from deepcompress.tensors.wrappers import bare_names, plain_names

Masks = dict[str, Tensor]


def count_zeros(tensors: Mapping[str, Tensor]) -> int:
    """Number of zeros in all tensors together: of pruned places in masks, of weights that are 0 in weights."""
    return sum(tensor.numel() - count_nonzero(tensor) for tensor in tensors.values())


@denormals_kept()
def count_nonzero(tensor: Tensor) -> int:
    """Elements that are not 0, -0.0 being 0 and NaN not."""
    if not tensor.is_cpu:
        return int(torch.count_nonzero(tensor))
    # torch compares eight at a time, and numpy counts bools like bytes: a tenth of what torch.count_nonzero takes
    return int(np.count_nonzero((tensor.detach() != 0).numpy()))


def sparsity_of(masks: Mapping[str, Tensor]) -> float:
    """Zeros over all, of masks or of weights; 0.0 where there are none at all."""
    total = sum(mask.numel() for mask in masks.values())
    return count_zeros(masks) / total if total else 0.0


def apply_masks(model: Model, masks: Mapping[str, Tensor]) -> None:
    """Set every pruned weight to exactly +0.0, in place and outside of autograd. Kept weights keep every bit.

    Args:
        model: a module, or a state dict.
        masks: parameter name -> bool tensor of its shape, True = kept. A tied weight may go by any of its names.

    Raises:
        ParameterError: names, shapes or dtypes do not fit; all of them are listed, and nothing was changed.
    """
    for tensors, mask in _resolve(model, masks, "apply_masks"):
        with torch.no_grad():
            bits_of(tensors[0]).mul_(mask.to(tensors[0].device))


class hold_masks:  # noqa: N801 (used like a function: `with hold_masks(...)`)
    """Hold masks over a model while it trains: no pruned weight comes back, whatever the optimizer remembers.

    Masks are applied on entry. Inside, every backward pass leaves `.grad` at exactly 0 where a weight is pruned; every
    step of `optimizer` ends with the masks applied (and each evaluation of its closure begins so); and so does every
    call of the model. Thus each forward pass sees exact +0.0, under momentum, weight decay, LBFGS, and optimizers older
    than the masks. Parameters keep their names and identity, the optimizer its state. On exit, also by an exception,
    every hook is gone. A deepcopy made inside is a model of its own, which nothing holds.

    Args:
        model: the module that is trained. Where it is called through `torch.compile` and no optimizer is given, pass
            the compiled module: hooks of the one inside are not run.
        masks: parameter name -> bool tensor of its shape, True = kept. A tied weight may go by any of its names.
        optimizer: may be left out for a loop that changes the weights by other means.

    Raises:
        ParameterError: names, shapes or dtypes do not fit; all of them are listed, and nothing was changed.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor], optimizer: Optimizer | None = None) -> None:
        self._model = model
        self._optimizer = optimizer
        self._held = _hold(model, masks)
        self._pointers: list[int] | None = None  # where the weights were when they were grouped: in most steps they still are
        self._groups: list[tuple[list[Tensor], list[Tensor]]] = []
        self._hooks: ExitStack | None = None

    def update(self, masks: Mapping[str, Tensor]) -> None:
        """Hold these masks from now on (a schedule prunes further); inside the context they are applied at once."""
        held = _hold(self._model, masks)
        inside = self._hooks is not None
        self._leave()
        self._held, self._pointers = held, None
        if inside:
            self.__enter__()

    def apply(self) -> None:
        """Set every pruned weight to +0.0 now. The hooks do this; a loop that writes weights by hand may."""
        pointers = [held.parameters[0].data_ptr() for held in self._held]
        if pointers != self._pointers:
            self._pointers, self._groups = pointers, _grouped(self._held)
        for bits, keep in self._groups:
            torch._foreach_mul_(bits, keep)

    def __enter__(self) -> Self:
        self._leave()
        with ExitStack() as hooks:
            self._hook_into(hooks)
            self.apply()
            self._hooks = hooks.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()
        self.apply()

    def _leave(self) -> None:
        hooks, self._hooks = self._hooks, None
        if hooks is not None:
            hooks.close()

    def _hook_into(self, hooks: ExitStack) -> None:
        for held in self._held:
            for parameter in held.parameters:
                held.mask_gradient(parameter)
                if parameter.requires_grad:
                    hooks.callback(parameter.register_post_accumulate_grad_hook(held.mask_gradient).remove)
        hooks.callback(self._model.register_forward_pre_hook(_BeforeCall(self.apply), prepend=True).remove)
        if self._optimizer is not None:
            hooks.callback(self._optimizer.register_step_pre_hook(self._before_step).remove)
            hooks.callback(self._optimizer.register_step_post_hook(self._after_step).remove)

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Mask before each call of the closure, of which LBFGS makes several. `args` begins with the optimizer."""
        if len(args) > 1 and callable(args[1]):
            return (args[0], self._masked_first(args[1]), *args[2:]), kwargs
        if callable(kwargs.get("closure")):
            return args, {**kwargs, "closure": self._masked_first(kwargs["closure"])}
        return None

    def _masked_first(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def masked_closure() -> Any:
            self.apply()
            return closure()

        return masked_closure

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.apply()


class _BeforeCall:
    """The hook before a forward pass. Copied or pickled along with the model, it becomes one that takes itself away."""

    def __init__(self, apply: Callable[[], None]) -> None:
        self._apply = apply

    def __call__(self, module: nn.Module, args: Any) -> None:
        # Inside a compiled graph the masking would stay when the context is left; there the other hooks do it.
        if not torch.compiler.is_compiling():
            self._apply()

    def __reduce__(self) -> tuple[type[_TakenAway], tuple[()]]:  # deepcopy asks this too
        return _TakenAway, ()


class _TakenAway:
    def __call__(self, module: nn.Module, args: Any) -> None:
        if not torch.compiler.is_compiling():
            hooks = module._forward_pre_hooks
            for key in [key for key, hook in hooks.items() if hook is self]:
                del hooks[key]


def _hold(model: nn.Module, masks: Mapping[str, Tensor]) -> list[Held]:
    return [Held(parameters, mask) for parameters, mask in _resolve(model, masks, "hold_masks")]


def _grouped(held: list[Held]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Bits and masks of one device and width together: torch multiplies such lists in one call."""
    groups: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    for bits, keep in (each.current() for each in held):
        group = groups.setdefault((bits.device, bits.dtype), ([], []))
        group[0].append(bits)
        group[1].append(keep)
    return list(groups.values())


def _resolve(model: Model, masks: Mapping[str, Tensor], owner: str) -> list[tuple[list[Tensor], Tensor]]:
    """Each masked memory once: all parameters over it, and the places that every mask over it keeps."""
    tensors = _by_any_name(model)
    problems = [text for name, mask in masks.items() if (text := _problem(name, mask, tensors.get(name)))]
    if problems:
        raise ParameterError(f"{owner}: these masks do not fit the model: {'; '.join(problems)}")
    aliases = tied_names(tensors)
    merged: dict[str, Tensor] = {}
    for name, mask in masks.items():
        first = aliases.get(name, name)
        merged[first] = merged[first] & mask.to(merged[first].device) if first in merged else mask
    return [(_distinct(first, tensors, aliases), mask) for first, mask in merged.items()]


def _distinct(first: str, tensors: Mapping[str, Tensor], aliases: Mapping[str, str]) -> list[Tensor]:
    return list({id(tensor): tensor for name, tensor in tensors.items() if aliases.get(name, name) == first}.values())


def _by_any_name(model: Model) -> dict[str, Tensor]:
    """Tensors by their names, and by those without what torch.compile and data parallelism put into them."""
    tensors = floating_tensors(model)
    names = bare_names(model, tensors) if isinstance(model, nn.Module) else plain_names(tensors)
    for name, bare in names.items():
        tensors.setdefault(bare, tensors[name])
    return tensors


def _problem(name: str, mask: Tensor, tensor: Tensor | None) -> str | None:
    if tensor is None:
        return f"{name!r} is no floating-point parameter of it"
    if mask.dtype != torch.bool:
        return f"{name!r} is a mask of dtype {mask.dtype}, not torch.bool"
    if mask.shape != tensor.shape:
        return f"{name!r} has a mask of shape {tuple(mask.shape)} for a weight of shape {tuple(tensor.shape)}"
    return None
