"""What makers and measurers of records share: networks, their data, their accuracy."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import deepcompress as dc
from deepcompress import models
from deepcompress.container.source import atomic_file
from deepcompress.recipes import Recipe

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))

from _common import accuracy_on
from _data import SIZES, Batches, Split, load_part, stand_in
from resnet20_cifar10 import load_checkpoint

__all__ = [
    "HELD_OUT", "NETWORKS", "RECORDS", "Batches", "Split", "dense_bytes", "divided", "error_of_file", "error_on", "images",
    "load_checkpoint", "make", "read_json", "write_json",
]  # fmt: skip

RECORDS = Path(__file__).parent / "records"
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "LeNet300100": models.LeNet300100, "LeNet5": models.LeNet5, "resnet20": models.resnet20, "resnet56": models.resnet56,
}  # fmt: skip
HELD_OUT = {"mnist": 10_000, "cifar10": 5_000}  # training images to choose by


def make(network: str) -> nn.Module:
    if network not in NETWORKS:
        raise dc.ParameterError.of("network", "a recipe", f"one of {', '.join(NETWORKS)}", network)
    return NETWORKS[network]()


def dense_bytes(network: str) -> int:
    """Of the module's state dict as it is: float32 weights and statistics, and what else it counts."""
    return sum(tensor.numel() * tensor.element_size() for tensor in make(network).state_dict().values())


def images(recipe: Recipe, folder: Path | None, *, train: bool) -> Split:
    """Training or test images of a recipe's data set, and none of the others; where there is no folder, stand-ins."""
    if recipe.data not in SIZES:
        raise dc.ParameterError.of("data", "a recipe", f"one of {', '.join(SIZES)}", recipe.data)
    return _images(recipe.data, folder, train)


@cache
def _images(data: str, folder: Path | None, train: bool) -> Split:
    return stand_in(data)[0 if train else 1] if folder is None else load_part(data, folder, train=train)


def divided(whole: Split, data: str) -> tuple[Split, Split]:
    """Training images to train on, and those to choose by: the same ones each time."""
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(1))
    held = HELD_OUT[data] * len(whole) // SIZES[data][0]
    return whole.take(order[:-held]), whole.take(order[-held:])


def error_on(split: Split, model: nn.Module) -> float:
    """Share of a split's images that a model classifies wrong, in float32."""
    return round(1 - accuracy_on(split)(model), 6)


def error_of_file(file: Path | bytes, recipe: Recipe, split: Split) -> float:
    """The same, of a fresh network into which a file is loaded."""
    return error_on(split, dc.load(file).load_into(make(recipe.network)))


def read_json(path: Path) -> dict[str, Any]:
    """What is kept there; nothing where there is no such file."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write((json.dumps(facts, indent=1) + "\n").encode())
