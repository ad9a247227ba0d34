"""Two processes do what one does with the batches of both; and where one cannot go on, none of them waits."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import deepcompress as dc
from deepcompress.prune.allocate import prune_masks
from deepcompress.training.batches import rows_of
from deepcompress.training.distributed import bare, tell_epoch
from deepcompress.training.group import current_group
from deepcompress.training.joined import JoinedGroup
from deepcompress.training.retrain import retrain

from .ranks import GRIDS, PIPELINE, SGD, Whole, data, gradual, loader, mean_square, network, uneven, values

ROOT = Path(__file__).parent.parent.parent
SCRIPT = Path(__file__).with_name("ranks.py")
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    """What both ranks found, in one run of torchrun, and the folder with their files."""
    for _ in range(2):
        out = tmp_path_factory.mktemp("ranks")
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT), str(out)]
        done = subprocess.run(torchrun, capture_output=True, text=True, env=QUIET, timeout=240, check=False)
        if "terminate called without an active exception" not in done.stderr:  # torch's own threads, once in many runs
            break
    assert done.returncode == 0, done.stderr
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)], out


@pytest.fixture
def found(ranks: tuple[list[dict[str, Any]], Path]) -> list[dict[str, Any]]:
    return ranks[0]


def assert_close(ours: list[list[float]], reference: list[list[float]]) -> None:
    assert [len(tensor) for tensor in ours] == [len(tensor) for tensor in reference]
    for mine, theirs in zip(ours, reference, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_they_joined_and_left(found: list[dict[str, Any]]) -> None:
    assert [(rank["size"], rank["device"], rank["left"]) for rank in found] == [(2, "cpu", True)] * 2


def test_a_pipeline_comes_to_what_one_process_comes_to(ranks: tuple[list[dict[str, Any]], Path]) -> None:
    found, out = ranks
    first, second = (found[rank]["pipeline"] for rank in range(2))
    assert (out / "pipeline.0.dcz").read_bytes() == (out / "pipeline.1.dcz").read_bytes()
    alone = PIPELINE.run(network(0), train=Whole(), quiet=True)
    ours, reference = dc.load(out / "pipeline.0.dcz").state_dict(), alone.compressed.state_dict()
    assert list(ours) == list(reference)
    for name, tensor in reference.items():
        assert torch.equal(ours[name] == 0, tensor == 0), name
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-6)
    losses = {name: list(history.step_losses) for name, history in alone.histories.items()}
    assert first["losses"] == second["losses"]
    assert {name: pytest.approx(values, rel=1e-4) for name, values in losses.items()} == first["losses"]
    assert first["accuracy"] == second["accuracy"] == pytest.approx(alone.histories["retrain"].epochs[0].accuracy)
    assert first["untouched"]
    assert second["untouched"]


def test_a_run_whose_loader_died_on_one_rank_goes_on_to_the_same_bytes(ranks: tuple[list[dict[str, Any]], Path]) -> None:
    found, out = ranks
    expected = (out / "pipeline.0.dcz").read_bytes()
    for epoch in (1, 4, 7):
        for rank in range(2):
            assert (out / f"resumed.{epoch}.{rank}.dcz").read_bytes() == expected, (epoch, rank)
    dead = ["OSError", "the disk is gone"]
    lost = ["TrainingError", "rank {} of 2 has failed, which ends all of them: OSError: the disk is gone"]
    other = [lost[0], lost[1].format(1)], [lost[0], lost[1].format(0)]
    assert found[0]["resumed"] == [other[0], dead, other[0]]
    assert found[1]["resumed"] == [dead, other[1], dead]


def test_steps_of_grids_move_alike(ranks: tuple[list[dict[str, Any]], Path]) -> None:
    files = [ranks[1] / f"grids.{rank}.dcz" for rank in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()
    reference = GRIDS.run(network(0), train=Whole(), quiet=True).compressed.state_dict()
    for name, tensor in dc.load(files[0]).state_dict().items():
        torch.testing.assert_close(tensor, reference[name], rtol=1e-4, atol=1e-6)


def test_measures_are_taken_on_rank_0(found: list[dict[str, Any]]) -> None:
    assert [rank["pipeline"]["calls"] for rank in found] == [7, 0]
    assert found[0]["pipeline"]["accuracies"] == found[1]["pipeline"]["accuracies"] == [number + 0.25 for number in range(1, 8)]
    assert [rank["best"]["seen"] for rank in found] == [3, 0]
    assert [rank["best"]["scores"] for rank in found] == [[0.1, 0.9, 0.3]] * 2
    assert [rank["best"]["kept"] for rank in found] == [2, 2]
    assert found[0]["best"]["values"] == found[1]["best"]["values"]


def test_masks_of_a_schedule_are_the_same(found: list[dict[str, Any]]) -> None:
    assert found[0]["masks"] == found[1]["masks"]
    model = network(0)
    begin = prune_masks(gradual(model).weights, "percentile", q=0.2)
    masks, _ = retrain(model, Whole(), begin, SGD, gradual=gradual(model))
    assert {name: mask.tolist() for name, mask in masks.items()} == found[0]["masks"]["masks"]
    assert_close(found[0]["masks"]["values"], values(model))


def test_ranks_with_more_or_larger_batches(found: list[dict[str, Any]]) -> None:
    model = network(0)
    history = dc.fit(model, uneven(None), SGD, loss=mean_square)
    assert found[0]["uneven"] == found[1]["uneven"]
    assert found[0]["uneven"]["losses"] == pytest.approx(list(history.step_losses), rel=1e-5)
    assert_close(found[0]["uneven"]["values"], values(model))


def test_an_optimizer_that_asks_for_the_loss_again(found: list[dict[str, Any]]) -> None:
    model = network(0)
    dc.fit(model, uneven(None), dc.TrainSettings(2, 0.5, "LBFGS", {"max_iter": 4, "line_search_fn": "strong_wolfe"}))
    assert found[0]["lbfgs"] == found[1]["lbfgs"]
    for ours, reference in zip(found[0]["lbfgs"], values(model), strict=True):
        assert ours == pytest.approx(reference, rel=0.02, abs=0.02)  # line searches amplify what is rounded


def test_a_model_that_is_wrapped_already(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert rank["wrapped"] == {"equal": True, "names": ["0.weight", "0.bias", "2.weight", "2.bias"]}


def test_statistics_are_those_of_rank_0(found: list[dict[str, Any]]) -> None:
    assert found[0]["buffers"] == found[1]["buffers"]
    assert found[0]["buffers"][-1] == [6.0]  # batches that rank 0 has seen; rank 1 had two


def test_parameters_that_one_rank_or_none_uses(found: list[dict[str, Any]]) -> None:
    assert [rank["unused"] for rank in found] == [[True, False]] * 2


def test_a_loader_that_is_not_shared_out_is_told_of_once(found: list[dict[str, Any]]) -> None:
    said = "every rank draws from the whole data set; a sampler torch.utils.data.DistributedSampler shares it out"
    assert [rank["notice"] for rank in found] == [[said], []]


@pytest.mark.parametrize("guilty", [0, 1])
def test_an_error_on_one_rank_ends_all(found: list[dict[str, Any]], guilty: int) -> None:
    mine, theirs = found[guilty][f"failures of {guilty}"], found[1 - guilty][f"failures of {guilty}"]
    own = {"loss", "loader"} | ({"validate", "after_epoch"} if guilty == 0 else set())
    assert all(rank[name][-1] is True for rank in (mine, theirs) for name in mine)  # each model is as it was
    for name in own:
        assert mine[name][:2] == ["ZeroDivisionError", "mine alone"]
        echo = f"rank {guilty} of 2 has failed, which ends all of them: ZeroDivisionError: mine alone"
        assert theirs[name][:2] == ["TrainingError", echo]
    assert mine["nothing to train on"][0] == mine["nothing learns"][0] == "PipelineError"
    assert theirs["nothing learns"][1].startswith(f"rank {guilty} of 2 has failed, which ends all of them: PipelineError: train:")
    assert theirs["nothing to train on"][0] == "TrainingError"


@pytest.mark.parametrize("guilty", [0, 1])
def test_ranks_that_differ_are_named(found: list[dict[str, Any]], guilty: int) -> None:
    shapes = {guilty: "float32 (8, 6)", 1 - guilty: "float32 (16, 6)"}
    secret = "after train: '0.weight' on rank 1 is not what it is on rank 0; something changes it on one of them alone"
    other = f"the models differ: '0.weight' is {shapes[1]} on rank 1, and {shapes[0]} on rank 0"
    for rank in found:
        ends = rank[f"failures of {guilty}"]
        assert ends["secret"] == ["TrainingError", secret, True]
        assert ends["another model"] == ["ModelError", other, True]


def test_a_stage_that_fails_on_rank_0_and_a_rank_that_lacks_something(found: list[dict[str, Any]]) -> None:
    (nan, fine), (echo, lacks) = (rank["stage"] for rank in found)
    assert nan[0] == "ModelError"
    assert "0.weight: 1 of 96 weights are NaN or infinite" in nan[1]
    assert echo == ["TrainingError", f"rank 0 of 2 has failed, which ends all of them: ModelError: {nan[1]}"]
    assert lacks == ["PipelineError", "stage 'retrain' trains, and there is nothing to train on: give run(..., train=loader)"]
    assert fine[0] == "TrainingError"
    assert fine[1].startswith("rank 1 of 2 has failed, which ends all of them: PipelineError: stage 'retrain' trains")


GONE = """
import os, sys, torch, deepcompress as dc
def loss(model, batch):
    if os.environ["RANK"] == "1":
        os._exit(7)
    return model(batch).mean()
