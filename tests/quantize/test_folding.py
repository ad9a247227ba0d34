"""Batch norms folded into the layers before them: the same function, and only where that is certain."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepcompress as dc
from deepcompress.models import ConvNet, resnet20


def settled(model: nn.Module, *shape: int) -> nn.Module:
    """With statistics and factors as training leaves them."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(type(module).__name__.startswith("BatchNorm") for module in model.modules())


@pytest.mark.parametrize(
    ("model", "shape", "left"),
    [
        (ConvNet(), (2, 3, 32, 32), 0),
        (resnet20(), (2, 3, 32, 32), 0),
        (nn.Sequential(nn.Conv1d(2, 4, 3, groups=2), nn.BatchNorm1d(4)), (3, 2, 7), 0),
        (nn.Sequential(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2, affine=False)), (3, 1, 3, 3, 3), 0),
        (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4)), (6, 5), 1),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)), (3, 1, 4, 4), 1),
        (nn.Sequential(nn.ConvTranspose2d(1, 2, 2), nn.BatchNorm2d(2)), (3, 1, 4, 4), 1),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 2, 1)), nn.BatchNorm2d(2)), (3, 1, 4, 4), 1),
    ],
)
def test_the_same_function(model: nn.Module, shape: tuple[int, ...], left: int) -> None:
    model = settled(model)
    batch, before = torch.randn(shape), copy.deepcopy(model.state_dict())
    folded = dc.fold_batch_norm(model)
    assert norms(folded) == left
    torch.testing.assert_close(folded(batch), model(batch), rtol=1e-3, atol=1e-4)
    assert [name for name, _ in folded.named_modules() if "parametrizations" not in name] == [
        name for name, _ in model.named_modules() if "parametrizations" not in name
    ]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_modes_stay() -> None:
    model = settled(ConvNet()).train()
    folded = dc.fold_batch_norm(model)
    assert all(module.training for module in (*model.modules(), *folded.modules()) if not isinstance(module, nn.Identity))
    images = torch.ones(1, 3, 32, 32)
    torch.testing.assert_close(folded.eval()(images), model.eval()(images), rtol=1e-3, atol=1e-4)


class Shaped(nn.Module):
    """One convolution, one batch norm, and a forward pass by choice."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(2, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.body = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))

    def forward(self, x: Tensor) -> Any:
        out = self.conv(x)
        if self.kind == "branches":
            return self.norm(out) + out
        if self.kind == "twice":
            return self.norm(self.conv(F.relu(out)))
        if self.kind == "norm twice":
            return self.norm(self.norm(out))
        if self.kind == "between":
            return self.norm(F.relu(out))
        if self.kind == "untraceable" and out.sum() > 0:
            return self.body(out)
        return self.body(self.norm(out))


@pytest.mark.parametrize(("kind", "left"), [("branches", 2), ("twice", 2), ("norm twice", 2), ("between", 2), ("plain", 0)])
def test_only_where_nothing_else_takes_the_output(kind: str, left: int) -> None:
    model = settled(Shaped(kind))
    batch = torch.randn(3, 2, 4, 4)
    folded = dc.fold_batch_norm(model)
    assert norms(folded) == left
    torch.testing.assert_close(folded(batch), model(batch), rtol=1e-3, atol=1e-4)


def test_neighbours_where_the_code_cannot_be_traced() -> None:
    model = settled(Shaped("untraceable"))
    folded = dc.fold_batch_norm(model)
    assert isinstance(folded.norm, nn.BatchNorm2d)
    assert norms(folded) == 1
    for batch in (torch.full((1, 2, 3, 3), 9.0), torch.full((1, 2, 3, 3), -9.0)):
        torch.testing.assert_close(folded(batch), model(batch), rtol=1e-3, atol=1e-4)


def test_nothing_to_fold() -> None:
    model = nn.Linear(2, 2)
    assert torch.equal(dc.fold_batch_norm(model)(torch.eye(2)), model(torch.eye(2)))
