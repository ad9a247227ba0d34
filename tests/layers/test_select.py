"""Which weights are chosen, by default and by patterns and types; what matches nothing is said."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from deepcompress.errors import ModelError, ParameterError
from deepcompress.layers.select import named_weights, select_weights


def select(model: Any, **choice: Any) -> list[str]:
    return list(select_weights(model, owner="Prune", **choice))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.ConvTranspose2d(4, 2, 3))
        self.ln = nn.LayerNorm((4, 4))
        self.fc1 = nn.Linear(8, 6)
        self.fc2 = nn.Linear(6, 6, bias=False)


DEFAULT = ["conv1.weight", "layer1.0.weight", "layer1.2.weight", "fc1.weight", "fc2.weight"]


def test_named_weights_are_live_and_in_order() -> None:
    net = Net()
    weights = named_weights(net)
    assert list(weights) == [name for name, _ in net.named_parameters()]
    assert weights["fc1.weight"] is net.fc1.weight


def test_default_is_two_dimensions_and_no_norm() -> None:
    assert select(Net()) == DEFAULT


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({"include": ["fc1"]}, ["fc1.weight"]),
        ({"include": ["fc1.weight"]}, ["fc1.weight"]),
        ({"include": ["fc*"]}, ["fc1.weight", "fc2.weight"]),
        ({"include": ["fc2", "fc1", "fc*"]}, ["fc1.weight", "fc2.weight"]),
        ({"include": ["layer1"]}, ["layer1.0.weight", "layer1.2.weight"]),
        ({"include": ["fc1.*"]}, ["fc1.weight"]),
        ({"include": ["*"]}, DEFAULT),
        ({"include": ["b*", "c*"]}, None),
        ({"include": ["fc1.bias"]}, ["fc1.bias"]),
        ({"include": ["bn1.weight", "fc2"]}, ["bn1.weight", "fc2.weight"]),
        ({"include": ["*.bias"], "types": ["Linear"]}, ["fc1.bias"]),
        ({"include": ["*bias"], "exclude": ["layer1", "ln", "bn*"]}, ["conv1.bias", "fc1.bias"]),
        ({"exclude": ["conv1", "layer1"]}, ["fc1.weight", "fc2.weight"]),
        ({"exclude": ["*.bias"]}, DEFAULT),
        ({"exclude": ["*"]}, []),
        ({"types": ["Conv2d"]}, ["conv1.weight", "layer1.0.weight"]),
        ({"types": ("_ConvNd", "Linear")}, DEFAULT),
        ({"types": ["Linear"], "exclude": ["fc2"]}, ["fc1.weight"]),
    ],
)
def test_choice(choice: dict[str, Any], names: list[str] | None) -> None:
    if names is None:
        with pytest.raises(ParameterError, match="biases and norms only by their own names"):
            select(Net(), **choice)
    else:
        assert select(Net(), **choice) == names


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (
            {"include": ["fc9"]},
            "The 'include' parameter of Prune must be patterns that match weights; there are 'conv1.weight', 'conv1.bias', "
            "'bn1.weight', 'bn1.bias', 'layer1.0.weight', 'layer1.0.bias' and 9 more. Got 'fc9' instead.",
        ),
        ({"exclude": ["nope"]}, "The 'exclude' parameter of Prune must be patterns that match weights; there are "),
        ({"include": ["bn1"]}, "match weights (biases and norms only by their own names); there are"),
        (
            {"types": ["LSTM"]},
            "The 'types' parameter of Prune must be class names of layers in the model, which has 'BatchNorm2d', 'Conv2d', "
            "'ConvTranspose2d', 'GroupNorm', 'LayerNorm', 'Linear'. Got 'LSTM' instead.",
        ),
        ({"types": ["BatchNorm2d"]}, "Prune: include=None, exclude=None, types=['BatchNorm2d'] leave no weights."),
        ({"include": "fc1"}, "The 'include' parameter of Prune must be a sequence of strings. Got 'fc1' instead."),
        ({"types": [3]}, "The 'types' parameter of Prune must be a sequence of strings. Got [3] instead."),
    ],
)
def test_what_matches_nothing_is_said(choice: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(text)):
        select(Net(), **choice)


def test_state_dict_has_no_types_and_keeps_integers_out() -> None:
    state = Net().state_dict()
    assert select(state) == ["conv1.weight", "layer1.0.weight", "layer1.2.weight", "ln.weight", "ln.bias", *DEFAULT[3:]]
    assert "bn1.num_batches_tracked" not in named_weights(state)
    assert named_weights(state)["fc1.weight"].data_ptr() == state["fc1.weight"].data_ptr()
    with pytest.raises(ParameterError, match="'types' parameter of Prune must be left out for a bare state dict"):
        select(state, types=["Linear"])


def test_tied_weights_stand_once_and_answer_to_each_name() -> None:
    model = nn.ModuleDict({"emb": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    model["head"].weight = model["emb"].weight
    assert select(model) == ["emb.weight"]
    assert select(model, include=["head"]) == ["emb.weight"]
    assert select(model, types=["Linear"]) == ["emb.weight"]
    assert select(model, exclude=["head.weight"]) == []
    assert list(named_weights(model.state_dict())) == ["emb.weight", "head.bias"]


def test_parameters_over_one_memory_are_tied_too() -> None:
    a, b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    b.weight = nn.Parameter(a.weight.data)
    assert list(named_weights(nn.Sequential(a, b))) == ["0.weight"]


def test_recurrent_and_attention_layers() -> None:
    model = nn.ModuleDict({"rnn": nn.GRU(3, 4), "attn": nn.MultiheadAttention(4, 2)})
    recurrent = ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]
    assert select(model) == [*recurrent, "attn.in_proj_weight", "attn.out_proj.weight"]
    assert select(model, include=["attn"]) == ["attn.in_proj_weight", "attn.out_proj.weight"]
    assert select(model, include=["*.bias_*"]) == ["rnn.bias_ih_l0", "rnn.bias_hh_l0"]
    assert select(model, types=["GRU"]) == recurrent


@pytest.mark.parametrize("size", [4, 1])
def test_weight_normalization_gives_the_direction_alone(size: int) -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(size, 3)), nn.Linear(3, 2))
    original = "0.parametrizations.weight.original1"
    assert select(model) == [original, "1.weight"]
    assert select(model.state_dict()) == [original, "1.weight"]
    assert select(model, include=["0"]) == select(model, include=["0.weight"]) == [original]
    assert select(model, types=["Linear"]) == [original, "1.weight"]


def test_spectral_normalization_and_a_parametrized_root() -> None:
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 3)))
    assert select(model, include=["0.weight"]) == ["0.parametrizations.weight.original"]
    root = parametrizations.orthogonal(nn.Linear(3, 3))
    assert select(root, include=["weight"], types=["Linear"]) == ["parametrizations.weight.original"]


def test_a_norm_of_another_library_is_a_norm() -> None:
    class LlamaRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

    assert select(nn.Sequential(LlamaRMSNorm(), nn.Linear(2, 2))) == ["1.weight"]


def test_integer_and_complex_parameters_are_skipped() -> None:
    model = nn.Linear(2, 2)
    model.register_parameter("counts", nn.Parameter(torch.zeros(2, 2, dtype=torch.int32), requires_grad=False))
    model.register_parameter("phase", nn.Parameter(torch.zeros(2, 2, dtype=torch.complex64)))
    assert list(named_weights(model)) == ["weight", "bias"]
    assert select(model) == ["weight"]


def test_no_weights() -> None:
    with pytest.raises(ModelError, match=re.escape("The model (ReLU) has no parameters of a floating-point type")):
        named_weights(nn.ReLU())
    with pytest.raises(ModelError, match="The state dict has no parameters"):
        select({})
    assert select(nn.BatchNorm1d(3)) == []


def test_lazy_module() -> None:
    with pytest.raises(ModelError, match="'weight' has no shape yet: pass one batch through the model first"):
        named_weights(nn.LazyLinear(3))
