"""The exercises by name. A module is imported only when its exercise is asked for."""

from __future__ import annotations

import importlib
from typing import cast

from deepcompress.errors import ParameterError
from deepcompress.exercises.exercise import Exercise

__all__ = ["EXERCISES", "check_name", "load"]

EXERCISES = {
    "percentile": "the threshold below which a share of a layer's weights lies",
}


def load(name: str) -> Exercise:
    """An exercise by its name. Raises ParameterError where there is none."""
    check_name(name)
    return cast(Exercise, importlib.import_module(f"deepcompress.exercises.{name.replace('-', '_')}"))


def check_name(name: str) -> None:
    """Raise ParameterError where there is no exercise of that name."""
    if name not in EXERCISES:
        raise ParameterError(f"there is no exercise {name!r}; there are {', '.join(EXERCISES)}")
