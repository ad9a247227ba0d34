"""The windows that a convolution or a pooling looks through."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Pair = tuple[int, int]


@dataclass(frozen=True)
class Windows:
    """Where the windows lie on a map; each pair is (height, width)."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair = (1, 1)
    ceil: bool = False

    def cut(self, maps: Tensor, border: int) -> Tensor:
        """(n, c, h, w) -> (n, c, out h, out w, kernel h, kernel w), with codes beyond the border of this value."""
        ends = [self._ends(dim, int(maps.shape[2 + dim])) for dim in (0, 1)]
        padded = torch.constant_pad_nd(maps, (*ends[1], *ends[0]), border)  # F.pad would make a float of it
        for dim in (0, 1):
            padded = padded.unfold(2 + dim, self._reach(dim), self.stride[dim])
        return padded[..., :: self.dilation[0], :: self.dilation[1]]

    def _reach(self, dim: int) -> int:
        return self.dilation[dim] * (self.kernel[dim] - 1) + 1

    def _ends(self, dim: int, size: int) -> Pair:
        """How much to add before and after; with `ceil`, as much more as the last window needs, if it begins inside."""
        before = self.padding[dim]
        room = size + 2 * before - self._reach(dim)
        if not self.ceil:
            return before, before
        last = -(-room // self.stride[dim]) * self.stride[dim]
        if last >= size + before:
            last -= self.stride[dim]
        return before, before + max(0, last - room)
