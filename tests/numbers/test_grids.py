"""Uniform grids against fractions: ranges of denormal numbers, ranges that overflow, negative zero, an outlier."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import deepcompress as dc
from deepcompress.coding import pool
from deepcompress.quantize.affine import AffineArray, dequantize_affine, quantize_affine
from deepcompress.quantize.gridding import GridKind, share_levels
from tests.numbers.cases import CASES, MANY, exact, root


def check_codes(values: np.ndarray[Any, Any], found: AffineArray, symmetric: bool) -> None:
    """Each code is the nearest level's, halves to even, as exact fractions of the stored step say."""
    step, zero = Fraction(float(found.scale)), int(found.zero_point)
    assert step > 0
    lowest, highest = (-(2 ** (found.bits - 1)) + 1, 2 ** (found.bits - 1) - 1) if symmetric else (0, 2**found.bits - 1)
    back = dequantize_affine(found)
    largest = max(np.abs(back).max(), np.finfo(back.dtype).smallest_subnormal)
    for value, code, returned in zip(exact(values), found.codes.tolist(), exact(back), strict=True):
        ratio = value / step
        level = min(max(round(ratio) + zero, lowest), highest)
        near_tie = abs(abs(ratio - math.floor(ratio)) - Fraction(1, 2)) < Fraction(1, 2**30)  # the quotient is rounded to float64
        assert abs(code - level) <= near_tie
        inside = lowest <= round(ratio) + zero <= highest
        slack = Fraction(float(largest)) - Fraction(float(np.nextafter(largest, largest.dtype.type(0))))
        assert abs(returned - value) <= step * (Fraction(1, 2) if inside else 1) * (1 + Fraction(1, 2**20)) + slack
    assert np.isfinite(back).all()
    assert not np.signbit(back[back == 0]).any()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bits", [2, 8, 16])
@pytest.mark.parametrize("symmetric", [False, True])
def test_codes_against_fractions(name: str, bits: int, symmetric: bool) -> None:
    values = CASES[name]
    check_codes(values, quantize_affine(values, bits, symmetric=symmetric), symmetric)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8), st.integers(2, 16), st.booleans())
@example([-1.7976931348623157e308, 1.7976931348623157e308], 8, False)
@example([5e-324, -1e-323], 3, True)
@example([0.0, -0.0], 8, False)
def test_codes_of_any_finite_values(values: list[float], bits: int, symmetric: bool) -> None:
    array = np.array(values)
    check_codes(array, quantize_affine(array, bits, symmetric=symmetric), symmetric)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_errors_are_the_same_on_any_number_of_threads(threads: int) -> None:
    values = np.random.default_rng(1).normal(size=300_001).astype(np.float32)
    with pool.limited(1):
        expected = share_levels(values, "float32", GridKind(4)).error
    with pool.limited(threads):
        assert share_levels(values, "float32", GridKind(4)).error == expected


def test_squares_that_overflow_warn_in_no_thread() -> None:
    values = np.random.default_rng(1).normal(size=300_000) * 1e200
    with pool.limited(2):
        assert share_levels(values, "float64", GridKind(4)).error == math.inf


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_errors_of_more_weights_than_float32_can_count(dtype: str) -> None:
    """Each weight is off by the same: a sum of squares in float32 would stand still."""
    values = np.full(MANY, 0.25, dtype)
    values[0] = 7.0  # steps of 1 from -7 to 7, so that 0.25 becomes 0
    found = share_levels(values, dtype, GridKind(4))
    assert math.isclose(found.error, root(Fraction(1, 16) * (MANY - 1) / MANY), rel_tol=1e-12)


def test_an_outlier_of_one_channel_is_its_own() -> None:
    weight = torch.randn(8, 50, generator=torch.Generator().manual_seed(0))
    weight[3, 7] = 1e30
    stages = [("quantize", dc.AffineQuantize(bits=8, per_channel=True)), ("encode", dc.HuffmanEncode())]
    result = dc.Pipeline(stages).run({"w.weight": weight})
    found = result.model["w.weight"]
    others = [channel for channel in range(8) if channel != 3]
    steps = weight.abs().amax(1) / 127
    assert bool(((found - weight).abs()[others] <= steps[others, None] * 0.5001).all())
    assert math.isclose(float(found[3, 7]), 1e30, rel_tol=1e-6)
    assert int(torch.count_nonzero(found[3])) == 1
