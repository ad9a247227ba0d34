"""How sparsity grows over the epochs of a training run that prunes as it goes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from deepcompress.errors import ParameterError
from deepcompress.prune.ranking import is_within

_OWNER = "Schedule"
_POWERS = {"linear": 1, "cubic": 3}


@dataclass(frozen=True)
class Schedule:
    """Sparsity as a function of training progress, in epochs; it never falls.

    Attributes:
        kind: "linear", "cubic" (most of it early, where the network can still recover), or "step".
        initial: sparsity until `begin`, in [0, 1].
        final: sparsity from `end` on, initial <= final <= 1 and above 0.
        begin: >= 0, in epochs from the start of training; fractions are fine.
        end: > begin.
        milestones: for "step" alone, pairs (epoch, sparsity), both ascending: from that epoch on, that sparsity. They
            also say what `final`, `begin` and `end` are.

    Raises:
        ParameterError: a field is out of its range.

    Source: Zhu, Gupta. To prune, or not to prune. ICLR workshop 2018, sec. 3. arXiv:1710.01878 (cubic).
    """

    kind: str
    initial: float = 0.0
    final: float = 0.0
    begin: float = 0.0
    end: float = 0.0
    milestones: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in (*_POWERS, "step"):
            raise ParameterError.of("kind", _OWNER, "'linear', 'cubic' or 'step'", self.kind)
        _require(is_within(self.initial, 0, 1), "initial", "a number in [0, 1]", self.initial)
        if self.kind == "step":
            self._read_milestones()
        else:
            _require(not self.milestones, "milestones", f"left out for kind={self.kind!r}", self.milestones)
            self._check_slope()

    def at(self, progress_in_epochs: float) -> float:
        """The sparsity that the weights should have at this point, in [initial, final]."""
        if self.kind == "step":
            reached = [sparsity for epoch, sparsity in self.milestones if epoch <= progress_in_epochs]
            return reached[-1] if reached else self.initial
        if progress_in_epochs <= self.begin:
            return self.initial
        left = max(0.0, 1 - (progress_in_epochs - self.begin) / (self.end - self.begin))
        sparsity = self.final + (self.initial - self.final) * left ** _POWERS[self.kind]
        return max(self.initial, sparsity)  # against rounding

    def next_turn(self, progress_in_epochs: float) -> float:
        """The next point, in epochs, that must not be passed over: a milestone, or the end. Infinite after the last one."""
        turns = [epoch for epoch, _ in self.milestones] or [self.end]
        return min((turn for turn in turns if turn > progress_in_epochs), default=math.inf)

    def config(self) -> dict[str, Any]:
        """The schedule as JSON."""
        if self.kind == "step":
            return {"kind": self.kind, "initial": self.initial, "milestones": [list(pair) for pair in self.milestones]}
        return {name: getattr(self, name) for name in ("kind", "initial", "final", "begin", "end")}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Schedule:
        """The schedule that `config()` described. Raises ParameterError for what is no field, and as the class does."""
        known = [item.name for item in fields(cls)]
        for key in config:
            if key not in known:
                raise ParameterError(f"{_OWNER} has no field {key!r}; it has {', '.join(map(repr, known))}")
        if "kind" not in config:
            raise ParameterError(f"{_OWNER} needs its field 'kind'")
        return cls(**config)

    def _check_slope(self) -> None:
        _require(is_within(self.begin, 0, math.inf), "begin", "a finite number >= 0", self.begin)
        _require(
            is_within(self.end, self.begin, math.inf) and self.end > self.begin,
            "end",
            f"a finite number of epochs > begin ({self.begin})",
            self.end,
        )
        final_fits = is_within(self.final, self.initial, 1) and self.final > 0
        _require(final_fits, "final", f"a number above 0 in [initial, 1] = [{self.initial}, 1]", self.final)

    def _read_milestones(self) -> None:
        pairs = _pairs(self.milestones)
        given = (self.final, self.begin, self.end)
        implied = (pairs[-1][1], pairs[0][0], pairs[-1][0])
        expected = f"left out for kind='step', or what the milestones say: {implied}"
        _require(given in ((0.0, 0.0, 0.0), implied), "final, begin, end", expected, given)
        _require(self.initial <= pairs[0][1], "initial", f"<= the first milestone's {pairs[0][1]}", self.initial)
        for name, value in zip(("final", "begin", "end", "milestones"), (*implied, pairs), strict=True):
            object.__setattr__(self, name, value)


def _pairs(milestones: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    expected = "pairs (epoch >= 0, sparsity in [0, 1]), epochs and sparsities ascending, at least one"
    try:
        pairs = tuple((epoch, sparsity) for epoch, sparsity in milestones)
    except (TypeError, ValueError):
        raise ParameterError.of("milestones", _OWNER, expected, milestones) from None
    ranges = all(is_within(epoch, 0, math.inf) and is_within(sparsity, 0, 1) for epoch, sparsity in pairs)
    rising = ranges and all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(pairs))
    _require(bool(pairs) and rising, "milestones", expected, milestones)
    return pairs


def _require(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise ParameterError.of(name, _OWNER, expected, got)
