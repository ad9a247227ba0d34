"""Where bytes come from, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from deepcompress.container.source import FileSource, Source, atomic_file
from deepcompress.errors import ParameterError, StorageError

DATA = bytes(range(256)) * 4


class Unseekable(io.BytesIO):
    def seekable(self) -> bool:
        return False

    def seek(self, *_: object) -> int:
        raise io.UnsupportedOperation("seek")


class Drops(io.BytesIO):
    """Hands out at most seven bytes at a time, as a pipe might."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(7 if size is None or size < 0 else min(size, 7))


class Broken(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def at(offset: int, file: io.BytesIO) -> BinaryIO:
    io.BytesIO.seek(file, offset)
    return file


def sources(folder: Path) -> list[FileSource]:
    (folder / "data").write_bytes(DATA)
    return [
        str(folder / "data"),
        folder / "data",
        DATA,
        bytearray(DATA),
        memoryview(DATA),
        io.BytesIO(DATA),
        at(3, io.BytesIO(b"???" + DATA)),
        at(5, Drops(b"?????" + DATA)),
        at(2, Unseekable(b"??" + DATA)),
    ]


def test_every_kind_of_source(tmp_path: Path) -> None:
    for kind in sources(tmp_path):
        source = Source(kind)
        assert (source.size, source.read(0, 8), source.read(100, 300)) == (1024, DATA[:8], DATA[100:400])
        assert source.read(1000, 99) == DATA[1000:]
        assert source.read(2000, 9) == b""
        source.load()
        assert source.read(7, 2) == DATA[7:9]
        source.close()


def test_a_callers_file_stays_open() -> None:
    file = io.BytesIO(DATA)
    source = Source(file)
    source.load()
    source.close()
    assert not file.closed


def test_threads(tmp_path: Path) -> None:
    for kind in sources(tmp_path):
        source = Source(kind)
        with ThreadPoolExecutor(8) as pool:
            pieces = list(pool.map(lambda place, source=source: source.read(place, 16), range(0, 1024, 4)))  # type: ignore[misc]
        assert pieces == [DATA[place : place + 16] for place in range(0, 1024, 4)]
        source.close()


def missing(folder: Path) -> FileSource:
    return folder / "missing.dcz"


def nul(folder: Path) -> FileSource:
    return f"{folder}/a\0b"


def a_folder(folder: Path) -> FileSource:
    return folder


def broken(_: Path) -> FileSource:
    return Broken(DATA)


def closed(_: Path) -> FileSource:
    file = io.BytesIO(DATA)
    file.close()
    return file


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (missing, r"cannot read .*missing\.dcz: No such file or directory"),
        (nul, r"cannot read .*: embedded null"),
        (a_folder, r"cannot read .*: Is a directory"),
        (broken, r"cannot read <file object>: .*Input/output error"),
        (closed, r"cannot read <file object>: .*closed file"),
    ],
)
def test_what_cannot_be_read(make: Callable[[Path], FileSource], text: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=text):
        Source(make(tmp_path)).read(0, 8)


@pytest.mark.parametrize("source", [7, None, io.StringIO("text")])
def test_no_source_at_all(source: object) -> None:
    with pytest.raises(ParameterError, match=r"The 'source' parameter of open must be a path, bytes or a binary file object"):
        Source(cast(BinaryIO, source))


def test_a_file_that_shrinks(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    source = Source(path)
    os.truncate(path, 10)
    with pytest.raises(StorageError, match="it ended at byte 10, it had 1024 bytes before"):
        source.read(0, 20)
    source.close()


def write(path: Path, content: bytes = b"new") -> None:
    with atomic_file(path) as file:
        file.write(content)


def test_atomic_file(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 60)
    write(path)
    assert path.read_bytes() == b"new"
    path.chmod(0o640)
    write(path, b"newer")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"newer", 0o640)
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_keeps_pointing(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_bytes() == b"new"


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("error", [ValueError("half-way"), KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_an_error_leaves_everything_as_it_was(tmp_path: Path, old: bytes | None, error: BaseException) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    expected = StorageError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught, atomic_file(path) as file:  # noqa: PT012
        file.write(b"half")
        raise error
    if isinstance(error, OSError):
        assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([] if old is None else [old])


def test_a_disk_that_is_full_at_the_last_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*: No space left on device"):
        write(tmp_path / "file")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["missing/file", "", "a\0b", "x" * 300])
def test_what_cannot_be_written(tmp_path: Path, place: str) -> None:
    with pytest.raises(StorageError, match="cannot write"), atomic_file(f"{tmp_path}/{place}" if place else "/") as file:
        file.write(b"new")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(StorageError, match=r"cannot write .*directory"):
        write(tmp_path / "file")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        write(tmp_path / "folder" / "file")


def test_a_folder_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=r"cannot write .*: Permission denied"):
        write(tmp_path / "file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_written_and_not_replaced(tmp_path: Path) -> None:
    """Renaming over a device would take it away from the whole system."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    with atomic_file(pipe) as file:
        file.write(b"through")
    reader.join(timeout=10)
    assert received == [b"through"]
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
