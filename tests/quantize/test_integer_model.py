"""Whole networks in integers: no float operation inside, every step as the float module does it, accuracy kept."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import deepcompress as dc
from deepcompress.errors import ModelError, ParameterError
from deepcompress.models import ConvNet, LeNetDigits, resnet20
from deepcompress.quantize.fixed_point.model import _between
from deepcompress.quantize.grid import Grid


class NoFloats(TorchDispatchMode):
    """Fails at the first operation that takes or gives a tensor of floats; counts the others."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, given)):
            assert not (isinstance(value, Tensor) and value.is_floating_point()), f"{func} works on floats"
            assert not isinstance(value, float), f"{func} takes the float {value}"
        self.count += 1
        return given


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    data = load_digits()
    images, labels = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    return images[:1300], labels[:1300], images[1300:], labels[1300:]


def trained(model: nn.Module, epochs: int = 4) -> nn.Module:
    images, labels, _, _ = digits()
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    return model.eval()


def with_norms() -> nn.Sequential:
    """Batch norm, groups, a ReLU6, both poolings, dropout."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, groups=2), nn.BatchNorm2d(32), nn.ReLU6(), nn.AvgPool2d(2)),
        nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 10)),
    )


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
@pytest.mark.parametrize("weights", ["per-channel", "per-layer"])
@pytest.mark.parametrize("make", [LeNetDigits, with_norms])
def test_digits_lose_a_point_at_most(make: Any, weights: str, method: str) -> None:
    model = dc.fold_batch_norm(_once(make))
    images, _, test, labels = digits()
    fixed = dc.FixedPointModel(model, dc.calibrate(model, [images[:300]], method=method), weights=weights)
    with torch.no_grad():
        logits = model(test)
    right, right_fixed = ((found == labels).float().mean().item() for found in (logits.argmax(1), fixed.classes(test)))
    assert right > 0.85
    assert right_fixed >= right - 0.01
    assert (fixed(test) - logits).abs().mean() < 0.02 * logits.abs().max()


_TRAINED: dict[Any, nn.Module] = {}


def _once(make: Any) -> nn.Module:
    if make not in _TRAINED:
        _TRAINED[make] = trained(make())
    return _TRAINED[make]


@pytest.mark.parametrize("bits", [8, 6, 12])
@pytest.mark.parametrize("symmetric", [False, True])
def test_no_float_operation_between_the_codes(bits: int, symmetric: bool) -> None:
    model, images = dc.fold_batch_norm(with_norms().eval()), digits()[0][:50]
    fixed = dc.FixedPointModel(model, dc.calibrate(model, [images], bits=bits, symmetric=symmetric), bits=min(bits, 8))
    codes = fixed.encode(images)
    with NoFloats() as watch:
        logits = fixed.run(codes)
    assert watch.count > 20
    assert logits.dtype == fixed.output.dtype
    assert torch.equal(fixed(images), fixed.decode(logits))
    assert torch.equal(fixed.classes(images), logits.int().argmax(1))
    with pytest.raises(AssertionError, match="floats"), NoFloats():
        fixed.encode(images)


def test_more_bits_come_closer() -> None:
    model, (images, _, test, _) = _once(LeNetDigits), digits()
    found = dc.calibrate(model, [images])

    def error(bits: int) -> float:
        fixed = dc.FixedPointModel(model, found.rescaled(bits=bits), bits=min(bits, 8))
        with torch.no_grad():
            return (fixed(test) - model(test)).abs().mean().item()

    assert error(3) > error(5) > error(8) >= error(12)


def test_a_step_between_layers_has_one_grid() -> None:
    model, images = dc.fold_batch_norm(with_norms().eval()), digits()[0][:50]
    found = dc.calibrate(model, [images])
    fixed = dc.FixedPointModel(model, found)
    assert [step.name for step in fixed.steps] == ["0.0", "0.3", "1.0", "1.3", "2.0", "2.2"]
    assert fixed.input == found.input.grid  # type: ignore[union-attr]
    assert fixed.output == found.layers["2.2"].output.grid  # type: ignore[union-attr]
    relu = found.layers["0.0"].output.observed.high  # type: ignore[union-attr]
    assert fixed.steps[0].grid == fixed.steps[1].grid == Grid.over(0.0, relu, bits=8)
    assert fixed.steps[2].grid.high <= 6.0 + fixed.steps[2].grid.scale


# Steps between layers


GRID = Grid(0.05, 90, 8, False)


def through(module: nn.Module, codes: Tensor, grid: Grid = GRID) -> tuple[Tensor, Tensor]:
    """What the step gives, and what the module gives for the values, in steps of the grid."""
    exact = module((codes.double() - grid.zero_point) * grid.scale) / grid.scale + grid.zero_point
    step = _between("step", module, grid)
    with NoFloats():
        found = step.run(codes)
    assert found.dtype == codes.dtype
    return found, exact


def codes_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 3)),
    st.sampled_from([None, 1, 2, 3, (2, 1)]),
    st.tuples(st.integers(0, 1), st.integers(0, 1)),
    st.integers(1, 2),
    st.booleans(),
    st.integers(0, 99),
)
@settings(deadline=None)
def test_max_pooling_is_exact(kernel: Any, stride: Any, padding: Any, dilation: int, ceil: bool, seed: int) -> None:
    padding = tuple(min(pad, size // 2) for pad, size in zip(padding, kernel, strict=True))
    module = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
    found, exact = through(module, codes_of(2, 3, 9, 8, seed=seed))
    torch.testing.assert_close(found.double(), exact)


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 3)),
    st.sampled_from([None, 1, 2, (3, 1)]),
    st.tuples(st.integers(0, 1), st.integers(0, 1)),
    st.booleans(),
    st.integers(0, 99),
)
@settings(deadline=None)
def test_average_pooling_is_the_nearest_code(kernel: Any, stride: Any, padding: Any, counted: bool, seed: int) -> None:
    padding = tuple(min(pad, size // 2) for pad, size in zip(padding, kernel, strict=True))
    module = nn.AvgPool2d(kernel, stride, padding, count_include_pad=counted)
    found, exact = through(module, codes_of(2, 3, 9, 8, seed=seed))
    torch.testing.assert_close(found.double(), torch.floor(exact + 0.5 + 1e-9))


@pytest.mark.parametrize("size", [1, 2, (3, 4), (None, 2), 8])
def test_adaptive_pooling_is_the_nearest_code(size: Any) -> None:
    found, exact = through(nn.AdaptiveAvgPool2d(size), codes_of(2, 3, 8, 7))
    torch.testing.assert_close(found.double(), torch.floor(exact + 0.5 + 1e-9))


def test_relus_by_themselves() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    for module in (nn.ReLU(), nn.ReLU6()):
        found, exact = through(module, codes)
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=0.5)
    assert torch.equal(through(nn.Flatten(), codes_of(2, 3, 4, 5))[0], codes_of(2, 3, 4, 5).flatten(1))


# Forward passes in code


class Coded(nn.Module):
    """A small network whose forward pass is written with functions and methods, in several ways."""

    def __init__(self, kind: str = "view") -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4 if "mean" in kind or kind == "adaptive" else 64, 3)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Any:
        x = self.conv(x)
        if self.kind == "add":
            x = x + x.relu()
        x = F.relu(x, inplace=True) if self.kind != "mean" else x.relu()
        if self.kind == "sigmoid":
            x = torch.sigmoid(x)
        if self.kind == "mean":
            return self.fc(self.drop(x.mean((2, 3))))
        if self.kind == "mean kept":
            return self.fc(torch.flatten(x.mean(dim=(-1, -2), keepdim=True), 1))
        if self.kind == "adaptive":
            return self.fc(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1))
        x = F.max_pool2d(x, 2) if self.kind != "average" else F.avg_pool2d(x, kernel_size=2)
        x = F.dropout(x, 0.5, self.training)
        if self.kind == "always dropping":
            x = F.dropout(x)
        if self.kind == "number":
            return self.fc(x.view(-1, 64))
        if self.kind == "merged":
            return self.fc(x.view(-1, 32).view(-1, 64))
        if self.kind == "shape":
            return self.fc(x.reshape(x.shape[0], -1))
        if self.kind == "branch" and x.sum() > 0:
            return x
        return self.fc(x.view(x.size(0), -1))


@pytest.mark.parametrize("kind", ["view", "mean", "mean kept", "adaptive", "average", "number", "shape"])
def test_functions_count_as_their_modules(kind: str) -> None:
    torch.manual_seed(0)
    model, images = Coded(kind), torch.randn(40, 1, 8, 8)
    for training in (True, False):
        model.train(training)
        fixed = dc.FixedPointModel(model, dc.calibrate(model, [images]))
        assert model.training is training
        exact = model.eval()(images)
        assert (fixed(images) - exact).abs().max() < 6 * fixed.output.scale


def test_networks_of_the_house() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    model = dc.fold_batch_norm(ConvNet().eval())
    fixed = dc.FixedPointModel(model, dc.calibrate(model, [images]))
    assert (fixed(images) - model(images)).abs().max() < 12 * fixed.output.scale
    assert len(fixed.steps) == 6 + 3 + 1 + 1


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (Coded("add"), "FixedPointModel: add takes conv and relu; only a chain, in which each step takes what the last one gave"),
        (Coded("sigmoid"), "FixedPointModel: sigmoid (sigmoid) has no integer form here"),
        (Coded("always dropping"), "FixedPointModel: dropout_1 is called in a way that has no integer form here"),
        (Coded("merged"), "FixedPointModel: an image has 64 values where the network's code says 32"),
        (Coded("branch"), "FixedPointModel: torch.fx cannot follow the forward pass of Coded: is it a chain of modules?"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sigmoid()), "FixedPointModel: '1', a Sigmoid, has no integer form here"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), "FixedPointModel: '1' is a batch norm by itself: fold_batch_norm"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2, ceil_mode=True)), "FixedPointModel, '1': ceil_mode=True and divisor"),
        (nn.Sequential(nn.Conv2d(1, 2, 3, padding_mode="circular")), "FixedPointModel, layer '0': integer_layer: padding_mode="),
    ],
)
def test_what_has_no_integer_form_is_named(model: nn.Module, text: str) -> None:
    images = torch.randn(4, 1, 8, 8)
    found = dc.calibrate(model, [images])
    with pytest.raises(ModelError, match=re.escape(text)):
        dc.FixedPointModel(model, found).classes(images)


def test_residual_networks_are_refused() -> None:
    model = dc.fold_batch_norm(resnet20().eval())
    with pytest.raises(ModelError, match=re.escape("FixedPointModel: add takes")):
        dc.FixedPointModel(model, dc.calibrate(model, [torch.randn(1, 3, 32, 32)]))


def test_pooling_with_indices() -> None:
    with pytest.raises(ModelError, match=re.escape("FixedPointModel, 'pool': return_indices=True has no integer form here")):
        _between("pool", nn.MaxPool2d(2, return_indices=True), GRID)


def test_calibrations_that_lack_something() -> None:
    model, images = Coded(), torch.randn(4, 1, 8, 8)
    part = dc.calibrate(model, [images], exclude=["fc"])
    with pytest.raises(ParameterError, match=re.escape("must be one with the output of layer 'fc'. Got \"one of 'conv'\"")):
        dc.FixedPointModel(model, part)
    words = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2))
    with pytest.raises(ParameterError, match="must be of a network that takes a tensor of floats"):
        dc.FixedPointModel(words, dc.calibrate(words, [torch.arange(5)]))


def test_one_layer_alone() -> None:
    torch.manual_seed(0)
    model, rows = nn.Linear(6, 3), torch.randn(50, 6)
    fixed = dc.FixedPointModel(model, dc.calibrate(model, [rows]))
    assert (fixed(rows) - model(rows)).abs().max() < 3 * fixed.output.scale
    assert math.isclose(fixed.output.scale, dc.calibrate(model, [rows]).layers[""].output.scale)  # type: ignore[union-attr]
