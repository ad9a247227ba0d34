"""What commands say and how they end: results to standard output, an error as one line to standard error, a status."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from deepcompress.errors import DeepCompressError, ParameterError, PipelineError

DONE, BAD_FILE, BAD_USAGE, INTERRUPTED, READER_GONE = 0, 1, 2, 130, 141  # the last two are 128 + the signal's number


class UsageError(Exception):
    """The command line itself cannot be meant."""


@dataclass(frozen=True)
class Outcome:
    """A command's result: `data` for programs, `text` for people, and the exit status where the result decides it."""

    data: Mapping[str, Any]
    text: str
    status: int = DONE


def add_max_bytes(parser: argparse.ArgumentParser) -> None:
    """The option of commands that decode: a few bytes may stand for a large tensor of equal values."""
    parser.add_argument("--max-bytes", type=_at_least_0, metavar="N", help="refuse a file that says it decodes to more bytes")


def _at_least_0(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a number of bytes, not {text!r}")
    return int(text)


def tell(outcome: Outcome, options: argparse.Namespace) -> None:
    """Print an outcome in the form that the options ask for."""
    if options.json:
        sys.stdout.write(json.dumps(outcome.data, indent=2) + "\n")
    elif not options.quiet:
        sys.stdout.write(outcome.text.rstrip("\n") + "\n")


def say(line: str, options: argparse.Namespace) -> None:
    """Print a line while the work goes on, where people read along."""
    if not (options.json or options.quiet):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def guarded(action: Callable[[], None]) -> int:
    """Run `action` and return the exit status; no traceback for anything that the user can put right."""
    _print_any_text()
    try:
        try:
            action()
        except SystemExit as end:  # argparse, after --help and --version; an outcome's status
            sys.stdout.flush()
            return int(end.code or DONE)
        sys.stdout.flush()
    except BrokenPipeError:
        return _let_go_of_output(READER_GONE)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except (UsageError, ParameterError, PipelineError) as error:
        return _complain(f"error: {error}", BAD_USAGE)
    except (DeepCompressError, ImportError, MemoryError) as error:
        return _complain(f"error: {str(error) or 'out of memory'}", BAD_FILE)
    except OSError as error:
        _let_go_of_output(BAD_FILE)
        return _complain(f"error: {error}", BAD_FILE)
    return DONE


def _print_any_text() -> None:
    """Names of layers may hold what the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _complain(message: str, status: int) -> int:
    with suppress(OSError):
        sys.stderr.write(f"deepcompress: {' '.join(message.split())}\n")
        sys.stderr.flush()
    return status


def _let_go_of_output(status: int) -> int:
    """Keep the interpreter, at its end, from failing once more on the text that nobody takes."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    return status
