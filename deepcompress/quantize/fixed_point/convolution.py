"""A two-dimensional convolution of integers: every window becomes a row of a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepcompress.errors import ModelError
from deepcompress.quantize.fixed_point.windows import Pair, Windows

Border = tuple[int, int, int, int]

_PIECE = 1 << 24  # values of windows that lie in memory at a time


@dataclass(frozen=True)
class Convolution:
    """The geometry of a two-dimensional convolution; pairs are (height, width), the border (left, right, top, bottom)."""

    kernel: Pair
    stride: Pair
    dilation: Pair
    groups: int
    border: Border

    @classmethod
    def of(cls, module: nn.Conv2d) -> Convolution:
        """That of a module. Raises ModelError where it does not pad with zeros."""
        if module.padding_mode != "zeros":
            raise ModelError(f"integer_layer: padding_mode={module.padding_mode!r} has no integer form here; 'zeros' has")
        kernel, stride, dilation = (_pair(pair) for pair in (module.kernel_size, module.stride, module.dilation))
        return cls(kernel, stride, dilation, module.groups, _border(module))

    def in_integers(self, maps: Tensor, weight: Tensor) -> Tensor:
        """Sums, int32, of int32 maps, (n, in, h, w) or (in, h, w), and weights; some images at a time."""
        if maps.ndim == 3:
            return self.in_integers(maps[None], weight)[0]
        windows = Windows(self.kernel, self.stride, (0, 0), self.dilation)
        rows = weight.flatten(1).chunk(self.groups)

        def convolve(images: Tensor) -> Tensor:
            cut = windows.cut(torch.constant_pad_nd(images, self.border, 0), 0).permute(0, 2, 3, 1, 4, 5)
            groups = (F.linear(part.flatten(3), row) for part, row in zip(cut.chunk(self.groups, 3), rows, strict=True))
            return torch.cat(list(groups), 3).permute(0, 3, 1, 2)

        size = maps[:1].numel() * self.kernel[0] * self.kernel[1]
        return torch.cat([convolve(images) for images in maps.split(max(1, _PIECE // max(1, size)))])

    def in_floats(self, maps: Tensor, weight: Tensor) -> Tensor:
        """The same of floats, by torch."""
        return F.conv2d(F.pad(maps, self.border), weight, None, self.stride, 0, self.dilation, self.groups)


def _pair(pair: tuple[int, ...]) -> Pair:
    return pair[0], pair[1]


def _border(module: nn.Conv2d) -> Border:
    """What is added on each side; "same" adds the odd one after the map, as torch does."""
    if module.padding == "same":
        lengths = [step * (size - 1) for step, size in zip(module.dilation, module.kernel_size, strict=True)]
        (up, down), (left, right) = ((length // 2, length - length // 2) for length in lengths)
        return left, right, up, down
    up, left = (0, 0) if isinstance(module.padding, str) else _pair(module.padding)
    return left, left, up, up
