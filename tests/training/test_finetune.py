"""A centroid's gradient is what autograd gives through centroids[symbols]; everything else keeps its bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from deepcompress.errors import ParameterError
from deepcompress.training.finetune import finetune_centroids
from deepcompress.training.settings import TrainSettings

SGD = TrainSettings(1, 0.1, "SGD", seed=None)


def share(weight: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Symbols and centroids of random values, written into the weight."""
    centroids = torch.linspace(-1, 1, k + 1, dtype=weight.dtype)[1:] + 0.01
    symbols = torch.randint(0, k + 1, weight.shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        weight.copy_(torch.cat([centroids.new_zeros(1), centroids])[symbols])
    return symbols, centroids


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.sampled_from([torch.float32, torch.float64]))
def test_the_gradient_of_a_centroid(k: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 3).to(dtype)
    symbols, centroids = share(model.weight, k)
    batch = (torch.randn(8, 5, dtype=dtype), torch.arange(8) % 3)
    leaf = centroids.clone().requires_grad_()
    weight = torch.cat([leaf.new_zeros(1), leaf])[symbols]
    F.cross_entropy(F.linear(batch[0], weight, model.bias.detach()), batch[1]).backward()
    moved = finetune_centroids(model, [batch], {"weight": symbols}, {"weight": centroids}, SGD)[0]["weight"]
    assert moved.dtype == dtype
    torch.testing.assert_close(moved, centroids - 0.1 * leaf.grad)
    assert torch.equal(model.weight, torch.cat([moved.new_zeros(1), moved])[symbols])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_weight_may_be_a_multiple_of_its_centroid(dtype: torch.dtype) -> None:
    """The gradient that autograd gives through centroids[symbols] x factors."""
    torch.manual_seed(0)
    model = nn.Linear(5, 3).to(dtype)
    symbols, factors = torch.randint(0, 3, (3, 5)), torch.randn(3, 5, dtype=dtype)
    centroids = torch.tensor([0.5, 2.0], dtype=dtype)
    with torch.no_grad():
        model.weight.copy_(torch.cat([centroids.new_zeros(1), centroids])[symbols] * factors)
    batch = (torch.randn(8, 5, dtype=dtype), torch.arange(8) % 3)
    leaf = centroids.clone().requires_grad_()
    weight = torch.cat([leaf.new_zeros(1), leaf])[symbols] * factors
    F.cross_entropy(F.linear(batch[0], weight, model.bias.detach()), batch[1]).backward()
    moved = finetune_centroids(
        model, [batch], {"weight": symbols}, {"weight": centroids}, SGD, factors={"weight": factors}
    )[0]["weight"]  # fmt: skip
    torch.testing.assert_close(moved, centroids - 0.1 * leaf.grad)
    assert torch.equal(model.weight, torch.cat([moved.new_zeros(1), moved])[symbols] * factors)


@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "LBFGS"])
def test_what_learns_and_what_keeps_its_bits(model: nn.Module, train: Any, rest: bool, optimizer: str) -> None:
    symbols, centroids = share(model.fc1.weight, 4)
    model.norm.bias.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    flags = [p.requires_grad for p in model.parameters()]
    finetune_centroids(
        model, train, {"fc1.weight": symbols}, {"fc1.weight": centroids}, TrainSettings(2, 0.05, optimizer), rest=rest
    )
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    learns = {*before} - {"norm.bias", "fc1.bias"} if rest else {"fc1.weight"}  # the norm takes fc1.bias's gradient away
    assert changed - {"fc1.bias"} == learns
    assert rest or "fc1.bias" not in changed
    assert [p.requires_grad for p in model.parameters()] == flags
    zeros = model.fc1.weight.detach()[symbols == 0]
    assert zeros.eq(0).all()
    assert not torch.signbit(zeros).any()
    assert all(len(model.fc1.weight[symbols == s].unique()) <= 1 for s in range(5))


