"""The committed results: each file opens, and the JSON beside it is about that file; with the data, each is measured again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import deepcompress as dc

EXAMPLES = Path(__file__).parents[2] / "examples"
LABS = sorted((EXAMPLES / "results").glob("lab_*"))
FILES = sorted((EXAMPLES / "results").glob("*.dcz"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_committed_file_is_whole_and_its_json_speaks_of_it(path: Path) -> None:
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    compressed = dc.load(path)
    compressed.verify()
    assert facts["file_bytes"] == compressed.file_bytes == path.stat().st_size
    assert facts["dense_bytes"] == compressed.dense_bytes
    assert facts["runs"] >= 1


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif("DEEPCOMPRESS_DATA" not in os.environ, reason="set DEEPCOMPRESS_DATA to the folder of MNIST and CIFAR-10")
def test_committed_files_reach_what_is_claimed() -> None:
    command = [sys.executable, str(EXAMPLES / "verify_results.py"), "--data", os.environ["DEEPCOMPRESS_DATA"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_lab_has_its_script() -> None:
    assert [path.name.split("_")[1] for path in sorted(EXAMPLES.glob("lab_*.py"))] == list("abcdefghi")


@pytest.mark.parametrize("lab", LABS, ids=lambda path: path.name)
def test_a_committed_result_is_of_real_data_and_explains_what_differs(lab: Path) -> None:
    summary = (lab / "summary.md").read_text(encoding="utf-8")
    results = json.loads((lab / "results.json").read_text(encoding="utf-8"))
    assert "not explained" not in summary
    assert "--quick" not in summary
    assert not any("stand-in" in str(entry["settings"]["data"]) for entry in results["steps"].values())
    pictures = set(re.findall(r"!\[[^]]*\]\(([^)]+\.png)\)", summary))
    assert pictures
    assert pictures == {path.name for path in lab.glob("*.png")}
    assert "/tmp" not in json.dumps(results) + summary
