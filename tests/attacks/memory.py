"""The most memory that a call takes: of Python's and numpy's own, byte by byte; and of the process, page by page.

`tracemalloc` sees every object and every array of numpy's, but not the pages that `deepcompress.tensors.arena` maps, nor what
compiled code allocates by itself. The kernel's high-water mark sees all pages that were touched, but none that were there before.
"""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def allocated(call: Callable[[], object]) -> int:
    """The most bytes of Python objects and numpy arrays that are there at once, beyond those before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def resident(call: Callable[[], object]) -> int:
    """By how many bytes the process grows at the most; 0 where the system does not tell."""
    try:
        _RESET.write_text("5")
        before = _kibibytes("VmHWM")
    except (OSError, TypeError):
        call()
        return 0
    call()
    return 1024 * (_kibibytes("VmHWM") - before)


def _kibibytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise TypeError(f"{_STATUS} has no {field}")
    return int(found[1])
