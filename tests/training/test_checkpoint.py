"""A training that goes on from its checkpoint ends as if nothing had happened."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepcompress as dc
from deepcompress.errors import FormatError, ModelError, ParameterError
from deepcompress.training.checkpoint import Checkpoint, described
from deepcompress.training.history import EpochRecord
from deepcompress.training.loop import fit
from deepcompress.training.settings import TrainSettings
from tests.pipeline.samples import same_bits
from tests.training.conftest import Small


class Stop(BaseException):
    pass


def stop_after(epoch: int) -> Any:
    def after(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise Stop

    return after


SETTINGS = TrainSettings(5, 1e-2, optimizer="SGD", optimizer_options={"momentum": 0.9}, scheduler="cosine")


@pytest.mark.parametrize("epoch", [1, 3, 4, 5])
def test_it_ends_the_same(epoch: int, model: Small, train: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path, whole = tmp_path / "run.dcz", copy.deepcopy(model)
    expected = fit(whole, train, SETTINGS)
    before = copy.deepcopy(model)
    with pytest.raises(Stop):
        fit(model, train, SETTINGS, checkpoint=path, after_epoch=stop_after(epoch))
    assert same_bits(model, before)
    records: list[EpochRecord] = []
    history = fit(model, train, SETTINGS, checkpoint=path, after_epoch=records.append)
    assert same_bits(model, whole)
    assert torch.equal(model.seen, whole.seen)
    assert history.step_losses == expected.step_losses
    assert [record.epoch for record in records] == list(range(epoch + 1, 6))
    assert f"goes on after epoch {epoch}, from {path}" in caplog.text


def test_a_finished_training_is_there_at_once(model: Small, train: Any, tmp_path: Path) -> None:
    whole, again = copy.deepcopy(model), copy.deepcopy(model)
    checkpoint = Checkpoint(tmp_path / "run.dcz", every=3)
    history = fit(whole, train, SETTINGS, checkpoint=checkpoint)
    assert checkpoint.epochs == 5
    assert fit(again, train, SETTINGS, checkpoint=str(checkpoint.path)) == history
    assert same_bits(again, whole)


def test_a_loader_that_keeps_its_own_state(model: Small, train: Any, tmp_path: Path) -> None:
    class Stream:
        """Goes on through its data where the last epoch ended."""

        def __init__(self) -> None:
            self.batches, self.at = list(train), 0

        def __len__(self) -> int:
            return 2

        def __iter__(self) -> Iterator[Any]:
            for _ in range(2):
                self.at = (self.at + 1) % 3
                yield self.batches[self.at]

        def state_dict(self) -> dict[str, int]:
            return {"at": self.at}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.at = state["at"]

    whole = copy.deepcopy(model)
    fit(whole, Stream(), SETTINGS)
    with pytest.raises(Stop):
        fit(model, Stream(), SETTINGS, checkpoint=tmp_path / "run.dcz", after_epoch=stop_after(2))
    fit(model, Stream(), SETTINGS, checkpoint=tmp_path / "run.dcz")
    assert same_bits(model, whole)


def test_another_training_or_file_is_refused_and_left_alone(model: Small, train: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.dcz"
    fit(model, train, SETTINGS, checkpoint=path)
    content = path.read_bytes()
    with pytest.raises(ParameterError, match=r"'checkpoint' .* this training \(train with TrainSettings\(epochs=2, lr=0\.5\)\)"):
        fit(model, train, TrainSettings(2, 0.5), checkpoint=path)
    assert path.read_bytes() == content
    dc.Pipeline([("encode", dc.HuffmanEncode())]).run(model).compressed.save(path)
    content = path.read_bytes()
    with pytest.raises(FormatError, match="but not a checkpoint"):
        fit(model, train, SETTINGS, checkpoint=path)
    assert path.read_bytes() == content


def test_a_state_without_a_form_is_named(model: Small, train: Any, tmp_path: Path) -> None:
    class Odd(torch.optim.SGD):
        def state_dict(self) -> dict[str, Any]:
            return {"odd": object()}

    before = copy.deepcopy(model)
    settings = TrainSettings(2, optimizer=lambda parameters: Odd(parameters, lr=0.1))
    with pytest.raises(ParameterError, match="a checkpoint cannot hold shared/optimizer/odd, which is of type object"):
        fit(model, train, settings, checkpoint=tmp_path / "run.dcz")
    assert same_bits(model, before)


def test_another_model_is_refused(model: Small, train: Any, tmp_path: Path) -> None:
    fit(model, train, SETTINGS, checkpoint=tmp_path / "run.dcz")
    other = nn.Sequential(nn.Linear(6, 3))
    with pytest.raises(ModelError, match=r"has 'fc1.weight', torch.float32 of shape \(8, 6\), the model has not"):
        fit(other, train, SETTINGS, checkpoint=tmp_path / "run.dcz")


@pytest.mark.parametrize("every", [0, -1, 2.5, True, None])
def test_every_is_a_number_of_epochs(every: Any) -> None:
    with pytest.raises(ParameterError, match="'every' parameter of Checkpoint must be a number of epochs above 0"):
        Checkpoint("x", every)


class Grows(nn.Module):
    """A buffer that is replaced by a longer one in each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)
        self.register_buffer("seen", torch.zeros(0))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.seen = torch.cat([self.seen, inputs.mean().reshape(1)])
        out: Tensor = self.fc(inputs)
        return out


def test_a_buffer_that_grows(train: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Grows()
    whole = copy.deepcopy(model)
    fit(whole, train, SETTINGS)
    with pytest.raises(Stop):
        fit(model, train, SETTINGS, checkpoint=tmp_path / "run.dcz", after_epoch=stop_after(2))
    fit(model, train, SETTINGS, checkpoint=tmp_path / "run.dcz")
    assert len(model.seen) == 15
    assert same_bits(model, whole)


def test_settings_in_words_are_the_same_in_every_process() -> None:
    assert described(SETTINGS) == (
        "TrainSettings(epochs=5, lr=0.01, optimizer='SGD', optimizer_options={'momentum': 0.9}, scheduler='cosine')"
    )
    odd = described(TrainSettings(optimizer=torch.optim.Adam, scheduler=lambda optimizer: optimizer))
    assert odd.startswith("TrainSettings(optimizer=torch.optim.adam.Adam, scheduler=")
    assert odd.endswith(".<locals>.<lambda>)")
    assert described({"b": (1, 2.0), "a": [None]}) == "{'a': [None], 'b': [1, 2.0]}"
