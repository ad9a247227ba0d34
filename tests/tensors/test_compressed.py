"""Tensors in compressed form, and what they are written as: every kind comes back bit for bit, as small as may be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepcompress.container import layout
from deepcompress.container.layout import DTYPE_OF_NAME, DTYPES
from deepcompress.errors import ModelError
from deepcompress.tensors.accounting import representation
from deepcompress.tensors.affine import AffineTensor
from deepcompress.tensors.codebook import Codebook
from deepcompress.tensors.compressed import CompressedTensor, DenseTensor
from deepcompress.tensors.decode import decode_tensor
from deepcompress.tensors.elements import from_torch, numpy_dtype
from deepcompress.tensors.encode import AnyTensor, encode_tensor
from deepcompress.tensors.streams import Encoding, Tables
from tests.tensors import samples

RAW, FIXED, HUFFMAN = layout.CODEC_RAW, layout.CODEC_FIXED, layout.CODEC_HUFFMAN


def round_trip(tensor: AnyTensor, encoding: Encoding | None = None) -> layout.DType:
    """Encode, decode, compare; the values' codec and representation are in the record that is left behind."""
    tables = Tables(encoding or Encoding())
    encoded = encode_tensor("w", tensor, tables)
    sections = {
        kind: np.frombuffer(b"".join(section if isinstance(section, list) else [section]), np.uint8)
        for kind, section in encoded.sections.items()
    }
    assert {s.kind: s.length for s in encoded.record.sections()} == {kind: len(data) for kind, data in sections.items()}
    found = decode_tensor(encoded.record, sections, tables.lengths)
    assert found.tobytes() == tensor.to_dense().tobytes()
    assert (found.shape, found.dtype, found.flags.writeable) == (tensor.shape, numpy_dtype(tensor.dtype), True)
    assert found.dtype.metadata == numpy_dtype(tensor.dtype).metadata
    round_trip.last = (representation(encoded.record), encoded.record)  # type: ignore[attr-defined]
    return DTYPE_OF_NAME[tensor.dtype]


def last() -> tuple[str, int]:
    kind, record = round_trip.last  # type: ignore[attr-defined]
    return kind, record.values.codec


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(samples.any_tensors, samples.encodings, samples.cuts)
def test_round_trips(tensor: AnyTensor, encoding: Encoding, cut: tuple[int, int]) -> None:
    with samples.small_chunks(*cut):
        round_trip(tensor, encoding)


@pytest.mark.parametrize("dtype", [kind.name for kind in DTYPES])
@pytest.mark.parametrize(
    ("shape", "density"), [((), 1.0), ((0,), 1.0), ((2, 0), 1.0), ((5, 7), 1.0), ((40, 50), 0.02), ((90,), 0.0)]
)
def test_every_dtype(dtype: str, shape: tuple[int, ...], density: float) -> None:
    round_trip(samples.dense_tensor(dtype, dtype, shape, 7, density))


@pytest.mark.parametrize("dtype", samples.FLOATS)
@pytest.mark.parametrize("k", [0, 1, 2, 3, 16, 255, 256, 500])
@pytest.mark.parametrize("density", [0.0, 0.05, 1.0])
def test_codebooks(dtype: str, k: int, density: float) -> None:
    if dtype == "bfloat16" or k < 500:
        k = min(k, 250)
    round_trip(samples.shared_tensor(dtype, (13, 11), k, 3, density))


def test_sixteen_bits() -> None:
    symbols = np.arange(65_537, dtype=np.uint32)
    codebook = Codebook(np.arange(1, 65_537, dtype=np.float32))
    for coder, codec in (("huffman", HUFFMAN), ("fixed", FIXED)):
        skewed = np.concatenate([symbols, np.full(200_000, 65_536, np.uint32), np.zeros(9, np.uint32)])
        round_trip(CompressedTensor(skewed.shape, "float32", codebook, skewed), Encoding(coder, 20))
        assert last()[1] == codec
    round_trip(CompressedTensor((3,), "float64", Codebook(codebook.centroids), symbols[-3:]))
    assert last() == ("raw", RAW)


