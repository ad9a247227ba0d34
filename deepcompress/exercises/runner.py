"""Running a student's file against the cases of an exercise, in a process of its own that may end in any way."""

from __future__ import annotations

import json
import linecache
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepcompress.errors import ParameterError
from deepcompress.exercises.catalogue import check_name

__all__ = ["Checked", "Outcome", "check_file"]

_PACKAGE = Path(__file__).parent.parent
_TRACEBACK = "Traceback (most recent call last)"  # of the child's own errors: those of the student's code are caught
_LOST = ("endless", "died")
_LOST_AT_MOST = 3  # cases that end the process, before the rest is not run


@dataclass(frozen=True)
class Outcome:
    """What came of one case.

    Attributes:
        name: the case's.
        status: "passed", "differs", "error" (an exception), "endless", "died" (the process ended) or "not run".
        call: the call, shortened.
        expected, got, hint: of an answer that differs; the hint names the likely mistake, or is empty.
        error: the exception, or how the process ended.
        line, text: where in the student's file that was; 0 and "" where that is not known.
        printed: the first characters of what the student's code printed.
    """

    name: str
    status: str
    call: str = ""
    expected: str = ""
    got: str = ""
    hint: str = ""
    error: str = ""
    line: int = 0
    text: str = ""
    printed: str = ""


@dataclass(frozen=True)
class Checked:
    """All outcomes of a file, in the order of the cases."""

    exercise: str
    file: str
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> int:
        """How many cases passed."""
        return sum(outcome.status == "passed" for outcome in self.outcomes)

    @property
    def ok(self) -> bool:
        """Whether all of them did."""
        return self.passed == len(self.outcomes)

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON data."""
        counts = {"passed": self.passed, "cases": len(self.outcomes), "ok": self.ok}
        return {"exercise": self.exercise, "file": self.file, **counts, "outcomes": list(map(asdict, self.outcomes))}


def check_file(name: str, path: str, *, seconds: float = 5.0) -> Checked:
    """Run the functions of a file against an exercise's cases.

    Args:
        name: of the exercise.
        path: the student's Python file.
        seconds: what one case may take.

    Raises:
        ParameterError: there is no such exercise; the file cannot be read, is no Python, fails while it is imported or lacks a
            function; or `seconds` is no time.
    """
    check_name(name)
    if not 0 < seconds < math.inf:
        raise ParameterError.of("seconds", "exercise", "a number above 0", seconds)
    outcomes: list[Outcome] = []
    names: Sequence[str] = [name]
    while len(outcomes) < len(names) and sum(outcome.status in _LOST for outcome in outcomes) < _LOST_AT_MOST:
        names, found = _run(name, path, len(outcomes), seconds)
        outcomes += found
    outcomes += [Outcome(case, "not run") for case in names[len(outcomes) :]]
    return Checked(name, path, tuple(outcomes))


def _run(name: str, path: str, first: int, seconds: float) -> tuple[Sequence[str], list[Outcome]]:
    """The names of all cases, and the outcomes of those from `first` on, up to one that ended the process."""
    done = _child(name, path, first, seconds)
    if _TRACEBACK in done.stderr:
        raise RuntimeError(f"the cases of {name!r} could not be run:\n{done.stderr}")
    plan, *messages = map(json.loads, done.stdout.splitlines())
    if not messages:
        raise ParameterError(f"{path} cannot be imported: {_sentence(_end(done, path, seconds))}")
    if "unusable" in messages[-1]:
        raise ParameterError(messages[-1]["unusable"])
    calls = {message["begins"]: message["call"] for message in messages if "begins" in message}
    endings = {message["ends"]: message["outcome"] for message in messages if "ends" in message}
    if "begins" in messages[-1]:
        endings[messages[-1]["begins"]] = _end(done, path, seconds)
    return plan["cases"], [Outcome(plan["cases"][place], call=calls[place], **end) for place, end in endings.items()]


def _child(name: str, path: str, first: int, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run the process, without the current folder before Python's own modules: a student's files may have any name."""
    places = os.pathsep.join(filter(None, [str(_PACKAGE.parent), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-P", "-m", "deepcompress.exercises.child", name, path, str(first), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": places}
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=environment)


def _end(done: subprocess.CompletedProcess[str], path: str, seconds: float) -> dict[str, Any]:
    """How a process ended that had more to do: status, error, line and text of an outcome."""
    if "Timeout (" not in done.stderr:
        return {"status": "died", "error": f"the process ended {_reason(done.returncode)}"}
    line = _standing(done.stderr, path)
    text = linecache.getline(path, line).strip() if line else ""
    return {"status": "endless", "error": f"no end within {seconds:g} s: an endless loop?", "line": line, "text": text}


def _reason(status: int) -> str:
    if status >= 0:
        return f"with exit status {status}"
    try:
        return f"by signal {signal.Signals(-status).name}"
    except ValueError:
        return f"by signal {-status}"


def _standing(dump: str, path: str) -> int:
    """The line of the student's file where the code stood, read from what the watchdog wrote."""
    written = re.escape(path.encode("ascii", "backslashreplace").decode())
    found = re.search(rf'File "{written}", line (\d+)', dump)
    return int(found[1]) if found else 0


def _sentence(end: Mapping[str, Any]) -> str:
    """How it ended, in one line."""
    return f"{end['error']} line {end['line']}: {end['text']}" if end.get("line") else str(end["error"])
