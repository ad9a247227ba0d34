"""What the quantizing stages have in common: which weights they take, with how many bits, and how values come and go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcompress.errors import ModelError, ParameterError, PipelineError
from deepcompress.pipeline.selection import Selection
from deepcompress.pipeline.state import Model, State
from deepcompress.tensors.elements import bfloat16_to_float32, dtype_name, from_torch, to_torch

Array = NDArray[Any]

SHARED_TYPES = ("float16", "bfloat16", "float32", "float64")


def is_int(value: object, least: int, most: float = math.inf) -> bool:
    """Whether this is an integer of this range, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def require(stage: object, name: str, holds: bool, expected: str) -> None:
    """Raise ParameterError unless a stage's parameter is as expected."""
    if not holds:
        raise ParameterError.of(name, type(stage).__name__, expected, getattr(stage, name))


def check_bits(bits: object, owner: str) -> None:
    """Raise ParameterError unless `bits` are a width for all weights, or names and widths."""
    widths = bits if isinstance(bits, Mapping) else {"": bits}
    if not widths or not all(isinstance(name, str) and is_int(width, 1, 16) for name, width in widths.items()):
        raise ParameterError.of("bits", owner, "an int from 1 to 16, or a mapping of names to such", bits)


def quantizable(selection: Selection, state: State, owner: str) -> dict[str, Tensor]:
    """Weights to quantize: real floating-point, not empty, not quantized before."""
    chosen = selection.of(state.model, owner)
    if again := [name for name in chosen if name in state.codebooks]:
        raise PipelineError(f"{owner}: {', '.join(again[:6])} already have a codebook from an earlier stage")
    return {name: weight for name, weight in chosen.items() if dtype_name(weight) in SHARED_TYPES and weight.numel()}


def widths_of(bits: int | Mapping[str, int], weights: Mapping[str, Tensor], model: Model, owner: str) -> dict[str, int]:
    """Weight name -> bits, in the order of the weights; those that no pattern means are left out."""
    if not isinstance(bits, Mapping):
        return dict.fromkeys(weights, bits)
    found: dict[str, int] = {}
    for pattern, width in bits.items():
        for name in _meant_by(pattern, weights, model, owner):
            found.setdefault(name, width)
    return {name: found[name] for name in weights if name in found}


def finite_values(name: str, weight: Tensor, purpose: str) -> Array:
    """A weight's values in a type that numpy calculates in. Raises ModelError, naming the purpose, where one is not finite."""
    values = from_torch(weight)
    values = bfloat16_to_float32(values) if dtype_name(weight) == "bfloat16" else values
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise ModelError(f"{name}: {bad} of {values.size} weights are NaN or infinite; {purpose} needs finite ones")
    return values


def write_values(weight: Tensor, values: Array) -> None:
    """Write values that the weight's type holds exactly, or rounds."""
    with torch.no_grad():
        weight.copy_(torch.from_numpy(np.ascontiguousarray(values)).reshape(weight.shape))


def write_elements(weight: Tensor, elements: Array) -> None:
    """Write elements of the weight's own type, of bfloat16 their bits."""
    with torch.no_grad():
        weight.copy_(to_torch(elements, dtype_name(weight)))


def _meant_by(pattern: str, weights: Mapping[str, Tensor], model: Model, owner: str) -> list[str]:
    """Which of these weights a pattern means; its own name means a weight even where that reads as a pattern."""
    if pattern in weights:
        return [pattern]
    try:
        taken = Selection([pattern]).of(model, owner)
    except ParameterError:
        taken = {}
    if found := [name for name in weights if name in taken]:
        return found
    there = ", ".join(map(repr, list(weights)[:6]))
    raise ParameterError.of("bits", owner, f"keyed by patterns that match weights, such as {there}", pattern)
