"""The one way in which loops are compiled: at their first call, without the GIL, kept on disk where that is possible.

Compiled code lies in `DEEPCOMPRESS_CACHE_DIR`, or in the user's folder for caches, under the package's version: a second
process finds it there. Where neither can be written, or the disk is full, it lives as long as the process. With
`DEEPCOMPRESS_CHECKED=1` every array access is checked against its bounds.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core import caching

from deepcompress.version import __version__

F = TypeVar("F", bound=Callable[..., Any])
_caching: Any = caching  # numba's own classes, without types
FOLDER_VARIABLE = "DEEPCOMPRESS_CACHE_DIR"
CHECKED = os.environ.get("DEEPCOMPRESS_CHECKED", "") == "1"
_log = logging.getLogger("deepcompress")


def jit(function: F) -> F:
    """Compile `function` for each new combination of argument types, at the call that brings it."""
    compiled: Any = numba.njit(nogil=True, boundscheck=CHECKED)(function)
    try:
        compiled._cache = _DiskCache(function)
    except (RuntimeError, OSError):  # "no locator available": nothing is writable
        compiled._cache = _MemoryCache()
    return cast(F, compiled)


def inline(function: F) -> F:
    """Make `function` a part of the compiled functions of its own file that call it.

    A call would cost more than the few instructions that such a part is: numba counts references to its array arguments. Only
    within one file, as compiled code is kept until its own file changes.
    """
    return cast(F, numba.njit(nogil=True, inline="always")(function))


@cache
def say_compiling() -> None:
    """Tell, once in a process, why the first call takes seconds. `logging` shows it on stderr unless told otherwise."""
    _log.warning("deepcompress: compiling its kernels, once for version %s; this takes some seconds", __version__)


def cache_folder() -> Path:
    """Where compiled code is kept: of this version of the package, apart for code with bounds checks."""
    given = os.environ.get(FOLDER_VARIABLE)
    return (Path(given) if given else _users_caches() / "deepcompress") / (__version__ + "-checked" * CHECKED)


def _users_caches() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


@cache
def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


@cache
def _digest(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


class _Locator(_caching.UserProvidedCacheLocator):  # type: ignore[misc]
    """Numba's way of finding a function's folder, with the version's folder in place of a user's own."""

    def __init__(self, function: Callable[..., Any], path: str) -> None:
        self._py_file = path
        self._lineno = function.__code__.co_firstlineno
        self._cache_path = str(cache_folder() / self.get_suitable_cache_subpath(path))

    @classmethod
    def from_function(cls, function: Callable[..., Any], path: str) -> _Locator | None:
        with contextlib.suppress(RuntimeError):  # a home folder that cannot be determined
            if os.path.exists(path) and _is_writable(cache_folder()):
                return cls(function, path)
        return None

    def get_source_stamp(self) -> bytes:
        """Code is compiled anew when its file changes, or the one with the memory accesses that it is compiled with."""
        return _digest(self._py_file) + _digest(str(Path(__file__).with_name("memory.py")))


class _Impl(_caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _Files(_caching.IndexDataCacheFile):  # type: ignore[misc]
    """An index, and code under names made from what it is the code of.

    Numba's own names are numbers: of two processes that compile for different types at the same time, or after one that was
    killed between index and code, a call could find the code for another's types.
    """

    def save(self, key: Any, data: Any) -> None:
        digest = hashlib.sha256(repr((self._source_stamp, key)).encode()).hexdigest()
        name = f"{self._index_name.removesuffix('.nbi')}.{digest[:32]}.nbc"
        self._save_data(name, data)
        self._save_index({**self._load_index(), key: name})


class _DiskCache(_caching.FunctionCache):  # type: ignore[misc]
    """Compiled code on disk. A folder that was writable at import may be full or gone at the call."""

    _impl_class = _Impl

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        locator = self._impl.locator
        self._cache_file = _Files(locator.get_cache_path(), self._impl.filename_base, locator.get_source_stamp())

    def load_overload(self, signature: Any, context: Any) -> Any:
        found = None
        try:
            found = super().load_overload(signature, context)
        except OSError:
            pass
        except Exception:  # a file cut short by a crash of the system: unpickling it raises anything
            with contextlib.suppress(OSError):
                self.flush()
        if found is None:
            say_compiling()
        return found

    def save_overload(self, signature: Any, data: Any) -> None:
        with contextlib.suppress(OSError):
            super().save_overload(signature, data)


class _MemoryCache(_caching.NullCache):  # type: ignore[misc]
    def load_overload(self, signature: Any, context: Any) -> None:
        say_compiling()
