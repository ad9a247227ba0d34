"""The package's one pool of threads: chunks and tensors are shared out on it, and the kernels that run there hold no GIL.

It is not numba's parallel layer, which aborts when two Python threads enter it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from deepcompress.coding.denormals import denormals_kept
from deepcompress.errors import ParameterError

T = TypeVar("T")
THREADS_VARIABLE = "DEEPCOMPRESS_THREADS"
MAX_THREADS = 1024


class _Pool:
    """Threads that are started when they are first needed. A forked child has none of its parent's and starts its own."""

    def __init__(self) -> None:
        self.limit: int | None = None  # set by `limited`
        self.busy = threading.local()
        self.forget()

    def forget(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._size = 0

    def executor(self, size: int) -> ThreadPoolExecutor:
        """An executor of `size` threads or more."""
        with self._lock:
            if self._executor is None or self._size < size:
                self._executor = ThreadPoolExecutor(size, "deepcompress")  # an outgrown one ends with its last task
                self._size = size
            return self._executor


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)


def thread_count() -> int:
    """Threads that work is shared out to: DEEPCOMPRESS_THREADS, or as many as there are cores for this process.

    Raises:
        ParameterError: the variable is no integer from 1 to 1024.
    """
    if _pool.limit is not None:
        return _pool.limit
    given = os.environ.get(THREADS_VARIABLE, "")
    if not given:
        return _cores()
    if not (given.isascii() and given.isdigit() and 1 <= int(given) <= MAX_THREADS):
        raise ParameterError.of(THREADS_VARIABLE, "the environment", f"an integer from 1 to {MAX_THREADS}", given)
    return int(given)


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Share work out to so many threads, whatever the environment says; for benchmarks and tests.

    Raises:
        ParameterError: `threads` is outside 1 to 1024.
    """
    if not 1 <= threads <= MAX_THREADS:
        raise ParameterError.of("threads", "limited", f"an integer from 1 to {MAX_THREADS}", threads)
    before, _pool.limit = _pool.limit, threads
    try:
        yield
    finally:
        _pool.limit = before


def run(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """What each of `tasks` returns, in their order; they run side by side, each thread taking the next one.

    The caller works too. A task that comes here itself runs its own tasks one after another, so that no thread waits for
    another. The error of the first task that raised is raised, once none is running any more; later tasks may not have run.
    All of them calculate with denormal numbers, whichever thread they get.
    """
    threads = min(thread_count(), len(tasks))
    if threads <= 1 or getattr(_pool.busy, "now", False):
        with denormals_kept():
            return [task() for task in tasks]
    results: list[Any] = [None] * len(tasks)
    errors: dict[int, BaseException] = {}
    places = iter(range(len(tasks)))  # next() on it is one step under the GIL
    turn = threading.Lock()

    def work() -> None:
        _pool.busy.now = True
        try:
            with denormals_kept():
                take_turns()
        finally:
            _pool.busy.now = False

    def take_turns() -> None:
        while not errors:
            with turn:
                place = next(places, None)
            if place is None:
                return
            try:
                results[place] = tasks[place]()
            except BaseException as error:  # handed to the caller below
                errors[place] = error

    helpers = [_pool.executor(threads - 1).submit(work) for _ in range(threads - 1)]
    work()
    for helper in helpers:
        helper.result()
    if errors:
        raise errors[min(errors)]
    return results


def share(count: int, work: Callable[[int, int], T], least: int = 1) -> list[T]:
    """Cut range(count) into runs, about two per thread and each of `least` or more; work(start, stop) on each, in order."""
    parts = max(min(2 * thread_count(), count // max(least, 1)), 1) if thread_count() > 1 else 1
    stops = [count * (part + 1) // parts for part in range(parts)]

    def task(start: int, stop: int) -> Callable[[], T]:
        return lambda: work(start, stop)

    return run([task(start, stop) for start, stop in zip([0, *stops], stops, strict=False)])


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
