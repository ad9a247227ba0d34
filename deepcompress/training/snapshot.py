"""A model's values as they were, to go back to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from deepcompress.errors import ModelError
from deepcompress.training.group import tensors_of


class Snapshot:
    """A copy of every parameter and buffer of a model, those that its state dict leaves out among them."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]
        live = [*model.parameters(), *(buffer for _, _, buffer in self._buffers if buffer is not None)]
        self._copies = [(tensor, tensor.detach().clone()) for tensor in live if _is_writable(tensor)]

    def restore(self) -> None:
        """Write every value back; a buffer that was replaced by another tensor becomes the old one again."""
        for module, name, buffer in self._buffers:
            module._buffers[name] = buffer
        with torch.no_grad():
            for tensor, copy in self._copies:
                tensor.copy_(copy)


    def values(self) -> list[Tensor]:
        """The copies, in the model's order."""
        return [copy for _, copy in self._copies]

    def take(self, values: Sequence[Tensor]) -> Snapshot:
        """Make `values`, those of another snapshot of such a model, the copies."""
        for (_, copy), value in zip(self._copies, values, strict=True):
            copy.copy_(value)
        return self


def write_values(model: nn.Module | dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Give parameters and buffers, by name, the values that they had; a buffer of another shape or dtype is replaced.

    Raises:
        ModelError: a parameter or tensor is not there, or is of another shape or dtype.
    """
    live = tensors_of(model)
    with torch.no_grad():
        for name, value in values.items():
            tensor = live.get(name)
            if tensor is not None and (tensor.shape, tensor.dtype) == (value.shape, value.dtype):
                if _is_writable(tensor):
                    tensor.copy_(value)
            elif isinstance(model, nn.Module) and tensor is not None and not isinstance(tensor, nn.Parameter):
                path, _, last = name.rpartition(".")
                model.get_submodule(path)._buffers[last] = value.to(tensor.device)
            else:
                raise ModelError(f"the checkpoint has {name!r}, {value.dtype} of shape {tuple(value.shape)}, the model has not")


def _is_writable(tensor: Tensor) -> bool:
    """An expanded tensor holds one element in several places; nobody trains it in place."""
    if tensor.layout != torch.strided:
        return True
    return all(step or size < 2 for size, step in zip(tensor.shape, tensor.stride(), strict=True))


@contextmanager
def restored_on_error(model: nn.Module) -> Iterator[None]:
    """After an exception, of whatever kind, the model has the values that it came with."""
    before = Snapshot(model)
    try:
        yield
    except BaseException:
        before.restore()
        raise


@contextmanager
def mode_kept(model: nn.Module) -> Iterator[None]:
    """Train or eval mode, module by module, as it was."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
