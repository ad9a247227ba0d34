"""Batches of any shape: onto the model's device, and through the default loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepcompress.errors import PipelineError


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer lies; the CPU for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with every tensor in it on `device`; tuples, named tuples, lists and mappings keep their kind."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        moved = {key: to_device(value, device) for key, value in batch.items()}
        return moved if type(batch) is dict else type(batch)(moved)  # type: ignore[call-arg]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def epoch_batches(train: Iterable[Any] | None) -> Iterator[Any]:
    """The batches of one epoch.

    Raises:
        PipelineError: there is no loader, or it gives nothing (an iterator that a former epoch used up).
    """
    if train is None:
        raise PipelineError("this stage trains, and there is nothing to train on: give run(..., train=loader)")
    empty = True
    for batch in train:
        empty = False
        yield batch
    if empty:
        raise PipelineError("the training loader gives no batches: it is empty, or an iterator that can be read only once")


def split_batch(batch: Any) -> tuple[Any, Tensor]:
    """(inputs, targets) of a batch of the default kind. Raises PipelineError for any other."""
    if isinstance(batch, (list, tuple)) and len(batch) == 2 and isinstance(batch[1], Tensor):
        return batch[0], batch[1]
    raise PipelineError(f"a batch of type {type(batch).__name__} is not (inputs, targets): give run(..., loss=...) that takes it")


def cross_entropy(model: nn.Module, batch: Any, smoothing: float) -> tuple[Tensor, float]:
    """The default loss of a batch, and the share that is classified right."""
    inputs, targets = split_batch(batch)
    logits = model(inputs)
    right = (logits.detach().argmax(1) == targets).float().mean()
    return F.cross_entropy(logits, targets, label_smoothing=smoothing), float(right)
