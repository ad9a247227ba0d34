"""Batches of any shape: onto the model's device, and through the default loss."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
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
    """The batch with every tensor in it on `device`; tuples, named tuples, lists and mappings keep their kind.

    What knows how to move itself (`batch.to(device)`) does.
    """
    if isinstance(batch, Tensor):
        # The other way, from an accelerator, a copy that nobody waits for may be read too early.
        return batch.to(device, non_blocking=device.type == "cuda")
    if callable(getattr(batch, "to", None)):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return _mapping_to_device(batch, device)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)([to_device(value, device) for value in batch])
    return batch


def _mapping_to_device(batch: Mapping[Any, Any], device: torch.device) -> Mapping[Any, Any]:
    moved = {key: to_device(value, device) for key, value in batch.items()}
    if type(batch) is dict or not isinstance(batch, MutableMapping):
        return moved
    same_kind = copy.copy(batch)  # a defaultdict, say, whose class does not take a mapping
    same_kind.update(moved)
    return same_kind


def rows_of(batch: Any) -> int:
    """How many samples a batch has: the length of the first tensor in it; 1 where there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return next((rows_of(value) for value in batch if isinstance(value, (Tensor, Mapping, list, tuple))), 1)
    return 1


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


def epoch_length(train: Iterable[Any] | None) -> int:
    """Batches in an epoch, at least 1; they are counted where the loader does not say."""
    try:
        return max(len(train), 1)  # type: ignore[arg-type]
    except TypeError:  # also of a DataLoader over a data set without a length
        return sum(1 for _ in epoch_batches(train))


def split_batch(batch: Any) -> tuple[Any, Tensor]:
    """(inputs, targets) of a batch of the default kind. Raises PipelineError for any other."""
    if isinstance(batch, (list, tuple)) and len(batch) == 2 and isinstance(batch[1], Tensor):
        return batch[0], batch[1]
    kind = type(batch).__name__
    raise PipelineError(f"a batch of type {kind} is not (inputs, targets): give run(..., loss=...) that takes it")


def cross_entropy(model: nn.Module, batch: Any, smoothing: float) -> tuple[Tensor, float]:
    """The default loss of a batch, and the share that is classified right; targets are classes or their probabilities."""
    inputs, targets = split_batch(batch)
    logits = model(inputs)
    if not isinstance(logits, Tensor):
        raise PipelineError(f"the model gives a {type(logits).__name__}, not logits: give run(..., loss=...) that takes it")
    classes = targets.argmax(1) if targets.is_floating_point() else targets
    right = (logits.detach().argmax(1) == classes).float().mean()
    return F.cross_entropy(logits, targets, label_smoothing=smoothing), float(right)
