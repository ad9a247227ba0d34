"""Rate-distortion choice of levels: the kernel against its definition, the curvature against the outputs, and what it is for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deepcompress.coding import pool
from deepcompress.errors import ModelError, PipelineError
from deepcompress.quantize.curvature import Curvature, measure_curvature, relative_curvature, rows_of
from deepcompress.quantize.level_costs import level_costs
from deepcompress.quantize.rate import RateLayer, levels_for_bits


def moments_of(inputs: Tensor) -> Tensor:
    return (inputs.T @ inputs / len(inputs)).double()[None]


def layer(weight: Tensor, inputs: Tensor | None = None, kept: Tensor | None = None, most: int = 127) -> RateLayer:
    moments = None if inputs is None else moments_of(inputs)
    return RateLayer("w", weight, Curvature(torch.ones(len(weight), dtype=torch.float64), moments), kept, most)


def related(count: int, size: int, seed: int = 0) -> Tensor:
    """Inputs that have much in common."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator) @ torch.randn(size, size, generator=generator)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.floats(0.3, 8), st.integers(0, 100))
def test_it_takes_the_bits_that_were_asked_for(rows: int, columns: int, bits: float, seed: int) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(rows * 16, columns * 16)
    found, _ = levels_for_bits({"w": layer(weight, related(300, columns * 16, seed), most=4095)}, bits)
    assert found["w"].bits / weight.numel() == pytest.approx(bits, rel=0.02, abs=16 / weight.numel())


def test_without_a_price_levels_are_nearest_and_rows_alone_are_rounded() -> None:
    weight = torch.randn(5, 8)
    one = layer(weight, most=3)
    found = one.at(1e-12)
    assert float(found.step[0]) == pytest.approx(float(weight.abs().max()) / 3, rel=1e-3)
    assert np.array_equal(found.levels, np.clip(np.rint(weight.numpy() / float(found.step[0])), -3, 3))


def test_the_choice_is_the_least_of_its_definition() -> None:
    torch.manual_seed(0)
    weight, price = torch.randn(4, 6), 0.02
    one = layer(weight, most=7)
    found = one.at(price)
    step = float(found.step[0])
    costs = one._costs(_before(one, price, step))
    for row in range(4):
        for column in range(6):
            value = float(weight[row, column])
            extra = float(costs.nonzero[row, column])

            def cost(size: int, value: float = value, extra: float = extra) -> float:
                return (abs(value) - size * step) ** 2 + price * (float(costs.sizes[size]) + (extra if size else 0))

            near = min(math.floor(abs(value) / step + 0.5), 7)
            sizes = {0, max(near - 1, 0), near}
            assert abs(int(found.levels[row, column])) == min(sizes, key=cost)


def _before(one: RateLayer, price: float, step: float) -> Any:
    """Levels of the last pass but one."""
    levels = np.clip(np.rint(one._rows / step), -one.most, one.most).astype(np.int16)
    for _ in range(2):
        levels = one._assigned(step, price, one._costs(levels))
    return levels


def test_later_weights_make_up_for_errors() -> None:
    torch.manual_seed(1)
    weight, inputs = torch.randn(32, 48), related(500, 48)
    spoiled = {}
    for name, taken in {"alone": None, "together": inputs}.items():
        found, _ = levels_for_bits({"w": layer(weight, taken)}, 2.0)
        wrong = weight - torch.from_numpy(found["w"].levels * float(found["w"].step[0])).float()
        spoiled[name] = float((inputs @ wrong.T).square().mean())
    assert spoiled["together"] < 0.5 * spoiled["alone"]


def test_a_layer_that_matters_more_gets_more_bits() -> None:
    weight = torch.randn(64, 64)
    layers = {
        name: RateLayer(name, weight, Curvature(torch.full((64,), factor, dtype=torch.float64)), None, 127)
        for name, factor in {"little": 1.0, "much": 16.0}.items()
    }
    found, _ = levels_for_bits(layers, 3.0)
    assert found["much"].bits - found["little"].bits == pytest.approx(2 * weight.numel(), rel=0.1)


