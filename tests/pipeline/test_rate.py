"""RateRetrain ends on few levels, in as many bits as were asked for, and the network still works."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import deepcompress as dc
from deepcompress.errors import ParameterError, PipelineError, TrainingError
from deepcompress.pipeline.stages import ContextEncode, Finetune, Prune, RateRetrain
from deepcompress.training.rate import RateGoal
from tests.pipeline.samples import accuracy, digits, net, same_bits


def dense() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    dc.fit(model, digits(), dc.TrainSettings(30, 5e-3))
    return model


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return dense()


def run(model: nn.Module, *stages: Any, **more: Any) -> dc.Result:
    named = [(str(place), stage) for place, stage in enumerate(stages)]
    return dc.Pipeline(named).run(model, train=digits(), quiet=True, **more)


def weights_of(result: dc.Result) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in result.model.state_dict().items() if weight.ndim > 1}


@pytest.mark.parametrize(("bits", "levels"), [(0.6, 1), (0.6, 3), (1.2, 3)])
def test_levels_bits_and_accuracy(trained: nn.Module, bits: float, levels: int) -> None:
    stages = [("rate", RateRetrain(60, 1e-2, bits=bits, levels=levels, scheduler="cosine")), ("encode", ContextEncode())]
    result = dc.Pipeline(stages).run(trained, train=digits(32, 1024), evaluate=accuracy, quiet=True)
    total, weights = 0.0, weights_of(result)
    for name, weight in weights.items():
        values = weight.unique()
        nonzero = values[values != 0]
        assert len(nonzero) <= 2 * levels
        steps = nonzero / nonzero.abs().min()
        assert torch.allclose(steps, steps.round(), atol=2e-3 * levels), name
        counts = np.unique(weight.numpy(), return_counts=True)[1]
        total += float(-(counts * np.log2(counts / weight.numel())).sum())
    assert bits / 2 < total / sum(weight.numel() for weight in weights.values()) < bits * 2  # few steps; rows count for less
    assert (result.report.stages[-1].accuracy or 0.0) > 0.9
    assert same_bits(result.model, dc.load(result.compressed.to_bytes()).state_dict())


def test_the_same_seed_gives_the_same_bytes(trained: nn.Module) -> None:
    stage = RateRetrain(4, 5e-3, bits=1.0)
    first, second = (run(trained, stage, ContextEncode()).compressed.to_bytes() for _ in range(2))
    assert first == second


def test_what_was_pruned_stays_zero(trained: nn.Module) -> None:
    result = run(trained, Prune("percentile", q=0.5), RateRetrain(6, 5e-3, bits=1.5), ContextEncode())
    before = run(trained, Prune("percentile", q=0.5))
    for name, weight in weights_of(before).items():
        assert not weights_of(result)[name][weight == 0].any()


def test_zeros_stay_zero_at_the_end(trained: nn.Module) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def validate(model: nn.Module) -> float:
        seen.append({name: weight.detach() == 0 for name, weight in model.named_parameters() if weight.ndim > 1})
        return 0.0

    run(trained, RateRetrain(10, 5e-3, bits=0.8, ramp=0.4, freeze=0.6), validate=validate)
    for name, zeros in seen[6].items():
        assert all(torch.equal(zeros, later[name]) for later in seen[7:])
    assert any(not torch.equal(zeros, seen[1][name]) for name, zeros in seen[0].items())


def test_finetune_may_follow_and_other_weights_are_left(trained: nn.Module) -> None:
    result = run(trained, RateRetrain(4, 5e-3, bits=1.0, include=["1.weight"]), Finetune(1, 1e-3), ContextEncode())
    assert len(weights_of(result)["1.weight"].unique()) <= 7
    assert len(weights_of(result)["3.weight"].unique()) > 100
    assert result.histories["0"].epochs[-1].sparsity is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_convolutions_and_ties(dtype: torch.dtype) -> None:
    batches = [(images.to(dtype), labels) for images, labels in digits()]
    stages = [("rate", RateRetrain(3, 1e-3, bits=1.0)), ("encode", ContextEncode())]
    result = dc.Pipeline(stages).run(net(dtype=dtype), train=batches, quiet=True)
    assert result.model.inner.weight is result.model.again.weight
    assert same_bits(result.model, dc.load(result.compressed.to_bytes()).state_dict())


def test_a_loss_of_ones_own(trained: nn.Module) -> None:
    teacher = copy.deepcopy(trained)

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.mse_loss(model(batch[0]), teacher(batch[0]))

    result = run(trained, RateRetrain(10, 5e-3, bits=1.5), loss=loss)
    assert result.histories["0"].epochs[-1].accuracy is None


def test_an_interrupted_training_goes_on_to_the_same_bytes(trained: nn.Module, tmp_path: Any) -> None:
    stage = RateRetrain(6, 5e-3, bits=0.8, ramp=0.3, freeze=0.7, scheduler="onecycle")
    expected = run(trained, stage, ContextEncode()).compressed.to_bytes()
    for epoch in (1, 3, 5):
        calls = [0]

        def validate(model: nn.Module, epoch: int = epoch, calls: list[int] = calls) -> float:
            calls[0] += 1
            if calls[0] > epoch:
                raise KeyboardInterrupt
            return 0.0

        folder = tmp_path / str(epoch)
        with pytest.raises(KeyboardInterrupt):
            run(trained, stage, ContextEncode(), validate=validate, workdir=folder)
        assert run(trained, stage, ContextEncode(), workdir=folder).compressed.to_bytes() == expected


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bits": 0}, "'bits' parameter of RateRetrain must be a number of bits above 0, at most 16"),
        ({"bits": 17}, "'bits' parameter of RateRetrain must be a number of bits above 0, at most 16"),
        ({"levels": 0}, "'levels' parameter of RateRetrain must be an int from 1 to 127"),
        ({"levels": 128}, "'levels' parameter of RateRetrain must be an int from 1 to 127"),
        ({"freeze": 1.5}, "'freeze' parameter of RateRetrain must be a share of the epochs, from 0 to 1"),
        ({"ramp": 0.9}, "'ramp' parameter of RateRetrain must be a share of the epochs, at most 0.85"),
        ({"include": "x"}, "'include' parameter of RateRetrain must be None or a list of strings"),
    ],
)
def test_parameters_out_of_range(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        RateRetrain(**change)


def test_what_cannot_go_on() -> None:
    with pytest.raises(PipelineError, match="already have a codebook"):
        run(net(), dc.KMeansQuantize(3), RateRetrain(1))
    with pytest.raises(ParameterError, match="does not go with LBFGS"):
        run(net(), RateRetrain(1, optimizer="LBFGS"))
    model = net()
    before = copy.deepcopy(model)
    with pytest.raises(TrainingError):
        run(model, RateRetrain(2, 1e30, optimizer="SGD"), inplace=True)
    assert same_bits(model, before)


def test_the_schedule() -> None:
    goal = RateGoal(0.25, ramp=0.5)
    assert [goal.at(progress, 4.0) for progress in (0, 0.25, 0.5, 1)] == pytest.approx([4.0, 0.5, 0.25, 0.25])
    assert RateGoal(3.0).at(0.0, 2.0) == 3.0
