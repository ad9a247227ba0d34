"""Batches move and keep their kind."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from deepcompress.training.batches import cross_entropy, device_of, epoch_length, to_device

META = torch.device("meta")  # a device that every build of torch has


class Pair(NamedTuple):
    x: Any
    y: Any


def tensors_in(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    values = batch.values() if hasattr(batch, "values") else batch if isinstance(batch, (list, tuple)) else []
    return [tensor for value in values for tensor in tensors_in(value)]


ONE, TWO = torch.ones(2), torch.zeros(3)


@pytest.mark.parametrize(
    "batch",
    [
        ONE,
        (ONE, TWO),
        [ONE, [TWO, "text", 3]],
        Pair(ONE, {"deep": TWO}),
        {"a": ONE, "b": None},
        OrderedDict(a=ONE),
        UserDict(a=ONE),
        defaultdict(list, a=ONE),
    ],
)
def test_all_tensors_move_and_kinds_stay(batch: Any) -> None:
    moved = to_device(batch, META)
    assert type(moved) is type(batch)
    assert tensors_in(moved)
    assert all(tensor.device == META for tensor in tensors_in(moved))
    assert all(tensor.device.type == "cpu" for tensor in tensors_in(batch))


def test_a_mapping_that_cannot_be_written_to_becomes_a_dict() -> None:
    assert to_device(MappingProxyType({"a": ONE}), META)["a"].device == META


def test_what_can_move_itself_does() -> None:
    class Graph:
        def to(self, device: torch.device) -> str:
            return f"on {device}"

    assert to_device([Graph()], META) == ["on meta"]


def test_batches_follow_the_model() -> None:
    assert device_of(nn.Linear(2, 2, device="meta")) == META
    assert device_of(nn.ReLU()) == torch.device("cpu")


def test_length_of_an_epoch() -> None:
    assert epoch_length([1, 2, 3]) == 3
    assert epoch_length([]) == 1
    assert epoch_length(iter([1, 2])) == 2


@pytest.mark.parametrize("targets", [torch.tensor([1, 0]), torch.tensor([[0.1, 0.9], [0.3, 0.7]])])
def test_accuracy_of_classes_and_of_probabilities(targets: Tensor) -> None:
    _, accuracy = cross_entropy(nn.Identity(), (torch.tensor([[0.0, 1.0], [5.0, 0.0]]), targets), 0.0)
    assert accuracy == (1.0 if targets.ndim == 1 else 0.5)