def test_what_is_pruned_stays_zero() -> None:
    weight, kept = torch.randn(8, 12), torch.rand(8, 12) < 0.5
    found = layer(weight * kept, related(100, 12), kept).at(1e-4)
    assert not found.levels[~kept.numpy()].any()


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_levels_do_not_depend_on_threads(threads: int) -> None:
    torch.manual_seed(0)
    one = layer(torch.randn(40, 64), related(200, 64))
    expected = one.at(0.01).levels
    with pool.limited(threads):
        assert np.array_equal(one.at(0.01).levels, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_steps_are_of_a_type_that_the_file_holds(dtype: str) -> None:
    weight = torch.randn(4, 4).to(getattr(torch, dtype))
    step = layer(weight).step_at(0.1)
    assert step.dtype.name in {"float16": ["float16"], "bfloat16": ["float32"]}.get(dtype, ["float16", "float32", "float64"])
    assert float(step[0]) > 0
    tiny = layer(weight * 0).step_at(0.0)
    assert float(tiny[0]) > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_no_step_is_beyond_the_weights(dtype: torch.dtype) -> None:
    weight = (torch.randn(4, 4) * 1e4).to(dtype)
    found = layer(weight).at(1e30)
    assert not found.levels.any()
    assert float(found.step[0]) <= 1.001 * float(weight.abs().max())


def test_second_moments_without_an_inverse() -> None:
    inputs = torch.zeros(10, 6)
    inputs[:, 0] = torch.randn(10)
    found = layer(torch.randn(3, 6), inputs).at(0.01)
    assert found.levels.shape == (3, 6)
    with pytest.raises(ModelError, match="w: what it is multiplied by is NaN or infinite"):
        layer(torch.randn(3, 6), torch.full((4, 6), math.inf))


NETWORKS = {
    "linear": (nn.Linear(6, 4), (6,)),
    "convolution": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 7, 7)),
    "groups": (nn.Conv2d(4, 6, (3, 1), padding="same", groups=2), (4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="reflect"), (4, 5, 5)),
    "one side": (nn.Conv1d(3, 4, 3, dilation=2, padding=2), (3, 9)),
    "three sides": (nn.Conv3d(2, 3, 2), (2, 4, 4, 4)),
    "transposed": (nn.ConvTranspose2d(3, 4, 2), (3, 4, 4)),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_curvature_foretells_how_outputs_change(kind: str) -> None:
    torch.manual_seed(0)
    module, shape = NETWORKS[kind]
    batches = [torch.randn(16, *shape) for _ in range(8)]
    weight = module.weight
    found = measure_curvature(module, {"w": weight}, batches, limit=8, probes=64)["w"]
    assert not weight.grad
    ratios = []
    for _ in range(8):
        change = torch.randn_like(weight) * 1e-3
        with torch.no_grad():
            before = [module(batch) for batch in batches]
            weight += change
            changed = sum(float((module(batch) - old).square().sum()) for batch, old in zip(batches, before, strict=True)) / 8
            weight -= change
        rows = rows_of(change).double()
        if found.moments is None:
            foretold = float((found.sensitivity[:, None] * rows.square()).sum()) / 8 / 64
        else:
            grouped = rows.view(len(found.moments), -1, rows.shape[1])
            each = torch.einsum("grn,gnm,grm->gr", grouped, found.moments, grouped)
            foretold = float((found.sensitivity * each.reshape(-1)).sum()) / 8 / 64
        ratios.append(changed / foretold)
    tolerance = 0.15 if found.moments is not None else 0.6  # one sensitivity for a row
    assert np.mean(ratios) == pytest.approx(1, rel=tolerance)
    if found.moments is not None:
        assert np.std(ratios) < 0.15


def test_moments_of_a_convolution_are_those_of_its_patches() -> None:
    module = nn.Conv2d(4, 6, 3, padding=1, groups=2)
    batch = torch.randn(5, 4, 6, 6)
    found = measure_curvature(module, {"w": module.weight}, [batch], limit=1)["w"].moments
    patches = nn.functional.unfold(batch, 3, padding=1).view(5, 2, 18, 36)
    expected = torch.einsum("bgnp,bgmp->gnm", patches, patches) / (5 * 36)
    torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=1e-4)


