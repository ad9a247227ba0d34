"""Work in a fresh Python process, and what it takes there: seconds of the whole process, resident memory.

Memory is what Linux says of the process (/proc/self/status): VmRSS, its resident bytes, and VmHWM, the highest VmRSS since the
process began or since it wrote 5 to /proc/self/clear_refs. Memory above a level is VmHWM after some work less VmRSS before it:
all that the work touched, what it handed back since and what C libraries took included.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

_STATUS = Path("/proc/self/status")


class Finished(NamedTuple):
    """A process that has ended well: its last line of output, where that is JSON; its seconds; what it said on stderr."""

    found: Any
    seconds: float
    errors: str


def can_measure_memory() -> bool:
    """Whether this system tells a process its peak, and lets it start anew."""
    return _STATUS.exists() and Path("/proc/self/clear_refs").exists()


def peak_above_level(work: Callable[[], Any]) -> tuple[Any, int]:
    """What `work` returns, and the bytes of memory at its peak above those just before it."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps freed memory resident: work that reuses it would look small
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):  # without the right to, the peak since the process began counts: never less
        Path("/proc/self/clear_refs").write_text("5")
    level = _resident("VmRSS")
    result = work()
    return result, max(_resident("VmHWM") - level, 0)


def run_python(arguments: list[str], environment: Mapping[str, str] | None = None) -> Finished:
    """Run this Python with `arguments` and wait for it.

    Raises:
        SystemExit: it failed; with what it said.
    """
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, **(environment or {})}, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"python {' '.join(arguments)[:200]} ended with {done.returncode}:\n{done.stderr}")
    lines = done.stdout.strip().splitlines()
    try:
        found = json.loads(lines[-1]) if lines else None
    except ValueError:
        found = None
    return Finished(found, seconds, done.stderr)


def _resident(kind: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return 1024 * int(line.split()[1])
    raise SystemExit(f"{_STATUS} says nothing of {kind}")
