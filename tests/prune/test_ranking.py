"""Exact counts, the lowest first, ties by index: against a stable sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deepcompress.prune.ranking import is_within, keep_highest, pruned_count

few_values = hnp.arrays(np.float32, st.integers(0, 40), elements=st.sampled_from([0.0, 0.5, 1.0, 2.0, np.inf]))
any_values = hnp.arrays(np.float64, st.integers(0, 40), elements=st.floats(0, 1e300))


@given(few_values | any_values, st.data())
def test_equals_a_stable_sort(scores: np.ndarray, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, scores.size))
    expected = np.ones(scores.size, bool)
    expected[np.argsort(scores, kind="stable")[:count]] = False
    assert np.array_equal(keep_highest(scores, count), expected)


@given(few_values, st.data())
def test_what_is_gone_goes_first_and_stays_gone(scores: np.ndarray, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, scores.size))
    kept = data.draw(hnp.arrays(bool, scores.size))
    before = kept.copy()
    result = keep_highest(scores, count, kept)
    assert np.array_equal(kept, before)
    assert not (result & ~kept).any()
    assert (~result).sum() == max(count, (~kept).sum())
    ranked = np.where(kept, scores, -1.0)
    assert result.all() or ranked[result].min(initial=np.inf) >= ranked[~result].max()


@pytest.mark.parametrize(("share", "total", "count"), [(0.5, 5, 2), (0.5, 7, 4), (0, 9, 0), (1, 9, 9), (0.6, 5, 3)])
def test_count_rounds_half_to_even(share: float, total: int, count: int) -> None:
    assert pruned_count(share, total) == count


@pytest.mark.parametrize(
    ("value", "inside"),
    [(0, True), (1.0, True), (np.float32(0.5), True), (1.1, False), (-1e-9, False), (float("nan"), False), (True, False)],
)
def test_is_within(value: object, inside: bool) -> None:
    assert is_within(value, 0, 1) is inside
    assert not is_within("0.5", 0, 1)
    assert not is_within(float("inf"), 0, float("inf"))
