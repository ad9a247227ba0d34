"""Percentile pruning: how small a weight must be to go.

Write `threshold(weights, q)`: the q-quantile of the magnitudes |w| of all weights of a layer, whatever its shape. Pruning the
weights with |w| below it removes the share q of them, 0 <= q <= 1. Zeros count, they are weights too. Of n magnitudes in
ascending order the quantile is the one at place q (n - 1), counted from 0; between two places it is interpolated linearly.

    threshold(np.array([[-4.0, 1.0], [2.0, -3.0]]), 0.5)    gives 2.5: the magnitudes are 1 2 3 4, place 1.5 is half-way

Source: Han, Pool, Tran, Dally. Learning both weights and connections for efficient neural networks. NIPS 2015, sec. 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.exercises.answers import Mistake, array, is_close, number, recognised
from deepcompress.exercises.exercise import Case, WrongAnswerError
from deepcompress.exercises.show import shown

STARTER = '''\
import numpy as np


def threshold(weights: np.ndarray, q: float) -> float:
    """The q-quantile of |w| over all weights, 0 <= q <= 1."""
    raise NotImplementedError
'''

Array = NDArray[Any]


def _at(ordered: Array, q: float) -> Any:
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)]


_MISTAKES: Sequence[Mistake] = (
    (lambda w, q: np.quantile(w, q), "this is the quantile of w, not of |w|: large negative weights would go first"),
    (lambda w, q: _at(np.argsort(np.abs(w), axis=None), q), "this is where the weight stands (its index), not what it is worth"),
    (lambda w, q: int(q * w.size), "this is a place in the sorted order, not the magnitude at that place"),
    (lambda w, q: np.percentile(np.abs(w), q), "np.percentile takes its share from 0 to 100, np.quantile from 0 to 1"),
    (lambda w, q: np.quantile(np.abs(w[w != 0]), q), "zeros were left out, but a pruned weight is a weight"),
    (lambda w, q: np.quantile(np.abs(w), 1 - q), "this is the quantile at 1 - q: q is the share that goes, not that stays"),
    (lambda w, q: q * np.abs(w).max(), "this is a share of the largest magnitude: half the range is not half the weights"),
    (lambda w, q: _at(np.abs(w).ravel(), q), "the magnitudes are not sorted"),
    (lambda w, q: _at(np.sort(w, axis=None), q), "this is a quantile of w, not of |w|: large negative weights would go first"),
    (lambda w, q: _at(np.sort(np.abs(w), axis=None), q), "this is the magnitude at place int(q n); interpolate at q (n - 1)"),
    (lambda w, q: np.std(w) * q, "this is the rule by standard deviation, which is another one"),
)


def cases() -> list[Case]:
    """The hidden cases."""
    return [_case(*given) for given in _given()]


def _given() -> Iterator[tuple[str, Array, float]]:
    rng = np.random.default_rng(2015)
    yield "four positive weights, half-way", np.array([1.0, 2.0, 3.0, 4.0]), 0.5
    yield "both signs", np.array([[-4.0, 1.0], [2.0, -3.0]]), 0.5
    yield "not in order, between two places", np.array([0.5, -0.1, 0.9, -0.7, 0.2, 0.3]), 0.3
    yield "a linear layer", rng.normal(0, 0.05, (30, 40)), 0.6
    yield "a convolution in float32, with more weights below zero", rng.normal(-0.1, 0.2, (8, 4, 3, 3)).astype(np.float32), 0.25
    half = rng.normal(0, 1, 200)
    half[rng.permutation(200)[:100]] = 0
    yield "half of it pruned before", half, 0.75
    yield "q = 0", rng.normal(3, 1, 50), 0.0
    yield "q = 1", rng.normal(-3, 1, 50), 1.0
    yield "all weights negative", -rng.exponential(1, 101), 0.9
    yield "one weight", np.array([-0.25]), 0.5
    yield "one magnitude, two signs", np.array([0.5, -0.5, -0.5, 0.5]), 0.4


def _case(name: str, weights: Array, q: float) -> Case:
    return Case(name, "threshold", {"weights": weights, "q": q}, partial(_check, weights, q))


def _check(weights: Array, q: float, answer: Any) -> None:
    expected = float(np.quantile(np.abs(weights), q))
    if array(answer, "one number").size > 1:
        raise WrongAnswerError(shown(expected), shown(answer), "one threshold for the whole layer is asked for, not a mask")
    if not is_close(number(answer), expected):
        hint = recognised(number(answer), {"weights": weights, "q": q}, _MISTAKES)
        raise WrongAnswerError(shown(expected), shown(answer), hint)
