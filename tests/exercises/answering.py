"""Students' code run in this process, case by case; and right solutions with a mistake put in."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepcompress.exercises.catalogue import load
from deepcompress.exercises.child import check_answer
from deepcompress.exercises.exercise import WrongAnswerError

SOLUTIONS = Path(__file__).parent / "solutions"


def solution(name: str) -> str:
    """The text of the right solution."""
    return (SOLUTIONS / f"{name.replace('-', '_')}.py").read_text()


def mistaken(name: str, right: str, wrong: str) -> str:
    """The right solution with a piece of it replaced."""
    text = solution(name)
    assert text.count(right) == 1, f"{right!r} is {text.count(right)} times in the solution of {name}"
    return text.replace(right, wrong)


def differences(name: str, source: str) -> dict[str, WrongAnswerError]:
    """Case name -> what was wrong, of the cases that some code does not pass. Its exceptions are not caught."""
    functions: dict[str, Callable[..., Any]] = {}
    exec(compile(source, "student.py", "exec"), functions)
    found = {}
    for case in load(name).cases():
        given = copy.deepcopy(dict(case.arguments))
        with warnings.catch_warnings(action="ignore"):
            answer = functions[case.function](*given.values())
        try:
            check_answer(case, answer, given)
        except WrongAnswerError as difference:
            found[case.name] = difference
    return found


def hints(name: str, source: str) -> set[str]:
    """The hints that some code gets."""
    return {difference.hint for difference in differences(name, source).values()}
