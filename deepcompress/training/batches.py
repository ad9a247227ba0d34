"""Batches of any shape: from the loader, onto the model's device, and through the default loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepcompress.errors import PipelineError

_IGNORED = -100  # the target that cross entropy leaves out


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer lies; the CPU for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with every tensor in it on `device`; tuples, named tuples, lists and mappings keep their kind."""
    if callable(getattr(batch, "to", None)):  # tensors, packed sequences, the batches of other libraries
        return batch.to(device)
    if isinstance(batch, Mapping):
        moved = {key: to_device(value, device) for key, value in batch.items()}
        if not isinstance(batch, MutableMapping):
            return moved
        whole = copy(batch)
        whole.update(moved)
        return whole
    if isinstance(batch, tuple) and hasattr(batch, "_make"):
        return batch._make(to_device(value, device) for value in batch)
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def batches_per_epoch(train: Iterable[Any] | None) -> int | None:
    """How many batches a loader says that it gives; None where it does not say.

    Raises:
        PipelineError: there is no loader, or it cannot be iterated.
    """
    if train is None:
        raise PipelineError("there is nothing to train on: give train=..., an iterable of batches")
    if not hasattr(train, "__iter__") and not hasattr(train, "__getitem__"):
        raise PipelineError(f"the training batches must come from an iterable, not from {type(train).__name__}")
    try:
        steps = len(train)  # type: ignore[arg-type]
    except TypeError:  # a generator has no length, a DataLoader over a stream raises when asked
        return None
    return steps or None


def epoch_batches(train: Iterable[Any], epoch: int) -> Iterator[Any]:
    """The batches of an epoch, counted from 1. Raises PipelineError where there are none."""
    empty = True
    for batch in train:
        empty = False
        yield batch
    if empty and epoch == 1:
        raise PipelineError("the training loader gives no batches")
    if empty:
        raise PipelineError(
            f"the training loader gives no batches in epoch {epoch}: it can be read only once; "
            "hand in what can be iterated anew, such as a DataLoader or a list"
        )


def default_loss(model: nn.Module, batch: Any, smoothing: float) -> tuple[Tensor, Tensor]:
    """Cross entropy of (inputs, targets), and how many (right, counted) targets, shape (2,).

    Raises:
        PipelineError: the batch is no such pair, or the model's output is no tensor of scores.
    """
    inputs, targets = _pair(batch)
    scores = model(inputs)
    if not isinstance(scores, Tensor) or scores.ndim < 2:
        got = f"of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise PipelineError(f"cross entropy needs scores of shape (batch, classes, ...), not {got}: give loss=...")
    loss = F.cross_entropy(scores, targets, label_smoothing=smoothing)
    classes = targets.argmax(1) if targets.is_floating_point() else targets
    right = (scores.detach().argmax(1) == classes).sum()
    return loss, torch.stack((right, (classes != _IGNORED).sum()))


def own_loss(value: object) -> Tensor:
    """What the user's loss returned. Raises PipelineError unless it is a scalar that can be differentiated."""
    if isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad:
        return value
    got = type(value).__name__
    if isinstance(value, Tensor):
        got = f"a tensor of shape {tuple(value.shape)} with requires_grad={value.requires_grad}"
    raise PipelineError(f"loss(model, batch) must return a scalar tensor that depends on the model; it returned {got}")


def _pair(batch: Any) -> tuple[Any, Tensor]:
    if isinstance(batch, (list, tuple)) and len(batch) == 2 and isinstance(batch[1], Tensor):
        return batch[0], batch[1]
    raise PipelineError(f"a batch of type {type(batch).__name__} is not (inputs, targets): give loss=... that takes it")
