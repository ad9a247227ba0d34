"""A pruned weight stays +0.0 at every forward pass, whatever moves the weights; nothing of the holding remains afterwards."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from deepcompress.errors import ParameterError
from deepcompress.layers.masking import apply_masks, count_zeros, hold_masks, sparsity_of

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "sgd, one by one": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, foreach=False),
    "adam": lambda p: torch.optim.Adam(p, 0.05, weight_decay=0.1),
    "adam, no eps": lambda p: torch.optim.Adam(p, 0.05, eps=0.0),
    "adamw": lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.1),
    "adamw, fused": lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.1, fused=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=4),
    "lbfgs, wolfe": lambda p: torch.optim.LBFGS(p, max_iter=4, line_search_fn="strong_wolfe"),
}


class Watched(nn.Module):
    """A small network that checks its own weights in each forward pass once it is told what must be zero."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 8)
        self.fc2 = nn.Linear(8, 3)
        self.expected: dict[str, Tensor] = {}
        self.passes = 0

    def forward(self, batch: Tensor) -> Tensor:
        for name, mask in self.expected.items():
            assert_pruned(self.get_parameter(name), mask)
            self.passes += 1
        out: Tensor = self.fc2(torch.tanh(self.fc1(batch)))
        return out


def assert_pruned(weight: Tensor, mask: Tensor) -> None:
    pruned = weight.detach()[~mask]
    assert pruned.eq(0).all()
    assert not torch.signbit(pruned).any()


def masks_for(model: nn.Module, share: float = 0.5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(p.shape, generator=generator) > share for name, p in model.named_parameters() if p.ndim > 1}


def closure_of(model: nn.Module, optimizer: torch.optim.Optimizer | None, seed: int = 0) -> Callable[[], Tensor]:
    batch = torch.randn(16, 6, generator=torch.Generator().manual_seed(seed))

    def closure() -> Tensor:
        if optimizer is not None:
            optimizer.zero_grad()
        loss = (model(batch) - 1).square().sum()
        loss.backward()
        return loss

    return closure


@pytest.fixture
def model() -> Watched:
    torch.manual_seed(0)
    return Watched()


