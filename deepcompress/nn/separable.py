"""Depthwise separable convolution, its block, its savings, and the grouped form that it is held against."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from deepcompress.nn.depthwise import DepthwiseConv2d
from deepcompress.nn.window import Size, count_of, pair_of


class DepthwiseSeparableConv2d(nn.Module):
    """A depthwise convolution, then a 1x1 convolution that mixes the channels.

    `depthwise.weight` (in_channels x depth_multiplier, 1, k, k), without a bias, which the second convolution's would take in;
    `pointwise.weight` (out_channels, in_channels x depth_multiplier, 1, 1) and `pointwise.bias`. Both start as torch's
    convolutions do. Weights: in_channels x depth_multiplier x (k^2 + out_channels), the share `parameter_share` of a standard
    convolution's. Input (n, in_channels, height, width), output (n, out_channels, height', width'), as of nn.Conv2d.

    Args:
        in_channels, out_channels: at least 1.
        kernel_size, stride, padding, dilation: as for nn.Conv2d, "same" and "valid" included.
        depth_multiplier: kernels per channel of the input.
        bias: of the 1x1 convolution.

    Raises:
        ParameterError: a size out of its range; in `forward`, an input that does not fit.

    Source: Howard et al. MobileNets. 2017. arXiv:1704.04861; Chollet. Xception. CVPR 2017; Sifre. Rigid-motion scattering. 2014.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        *,
        depth_multiplier: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv2d(
            in_channels, kernel_size, stride, padding, dilation, depth_multiplier=depth_multiplier, bias=False
        )
        self.pointwise = nn.Conv2d(in_channels * depth_multiplier, count_of("out_channels", out_channels), 1, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.pointwise(self.depthwise(images))
        return out


def depthwise_separable_block(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 depthwise separable convolution with padding 1, batch norm and ReLU.

    The convolution has no bias, for the norm takes any away. MobileNets put a norm and a ReLU after each half; this block has
    them once, at its end.
    """
    convolution = DepthwiseSeparableConv2d(in_channels, out_channels, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())


def parameter_share(out_channels: int, kernel_size: Size, depth_multiplier: int = 1) -> float:
    """Weights of a depthwise separable convolution over those of a standard one: 1 / out_channels + 1 / k^2 for one kernel each.

    Biases are left out. Multiplications are in the same proportion.

    Source: Howard et al. MobileNets. 2017, sec. 3.1.
    """
    taps = math.prod(pair_of("kernel_size", kernel_size, 1))
    return depth_multiplier * (1 / out_channels + 1 / taps)


def as_grouped(layer: DepthwiseConv2d | DepthwiseSeparableConv2d) -> nn.Module:
    """The same layer with torch's grouped convolution: names, weights (copied), dtype, device and mode are the same.

    For checks and timing. Its state dict fits the given layer, and the other way round.
    """
    if isinstance(layer, DepthwiseSeparableConv2d):
        pointwise = _copied(nn.Conv2d(layer.pointwise.in_channels, layer.pointwise.out_channels, 1), layer.pointwise)
        return nn.Sequential(OrderedDict(depthwise=as_grouped(layer.depthwise), pointwise=pointwise)).train(layer.training)
    window, even = layer.window, all(before == after for before, after in layer.window.padding)
    padding: Any = tuple(before for before, _ in window.padding) if even else "same"
    grouped = nn.Conv2d(
        layer.channels, len(layer.weight), window.kernel, window.stride, padding, window.dilation, groups=layer.channels
    )
    return _copied(grouped, layer)


def _copied(target: nn.Conv2d, source: nn.Module) -> nn.Conv2d:
    for name in ("weight", "bias"):
        tensor = getattr(source, name)
        setattr(target, name, None if tensor is None else nn.Parameter(tensor.detach().clone(), tensor.requires_grad))
    return target.train(source.training)
