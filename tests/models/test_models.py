"""The networks have the sizes that the literature reports on, and the names that published checkpoints have."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepcompress import models

MNIST, CIFAR, DIGITS = (1, 28, 28), (3, 32, 32), (1, 8, 8)
NETWORKS = [
    (models.LeNet300100, 266_610, MNIST),
    (models.LeNet5, 431_080, MNIST),
    (models.LeNetDigits, 51_880, DIGITS),
    (models.ConvNet, 1_148_874, CIFAR),
    (models.resnet20, 269_722, CIFAR),
    (models.resnet32, 464_154, CIFAR),
    (models.resnet44, 658_586, CIFAR),
    (models.resnet56, 853_018, CIFAR),
    (models.resnet18_cifar, 11_173_962, CIFAR),
    (models.SeparableNet, 135_562, CIFAR),
]


@pytest.mark.parametrize(("make", "parameters", "image"), NETWORKS)
def test_parameters_and_logits(make, parameters, image) -> None:
    network = make()
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert f"{parameters:,} parameters" in (make.__doc__ or "")
    assert network.eval()(torch.zeros(2, *image)).shape == (2, 10)


@pytest.mark.parametrize("make", [make for make, *_ in NETWORKS])
def test_number_of_classes(make) -> None:
    last = [module for module in make(num_classes=7).modules() if isinstance(module, nn.Linear)][-1]
    assert last.out_features == 7


def test_resnet_names_are_those_of_the_published_checkpoints() -> None:
    names = set(models.resnet20().state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer3.2.bn2.bias", "linear.bias"} <= names
    assert not any("shortcut" in name or "downsample" in name for name in names)


def test_option_a_shortcut_subsamples_and_pads_with_zeros() -> None:
    block = models.resnet_cifar.BasicBlock(4, 8, stride=2)
    nn.init.zeros_(block.bn2.weight)  # silence the residual branch
    maps = torch.rand(1, 4, 6, 6)
    out = block.eval()(maps)
    assert torch.equal(out[:, 2:6], maps[:, :, ::2, ::2])
    assert not out[:, :2].any()
    assert not out[:, 6:].any()


def test_resnet18_without_norms() -> None:
    network = models.resnet18_cifar(batch_norm=False)
    assert sum(p.numel() for p in network.parameters()) == 11_164_362
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert network(torch.zeros(2, *CIFAR)).shape == (2, 10)


def test_resnet18_has_the_convolutions_and_names_that_are_reported() -> None:
    network = models.resnet18_cifar()
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    assert len(names) == 20
    assert sum("shortcut" not in name for name in names) == 17
    assert network.linear.in_features == 512
    assert {"conv1.weight", "layer2.0.shortcut.0.weight", "layer4.1.bn2.running_var", "linear.bias"} <= set(network.state_dict())


def test_option_b_shortcut_is_the_input_or_its_projection() -> None:
    same = models.resnet18_cifar().layer1[0]
    halved = models.resnet18_cifar().layer2[0]
    maps = torch.rand(1, 64, 4, 4)
    for block in (same, halved):
        nn.init.zeros_(block.bn2.weight)  # silence the residual branch
    assert torch.equal(same.eval()(maps), maps)
    assert torch.equal(halved.eval()(maps), halved.shortcut(maps).relu())


def test_the_separable_network_with_standard_convolutions() -> None:
    network = models.SeparableNet()
    for block in network.blocks:
        pointwise = block[0].pointwise
        channels = block[0].depthwise.channels
        block[0] = nn.Conv2d(channels, pointwise.out_channels, 3, block[0].depthwise.window.stride, 1, bias=False)
    assert sum(p.numel() for p in network.parameters()) == 1_129_514
    assert network.eval()(torch.zeros(2, *CIFAR)).shape == (2, 10)
