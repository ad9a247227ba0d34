"""Errors of the system at each call of a save, interrupts at each instruction, full disks, folders and names of all kinds."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from deepcompress.container import source
from deepcompress.container.source import atomic_file
from deepcompress.errors import StorageError
from tests.container.killing import before_instruction

OLD, NEW = b"old" * 1000, b"new" * 30_000
ROOT = Path(__file__).parents[2]
needs_posix = pytest.mark.skipif(os.name != "posix", reason="POSIX systems only")


def save(path: Path) -> None:
    with atomic_file(path) as file:
        for start in range(0, len(NEW), 20_000):
            file.write(NEW[start : start + 20_000])


class Faulty:
    """Calls of the system, counted; the `at`-th one fails."""

    def __init__(self, at: int, number: int) -> None:
        self.at, self.number, self.calls = at, number, 0
        self.failed = ""

    def wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(*how: Any, **more: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                self.failed = name
                raise OSError(self.number, os.strerror(self.number))
            return call(*how, **more)

        return faulty

    @contextmanager
    def installed(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("open", "fsync", "chmod", "chown", "replace", "stat", "access", "scandir"):
                if hasattr(os, name):
                    patch.setattr(os, name, self.wrapped(name, getattr(os, name)))
            if sys.platform != "win32":
                patch.setattr(source.fcntl, "flock", self.wrapped("flock", source.fcntl.flock))
            patch.setattr(source, "open", self._open, raising=False)
            yield

    def _open(self, *how: Any, **more: Any) -> Any:
        file = open(*how, **more)  # noqa: SIM115
        return _Wrapped(file, self)


class _Wrapped:
    def __init__(self, file: Any, faults: Faulty) -> None:
        self.file = file
        self.write, self.flush = faults.wrapped("write", file.write), faults.wrapped("flush", file.flush)
        self.fileno, self.close = file.fileno, file.close


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EINTR, errno.EACCES])
@pytest.mark.parametrize("old", [None, OLD])
def test_an_error_at_every_call_of_the_system(tmp_path: Path, old: bytes | None, number: int) -> None:
    path, failed = tmp_path / "model.dcz", set()
    for at in range(1, 100):
        path.unlink() if path.exists() else None
        if old is not None:
            path.write_bytes(old)
        faults, error = Faulty(at, number), None
        with faults.installed():
            try:
                save(path)
            except StorageError as raised:
                error = raised
        if error is None:  # a call that a save does without: leftovers, locks, owners, the folder's flush
            assert faults.failed in ("", "open", "stat", "scandir", "flock", "chown", "fsync"), faults.failed
            assert path.read_bytes() == NEW
        else:
            assert str(error) == f"cannot write {path}: {os.strerror(number)}"
            assert (path.read_bytes() if path.exists() else None) == old
        assert [entry for entry in tmp_path.iterdir() if entry != path] == []
        failed.add(faults.failed)
        if not faults.failed:
            break
    assert failed >= {"", "open", "write", "flush", "fsync", "replace"}


class TookTooLongError(Exception):
    pass


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), TookTooLongError()])
def test_an_interrupt_at_every_instruction(tmp_path: Path, error: BaseException) -> None:
    """As a signal's handler raises it."""
    path, outcomes = tmp_path / "model.dcz", []

    def interrupt() -> None:
        raise error

    before = sys.gettrace()
    for at in range(1, 2000):
        path.write_bytes(OLD)
        raised = False
        sys.settrace(before_instruction(at, interrupt))
        try:
            save(path)
        except type(error):
            raised = True
        finally:
            sys.settrace(before)
            error.__traceback__ = error.__context__ = None
        assert list(tmp_path.iterdir()) == [path], at
        outcomes.append(path.read_bytes())
        if not raised:
            break
    assert len(outcomes) > 100
    assert [content == NEW for content in outcomes] == sorted(content == NEW for content in outcomes)
    assert set(outcomes) == {OLD, NEW}


