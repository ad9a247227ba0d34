"""k-means: centroids are exact means, clusters as good as scikit-learn's and, where optimal is asked, as exact fractions say."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import KMeans

import deepcompress as dc
from deepcompress.quantize.init import INITS
from deepcompress.quantize.kmeans import fit_kmeans, quantization_error
from deepcompress.tensors.codebook import Codebook, midpoints
from tests.numbers.cases import CASES, MANY, error_of, exact, least_error, root, run_error

Array = NDArray[Any]
_FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def clusters_of(values: Array, centroids: Array) -> list[list[Fraction]]:
    """The values of each centroid, a tie going to the lower one."""
    levels = exact(centroids)
    found: list[list[Fraction]] = [[] for _ in levels]
    for value in exact(values):
        found[min(range(len(levels)), key=lambda place: (abs(value - levels[place]), place))].append(value)
    return found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("k", [1, 2, 5, 16])
def test_centroids_are_the_means_of_their_clusters(name: str, init: str, k: int) -> None:
    values = CASES[name]
    centroids = fit_kmeans(values, k, init=init)
    distinct = np.unique(values.astype(np.float64))
    assert len(centroids) == min(k, len(distinct))
    assert np.isfinite(centroids).all()
    assert np.all(centroids[1:] > centroids[:-1])
    assert not np.any(np.signbit(centroids) & (centroids == 0))
    for centroid, members in zip(centroids, clusters_of(values, centroids), strict=True):
        mean = sum(members) / len(members)
        slack = max(np.spacing(abs(float(mean))), 2e-16 * float(sum(map(abs, members)) / len(members)), 5e-324)
        assert abs(Fraction(float(centroid)) - mean) <= 2 * Fraction(slack)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("k", [2, 4])
def test_optimal_clusters_against_fractions(name: str, k: int) -> None:
    values = CASES[name][:: 3 if k == 2 else 4][-16:]
    least, found = least_error(values, k), error_of(values, fit_kmeans(values, k, init="optimal"))
    rounding = sum(value * value for value in exact(values)) * Fraction(2) ** -75
    rounding += len(values) * Fraction(np.spacing(float(max(map(abs, exact(values)))))) ** 2
    assert least * (1 - Fraction(1, 10**12)) <= found + rounding
    assert found <= least * (1 + Fraction(1, 10**9)) + rounding


@pytest.mark.parametrize("init", ["linear", "density", "random", "kmeans++"])
@pytest.mark.parametrize(("dtype", "power"), [("float16", 0), ("float32", 0), ("float64", 0), ("float32", -140)])
def test_as_good_as_scikit_learn_from_the_same_start(init: str, dtype: str, power: int) -> None:
    """Scaled by a power of two where scikit-learn's squares would have no place in float64."""
    values = np.random.default_rng(11).normal(size=3000)
    values[:40] *= 50
    values = np.ldexp(values, power).astype(dtype)
    plain = np.ldexp(values.astype(np.float64), -power)
    start = np.unique(INITS[init](np.sort(plain), 12, 0))
    theirs = KMeans(len(start), init=start[:, None], n_init=1, max_iter=300, tol=0).fit(plain[:, None])
    ours = np.ldexp(fit_kmeans(values, 12, init=init), -power)
    assert quantization_error(plain, ours) <= theirs.inertia_ * (1 + 1e-9 if len(start) == 12 and init != "linear" else 1.02)
    assert math.isclose(quantization_error(plain, theirs.cluster_centers_.ravel()), theirs.inertia_, rel_tol=1e-9)


@pytest.mark.parametrize("init", ["linear", "optimal"])
def test_an_outlier_costs_one_centroid_and_nothing_else(init: str) -> None:
    weights = np.random.default_rng(12).normal(size=20_000).astype(np.float32)
    alone = quantization_error(weights, fit_kmeans(weights, 31, init="optimal"))
    centroids = fit_kmeans(np.append(weights, np.float32(1e30)), 32, init=init)
    assert centroids[-1] == float(np.float32(1e30))
    assert quantization_error(weights, centroids) <= alone * (1 + 1e-9 if init == "optimal" else 3)


