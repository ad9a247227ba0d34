"""Training leaves behind what it was asked for and nothing else: on errors the model, always the process, is as it was."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from deepcompress.errors import ParameterError, PipelineError, TrainingError
from deepcompress.training.loop import fit
from deepcompress.training.settings import TrainSettings

Batches = Any


def snapshot(model: nn.Module) -> list[bytes]:
    tensors = (*model.parameters(), *model.buffers())
    return [tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in tensors]


def squares(model: nn.Module, batch: Any) -> Tensor:
    loss: Tensor = model(batch["x"] if isinstance(batch, dict) else batch[0]).square().mean()
    return loss


def test_training_lowers_the_loss_and_records_each_epoch(model: nn.Module, train: Batches) -> None:
    history = fit(model, train, TrainSettings(epochs=8, lr=0.05))
    assert [record.epoch for record in history.epochs] == list(range(1, 9))
    assert history.epochs[-1].loss < history.epochs[0].loss
    assert history.kept == 8
    assert all(record.accuracy is not None and 0 <= record.accuracy <= 1 for record in history.epochs)
    assert history.epochs[0].lr == 0.05


def test_a_seeded_run_reproduces_bit_for_bit(model: nn.Module, train: Batches) -> None:
    begin = model.state_dict()
    begin = {name: tensor.clone() for name, tensor in begin.items()}
    shuffled = DataLoader(train.dataset, 5, shuffle=True)
    ends = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        model.load_state_dict(begin)
        model.seen.zero_()
        fit(model, shuffled, TrainSettings(epochs=2, seed=7))
        ends.append(snapshot(model))
    assert ends[0] == ends[1]
    model.load_state_dict(begin)
    fit(model, shuffled, TrainSettings(epochs=2, seed=8))
    assert snapshot(model)[0] != ends[0][0]


@pytest.mark.parametrize("flushed", [False, True])
def test_the_process_is_as_it_was(model: nn.Module, train: Batches, flushed: bool) -> None:
    def world() -> tuple[Any, ...]:
        numpy = np.random.get_state()  # noqa: NPY002
        return random.getstate(), numpy[1].tobytes(), numpy[2], torch.get_rng_state().numpy().tobytes()

    model.norm.eval()
    model.fc1.weight.requires_grad_(False)
    before = world()
    torch.set_flush_denormal(flushed)
    try:
        fit(model, DataLoader(train.dataset, 5, shuffle=True), TrainSettings(epochs=1))
        assert bool((torch.tensor([1e-40]) * 1).eq(0).item()) == flushed
    finally:
        torch.set_flush_denormal(False)
    assert world() == before
    assert (model.training, model.norm.training, model.fc1.training) == (True, False, True)
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, True, True, True, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_seed_of_none_draws_from_the_generators_there_are(model: nn.Module, train: Batches) -> None:
    before = torch.get_rng_state()
    fit(model, DataLoader(train.dataset, 5, shuffle=True), TrainSettings(epochs=1, seed=None))
    assert not torch.equal(torch.get_rng_state(), before)


def test_frozen_parameters_keep_every_bit(model: nn.Module, train: Batches) -> None:
    model.fc1.requires_grad_(False)
    before = model.fc1.weight.clone()
    fit(model, train, TrainSettings(epochs=2, optimizer="SGD", optimizer_options={"weight_decay": 0.1}))
    assert torch.equal(model.fc1.weight, before)


def dying(batches: Batches) -> Iterator[Any]:
    yield from list(batches)[:2]
    raise OSError("the disk is gone")


class Dying:
    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Any]:
        return dying(self.batches)


def after(steps: int, error: BaseException) -> Callable[[nn.Module, Any], Tensor]:
    left = [steps]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise error
        return squares(model, batch)

    return loss


def interrupted(model: nn.Module) -> float:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"train": "dies"}, OSError, "the disk is gone"),
        ({"loss": after(4, ZeroDivisionError("mine"))}, ZeroDivisionError, "mine"),
        ({"loss": after(1, KeyboardInterrupt())}, KeyboardInterrupt, None),
        ({"validate": interrupted}, KeyboardInterrupt, None),
        (
            {"loss": lambda model, batch: squares(model, batch) * math.nan},
            TrainingError,
            "train: the loss is nan in epoch 1, step 1",
        ),
        ({"loss": lambda model, batch: squares(model, batch).item()}, PipelineError, "must give a scalar tensor, not 0."),
        ({"loss": lambda model, batch: model(batch[0])}, PipelineError, r"not a tensor of shape \(8, 3\)"),
    ],
)
def test_after_an_error_the_model_is_as_it_was(
    model: nn.Module, train: Batches, change: dict[str, Any], error: type[BaseException], text: str | None
) -> None:
    before = snapshot(model)
    loader = Dying(train) if change.pop("train", None) else train
    with pytest.raises(error, match=text):
        fit(model, loader, TrainSettings(epochs=3, lr=0.1), **change)
    assert snapshot(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_parameters_that_the_last_step_lost_are_noticed(model: nn.Module, train: Batches) -> None:
    before = snapshot(model)

    def infinite_slope(model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0]).mean() * 0).sqrt()  # 0, with the gradient inf x 0

    with pytest.raises(TrainingError, match="6 parameters are NaN or infinite after epoch 1; the model is as it was before"):
        fit(model, list(train)[:1], TrainSettings(epochs=1), loss=infinite_slope)
    assert snapshot(model) == before


def test_nothing_to_train_on(model: nn.Module, train: Batches) -> None:
    settings = TrainSettings(epochs=2)
    with pytest.raises(PipelineError, match=r"nothing to train on: give run\(..., train=loader\)"):
        fit(model, None, settings)
    with pytest.raises(PipelineError, match="gives no batches: it is empty, or an iterator that can be read only once"):
        fit(model, [], settings)
    with pytest.raises(PipelineError, match="an iterator that can be read only once"):
        fit(model, iter(list(train)), settings)
    with pytest.raises(PipelineError, match="nothing learns"):
        fit(model.requires_grad_(False), train, settings)


def test_a_loader_without_a_length_is_counted(model: nn.Module, train: Batches) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(train.dataset)

    history = fit(model, DataLoader(Stream(), 8), TrainSettings(epochs=2, scheduler="cosine"))
    assert len(history.epochs) == 2
    assert history.epochs[-1].lr < history.epochs[0].lr


def test_no_epochs_change_nothing(model: nn.Module) -> None:
    before = snapshot(model)
    assert fit(model, None, TrainSettings(epochs=0)).epochs == ()
    assert snapshot(model) == before


def test_the_best_epoch_comes_back_with_all_its_buffers(model: nn.Module, train: Batches) -> None:
    scores = iter([0.1, math.nan, 0.7, 0.2])
    seen: list[list[bytes]] = []

    def validate(model: nn.Module) -> float:
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append(snapshot(model))
        return next(scores)

    history = fit(model, train, TrainSettings(epochs=4), validate=validate, restore_best=True)
    assert history.kept == 3
    assert snapshot(model) == seen[2]


def test_a_measure_that_is_never_a_number_keeps_the_last_epoch(model: nn.Module, train: Batches) -> None:
    history = fit(model, train, TrainSettings(epochs=2), validate=lambda model: math.nan, restore_best=True)
    assert history.kept == 2


def test_without_restore_best_validation_decides_nothing(model: nn.Module, train: Batches) -> None:
    scores = iter([0.9, 0.1])
    history = fit(model, train, TrainSettings(epochs=2), validate=lambda model: next(scores))
    assert [record.validation for record in history.epochs] == [0.9, 0.1]
    assert history.kept == 2


def test_restore_best_needs_a_measure(model: nn.Module, train: Batches) -> None:
    with pytest.raises(
        ParameterError, match=r"The 'restore_best' parameter of train must be False, unless run\(..., validate=...\)"
    ):
        fit(model, train, TrainSettings(), restore_best=True)


@pytest.mark.parametrize("wrap", [lambda x, y: {"x": x, "y": y}, lambda x, y: (x, y, "a third")])
def test_a_loss_takes_any_batch(model: nn.Module, train: Batches, wrap: Callable[[Tensor, Tensor], Any]) -> None:
    history = fit(model, [wrap(x, y) for x, y in train], TrainSettings(epochs=1), loss=squares)
    assert history.epochs[0].accuracy is None


def test_batches_that_the_default_loss_cannot_take(model: nn.Module, train: Batches) -> None:
    with pytest.raises(PipelineError, match=r"a batch of type dict is not \(inputs, targets\): give run\(..., loss=...\)"):
        fit(model, [{"x": x} for x, _ in train], TrainSettings(epochs=1))

    class Dicts(nn.Linear):
        def forward(self, inputs: Tensor) -> Any:
            return {"logits": super().forward(inputs)}

    with pytest.raises(PipelineError, match="the model gives a dict, not logits"):
        fit(Dicts(6, 3), train, TrainSettings(epochs=1))


def test_training_inside_of_no_grad(model: nn.Module, train: Batches) -> None:
    before = snapshot(model)
    with torch.no_grad():
        fit(model, train, TrainSettings(epochs=1))
    assert snapshot(model) != before


def test_bfloat16_autocast_trains_parameters_of_their_own_type(model: nn.Module, train: Batches) -> None:
    kinds = set()
    model.fc1.register_forward_hook(lambda module, args, out: kinds.add(out.dtype))
    history = fit(model, train, TrainSettings(epochs=6, lr=0.05, autocast="bfloat16"))
    assert kinds == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert history.epochs[-1].loss < history.epochs[0].loss


def test_frozen_statistics_are_used_and_left_alone() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 3))
    model[1].running_mean.fill_(2.0)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    modes = set()
    model.register_forward_hook(lambda module, args, out: modes.add((module[1].training, module[2].training)))
    batch = (torch.randn(5, 6), torch.randint(0, 3, (5,)))
    weight = model[1].weight.detach().clone()
    fit(model, [batch], TrainSettings(epochs=2, lr=0.1, frozen_statistics=True))
    assert modes == {(False, True)}
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert not torch.equal(model[1].weight, weight)
    assert model[1].training


def test_clipping_bounds_the_step(model: nn.Module, train: Batches) -> None:
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    fit(model, list(train)[:1], TrainSettings(epochs=1, lr=1.0, optimizer="SGD", clip_norm=1e-3))
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert 0 < float((after - before).norm()) <= 1.01e-3


def test_expanded_and_replaced_buffers_survive_an_error(train: Batches) -> None:
    class Odd(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, 3)
            self.register_buffer("wide", torch.ones(1).expand(4))
            self.register_buffer("count", torch.zeros(()))

        def forward(self, inputs: Tensor) -> Tensor:
            self.count = self.count + 1
            return super().forward(inputs)

    model = Odd()
    before = snapshot(model)
    with pytest.raises(ZeroDivisionError):
        fit(model, train, TrainSettings(epochs=1), loss=after(2, ZeroDivisionError()))
    assert snapshot(model) == before
