"""`deepcompress verify`: good files are good, and no altered byte passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import deepcompress as dc


def test_a_good_file(cli, compressed: Path) -> None:
    size = compressed.stat().st_size
    assert cli("verify", compressed).out == f"{compressed}: good, 7 tensors decoded, {size:,} bytes checked\n"
    data = {"file": str(compressed), "ok": True, "tensors": 7, "file_bytes": size}
    assert json.loads(cli("verify", compressed, "--json").out) == data
    assert cli("verify", compressed, "--quiet").out == ""


def test_no_altered_byte_and_no_truncation_passes(cli, compressed: Path, tmp_path: Path) -> None:
    whole = compressed.read_bytes()
    bad = tmp_path / "bad.dcz"
    for place in range(0, len(whole), max(len(whole) // 200, 1)):
        altered = bytearray(whole)
        altered[place] ^= 1 << place % 8
        for content in (bytes(altered), whole[:place]):
            bad.write_bytes(content)
            ended = cli("verify", bad)
            assert ended.status == 1, place
            assert str(bad) in ended.err


@pytest.mark.parametrize("command", [["verify"], ["expand", "-o", "out.safetensors"]])
def test_a_file_that_says_it_decodes_to_more_is_refused(
    cli, compressed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    size = dc.open(compressed).dense_bytes
    assert cli(*command, compressed, "--max-bytes", str(size)).status == 0
    ended = cli(*command, compressed, "--max-bytes", str(size - 1))
    said = f"deepcompress: error: {compressed}: {size} bytes when decoded, at most {size - 1} are allowed\n"
    assert (ended.status, ended.err) == (1, said)
    assert cli(*command, compressed, "--max-bytes", "-1").status == 2
