"""The command line called in this process, and small checkpoints for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from deepcompress.cli.main import main


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Cli = Callable[..., Ended]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run one command; whatever its end, standard error is empty or one line that begins as errors do."""

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        ended = Ended(status, *capsys.readouterr())
        if status:
            assert ended.err.startswith("deepcompress: error: ")
            assert ended.err.count("\n") == 1
            assert ended.err.endswith("\n")
            assert ended.out == ""
        else:
            assert ended.err == ""
        return ended

    return run


def small_tensors() -> dict[str, Tensor]:
    """A state dict with a little of everything that ordinary ones hold."""
    generator = torch.Generator().manual_seed(1)
    return {
        "conv.weight": torch.randn(8, 3, 3, 3, generator=generator),
        "conv.bias": torch.randn(8, generator=generator),
        "bn.weight": torch.ones(8),
        "bn.running_mean": torch.randn(8, generator=generator),
        "bn.num_batches_tracked": torch.tensor(7),
        "fc.weight": torch.randn(10, 72, generator=generator),
        "fc.bias": torch.zeros(10),
    }


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return small_tensors()


@pytest.fixture
def checkpoint(tmp_path: Path, tensors: dict[str, Tensor]) -> Path:
    path = tmp_path / "model.pt"
    torch.save(tensors, path)
    return path


@pytest.fixture
def compressed(tmp_path: Path, checkpoint: Path) -> Path:
    path = tmp_path / "model.dcz"
    assert main(["compress", str(checkpoint), "-o", str(path), "--quiet"]) == 0
    return path


@pytest.fixture
def sharded(tmp_path: Path, tensors: dict[str, Tensor]) -> Path:
    """Two shards and their index, in a folder of their own."""
    folder = tmp_path / "sharded"
    folder.mkdir()
    names = list(tensors)
    shards = {"a.safetensors": names[:4], "b.safetensors": names[4:]}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / shard, metadata={"format": "pt"})
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1234}, "weight_map": weight_map}))
    return path
