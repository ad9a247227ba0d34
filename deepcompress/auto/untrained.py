"""The search where nothing is trained: how coarse the weights may be, judged by a measure or by the file's size.

With inputs, bits per weight are searched, which `RateQuantize` spends where the inputs say that they matter. Without, it is the
noise that all weights may take. Quality is said in half decibels: 20 x log10(weights / noise) = quality / 2, over the
network. At 40 the noise is a tenth of the weights; 12 more take about a bit more of each weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from deepcompress.auto.allocate import allocate, noise_of, widths_of
from deepcompress.auto.goal import Goal
from deepcompress.auto.plans import Plan, calibrated_plan, grid_plan, lossless_plan
from deepcompress.auto.task import Asked, Task, explained
from deepcompress.errors import ParameterError
from deepcompress.pipeline.pipeline import Result
from deepcompress.pipeline.selection import Selection
from deepcompress.pipeline.stages.chosen import is_int, quantizable
from deepcompress.pipeline.state import Model, State
from deepcompress.report.choice import RunRow

__all__ = ["LOSSLESS", "MOST_QUALITY", "Grids", "Rates", "Untrained"]

LOSSLESS = "lossless"
MOST_QUALITY = 100
_RATES = tuple(round(0.5 * 2 ** (step / 8), 3) for step in range(33))  # bits per weight, 0.5 to 8


class Grids:
    """A uniform grid for each layer of a model, its bits by one price for all layers.

    Raises:
        ModelError: weights that are NaN or infinite.
    """

    unit = "Quality"
    said = "Quality is in half decibels by which the noise of rounding is below the weights, with one price for all layers."

    def __init__(self, model: Model) -> None:
        self._widths = widths_of(quantizable(Selection(), State(model), "compress"))

    def turns(self) -> list[float]:
        """The qualities whose grids are not those of the quality before."""
        found = [allocate(self._widths, _noise(quality)) for quality in range(1, MOST_QUALITY + 1)]
        return [at + 1 for at, chosen in enumerate(found) if not at or chosen != found[at - 1]]

    def plan(self, asked: float) -> Plan:
        """The stages of this quality, an int from 1 to 100. Raises ParameterError for another."""
        chosen = allocate(self._widths, _noise(asked))
        return grid_plan({name: width.bits for name, width in chosen.items()})

    def explained(self, result: Result, quality: int) -> Result:
        """The outcome of that plan, whose report says what the quality means."""
        chosen = allocate(self._widths, _noise(quality))
        row = RunRow(name="grids", asked=quality, epochs=None, file_bytes=result.report.file_bytes, score=None)
        goal = f"Asked for: quality {quality}, noise {quality / 2:g} dB below the weights."
        why = "There are no weights to round."
        if chosen:
            bits, noise = [width.bits for width in chosen.values()], noise_of(chosen.values())
            below = f"{-10 * math.log10(noise):.1f} dB below the weights" if noise else "none"
            why = f"Layers have grids of {min(bits)} to {max(bits)} bits, by one price for all of them; their noise is {below}."
        return explained(result, goal, self.unit, None, [row], row.name, why)


class Rates:
    """So many bits per weight, spent where inputs say that they matter."""

    unit = "Bits per weight"
    said = "Levels were chosen for error and bits together, by what the inputs say of the weights; no labels were used."

    def turns(self) -> list[float]:
        """The bits that are tried."""
        return list(_RATES)

    def plan(self, asked: float) -> Plan:
        """The stages of so many bits."""
        return calibrated_plan(asked)


class Untrained:
    """One plan at several settings, each of more bytes and less error than the one before.

    Args:
        task, goal: as for `compress`; the goal has a limit, a ratio, or both. What the task has to train on are inputs, here.
    """

    def __init__(self, task: Task, goal: Goal) -> None:
        self._task, self._goal = task, goal
        self.scale = Grids(task.model) if task.train is None else Rates()
        self._rows: dict[float, RunRow] = {}
        self._last: list[RunRow] = []

    @property
    def runs(self) -> list[RunRow]:
        """All of them, in order."""
        return [*self._rows.values(), *self._last]

    def search(self) -> RunRow:
        """The best; where every setting loses more than may be lost, what loses nothing."""
        goal, turns = self._goal, self.scale.turns()
        least = 0
        if goal.target_ratio is not None:
            least = max(_first(0, len(turns), lambda at: not goal.reaches(self._row(turns[at]))) - 1, 0)
        if not goal.keeps(self._row(turns[least])):
            _first(least + 1, len(turns), lambda at: goal.keeps(self._row(turns[at])))
        best = goal.best(self.runs)
        if best is None:
            self._last = [self._measured(Asked(LOSSLESS, None, lossless_plan()))]
        return best or self._last[0]

    def result(self, best: RunRow) -> Result:
        """The outcome of a run."""
        plan = lossless_plan() if best.asked is None else self.scale.plan(best.asked)
        return self._task.run(Asked(best.name, best.asked, plan), looks=True)

    def reasons(self) -> list[str]:
        """What the search did, a sentence each."""
        lost = ["All of them lost more than they may: nothing is lost instead."] if self._last else []
        return [self.scale.said, *lost]

    def _row(self, asked: float) -> RunRow:
        if asked not in self._rows:
            name = f"{self.scale.unit.lower()} {asked:g}"
            self._rows[asked] = self._measured(Asked(name, asked, self.scale.plan(asked)))
        return self._rows[asked]

    def _measured(self, asked: Asked) -> RunRow:
        def measure() -> dict[str, object]:
            result = self._task.run(asked)
            return {"file_bytes": result.report.file_bytes, "score": self._task.score(result.model)}

        return self._task.row(asked, **self._task.diary.measured(asked.words, measure))


def _noise(quality: float) -> float:
    """Squared error / squares of the weights, summed over the layers. Raises ParameterError."""
    if not is_int(quality, 1, MOST_QUALITY):
        raise ParameterError.of("quality", "compress", f"an int from 1 to {MOST_QUALITY}", quality)
    return float(10 ** (-quality / 20))


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The least number from `low` on of which `holds` is true, as it is of all above it; `high` where it is of none below."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
