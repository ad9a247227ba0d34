"""A run that is stopped, at whatever moment, ends with the bytes of one that is not."""

from __future__ import annotations

import logging
import os
import random
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import deepcompress as dc
from deepcompress.errors import ParameterError, StorageError, TrainingError
from deepcompress.pipeline import workdir as room
from deepcompress.tensors import bundle
from tests.pipeline.samples import accuracy, digits, net, same_bits

ENV = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


class Stop(BaseException):
    """What stops a run in these tests: nothing catches it, as nothing survives a kill."""


class Batches:
    """Batches of digits, shuffled and made noisy by as many generators as a loader may have."""

    def __init__(self, seed: int = 3) -> None:
        self.images = torch.cat([images for images, _ in digits()])
        self.labels = torch.cat([labels for _, labels in digits()])
        self.order, self.noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        self.python, self.old = random.Random(seed), np.random.RandomState(seed)

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.from_numpy(self.order.permutation(len(self.images)))
        for part in order.split(64):
            images = self.images[part]
            noise = torch.randn(images.shape, generator=self.noise) * (0.01 + 0.01 * self.python.random())
            yield images + noise + float(self.old.normal()) * 0.01 + torch.rand(()) * 0.01, self.labels[part]


def loader() -> DataLoader[Any]:
    """Shuffled by a generator of its own."""
    parts = digits()
    data = TensorDataset(torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts]))
    return DataLoader(data, 64, shuffle=True, generator=torch.Generator().manual_seed(5))


class Drops(nn.Module):
    """A network that draws while it trains, with a buffer that no state dict shows."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.drop, self.fc2 = nn.Linear(64, 24), nn.BatchNorm1d(24), nn.Dropout(0.3), nn.Linear(24, 10)
        self.register_buffer("mean", torch.zeros(64), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * flat.mean(0)
        out: Tensor = self.fc2(self.drop(torch.relu(self.norm(self.fc1(flat - self.mean)))))
        return out


def drops() -> Drops:
    torch.manual_seed(2)
    return Drops()


HUFFMAN = ("encode", dc.HuffmanEncode())
RECIPES: dict[str, list[tuple[str, Any]]] = {
    "everything": [
        ("prune", dc.Prune("percentile", q=0.5)),
        ("retrain", dc.Retrain(
            3, 1e-2, restore_best=True, optimizer="SGD", optimizer_options={"momentum": 0.9}, scheduler="cosine",
        )),
        ("share", dc.KMeansQuantize(3)),
        ("finetune", dc.Finetune(2, 1e-3, rest=True, scheduler="onecycle")),
        HUFFMAN,
    ],
    "back and forth": [
        ("gradual", dc.GradualPrune(
            4, 1e-2, sparsity=0.8, every=0.5, reversible=True, end=3, scheduler="multistep", clip_norm=1.0,
        )),
        ("grid", dc.AffineQuantize(3, per_channel=True)),
        ("finetune", dc.Finetune(3, 1e-2, restore_best=True, optimizer="AdamW")),
        HUFFMAN,
    ],
    "milestones": [
        ("first", dc.Prune("unstructured", sparsity=0.2)),
        ("gradual", dc.GradualPrune(
            3, 1e-2, milestones=[(0, 0.3), (2, 0.6)], scheduler="ReduceLROnPlateau", optimizer="RMSprop",
        )),
        HUFFMAN,
    ],
    "unseeded": [
        ("retrain", dc.Retrain(2, 1e-2, seed=None, optimizer="Adagrad", scheduler="SequentialLR", scheduler_options={
            "schedulers": [{"scheduler": "LinearLR", "total_iters": 1}, {"scheduler": "MultiStepLR", "milestones": [1]}],
            "milestones": [1],
        })),
        ("lbfgs", dc.Retrain(2, 0.1, seed=None, optimizer="LBFGS", optimizer_options={"max_iter": 2})),
        HUFFMAN,
    ],
}  # fmt: skip


def run(name: str, folder: Path | None, **more: Any) -> dc.Result:
    """One call, from a fresh process's state on: same model, same loader, same generators."""
    train = loader() if name == "milestones" else Batches()
    model = drops()
    torch.manual_seed(11)
    random.seed(12)
    np.random.seed(13)  # noqa: NPY002
    validate = lambda model: -abs(accuracy(model) - 0.15)  # noqa: E731 (a best epoch that is not the last)
    return dc.Pipeline(RECIPES[name]).run(model, train=train, validate=validate, quiet=True, workdir=folder, **more)


