"""What training sets for the whole process, and sets back: random generators and the handling of tiny numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Seed Python's, numpy's and torch's generators (the CPU's and the device's), and restore their states afterwards.

    None leaves them alone: what is drawn moves them on, as in any program.
    """
    if seed is None:
        yield
        return
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (data sets draw from this one)
    on_device = device.type not in ("cpu", "meta")
    devices = [device] if on_device else []
    with torch.random.fork_rng(devices, device_type=device.type if on_device else "cuda"):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Count denormal numbers as zero: weights that decay make many of them, and each costs a hundred cycles."""
    was_flushed = bool((torch.tensor([1e-40]) == 0).item())
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_flushed)
