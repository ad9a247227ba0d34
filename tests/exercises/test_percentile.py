"""Percentiles: numpy's quantile of the magnitudes passes, and each known mistake is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepcompress.exercises.catalogue import load
from deepcompress.prune.allocate import prune_masks
from tests.exercises.answering import differences, hints, solution

HEAD = "import numpy as np\ndef threshold(weights, q):\n    "


def answers(expression: str) -> str:
    return f"{HEAD}return {expression}\n"


@pytest.mark.parametrize(
    "source",
    [solution("percentile"), answers("np.quantile(np.abs(weights), q)"), answers("[np.percentile(abs(weights), 100 * q)]")],
)
def test_right_answers_pass(source: str) -> None:
    assert differences("percentile", source) == {}


@pytest.mark.parametrize(
    ("expression", "hint"),
    [
        ("np.quantile(weights, q)", "this is the quantile of w, not of |w|"),
        ("np.argsort(abs(weights).ravel())[min(int(q * weights.size), weights.size - 1)]", "where the weight stands (its index)"),
        ("int(q * weights.size)", "this is a place in the sorted order"),
        ("np.percentile(np.abs(weights), q)", "np.percentile takes its share from 0 to 100"),
        ("np.quantile(np.abs(weights[weights != 0]), q)", "zeros were left out"),
        ("np.quantile(np.abs(weights), 1 - q)", "this is the quantile at 1 - q"),
        ("q * np.abs(weights).max()", "a share of the largest magnitude"),
        ("abs(weights).ravel()[min(int(q * weights.size), weights.size - 1)]", "not sorted"),
        ("np.sort(weights.ravel())[min(int(q * weights.size), weights.size - 1)]", "a quantile of w, not of |w|"),
        ("np.sort(abs(weights).ravel())[min(int(q * weights.size), weights.size - 1)]", "interpolate at q (n - 1)"),
        ("q * weights.std()", "the rule by standard deviation"),
        ("abs(weights) < np.quantile(abs(weights), q)", "not a mask"),
        ("np.quantile(abs(weights), q, axis=0)", "one threshold for the whole layer"),
        ("None", "is a return missing?"),
        ("np.quantile(np.abs(weights, out=weights), q)", "changed in place"),
    ],
)
def test_known_mistakes_are_named(expression: str, hint: str) -> None:
    assert any(hint in found for found in hints("percentile", answers(expression)))


@pytest.mark.parametrize("expression", ["'0.5'", "[]", "{}", "True", "1j", "[[1], [1, 2]]", "np.nan", "abs"])
def test_answers_that_are_no_threshold_are_told_apart(expression: str) -> None:
    found = differences("percentile", answers(expression))
    assert set(found) == {case.name for case in load("percentile").cases()}


def test_the_threshold_prunes_what_the_library_prunes() -> None:
    """Up to one weight: a quantile stands between two."""
    for case in load("percentile").cases():
        weights, q = case.arguments.values()
        magnitudes = np.abs(weights).ravel()
        if len(np.unique(magnitudes)) == len(magnitudes):
            masks = prune_masks({"w": torch.from_numpy(weights)}, "percentile", q=q)
            pruned = int((~masks["w"]).sum())
            assert abs(int((magnitudes < np.quantile(magnitudes, q)).sum()) - pruned) <= 1, case.name
