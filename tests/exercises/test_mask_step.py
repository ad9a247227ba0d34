"""A masked step: torch's own SGD under `hold_masks` passes, and each known mistake is named."""

from __future__ import annotations

import numpy as np
import pytest

from tests.exercises.answering import differences, hints, mistaken, solution

DECAYED = "    gradient = gradient + weight_decay * weights\n"
VELOCITY = "    velocity = np.where(mask, momentum * velocity + gradient, 0.0)\n"
STEP = "    weights = np.where(mask, weights - lr * velocity, 0.0)\n"
UNMASKED_VELOCITY = "    velocity = momentum * velocity + gradient\n"
UNMASKED_STEP = "    weights = weights - lr * velocity\n"

TORCH = """
import torch
import deepcompress as dc

def masked_step(weights, gradient, velocity, mask, lr, momentum, weight_decay):
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.tensor(weights))
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum, weight_decay=weight_decay)
    optimizer.state[model.weight]["momentum_buffer"] = torch.tensor(velocity)
    before = model.weight.detach().clone()
    with dc.hold_masks(model, {"weight": torch.tensor(mask)}, optimizer):
        model.weight.grad = torch.tensor(gradient)
        optimizer.step()
    velocity = momentum * velocity + gradient + weight_decay * weights
    return model.weight.detach(), velocity
"""


def wrong(*pairs: tuple[str, str]) -> str:
    text = solution("mask-step")
    for old, new in pairs:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(
    "source",
    [
        solution("mask-step"),
        TORCH,
        mistaken("mask-step", VELOCITY, UNMASKED_VELOCITY),  # what the velocity of pruned weights is does not matter
    ],
)
def test_right_answers_pass(source: str) -> None:
    with np.errstate(invalid="ignore"):
        assert differences("mask-step", source) == {}


@pytest.mark.parametrize(
    ("pairs", "hint"),
    [
        ([(DECAYED, "")], "the weight decay is missing"),
        ([(DECAYED, DECAYED.replace("+", "-"))], "the weight decay has the wrong sign"),
        ([(DECAYED, ""), (STEP, STEP.replace("weights -", "weights * (1 - lr * weight_decay) -"))], "as AdamW does"),
        ([("+ gradient, 0.0", "+ (1 - momentum) * gradient, 0.0")], "torch calls that dampening"),
        ([("lr * velocity,", "lr * (gradient + momentum * velocity),")], "this is Nesterov's momentum"),
        ([("momentum * velocity + gradient, 0", "gradient, 0")], "the velocity is not used"),
        ([(VELOCITY, ""), (STEP, STEP + VELOCITY)], "the weights moved by the old velocity"),
        ([("weights - lr", "weights + lr")], "the step goes up the gradient"),
        ([("velocity + gradient, 0", "velocity + lr * gradient, 0"), ("- lr * velocity", "- velocity")], "not into the velocity"),
        ([("where(mask, weights", "where(~mask, weights")], "the mask is upside down"),
        ([(VELOCITY, UNMASKED_VELOCITY), (STEP, UNMASKED_STEP)], "the mask is not used"),
        ([("gradient + weight_decay", "gradient * mask + weight_decay"), (VELOCITY, UNMASKED_VELOCITY), (STEP, UNMASKED_STEP)],
         "the mask is on the gradient alone: the velocity from before, and the weight decay"),
        ([(DECAYED, DECAYED + "    gradient = gradient * mask\n"), (VELOCITY, UNMASKED_VELOCITY), (STEP, UNMASKED_STEP)],
         "the mask is on the gradient alone: the velocity from before moves"),
        ([(STEP, UNMASKED_STEP)], "a pruned weight keeps the number it came with"),
        ([(STEP, UNMASKED_STEP + "    weights = weights * mask\n"), (VELOCITY, UNMASKED_VELOCITY)], "0 times infinity is nan"),
        ([(STEP, STEP.replace("0.0)", "1e-12)"))], "pruned weights must be exactly 0, not almost"),
        ([(VELOCITY, "    old = velocity\n" + VELOCITY), ("return weights, velocity", "return weights, old")], "before the step"),
        ([("return weights, velocity", "return weights, lr * velocity")], "to the step of the weights alone"),
        ([("return weights, velocity", "return weights, gradient")], "the old velocity is missing"),
    ],
)  # fmt: skip
def test_known_mistakes_are_named(pairs: list[tuple[str, str]], hint: str) -> None:
    with np.errstate(invalid="ignore"):
        found = hints("mask-step", wrong(*pairs))
    assert any(hint in each for each in found), found


def test_only_exact_zeros_pass_and_shapes_are_checked() -> None:
    assert differences("mask-step", mistaken("mask-step", "    return weights, velocity", "    return weights * -1.0, velocity"))
    negative = mistaken("mask-step", STEP, STEP.replace("0.0)", "-0.0)"))
    assert differences("mask-step", negative) == {}  # it is zero
    flat = differences("mask-step", mistaken("mask-step", "return weights, velocity", "return weights.ravel(), velocity"))
    assert flat["half pruned, momentum"].got == "shapes (12,) and (4, 3)"
