"""ResNet-18 for 32x32 images, with the norms or without them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (64, 128, 256, 512)


class ProjectedBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut of option B: a 1x1 convolution where the shape changes, else the input itself."""

    def __init__(self, in_channels: int, channels: int, stride: int, *, batch_norm: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = _norm(channels, batch_norm)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = _norm(channels, batch_norm)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut.append(nn.Conv2d(in_channels, channels, 1, stride, bias=False)).append(_norm(channels, batch_norm))

    def forward(self, maps: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(maps)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(maps))


class ResNet18Cifar(nn.Module):
    """ResNet-18 with a 3x3 stem and no max pooling. Input (b, 3, 32, 32), output (b, num_classes) logits.

    17 convolutions on the main path, 20 with the shortcuts; the last layer has 512 inputs. Names as in kuangliu/pytorch-cifar,
    whose checkpoints load (`module.` taken off). Weights start as torch's layers do. Where the norms are left out nothing takes
    their place, biases neither.

    Source: He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016, table 1; stem of kuangliu/pytorch-cifar.
    """

    def __init__(self, num_classes: int = 10, *, batch_norm: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = _norm(WIDTHS[0], batch_norm)
        self.layer1 = _pair(WIDTHS[0], WIDTHS[0], 1, batch_norm)
        self.layer2 = _pair(WIDTHS[0], WIDTHS[1], 2, batch_norm)
        self.layer3 = _pair(WIDTHS[1], WIDTHS[2], 2, batch_norm)
        self.layer4 = _pair(WIDTHS[2], WIDTHS[3], 2, batch_norm)
        self.linear = nn.Linear(WIDTHS[3], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.bn1(self.conv1(images)))
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        logits: Tensor = self.linear(maps.mean((2, 3)))
        return logits


def _pair(in_channels: int, channels: int, stride: int, batch_norm: bool) -> nn.Sequential:
    first = ProjectedBlock(in_channels, channels, stride, batch_norm=batch_norm)
    return nn.Sequential(first, ProjectedBlock(channels, channels, 1, batch_norm=batch_norm))


def _norm(channels: int, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if batch_norm else nn.Identity()


def resnet18_cifar(num_classes: int = 10, *, batch_norm: bool = True) -> ResNet18Cifar:
    """ResNet-18 for CIFAR: 11,173,962 parameters, 11,164,362 without batch norm."""
    return ResNet18Cifar(num_classes, batch_norm=batch_norm)
