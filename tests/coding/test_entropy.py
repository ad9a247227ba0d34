from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcompress.coding.entropy import entropy
from deepcompress.errors import ParameterError


@pytest.mark.parametrize(
    ("counts", "bits"),
    [([], 0.0), ([0, 0], 0.0), ([7], 0.0), ([0, 7, 0], 0.0), ([1, 1], 1.0), ([5] * 32, 5.0), ([2, 1, 1], 1.5)],
)
def test_known_values(counts: list[int], bits: float) -> None:
    found = entropy(np.array(counts, np.int64))
    assert found == pytest.approx(bits, abs=1e-12)
    assert math.copysign(1, found) == 1  # never -0.0


@given(st.lists(st.integers(0, 10**12), max_size=40))
def test_bounds_and_order(counts: list[int]) -> None:
    bits = entropy(np.array(counts, np.int64))
    used = sum(count > 0 for count in counts)
    assert 0 <= bits <= math.log2(max(used, 1)) + 1e-9
    assert entropy(np.array(counts[::-1], np.int64)) == pytest.approx(bits)


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(
        ParameterError, match=r"The 'counts' parameter of entropy must be at least 0 everywhere\. Got -3 instead\."
    ):
        entropy(np.array([1, -3]))
