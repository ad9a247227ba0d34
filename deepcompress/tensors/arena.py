"""One piece of memory for many arrays that live and die together."""

from __future__ import annotations

import mmap
import threading
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNED = 64  # bytes, at a multiple of which each array begins
_PRIVATE: dict[str, int] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}


class Arena:
    """`size` bytes of zeros, handed out front to back. They go back to the system when the last array is gone.

    The system is asked for large pages: it hands out 102 MB in 51 steps then, instead of 25,000, in which threads would wait
    for each other.

    Raises:
        MemoryError: the system has not so much.
    """

    def __init__(self, size: int) -> None:
        try:
            memory = mmap.mmap(-1, max(size, 1), **_PRIVATE)
        except (OSError, OverflowError) as error:
            raise MemoryError(f"Unable to allocate {size:,} bytes") from error
        with suppress(AttributeError, OSError):  # not on every system
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = np.frombuffer(memory, np.uint8)
        self._used = 0
        self._lock = threading.Lock()

    def take(self, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """(count,) zeros; memory of their own where the arena has not enough left."""
        size = count * dtype.itemsize
        with self._lock:
            start = self._used
            if start + size > len(self._bytes):
                return np.zeros(count, dtype)
            self._used += -(-size // ALIGNED) * ALIGNED
        return self._bytes[start : start + size].view(dtype)
