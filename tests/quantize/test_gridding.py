"""Whole tensors on grids as a file holds them: the same levels as `quantize_affine`, scales in the tensor's own type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepcompress.quantize.affine import dequantize_affine, quantize_affine
from deepcompress.quantize.codebooks import round_to_type
from deepcompress.quantize.gridding import GridKind, share_levels, values_on
from deepcompress.tensors.elements import bfloat16_to_float32

Array = NDArray[Any]
GAUSS = np.random.default_rng(1).standard_normal((6, 5, 7)).astype(np.float32)
DTYPES = ("float16", "bfloat16", "float32", "float64")

kinds = st.builds(
    GridKind,
    bits=st.integers(1, 16),
    axis=st.sampled_from([None, 0, 1, 2]),
    symmetric=st.booleans(),
    rounding=st.sampled_from(["nearest-even", "stochastic"]),
    seed=st.integers(0, 2**64),
)


def as_dtype(values: Array, dtype: str) -> Array:
    """Values of a type as numpy calculates with them."""
    return round_to_type(values.astype(np.float64), dtype)


def real(values: Array, dtype: str) -> NDArray[np.float64]:
    return (bfloat16_to_float32(values) if dtype == "bfloat16" else values).astype(np.float64)


@given(kinds, st.sampled_from(["float32", "float64"]))
def test_the_values_are_those_of_quantize_affine(kind: GridKind, dtype: str) -> None:
    values = GAUSS.astype(dtype)
    found = share_levels(values, dtype, kind)
    array = quantize_affine(
        values, kind.bits, axis=kind.axis, symmetric=kind.symmetric, rounding=kind.rounding, seed=kind.seed
    )  # fmt: skip
    expected = dequantize_affine(array)
    assert values_on(found.grid, found.symbols, dtype).tobytes() == expected.tobytes()
    squares = np.square(expected.astype(np.float64) - values)
    assert found.error == pytest.approx(np.sqrt(squares.mean()), rel=1e-9)


@given(kinds, st.sampled_from(DTYPES), st.integers(-12, 3))
def test_symbols_and_scales_are_what_a_file_can_hold(kind: GridKind, dtype: str, exponent: int) -> None:
    values = as_dtype(GAUSS * 2.0**exponent, dtype)
    found = share_levels(values, dtype, kind)
    grid = found.grid
    assert np.array_equal(round_to_type(grid.scales.astype(np.float64), dtype), grid.scales)
    assert grid.scales.dtype == ("float32" if dtype == "bfloat16" else dtype)
    assert grid.count == (2**kind.bits if not kind.symmetric or kind.bits == 1 else 2**kind.bits - 1)
    assert int(found.symbols.max()) < grid.count
    assert found.symbols.dtype == (np.uint8 if grid.count <= 256 else np.uint16)
    assert ((grid.offsets >= 0) & (grid.offsets < grid.count)).all()
    assert len(grid.scales) == len(grid.offsets) == (1 if kind.axis is None else values.shape[kind.axis])
    assert not kind.symmetric or kind.bits == 1 or set(grid.offsets.tolist()) == {2 ** (kind.bits - 1) - 1}


@given(st.integers(2, 16), st.sampled_from([None, 0, 1, 2]), st.booleans(), st.sampled_from(DTYPES))
def test_no_error_is_above_half_a_step_and_the_rounding_of_the_type(
    bits: int, axis: int | None, symmetric: bool, dtype: str
) -> None:
    values = as_dtype(GAUSS, dtype)
    found = share_levels(values, dtype, GridKind(bits, axis, symmetric))
    written = real(values_on(found.grid, found.symbols, dtype), dtype)
    sides = [1, 1, 1]
    if axis is not None:
        sides[axis] = -1
    step = found.grid.scales.astype(np.float64).reshape(sides)
    unit = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}[dtype]
    error = np.abs(written - values.astype(np.float64))
    assert (error <= step / 2 * (1 + 1e-9) + 2 * unit * np.abs(written) + 2.0**-24 * (dtype == "float16")).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_stay_zeros(dtype: str) -> None:
    values = as_dtype(np.where(GAUSS > 0, GAUSS, 0), dtype)
    for rounding in ("nearest-even", "stochastic"):
        for symmetric in (True, False):
            found = share_levels(values, dtype, GridKind(3, 0, symmetric, rounding))
            written = real(values_on(found.grid, found.symbols, dtype), dtype)
            assert not written[values == 0].any()
            assert not np.signbit(written).any()


def test_large_tensors_are_measured_part_by_part() -> None:
    values = np.random.default_rng(0).standard_normal(300_000).astype(np.float32)
    found = share_levels(values, "float32", GridKind(4))
    expected = np.square(values_on(found.grid, found.symbols, "float32").astype(np.float64) - values).mean()
    assert found.error == pytest.approx(np.sqrt(expected), rel=1e-12)


def test_nothing_at_all() -> None:
    for axis in (None, 0, 1):
        found = share_levels(np.zeros((0, 3), np.float32), "float32", GridKind(4, axis))
        assert (found.symbols.shape, found.error) == ((0, 3), 0.0)
