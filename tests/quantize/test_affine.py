"""Affine quantization of arrays and tensors: how far values move, what is exact, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import deepcompress as dc
from deepcompress.errors import ParameterError
from deepcompress.quantize.affine import AffineArray, dequantize_affine, quantize_affine

Array = NDArray[Any]
FLOATS = (np.float16, np.float32, np.float64)
GAUSS = np.random.default_rng(0).standard_normal((16, 8, 3, 3)).astype(np.float32)
bits = st.integers(1, 16)


@st.composite
def arrays(draw: st.DrawFn) -> tuple[Array, int | None]:
    """Finite values of any float type and shape, and an axis for them; far from the ends of their type."""
    kind = np.dtype(draw(st.sampled_from(FLOATS)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    most = {2: 1000.0, 4: 2.0**100, 8: 2.0**900}[kind.itemsize]
    values = st.floats(-most, most, width=8 * kind.itemsize)
    array = draw(hnp.arrays(kind, shape, elements=values))
    return array, draw(st.sampled_from([None, *range(-len(shape), len(shape))]))


def along(quantized: AffineArray, parameter: Array) -> NDArray[np.float64]:
    """A parameter in float64, so that it broadcasts over the codes."""
    sides = [1] * quantized.codes.ndim
    if quantized.axis is not None:
        sides[quantized.axis] = -1
    return np.asarray(parameter, np.float64).reshape(sides)


def exact(quantized: AffineArray) -> NDArray[np.float64]:
    """The levels' values before they are rounded to the source's type."""
    found: NDArray[np.float64] = along(quantized, quantized.scale) * (quantized.codes - along(quantized, quantized.zero_point))
    return found


@given(arrays(), bits, st.booleans())
def test_no_error_is_above_half_a_step(drawn: tuple[Array, int | None], bits: int, symmetric: bool) -> None:
    values, axis = drawn
    bits = max(bits, 2) if symmetric else bits
    quantized = quantize_affine(values, bits, axis=axis, symmetric=symmetric)
    error = np.abs(values.astype(np.float64) - exact(quantized))
    assert (error <= along(quantized, quantized.scale) / 2 * (1 + 1e-9)).all()


@given(arrays())
def test_one_bit_symmetric_keeps_the_side_of_the_farther_end(drawn: tuple[Array, int | None]) -> None:
    values, _ = drawn
    quantized = quantize_affine(values, 1, symmetric=True)
    side = 1 if not values.size or values.max() >= -values.min() else -1
    assert set(quantized.codes.ravel().tolist()) <= {0, side}
    kept = values.astype(np.float64) * side >= 0
    assert (np.abs(values.astype(np.float64) - exact(quantized))[kept] <= float(quantized.scale) / 2 * (1 + 1e-9)).all()
    assert not quantized.codes[~kept].any()


@given(arrays(), bits, st.booleans(), st.sampled_from(["nearest-even", "stochastic"]))
def test_values_come_back_rounded_once_to_their_type(
    drawn: tuple[Array, int | None], bits: int, symmetric: bool, rounding: str
) -> None:
    values, axis = drawn
    quantized = quantize_affine(values, bits, axis=axis, symmetric=symmetric, rounding=rounding)
    found = dequantize_affine(quantized)
    kind = np.float64 if values.dtype == np.float64 else np.float32
    steps = (quantized.codes - along(quantized, quantized.zero_point)).astype(kind)
    assert found.dtype == values.dtype
    assert found.shape == values.shape
    assert np.array_equal(found, (along(quantized, quantized.scale).astype(kind) * steps).astype(values.dtype))


@given(arrays(), bits, st.booleans(), st.sampled_from(["nearest-even", "stochastic"]), st.integers(0, 2**64))
def test_zero_stays_exactly_zero(
    drawn: tuple[Array, int | None], bits: int, symmetric: bool, rounding: str, seed: int
) -> None:
    values, axis = drawn
    values[np.random.default_rng(0).random(values.shape) < 0.5] = 0
    quantized = quantize_affine(values, bits, axis=axis, symmetric=symmetric, rounding=rounding, seed=seed)
    found = dequantize_affine(quantized)
    assert not found[values == 0].any()
    assert not np.signbit(found[values == 0]).any()


@given(arrays(), bits, st.booleans())
def test_codes_fit_their_bits_and_type(drawn: tuple[Array, int | None], bits: int, symmetric: bool) -> None:
    values, axis = drawn
    quantized = quantize_affine(values, bits, axis=axis, symmetric=symmetric)
    assert quantized.codes.dtype == f"{'int' if symmetric else 'uint'}{8 if bits <= 8 else 16}"
    half = max(2 ** (bits - 1) - 1, 1)
    low, high = (-half, half) if symmetric else (0, 2**bits - 1)
    assert ((low <= quantized.codes.astype(int)) & (quantized.codes.astype(int) <= high)).all()
    assert ((quantized.zero_point >= 0) & (quantized.zero_point <= (0 if symmetric else high))).all()
    assert quantized.scale.dtype == (np.float64 if values.dtype == np.float64 else np.float32)
    assert quantized.scale.shape == quantized.zero_point.shape == (() if axis is None else (values.shape[axis],))


@given(arrays(), bits, st.booleans())
def test_a_channel_is_quantized_as_if_it_were_alone(drawn: tuple[Array, int | None], bits: int, symmetric: bool) -> None:
    values, axis = drawn
    if axis is None:
        return
    quantized = quantize_affine(values, bits, axis=axis, symmetric=symmetric)
    for channel in range(values.shape[axis]):
        alone = quantize_affine(values.take(channel, axis), bits, symmetric=symmetric)
        assert np.array_equal(alone.codes, quantized.codes.take(channel, axis))
        assert (alone.scale, alone.zero_point) == (quantized.scale[channel], quantized.zero_point[channel])


@given(arrays(), st.integers(2, 16))
def test_symmetric_codes_change_sign_with_their_values(drawn: tuple[Array, int | None], bits: int) -> None:
    values, axis = drawn
    ahead = quantize_affine(values, bits, axis=axis, symmetric=True)
    back = quantize_affine(-values, bits, axis=axis, symmetric=True)
    assert np.array_equal(back.codes, -ahead.codes)
    assert np.array_equal(back.scale, ahead.scale)


@given(arrays(), bits, st.booleans(), st.sampled_from(["nearest-even", "stochastic"]))
def test_tensors_give_what_arrays_give(
    drawn: tuple[Array, int | None], bits: int, symmetric: bool, rounding: str
) -> None:
    values, axis = drawn
    of_array = quantize_affine(values, bits, axis=axis, symmetric=symmetric, rounding=rounding)
    of_tensor = quantize_affine(torch.from_numpy(values), bits, axis=axis, symmetric=symmetric, rounding=rounding)
    for name in ("codes", "scale", "zero_point"):
        mine, theirs = getattr(of_array, name), getattr(of_tensor, name)
        assert isinstance(theirs, torch.Tensor)
        assert np.array_equal(mine, theirs.numpy())
        assert mine.dtype == theirs.numpy().dtype
    back = dequantize_affine(of_tensor)
    assert back.dtype == torch.from_numpy(values).dtype
    assert np.array_equal(back.numpy(), dequantize_affine(of_array))


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("symmetric", [True, False])
def test_values_are_those_of_torchs_fake_quantization(axis: int | None, symmetric: bool) -> None:
    """Except where a value lies between two levels, which torch, multiplying by a rounded inverse, may see differently."""
    values = torch.from_numpy(GAUSS)
    quantized = quantize_affine(values, 8, axis=axis, symmetric=symmetric)
    ends = (-127, 127) if symmetric else (0, 255)
    parameters = (quantized.scale, quantized.zero_point)
    if axis is None:
        theirs = torch.fake_quantize_per_tensor_affine(values, *parameters, *ends)
    else:
        theirs = torch.fake_quantize_per_channel_affine(values, *parameters, axis, *ends)
    same = dequantize_affine(quantized) == theirs
    steps = torch.from_numpy(GAUSS.astype(np.float64) / along(quantized, quantized.scale.numpy()))
    assert ((steps - steps.floor() - 0.5).abs()[~same] < 1e-4).all()
    assert same.float().mean() > 0.999


def test_the_scale_of_the_textbook() -> None:
    values = np.array([-1.0, 0.25, 1.55], np.float32)
    quantized = quantize_affine(values)
    assert float(quantized.scale) == pytest.approx(2.55 / 255, rel=1e-6)
    assert (int(quantized.zero_point), quantized.codes.tolist()) == (100, [0, 125, 255])
    symmetric = quantize_affine(values, symmetric=True)
    assert float(symmetric.scale) == pytest.approx(1.55 / 127, rel=1e-6)
    assert symmetric.codes.tolist() == [-82, 20, 127]


@pytest.mark.parametrize("shape", [(1000,), (20, 50)])
def test_four_times_smaller_but_for_eight_bytes(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for made in (values, torch.from_numpy(values)):
        quantized = quantize_affine(made)
        assert quantized.nbytes == values.nbytes // 4 + 8
        assert quantized.shape == shape


def test_bits_halve_the_error() -> None:
    errors = [np.abs(dequantize_affine(quantize_affine(GAUSS, bits)) - GAUSS).max() for bits in range(4, 13)]
    assert all(1.8 < coarse / fine < 2.3 for coarse, fine in pairwise(errors))


def test_channels_of_different_size_lose_less() -> None:
    values = GAUSS * np.logspace(-3, 0, 16, dtype=np.float32)[:, None, None, None]
    whole, channels = (dequantize_affine(quantize_affine(values, 8, axis=axis)) for axis in (None, 0))
    assert np.abs(channels - values)[0].max() < np.abs(whole - values)[0].max() / 100


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_tensors(kind: torch.dtype) -> None:
    values = torch.from_numpy(GAUSS).to(kind)
    quantized = quantize_affine(values, 8, axis=0)
    found = dequantize_affine(quantized)
    assert (found.dtype, quantized.scale.dtype) == (kind, torch.float32)
    step = quantized.scale.reshape(-1, 1, 1, 1)
    assert ((found - values).float().abs() <= step * 0.5 + 2.0**-8 * found.float().abs()).all()


def test_bfloat16_of_a_file_opened_without_torch() -> None:
    from deepcompress.tensors.elements import from_torch

    tensor = torch.from_numpy(GAUSS).bfloat16()
    of_array, of_tensor = quantize_affine(from_torch(tensor)), quantize_affine(tensor)
    assert np.array_equal(of_array.codes, of_tensor.codes.numpy())
    assert np.array_equal(dequantize_affine(of_array), from_torch(dequantize_affine(of_tensor)))


@pytest.mark.parametrize("value", [1.5, -2.0, 1e-30, 3e38])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_constant_comes_back(value: float, symmetric: bool) -> None:
    values = np.full((3, 4), value, np.float32)
    found = dequantize_affine(quantize_affine(values, 8, symmetric=symmetric))
    np.testing.assert_allclose(found, values, rtol=3e-7)


def test_zeros_have_scale_one() -> None:
    quantized = quantize_affine(np.zeros((2, 3), np.float32), axis=0)
    assert quantized.scale.tolist() == [1.0, 1.0]
    assert not dequantize_affine(quantized).any()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_empty_arrays_keep_their_shape(shape: tuple[int, ...]) -> None:
    for axis in (None, 0):
        quantized = quantize_affine(np.zeros(shape, np.float32), 4, axis=axis)
        assert quantized.codes.shape == dequantize_affine(quantized).shape == shape
        assert quantized.scale.shape == (() if axis is None else (shape[0],))


def test_a_single_number() -> None:
    quantized = quantize_affine(np.float64(-0.75), 8)
    assert quantized.codes.shape == ()
    assert float(dequantize_affine(quantized)) == pytest.approx(-0.75, rel=1e-15)
    tensor = dequantize_affine(quantize_affine(torch.tensor(-0.75), 8))
    assert (tensor.shape, tensor.item()) == (torch.Size(), pytest.approx(-0.75, rel=1e-7))


@pytest.mark.parametrize(
    ("kind", "back"), [(np.int8, np.float32), (np.uint16, np.float32), (np.int32, np.float64), (np.int64, np.float64)]
)
def test_integers_are_floats(kind: Any, back: Any) -> None:
    values = np.arange(100).astype(kind)
    found = dequantize_affine(quantize_affine(values, 8))
    assert found.dtype == back
    np.testing.assert_allclose(found, values, atol=99 / 255 / 2 + 1e-6)
    assert dequantize_affine(quantize_affine(torch.from_numpy(values), 8)).numpy().dtype == back


def test_lists_and_strided_arrays() -> None:
    assert quantize_affine([0.0, 1.0, 2.0, 3.0], 2).codes.tolist() == [0, 1, 2, 3]
    strided = GAUSS.T[::2]
    assert np.array_equal(quantize_affine(strided, axis=1).codes, quantize_affine(strided.copy(), axis=1).codes)
    swapped = GAUSS.astype(">f4")
    assert np.array_equal(quantize_affine(swapped).codes, quantize_affine(GAUSS).codes)


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_smallest_numbers(kind: Any, symmetric: bool) -> None:
    """Where the scale would be zero it is the smallest number there is, and the values lie on the grid."""
    smallest = np.finfo(kind).smallest_subnormal
    values = (np.arange(-100, 120) * smallest).astype(kind)
    quantized = quantize_affine(values, 8, symmetric=symmetric)
    assert quantized.scale > 0
    error = np.abs(dequantize_affine(quantized).astype(np.float64) - values)
    assert (error <= max(float(quantized.scale) / 2, float(smallest) / 2)).all()


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("bits", [1, 2, 8, 16])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_largest_numbers_stay_finite(kind: Any, bits: int, symmetric: bool) -> None:
    most = np.finfo(kind).max
    for values in ([-most, most], [most, 0], [-most, most / 3], [-most / 2, most]):
        quantized = quantize_affine(np.array(values, kind), bits, symmetric=symmetric)
        found = dequantize_affine(quantized)
        assert np.isfinite(found).all()
        error = np.abs(found / most - np.array(values, np.float64) / float(most))
        assert (error <= np.float64(quantized.scale) / most * 1.001 + 2**-11).all()


def test_a_given_range() -> None:
    quantized = quantize_affine(GAUSS, 8, low=-1, high=1)
    found = dequantize_affine(quantized)
    assert float(quantized.scale) == pytest.approx(2 / 255, rel=1e-6)
    assert np.abs(found).max() <= 1 + 1 / 255 + 1e-6
    inside = np.abs(GAUSS) <= 1
    assert np.abs(found - GAUSS)[inside].max() <= 1 / 255 + 1e-6
    assert (np.sign(found) == np.sign(GAUSS))[~inside].all()


def test_one_given_end_and_zero_outside() -> None:
    quantized = quantize_affine(np.array([-4.0, 3.0]), 2, high=6)
    assert (float(quantized.scale), int(quantized.zero_point)) == (pytest.approx(10 / 3), 1)
    above = quantize_affine(np.array([5.0, 6.0]), 2, low=5, high=6)  # the range takes zero in
    assert (float(above.scale), int(above.zero_point), above.codes.tolist()) == (2.0, 0, [2, 3])
    assert float(quantize_affine(GAUSS, 4, symmetric=True, low=-3.5, high=1).scale) == 0.5


def test_a_range_per_channel() -> None:
    values = np.array([[1.0, 2.0], [10.0, 30.0]])
    quantized = quantize_affine(values, 2, axis=0, low=[0, 0], high=torch.tensor([3.0, 60.0]))
    assert quantized.scale.tolist() == [1.0, 20.0]
    assert quantized.codes.tolist() == [[1, 2], [0, 2]]


def test_stochastic_values_have_the_right_mean() -> None:
    """At 2 bits, ends of the range included: within five standard errors over 4,000 seeds."""
    values = np.array([-0.7, -0.31, 0.0, 0.11, 0.5, 1.0])
    draws = np.stack([dequantize_affine(quantize_affine(values, 2, rounding="stochastic", seed=seed)) for seed in range(4000)])
    spread = draws.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - values) <= 5 * spread + 1e-12).all()
    assert spread[1] > 0


def test_requires_grad_is_no_obstacle() -> None:
    values = torch.linspace(-1, 1, 9, requires_grad=True)
    assert not dequantize_affine(quantize_affine(values)).requires_grad


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0, np.nan], r"quantize_affine: 1 of 2 values are NaN or infinite; a grid needs finite ones"),
        ([np.inf, 1.0, -np.inf], r"quantize_affine: 2 of 3 values are NaN or infinite"),
        (np.array([True]), r"The 'values' parameter of quantize_affine must be real numbers: .* or integers\. Got 'bool'"),
        (np.array([1j]), r"Got 'complex128' instead"),
        (np.array(["a"]), r"must be real numbers"),
        (torch.tensor([1.0]).to(torch.float8_e5m2), r"Got 'float8_e5m2' instead"),
    ],
)
def test_values_that_are_refused(values: Any, text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        quantize_affine(values)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"bits": 0}, r"The 'bits' parameter of quantize_affine must be an integer from 1 to 16\. Got 0 instead\."),
        ({"bits": 17}, r"Got 17 instead"),
        ({"bits": 8.0}, r"Got 8\.0 instead"),
        ({"bits": True}, r"Got True instead"),
        ({"axis": 2}, r"The 'axis' parameter of quantize_affine must be None or a dimension of the values, which have 2\. Got 2"),
        ({"axis": -3}, r"Got -3 instead"),
        ({"axis": "rows"}, r"Got 'rows' instead"),
        ({"symmetric": "yes"}, r"The 'symmetric' parameter of quantize_affine must be True or False\. Got 'yes'"),
        ({"rounding": "floor"}, r"The 'rounding' parameter of quantize_affine must be one of 'nearest-even', 'stochastic'"),
        ({"seed": -1}, r"The 'seed' parameter of quantize_affine must be an integer of at least 0"),
        ({"low": np.nan}, r"The 'low' parameter of .* must be a finite number, or one for each of 1 channels\. Got nan"),
        ({"high": [1, 2, 3], "axis": 0}, r"The 'high' parameter of .* one for each of 2 channels\. Got \[1, 2, 3\]"),
        ({"high": "much"}, r"The 'high' parameter of .* Got 'much'"),
        ({"low": 2, "high": 1}, r"The 'low' parameter of quantize_affine must be such that low <= high\. Got 2"),
        ({"high": -10}, r"The 'high' parameter of quantize_affine must be such that low <= high\. Got -10"),
    ],
)
def test_arguments_that_are_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        quantize_affine(np.ones((2, 3), np.float32), **arguments)


def test_only_what_was_quantized_is_dequantized() -> None:
    with pytest.raises(ParameterError, match=r"The 'quantized' parameter of .* must be an AffineArray\. Got 'ndarray'"):
        dequantize_affine(GAUSS)  # type: ignore[arg-type]


def test_the_front_door_has_them() -> None:
    assert (dc.quantize_affine, dc.dequantize_affine, dc.AffineArray) == (quantize_affine, dequantize_affine, AffineArray)


def test_arrays_need_no_torch() -> None:
    code = (
        "import sys, numpy as np, deepcompress as dc\n"
        "q = dc.quantize_affine(np.arange(4.0), 2)\n"
        "assert dc.dequantize_affine(q).tolist() == [0, 1, 2, 3]\n"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
