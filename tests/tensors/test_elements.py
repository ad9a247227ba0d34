"""Elements of every dtype, through torch and back, and wider ones from narrower ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepcompress.container.layout import DTYPES, NARROWER
from deepcompress.errors import ModelError
from deepcompress.tensors.elements import (
    bfloat16_to_float32,
    float32_to_bfloat16,
    from_torch,
    numpy_dtype,
    round_to_bfloat16,
    to_torch,
    widen,
)
from tests.tensors import samples

NAMES = [kind.name for kind in DTYPES]
pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support:UserWarning")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)])
def test_torch_and_back(name: str, shape: tuple[int, ...]) -> None:
    array = samples.elements(name, shape, 1)
    tensor = to_torch(array.copy(), name)
    assert (str(tensor.dtype), tuple(tensor.shape)) == (f"torch.{name}", shape)
    back = from_torch(tensor)
    assert (back.tobytes(), back.shape, back.dtype) == (array.tobytes(), shape, array.dtype)
    assert back.dtype.metadata == numpy_dtype(name).metadata


def test_tags() -> None:
    assert numpy_dtype("float32").metadata is None
    assert numpy_dtype("uint16").metadata is None
    assert numpy_dtype("bfloat16").metadata == {"torch_dtype": "bfloat16"}
    assert {name for name in NAMES if numpy_dtype(name).metadata} == {
        name for name in NAMES if name in ("bfloat16", "complex32") or name.startswith(("float8", "float4"))
    }


def test_views_are_laid_out_flat() -> None:
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3).t()
    assert from_torch(tensor).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert from_torch(torch.tensor([1 + 2j]).conj()).tolist() == [1 - 2j]
    assert from_torch(torch.ones(2, requires_grad=True)).tolist() == [1, 1]


def test_read_only_arrays_are_copied() -> None:
    array = np.frombuffer(b"\1\2", np.uint8)
    to_torch(array, "uint8").add_(1)
    assert array.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (torch.zeros(2, device="meta"), r"a tensor without dense values \(torch\.strided, on meta\)"),
        (torch.eye(2).to_sparse(), r"a tensor without dense values \(torch\.sparse_coo, on cpu\)"),
        (torch.empty(2, dtype=torch.bits8), "dtype bits8 cannot be stored"),
    ],
)
def test_what_cannot_be_stored(tensor: torch.Tensor, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        from_torch(tensor)


def test_a_dtype_that_torch_lacks() -> None:
    with pytest.raises(ModelError, match=r"this torch \(.*\) has no dtype float3"):
        to_torch(np.zeros(1, np.uint8), "float3")


@pytest.mark.parametrize(("dtype", "stored"), [(dtype, stored) for dtype, narrow in NARROWER.items() for stored in narrow])
def test_widening(dtype: str, stored: str) -> None:
    narrow = samples.elements(stored, (2_000,), 3)  # all bit patterns: infinities, subnormals, NaNs of both kinds
    wide = widen(narrow, stored, dtype)
    expected = to_torch(narrow.copy(), stored).to(getattr(torch, dtype)).numpy()
    assert wide.dtype == numpy_dtype(dtype)
    np.testing.assert_array_equal(wide, expected)
    assert (np.signbit(wide) == np.signbit(expected)).all()


@given(st.lists(st.floats(width=32), max_size=20))
def test_bfloat16(values: list[float]) -> None:
    single = np.array(values, np.float32)
    rounded = round_to_bfloat16(single[~np.isnan(single)])
    expected = torch.from_numpy(single[~np.isnan(single)]).bfloat16()
    assert from_torch(expected).tolist() == rounded.tolist()
    assert float32_to_bfloat16(bfloat16_to_float32(rounded)).tolist() == rounded.tolist()


def test_bfloat16_does_not_round_in_secret() -> None:
    with pytest.raises(ModelError, match="values are not exact in bfloat16"):
        float32_to_bfloat16(np.array([1.00390625], np.float32))
