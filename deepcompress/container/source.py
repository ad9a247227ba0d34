"""Where the bytes of a file come from (a path, bytes, a file object), and where they go (a new file that appears when whole)."""

from __future__ import annotations

import io
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from deepcompress.errors import ParameterError, StorageError

FileSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO


class Source:
    """Random access to the bytes of a file; safe to read from several threads."""

    def __init__(self, source: FileSource) -> None:
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._owned = False
        self._data: bytes | memoryview = b""
        self._base = 0
        if isinstance(source, (bytes, bytearray, memoryview)):
            self.name, self._data = "<bytes>", bytes(source)
            self.size = len(self._data)
        elif isinstance(source, (str, os.PathLike)):
            self._open(Path(source))
        elif _is_binary(source):
            self._adopt(source)
        else:
            raise ParameterError.of("source", "open", "a path, bytes or a binary file object", source)

    def _open(self, path: Path) -> None:
        self.name = str(path)
        try:
            self._file, self._owned = path.open("rb"), True
            self.size = os.fstat(self._file.fileno()).st_size
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise StorageError(f"cannot read {self.name}: {getattr(error, 'strerror', None) or error}") from error

    def _adopt(self, file: BinaryIO) -> None:
        """A file object is read from where it stands; one that cannot seek is read whole."""
        self.name = str(getattr(file, "name", "<file object>"))
        try:
            if file.seekable():
                self._file, self._base = file, file.tell()
                self.size = file.seek(0, os.SEEK_END) - self._base
            else:
                self._data = file.read()
                self.size = len(self._data)
        except (OSError, ValueError) as error:  # ValueError: it is closed
            raise StorageError(f"cannot read {self.name}: {error}") from error

    @property
    def in_memory(self) -> bool:
        """Whether nobody else can change the bytes any more."""
        return self._file is None

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """`length` bytes from `offset`; fewer only where they would go past `size`. Of a file in memory they are no copy.

        Raises:
            StorageError: the file cannot be read, was closed, or has become shorter since it was opened.
        """
        length = max(min(length, self.size - offset), 0)
        if self._file is None:
            return memoryview(self._data)[offset : offset + length]
        try:
            with self._lock:
                self._file.seek(self._base + offset)
                data = _read_all(self._file, length)
        except (OSError, ValueError) as error:
            raise StorageError(f"cannot read {self.name}: {error}") from error
        if len(data) < length:
            raise StorageError(f"cannot read {self.name}: it ended at byte {offset + len(data)}, it had {self.size} bytes before")
        return data

    def load(self) -> None:
        """Take the whole file into memory; the file itself is needed no more."""
        if self._file is not None:
            data = self.read(0, self.size)
            self.close()
            self._data, self._file = data, None

    def close(self) -> None:
        """Close the file, where it was opened here; a file object stays its owner's."""
        if self._file is not None and self._owned:
            self._file.close()

    def __del__(self) -> None:
        """`open(path)[name]` leaves nobody to close the file."""
        self.close()


def _is_binary(source: object) -> bool:
    return hasattr(source, "read") and not isinstance(source, io.TextIOBase)


def _read_all(file: BinaryIO, length: int) -> bytes:
    """`length` bytes, or what there is; an unbuffered file may hand them out in pieces."""
    data = file.read(length)
    if len(data) == length or not data:
        return data
    pieces, left = [data], length - len(data)
    while left and (piece := file.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write to, which takes the name `path` only when the block ends without an error.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and the file is renamed; until then an
    earlier file of that name stays as it is, and after an error nothing is left behind. A pipe or a device is not replaced but
    written to.

    Raises:
        StorageError: the folder is not there or not writable, or the disk is full.
    """
    try:
        target = Path(os.path.realpath(path))
        temporary = target.with_name(f".{target.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    except ValueError as error:  # a NUL in the path, or the root folder
        raise StorageError(f"cannot write {path}: {error}") from error
    if _is_pipe_or_device(target):
        with _writing(path), target.open("wb") as file:
            yield file
        return
    with _writing(path):
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                os.chmod(temporary, target.stat().st_mode & 0o777)
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(target.parent)


def _is_pipe_or_device(target: Path) -> bool:
    with suppress(OSError):
        mode = target.stat().st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


@contextmanager
def _writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say once, of any error of the system, which path could not be written."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; not every system lets a folder be opened."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
