"""Laws of every way to start, found from the table, and what is particular to each."""

from __future__ import annotations

import numpy as np
import pytest

from deepcompress.quantize.init import INITS
from deepcompress.quantize.kmeans import fit_kmeans, quantization_error

GAUSS = np.sort(np.random.default_rng(0).standard_normal(4000)).astype(np.float32)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("k", [1, 2, 7, 500])
def test_starts_lie_among_the_values(init: str, k: int) -> None:
    start = INITS[init](GAUSS, k, 3)
    assert start.dtype == np.float64
    assert start.shape == (k,)
    assert start.min() >= GAUSS[0]
    assert start.max() <= GAUSS[-1]
    np.testing.assert_array_equal(start, INITS[init](GAUSS, k, 3))


@pytest.mark.parametrize("init", INITS)
def test_starts_scale_with_the_values(init: str) -> None:
    np.testing.assert_array_equal(INITS[init](GAUSS, 20, 1) * 2.0**-20, INITS[init](GAUSS * np.float32(2.0**-20), 20, 1))


@pytest.mark.parametrize("init", ["random", "kmeans++"])
def test_seeded_starts_are_distinct_values_and_differ_by_seed(init: str) -> None:
    start = INITS[init](GAUSS, 50, 0)
    assert len(np.unique(start)) == 50
    assert np.isin(start, GAUSS).all()
    assert not np.array_equal(np.sort(start), np.sort(INITS[init](GAUSS, 50, 1)))


def test_the_table() -> None:
    assert set(INITS) == {"linear", "density", "random", "kmeans++", "optimal"}


def test_linear_spans_least_to_greatest() -> None:
    start = INITS["linear"](GAUSS, 5, 0)
    assert (start[0], start[-1]) == (GAUSS[0], GAUSS[-1])
    np.testing.assert_allclose(np.diff(start), (float(GAUSS[-1]) - float(GAUSS[0])) / 4)


def test_density_serves_equally_many() -> None:
    assert INITS["density"](np.arange(100.0), 4, 0).tolist() == [12.0, 37.0, 62.0, 87.0]


def test_random_is_distinct_where_values_repeat() -> None:
    values = np.sort(np.append(np.zeros(10_000), np.arange(1.0, 8.0)))
    assert len(np.unique(INITS["random"](values, 7, 0))) == 7


def test_kmeans_plus_plus_reaches_every_cluster() -> None:
    rng = np.random.default_rng(0)
    values = np.sort(np.concatenate([center + 1e-3 * rng.standard_normal(3000) for center in range(20)]))
    assert set(np.round(INITS["kmeans++"](values, 20, 5))) == set(range(20))


def test_kmeans_plus_plus_draws_in_proportion_to_the_squared_distance() -> None:
    """From 0 (drawn first, being nearly all values), 3 is drawn nine times as often as 1."""
    values = np.sort(np.append(np.zeros(100_000), [1.0, 3.0]))
    second = [INITS["kmeans++"](values, 2, seed)[1] for seed in range(300)]
    assert second.count(3.0) + second.count(1.0) == 300
    assert 250 <= second.count(3.0) <= 290


@pytest.mark.parametrize("scale", [1e-290, 1e290])
def test_kmeans_plus_plus_squares_neither_overflow_nor_vanish(scale: float) -> None:
    start = INITS["kmeans++"](GAUSS.astype(np.float64) * scale, 10, 0)
    assert len(np.unique(start)) == 10


def test_kmeans_plus_plus_stops_where_no_value_is_far() -> None:
    start = INITS["kmeans++"](np.array([0.0, 1e-300, 2e-300, 1.0]), 3, 0)
    assert set(start) >= {1.0}
    assert len(start) == 2
    assert len(fit_kmeans(np.array([0.0, 1e-300, 2e-300, 1.0]), 3, init="kmeans++")) == 3


def test_kmeans_plus_plus_starts_better_than_random() -> None:
    heavy = np.sort(np.random.default_rng(0).standard_t(3, 5000))
    errors = {init: [quantization_error(heavy, INITS[init](heavy, 32, seed)) for seed in range(10)] for init in INITS}
    assert np.mean(errors["kmeans++"]) < np.mean(errors["random"])
