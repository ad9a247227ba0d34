"""Optimal k-means: brute force on a few values, another implementation on many, and never worse than any other start."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepcompress.quantize import optimal as module
from deepcompress.quantize.init import INITS
from deepcompress.quantize.kmeans import fit_kmeans, quantization_error
from deepcompress.quantize.moments import best_before, moments
from deepcompress.quantize.optimal import optimal

RNG = np.random.default_rng(5)
GAUSS = RNG.standard_normal(20_000).astype(np.float32)
HEAVY = RNG.standard_t(2, 60_000).astype(np.float32)
SAMPLES = {
    "gauss": GAUSS,
    "pruned heavy-tailed": HEAVY[np.abs(HEAVY) > np.quantile(np.abs(HEAVY), 0.6)],
    "uniform": RNG.random(20_000),
    "whole numbers": RNG.integers(-40, 40, 20_000),
    "blocks": np.repeat(RNG.standard_normal(70), 300).astype(np.float32),
    "far from zero": 1000 + RNG.standard_normal(9_000),
    "two places": np.append(1e-3 * RNG.standard_normal(9_000), 1e3 + RNG.standard_normal(9_000)),
    "half": GAUSS.astype(np.float16),
}
few = st.lists(st.floats(-8, 8, width=16) | st.integers(-3, 3).map(float), min_size=1, max_size=11).map(np.array)


def exact_error(run: NDArray[Any]) -> Fraction:
    numbers = [Fraction(float(value)) for value in run]
    mean = sum(numbers, Fraction(0)) / len(numbers)
    return sum(((number - mean) ** 2 for number in numbers), Fraction(0))


def brute_force(values: NDArray[Any], k: int) -> float:
    ordered = np.sort(values)
    k = min(k, len(ordered))
    inner = combinations(range(1, len(ordered)), k - 1)
    return float(min(sum(exact_error(ordered[a:b]) for a, b in pairwise((0, *cuts, len(ordered)))) for cuts in inner))


@pytest.fixture(params=[1 << 24, 50])
def _picks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With memory for all predecessors, and with hardly any."""
    monkeypatch.setattr(module, "_PICKS", request.param)


@given(few, st.integers(1, 5), st.sampled_from([np.float32, np.float64]), st.sampled_from([1.0, -1e-30, 1e30]))
@example(np.array([0.0, -0.0, 0.0, 1.0, 2.0]), 2, np.float32, 1.0)
@settings(max_examples=200)
def test_as_good_as_the_best_of_all_clusterings(values: NDArray[Any], k: int, dtype: Any, scale: float) -> None:
    values = (values * scale).astype(dtype)
    found = fit_kmeans(values, k, init="optimal")
    assert len(found) == min(k, len(np.unique(values)))
    assert quantization_error(values, found) == pytest.approx(brute_force(values, k), rel=1e-12, abs=0)


@pytest.mark.usefixtures("_picks")
@pytest.mark.parametrize("k", [1, 2, 3, 7, 32, 61])
@pytest.mark.parametrize("sample", SAMPLES)
def test_bounds_cut_nothing_off(sample: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small cells, so that windows narrow several times, against every place for every cut."""
    ordered = np.sort(SAMPLES[sample].astype(np.float64 if sample in ("uniform", "whole numbers") else np.float32))
    monkeypatch.setattr(module, "_CELLS", 256)
    narrow = optimal(ordered, k, 0)
    monkeypatch.setattr(module, "_BOUNDS", 0)
    wide = optimal(ordered, k, 0)
    assert len(narrow) == len(wide) == k
    assert quantization_error(ordered, narrow) == pytest.approx(quantization_error(ordered, wide), rel=1e-12)


def test_windows_do_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def watched(table: NDArray[Any], ranges: NDArray[np.int64]) -> NDArray[np.int64]:
        sizes.append(int(np.diff(ranges, axis=1).sum()))
        return solve(table, ranges)

    solve = module._solve
    monkeypatch.setattr(module, "_solve", watched)
    optimal(np.sort(RNG.standard_normal(100_000)), 16, 0)
    assert len(sizes) > 2
    assert sizes[-1] < 16 * 100_000 / 20


@pytest.mark.parametrize("k", [2, 5, 32])
@pytest.mark.parametrize("sample", SAMPLES)
def test_as_good_as_kmeans1d(sample: str, k: int) -> None:
    kmeans1d = pytest.importorskip("kmeans1d")
    values = SAMPLES[sample]
    theirs = quantization_error(values, np.array(kmeans1d.cluster(values.astype(np.float64), k).centroids))
    found = fit_kmeans(values, k, init="optimal")
    assert len(found) == k
    assert quantization_error(values, found) <= theirs * (1 + 1e-9)


@pytest.mark.parametrize("init", sorted(set(INITS) - {"optimal"}))
@pytest.mark.parametrize("sample", SAMPLES)
def test_never_worse_than_another_start(sample: str, init: str) -> None:
    values = SAMPLES[sample]
    best = quantization_error(values, fit_kmeans(values, 20, init="optimal"))
    assert best <= quantization_error(values, fit_kmeans(values, 20, init=init)) * (1 + 1e-12)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40).map(np.array), st.integers(1, 6))
def test_values_of_any_size(values: NDArray[Any], k: int) -> None:
    found = fit_kmeans(values, k, init="optimal")
    assert len(found) == min(k, len(np.unique(values)))
    assert np.all(found[1:] > found[:-1])


@pytest.mark.parametrize("outlier", [1e30, -1e30])
def test_an_outlier_spoils_no_other_cluster(outlier: float) -> None:
    found = fit_kmeans(np.append(GAUSS, np.float32(outlier)), 9, init="optimal")
    assert found[-1 if outlier > 0 else 0] == np.float32(outlier)
    np.testing.assert_allclose(np.delete(found, -1 if outlier > 0 else 0), fit_kmeans(GAUSS, 8, init="optimal"), rtol=1e-9)


@pytest.mark.parametrize(
    "values",
    [GAUSS[:300], 1000 + GAUSS[:300], np.append(1e-3 * GAUSS[:200], 1e6 + 0.0625 * np.arange(40)), np.append(GAUSS[:300], -1e30)],
    ids=["gauss", "far from zero", "two places", "outlier"],
)
def test_errors_of_runs(values: NDArray[Any]) -> None:
    ordered = np.sort(values.astype(np.float32))
    table = moments(ordered)
    whole = best_before(np.zeros(1), table[:, :1].copy(), table[:, -1:].copy())[0][0]
    unit = float(exact_error(ordered)) / whole  # moments are of values scaled by a power of two
    assert np.frexp(unit)[0] == pytest.approx(0.5, rel=1e-12)
    for start, end in np.sort(RNG.integers(0, len(ordered) + 1, (200, 2)), axis=1).tolist():
        found = best_before(np.zeros(1), table[:, [start]], table[:, [end]])[0][0]
        expected = float(exact_error(ordered[start:end])) if end > start else 0.0
        huge = end - start == 1 and abs(float(ordered[start])) > 1e29  # a square far beyond all others
        assert found * unit == pytest.approx(expected, rel=1e-9, abs=1e-18 * unit if huge else 0)
