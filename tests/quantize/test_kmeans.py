"""k-means of scalars: scikit-learn is the oracle, then the laws."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepcompress.errors import ParameterError
from deepcompress.quantize.init import INITS
from deepcompress.quantize.kmeans import fit_kmeans, quantization_error
from deepcompress.tensors.codebook import midpoints

RNG = np.random.default_rng(7)
GAUSS = RNG.standard_normal(4000).astype(np.float32)
SAMPLES = {
    "gauss": GAUSS,
    "laplace": RNG.laplace(size=4000).astype(np.float32),
    "student": RNG.standard_t(3, size=4000).astype(np.float32),
    "pruned": GAUSS[np.abs(GAUSS) > 0.8],
    "float64": RNG.standard_normal(3000) * 1e-3,
}
small = st.lists(st.floats(-8, 8, width=16), min_size=1, max_size=80).map(lambda numbers: np.array(numbers, np.float32))
wide = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=60).map(np.array)
inits = st.sampled_from(sorted(INITS))


def clusters(values: NDArray[Any], centroids: NDArray[np.float64]) -> list[NDArray[Any]]:
    places = np.searchsorted(midpoints(centroids), values.astype(np.float64))
    return [values[places == place] for place in range(len(centroids))]


@pytest.mark.parametrize("k", [2, 8, 32])
@pytest.mark.parametrize("init", ["linear", "density", "kmeans++"])
@pytest.mark.parametrize("sample", SAMPLES)
def test_as_good_as_scikit_learn(sample: str, init: str, k: int) -> None:
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    values = SAMPLES[sample]
    start = INITS[init](np.sort(values), k, 0).reshape(-1, 1)
    with threadpool_limits(1):  # threads cost more than they bring on so few values
        oracle = KMeans(k, init=start, n_init=1, tol=0, max_iter=50).fit(values.astype(np.float64).reshape(-1, 1))
    found = fit_kmeans(values, k, init=init, max_iter=50)
    assert len(found) == k
    assert quantization_error(values, found) <= 1.000001 * oracle.inertia_


@pytest.mark.parametrize("outlier", [1e30, -1e30])
def test_an_outlier_gets_its_own_centroid_and_spoils_no_other(outlier: float) -> None:
    found = fit_kmeans(np.append(GAUSS, np.float32(outlier)), 9)
    edge = -1 if outlier > 0 else 0
    assert found[edge] == np.float32(outlier)
    others = np.delete(found, edge)
    assert np.abs(others).max() < 4
    for cluster, centroid in zip(clusters(GAUSS, others), others, strict=True):
        assert centroid == pytest.approx(math.fsum(cluster) / len(cluster), rel=1e-12)
    assert quantization_error(GAUSS, others) < 1.3 * quantization_error(GAUSS, fit_kmeans(GAUSS, 8, init="density"))


def test_no_cluster_stays_empty() -> None:
    """A dozen of 32 even centroids serve no value of a heavy-tailed layer at first."""
    values = SAMPLES["student"]
    even = np.linspace(values.min(), values.max(), 32)
    assert sum(len(cluster) == 0 for cluster in clusters(values, even)) >= 12
    for max_iter in (1, 2, 300):
        found = fit_kmeans(values, 32, max_iter=max_iter)
        assert len(found) == 32
    assert all(len(cluster) for cluster in clusters(values, found))


def test_an_empty_cluster_moves_to_the_worst_served_value() -> None:
    """Even centroids 0, 4, 8, 12: the one at 4 is empty; 2 lies farthest from its own, so that one comes to it."""
    values = np.array([0, 0.5, 1, 1.5, 1.9, 8, 8.1, 12], np.float64)
    assert fit_kmeans(values, 4, max_iter=1).tolist() == [0.75, 1.9, 8.05, 12.0]


def test_several_empty_clusters_move_to_different_values() -> None:
    """Even centroids 0, 25, ..., 100 leave three empty: 9, twice there, is one value; then 8; then 7."""
    values = np.array([0, 1, 6, 7, 8, 9, 9, 100], np.float64)
    assert fit_kmeans(values, 5, max_iter=1).tolist() == [7 / 3, 7.0, 8.0, 9.0, 100.0]
    assert fit_kmeans(-values, 5, max_iter=1).tolist() == [-100.0, -9.0, -8.0, -7.0, -7 / 3]


def test_a_value_between_two_centroids_goes_to_the_lower() -> None:
    assert fit_kmeans(np.array([0, 2, 4], np.float32), 2, max_iter=1).tolist() == [1.0, 4.0]


@given(small, st.integers(1, 12), inits, st.integers(1, 300))
def test_centroids_ascend_within_the_values(values: NDArray[Any], k: int, init: str, max_iter: int) -> None:
    found = fit_kmeans(values, k, init=init, max_iter=max_iter)
    assert found.dtype == np.float64
    assert len(found) == min(k, len(np.unique(values)))
    assert np.all(found[1:] > found[:-1])
    assert values.min() <= found[0]
    assert found[-1] <= values.max()


@given(wide, st.integers(1, 12), inits)
@example(np.array([-1.7e308, 1.0, 1.7e308]), 2, "linear")
@example(np.array([1.5e308, 1.6e308, 1.7e308]), 1, "density")
def test_centroids_ascend_within_values_of_any_size(values: NDArray[Any], k: int, init: str) -> None:
    found = fit_kmeans(values, k, init=init)
    assert 1 <= len(found) <= min(k, len(np.unique(values)))
    assert np.all(found[1:] > found[:-1])
    assert values.min() <= found[0]
    assert found[-1] <= values.max()


@given(small, st.integers(1, 12), inits)
def test_each_centroid_is_the_mean_of_its_cluster(values: NDArray[Any], k: int, init: str) -> None:
    found = fit_kmeans(values, k, init=init, max_iter=1000)
    for cluster, centroid in zip(clusters(values, found), found, strict=True):
        assert centroid == pytest.approx(math.fsum(cluster) / len(cluster), rel=1e-12, abs=1e-14)


@given(small, st.integers(1, 12), inits)
@settings(max_examples=50)
def test_the_error_never_grows(values: NDArray[Any], k: int, init: str) -> None:
    errors = [quantization_error(values, fit_kmeans(values, k, init=init, max_iter=i)) for i in range(1, 12)]
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(errors))


@given(small, st.integers(1, 12), inits, st.randoms(use_true_random=False))
def test_order_has_no_influence(values: NDArray[Any], k: int, init: str, random: Any) -> None:
    shuffled = values.tolist()
    random.shuffle(shuffled)
    np.testing.assert_array_equal(fit_kmeans(values, k, init=init), fit_kmeans(np.array(shuffled, np.float32), k, init=init))


@given(small, st.integers(1, 12), inits, st.integers(-60, 60))
def test_powers_of_two_scale_through(values: NDArray[Any], k: int, init: str, power: int) -> None:
    scaled = fit_kmeans(np.ldexp(values, power), k, init=init)
    np.testing.assert_array_equal(np.ldexp(fit_kmeans(values, k, init=init), power), scaled)


@given(wide, st.integers(0, 5), inits)
def test_few_distinct_values_are_the_centroids(values: NDArray[Any], spare: int, init: str) -> None:
    distinct = np.unique(values)
    found = fit_kmeans(np.concatenate([values, values]), len(distinct) + spare, init=init)
    np.testing.assert_array_equal(found, distinct)
    assert not np.signbit(found[found == 0]).any()
    assert quantization_error(values, found) == 0


@pytest.mark.parametrize(("values", "expected"), [([3.25] * 9, [3.25]), ([1, -2, 1, 1], [-2, 1]), ([], []), ([-0.0], [0])])
def test_constants_two_values_and_none(values: list[float], expected: list[float]) -> None:
    assert fit_kmeans(np.array(values, np.float32), 4).tolist() == expected


def test_one_cluster_is_the_mean() -> None:
    assert fit_kmeans(np.array([1, 2, 6], np.float32), 1).tolist() == [3.0]


@pytest.mark.parametrize("dtype", ["float16", ">f4", "int8", "int64"])
def test_other_types_and_shapes(dtype: str) -> None:
    values = np.arange(-20, 20).reshape(5, 8)
    np.testing.assert_array_equal(fit_kmeans(values.astype(dtype), 6), fit_kmeans(values.ravel().astype(np.float64), 6))


def test_values_are_left_alone() -> None:
    values = GAUSS.copy()
    values.flags.writeable = False
    fit_kmeans(values, 8)
    quantization_error(values, np.array([0.0]))
    np.testing.assert_array_equal(values, GAUSS)


@given(small, st.lists(st.floats(-9, 9), min_size=1, max_size=9))
def test_error_is_that_of_the_nearest_centroid(values: NDArray[Any], levels: list[float]) -> None:
    distances = np.abs(values.astype(np.float64)[:, None] - np.array(levels)).min(axis=1)
    assert quantization_error(values, np.array(levels)) == pytest.approx(math.fsum(distances**2), rel=1e-12)


def test_error_of_nothing() -> None:
    assert quantization_error(np.zeros(0), np.zeros(0)) == 0.0
    with pytest.raises(ParameterError, match=r"^The 'centroids' parameter of quantization_error must be at least one number"):
        quantization_error(np.ones(1), np.zeros(0))


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"k": 0}, r"The 'k' parameter of fit_kmeans must be an integer from 1 to 65536\. Got 0 instead\."),
        ({"k": 65_537}, r"The 'k' parameter of fit_kmeans must be an integer from 1 to 65536\. Got 65537 instead\."),
        ({"k": 2.0}, r"The 'k' parameter of fit_kmeans must be an integer from 1 to 65536\. Got 2\.0 instead\."),
        ({"k": True}, r"The 'k' parameter of fit_kmeans must be an integer from 1 to 65536\. Got True instead\."),
        (
            {"init": "uniform"},
            r"The 'init' parameter of fit_kmeans must be one of 'linear', 'density', 'random', 'kmeans\+\+', 'optimal'\. "
            r"Got 'uniform' instead\.",
        ),
        ({"max_iter": 0}, r"The 'max_iter' parameter of fit_kmeans must be an integer of at least 1\. Got 0 instead\."),
        ({"seed": -1}, r"The 'seed' parameter of fit_kmeans must be an integer of at least 0\. Got -1 instead\."),
    ],
)
def test_bad_parameters(parameters: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=f"^{text}$"):
        fit_kmeans(np.ones(3), **{"k": 2, **parameters})


def test_values_that_are_not_finite_are_counted() -> None:
    text = r"^The 'values' parameter of fit_kmeans must be finite\. Got 2 NaN and 1 infinite among 5 instead\.$"
    with pytest.raises(ParameterError, match=text):
        fit_kmeans(np.array([np.nan, 1, -np.inf, np.nan, 2], np.float32), 2)


def test_values_that_are_no_real_numbers() -> None:
    with pytest.raises(ParameterError, match=r"must be real numbers\. Got 'complex128' instead\.$"):
        fit_kmeans(np.ones(2, np.complex128), 2)
