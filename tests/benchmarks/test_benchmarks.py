"""Every benchmark runs, at a size that says nothing of speed: its rows are there, and a wrong result stops it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import deepcompress as dc

FOLDER = Path(__file__).parents[2] / "benchmarks"
# name: the peers without which it does not run; (part of what a row says, its sense, its limit)
EXPECTED: dict[str, tuple[tuple[str, ...], list[tuple[str, str, float | None]]]] = {
    "coding": (("zstandard", "constriction", "dahuffman"), [
        ("Huffman encode, one thread", "at least", 1.0), ("Huffman decode, one thread", "at least", 1.0),
        ("Huffman encode, one thread", "at least", 20), ("Huffman decode, one thread", "at least", 40),
        ("Huffman encode, one thread", "", None), ("coding of a 90 %-sparse", "at least", 0.25),
        ("decoding of a 90 %-sparse", "at least", 0.25), ("scan", "", None), ("scatter", "", None),
    ]),
    "context": ((), [
        ("bytes of lenet300_mnist, by context", "at most", 1.0), ("bytes of resnet20_cifar10, by context", "at most", 1.0),
        ("encode by context on one thread", "at least", 10), ("decode by context on one thread", "at least", 10),
    ]),
    "kmeans": (("kmeans1d",), [
        ("k-means", "at least", 300), ("optimal", "at least", 10), ("k-means", "at most", 6),
    ]),
    "prune": ((), [("percentile", "at most", 1.2), ("std", "at most", 1.2), ("global", "at most", 1.2)]),
    "retrain": ((), [("step", "at most", 1.03), ("mask", "at most", 1)]),
    "model": ((), [
        ("compress", "at most", 4), ("compress", "", None), ("load that file", "at most", 3), ("import deepcompress", "", None),
        ("read that file without torch", "", None), ("deepcompress --help", "", None),
    ]),
    "growth": ((), [
        ("k-means, 5 bits: exponent of time", "at most", 1.1), ("encode: exponent of time", "at most", 1.1),
        ("decode: exponent of time", "at most", 1.1),
    ]),
    "lossless": (("zipnn", "openzl"), [
        ("bytes of ResNet-50 (generated), float32", "at most", 1.0), ("bytes of ResNet-50 (generated), float16", "at most", 1.0),
        ("bytes of ResNet-50 (generated), bfloat16", "at most", 1.0), ("encode on one thread", "", None),
        ("decode on one thread", "", None),
    ]),
}  # fmt: skip


@pytest.fixture(autouse=True)
def benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a script in that folder."""
    monkeypatch.syspath_prepend(str(FOLDER))


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def load_main() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_main", FOLDER / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", EXPECTED)
def test_a_benchmark_runs_and_writes_its_rows(name: str, tmp_path: Path) -> None:
    peers, expected = EXPECTED[name]
    for peer in peers:
        pytest.importorskip(peer, reason=f"bench_{name}.py measures against {peer}, which is not installed")
    rows = load(f"bench_{name}").main(["--tiny", "--out", str(tmp_path)])
    kept = json.loads((tmp_path / f"{name}.json").read_text())
    assert kept["benchmark"] == name
    assert kept["tiny"] is True
    assert kept["machine"]["versions"]["deepcompress"] == dc.__version__
    assert [row["what"] for row in kept["rows"]] == [row.what for row in rows]
    found = [(row["what"], (row["sense"], row["limit"])) for row in kept["rows"]]
    for part, *promised in expected:
        assert any(part in what and says == tuple(promised) for what, says in found), (part, promised)
    assert all(np.isfinite([row["ratio"], *row["spread"]]).all() for row in kept["rows"])
    assert (tmp_path / f"{name}.png").stat().st_size > 1000


def test_each_benchmark_of_this_file_is_there() -> None:
    assert {f"bench_{name}.py" for name in EXPECTED} <= {path.name for path in FOLDER.glob("bench_*.py")}


