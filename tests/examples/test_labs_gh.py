"""What labs G and H measure by: counts, times from traces, loaders, plans, and what they say of processes that fail."""

from __future__ import annotations

import warnings

import lab_g_resnet18 as lab_g
import lab_h_processes as lab_h
import pytest
import torch
from _data import stand_in
from _images import Images, loader, notice

import deepcompress as dc


def span(name: str, start: float, duration: float, thread: int = 1) -> dict[str, object]:
    return {"name": name, "ts": start, "dur": duration, "tid": thread}


def test_own_time_is_without_what_is_called() -> None:
    events = [
        span("outer", 0, 10),
        span("inner", 1, 4),
        span("inmost", 2, 1),
        span("inner", 6, 2),
        span("outer", 3, 5, thread=2),  # at the same time, elsewhere
        span("next", 10, 3),  # begins where the first ends
    ]
    assert lab_g.own_times(events) == {"outer": 4 + 5, "inner": 5, "inmost": 1, "next": 3}
    assert lab_g.own_times(events[::-1]) == lab_g.own_times(events)
    assert sum(lab_g.own_times(events).values()) == 10 + 5 + 3


def test_the_questions_are_answered_by_counting() -> None:
    found = lab_g._count(None)
    assert (found["main path"], found["convolutions"], found["inputs of the last layer"]) == (17, 20, 512)
    assert found["without batch norm"] == 11_164_362
    numbers = 11_173_962
    assert found["SGD"] == {"parameters": numbers, "gradients": numbers, "state": numbers}
    assert found["Adam"] == {"parameters": numbers, "gradients": numbers, "state": 2 * numbers}


def test_images_one_by_one_are_those_of_the_split() -> None:
    split = stand_in("cifar10")[0].sample(12)
    images = Images(split, augment=False)
    image, label = images[3]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (split.mean, split.std))
    torch.testing.assert_close(image, (split.images[3] / 255 - mean) / std)
    assert label == int(split.labels[3])
    torch.manual_seed(0)
    assert not torch.equal(Images(split, augment=True)[3][0], Images(split, augment=True)[3][0])


def test_more_workers_than_cores_are_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert notice(2) is None
    assert notice(12) == "12 workers on 2 cores: they take turns, and nothing becomes faster"
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0}, raising=False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        batches = list(loader(Images(stand_in("cifar10")[0].sample(8), augment=False), 4, workers=2))
    assert [len(labels) for _, labels in batches] == [4, 4]
    assert [str(warning.message) for warning in said] == []


def test_the_plan_of_large_batches() -> None:
    plans = lab_h.plans(5, 128, 1024, 5120)
    assert [plan["batch"] for plan in plans.values()] == [128, 1024, 1024, 1024]
    assert [plan["settings"]["lr"] for plan in plans.values()] == [0.1, 0.1, 0.8, 0.8]
    for plan in plans.values():
        dc.TrainSettings(**plan["settings"])
    warm = plans["scaled, warm-up"]["settings"]
    assert warm["scheduler_options"] == {"start_factor": 1 / 8, "total_iters": 10}  # two epochs of five steps, from 0.1 up


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Traceback\n[rank1]: ValueError: no\nx.ChildFailedError: \n", "[rank1]: ValueError: no"),
        ("KilledError: \nnothing", "a process ended without a word"),
        ("", "a process ended without a word"),
    ],
)
def test_why_processes_failed(said: str, reason: str) -> None:
    assert lab_h._reason(said) == reason


def test_processes_that_fail_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_h, "_wait_for", lambda command, environment, said: said.write("[rank0]: KeyError: 'data'\n"))
    with pytest.raises(dc.TrainingError, match=r"^1 workers: \[rank0\]: KeyError: 'data'$"):
        lab_h._torchrun(1, '{"device": "cpu"}')
