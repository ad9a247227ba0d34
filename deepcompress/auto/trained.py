"""The search where there is something to train on: short trials, then the long run, and again where it ended beside the goal."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from deepcompress.auto.goal import Goal
from deepcompress.auto.plans import rate_plan
from deepcompress.auto.search import LEAST_BITS, Scale, crossing, next_for_drop, next_for_size, search
from deepcompress.auto.task import Asked, Task
from deepcompress.errors import ModelError, ParameterError
from deepcompress.pipeline.pipeline import Result
from deepcompress.report.choice import RunRow
from deepcompress.report.report import Report

__all__ = ["Trained"]

_LOGGER = logging.getLogger(__name__)
_FIRST_BITS = 1.0  # of the first trial, where no size is asked for
_MOST_TRIALS, _MOST_LONG = 4, 3
_TRIAL_SHARE = 0.2  # of the epochs


class Trained:
    """Runs of `RateRetrain` at several bits per weight, its price for a bit being one for all layers.

    Args:
        epochs: of a long run.
        settings: other arguments of RateRetrain.

    Raises:
        ParameterError: no file can have the ratio that is asked for.
        ModelError: there are no weights to train for the coder.
    """

    def __init__(self, task: Task, goal: Goal, epochs: int, settings: Mapping[str, Any]) -> None:
        self._task, self._goal, self._epochs, self._settings = task, goal, epochs, settings
        self._short = max(round(_TRIAL_SHARE * epochs), 1)
        self._results: dict[str, Result] = {}
        self._scale = self._look()
        self.trials: list[RunRow] = []
        self.long: list[RunRow] = []

    @property
    def runs(self) -> list[RunRow]:
        """All of them, in order."""
        return [*self.trials, *self.long]

    def search(self) -> RunRow | None:
        """The best of the long runs; None where each lost more than it may."""
        goal, scale = self._goal, self._scale
        size = None if goal.aim is None else scale.bits(goal.aim)
        if goal.max_drop is None and size is not None:
            first, following = size, next_for_size
        else:
            following = next_for_drop
            self.trials = search(
                size or _FIRST_BITS, partial(following, goal=goal, scale=scale), self._trial, scale, _MOST_TRIALS
            )  # fmt: skip
            first = max(crossing(self.trials, goal, scale), size or 0.0)
        self.long = search(first, partial(following, goal=goal, scale=scale), self._long, scale, _MOST_LONG)
        return goal.best(self.long)

    def result(self, best: RunRow) -> Result:
        """The outcome of a long run."""
        return self._results.get(best.name) or self._task.run(self._asked(best.name, best.asked or 0.0), looks=True, kept=True)

    def reasons(self) -> list[str]:
        """What the search did, a sentence each."""
        if not self.trials:
            return []
        found = f"Trials are of {self._short} epochs, long runs of {self._epochs}, which lose less"
        return [f"{found}: the first began where the trials met the limit, the others where it left room."]

    def _look(self) -> Scale:
        """How the file divides, from the model quantized as it is."""
        asked = Asked("look", None, rate_plan(1.0, 0, self._settings))
        entry = self._task.diary.measured(asked.words, lambda: _parts(self._task.run(asked).report))
        if not entry["weights"]:
            raise ModelError("compress: none of the model's weights can be trained for the coder: they are all biases or norms")
        scale = Scale(entry["fixed"], entry["weights"])
        self._check(scale.fixed + LEAST_BITS * scale.weights / 8, scale.fixed)
        return scale

    def _check(self, least: float, fixed: float) -> None:
        """Raise ParameterError where not even the least bits make so small a file."""
        goal = self._goal
        if goal.aim is not None and goal.aim < least:
            most = goal.dense_bytes / least
            expected = f"below {most:.4g} for this model, of whose file {fixed:,.0f} bytes are no weights"
            raise ParameterError.of("target_ratio", "compress", expected, goal.target_ratio)

    def _asked(self, name: str, bits: float) -> Asked:
        epochs = self._short if name.startswith("trial") else self._epochs
        return Asked(name, bits, rate_plan(bits, epochs, self._settings), epochs)

    def _trial(self, bits: float, number: int) -> RunRow:
        asked = self._asked(f"trial {number}", bits)
        row = self._measured(asked)
        self._task.diary.drop_folder(asked.words)
        self._results.pop(asked.name, None)
        return row

    def _long(self, bits: float, number: int) -> RunRow:
        return self._measured(self._asked(f"long run {number}", bits))

    def _measured(self, asked: Asked) -> RunRow:
        task, goal = self._task, self._goal

        def measure() -> dict[str, Any]:
            result = self._results[asked.name] = task.run(asked, looks=asked.name.startswith("long"), kept=True)
            return {"file_bytes": result.report.file_bytes, "score": task.score(result.model)}

        row = task.row(asked, **task.diary.measured(asked.words, measure))
        what = "%s, %g bits per weight asked for: %d bytes, %.4g of the score lost"
        _LOGGER.info(what, row.name, asked.asked, row.file_bytes, goal.drop(row))
        return row


def _parts(report: Report) -> dict[str, Any]:
    """Bytes of what is no index of a weight, and how many weights have one."""
    rows = [row for row in report.layers if row.quantized]
    indices = sum(row.bits.codewords + row.bits.gaps for row in rows)
    return {"fixed": report.file_bytes - indices / 8, "weights": sum(row.weights for row in rows)}
