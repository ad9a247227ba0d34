"""The process in which a student's file runs: `python -m deepcompress.exercises.child NAME FILE FIRST SECONDS`.

It writes lines of JSON to its standard output: the cases' names, then, from case FIRST on, a line before each case and one
after it, with what the student's code printed. A case that takes longer than SECONDS ends the whole process, and standard error
says where the code stood: neither C code nor `except:` can hold that up.
"""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import importlib.machinery
import importlib.util
import io
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from deepcompress.exercises.catalogue import load
from deepcompress.exercises.exercise import Case, WrongAnswerError
from deepcompress.exercises.show import call_text

MEMORY = 2 << 30  # bytes that the student's code may take beyond what is loaded
_MODULE = "exercise_file"
_PRINTED = 1000  # characters kept
_GRACE = 0.2  # seconds that Python code has to stop by itself

Say = Callable[[Mapping[str, Any]], None]


def main(name: str, path: str, first: int, seconds: float) -> None:
    """Import the file and run the cases, telling of each."""
    say = _messages()
    cases = list(load(name).cases())
    say({"cases": [case.name for case in cases]})
    printed = _Printed()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        with _watched(seconds):
            module = _import(path, say)
        functions = _functions(module, [case.function for case in cases], path, say)
        _limit_memory()
        for place, case in enumerate(cases[first:], first):
            say({"begins": place, "call": call_text(case.function, case.arguments)})
            outcome = _outcome(case, functions[case.function], path, seconds)
            say({"ends": place, "outcome": {**outcome, "printed": printed.taken()}})


def _messages() -> Say:
    """Messages go to the standard output, and nothing else does from now on."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def say(message: Mapping[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    return say


class _Printed(io.TextIOBase):
    """The first characters of what was printed; the rest is dropped, as an endless loop may print without end."""

    def __init__(self) -> None:
        self._text = ""

    def write(self, text: str) -> int:
        self._text += text[: _PRINTED - len(self._text)]
        return len(text)

    def taken(self) -> str:
        text, self._text = self._text, ""
        return text


@contextlib.contextmanager
def _watched(seconds: float) -> Iterator[None]:
    """After so long, write where the code stands to standard error and end the process.

    An alarm does so between two steps of Python code, where the stack is whole. What lets no alarm through, a long operation in C
    or a system without alarms, is ended a little later from a second thread, which may find the stack in between.
    """
    alarms = hasattr(signal, "setitimer")
    faulthandler.dump_traceback_later(seconds + _GRACE * alarms, exit=True, file=2)
    if alarms:
        signal.signal(signal.SIGALRM, _stop)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        if alarms:
            signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


def _stop(number: int, frame: object) -> None:
    os.write(2, b"Timeout (by alarm)\n")  # begins as the second thread's words do
    faulthandler.dump_traceback(file=2, all_threads=False)
    os._exit(1)


def _import(path: str, say: Say) -> ModuleType:
    """The student's file as a module; its folder is searched first by its own imports."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader(_MODULE, path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(_MODULE, loader))  # type: ignore[arg-type]
    sys.modules[_MODULE] = module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        say({"unusable": _unusable(error, path)})
        sys.exit()
    return module


def _unusable(error: BaseException, path: str) -> str:
    if isinstance(error, OSError) and error.filename == path:
        return f"cannot read {path}: {error.strerror}"
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"{path}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    line, _ = _student_line(error, path)
    return f"{path}{f', line {line}' if line else ''}: {_words(error)}"


def _functions(module: ModuleType, names: list[str], path: str, say: Say) -> dict[str, Callable[..., Any]]:
    found = {name: getattr(module, name, None) for name in names}
    if missing := [name for name, function in found.items() if not callable(function)]:
        say({"unusable": f"{path} has no function {' and no function '.join(map(repr, missing))}"})
        sys.exit()
    return {name: function for name, function in found.items() if function is not None}


def _limit_memory() -> None:
    """Let endless growth end in a MemoryError, where the system can."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm") as pages:
            taken = int(pages.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _outcome(case: Case, function: Callable[..., Any], path: str, seconds: float) -> dict[str, Any]:
    """The case's outcome as JSON."""
    given = copy.deepcopy(dict(case.arguments))
    try:
        with _watched(seconds), warnings.catch_warnings(), np.errstate():
            answer = function(*given.values())
    except (Exception, SystemExit) as error:
        line, text = _student_line(error, path)
        return {"status": "error", "error": _words(error), "line": line, "text": text}
    try:
        check_answer(case, answer, given)
    except WrongAnswerError as difference:
        return {"status": "differs", "expected": difference.expected, "got": difference.got, "hint": difference.hint}
    return {"status": "passed"}


def check_answer(case: Case, answer: Any, given: Mapping[str, Any]) -> None:
    """Raise WrongAnswerError where the answer breaks the case's law, or the call changed its arguments, which were `given`."""
    if answer is None:
        raise WrongAnswerError("an answer", "None", "the function returns nothing: is a return missing?")
    case.check(answer)
    for name, value in case.arguments.items():
        if not np.array_equal(value, given[name], equal_nan=np.asarray(value).dtype.kind == "f"):
            hint = "it was changed in place; whoever calls the function still needs it"
            raise WrongAnswerError(f"{name} as it was before the call", "another one", hint)


def _student_line(error: BaseException, path: str) -> tuple[int, str]:
    """The last line of the student's own file that an error came through; 0 where there is none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return (frames[-1].lineno or 0, frames[-1].line or "") if frames else (0, "")


def _words(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"MemoryError: more than {MEMORY >> 30} GiB were asked for"
    said = "not written yet" if isinstance(error, NotImplementedError) and not error.args else str(error)
    return " ".join(f"{type(error).__name__}: {said}".split())[:_PRINTED]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
