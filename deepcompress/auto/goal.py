"""What a compression is to reach, and which of those tried comes nearest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from deepcompress.errors import ParameterError
from deepcompress.report.choice import RunRow

__all__ = ["Goal"]

_NEAR = 0.95  # of the bytes that may be used: a smaller file has paid with accuracy for what nobody asked for
_AIM = 0.98  # of them: training for a size ends beside it


@dataclass(frozen=True)
class Goal:
    """A limit on what is lost, a size, or both; the limit then comes first.

    Attributes:
        dense_bytes: of the state dict.
        max_drop: what the score may lose at most, in the score's own unit; None for no limit.
        target_ratio: dense bytes / bytes of the file, at least; None for as small as can be.
        dense_score: of the model as it came; None where it was not asked.

    Raises:
        ParameterError: a limit out of its range.
    """

    dense_bytes: int
    max_drop: float | None
    target_ratio: float | None
    dense_score: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("max_drop", 0.0), ("target_ratio", 1.0)):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and least <= value < math.inf):
                raise ParameterError.of(name, "compress", f"None or a number of at least {least:g}", value)

    @property
    def most_bytes(self) -> int | None:
        """The largest file of the target ratio."""
        return None if self.target_ratio is None else math.floor(self.dense_bytes / self.target_ratio)

    @property
    def aim(self) -> float | None:
        """Bytes to try for: a little fewer than the most."""
        return None if self.most_bytes is None else _AIM * self.most_bytes

    def drop(self, run: RunRow) -> float:
        """What the score lost; of no score 0, of one that is no number infinitely much."""
        if run.score is None or self.dense_score is None:
            return 0.0
        drop = self.dense_score - run.score
        return math.inf if math.isnan(drop) else drop

    def keeps(self, run: RunRow) -> bool:
        """Whether it is within the limit on what is lost."""
        return self.max_drop is None or self.drop(run) <= self.max_drop

    def reaches(self, run: RunRow) -> bool:
        """Whether it is as small as was asked for."""
        return self.most_bytes is None or run.file_bytes <= self.most_bytes

    def is_met(self, run: RunRow) -> bool:
        """Whether nothing is left to wish for; without a size, something always is."""
        if self.most_bytes is None or not (self.keeps(run) and self.reaches(run)):
            return False
        return run.file_bytes >= _NEAR * self.most_bytes

    def best(self, runs: Sequence[RunRow]) -> RunRow | None:
        """Of those within the limit, the best that reaches the size; where none does, or none is asked for, the smallest.

        None where nothing is within the limit.
        """
        kept = [run for run in runs if self.keeps(run)]
        reached = [run for run in kept if self.reaches(run)]
        if self.target_ratio is not None and reached:
            return min(reached, key=lambda run: (self.drop(run), -run.file_bytes))
        return min(kept, key=lambda run: run.file_bytes, default=None)

    def __str__(self) -> str:
        limits = [] if self.max_drop is None else [f"a score of at most {self.max_drop:g} less"]
        limits += [] if self.target_ratio is None else [f"a file at least {self.target_ratio:g} times smaller"]
        return f"Asked for: {' and '.join(limits)} than the dense model's."

    def verdict(self, run: RunRow) -> str:
        """A sentence on the run that was chosen."""
        size = f"{run.file_bytes:,} bytes, {self.dense_bytes / run.file_bytes:.2f} times smaller"
        found = f"{run.name} was chosen: {size}{self._change(run)}."
        if not self.reaches(run):
            found += f" The ratio of {self.target_ratio:g} was not reached"
            found += " within the limit on what may be lost." if self.max_drop is not None else "."
        return found[0].upper() + found[1:]

    def _change(self, run: RunRow) -> str:
        if run.score is None or self.dense_score is None:
            return ""
        drop = self.drop(run)
        return f", its score {abs(drop):.4g} {'less' if drop > 0 else 'more'}" if drop else ", its score the same"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
