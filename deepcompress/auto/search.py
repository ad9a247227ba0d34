"""Which number of bits per weight to try next: numbers alone, no training.

Runs are known by the bits that they came to, counted from their files, for training may end beside what was asked of it. The
score is taken to fall as bits do, and what it lost to grow as a power of what bits are saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from deepcompress.auto.goal import Goal
from deepcompress.report.choice import RunRow

__all__ = ["Scale", "crossing", "next_for_drop", "next_for_size", "search"]

MOST_BITS, LEAST_BITS = 8.0, 0.01
_SHORTEST, _LONGEST = 1.15, 2.0  # factors between the bits of two runs; nearer ones differ by chance


@dataclass(frozen=True)
class Scale:
    """Bytes of a file <-> bits per weight.

    Attributes:
        fixed: bytes of all that is no weight's index: biases, norms, codebooks, names.
        weights: how many have indices.
    """

    fixed: float
    weights: int

    def bits(self, file_bytes: float) -> float:
        """What such a file has left for each weight; at least the least that is tried."""
        return max(8 * (file_bytes - self.fixed) / self.weights, LEAST_BITS)

    def asked(self, wanted: float, runs: Sequence[RunRow]) -> float:
        """What to ask for to come to `wanted` bits: between two runs on a line of the logarithms, beyond them in proportion."""
        pairs = sorted((self.bits(run.file_bytes), run.asked or wanted) for run in runs) or [(wanted, wanted)]
        got, given = (np.log([pair[side] for pair in pairs]) for side in (0, 1))
        inside = float(np.clip(math.log(wanted), got[0], got[-1]))
        asked = math.exp(np.interp(inside, got, np.maximum.accumulate(given)) + math.log(wanted) - inside)
        return float(f"{min(max(asked, LEAST_BITS), 2 * MOST_BITS):.3g}")  # a number that a report can show


def search(
    first: float, following: Callable[[Sequence[RunRow]], float | None], tried: Callable[[float, int], RunRow], scale: Scale,
    most: int,
) -> list[RunRow]:  # fmt: skip
    """At most so many runs.

    Args:
        first: bits per weight to come to.
        following: runs so far -> the bits to come to next; None where enough is known.
        tried: bits to ask for, and the number of the run from 1 -> what came of it.
    """
    runs: list[RunRow] = []
    wanted: float | None = first
    while wanted is not None and len(runs) < most:
        asked = scale.asked(wanted, runs)
        if any(run.asked == asked for run in runs):
            break
        runs.append(tried(asked, len(runs) + 1))
        wanted = following(runs)
    return runs


def next_for_size(runs: Sequence[RunRow], goal: Goal, scale: Scale) -> float | None:
    """The bits of the size that is asked for, until a run is near it."""
    return None if goal.aim is None or goal.is_met(runs[-1]) else scale.bits(goal.aim)


def next_for_drop(runs: Sequence[RunRow], goal: Goal, scale: Scale) -> float | None:
    """Fewer bits while runs stay within the limit, more while none does, then between; never fewer than the size asks for."""
    floor = LEAST_BITS if goal.aim is None else scale.bits(goal.aim)
    low, high = _sides(runs, goal, scale)
    if high is not None and (goal.target_ratio is not None and goal.reaches(high)):
        return None
    if high is None:
        bits = max(scale.bits(run.file_bytes) for run in runs)
        found = bits * _factor(goal, runs[-1], _SHORTEST, _LONGEST)
        return None if bits >= MOST_BITS else min(found, MOST_BITS)
    bits = scale.bits(high.file_bytes)
    if low is None:
        return max(bits * _factor(goal, high, 1 / _LONGEST, 1 / _SHORTEST), floor) if bits > floor else None
    below = scale.bits(low.file_bytes)
    return None if bits < below * _SHORTEST else max(math.sqrt(bits * below), floor)


def crossing(runs: Sequence[RunRow], goal: Goal, scale: Scale) -> float:
    """The bits at which what is lost meets the limit, between the runs on both sides of it; beside them where one is missing.

    Short training loses more than long training does: this is where the long one may begin, and has room.
    """
    low, high = _sides(runs, goal, scale)
    if high is None:
        return min(max(scale.bits(run.file_bytes) for run in runs) * _LONGEST, MOST_BITS)
    bits = scale.bits(high.file_bytes)
    if low is None or goal.max_drop is None:
        return bits
    lost, kept = goal.drop(low), max(goal.drop(high), 0.0)
    share = (goal.max_drop - kept) / (lost - kept) if math.isfinite(lost) else 0.0
    return float(bits * (scale.bits(low.file_bytes) / bits) ** share)


def _sides(runs: Sequence[RunRow], goal: Goal, scale: Scale) -> tuple[RunRow | None, RunRow | None]:
    """The largest file that lost too much among those smaller than the smallest that did not, and that one."""
    high = min((run for run in runs if goal.keeps(run)), key=lambda run: run.file_bytes, default=None)
    lost = [run for run in runs if not goal.keeps(run) and (high is None or run.file_bytes < high.file_bytes)]
    return max(lost, key=lambda run: run.file_bytes, default=None), high


def _factor(goal: Goal, run: RunRow, least: float, most: float) -> float:
    """By how much to change the bits for a run to lose just what it may."""
    allowed, lost = goal.max_drop or 0.0, goal.drop(run)
    if lost <= 0 or allowed <= 0 or math.isinf(lost):
        return least if lost <= 0 else most
    return min(max(math.sqrt(lost / allowed), least), most)  # what is lost grows with the square of the bits saved
