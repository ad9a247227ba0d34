"""The codebook: what it accepts, and that the nearest centroid is the nearest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from deepcompress.coding.pool import limited
from deepcompress.errors import ParameterError
from deepcompress.tensors.codebook import Codebook, midpoints, nearest

FLOATS = ("float16", "float32", "float64")


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """Compile once, before any test with a deadline runs."""
    for dtype in (np.float32, np.float64):
        for k in (2, 200, 300):
            nearest(np.arange(k, dtype=dtype), np.zeros(1, dtype))


@st.composite
def centroids(draw: st.DrawFn, least: int = 1) -> NDArray[Any]:
    """What a codebook may hold, from the whole range of a type."""
    dtype = np.dtype(draw(st.sampled_from(FLOATS)))
    numbers = st.floats(allow_nan=False, allow_infinity=False, width=dtype.itemsize * 8)  # type: ignore[call-overload]
    found = draw(st.lists(numbers.filter(bool), min_size=least, max_size=40, unique=True))
    return np.sort(np.array(found, dtype))


def values_of(dtype: str) -> st.SearchStrategy[NDArray[Any]]:
    finite = {"allow_nan": False, "allow_infinity": False}
    return hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0), elements=finite)


@given(centroids(), st.sampled_from(FLOATS), st.data())
def test_assigns_the_nearest_and_the_lower_of_two_equally_near(levels: NDArray[Any], dtype: str, data: st.DataObject) -> None:
    values = data.draw(values_of(dtype))
    found = Codebook(levels).assign(values)
    assert found.shape == values.shape
    limits = midpoints(levels)
    expected = [sum(float(value) > limit for limit in limits) for value in values.ravel()]
    assert found.ravel().tolist() == expected


@given(st.lists(st.integers(-50, 50).filter(bool), min_size=1, unique=True), st.lists(st.integers(-100, 100)))
def test_nearest_by_distance(levels: list[int], values: list[int]) -> None:
    ascending = np.sort(np.array(levels, np.float32))
    found = Codebook(ascending).assign(np.array(values, np.float32) / 2)
    distances = np.abs(np.array(values)[:, None] / 2 - ascending[None, :].astype(np.float64))
    np.testing.assert_array_equal(found, distances.argmin(axis=1))  # argmin: the first, the lower


@given(centroids())
def test_a_centroid_is_its_own_nearest(levels: NDArray[Any]) -> None:
    book = Codebook(levels)
    np.testing.assert_array_equal(book.assign(levels), np.arange(len(levels)))
    np.testing.assert_array_equal(book.lookup(book.assign(levels)), levels)
    assert book.lookup(book.assign(levels)).dtype == levels.dtype


@given(centroids(least=2))
def test_midpoints_lie_between(levels: NDArray[Any]) -> None:
    limits = midpoints(levels)
    assert np.all(levels[:-1].astype(np.float64) <= limits)
    assert np.all(limits < levels[1:].astype(np.float64))


def test_midpoints_neither_overflow_nor_round_up() -> None:
    top = np.finfo(np.float64).max
    assert midpoints(np.array([top / 2, top])).tolist() == [0.75 * top]
    assert midpoints(np.array([-top, top])).tolist() == [0.0]
    tiny = np.array([5e-324, 1e-323, 2e-323])
    assert midpoints(tiny).tolist() == [5e-324, 1.5e-323]
    assert midpoints(np.array([1.0, np.nextafter(1.0, 2.0)])).tolist() == [1.0]


@pytest.mark.parametrize(
    ("k", "width", "dtype"),
    [
        (1, 0, "uint8"),
        (2, 1, "uint8"),
        (3, 2, "uint8"),
        (32, 5, "uint8"),
        (256, 8, "uint8"),
        (257, 9, "uint16"),
        (65_536, 16, "uint16"),
    ],
)
def test_bit_width_and_index_type(k: int, width: int, dtype: str) -> None:
    book = Codebook(np.arange(1, k + 1, dtype=np.float32))
    assert (book.k, len(book), book.bit_width) == (k, k, width)
    indices = book.assign(np.array([[-1.0, 1e9]]))
    assert indices.dtype == dtype
    assert indices.tolist() == [[0, k - 1]]


def test_an_empty_codebook_serves_no_value() -> None:
    book = Codebook(np.zeros(0, np.float32))
    assert (book.k, book.bit_width) == (0, 0)
    assert book.assign(np.zeros((0, 3), np.float32)).shape == (0, 3)
    assert book.lookup(np.zeros(0, np.uint8)).dtype == np.float32
    with pytest.raises(ParameterError, match=r"^2 values cannot be assigned to a codebook without centroids\.$"):
        book.assign(np.ones(2))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("k", [1, 2, 63, 64, 65, 66, 127, 128, 129, 256, 257, 4097])
def test_many_levels_as_few_and_on_any_number_of_threads(k: int, dtype: str) -> None:
    rng = np.random.default_rng(k)
    levels = np.unique(rng.standard_normal(k)).astype(np.float64)
    values = rng.standard_normal((3, 50_001)).astype(dtype)
    expected = np.searchsorted(midpoints(levels), values.astype(np.float64))
    for threads in (1, 3):
        with limited(threads):
            np.testing.assert_array_equal(nearest(levels, values), expected)


def test_float32_comparisons_are_those_of_float64() -> None:
    """The limit of two neighbouring floats lies between them, where float32 has no number."""
    low = np.float32(1.0)
    high = np.nextafter(low, np.float32(2.0))
    assert nearest(np.array([low, high]), np.array([low, high])).tolist() == [0, 1]
    levels = np.array([-1e300, 1e300])  # limits and levels that float32 does not hold
    assert nearest(levels * 2, np.array([-1, 0, 1], np.float32)).tolist() == [0, 0, 1]
    beyond = np.array([1e300, 2e300])
    assert nearest(beyond, np.array([3e38, -3e38], np.float32)).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ([1.0], r"a 1-d array\. Got list instead\."),
        (np.ones((2, 2)), r"a 1-d array\. Got shape \(2, 2\) instead\."),
        (np.array([1, 2]), r"of float16, float32, float64\. Got int64 instead\."),
        (np.array([1, 2], ">f4"), r"of float16, float32, float64\. Got >f4 instead\."),
        (np.arange(1.0, 65_538.0), r"at most 65536\. Got 65537 instead\."),
        (np.array([1.0, np.nan, np.inf]), r"finite\. 2 of 3 are not\."),
        (np.array([-1.0, -0.0, 1.0]), r"free of zero, which stands for a pruned weight\."),
        (np.array([1.0, 2.0, 2.0]), r"ascending and distinct\. 2\.0 is followed by 2\.0\."),
        (np.array([2.0, 1.0]), r"ascending and distinct\. 2\.0 is followed by 1\.0\."),
    ],
)
def test_bad_centroids(bad: Any, text: str) -> None:
    with pytest.raises(ParameterError, match=f"^The 'centroids' parameter of Codebook must be {text}$"):
        Codebook(bad)


@pytest.mark.parametrize("indices", [[0, 3], [-1, 1]])
def test_bad_indices(indices: list[int]) -> None:
    text = rf"^Indices must be at least 0 and below k = 3\. They run from {indices[0]} to {indices[1]} instead\.$"
    with pytest.raises(ParameterError, match=text):
        Codebook(np.array([1.0, 2.0, 3.0])).lookup(np.array(indices))
