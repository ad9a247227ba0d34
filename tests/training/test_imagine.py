"""Inputs made from the statistics of batch norms: nearer to them than noise, the same each time, and the model is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepcompress as dc
from deepcompress.errors import ModelError, ParameterError, TrainingError
from deepcompress.training.imagine import _Dream


def trained() -> nn.Module:
    """A network whose inputs were stripes, five times brighter than noise."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    with torch.no_grad():
        for _ in range(60):
            model(5 * torch.randn(32, 2, 1, 8).expand(32, 2, 8, 8) + 3)
    return model


def test_they_fit_the_statistics_better_than_noise() -> None:
    model = trained()
    dream = _Dream(model.eval(), 0.0)
    imagined = dc.imagine_inputs(model, (2, 8, 8), 64, steps=60, lr=0.3, smoothness=0.0)
    assert imagined.shape == (64, 2, 8, 8)
    assert not imagined.requires_grad
    noise = torch.randn(64, 2, 8, 8)
    with torch.no_grad():
        assert float(dream._distance(imagined)) < 0.15 * float(dream._distance(noise))


def test_smoothness_makes_neighbours_alike() -> None:
    rough, smooth = (dc.imagine_inputs(trained(), (2, 8, 8), 16, steps=30, smoothness=weight) for weight in (0.0, 5.0))
    assert smooth.diff(dim=3).square().mean() < rough.diff(dim=3).square().mean()


def test_the_same_each_time_and_the_model_as_it_was() -> None:
    model = trained().train()
    model[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (dc.imagine_inputs(model, [2, 8, 8], 300, steps=2) for _ in range(2))
    assert len(first) == 300
    assert torch.equal(first, second)
    assert not torch.equal(first, dc.imagine_inputs(model, (2, 8, 8), 300, steps=2, seed=1))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == [False] + [True] * 7
    assert all(parameter.grad is None for parameter in model.parameters())


def test_vectors_have_no_neighbours() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
    assert dc.imagine_inputs(model, (4,), 10, steps=3).shape == (10, 4)


def test_they_help_to_quantize() -> None:
    model = trained().eval()
    real = [5 * torch.randn(32, 2, 1, 8).expand(32, 2, 8, 8) + 3 for _ in range(4)]
    wrong = {}
    imagined = dc.imagine_inputs(model, (2, 8, 8), 128, steps=60, lr=0.3, smoothness=0.0)
    for name, train in {"none": None, "imagined": [imagined]}.items():
        stages = [("quantize", dc.RateQuantize(bits=2.0)), ("encode", dc.ContextEncode())]
        found = dc.Pipeline(stages).run(model, train=train, quiet=True).model
        with torch.no_grad():
            wrong[name] = sum(float((found(batch) - model(batch)).square().mean()) for batch in real)
    assert wrong["imagined"] < wrong["none"]


def test_networks_without_statistics() -> None:
    with pytest.raises(ModelError, match="the model has none"):
        dc.imagine_inputs(nn.Linear(3, 2), (3,))
    with pytest.raises(ModelError, match="the model has none"):
        dc.imagine_inputs(nn.BatchNorm1d(3, track_running_stats=False), (3,))

    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs

    with pytest.raises(ModelError, match="these inputs reach none"):
        dc.imagine_inputs(Idle(), (3,))


def test_a_rate_that_is_too_high() -> None:
    with pytest.raises(TrainingError, match="NaN or infinite at step 2; try a lower lr"):
        dc.imagine_inputs(trained(), (2, 8, 8), 4, lr=1e30)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"shape": ()}, "'shape' parameter of imagine_inputs must be of ints above 0"),
        ({"shape": (3, 0)}, "'shape' parameter of imagine_inputs must be of ints above 0"),
        ({"count": 0}, "'count' parameter of imagine_inputs must be an int above 0"),
        ({"steps": 1.5}, "'steps' parameter of imagine_inputs must be an int above 0"),
        ({"lr": 0}, "'lr' parameter of imagine_inputs must be a number above 0"),
        ({"smoothness": -1}, "'smoothness' parameter of imagine_inputs must be a number of at least 0"),
    ],
)
def test_values_out_of_range(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ParameterError, match=f"The {expected}"):
        dc.imagine_inputs(trained(), **{"shape": (2, 8, 8), **changes})