with dc.process_group() as group:
    dc.fit(torch.nn.Linear(3, 2), [torch.ones(4, 3)], dc.TrainSettings(1), loss=loss)
"""


def test_a_process_that_is_gone_is_not_waited_for() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": "2"}
    start = time.monotonic()
    both = [
        subprocess.Popen([sys.executable, "-c", GONE], env={**QUIET, **place, "RANK": rank, "LOCAL_RANK": rank},
                         stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]  # fmt: skip
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [1, 7]
    assert "TrainingError: rank 0 of 2 waits for processes that are gone: " in said[0]
    assert time.monotonic() - start < 60


# In this process


def test_a_plain_process_is_a_group_of_its_own() -> None:
    with dc.process_group() as group:
        assert (group.rank, group.size, group.is_first) == (0, 1, True)
        assert not dist.is_initialized()
    with dc.process_group("gloo") as group:
        assert group.size == 1


@pytest.mark.parametrize(("backend", "expected"), [("mpi", "None, 'gloo' or 'nccl'"), ("nccl", "'gloo' for 2 processes on a")])
def test_backends_that_cannot_work(monkeypatch: pytest.MonkeyPatch, backend: str, expected: str) -> None:
    place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    text = f"The 'backend' parameter of process_group must be {expected}"
    with pytest.raises(dc.ParameterError, match=text), dc.process_group(backend):
        pass
    assert not dist.is_initialized()


@pytest.fixture
def joined() -> Any:
    """The group of a world of one, which exchanges all the same."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield JoinedGroup()
    finally:
        dist.destroy_process_group()


