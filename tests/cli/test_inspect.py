"""`deepcompress inspect`: totals and a row per tensor, read from the directory alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import deepcompress as dc
from deepcompress.tensors import model as model_module


def test_json_has_totals_and_every_tensor(cli, compressed: Path, tensors) -> None:
    data = json.loads(cli("inspect", compressed, "--json").out)
    assert data["file"] == str(compressed)
    assert data["file_bytes"] == compressed.stat().st_size
    assert data["dense_bytes"] == sum(tensor.nbytes for tensor in tensors.values())
    assert sum(data["bits"].values()) == 8 * data["file_bytes"]
    assert [(row["name"], tuple(row["shape"])) for row in data["tensors"]] == [
        (name, tuple(tensor.shape)) for name, tensor in tensors.items()
    ]


def test_the_table_shows_every_tensor_in_full(cli, compressed: Path, tensors) -> None:
    out = cli("inspect", compressed).out
    assert out.startswith(f"{compressed}: format 1.1, 7 tensors, {compressed.stat().st_size:,} bytes, ")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert rows["fc.weight"][1:3] == ["float32", "10x72"]
    assert "32" in rows["fc.weight"]
    assert rows["bn.num_batches_tracked"][1:3] == ["int64", "scalar"]
    assert set(tensors) <= set(rows)
    assert "bytes by purpose: codewords " in out


def test_names_that_look_like_markup_are_shown_as_they_are(cli, tmp_path: Path) -> None:
    torch.save({"[bold]w[/bold]": torch.ones(4, 4), "[/]": torch.ones(2)}, tmp_path / "m.pt")
    cli("compress", tmp_path / "m.pt", "-o", tmp_path / "m.dcz")
    out = cli("inspect", tmp_path / "m.dcz").out
    assert "[bold]w[/bold]" in out
    assert "[/] " in out


def test_long_names_and_ties_and_pruned_tensors(cli, tmp_path: Path) -> None:
    shared = torch.randn(20, 20)
    torch.save({"a" * 200 + ".weight": shared, "tied.weight": shared}, tmp_path / "m.pt")
    cli("compress", tmp_path / "m.pt", "-o", tmp_path / "m.dcz", "--prune", "percentile=0.9")
    out = cli("inspect", tmp_path / "m.dcz").out
    first, second = (line for line in out.splitlines() if "float32" in line)
    assert first.startswith("a" * 200 + ".weight  float32  20x20  ")
    assert " 40 " in first
    assert " gaps, " in first
    assert second.startswith("tied.weight ")
    assert second.endswith("  = " + "a" * 200 + ".weight")


def test_nothing_is_decoded(cli, compressed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a tensor was decoded")

    monkeypatch.setattr(model_module, "decode_tensor", refuse)
    assert cli("inspect", compressed).status == 0
    assert cli("inspect", compressed, "--json").status == 0


def test_quiet_says_nothing(cli, compressed: Path) -> None:
    assert cli("inspect", compressed, "--quiet").out == ""


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04N.", bytes(64)])
def test_another_format_is_told(cli, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.dcz").write_bytes(content)
    ended = cli("inspect", tmp_path / "x.dcz")
    assert ended.status == 1
    assert str(tmp_path / "x.dcz") in ended.err


def test_a_folder_is_no_file(cli, tmp_path: Path) -> None:
    ended = cli("inspect", tmp_path)
    assert (ended.status, ended.err) == (1, f"deepcompress: error: cannot read {tmp_path}: Is a directory\n")


def test_grids_show_their_scales_and_go_through_every_command(cli, tmp_path: Path) -> None:
    tensors = {"layer": torch.randn(16, 40), "channel": torch.randn(16, 40)}
    one, each = dc.AffineQuantize(4, include=["layer"]), dc.AffineQuantize(4, per_channel=True, include=["channel"])
    result = dc.Pipeline([("one", one), ("each", each), ("encode", dc.HuffmanEncode())]).run(tensors, quiet=True)
    result.compressed.save(tmp_path / "m.dcz")
    out = cli("inspect", tmp_path / "m.dcz").out
    assert "format 1.2, 2 tensors" in out
    first, second = (line for line in out.splitlines() if "float32" in line)
    assert first.endswith("dense, huffman, 1 scale")
    assert second.endswith("dense, huffman, 16 scales")
    rows = json.loads(cli("inspect", tmp_path / "m.dcz", "--json").out)["tensors"]
    assert [(row["scales"], row["centroids"]) for row in rows] == [(1, None), (16, None)]
    assert cli("verify", tmp_path / "m.dcz").status == 0
    assert cli("expand", tmp_path / "m.dcz", "-o", tmp_path / "m.safetensors").status == 0
    expanded = load_file(tmp_path / "m.safetensors")
    assert all(torch.equal(expanded[name], tensor) for name, tensor in result.model.items())
