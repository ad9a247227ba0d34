"""Small models are the field's headline, so what a file spends besides weights is counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import deepcompress as dc
from deepcompress.models import LeNet5, resnet20

HEAD_AND_TRAILER = 8 * 16


def trained(network: nn.Module) -> nn.Module:
    """Weights as training leaves them, near enough: Gaussian, each layer with its own spread."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) * weight[0].numel() ** -0.5)
    return network


@pytest.mark.parametrize("sparsity", [0.0, 0.6, 0.9, 0.95])
@pytest.mark.parametrize(("make", "codebooks_too", "limit"), [(resnet20, True, 3_000), (LeNet5, False, 200)])
def test_directory_names_tables_and_codebooks_stay_small(make, codebooks_too, limit, sparsity) -> None:
    """A record says more of a bias that is cut into planes, which saves more of the bias."""
    prune, quantize = dc.Prune("percentile", q=sparsity), dc.KMeansQuantize(bits=5)
    stages = [("prune", prune), ("quantize", quantize), ("encode", dc.HuffmanEncode())]
    bits = dc.Pipeline(stages).run(trained(make())).report.bits
    spent = bits.header - HEAD_AND_TRAILER + bits.code_lengths + (bits.codebook if codebooks_too else 0)
    assert spent < 8 * limit
