"""Schedules rise from initial to final, meet both exactly, and go through JSON."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcompress.errors import ParameterError
from deepcompress.prune.schedule import Schedule


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    kind = draw(st.sampled_from(["linear", "cubic", "step"]))
    low, *levels = sorted(draw(st.lists(st.floats(0, 1), min_size=2, max_size=5)))
    epochs = sorted(draw(st.lists(st.floats(0, 100), min_size=len(levels) + 1, max_size=len(levels) + 1, unique=True)))
    if kind == "step":
        return Schedule("step", initial=low, milestones=tuple(zip(epochs, levels, strict=False)))
    return Schedule(kind, initial=low, final=max(levels[-1], 1e-9), begin=epochs[0], end=epochs[-1])


@given(schedules(), st.floats(-1, 110), st.floats(-1, 110))
def test_rises_between_its_ends(schedule: Schedule, one: float, other: float) -> None:
    early, late = schedule.at(min(one, other)), schedule.at(max(one, other))
    assert schedule.initial <= early <= late + 1e-12
    assert late <= schedule.final + 1e-12
    assert schedule.at(schedule.end) == schedule.at(schedule.end + 1) == schedule.final
    assert schedule.at(-1) == schedule.initial


@given(schedules())
def test_goes_through_json(schedule: Schedule) -> None:
    assert Schedule.from_config(json.loads(json.dumps(schedule.config()))) == schedule


def test_values() -> None:
    linear = Schedule("linear", initial=0.2, final=0.8, begin=1, end=5)
    assert [linear.at(epoch) for epoch in (0, 1, 3, 5, 9)] == pytest.approx([0.2, 0.2, 0.5, 0.8, 0.8])
    cubic = Schedule("cubic", final=0.8, end=4)
    assert [cubic.at(epoch) for epoch in (0, 1, 2, 4)] == pytest.approx([0, 0.8 * (1 - 27 / 64), 0.7, 0.8])
    step = Schedule("step", milestones=((1, 0.5), (2.5, 0.9)))
    assert [step.at(epoch) for epoch in (0.9, 1, 2.4, 2.5, 7)] == [0.0, 0.5, 0.5, 0.9, 0.9]


def test_milestones_say_the_rest() -> None:
    step = Schedule("step", milestones=[[1, 0.5], [3, 0.9]])  # type: ignore[arg-type]
    assert (step.begin, step.end, step.final) == (1, 3, 0.9)
    assert step.milestones == ((1, 0.5), (3, 0.9))
    assert Schedule("step", final=0.9, begin=1, end=3, milestones=step.milestones) == step
    assert hash(step) == hash(Schedule.from_config(step.config()))


PAIRS = "must be pairs (epoch >= 0, sparsity in [0, 1]), epochs and sparsities ascending, at least one."


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"kind": "sine"}, "'kind' parameter of Schedule must be 'linear', 'cubic' or 'step'. Got 'sine' instead."),
        ({"kind": "linear", "final": 0.5}, "'end' parameter of Schedule must be a finite number of epochs > begin (0.0)"),
        ({"kind": "linear", "end": 3}, "'final' parameter of Schedule must be a number above 0 in [initial, 1]"),
        ({"kind": "cubic", "final": 1.5, "end": 3}, "Got 1.5 instead."),
        ({"kind": "cubic", "initial": 0.6, "final": 0.5, "end": 3}, "in [initial, 1] = [0.6, 1]. Got 0.5 instead."),
        ({"kind": "cubic", "initial": -0.1, "final": 0.5, "end": 3}, "'initial' parameter of Schedule must be a number in"),
        ({"kind": "cubic", "final": 0.5, "begin": -1, "end": 3}, "'begin' parameter of Schedule must be a finite number"),
        ({"kind": "cubic", "final": 0.5, "end": float("inf")}, "Got inf instead."),
        ({"kind": "linear", "final": 0.5, "end": 3, "milestones": [(1, 0.5)]}, "left out for kind='linear'"),
        ({"kind": "step"}, PAIRS),
        ({"kind": "step", "milestones": 3}, PAIRS),
        ({"kind": "step", "milestones": [(1, 0.5, 2)]}, PAIRS),
        ({"kind": "step", "milestones": [(1, "x")]}, PAIRS),
        ({"kind": "step", "milestones": [(2, 0.5), (1, 0.6)]}, PAIRS),
        ({"kind": "step", "milestones": [(1, 0.5), (2, 0.4)]}, PAIRS),
        ({"kind": "step", "initial": 0.7, "milestones": [(1, 0.5)]}, "be <= the first milestone's 0.5. Got 0.7 instead."),
        ({"kind": "step", "final": 0.7, "milestones": [(1, 0.5)]}, "what the milestones say: (0.5, 1, 1). Got (0.7, 0.0, 0.0)"),
        ({"final": 0.5}, "Schedule needs its field 'kind'"),
        (
            {"kind": "linear", "stop": 3},
            "Schedule has no field 'stop'; it has 'kind', 'initial', 'final', 'begin', 'end', 'milestones'",
        ),
    ],
)
def test_bad_fields(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(text)):
        Schedule.from_config(fields)


def test_turns_are_milestones_or_the_end() -> None:
    step = Schedule("step", milestones=((2, 0.1), (4, 0.5)))
    assert [step.next_turn(at) for at in (0, 1.9, 2, 3.7, 4, 9)] == [2, 2, 4, 4, math.inf, math.inf]
    linear = Schedule("linear", final=0.5, begin=1, end=3)
    assert [linear.next_turn(at) for at in (0, 2.9, 3)] == [3, 3, math.inf]
