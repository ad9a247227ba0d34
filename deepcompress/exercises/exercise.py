"""What an exercise is made of: a task, a file to start from, and cases, each with the law that its answer must obey."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Case", "Exercise", "WrongAnswerError"]


class WrongAnswerError(Exception):
    """An answer breaks its case's law: what was expected, what came, and the likely mistake, if one is recognised."""

    def __init__(self, expected: str, got: str, hint: str = "") -> None:
        super().__init__(f"expected {expected}, got {got}")
        self.expected, self.got, self.hint = expected, got, hint


@dataclass(frozen=True)
class Case:
    """One call of one of the student's functions.

    Attributes:
        name: what is special about it.
        function: which function is called.
        arguments: in order; the names are for people, the call is by position.
        check: takes the answer; raises WrongAnswerError where it breaks the law.
    """

    name: str
    function: str
    arguments: Mapping[str, Any]
    check: Callable[[Any], None]


class Exercise(Protocol):
    """What the module of an exercise has; its docstring is the task's text."""

    __doc__: str | None
    STARTER: str

    def cases(self) -> Sequence[Case]:
        """The hidden cases, easy ones first; the same in every run."""
