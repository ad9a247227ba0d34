"""Shares and thresholds to the last weight: ties, outliers, ranges whose squares overflow, more weights than float32 counts."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.prune.allocate import prune_masks
from deepcompress.prune.importance import filter_norms, standard_deviation
from tests.numbers.cases import CASES, MANY, exact, root

_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def plain_kept(magnitudes: list[Fraction], count: int) -> list[bool]:
    order = sorted(range(len(magnitudes)), key=lambda place: (magnitudes[place], place))
    gone = set(order[:count])
    return [place not in gone for place in range(len(magnitudes))]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("q", [0, 0.1, 0.35, 0.5, 0.9, 1])
def test_shares_are_met_to_one_weight_and_ties_go_by_index(name: str, q: float) -> None:
    weight = torch.from_numpy(CASES[name])
    mask = prune_masks({"w": weight}, "percentile", q=q)["w"]
    assert mask.tolist() == plain_kept([abs(value) for value in exact(CASES[name])], round(q * len(weight)))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False), max_size=20), min_size=1, max_size=4),
    st.floats(0, 1),
    st.sampled_from(_TYPES),
)
def test_global_shares_against_a_sort_in_plain_python(rows: list[list[float]], share: float, dtype: torch.dtype) -> None:
    weights = {str(place): torch.tensor(row, dtype=torch.float64).to(dtype) for place, row in enumerate(rows)}
    masks = prune_masks(weights, "unstructured", sparsity=share)
    flat = [abs(value) for weight in weights.values() for value in weight.double().tolist()]
    order = sorted(range(len(flat)), key=lambda place: (flat[place], place))
    gone = set(order[: round(share * len(flat))])
    assert torch.cat([mask.reshape(-1) for mask in masks.values()]).tolist() == [place not in gone for place in range(len(flat))]


@pytest.mark.parametrize("name", CASES)
def test_standard_deviation_against_fractions(name: str) -> None:
    values = exact(CASES[name])
    mean = sum(values) / len(values)
    expected = root(sum((value - mean) ** 2 for value in values) / len(values))
    found = standard_deviation("w", torch.from_numpy(CASES[name]))
    slack = float(max(map(abs, values))) * 4e-16  # of weights that are all but equal only rounding is left
    assert math.isclose(found, expected, rel_tol=1e-12, abs_tol=slack)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("s", [0, 0.5, 2])
def test_std_masks_are_what_their_threshold_says(name: str, s: float) -> None:
    weight = torch.from_numpy(CASES[name])
    threshold = s * standard_deviation("w", weight)
    mask = prune_masks({"w": weight}, "std", s=s)["w"]
    assert mask.tolist() == [abs(float(value)) >= threshold for value in CASES[name]]
    assert s or bool(mask.all())


def test_more_equal_weights_than_float32_can_count() -> None:
    weight = torch.full((MANY,), 0.1)
    mask = prune_masks({"w": weight}, "percentile", q=0.5)["w"]
    assert not bool(mask[: MANY // 2].any())
    assert bool(mask[MANY // 2 :].all())
    assert standard_deviation("w", weight) <= 1e-16
    weight[::2] = 0.3
    low, high = float(np.float32(0.1)), float(np.float32(0.3))
    assert math.isclose(standard_deviation("w", weight), (high - low) / 2, rel_tol=1e-12)


def test_filter_norms_of_more_weights_than_float32_can_count() -> None:
    weight = torch.ones(2, MANY)
    weight[1, 0] = 0.0  # one weight less: in float32 both norms are 2^24, and of equal filters the first would go
    assert filter_norms(weight).tolist() == [MANY, MANY - 1]
    mask = prune_masks({"w": weight}, "filter_l1", sparsity=0.5)["w"]
    assert bool(mask[0].all())
    assert not bool(mask[1].any())


def test_filter_norms_that_would_overflow_are_ranked() -> None:
    rows = torch.tensor([1.7, 1.0, 1.6, 1.5], dtype=torch.float64) * 1e308
    weight = rows[:, None].repeat(1, 5)
    mask = prune_masks({"w": weight}, "filter_l1", sparsity=0.5)["w"]
    assert mask[:, 0].tolist() == [True, False, True, False]


def test_filters_of_half_precision_are_summed_in_float64() -> None:
    weight = torch.full((2, 4099), 65504.0, dtype=torch.float16)
    weight[0, 0] = 65472.0
    assert filter_norms(weight).tolist() == [4098 * 65504.0 + 65472.0, 4099 * 65504.0]
