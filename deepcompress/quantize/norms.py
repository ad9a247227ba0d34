"""Running statistics of batch norms taken into their own scale and shift: in eval mode one factor and one offset a channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from deepcompress.errors import ParameterError
from deepcompress.layers.select import some_of
from deepcompress.layers.sharing import is_expanded, tied_names

__all__ = ["FoldedNorm", "fold_statistics", "running_norms", "write_folded"]

_FORWARDS = (_BatchNorm.forward, SyncBatchNorm.forward, _InstanceNorm.forward)  # what is known to use statistics that way


@dataclass(frozen=True, eq=False)
class FoldedNorm:
    """A norm, and the scale and shift, (channels,) each, with which it needs no statistics: mean 0 and variance 1 will do."""

    name: str
    norm: _NormBase
    scale: Tensor
    shift: Tensor


def running_norms(
    model: nn.Module, *, include: Sequence[str] | None = None, exclude: Sequence[str] | None = None, owner: str
) -> dict[str, _NormBase]:  # fmt: skip
    """The chosen norms with running statistics: name of the module -> module, each once.

    Args:
        model: any module.
        include, exclude: glob patterns, matched against the norm's name ("bn1"), that of a module around it ("layer1") and
            those of its tensors ("bn1.weight").
        owner: who asks, for the errors.

    Raises:
        ParameterError: a pattern matches no norm.
    """
    norms = {name: part for name, part in model.named_modules() if isinstance(part, _NormBase) and part.running_var is not None}
    for parameter, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns or ():
            if not any(_is_meant(name, pattern) for name in norms):
                there = f"there are {some_of(list(norms))}" if norms else "there are none"
                raise ParameterError.of(parameter, owner, f"patterns that match norms with running statistics; {there}", pattern)
    return {
        name: norm
        for name, norm in norms.items()
        if (include is None or any(_is_meant(name, pattern) for pattern in include))
        and not any(_is_meant(name, pattern) for pattern in exclude or ())
    }


def fold_statistics(model: nn.Module, name: str, norm: _NormBase) -> FoldedNorm | None:
    """The scale and shift that do what the norm does in eval mode, once its mean is 0 and its variance 1; nothing is written.

    None where they cannot: the norm has no scale and shift, shares a tensor with another module, calculates in a way of its own
    (a subclass, a parametrization), or a number would not be finite.
    """
    mean, var, weight, bias = norm.running_mean, norm.running_var, norm.weight, norm.bias
    if mean is None or var is None or not {"weight", "bias"} <= norm._parameters.keys() or weight is None or bias is None:
        return None
    if type(norm).forward not in _FORWARDS or _is_shared(model, norm):
        return None
    factor = weight.detach().double() / (var.double() + norm.eps).sqrt()
    shift = (bias.detach().double() - mean.double() * factor).to(bias.dtype)
    scale = (factor * (1 + norm.eps) ** 0.5).to(weight.dtype)
    if not bool(torch.isfinite(scale).all() and torch.isfinite(shift).all()):
        return None
    return FoldedNorm(name, norm, scale, shift)


def write_folded(folded: FoldedNorm) -> None:
    """Give the norm its new scale and shift, mean 0, variance 1, and no batches seen."""
    norm = folded.norm
    counter = [] if norm.num_batches_tracked is None else [(norm.num_batches_tracked, 0)]
    with torch.no_grad():
        norm.weight.copy_(folded.scale)
        norm.bias.copy_(folded.shift)
        for tensor, value in [(norm.running_mean, 0), (norm.running_var, 1), *counter]:
            tensor.fill_(value)  # type: ignore[union-attr]


def _is_meant(name: str, pattern: str) -> bool:
    parts = name.split(".")
    scopes = [".".join(parts[: end + 1]) for end in range(len(parts))]
    tensors = [f"{name}.{leaf}" if name else leaf for leaf in ("weight", "bias", "running_mean", "running_var")]
    return any(fnmatchcase(scope, pattern) for scope in (*scopes, *tensors))


def _is_shared(model: nn.Module, norm: _NormBase) -> bool:
    """Whether a tensor of the norm is also another's, or one that nothing can be written to."""
    own = [tensor for tensor in (*norm._parameters.values(), *norm._buffers.values()) if tensor is not None]
    others = [
        tensor
        for part in model.modules()
        if part is not norm
        for tensor in (*part._parameters.values(), *part._buffers.values())
        if tensor is not None
    ]
    listed = {str(place): tensor for place, tensor in enumerate((*others, *own))}
    return any(map(is_expanded, own)) or any(int(name) >= len(others) for name in tied_names(listed))
