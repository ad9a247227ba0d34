"""The search in numbers: a response is made up, and the search has to find its way."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.auto.goal import Goal
from deepcompress.auto.search import LEAST_BITS, MOST_BITS, Scale, crossing, next_for_drop, next_for_size, search
from deepcompress.errors import ParameterError
from deepcompress.report.choice import RunRow

SCALE = Scale(fixed=1_000, weights=80_000)  # a bit per weight is 10,000 bytes
DENSE = 320_000


def row(file_bytes: int, score: float | None = None, *, name: str = "a", asked: float | None = 1.0) -> RunRow:
    return RunRow(name=name, asked=asked, epochs=3, file_bytes=file_bytes, score=score)


def tried(got: Callable[[float], float], score: Callable[[float], float]) -> Callable[[float, int], RunRow]:
    """What runs come to: bits got for bits asked, and a score for bits got."""

    def run(asked: float, number: int) -> RunRow:
        bits = got(asked)
        return row(round(1_000 + 10_000 * bits), score(bits), name=str(number), asked=asked)

    return run


@settings(deadline=None)
@given(st.floats(8, 200), st.floats(0.75, 1.3), st.floats(0.8, 1.2))
def test_a_size_is_met_within_three_runs(ratio: float, factor: float, power: float) -> None:
    goal = Goal(DENSE, None, ratio)
    runs = search(
        SCALE.bits(goal.aim or 0), partial(next_for_size, goal=goal, scale=SCALE),
        tried(lambda bits: factor * bits**power, lambda bits: 0.9), SCALE, 3,
    )  # fmt: skip
    best = goal.best(runs)
    assert best is not None
    assert ratio <= DENSE / best.file_bytes < 1.06 * ratio
    assert goal.is_met(runs[-1]) or len(runs) == 3


@settings(deadline=None)
@given(st.floats(0.05, 5), st.floats(1, 4))
def test_a_limit_is_approached_from_within(edge: float, power: float) -> None:
    """The score falls below its limit at `edge` bits."""
    goal = Goal(DENSE, 0.01, None, 0.95)
    response = tried(lambda bits: bits, lambda bits: 0.95 - 0.01 * (edge / bits) ** power)
    runs = search(1.0, partial(next_for_drop, goal=goal, scale=SCALE), response, SCALE, 6)
    best = goal.best(runs)
    assert best is not None
    assert goal.keeps(best)
    assert edge * 0.99 <= SCALE.bits(best.file_bytes) <= 1.5 * edge
    assert crossing(runs, goal, SCALE) == pytest.approx(edge, rel=0.3)


def test_a_limit_never_goes_below_the_size_that_is_asked_for() -> None:
    goal = Goal(DENSE, 0.01, 20.0, 0.95)
    floor = SCALE.bits(goal.aim or 0)
    always = search(floor, partial(next_for_drop, goal=goal, scale=SCALE), tried(float, lambda bits: 0.95), SCALE, 4)
    assert len(always) == 1
    assert always[0].file_bytes <= 16_000
    above = search(4.0, partial(next_for_drop, goal=goal, scale=SCALE), tried(float, lambda bits: 0.95), SCALE, 4)
    assert [round(SCALE.bits(run.file_bytes), 2) for run in above] == [4.0, 2.0, round(floor, 2)]


def test_where_nothing_is_within_the_limit_bits_grow_to_the_most() -> None:
    goal = Goal(DENSE, 0.01, None, 0.95)
    runs = search(1.0, partial(next_for_drop, goal=goal, scale=SCALE), tried(float, lambda bits: 0.5), SCALE, 9)
    assert [run.asked for run in runs] == [1.0, 2.0, 4.0, 8.0]
    assert goal.best(runs) is None
    assert crossing(runs, goal, SCALE) == MOST_BITS


def test_scores_that_are_no_numbers_are_lost() -> None:
    goal = Goal(DENSE, 0.01, None, 0.95)
    assert not goal.keeps(row(5, math.nan))
    runs = search(1.0, partial(next_for_drop, goal=goal, scale=SCALE), tried(float, lambda bits: math.nan), SCALE, 3)
    assert [run.asked for run in runs] == [1.0, 2.0, 4.0]
    mixed = search(
        1.0, partial(next_for_drop, goal=goal, scale=SCALE),
        tried(float, lambda bits: 0.95 if bits > 0.7 else math.nan), SCALE, 4,
    )  # fmt: skip
    assert crossing(mixed, goal, SCALE) >= 0.7


def test_what_was_asked_once_is_not_asked_again() -> None:
    goal = Goal(DENSE, None, 20.0)
    runs = search(1.0, partial(next_for_size, goal=goal, scale=SCALE), tried(lambda bits: 3.0, lambda bits: 0.9), SCALE, 9)
    assert len({run.asked for run in runs}) == len(runs)


def test_bits_and_bytes() -> None:
    assert SCALE.bits(11_000) == 1.0
    assert SCALE.bits(10) == LEAST_BITS
    assert SCALE.asked(0.7, []) == 0.7
    assert SCALE.asked(0.5, [row(11_000, asked=0.8)]) == 0.4
    pair = [row(11_000, asked=0.8), row(41_000, asked=3.2)]
    assert SCALE.asked(2.0, pair) == pytest.approx(1.6)
    assert SCALE.asked(8.0, pair) == pytest.approx(6.4)


def test_the_best() -> None:
    small, good, large = row(5_000, 0.90), row(10_000, 0.949), row(20_000, 0.95)
    runs = [large, small, good]
    assert Goal(DENSE, 0.01, None, 0.95).best(runs) is good
    assert Goal(DENSE, None, 20.0, 0.95).best(runs) is good
    assert Goal(DENSE, None, 60.0, 0.95).best(runs) is small
    assert Goal(DENSE, None, 100.0, 0.95).best(runs) is small
    assert Goal(DENSE, 0.01, 60.0, 0.95).best(runs) is good
    assert Goal(DENSE, 0.0, None, 0.96).best(runs) is None
    assert Goal(DENSE, None, 20.0).best([row(9_000), row(10_000)]) == row(10_000)


def test_the_verdict() -> None:
    goal = Goal(DENSE, 0.01, 40.0, 0.95)
    text = "Long run 1 was chosen: 10,000 bytes, 32.00 times smaller, its score 0.01 less."
    missed = " The ratio of 40 was not reached within the limit on what may be lost."
    assert goal.verdict(row(10_000, 0.94, name="long run 1")) == text + missed
    assert Goal(DENSE, None, 30.0).verdict(row(10_000, name="x")) == "X was chosen: 10,000 bytes, 32.00 times smaller."
    assert Goal(DENSE, None, 33.0).verdict(row(10_000, name="x")).endswith(" The ratio of 33 was not reached.")
    assert "its score 0.01 more." in Goal(DENSE, 0.1, None, 0.9).verdict(row(1, 0.91))
    assert "its score the same." in Goal(DENSE, 0.1, None, 0.9).verdict(row(1, 0.9))
    assert str(goal) == "Asked for: a score of at most 0.01 less and a file at least 40 times smaller than the dense model's."


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"max_drop": -0.1}, "'max_drop' parameter of compress must be None or a number of at least 0. Got -0.1"),
        ({"max_drop": math.nan}, "'max_drop' parameter of compress must be None or a number of at least 0"),
        ({"max_drop": True}, "'max_drop' parameter of compress must be None or a number of at least 0"),
        ({"target_ratio": 0.5}, "'target_ratio' parameter of compress must be None or a number of at least 1. Got 0.5"),
        ({"target_ratio": "40x"}, "'target_ratio' parameter of compress must be None or a number of at least 1"),
        ({"target_ratio": math.inf}, "'target_ratio' parameter of compress must be None or a number of at least 1"),
    ],
)
def test_limits_out_of_range(limits: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        Goal(DENSE, **{"max_drop": None, "target_ratio": None, **limits})
