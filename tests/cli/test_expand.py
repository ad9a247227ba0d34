"""`deepcompress expand`: what was compressed comes back, bit for bit, in the forms that others read."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import deepcompress as dc
from deepcompress.cli.safetensors import _CODES

ROOT = Path(__file__).parent.parent.parent
COMPLEX32 = "ignore:ComplexHalf support is experimental:UserWarning"


def same_bits(a: Tensor, b: Tensor) -> bool:
    raw = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b)]
    return (a.shape, a.dtype) == (b.shape, b.dtype) and torch.equal(*raw)


def bits_of_every_dtype() -> dict[str, Tensor]:
    """Twelve elements of every dtype that safetensors files hold, all bit patterns allowed, NaN among them."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name in _CODES:
        dtype = getattr(torch, name)
        raw = torch.randint(0, 256, (12 * dtype.itemsize,), dtype=torch.uint8, generator=generator)
        tensors[f"of_{name}"] = (raw % 2 if name == "bool" else raw).view(dtype).reshape(3, 4)
    return tensors


def test_safetensors_hold_the_models_very_bits(cli, compressed: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    ended = cli("expand", compressed, "-o", output)
    assert ended.out == f"wrote {output}: 7 tensors, {output.stat().st_size:,} bytes\n"
    expected, found = dc.load(compressed).state_dict(), load_file(output)
    assert found.keys() == expected.keys()
    assert all(same_bits(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th"])
def test_torch_files_hold_the_models_very_bits(cli, compressed: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"out{suffix}"
    assert cli("expand", compressed, "-o", output).status == 0
    expected, found = dc.load(compressed).state_dict(), torch.load(output, weights_only=True)
    assert list(found) == list(expected)
    assert all(same_bits(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_every_dtype_comes_back(cli, tmp_path: Path, suffix: str) -> None:
    tensors = bits_of_every_dtype() | {"empty": torch.ones(0, 3), "scalar": torch.tensor(2.5)}
    torch.save(tensors, tmp_path / "m.pt")
    assert cli("compress", tmp_path / "m.pt", "-o", tmp_path / "m.dcz", "--no-quantize").status == 0
    assert cli("expand", tmp_path / "m.dcz", "-o", tmp_path / f"out.{suffix}").status == 0
    path = tmp_path / f"out.{suffix}"
    found = load_file(path) if suffix == "safetensors" else torch.load(path, weights_only=True)
    assert found.keys() == tensors.keys()
    assert [name for name in tensors if not same_bits(found[name], tensors[name])] == []


@pytest.mark.filterwarnings(COMPLEX32)
@pytest.mark.parametrize("dtype", ["complex32", "complex128"])
def test_a_dtype_that_safetensors_lack_is_told(cli, tmp_path: Path, dtype: str) -> None:
    torch.save({"w": torch.zeros(2, dtype=getattr(torch, dtype)), "x": torch.ones(2)}, tmp_path / "m.pt")
    assert cli("compress", tmp_path / "m.pt", "-o", tmp_path / "m.dcz", "--no-quantize").status == 0
    ended = cli("expand", tmp_path / "m.dcz", "-o", tmp_path / "out.safetensors")
    assert ended.status == 1
    assert ended.err.endswith(f"w: a .safetensors file cannot hold {dtype} tensors; expand to .pt\n")
    assert not (tmp_path / "out.safetensors").exists()
    assert cli("expand", tmp_path / "m.dcz", "-o", tmp_path / "out.pt").status == 0


def test_a_safetensors_file_is_laid_out_as_its_readers_want(cli, compressed: Path, tmp_path: Path) -> None:
    """Header padded to 8 bytes, no holes, and every tensor at a multiple of its element size."""
    cli("expand", compressed, "-o", tmp_path / "out.safetensors")
    data = (tmp_path / "out.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    entries = json.loads(data[8 : 8 + length])
    spans = sorted(entry["data_offsets"] for entry in entries.values())
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert 8 + length + spans[-1][1] == len(data)
    sizes = {"F32": 4, "I64": 8}
    assert all(entry["data_offsets"][0] % sizes[entry["dtype"]] == 0 for entry in entries.values())


def test_metadata_is_restored(cli, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    metadata = {"format": "pt", "title": 'Gödel, "Escher", Bach'}
    save_file(tensors, tmp_path / "m.safetensors", metadata=metadata)
    cli("compress", tmp_path / "m.safetensors", "-o", tmp_path / "m.dcz")
    cli("expand", tmp_path / "m.dcz", "-o", tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        assert file.metadata() == metadata


def test_shards_come_back_as_they_were(cli, sharded: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    cli("compress", sharded, "-o", tmp_path / "m.dcz", "--no-quantize")
    (tmp_path / "new").mkdir()
    output = tmp_path / "new" / "other.safetensors.index.json"
    assert cli("expand", tmp_path / "m.dcz", "-o", output).status == 0
    assert json.loads(output.read_text()) == json.loads(sharded.read_text())
    for shard in ("a.safetensors", "b.safetensors"):
        before, after = load_file(sharded.parent / shard), load_file(output.parent / shard)
        assert before.keys() == after.keys()
        assert all(same_bits(before[name], after[name]) for name in before)
        with safe_open(output.parent / shard, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}


def test_shards_expand_to_one_file_too(cli, sharded: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    cli("compress", sharded, "-o", tmp_path / "m.dcz", "--no-quantize")
    assert cli("expand", tmp_path / "m.dcz", "-o", tmp_path / "one.safetensors").status == 0
    found = load_file(tmp_path / "one.safetensors")
    assert all(same_bits(found[name], tensors[name]) for name in tensors)
    with safe_open(tmp_path / "one.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_an_unsharded_model_has_no_shards(cli, compressed: Path, tmp_path: Path) -> None:
    ended = cli("expand", compressed, "-o", tmp_path / "m.safetensors.index.json")
    assert ended.status == 1
    assert "was not made from a sharded checkpoint" in ended.err


def test_json(cli, compressed: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    data = json.loads(cli("expand", compressed, "-o", output, "--json").out)
    assert data == {"file": str(compressed), "output": str(output), "tensors": 7, "bytes": output.stat().st_size}
    assert cli("expand", compressed, "-o", output, "--quiet").out == ""


def test_an_output_of_no_known_kind(cli, compressed: Path, tmp_path: Path) -> None:
    ended = cli("expand", compressed, "-o", tmp_path / "out.onnx")
    assert ended.status == 2
    assert f"-o names a .safetensors, a .safetensors.index.json or a .pt file, not {tmp_path}/out.onnx" in ended.err


def test_bad_files_leave_nothing_behind(cli, compressed: Path, tmp_path: Path) -> None:
    whole = compressed.read_bytes()
    bad = tmp_path / "bad.dcz"
    altered = bytearray(whole)
    altered[len(whole) // 3] ^= 1
    for content in (b"", b"hello", whole[:-1], whole[: len(whole) // 2], bytes(altered), whole + b"x"):
        bad.write_bytes(content)
        for output in ("out.safetensors", "out.pt"):
            ended = cli("expand", bad, "-o", tmp_path / output)
            assert ended.status == 1
            assert str(bad) in ended.err
            assert not (tmp_path / output).exists()
    assert {path.name for path in tmp_path.iterdir()} == {"bad.dcz", "model.dcz", "model.pt"}


def test_paths_that_cannot_be_used(cli, compressed: Path, tmp_path: Path) -> None:
    ended = cli("expand", tmp_path / "none.dcz", "-o", tmp_path / "out.safetensors")
    assert (ended.status, ended.err) == (
        1,
        f"deepcompress: error: cannot read {tmp_path}/none.dcz: No such file or directory\n",
    )
    for output in ("out.safetensors", "out.pt"):
        ended = cli("expand", compressed, "-o", tmp_path / "no" / output)
        assert ended.status == 1
        assert f"cannot write {tmp_path}/no/{output}: No such file or directory" in ended.err


BLOCKER = """
import sys

class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("torch", "sklearn", "scipy"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
from deepcompress.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("words", ["expand {file} -o {out}", "inspect {file}", "inspect {file} --json", "verify {file}"])
def test_files_open_where_torch_and_scikit_learn_cannot_be_imported(compressed: Path, tmp_path: Path, words: str) -> None:
    output = tmp_path / "out.safetensors"
    arguments = words.format(file=compressed, out=output).split()
    command = [sys.executable, "-W", "error", "-c", BLOCKER, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    if "expand" in words:
        expected, found = dc.load(compressed).state_dict(), load_file(output)
        assert all(same_bits(found[name], expected[name]) for name in expected)


def test_expanding_to_torch_without_torch_is_one_line(compressed: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BLOCKER, "expand", str(compressed), "-o", str(tmp_path / "out.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "deepcompress: error: torch is blocked\n"
