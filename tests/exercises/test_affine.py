"""Affine quantization: the library's own passes, and each known mistake is named."""

from __future__ import annotations

import pytest

from tests.exercises.answering import differences, hints, mistaken, solution

RANGE = "    low, high = min(values.min(), 0.0), max(values.max(), 0.0)\n"
CODES = "np.clip(np.round(values / scale) + zero_point, 0, 255).astype(np.uint8)"
BACK = "scale * (codes.astype(float) - zero_point)"

LIBRARY = """
import numpy as np
import deepcompress as dc
from deepcompress.quantize.affine import AffineArray

def quantize(values):
    found = dc.quantize_affine(values)
    return found.codes, float(found.scale), int(found.zero_point)

def dequantize(codes, scale, zero_point):
    return dc.dequantize_affine(AffineArray(codes, np.float64(scale), np.int32(zero_point), 8, None, "float64"))
"""


@pytest.mark.parametrize(
    "source",
    [solution("affine"), LIBRARY, mistaken("affine", "np.round(values / scale)", "np.floor(values / scale + 0.5)")],
)
def test_right_answers_pass(source: str) -> None:
    assert differences("affine", source) == {}


@pytest.mark.parametrize(
    ("right", "wrong", "hint"),
    [
        ("np.round(values / scale) + zero_point", "values / scale + zero_point", "astype cuts off what is behind the point"),
        (CODES, "(np.round(values / scale * 256 / 255) + zero_point).astype(int).astype(np.uint8); scale = scale * 255 / 256",
         "came out at the other end"),
        (RANGE, "    low, high = values.min(), values.max()\n", "the zero point is the code of zero, so it is one of the codes"),
        ("/ 255 or 1.0\n", "/ 255 or 1.0\n    if values.min() == values.max(): return np.zeros(values.shape, np.uint8), 0.0, 0\n",
         "values that are all alike have no range of their own"),
        (RANGE, "    high = abs(values).max()\n    low = -high\n", "this grid is symmetric"),
        ("/ 255 or", "/ 127 or", "256 levels have 255 steps between them"),
        ("/ 255 or", "/ 400 or", "the grid does not reach this value"),
        (BACK, "scale * (codes - zero_point)", "wraps around below zero"),
        (BACK, "scale * codes.astype(float) - zero_point", "subtract it before the scale"),
        (BACK, "scale * codes.astype(float) + zero_point", "subtract it before the scale"),
        (BACK, "scale * codes.astype(float)", "the zero point is missing"),
        (BACK, "scale * (codes.astype(float) + zero_point)", "subtracted, not added"),
    ],
)  # fmt: skip
def test_known_mistakes_are_named(right: str, wrong: str, hint: str) -> None:
    found = hints("affine", mistaken("affine", right, wrong))
    assert any(hint in each for each in found), found


def test_types_and_shapes_are_asked_for() -> None:
    found = differences("affine", mistaken("affine", CODES, CODES.replace("np.uint8", "np.int16")))
    assert found["quantize: a vector"].expected == "codes of dtype uint8, shape (300,)"
    assert found["quantize: a vector"].got == "dtype int16, shape (300,)"
    flat = differences("affine", mistaken("affine", CODES, f"{CODES}.ravel()"))
    assert set(flat) == {"quantize: a matrix in float32", "quantize: after a ReLU", "quantize: one number, many times"}


def test_errors_of_half_a_step_pass_and_no_greater() -> None:
    for shift, passes in ((0.0, True), (0.1, False)):
        source = mistaken("affine", "np.round(values / scale)", f"np.round(values / scale + {shift})")
        assert (differences("affine", source) == {}) == passes
