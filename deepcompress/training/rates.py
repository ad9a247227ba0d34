"""Learning rates over time: torch's schedulers by name, chains of them, and when each is stepped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR, ReduceLROnPlateau

SHORT_NAMES = ("constant", "cosine", "onecycle", "multistep")
_CHAINS = ("SequentialLR", "ChainedScheduler")
_PER_BATCH = ("cosine", "onecycle", "OneCycleLR", "CyclicLR")  # torch means the last two to be stepped so
_EXPECTED = "scheduler_options['schedulers'] is a list of mappings such as {'scheduler': 'LinearLR', 'total_iters': 5}"


@dataclass(frozen=True)
class Span:
    """How long a scheduler runs, and how high the rate is."""

    lr: float
    epochs: int
    steps: int


def is_known(name: object) -> bool:
    """Whether `named_scheduler` knows this name."""
    return name in SHORT_NAMES or is_class(torch.optim.lr_scheduler, name, LRScheduler)


def is_class(module: Any, name: object, base: type) -> bool:
    """Whether `name` is that of a class in `module` which inherits from `base`."""
    found = vars(module).get(name) if isinstance(name, str) else None
    return isinstance(found, type) and issubclass(found, base) and found is not base


def named_scheduler(optimizer: Optimizer, name: str, options: Mapping[str, Any], span: Span) -> LRScheduler | None:
    """The scheduler of a name; None for a constant rate.

    Raises:
        TypeError, ValueError: it does not take its options.
    """
    total = max(span.epochs * span.steps, 1)
    if name == "constant":
        return None
    if name == "cosine":
        return CosineAnnealingLR(optimizer, **{"T_max": total, **options})
    if name == "onecycle":
        return OneCycleLR(optimizer, span.lr, **{"total_steps": max(total, 2), "cycle_momentum": False, **options})
    if name == "multistep":
        return MultiStepLR(optimizer, **{"milestones": [span.epochs // 2, span.epochs * 3 // 4], **options})
    return _torch_scheduler(optimizer, name, options)


def _torch_scheduler(optimizer: Optimizer, name: str, options: Mapping[str, Any]) -> LRScheduler:
    """A class of torch.optim.lr_scheduler; the links of a chain are mappings like options, their names among them."""
    options = dict(options)
    make: Any = getattr(torch.optim.lr_scheduler, name)
    if name not in _CHAINS:
        made: LRScheduler = make(optimizer, **options)
        return made
    links = options.pop("schedulers", None)
    if not (isinstance(links, Sequence) and links and all(_is_link(link) for link in links)):
        raise ValueError(f"{_EXPECTED}, not {links!r}")
    chain = [_torch_scheduler(optimizer, link["scheduler"], _without_name(link)) for link in links]
    chained: LRScheduler = make(chain, **options) if name == "ChainedScheduler" else make(optimizer, chain, **options)
    return chained


def _is_link(link: object) -> bool:
    name = link.get("scheduler") if isinstance(link, Mapping) else None
    return name not in SHORT_NAMES and is_known(name)


def _without_name(link: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in link.items() if key != "scheduler"}


class Rate:
    """A scheduler, or none, stepped where it wants to be.

    Args:
        per_batch: step it after each batch, else after each epoch; where None, its name decides.
        name: of the scheduler, "" for one that a callable made.
        steps: batches in all epochs.
    """

    def __init__(self, scheduler: LRScheduler | None, per_batch: bool | None, name: str, steps: int) -> None:
        self._scheduler = scheduler
        self._per_batch = name in _PER_BATCH if per_batch is None else per_batch
        self._left = steps - 1  # a scheduler made for n steps must not be asked for one more

    def after_batch(self, loss: float) -> None:
        """Follow a batch of this loss."""
        if self._per_batch and self._left > 0:
            self._step(loss)
            self._left -= 1

    def after_epoch(self, loss: float) -> None:
        """Follow an epoch of this mean loss."""
        if not self._per_batch:
            self._step(loss)

    def state_dict(self) -> dict[str, Any]:
        """Where the scheduler is."""
        return {"left": self._left, "scheduler": None if self._scheduler is None else self._scheduler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Bring it there again."""
        self._left = state["left"]
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])

    def _step(self, loss: float) -> None:
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(loss)
        elif self._scheduler is not None:
            self._scheduler.step()
