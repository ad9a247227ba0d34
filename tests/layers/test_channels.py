"""The dimension of output channels, layer by layer, against the length of a layer's own bias."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepcompress.layers.channels import channel_axis
from deepcompress.layers.select import layer_types, named_weights

LAYERS = [
    nn.Linear(3, 5),
    nn.Conv1d(4, 6, 3),
    nn.Conv2d(4, 6, 3, groups=2),
    nn.Conv3d(2, 5, 2),
    nn.ConvTranspose1d(3, 7, 2),
    nn.ConvTranspose2d(3, 7, 2),
    nn.ConvTranspose3d(3, 7, 2),
    nn.LSTM(3, 4),
    nn.Bilinear(2, 3, 5),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_layer_has_as_many_channels_as_its_bias_has_numbers(layer: nn.Module) -> None:
    types = layer_types(layer)
    for name, weight in named_weights(layer).items():
        if weight.ndim > 1:
            axis = channel_axis(name, weight, types)
            assert axis is not None
            assert weight.shape[axis] == len(layer.get_parameter(name.replace("weight", "bias")))


def test_names_within_a_model_and_parametrized_layers() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(3, 7, 2)))
    types = layer_types(model)
    found = {name: channel_axis(name, weight, types) for name, weight in named_weights(model).items()}
    assert found["0.weight"] == 0
    assert found["1.parametrizations.weight.original1"] == 1
    assert found["1.bias"] is None


def test_a_class_of_ones_own_and_a_state_dict() -> None:
    class Mine(nn.ConvTranspose2d):
        pass

    layer = Mine(3, 7, 2)
    assert channel_axis("weight", layer.weight, layer_types(layer)) == 1
    assert channel_axis("weight", layer.weight, layer_types(layer.state_dict())) == 0
    assert channel_axis("scale", torch.ones(()), {}) is None
