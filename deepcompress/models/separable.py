"""A small network of depthwise separable convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from deepcompress.nn.separable import depthwise_separable_block

# (channels, stride) of each block
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1))


class SeparableNet(nn.Module):
    """A 3x3 convolution of stride 2, five depthwise separable blocks, pooling, one linear layer; 135,562 parameters.

    Input (b, 3, 32, 32), output (b, num_classes) logits. With standard 3x3 convolutions in the blocks it would have 1,129,514.

    Source: the pattern of Howard et al. MobileNets. 2017. arXiv:1704.04861, with one norm and ReLU per block.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        channels = 32
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        self.blocks = nn.Sequential()
        for width, stride in BLOCKS:
            self.blocks.append(depthwise_separable_block(channels, width, stride))
            channels = width
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.blocks(self.stem(images))
        logits: Tensor = self.classifier(maps.mean((2, 3)))
        return logits
