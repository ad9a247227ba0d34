"""Grids: zero is on them, they reach the ends of the range, and their step is one that a file can hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepcompress.quantize.codebooks import LARGEST, round_to_type
from deepcompress.quantize.uniform import UniformGrid, fit_uniform

DTYPES = ("float16", "bfloat16", "float32", "float64")
Range = tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, str]]
bits = st.integers(1, 16)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    dtype = draw(st.sampled_from(DTYPES))
    most = LARGEST[dtype]
    ends = draw(st.lists(st.floats(-most, most), min_size=2, max_size=2)) if draw(st.booleans()) else draw(_usual())
    kinds = {"float16": ("float16", "float32"), "bfloat16": ("bfloat16", "float32"), "float64": ("float64",)}
    return np.array([min(ends)]), np.array([max(ends)]), (dtype, draw(st.sampled_from(kinds.get(dtype, ("float32",)))))


@st.composite
def _usual(draw: st.DrawFn) -> list[float]:
    scale = 2.0 ** draw(st.integers(-148, 10))
    return [draw(st.floats(-1, 1)) * scale, draw(st.floats(-1, 1)) * scale]


def reach(grid: UniformGrid) -> tuple[float, float]:
    return float(grid.step[0] * grid.lowest[0]), float(grid.step[0] * grid.highest[0])


@given(ranges(), bits, st.booleans(), st.booleans())
def test_zero_is_a_level_and_the_number_of_levels_fits_the_bits(
    given_range: Range, bits: int, symmetric: bool, cover: bool
) -> None:
    low, high, types = given_range
    grid = fit_uniform(low, high, bits, symmetric=symmetric, cover=cover, types=types)
    lowest, highest = int(grid.lowest[0]), int(grid.highest[0])
    assert lowest <= 0 <= highest
    assert highest - lowest + 1 == (2**bits if not symmetric or bits == 1 else 2**bits - 1)
    assert not symmetric or bits == 1 or highest == -lowest


@given(ranges(), bits, st.booleans(), st.booleans())
def test_the_step_is_above_zero_and_no_level_beyond_the_largest_number(
    given_range: Range, bits: int, symmetric: bool, cover: bool
) -> None:
    low, high, types = given_range
    dtype, stored = types
    grid = fit_uniform(low, high, bits, symmetric=symmetric, cover=cover, types=types)
    kind = np.float64 if dtype == "float64" else np.float32
    assert grid.step[0] > 0
    assert round_to_type(grid.step, stored).astype(np.float64) == grid.step
    assert max(map(abs, reach(grid))) <= LARGEST[dtype] * (1 + 2**-52)
    assert np.isfinite(kind(grid.step[0]) * np.array([grid.lowest[0], grid.highest[0]], kind)).all()


@given(ranges(), bits, st.booleans())
def test_no_end_lies_more_than_half_a_step_outside(given_range: Range, bits: int, symmetric: bool) -> None:
    low, high, types = given_range
    grid = fit_uniform(low, high, bits, symmetric=symmetric, types=types)
    first, last = reach(grid)
    step = float(grid.step[0])
    slack = step / 2 * (1 + 1e-9) if not max(-float(low[0]), float(high[0])) + step > LARGEST[types[0]] else step * 1.0001
    if symmetric and bits == 1:
        assert max(-first, last) >= max(-float(low[0]), float(high[0])) * (1 - 1e-12)
    else:
        assert first - slack <= low[0]
        assert high[0] <= last + slack


@given(_usual(), st.integers(2, 16), st.booleans())
def test_cover_leaves_no_end_outside(ends: list[float], bits: int, symmetric: bool) -> None:
    low, high = np.array([min(ends)]), np.array([max(ends)])
    first, last = reach(fit_uniform(low, high, bits, symmetric=symmetric, cover=True))
    assert first <= low[0]
    assert high[0] <= last


@given(st.floats(0.001, 1), st.floats(0.001, 1), st.integers(2, 16))
def test_the_price_of_cover(below: float, above: float, bits: int) -> None:
    low, high = np.array([-below]), np.array([above])
    plain = fit_uniform(low, high, bits, symmetric=False)
    cover = fit_uniform(low, high, bits, symmetric=False, cover=True)
    shorter = max(min(-int(cover.lowest[0]), int(cover.highest[0])), 1)
    assert plain.step[0] * (1 - 1e-6) <= cover.step[0] <= plain.step[0] * (1 + 1 / shorter)


@pytest.mark.parametrize(
    ("low", "high", "symmetric", "expected"),
    [
        (-1.0, 2.0, False, (1.0, -1, 2)),
        (0.5, 3.0, False, (1.0, 0, 3)),  # zero is put into the range
        (-3.0, -0.5, False, (1.0, -3, 0)),
        (-0.5, 3.0, True, (3.0, -1, 1)),
        (0.0, 0.0, True, (1.0, -1, 1)),
        (0.0, 0.0, False, (1.0, 0, 3)),
    ],
)
def test_two_bits(low: float, high: float, symmetric: bool, expected: tuple[float, int, int]) -> None:
    grid = fit_uniform(np.array([low]), np.array([high]), 2, symmetric=symmetric)
    assert (grid.step[0], grid.lowest[0], grid.highest[0]) == expected


@pytest.mark.parametrize(("low", "high", "expected"), [(-2.0, 1.0, (-1, 0)), (-1.0, 1.0, (0, 1)), (-1.0, 5.0, (0, 1))])
def test_one_bit_symmetric_is_zero_and_the_farther_end(low: float, high: float, expected: tuple[int, int]) -> None:
    grid = fit_uniform(np.array([low]), np.array([high]), 1, symmetric=True)
    assert (grid.lowest[0], grid.highest[0]) == expected
    assert grid.step[0] == max(-low, high)


def test_channels_have_grids_of_their_own() -> None:
    low, high = np.array([-1.0, 0.0, -8.0]), np.array([2.0, 6.0, 1.0])
    grid = fit_uniform(low, high, 2, symmetric=False)
    for channel in range(3):
        alone = fit_uniform(low[channel : channel + 1], high[channel : channel + 1], 2, symmetric=False)
        assert (alone.step[0], alone.lowest[0]) == (grid.step[channel], grid.lowest[channel])
