"""Weights where it is easy to be wrong, and plain Python's exact answers about them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MANY = (1 << 24) + 6  # float32 cannot count so far one by one


def _noise(count: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=count)


CASES: dict[str, Array] = {
    "denormal float32": (_noise(60, 1) * 1e-40).astype(np.float32),
    "denormal float64": _noise(60, 2) * 1e-310,
    "denormal float16": (_noise(60, 3) * 1e-6).astype(np.float16),
    "least steps float64": np.random.default_rng(4).integers(-40, 40, 60) * 5e-324,
    "equal": np.full(60, 0.1, np.float32),
    "nearly equal": np.nextafter(np.full(60, 0.1), np.arange(60) % 3 - 1.0),
    "zero": np.zeros(60, np.float32),
    "zeros of either sign": np.array([0.0, -0.0] * 30, np.float32),
    "outlier 1e30": np.append(_noise(59, 5) * 0.05, 1e30).astype(np.float32),
    "outlier -1e30": np.append(-1e30, _noise(59, 6)).astype(np.float32),
    "outlier 1e300": np.append(_noise(59, 7), 1e300),
    "largest float16": (np.linspace(-1, 1, 60) * 65504).astype(np.float16),
    "largest float32": np.clip(_noise(60, 8) * 3.4e38, -3.4028234e38, 3.4028234e38).astype(np.float32),
    "largest float64": np.clip(_noise(60, 9) / 3, -1, 1) * np.finfo(np.float64).max,
    "all of float32": np.ldexp([1.25, -1.5] * 30, np.linspace(-148, 127, 60).astype(int)).astype(np.float32),
    "integers beyond float32": (np.arange(60) % 7 + (1 << 24)).astype(np.float64),
}


def exact(values: Iterable[Any]) -> list[Fraction]:
    return [Fraction(float(value)) for value in values]


def run_error(run: Sequence[Fraction]) -> Fraction:
    """Squared error of a cluster around its mean."""
    return sum((value * value for value in run), Fraction(0)) - sum(run, Fraction(0)) ** 2 / len(run)


def least_error(values: Iterable[Any], k: int) -> Fraction:
    """Of the best k clusters, by dynamic programming over every cut."""
    ordered = sorted(exact(values))
    count = len(ordered)
    costs = {(i, j): run_error(ordered[i:j]) for i in range(count) for j in range(i + 1, count + 1)}
    best = [costs[0, j] if j else Fraction(0) for j in range(count + 1)]
    for _ in range(k - 1):
        best = [Fraction(0)] + [min([best[j]] + [best[i] + costs[i, j] for i in range(1, j)]) for j in range(1, count + 1)]
    return best[count]


def error_of(values: Iterable[Any], levels: Iterable[Any]) -> Fraction:
    """Squared distances to the nearest of the levels, summed."""
    places = exact(levels)
    return sum((min((value - level) ** 2 for level in places) for value in exact(values)), Fraction(0))


def root(square: Fraction) -> float:
    """The square root, also of what float64 cannot hold."""
    shift = 2 * ((square.denominator.bit_length() - square.numerator.bit_length()) // 2) if square else 0
    return math.ldexp(math.sqrt(square * Fraction(2) ** shift), -shift // 2)
