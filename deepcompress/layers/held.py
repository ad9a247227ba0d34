"""One parameter under a mask, as the bits that are multiplied.

A float's bits, as an integer, times 1 are that float and times 0 are +0.0. That holds for infinities, NaN and -0.0,
and torch multiplies a whole list of tensors in one call; filling by a bool mask takes ten times as long.
"""

from __future__ import annotations

import torch
from torch import Tensor

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits_of(tensor: Tensor) -> Tensor:
    """A view of a tensor's elements as integers of their width."""
    return tensor.view(_INTEGERS[tensor.element_size()])


class Held:
    """One parameter under a mask; several where they share one memory.

    The views of its bits are made again when the model has moved to another memory, device or dtype.
    """

    def __init__(self, parameters: list[Tensor], mask: Tensor) -> None:
        self.parameters = parameters
        self._keep = mask.detach().clone()
        self._bits: Tensor | None = None

    def current(self) -> tuple[Tensor, Tensor]:
        """The weights' bits and the mask, as integers of one width and one order in memory."""
        parameter = self.parameters[0]
        if self._bits is None or self._bits.data_ptr() != parameter.data_ptr():
            with torch.inference_mode(False):  # else no write outside of inference mode could go through them
                # .data: no write of ours may count as a change of the weights between forward and backward.
                self._bits = bits_of(parameter.data)
                self._keep = torch.empty_like(self._bits).copy_(self._keep)
        return self._bits, self._keep

    def mask_gradient(self, parameter: Tensor) -> None:
        """Make `.grad` +0.0 wherever the weight is pruned."""
        gradient = parameter.grad
        if gradient is None:
            return
        _, keep = self.current()
        if gradient.layout == torch.sparse_coo:
            parameter.grad = _masked_sparse(gradient, keep)
        elif gradient.requires_grad or gradient.dtype != parameter.dtype:  # under create_graph=True others may hold it
            parameter.grad = gradient.masked_fill(keep == 0, 0)
        else:
            gradient.data.view(keep.dtype).mul_(keep)


def _masked_sparse(gradient: Tensor, keep: Tensor) -> Tensor:
    gradient = gradient.coalesce()
    pruned = keep[tuple(gradient.indices())] == 0
    values = gradient.values().masked_fill(pruned, 0)
    indices = gradient.indices()
    return torch.sparse_coo_tensor(indices, values, gradient.shape, is_coalesced=True, check_invariants=False)
