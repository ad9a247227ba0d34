"""Ranges of activations where one value is far from all others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import deepcompress as dc
from deepcompress.coding.denormals import denormals_kept
from deepcompress.quantize.clipping import Clipping, expected_error, quantile
from deepcompress.quantize.grid import Grid
from deepcompress.quantize.observe import Observed, Observer

_FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def observed(*batches: Sequence[float] | np.ndarray) -> Observed:
    observer = Observer("it")
    for batch in batches:
        observer.add(torch.as_tensor(np.asarray(batch)))
    found = observer.result()
    assert found is not None
    return found


def normal(count: int = 100_000) -> np.ndarray:
    return np.random.default_rng(0).normal(size=count)


@pytest.mark.parametrize("outlier", [1e30, -1e30, 3e38, 1e300])
def test_percentiles_do_not_see_a_single_outlier(outlier: float) -> None:
    values = np.append(normal(), outlier)
    found = observed(values)
    for share in (0.0005, 0.01, 0.25, 0.5, 0.9, 0.999, 0.9999):
        assert quantile(found, share) == pytest.approx(float(np.quantile(values, share)), abs=6e-3)
    grid = Clipping("percentile", 8, percentile=99.99).grid(found)
    low, high = np.quantile(values, [0.0001, 0.9999])
    assert (grid.low, grid.high) == pytest.approx((low, high), abs=0.02)
    symmetric = Clipping("percentile", 8, True, 99.9).grid(found)
    assert symmetric.high == pytest.approx(float(np.quantile(np.abs(values), 0.999)), rel=0.01)


def test_a_network_with_an_outlier_keeps_its_activations() -> None:
    inputs = torch.from_numpy(normal(8 * 4096)).float().reshape(4096, 8)
    inputs[7, 3] = 1e30
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    calibration = dc.calibrate(model, [(inputs,)], method="percentile", percentile=99.9)
    assert calibration.input is not None
    assert 3 < calibration.input.grid.high < 4
    with dc.quantize_activations(model, calibration), torch.no_grad():
        rounded = model(inputs[100:])
    with torch.no_grad():
        assert float((rounded - model(inputs[100:])).abs().mean()) < 0.01
    assert type(calibration).from_json(calibration.to_json()) == calibration


def test_an_outlier_among_positive_values_after_a_relu() -> None:
    values = np.append(normal(), 1e30)
    positive = np.maximum(values, 0)
    for found in (observed(values).rectified(), observed(positive)):
        assert found.zeros == int((positive == 0).sum())
        for share in (0.4, 0.7, 0.999):
            assert quantile(found, share) == pytest.approx(float(np.quantile(positive, share)), abs=6e-3)


def test_the_expected_error_of_clipping_is_that_of_the_values() -> None:
    values = np.append(normal(), 1e4)
    grid = Grid.over(-4, 4, bits=4)
    codes = np.clip(np.rint(values / grid.scale) + grid.zero_point, grid.lowest, grid.highest)
    true = float(np.square((codes - grid.zero_point) * grid.scale - values).mean())
    assert expected_error(observed(values), grid) == pytest.approx(true, rel=1e-3)
    inner, outer = observed(values[:-1]), observed(values)  # what the outlier adds is its own clipping, and nothing else
    clipped = (1e4 - grid.high) ** 2 / len(values)
    assert expected_error(outer, grid) - clipped == pytest.approx(expected_error(inner, grid), abs=1e-4 * clipped)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(_FLOATS, min_size=1, max_size=12), min_size=1, max_size=5), st.randoms())
@example([[1e30, 1.0, -1.0, 5e-324, 0.0, -0.0], [1e-30] * 8], __import__("random").Random(0))
def test_counts_against_fractions_in_any_order(batches: list[list[float]], random: object) -> None:
    found = observed(*batches)
    values = [value for batch in batches for value in batch]
    bins = Counter(math.floor(Fraction(value) / Fraction(2) ** found.exponent) for value in values)
    assert {found.start + place: count for place, count in enumerate(found.counts) if count} == bins
    assert found.zeros == values.count(0)
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert observed(shuffled) == found
    assert Observed.from_config(found.config()) == found
    edges, counts = found.bins()
    assert np.all(np.diff(edges) >= 0)
    assert int(counts.sum()) == len(values)
    for level in (found, found.magnitudes, found.rectified(), found.rectified(6.0)):
        assert sum(level.counts) == len(values)
        assert int(level.bins()[1].sum()) == len(values)


@pytest.mark.parametrize("count", [(1 << 24) + 6])
def test_more_values_than_float32_can_count(count: int) -> None:
    values = torch.full((count,), 0.1)
    values[1::2] = 3.0
    observer = Observer("it")
    observer.add(values)
    found = observer.result()
    assert found is not None
    assert sorted(one for one in found.counts if one) == [count // 2, count // 2]
    assert quantile(found, 0.25) == pytest.approx(0.1, abs=2.0**found.exponent)


def test_denormal_activations_are_counted_also_where_threads_flush() -> None:
    values = (normal(1000) * 1e-40).astype(np.float32)
    expected = observed(values)
    torch.set_flush_denormal(True)
    try:
        found = observed(values)
        with denormals_kept():
            assert found == expected
    finally:
        torch.set_flush_denormal(False)
