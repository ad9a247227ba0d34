"""Why a compression is as it is: what was asked for, what was tried, and what was taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from deepcompress.errors import ParameterError

__all__ = ["Choice", "RunRow"]


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One compression that was tried.

    Attributes:
        name: such as "trial 1"; of one choice, all differ.
        asked: what was asked of it, in the choice's unit; None where nothing can be asked.
        epochs: of training; None where there is none.
        file_bytes: of the file that it came to.
        score: what `validate` gave; None where it was not asked.
    """

    name: str
    asked: float | None
    epochs: int | None
    file_bytes: int
    score: float | None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was tried, and why one was taken.

    Attributes:
        goal: what was asked for, a sentence.
        unit: what `asked` of the runs counts, such as "Bits per weight".
        dense_score: what `validate` gave for the model as it came; None where it was not asked.
        runs: in the order in which they were tried.
        chosen: the name of that which became the file.
        reasons: why, one sentence each.

    Raises:
        ParameterError: `chosen` is the name of no run, or names stand more than once.
    """

    goal: str
    unit: str
    dense_score: float | None
    runs: tuple[RunRow, ...]
    chosen: str
    reasons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [run.name for run in self.runs]
        if len(set(names)) < len(names):
            raise ParameterError.of("runs", "Choice", "of different names", names)
        if self.chosen not in names:
            raise ParameterError.of("chosen", "Choice", f"one of {', '.join(names)}", self.chosen)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Choice:
        """The choice whose fields a report's `to_dict` wrote."""
        known = {field.name: data[field.name] for field in fields(cls)}
        runs = tuple(RunRow(**{**run, "score": _real(run["score"])}) for run in known["runs"])
        score = _real(known["dense_score"])
        return cls(**{**known, "runs": runs, "dense_score": score, "reasons": tuple(known["reasons"])})


def _real(value: float | str | None) -> float | None:
    return None if value is None else float(value)