def stops_at(count: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stop after so many checkpoints have been written."""
    written = [0]
    real = bundle.write_bundle

    def write(*given: Any) -> None:
        if written[0] == count:
            raise Stop
        written[0] += 1
        real(*given)

    for module in (room, sys.modules["deepcompress.training.checkpoint"]):
        monkeypatch.setattr(module, "write_bundle", write)
    return written


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_stopped_before_any_of_its_checkpoints_ends_the_same(name: str, tmp_path: Path) -> None:
    undisturbed = run(name, None)
    expected = undisturbed.compressed.to_bytes()
    for count in range(100):
        folder = tmp_path / str(count)
        with pytest.MonkeyPatch.context() as patch:
            written = stops_at(count, patch)
            try:
                result = run(name, folder)
                break
            except Stop:
                assert written[0] == count
        again = run(name, folder)
        assert again.compressed.to_bytes() == expected, f"stopped after {count} checkpoints"
        assert same_bits(again.model, undisturbed.model)
        assert list(again.histories) == list(undisturbed.histories)
        for stage, history in undisturbed.histories.items():
            assert again.histories[stage].step_losses == history.step_losses
            assert again.histories[stage].column("lr") == history.column("lr")
    assert result.compressed.to_bytes() == expected
    epochs = sum(stage.epochs for _, stage in RECIPES[name] if hasattr(stage, "epochs"))
    assert count == 1 + len(RECIPES[name]) + epochs


def test_a_run_stopped_after_every_single_checkpoint_ends_the_same(tmp_path: Path) -> None:
    expected = run("everything", None).compressed.to_bytes()
    for _ in range(100):
        with pytest.MonkeyPatch.context() as patch:
            stops_at(1, patch)
            try:
                result = run("everything", tmp_path)
                break
            except Stop:
                pass
    assert result.compressed.to_bytes() == expected


def test_a_finished_run_is_there_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run("everything", tmp_path, evaluate=accuracy)
    monkeypatch.setattr("deepcompress.training.loop._Fit._epoch", pytest.fail)
    again = run("everything", tmp_path, evaluate=accuracy)
    assert again.compressed.to_bytes() == first.compressed.to_bytes()
    rows = [(row.name, row.accuracy, row.sparsity, row.notes) for row in again.report.stages]
    assert rows == [(row.name, row.accuracy, row.sparsity, row.notes) for row in first.report.stages]
    assert again.report.layers == first.report.layers
    assert not list(tmp_path.glob("*.part.dcz"))
    assert len(list(tmp_path.glob("*.dcz"))) == 6


def test_a_changed_stage_runs_again_and_those_before_it_do_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stages = RECIPES["everything"]
    run("everything", tmp_path)
    changed = [*stages[:3], ("finetune", dc.Finetune(1, 2e-3)), HUFFMAN]
    train = Batches()
    result = dc.Pipeline(changed).run(drops(), train=train, validate=accuracy, quiet=True, workdir=tmp_path)
    assert "goes on after stage 'share'" in caplog.text
    assert len(result.histories["finetune"].epochs) == 1
    assert len(list(tmp_path.glob("*.dcz"))) == 6  # what the changed stages had come to is gone


def test_epochs_between_checkpoints(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        written = stops_at(100, patch)
        expected = run("everything", tmp_path / "a", checkpoint_every=2).compressed.to_bytes()
        assert written[0] == 6 + 2 + 1  # input and five stages; epochs 2 and 3, and 2
    with pytest.MonkeyPatch.context() as patch:
        stops_at(3, patch)
        with pytest.raises(Stop):
            run("everything", tmp_path / "b", checkpoint_every=2)
    assert run("everything", tmp_path / "b").compressed.to_bytes() == expected
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ParameterError, match=r"'checkpoint_every' parameter .* must be a number of epochs above 0"):
            run("everything", tmp_path / "c", checkpoint_every=wrong)


def test_a_state_dict_is_resumed(tmp_path: Path) -> None:
    stages = [("prune", dc.Prune("percentile", q=0.6)), ("share", dc.KMeansQuantize(4)), HUFFMAN]
    state = net().state_dict()
    expected = dc.Pipeline(stages).run(state).compressed.to_bytes()
    with pytest.MonkeyPatch.context() as patch:
        stops_at(2, patch)
        with pytest.raises(Stop):
            dc.Pipeline(stages).run(state, workdir=tmp_path)
    assert dc.Pipeline(stages).run(state, workdir=tmp_path).compressed.to_bytes() == expected


# Whose folder it is


def test_a_second_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    said: list[str] = []

    def tries(model: nn.Module) -> float:
        with pytest.raises(StorageError) as caught:
            run("everything", tmp_path)
        said.append(str(caught.value))
        if len(said) == 1:
            said.append(subprocess.run(code, capture_output=True, text=True, check=False).stderr)
        return 0.0

    program = "dc.Pipeline([('e', dc.HuffmanEncode())]).run(torch.nn.Linear(2, 2), workdir=sys.argv[1])"
    code = [sys.executable, "-c", f"import deepcompress as dc, sys, torch; {program}", str(tmp_path)]
    run("everything", tmp_path, evaluate=tries)
    run("everything", tmp_path)  # it is free again
    end = "wait for its end, or name another folder"
    assert set(said[:1] + said[2:]) == {f"workdir {tmp_path} is in use by this process: {end}"}
    assert re.search(rf"StorageError: workdir {tmp_path} is in use by process \d+ on \S+: {end}\n$", said[1])


def test_the_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    run("everything", tmp_path)
    with pytest.raises(ParameterError, match=r"'workdir' .* must be a new folder, or that of an earlier run with the same model"):
        dc.Pipeline(RECIPES["everything"]).run(net(), train=Batches(), validate=accuracy, workdir=tmp_path)


def test_a_model_changed_in_place_is_known_again(tmp_path: Path) -> None:
    expected = run("everything", None).compressed.to_bytes()
    model, pipeline = drops(), dc.Pipeline(RECIPES["everything"])
    validate = lambda model: -abs(accuracy(model) - 0.15)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        stops_at(7, patch)
        with pytest.raises(Stop):  # within "finetune", so that the model is as "share" left it
            pipeline.run(model, train=Batches(), validate=validate, quiet=True, workdir=tmp_path, inplace=True)
    assert not same_bits(model, drops())
    result = pipeline.run(model, train=Batches(), validate=validate, quiet=True, workdir=tmp_path, inplace=True)
    assert result.compressed.to_bytes() == expected


@pytest.mark.parametrize("which", ["3-share", "2-retrain", "0-input", "part"])
def test_a_damaged_checkpoint_is_made_again(which: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = run("everything", None).compressed.to_bytes()
    with pytest.MonkeyPatch.context() as patch:
        stops_at(3 if which == "part" else 7, patch)
        with pytest.raises(Stop):
            run("everything", tmp_path)
    (path,) = tmp_path.glob(f"*{which}*")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert run("everything", tmp_path).compressed.to_bytes() == expected
    warned = any("is damaged" in record.getMessage() for record in caplog.records)
    assert warned == (which in ("3-share", "part"))  # earlier ones are not needed any more


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f"cannot write to workdir {tmp_path / 'file'}"):
        run("everything", tmp_path / "file")


# What stops a run, and what it says


def notes(error: BaseException) -> str:
    return "\n".join(error.__notes__)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError, SystemExit])
def test_a_loader_that_dies_and_the_keyboard(kind: type[BaseException], kept: bool, tmp_path: Path) -> None:
    class Dies(Batches):
        passes = 0

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            self.passes += 1
            for place, batch in enumerate(super().__iter__()):
                if self.passes == 3 and place == 2:
                    raise kind
                yield batch

    model = drops()
    expected = dc.Pipeline(RECIPES["everything"][:1]).run(model).model
    folder = tmp_path if kept else None
    with pytest.raises(kind) as caught:
        dc.Pipeline(RECIPES["everything"]).run(
            model, train=Dies(), validate=accuracy, inplace=True, workdir=folder, quiet=True
        )  # fmt: skip
    assert same_bits(model, expected)
    hint = (
        f"The stages before it and 2 of its epochs are kept in {tmp_path}: the same call goes on there."
        if kept
        else "With run(..., workdir=FOLDER) the same call would go on from the last epoch."
    )
    assert notes(caught.value) == f"Stage 'retrain' has stopped; the model is as it was before that stage. {hint}"


@pytest.mark.parametrize("kept", [False, True])
def test_an_evaluation_that_raises(kept: bool, tmp_path: Path) -> None:
    calls: list[int] = []

    def evaluate(model: nn.Module) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise ValueError("no such thing")
        return accuracy(model)

    folder = tmp_path if kept else None
    with pytest.raises(ValueError, match="no such thing") as caught:
        run("everything", folder, evaluate=evaluate)
    kept_text = f"; all stages until then are kept in {tmp_path}: the same call goes on there"
    assert notes(caught.value) == f"This was the evaluation after stage 'retrain'{kept_text if kept else ''}."
    if kept:
        again = run("everything", folder, evaluate=accuracy)
        assert again.compressed.to_bytes() == run("everything", None).compressed.to_bytes()
        assert None not in [row.accuracy for row in again.report.stages]


def test_a_loss_that_is_no_number(tmp_path: Path) -> None:
    model = drops()
    stages = [("prune", dc.Prune("percentile", q=0.5)), ("retrain", dc.Retrain(2, 1e30, optimizer="SGD")), HUFFMAN]
    with pytest.raises(TrainingError, match="the model is as it was before; a smaller lr or clip_norm may help") as caught:
        dc.Pipeline(stages).run(model, train=Batches(), inplace=True, workdir=tmp_path, quiet=True)
    assert notes(caught.value).startswith("Stage 'retrain' has stopped; the model is as it was before that stage. The stages ")
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    stages[1] = ("retrain", dc.Retrain(2, 1e-3, optimizer="SGD"))
    result = dc.Pipeline(stages).run(drops(), train=Batches(), workdir=tmp_path, quiet=True)
    assert result.compressed.to_bytes() == dc.Pipeline(stages).run(drops(), train=Batches(), quiet=True).compressed.to_bytes()


_KILLED_WORKER = """
    import os, signal
    from torch.utils.data import DataLoader, TensorDataset
    import deepcompress as dc
    from tests.pipeline.samples import digits, net, same_bits

    class Kills(TensorDataset):
        def __getitem__(self, index):
            if index == 200:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitem__(index)

    model, loader = net(), DataLoader(Kills(*digits(256)[0]), 64, num_workers=1)
    pipeline = dc.Pipeline([("retrain", dc.Retrain(1)), ("encode", dc.HuffmanEncode())])
    try:
        pipeline.run(model, train=loader, inplace=True, quiet=True)
    except RuntimeError as error:
        print(error, *error.__notes__, same_bits(model, net()))
"""


def test_a_worker_of_the_loader_that_is_killed() -> None:
    program = [sys.executable, "-c", textwrap.dedent(_KILLED_WORKER)]
    for _ in range(12):  # where it dies while it hands over a tensor, torch tells of a connection instead
        said = subprocess.run(program, capture_output=True, text=True, check=False, env=ENV)
        if "DataLoader worker" in said.stdout:
            break
    assert re.search(r"DataLoader worker \(pid.*\)", said.stdout), said.stderr
    assert "Stage 'retrain' has stopped; the model is as it was before that stage." in said.stdout
    assert said.stdout.endswith("True\n")


# Killed for real

_SCRIPT = """
    import os, random, signal, sys, time, torch
    from pathlib import Path
    from tests.pipeline.test_workdir import run

    folder, out, chance, killed = Path(sys.argv[1]), Path(sys.argv[2]), random.Random(0), 0
    torch.set_num_threads(1)
    while not out.exists():
        child = os.fork()
        if not child:
            run("back and forth", folder).compressed.save(out)
            os._exit(0)
        if killed < 30:
            time.sleep(chance.uniform(0.0, 0.3))
            os.kill(child, signal.SIGKILL)
        killed += os.waitpid(child, 0)[1] == signal.SIGKILL
    print(killed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_again_and_again_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    out = tmp_path / "out.dcz"
    program = [sys.executable, "-c", textwrap.dedent(_SCRIPT), tmp_path / "work", out]
    said = subprocess.run(program, capture_output=True, text=True, check=False, env=ENV, timeout=300)
    assert int(said.stdout) > 3, said.stderr
    assert out.read_bytes() == run("back and forth", None).compressed.to_bytes()
