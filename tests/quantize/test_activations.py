"""Rounded activations: what layers see, where gradients go, and that nothing stays behind."""

from __future__ import annotations

import copy
import io
import pickle
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import deepcompress as dc
from deepcompress.errors import ParameterError
from deepcompress.quantize.activations import fake_quantize
from deepcompress.quantize.grid import Grid


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3))
    return nn.Sequential(*layers).eval()


def images(n: int = 8) -> Tensor:
    return torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def grid_of(activation: Any) -> Grid:
    return activation.grid  # type: ignore[no-any-return]


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@given(st.floats(-9, 9, width=32), st.floats(-9, 9, width=32), st.integers(2, 16), st.booleans())
def test_rounds_as_codes_there_and_back_do(one: float, other: float, bits: int, symmetric: bool) -> None:
    grid = Grid.over(min(one, other), max(one, other), bits=bits, symmetric=symmetric)
    values = torch.linspace(-10, 10, 101)
    expected = grid.dequantize(grid.quantize(values))
    rounded = fake_quantize(values, grid)
    near_tie = (values.double() / grid.scale).frac().abs().sub(0.5).abs() < 1e-3  # float32 may decide a tie the other way
    assert torch.all((rounded - expected).abs() <= torch.where(near_tie, 1.001 * grid.scale, 1e-6 * expected.abs()))
    assert torch.equal(fake_quantize(rounded, grid), rounded)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types_and_shapes_stay(dtype: torch.dtype) -> None:
    grid = Grid.over(-1, 1, bits=4)
    for values in (torch.tensor(0.3, dtype=dtype), torch.zeros(0, 3, dtype=dtype), torch.randn(2, 3, dtype=dtype)):
        rounded = fake_quantize(values, grid)
        assert (rounded.dtype, rounded.shape) == (values.dtype, values.shape)


def test_gradients_go_straight_through_where_nothing_is_clipped() -> None:
    grid = Grid.over(-1, 1, bits=3)
    values = torch.tensor([-2.0, -0.9, 0.1, 0.8, 3.0], requires_grad=True)
    (fake_quantize(values, grid) * torch.tensor([1.0, 2, 3, 4, 5])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0, 2, 3, 4, 0]


def test_every_layer_sees_and_gives_rounded_activations() -> None:
    model, batch = net(), images()
    found = dc.calibrate(model, [batch], bits=4)
    first, last = found.layers["0"], found.layers["3"]
    with dc.quantize_activations(model, found):
        got = model(batch)
    hidden = fake_quantize(model[0](fake_quantize(batch, grid_of(first.input))), grid_of(first.output))
    expected = fake_quantize(model[3](fake_quantize(model[2](hidden.relu()), grid_of(last.input))), grid_of(last.output))
    assert torch.equal(got, expected)
    assert not torch.equal(got, model(batch))
    with dc.quantize_activations(model, found, outputs=False):
        assert torch.equal(model[0](batch), model[0](fake_quantize(batch, grid_of(first.input))))
    with dc.quantize_activations(model, found, inputs=False):
        assert torch.equal(model[0](batch), fake_quantize(model[0](batch), grid_of(first.output)))


def test_nothing_stays_behind() -> None:
    model, batch = net(), images()
    found, state, plain = dc.calibrate(model, [batch]), copy.deepcopy(model.state_dict()), model(batch)
    before = hooks_of(model)
    handle = dc.quantize_activations(model, found)
    assert hooks_of(model) == before + 5
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert (list(model.state_dict()), type(model[0])) == (list(state), nn.Conv2d)
    handle.remove()
    handle.remove()
    assert hooks_of(model) == before
    assert torch.equal(model(batch), plain)
    with pytest.raises(RuntimeError, match="inside"), dc.quantize_activations(model, found):
        raise RuntimeError("inside")
    assert hooks_of(model) == before


def test_more_bits_come_closer() -> None:
    model, batch = net(), images()
    found, plain = dc.calibrate(model, [batch]), model(batch)

    def error(bits: int) -> float:
        with dc.quantize_activations(model, found.rescaled(bits=bits)):
            return (model(batch) - plain).abs().max().item()

    assert error(2) > error(4) > error(8) > error(16)
    assert error(16) < 1e-3


def test_it_trains_through_the_rounding() -> None:
    model, batch = net(), images()
    with dc.quantize_activations(model, dc.calibrate(model, [batch], bits=4)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(batch), torch.arange(8) % 3)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    assert losses[-1] < losses[0]


def test_copies_are_free() -> None:
    model, batch = net(), images()
    plain = model(batch)
    with dc.quantize_activations(model, dc.calibrate(model, [batch], bits=3)):
        for free in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(free(batch), plain)
        assert not torch.equal(model(batch), plain)


def test_a_copied_model_saves_and_loads() -> None:
    model = net()
    file = io.BytesIO()
    with dc.quantize_activations(model, dc.calibrate(model, [images()])):
        torch.save(model.state_dict(), file)
    file.seek(0)
    other = net()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(images()), model(images()))


class Keyword(nn.Module):
    """A layer called by keyword, and a recurrent one that gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.lstm = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out, (hidden, _) = self.lstm(self.fc(input=x))
        return out.sum() + hidden.sum()


def test_keywords_and_tuples() -> None:
    model, x = Keyword(), torch.randn(2, 5, 4)
    found = dc.calibrate(model, [x], bits=2, types=["Linear", "LSTM"])
    with dc.quantize_activations(model, found):
        out, (hidden, cell) = model.lstm(model.fc(input=x))
        assert len(torch.unique(out)) <= 4
        assert hidden.shape == cell.shape == (1, 2, 3)
        assert len(torch.unique(model.fc(input=x))) <= 4


def test_another_model() -> None:
    found = dc.calibrate(net(), [images()])
    text = "must be of this model, or of one with the same modules. Got \"one with '3'\" instead."
    with pytest.raises(ParameterError, match=re.escape(text)):
        dc.quantize_activations(net()[:2], found)
    with pytest.raises(ParameterError, match="'calibration' parameter of quantize_activations must be what calibrate gives"):
        dc.quantize_activations(net(), {})  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="'inputs, outputs' parameter of quantize_activations must be True, one of them"):
        dc.quantize_activations(net(), found, inputs=False, outputs=False)
