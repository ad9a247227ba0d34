"""The processes that train together. Alone, as nearly always, a process pays nothing for what stands here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from deepcompress.tensors.wrappers import bare_names

T = TypeVar("T")
Loss = tuple[float, float | None]  # and the share that is right

NO_BATCH = object()  # for a rank whose loader has ended before the others'


class Group:
    """One process, by itself. `JoinedGroup` does the same for several.

    Attributes:
        rank: which of them this one is, from 0.
        size: how many there are.
        device: the one that this process is to use.
    """

    rank = 0
    size = 1

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which speaks, draws and saves for all."""
        return self.rank == 0

    def agreed(self, call: Callable[[], T]) -> T:
        """What `call` gives here. It runs on each rank, and where it raises on one, all raise."""
        return call()

    def together(self, call: Callable[[], T]) -> list[T]:
        """What `call` gives on each rank, for all to know. Where it raises on one, all raise."""
        return [call()]

    def once(self, call: Callable[[], T]) -> T:
        """What `call` gives on rank 0, where alone it runs. Where it raises, all raise."""
        return call()

    def measured_once(self, measure: Callable[[nn.Module], float] | None) -> Callable[[nn.Module], float] | None:
        """The measure, taken on rank 0 and known to all."""
        return measure

    def in_step(self, batches: Iterable[Any]) -> Iterable[Any]:
        """This rank's batches, as long as any rank has one; NO_BATCH where only others do."""
        return batches

    def averaged(self, call: Callable[[], Loss], parameters: Sequence[Tensor]) -> Loss:
        """Run `call`, which fills gradients; then they, and what it gives, are the means over the rows of all ranks' batches."""
        return call()

    def align(self, tensors: Mapping[str, Tensor]) -> None:
        """Every rank gets the values of rank 0. Raises ModelError where names, shapes or types differ."""

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """As `align`, of tensors that are known to correspond."""

    def check_equal(self, tensors: Mapping[str, Tensor], when: str) -> None:
        """Raise TrainingError, naming rank and tensor, unless every rank holds the same bits."""


def current_group() -> Group:
    """The group that this process has joined, by `process_group` or by torch's own means; itself where it has joined none."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        from deepcompress.training.joined import JoinedGroup

        return JoinedGroup()
    return Group()


def tensors_of(model: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every parameter and buffer, by its name without those of wrappers; those that a state dict leaves out among them."""
    if isinstance(model, nn.Module):
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return {name: tensors[own] for own, name in bare_names(model, tensors).items()}
    return {name: value for name, value in model.items() if isinstance(value, Tensor)}
