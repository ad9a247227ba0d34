"""What becomes of centroids on their way into a file: the type, the rounding, and zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepcompress.errors import ParameterError
from deepcompress.quantize.codebooks import distinct, fit_codebook, round_centroids, round_to_type, share_values
from deepcompress.quantize.kmeans import fit_kmeans, quantization_error
from deepcompress.tensors.codebook import Codebook

GAUSS = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
wide = st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=60)


def to_bfloat16(values: NDArray[Any]) -> NDArray[Any]:
    return (np.asarray(values, np.float32).view(np.uint32) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def test_float16_where_it_serves_as_well() -> None:
    book = fit_codebook(GAUSS, 32)
    assert book.centroids.dtype == np.float16
    exact = quantization_error(GAUSS, fit_kmeans(GAUSS, 32))
    assert quantization_error(GAUSS, book.centroids) <= 1.001 * exact


def test_float32_where_float16_is_too_coarse() -> None:
    assert fit_codebook(GAUSS, 4000).centroids.dtype == np.float32
    assert fit_codebook(GAUSS, 4000, dtype="float16").centroids.dtype == np.float16
    assert fit_codebook(1000 + GAUSS, 32).centroids.dtype == np.float32


@pytest.mark.parametrize("scale", [1e6, 1e-7])
def test_float32_where_float16_overflows_or_vanishes(scale: float) -> None:
    book = fit_codebook(GAUSS * np.float32(scale), 32)
    assert (book.centroids.dtype, book.k) == (np.dtype(np.float32), 32)


def test_without_an_error_float16_must_be_exact() -> None:
    assert fit_codebook(np.array([0.5, 0.25], np.float32), 4).centroids.dtype == np.float16
    assert fit_codebook(np.array([0.1, 0.25], np.float32), 4).centroids.dtype == np.float32


def test_a_type_by_name() -> None:
    assert fit_codebook(GAUSS, 32, dtype="float32").centroids.dtype == np.float32
    assert fit_codebook(GAUSS, 32, dtype="float64").centroids.dtype == np.float32  # nothing to gain
    assert fit_codebook(GAUSS.astype(np.float64), 32, dtype="float32").centroids.dtype == np.float32
    assert fit_codebook(GAUSS.astype(np.float64), 32, dtype="float64").centroids.dtype == np.float64


def test_what_would_overflow_a_named_type_keeps_its_own() -> None:
    book = fit_codebook(np.array([1.0, 65_520.0], np.float32), 2, dtype="float16")
    assert (book.centroids.dtype, book.centroids.tolist()) == (np.dtype(np.float32), [1.0, 65_520.0])
    assert fit_codebook(np.array([1.0, 65_519.0], np.float32), 2, dtype="float16").centroids.tolist() == [1.0, 65_504.0]


def test_float64_takes_the_narrowest_that_serves() -> None:
    values = GAUSS.astype(np.float64)
    assert fit_codebook(values, 32).centroids.dtype == np.float16
    assert fit_codebook(values * 1e6, 32).centroids.dtype == np.float32
    assert fit_codebook(values * 1e100, 32).centroids.dtype == np.float64
    assert fit_codebook(values * 1e-100, 32).centroids.dtype == np.float64


def test_float16_tensors_keep_float16_and_stay_finite() -> None:
    values = np.array([60_000, 65_504, 1.0, -65_504], np.float16)
    for k in (1, 2, 3, 4):
        book = fit_codebook(values, k)
        assert book.centroids.dtype == np.float16
        assert np.isfinite(book.centroids).all()
    found = round_centroids(values, np.array([-1e9, 1e9]), own="float16")
    assert found.tolist() == [-65_504.0, 65_504.0]


@given(wide, st.integers(1, 8))
def test_bfloat16_tensors_get_bfloat16_values(numbers: list[float], k: int) -> None:
    values = to_bfloat16(np.array(numbers))
    levels = round_centroids(values, fit_kmeans(values, k), own="bfloat16")
    assert levels.dtype == np.float32
    assert np.isfinite(levels).all()
    assert not (levels.view(np.uint32) & 0xFFFF).any()
    assert Codebook(levels[levels != 0]).k <= k


def test_rounding_to_bfloat16_agrees_with_torch() -> None:
    torch = pytest.importorskip("torch")
    edge = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.3961776e38, 1e-40, 0.0], np.float32)
    values = np.concatenate([GAUSS, edge]).astype(np.float64)
    expected = torch.from_numpy(values.astype(np.float32)).bfloat16().float().numpy()
    np.testing.assert_array_equal(round_to_type(values, "bfloat16"), expected)


@given(wide, st.integers(1, 12), st.sampled_from(["auto", "float16", "float32"]))
def test_levels_are_finite_distinct_and_no_more_than_asked_for(numbers: list[float], k: int, dtype: str) -> None:
    values = np.array(numbers, np.float32)
    levels = round_centroids(values, fit_kmeans(values, k), dtype=dtype)
    assert np.isfinite(levels).all()
    assert np.all(np.diff(levels.astype(np.float64)) > 0)
    assert len(levels) <= k
    assert fit_codebook(values, k, dtype=dtype).centroids.tolist() == levels[levels != 0].tolist()


@given(wide, st.integers(1, 12))
def test_auto_costs_a_thousandth_at_most(numbers: list[float], k: int) -> None:
    values = np.array(numbers, np.float32)
    exact = fit_kmeans(values, k).astype(np.float32)
    assert quantization_error(values, round_centroids(values, exact)) <= 1.001 * quantization_error(values, exact)


def test_equal_after_rounding_is_one_centroid() -> None:
    values = np.array([1.0, 1.0001, 2.0], np.float32)
    assert fit_codebook(values, 3, dtype="float16").centroids.tolist() == [1.0, 2.0]
    assert fit_codebook(values, 3).k == 3


def test_zero_after_rounding_makes_zeros() -> None:
    values = np.array([-1.0, 1e-9, 1.0], np.float32)
    levels = round_centroids(values, fit_kmeans(values, 3), dtype="float16")
    assert levels.tolist() == [-1.0, 0.0, 1.0]
    book, symbols = share_values(values, levels)
    assert (book.centroids.tolist(), symbols.tolist(), symbols.dtype) == ([-1.0, 1.0], [1, 0, 2], np.uint8)


def test_a_mean_of_zero_leaves_no_codebook() -> None:
    values = np.array([[-1.0, 1.0]], np.float32)
    assert fit_codebook(values, 1).k == 0
    book, symbols = share_values(values, round_centroids(values, fit_kmeans(values, 1)))
    assert (book.k, symbols.tolist()) == (0, [[0, 0]])


@given(wide, st.integers(1, 12))
def test_symbols_lead_to_the_nearest_level(numbers: list[float], k: int) -> None:
    values = np.array(numbers, np.float32)
    levels = round_centroids(values, fit_kmeans(values, k))
    book, symbols = share_values(values, levels)
    found = np.append(np.zeros(1), book.centroids)[symbols]
    assert float(np.square(found - values.astype(np.float64)).sum()) == pytest.approx(quantization_error(values, levels))
    assert (symbols == 0).any() <= (levels == 0).any()


@pytest.mark.parametrize(("k", "dtype"), [(255, "uint8"), (256, "uint16"), (65_535, "uint16"), (65_536, "uint32")])
def test_symbol_types_count_zero_in(k: int, dtype: str) -> None:
    levels = np.arange(1, k + 1, dtype=np.float32)
    _, symbols = share_values(levels[-3:], levels)
    assert (symbols.dtype, symbols.tolist()) == (np.dtype(dtype), [k - 2, k - 1, k])


def test_no_values_at_all() -> None:
    none = np.zeros(0, np.float32)
    assert fit_codebook(none, 32).k == 0
    book, symbols = share_values(none, round_centroids(none, fit_kmeans(none, 4)))
    assert (book.k, symbols.shape) == (0, (0,))
    with pytest.raises(ParameterError, match="2 values cannot be assigned to a codebook without centroids"):
        share_values(np.ones(2), none)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"own": "int8"}, r"'own' .* must be one of 'float16', 'bfloat16', 'float32', 'float64'\. Got 'int8' instead\."),
        ({"dtype": "half"}, r"'dtype' .* one of 'auto', 'float16', 'float32' for a tensor of float32\. Got 'half' instead\."),
        ({"dtype": "bfloat16"}, r"'dtype' .* for a tensor of float32\. Got 'bfloat16' instead\."),
    ],
)
def test_bad_types(parameters: dict[str, str], text: str) -> None:
    with pytest.raises(ParameterError, match=f"^The {text}$"):
        fit_codebook(GAUSS, 4, **parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["auto", "float16", "bfloat16", "float32", "float64"])
def test_a_type_that_is_not_narrower_changes_nothing(dtype: str) -> None:
    values = to_bfloat16(GAUSS)
    expected = round_centroids(values, fit_kmeans(values, 8), own="bfloat16")
    np.testing.assert_array_equal(round_centroids(values, fit_kmeans(values, 8), dtype=dtype, own="bfloat16"), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_distinct_values_ascend_also_where_there_are_many_of_each(dtype: str) -> None:
    """numpy's sort of float16 does not, on some processors."""
    for seed in range(20):
        chance = np.random.default_rng(seed)
        values = (np.rint(2 * chance.standard_normal((64, 64))).clip(-4, 4) * chance.uniform(0.05, 1)).astype(dtype)
        found = distinct(values)
        assert found.dtype == dtype
        assert found.tolist() == sorted(set(values.ravel().tolist()))
