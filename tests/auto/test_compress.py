"""`compress` on digits: limits are kept, sizes met, searches go on where they stopped, and the report says why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import deepcompress as dc
from deepcompress.auto import compress as front
from deepcompress.errors import ModelError, ParameterError, PipelineError
from deepcompress.report.report import Report
from deepcompress.tensors import bundle
from tests.auto.samples import FAST, Train, accuracy, data, mlp, net, normed, one_layer
from tests.pipeline.samples import same_bits


def trained(model: nn.Module, **more: Any) -> dc.Result:
    return dc.compress(model, **{"train": Train(256), "epochs": 2, "settings": FAST, "quiet": True, **more})


def loss_of(result: dc.Result, model: nn.Module) -> float:
    """From the file alone."""
    loaded = copy.deepcopy(model)
    dc.load(result.compressed.to_bytes()).load_into(loaded)
    return accuracy(model) - accuracy(loaded.eval())


@pytest.mark.parametrize(("make", "ratio"), [(mlp, 20), (net, 8), (one_layer, 9)])
def test_a_ratio_is_reached(make: Callable[[], nn.Module], ratio: float) -> None:
    model = make()
    before = copy.deepcopy(model.state_dict())
    result = trained(model, target_ratio=ratio, train=Train(), epochs=10)
    assert ratio <= result.report.file_ratio <= 1.06 * ratio
    assert len(result.compressed.to_bytes()) == result.report.file_bytes
    assert loss_of(result, model) < 0.1
    assert same_bits(model, before)


@pytest.mark.parametrize("make", [mlp, net, one_layer])
def test_a_limit_is_kept(make: Callable[[], nn.Module]) -> None:
    result = trained(make(), validate=accuracy, max_drop=0.02)
    assert loss_of(result, make()) <= 0.02
    assert result.report.file_ratio > 4
    choice = result.report.choice
    assert choice is not None
    assert choice.dense_score == accuracy(make())
    assert min(run.file_bytes for run in choice.runs if run.name.startswith("long") and run.score is not None
               and run.score >= choice.dense_score - 0.02) == result.report.file_bytes  # fmt: skip


def test_both_reached_and_not() -> None:
    model = mlp()
    result = trained(model, validate=accuracy, max_drop=0.03, target_ratio=6)
    assert result.report.file_ratio >= 6
    assert loss_of(result, model) <= 0.03
    missed = trained(model, validate=accuracy, max_drop=0.005, target_ratio=25)
    assert missed.report.file_ratio < 25
    assert loss_of(missed, model) <= 0.005
    assert missed.report.choice is not None
    assert "The ratio of 25 was not reached within the limit on what may be lost." in missed.report.choice.reasons[-1]


def test_where_training_cannot_keep_the_limit_nothing_is_trained() -> None:
    """A learning rate that destroys the network."""
    result = trained(mlp(), validate=accuracy, max_drop=0.0, train=Train(64), epochs=1, settings={"lr": 3.0})
    assert loss_of(result, mlp()) <= 0
    choice = result.report.choice
    assert choice is not None
    assert choice.chosen.startswith(("bits per weight", "lossless"))
    assert "Each training lost more than it may: rounding without training came last." in choice.reasons


def test_the_report_explains() -> None:
    result = trained(normed(), validate=accuracy, max_drop=0.03, evaluate=lambda model: 0.25)
    report = result.report
    assert [row.accuracy for row in report.stages] == [0.25] * 3
    shown = report.to_text(100)
    for words in ("\nChoice\n", "as it came ", "trial 1 ", "long run 1", ", chosen ", "Asked for: a score of at most 0.03 less"):
        assert words in shown
    assert report.choice is not None
    assert Report.from_json(report.to_json()) == report
    assert "trial 1" in report.to_markdown()
    assert "trial 1" in report.to_html()


def test_validate_stands_in_for_evaluate() -> None:
    assert trained(one_layer(), validate=accuracy, target_ratio=5, epochs=1).report.stages[-1].accuracy is not None


# Without training


@pytest.mark.parametrize("make", [mlp, net, one_layer])
def test_without_training_a_limit_is_kept(make: Callable[[], nn.Module]) -> None:
    result = dc.compress(make(), validate=accuracy, max_drop=0.01)
    assert loss_of(result, make()) <= 0.01
    assert result.report.file_ratio > 4
    assert result.report.choice is not None
    assert result.report.choice.unit == "Quality"


def test_inputs_say_what_matters() -> None:
    images = data()[0][:512].split(64)
    blind = dc.compress(mlp(), validate=accuracy, max_drop=0.01)
    result = dc.compress(mlp(), inputs=images, validate=accuracy, max_drop=0.01)
    assert loss_of(result, mlp()) <= 0.01
    assert result.report.file_bytes < 0.8 * blind.report.file_bytes
    choice = result.report.choice
    assert choice is not None
    assert choice.unit == "Bits per weight"
    assert choice.chosen.startswith("bits per weight ")
    small = dc.compress(mlp(), inputs=images, target_ratio=12)
    assert 12 <= small.report.file_ratio < 14


def test_without_training_a_ratio_is_reached() -> None:
    for ratio in (3, 9):
        result = dc.compress(mlp().state_dict(), target_ratio=ratio)
        assert ratio <= result.report.file_ratio < 1.7 * ratio
    small = dc.compress(mlp(), target_ratio=1_000).report
    assert small.choice is not None
    assert "The ratio of 1000 was not reached." in small.choice.reasons[-1]


def test_a_limit_that_nothing_keeps_leaves_everything() -> None:
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    result = dc.compress(model, validate=lambda model: float(same_bits(model, before)), max_drop=0.0)
    assert same_bits(result.model, before)
    assert result.report.choice is not None
    assert result.report.choice.chosen == "lossless"
    assert "All of them lost more than they may: nothing is lost instead." in result.report.choice.reasons


def test_more_quality_is_a_larger_file_of_less_error() -> None:
    results = [dc.compress(net(), quality=quality) for quality in (1, 20, 37, 60, 80, 100)]
    sizes = [result.report.file_bytes for result in results]
    errors = [[row.rmse for row in result.report.layers if row.quantized] for result in results]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 2 * sizes[0]
    for coarse, fine in pairwise(errors):
        assert all(a >= b for a, b in zip(coarse, fine, strict=True))
    choice = results[2].report.choice
    assert choice is not None
    assert choice.goal == "Asked for: quality 37, noise 18.5 dB below the weights."


def test_quality_of_what_has_no_weights() -> None:
    state = {"a": torch.ones(5), "n": torch.tensor(3)}
    result = dc.compress(state, quality=50)
    assert same_bits(dc.load(result.compressed.to_bytes()).state_dict(), state)


def test_the_dense_bytes_are_those_of_the_file() -> None:
    for model in (net(), mlp()):
        assert front._dense_bytes(model) == dc.compress(model, quality=30).report.dense_bytes


# Again, and again after a kill


def dropping() -> nn.Module:
    """What the seed of training decides on, where the loader has a generator of its own."""
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.2), mlp()[1], nn.ReLU(), mlp()[3])  # type: ignore[index]


def test_the_same_seed_gives_the_same_bytes_and_leaves_generators_alone() -> None:
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        runs.append((trained(dropping(), target_ratio=5, epochs=1, seed=3).compressed.to_bytes(), float(torch.rand(()))))
    assert runs[0] == runs[1]
    assert trained(dropping(), target_ratio=5, epochs=1, seed=4).compressed.to_bytes() != runs[0][0]


class Stop(BaseException):
    """As a kill: nothing catches it."""


def stops_at(count: int, patch: pytest.MonkeyPatch) -> None:
    """Stop before one more than so many files of a folder are written."""
    written, whole = [0], bundle.atomic_file

    def counted(*arguments: Any) -> Any:
        if written[0] == count:
            raise Stop
        written[0] += 1
        return whole(*arguments)

    for room in ("deepcompress.tensors.bundle", "deepcompress.auto.diary"):
        patch.setattr(f"{room}.atomic_file", counted)


def searched(folder: Path | None) -> dc.Result:
    return trained(normed(), validate=accuracy, max_drop=0.02, workdir=folder)


def test_a_search_stopped_after_every_single_file_ends_with_the_same_bytes(tmp_path: Path) -> None:
    expected, count = searched(None), 0
    while count < 200:
        with pytest.MonkeyPatch.context() as patch:
            stops_at(1, patch)
            try:
                result = searched(tmp_path)
                break
            except Stop:
                count += 1
    assert count > 20
    assert result.compressed.to_bytes() == expected.compressed.to_bytes()
    assert result.report.choice == expected.report.choice


def test_a_finished_search_is_there_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = searched(tmp_path)
    monkeypatch.setattr("deepcompress.training.loop._Fit._epoch", pytest.fail)
    again = searched(tmp_path)
    assert again.compressed.to_bytes() == first.compressed.to_bytes()
    assert again.report.choice == first.report.choice
    with pytest.raises(ParameterError, match=r"'workdir' .* must be a new folder, or that of an earlier search with the same"):
        trained(mlp(), target_ratio=9, workdir=tmp_path)
    (tmp_path / "search.json").write_text("{}")
    with pytest.raises(ParameterError, match="which is no record of a search"):
        searched(tmp_path)


# What cannot be meant


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "compress: give max_drop \\(with validate\\), target_ratio, or both; without training, quality does too"),
        ({"max_drop": 0.01}, "compress: max_drop limits what the score of a measure loses: give validate="),
        ({"quality": 50, "target_ratio": 3}, "compress: target_ratio cannot stand beside quality, which says it all"),
        ({"quality": 50, "train": []}, "compress: train cannot stand beside quality"),
        ({"inputs": [], "train": [], "target_ratio": 3}, "give train or inputs, not both"),
        ({"quality": 0}, "'quality' parameter of compress must be an int from 1 to 100. Got 0 instead"),
        ({"quality": 50.5}, "'quality' parameter of compress must be an int from 1 to 100"),
        ({"target_ratio": 3, "settings": {"lr": 1.0}}, "compress: settings are of training: give train=... too"),
        ({"target_ratio": 3, "epochs": 0}, "'epochs' parameter of compress must be an int of at least 1"),
        ({"target_ratio": -3}, "'target_ratio' parameter of compress must be None or a number of at least 1"),
        ({"train": Train(), "target_ratio": 3, "settings": {"speed": 1}}, "compress: settings: .*unexpected .*'speed'"),
        ({"train": Train(), "target_ratio": 3, "settings": {"lr": -1}}, "'lr' parameter of RateRetrain must be"),
        ({"train": Train(), "target_ratio": 500}, "'target_ratio' .* must be below \\d+.* of whose file \\d+ bytes"),
        ({"validate": lambda model: "good", "max_drop": 0.1}, "'validate' .* must be a function that returns a number"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_meant(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        dc.compress(mlp(), quiet=True, **given)


def test_models_that_cannot_be_meant() -> None:
    with pytest.raises(ParameterError, match=r"'model' parameter of compress must be a torch\.nn\.Module or a state dict"):
        dc.compress(3, quality=50)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="train and validate need a model that can run, not a bare state dict"):
        dc.compress({"a": torch.ones(2, 2)}, train=Train(), validate=accuracy, max_drop=0.1)
    with pytest.raises(ModelError, match="none of the model's weights can be trained for the coder"):
        trained(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)), target_ratio=2)
    with pytest.raises(PipelineError, match="not logits: give a loss that takes it"):
        trained(nn.LSTM(8, 10), target_ratio=2, train=[(torch.ones(2, 3, 8), torch.zeros(2, dtype=torch.long))])
