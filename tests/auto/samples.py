"""Digits in two parts, networks that learned the first, and an accuracy on the second."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import deepcompress as dc
from tests.pipeline.samples import Net

FAST = {"lr": 1e-2}  # some hundred steps are all that these tests have


@cache
def data() -> tuple[Tensor, Tensor]:
    """Images (1797, 1, 8, 8) and labels, in an order by chance."""
    found = load_digits()
    order = torch.randperm(len(found.images), generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(found.images).float().div(16).unsqueeze(1)[order], torch.from_numpy(found.target)[order]


class Train:
    """Some of the first 1,024 digits in batches of 32, each epoch in another order."""

    def __init__(self, count: int = 1024) -> None:
        self.count, self.order = count, torch.Generator().manual_seed(1)

    def __len__(self) -> int:
        return -(-self.count // 32)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = data()
        for part in torch.randperm(self.count, generator=self.order).split(32):
            yield images[part], labels[part]


def accuracy(model: nn.Module) -> float:
    """Of the digits that no training sees."""
    images, labels = data()
    return float((model(images[1024:]).argmax(1) == labels[1024:]).float().mean())


def _learned(model: nn.Module) -> nn.Module:
    dc.fit(model, Train(), dc.TrainSettings(epochs=10, lr=5e-3))
    return model.eval()


@cache
def mlp() -> nn.Module:
    torch.manual_seed(0)
    return _learned(nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)))


@cache
def one_layer() -> nn.Module:
    torch.manual_seed(0)
    return _learned(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


@cache
def normed() -> nn.Module:
    """One layer and a norm behind it."""
    torch.manual_seed(0)
    return _learned(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10)))


@cache
def net() -> nn.Module:
    """Convolution, batch norm, tied weights."""
    torch.manual_seed(0)
    return _learned(Net())
