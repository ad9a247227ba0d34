"""Symbols by context against Huffman codes: bytes of whole files, and speed on one thread.

The files of examples/results, whose weights share values, are written again by both coders, read back, and compared bit for bit.
Speed is in MB of dense weights a second: of a pruned tensor of 4 M weights at two and at five bits, generated, whose rows and
columns differ in scale as those of trained layers do.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from _harness import Bench, Row

import deepcompress as dc
from deepcompress.coding import pool
from deepcompress.container import layout
from deepcompress.tensors.build import Tie, build_model
from deepcompress.tensors.codebook import Codebook
from deepcompress.tensors.compressed import CompressedTensor, DenseTensor
from deepcompress.tensors.encode import AnyTensor
from deepcompress.tensors.model import CompressedModel
from deepcompress.tensors.streams import Encoding

FILES = sorted((Path(__file__).parents[1] / "examples" / "results").glob("*.dcz"))
LEAST_SPEED = 10.0  # MB/s
Named = list[tuple[str, AnyTensor | Tie]]


def tensors_of(model: CompressedModel) -> Named:
    """A file's tensors as they were when it was written."""
    ties, named = model.ties, []
    for record in model.records:
        values = model[record.name]
        if record.name in ties:
            named.append((record.name, Tie(ties[record.name])))
        elif record.value_map == layout.MAP_CODEBOOK:
            centroids = np.unique(values)
            book = Codebook(centroids[centroids != 0].astype(record.stored))
            named.append((record.name, CompressedTensor.from_values(values, record.dtype, book)))
        else:
            named.append((record.name, DenseTensor(values.astype(record.stored), record.dtype, record.stored)))
    return named


def written(named: Named, coder: str) -> CompressedModel:
    """The file, read back and compared."""
    model = dc.load(build_model(named, Encoding(coder)).to_bytes(), framework="numpy")
    model.verify()
    return model


def sizes(bench: Bench, path: Path) -> None:
    given = dc.load(path, framework="numpy")
    huffman, context = (written(tensors_of(given), coder) for coder in ("huffman", "context"))
    for name in given:
        if not given[name].tobytes() == huffman[name].tobytes() == context[name].tobytes():
            raise SystemExit(f"{path.stem}: {name} did not come back")
    ratio = context.file_bytes / huffman.file_bytes
    columns = f"{context.file_bytes:,} bytes", f"{huffman.file_bytes:,} bytes"
    bench.figure(Row(f"bytes of {path.stem}, by context", "by Huffman codes", "at most", 1.0, ratio, (ratio, ratio), *columns))


def generated(rows: int, bits: int) -> CompressedTensor:
    chance = np.random.default_rng(bits)
    scales = chance.random((rows, 1)) ** 2 * chance.random((1, 2048)) ** 2
    weights = (chance.standard_normal((rows, 2048)) * scales).astype(np.float32)
    weights[np.abs(weights) < np.quantile(np.abs(weights), 0.9)] = 0
    top = float(np.abs(weights).max())
    levels = np.linspace(-top, top, (1 << bits) - 1, dtype=np.float32)
    book = Codebook(levels[levels != 0])
    symbols = np.where(weights == 0, 0, book.assign(weights.reshape(-1)).reshape(weights.shape) + 1)
    return CompressedTensor(weights.shape, "float32", book, symbols.reshape(-1).astype(np.uint8))


def speed(bench: Bench, rows: int, bits: int) -> None:
    tensor = generated(rows, bits)
    dense, encoding = 4 * len(tensor.symbols) / 1e6, Encoding("context")
    taken: dict[str, list[float]] = {"encode": [], "decode": []}
    for turn in range(1 + bench.repeats):  # the first one compiles
        start = time.perf_counter()
        model = build_model([("weight", tensor)], encoding)
        middle = time.perf_counter()
        found = dc.load(model.to_bytes(), framework="numpy")["weight"]
        end = time.perf_counter()
        if turn:
            taken["encode"].append(dense / (middle - start))
            taken["decode"].append(dense / (end - middle))
    if found.tobytes() != tensor.to_dense().tobytes():
        raise SystemExit(f"{bits} bits: the tensor did not come back")
    for what, values in taken.items():
        median, spread = float(np.median(values)), (min(values), max(values))
        said = f"{what} by context on one thread, {len(tensor.symbols):,} weights at {bits} bits, 90 % pruned"
        bench.figure(Row(said, "MB/s of dense weights", "at least", LEAST_SPEED, median, spread, f"{median:.1f} MB/s"))


def main(arguments: list[str] | None = None) -> list[Row]:
    bench = Bench("context", __doc__, arguments)
    for path in FILES:
        sizes(bench, path)
    with pool.limited(1):
        for bits in (2, 5):
            speed(bench, 16 if bench.tiny else 2048, bits)
    return bench.finish()


if __name__ == "__main__":
    main()
