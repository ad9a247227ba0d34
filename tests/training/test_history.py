"""A history is plain data both ways, and its seconds add up to no more than the clock says."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import deepcompress as dc
from deepcompress.errors import ParameterError
from deepcompress.training.history import EpochRecord, History

number = st.floats(allow_nan=True, allow_infinity=True)
maybe = st.none() | number
record = st.builds(
    EpochRecord, st.integers(1, 9), number, maybe, maybe, maybe, number, number, number, number, number,
    st.lists(number, max_size=4).map(tuple),
)  # fmt: skip


@given(st.lists(record, max_size=3).map(tuple), st.none() | st.integers(1, 3))
def test_a_history_survives_strict_json(epochs: tuple[EpochRecord, ...], kept: int | None) -> None:
    history = History(epochs, kept)
    text = json.dumps(history.as_dict(), allow_nan=False)
    assert repr(History.from_dict(json.loads(text))) == repr(history)  # by repr: NaN is not equal to itself


@pytest.mark.parametrize("data", [None, [], {}, {"kept": 1}, {"kept": 1, "epochs": [{}]}, {"kept": "x", "epochs": []},
                                  {"kept": 1, "epochs": [{**History((EpochRecord(1, 0, None, None, None, 0, 0),)).as_dict()
                                                          ["epochs"][0], "los": 3}]}])  # fmt: skip
def test_what_is_no_history(data: Any) -> None:
    with pytest.raises(ParameterError, match=r"The 'data' parameter of History.from_dict must be a dict as as_dict makes them"):
        History.from_dict(data)


def test_columns_and_sums(model: nn.Module, train: Any) -> None:
    seen: list[EpochRecord] = []
    history = dc.fit(model, train, dc.TrainSettings(epochs=3), validate=lambda model: 0.5, after_epoch=seen.append)
    assert tuple(seen) == history.epochs
    assert history.column("validation") == [0.5, 0.5, 0.5]
    assert len(history.step_losses) == 3 * len(train)
    assert history.step_losses[3:6] == history.epochs[1].step_losses
    assert history.epochs[1].loss == pytest.approx(sum(history.epochs[1].step_losses) / 3)
    assert history.seconds == sum(history.column("seconds"))
    with pytest.raises(ParameterError, match=r"The 'name' parameter of History.column must be one of epoch, loss, accuracy"):
        history.column("los")


class Slow:
    """Batches that take their time, and whose tensors take some to move."""

    class Batch(tuple[Tensor, Tensor]):
        __slots__ = ()

        def to(self, device: torch.device) -> tuple[Tensor, Tensor]:
            time.sleep(0.02)
            return tuple(self)  # type: ignore[return-value]

    def __init__(self, batches: Any) -> None:
        self.batches = list(batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            time.sleep(0.01)
            yield self.Batch(batch)
        time.sleep(0.03)


def test_seconds_are_told_apart(model: nn.Module, train: Any) -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        time.sleep(0.04)
        out: Tensor = nn.functional.cross_entropy(model(batch[0]), batch[1])
        return out

    def validate(model: nn.Module) -> float:
        time.sleep(0.05)
        return 0.0

    start = time.perf_counter()
    record = dc.fit(model, Slow(train), dc.TrainSettings(epochs=1), loss=loss, validate=validate).epochs[0]
    clock = time.perf_counter() - start
    assert record.seconds_loading >= 0.06  # three batches, and the end
    assert record.seconds_training >= 0.12
    assert record.seconds_validating >= 0.05
    assert record.seconds - record.seconds_loading - record.seconds_training >= 0.06  # moving the batches
    assert record.seconds + record.seconds_validating <= clock
    assert math.isfinite(record.loss)
