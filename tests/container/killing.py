"""A process that forks others, which save a file, and are killed: run by `test_atomic_kill.py`, which reads what it prints.

    python killing.py {instructions|moments} FOLDER OLD NEW KILLS

OLD and NEW are the files whose content is saved in FOLDER, one over the other.

Forking is quick where nothing but this is imported, and safe where there is one thread.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from deepcompress.container import source

PIECE = 1 << 18
LEFTOVER = re.compile(r"\.model\.dcz\.[0-9]+-[0-9a-f]{16}\.tmp")


def save(content: bytes, path: Path) -> None:
    """As `CompressedModel.save` does it."""
    with source.atomic_file(path) as file:
        for start in range(0, len(content), PIECE):
            file.write(content[start : start + PIECE])


def before_instruction(number: int, act: Callable[[], None]) -> Callable[..., Any]:
    """A trace function that calls `act` before the `number`-th bytecode instruction of a save."""
    left = number

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal left
        if frame.f_code.co_filename not in (source.__file__, __file__):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            left -= 1
            if not left:
                act()
        return trace

    return trace


def forked(work: Callable[[], None]) -> int:
    """The id of a process that does `work`, and only that; it has begun."""
    begun, begins = os.pipe()
    if (child := os.fork()) > 0:
        os.close(begins)
        os.read(begun, 1)
        os.close(begun)
        return child
    status = 4
    try:
        os.write(begins, b"!")
        work()
        status = 0
    except KeyboardInterrupt:
        status = 3
    finally:
        os._exit(status)


def leftovers(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.name != "model.dcz"]


def check(folder: Path, whole: dict[bytes, str]) -> str:
    """Which of the whole files is there. The leftovers of kills, if any, are of the documented form."""
    found = (folder / "model.dcz").read_bytes()
    assert found in whole, f"{len(found)} bytes that are no whole file"
    left = leftovers(folder)
    assert all(LEFTOVER.fullmatch(entry.name) for entry in left), left
    return whole[found]


def killed_at_instructions(folder: Path, old: bytes, new: bytes) -> dict[str, Any]:
    """Kill a save before its first instruction, its second, and so on, until one gets to its end."""
    path = folder / "model.dcz"
    whole = {old: "old", new: "new"}
    outcomes: list[str] = []
    with_leftovers = 0
    while True:
        save(old, path)  # this one removes what the one before left
        assert leftovers(folder) == []

        def work() -> None:
            sys.settrace(before_instruction(len(outcomes) + 1, lambda: os.kill(os.getpid(), signal.SIGKILL)))
            save(new, path)

        _, status = os.waitpid(forked(work), 0)
        outcome = check(folder, whole)
        if not os.WIFSIGNALED(status):
            assert (os.WEXITSTATUS(status), outcome, leftovers(folder)) == (0, "new", [])
            return {"kills": len(outcomes), "outcomes": Counter(outcomes), "with_leftovers": with_leftovers,
                    "ordered": outcomes == sorted(outcomes, reverse=True)}  # fmt: skip
        outcomes.append(outcome)
        with_leftovers += bool(leftovers(folder))


def stopped_by(child: int, number: int) -> int:
    """Send the signal, and again after a second: Python drops a KeyboardInterrupt that meets it in a destructor."""
    while True:
        os.kill(child, number)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
            time.sleep(0.0005)


def killed_at_moments(folder: Path, old: bytes, new: bytes, kills: int) -> dict[str, Any]:
    """Kill, at any moment, a process that saves two models in turns over one file."""
    path, choose = folder / "model.dcz", random.Random(0)
    whole = {old: "old", new: "new"}
    save(old, path)
    outcomes: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    with_leftovers = 0

    def work() -> NoReturn:
        while True:
            save(new, path)
            save(old, path)

    for _ in range(kills):
        child = forked(work)
        number = choose.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
        time.sleep(choose.uniform(0.0005, 0.01))
        status = stopped_by(child, number)
        outcomes[check(folder, whole)] += 1
        if number == signal.SIGINT:
            assert os.WEXITSTATUS(status) == 3
            assert not [entry for entry in leftovers(folder) if f".{child}-" in entry.name]
        else:
            assert os.WTERMSIG(status) == number
            with_leftovers += bool(leftovers(folder))
        ends[number.name] += 1
    time.sleep(0.1)
    save(new, path)
    assert leftovers(folder) == []
    return {"kills": kills, "outcomes": outcomes, "signals": ends, "with_leftovers": with_leftovers}


if __name__ == "__main__":
    signal.alarm(100)  # whatever hangs
    for ignored in (signal.SIGHUP, signal.SIGTERM):  # as nohup and others leave them
        signal.signal(ignored, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    source._NEWBORN_SECONDS = 0.0  # nobody else saves here
    kind, folder, *contents, kills = sys.argv[1:]
    where, (old, new) = Path(folder), (Path(content).read_bytes() for content in contents)
    found = killed_at_instructions(where, old, new) if kind == "instructions" else killed_at_moments(where, old, new, int(kills))
    print(json.dumps(found))