def test_a_centroid_of_more_members_than_float32_can_count() -> None:
    """Running sums in float32 stand still at 2^24 times the value; the mean of three levels is known exactly."""
    values = np.full(MANY, 0.1, np.float32)
    values[::3], values[1::3] = np.nextafter(np.float32(0.1), np.float32(1)), 0.125
    values[:2] = -3.0
    distinct, counts = np.unique(values, return_counts=True)
    members = list(zip(exact(distinct[1:]), counts[1:].tolist(), strict=True))
    mean = sum(value * count for value, count in members) / sum(counts[1:].tolist())
    centroids = fit_kmeans(values, 2)
    assert centroids[0] == -3.0
    assert abs(Fraction(float(centroids[1])) - mean) <= Fraction(np.spacing(float(mean)))
    expected = sum((value - Fraction(float(centroids[1]))) ** 2 * count for value, count in members)
    assert math.isclose(quantization_error(values, centroids), float(expected), rel_tol=1e-12)


@settings(deadline=None, max_examples=60)
@given(_FLOATS, _FLOATS, st.integers(0, 12))
@example(1.0000000000000002, 1.0000000000000009, 0)
@example(1e-323, 2.5e-323, 0)
@example(1.7e308, 1.79e308, 0)
@example(-1e-20, 1.0, 0)
def test_limits_lie_where_fractions_say(one: float, other: float, steps: int) -> None:
    for _ in range(steps):  # neighbours, or nearly
        other = math.nextafter(one if other == one else other, one)
    lower, upper = sorted((one, other))
    if lower == upper:
        return
    limit = float(midpoints(np.array([lower, upper]))[0])
    middle = (Fraction(lower) + Fraction(upper)) / 2
    assert Fraction(limit) <= middle
    assert math.isinf(after := math.nextafter(limit, math.inf)) or Fraction(after) > middle


@settings(deadline=None, max_examples=60)
@given(st.lists(_FLOATS.filter(bool), min_size=2, max_size=6, unique=True), st.lists(_FLOATS, min_size=1, max_size=20))
def test_values_go_to_the_nearest_centroid_as_fractions_say(levels: list[float], values: list[float]) -> None:
    centroids = np.sort(levels)
    beside = [math.nextafter(limit, to) for limit in midpoints(centroids).tolist() for to in (-math.inf, math.inf)]
    tried = np.array([*values, *(value for value in beside if math.isfinite(value)), *midpoints(centroids)])
    places = exact(centroids)
    nearest = [min(range(len(places)), key=lambda i: (abs(value - places[i]), i)) for value in exact(tried)]
    assert Codebook(centroids).assign(tried).tolist() == nearest


@settings(deadline=None, max_examples=60)
@given(st.lists(_FLOATS, min_size=1, max_size=12), st.integers(1, 4), st.sampled_from(sorted(INITS)))
@example([*(5e-324 * step for step in range(1, 12)), 1.7e308], 4, "random")
def test_any_finite_values_are_shared(values: list[float], k: int, init: str) -> None:
    centroids = fit_kmeans(np.array(values), k, init=init)
    assert 1 <= len(centroids) <= k
    assert np.isfinite(centroids).all()
    assert np.all(centroids[1:] > centroids[:-1])
    assert min(values) <= centroids[0]
    assert centroids[-1] <= max(values)


@pytest.mark.parametrize("name", [name for name in CASES if "zero" not in name])
@pytest.mark.parametrize("bits", [1, 3])
def test_the_error_of_the_report_is_that_of_the_file(name: str, bits: int) -> None:
    weight = torch.from_numpy(CASES[name].reshape(6, 10))
    stages = [("quantize", dc.KMeansQuantize(bits=bits)), ("encode", dc.HuffmanEncode())]
    result = dc.Pipeline(stages).run({"w.weight": weight})
    with dc.load(result.compressed.to_bytes()) as file:
        back = file.numpy()["w.weight"]
    difference = [one - other for one, other in zip(exact(weight.numpy().ravel()), exact(back.ravel()), strict=True)]
    square = sum((step * step for step in difference), Fraction(0)) / 60
    found = result.report.layers[0].rmse
    assert found is not None
    if Fraction(10) ** -300 < square < Fraction(10) ** 300:  # as float64 holds squares
        assert math.isclose(found, root(square), rel_tol=1e-9)
    else:
        assert found == (math.inf if square > 1 else 0) or math.isclose(found, root(square), rel_tol=1e-3)
    one = run_error(exact(weight.numpy().ravel()))
    assert square * 60 <= one * (1 + Fraction(1, 1000))  # no worse than one centroid for all
