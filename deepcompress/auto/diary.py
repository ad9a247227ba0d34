"""What a search has measured, kept in a folder so that it goes on there."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepcompress.container.source import atomic_file
from deepcompress.errors import ParameterError, StorageError
from deepcompress.pipeline.points import fingerprint
from deepcompress.pipeline.state import Model
from deepcompress.report.serial import plain, to_json
from deepcompress.tensors.bundle import read_bundle, write_bundle
from deepcompress.training.checkpoint import Generators, LoaderState, Part
from deepcompress.training.group import current_group
from deepcompress.version import __version__

__all__ = ["Diary"]

_DIGITS = 12
Entry = dict[str, Any]


class Diary:
    """Measurements by what was measured, in words; each is written down as soon as it is known.

        search.json                    what was measured
        begin-1.dcz                    the random generators, of each process and its loader, as the search began
        5d41402abc4b/                  the folder of a pipeline

    Args:
        folder: made where it is missing; None keeps everything in memory.
        model: whose search it is.
        train: the loader; each run begins with its generators as they were.

    Raises:
        ParameterError: the folder is of another model, or `search.json` is none.
        StorageError: it cannot be read or written.
    """

    def __init__(self, folder: str | Path | None, model: Model, train: object) -> None:
        self._folder, self._group = None if folder is None else Path(folder), current_group()
        self._parts: dict[str, Part] = {"generators": Generators(), "loader": LoaderState(train)}
        self._weights = "" if folder is None else fingerprint(model)
        self._found: dict[str, Entry] = {}
        self._group.once(self._open)
        self._found = self._group.once(lambda: self._found)
        self._begin = self._begun()

    def measured(self, words: str, measure: Callable[[], Entry]) -> Entry:
        """What was measured, now or in an earlier call: plain data, in which what is not finite is a string."""
        key = f"{words}, deepcompress {__version__}, {self._group.size} processes"
        if key not in self._found:
            self._found[key] = plain(measure())
            self._group.once(self._write)
        return self._found[key]

    def folder_of(self, words: str) -> Path | None:
        """Where a pipeline may keep itself."""
        return None if self._folder is None else self._folder / hashlib.sha256(words.encode()).hexdigest()[:_DIGITS]

    def drop_folder(self, words: str) -> None:
        """What was kept there is of no use any more."""
        if (folder := self.folder_of(words)) is not None:
            self._group.once(lambda: shutil.rmtree(folder, ignore_errors=True))

    def rewind(self) -> None:
        """All generators to where they were when the search began: no run depends on those before it."""
        own = self._begin[self._group.rank]
        for name, part in self._parts.items():
            part.load_state_dict(own[name])

    def _begun(self) -> list[dict[str, Any]]:
        own = self._group.together(lambda: {name: part.state_dict() for name, part in self._parts.items()})
        if self._folder is None:
            return own
        path = self._folder / f"begin-{self._group.size}.dcz"
        return self._group.once(lambda: _kept(path, own))

    def _open(self) -> None:
        """Make the folder, or take what an earlier search wrote there."""
        if self._folder is None:
            return
        path = self._folder / "search.json"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._found = self._read(path)
            else:
                self._write()
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(f"cannot use workdir {self._folder}: {error.strerror or error}") from error

    def _read(self, path: Path) -> dict[str, Entry]:
        try:
            data = json.loads(path.read_bytes())
            weights, found = data["weights"], dict(data["found"])
        except (ValueError, TypeError, LookupError) as error:
            raise _wrong_folder(f"{path}, which is no record of a search") from error
        if weights != self._weights:
            raise _wrong_folder(f"{path.parent}, of a model with other weights")
        return found

    def _write(self) -> None:
        if self._folder is not None:
            with atomic_file(self._folder / "search.json") as file:
                file.write(to_json({"weights": self._weights, "found": self._found}, indent=1).encode())


def _kept(path: Path, own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the file has; where there is none, it is written."""
    if path.exists():
        return list(read_bundle(path))
    write_bundle(path, own)
    return own


def _wrong_folder(got: str) -> ParameterError:
    return ParameterError.of("workdir", "compress", "a new folder, or that of an earlier search with the same model", got)
