"""Scores are exact, and what cannot be ranked is named."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding.pool import limited
from deepcompress.errors import ModelError
from deepcompress.prune.importance import SCORES, check_rankable, filter_norms, scores_of, standard_deviation


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_scores_are_one_per_weight_and_need_no_gradient(score: str, dtype: torch.dtype) -> None:
    weights = {"w": torch.randn(3, 4, dtype=dtype, requires_grad=True), "v": torch.ones((), dtype=dtype)}
    scores = scores_of(weights, score)
    assert list(scores) == ["w", "v"]
    for name, weight in weights.items():
        assert scores[name].shape == weight.shape
        assert scores[name].is_floating_point()
        assert not scores[name].requires_grad


def test_magnitude_is_the_weight_itself() -> None:
    weight = torch.tensor([[-3.0, 0.0], [-0.0, 1e-40]])
    assert scores_of({"w": weight})["w"].data_ptr() == weight.data_ptr()


def test_filter_norms() -> None:
    weight = torch.tensor([[[1.0, -2.0]], [[0.0, 0.5]]])
    assert filter_norms(weight).tolist() == [3.0, 0.5]


def test_nan_is_named_and_counted() -> None:
    weight = torch.ones(2, 3)
    weight[0, 1] = float("nan")
    with pytest.raises(ModelError, match=re.escape("'fc.weight' holds NaN (1 of 6 weights), so its weights cannot be")):
        check_rankable("fc.weight", weight)


def test_standard_deviation_refuses_what_has_none() -> None:
    assert standard_deviation("w", torch.empty(0)) == 0.0
    assert standard_deviation("w", torch.full((4,), 1e30).neg()) == pytest.approx(0, abs=1e15)
    with pytest.raises(ModelError, match="'w' holds infinite weights, so it has no standard deviation"):
        standard_deviation("w", torch.tensor([1.0, -float("inf"), float("inf")]))
    with pytest.raises(ModelError, match=re.escape("'w' holds NaN (1 of 3 weights)")):
        standard_deviation("w", torch.tensor([1.0, float("inf"), float("nan")]))
    assert standard_deviation("w", torch.tensor([1.7e308, 1.7e308], dtype=torch.float64)) == 0  # their sum overflows


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 3])
@given(size=st.integers(1, 4000), seed=st.integers(0, 99), mean=st.sampled_from([0.0, 0.01, 1000.0]))
@settings(max_examples=30)
def test_standard_deviation_is_numpys_in_every_bit(dtype: torch.dtype, threads: int, size: int, seed: int, mean: float) -> None:
    weight = (torch.randn(size, generator=torch.Generator().manual_seed(seed)) + mean).to(dtype)
    with limited(threads), pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepcompress.prune.importance.BLOCK", 256)
        assert standard_deviation("w", weight) == weight.double().numpy().std()


def test_standard_deviation_of_many_weights_and_of_any_order_in_memory() -> None:
    weight = torch.randn(37, 70, 11, 11)
    expected = weight.double().numpy().std()
    assert standard_deviation("w", weight) == expected
    assert standard_deviation("w", weight.to(memory_format=torch.channels_last)) == expected