def test_an_alarm_is_no_error_of_the_system(tmp_path: Path) -> None:
    """`TimeoutError` is an `OSError`; raised by a handler, it stays what it is."""
    with pytest.raises(TimeoutError, match="took too long") as caught, atomic_file(tmp_path / "model.dcz"):
        raise TimeoutError("took too long")
    assert type(caught.value) is TimeoutError
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@needs_posix
def test_signals_while_it_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "model.dcz"
    path.write_bytes(OLD)
    interrupted = 0
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for round_ in range(200):
            with suppress(KeyboardInterrupt):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 1e-5 + round_ * 1e-5)
                    save(path)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    interrupted += 1
            assert path.read_bytes() in (OLD, NEW)
            assert list(tmp_path.iterdir()) == [path]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 0


def python(program: str, *arguments: object, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60)


@needs_posix
def test_files_may_not_grow(tmp_path: Path) -> None:
    """The system's own limit on a file's size stops the write at any byte."""
    done = python(
        """
        import resource, signal, sys
        from pathlib import Path
        from deepcompress.container.source import atomic_file
        from deepcompress.errors import StorageError

        folder, content = Path(sys.argv[1]), b"new" * 30_000
        path = folder / "model.dcz"
        path.write_bytes(b"old")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for room in [0, 1, 4095, 4096, 50_000, len(content) - 1, len(content)]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            try:
                with atomic_file(path) as file:
                    for start in range(0, len(content), 1000):
                        file.write(content[start : start + 1000])
                said = ""
            except StorageError as error:
                said = str(error)
            assert list(folder.iterdir()) == [path]
            assert path.read_bytes() == (content if room == len(content) else b"old")
            assert said == ("" if room == len(content) else f"cannot write {path}: File too large"), said
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr


@needs_posix
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """A small disk in memory, mounted for one process alone, where the system lets us."""
    shell = 'mount -t tmpfs -o size=256k none "$0" && shift 0 && exec "$@"'
    mounting = ("unshare", "-rm", "sh", "-c", shell, str(tmp_path))
    try:
        subprocess.run([*mounting, "true"], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("no file system can be mounted here")
    done = python(
        """
        import os, sys
        from pathlib import Path
        from deepcompress.container.source import atomic_file
        from deepcompress.errors import StorageError

        path = Path(sys.argv[1], "model.dcz")
        path.write_bytes(b"old" * 20_000)
        for size in (100_000, 190_000, 210_000, 400_000):
            before = path.read_bytes()
            try:
                with atomic_file(path) as file:
                    file.write(b"n" * size)
                said = ""
            except StorageError as error:
                said = str(error)
            fits = size == 100_000
            assert said == ("" if fits else f"cannot write {path}: No space left on device"), (size, said)
            assert path.read_bytes() == (b"n" * size if fits else before)
            assert os.listdir(path.parent) == ["model.dcz"]
        """,
        tmp_path,
        before=mounting,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_device_that_is_full() -> None:
    with pytest.raises(StorageError, match="cannot write /dev/full: No space left on device"):
        save(Path("/dev/full"))
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system has no /proc")
def test_a_folder_where_nobody_creates_files() -> None:
    """Not even the administrator, whom permissions do not stop."""
    with pytest.raises(StorageError, match=r"cannot write /proc/self/model\.dcz: "):
        save(Path("/proc/self/model.dcz"))


@needs_posix
def test_rights_are_kept_and_respected() -> None:
    """As a user without privileges: nothing is written in a read-only folder, or over a read-only file."""
    program = """
        import os, stat, sys
        from pathlib import Path
        from deepcompress.container.source import atomic_file
        from deepcompress.errors import StorageError

        def save(path):
            try:
                with atomic_file(path) as file:
                    file.write(b"new")
                    hidden = [entry for entry in path.parent.iterdir() if entry.name.startswith(".")]
                    return [stat.S_IMODE(entry.stat().st_mode) for entry in hidden]
            except StorageError as error:
                return str(error)

        folder = Path(sys.argv[1], "folder")
        folder.mkdir()
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
            os.setgid(65534)
            os.setuid(65534)
        path = folder / "model.dcz"
        path.write_bytes(b"old")
        for mode in (0o600, 0o640, 0o777):
            path.chmod(mode)
            assert save(path) == [mode & ~0o022], "the unfinished file is not more open than the earlier one"
            assert stat.S_IMODE(path.stat().st_mode) == mode
        path.write_bytes(b"old")
        path.chmod(0o444)
        assert save(path) == f"cannot write {path}: Permission denied"
        path.chmod(0o644)
        folder.chmod(0o555)
        for place in (path, folder / "another"):
            assert save(place) == f"cannot write {place}: Permission denied"
        assert (os.listdir(folder), path.read_bytes()) == (["model.dcz"], b"old")
        """
    with tempfile.TemporaryDirectory() as open_to_all:  # pytest's own folder is closed to other users
        os.chmod(open_to_all, 0o755)
        done = python(program, open_to_all)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only the administrator gives files away")
def test_the_owner_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.dcz"
    path.write_bytes(OLD)
    os.chown(path, 65534, 65534)
    path.chmod(0o600)
    save(path)
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 65534, 0o600)


@needs_posix
def test_a_hard_link_keeps_the_old_file(tmp_path: Path) -> None:
    path, other = tmp_path / "model.dcz", tmp_path / "other"
    path.write_bytes(OLD)
    os.link(path, other)
    save(path)
    assert (path.read_bytes(), other.read_bytes()) == (NEW, OLD)


@needs_posix
@pytest.mark.parametrize(
    "name", ["x" * 255, "名" * 85, "no extension", ".hidden", "ä\n ö", "-", "model.tmp", "[a-z]*.dcz", "\udcff"], ids=ascii
)
def test_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    try:
        path.write_bytes(OLD)
    except OSError:
        pytest.skip("no name for a file here")
    save(path)
    assert path.read_bytes() == NEW
    assert list(tmp_path.iterdir()) == [path]


@needs_posix
@pytest.mark.parametrize("whole", [False, True])
def test_a_folder_that_goes_away(tmp_path: Path, whole: bool) -> None:
    path = tmp_path / "folder" / "model.dcz"
    path.parent.mkdir()
    with pytest.raises(StorageError, match=r"cannot write .*: No such file or directory"), atomic_file(path) as file:  # noqa: PT012
        file.write(NEW)
        path.parent.rename(tmp_path / "elsewhere")
        if whole:
            path.parent.mkdir()


def leftover(path: Path, age: float = 60.0) -> Path:
    """What a killed writer of `path` leaves."""
    left = path.with_name(f".{path.name[:40]}.1-{'0123456789abcdef'}.tmp")
    left.write_bytes(b"half")
    os.utime(left, (time.time() - age, time.time() - age))
    return left


@needs_posix
def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.dcz"
    others = [leftover(tmp_path / "other.dcz"), tmp_path / ".model.dcz.1-0123.tmp", tmp_path / "model.dcz.tmp"]
    for other in others[1:]:
        other.write_bytes(b"mine")
    folder = tmp_path / f".model.dcz.2-{'0' * 16}.tmp"
    folder.mkdir()
    link = tmp_path / f".model.dcz.3-{'0' * 16}.tmp"
    link.symlink_to(others[1])
    leftover(path)
    save(path)
    assert sorted(tmp_path.iterdir()) == sorted([path, folder, link, *others])
    young = leftover(path, age=0)
    save(path)
    assert young.exists(), "its writer may be about to lock it"


@needs_posix
def test_a_file_that_is_being_written_is_no_leftover(tmp_path: Path) -> None:
    """However long it takes: a compression that streams has its file open for hours."""
    path = tmp_path / "model.dcz"
    with atomic_file(path) as slow:
        slow.write(b"slow")
        slow.flush()
        (temporary,) = tmp_path.iterdir()
        os.utime(temporary, (0, 0))
        save(path)
        assert path.read_bytes() == NEW
        assert sorted(tmp_path.iterdir()) == sorted([path, temporary])
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"slow", [path])


def test_writers_of_one_file_at_once(tmp_path: Path) -> None:
    """The last one to end has it; none fails, none takes another's unfinished file for a leftover."""
    path = tmp_path / "model.dcz"
    contents = [bytes([number]) * (1000 + number) for number in range(8)]

    def work(content: bytes) -> None:
        for _ in range(15):
            with atomic_file(path) as file:
                file.write(content)
            assert path.read_bytes() in contents

    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(work, contents))
    assert list(tmp_path.iterdir()) == [path]
