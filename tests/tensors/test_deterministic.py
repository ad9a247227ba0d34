"""The same model is the same file: on any number of threads, in any process, after any files before it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from deepcompress.coding import pool
from deepcompress.tensors.compressed import DenseTensor
from deepcompress.tensors.streams import Encoding
from tests.tensors import samples

ROOT = Path(__file__).parents[2]
THREADS = (1, 2, 7)

MODEL = """
import hashlib, sys
import torch
from torch import nn
torch.manual_seed(3)
model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(16 * 36, 40), nn.Linear(40, 10))
with torch.no_grad():
    for parameter in model.parameters():
        parameter[parameter.abs() < parameter.abs().median()] = 0
import deepcompress as dc
shared = [("prune", dc.Prune("percentile", q=0.6)), ("quantize", dc.KMeansQuantize(bits=4)), ("encode", dc.HuffmanEncode())]
torch.set_num_threads(int(sys.argv[1]))
made = [dc.Pipeline(stages).run(model).compressed.to_bytes() for stages in (shared, [("encode", dc.Lossless())])]
print(*(hashlib.sha256(data).hexdigest() for data in made))
"""

TRAINED = """
import hashlib, sys
import torch
import deepcompress as dc
from tests.pipeline.samples import digits, net
torch.set_num_threads(int(sys.argv[1]))
model = net()
stages = [("gradual", dc.GradualPrune(2, 1e-2, sparsity=0.7)), ("share", dc.KMeansQuantize(3)), ("tune", dc.Finetune(1, 1e-3))]
result = dc.Pipeline([*stages, ("encode", dc.HuffmanEncode())]).run(model, train=digits(), quiet=True)
print(hashlib.sha256(result.compressed.to_bytes()).hexdigest())
"""


def large() -> samples.Named:
    """Tensors of many chunks, of every kind of stream."""
    return [
        ("planes", DenseTensor(samples.weights("float32", (300_000,), 1), "float32", "float32")),
        ("half", DenseTensor(samples.weights("bfloat16", (300, 900), 2), "bfloat16", "bfloat16")),
        ("shared", samples.shared_tensor("float32", (700, 900), 15, 3, 1.0)),
        ("pruned", samples.shared_tensor("float32", (700, 900), 31, 4, 0.1)),
        ("grid", samples.grid_tensor("float32", "float32", (300, 900), 0, 6, 15)),
        ("grid.pruned", samples.grid_tensor("float16", "float16", (300, 900), 0, 6, 15, 0.2)),
        ("zeros", DenseTensor(np.where(np.arange(400_000) % 37 == 0, 1.5, 0.0), "float64", "float64")),
    ]


@pytest.mark.parametrize("coder", ["huffman", "fixed"])
def test_threads_change_no_byte(coder: str) -> None:
    tensors, files = large(), set()
    before = torch.get_num_threads()
    for threads in THREADS:
        try:
            torch.set_num_threads(threads)
            with pool.limited(threads), samples.small_chunks(1 << 13, 4):
                files.add(hashlib.sha256(samples.to_file(tensors, Encoding(coder, one_offset=True))).digest())
        finally:
            torch.set_num_threads(before)
    assert len(files) == 1


@settings(deadline=None, max_examples=60)
@given(samples.models(), samples.encodings, samples.cuts)
def test_any_model_is_one_file(tensors: samples.Named, encoding: Encoding, cut: tuple[int, int]) -> None:
    files = set()
    for threads in THREADS:
        with pool.limited(threads), samples.small_chunks(*cut):
            files.add(samples.to_file(tensors, encoding))
    assert len(files) == 1


def test_processes_and_hash_seeds_change_no_byte() -> None:
    """A whole pipeline, which does not train, in processes of other hash seeds and numbers of threads."""
    found = set()
    for seed, threads in (("0", "1"), ("4242", "7")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "DEEPCOMPRESS_THREADS": threads, "NUMBA_NUM_THREADS": threads}
        command = [sys.executable, "-c", MODEL, threads]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1
    assert len(found.pop().split()) == 2


def test_training_changes_no_byte_for_the_same_seed_and_threads() -> None:
    found = set()
    for seed in ("0", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", TRAINED, "2"], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1
