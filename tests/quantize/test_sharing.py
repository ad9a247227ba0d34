"""Whole tensors: zeros stay zero, nonzeros get the nearest level, and the error is that of all elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepcompress.quantize.sharing import looked_up, nonzeros, share_nonzeros
from deepcompress.tensors.codebook import nearest

small = st.lists(st.floats(-8, 8, width=16) | st.just(0.0) | st.just(-0.0), max_size=60).map(np.array)
levels_of = st.lists(st.floats(-8, 8, width=16), min_size=1, max_size=9, unique=True).map(np.array)
dtypes = st.sampled_from(["float16", "float32", "float64"])


@given(small, levels_of, dtypes)
def test_zeros_stay_and_the_others_are_shared(values: NDArray[Any], levels: NDArray[Any], dtype: str) -> None:
    values, levels = values.astype(dtype), np.unique(levels)
    shared = share_nonzeros(values, levels)
    found = looked_up(shared.codebook, shared.symbols, values.dtype)
    expected = np.where(values == 0, 0, levels[nearest(levels, values)])
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, expected)
    mean = np.mean(np.square(expected - values.astype(np.float64))) if len(values) else 0.0
    assert shared.error == pytest.approx(np.sqrt(mean), rel=1e-12)


@given(small, dtypes)
def test_nonzeros(values: NDArray[Any], dtype: str) -> None:
    found = nonzeros(values.astype(dtype).reshape(1, -1))
    assert found.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert found.tolist() == [value for value in values.astype(dtype).tolist() if value != 0]


def test_not_a_number_is_no_zero() -> None:
    assert np.isnan(nonzeros(np.array([0.0, np.nan, 0.0]))).tolist() == [True]


@pytest.mark.parametrize(("k", "dtype"), [(255, "uint8"), (256, "uint16"), (257, "uint16")])
def test_symbol_types_count_zero_in(k: int, dtype: str) -> None:
    levels = np.arange(1, k + 1, dtype=np.float32)
    values = np.concatenate([levels[::-1], np.zeros(3, np.float32)]).reshape(1, -1)
    shared = share_nonzeros(values, levels)
    assert shared.symbols.dtype == dtype
    assert shared.symbols.tolist() == [[*range(k, 0, -1), 0, 0, 0]]
    assert shared.error == 0.0
    np.testing.assert_array_equal(looked_up(shared.codebook, shared.symbols, values.dtype), values)


def test_nothing_but_zeros() -> None:
    shared = share_nonzeros(np.zeros((2, 3), np.float32), np.zeros(0, np.float32))
    assert (shared.codebook.k, shared.symbols.tolist(), shared.error) == (0, [[0, 0, 0], [0, 0, 0]], 0.0)


def test_squares_beyond_float64_are_an_infinite_error() -> None:
    assert share_nonzeros(np.array([1e300, 3e300]), np.array([2e300])).error == np.inf
