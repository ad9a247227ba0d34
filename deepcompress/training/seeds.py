"""Every random generator that training uses, seeded for a while and then as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

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