def test_weights_that_no_output_depends_on_have_no_curvature() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "idle": nn.Linear(3, 2)})
    model.forward = lambda inputs: {"out": [model["used"](inputs)]}  # type: ignore[method-assign]
    weights = {"used": model["used"].weight, "idle": model["idle"].weight}
    assert measure_curvature(model, weights, [torch.randn(4, 3)], limit=1).keys() == {"used"}
    with pytest.raises(PipelineError, match="the loader gives no batches"):
        measure_curvature(model, weights, [], limit=1)
    model.forward = lambda inputs: inputs.argmax(1)  # type: ignore[method-assign]
    with pytest.raises(PipelineError, match="no output of the model depends on a weight"):
        measure_curvature(model, weights, [torch.randn(4, 3)], limit=1)


def test_long_rows_have_no_moments() -> None:
    short, long = nn.Linear(8_192, 1), nn.Linear(8_193, 1)
    for module, known in ((short, True), (long, False)):
        found = measure_curvature(module, {"w": module.weight}, [torch.randn(2, module.in_features)], limit=1)["w"]
        assert (found.moments is not None) == known
        assert RateLayer("w", module.weight.detach(), Curvature(found.sensitivity), None, 127).at(1e-6).levels.any()


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    model[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = measure_curvature(model, {"w": model[0].weight}, [torch.randn(8, 4)] * 3, limit=2)
    assert model.training
    assert not model[0].weight.requires_grad
    assert model[0].weight.grad is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model[0]._forward_pre_hooks
    assert first["w"].moments is not None


def test_relative_curvature_counts_layers_alike() -> None:
    for weight in (torch.randn(3, 4) * 7, torch.randn(5), torch.randn(2, 3, 3, 3) * 1e-3):
        found = relative_curvature(weight)
        assert float((found.sensitivity[:, None] * rows_of(weight).double().square()).sum()) == pytest.approx(1)
    assert float(relative_curvature(torch.zeros(2, 2)).sensitivity[0]) == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 9))
def test_costs_are_those_of_an_ideal_code(rows: int, columns: int, density: float, seed: int) -> None:
    torch.manual_seed(seed)
    sizes = torch.randint(1, 4, (rows, columns)) * (torch.rand(rows, columns) < density)
    costs = level_costs(sizes, 3)
    counts = torch.bincount(sizes.flatten(), minlength=4).double()
    shares = counts / counts.sum()
    ideal = float(-(counts * torch.log2(shares.clamp_min(1e-12))).sum() + counts[1:].sum())
    assert costs.total <= ideal * 1.02 + 24
    assert costs.nonzero.shape == (rows, columns)


def test_rows_and_columns_foresee_zeros() -> None:
    chance = torch.Generator().manual_seed(0)
    noise = (torch.rand(60, 80, generator=chance) < 0.2).int()
    assert abs(saved_by_place(noise)) < 0.06 * 60 * 80 * 0.722
    columns = noise * (torch.arange(80) % 4 == 0)
    share = float(columns.float().mean())
    entropy = -60 * 80 * (share * math.log2(share) + (1 - share) * math.log2(1 - share))
    assert saved_by_place(columns) < -0.3 * entropy
    more = level_costs(columns, 1).nonzero
    assert (more[:, 0] < 0).all()
    assert (more[:, 1] > 0).all()
    assert saved_by_place(columns.reshape(60, 20, 2, 2)) < 0
    assert saved_by_place(columns[0]) == pytest.approx(0, abs=1e-3)


def saved_by_place(sizes: Tensor) -> float:
    """Bits that rows and columns add to those of the levels alone."""
    costs = level_costs(sizes, 1)
    counts = torch.bincount(sizes.flatten().long(), minlength=2)
    return costs.total - float((costs.sizes * counts).sum())
