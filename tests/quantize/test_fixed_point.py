"""Multipliers, accumulators and whole layers in integers: exact against integers of any size, a step at most from floats."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

import deepcompress as dc
from deepcompress.errors import ModelError, ParameterError
from deepcompress.quantize.fixed_point.layer import IntegerLayer, integer_layer
from deepcompress.quantize.fixed_point.multiplier import fixed_multiplier, requantize
from deepcompress.quantize.grid import Grid

ratios = st.floats(2.0**-32, 2.0**31, exclude_max=True)
accumulators = st.integers(-(2**31), 2**31 - 1)
codes8 = {"zero_point": 0, "lowest": -(2**62), "highest": 2**62}


# Multipliers


@given(ratios)
@example(1.0)
@example(0.5)
@example(math.nextafter(1.0, 0))
@example(math.nextafter(2.0**31, 0))
@example(2.0**-32)
def test_a_multiplier_is_its_ratio_to_31_bits(real: float) -> None:
    multiplier, shift = fixed_multiplier(real)
    assert 2**30 <= multiplier < 2**31
    assert -31 <= shift <= 31
    stands_for = Fraction(multiplier) * Fraction(2) ** -(31 + shift)
    assert abs(stands_for / Fraction(real) - 1) <= Fraction(1, 2**31)


@given(st.floats(0, 2.0**-32, exclude_min=True, exclude_max=True), accumulators)
def test_a_ratio_too_small_for_any_accumulator_is_zero(real: float, accumulator: int) -> None:
    multiplier, shift = fixed_multiplier(real)
    assert requantize(torch.tensor([accumulator]), multiplier, shift, **codes8).tolist() == [0]
    assert abs(accumulator * real) < 0.5


@pytest.mark.parametrize("real", [0.0, -1.0, math.nan, math.inf, 2.0**31])
def test_no_multiplier(real: float) -> None:
    text = f"The 'real' parameter of fixed_multiplier must be a number above 0 and below 2^31. Got {real!r} instead."
    with pytest.raises(ParameterError, match=re.escape(text)):
        fixed_multiplier(real)


@given(st.lists(accumulators, min_size=1, max_size=20), ratios, st.integers(-128, 255))
@example([2**31 - 1, -(2**31)], 2.0**31 - 1, 0)
@example([1, -1, 3, -3], 0.5, 7)
def test_requantization_is_one_rounding_of_the_exact_product(values: list[int], real: float, zero_point: int) -> None:
    multiplier, shift = fixed_multiplier(real)
    found = requantize(torch.tensor(values), multiplier, shift, zero_point=zero_point, lowest=-(2**62), highest=2**62)
    exact = [Fraction(value * multiplier) / Fraction(2) ** (31 + shift) for value in values]
    assert found.tolist() == [math.floor(each + Fraction(1, 2)) + zero_point for each in exact]


@given(st.lists(accumulators, min_size=1, max_size=20), ratios, st.integers(0, 255))
def test_requantization_is_within_a_step_of_floats(values: list[int], real: float, zero_point: int) -> None:
    multiplier, shift = fixed_multiplier(real)
    found = requantize(torch.tensor(values), multiplier, shift, zero_point=zero_point, lowest=0, highest=255)
    expected = np.clip(np.rint(np.array(values) * real) + zero_point, 0, 255)
    assert np.abs(found.numpy() - expected).max() <= 1


def gemmlowp(accumulator: int, multiplier: int, shift: int) -> int:
    """SaturatingRoundingDoublingHighMul, then RoundingDivideByPOT, in Python's integers."""
    product = accumulator * multiplier
    high = abs(2 * product + (2**31 if product >= 0 else 1 - 2**31)) // 2**32
    high = high if product >= 0 else -high
    rest, half = high & (2**shift - 1), (2**shift - 1) // 2 + (high < 0)
    return (high >> shift) + (rest > half)


