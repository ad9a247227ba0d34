"""Reports as two real compressions give them, their weights drawn by a seed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from deepcompress.report.report import Report
from deepcompress.report.rows import Histogram, LayerRow, StageRow
from deepcompress.tensors.cost import BitCount


def quantized_layer(name: str, shape: tuple[int, ...], *, bits: int = 5, keep: float = 0.1, seed: int = 0) -> LayerRow:
    """A layer pruned to `keep` and snapped to 2**bits values, with the bits that an ideal coder would need."""
    weights = math.prod(shape)
    before = np.random.default_rng([seed, weights]).standard_t(6, weights) / math.sqrt(weights / shape[0])
    kept = np.abs(before) >= np.quantile(np.abs(before), 1 - keep)
    centroids = np.linspace(before[kept].min(), before[kept].max(), 2**bits)
    symbols = np.abs(before[kept][:, None] - centroids).argmin(1)
    after = np.zeros(weights)
    after[kept] = centroids[symbols]
    shares = np.bincount(symbols) / kept.sum()
    entropy = float(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum())
    length, nonzeros = min(entropy + 0.03, bits), int(kept.sum())
    gaps = round(nonzeros * (1.44 + math.log2(1 / keep)))
    cost = BitCount(codewords=round(nonzeros * length), gaps=gaps, codebook=16 * 2**bits, code_lengths=4 * 2**bits)
    return LayerRow(
        name=name, shape=shape, dtype="float32", weights=weights, nonzeros=nonzeros, representation="gaps", bits=cost,
        quantized=True, pruned=True, k=2**bits, bit_width=bits, mean_code_length=length, entropy=entropy,
        gap_bit_width=6, gap_symbols=round(1.02 * nonzeros), rmse=float(np.sqrt(np.mean((after - before) ** 2))),
        histogram=Histogram.of(before, after),
    )  # fmt: skip


def raw_layer(name: str, shape: tuple[int, ...], dtype: str = "float32", bits: int = 32) -> LayerRow:
    """A tensor stored as it is."""
    count = math.prod(shape)
    cost = BitCount(dense=bits * count)
    return LayerRow(name=name, shape=shape, dtype=dtype, weights=count, nonzeros=count, representation="raw", bits=cost, rmse=0.0)


def report_of(layers: tuple[LayerRow, ...], stages: tuple[StageRow, ...] = (), **fields: object) -> Report:
    """The report of a file of these layers and a header that fills the last byte."""
    bits = BitCount.sum(row.bits for row in layers)
    bits += BitCount(header=8 * (90 + 5 * len(layers)) + -bits.total % 8)
    dense = 4 * sum(row.weights for row in layers)
    return Report(
        layers=layers,
        stages=stages,
        bits=bits,
        dense_bytes=dense,
        file_bytes=bits.total // 8,
        **fields,  # type: ignore[arg-type]
    )


def _resnet_layers() -> Iterator[LayerRow]:
    yield quantized_layer("conv1.weight", (16, 3, 3, 3), keep=0.55)
    yield from _norm("bn1", 16)
    width = 16
    for stage, out in enumerate((16, 32, 64), 1):
        for block in range(3):
            for conv, inputs in ((1, width), (2, out)):
                name = f"layer{stage}.{block}.conv{conv}.weight"
                yield quantized_layer(name, (out, inputs, 3, 3), keep=0.32 / stage, seed=10 * stage + block)
                yield from _norm(f"layer{stage}.{block}.bn{conv}", out)
            width = out
    yield quantized_layer("linear.weight", (10, 64), keep=0.5)
    yield raw_layer("linear.bias", (10,))


def _norm(name: str, width: int) -> Iterator[LayerRow]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield raw_layer(f"{name}.{part}", (width,), bits=16)
    yield raw_layer(f"{name}.num_batches_tracked", (), "int64", 64)


def resnet20() -> Report:
    """ResNet-20 at 5 bits: 20 quantized layers, 96 others."""
    way = (("input", "Input", 0.0, 0.9173, 0.0), ("prune", "GradualPrune", 0.89, 0.8914, 412.3),
           ("retrain", "Retrain", 0.89, 0.9152, 1894.0), ("quantize", "KMeansQuantize", 0.89, 0.9061, 3.4),
           ("finetune", "Finetune", 0.89, 0.9133, 611.8), ("encode", "HuffmanEncode", 0.89, 0.9133, 1.2))  # fmt: skip
    names = ("name", "kind", "sparsity", "accuracy", "seconds")
    stages = tuple(StageRow(**dict(zip(names, row, strict=True))) for row in way)  # type: ignore[arg-type]
    return report_of(
        tuple(_resnet_layers()), stages, notes=("77 batch-norm tensors are stored as float16.",),
        environment={"deepcompress": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.3.4", "python": "3.11.7"},
    )  # fmt: skip


def lenet() -> Report:
    """LeNet-5 (Caffe's): 4 quantized layers and their biases."""
    layers = (
        quantized_layer("conv1.weight", (20, 1, 5, 5), keep=0.66), raw_layer("conv1.bias", (20,)),
        quantized_layer("conv2.weight", (50, 20, 5, 5), keep=0.12), raw_layer("conv2.bias", (50,)),
        quantized_layer("fc1.weight", (500, 800), keep=0.08), raw_layer("fc1.bias", (500,)),
        quantized_layer("fc2.weight", (10, 500), keep=0.19), raw_layer("fc2.bias", (10,)),
    )  # fmt: skip
    stages = (
        StageRow(name="input", kind="Input", sparsity=0.0, accuracy=0.9921),
        StageRow(name="prune", kind="Prune", sparsity=0.92, accuracy=0.9874, seconds=0.2, notes=("4 layers, at 0.92.",)),
        StageRow(name="encode", kind="HuffmanEncode", sparsity=0.92, accuracy=0.9921, seconds=0.4),
    )
    return report_of(layers, stages)
