"""Every element of every dtype and order in memory, once, widened exactly, in flat order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepcompress.prune import flat
from deepcompress.prune.flat import Flat

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@given(st.lists(st.sampled_from(DTYPES), max_size=4), st.integers(0, 99), st.data())
def test_blocks_are_the_elements_between_two_places(dtypes: list[torch.dtype], seed: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = [data.draw(st.sampled_from([(3, 4), (), (0, 2), (5, 6, 2)])) for _ in dtypes]
    tensors = [torch.randn(shape, generator=generator).to(dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    expected = np.concatenate([np.empty(0), *(tensor.flatten().double().numpy() for tensor in tensors)])
    line = Flat(tensors)
    assert line.size == len(expected)
    assert line.dtype is (np.float64 if torch.float64 in dtypes else np.float32)
    start = data.draw(st.integers(0, line.size))
    stop = data.draw(st.integers(start, line.size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat, "BLOCK", 7)
        place = start
        for at, block in line.blocks(start, stop):
            assert at == place
            assert block.dtype == line.dtype
            assert 0 < block.size <= 7
            assert np.array_equal(block, expected[at : at + block.size])
            place += block.size
    assert place == stop


@pytest.mark.parametrize("dtype", DTYPES)
def test_order_in_memory_does_not_matter(dtype: torch.dtype) -> None:
    plain = torch.randn(2, 3, 4, 5).to(dtype)
    for tensor in (plain.to(memory_format=torch.channels_last), plain.transpose(0, 2).contiguous().transpose(0, 2)):
        ((_, block),) = Flat([tensor]).blocks(0, 120)
        assert np.array_equal(block, plain.flatten().double().numpy())


def test_what_numpy_can_hold_is_not_copied() -> None:
    weight = torch.randn(6, 5, requires_grad=True)
    ((_, block),) = Flat([weight]).blocks(0, 30)
    assert block.ctypes.data == weight.data_ptr()


def test_nan_stays_nan() -> None:
    bits = torch.tensor([0x7F800001, 0x7FC00000], dtype=torch.int32).view(torch.float32)  # the first one signals
    ((_, block),) = Flat([torch.empty(0, dtype=torch.float64), bits]).blocks(0, 2)
    assert np.isnan(block).all()
