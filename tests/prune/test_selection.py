"""The same masks as a stable sort of all magnitudes, whatever the values, dtypes, threads and masks so far."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deepcompress.coding.pool import limited
from deepcompress.errors import ModelError
from deepcompress.prune import flat, selection
from deepcompress.prune.selection import drop_lowest, keep_from

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e5m2]
SHAPES = [(3, 4), (5,), (2, 3, 2, 2), (0, 3), (), (40, 30)]
SPECIAL = [0.0, -0.0, float("inf"), -float("inf"), 1e-45, -1e-45, 1e-40, 6e-8, 1.0, -1.0, 1.0000001, 3e38, 5e-324]


@pytest.fixture(autouse=True, scope="module")
def small_parts() -> Iterator[None]:
    """Several threads, each with several blocks, at the sizes of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_LEAST", 3)
        patch.setattr(flat, "BLOCK", 100)
        yield


@st.composite
def scores(draw: st.DrawFn) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    kinds = draw(st.sampled_from([[dtype] for dtype in DTYPES] + [DTYPES]))  # all alike, or mixed
    tensors = {}
    for number, shape in enumerate(draw(st.lists(st.sampled_from(SHAPES), max_size=4))):
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * draw(st.sampled_from([1.0, 1e-42, 1e5]))
        source = draw(st.sampled_from(["any", "ties", "special"]))
        if source == "ties":
            values = values.round()
        elif source == "special":
            values = torch.tensor(SPECIAL, dtype=torch.float64)[torch.randint(len(SPECIAL), shape, generator=generator)]
        tensor = values.to(draw(st.sampled_from(kinds)))
        tensor = torch.where(tensor.double().isnan(), torch.ones((), dtype=tensor.dtype), tensor)  # float8 overflows to it
        order = draw(st.permutations(range(tensor.ndim)))
        tensors[f"w{number}"] = tensor.permute(*order).contiguous().permute(*np.argsort(order)) if order else tensor
    return tensors


@st.composite
def masks_of(draw: st.DrawFn, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    share = draw(st.sampled_from([0.0, 0.3, 1.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return {name: torch.rand(tensor.shape, generator=generator) >= share for name, tensor in tensors.items()}


def line_of(tensors: dict[str, Tensor]) -> np.ndarray:
    return np.concatenate([np.empty(0), *(tensor.double().flatten().numpy() for tensor in tensors.values())])


def by_stable_sort(tensors: dict[str, Tensor], kept: dict[str, Tensor], count: int) -> np.ndarray:
    stays = line_of(kept).astype(bool)
    order = np.argsort(np.abs(line_of(tensors)), kind="stable")
    order = order[stays[order]]
    stays[order[: max(count - int((~stays).sum()), 0)]] = False
    return stays


@given(st.data(), st.sampled_from([1, 2, 3]))
@settings(max_examples=300)
def test_equals_a_stable_sort_of_all_magnitudes(data: st.DataObject, threads: int) -> None:
    tensors = data.draw(scores())
    kept = data.draw(masks_of(tensors))
    before = {name: mask.clone() for name, mask in kept.items()}
    total = sum(tensor.numel() for tensor in tensors.values())
    count = data.draw(st.integers(0, total) | st.sampled_from([0, total]))
    with limited(threads):
        masks = drop_lowest(tensors, kept, count)
    assert list(masks) == list(tensors)
    assert all(masks[name].shape == tensor.shape and masks[name].dtype == torch.bool for name, tensor in tensors.items())
    assert np.array_equal(line_of(masks), by_stable_sort(tensors, kept, count))
    assert all(torch.equal(kept[name], mask) for name, mask in before.items())


@given(st.data(), st.sampled_from([1, 3]))
@settings(max_examples=200)
def test_keep_from_compares_as_float64_does(data: st.DataObject, threads: int) -> None:
    tensors = data.draw(scores())
    kept = data.draw(masks_of(tensors))
    for name, tensor in tensors.items():
        values = np.abs(tensor.double().numpy())
        near = data.draw(st.sampled_from([0.0, -0.0, np.inf, np.nan, 1e300, 1e-300, *values.flatten()[:5].tolist()]))
        threshold = data.draw(st.sampled_from([near, float(np.nextafter(near, np.inf)), float(np.nextafter(near, -np.inf))]))
        if not threshold < 0:
            with limited(threads):
                assert np.array_equal(keep_from(tensor, kept[name], threshold), kept[name].numpy() & (values >= threshold))


def test_one_value_alone_and_scores_that_differ_in_their_last_bit() -> None:
    near = torch.arange(1000, dtype=torch.int32).add(0x3F800000).view(torch.float32).flip(0)
    (mask,) = drop_lowest({"w": near}, {"w": torch.ones(1000, dtype=torch.bool)}, 999).values()
    assert mask.nonzero().flatten().tolist() == [0]
    (mask,) = drop_lowest({"w": torch.ones(1000)}, {"w": torch.ones(1000, dtype=torch.bool)}, 321).values()
    assert torch.equal(mask, torch.arange(1000) >= 321)


def test_a_mask_without_memory_of_its_own_is_read_and_not_written() -> None:
    whole = torch.ones((), dtype=torch.bool).expand(4, 5)
    mask = drop_lowest({"w": torch.arange(20.0).view(4, 5)}, {"w": whole}, 7)["w"]
    assert int((~mask).sum()) == 7
    assert whole.all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 5])
def test_nan_is_named_even_where_it_is_masked_or_nothing_goes(dtype: torch.dtype, count: int) -> None:
    bad = torch.ones(3, 4)
    bad[1, 1] = bad[2, 0] = -float("nan")
    tensors = {"ok": torch.ones(5, dtype=dtype), "bad": bad.to(dtype), "worse": torch.full((2,), float("nan"))}
    with pytest.raises(ModelError, match=re.escape("'bad' holds NaN (2 of 12 weights)")):
        drop_lowest(tensors, {name: torch.zeros(tensor.shape, dtype=torch.bool) for name, tensor in tensors.items()}, count)
