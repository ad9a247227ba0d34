"""What the labs share: kept steps, figures beside the authors', one line for what cannot be done."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from _data import SIZES, load_data, stand_in
from _lab import Figure, Lab, beside, run_lab, table, two_errors
from resnet20_cifar10 import load_checkpoint
from torch import nn

import deepcompress as dc
from deepcompress.models import resnet20

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a lab of these two functions with --quick and more arguments; its exit status."""

    def go(measure: Callable[[Lab], None], *arguments: str, story: Callable[[Lab], Iterator[str]] = _no_story) -> int:
        monkeypatch.setattr(sys, "argv", ["lab_x.py", "--quick", "--out", str(tmp_path / "out"), *arguments])
        with pytest.raises(SystemExit) as ended:
            run_lab("x", "A lab", "A lab.", measure, story, data="mnist")
        return int(ended.value.code or 0) if not isinstance(ended.value.code, str) else 1

    return go


def _no_story(lab: Lab) -> Iterator[str]:
    yield f"steps: {', '.join(lab.starting(''))}"


def results(tmp_path: Path) -> dict[str, dict[str, object]]:
    steps: dict[str, dict[str, object]] = json.loads((tmp_path / "out" / "results.json").read_text())["steps"]
    return steps


def test_a_step_is_measured_once_until_its_settings_change(run: Run, tmp_path: Path) -> None:
    calls = []

    def measure(lab: Lab) -> None:
        lab.step("one", lambda: calls.append(1) or len(calls), epochs=lab.epochs(20), of=20)

    assert run(measure) == 0
    assert run(measure) == 0
    assert len(calls) == 1
    assert results(tmp_path)["one"]["value"] == 1
    assert run(measure, "--epochs", "3") == 0
    assert run(measure, "--epochs", "3", "--seed", "1") == 0
    assert run(measure, "--epochs", "3", "--seed", "1", "--fresh") == 0
    assert len(calls) == 4
    settings = results(tmp_path)["one"]["settings"]
    assert settings == {"data": settings["data"], "seed": 1, "device": "cpu", "epochs": 3, "of": 20}  # type: ignore[index]
    assert "stand-in" in settings["data"]  # type: ignore[index]


def test_an_interrupted_run_keeps_and_tells_what_it_has(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def measure(lab: Lab) -> None:
        lab.step("first", lambda: 1)
        raise KeyboardInterrupt

    assert run(measure) == 130
    assert "interrupted; the steps that ended are kept" in capsys.readouterr().err
    assert "steps: first" in (tmp_path / "out" / "summary.md").read_text()
    assert list(results(tmp_path)) == ["first"]


def test_a_trained_network_is_kept_without_loss(run: Run, tmp_path: Path) -> None:
    states, trained = [], []

    def train(model: nn.Module) -> dict[str, int]:
        trained.append(1)
        with torch.no_grad():
            next(model.parameters()).normal_()
        return {"epochs": 1}

    def measure(lab: Lab) -> None:
        states.append(lab.model("net", lambda: nn.Linear(5, 3), train).state_dict())

    assert run(measure) == run(measure) == 0
    assert len(trained) == 1
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    (tmp_path / "out" / "models" / "net.dcz").unlink()
    assert run(measure) == 0
    assert len(trained) == 2


def test_errors_of_the_library_are_one_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def measure(lab: Lab) -> None:
        dc.load("nowhere.dcz")

    assert run(measure) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "nowhere.dcz" in lines[0]


def test_results_that_are_none_are_refused(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("{}")
    assert run(lambda lab: None) == 2
    assert "holds no results of a lab" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_where_there_is_none(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda lab: None, "--device", "cuda") == 2
    assert "--device cuda cannot be used here" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "give --data DIR"), (["--data", "nowhere"], "there is no folder nowhere"), (["--epochs", "-1"], "-1 is below 0")],
)
def test_no_data_is_said_before_anything_runs(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lab_x.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_lab("x", "A lab", "A lab.", lambda lab: None, _no_story, data="mnist")
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_figures_that_differ_by_more_than_the_spread_ask_for_a_sentence() -> None:
    near = Figure("a", 0.9, 0.905, spread=0.006, why="because")
    far = Figure("a", 0.9, 0.95, spread=0.006, why="because")
    assert not near.differs
    assert near.row() == ("a", "90.00 %", "90.50 %", "0.60 %", "within the spread")
    assert far.differs
    assert far.row()[-1] == "because"
    assert "**not explained**" in beside([Figure("a", 1.0, 2.0, "s")])
    assert Figure("a", 1.0, None, "s").row() == ("a", "1 s", "-", "0 s", "not measured in this run")


def test_two_standard_errors() -> None:
    assert two_errors(0.9, 10_000) == pytest.approx(0.006)
    assert two_errors(1.0, 10_000) > 0


def test_a_table_is_markdown() -> None:
    text = table(("name", "n"), [("a|b", 1), ("c", 2.5)])
    assert text.splitlines() == ["| name | n |", "|---|---:|", "| a\\|b | 1 |", "| c | 2.5 |"]


@pytest.mark.parametrize("cells", [("1,234", "-"), ("0.5 s", ""), ("12.0x",), ("1 of 2",), ("**91.5 %**", "3e-07"), ("2 (2.8)",)])
def test_numbers_stand_to_the_right(cells: tuple[str, ...]) -> None:
    assert table(("n",), [(cell,) for cell in cells]).splitlines()[1] == "|---:|"


@pytest.mark.parametrize("cells", [("",), ("-",), ("3x3",), ("1 to 2",), ("12, 9", "1"), ("395 steps here, more there",)])
def test_words_stand_to_the_left(cells: tuple[str, ...]) -> None:
    assert table(("n",), [(cell,) for cell in cells]).splitlines()[1] == "|---|"


@pytest.mark.parametrize(("name", "shape"), [("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_stand_ins_have_the_shape_of_what_they_stand_for(name: str, shape: tuple[int, ...]) -> None:
    train, test = stand_in(name)
    assert train.images.shape[1:] == test.images.shape[1:] == shape
    assert (len(train), len(test)) == (1437, 360)
    assert train.images.dtype == torch.uint8
    assert int(train.images.max()) == 255
    assert len(train.sample(200).labels.unique()) == 10
    assert train.labels.unique().tolist() == test.labels.unique().tolist() == list(range(10))


@pytest.mark.parametrize("name", SIZES)
def test_an_incomplete_data_set_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import _data

    monkeypatch.setattr(_data, f"_{name}", lambda root, train: stand_in(name)[0 if train else 1])
    with pytest.raises(SystemExit, match=rf"{name} under .* is incomplete or another data set: 1,437 training images in 10"):
        load_data(name, tmp_path)


def test_a_checkpoint_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"state_dict": {"module.fc.weight": torch.zeros(2, 2)}}, path)
    said = r"does not fit ResNetCifar: \d+ of its \d+ tensors are missing .*, 1 are none"
    with pytest.raises(dc.ModelError, match=said) as error:
        load_checkpoint(resnet20(), path)
    assert "\n" not in str(error.value)


def test_a_checkpoint_with_a_prefix_and_without_counted_batches_fits(tmp_path: Path) -> None:
    path, trained, model = tmp_path / "old.th", resnet20().state_dict(), resnet20()
    old = {f"module.{name}": value for name, value in trained.items() if "num_batches_tracked" not in name}
    torch.save({"state_dict": old}, path)
    load_checkpoint(model, path)
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
