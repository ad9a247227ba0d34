"""The ResNets of He et al. for 32x32 images: three groups of n blocks, 6n + 2 layers, shortcuts without parameters."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut of option A: subsample, and pad the new channels with zeros."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.pad = (channels - in_channels) // 2

    def forward(self, maps: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(maps)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1 or self.pad:
            maps = F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(out + maps)


class ResNetCifar(nn.Module):
    """ResNet-(6n+2) for CIFAR. Input (b, 3, 32, 32), output (b, num_classes) logits.

    Names as in akamaster/pytorch_resnet_cifar10, whose checkpoints load (`module.` taken off).

    Source: He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016, sec. 4.2.
    """

    def __init__(self, blocks: int, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _group(16, 16, blocks, stride=1)
        self.layer2 = _group(16, 32, blocks, stride=2)
        self.layer3 = _group(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        logits: Tensor = self.linear(maps.mean((2, 3)))
        return logits


def _group(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


def resnet20(num_classes: int = 10) -> ResNetCifar:
    """ResNet-20: 269,722 parameters."""
    return ResNetCifar(3, num_classes)


def resnet32(num_classes: int = 10) -> ResNetCifar:
    """ResNet-32: 464,154 parameters."""
    return ResNetCifar(5, num_classes)


def resnet44(num_classes: int = 10) -> ResNetCifar:
    """ResNet-44: 658,586 parameters."""
    return ResNetCifar(7, num_classes)


def resnet56(num_classes: int = 10) -> ResNetCifar:
    """ResNet-56: 853,018 parameters."""
    return ResNetCifar(9, num_classes)
