"""Where the weights of a two-dimensional kernel meet the pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from deepcompress.errors import ParameterError

Pair = tuple[int, int]
Size = int | Pair


@dataclass(frozen=True)
class Window:
    """Where the taps of a kernel fall; pairs are (vertical, horizontal).

    Attributes:
        kernel, stride, dilation: at least 1.
        padding: zeros before and after, ((top, bottom), (left, right)).
    """

    kernel: Pair
    stride: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair

    @classmethod
    def of(cls, kernel: Size, stride: Size, padding: Size | str, dilation: Size) -> Window:
        """From what nn.Conv2d takes: ints or pairs; of padding also "valid" (none) and "same" (stride 1 only)."""
        kernel, stride = pair_of("kernel_size", kernel, 1), pair_of("stride", stride, 1)
        dilation = pair_of("dilation", dilation, 1)
        if padding == "same":
            if stride != (1, 1):
                raise ParameterError.of("padding", "DepthwiseConv2d", "in numbers where the stride is above 1", padding)
            spans = [step * (taps - 1) for step, taps in zip(dilation, kernel, strict=True)]
            sides = [(span // 2, span - span // 2) for span in spans]
        else:
            sides = [(side, side) for side in pair_of("padding", 0 if padding == "valid" else padding, 0)]
        return cls(kernel, stride, (sides[0], sides[1]), dilation)

    def padded(self, maps: Tensor) -> Tensor:
        (top, bottom), (left, right) = self.padding
        return F.pad(maps, (left, right, top, bottom))

    def out_size(self, padded: Tensor) -> Pair:
        """(height, width) of the output; below 1 where the kernel does not fit."""
        spans = [step * (taps - 1) + 1 for step, taps in zip(self.dilation, self.kernel, strict=True)]
        height, width = ((padded.shape[side] - spans[side]) // self.stride[side] + 1 for side in (-2, -1))
        return height, width

    def taps(self, padded: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """(row, column, the pixels that this weight of the kernel meets), (..., out height, out width), without copying."""
        height, width = self.out_size(padded)
        for row in range(self.kernel[0]):
            for column in range(self.kernel[1]):
                top, left = row * self.dilation[0], column * self.dilation[1]
                rows = slice(top, top + (height - 1) * self.stride[0] + 1, self.stride[0])
                columns = slice(left, left + (width - 1) * self.stride[1] + 1, self.stride[1])
                yield row, column, padded[..., rows, columns]


def pair_of(name: str, value: object, least: int) -> Pair:
    """An int twice, or the pair that was given. Raises ParameterError for anything else, and for less than `least`."""
    both = value if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side >= least for side in both):
        words = ', a pair of them, "same" or "valid"' if name == "padding" else " or a pair of them"
        raise ParameterError.of(name, "DepthwiseConv2d", f"an int of at least {least}{words}", value)
    return both[0], both[1]


def count_of(name: str, value: int) -> int:
    """The value itself. Raises ParameterError where it is no int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ParameterError.of(name, "DepthwiseConv2d", "an int of at least 1", value)
    return value
