"""From scores to masks: how many weights go, and out of which layers.

A method takes the weights and the masks so far and returns masks; `METHODS` lists them by name. Sparsities are met to
one weight: round-half-even(share x number of weights), with pruned weights counted in and the first to go. Ties go by
flat index, lower first.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deepcompress.coding.denormals import denormals_kept
from deepcompress.coding.pool import run, thread_count
from deepcompress.errors import ParameterError
from deepcompress.prune.importance import scores_of, standard_deviation
from deepcompress.prune.patterns import filter_l1
from deepcompress.prune.ranking import is_within, pruned_count
from deepcompress.prune.selection import drop_lowest, keep_from

Masks = dict[str, Tensor]


def percentile(weights: Mapping[str, Tensor], kept: Mapping[str, Tensor], *, q: float) -> Masks:
    """Prune the share `q` of each tensor's weights, those of least magnitude."""
    scores = scores_of(weights)
    return _each(scores, lambda name, score: drop_lowest({name: score}, kept, pruned_count(q, score.numel()))[name])


def std(weights: Mapping[str, Tensor], kept: Mapping[str, Tensor], *, s: float) -> Masks:
    """Prune |w| < s x the standard deviation of all the tensor's weights, zeros included (divided by n, as numpy's)."""
    return _each(weights, lambda name, weight: keep_from(weight, kept[name], s * standard_deviation(name, weight)))


def unstructured(weights: Mapping[str, Tensor], kept: Mapping[str, Tensor], *, sparsity: float, scope: str = "global") -> Masks:
    """Prune the share `sparsity` of all weights together ("global") or of each tensor ("layer"), those of least
    magnitude.

    Globally, equal magnitudes go in the order of `weights`, then by flat index.
    """
    if scope == "layer":
        return percentile(weights, kept, q=sparsity)
    return drop_lowest(scores_of(weights), kept, pruned_count(sparsity, sum(weight.numel() for weight in weights.values())))


METHODS: dict[str, Callable[..., Masks]] = {
    "percentile": percentile,
    "std": std,
    "unstructured": unstructured,
    "filter_l1": filter_l1,
}


@denormals_kept()
def prune_masks(
    weights: Mapping[str, Tensor], method: str, *, masks: Mapping[str, Tensor] | None = None, **parameters: Any
) -> Masks:
    """Choose the weights that go. The weights themselves stay as they are.

    Args:
        weights: name -> weight, any floating-point dtype and shape, without NaN.
        method: "percentile" (q), "std" (s), "unstructured" (sparsity, scope="global" or "layer") or "filter_l1"
            (sparsity).
        masks: masks so far, which only shrink; names missing here are unpruned, names beyond `weights` are ignored.
            None: every weight is up for choice again.
        parameters: the method's.

    Returns:
        name -> bool mask on the weight's device, for each of `weights`; True = kept.

    Raises:
        ParameterError: unknown method or parameter, a value out of its range, a mask that does not fit its weight.
        ModelError: a weight is NaN ("std": or infinite).
    """
    checked = check_parameters(method, parameters)
    kept = {name: _mask_so_far(name, weight, masks or {}) for name, weight in weights.items()}
    return METHODS[method](weights, kept, **checked)


def check_parameters(method: str, parameters: Mapping[str, Any], owner: str = "prune_masks") -> dict[str, Any]:
    """A method's parameters with its defaults filled in, without any weights yet.

    Raises:
        ParameterError: the method is unknown; a parameter is missing, unknown or out of its range.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise ParameterError.of("method", owner, f"one of {', '.join(map(repr, METHODS))}", method)
    signature = inspect.signature(METHODS[method]).parameters.values()
    known = {item.name: item.default for item in signature if item.kind is item.KEYWORD_ONLY}
    place = f"{owner}({method!r})"
    for name in parameters:
        if name not in known:
            raise ParameterError(f"{place} has no parameter {name!r}; it takes {', '.join(map(repr, known))}")
    values = {name: parameters.get(name, default) for name, default in known.items()}
    for name, value in values.items():
        if value is inspect.Parameter.empty:
            raise ParameterError(f"{place} needs its parameter {name!r}")
        accepts, expected = _RANGES[name]
        if not accepts(value):
            raise ParameterError.of(name, place, expected, value)
    return values


_RANGES: dict[str, tuple[Callable[[object], bool], str]] = {
    "q": (lambda value: is_within(value, 0, 1), "a number in [0, 1]"),
    "sparsity": (lambda value: is_within(value, 0, 1), "a number in [0, 1]"),
    "s": (lambda value: is_within(value, 0, math.inf), "a finite number >= 0"),
    "scope": (lambda value: value in ("global", "layer"), "'global' or 'layer'"),
}


def _mask_so_far(name: str, weight: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
    mask = masks.get(name)
    if mask is None:
        return torch.ones((), dtype=torch.bool, device=weight.device).expand(weight.shape)  # takes no memory
    if mask.dtype != torch.bool or mask.shape != weight.shape:
        expected = f"a bool tensor of shape {tuple(weight.shape)} for {name!r}"
        raise ParameterError.of("masks", "prune_masks", expected, f"{mask.dtype} {tuple(mask.shape)}")
    return mask.to(weight.device)


def _each(tensors: Mapping[str, Tensor], mask_of: Callable[[str, Tensor], Tensor]) -> Masks:
    """Each tensor in a thread of its own, side by side; where one is more than a thread's part, threads share each instead."""
    tasks = [partial(mask_of, name, tensor) for name, tensor in tensors.items()]
    sizes = [tensor.numel() for tensor in tensors.values()]
    even = thread_count() * max(sizes, default=0) <= sum(sizes)
    return dict(zip(tensors, run(tasks) if even else [task() for task in tasks], strict=True))
