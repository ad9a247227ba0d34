"""Every random generator that training uses, seeded for a while and then as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def generators_kept() -> Iterator[None]:
    """Python's, numpy's and torch's generators, on every device in use, end as they began."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (loaders draw from the old generator)
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed all generators, and restore them afterwards. None leaves them alone."""
    if seed is None:
        yield
        return
    with generators_kept():
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.manual_seed(seed)
        yield


def all_generators() -> dict[str, Any]:
    """The states of Python's, numpy's and torch's generators, for `set_all_generators`."""
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    states = {"python": random.getstate(), "numpy": np.random.get_state()}  # noqa: NPY002
    return {**states, "torch": torch.get_rng_state(), "cuda": on_gpus}


def set_all_generators(states: Mapping[str, Any]) -> None:
    """Bring all generators to where they were; those of devices that are not here are left out."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)


def state_of(owner: object) -> dict[str, Any]:
    """The states of the generators that an object has as attributes."""
    return {name: _get(generator) for name, generator in getattr(owner, "__dict__", {}).items() if _is_generator(generator)}


def set_state_of(owner: object, states: Mapping[str, Any]) -> None:
    """Bring an object's generators to where they were."""
    for name, state in states.items():
        if _is_generator(generator := getattr(owner, name, None)):
            _set(generator, state)


def _is_generator(value: object) -> bool:
    return isinstance(value, (torch.Generator, np.random.Generator, np.random.RandomState, random.Random))


def _get(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _set(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Denormal numbers count as zero while training: sparse networks make many, and each costs a hundred cycles."""
    tiny = torch.tensor([1e-40])
    was_flushed = bool((tiny * 1).eq(0).item())
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_flushed)
