"""Compile once, before any test with a deadline runs."""

from __future__ import annotations

import pytest
import torch

from deepcompress.prune.allocate import prune_masks


@pytest.fixture(autouse=True, scope="session")
def compiled() -> None:
    for dtype in (torch.float32, torch.float64):
        prune_masks({"w": torch.ones(4, dtype=dtype)}, "percentile", q=0.5)
