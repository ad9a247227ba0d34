"""Rounding to levels: the nearest one as numpy rounds, or by chance so that the mean is the value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from deepcompress.coding.pool import limited
from deepcompress.errors import ParameterError
from deepcompress.quantize.rounding import check_rounding, round_into
from deepcompress.quantize.uniform import UniformGrid

Array = NDArray[Any]


def grid_of(step: float, lowest: int, highest: int) -> UniformGrid:
    return UniformGrid(np.array([step]), np.array([lowest]), np.array([highest]))


def levels_of(values: Array, grid: UniformGrid, rounding: str, seed: int = 0) -> NDArray[np.int16]:
    cut = np.ascontiguousarray(values).reshape(1, 1, -1)
    codes = np.empty(cut.shape, np.int16)
    round_into(codes, cut, grid, np.zeros(1, np.int64), rounding, seed)
    return codes.reshape(values.shape)


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), max_size=50),
    st.floats(0.0078125, 8, width=32),
    st.integers(0, 300),
    st.integers(0, 300),
    st.sampled_from([np.float32, np.float64]),
)
def test_nearest_is_what_numpy_rounds(values: list[float], step: float, below: int, above: int, kind: Any) -> None:
    found = levels_of(np.array(values, kind), grid_of(step, -below, above), "nearest-even")
    expected = np.rint(np.array(values, kind).astype(np.float64) / step).clip(-below, above)
    assert found.tolist() == expected.tolist()


def test_ties_go_to_the_even_level() -> None:
    halves = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    assert levels_of(halves, grid_of(1.0, -9, 9), "nearest-even").tolist() == [-2, -2, 0, 0, 2, 2]


def test_channels_and_shifts() -> None:
    values = np.array([[[1.0, 2.0], [30.0, 40.0]], [[5.0, 6.0], [-10.0, 80.0]]], np.float32)
    grid = UniformGrid(np.array([1.0, 10.0]), np.array([0, -2]), np.array([5, 7]))
    codes = np.empty(values.shape, np.uint8)
    round_into(codes, values, grid, np.array([0, 2]), "nearest-even", 0)
    assert codes.tolist() == [[[1, 2], [5, 6]], [[5, 5], [1, 9]]]


@given(st.floats(-3.75, 3.75, width=32))
def test_stochastic_takes_a_neighbour(value: float) -> None:
    found = levels_of(np.full(64, value, np.float32), grid_of(1.0, -4, 4), "stochastic")
    assert set(found.tolist()) <= {int(np.floor(value)), int(np.ceil(value))}


@given(st.integers(-300, 300), st.integers(0, 2**70))
def test_a_level_stays_itself(level: int, seed: int) -> None:
    value = np.full(64, level * 0.1, np.float64)
    assert set(levels_of(value, grid_of(0.1, -300, 300), "stochastic", seed).tolist()) <= {level, level - 1, level + 1}
    exact = np.full(64, level * 0.125, np.float64)
    assert set(levels_of(exact, grid_of(0.125, -300, 300), "stochastic", seed).tolist()) == {level}


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.25, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("whole", [-7, 0, 5])
def test_the_expectation_is_the_value(fraction: float, whole: int) -> None:
    """Within five standard errors of a million draws."""
    draws = levels_of(np.full(1_000_000, whole + fraction), grid_of(1.0, -10, 10), "stochastic", seed=3)
    error = np.sqrt(fraction * (1 - fraction) / len(draws))
    assert abs(draws.mean() - (whole + fraction)) < 5 * error
    assert set(draws.tolist()) == {whole, whole + 1}


def test_the_expectation_over_seeds_at_one_place() -> None:
    draws = np.array([levels_of(np.array([0.3]), grid_of(1.0, 0, 1), "stochastic", seed)[0] for seed in range(4000)])
    assert abs(draws.mean() - 0.3) < 5 * np.sqrt(0.21 / 4000)


def test_draws_are_even_and_do_not_follow_each_other() -> None:
    """What is drawn, read off a fine ladder of fractions: uniform, without correlation to the next or to another seed."""
    ladder = np.linspace(0, 1, 257)[:256] + 1 / 512
    columns = np.stack([levels_of(np.full(20_000, step), grid_of(1.0, 0, 1), "stochastic", 7) for step in ladder])
    draws = 1 - columns.mean(axis=0)
    assert stats.kstest(draws + np.random.default_rng(0).uniform(0, 1 / 256, len(draws)), "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 5 / np.sqrt(len(draws))
    half = [levels_of(np.full(20_000, 0.5), grid_of(1.0, 0, 1), "stochastic", seed) for seed in (0, 1, 2)]
    for other in half[1:]:
        assert abs(np.corrcoef(half[0], other)[0, 1]) < 5 / np.sqrt(20_000)


@pytest.mark.parametrize("rounding", ["nearest-even", "stochastic"])
def test_threads_change_nothing(rounding: str) -> None:
    values = np.random.default_rng(0).normal(size=300_001).astype(np.float32)
    found = []
    for threads in (1, 2, 5):
        with limited(threads):
            found.append(levels_of(values, grid_of(0.01, -100, 100), rounding, 11))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_a_seed_is_a_seed() -> None:
    values = np.full(1000, 0.5)
    first, again, other = (levels_of(values, grid_of(1.0, 0, 1), "stochastic", seed) for seed in (4, 4, 5))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("rounding", "seed", "text"),
    [
        ("up", 0, r"The 'rounding' parameter of f must be one of 'nearest-even', 'stochastic'\. Got 'up' instead\."),
        ("stochastic", -1, r"The 'seed' parameter of f must be an integer of at least 0\. Got -1 instead\."),
        ("stochastic", 0.5, r"The 'seed' parameter of f must be an integer of at least 0\. Got 0\.5 instead\."),
        ("stochastic", True, r"The 'seed' parameter of f must be an integer of at least 0\. Got True instead\."),
    ],
)
def test_what_is_refused(rounding: object, seed: object, text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        check_rounding(rounding, seed, "f")
