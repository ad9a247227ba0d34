"""Grids: from values to symbols and back, dense and sparse, with one offset or many; bit for bit, and in few bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding.pool import limited
from deepcompress.container import layout
from deepcompress.errors import ModelError, ParameterError
from deepcompress.tensors.accounting import representation
from deepcompress.tensors.affine import AffineGrid, AffineMap, AffineTensor, by_channel
from deepcompress.tensors.codebook import Codebook
from deepcompress.tensors.compressed import CompressedTensor
from deepcompress.tensors.decode import decode_tensor
from deepcompress.tensors.elements import bfloat16_to_float32, numpy_dtype
from deepcompress.tensors.encode import encode_tensor
from deepcompress.tensors.model import CompressedModel
from deepcompress.tensors.streams import Encoding, Tables
from tests.tensors import samples


def grid_of(tensor: AffineTensor, count: int) -> AffineGrid:
    """The grid that a tensor lies on."""
    scales = bfloat16_to_float32(tensor.scales) if tensor.stored == "bfloat16" else tensor.scales
    return AffineGrid(scales, tensor.offsets, count, tensor.axis)


def record_of(tensor: AffineTensor | CompressedTensor, *, one_offset: bool = False) -> Any:
    """The record that a tensor is written with, once it is read again."""
    tables = Tables(Encoding(one_offset=one_offset))
    encoded = encode_tensor("w", tensor, tables)
    sections = {
        kind: np.frombuffer(b"".join(section if isinstance(section, list) else [section]), np.uint8)
        for kind, section in encoded.sections.items()
    }
    assert decode_tensor(encoded.record, sections, tables.lengths).tobytes() == tensor.to_dense().tobytes()
    return encoded.record


def size_of(tensor: AffineTensor, **rest: Any) -> int:
    return sum(section.length for section in record_of(tensor, **rest).sections())


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(samples.FLOATS),
    samples.shapes,
    st.data(),
    samples.seeds,
    st.sampled_from([1, 2, 15, 255, 256, 65_535]),
    samples.densities,
)
def test_symbols_are_found_again(
    dtype: str, shape: tuple[int, ...], data: st.DataObject, seed: int, levels: int, density: float
) -> None:
    """Or others that stand for the same numbers, where levels are closer than those of the type."""
    axis = data.draw(st.sampled_from([None, *range(len(shape))]))
    tensor = samples.grid_tensor(dtype, dtype, shape, axis, seed, levels, density)
    values = tensor.to_dense()
    if not np.isfinite(bfloat16_to_float32(values) if dtype == "bfloat16" else values).all():
        return
    again = AffineTensor.from_values(values, dtype, grid_of(tensor, levels))
    assert again.to_dense().tobytes() == values.tobytes()
    if dtype in ("float32", "float64"):
        assert np.array_equal(again.symbols, tensor.symbols)
    assert (again.shape, again.dtype, again.stored, again.axis) == (tensor.shape, tensor.dtype, tensor.stored, tensor.axis)


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_threads_change_nothing(axis: int | None) -> None:
    tensor = samples.grid_tensor("float32", "float32", (30, 40, 500), axis, 3, 255)
    with limited(1):
        values = tensor.to_dense()
    for threads in (2, 3):
        with limited(threads):
            assert tensor.to_dense().tobytes() == values.tobytes()
            again = AffineTensor.from_values(values, "float32", grid_of(tensor, 255))
            assert np.array_equal(again.symbols, tensor.symbols)


@pytest.mark.parametrize("dtype", samples.FLOATS)
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_parts_from_any_place_on(dtype: str, axis: int | None) -> None:
    tensor = samples.grid_tensor(dtype, dtype, (7, 11, 5), axis, 9, 31)
    whole = tensor.to_dense().reshape(-1)
    found = AffineMap.of(grid_of(tensor, 31).scales, tensor.offsets, tensor.shape, axis, dtype)
    for first, last in ((0, 1), (3, 50), (54, 57), (100, 385), (384, 385), (9, 9)):
        part = np.empty(last - first, numpy_dtype(dtype))
        found.write(tensor.symbols[first:last], first, part)
        assert part.tobytes() == whole[first:last].tobytes()
        numbers = tensor.symbols[first:last].astype(np.uint32) + 1
        numbers[::2] = 0
        found.write(numbers, first, part, absent=True)
        expected = whole[first:last].copy()
        expected[::2] = 0
        assert part.tobytes() == expected.tobytes()


def test_strangers_are_counted() -> None:
    grid = AffineGrid(np.array([0.5], np.float32), np.array([2], np.int32), 4, None)
    values = np.array([-1.0, -0.5, 0.0, 0.5, 1.0, 0.25, np.nan, np.inf, -1.5], np.float32)
    with pytest.raises(ModelError, match="5 of 9 weights are not on the grid of 4 levels"):
        AffineTensor.from_values(values, "float32", grid)
    assert AffineTensor.from_values(values[:4], "float32", grid).symbols.tolist() == [0, 1, 2, 3]


def test_a_neighbour_of_the_nearest_level_may_be_the_one() -> None:
    """Where bfloat16 is coarser below a power of two than the levels are, and finer above it, and the other way round."""
    for scale in (1.9, 1.1, 0.77, 0.3):
        stored = np.array([scale], np.float32).view(np.uint32) & 0xFFFF0000
        scales = (stored >> 16).astype(np.uint16).view(numpy_dtype("bfloat16"))
        symbols = np.arange(65_535).astype(np.uint16)
        tensor = AffineTensor(symbols.shape, "bfloat16", "bfloat16", scales, np.array([32_767], np.int32), None, symbols)
        again = AffineTensor.from_values(tensor.to_dense(), "bfloat16", grid_of(tensor, 65_535))
        assert again.to_dense().tobytes() == tensor.to_dense().tobytes()


def test_a_grid_says_how_wide_it_is() -> None:
    for count, k, width in ((255, 254, 8), (256, 255, 8), (3, 2, 2), (2, 1, 1), (1, 0, 0), (65_535, 65_534, 16)):
        grid = AffineGrid(np.ones(1, np.float32), np.zeros(1, np.int32), count, None)
        assert (grid.k, grid.bit_width) == (k, width)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan])
def test_scales_of_a_grid_are_above_zero(scale: float) -> None:
    with pytest.raises(ParameterError, match=r"The 'scales' parameter of AffineGrid must be finite and above zero\."):
        AffineGrid(np.array([1.0, scale], np.float32), np.zeros(2, np.int32), 4, 0)
    with pytest.raises(ParameterError, match=r"The 'offsets' parameter of AffineGrid must be 2, one for each scale\. Got 1"):
        AffineGrid(np.ones(2, np.float32), np.zeros(1, np.int32), 4, 0)


def test_by_channel() -> None:
    assert by_channel((2, 3, 4), None) == (1, 1, 24)
    assert [by_channel((2, 3, 4), axis) for axis in range(3)] == [(1, 2, 12), (2, 3, 4), (6, 4, 1)]
    assert (by_channel((), None), by_channel((0, 3), 1)) == ((1, 1, 1), (0, 3, 1))


def test_the_smallest_form_is_chosen() -> None:
    def form(tensor: AffineTensor) -> str:
        return representation(record_of(tensor))

    assert form(samples.grid_tensor("float32", "float32", (100, 100), None, 1, 15, 0.05)) == "gaps"
    assert form(samples.grid_tensor("float32", "float32", (100, 100), 1, 1, 15, 0.05)) == "gaps"
    assert form(samples.grid_tensor("float32", "float32", (100, 100), 0, 1, 15, 1.0)) == "dense"
    assert form(samples.grid_tensor("float32", "float32", (2,), None, 1, 15, 1.0)) == "raw"
    assert form(samples.grid_tensor("float32", "float32", (200, 1), 0, 1, 255, 1.0)) == "planes"  # a scale for each weight


@pytest.mark.parametrize("axis", [None, 0])
def test_a_sparse_grid_takes_hardly_more_than_a_codebook(axis: int | None) -> None:
    tensor = samples.grid_tensor("float32", "float32", (100, 100), axis, 4, 15, 0.1)
    kept = tensor.is_nonzero()
    book = Codebook(np.arange(1, 15, dtype=np.float32))
    symbols = np.where(kept, 1 + tensor.symbols - (tensor.symbols > 7), 0).astype(np.uint8)
    shared = sum(section.length for section in record_of(CompressedTensor((100, 100), "float32", book, symbols)).sections())
    assert abs(size_of(tensor, one_offset=True) - (shared - 4 * 14) - 4 * len(tensor.scales) - 4) <= 8


def test_zeros_of_a_negative_scale_are_negative_and_stay() -> None:
    symbols, offsets = np.where(np.arange(4000) % 50 == 0, 9, 3).astype(np.uint8), np.array([3], np.int32)
    for scale, form in ((0.5, "gaps"), (-0.5, "dense"), (0.0, "dense")):
        tensor = AffineTensor((4000,), "float32", "float32", np.array([scale], np.float32), offsets, None, symbols)
        assert representation(record_of(tensor)) == form
        assert bool(np.signbit(tensor.to_dense()[1])) == (scale < 0)


def test_channels_that_share_an_offset_say_it_once() -> None:
    same = samples.grid_tensor("float32", "float32", (64, 30), 0, 2, 15)
    other = samples.grid_tensor("float32", "float32", (64, 30), 0, 3, 15)
    assert len(set(same.offsets.tolist())) == 1 < len(set(other.offsets.tolist()))
    assert size_of(same) - size_of(same, one_offset=True) == 4 * 63
    assert size_of(other) == size_of(other, one_offset=True)
    whole = samples.grid_tensor("float32", "float32", (64, 30), None, 2, 15)
    assert not record_of(whole, one_offset=True).one_offset


def test_a_large_section_of_scales_is_aligned_and_counted() -> None:
    tensor = samples.grid_tensor("float32", "float32", (2000, 40), 0, 2, 15)
    for one_offset in (True, False):
        model = CompressedModel(samples.to_file([("w", tensor)], Encoding(one_offset=one_offset)), framework="numpy")
        assert model["w"].tobytes() == tensor.to_dense().tobytes()
        span = model._reader.directory.spans[0]["affine"]
        assert (span.start % layout.ALIGNMENT, span.length) == (0, 4 * 2000 + 4 * (1 if one_offset else 2000))
        assert model.bits.file.codebook == 8 * span.length
        assert model.bits.file.total == 8 * model.file_bytes
        assert model.version == (1, 2 if one_offset else 1)
        assert model.inspect()["tensors"][0]["scales"] == 2000
