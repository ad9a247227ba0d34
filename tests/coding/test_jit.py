"""Compiled code needs no writable folder, is not made at import, and stays inside its arrays whatever it is given."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deepcompress.coding.jit import _Files, jit
from deepcompress.version import __version__

ROOT = Path(__file__).parent.parent.parent

PACK = """
import numpy as np
from deepcompress.coding.bits import pack_bits
print(pack_bits(np.array([1, 0, 3], np.uint8), 2).tolist())
"""

IMPORT_ALL = """
import importlib, pkgutil, sys
import deepcompress.coding as room
from numba.core.dispatcher import Dispatcher
found = {}
for info in pkgutil.iter_modules(room.__path__):
    module = importlib.import_module(f"deepcompress.coding.{info.name}")
    found |= {name: len(value.signatures) for name, value in vars(module).items() if isinstance(value, Dispatcher)}
print(len(found) > 5, sum(found.values()), "torch" in sys.modules)
"""

AT_ONCE = """
import threading
start, found = threading.Barrier(4), {}
def work(number):
    start.wait()
    import numpy as np
    from deepcompress.coding.bits import pack_bits
    kinds = [np.uint8, np.uint16, np.uint32]
    start.wait()
    for kind in kinds[number % 3:] + kinds[:number % 3]:
        found[number, kind] = pack_bits(np.arange(1000).astype(kind) % 4, 2).tobytes()
threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(set(found.values()) == {bytes([0b11100100]) * 250} and len(found) == 12)
"""


def ran(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done


def run(code: str, **environment: str) -> str:
    return ran(code, **environment).stdout.strip()


def test_no_folder_to_keep_compiled_code_in() -> None:
    assert run(PACK, DEEPCOMPRESS_CACHE_DIR="/dev/null/nowhere") == "[49]"


def test_the_users_folder_is_used(tmp_path: Path) -> None:
    assert run(PACK, DEEPCOMPRESS_CACHE_DIR=str(tmp_path)) == "[49]"
    assert list((tmp_path / __version__).rglob("*.nbi"))


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    told = [ran(PACK, DEEPCOMPRESS_CACHE_DIR=str(tmp_path)).stderr for _ in range(2)]
    assert told == [f"deepcompress: compiling its kernels, once for version {__version__}; this takes some seconds\n", ""]


@pytest.mark.parametrize("cut", ["index", "data"])
def test_code_that_a_crash_cut_short_is_compiled_again(cut: str) -> None:
    def half(value: float) -> float:
        return value / 2

    def compiled() -> tuple[Any, Any]:
        function: Any = jit(half)
        assert function(21.0) == 10.5
        return function._cache._cache_file, function.stats.cache_hits

    files, _ = compiled()
    for path in [files._index_path] if cut == "index" else [files._data_path(name) for name in files._load_index().values()]:
        os.truncate(path, os.path.getsize(path) // 2)
    hits = [bool(compiled()[1]) for _ in range(2)]
    assert hits == [False, True]


def test_processes_that_compile_at_once_do_not_mix_up_their_code(tmp_path: Path) -> None:
    """Each reads the index before the other has written its own."""
    first, second = (_Files(str(tmp_path), "function", b"stamp") for _ in range(2))
    first._load_index = second._load_index = dict  # as it was: empty
    first.save("float32", "code for float32")
    second.save("float64", "code for float64")
    found = _Files(str(tmp_path), "function", b"stamp")
    assert [found.load("float32"), found.load("float64")] == [None, "code for float64"]
    other = _Files(str(tmp_path), "function", b"of another source")
    other._save_index({"float64": second._load_index().get("float64", "missing")})  # killed before its code was there
    assert other.load("float64") is None


def test_threads_that_call_for_the_first_time_at_once(tmp_path: Path) -> None:
    """Two import, then four compile; a second process finds the code that they left."""
    for compiled in (True, False):
        done = ran(AT_ONCE, DEEPCOMPRESS_CACHE_DIR=str(tmp_path))
        assert done.stdout.strip() == "True"
        assert ("compiling" in done.stderr) == compiled


def test_a_full_disk_does_not_stop_a_call() -> None:
    @jit
    def double(value: int) -> int:
        return 2 * value

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache: Any = double._cache  # type: ignore[attr-defined]
    cache._cache_file.save = full
    assert double(21) == 42


def test_importing_compiles_nothing() -> None:
    assert run(IMPORT_ALL) == "True 0 False"


@pytest.mark.timeout(240)
@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected by mprotect")
def test_noise_stays_inside_the_arrays() -> None:
    """Fences around all arrays, and bounds checks, which are off otherwise, find nothing; both come to the same.

    Raw memory accesses are array accesses where bounds are checked: the twins are from the same source.
    """
    script = [sys.executable, str(Path(__file__).with_name("noise.py"))]
    assert subprocess.run([*script, "--overrun"], check=False, cwd=ROOT).returncode == -signal.SIGSEGV
    found = []
    for checked in ("0", "1"):
        environment = {**os.environ, "DEEPCOMPRESS_CHECKED": checked}
        done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.split())
    assert found[0][:3] == ["True", "True", "False"]
    assert found[1][:3] == ["True", "True", "True"]
    assert found[0][3] == found[1][3]


def test_raw_addresses_are_made_in_one_place() -> None:
    """Whoever loads through a pointer has a twin that loads through an array: both are in `memory`."""
    raw = re.compile(r"intrinsic|carray|ctypes\.|from_address|as_pointer|\bgep\b|address_of")
    package = ROOT / "deepcompress"
    sources = {path.relative_to(package).as_posix(): path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    users = {name for name, source in sources.items() if raw.search(source)}
    assert users == {"coding/memory.py", "tensors/loading.py"}  # where two tensors of a module may overlap


