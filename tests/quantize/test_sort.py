"""Sorting by bits gives what numpy gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from deepcompress.quantize.sort import ascending

RNG = np.random.default_rng(0)
GAUSS = RNG.standard_normal(9_001).astype(np.float32)
ANY_BITS = RNG.integers(0, 1 << 32, 9_001, np.uint32).view(np.float32)
SAMPLES = {
    "gauss": GAUSS,
    "any finite": ANY_BITS[np.isfinite(ANY_BITS)],
    "subnormal": GAUSS * np.float32(1e-40),
    "half": GAUSS.astype(np.float16).astype(np.float32),
    "two values": np.sign(GAUSS),
    "one value": np.full(9_001, -3, np.float32),
    "infinite": np.append(GAUSS, np.array([np.inf, -np.inf], np.float32)),
    "float64": GAUSS * 1e-300,
    "strided": GAUSS[::2],
    "transposed": GAUSS[:9_000].reshape(90, 100).T,
}


@pytest.mark.parametrize("sample", SAMPLES)
def test_as_numpy_sorts(sample: str) -> None:
    values = SAMPLES[sample]
    before = values.copy()
    found = ascending(values)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, np.sort(values, axis=None))
    np.testing.assert_array_equal(values, before)


@given(hnp.arrays(np.float32, st.integers(4_000, 5_000), elements=st.floats(width=32, allow_nan=False), fill=st.just(0.0)))
def test_as_numpy_sorts_whatever_it_is(values: NDArray[Any]) -> None:
    np.testing.assert_array_equal(ascending(values), np.sort(values))


def test_nans_stand_at_the_ends() -> None:
    found = ascending(np.append(GAUSS, np.array([np.nan, -np.nan], np.float32)))
    assert np.isnan(found[[0, -1]]).all()
    np.testing.assert_array_equal(found[1:-1], np.sort(GAUSS))
