"""The exercises by name. A module is imported only when its exercise is asked for."""

from __future__ import annotations

import importlib
from typing import cast

from deepcompress.errors import ParameterError
from deepcompress.exercises.exercise import Exercise

__all__ = ["EXERCISES", "check_name", "load"]

EXERCISES = {
    "percentile": "the threshold below which a share of a layer's weights lies",
    "kmeans": "Lloyd's algorithm in one dimension: shared values for weights",
    "huffman": "counts of indices, and codewords for them that take as few bits as any",
    "gaps": "positions of nonzeros as bounded gaps with an escape, and back",
    "mask-step": "one step of SGD in which pruned weights stay exactly zero",
    "affine": "numbers as bytes with a scale and a zero point, and back",
}


def load(name: str) -> Exercise:
    """An exercise by its name. Raises ParameterError where there is none."""
    check_name(name)
    return cast(Exercise, importlib.import_module(f"deepcompress.exercises.{name.replace('-', '_')}"))


def check_name(name: str) -> None:
    """Raise ParameterError where there is no exercise of that name."""
    if name not in EXERCISES:
        raise ParameterError(f"there is no exercise {name!r}; there are {', '.join(EXERCISES)}")
