"""Denormal numbers, negative zero and NaN payloads: kept in every bit, or shared, the same whether a thread flushes or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import deepcompress as dc
from deepcompress.coding import pool
from deepcompress.coding.denormals import are_flushed, denormals_kept
from deepcompress.prune.allocate import prune_masks
from deepcompress.quantize.affine import dequantize_affine, quantize_affine
from deepcompress.quantize.codebooks import fit_codebook
from deepcompress.quantize.kmeans import fit_kmeans

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_ENCODE = ("encode", dc.HuffmanEncode())
_PRUNE = ("prune", dc.Prune("percentile", q=0.5))
STAGES: dict[str, list[tuple[str, Any]]] = {
    "nothing": [_ENCODE],
    "lossless": [("lossless", dc.Lossless())],
    "prune": [_PRUNE, _ENCODE],
    "k-means": [("quantize", dc.KMeansQuantize(bits=4)), _ENCODE],
    "prune, k-means": [_PRUNE, ("quantize", dc.KMeansQuantize(bits=4, init="optimal")), _ENCODE],
    "affine": [("quantize", dc.AffineQuantize(bits=4)), _ENCODE],
    "affine per channel": [("quantize", dc.AffineQuantize(bits=4, per_channel=True, symmetric=False)), _ENCODE],
}


@pytest.fixture
def flushing() -> Iterator[None]:
    """This thread takes denormal numbers for zero."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormal numbers")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(_BITS[tensor.element_size()])


def denormal_weights(dtype: torch.dtype) -> Tensor:
    """Most of them denormal, both zeros among them, the largest just normal."""
    least = torch.finfo(dtype).smallest_normal
    values = torch.randn(48, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64).mul_(least * 0.7).to(dtype)
    values[0, :4], values[1, :4] = 0.0, -0.0
    return values


def compressed(weight: Tensor, stages: list[tuple[str, Any]]) -> tuple[Tensor, bytes, Any]:
    result = dc.Pipeline(stages).run({"w.weight": weight.clone()})
    return result.model["w.weight"], result.compressed.to_bytes(), result.report


def read(data: bytes) -> Tensor:
    with dc.load(data) as model:
        model.verify()
        return model.state_dict()["w.weight"]


@pytest.mark.parametrize("dtype", _TYPES, ids=str)
@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)
def test_a_thread_that_flushes_makes_the_same_file_and_reads_it(
    dtype: torch.dtype, stages: list[tuple[str, Any]], flushing: None
) -> None:
    with denormals_kept():
        assert not are_flushed()
        weight = denormal_weights(dtype)
        assert torch.count_nonzero(weight) > 1800
        model, data, report = compressed(weight, stages)
    assert are_flushed()
    again = compressed(weight, stages)
    assert are_flushed()  # as the user wants it
    assert again[1] == data
    assert torch.equal(bits(again[0]), bits(model))
    assert again[2].layers == report.layers
    assert torch.equal(bits(read(data)), bits(model))
    layer = nn.Module()
    layer.w = nn.Linear(40, 48, bias=False, dtype=dtype)
    with dc.load(data) as file:
        file.load_into(layer)
        assert file.numpy()["w.weight"].tobytes() == bits(model).numpy().tobytes()
    assert torch.equal(bits(layer.w.weight), bits(model))


@pytest.mark.parametrize("threads", [1, 2])
def test_tasks_calculate_with_denormal_numbers_in_every_thread(threads: int, flushing: None) -> None:
    with pool.limited(threads):
        found = pool.run([are_flushed] * 8)
    assert found == [False] * 8
    assert are_flushed()


def test_functions_that_are_called_alone_do_not_flush(flushing: None) -> None:
    with denormals_kept():
        values = np.arange(-300, 301) * 3e-320
        centroids, codebook = fit_kmeans(values, 8), fit_codebook(values, 8)
        grid = dequantize_affine(quantize_affine(values, 8))
        mask = prune_masks({"w": torch.from_numpy(values)}, "percentile", q=0.3)["w"]
        assert len(np.unique(codebook.centroids)) == 8
        assert np.count_nonzero(grid) > 500
        assert int(mask.sum()) == 601 - 180
    assert fit_kmeans(values, 8).tobytes() == centroids.tobytes()
    assert fit_codebook(values, 8).centroids.tobytes() == codebook.centroids.tobytes()
    assert dequantize_affine(quantize_affine(values, 8)).tobytes() == grid.tobytes()
    assert torch.equal(prune_masks({"w": torch.from_numpy(values)}, "percentile", q=0.3)["w"], mask)


@pytest.mark.parametrize("dtype", _TYPES, ids=str)
@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("stages", [STAGES["lossless"], STAGES["nothing"]], ids=["lossless", "nothing"])
def test_what_is_not_changed_keeps_every_bit(dtype: torch.dtype, flush: bool, stages: list[tuple[str, Any]]) -> None:
    """All 65,536 patterns of the upper 16 bits: NaNs with payloads of either sign, infinities, both zeros, denormal numbers."""
    size = torch.finfo(dtype).bits // 8
    upper = np.arange(1 << 16, dtype=np.uint64) << np.uint64(8 * size - 16)
    noise = np.arange(1 << 16, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    lower = noise >> np.uint64(80 - 8 * size) if size > 2 else np.uint64(0)
    words = (upper | lower).astype(f"u{size}")
    weight = torch.from_numpy(words.view(f"i{size}").reshape(256, 256)).view(dtype)
    torch.set_flush_denormal(flush)
    try:
        model, data, _ = compressed(weight, stages)
        back = read(data)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(bits(model), bits(weight))
    assert torch.equal(bits(back), bits(weight))


@pytest.mark.parametrize("dtype", _TYPES, ids=str)
@pytest.mark.parametrize("stages", ["prune", "k-means", "prune, k-means", "affine"])
def test_negative_zero_is_pruned_and_comes_back_as_zero(dtype: torch.dtype, stages: str) -> None:
    weight = torch.linspace(-1, 1, 200, dtype=torch.float64).reshape(10, 20).to(dtype)
    weight[:3] = -0.0
    model, data, report = compressed(weight, STAGES[stages])
    zeros = model == 0
    assert bool(zeros[:3].all())
    assert not bool(torch.signbit(model)[zeros].any())
    assert torch.equal(bits(read(data)), bits(model))
    assert report.layers[0].nonzeros == int((~zeros).sum())


def test_zeros_of_either_sign_tie_by_index() -> None:
    weight = torch.tensor([0.0, -0.0, 1.0, -0.0, 0.0, 1e-45, -1e-45])
    for count, expected in ((2, [0, 0, 1, 1, 1, 1, 1]), (4, [0, 0, 1, 0, 0, 1, 1]), (5, [0, 0, 1, 0, 0, 0, 1])):
        mask = prune_masks({"w": weight}, "percentile", q=count / 7)["w"]
        assert mask.tolist() == [bool(kept) for kept in expected]


def test_a_mean_that_is_negative_zero_is_no_centroid() -> None:
    values = np.array([-0.0, -0.0, 0.0], np.float32)
    for k in (1, 2):
        assert fit_kmeans(values, k).view(np.uint64).tolist() == [0]
    assert fit_codebook(values, 2).k == 0
