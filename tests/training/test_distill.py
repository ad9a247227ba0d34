"""One network teaches another: the loss is what it says, with labels and without."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepcompress as dc
from deepcompress.errors import ParameterError, PipelineError


def linear(seed: int, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(4, 3).to(dtype)


INPUTS, LABELS = torch.linspace(-1, 1, 20).reshape(5, 4), torch.tensor([0, 2, 1, 1, 0])


def test_it_is_cross_entropy_and_a_distance() -> None:
    teacher, model = linear(0), linear(1)
    found = dc.distillation(teacher, temperature=2.0, own_share=0.25)(model, (INPUTS, LABELS))
    wanted, given = (torch.softmax(one(INPUTS) / 2, 1) for one in (teacher, model))
    distance = (wanted * (wanted / given).log()).sum(1).mean() * 4
    own = -torch.log_softmax(model(INPUTS), 1)[range(5), LABELS].mean()
    assert torch.allclose(found, 0.25 * own + 0.75 * distance)
    alone = dc.distillation(teacher, own_share=1)(model, (INPUTS, LABELS))
    assert torch.allclose(alone, own)


@pytest.mark.parametrize("batch", [INPUTS, (INPUTS, "anything"), [INPUTS, LABELS], (INPUTS,)])
def test_without_labels(batch: Any) -> None:
    loss = dc.distillation(linear(0), own_share=0)
    assert loss(linear(0), batch).item() == pytest.approx(0, abs=1e-6)
    assert loss(linear(1), batch).item() > 0.01


def test_the_teacher_stays_as_it_was_and_learns_nothing() -> None:
    teacher = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()
    loss = dc.distillation(teacher, own_share=0)
    model = linear(1)
    before = loss(model, INPUTS)
    nn.init.zeros_(teacher[0].weight)
    assert torch.equal(loss(model, INPUTS), before)
    before.backward()
    assert model.weight.grad is not None
    assert teacher.training
    assert teacher[0].weight.requires_grad


def test_wider_numbers_stay_wide() -> None:
    double = torch.float64
    assert dc.distillation(linear(0, double), own_share=0)(linear(1, double), INPUTS.double()).dtype == double


def test_pixels_have_answers_each() -> None:
    teacher, model = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1)
    loss = dc.distillation(teacher)(model, (torch.ones(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)))
    assert loss.ndim == 0


class Pair(nn.Module):
    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, inputs


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"temperature": 0}, "'temperature' parameter of distillation must be a number above 0. Got 0 instead"),
        ({"temperature": math.inf}, "'temperature' parameter of distillation must be a number above 0"),
        ({"temperature": True}, "'temperature' parameter of distillation must be a number above 0"),
        ({"own_share": 1.5}, "'own_share' parameter of distillation must be a number from 0 to 1. Got 1.5 instead"),
        ({"own_share": "x"}, "'own_share' parameter of distillation must be a number from 0 to 1"),
        ({"teacher": 3}, "'teacher' parameter of distillation must be a torch.nn.Module"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        dc.distillation(**{"teacher": linear(0), **change})


def test_batches_and_answers_that_are_none() -> None:
    with pytest.raises(PipelineError, match=r"is not \(inputs, targets\)"):
        dc.distillation(linear(0))(linear(1), INPUTS)
    with pytest.raises(PipelineError, match=r"a batch of type dict is neither inputs nor \(inputs, \.\.\.\)"):
        dc.distillation(linear(0), own_share=0)(linear(1), {"x": INPUTS})
    with pytest.raises(PipelineError, match="the model gives a tuple, not logits"):
        dc.distillation(linear(0), own_share=0)(Pair(), INPUTS)
    with pytest.raises(PipelineError, match="the teacher gives a tuple, not logits"):
        dc.distillation(Pair(), own_share=0)(linear(1), INPUTS)
