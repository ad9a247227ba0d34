"""Where the bytes of a file come from (a path, bytes, a file object), and where they go (a new file that appears when whole)."""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from deepcompress.errors import ParameterError, StorageError

if sys.platform != "win32":
    import fcntl

FileSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO


class Source:
    """Random access to the bytes of a file; safe to read from several threads.

    A file opened by its path may be read by forked processes too. `close` waits for nobody: who is reading reads to the end.
    """

    def __init__(self, source: FileSource) -> None:
        self._file: _Readable | None = None  # None once closed, or where the bytes are in memory
        self._data: bytes | memoryview | None = None
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
            self._file = _Descriptor(path) if hasattr(os, "preadv") else _FileObject(path.open("rb"), owned=True)
            self.size = self._file.size
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise StorageError(f"cannot read {self.name}: {getattr(error, 'strerror', None) or error}") from error

    def _adopt(self, file: BinaryIO) -> None:
        """A file object is read from where it stands; one that cannot seek is read whole."""
        self.name = str(getattr(file, "name", "<file object>"))
        try:
            if file.seekable():
                self._file = _FileObject(file, owned=False)
                self.size = self._file.size
            else:
                self._data = file.read()
                self.size = len(self._data)
        except (OSError, ValueError) as error:  # ValueError: it is closed
            raise StorageError(f"cannot read {self.name}: {error}") from error

    @property
    def in_memory(self) -> bool:
        """Whether nobody else can change the bytes any more."""
        return self._data is not None

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """`length` bytes from `offset`; fewer only where they would go past `size`. Of a file in memory they are no copy.

        Raises:
            StorageError: the file cannot be read, was closed, or has become shorter since it was opened.
        """
        length = max(min(length, self.size - offset), 0)
        file = self._file  # held here, so that a `close` on another thread leaves it open until this read is done
        if self._data is not None:
            return memoryview(self._data)[offset : offset + length]
        if file is None:
            raise StorageError(f"cannot read {self.name}: it was closed")
        try:
            data = file.read(offset, length)
        except (OSError, ValueError) as error:
            raise StorageError(f"cannot read {self.name}: {error}") from error
        if len(data) < length:
            raise StorageError(f"cannot read {self.name}: it ended at byte {offset + len(data)}, it had {self.size} bytes before")
        return data

    def load(self) -> None:
        """Take the whole file into memory; the file itself is needed no more."""
        if self._data is None:
            self._data = self.read(0, self.size)
            self.close()

    def close(self) -> None:
        """Close the file, where it was opened here; a file object stays its owner's."""
        self._file = None


class _Readable(Protocol):
    """A file of `size` bytes that is closed, if it is ours, when nobody refers to it any more."""

    size: int

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """`length` bytes, or as many as there are."""


class _Descriptor:
    """A file by its number. It is read without a position, which threads and forked processes would share."""

    def __init__(self, path: Path) -> None:
        self._close, self._number = os.close, -1  # `os` may be gone where the interpreter ends
        self._number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self._number)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        self.size = status.st_size

    def read(self, offset: int, length: int) -> memoryview:
        buffer = np.empty(length, np.uint8).data
        done = 0
        while done < length and (count := os.preadv(self._number, [buffer[done:]], offset + done)):  # at most 2 GiB at once
            done += count
        return buffer[:done]

    def __del__(self) -> None:
        if self._number >= 0:
            self._close(self._number)


class _FileObject:
    """A file that has a position: one thread at a time."""

    def __init__(self, file: BinaryIO, *, owned: bool) -> None:
        self._file, self._owned, self._lock = file, owned, threading.Lock()
        self._base = 0 if owned else file.tell()
        self.size = file.seek(0, os.SEEK_END) - self._base

    def read(self, offset: int, length: int) -> bytes:
        with self._lock:
            self._file.seek(self._base + offset)
            return _read_all(self._file, length)

    def __del__(self) -> None:
        if self._owned:
            self._file.close()


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
    earlier file of that name stays as it is, and after an error nothing is left behind. Of a process that was killed
    `.NAME.PID-RANDOM.tmp` is left; the next writer of that name removes it. The new file has the earlier one's permissions,
    and its owner where the system allows that; a file without the right to write to it is not replaced. A link keeps pointing
    to the file, other hard links to the earlier file keep that. A pipe or a device is not replaced but written to.

    Raises:
        StorageError: the folder is not there or not writable, or the disk is full.
    """
    try:
        target = Path(os.path.realpath(path))
        temporary = target.with_name(f".{target.name[:40]}.{os.getpid()}-{secrets.token_hex(8)}.tmp")
    except ValueError as error:  # a NUL in the path, or the root folder
        raise StorageError(f"cannot write {path}: {error}") from error
    if _is_pipe_or_device(target):
        with _writing(path), _closing(target.open("wb")) as file:
            yield file
        return
    with _writing(path):
        earlier = _earlier(target)
        _remove_leftovers(target)
        try:
            with _closing(_create(temporary, earlier)) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                _keep_owner_and_mode(temporary, earlier)
                if sys.platform == "win32":
                    file.close()  # Windows renames no open file; elsewhere it stays locked until it has its name
                os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(target.parent)


def _earlier(target: Path) -> os.stat_result | None:
    """The file that is there, if any. Raises OSError where it may not be written to."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return status


def _create(temporary: Path, earlier: os.stat_result | None) -> BinaryIO:
    """A new file, locked as long as it is open, which nobody may read who may not read the earlier one."""
    mode = 0o666 if earlier is None else earlier.st_mode & 0o777 | stat.S_IWUSR
    file = open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115
    if sys.platform != "win32":
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def _keep_owner_and_mode(temporary: Path, earlier: os.stat_result | None) -> None:
    if earlier is None:
        return
    created = temporary.stat()
    if hasattr(os, "chown") and (created.st_uid, created.st_gid) != (earlier.st_uid, earlier.st_gid):
        with suppress(OSError):  # only the system's administrator gives files away
            os.chown(temporary, earlier.st_uid, earlier.st_gid)
    os.chmod(temporary, earlier.st_mode & 0o777)


def _remove_leftovers(target: Path) -> None:
    """Remove what killed writers of `target` left: temporary files on which nobody holds the writer's lock.

    The lock is the system's and ends with the process, so that a process id in use again, or one of another container or
    machine, misleads nobody. Where files cannot be locked (on Windows, and a few network file systems), leftovers stay.
    """
    form = re.compile(rf"\.{re.escape(target.name[:40])}\.[0-9]+-[0-9a-f]{{16}}\.tmp")
    with suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            if form.fullmatch(entry.name):
                with suppress(OSError):
                    _remove_unlocked(entry)


def _remove_unlocked(entry: os.DirEntry[str]) -> None:
    status = entry.stat(follow_symlinks=False)
    if sys.platform == "win32" or not stat.S_ISREG(status.st_mode) or time.time() - status.st_mtime < _NEWBORN_SECONDS:
        return
    handle = os.open(entry.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(entry.path)
    finally:
        os.close(handle)


_NEWBORN_SECONDS = 2.0  # the time that a writer gets from creating its file to locking it


@contextmanager
def _closing(file: BinaryIO) -> Iterator[BinaryIO]:
    """Close the file; after an error the file's own, from flushing what nobody wants any more, is not heard."""
    try:
        yield file
    except BaseException:
        with suppress(OSError):
            file.close()
        raise
    file.close()


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
        if error.errno is None:  # not the system's: raised by a signal handler, or by who writes
            raise
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; not every system lets a folder be opened."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
