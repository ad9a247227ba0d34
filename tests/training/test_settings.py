"""Every number and name is checked when settings are made; options of foreign classes when these are."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import deepcompress as dc
from deepcompress.errors import ParameterError
from deepcompress.training.loop import fit
from deepcompress.training.settings import TrainSettings


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", -1, "an int of at least 0"),
        ("epochs", 2.0, "an int of at least 0"),
        ("epochs", True, "an int of at least 0"),
        ("lr", 0, "a number above 0"),
        ("lr", float("nan"), "a number above 0"),
        ("lr", "1", "a number above 0"),
        ("optimizer", "Adamant", "the name of a class of torch.optim, or a callable"),
        ("optimizer", "Optimizer", "the name of a class of torch.optim, or a callable"),
        ("optimizer", None, "the name of a class of torch.optim, or a callable"),
        ("optimizer_options", [1], "a mapping of keyword arguments"),
        ("scheduler", "sometimes", "one of constant, cosine, onecycle, multistep, the name of a class"),
        ("scheduler", ["cosine"], "one of constant, cosine, onecycle, multistep, the name of a class"),
        ("scheduler_per", "batch", "None for the scheduler 'constant'"),
        ("autocast", "float16", "None or 'bfloat16'"),
        ("frozen_statistics", 1, "True or False"),
        ("label_smoothing", 1, r"a number in \[0, 1\)"),
        ("label_smoothing", "a", r"a number in \[0, 1\)"),
        ("clip_norm", 0, "None or a number above 0"),
        ("seed", -1, r"None or an int from 0 to 2\*\*63 - 1"),
        ("seed", "a", r"None or an int from 0 to 2\*\*63 - 1"),
    ],
)
def test_values_out_of_range(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ParameterError, match=f"The '{name}' parameter of TrainSettings must be {expected}.*Got .* instead"):
        TrainSettings(**{name: value})


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "LBFGS", torch.optim.SGD])
def test_any_optimizer(model: nn.Module, train: Any, optimizer: Any) -> None:
    history = fit(model, train, TrainSettings(epochs=3, lr=0.02, optimizer=optimizer))
    assert history.epochs[-1].loss < history.epochs[0].loss


@pytest.mark.parametrize("options", [{"momentum": -1}, {"momentun": 0.9}, {"lr": 1}])
def test_options_that_the_optimizer_does_not_take(model: nn.Module, train: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=r"^optimizer SGD: "):
        fit(model, train, TrainSettings(epochs=1, optimizer="SGD", optimizer_options=options))


@pytest.mark.parametrize(
    ("scheduler", "options", "rates"),
    [
        ("constant", {}, [1e-2, 1e-2, 1e-2, 1e-2]),
        ("multistep", {"milestones": [2], "gamma": 0.1}, [1e-2, 1e-3, 1e-3, 1e-3]),
        ("StepLR", {"step_size": 1, "gamma": 0.5}, [5e-3, 2.5e-3, 1.25e-3, 6.25e-4]),
        (
            "ReduceLROnPlateau",
            {"patience": 0, "threshold": 1e9, "threshold_mode": "abs", "factor": 0.5},
            [1e-2, 5e-3, 2.5e-3, 1.25e-3],
        ),
        (lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5), {}, [5e-3, 2.5e-3, 1.25e-3, 6.25e-4]),
    ],
)
def test_schedulers_by_epoch(model: nn.Module, train: Any, scheduler: Any, options: dict[str, Any], rates: list[float]) -> None:
    history = fit(model, train, TrainSettings(epochs=4, lr=1e-2, scheduler=scheduler, scheduler_options=options))
    assert [record.lr for record in history.epochs] == pytest.approx(rates)


@pytest.mark.parametrize("scheduler", ["cosine", "onecycle"])
def test_schedulers_by_step_end_low_without_a_step_too_many(model: nn.Module, train: Any, scheduler: str) -> None:
    history = fit(model, train, TrainSettings(epochs=3, lr=1e-2, optimizer="SGD", scheduler=scheduler))
    assert history.epochs[-1].lr < 1e-3 < max(record.lr for record in history.epochs)


def test_options_that_the_scheduler_does_not_take(model: nn.Module, train: Any) -> None:
    with pytest.raises(ParameterError, match=r"^scheduler StepLR: .*step_size"):
        fit(model, train, TrainSettings(epochs=1, scheduler="StepLR"))


def test_multistep_falls_at_a_half_and_at_three_quarters(model: nn.Module, train: Any) -> None:
    history = fit(model, train, TrainSettings(epochs=4, lr=1e-2, optimizer="SGD", scheduler="multistep"))
    assert [round(record.lr, 6) for record in history.epochs] == [1e-2, 1e-3, 1e-4, 1e-4]


def test_one_cycle_by_its_class_is_stepped_after_each_batch(model: nn.Module, train: Any) -> None:
    options = {"max_lr": 0.1, "total_steps": 3 * len(train)}
    settings = TrainSettings(epochs=3, lr=1e-2, optimizer="SGD", scheduler="OneCycleLR", scheduler_options=options)
    assert fit(model, train, settings).epochs[-1].lr < 1e-3


# One epoch of four steps; what torch's own loop does with them, stepped after each batch but the last.
STEPPED = {
    "LambdaLR": {"lr_lambda": lambda step: 1 / (1 + step)},
    "MultiplicativeLR": {"lr_lambda": lambda step: 0.9},
    "StepLR": {"step_size": 2},
    "MultiStepLR": {"milestones": [1, 3]},
    "ConstantLR": {"factor": 0.5, "total_iters": 2},
    "LinearLR": {"start_factor": 0.1, "total_iters": 3},
    "ExponentialLR": {"gamma": 0.5},
    "PolynomialLR": {"total_iters": 4},
    "CosineAnnealingLR": {"T_max": 4},
    "CosineAnnealingWarmRestarts": {"T_0": 2},
    "CyclicLR": {"base_lr": 1e-3, "max_lr": 1e-2, "step_size_up": 2},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 4},
}


def rates_of(model: nn.Module, scheduler: Any, options: dict[str, Any], per: str | None, epochs: int) -> list[float]:
    """The rate that each step was taken with."""
    rates: list[float] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            rates.append(float(self.param_groups[0]["lr"]))
            return super().step(closure)

    batches = [(torch.randn(4, 6), torch.tensor([0, 1, 2, 0]))] * (4 // epochs)
    settings = TrainSettings(
        epochs,
        optimizer=lambda parameters: Watched(parameters, 0.1, momentum=0.9),
        scheduler=scheduler,
        scheduler_options=options,
        scheduler_per=per,
    )
    fit(model, batches, settings)
    return rates


def torchs_rates(make: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1, momentum=0.9)
    scheduler, rates = make(optimizer), []
    for step in range(4):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if step < 3:
            scheduler.step()
    return rates


@pytest.mark.parametrize("per", ["batch", "epoch"])
@pytest.mark.parametrize("name", STEPPED)
def test_every_scheduler_of_torch_by_name(model: nn.Module, name: str, per: str) -> None:
    expected = torchs_rates(lambda optimizer: getattr(torch.optim.lr_scheduler, name)(optimizer, **STEPPED[name]))
    assert rates_of(model, name, STEPPED[name], per, 1 if per == "batch" else 4) == pytest.approx(expected)
    assert len(set(expected)) > 1


def test_no_scheduler_of_torch_was_forgotten() -> None:
    classes = {name for name, value in vars(torch.optim.lr_scheduler).items() if isinstance(value, type) and name[0] != "_"}
    known = {name for name in classes if name.endswith(("LR", "Restarts", "Scheduler"))} - {"LRScheduler"}
    assert known == {*STEPPED, "SequentialLR", "ChainedScheduler"}


LINKS = [{"scheduler": "LinearLR", "start_factor": 0.25, "total_iters": 2}, {"scheduler": "CosineAnnealingLR", "T_max": 2}]


def warm_up(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    linear = torch.optim.lr_scheduler.LinearLR(optimizer, 0.25, total_iters=2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [linear, cosine], milestones=[2])


@pytest.mark.parametrize("per", ["batch", "epoch"])
@pytest.mark.parametrize(("scheduler", "options"), [(warm_up, {}), ("SequentialLR", {"schedulers": LINKS, "milestones": [2]})])
def test_a_warm_up_and_what_follows(model: nn.Module, scheduler: Any, options: dict[str, Any], per: str) -> None:
    rates = rates_of(model, scheduler, options, per, 1 if per == "batch" else 4)
    assert rates == pytest.approx([0.025, 0.0625, 0.1, 0.05])


def test_schedulers_at_once(model: nn.Module) -> None:
    links = [{"scheduler": "ConstantLR", "factor": 0.5, "total_iters": 2}, {"scheduler": "ExponentialLR", "gamma": 0.1}]
    rates = rates_of(model, "ChainedScheduler", {"schedulers": links}, "batch", 1)
    assert rates == pytest.approx([0.05, 0.005, 0.001, 0.0001])


def test_a_plateau_may_be_watched_for_batch_by_batch(model: nn.Module) -> None:
    options = {"patience": 0, "threshold": 1e9, "threshold_mode": "abs", "factor": 0.5}
    assert rates_of(model, "ReduceLROnPlateau", options, "batch", 1) == pytest.approx([0.1, 0.1, 0.05, 0.025])


@pytest.mark.parametrize("links", [None, [], "LinearLR", [LINKS[0], "cosine"], [{"scheduler": "cosine"}], [{"total_iters": 5}]])
def test_links_that_are_none(model: nn.Module, train: Any, links: Any) -> None:
    settings = TrainSettings(1, scheduler="SequentialLR", scheduler_options={"schedulers": links, "milestones": [1]})
    with pytest.raises(ParameterError, match=r"^scheduler SequentialLR: scheduler_options\['schedulers'\] is a list of mappings"):
        fit(model, train, settings)


def test_a_chain_is_a_configuration() -> None:
    stage = dc.Retrain(epochs=4, scheduler="SequentialLR", scheduler_options={"schedulers": LINKS, "milestones": [2]})
    pipeline = dc.Pipeline([("retrain", stage)])
    assert dc.Pipeline.from_config(json.dumps(pipeline.config())) == pipeline
