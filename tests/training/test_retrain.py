"""A pruned weight is exactly +0.0 in every forward pass, and never returns; sparsity is met to one weight."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deepcompress.errors import ParameterError, TrainingError
from deepcompress.layers.masking import count_zeros, hold_masks
from deepcompress.prune.allocate import prune_masks
from deepcompress.prune.schedule import Schedule
from deepcompress.training.loop import fit
from deepcompress.training.retrain import Gradual, retrain
from deepcompress.training.settings import TrainSettings

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    "Adam": {"weight_decay": 0.1},
    "AdamW": {"weight_decay": 0.1},
    "LBFGS": {"max_iter": 3, "line_search_fn": "strong_wolfe"},
}


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.ndim > 1}


def pruned(model: nn.Module, share: float = 0.5) -> dict[str, Tensor]:
    return prune_masks(weights_of(model), "percentile", q=share)


def is_zero(weight: Tensor, mask: Tensor) -> bool:
    gone = weight.detach()[~mask]
    return bool(gone.eq(0).all()) and not bool(torch.signbit(gone).any())


class Watch:
    """Looks at every module's weights in every forward pass; what was zero there may not be otherwise later."""

    def __init__(self, model: nn.Module, masks: dict[str, Tensor]) -> None:
        self.passes, self.zeros = 0, []
        self.masks, self.model = masks, model
        for module in model.modules():
            module.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, args: Any) -> None:
        for name, mask in self.masks.items():
            assert is_zero(self.model.get_parameter(name), mask), name
        self.passes += 1
        self.zeros.append({name: weight.detach() == 0 for name, weight in weights_of(self.model).items()})

    def never_returned(self) -> bool:
        pairs = zip(self.zeros, self.zeros[1:], strict=False)
        return all(bool((~before[name] | after[name]).all()) for before, after in pairs for name in before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_forward_pass_sees_exact_zeros(model: nn.Module, train: Any, name: str) -> None:
    masks = pruned(model)
    watch = Watch(model, masks)
    found, history = retrain(model, train, masks, TrainSettings(3, 0.05, name, OPTIMIZERS[name]))
    assert watch.passes >= 3 * 3 * 4
    assert found.keys() == masks.keys()
    assert all(torch.equal(found[name], masks[name]) for name in masks)
    assert all(is_zero(model.get_parameter(name), mask) for name, mask in masks.items())
    assert history.epochs[-1].sparsity == 0.5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masks_that_keep_everything_change_no_bit(model: nn.Module, train: Any, name: str) -> None:
    """Five epochs under masks of all True, against five of the plain network."""
    plain = copy.deepcopy(model)
    settings = TrainSettings(5, 0.05, name, OPTIMIZERS[name])
    kept = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights_of(model).items()}
    _, masked = retrain(model, train, kept, settings)
    history = fit(plain, train, settings)
    assert [record.step_losses for record in masked.epochs] == [record.step_losses for record in history.epochs]
    assert same_bits(model, plain)


def test_a_loop_of_ones_own_under_masks_that_keep_everything(model: nn.Module, train: Any) -> None:
    plain = copy.deepcopy(model)
    for trained, hold in ((model, True), (plain, False)):
        optimizer = torch.optim.SGD(trained.parameters(), 0.05, 0.9, weight_decay=0.1)
        kept = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights_of(trained).items()}
        with hold_masks(trained, kept, optimizer) if hold else nullcontext():
            for inputs, targets in (batch for _ in range(5) for batch in train):
                optimizer.zero_grad()
                nn.functional.cross_entropy(trained(inputs), targets).backward()
                optimizer.step()
    assert same_bits(model, plain)


def same_bits(left: nn.Module, right: nn.Module) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)) for a, b in pairs)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["linear", "cubic", "step"])
def test_gradual_pruning_meets_its_share_and_brings_nothing_back(model: nn.Module, train: Any, name: str, kind: str) -> None:
    schedule = Schedule(kind, milestones=((0.5, 0.3), (1.5, 0.77))) if kind == "step" else Schedule(kind, 0.1, 0.77, 0.0, 1.6)
    watch = Watch(model, {})
    gradual = Gradual(weights_of(model), "unstructured", schedule)
    masks, history = retrain(model, train, {}, TrainSettings(3, 0.05, name, OPTIMIZERS[name]), gradual=gradual)
    assert count_zeros(masks) == round(0.77 * (6 * 8 + 8 * 3))
    assert watch.never_returned()
    assert all(is_zero(model.get_parameter(name), mask) for name, mask in masks.items())
    assert sorted(record.sparsity or 0 for record in history.epochs) == [record.sparsity for record in history.epochs]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_reversible_weights_may_return_until_the_schedule_ends(model: nn.Module, train: Any, name: str) -> None:
    earlier = pruned(model, 0.25)
    watch = Watch(model, earlier)
    schedule = Schedule("linear", 0.5, 0.6, 0.0, 4.0)
    gradual = Gradual(weights_of(model), "percentile", schedule, every=1 / 3, reversible=True)
    masks, _ = retrain(model, train, earlier, TrainSettings(6, 0.1, name, OPTIMIZERS[name]), gradual=gradual)
    assert not watch.never_returned()
    last = watch.passes * 4 // 6 + 4
    watch.zeros = watch.zeros[last:]
    assert watch.never_returned()
    assert [count_zeros({name: mask}) for name, mask in masks.items()] == [round(0.6 * 48), round(0.6 * 24)]
    assert all(not bool((masks[name] & ~earlier[name]).any()) for name in masks)
    assert all(is_zero(model.get_parameter(name), mask) for name, mask in masks.items())