@given(accumulators, st.floats(2.0**-20, 1, exclude_max=True))
def test_gemmlowp_differs_only_near_a_half(accumulator: int, real: float) -> None:
    multiplier, shift = fixed_multiplier(real)
    if shift < 0:  # rounded up to 1
        return
    ours = int(requantize(torch.tensor([accumulator]), multiplier, shift, **codes8))
    exact = Fraction(accumulator * multiplier) / Fraction(2) ** (31 + shift)
    theirs = gemmlowp(accumulator, multiplier, shift)
    assert abs(ours - theirs) <= 1
    if abs(exact - math.floor(exact) - Fraction(1, 2)) > Fraction(1, 2**shift):
        assert ours == theirs


# Layers


def grids(seed: int) -> tuple[Grid, Grid]:
    """Those of an input and an output; sometimes symmetric."""
    low, high, reach = np.random.default_rng(seed).uniform(0.01, 3, 3)
    return Grid.over(-low, high, bits=8, symmetric=seed % 3 == 0), Grid.over(-reach, 2 * reach, bits=8, symmetric=seed % 5 == 0)


def random_codes(grid: Grid, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(grid.lowest, grid.highest + 1, shape, generator=torch.Generator().manual_seed(seed)).to(grid.dtype)


def numpy_convolution(layer: IntegerLayer, codes: Tensor, padding: tuple[int, int]) -> NDArray[np.int64]:
    """Accumulators by the definition, one output at a time, in int64; the border holds the zero point's code."""
    geometry = layer.convolution
    assert geometry is not None
    (up, left), (down, right), (by, bx), groups = padding, geometry.stride, geometry.dilation, geometry.groups
    images = codes.numpy().astype(np.int64)
    border = ((0, 0), (0, 0), (up, up), (left, left))
    images = np.pad(images, border, constant_values=layer.input.zero_point) - layer.input.zero_point
    weight = layer.weight.numpy().astype(np.int64)
    outs, per_group, kh, kw = weight.shape
    rows = (images.shape[2] - by * (kh - 1) - 1) // down + 1
    columns = (images.shape[3] - bx * (kw - 1) - 1) // right + 1
    found = np.empty((len(images), outs, rows, columns), np.int64)
    for o, y, x in np.ndindex(outs, rows, columns):
        first = o // (outs // groups) * per_group
        window = images[:, first : first + per_group, y * down : y * down + by * kh : by, x * right : x * right + bx * kw : bx]
        found[:, o, y, x] = (window * weight[o]).sum((1, 2, 3)) + int(layer.bias[o])
    return found


def numpy_codes(layer: IntegerLayer, sums: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
    """Accumulators to codes in Python's integers, which are of any size."""
    found = np.empty_like(sums)
    for place, value in np.ndenumerate(sums):
        multiplier, shift = int(layer.multiplier[place[axis]]), 31 + int(layer.shift[place[axis]])
        code = ((int(value) * multiplier + (1 << shift >> 1)) >> shift) + layer.output.zero_point
        found[place] = min(max(code, layer.lowest), layer.highest)
    return found


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 3)),
    st.tuples(st.integers(0, 2), st.integers(0, 1)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.sampled_from([(2, 3, 1), (4, 6, 2), (3, 3, 3), (4, 8, 4)]),
    st.tuples(st.sampled_from(["per-channel", "per-layer"]), st.sampled_from([None, 6.0, math.inf]), st.booleans()),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_convolution_is_that_of_numpy_bit_for_bit(
    kernel: Any, stride: Any, padding: Any, dilation: Any, channels: tuple[int, int, int], kind: tuple[str, Any, bool], seed: int
) -> None:
    torch.manual_seed(seed)
    ins, outs, groups = channels
    module = nn.Conv2d(ins, outs, kernel, stride, padding, dilation, groups, bias=kind[2])
    layer = integer_layer(module, *grids(seed), weights=kind[0], ceiling=kind[1])
    codes = random_codes(layer.input, 2, ins, 7, 6, seed=seed)
    sums = numpy_convolution(layer, codes, padding)
    np.testing.assert_array_equal(layer.accumulate(codes).numpy(), sums)
    found = layer(codes)
    np.testing.assert_array_equal(found.numpy(), numpy_codes(layer, sums, 1))
    assert found.dtype == layer.output.dtype
    assert np.abs(sums).max() <= layer.reach
    bias = None if module.bias is None else module.bias.detach()
    assert (found.int() - layer.in_floats(codes, bias).int()).abs().max() <= 1


@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from([(3,), (2, 4), ()]), st.integers(2, 8), st.integers(0, 99))
@settings(deadline=None)
def test_a_linear_layer_is_that_of_numpy_bit_for_bit(ins: int, outs: int, batch: Any, bits: int, seed: int) -> None:
    torch.manual_seed(seed)
    module = nn.Linear(ins, outs)
    layer = integer_layer(module, *grids(seed), bits=bits)
    codes = random_codes(layer.input, *batch, ins, seed=seed)
    centred = codes.numpy().astype(np.int64) - layer.input.zero_point
    sums = centred @ layer.weight.numpy().astype(np.int64).T + layer.bias.numpy()
    np.testing.assert_array_equal(layer(codes).numpy(), numpy_codes(layer, sums, -1))
    assert layer.weight.abs().max() <= 2 ** (bits - 1) - 1
    rounded_bias = layer.bias * layer.input.scale * layer.weight_scale
    assert (layer(codes).int() - layer.in_floats(codes, rounded_bias).int()).abs().max() <= 1
    step = layer.input.scale * layer.weight_scale.max().item() / layer.output.scale  # of the accumulator, in output steps
    assert (layer(codes).int() - layer.in_floats(codes, module.bias.detach()).int()).abs().max() <= 1 + step // 2


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("padding", ["same", "valid", 2])
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), ((2, 5), 1), ((4, 2), (3, 1))])
def test_borders_are_those_of_torch(padding: Any, kernel: Any, dilation: Any) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(3, 4, kernel, padding=padding, dilation=dilation)
    layer = integer_layer(module, *grids(1))
    codes = random_codes(layer.input, 2, 3, 10, 11)
    with torch.no_grad():
        module.weight.copy_(layer.weight)
        module.bias.copy_(layer.bias)  # type: ignore[union-attr]
    assert torch.equal(module.double()(codes.double() - layer.input.zero_point), layer.accumulate(codes).double())
    assert layer(codes[:0]).shape == (0, *layer(codes).shape[1:])
    assert torch.equal(layer(codes[0]), layer(codes)[0])


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("symmetric", [False, True])
def test_weights_of_quantize_affine(axis: int | None, symmetric: bool) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(3, 4, 3, padding="same")
    quantized = dc.quantize_affine(module.weight.detach(), 5, axis=axis, symmetric=symmetric)
    layer = integer_layer(module, *grids(1), weights=quantized)
    dequantized = layer.weight * layer.weight_scale.view(-1, 1, 1, 1)
    torch.testing.assert_close(dequantized.float(), dc.dequantize_affine(quantized))
    codes = random_codes(layer.input, 2, 3, 5, 5)
    np.testing.assert_array_equal(layer.accumulate(codes).numpy(), numpy_convolution(layer, codes, (1, 1)))
    assert (layer(codes).int() - layer.in_floats(codes, module.bias).int()).abs().max() <= 1


