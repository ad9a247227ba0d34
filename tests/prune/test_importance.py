"""Scores are exact, and what cannot be ranked is named."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from deepcompress.errors import ModelError
from deepcompress.prune.importance import SCORES, filter_norms, scores_of, standard_deviation


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_scores_are_flat_real_and_not_negative(score: str, dtype: torch.dtype) -> None:
    scores = scores_of("w", torch.randn(3, 4).to(dtype), score)
    assert scores.shape == (12,)
    assert scores.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert (scores >= 0).all()


def test_magnitude_is_exact_and_needs_no_gradient() -> None:
    weight = torch.tensor([[-3.0, 0.0], [-0.0, 1e-40]], requires_grad=True)
    assert scores_of("w", weight).tolist() == weight.abs().flatten().tolist()


def test_filter_norms() -> None:
    weight = torch.tensor([[[1.0, -2.0]], [[0.0, 0.5]]])
    assert filter_norms(weight).tolist() == [3.0, 0.5]


def test_nan_is_named_and_counted() -> None:
    weight = torch.ones(2, 3)
    weight[0, 1] = float("nan")
    with pytest.raises(ModelError, match=re.escape("'fc.weight' holds NaN (1 of 6 weights), so its weights cannot be")):
        scores_of("fc.weight", weight)


def test_standard_deviation_is_the_populations() -> None:
    weight = torch.randn(50, 20)
    assert standard_deviation("w", weight) == pytest.approx(np.std(weight.double().numpy()), rel=1e-12)
    assert standard_deviation("w", torch.full((4,), 1e30).neg()) == pytest.approx(0, abs=1e15)
    assert standard_deviation("w", torch.empty(0)) == 0.0
    with pytest.raises(ModelError, match="'w' holds infinite weights, so it has no standard deviation"):
        standard_deviation("w", torch.tensor([1.0, float("inf")]))
