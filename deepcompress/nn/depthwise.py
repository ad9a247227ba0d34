"""Depthwise convolution, written with nothing but shifts, products and sums."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from deepcompress.errors import ParameterError
from deepcompress.nn.window import Size, Window, count_of


class _ShiftMultiplyAdd(torch.autograd.Function):
    """out = sum over the taps of shifted maps x weight. Keeps the padded maps alone: k x k shifts are views of them.

    maps (n, c, 1, padded height, padded width), weight (1, c, m, k, k); out (n, c, m, height, width). torch's own backward of
    the same sum would make a whole map of zeros for the slice of each tap, and take twice as long.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, window: Window) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.window = window
        return _shift_multiply_add(maps, weight, window)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        maps, weight = ctx.saved_tensors
        for_maps, for_weight = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # the gradient will itself be differentiated: let torch record it
            out = _shift_multiply_add(maps, weight, ctx.window)
            wanted = [tensor for tensor, needed in ((maps, for_maps), (weight, for_weight)) if needed]
            found = list(torch.autograd.grad(out, wanted, grads, create_graph=True))
            return found.pop(0) if for_maps else None, found.pop() if for_weight else None, None
        return (
            _gradient_of_maps(grads[0], maps, weight, ctx.window) if for_maps else None,
            _gradient_of_weight(grads[0], maps, weight, ctx.window) if for_weight else None,
            None,
        )


def _shift_multiply_add(maps: Tensor, weight: Tensor, window: Window) -> Tensor:
    out = maps.new_zeros(len(maps), *weight.shape[1:3], *window.out_size(maps))
    for row, column, seen in window.taps(maps):
        out = out.addcmul_(seen, _tap(weight, row, column))
    return out


def _gradient_of_maps(grad: Tensor, maps: Tensor, weight: Tensor, window: Window) -> Tensor:
    found = torch.zeros_like(maps)
    for row, column, place in window.taps(found):
        for each, tap in zip(grad.split(1, 2), _tap(weight, row, column).split(1, 2), strict=True):
            place.addcmul_(each, tap)
    return found


def _gradient_of_weight(grad: Tensor, maps: Tensor, weight: Tensor, window: Window) -> Tensor:
    found = torch.empty_like(weight)
    for row, column, seen in window.taps(maps):
        found[..., row, column] = (grad * seen).sum((0, 3, 4))
    return found


def _tap(weight: Tensor, row: int, column: int) -> Tensor:
    return weight[..., row : row + 1, column : column + 1]


class DepthwiseConv2d(nn.Module):
    """Each channel convolved with kernels of its own, without `groups`: shift, multiply, add, once for each tap of a kernel.

    Equal to nn.Conv2d(channels, channels x depth_multiplier, kernel_size, ..., groups=channels) up to the order of sums, in
    output and gradients, and made of the same tensors: `weight` (channels x depth_multiplier, 1, k, k), in which those of a
    channel are neighbours, and `bias`. Both start as those of nn.Conv2d do, from the same random numbers: uniform within
    1/k (in general 1/sqrt(taps)). Half precision is summed in float32.

    Input (n, channels, height, width) or (channels, height, width), output likewise.

    Args:
        channels: of the input.
        kernel_size, stride, padding, dilation: as for nn.Conv2d, "same" and "valid" included.
        depth_multiplier: kernels per channel.
        bias: whether a bias is added.

    Raises:
        ParameterError: a size out of its range; in `forward`, an input that does not fit.

    Source: Howard et al. MobileNets. 2017, sec. 3.1. arXiv:1704.04861; Sifre. Rigid-motion scattering. 2014.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        *,
        depth_multiplier: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.channels = count_of("channels", channels)
        self.depth_multiplier = count_of("depth_multiplier", depth_multiplier)
        self.window = Window.of(kernel_size, stride, padding, dilation)
        self.weight = nn.Parameter(torch.empty(channels * depth_multiplier, 1, *self.window.kernel))
        self.bias = nn.Parameter(torch.empty(channels * depth_multiplier)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(math.prod(self.window.kernel))
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim == 3:
            return self(images[None])[0]  # type: ignore[no-any-return]
        maps = self._prepared(images)
        weight = self.weight.to(maps.dtype).view(1, self.channels, self.depth_multiplier, *self.window.kernel)
        out: Tensor = _ShiftMultiplyAdd.apply(maps[:, :, None], weight, self.window).flatten(1, 2)  # type: ignore[no-untyped-call]
        out = out if self.bias is None else out + self.bias.to(out.dtype)[:, None, None]
        return out.to(images.dtype)

    def _prepared(self, images: Tensor) -> Tensor:
        """Padded, in float32 at least, and known to fit."""
        expected = f"(n, {self.channels}, height, width) or one image without n"
        if not images.is_floating_point():
            raise ParameterError.of("images", "DepthwiseConv2d", "of a floating-point type", images.dtype)
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise ParameterError.of("images", "DepthwiseConv2d", f"of shape {expected}", tuple(images.shape))
        maps = self.window.padded(images.to(torch.promote_types(images.dtype, torch.float32)))
        if min(self.window.out_size(maps)) < 1:
            raise ParameterError.of(
                "images", "DepthwiseConv2d", f"at least as large as its kernel of {self.window.kernel}", tuple(images.shape)
            )
        return maps

    def extra_repr(self) -> str:
        window = self.window
        sizes = f"{self.channels}, kernel_size={window.kernel}, stride={window.stride}, padding={window.padding}"
        return f"{sizes}, dilation={window.dilation}, depth_multiplier={self.depth_multiplier}, bias={self.bias is not None}"
