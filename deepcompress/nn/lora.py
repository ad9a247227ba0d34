"""A linear layer that learns a change of low rank while its own weight stays."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from deepcompress.errors import ModelError, ParameterError

_ASIDE = ("weight", "lora_a", "lora_b")  # what a merged layer keeps aside, in the order of a state dict


class LoRALinear(nn.Module):
    """A linear layer plus a product of two thin matrices: y = W x + b + (alpha / rank) B A x.

    A, `lora_a` (rank, in_features), starts Kaiming-uniform with a = sqrt(5), as the authors' loralib does (the paper says
    Gaussian); B, `lora_b` (out_features, rank), starts at zero, so that the layer starts equal to the wrapped one. W does not
    learn. Both factors have the weight's dtype and device. Input (..., in_features), output (..., out_features).

    The parameters of the wrapped layer are taken over, not copied, and keep their names: `weight` and `bias`. So a state dict
    of the plain layer loads with `strict=False`, and that of a merged layer, which has no factors, loads into a plain one.

    Args:
        layer: the linear layer; its weight stops requiring gradients.
        rank: 1 <= rank <= min(in_features, out_features). The factors have rank x (in_features + out_features) weights.
        alpha: the product is scaled by alpha / rank; None for alpha = rank, the plain product.
        dropout: share of the inputs of A that are zeroed while training, in [0, 1).
        train_bias: whether the bias learns too.

    Raises:
        ParameterError: a layer that is not linear, or a number out of its range.

    Source: Hu et al. LoRA: Low-rank adaptation of large language models. ICLR 2022. arXiv:2106.09685.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    lora_a: nn.Parameter
    lora_b: nn.Parameter

    def __init__(
        self, layer: nn.Linear, rank: int, alpha: float | None = None, *, dropout: float = 0.0, train_bias: bool = False
    ) -> None:
        super().__init__()
        weight = _weight_of(layer)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        _check_rank(rank, min(self.in_features, self.out_features))
        _check_numbers(alpha, dropout)
        self.rank, self.alpha, self.dropout = rank, float(rank if alpha is None else alpha), float(dropout)
        self.weight, self.bias = weight, layer.bias
        self.weight.requires_grad_(False)
        if self.bias is not None:
            self.bias.requires_grad_(train_bias)
        self.lora_a = nn.Parameter(weight.new_empty(rank, self.in_features))
        self.lora_b = nn.Parameter(weight.new_empty(self.out_features, rank))
        self._aside: tuple[nn.ParameterDict, int | None] | None = None  # and the checksum of the weight that merging made
        self.reset_factors()
        self.train(layer.training)

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.alpha / self.rank

    @property
    def merged(self) -> bool:
        """Whether the product is in the weight now."""
        return self._aside is not None

    def reset_factors(self) -> None:
        """Start anew: A random, B zero.

        Raises:
            ModelError: the layer is merged.
        """
        if self.merged:
            raise ModelError("LoRALinear: a merged layer has no factors to reset; unmerge it first")
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        nn.init.zeros_(self.lora_b)

    def forward(self, inputs: Tensor) -> Tensor:
        plain = F.linear(inputs, self.weight, self.bias)
        if self.merged:
            return plain
        inner = F.linear(F.dropout(inputs, self.dropout, self.training), self.lora_a)
        return plain + self.scale * F.linear(inner, self.lora_b)

    def merge(self) -> None:
        """Fold the product into the weight: the layer is then a plain linear one, in its speed and in its state dict.

        The weight becomes a new parameter, calculated in float32 at least and rounded once; the old one and the factors are kept
        aside (and move with the layer to other devices and dtypes), so that a weight that another layer shares stays as it is
        there. In evaluation the output stays equal but for rounding. A merged layer stays as it is.
        """
        if self.merged:
            return
        weight = nn.Parameter(self._with_product(), requires_grad=False)
        kept = nn.ParameterDict({name: getattr(self, name) for name in _ASIDE})
        del self.lora_a, self.lora_b
        self.weight = weight
        self._aside = (kept, _checksum(weight))

    def unmerge(self, *, discard_changes: bool = False) -> None:
        """Take the product out again: the parameters from before `merge` are back, in every bit.

        They are kept, not calculated, for a difference of rounded sums drifts. A layer that is not merged stays as it is.

        Args:
            discard_changes: go back even where the merged weight was changed since (pruned, quantized, trained, loaded).

        Raises:
            ModelError: the merged weight was changed, and the change would be lost.
        """
        if self._aside is None:
            return
        if self._was_changed() and not discard_changes:
            raise ModelError(
                "LoRALinear: the weight was changed since it was merged, and unmerging would lose that; "
                "say unmerge(discard_changes=True) to go back to the weight and the factors from before"
            )
        (kept, _), self._aside = self._aside, None
        for name in _ASIDE:
            setattr(self, name, kept[name])

    def to_linear(self) -> nn.Linear:
        """A plain linear layer that answers as this one does in evaluation; it shares no memory with it."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta", dtype=self.weight.dtype)
        merged = self.weight.detach().clone() if self.merged else self._with_product()
        linear.weight = nn.Parameter(merged)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().clone())
        return linear.train(self.training)

    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{sizes}, rank={self.rank}, alpha={self.alpha:g}, dropout={self.dropout:g}, merged={self.merged}"

    @torch.no_grad()
    def _with_product(self) -> Tensor:
        """W + (alpha / rank) B A, (out_features, in_features), a tensor of its own."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        product = self.lora_b.to(wide) @ self.lora_a.to(wide)
        return torch.add(self.weight.to(wide), product, alpha=self.scale).to(self.weight.dtype)

    def _was_changed(self) -> bool:
        return self._aside is not None and self._aside[1] != _checksum(self.weight)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> LoRALinear:
        """Moving the layer moves what it keeps aside, and a rounding to another dtype is no change of the weight."""
        changed = self._was_changed()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self._aside is not None:
            kept, _ = self._aside
            kept._apply(fn)
            self._aside = (kept, None if changed else _checksum(self.weight))
        return self


def _checksum(weight: Tensor) -> int:
    """CRC-32 of the weight's bytes; of a weight without memory 0."""
    if weight.is_meta:
        return 0
    array: NDArray[np.uint8] = weight.detach().cpu().contiguous().view(torch.uint8).numpy()
    return zlib.crc32(array.data)


def _weight_of(layer: object) -> nn.Parameter:
    expected = "a torch.nn.Linear with a floating-point weight of its own"
    if not isinstance(layer, nn.Linear):
        raise ParameterError.of("layer", "LoRALinear", expected, layer)
    weight = layer.weight  # of a parametrized layer a plain tensor, calculated anew at each look
    if not isinstance(weight, nn.Parameter) or is_lazy(weight) or not weight.is_floating_point():
        raise ParameterError.of("layer", "LoRALinear", expected, layer)
    return weight


def _check_rank(rank: object, most: int) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= most:
        raise ParameterError.of("rank", "LoRALinear", f"an int from 1 to {most}, the layer's smaller side", rank)


def _check_numbers(alpha: object, dropout: object) -> None:
    if alpha is not None and not (_is_number(alpha) and 0 < alpha < math.inf):  # type: ignore[operator]
        raise ParameterError.of("alpha", "LoRALinear", "None or a finite number above 0", alpha)
    if not (_is_number(dropout) and 0 <= dropout < 1):  # type: ignore[operator]
        raise ParameterError.of("dropout", "LoRALinear", "a number in [0, 1)", dropout)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
