"""Every number and name is checked when settings are made; options of foreign classes when these are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

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
        ("autocast", "float16", "None or 'bfloat16'"),
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
