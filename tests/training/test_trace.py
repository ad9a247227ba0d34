"""A trace is a file that viewers open, of the steps that were asked for; a run without one is not touched."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import deepcompress as dc


def spans(path: Path) -> list[str]:
    """Names of all durations in a Chrome trace; each has the numbers that a viewer draws it by."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    events = [event for event in json.loads(text)["traceEvents"] if event.get("ph") == "X"]
    assert all(event["dur"] >= 0 and event["ts"] > 0 and {"pid", "tid"} <= event.keys() for event in events)
    return [event["name"] for event in events]


def steps_of(names: list[str]) -> list[str]:
    return sorted(name for name in names if name.startswith("ProfilerStep"))


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_fit_traces_three_early_steps(model: nn.Module, train: Any, tmp_path: Path, name: str, capfd: Any) -> None:
    dc.fit(model, train, dc.TrainSettings(epochs=3, optimizer="SGD"), trace=tmp_path / name)
    names = spans(tmp_path / name)
    assert steps_of(names) == ["ProfilerStep#2", "ProfilerStep#3", "ProfilerStep#4"]
    assert all(names.count(part) == 3 for part in ("to device", "forward", "backward", "Optimizer.step#SGD.step"))
    assert {"aten::addmm", "aten::tanh"} <= set(names)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("batches", "traced"), [(1, ["0"]), (2, ["1"]), (3, ["2"]), (4, ["2", "3"])])
def test_short_trainings_are_traced_too(model: nn.Module, train: Any, tmp_path: Path, batches: int, traced: list[str]) -> None:
    few = [next(iter(train))] * batches
    dc.fit(model, few, dc.TrainSettings(epochs=1), trace=tmp_path / "trace.json")
    assert steps_of(spans(tmp_path / "trace.json")) == [f"ProfilerStep#{number}" for number in traced]


def test_tracing_changes_nothing(model: nn.Module, train: Any, tmp_path: Path) -> None:
    begin = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ends = []
    for trace in (None, tmp_path / "trace.json"):
        model.load_state_dict(begin)
        dc.fit(model, train, dc.TrainSettings(epochs=2), trace=trace)
        ends.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_any_loop_is_traced(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text("an earlier one")
    with dc.profile_trace(path, wait=0, warmup=1, active=2) as trace:
        for _ in range(9):
            with trace.mark("my part"):
                torch.ones(3).sum()
            trace.step()
    names = spans(path)
    assert steps_of(names) == ["ProfilerStep#1", "ProfilerStep#2"]
    assert names.count("my part") == 2


def test_a_loop_that_ends_too_early(tmp_path: Path) -> None:
    with (
        pytest.raises(dc.TrainingError, match=r"trace.json: it begins after 2 steps, and there were 1$"),
        dc.profile_trace(tmp_path / "trace.json") as trace,
    ):
        trace.step()
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_loop_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"^the disk is gone$"), dc.profile_trace(tmp_path / "trace.json", wait=0, warmup=0):
        raise OSError("the disk is gone")
    assert list(tmp_path.iterdir()) == []


def test_paths_that_cannot_be_written_are_told_before_training(model: nn.Module, train: Any, tmp_path: Path) -> None:
    before = model.fc1.weight.clone()
    with pytest.raises(dc.StorageError, match="there is no folder"):
        dc.fit(model, train, dc.TrainSettings(epochs=1), trace=tmp_path / "no" / "trace.json")
    with pytest.raises(dc.StorageError, match="it is a folder"):
        dc.fit(model, train, dc.TrainSettings(epochs=1), trace=tmp_path)
    assert torch.equal(model.fc1.weight, before)


@pytest.mark.parametrize(("name", "value", "least"), [("wait", -1, 0), ("warmup", 0.5, 0), ("active", 0, 1), ("active", True, 1)])
def test_numbers_of_steps(tmp_path: Path, name: str, value: Any, least: int) -> None:
    expected = f"The '{name}' parameter of profile_trace must be an int of at least {least}. Got {value!r} instead."
    with pytest.raises(dc.ParameterError) as caught, dc.profile_trace(tmp_path / "trace.json", **{name: value}):
        pass
    assert str(caught.value) == expected
