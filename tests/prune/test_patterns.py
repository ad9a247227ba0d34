"""Whole filters go, as many as the share of all says."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from deepcompress.prune.allocate import prune_masks
from deepcompress.prune.patterns import filters_to_prune


def gone(mask: torch.Tensor) -> list[int]:
    rows = mask.flatten(1)
    assert bool((rows.all(1) | ~rows.any(1)).all())
    return torch.nonzero(~rows.any(1)).flatten().tolist()


def test_least_norm_goes_and_ties_by_index() -> None:
    weight = torch.tensor([3.0, -1.0, 2.0, 1.0, -1.0]).reshape(5, 1, 1, 1).expand(5, 2, 3, 3).contiguous()
    for share, filters in [(0.0, []), (0.2, [1]), (0.4, [1, 3]), (0.6, [1, 3, 4]), (0.8, [1, 2, 3, 4])]:
        assert gone(prune_masks({"w": weight}, "filter_l1", sparsity=share)["w"]) == filters


@given(st.integers(1, 70), st.floats(0, 1))
def test_one_filter_stays_unless_all_are_asked_for(filters: int, share: float) -> None:
    count = filters_to_prune(share, filters)
    assert filters_to_prune(1, filters) == filters
    assert count == round(share * filters) or (count == filters - 1 and share < 1)
    assert count < filters or share == 1


@given(st.integers(1, 12), st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(0, 99))
def test_growing_shares_end_where_the_last_one_does(filters: int, shares: list[float], seed: int) -> None:
    weights = {"w": torch.randn(filters, 3, generator=torch.Generator().manual_seed(seed))}
    masks = None
    for share in sorted(shares):
        masks = prune_masks(weights, "filter_l1", masks=masks, sparsity=share)
    assert masks is not None
    assert len(gone(masks["w"])) == filters_to_prune(max(shares), filters)
    assert torch.equal(masks["w"], prune_masks(weights, "filter_l1", sparsity=max(shares))["w"])


def test_weights_pruned_before_count_as_zeros() -> None:
    weight = torch.tensor([[9.0, 1.0], [2.0, 2.0], [8.0, 8.0]])
    before = torch.tensor([[False, True], [True, True], [True, True]])
    mask = prune_masks({"w": weight}, "filter_l1", masks={"w": before}, sparsity=1 / 3)["w"]
    assert mask.tolist() == [[False, False], [True, True], [True, True]]


def test_vectors_and_empty_tensors_are_left_alone() -> None:
    masks = prune_masks({"bias": torch.ones(4), "none": torch.empty(0, 3)}, "filter_l1", sparsity=1.0)
    assert masks["bias"].all()
    assert masks["none"].shape == (0, 3)
