"""A student's file may end in any way; each is told as what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepcompress.errors import ParameterError
from deepcompress.exercises.catalogue import EXERCISES, check_name, load
from deepcompress.exercises.runner import Checked, check_file
from tests.exercises.answering import SOLUTIONS, differences

HEAD = "import numpy as np\ndef threshold(weights, q):\n"
RIGHT = "    return np.quantile(abs(weights), q)\n"


@pytest.fixture
def check(tmp_path: Path):
    """Check a file with this text as an answer to `percentile`."""

    def run(text: str | bytes, *, seconds: float = 5.0) -> Checked:
        path = tmp_path / "größe.py"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return check_file("percentile", str(path), seconds=seconds)

    return run


@pytest.mark.parametrize("name", EXERCISES)
def test_solutions_pass(name: str) -> None:
    checked = check_file(name, str(SOLUTIONS / f"{name.replace('-', '_')}.py"), seconds=30)
    assert [(o.name, o.expected, o.got, o.error) for o in checked.outcomes if o.status != "passed"] == []
    assert checked.ok


@pytest.mark.parametrize("name", EXERCISES)
def test_starters_have_every_function_and_are_not_written(name: str) -> None:
    functions: dict[str, Any] = {}
    exec(load(name).STARTER, functions)
    for case in load(name).cases():
        with pytest.raises(NotImplementedError):
            functions[case.function](*case.arguments.values())


def test_a_starter_is_told_to_be_unwritten(check) -> None:
    outcomes = check(load("percentile").STARTER).outcomes
    told = {(outcome.status, outcome.error, outcome.text) for outcome in outcomes}
    assert told == {("error", "NotImplementedError: not written yet", "raise NotImplementedError")}


@pytest.mark.parametrize("name", EXERCISES)
def test_cases_are_enough_have_names_and_are_always_the_same(name: str) -> None:
    cases, again = load(name).cases(), load(name).cases()
    assert len({case.name for case in cases}) == len(cases) >= 6
    assert [repr(case.arguments) for case in cases] == [repr(case.arguments) for case in again]
    assert load(name).__doc__


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("answer", ["'?'", "object()", "[None]", "{1}", "np.nan", "([], [], [])", "-1", "np.zeros((2, 2))"])
def test_no_answer_makes_a_check_fail(name: str, answer: str) -> None:
    functions = {case.function for case in load(name).cases()}
    source = "import numpy as np\n" + "\n".join(f"def {function}(*given): return {answer}" for function in functions)
    assert differences(name, source)


def test_an_exception_is_told_with_the_students_own_line(check) -> None:
    checked = check(HEAD + "    if q == 1:\n        return np.quantile(abs(weights), 2)\n" + RIGHT)
    (wrong,) = (outcome for outcome in checked.outcomes if outcome.status != "passed")
    assert (wrong.name, wrong.status, wrong.line) == ("q = 1", "error", 4)
    assert wrong.text == "return np.quantile(abs(weights), 2)"
    assert wrong.error.startswith("ValueError: ")
    assert wrong.call.startswith("threshold(weights=array(")


@pytest.mark.parametrize(
    "loop",
    [
        "while True: pass",
        "while True:\n            try: pass\n            except BaseException: pass",
        "9 ** 9 ** 9 ** 9",
        "import time; time.sleep(1000)",
        "while True: print('x' * 10_000)",
    ],
)
def test_an_endless_loop_is_told_with_its_line_and_the_other_cases_run(check, loop: str) -> None:
    checked = check(HEAD + f"    if q == 1:\n        {loop}\n" + RIGHT, seconds=0.5)
    (wrong,) = (outcome for outcome in checked.outcomes if outcome.status != "passed")
    assert (wrong.name, wrong.status, wrong.error) == ("q = 1", "endless", "no end within 0.5 s: an endless loop?")
    assert wrong.line in (4, 5, 6)
    assert wrong.text


def test_after_three_endless_cases_the_rest_is_not_run(check) -> None:
    checked = check(HEAD + "    while True: pass\n", seconds=0.2)
    statuses = [outcome.status for outcome in checked.outcomes]
    assert statuses == ["endless"] * 3 + ["not run"] * (len(statuses) - 3)
    assert (checked.passed, checked.ok) == (0, False)


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("import sys; sys.exit('enough')", "error", "SystemExit: enough"),
        ("import os; os._exit(0)", "died", "the process ended with exit status 0"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "died", "the process ended by signal SIGSEGV"),
        ("return threshold(weights, q)", "error", "RecursionError: maximum recursion depth exceeded"),
        ("return [0] * 10 ** 12", "error", "MemoryError: more than 2 GiB were asked for"),
        ("return input()", "error", "EOFError: "),
        ("raise KeyError('a\\nb')", "error", r"KeyError: 'a\nb'"),
    ],
)
def test_every_other_end_has_its_words(check, code: str, status: str, error: str) -> None:
    outcome = check(HEAD + f"    if q == 1:\n        {code}\n" + RIGHT).outcomes[7]
    assert (outcome.name, outcome.status) == ("q = 1", status)
    assert outcome.error.startswith(error)


def test_what_the_code_prints_and_warns_is_kept_apart_and_short(check) -> None:
    code = "    import sys, os\n    print('here', len(weights))\n    print('there', file=sys.stderr)\n    os.write(1, b'{}')\n"
    code += "    if q == 1: print('x' * 10 ** 6)\n"
    outcomes = check(HEAD + code + RIGHT).outcomes
    assert {outcome.status for outcome in outcomes} == {"passed"}
    assert outcomes[0].printed == "here 4\nthere\n"
    assert len(outcomes[7].printed) == 1000


def test_the_file_may_import_what_lies_beside_it_and_is_not_confused_by_names(check, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("SHARE = 1\n")
    (tmp_path / "heapq.py").write_text("raise RuntimeError('shadowed')\n")
    assert check("import helper\n" + HEAD + "    q = q * helper.SHARE\n" + RIGHT).ok
    assert sorted(path.name for path in tmp_path.iterdir()) == ["größe.py", "heapq.py", "helper.py"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def threshold(:\n", "größe.py, line 1: SyntaxError: invalid syntax"),
        ("x = 1\n  y = 2\n", "größe.py, line 2: IndentationError: unexpected indent"),
        ("import numpy as np\n\nx = np.nothing\n", "größe.py, line 3: AttributeError: module 'numpy' has no attribute 'nothing'"),
        ("import not_there\n", "größe.py, line 1: ModuleNotFoundError: No module named 'not_there'"),
        ("exit()\n", "größe.py, line 1: SystemExit: None"),
        ("def thresh(weights, q): ...\n", "größe.py has no function 'threshold'"),
        ("threshold = 3\n", "größe.py has no function 'threshold'"),
        (b"\xff\xfe", "größe.py, line 1: SyntaxError: (unicode error) 'utf-8' codec can't decode byte 0xff"),
        ("x = 0\nwhile True: x += 1\n", "cannot be imported: no end within 1 s: an endless loop? line 2: while True: x += 1"),
        ("import os; os._exit(3)\n", "cannot be imported: the process ended with exit status 3"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(check, text: str | bytes, message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        check(text, seconds=1)
    assert message in str(caught.value)


def test_files_and_names_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"cannot read .*none\.py: No such file or directory"):
        check_file("percentile", str(tmp_path / "none.py"))
    with pytest.raises(ParameterError, match=r"cannot read .*: Is a directory"):
        check_file("percentile", str(tmp_path))
    with pytest.raises(ParameterError, match="there is no exercise 'magic'; there are percentile"):
        check_name("magic")
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ParameterError, match="The 'seconds' parameter of exercise must be a number above 0"):
            check_file("percentile", "any.py", seconds=seconds)


def test_cases_that_cannot_be_made_are_a_bug_and_not_the_students(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXERCISES, "runner", "a module that is no exercise")
    with pytest.raises(RuntimeError, match="the cases of 'runner' could not be run"):
        check_file("runner", "any.py")
