"""A folder in which a run keeps what its stages have come to, so that it goes on there when it is started again.

    lock                                       held by the run that works here
    0-input-5d41402abc4b-4f3a91c27b06.dcz      the model as it was given, and the random generators
    1-prune-9be04d17aa31-77b1c0de9042.dcz      after the stage "prune"
    2-retrain-03cc5e8a1f6d.part.dcz            within the stage "retrain", replaced every few epochs

The first digest is of a stage and of all before it: a stage that is changed, and those after it, run again. The second is of the
weights: a model is known again, whether it comes as it was given or, `inplace`, as a stage left it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, BinaryIO

from deepcompress.errors import FormatError, ParameterError, StorageError
from deepcompress.pipeline.points import fingerprint
from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.way import Way
from deepcompress.tensors.bundle import read_bundle, write_bundle
from deepcompress.training.checkpoint import Checkpoint, Generators, LoaderState, Part, described
from deepcompress.training.group import Group
from deepcompress.training.settings import TrainSettings
from deepcompress.version import __version__

__all__ = ["Workdir", "opened_workdir"]

_LOGGER = logging.getLogger(__name__)
_DIGITS = 12
_FILE = re.compile(rf"(\d+)-.*-([0-9a-f]{{{_DIGITS}}})(-([0-9a-f]{{{_DIGITS}}})|\.part)\.dcz")


class Workdir:
    """The checkpoints of one run.

    Args:
        folder: where they lie; None keeps nothing.
        stages: (name, stage), in the order in which they run.
        train: the batches; how far their generators are is kept, too.
        every: epochs between two checkpoints within a stage.
    """

    def __init__(
        self, folder: Path | None, stages: Sequence[tuple[str, Stage]], train: object, group: Group, every: int
    ) -> None:  # fmt: skip
        self._folder, self._stages, self._group, self._every = folder, stages, group, every
        self._own: dict[str, Part] = {"generators": Generators(), "loader": LoaderState(train)}  # of each rank for itself
        self._names: list[str] = []  # of the checkpoints of the input and of each stage, without their endings

    def resume(self, way: Way) -> int:
        """Bring the way to where an earlier run came; the number of stages that are done.

        Raises:
            ParameterError: the folder is of a run with other weights.
            StorageError: a checkpoint cannot be read or written.
        """
        if self._folder is None:
            return 0
        folder, weights = self._folder, fingerprint(way.state.model)[:_DIGITS]
        self._names = self._chain(self._group.once(lambda: _begun_with(folder, weights)))
        done, tree = self._group.once(lambda: self._last(folder))
        if tree is None:
            self.keep(0, way)
            return 0
        way.take(tree["way"])
        for name, part in self._own.items():
            part.load_state_dict(tree["own"][self._group.rank][name])
        if done:
            _LOGGER.info("goes on after stage %r, from %s", self._stages[done - 1][0], self._folder)
        return int(done)

    def keep(self, done: int, way: Way) -> None:
        """Write what so many stages have come to, in place of what stood there. Raises StorageError."""
        if self._folder is None:
            return
        path = self._folder / f"{self._names[done]}-{fingerprint(way.state.model)[:_DIGITS]}.dcz"
        own = self._group.together(lambda: {name: part.state_dict() for name, part in self._own.items()})
        tree = {"way": way.as_tree(), "own": own}
        self._group.once(lambda: _replace(path, done, tree))

    @contextmanager
    def stage(self, place: int) -> Iterator[Checkpoint | None]:
        """What the stage at `place` may write to while it trains; an error on the way says what to do."""
        name, stage = self._stages[place]
        checkpoint = self._checkpoint(place) if isinstance(stage, TrainSettings) else None
        try:
            yield checkpoint
        except BaseException as error:
            if self._folder is not None or isinstance(stage, TrainSettings):  # of others, no work is lost
                error.add_note(f"Stage {name!r} has stopped; {self._advice(checkpoint)}")
            raise

    @contextmanager
    def measuring(self, done: int) -> Iterator[None]:
        """Where `evaluate` is asked; an error of it says what became of the stages."""
        try:
            yield
        except BaseException as error:
            after = f"after stage {self._stages[done - 1][0]!r}" if done else "of the model as it was given"
            kept = f"; all stages until then are kept in {self._folder}: the same call goes on there" if self._folder else ""
            error.add_note(f"This was the evaluation {after}{kept}.")
            raise

    def _advice(self, checkpoint: Checkpoint | None) -> str:
        was = "the model is as it was before that stage."
        if self._folder is None:
            return f"{was} With run(..., workdir=FOLDER) the same call would go on from the last epoch."
        epochs = f" and {checkpoint.epochs} of its epochs" if checkpoint is not None and checkpoint.epochs else ""
        return f"{was} The stages before it{epochs} are kept in {self._folder}: the same call goes on there."

    def _checkpoint(self, place: int) -> Checkpoint | None:
        if self._folder is None:
            return None
        path = self._folder / f"{self._names[place + 1]}.part.dcz"
        self._group.once(lambda: _drop_if_damaged(path))
        return Checkpoint(path, self._every)

    def _chain(self, weights: str) -> list[str]:
        """The names of all checkpoints of this run, each with a digest of all that led to it."""
        digest = weights
        names = [f"0-input-{_digest(digest)}"]
        for place, (name, stage) in enumerate(self._stages, 1):
            said = described(stage if is_dataclass(stage) else [type(stage), vars(stage)])
            digest = _digest(digest, __version__, str(self._group.size), name, said)
            names.append(f"{place}-{re.sub(r'[^A-Za-z0-9_]+', '_', name)[:40]}-{digest}")
        return names

    def _last(self, folder: Path) -> tuple[int, Any]:
        """How many stages are done, and what they came to; None where not even the input is there."""
        for done in reversed(range(len(self._names))):
            for path in _files(folder):
                if path.name.startswith(f"{self._names[done]}-"):
                    try:
                        return done, read_bundle(path)
                    except FormatError as error:
                        _LOGGER.warning("a checkpoint is damaged, and what it held is done again: %s", error)
        return 0, None


def _begun_with(folder: Path, weights: str) -> str:
    """The weights with which the run in the folder began: these, or what they were before some of its stages."""
    found = [match for path in _files(folder) if (match := _FILE.fullmatch(path.name)) and match[4]]
    begun = [match[4] for match in found if match[1] == "0"]
    if not begun:
        return weights
    if weights not in [match[4] for match in found]:
        expected = "a new folder, or that of an earlier run with the same model"
        raise ParameterError.of("workdir", "Pipeline.run", expected, f"{folder}, of a model with other weights")
    return begun[0]


def _replace(path: Path, place: int, tree: Any) -> None:
    """Write a checkpoint, and remove what stood in its place."""
    write_bundle(path, tree)
    for other in _files(path.parent):
        match = _FILE.fullmatch(other.name)
        if match and match[1] == str(place) and other.name != path.name:
            other.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _FILE.fullmatch(path.name))


@contextmanager
def opened_workdir(
    folder: str | Path | None, stages: Sequence[tuple[str, Stage]], train: object, group: Group, every: int
) -> Iterator[Workdir]:
    """The folder, made where it is missing, and locked: by rank 0 where several processes train.

    Raises:
        StorageError: another run works in it, or it cannot be made or written.
    """
    path = None if folder is None else Path(folder)
    if path is None or not group.is_first:
        group.agreed(lambda: None)
        yield Workdir(path, stages, train, group, every)
        return
    lock = group.agreed(lambda: _locked(path))
    try:
        yield Workdir(path, stages, train, group, every)
    finally:
        _unlock(lock)


# The lock: the system lets it go when the process ends, in whatever way. Its locks are against other processes only, and
# closing a file drops all that the process has on it: so those of this process are known by their folders.


_here: set[str] = set()
_guard = threading.Lock()


def _locked(folder: Path) -> tuple[str, BinaryIO]:
    """The folder, made where it is missing, and its lock file."""
    with _guard:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            place = os.path.realpath(folder)
            if place in _here:
                raise _in_use(folder, "this process")
            file = (folder / "lock").open("a+b")
            if not _lock(file):
                raise _in_use(folder, _owner(file))
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            file.flush()
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(f"cannot write to workdir {folder}: {error.strerror or error}") from error
        _here.add(place)
        return place, file


def _in_use(folder: Path, owner: str) -> StorageError:
    return StorageError(f"workdir {folder} is in use by {owner}: wait for its end, or name another folder")


def _owner(file: BinaryIO) -> str:
    with file:
        file.seek(0)
        return file.read(200).decode(errors="replace").strip() or "another run"


def _unlock(lock: tuple[str, BinaryIO]) -> None:
    with _guard:
        lock[1].close()
        _here.discard(lock[0])


def _lock(file: BinaryIO) -> bool:
    """Whether no other process has it. Not inherited by children: a loader's workers may outlive a killed run for a while."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 30)  # a byte that nobody reads
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _drop_if_damaged(path: Path) -> None:
    try:
        if path.exists():
            read_bundle(path)
    except FormatError as error:
        _LOGGER.warning("a checkpoint is damaged, and the stage begins anew: %s", error)
        path.unlink()


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:_DIGITS]
