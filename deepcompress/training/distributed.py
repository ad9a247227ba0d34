"""Training in several processes, as torchrun starts them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, Subset

from deepcompress.errors import ParameterError, TrainingError
from deepcompress.tensors import wrappers
from deepcompress.tensors.model import CompressedModel
from deepcompress.tensors.wrappers import bare_state, layers_of_wrapping
from deepcompress.training.group import Group, current_group

_LOGGER = logging.getLogger(__name__)
_PATIENCE = timedelta(hours=1)  # while rank 0 measures, the others wait
_FROM_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def process_group(backend: str | None = None) -> Iterator[Group]:
    """Join the processes that torchrun has started, and leave them again whatever happens.

        with dc.process_group() as group:                     # torchrun --nproc-per-node 4 train.py
            model = Net().to(group.device)
            result = pipeline.run(model, train=loader, evaluate=accuracy)
            if group.is_first:
                result.compressed.save("model.dcz")

    Inside, `fit` and `Pipeline.run` train one model on all ranks: gradients, losses and accuracies are means over the rows of all
    ranks' batches (for a loss that is a mean over its batch), so that n ranks do what one process does with batches n times as
    large. Masks are made and weights shared on rank 0, and every rank gets them; `evaluate` and `validate` run on rank 0 alone,
    and must not wait for others. Buffers, such as batch norm's statistics, are rank 0's, taken over at the end of each epoch. A
    sampler or loader with `set_epoch` is told the epoch. After each stage the ranks compare every bit. An exception on one
    rank ends all, with one message that names it.

    Args:
        backend: "gloo", "nccl", or None for nccl where each process has a GPU of its own, else gloo.

    Yields:
        The group: `.rank`, `.size`, `.device` and `.is_first`. In a process that torchrun did not start it is of size 1, and
        nothing happens.

    Raises:
        ParameterError: a backend that cannot work here.
        TrainingError: the processes do not find each other.
    """
    if backend not in (None, "gloo", "nccl"):
        raise ParameterError.of("backend", "process_group", "None, 'gloo' or 'nccl'", backend)
    if dist.is_initialized() or any(name not in os.environ for name in _FROM_TORCHRUN):
        yield current_group()
        return
    _join(backend)
    try:
        yield current_group()
    finally:
        dist.destroy_process_group()


def _join(backend: str | None) -> None:
    local, beside = (int(os.environ.get(name, least)) for name, least in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)))
    gpus = torch.cuda.device_count()
    if backend == "nccl" and beside > gpus:
        expected = f"'gloo' for {beside} processes on a machine with {gpus} GPUs, for nccl needs one for each"
        raise ParameterError.of("backend", "process_group", expected, backend)
    on_gpu = backend == "nccl" or (backend is None and beside <= gpus)
    if on_gpu:
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f"cannot join the processes that torchrun described: {error}") from error


def unwrapped(model: Any) -> Any:
    """The model without DistributedDataParallel, whose work `fit` does itself; a compiled one inside of it stays compiled."""
    layers = list(layers_of_wrapping(model))
    distributed = [place for place, layer in enumerate(layers) if isinstance(layer, DistributedDataParallel)]
    return layers[distributed[-1] + 1] if distributed else model


def bare(model: Any) -> Any:
    """The module inside of all wrappers: its parameters have the names that a file should have.

    A state dict that was saved from a wrapped model comes back under those names, a new one; anything else as it is.
    """
    if isinstance(model, CompressedModel):
        return bare_state(model.state_dict())
    if isinstance(model, Mapping):
        return bare_state(model)
    for layer in layers_of_wrapping(model):
        if isinstance(layer, DataParallel) and len(layer.device_ids) > 1:
            _LOGGER.warning("DataParallel is taken off, and one GPU works; dc.process_group under torchrun uses all")
    return wrappers.bare(model)


def tell_epoch(train: object, epoch: int) -> None:
    """Tell the epoch to whatever wants to know it: a DistributedSampler shuffles by it."""
    batches = getattr(train, "batch_sampler", None)
    told: set[int] = set()
    for listener in (train, getattr(train, "sampler", None), batches, getattr(batches, "sampler", None), _data_of(train)):
        tell = getattr(listener, "set_epoch", None)
        if callable(tell) and id(listener) not in told:
            told.add(id(listener))
            tell(epoch)


def _data_of(train: object) -> object:
    return train.dataset if isinstance(train, DataLoader) else None


def notice_of_equal_batches(train: object) -> None:
    """Say so where the ranks of a group seem to draw from the whole data set each."""
    if not isinstance(train, DataLoader) or isinstance(train.dataset, Subset):
        return
    if type(train.sampler) in (RandomSampler, SequentialSampler):
        _LOGGER.warning("every rank draws from the whole data set; a sampler torch.utils.data.DistributedSampler shares it out")
