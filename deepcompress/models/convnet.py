"""The small plain ConvNet of the labs on learning rates, schedules and pruning."""

from __future__ import annotations

from torch import Tensor, nn


class ConvNet(nn.Module):
    """Three pairs of 3x3 convolutions with batch norm, a pooling after each pair, one linear layer; 1,148,874 parameters.

    Input (n, 3, 32, 32), output (n, num_classes) logits. The pairs have `width`, 2 x `width` and 4 x `width` channels.

    Source: the VGG pattern; Simonyan, Zisserman. Very Deep Convolutional Networks. ICLR 2015.
    """

    def __init__(self, num_classes: int = 10, width: int = 64) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        in_channels = 3
        for out_channels in widths:
            for channels in (in_channels, out_channels):
                layers += [nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            in_channels = out_channels
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)
        logits: Tensor = self.classifier(maps.mean((2, 3)))
        return logits
