"""What each operation took in a few steps of training, as a file that trace viewers open."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerAction, profile, record_function, supported_activities

from deepcompress.container.source import atomic_file
from deepcompress.errors import ParameterError, StorageError, TrainingError


class Trace:
    """Steps of a loop that may be traced; this one is not.

    Attributes:
        step: to be called at the end of each step.
        mark: name -> context, whose time the viewer shows under that name.
    """

    def step(self) -> None:
        return None

    def mark(self, name: str) -> AbstractContextManager[Any]:
        return nullcontext()


class _Traced(Trace):
    def __init__(self, profiler: profile) -> None:
        self._profiler = profiler
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        self._profiler.step()

    def mark(self, name: str) -> AbstractContextManager[Any]:
        return record_function(name)


@contextmanager
def profile_trace(path: str | Path, *, wait: int = 1, warmup: int = 1, active: int = 3) -> Iterator[Trace]:
    """Trace a few steps of any loop, and write a Chrome trace: JSON that chrome://tracing and ui.perfetto.dev open.

        with dc.profile_trace("trace.json") as trace:
            for batch in loader:
                with trace.mark("my part"):
                    ...
                trace.step()

    Args:
        path: of the file; one whose name ends with .gz is compressed, and viewers open it all the same.
        wait: steps to let pass first.
        warmup: steps in which the profiler runs and what it finds is thrown away.
        active: steps that are kept. Those afterwards cost nothing.

    Raises:
        ParameterError: numbers of steps below 0, or no active one.
        StorageError: the path cannot be written.
        TrainingError: the loop ended before the first active step.
    """
    target = Path(path)
    _check(target, wait, warmup, active)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it speaks on stderr of starting and stopping
    found: list[bytes] = []
    when, keep = _when(wait, warmup, active), _keep_in(found)
    with profile(
        activities=supported_activities(), schedule=when, on_trace_ready=keep, record_shapes=True, acc_events=True
    ) as profiler:
        traced = _Traced(profiler)
        yield traced
    if not found:
        raise TrainingError(f"no trace for {path}: it begins after {wait + warmup} steps, and there were {traced.steps}")
    with atomic_file(target) as file:
        file.write(gzip.compress(found[0]) if target.suffix == ".gz" else found[0])


@contextmanager
def fitted_trace(path: str | Path | None, steps: int) -> Iterator[Trace]:
    """`profile_trace` for a loop of so many steps, however few; no trace where there is no path."""
    if path is None or not steps:
        yield Trace()
        return
    warmup = min(1, steps - 1)
    wait = min(1, steps - 1 - warmup)
    with profile_trace(path, wait=wait, warmup=warmup, active=min(3, steps - wait - warmup)) as trace:
        yield trace


def _check(path: Path, wait: int, warmup: int, active: int) -> None:
    for name, value, least in (("wait", wait, 0), ("warmup", warmup, 0), ("active", active, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ParameterError.of(name, "profile_trace", f"an int of at least {least}", value)
    if not path.parent.is_dir():
        raise StorageError(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise StorageError(f"cannot write {path}: it is a folder")


def _when(wait: int, warmup: int, active: int) -> Callable[[int], ProfilerAction]:
    """Step -> what the profiler does in it. As torch's `schedule`, which warns where there is no warm-up."""
    last = wait + warmup + active - 1

    def action(step: int) -> ProfilerAction:
        if step < wait or step > last:
            return ProfilerAction.NONE
        if step < wait + warmup:
            return ProfilerAction.WARMUP
        return ProfilerAction.RECORD if step < last else ProfilerAction.RECORD_AND_SAVE

    return action


def _keep_in(found: list[bytes]) -> Callable[[profile], None]:
    def keep(profiler: profile) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(file))
            found.append(file.read_bytes())

    return keep