def test_reversible_schedules_refuse_lbfgs(model: nn.Module, train: Any) -> None:
    gradual = Gradual(weights_of(model), "percentile", Schedule("linear", 0.0, 0.5, 0.0, 1.0), reversible=True)
    with pytest.raises(ParameterError, match="a reversible schedule does not go with LBFGS"):
        retrain(model, train, {}, TrainSettings(2, optimizer="LBFGS"), gradual=gradual)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 7),
    st.sampled_from([0.1, 0.5, 0.6, 0.9, 1.0]),
    st.sampled_from(["percentile", "unstructured", "filter_l1"]),
    st.sampled_from([0.1, 0.4, 5.0]),
    st.booleans(),
)
def test_the_final_share_is_met_to_one_weight(filters: int, share: float, method: str, every: float, reversible: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, filters), nn.Linear(filters, 2))
    batches = [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))] * 2
    gradual = Gradual(weights_of(model), method, Schedule("cubic", 0.0, share, 0.0, 2.0), every=every, reversible=reversible)
    masks, history = retrain(model, batches, {}, TrainSettings(2, 0.01), gradual=gradual)
    zeros = [count_zeros({name: mask}) for name, mask in masks.items()]
    if method == "unstructured":
        assert sum(zeros) == round(share * 5 * filters)
    elif method == "percentile":
        assert zeros == [round(share * 3 * filters), round(share * 2 * filters)]
    else:
        gone = [round(share * n) if share == 1 else min(round(share * n), n - 1) for n in (filters, 2)]
        assert zeros == [gone[0] * 3, gone[1] * filters]
    assert history.epochs[-1].sparsity == pytest.approx(sum(zeros) / (5 * filters))


def test_the_schedules_end_is_not_overlooked(model: nn.Module, train: Any) -> None:
    gradual = Gradual(weights_of(model), "percentile", Schedule("linear", 0.0, 0.5, 0.0, 1.0), every=10.0)
    _, history = retrain(model, train, {}, TrainSettings(2), gradual=gradual)
    assert [record.sparsity for record in history.epochs] == [0.5, 0.5]


def test_the_best_epoch_is_one_at_the_final_sparsity(model: nn.Module, train: Any) -> None:
    scores = iter([0.99, 0.98, 0.5, 0.6])
    gradual = Gradual(weights_of(model), "percentile", Schedule("linear", 0.0, 0.5, 0.0, 2.5))
    masks, history = retrain(
        model, train, {}, TrainSettings(4), gradual=gradual, validate=lambda model: next(scores), restore_best=True
    )
    assert history.kept == 4
    assert all(is_zero(model.get_parameter(name), mask) for name, mask in masks.items())


def test_a_schedule_to_the_last_epoch_has_that_epoch_to_restore(model: nn.Module, train: Any) -> None:
    scores = iter([0.9, 0.1])
    gradual = Gradual(weights_of(model), "percentile", Schedule("linear", 0.0, 0.5, 0.0, 2.0))
    _, history = retrain(
        model, train, {}, TrainSettings(2), gradual=gradual, validate=lambda model: next(scores), restore_best=True
    )
    assert history.kept == 2


@pytest.mark.parametrize("reversible", [False, True])
def test_after_an_error_even_the_pruning_is_undone(model: nn.Module, train: Any, reversible: bool) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hooks = len(model._forward_pre_hooks)
    gradual = Gradual(weights_of(model), "percentile", Schedule("linear", 0.2, 0.5, 0.0, 1.0), reversible=reversible)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        value: Tensor = model(batch[0]).sum() * (float("nan") if model.seen > 4 else 1.0)
        return value

    with pytest.raises(TrainingError, match="retrain: the loss is nan in epoch 2, step 2"):
        retrain(model, train, pruned(model, 0.1), TrainSettings(3), gradual=gradual, loss=loss)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert len(model._forward_pre_hooks) == hooks


def test_without_masks_it_is_plain_training(model: nn.Module, train: Any) -> None:
    masks, history = retrain(model, train, {}, TrainSettings(1))
    assert masks == {}
    assert history.epochs[0].sparsity is None


def test_a_step_at_once_prunes_without_training(model: nn.Module) -> None:
    gradual = Gradual(weights_of(model), "percentile", Schedule("step", milestones=((0.0, 0.5),)))
    masks, _ = retrain(model, None, {}, TrainSettings(0), gradual=gradual)
    assert all(is_zero(model.get_parameter(name), mask) for name, mask in masks.items())
    assert count_zeros(masks) == 36


@pytest.mark.parametrize("batch", [24, 8, 5])
@pytest.mark.parametrize("every", [0.25, 0.4, 3.0])
def test_a_milestone_at_the_end_of_an_epoch_is_met_in_it(model: nn.Module, train: Any, batch: int, every: float) -> None:
    batches = torch.utils.data.DataLoader(train.dataset, batch)
    schedule = Schedule("step", milestones=((1.0, 0.25), (2.0, 0.5), (3.0, 0.75)))
    _, history = retrain(
        model, batches, {}, TrainSettings(4), gradual=Gradual(weights_of(model), "percentile", schedule, every=every)
    )
    assert [record.sparsity for record in history.epochs] == [0.25, 0.5, 0.75, 0.75]