def test_a_bias_is_on_the_scale_of_input_times_weight() -> None:
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.27, 0.5], [-0.254, 0.1]]))
        module.bias.copy_(torch.tensor([0.7, -0.3]))
    layer = integer_layer(module, Grid(0.02, 10, 8, False), Grid(0.1, 0, 8, False))
    assert layer.weight.tolist() == [[127, 50], [-127, 50]]
    assert layer.weight_scale.tolist() == pytest.approx([0.01, 0.002])
    assert layer.bias.tolist() == [round(0.7 / (0.02 * 0.01)), round(-0.3 / (0.02 * 0.002))]
    multipliers = layer.multiplier * 2.0 ** -(31 + layer.shift)
    assert multipliers.tolist() == pytest.approx([0.02 * 0.01 / 0.1, 0.02 * 0.002 / 0.1])


@pytest.mark.parametrize("weights", ["per-channel", "per-layer"])
def test_a_bias_that_outweighs_its_weights_coarsens_them(weights: str) -> None:
    """A channel that training has all but switched off, as batch norm leaves them: its scale alone would not hold its bias."""
    torch.manual_seed(0)
    module = nn.Linear(6, 3)
    with torch.no_grad():
        module.weight[0] *= 1e-12
        module.weight[1] = 0
        module.bias.copy_(torch.tensor([0.5, -0.7, 0.1]))
    layer = integer_layer(module, grids(1)[0], Grid.over(-2, 2, bits=8), weights=weights)
    codes = random_codes(layer.input, 9, 6)
    assert layer.bias.abs().max() <= 2**30
    assert (layer(codes).int() - layer.in_floats(codes, module.bias.detach()).int()).abs().max() <= 1
    values = (codes.double() - layer.input.zero_point) * layer.input.scale
    exact = torch.nn.functional.linear(values, module.weight.double(), module.bias.double())
    assert (layer.output.dequantize(layer(codes)) - exact).abs()[:, :2].max() <= layer.output.scale
    tiny = nn.Linear(6, 3)
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter.zero_()
    assert torch.all(integer_layer(tiny, *grids(1), weights=weights)(codes) == grids(1)[1].zero_point)


