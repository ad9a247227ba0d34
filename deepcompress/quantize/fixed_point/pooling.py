"""What a network does between its layers, on codes: poolings, ReLUs, reshaping. The grid stays the same throughout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deepcompress.errors import ModelError
from deepcompress.quantize.fixed_point.chain import Mean, Rows
from deepcompress.quantize.fixed_point.windows import Windows
from deepcompress.quantize.grid import Grid


def max_pool(module: nn.MaxPool2d, grid: Grid) -> Callable[[Tensor], Tensor]:
    """The greatest code stands for the greatest value, so that codes can be compared as they are."""
    if module.return_indices:
        raise ModelError("return_indices=True has no integer form here")
    stride = _pair(module.kernel_size if module.stride is None else module.stride)
    windows = Windows(_pair(module.kernel_size), stride, _pair(module.padding), _pair(module.dilation), module.ceil_mode)

    def run(codes: Tensor) -> Tensor:
        return windows.cut(codes.to(torch.int32), grid.lowest).amax((-2, -1)).to(grid.dtype)

    return run


def average_pool(module: nn.AvgPool2d, grid: Grid) -> Callable[[Tensor], Tensor]:
    """The mean of the codes, to the nearest, halves up; a padded border counts as 0 where the module counts it."""
    if module.ceil_mode or module.divisor_override is not None:
        raise ModelError("ceil_mode=True and divisor_override have no integer form here")
    stride = _pair(module.kernel_size if module.stride is None else module.stride)
    windows = Windows(_pair(module.kernel_size), stride, _pair(module.padding))

    def run(codes: Tensor) -> Tensor:
        centred = codes.to(torch.int32) - grid.zero_point
        counted = torch.ones_like(centred[:1, :1])
        counts = windows.cut(counted, 1 if module.count_include_pad else 0).sum((-2, -1))
        return _rounded_mean(windows.cut(centred, 0).sum((-2, -1)), counts, grid)

    return run


def adaptive_average_pool(module: nn.AdaptiveAvgPool2d, grid: Grid) -> Callable[[Tensor], Tensor]:
    """The mean of the codes of each of height x width regions; (1, 1) is global pooling."""
    size = _pair(module.output_size)

    def run(codes: Tensor) -> Tensor:
        centred = codes.to(torch.int32) - grid.zero_point
        regions = [_regions(length, out) for length, out in zip(centred.shape[2:], size, strict=True)]
        rows = [torch.stack([_region_mean(centred[:, :, top, left], grid) for left in regions[1]], -1) for top in regions[0]]
        return torch.stack(rows, -2)

    return run


def rectify(module: nn.ReLU | nn.ReLU6, grid: Grid) -> Callable[[Tensor], Tensor]:
    """A ReLU that does not follow a layer directly: no code below the zero point, for ReLU6 none above that of 6."""
    most = grid.highest
    if isinstance(module, nn.ReLU6):
        most = int(grid.quantize(torch.tensor(6.0, dtype=torch.float64)))

    def run(codes: Tensor) -> Tensor:
        return codes.to(torch.int32).clamp(grid.zero_point, most).to(grid.dtype)

    return run


def flatten(module: nn.Flatten, grid: Grid) -> Callable[[Tensor], Tensor]:
    """The same codes in another shape."""
    return module


def rows(module: Rows, grid: Grid) -> Callable[[Tensor], Tensor]:
    """The same codes, one row for each image."""

    def run(codes: Tensor) -> Tensor:
        found = codes.flatten(1)
        if module.features not in (None, found.shape[1]):
            told = f"where the network's code says {module.features}"
            raise ModelError(f"FixedPointModel: an image has {found.shape[1]} values {told}")
        return found

    return run


def mean(module: Mean, grid: Grid) -> Callable[[Tensor], Tensor]:
    """Global average pooling, to shape (n, c)."""
    pool = adaptive_average_pool(nn.AdaptiveAvgPool2d(1), grid)
    return lambda codes: pool(codes).flatten(1)


def _rounded_mean(sums: Tensor, counts: Tensor, grid: Grid) -> Tensor:
    """sums / counts to the nearest integer, halves up, as codes. 64 bits hold twice any sum."""
    sums, counts = sums.to(torch.int64), counts.to(torch.int64)
    return (torch.div(2 * sums + counts, 2 * counts, rounding_mode="floor") + grid.zero_point).to(grid.dtype)


def _region_mean(region: Tensor, grid: Grid) -> Tensor:
    count = torch.tensor(region.shape[2] * region.shape[3])
    return _rounded_mean(region.sum((2, 3)), count, grid)


def _regions(length: int, out: int | None) -> list[slice]:
    """Where `out` regions of a length begin and end; they overlap where it does not divide."""
    out = length if out is None else out
    return [slice(i * length // out, -(-(i + 1) * length // out)) for i in range(out)]


def _pair(value: Any) -> Any:
    """(height, width) of what may be one number for both."""
    return tuple(value) if isinstance(value, tuple | list) else (value, value)
