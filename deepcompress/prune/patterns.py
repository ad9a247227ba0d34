"""Pruning in patterns: whole filters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from deepcompress.prune.importance import check_rankable, filter_norms
from deepcompress.prune.ranking import keep_highest, pruned_count


def filter_l1(weights: Mapping[str, Tensor], kept: Mapping[str, Tensor], *, sparsity: float) -> dict[str, Tensor]:
    """Prune whole output filters of least L1 norm, layer by layer.

    A filter is a slice along dimension 0: an output channel of a convolution, a neuron of a linear layer (and an input
    channel of a transposed convolution). Only its weights go: the bias behind it stays, and where a norm follows, a
    pruned filter still passes on that norm's beta. Tensors of one dimension are left as they are.

    Args:
        weights: name -> weight, shape (filters, ...).
        kept: name -> mask so far. Its pruned weights count as zeros in the norms; filters already gone count into the
            share.
        sparsity: share of each layer's filters, in [0, 1]. round-half-even(share x all filters) of them are gone
            afterwards, so that a schedule of growing shares ends where its last share says; one filter always stays
            unless `sparsity` is 1.

    Returns:
        name -> mask. Equal norms: the lower index goes first.

    Raises:
        ModelError: a weight is NaN.

    Source: Li, Kadav, Durdanovic, Samet, Graf. Pruning Filters for Efficient ConvNets. ICLR 2017, sec. 3.1.
    arXiv:1608.08710.
    """
    return {
        name: _prune_filters(name, weight, kept[name], sparsity) if weight.ndim >= 2 and weight.numel() else kept[name].clone()
        for name, weight in weights.items()
    }


def filters_to_prune(sparsity: float, filters: int) -> int:
    """How many of a layer's filters a share means."""
    count = pruned_count(sparsity, filters)
    return count if sparsity == 1 else min(count, filters - 1)


def _prune_filters(name: str, weight: Tensor, kept: Tensor, sparsity: float) -> Tensor:
    check_rankable(name, weight)
    norms = filter_norms(torch.where(kept, weight.detach(), 0)).cpu().numpy()
    alive = kept.flatten(1).any(1).cpu().numpy()
    stays = keep_highest(norms, filters_to_prune(sparsity, len(norms)), alive)
    rows = torch.from_numpy(stays).to(kept.device)
    return kept & rows.reshape(-1, *[1] * (kept.ndim - 1))
