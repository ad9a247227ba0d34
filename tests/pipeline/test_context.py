"""ContextEncode writes the same model as HuffmanEncode, in fewer bytes; what it cannot make smaller is written as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import deepcompress as dc
from deepcompress.container import layout
from deepcompress.pipeline.stages import AffineQuantize, ContextEncode, HuffmanEncode, KMeansQuantize, Prune
from deepcompress.tensors import contexts
from tests.pipeline.samples import net, same_bits

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def trained(rows: int = 96, columns: int = 500, kernel: int = 0, seed: int = 0) -> Tensor:
    """Weights whose rows and columns differ in scale, as those of trained layers do."""
    chance = torch.Generator().manual_seed(seed)
    scales = torch.rand(rows, 1, generator=chance) ** 3 * torch.rand(1, columns, generator=chance) ** 3
    weights = torch.randn(rows, columns, generator=chance) * scales
    return weights.reshape(rows, -1, kernel, kernel) if kernel else weights


def run(tensors: Any, *stages: Any) -> dc.Result:
    return dc.Pipeline([(str(place), stage) for place, stage in enumerate(stages)]).run(tensors)


QUANTIZERS = [KMeansQuantize(4), KMeansQuantize(1), AffineQuantize(3), AffineQuantize(3, per_channel=True)]


@pytest.mark.parametrize("quantize", QUANTIZERS)
@pytest.mark.parametrize("kernel", [0, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_model_in_fewer_bytes(quantize: Any, kernel: int, dtype: torch.dtype) -> None:
    state = {"weight": trained(kernel=kernel).to(dtype), "bias": torch.randn(96).to(dtype)}
    huffman, context = (run(state, Prune("percentile", q=0.8), quantize, stage()) for stage in (HuffmanEncode, ContextEncode))
    assert same_bits(huffman.model, context.model)
    assert same_bits(context.model, dc.load(context.compressed.to_bytes()).state_dict())
    assert context.compressed.file_bytes < 0.95 * huffman.compressed.file_bytes
    assert context.compressed.version == (1, 4)
    assert huffman.compressed.version <= (1, 2)
    rows = {row["name"]: row["codec"] for row in context.compressed.inspect()["tensors"]}
    assert rows["weight"] == "context"
    assert context.report.bits.total == 8 * context.compressed.file_bytes
    context.compressed.verify()


def test_a_module_there_and_back(tmp_path: Path) -> None:
    model = net()
    result = run(model, Prune("percentile", q=0.5), KMeansQuantize(3), ContextEncode(leftovers="float16"))
    result.compressed.save(tmp_path / "model.dcz")
    assert same_bits(dc.load(tmp_path / "model.dcz").load_into(net(1)), result.model)
    assert "context" in str(result.compressed.inspect())
    assert np.isfinite(result.report.file_ratio)


def test_what_has_no_structure_is_written_as_before() -> None:
    state = {"few": torch.randn(3, 2), "none": torch.zeros(0, 4), "one": torch.full((40, 40), 2.0)}
    huffman, context = (run(state, KMeansQuantize(4), stage()) for stage in (HuffmanEncode, ContextEncode))
    assert context.compressed.file_bytes <= huffman.compressed.file_bytes
    assert same_bits(huffman.model, context.model)


def test_several_chunks_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "CONTEXT_GEOMETRY", 12)
    state = {"weight": trained(), "conv": trained(90, 450, 3)}
    files = []
    for threads in ("1", "3"):
        monkeypatch.setenv("DEEPCOMPRESS_THREADS", threads)
        result = run(state, Prune("percentile", q=0.7), KMeansQuantize(3), ContextEncode())
        assert same_bits(dc.load(result.compressed.to_bytes()).state_dict(), result.model)
        files.append(result.compressed.to_bytes())
    assert files[0] == files[1]
    assert result.compressed.bits.file.header > 32 * 20  # the tables of 12 and 10 chunks


def test_the_width_of_an_image_is_found() -> None:
    chance = torch.Generator().manual_seed(4)
    image = torch.nn.functional.interpolate(torch.rand(1, 1, 7, 7, generator=chance), scale_factor=4)[0, 0].reshape(-1)
    weights = torch.randn(60, 784, generator=chance) * (image > 0.6) * (torch.rand(60, 784, generator=chance) < 0.7)
    (record,) = run({"weight": weights}, KMeansQuantize(2), ContextEncode()).compressed.records
    assert record.values is not None
    assert contexts.open_context(record, record.values).levels.lag == 28


def test_the_reader_may_decode_on_numpy_alone() -> None:
    result = run({"weight": trained()}, AffineQuantize(4), ContextEncode())
    array = dc.load(result.compressed.to_bytes(), framework="numpy")["weight"]
    assert np.array_equal(array, result.model["weight"].numpy())