def test_what_32_bits_may_not_hold_is_refused_beforehand() -> None:
    wide = nn.Linear(70_000, 1, bias=False)
    with torch.no_grad():
        wide.weight.fill_(1.0)
    grid = Grid(1.0, 0, 8, False)
    text = f"an accumulator may reach {70_000 * 127 * 255:,}, and 32 bits hold 2,147,483,647: give weights fewer bits"
    with pytest.raises(ModelError, match=re.escape(text)):
        integer_layer(wide, grid, grid)
    layer = integer_layer(wide, grid, Grid(1e6, 0, 8, False), bits=7)
    assert layer.reach == 70_000 * 63 * 255
    assert layer.accumulate(torch.full((1, 70_000), 255, dtype=torch.uint8)).tolist() == [[layer.reach]]
    quantized = dc.quantize_affine(np.full((1, 1), 1e-9, np.float32), symmetric=True)
    with pytest.raises(ModelError, match="an accumulator may reach"):
        integer_layer(nn.Linear(1, 1), grid, grid, weights=quantized)


def test_a_relu_is_a_clamp() -> None:
    torch.manual_seed(0)
    module, (taken, _), given_grid = nn.Linear(5, 4), grids(1), Grid.over(-1, 7, bits=8)
    codes = random_codes(taken, 50, 5)
    plain = integer_layer(module, taken, given_grid)(codes).int()
    assert plain.min() < given_grid.zero_point
    for ceiling, top in ((math.inf, given_grid.highest), (0.5, int(given_grid.quantize(torch.tensor(0.5))))):
        layer = integer_layer(module, taken, given_grid, ceiling=ceiling)
        assert torch.equal(layer(codes).int(), plain.clamp(given_grid.zero_point, top))


