"""Why a file is as it is, in every form of a report."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from rich.cells import cell_len

from deepcompress.errors import ParameterError
from deepcompress.report.choice import Choice, RunRow
from deepcompress.report.report import Report
from deepcompress.report.tables import choice_table

from .samples import lenet


def run(name: str, asked: float | None, file_bytes: int, score: float | None, epochs: int | None = 8) -> RunRow:
    return RunRow(name=name, asked=asked, epochs=epochs, file_bytes=file_bytes, score=score)


CHOICE = Choice(
    goal="Asked for: a score of at most 0.01 less than the dense model's.", unit="Bits per weight", dense_score=0.992,
    runs=(
        run("trial 1", 1.0, 40_000, 0.9873), run("trial <2>", None, 20_000, None, None), run("long run 1", 0.5, 21_000, 0.9901),
    ),
    chosen="long run 1", reasons=("The long run began where trials met the limit.", "It was chosen."),
)  # fmt: skip


def test_lines() -> None:
    table = choice_table(replace(lenet(), choice=CHOICE))
    assert table is not None
    assert [line.cells for line in table.lines] == [
        ("as it came", "", "", "1,724,320", "1.00x", "99.20%", "+0.00"),
        ("trial 1", "1", "8", "40,000", "43.1x", "98.73%", "-0.47"),
        ("trial <2>", "", "", "20,000", "86.2x", "", ""),
        ("long run 1, chosen", "0.5", "8", "21,000", "82.1x", "99.01%", "-0.19"),
    ]
    assert table.notes == (CHOICE.goal, *CHOICE.reasons)
    assert choice_table(lenet()) is None


def test_scores_that_are_no_shares() -> None:
    table = choice_table(replace(lenet(), choice=replace(CHOICE, dense_score=-3.25)))
    assert table is not None
    assert [column.title for column in table.columns][-2:] == ["Score", "Change"]
    assert table.lines[1].cells[-2:] == ("0.9873", "+4.24")


def test_every_form_has_it() -> None:
    report = replace(lenet(), choice=CHOICE)
    for width in (40, 60, 100):
        shown = report.to_text(width)
        assert max(map(cell_len, shown.splitlines())) <= width
        assert "Choice" in shown.splitlines()
    assert "## Choice" in report.to_markdown()
    assert "trial &lt;2&gt;" in report.to_markdown()
    page = report.to_html()
    assert "<h2>Choice</h2>" in page
    assert "trial &lt;2&gt;" in page
    assert "<h2>Choice</h2>" not in lenet().to_html()


def test_round_trip() -> None:
    lost = replace(CHOICE, dense_score=math.inf, runs=(*CHOICE.runs, run("long run 2", 0.4, 9, None)))
    for choice in (CHOICE, lost):
        report = replace(lenet(), choice=choice)
        assert Report.from_json(report.to_json()) == report
    older = lenet().to_dict()
    del older["choice"]
    assert Report.from_dict(older) == lenet()
    with pytest.raises(ParameterError, match="must be a dict as to_dict makes them"):
        Report.from_dict({**lenet().to_dict(), "choice": {"goal": 3}})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"chosen": "trial 9"}, "'chosen' parameter of Choice must be one of trial 1, trial <2>, long run 1. Got 'trial 9'"),
        ({"runs": (CHOICE.runs[0],) * 2, "chosen": "trial 1"}, "'runs' parameter of Choice must be of different names"),
    ],
)
def test_choices_that_contradict_themselves(change: dict[str, object], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        replace(CHOICE, **change)  # type: ignore[arg-type]
