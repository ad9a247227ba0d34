"""Sums of runs: right to the last digits, wherever the run lies and whatever lies outside it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepcompress.quantize.sums import BLOCK, run_mean, sorted_values

LENGTHS = [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, 777]


def check_runs(values: NDArray[Any], runs: int = 60) -> None:
    data, rng = sorted_values(values), np.random.default_rng(0)
    for _ in range(runs):
        start, end = np.sort(rng.integers(0, len(values) + 1, 2))
        if start < end:
            run = values[start:end].astype(np.float64)
            size = math.fsum(np.abs(run)) / len(run)
            assert run_mean(data, int(start), int(end)) == pytest.approx(math.fsum(run) / len(run), rel=1e-13, abs=1e-14 * size)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("shift", [-9.0, -0.3, 0.0, 0.3, 9.0])
def test_means_of_runs(length: int, shift: float) -> None:
    values = np.sort(np.random.default_rng(length).standard_normal(length) + shift)
    check_runs(values)
    check_runs(values.astype(np.float32))


@pytest.mark.parametrize("outlier", [1e30, -1e30])
def test_an_outlier_costs_the_others_nothing(outlier: float) -> None:
    values = np.sort(np.append(np.random.default_rng(1).standard_normal(500), outlier)).astype(np.float32)
    others = slice(1, 501) if outlier < 0 else slice(0, 500)
    expected = math.fsum(values[others].astype(np.float64)) / 500
    assert run_mean(sorted_values(values), others.start, others.stop) == pytest.approx(expected, rel=1e-12)
    check_runs(values)


def test_a_run_far_out_is_as_exact_as_one_near_zero() -> None:
    values = np.append(np.full(200_000 - 1, 1 / 3), [1.0, 1.0 + 1e-9])  # an anchor falls between the last two
    assert run_mean(sorted_values(values), 200_000 - 1, 200_001) == pytest.approx(1.0 + 5e-10, abs=1e-15)


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=200), st.data())
def test_a_mean_lies_in_its_run(numbers: list[float], data: st.DataObject) -> None:
    values = np.sort(np.array(numbers))
    start = data.draw(st.integers(0, len(values) - 1))
    end = data.draw(st.integers(start + 1, len(values)))
    assert values[start] <= run_mean(sorted_values(values), start, end) <= values[end - 1]