def hooks_on(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> int:
    hooks = sum(len(p._post_accumulate_grad_hooks or {}) for p in model.parameters())
    hooks += sum(len(p._backward_hooks or {}) for p in model.parameters())
    hooks += sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())
    if optimizer is not None:
        hooks += len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)
    return hooks


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("given_optimizer", [True, False])
def test_an_optimizer_older_than_the_masks_revives_nothing(kind: str, given_optimizer: bool, model: Watched) -> None:
    optimizer = OPTIMIZERS[kind](model.parameters())
    for seed in range(3):
        optimizer.step(closure_of(model, optimizer, seed))  # momentum everywhere
    masks = model.expected = masks_for(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with hold_masks(model, masks, optimizer if given_optimizer else None):
        for seed in range(5):
            optimizer.step(closure_of(model, optimizer, seed))
            for name, mask in masks.items():
                if given_optimizer:
                    assert_pruned(model.get_parameter(name), mask)
                gradient = model.get_parameter(name).grad
                assert gradient is not None
                assert_pruned(gradient, mask)
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert_pruned(weight, mask)
        assert weight.detach()[mask].ne(before[name][mask]).all()
        assert weight.isfinite().all()
    assert model.passes >= 10
    assert hooks_on(model, optimizer) == 0


def test_separate_forward_backward_and_keyword_closure(model: Watched) -> None:
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    masks = model.expected = masks_for(model)
    with hold_masks(model, masks, optimizer):
        closure_of(model, optimizer)()
        optimizer.step()
        optimizer.step(closure=closure_of(model, optimizer))
    assert model.passes == 4


def test_closures_that_call_a_part_of_the_model_see_zeros(model: Watched) -> None:
    """The model itself is never called here, so its own hook never runs."""
    optimizer = OPTIMIZERS["lbfgs"](model.parameters())
    masks = masks_for(model)

    def closure() -> Tensor:
        optimizer.zero_grad()
        assert_pruned(model.fc1.weight, masks["fc1.weight"])
        loss: Tensor = (model.fc1(torch.ones(4, 6)) - 1).square().sum()
        loss.backward()
        return loss

    with hold_masks(model, masks, optimizer):
        for _ in range(2):
            model.fc1.weight.data.fill_(1)
            optimizer.step(closure)


def test_gradients_accumulate_to_zero_and_old_ones_are_masked(model: Watched) -> None:
    masks = masks_for(model)
    closure_of(model, None)()
    with hold_masks(model, masks):
        for seed in range(3):
            assert_pruned(model.fc1.weight.grad, masks["fc1.weight"])  # type: ignore[arg-type]
            closure_of(model, None, seed)()


def test_infinite_and_nan_gradients_are_masked(model: Watched) -> None:
    masks = masks_for(model)
    with hold_masks(model, masks):
        (model(torch.full((2, 6), 0.1)).sum() * float("nan")).backward()
        gradient = model.fc1.weight.grad
        assert gradient is not None
        assert_pruned(gradient, masks["fc1.weight"])
        assert gradient[masks["fc1.weight"]].isnan().all()


@pytest.mark.parametrize("write", ["data", "no_grad", "swap", "load"])
def test_weights_written_by_hand_are_masked_at_the_next_call(write: str, model: Watched) -> None:
    masks = masks_for(model)
    with hold_masks(model, masks):
        model.expected = masks
        new = torch.full_like(model.fc1.weight, -1.0)
        if write == "data":
            model.fc1.weight.data.copy_(new)
        elif write == "swap":
            model.fc1.weight.data = new
        elif write == "load":
            model.load_state_dict({**model.state_dict(), "fc1.weight": new})
        else:
            with torch.no_grad():
                model.fc1.weight.sub_(7)
        model(torch.ones(1, 6))
        assert model.passes
        with torch.no_grad():
            model.fc2.weight.fill_(1)
    assert_pruned(model.fc2.weight, masks["fc2.weight"])  # once more on leaving


def test_two_forward_passes_before_one_backward(model: Watched) -> None:
    with hold_masks(model, masks_for(model)):
        (model(torch.ones(1, 6)) + model(torch.zeros(1, 6))).sum().backward()


def test_inference_mode_inside_and_outside(model: Watched) -> None:
    hold = hold_masks(model, masks_for(model))
    with hold:
        model.fc1.weight.data = torch.randn(8, 6)
        with torch.inference_mode():
            model(torch.ones(1, 6))
        closure_of(model, None)()


def test_gradients_with_a_graph_of_their_own(model: Watched) -> None:
    masks = masks_for(model)
    with hold_masks(model, masks), pytest.warns(UserWarning, match="create_graph"):
        model(torch.ones(2, 6)).square().sum().backward(create_graph=True)
    gradient = model.fc1.weight.grad
    assert gradient is not None
    assert_pruned(gradient, masks["fc1.weight"])
    gradient.sum().backward()
    model.zero_grad()


def test_sparse_gradients() -> None:
    table = nn.Embedding(5, 4, sparse=True)
    mask = torch.rand(5, 4) > 0.5
    optimizer = torch.optim.SparseAdam(table.parameters())
    with hold_masks(table, {"weight": mask}, optimizer):
        for _ in range(2):
            table(torch.tensor([1, 1, 3])).sum().backward()
            assert table.weight.grad is not None
            assert table.weight.grad.is_sparse
            assert_pruned(table.weight.grad.to_dense(), mask)
            assert table.weight.grad.to_dense()[1][mask[1]].gt(0).all()
        optimizer.step()
    assert_pruned(table.weight, mask)


@pytest.mark.parametrize("change", ["double", "bfloat16", "channels_last"])
def test_the_model_may_move_inside(change: str) -> None:
    model = nn.Conv2d(3, 4, 3)
    mask = torch.rand(4, 3, 3, 3) > 0.5
    with hold_masks(model, {"weight": mask}):
        if change == "channels_last":
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        else:
            model.to(getattr(torch, change))
        with torch.no_grad():
            model.weight.fill_(-1)
        out = model(torch.ones(1, 3, 5, 5, dtype=model.weight.dtype))
        assert_pruned(model.weight, mask)
        assert model.weight.detach()[mask].eq(-1).all()
        out.sum().backward()
        assert model.weight.grad is not None
        assert_pruned(model.weight.grad, mask)


def test_parameters_of_several_dtypes_and_a_frozen_one() -> None:
    model = nn.Sequential(nn.Linear(3, 3).bfloat16(), nn.Linear(3, 3).double(), nn.Linear(3, 3))
    model[2].weight.requires_grad_(False)
    masks = masks_for(model)
    with hold_masks(model, masks):
        for name, mask in masks.items():
            assert_pruned(model.get_parameter(name), mask)


def test_compiled_model_inside_out_and_with_a_full_graph(model: Watched) -> None:
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    masks = masks_for(model)
    old = torch.compile(model, backend="eager", fullgraph=True)
    closure_of(old, optimizer)()
    optimizer.step()
    with hold_masks(model, masks, optimizer):
        new = torch.compile(model, backend="eager", fullgraph=True)
        for called in (old, new):
            closure_of(called, optimizer)()
            optimizer.step()
            assert_pruned(model.fc1.weight, masks["fc1.weight"])
            assert_pruned(model.fc1.weight.grad, masks["fc1.weight"])  # type: ignore[arg-type]
    before = model.fc1.weight.detach().clone()
    closure_of(new, optimizer)()
    optimizer.step()
    assert model.fc1.weight.detach()[~masks["fc1.weight"]].ne(before[~masks["fc1.weight"]]).any()


def test_compiled_model_held_itself_without_an_optimizer(model: Watched) -> None:
    masks = masks_for(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with hold_masks(compiled, masks):  # type: ignore[arg-type]
        model.fc1.weight.data.fill_(1)
        compiled(torch.ones(1, 6))
        assert_pruned(model.fc1.weight, masks["fc1.weight"])
    assert list(model.state_dict()) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]


def test_names_and_copies_are_untouched(model: Watched) -> None:
    names, parameters = list(model.state_dict()), list(model.parameters())
    masks = masks_for(model)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with hold_masks(model, masks, optimizer):
        assert list(model.state_dict()) == names
        assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        copy.deepcopy(optimizer)
        for other in copies:
            assert_pruned(other.fc1.weight, masks["fc1.weight"])
            with torch.no_grad():
                other.fc1.weight.fill_(1)
            other(torch.ones(1, 6))
            other(torch.ones(1, 6))
            assert other.fc1.weight.eq(1).all()
            assert hooks_on(other) == 0
            assert list(other.state_dict()) == names
    assert hooks_on(model, optimizer) == 0


def test_an_exception_takes_the_hooks_off_and_leaves_the_masks_on(model: Watched) -> None:
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    masks = masks_for(model)
    with pytest.raises(RuntimeError, match="stop"), hold_masks(model, masks, optimizer):
        raise RuntimeError("stop")
    assert hooks_on(model, optimizer) == 0
    assert_pruned(model.fc1.weight, masks["fc1.weight"])


def test_failing_to_enter_leaves_no_hook(model: Watched) -> None:
    hold = hold_masks(model, masks_for(model), optimizer=object())  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        hold.__enter__()
    assert hooks_on(model) == 0


def test_building_changes_nothing_and_entering_masks_at_once(model: Watched) -> None:
    before = model.fc1.weight.detach().clone()
    masks = masks_for(model)
    hold = hold_masks(model, masks)
    assert torch.equal(model.fc1.weight, before)
    with hold as held:
        assert held is hold
        assert_pruned(model.fc1.weight, masks["fc1.weight"])
        assert torch.equal(model.fc1.weight[masks["fc1.weight"]], before[masks["fc1.weight"]])


def test_update_prunes_further(model: Watched) -> None:
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with hold_masks(model, masks_for(model, 0.3), optimizer) as hold:
        closure_of(model, optimizer)()
        optimizer.step()
        harder = model.expected = masks_for(model, 0.8)
        hold.update(harder)
        assert_pruned(model.fc1.weight, harder["fc1.weight"])
        assert_pruned(model.fc1.weight.grad, harder["fc1.weight"])  # type: ignore[arg-type]
        closure_of(model, optimizer)()
        optimizer.step()
        with pytest.raises(ParameterError):
            hold.update({"no": torch.ones(1, dtype=torch.bool)})
        model.fc1.weight.data.fill_(1)
        model(torch.ones(1, 6))
    assert hooks_on(model, optimizer) == 0


def test_the_callers_masks_are_copied(model: Watched) -> None:
    masks = masks_for(model)
    wanted = {name: mask.clone() for name, mask in masks.items()}
    hold = hold_masks(model, masks)
    for mask in masks.values():
        mask.fill_(True)
    with hold:
        model.double()
        model.fc1.weight.data.fill_(1)
        model(torch.ones(1, 6, dtype=torch.float64))
        assert_pruned(model.fc1.weight, wanted["fc1.weight"])


def test_a_tied_weight_goes_by_any_name_and_obeys_every_mask() -> None:
    model = nn.ModuleDict({"emb": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    model["head"].weight = model["emb"].weight
    first, second = torch.rand(5, 3) > 0.5, torch.rand(5, 3) > 0.5
    with hold_masks(model, {"head.weight": first}):
        assert_pruned(model["emb"].weight, first)
    with hold_masks(model, {"head.weight": first, "emb.weight": second}):
        model["emb"](torch.tensor([1])).sum().backward()
        assert_pruned(model["emb"].weight, first & second)


def test_parameters_over_one_memory_get_their_gradients_masked_both() -> None:
    a, b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    b.weight = nn.Parameter(a.weight.data)
    model = nn.Sequential(a, b)
    mask = torch.eye(3) > 0
    with hold_masks(model, {"1.weight": mask}):
        model(torch.ones(1, 3)).sum().backward()
        for layer in (a, b):
            assert_pruned(layer.weight.grad, mask)  # type: ignore[arg-type]


def test_wrapped_names_are_found() -> None:
    inner = nn.Linear(3, 3)
    mask = torch.eye(3) > 0
    with hold_masks(nn.DataParallel(inner), {"weight": mask}):
        assert_pruned(inner.weight, mask)


@pytest.mark.parametrize("use", [apply_masks, hold_masks])
def test_masks_that_do_not_fit_are_all_listed(use: Any, model: Watched) -> None:
    before = model.fc1.weight.detach().clone()
    masks = {"fc1.weight": masks_for(model)["fc1.weight"], "fc9.weight": torch.ones(1, dtype=torch.bool)}
    masks |= {"fc2.weight": torch.ones(2, 2, dtype=torch.bool), "fc2.bias": torch.ones(3)}
    with pytest.raises(ParameterError) as caught:
        use(model, masks)
    assert str(caught.value) == (
        f"{use.__name__}: these masks do not fit the model: 'fc9.weight' is no floating-point parameter of it; "
        "'fc2.weight' has a mask of shape (2, 2) for a weight of shape (3, 8); "
        "'fc2.bias' is a mask of dtype torch.float32, not torch.bool"
    )
    assert torch.equal(model.fc1.weight, before)


@given(st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]), st.integers(0, 2**31))
def test_apply_masks_clears_any_value_and_keeps_every_bit(dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), -1.5, 1e-40], dtype=dtype)
    weight = special[torch.randint(len(special), (4, 5), generator=generator)]
    mask = torch.rand(4, 5, generator=generator) > 0.5
    held, state = nn.ParameterDict({"w": nn.Parameter(weight.clone())}), {"w": weight.clone()}
    with hold_masks(held, {"w": mask}):
        pass
    apply_masks(state, {"w": mask})
    bits = {torch.float64: torch.int64, torch.float32: torch.int32}.get(dtype, torch.int16)
    for result in (held["w"].detach(), state["w"]):
        assert_pruned(result, mask)
        assert torch.equal(result.view(bits)[mask], weight.view(bits)[mask])


def test_counts() -> None:
    masks = {"a": torch.tensor([True, False, False, True]), "b": torch.ones(2, 2, dtype=torch.bool)}
    assert count_zeros(masks) == 2
    assert sparsity_of(masks) == 0.25
    assert sparsity_of({}) == 0.0
    assert count_zeros({"w": torch.tensor([0.0, -0.0, 1.0])}) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool])
def test_zeros_are_counted_in_any_dtype_and_order(dtype: torch.dtype) -> None:
    special = torch.tensor([0.0, -0.0, float("inf"), float("nan"), -1.5, 6e-8]).to(dtype)
    values = special[torch.randint(len(special), (40, 30), generator=torch.Generator().manual_seed(0))]
    for tensor in (values, values.t()[::2], values[0, 0], values[:0]):
        assert count_zeros({"w": tensor}) == sum(value == 0 for value in tensor.flatten().tolist())
