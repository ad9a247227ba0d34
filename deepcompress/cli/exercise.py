"""`deepcompress exercise`: a student's own function against hidden cases, and what differs."""

from __future__ import annotations

import argparse
import inspect
import os

from deepcompress.cli.console import BAD_FILE, DONE, Outcome, UsageError
from deepcompress.exercises.catalogue import EXERCISES
from deepcompress.exercises.runner import Checked, check_file
from deepcompress.exercises.runner import Outcome as CaseOutcome

_INDENT = 8 * " "
_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help=f"{', '.join(EXERCISES)}; left out: lists them")
    parser.add_argument("file", metavar="FILE.py", nargs="?", help="your file; left out: says what to write")
    parser.add_argument("--starter", metavar="FILE.py", help="write a file to start from")
    parser.add_argument("--seconds", metavar="S", type=float, default=_SECONDS, help="for each case (default: %(default)g)")
    parser.epilog = "exit status: 0 all cases passed, 1 some failed, 2 bad usage, or a file that cannot be imported"


def run(options: argparse.Namespace) -> Outcome:
    if options.name is None:
        return _list(options)
    if options.starter is not None:
        return _start(options)
    return _task(options.name) if options.file is None else _check(options)


def _list(options: argparse.Namespace) -> Outcome:
    if options.starter is not None:
        raise UsageError("--starter needs the NAME of an exercise")
    width = max(map(len, EXERCISES))
    lines = [f"{name:<{width}}  {title}" for name, title in EXERCISES.items()]
    lines += ["", "deepcompress exercise NAME           says what to write", "deepcompress exercise NAME FILE.py   checks it"]
    return Outcome({"exercises": EXERCISES}, "\n".join(lines))


def _task(name: str) -> Outcome:
    from deepcompress.exercises.catalogue import load

    exercise = load(name)
    task = inspect.cleandoc(exercise.__doc__ or "")
    text = f"{task}\n\nWrite this file (--starter FILE.py writes it for you):\n\n{exercise.STARTER}"
    return Outcome({"exercise": name, "task": task, "starter": exercise.STARTER}, text)


def _start(options: argparse.Namespace) -> Outcome:
    """Write the starter, but over nothing."""
    from deepcompress.container.source import atomic_file
    from deepcompress.exercises.catalogue import load

    if options.file is not None:
        raise UsageError("--starter writes a file, FILE.py is checked: give one of them")
    starter = load(options.name).STARTER
    if os.path.lexists(options.starter):
        raise UsageError(f"{options.starter} is there already; nothing is written over")
    with atomic_file(options.starter) as file:
        file.write(starter.encode())
    text = f"wrote {options.starter}; deepcompress exercise {options.name} {options.starter} checks it"
    return Outcome({"exercise": options.name, "file": options.starter}, text)


def _check(options: argparse.Namespace) -> Outcome:
    checked = check_file(options.name, options.file, seconds=options.seconds)
    return Outcome(checked.as_dict(), _report(checked), DONE if checked.ok else BAD_FILE)


def _report(checked: Checked) -> str:
    """A line per case, and below it what was wrong, but for a mistake that was told before."""
    lines: list[str] = []
    told: dict[tuple[str, ...], str] = {}
    for outcome in checked.outcomes:
        label = {"passed": "passed ", "not run": "not run"}.get(outcome.status, "FAILED ")
        mistake = (outcome.error, outcome.text, outcome.hint)
        known = told.setdefault(mistake, outcome.name) != outcome.name and any(mistake)
        lines.append(f"{label} {outcome.name}{f' (as in: {told[mistake]})' if known else ''}")
        lines += [_INDENT + line for line in ([] if known else _details(outcome))]
    return "\n".join([*lines, "", f"{checked.passed} of {len(checked.outcomes)} cases passed"])


def _details(outcome: CaseOutcome) -> list[str]:
    if outcome.status in ("passed", "not run"):
        return []
    where = f"line {outcome.line}: {outcome.text}" if outcome.line else ""
    named = {"expected": outcome.expected, "came": outcome.got, "hint": outcome.hint, "printed": _printed(outcome)}
    rows = (f"{name:<9} {text}" for name, text in named.items() if text)
    return [outcome.call, *filter(None, (outcome.error, where)), *rows]


def _printed(outcome: CaseOutcome) -> str:
    return f"\n{_INDENT}{10 * ' '}".join(outcome.printed.splitlines())
