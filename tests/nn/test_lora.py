"""LoRALinear: starts equal, learns in its factors alone, merges and comes back in every bit."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from deepcompress.errors import ModelError, ParameterError
from deepcompress.nn import LoRALinear, trainable_parameters

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def trained(rank: int = 3, alpha: float | None = 5.0, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> LoRALinear:
    """A layer 8 -> 6 whose product is not zero."""
    layer = LoRALinear(nn.Linear(8, 6, bias=bias, dtype=dtype), rank, alpha)
    nn.init.normal_(layer.lora_b)
    return layer.eval()


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(torch.uint8)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_a_new_layer_answers_as_the_wrapped_one_does(width: int, height: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, min(width, height)))
    dtype = data.draw(st.sampled_from(FLOATS))
    layer = nn.Linear(width, height, bias=data.draw(st.booleans()), dtype=dtype)
    inputs = torch.randn(*data.draw(st.sampled_from([(), (1,), (5,), (2, 3), (0,)])), width, dtype=dtype)
    before = layer(inputs)
    assert torch.equal(LoRALinear(layer, rank)(inputs), before)


def test_the_formula() -> None:
    layer, inputs = trained(rank=2, alpha=7), torch.randn(4, 8)
    change = 7 / 2 * layer.lora_b @ layer.lora_a
    torch.testing.assert_close(layer(inputs), inputs @ (layer.weight + change).T + layer.bias)
    assert layer.scale == 3.5


def test_no_alpha_is_the_plain_product() -> None:
    assert trained(alpha=None).scale == 1.0


def test_factors_start_as_the_source_has_them() -> None:
    layer = LoRALinear(nn.Linear(400, 300), 50)
    bound = 1 / math.sqrt(400)  # kaiming_uniform_ with a = sqrt(5): sqrt(6 / (1 + 5) / fan_in)
    assert layer.lora_a.shape == (50, 400)
    assert layer.lora_b.shape == (300, 50)
    assert 0.95 * bound < layer.lora_a.abs().max() <= bound
    assert not layer.lora_b.any()


@pytest.mark.parametrize("train_bias", [False, True])
def test_what_learns(train_bias: bool) -> None:
    layer = LoRALinear(nn.Linear(8, 6), 2, train_bias=train_bias)
    learning = {name for name, parameter in layer.named_parameters() if parameter.requires_grad}
    assert learning == {"lora_a", "lora_b"} | ({"bias"} if train_bias else set())
    assert trainable_parameters(layer) == (2 * (8 + 6) + 6 * train_bias, 8 * 6 + 6 + 2 * (8 + 6))


def test_training_moves_the_factors_and_nothing_else() -> None:
    layer = LoRALinear(nn.Linear(8, 6), 2)
    before = copy.deepcopy(layer.state_dict())
    optimizer = torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], 0.1, weight_decay=0.1)
    for _ in range(2):  # in the first step B alone has a gradient, for A's is a multiple of B
        optimizer.zero_grad()
        layer(torch.ones(3, 8)).square().sum().backward()
        optimizer.step()
    moved = {name for name, tensor in layer.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"lora_a", "lora_b"}


def test_gradients() -> None:
    layer = trained(dtype=torch.float64)
    inputs = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)

    def forward(inputs: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"lora_a": a, "lora_b": b}, (inputs,))  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(forward, (inputs, layer.lora_a, layer.lora_b))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bias", [False, True])
def test_merging_keeps_the_answers_and_unmerging_every_bit(dtype: torch.dtype, bias: bool) -> None:
    layer, inputs = trained(bias=bias, dtype=dtype), torch.randn(5, 8, dtype=dtype)
    answers, parameters = layer(inputs), dict(layer.named_parameters())
    before = {name: bits(parameter).clone() for name, parameter in parameters.items()}
    layer.merge()
    assert layer.merged
    exact = layer.weight.double() @ inputs.double().T
    torch.testing.assert_close(layer(inputs), answers, atol=8 * torch.finfo(dtype).eps * float(exact.abs().max()), rtol=0)
    layer.unmerge()
    assert not layer.merged
    after = dict(layer.named_parameters())
    assert list(after) == list(parameters)
    assert all(after[name] is parameters[name] for name in parameters)
    assert all(torch.equal(bits(after[name]), before[name]) for name in parameters)
    assert torch.equal(layer(inputs), answers)


def test_merging_is_exact_to_one_rounding() -> None:
    layer = trained(dtype=torch.float16)
    exact = layer.weight.double() + layer.scale * layer.lora_b.double() @ layer.lora_a.double()
    layer.merge()
    assert ((layer.weight.double() - exact).abs() <= exact.abs() * torch.finfo(torch.float16).eps).all()


def test_merging_twice_is_merging_once() -> None:
    layer = trained()
    layer.unmerge()
    layer.merge()
    once = layer.weight.clone()
    layer.merge()
    assert torch.equal(layer.weight, once)
    layer.unmerge()
    layer.unmerge()
    assert not layer.merged


def test_a_merged_layers_state_dict_is_that_of_a_plain_layer() -> None:
    layer, inputs = trained(), torch.randn(4, 8)
    assert list(layer.state_dict()) == ["weight", "bias", "lora_a", "lora_b"]
    layer.merge()
    assert list(layer.state_dict()) == ["weight", "bias"]
    plain = nn.Linear(8, 6)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(plain(inputs), layer(inputs))
    assert trainable_parameters(layer) == (0, 8 * 6 + 6)


def test_a_plain_layers_state_dict_loads() -> None:
    layer, plain = trained(), nn.Linear(8, 6)
    missing, unexpected = layer.load_state_dict(plain.state_dict(), strict=False)
    assert (set(missing), unexpected) == ({"lora_a", "lora_b"}, [])
    assert torch.equal(layer.weight, plain.weight)


@pytest.mark.parametrize("merged", [False, True])
def test_a_state_dict_comes_back_into_a_layer_in_the_same_state(merged: bool) -> None:
    layer, other, inputs = trained(), trained(), torch.randn(4, 8)
    for each in (layer, other):
        if merged:
            each.merge()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(inputs), layer(inputs))


def test_a_state_dict_does_not_go_into_a_layer_in_the_other_state() -> None:
    layer, merged = trained(), trained()
    merged.merge()
    with pytest.raises(RuntimeError, match=r"Missing key.*lora_a"):
        layer.load_state_dict(merged.state_dict())
    with pytest.raises(RuntimeError, match=r"Unexpected key.*lora_a"):
        merged.load_state_dict(layer.state_dict())


def test_a_change_of_the_merged_weight_is_not_lost_unasked() -> None:
    layer = trained()
    before = layer.weight.clone()
    layer.merge()
    with torch.no_grad():
        layer.weight[0, 0] = 0
    with pytest.raises(ModelError, match=r"^LoRALinear: the weight was changed since it was merged, .*discard_changes=True"):
        layer.unmerge()
    assert layer.merged
    assert layer.weight[0, 0] == 0
    layer.unmerge(discard_changes=True)
    assert torch.equal(layer.weight, before)


def test_a_loaded_merged_weight_is_a_change() -> None:
    layer, other = trained(), trained()
    layer.merge()
    other.merge()
    layer.load_state_dict(other.state_dict())
    with pytest.raises(ModelError, match="changed since"):
        layer.unmerge()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_what_is_kept_aside_moves_along(dtype: torch.dtype) -> None:
    layer = trained()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    layer.merge()
    merged = layer.weight.clone()
    layer.to(dtype)
    assert torch.equal(layer.weight, merged.to(dtype))
    layer.unmerge()
    assert all(torch.equal(tensor, before[name].to(dtype)) for name, tensor in layer.state_dict().items())


def test_moving_a_changed_layer_does_not_make_it_unchanged() -> None:
    layer = trained()
    layer.merge()
    with torch.no_grad():
        layer.weight.zero_()
    layer.double()
    with pytest.raises(ModelError, match="changed since"):
        layer.unmerge()
    meta = copy.deepcopy(layer).to("meta")
    assert meta.weight.is_meta


def test_a_weight_that_an_embedding_shares_stays_as_it_is_there() -> None:
    embedding, head = nn.Embedding(6, 8), nn.Linear(8, 6)
    head.weight = embedding.weight
    layer = LoRALinear(head, 2)
    nn.init.normal_(layer.lora_b)
    assert layer.weight is embedding.weight
    before = embedding.weight.clone()
    layer.merge()
    assert torch.equal(embedding.weight, before)
    layer.unmerge()
    assert layer.weight is embedding.weight


@pytest.mark.parametrize("merged", [False, True])
def test_copies_and_pickles(merged: bool) -> None:
    layer, inputs, file = trained(), torch.randn(3, 8), io.BytesIO()
    before = layer.weight.clone()
    if merged:
        layer.merge()
    torch.save(layer, file)
    file.seek(0)
    for twin in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert torch.equal(twin(inputs), layer(inputs))
        twin.unmerge()
        assert torch.equal(twin.weight, before)
        nn.init.zeros_(twin.lora_b)
    layer.unmerge()
    assert layer.lora_b.any()


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_plain_layer_of_the_same_answers(merged: bool, bias: bool) -> None:
    layer, inputs = trained(bias=bias), torch.randn(4, 8)
    if merged:
        layer.merge()
    plain = layer.to_linear()
    assert type(plain) is nn.Linear
    assert not plain.training
    torch.testing.assert_close(plain(inputs), layer(inputs))
    with torch.no_grad():
        plain.weight.zero_()
    assert layer.weight.any()


def test_dropout_is_on_the_product_and_in_training_alone() -> None:
    layer, inputs = LoRALinear(nn.Linear(8, 6), 3, dropout=0.5), torch.ones(1, 8)
    nn.init.normal_(layer.lora_b)
    nn.init.zeros_(layer.weight)
    answers = torch.stack([layer.train()(inputs) for _ in range(200)])
    assert len(answers.unique(dim=0)) > 100
    still = layer.eval()(inputs)
    assert torch.equal(layer(inputs), still)
    torch.testing.assert_close(answers.mean(0), still, atol=0.5, rtol=0)


def test_the_mode_and_the_look_of_the_layer() -> None:
    layer = LoRALinear(nn.Linear(8, 6).eval(), 3, 6, dropout=0.25)
    assert not layer.training
    assert repr(layer) == "LoRALinear(in_features=8, out_features=6, bias=True, rank=3, alpha=6, dropout=0.25, merged=False)"


def test_reset() -> None:
    layer = trained()
    layer.reset_factors()
    assert not layer.lora_b.any()
    layer.merge()
    with pytest.raises(ModelError, match=r"^LoRALinear: a merged layer has no factors to reset; unmerge it first$"):
        layer.reset_factors()


@pytest.mark.parametrize("rank", [0, -1, 7, 2.0, True, None])
def test_bad_ranks(rank: object) -> None:
    layer = nn.Linear(8, 6)
    with pytest.raises(ParameterError, match=r"^The 'rank' parameter of LoRALinear must be an int from 1 to 6, the layer's"):
        LoRALinear(layer, rank)  # type: ignore[arg-type]
    assert layer.weight.requires_grad


@pytest.mark.parametrize("alpha", [0, -1.0, math.inf, math.nan, "1", True])
def test_bad_alphas(alpha: object) -> None:
    with pytest.raises(ParameterError, match=r"^The 'alpha' parameter of LoRALinear must be None or a finite number above 0"):
        LoRALinear(nn.Linear(8, 6), 2, alpha)  # type: ignore[arg-type]


@pytest.mark.parametrize("dropout", [-0.1, 1.0, math.nan, None])
def test_bad_dropouts(dropout: object) -> None:
    with pytest.raises(ParameterError, match=r"^The 'dropout' parameter of LoRALinear must be a number in \[0, 1\)"):
        LoRALinear(nn.Linear(8, 6), 2, dropout=dropout)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(3, 3, 1),
        lambda: nn.LazyLinear(3),
        lambda: parametrizations.weight_norm(nn.Linear(3, 3)),
        lambda: LoRALinear(nn.Linear(3, 3), 1),
        lambda: nn.Linear(3, 3, dtype=torch.complex64),
    ],
)
def test_layers_that_cannot_be_wrapped(make) -> None:
    with pytest.raises(ParameterError, match=r"^The 'layer' parameter of LoRALinear must be a torch.nn.Linear with a floating"):
        LoRALinear(make(), 1)


def test_a_tied_parameter_counts_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[1].weight = model[0].weight
    model[1].bias.requires_grad_(False)
    assert trainable_parameters(model) == (9 + 3 + 6, 9 + 3 + 3 + 6)
    assert trainable_parameters(nn.ReLU()) == (0, 0)
