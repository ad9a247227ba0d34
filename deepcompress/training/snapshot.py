"""A model's values, to go back to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


class Snapshot:
    """Every parameter and buffer (those outside of the state dict too) by identity and value, copied to main memory.

    Args:
        model: the module.
        others: tensors outside of the model that belong to the same state.
    """

    def __init__(self, model: nn.Module, others: Sequence[Tensor] = ()) -> None:
        stores: list[dict[str, Any]] = [
            store for module in model.modules() for store in (module._parameters, module._buffers)
        ]
        self._places = [(store, key, tensor) for store in stores for key, tensor in store.items()]
        tensors = {id(tensor): tensor for _, _, tensor in self._places if tensor is not None}
        self._copies = [(tensor, _copy(tensor)) for tensor in (*tensors.values(), *others)]
        self._extra = [(module, deepcopy(module.get_extra_state())) for module in model.modules() if _has_extra(module)]

    def restore(self) -> None:
        """Put all of it back, into the same tensors at the same places."""
        with torch.no_grad():
            for tensor, copy in self._copies:
                tensor.copy_(copy)
        for store, key, tensor in self._places:  # a module may have put another buffer there meanwhile
            store[key] = tensor
        for module, extra in self._extra:
            module.set_extra_state(extra)


@contextmanager
def restored_on_error(model: nn.Module) -> Iterator[None]:
    """Leave by an exception, KeyboardInterrupt among them, and the model is as it was on entry."""
    before = Snapshot(model)
    try:
        yield
    except BaseException:
        before.restore()
        raise


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Each module gets its train or eval mode back; gradients are dropped."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        model.zero_grad(set_to_none=True)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _has_extra(module: nn.Module) -> bool:
    return type(module).get_extra_state is not nn.Module.get_extra_state
