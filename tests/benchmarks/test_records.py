"""Records are made and measured from start to end, on scikit-learn's digits in place of MNIST."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import deepcompress as dc

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = """
about: A try.
network: LeNet300100
data: mnist
goal: {ratio: 20, lost: 0.9}
batches: {size: 64, shift: 1}
dense:
  stages:
    - {name: train, stage: retrain, epochs: 1, lr: 2e-3}
loss: {own_share: 0.5, temperature: 2}
pipeline:
  stages:
    - {name: rate, stage: rate_retrain, epochs: 2, lr: 1e-3, bits: 0.5, include: ["*bias", "*weight"]}
    - {name: encode, stage: context_encode, leftovers: float16}
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As for a script in that folder, whose choices of threads and denormals end with it."""
    path, threads = list(sys.path), torch.get_num_threads()
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path[:] = path
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def make(recipe: str, out: Path, *more: str) -> None:
    load("make_record").main(["--recipe", recipe, "--stand-in", "--out", str(out), *more])


def measure(recipe: str, out: Path, *more: str) -> int:
    kept = str(out / "measured.json")
    status: int = load("records").main(["--recipe", recipe, "--stand-in", "--records", str(out), "--kept", kept, *more])
    return status


def test_from_a_recipe_to_its_row(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, work = tmp_path / "out", ["--workdir", str(tmp_path / "work")]
    for seed in ("0", "1"):
        make(recipe, out, "--seed", seed, "--choose", "--record")
    assert not list(out.glob("*.dcz"))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["seed"] for line in lines] == [0, 1]
    better = min(lines, key=lambda line: (line["validation_error"], line["seed"]))["seed"]
    for seed in ("0", "1"):
        make(recipe, out, "--seed", seed, *work)
    assert "test" not in (out / "tiny-seed0.json").read_text()
    before = (out / "tiny-seed1.dcz").read_bytes()
    dense = next((tmp_path / "work").glob("dense-LeNet300100-all-seed1-*.pt"))
    make(recipe, out, "--seed", "1", "--dense", str(dense))
    assert (out / "tiny-seed1.dcz").read_bytes() == before

    capsys.readouterr()
    assert measure(recipe, out, "--keep", "--dense", f"LeNet300100={dense}", "--json", str(tmp_path / "rows.json")) == 0
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    facts = json.loads((out / f"tiny-seed{row['file']['seed']}.json").read_text())
    assert row["file"]["bytes"] == facts["file_bytes"] == (out / f"tiny-seed{row['file']['seed']}.dcz").stat().st_size
    assert row["ratio"] == pytest.approx(4 * 266_610 / facts["file_bytes"])
    assert [file["seed"] for file in row["others"]] == [0, 1]
    assert (row["file"]["seed"], row["is_median"]) == (better, True)
    assert row["verdict"] in ("met", "dense network not measured")

    for path in out.glob("tiny-seed0.*"):
        path.unlink()
    assert measure(recipe, out) == 0
    assert "(2)" in capsys.readouterr().out
    kept = json.loads((out / "measured.json").read_text())
    kept["files"]["tiny-seed1.dcz"]["error"] = 0.5
    (out / "measured.json").write_text(json.dumps(kept))
    assert measure(recipe, out) == 1
    assert "tiny-seed1.dcz: " in capsys.readouterr().out


def test_a_run_that_was_killed_goes_on_to_the_same_file(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    maker, work = load("make_record"), ["--workdir", str(tmp_path / "work")]
    make(recipe, tmp_path / "whole")
    distillation, passes = maker.distillation, []

    def interrupted(*teacher: Any, **mix: Any) -> Any:
        loss = distillation(*teacher, **mix)

        def counted(*batch: Any) -> Any:
            passes.append(1)
            if len(passes) == 30:
                raise KeyboardInterrupt
            return loss(*batch)

        return counted

    monkeypatch.setattr(maker, "distillation", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(recipe, tmp_path / "parts", *work)
    make(recipe, tmp_path / "parts", *work)
    assert len(passes) == 30 + 23  # of two epochs of 23 batches, the first was kept
    assert (tmp_path / "parts" / "tiny-seed0.dcz").read_bytes() == (tmp_path / "whole" / "tiny-seed0.dcz").read_bytes()


def test_no_test_image_is_read_while_a_record_is_made(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks, asked = load("_networks"), []

    def part(name: str, root: Path, *, train: bool) -> Any:
        asked.append(train)
        return networks.stand_in(name)[0]

    monkeypatch.setattr(networks, "load_part", part)
    networks._images.cache_clear()
    for choose in (["--choose"], []):
        load("make_record").main(["--recipe", recipe, "--data", "x", "--out", str(tmp_path), *choose])
    assert asked == [True]


def test_what_is_held_out_is_never_trained_on_and_always_the_same() -> None:
    networks = load("_networks")
    whole = networks.stand_in("mnist")[0]
    whole = networks.Split(whole.images, torch.arange(len(whole)), whole.mean, whole.std)
    train, held = networks.divided(whole, "mnist")
    assert len(held) == 1437 * 10_000 // 60_000
    assert sorted([*train.labels.tolist(), *held.labels.tolist()]) == list(range(1437))
    order = torch.randperm(1437, generator=torch.Generator().manual_seed(1))
    assert torch.equal(networks.divided(whole, "mnist")[1].labels, order[-len(held) :])


@pytest.mark.parametrize(("errors", "median"), [
    ({}, None), ({0: 0.3}, 0), ({0: 0.3, 1: 0.1, 2: 0.2}, 2), ({0: 0.3, 1: 0.1}, 1), ({0: 0.1, 1: 0.1, 2: 0.1}, 1),
])  # fmt: skip
def test_the_median_seed(errors: dict[int, float], median: int | None) -> None:
    runs = {str(seed): {"seed": seed, "digest": "a", "validation_error": error} for seed, error in errors.items()}
    runs["9"] = {"seed": 9, "digest": "of another recipe", "validation_error": 0.0}
    assert load("records").median_seed(runs, "a") == median


@pytest.mark.parametrize(("goal", "size", "error", "dense", "verdict"), [
    ({"ratio": 10, "error": 0.02}, 106_644, 0.02, None, "met"),
    ({"ratio": 10, "error": 0.02}, 106_645, 0.02, None, "NOT MET"),
    ({"ratio": 10, "error": 0.02}, 106_644, 0.0201, None, "NOT MET"),
    ({"bytes": 9, "lost": 0.01}, 9, 0.0899, 0.08, "met"),
    ({"bytes": 9, "lost": 0.01}, 9, 0.09, 0.08, "NOT MET"),
    ({"bytes": 8, "lost": 0.01}, 9, 0.08, 0.08, "NOT MET"),
    ({"bytes": 9, "lost": 0.01}, 9, 0.08, None, "dense network not measured"),
    ({"bytes": 9, "lost": 0.01, "dense": 0.93}, 9, 0.08, 0.08, "NOT MET"),
])  # fmt: skip
def test_verdicts(goal: dict[str, Any], size: int, error: float, dense: float | None, verdict: str) -> None:
    records = load("records")
    file = records.Measured("r", 0, "", "", "", size, error)
    assert records.Row("r", "LeNet300100", dc.recipes.Goal(**goal), file, (file,), dense, None).verdict == verdict
    assert records.Row("r", "LeNet300100", dc.recipes.Goal(**goal), None, (), dense, None).verdict == "no file"


def test_committed_records_are_whole_and_their_json_speaks_of_them() -> None:
    records, names = load("records"), dc.recipes.names()
    kept = records.read_json(records.RECORDS / "measured.json")["files"]
    for path in records.RECORDS.glob("*.dcz"):
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        compressed = dc.load(path)
        compressed.verify()
        assert facts["recipe"] in names
        assert path.name == f"{facts['recipe']}-seed{facts['seed']}.dcz"
        assert facts["file_bytes"] == compressed.file_bytes == kept[path.name]["bytes"]
        assert kept[path.name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert kept[path.name]["digest"] == facts["digest"]


def test_rows_without_a_file_are_told_and_plots_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert load("records").main(["--stand-in", "--records", str(tmp_path), "--plots", str(tmp_path / "plots")]) == 0
    assert len(list((tmp_path / "plots").glob("frontier_*.png"))) == 3
    said = capsys.readouterr().out
    assert "| NNCodec " in said
    assert all(f"| {name} " in said for name in dc.recipes.names())
    assert said.count("no file") >= len(dc.recipes.names())