def test_a_wrong_result_of_ours_stops_the_benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    coding = load("bench_coding")
    decode = coding.decode

    def wrong(coded: Any) -> Any:
        symbols = decode(coded)
        symbols[-1] ^= 1
        return symbols

    monkeypatch.setattr(coding, "decode", wrong)
    with pytest.raises(SystemExit, match="decoded symbols differ from those that were encoded"):
        coding.main(["--tiny", "--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_a_model_with_other_tensors_is_refused() -> None:
    check = load("bench_model").check_equal
    tensors = {"w": torch.tensor([1.0, 0.0])}
    check({"w": torch.tensor([1.0, 0.0])}, tensors, "x")
    with pytest.raises(SystemExit, match="x: other names"):
        check({"v": torch.tensor([1.0, 0.0])}, tensors, "x")
    with pytest.raises(SystemExit, match="x: other tensors"):
        check({"w": torch.tensor([1.0, -0.0])}, tensors, "x")


@pytest.mark.parametrize("layout", ["one buffer", "per tensor"])
def test_lossless_is_lossless_to_the_bit(layout: str) -> None:
    tensors = {"a": torch.tensor([1.0, -0.0]).bfloat16(), "b": torch.ones(3).bfloat16()}
    case = load("bench_lossless").Case("c", "bfloat16", tensors)
    case.check(case.copies(layout), layout, "x")
    wrong = case.copies(layout)
    wrong[-1][-1] ^= 128
    with pytest.raises(SystemExit, match="x on c, bfloat16: decoded bits differ"):
        case.check(wrong, layout, "x")


def test_growth_refuses_other_weights() -> None:
    growth = load("bench_growth")
    values = growth.decode(5000)().copy()
    growth.check_decoded(values)
    values[7], values[8] = values[8] + 0.125, values[8]
    with pytest.raises(SystemExit, match="decoded weights"):
        growth.check_decoded(values)


def test_a_power_law_is_found() -> None:
    points = [{"weights": n, "seconds": 3.0 * n**1.5} for n in (10, 40, 160)]
    assert load("bench_growth").slope(points, "seconds") == pytest.approx(1.5)


def test_rows_say_whether_they_are_met(tmp_path: Path) -> None:
    harness, everything = load("_harness"), load_main()
    bench = harness.Bench("x", "doc", ["--out", str(tmp_path)])
    pair = harness.Pair([1.0, 2.0, 4.0], [4.0, 4.0, 4.0])
    bench.at_least(2, "a", "b", pair, (8, "M/s"))
    bench.at_least(3, "a", "b", pair)
    bench.at_most(0.5, "a", "b", pair)
    bench.at_most(None, "a", "b", pair.scaled(10))
    bench.measured(4, "a", "b", [5.0, 3.0, 9.0], "s")
    assert [row.ratio for row in bench.rows] == [2.0, 2.0, 0.5, 0.05, 5.0]
    assert [row.met for row in bench.rows] == [True, False, True, None, False]
    assert [row.ours for row in bench.rows] == ["4 M/s", "2.000 s", "2.000 s", "2.000 s", "5 s"]
    assert bench.rows[0].spread == (1.0, 4.0)
    bench.finish()
    assert everything.rows_of(tmp_path / "x.json") == [replace(row, spread=list(row.spread)) for row in bench.rows]
    assert everything.rows_of(tmp_path / "y.json") == []


def test_all_in_one_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    everything, harness = load_main(), load("_harness")
    calls: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        name = Path(command[1]).stem.removeprefix("bench_")
        bench = harness.Bench(name, "doc", ["--out", str(tmp_path)])
        bench.measured(4, f"what {name} takes", "4 s", [5.0], "s")
        bench.finish()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(everything.subprocess, "run", run)
    status = everything.main(["--tiny", "--out", str(tmp_path), "--data", "folder", "--only", "coding", "lossless"])
    assert status == 0
    assert [Path(call[1]).name for call in calls] == ["bench_coding.py", "bench_lossless.py"]
    assert calls[0][2:] == ["--out", str(tmp_path), "--tiny"]
    assert calls[1][2:] == ["--out", str(tmp_path), "--tiny", "--data", "folder"]
    table = capsys.readouterr().out.partition("all benchmarks")[2]
    assert table.count("NOT MET") == 3
    assert "what coding takes" in table
    assert "2 rows, 0 met, 2 NOT MET" in table


def test_a_benchmark_that_fails_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = load_main()
    monkeypatch.setattr(everything.subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 1))
    (tmp_path / "coding.json").write_text('{"rows": [{"of": "an earlier run"}]}')
    assert everything.main(["--out", str(tmp_path), "--only", "coding"]) == 1
    assert "bench_coding.py FAILED" in capsys.readouterr().out
