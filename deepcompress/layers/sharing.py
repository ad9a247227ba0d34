"""Which tensors are one and the same memory under several names."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from torch import Tensor


def tied_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Find the names that are aliases of an earlier one.

    Args:
        tensors: name -> tensor, in the order that decides which name is the first.

    Returns:
        alias -> first name, without the first names themselves. Two tensors are tied when they have the same storage,
        offset, shape, strides and dtype; a transposed view or a slice is a tensor of its own, and empty tensors never
        tie.
    """
    first: dict[Hashable, str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        if tensor.numel() and (known := first.setdefault(_identity(tensor), name)) != name:
            aliases[name] = known
    return aliases


def is_expanded(tensor: Tensor) -> bool:
    """Whether elements of it are one place in memory, as `expand` makes them: nothing can write to them apart."""
    if tensor.layout != torch.strided:
        return False
    return any(step == 0 and size > 1 for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def _identity(tensor: Tensor) -> Hashable:
    if tensor.layout != torch.strided:  # a sparse tensor has no one storage: only the same object is the same tensor
        return id(tensor)
    storage = tensor.untyped_storage()
    # Not the address of the data, which is 0 for every tensor on the meta device.
    return storage._cdata, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype
