"""Batch norm taken into the layer before it: in eval mode it is one factor and one offset for each channel."""

from __future__ import annotations

import copy
import logging

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from deepcompress.quantize.fixed_point.chain import norm_pairs
from deepcompress.tensors.wrappers import bare

_LOGGER = logging.getLogger(__name__)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of a model whose batch norms are part of the convolutions and linear layers before them.

    In eval mode the copy computes what the model does, to float precision; calibrate it, not the model. A pair is a layer whose
    output goes to one batch norm and nowhere else, both called once: read from the forward pass by torch.fx, or, where that
    cannot be traced, neighbours in a Sequential. A batch norm without running statistics, one that has no such layer before
    it, and one behind a layer with parametrizations stay.

    Args:
        model: any module; it stays as it is.

    Returns:
        The copy, of the module inside where the model is compiled or data-parallel: names of modules as before, nn.Identity
        where a folded norm was, the layer's bias made where it had none.

    Source: Jacob et al. Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference. CVPR 2018,
    sec. 3.2. arXiv:1712.05877.
    """
    folded: nn.Module = copy.deepcopy(bare(model))
    count = 0
    for layer_name, norm_name in list(norm_pairs(folded)):
        layer, norm = folded.get_submodule(layer_name), folded.get_submodule(norm_name)
        if not parametrize.is_parametrized(layer):
            _replace(folded, layer_name, _fused(layer, norm))
            _replace(folded, norm_name, nn.Identity())
            count += 1
    _LOGGER.info("fold_batch_norm: %d batch norms are in the layers before them", count)
    return folded


def _fused(layer: nn.Module, norm: nn.Module) -> nn.Module:
    training = layer.training
    layer.eval()
    norm.eval()
    fuse = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
    fused: nn.Module = fuse(layer, norm)  # type: ignore[arg-type, type-var]
    return fused.train(training)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