def test_lbfgs_sees_the_centroids_that_it_moves(model: nn.Module, train: Any) -> None:
    symbols, centroids = share(model.fc1.weight, 4)
    batches = list(train)[:1]
    lbfgs = TrainSettings(6, 1.0, "LBFGS", {"max_iter": 5, "line_search_fn": "strong_wolfe"})
    losses: list[float] = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        value = F.cross_entropy(model(batch[0]), batch[1])
        losses.append(float(value.detach()))
        return value

    finetune_centroids(model, batches, {"fc1.weight": symbols}, {"fc1.weight": centroids}, lbfgs, loss=loss)
    assert len(set(losses[:3])) > 1
    assert losses[-1] < losses[0]


def test_a_frozen_weight_is_not_finetuned(model: nn.Module, train: Any) -> None:
    shared = {name: share(model.get_parameter(name), 3) for name in ("fc1.weight", "fc2.weight")}
    model.fc1.weight.requires_grad_(False)
    before = model.fc1.weight.clone()
    symbols, centroids = ({name: pair[i] for name, pair in shared.items()} for i in (0, 1))
    moved, _ = finetune_centroids(model, train, symbols, centroids, TrainSettings(2, 0.1, "AdamW"))
    assert torch.equal(model.fc1.weight, before)
    torch.testing.assert_close(moved["fc1.weight"], centroids["fc1.weight"])
    assert not torch.equal(moved["fc2.weight"], centroids["fc2.weight"])


def test_tied_weights_sum_the_gradients_of_both_places() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.b.weight = self.a.weight

        def forward(self, inputs: Tensor) -> Tensor:
            out: Tensor = self.b(torch.tanh(self.a(inputs)))
            return out

    model = Tied()
    symbols, centroids = share(model.a.weight, 3)
    batch = (torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 4)
    leaf = centroids.clone().requires_grad_()
    weight = torch.cat([leaf.new_zeros(1), leaf])[symbols]
    F.cross_entropy(F.linear(torch.tanh(F.linear(batch[0], weight)), weight), batch[1]).backward()
    moved = finetune_centroids(model, [batch], {"a.weight": symbols}, {"a.weight": centroids}, SGD)[0]["a.weight"]
    torch.testing.assert_close(moved, centroids - 0.1 * leaf.grad)
    assert model.b.weight is model.a.weight


def test_sparse_gradients_are_summed_too() -> None:
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Flatten(), nn.Linear(6, 2))
    symbols, centroids = share(model[0].weight, 2)
    batch = (torch.tensor([[0, 1], [2, 2]]), torch.tensor([0, 1]))
    moved = finetune_centroids(model, [batch], {"0.weight": symbols}, {"0.weight": centroids}, SGD)[0]["0.weight"]
    assert not torch.equal(moved, centroids)


def test_the_best_epochs_centroids_come_back(model: nn.Module, train: Any) -> None:
    symbols, centroids = share(model.fc1.weight, 4)
    seen = []

    def validate(model: nn.Module) -> float:
        seen.append(model.fc1.weight.detach().clone())
        return -float(len(seen) != 2)

    moved = finetune_centroids(
        model,
        train,
        {"fc1.weight": symbols},
        {"fc1.weight": centroids},
        TrainSettings(3, 0.1),
        validate=validate,
        restore_best=True,
    )[0]["fc1.weight"]
    assert torch.equal(model.fc1.weight, seen[1])
    assert torch.equal(torch.cat([moved.new_zeros(1), moved])[symbols], seen[1])


def test_what_does_not_fit(model: nn.Module, train: Any) -> None:
    symbols, centroids = share(model.fc1.weight, 4)
    with pytest.raises(ParameterError, match=r"finetune: 'fc3.weight' with symbols of shape \(8, 6\) is no such parameter"):
        finetune_centroids(model, train, {"fc3.weight": symbols}, {"fc3.weight": centroids}, SGD)
    with pytest.raises(ParameterError, match=r"must be from 0 to 2, the number of centroids. Got '0 to 4' instead"):
        finetune_centroids(model, train, {"fc1.weight": symbols}, {"fc1.weight": centroids[:2]}, SGD)
