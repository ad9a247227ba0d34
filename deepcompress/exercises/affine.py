"""Affine quantization: numbers as bytes on a uniform grid, and back.

Write `quantize(values)`: an array of any shape as (codes, scale, zero_point). Codes are uint8, the scale is a number above zero,
the zero point an integer from 0 to 255, and each value is about scale x (code - zero_point). The grid reaches from the least to
the greatest value, with zero within it: where all values are above zero it begins at zero, where all are below it ends there. It
has 256 levels, so no step is longer than a 255th of that range, and no error above half a step. Zero comes back as zero. Where
all values are zero, the scale may be any.

And `dequantize(codes, scale, zero_point)`: the numbers again, as floats.

    quantize(np.array([-1.0, 0.0, 1.55]))    gives ([0, 100, 255], 0.01, 100)    (codes as an array of uint8)
    dequantize(np.array([0, 100, 255], np.uint8), 0.01, 100)    gives [-1.0, 0.0, 1.55]

Source: Jacob et al. Quantization and training of neural networks for efficient integer-arithmetic-only inference. CVPR 2018,
sec. 2.1. arXiv:1712.05877.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.exercises.answers import Mistake, array, is_close, number, parts, recognised
from deepcompress.exercises.exercise import Case, WrongAnswerError
from deepcompress.exercises.show import shown

STARTER = '''\
import numpy as np


def quantize(values: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Codes (uint8, the values' shape), scale and zero point."""
    raise NotImplementedError


def dequantize(codes: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """The numbers that the codes stand for."""
    raise NotImplementedError
'''

Array = NDArray[Any]

_LEVELS = 255  # steps between 256 levels
_SLACK = 1e-4  # of a step: rounding in float32
_RANGE_HINT = "256 levels have 255 steps between them; the range is from the least to the greatest value, zero put into it"


def cases() -> list[Case]:
    """The hidden cases; each way alone, so that two mistakes cannot undo each other."""
    there = [("quantize", name, {"values": values}, partial(_check_codes, values)) for name, values in _values()]
    back = [("dequantize", name, given, partial(_check_numbers, given)) for name, given in _codes()]
    return [Case(f"{function}: {name}", function, given, check) for function, name, given, check in there + back]


def _values() -> Iterator[tuple[str, Array]]:
    rng = np.random.default_rng(2018)
    yield "the task's example", np.array([-1.0, 0.0, 1.55])
    yield "a vector", rng.normal(0, 0.1, 300)
    yield "a matrix in float32", rng.normal(0.02, 0.1, (20, 15)).astype(np.float32)
    yield "all above zero", rng.uniform(2, 3, 50)
    yield "all below zero", rng.uniform(-3, -2, 50)
    yield "after a ReLU", np.maximum(rng.normal(0, 1, (8, 8)), 0)
    yield "one outlier", np.append(rng.normal(0, 0.01, 100), 5.0)
    yield "one number, many times", np.full((3, 4), 0.7)
    yield "all zero", np.zeros(5)
    yield "tiny numbers", rng.normal(0, 1e-8, 40)


def _codes() -> Iterator[tuple[str, dict[str, Any]]]:
    rng = np.random.default_rng(2018)
    above, below = np.array([100, 130, 255], np.uint8), np.array([0, 1, 99, 100], np.uint8)
    yield "codes above the zero point", {"codes": above, "scale": 0.5, "zero_point": 100}
    yield "codes below the zero point", {"codes": below, "scale": 0.01, "zero_point": 100}
    yield "a matrix", {"codes": rng.integers(0, 256, (6, 7), np.uint8), "scale": 0.125, "zero_point": 128}
    yield "a zero point of 255", {"codes": rng.integers(0, 256, 20, np.uint8), "scale": 2.0, "zero_point": 255}


def _check_codes(values: Array, answer: Any) -> None:
    codes, scale, zero_point = _parts(values, answer)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    step = (high - low) / _LEVELS
    error = np.abs(scale * (codes.astype(np.float64) - zero_point) - values)
    worst = int(error.argmax())
    if step and scale > step * (1 + _SLACK):
        raise WrongAnswerError(f"a step of at most {shown(step)}", f"a step of {shown(scale)}", _scale_hint(values, scale))
    if error.max() > scale * (0.5 + _SLACK):
        value, code = float(values.flat[worst]), int(codes.flat[worst])
        got = f"code {code} for {shown(value)}, which is {shown(scale * (code - zero_point))}"
        raise WrongAnswerError(f"errors of at most half a step, {shown(scale / 2)}", got, _error_hint(float(error.max()) / scale))


def _parts(values: Array, answer: Any) -> tuple[Array, float, int]:
    """An answer's parts, of the types that are asked for."""
    codes, scale, zero_point = parts(answer, "codes", "scale", "zero_point")
    codes, scale, zero = array(codes, "codes"), number(scale), number(zero_point)
    if codes.dtype != np.uint8 or codes.shape != values.shape:
        raise WrongAnswerError(f"codes of dtype uint8, shape {values.shape}", f"dtype {codes.dtype}, shape {codes.shape}")
    if not 0 < scale < math.inf:
        hint = "values that are all alike have no range of their own: let zero in, and where all are zero take any scale"
        raise WrongAnswerError("a scale above zero", shown(scale), hint)
    if not 0 <= zero <= _LEVELS or zero % 1:
        hint = "the zero point is the code of zero, so it is one of the codes; zero must be in the range"
        raise WrongAnswerError("an integer zero point from 0 to 255", shown(zero_point), hint)
    return codes, scale, int(zero)


def _scale_hint(values: Array, scale: float) -> str:
    if is_close(scale, 2 * np.abs(values).max() / _LEVELS):
        return "this grid is symmetric: it reaches as far on the side where there are no such values"
    return _RANGE_HINT


def _error_hint(steps: float) -> str:
    """The likely mistake behind an error of so many steps."""
    if steps > _LEVELS - 2:
        return "a code beyond 0 to 255 came out at the other end: round, then np.clip, then astype(np.uint8)"
    if steps <= 1 + _SLACK:
        return "errors go up to a whole step: astype cuts off what is behind the point; use np.round before it"
    return "the grid does not reach this value: is zero in the range, and the zero point the code of zero?"


def _check_numbers(given: dict[str, Any], answer: Any) -> None:
    from deepcompress.quantize.affine import AffineArray, dequantize_affine

    scale, zero = np.float64(given["scale"]), np.int32(given["zero_point"])
    expected = dequantize_affine(AffineArray(given["codes"], scale, zero, 8, None, "float64"))
    found = array(answer)
    if not is_close(found, expected):
        raise WrongAnswerError(shown(expected), shown(answer), recognised(found, given, _MISTAKES))


_MISTAKES: Sequence[Mistake] = (
    (
        lambda codes, scale, zero: scale * (codes - np.uint8(zero)),
        "code - zero_point in uint8 wraps around below zero: make the codes float or int first",
    ),
    (lambda codes, scale, zero: scale * codes.astype(float) - zero, "the zero point is a code: subtract it before the scale"),
    (lambda codes, scale, zero: scale * codes.astype(float) + zero, "the zero point is a code: subtract it before the scale"),
    (lambda codes, scale, zero: scale * codes.astype(float), "the zero point is missing"),
    (lambda codes, scale, zero: scale * (codes.astype(float) + zero), "the zero point is subtracted, not added"),
)
