"""A save that is killed, at each of its instructions and at hundreds of random moments, leaves the old file or the new one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepcompress as dc
from deepcompress.tensors.build import build_model
from deepcompress.tensors.compressed import DenseTensor
from deepcompress.tensors.streams import Encoding
from tests.container import killing

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory, where there is such a folder: a kill does not depend on the disk, whose flushes take their time."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def contents(folder: Path) -> list[str]:
    """Two .dcz files of a megabyte, more and less."""
    paths = [folder / "old.dcz", folder / "new.dcz"]
    for seed, path in enumerate(paths):
        elements = np.random.default_rng(seed).random(150_000 * (1 + seed), np.float32)
        build_model([("weight", DenseTensor(elements, "float32", "float32"))], Encoding()).save(path)
    return [str(path) for path in paths]


def campaign(kind: str, folder: Path, tmp_path: Path, kills: int = 0) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", killing.__file__, kind, str(folder), *contents(tmp_path), str(kills)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    dc.load(folder / "model.dcz", framework="numpy").verify()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_killed_at_every_instruction(folder: Path, tmp_path: Path) -> None:
    found = campaign("instructions", folder, tmp_path)
    assert found["kills"] > 200
    assert found["ordered"], "up to some instruction it is the old file, from there on the new one"
    assert min(found["outcomes"].values()) > 10
    assert found["with_leftovers"] > 50  # which the next save removed


def test_killed_at_three_hundred_moments(folder: Path, tmp_path: Path) -> None:
    found = campaign("moments", folder, tmp_path, 300)
    assert found["kills"] == 300
    assert set(found["outcomes"]) == {"old", "new"}
    assert min(found["signals"].values()) > 30
    assert found["with_leftovers"] > 20