def test_a_world_of_one_is_a_plain_process(joined: JoinedGroup) -> None:
    assert type(current_group()).__name__ == "Group"
    assert joined.together(lambda: 3) == [3]
    assert joined.once(lambda: {"mask": torch.ones(2, dtype=torch.bool)})["mask"].tolist() == [True, True]
    assert joined.measured_once(None) is None
    with pytest.raises(ZeroDivisionError):
        joined.once(lambda: 1 // 0)


def test_sparse_gradients_travel_dense(joined: JoinedGroup) -> None:
    layer = nn.Embedding(4, 2, sparse=True)
    list(joined.in_step([torch.tensor([1, 1])]))
    joined.averaged(lambda: (float(layer(torch.tensor([1, 1])).sum().backward() or 0), None), [layer.weight])
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[0, 0], [2, 2], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("batch", "rows"),
    [
        (torch.ones(3, 2), 3),
        (torch.ones(()), 1),
        ((torch.ones(5), torch.ones(2)), 5),
        ({"mask": None, "x": torch.ones(7)}, 7),
        ([{"x": (torch.ones(2),)}, torch.ones(9)], 2),
        ("text", 1),
        ([], 1),
    ],
)
def test_rows_of_batches(batch: Any, rows: int) -> None:
    assert rows_of(batch) == rows


class Listener:
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


def test_whatever_wants_to_know_the_epoch_is_told_once(model: nn.Module) -> None:
    class Told(Listener, TensorDataset):
        def __init__(self) -> None:
            Listener.__init__(self)
            TensorDataset.__init__(self, *data().tensors)

    class Batches(Listener):
        def __init__(self) -> None:
            super().__init__()
            self.sampler = Listener()

        def __iter__(self) -> Any:
            return iter([[0, 1], [2, 3]])

        def __len__(self) -> int:
            return 2

    told, batches = Told(), Batches()
    dc.fit(model, DataLoader(told, batch_sampler=batches), dc.TrainSettings(3))  # type: ignore[arg-type]
    assert told.epochs == batches.epochs == batches.sampler.epochs == [0, 1, 2]
    sampler = DistributedSampler(told, 2, 0)
    tell_epoch(DataLoader(told, sampler=sampler), 5)
    assert sampler.epoch == 5
    tell_epoch([1, 2], 0)
    tell_epoch(None, 0)


def test_wrappers_are_taken_off() -> None:
    inner = network(0)
    wrapped = nn.DataParallel(inner)
    assert bare(wrapped) is inner
    assert bare(inner) is inner
    result = PIPELINE.run(wrapped, train=loader(0), quiet=True, inplace=True)
    assert result.model is inner
    assert list(result.compressed.state_dict()) == list(inner.state_dict())


def test_data_parallel_trains_as_it_is(train: Any) -> None:
    begin = network(0)
    dc.fit(nn.DataParallel(begin), train, SGD)
    plain = network(0)
    dc.fit(plain, train, SGD)
    assert values(begin) == values(plain)
