"""Tensors travel as long ones and come back as they were: bits, types, shapes and memory formats."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deepcompress.training.group import tensors_of
from deepcompress.training.wire import digest_of, exchange_in_pieces

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.complex64]
shape = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(shape, st.sampled_from(DTYPES)), max_size=6))
def test_bytes_travel_unchanged_whatever_the_types(kinds: list[tuple[tuple[int, ...], torch.dtype]]) -> None:
    tensors = [torch.randn(shape).to(dtype) for shape, dtype in kinds]
    before = [digest_of(tensor) for tensor in tensors]
    exchange_in_pieces(tensors, lambda flat: flat.bitwise_not_(), as_bytes=True)
    after = [digest_of(tensor) for tensor in tensors]
    assert all(old != new for old, new, tensor in zip(before, after, tensors, strict=True) if tensor.numel())
    exchange_in_pieces(tensors, lambda flat: flat.bitwise_not_(), as_bytes=True)
    assert [digest_of(tensor) for tensor in tensors] == before


def test_types_of_several_widths_travel_together() -> None:
    tensors = [torch.tensor([True, False, True]), torch.tensor([1.5, -2.0]), torch.tensor(3, dtype=torch.int64)]
    seen: list[int] = []
    exchange_in_pieces(tensors, lambda flat: seen.append(flat.numel()), as_bytes=True)
    assert seen == [3 + 8 + 8]
    assert [tensor.tolist() for tensor in tensors] == [[True, False, True], [1.5, -2.0], 3]


def test_values_travel_by_type_in_pieces_and_in_any_memory_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepcompress.training.wire._PIECE", 64)
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    tensors = [image, torch.randn(3).double(), torch.randn(9), torch.tensor(2.0)]
    expected = [tensor * 2 for tensor in tensors]
    lengths: list[int] = []
    exchange_in_pieces(tensors, lambda flat: lengths.append(flat.mul_(2).numel()))
    assert all(torch.equal(ours, reference) for ours, reference in zip(tensors, expected, strict=True))
    assert tensors[0].is_contiguous(memory_format=torch.channels_last)
    assert sorted(lengths) == [3, 10, 120]


def test_digests_are_of_bits() -> None:
    assert digest_of(torch.tensor([0.0])) != digest_of(torch.tensor([-0.0]))
    assert digest_of(torch.tensor([float("nan")])) == digest_of(torch.tensor([float("nan")]))
    assert digest_of(torch.ones(1).expand(4)) == digest_of(torch.ones(4))
    assert digest_of(torch.eye(3).to_sparse()) == digest_of(torch.eye(3))
    assert set(tensors_of(nn.BatchNorm1d(2))) == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
