"""`deepcompress exercise`: lists, tasks, starters, and what it says of a file."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from deepcompress.cli.main import main
from deepcompress.exercises.catalogue import EXERCISES, load

SOLUTIONS = Path(__file__).parent.parent / "exercises" / "solutions"
SIGNED = "import numpy as np\n\n\ndef threshold(weights, q):\n    print('q is', q)\n    return np.quantile(weights, q)\n"


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """The well-known mistake."""
    path = tmp_path / "mine.py"
    path.write_text(SIGNED)
    return path


def test_alone_it_lists_the_exercises(cli) -> None:
    out = cli("exercise").out
    assert [line.split()[0] for line in out.splitlines()[: len(EXERCISES)]] == list(EXERCISES)
    assert "deepcompress exercise NAME FILE.py" in out
    assert json.loads(cli("exercise", "--json").out) == {"exercises": EXERCISES}
    assert cli("exercise", "--quiet").out == ""


def test_help_names_them_and_the_statuses(cli) -> None:
    out = " ".join(cli("exercise", "--help").out.split())
    assert ", ".join(EXERCISES) in out
    assert "exit status: 0 all cases passed, 1 some failed, 2 bad usage" in out


@pytest.mark.parametrize("name", EXERCISES)
def test_a_name_gives_the_task_and_the_starter(cli, name: str) -> None:
    exercise = load(name)
    out = cli("exercise", name).out
    assert out.startswith(inspect.cleandoc(exercise.__doc__ or "?"))
    assert out.endswith(exercise.STARTER)
    assert json.loads(cli("exercise", name, "--json").out)["starter"] == exercise.STARTER
    assert all(len(line) <= 130 for line in out.splitlines())


def test_a_starter_is_written_and_nothing_written_over(cli, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    out = cli("exercise", "percentile", "--starter", path).out
    assert out == f"wrote {path}; deepcompress exercise percentile {path} checks it\n"
    assert path.read_text() == load("percentile").STARTER
    path.write_text("mine")
    ended = cli("exercise", "percentile", "--starter", path)
    assert (ended.status, path.read_text()) == (2, "mine")
    assert ended.err == f"deepcompress: error: {path} is there already; nothing is written over\n"
    ended = cli("exercise", "percentile", "--starter", tmp_path / "none" / "mine.py")
    assert ended.status == 1
    assert ended.err == f"deepcompress: error: cannot write {tmp_path}/none/mine.py: No such file or directory\n"


def test_a_right_file_passes(cli) -> None:
    path = SOLUTIONS / "percentile.py"
    count = len(load("percentile").cases())
    out = cli("exercise", "percentile", path).out
    assert out.count("passed  ") == count
    assert out.endswith(f"\n\n{count} of {count} cases passed\n")
    data = json.loads(cli("exercise", "percentile", path, "--json").out)
    assert {outcome["status"] for outcome in data.pop("outcomes")} == {"passed"}
    assert data == {"exercise": "percentile", "file": str(path), "passed": count, "cases": count, "ok": True}
    assert cli("exercise", "percentile", path, "--quiet").out == ""


def test_a_wrong_file_fails_and_is_told_why_once(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exercise", "percentile", str(signed)]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    hint = "this is the quantile of w, not of |w|: large negative weights would go first"
    assert out.startswith(
        "passed  four positive weights, half-way\n"
        "FAILED  both signs\n"
        "        threshold(weights=array([[-4, 1], [2, -3]], float64), q=0.5)\n"
        "        expected  2.5\n"
        "        came      -1\n"
        f"        hint      {hint}\n"
        "        printed   q is 0.5\n"
        "FAILED  not in order, between two places (as in: both signs)\n"
    )
    assert out.count(hint) == 1
    assert out.endswith(f"\n\n2 of {len(load('percentile').cases())} cases passed\n")


def test_json_has_every_case(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exercise", "percentile", str(signed), "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert (data["passed"], data["ok"]) == (2, False)
    assert [outcome["name"] for outcome in data["outcomes"]] == [case.name for case in load("percentile").cases()]
    assert data["outcomes"][1] == {
        "name": "both signs",
        "status": "differs",
        "call": "threshold(weights=array([[-4, 1], [2, -3]], float64), q=0.5)",
        "expected": "2.5",
        "got": "-1",
        "hint": "this is the quantile of w, not of |w|: large negative weights would go first",
        "error": "",
        "line": 0,
        "text": "",
        "printed": "q is 0.5\n",
    }


def test_quiet_leaves_the_status_alone(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exercise", "percentile", str(signed), "--quiet"]) == 1
    assert capsys.readouterr() == ("", "")


def test_an_exception_and_an_endless_loop_show_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def threshold(weights, q):\n    if q == 1:\n        while True: pass\n    return 1 / 0\n")
    assert main(["exercise", "percentile", str(path), "--seconds", "0.3"]) == 1
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "no end within 0.3 s: an endless loop?" in lines
    assert lines[lines.index("ZeroDivisionError: division by zero") + 1] == "line 4: return 1 / 0"
    assert "line 3: while True: pass" in lines
    assert lines[-3] == "FAILED  one magnitude, two signs (as in: four positive weights, half-way)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["magic"], "there is no exercise 'magic'; there are percentile"),
        (["magic", "mine.py"], "there is no exercise 'magic'"),
        (["percentile", "none.py"], "cannot read none.py: No such file or directory"),
        (["--starter", "a.py"], "--starter needs the NAME of an exercise"),
        (["percentile", "a.py", "--starter", "b.py"], "--starter writes a file, FILE.py is checked: give one of them"),
        (["percentile", "a.py", "--seconds", "0"], "'seconds' parameter of exercise must be a number above 0. Got 0.0 instead"),
        (["percentile", "a.py", "--seconds", "soon"], "argument --seconds: invalid float value: 'soon'"),
    ],
)
def test_bad_usage_is_one_line(cli, arguments: list[str], message: str) -> None:
    ended = cli("exercise", *arguments)
    assert ended.status == 2
    assert message in ended.err
