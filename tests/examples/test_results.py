"""The committed results: each file opens, and the JSON beside it is about that file; with the data, each is measured again."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import _lab
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


def test_every_lab_has_its_script_and_its_committed_result() -> None:
    assert [path.name.split("_")[1] for path in sorted(EXAMPLES.glob("lab_*.py"))] == list("abcdefghi")
    assert [path.name for path in LABS] == [f"lab_{letter}" for letter in "abcdefghi"]


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


@pytest.mark.parametrize("lab", LABS, ids=lambda path: path.name)
def test_a_run_that_was_interrupted_is_told(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a run stops, what it has measured makes a summary."""
    script = next(EXAMPLES.glob(f"{lab.name}_*.py")).stem
    module, called = importlib.import_module(script), []
    monkeypatch.setattr(module, "run_lab", lambda *given, **named: called.append((given, named)))
    module.main()
    (name, title, _, _, story), named = called[0]
    options = _parsed(name, named)
    results = json.loads((lab / "results.json").read_text(encoding="utf-8"))
    keys = list(results["steps"])
    for ended in sorted({0, 1, 2, len(keys) // 2, len(keys) - 1}):
        options.out = tmp_path / str(ended)
        options.out.mkdir()
        first = {**results, "steps": {key: results["steps"][key] for key in keys[:ended]}}
        (options.out / "results.json").write_text(json.dumps(first), encoding="utf-8")
        told = _lab.Lab(name, title, options, named.get("data", "cifar10"))
        told._splits = (range(50_000), range(10_000))  # type: ignore[assignment]  # only their sizes are told
        told.tell(story)
        assert len((options.out / "summary.md").read_text(encoding="utf-8")) > 100


def _parsed(name: str, named: dict[str, Any]) -> argparse.Namespace:
    parser = _lab._parser(name, None, named.get("data", "cifar10"), named.get("parts", ()))
    if "add" in named:
        named["add"](parser)
    return parser.parse_args([])
