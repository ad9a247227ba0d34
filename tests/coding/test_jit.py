"""Compiled code needs no writable folder, is not made at import, and stays inside its arrays whatever it is given."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deepcompress.coding.jit import jit

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

NOISE = """
import numpy as np
from deepcompress.coding import bits, kernels
from deepcompress.coding.gaps import decode_gaps
from deepcompress.coding.huffman import HuffmanCode
from deepcompress.coding.streams import FixedLanes, HuffmanLanes, decode_stream
from deepcompress.errors import FormatError
rng = np.random.default_rng(1)
code = HuffmanLanes(HuffmanCode.from_lengths([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11]))
refused = 0
for _ in range(3000):
    size, lanes, chunks = int(rng.integers(0, 60)), 1 << int(rng.integers(0, 3)), int(rng.integers(1, 3))
    data = rng.integers(0, 3, size).astype(np.uint8) * rng.integers(0, 128, size).astype(np.uint8)
    coder = code if rng.random() < 0.7 else FixedLanes(int(rng.integers(0, 9)), 0)
    try:
        decode_stream(data, coder, lanes, counts=None, chunks=chunks, total=int(rng.integers(0, 90)), out_dtype=np.uint8)
    except FormatError:
        refused += 1
    counts = rng.integers(0, 4, (2, 4))
    try:
        decode_gaps(rng.integers(0, 4, counts[0].sum()).astype(np.uint8), *counts, 30, 2, 3)
    except FormatError:
        refused += 1
    padded = bits.readable(data)
    kernels.decode_lanes(padded, rng.integers(-(2**62), 2**62, 2), code._table, 5, np.empty(30, np.uint8))
print(refused > 1000)
"""


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_folder_to_keep_compiled_code_in() -> None:
    environment = {"NUMBA_CACHE_DIR": "/dev/null/nowhere", "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
    assert run(PACK, **environment) == "[49]"


def test_the_users_folder_is_used(tmp_path: Path) -> None:
    assert run(PACK, NUMBA_CACHE_DIR=str(tmp_path)) == "[49]"
    assert list(tmp_path.rglob("*.nbi"))


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
    """numba's own bounds checks, which are off otherwise, find nothing."""
    assert run(NOISE, NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(tmp_path)) == "True"
