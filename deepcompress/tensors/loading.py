"""A decoded state dict into a module: all mismatches named at once, and a module that is either loaded or as it was."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from deepcompress.errors import ModelError


def load_state_dict(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """`module.load_state_dict(tensors, strict=True)`, with the modules' own version hooks, but all or nothing.

    Raises:
        ModelError: names or shapes do not match.
    """
    own = module.state_dict()
    if _fits(own, tensors):
        module.load_state_dict(tensors)
        return
    before = {name: tensor.clone() for name, tensor in own.items() if isinstance(tensor, Tensor) and not is_lazy(tensor)}
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        with torch.no_grad():
            for name, tensor in module.state_dict().items():
                if name in before:
                    tensor.copy_(before[name])
        raise ModelError(f"{source} does not fit {type(module).__name__}: {_one_line(error)}") from None


def _fits(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> bool:
    """Whether names and shapes are the same, so that loading cannot stop half-way."""
    return own.keys() == tensors.keys() and all(
        isinstance(tensor, Tensor) and not is_lazy(tensor) and tensor.shape == tensors[name].shape for name, tensor in own.items()
    )


def _one_line(error: RuntimeError) -> str:
    """torch's list of what does not match, without its heading and line breaks."""
    _, _, listed = str(error).partition("\n")
    return " ".join(listed.split()) or str(error)
