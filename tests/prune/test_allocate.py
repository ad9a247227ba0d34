"""Laws of every method, the exact sparsity of each, and every bad parameter."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deepcompress.errors import ModelError, ParameterError
from deepcompress.prune.allocate import METHODS, check_parameters, prune_masks

shares = st.floats(0, 1)
shapes = st.lists(st.sampled_from([(3, 4), (5,), (2, 3, 2, 2), (1, 1), (0, 3), ()]), min_size=1, max_size=4)


def parameters_for(method: str, share: float) -> dict[str, Any]:
    name = {"percentile": "q", "std": "s"}.get(method, "sparsity")
    return {name: share * 2 if name == "s" else share}


@st.composite
def models(draw: st.DrawFn) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    coarse = draw(st.booleans())  # many ties
    weights = {}
    for number, shape in enumerate(draw(shapes)):
        values = torch.randn(shape, generator=generator)
        weights[f"w{number}"] = (values.round() if coarse else values).to(dtype)
    return weights


def zeros(masks: dict[str, Tensor]) -> int:
    return sum(int((~mask).sum()) for mask in masks.values())


@pytest.mark.parametrize("method", METHODS)
@given(weights=models(), share=shares, second=shares)
@settings(max_examples=40)
def test_laws_of_every_method(method: str, weights: dict[str, Tensor], share: float, second: float) -> None:
    before = {name: weight.clone() for name, weight in weights.items()}
    masks = prune_masks(weights, method, **parameters_for(method, share))
    assert list(masks) == list(weights)
    for name, weight in weights.items():
        assert torch.equal(weight, before[name])
        assert masks[name].dtype == torch.bool
        assert masks[name].shape == weight.shape
    again = prune_masks(weights, method, masks=masks, **parameters_for(method, second))
    assert all(not (again[name] & ~masks[name]).any() for name in weights)
    same = prune_masks(weights, method, masks=masks, **parameters_for(method, share))
    assert all(torch.equal(same[name], masks[name]) for name in weights)


@given(weights=models(), share=shares)
@settings(max_examples=60)
def test_percentile_meets_each_layers_share_to_one_weight(weights: dict[str, Tensor], share: float) -> None:
    masks = prune_masks(weights, "percentile", q=share)
    layerwise = prune_masks(weights, "unstructured", sparsity=share, scope="layer")
    for name, weight in weights.items():
        scores, mask = weight.abs().flatten().double(), masks[name].flatten()
        assert int((~mask).sum()) == round(share * weight.numel())
        assert torch.equal(layerwise[name], masks[name])
        assert not mask.any() or mask.all() or scores[mask].min() >= scores[~mask].max()


@given(weights=models(), share=shares, earlier=shares)
@settings(max_examples=60)
def test_unstructured_meets_the_share_of_all(weights: dict[str, Tensor], share: float, earlier: float) -> None:
    total = sum(weight.numel() for weight in weights.values())
    before = prune_masks(weights, "percentile", q=earlier)
    masks = prune_masks(weights, "unstructured", masks=before, sparsity=share)
    assert zeros(masks) == max(round(share * total), zeros(before))
    fresh = prune_masks(weights, "unstructured", sparsity=share)
    order = np.argsort(np.concatenate([w.abs().double().flatten().numpy() for w in weights.values()]), kind="stable")
    expected = np.ones(total, bool)
    expected[order[: round(share * total)]] = False
    assert np.array_equal(np.concatenate([fresh[name].flatten().numpy() for name in weights]), expected)


def test_ties_go_by_order_of_names_and_then_by_index() -> None:
    weights = {"b": torch.ones(2, 2), "a": -torch.ones(2, 2)}
    masks = prune_masks(weights, "unstructured", sparsity=0.75)
    assert masks["b"].tolist() == [[False, False], [False, False]]
    assert masks["a"].tolist() == [[False, False], [True, True]]


@given(weights=models(), s=st.floats(0, 3))
@settings(max_examples=40)
def test_std_is_numpys(weights: dict[str, Tensor], s: float) -> None:
    masks = prune_masks(weights, "std", s=s)
    for name, weight in weights.items():
        values = weight.double().numpy()
        expected = ~(np.abs(values) < s * values.std()) if values.size else np.ones(values.shape, bool)
        assert np.array_equal(masks[name].numpy(), expected)


def test_memory_format_does_not_change_the_choice() -> None:
    weight = torch.randn(4, 3, 5, 5).round()
    masks = prune_masks({"w": weight}, "percentile", q=0.5)
    other = prune_masks({"w": weight.to(memory_format=torch.channels_last)}, "percentile", q=0.5)
    assert torch.equal(masks["w"], other["w"])


def test_masks_of_other_weights_are_ignored_and_missing_ones_are_whole() -> None:
    weights = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    other = {"b": torch.zeros(3, dtype=torch.bool)}
    assert prune_masks(weights, "percentile", masks=other, q=0.5)["a"].tolist() == [False, False, True, True]
    assert prune_masks({}, "unstructured", sparsity=0.5) == {}


@pytest.mark.parametrize("method", METHODS)
def test_nan_is_named(method: str) -> None:
    weights = {"ok": torch.ones(2, 2), "bad": torch.tensor([[1.0, float("nan")]])}
    with pytest.raises(ModelError, match=re.escape("'bad' holds NaN (1 of 2 weights)")):
        prune_masks(weights, method, **parameters_for(method, 0.5))


@pytest.mark.parametrize(
    ("method", "parameters", "text"),
    [
        ("percentile", {"q": 1.2}, "The 'q' parameter of Prune('percentile') must be a number in [0, 1]. Got 1.2 instead."),
        ("percentile", {"q": float("nan")}, "must be a number in [0, 1]. Got nan instead."),
        ("percentile", {"q": True}, "must be a number in [0, 1]. Got True instead."),
        ("percentile", {}, "Prune('percentile') needs its parameter 'q'"),
        ("percentile", {"q": 0.5, "s": 1}, "Prune('percentile') has no parameter 's'; it takes 'q'"),
        ("std", {"s": -0.1}, "The 's' parameter of Prune('std') must be a finite number >= 0. Got -0.1 instead."),
        ("std", {"s": float("inf")}, "must be a finite number >= 0. Got inf instead."),
        ("unstructured", {"sparsity": "0.5"}, "must be a number in [0, 1]. Got '0.5' instead."),
        ("unstructured", {"sparsity": 0.5, "scope": "all"}, "must be 'global' or 'layer'. Got 'all' instead."),
        ("filter_l1", {"sparsity": -1}, "The 'sparsity' parameter of Prune('filter_l1') must be a number in [0, 1]."),
        (
            "random",
            {},
            "The 'method' parameter of Prune must be one of 'percentile', 'std', 'unstructured', 'filter_l1'. "
            "Got 'random' instead.",
        ),
        (["std"], {}, "Got ['std'] instead."),
    ],
)
def test_bad_parameters(method: Any, parameters: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(text)):
        check_parameters(method, parameters, "Prune")
    with pytest.raises(ParameterError):
        prune_masks({"w": torch.ones(2)}, method, **parameters)


def test_defaults_are_filled_in() -> None:
    assert check_parameters("unstructured", {"sparsity": 0.5}) == {"sparsity": 0.5, "scope": "global"}


def test_a_mask_that_does_not_fit() -> None:
    text = "The 'masks' parameter of prune_masks must be a bool tensor of shape (2, 2) for 'w'. Got 'torch.bool (3,)' instead."
    with pytest.raises(ParameterError, match=re.escape(text)):
        prune_masks({"w": torch.ones(2, 2)}, "std", masks={"w": torch.ones(3, dtype=torch.bool)}, s=1.0)
