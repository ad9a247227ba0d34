"""What training reduces: a centroid's gradient over very many weights, and batch norms of extreme statistics."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import deepcompress as dc
from deepcompress.training.finetune import _Shared
from tests.numbers.cases import MANY


def gathered(weight: torch.Tensor, gradient: torch.Tensor, symbols: torch.Tensor) -> list[float]:
    parameter = nn.Parameter(weight)
    one = _Shared("w", {"w": parameter}, symbols, torch.tensor([-1.0, 1.0]), None)
    parameter.grad = gradient
    one.gather()
    assert one.centroids.grad is not None
    return [float(value) for value in one.centroids.grad]


def test_a_gradient_of_more_weights_than_float32_can_count() -> None:
    symbols = torch.full((MANY,), 2)
    symbols[:7] = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    found = gathered(torch.ones(MANY), torch.full((MANY,), 0.1), symbols)
    each = Fraction(float(np.float32(0.1)))
    assert found == [float(np.float32(float(each * 3))), float(np.float32(float(each * (MANY - 7))))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_that_cancel_against_plain_python(dtype: torch.dtype) -> None:
    draws = torch.randn(300_000, generator=torch.Generator().manual_seed(0)).to(dtype)
    gradient = torch.cat([draws, -draws, torch.tensor([3e-5], dtype=dtype)])
    symbols = torch.ones(len(gradient), dtype=torch.int64)
    found = gathered(torch.zeros(len(gradient), dtype=dtype), gradient, symbols)
    assert math.isclose(found[0], math.fsum(gradient.double().tolist()), rel_tol=1e-5)
    assert found[1] == 0


@pytest.mark.parametrize("variance", [0.0, 1e-45, 1e-12, 1.0, 1e12, 1e30])
@pytest.mark.parametrize("mean", [0.0, -1e-40, 3.0])
def test_batch_norms_are_folded_as_float64_says(variance: float, mean: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    norm = model[1]
    with torch.no_grad():
        norm.weight.uniform_(-2, 2)
        norm.bias.uniform_(-2, 2)
        norm.running_mean.fill_(mean)
        norm.running_var.fill_(variance)
        inputs = torch.randn(2, 3, 8, 8)
        expected = model.double()(inputs.double())
        found = dc.fold_batch_norm(model.float())(inputs)
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
