"""Reading answers: the form that a law needs, or what is wrong with the one that came."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepcompress.exercises.exercise import WrongAnswerError
from deepcompress.exercises.show import shown

__all__ = ["Mistake", "array", "integers", "is_close", "number", "parts", "recognised"]

Array = NDArray[Any]
Mistake = tuple[Callable[..., Any], str]  # what a known mistake answers, by the case's arguments, and the sentence about it

_RELATIVE, _ABSOLUTE = 1e-5, 1e-9  # float32 arithmetic passes
_IMPOSSIBLE = (ArithmeticError, LookupError, TypeError, ValueError)  # where a mistake has no answer for a case


def is_close(answer: ArrayLike, expected: ArrayLike) -> bool:
    """Whether all numbers agree but for rounding, in the same shape; NaN agrees with nothing."""
    one, other = np.asarray(answer), np.asarray(expected)
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=_RELATIVE, atol=_ABSOLUTE))


def recognised(answer: Any, arguments: Mapping[str, Any], mistakes: Iterable[Mistake]) -> str:
    """The sentence about the first mistake that would have given this answer, or "" where none is known."""
    for wrong, sentence in mistakes:
        with suppress(*_IMPOSSIBLE), np.errstate(all="ignore"):
            if is_close(answer, wrong(*arguments.values())):
                return sentence
    return ""


def array(answer: Any, expected: str = "an array of numbers") -> Array:
    """An answer as an array of real numbers. Raises WrongAnswerError where it is none."""
    try:
        found = np.asarray(answer)
    except (TypeError, ValueError, RuntimeError):  # lists of unequal length; a tensor that requires gradients
        raise WrongAnswerError(expected, _kind(answer)) from None
    if found.dtype.kind not in "biuf":
        raise WrongAnswerError(expected, _kind(answer))
    return found


def number(answer: Any) -> float:
    """An answer as one number. Raises WrongAnswerError where it is none."""
    found = array(answer, "one number")
    if found.dtype.kind == "b" or found.size != 1:
        raise WrongAnswerError("one number", _kind(answer))
    return float(found.reshape(()))


def integers(answer: Any, expected: str = "a list of integers") -> NDArray[np.int64]:
    """An answer as a flat array of whole numbers. Raises WrongAnswerError where it is none."""
    found = array(answer, expected)
    if found.ndim != 1 or found.dtype.kind == "b" or not np.all(np.isfinite(found)) or np.any(found % 1):
        raise WrongAnswerError(expected, _kind(answer))
    return found.astype(np.int64)


def parts(answer: Any, *names: str) -> tuple[Any, ...]:
    """An answer of several parts. Raises WrongAnswerError where there are more, or fewer."""
    if not isinstance(answer, tuple | list) or len(answer) != len(names):
        raise WrongAnswerError(f"({', '.join(names)})", _kind(answer))
    return tuple(answer)


def _kind(answer: Any) -> str:
    return f"{shown(answer)}, of type {type(answer).__name__}"
