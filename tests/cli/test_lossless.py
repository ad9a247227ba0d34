"""`deepcompress compress --lossless`: every bit comes back, from every kind of checkpoint, a tensor at a time."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import deepcompress as dc
from deepcompress.cli.shards import INDEX_KEY

DTYPES = (
    torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip


def equal_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    def bits(tensors: dict[str, Tensor]) -> dict[str, tuple[object, ...]]:
        return {
            name: (tensor.dtype, tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).tolist())
            for name, tensor in tensors.items()
        }

    return bits(found) == bits(expected)


@pytest.fixture
def source(tmp_path: Path, tensors: dict[str, Tensor]) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt", "author": "ö"})
    return path


def test_safetensors_and_back(cli, source: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    output, again = tmp_path / "m.dcz", tmp_path / "again.safetensors"
    ended = cli("compress", "--lossless", source, "-o", output)
    size, dense = output.stat().st_size, sum(tensor.nbytes for tensor in tensors.values())
    ratio = f"{dense / size:.2f} times smaller than its {dense:,}, every bit kept"
    assert (ended.status, ended.out) == (0, f"wrote {output}: {size:,} bytes, {ratio}\n")
    assert equal_bits(dc.load(output).state_dict(), tensors)
    assert cli("expand", output, "-o", again).status == 0
    assert equal_bits(load_file(again), tensors)
    with safe_open(again, "pt") as file:
        assert file.metadata() == {"format": "pt", "author": "ö"}


def test_every_dtype(cli, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for dtype in DTYPES:
        noise = 0.1 * torch.randn(3000, generator=generator)
        noise = noise if dtype.is_floating_point or dtype.is_complex else (50 * noise).abs() % 2
        tensors[str(dtype)] = noise.to(dtype).reshape(30, 100)
        tensors[f"{dtype}, none"] = torch.zeros(0, 3).to(dtype)
        tensors[f"{dtype}, one"] = torch.ones(()).to(dtype)
    tensors["special"] = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-45])
    save_file(tensors, tmp_path / "all.safetensors")
    assert cli("compress", "--lossless", tmp_path / "all.safetensors", "-o", tmp_path / "m.dcz").status == 0
    assert equal_bits(dict(dc.load(tmp_path / "m.dcz").state_dict()), tensors)
    assert cli("expand", tmp_path / "m.dcz", "-o", tmp_path / "again.safetensors").status == 0
    assert equal_bits(load_file(tmp_path / "again.safetensors"), tensors)


def test_a_sharded_checkpoint_and_back(cli, sharded: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    output, folder = tmp_path / "m.dcz", tmp_path / "again"
    folder.mkdir()
    assert cli("compress", "--lossless", sharded, "-o", output).status == 0
    model = dc.load(output)
    assert list(model) == list(tensors)
    assert json.loads(model.metadata[INDEX_KEY])["headers"]["a.safetensors"] == {"format": "pt"}
    assert equal_bits(model.state_dict(), tensors)
    assert cli("expand", output, "-o", folder / sharded.name).status == 0
    assert json.loads((folder / sharded.name).read_text()) == json.loads(sharded.read_text())
    for shard in ("a.safetensors", "b.safetensors"):
        assert equal_bits(load_file(folder / shard), load_file(sharded.parent / shard))


def test_a_torch_file(cli, checkpoint: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    assert cli("compress", "--lossless", checkpoint, "-o", tmp_path / "m.dcz", "--quiet").status == 0
    assert equal_bits(dc.load(tmp_path / "m.dcz").state_dict(), tensors)


def test_quiet_and_json(cli, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.dcz"
    assert cli("compress", "--lossless", source, "-o", output, "--quiet").out == ""
    found = json.loads(cli("compress", "--lossless", source, "-o", output, "--json").out)
    assert (found["file"], found["file_bytes"]) == (str(output), output.stat().st_size)


def test_the_recipe_is_kept_on_request(cli, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.dcz"
    cli("compress", "--lossless", source, "-o", output)
    assert dc.open(output).recipe is None
    cli("compress", "--lossless", source, "-o", output, "--store-recipe")
    recipe = dc.open(output).recipe
    assert recipe is not None
    assert [stage["stage"] for stage in recipe["stages"]] == ["lossless"]


@pytest.mark.parametrize(
    "options",
    [
        ["--bits", "4"],
        ["--prune", "percentile=1"],
        ["--init", "linear"],
        ["--no-quantize"],
        ["--float16"],
        ["--recipe", "x.yaml"],
    ],
)
def test_nothing_that_loses_stands_beside_it(cli, source: Path, tmp_path: Path, options: list[str]) -> None:
    ended = cli("compress", "--lossless", source, "-o", tmp_path / "m.dcz", *options)
    assert ended.status == 2
    assert f"{options[0]} cannot stand beside --lossless, which keeps everything" in ended.err
    assert not (tmp_path / "m.dcz").exists()


def test_an_empty_checkpoint(cli, tmp_path: Path) -> None:
    save_file({}, tmp_path / "none.safetensors")
    ended = cli("compress", "--lossless", tmp_path / "none.safetensors", "-o", tmp_path / "m.dcz")
    assert ended.status != 0
    assert "the checkpoint is empty: there is nothing to store" in ended.err
    assert not (tmp_path / "m.dcz").exists()


def test_sources_that_are_missing(cli, sharded: Path, tmp_path: Path) -> None:
    for name in ("no.safetensors", "no.safetensors.index.json"):
        ended = cli("compress", "--lossless", tmp_path / name, "-o", tmp_path / "m.dcz")
        assert ended.status != 0
        assert f"cannot read {tmp_path / name}" in ended.err
    (sharded.parent / "b.safetensors").unlink()
    ended = cli("compress", "--lossless", sharded, "-o", tmp_path / "m.dcz")
    assert ended.status != 0
    assert "b.safetensors" in ended.err


def test_damaged_sources_are_one_line(cli, source: Path, tmp_path: Path) -> None:
    whole, output = source.read_bytes(), tmp_path / "m.dcz"
    for content in (b"", whole[:7], whole[:40], whole[:-1], whole + b"\0", b"\xff" * 8 + whole[8:]):
        source.write_bytes(content)
        ended = cli("compress", "--lossless", source, "-o", output)
        assert ended.status != 0
        assert str(source) in ended.err
        assert not output.exists()


def test_index_and_shards_that_disagree(cli, sharded: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    save_file({"other": torch.ones(3)}, sharded.parent / "b.safetensors")
    ended = cli("compress", "--lossless", sharded, "-o", tmp_path / "m.dcz")
    assert ended.status != 0
    assert "index and shard disagree about" in ended.err


def test_one_tensor_is_in_memory_at_a_time(cli, tmp_path: Path) -> None:
    """Both ways; 12 MB in 24 tensors."""
    tensors = {f"layer{place}": torch.randn(125_000) for place in range(24)}
    source, output, again = tmp_path / "m.safetensors", tmp_path / "m.dcz", tmp_path / "again.safetensors"
    save_file(tensors, source)
    del tensors
    for arguments in (("compress", "--lossless", source, "-o", output), ("expand", output, "-o", again)):
        cli(*arguments)  # what is compiled and imported stays
        tracemalloc.start()
        assert cli(*arguments).status == 0
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 6 * 500_000
    assert equal_bits(load_file(again), load_file(source))
