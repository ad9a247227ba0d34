"""Compiled code needs no writable folder, is not made at import, and stays inside its arrays whatever it is given."""

from __future__ import annotations

import errno
import os
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

NOISE = """
import numpy as np
from deepcompress.coding import bits, cutting, kernels, planes
from deepcompress.coding.gaps import decode_gaps
from deepcompress.coding.huffman import HuffmanCode
from deepcompress.coding.jit import CHECKED
from deepcompress.coding.streams import FixedLanes, HuffmanLanes, decode_stream, encode_stream
from deepcompress.errors import FormatError
rng = np.random.default_rng(1)
skewed = HuffmanLanes(HuffmanCode.from_lengths([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11]))
even = HuffmanLanes(HuffmanCode.from_lengths([4] * 16))
deep = HuffmanLanes(HuffmanCode.from_lengths([*range(1, 18), 17]))
refused = 0
for _ in range(3000):
    size, lanes, chunks = int(rng.integers(0, 60)), 1 << int(rng.integers(0, 3)), int(rng.integers(1, 3))
    data = rng.integers(0, 3, size).astype(np.uint8) * rng.integers(0, 128, size).astype(np.uint8)
    coder = (skewed, even, deep, FixedLanes(int(rng.integers(0, 9)), 0))[int(rng.integers(0, 4))]
    dtype = (np.uint8, np.uint16, np.uint32)[int(rng.integers(0, 3))]
    try:
        decode_stream(data, coder, lanes, counts=None, chunks=chunks, total=int(rng.integers(0, 90)), out_dtype=dtype)
    except FormatError:
        refused += 1
    counts = rng.integers(0, 4, (2, 4))
    try:
        decode_gaps(rng.integers(0, 4, counts[0].sum()).astype(np.uint8), *counts, 30, 2, 3)
    except FormatError:
        refused += 1
    out, rows = np.empty(200, np.uint8), rng.integers(0, 2**62, (4, 4)).astype(np.uint64)
    rows[:, 1] = rng.integers(0, 8 * max(size, 8) + 1, 4)
    rows[:, 2:] = 4 * np.sort(rng.integers(0, 51, (4, 2)), axis=1)
    for coder in (skewed, even, deep):
        for width in (1, 2, 4):
            looks = kernels.TURN if coder is not deep else kernels.WIDE
            kernels.decode_lanes(bits.readable(data), rows.copy(), coder._table(width), coder.lengths, looks, width, out)
for turn in range(2000):
    kind, rotate = (np.uint16, np.uint32, np.uint64)[turn % 3], bool(turn & 4)
    words = rng.integers(0, 2**64, int(rng.integers(0, 30)), np.uint64).astype(kind)
    width = int(rng.integers(1, min(8 * words.itemsize, 56) + 1))
    shift, first = int(rng.integers(0, 8 * words.itemsize - width + 1)), int(rng.integers(0, len(words) + 1))
    fields, found = cutting.pack_plane(words, rotate, shift, width), np.zeros(len(words), kind)
    planes.put_fields(fields, first, width, shift, found[first:])
    planes.put_fields(rng.permutation(fields), first, width, shift, np.zeros(len(words) - first, kind))
    narrow, again = min(width, 16), np.zeros(len(words), kind)
    symbols = cutting.take_plane(words, rotate, shift, narrow)
    assert np.array_equal(np.bincount(symbols, minlength=1 << narrow), cutting.count_plane(words, rotate, shift, narrow))
    planes.put_plane(symbols, shift, again)
    assert np.array_equal(again[first:], found[first:] & kind((2**narrow - 1) << shift))
    planes.rotate_back(words)
    if width < 8 * words.itemsize:
        noise, empty = rng.integers(0, 2**16, len(words) - first, np.uint16), np.empty(len(words) - first, kind)
        planes.join_planes(noise, width, rng.permutation(fields), first, width, 0, 0, rotate, empty)
for size in (40_000, 40_003):
    symbols = rng.integers(0, 12, size).astype(np.uint8)
    for coder, lanes in ((skewed, 4), (even, 32), (FixedLanes(4), 1)):
        section = encode_stream(symbols, coder, lanes, np.array([size - 7, 7]), counts_known=True)
        counts = np.array([size - 7, 7])
        found = decode_stream(section, coder, lanes, counts=counts, chunks=2, total=size, out_dtype=np.uint8)[0]
        assert np.array_equal(found, symbols)
        section[rng.integers(16, len(section), 5)] ^= 255
        try:
            decode_stream(section, coder, lanes, counts=counts, chunks=2, total=size, out_dtype=np.uint8)
        except FormatError:
            refused += 1
print(refused > 1000, CHECKED)
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


@pytest.mark.timeout(120)
def test_noise_stays_inside_the_arrays(tmp_path: Path) -> None:
    """Bounds checks, which are off otherwise, find nothing; raw memory accesses are array accesses then."""
    assert run(NOISE, DEEPCOMPRESS_CHECKED="1", DEEPCOMPRESS_CACHE_DIR=str(tmp_path)) == "True True"