def test_the_smallest_form_is_chosen() -> None:
    round_trip(samples.shared_tensor("float32", (100, 100), 15, 1, 0.05))
    assert last()[0] == "gaps"
    round_trip(samples.shared_tensor("float32", (100, 100), 15, 1, 1.0))
    assert last()[0] == "dense"
    round_trip(samples.shared_tensor("float32", (2,), 250, 1, 1.0))
    assert last() == ("raw", RAW)
    round_trip(samples.shared_tensor("float32", (100, 100), 1, 1, 1.0))
    assert (last(), round_trip.last[1].values.length) == (("dense", FIXED), 0)  # type: ignore[attr-defined]
    round_trip(samples.shared_tensor("float32", (100, 100), 7, 1, 0.0))
    assert last()[0] in ("dense", "gaps")
    assert round_trip.last[1].values.length == 0  # type: ignore[attr-defined]


@settings(deadline=None, max_examples=60)
@given(samples.shared_tensors())
def test_from_values(tensor: CompressedTensor) -> None:
    values = tensor.to_dense()
    again = CompressedTensor.from_values(values, tensor.dtype, tensor.codebook)
    assert again.to_dense().tobytes() == values.tobytes()
    assert (again.symbols == tensor.symbols).all()
    assert (again.mask == (tensor.symbols != 0).reshape(tensor.shape)).all()
    assert again.mask.shape == tensor.shape


def test_strangers() -> None:
    codebook = Codebook(np.array([-1.0, 2.0], np.float32))
    values = np.array([0.0, 2.0, 2.5, np.nan, -0.0], np.float32)
    with pytest.raises(ModelError, match="2 of 5 weights are neither zero nor one of the 2 centroids"):
        CompressedTensor.from_values(values, "float32", codebook)
    with pytest.raises(ModelError, match="1 of 1 weights are neither zero nor one of the 0 centroids"):
        CompressedTensor.from_values(values[1:2], "float32", Codebook(np.zeros(0, np.float32)))


@settings(deadline=None, max_examples=60)
@given(samples.affine_tensors())
def test_affine_is_what_torch_computes(tensor: AffineTensor) -> None:
    wide = torch.float64 if tensor.dtype == "float64" else torch.float32
    scales = torch.from_numpy(np.asarray(DenseTensor(tensor.scales, tensor.dtype, tensor.stored).elements).copy().view("u1"))
    scales = scales.view(getattr(torch, tensor.stored)).to(wide)
    steps = torch.from_numpy(tensor.symbols.astype(np.int64)).reshape(tensor.shape)
    axis = tensor.axis if tensor.axis is not None else 0
    sides = [1] * len(tensor.shape)
    if tensor.axis is not None:
        sides[axis] = tensor.shape[axis]
    offsets = torch.from_numpy(tensor.offsets.astype(np.int64)).reshape(sides)
    expected = (scales.reshape(sides) * (steps - offsets).to(wide)).to(getattr(torch, tensor.dtype))
    assert from_torch(expected).tobytes() == tensor.to_dense().tobytes()


@pytest.mark.parametrize(("dtype", "stored", "scale"), [("float32", "float32", 3e38), ("float16", "float16", 6e4)])
def test_affine_overflows_to_infinity(dtype: str, stored: str, scale: float) -> None:
    scales, offsets = np.array([scale], stored), np.array([-9], np.int32)
    tensor = AffineTensor((1,), dtype, stored, scales, offsets, None, np.array([1], np.uint8))
    assert tensor.to_dense().tolist() == [np.inf]
    round_trip(tensor)


@pytest.mark.parametrize(("dtype", "stored"), [("float16", "float32"), ("float32", "float64"), ("int32", "int64")])
def test_stored_in_a_type_that_does_not_fit(dtype: str, stored: str) -> None:
    with pytest.raises(ModelError, match=f"'w': {dtype} elements cannot be stored as {stored}"):
        encode_tensor("w", DenseTensor(np.zeros(3, stored), dtype, stored), Tables(Encoding()))


@settings(deadline=None, max_examples=30)
@given(st.lists(samples.shared_tensors(), min_size=2, max_size=4))
def test_tables_are_shared_and_never_too_many(tensors: list[CompressedTensor]) -> None:
    tables = Tables(Encoding())
    for tensor in [*tensors, *tensors]:
        encode_tensor("w", tensor, tables)
    once = Tables(Encoding())
    for tensor in tensors:
        encode_tensor("w", tensor, once)
    assert len(tables.codes) == len(once.codes)


def test_all_alphabets_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_ALL_ALPHABETS", 10)
    round_trip(samples.shared_tensor("float32", (100, 100), 30, 1, 1.0))
    assert last() == ("dense", FIXED)
