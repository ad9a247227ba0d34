"""K-means: right in any style passes, and each known mistake is named."""

from __future__ import annotations

import numpy as np
import pytest

from deepcompress.exercises.catalogue import load
from deepcompress.exercises.kmeans import _lloyd
from deepcompress.quantize.lloyd import lloyd
from deepcompress.quantize.sums import sorted_values
from tests.exercises.answering import differences, hints, mistaken, solution

PLAIN = """
def kmeans(values, centroids):
    centroids, indices = [float(c) for c in centroids], None
    while True:
        found = [min(range(len(centroids)), key=lambda k: (abs(v - centroids[k]), k)) for v in values]
        if found == indices:
            return found, centroids
        indices = found
        for k in range(len(centroids)):
            mine = [v for v, index in zip(values, indices) if index == k]
            centroids[k] = sum(mine) / len(mine) if mine else centroids[k]
"""
CONVERGED = "        if before is not None and np.array_equal(indices, before):\n"
MEAN = "centroids[place] = values[indices == place].mean()"
RETURN = "            return indices, centroids"


@pytest.mark.parametrize("source", [solution("kmeans"), PLAIN])
def test_right_answers_pass(source: str) -> None:
    assert differences("kmeans", source) == {}


@pytest.mark.parametrize(
    ("right", "wrong", "hint"),
    [
        (RETURN, "            return centroids, indices", "the indices come first"),
        (RETURN, "            return indices, np.sort(centroids)", "the centroids were sorted"),
        (RETURN, "            return indices, np.unique(centroids)", "and as many are asked for"),
        (RETURN, "            return indices[:-1], centroids", "each value has one index"),
        (MEAN, f"{MEAN}\n            else: centroids[place] = 0", "stays where it is: here it was moved"),
        (".argmin(axis=1)", "[:, ::-1].argmin(axis=1)\n        indices = len(centroids) - 1 - indices", "the first one is meant"),
        (MEAN, "pass", "the centroids were not moved at all"),
        (CONVERGED, "        if before is not None:\n", "this is a single pass"),
        (MEAN, "centroids[place] = np.median(values[indices == place])", "not their median"),
        (CONVERGED, CONVERGED.replace("np.array_equal(indices, before)", "(indices == before).mean() > 0.95"), "still moves"),
        ("before = None", "before, centroids = None, np.linspace(values.min(), values.max(), len(centroids))", "leads elsewhere"),
    ],
)
def test_known_mistakes_are_named(right: str, wrong: str, hint: str) -> None:
    found = hints("kmeans", mistaken("kmeans", right, wrong))
    assert any(hint in each for each in found), found


def test_the_mean_of_nothing_is_named() -> None:
    assert "the mean of no values is nan: a centroid without values stays where it is" in hints(
        "kmeans", PLAIN.replace("if mine else centroids[k]", "if mine else float('nan')")
    )


def test_indices_of_an_earlier_pass_are_told_apart() -> None:
    early = "        if before is not None and (indices == before).mean() > 0.9:\n            return before, centroids\n"
    found = hints("kmeans", mistaken("kmeans", CONVERGED, early + CONVERGED))
    assert any("indices and centroids are of different passes" in each for each in found)


def test_the_library_answers_the_same_where_no_centroid_is_left_alone() -> None:
    compared = 0
    for case in load("kmeans").cases():
        values, start = case.arguments.values()
        indices, centroids = _lloyd(values, start)
        ascending = np.array_equal(start, np.unique(start))
        if ascending and len(np.unique(indices)) == len(start) < len(np.unique(values)):
            np.testing.assert_allclose(lloyd(sorted_values(np.sort(values)), start, len(start), 1000), centroids)
            compared += 1
    assert compared >= 5