@pytest.mark.parametrize(
    ("module", "options", "error", "text"),
    [
        (nn.Conv1d(1, 1, 1), {}, ModelError, "integer_layer: a Conv1d has no integer form here; Linear and Conv2d have"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), {}, ModelError, "padding_mode='reflect' has no integer form"),
        (nn.Linear(2, 2), {"weights": "each"}, ParameterError, "must be one of 'per-channel', 'per-layer', or what"),
        (nn.Linear(2, 2), {"bits": 1}, ParameterError, "'bits' parameter of integer_layer must be an int from 2 to 16. Got 1"),
        (
            nn.Linear(2, 2),
            {"weights": dc.quantize_affine(np.ones((2, 2)), axis=1)},
            ParameterError,
            "must be a quantized weight of shape (2, 2), along axis 0 or none. Got '(2, 2) along axis 1' instead.",
        ),
        (nn.Linear(2, 2), {"weights": dc.quantize_affine(np.ones((2, 3)))}, ParameterError, "Got '(2, 3) along axis None'"),
    ],
)
def test_bad_layers(module: nn.Module, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        integer_layer(module, *grids(1), **options)


def test_weights_that_are_not_finite() -> None:
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.bias[0] = math.nan
    with pytest.raises(ModelError, match="integer_layer: weights or biases are NaN or infinite"):
        integer_layer(module, *grids(1))


# The check


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5)
    )


@pytest.mark.parametrize("weights", ["per-channel", "per-layer"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_whole_layers_are_a_step_apart_at_most(weights: str, symmetric: bool) -> None:
    model, images = net(), torch.randn(20, 2, 8, 8)
    rows = dc.check_fixed_point(model, (images, None), dc.calibrate(model, [images], symmetric=symmetric), weights=weights)
    assert [(row.layer, row.kind, row.values) for row in rows] == [
        ("0", "Conv2d", 20 * 8 * 64), ("2", "Conv2d", 20 * 8 * 9), ("5", "Linear", 100)
    ]  # fmt: skip
    for row in rows:
        assert row.largest <= 1
        assert row.mean == row.differing <= 0.01
        assert 8 < row.seen_bits <= row.reach_bits <= 32
    assert all(not module._forward_hooks for module in model.modules())
    assert model.training


def test_the_check_sees_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(accumulators: Tensor, multiplier: Tensor, shift: Tensor, **ends: int) -> Tensor:
        return requantize(accumulators, multiplier, shift, **{**ends, "zero_point": ends["zero_point"] - 3})

    model, images = nn.Sequential(nn.Linear(4, 4)), torch.randn(50, 4)
    found = dc.calibrate(model, [images])
    monkeypatch.setattr("deepcompress.quantize.fixed_point.layer.requantize", wrong)
    (row,) = dc.check_fixed_point(model, images, found)
    assert row.largest in (3, 4)
    assert row.mean > 2
    assert row.differing > 0.9


def test_given_weights_and_names() -> None:
    model, images = net(), torch.randn(4, 2, 8, 8)
    found = dc.calibrate(model, [images])
    coarse = {"0": dc.quantize_affine(model[0].weight.detach(), 3, axis=0)}  # type: ignore[index, union-attr]
    rows = dc.check_fixed_point(model, images, found, weights=coarse)
    assert rows[0].reach_bits < dc.check_fixed_point(model, images, found)[0].reach_bits
    with pytest.raises(ParameterError, match=re.escape("must be a mapping of layers, which are ['0', '2', '5']. Got 'fc'")):
        dc.check_fixed_point(model, images, found, weights={"fc": coarse["0"]})
    with pytest.raises(ParameterError, match="'calibration' parameter of check_fixed_point must be of this model"):
        dc.check_fixed_point(nn.Sequential(nn.Linear(2, 2)), images, found)


def test_layers_without_an_integer_form() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 1), nn.Flatten(), nn.Linear(6, 2))
    images = torch.randn(3, 1, 3)
    found = dc.calibrate(model, [images])
    assert [row.layer for row in dc.check_fixed_point(model, images, found)] == ["2"]
    only = dc.calibrate(model, [images], exclude=["2"])
    with pytest.raises(ModelError, match="check_fixed_point: the batch reached no calibrated Linear or Conv2d"):
        dc.check_fixed_point(model, images, only)
    huge = nn.Sequential(nn.Conv2d(1, 1, 1, padding_mode="circular"))
    with pytest.raises(ModelError, match=re.escape("check_fixed_point, layer '0': integer_layer: padding_mode='circular'")):
        dc.check_fixed_point(huge, images[..., None], dc.calibrate(huge, [images[..., None]]))
