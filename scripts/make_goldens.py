#!/usr/bin/env python3
"""Write the golden files of this format version into tests/golden, once. A file that is there is never written again.

    python scripts/make_goldens.py

Every later version of the reader must read them to the digests in tests/golden/digests.json.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from deepcompress.container.layout import CODEC_CONTEXT, DTYPES, NARROWER
from deepcompress.container.records import StreamRecord, TensorRecord
from deepcompress.container.writer import Writer
from deepcompress.tensors import contexts, cutting, encode, planes, streams
from deepcompress.tensors.affine import AffineTensor
from deepcompress.tensors.build import Extras, Tie, write_model
from deepcompress.tensors.codebook import Codebook
from deepcompress.tensors.compressed import CompressedTensor, DenseTensor
from deepcompress.tensors.elements import float32_to_bfloat16, numpy_dtype
from deepcompress.tensors.encode import AnyTensor
from deepcompress.tensors.model import CompressedModel
from deepcompress.tensors.streams import Encoding

MODULE_VERSIONS = {"": 3, "layers": 2, "layers.0.norm": 2, "layers.1": 5, "layers.1.norm": 2}
FOLDER = Path(__file__).parent.parent / "tests" / "golden"
Named = list[tuple[str, AnyTensor | Tie]]


def mixed(count: int, limit: int) -> Any:
    """(count,) int64 below `limit` that look random and are the same on every machine."""
    values = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return ((values >> np.uint64(33)) % np.uint64(limit)).astype(np.int64)


def dense(dtype: str, shape: tuple[int, ...], stored: str | None = None, every: int = 1) -> DenseTensor:
    """Random bits in every `every`-th element, zeros elsewhere; finite in all float types."""
    kind = numpy_dtype(stored or dtype)
    count = int(np.prod(shape, dtype=np.int64))
    raw = mixed(count * kind.itemsize, 2 if dtype == "bool" else 60).astype(np.uint8).reshape(count, kind.itemsize)
    raw[np.arange(count) % every != 0] = 0
    return DenseTensor(raw.reshape(-1).view(kind).reshape(shape), dtype, stored or dtype)


def shared(dtype: str, shape: tuple[int, ...], k: int, kept: int = 100, stored: str | None = None) -> CompressedTensor:
    """`k` centroids, small ones more often; `kept` per cent of the weights are not pruned."""
    count = int(np.prod(shape, dtype=np.int64))
    centroids = (np.arange(k) - k // 2 + 0.5) / 4
    symbols = 1 + np.minimum(mixed(count, k), mixed(2 * count, k)[count:]) if k else np.zeros(count, np.int64)
    symbols[mixed(3 * count, 100)[2 * count :] >= kept] = 0
    codebook = Codebook(centroids.astype("float32" if dtype == "bfloat16" else stored or dtype))
    return CompressedTensor(shape, dtype, codebook, symbols.astype(np.min_scalar_type(max(k, 1))))


def affine(dtype: str, shape: tuple[int, ...], axis: int | None, levels: int, stored: str | None = None) -> AffineTensor:
    channels = 1 if axis is None else shape[axis]
    scales: Any = (1 + mixed(channels, 100)) / 128
    kind = stored or dtype
    scales = float32_to_bfloat16(scales.astype(np.float32)) if kind == "bfloat16" else scales.astype(kind)
    offsets = (mixed(channels, 2 * levels) - levels).astype(np.int32)
    count = int(np.prod(shape))
    symbols = np.minimum(mixed(count, levels), mixed(2 * count, levels)[count:]).astype(np.uint16)
    return AffineTensor(shape, dtype, kind, scales, offsets, axis, symbols)


def grid(
    dtype: str, shape: tuple[int, ...], axis: int | None, levels: int, kept: int = 100, stored: str | None = None
) -> AffineTensor:  # fmt: skip
    """As a symmetric quantizer makes it: one offset, scales above zero; `kept` per cent of the weights are not zero."""
    tensor = affine(dtype, shape, axis, levels, stored)
    zero = levels // 2
    count = len(tensor.symbols)
    symbols = np.where(mixed(3 * count, 100)[2 * count :] < kept, tensor.symbols, zero).astype(np.uint16)
    return AffineTensor(shape, dtype, tensor.stored, tensor.scales, np.full_like(tensor.offsets, zero), axis, symbols)


def leveled(dtype: str, shape: tuple[int, ...], below: int, above: int, kept: int, period: int = 0) -> CompressedTensor:
    """So many centroids below and above zero; with a period, columns are alike at that distance."""
    count = int(np.prod(shape))
    first, second, third = (mixed((part + 1) * count, 997)[part * count :] for part in range(3))
    sizes = 1 + np.minimum(first % 19, second % max(below, above, 1))
    levels = np.where(third % (below + above) < below, -np.minimum(sizes, below), np.minimum(sizes, above))
    chances = mixed(4 * count, 100)[3 * count :]
    thick = np.arange(count) % max(count // shape[0], 1) % period < 2 if period else np.zeros(count, bool)
    levels = np.where(np.where(thick, chances // 4, chances) < kept, levels, 0)
    symbols = np.where(levels, levels + below + (levels < 0), 0)
    centroids = np.concatenate([np.arange(-below, 0), np.arange(1, above + 1)]) / 8
    codebook = Codebook(centroids.astype("float32" if dtype == "bfloat16" else dtype))
    return CompressedTensor(shape, dtype, codebook, symbols.astype(np.min_scalar_type(below + above)))


def weights(dtype: str, count: int) -> DenseTensor:
    """Noise below exponents (of integers, and of the rest, below their upper byte) of seven values, small ones more often."""
    kind = planes.words_of(dtype)
    total = count * kind.per_element
    noise, small, signs = (mixed(start + total, limit)[start:] for start, limit in ((0, 2**30), (total, 7), (2 * total, 2)))
    low = kind.bits - 1 - (kind.exponent or 7)
    top = np.minimum(small, mixed(4 * total, 7)[3 * total :]) + (2 ** (kind.exponent - 1) - 4 if kind.exponent else 1)
    words = top.astype(np.uint64) << np.uint64(low) | noise.astype(np.uint64) * np.uint64(2**34 + 1) % np.uint64(1 << low)
    if kind.exponent:
        words |= signs.astype(np.uint64) << np.uint64(kind.bits - 1)
    if dtype == "bool":
        words = (small > 0).astype(np.uint64)
    return DenseTensor(words.astype(kind.dtype).view(numpy_dtype(dtype)), dtype, dtype)


def every(tensor: DenseTensor, step: int) -> DenseTensor:
    """The tensor's elements with `step` - 1 zeros behind each."""
    spread = np.zeros(tensor.elements.size * step, tensor.elements.dtype)
    spread[::step] = tensor.elements
    return DenseTensor(spread, tensor.dtype, tensor.stored)


def _dtypes() -> Named:
    forms: tuple[tuple[str, tuple[int, ...]], ...] = (("a", (2, 3)), ("s", ()))
    tensors: Named = [(f"{kind.name}.{form}", dense(kind.name, shape)) for kind in DTYPES for form, shape in forms]
    return [*tensors, ("none", dense("float32", (0, 4)))]


def _codebooks() -> Named:
    return [
        ("skewed", shared("float32", (30, 40), 31)),
        ("pruned", shared("float32", (40, 50), 15, 8)),
        ("pruned.half", shared("float32", (20, 30), 15, 30, "float16")),
        ("dense.zero", shared("float64", (20, 30), 7, 80)),
        ("double.single", shared("float64", (99,), 5, 50, "float32")),
        ("half", shared("float16", (15, 15), 3, 50)),
        ("bfloat", shared("bfloat16", (16, 16), 4, 30)),
        ("one", shared("float32", (64,), 1)),
        ("one.pruned", shared("float32", (500,), 1, 10)),
        ("all.pruned", shared("float32", (333,), 4, 0)),
        ("no.centroids", shared("float32", (50,), 0)),
        ("empty", shared("float32", (0, 3), 2)),
        ("scalar", shared("float32", (), 2)),
        ("large", shared("float16", (2_000,), 300)),
    ]


def _chunks() -> Named:
    return [
        ("dense", shared("float32", (10, 30), 9)),
        ("sparse", shared("float32", (30, 40), 9, 10)),
        ("affine", affine("float32", (6, 25), 0, 16)),
        ("raw", dense("int64", (500,), every=25)),
    ]


def _affine() -> Named:
    return [
        ("tensor", affine("float32", (7, 9), None, 16)),
        ("rows", affine("float32", (4, 3, 5), 0, 256)),
        ("columns", affine("float64", (4, 3, 5), 1, 65_536, "float32")),
        ("skewed", affine("float32", (700,), None, 8)),
        ("last", affine("bfloat16", (3, 4), 1, 32)),
        ("half", affine("float16", (12,), None, 8)),
        ("half.scales", affine("float32", (12, 2), 1, 4, "float16")),
        ("scalar", affine("float32", (), None, 4)),
    ]


def _grids() -> Named:
    return [
        ("tensor", grid("float32", (20, 30), None, 255)),
        ("rows", grid("float32", (40, 9), 0, 15)),
        ("pruned", grid("float32", (60, 50), 0, 15, 10)),
        ("pruned.tensor", grid("float32", (3_000,), None, 7, 5)),
        ("columns", grid("float64", (4, 6, 50), 1, 65_535, 20, "float32")),
        ("bfloat", grid("bfloat16", (30, 40), 1, 15, 15)),
        ("half", grid("float16", (7, 50), 0, 3)),
        ("half.scales", grid("float32", (50, 8), 1, 15, 100, "bfloat16")),
        ("offsets", affine("float32", (12, 25), 0, 16)),
        ("one.level", grid("float32", (6, 70), 0, 1)),
        ("small", grid("float32", (2,), None, 15)),
    ]


def _raw() -> Named:
    return [
        ("half", dense("float32", (9, 9), "float16")),
        ("bfloat", dense("float32", (5,), "bfloat16")),
        ("double.bfloat", dense("float64", (5,), "bfloat16")),
        ("double.single", dense("float64", (6,), "float32")),
        ("double.half", dense("float64", (4,), "float16")),
        ("sparse", dense("float32", (40, 40), every=33)),
        ("sparse.half", dense("float32", (900,), "float16", every=15)),
        ("sparse.bool", dense("bool", (4_000,), every=90)),
        ("sparse.complex", dense("complex64", (10, 10), every=7)),
        ("aligned", dense("uint8", (4_100,))),
        ("behind", dense("int16", (3,))),
        *((f"{own}.{stored}", dense(own, (3, 5), stored)) for own in ("int64", "int32", "int16") for stored in NARROWER[own]),
    ]


def _planes() -> Named:
    halves = weights("float16", 300).elements
    return [
        *((kind.name, weights(kind.name, 200)) for kind in DTYPES),
        ("equal", DenseTensor(np.full((20, 9), 1 / 3), "float64", "float64")),
        ("two", DenseTensor(np.where(mixed(300, 3) == 0, np.float32(0.1), np.float32(-7)), "float32", "float32")),
        ("stored", DenseTensor(halves, "float32", "float16")),
        ("wide", DenseTensor(weights("int64", 90).elements | 1, "int64", "int64")),
        ("sparse", every(weights("float32", 200), 12)),
        ("sparse.complex", every(weights("complex64", 80), 25)),
        ("sparse.bfloat", every(weights("bfloat16", 200), 7)),
    ]


def _sparse_values() -> Named:
    """Of each dtype nonzeros as they are, and nonzeros in planes."""
    raw = [(f"{kind.name}.raw", dense(kind.name, (1_200,), every=100)) for kind in DTYPES]
    return [*raw, *((f"{kind.name}.planes", every(weights(kind.name, 400), 30)) for kind in DTYPES)]


def _symbols() -> Named:
    """Of each float codebooks and grids, with all weights and with few, of even and of skewed frequencies."""
    tensors: Named = []
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        tensors += [
            (f"{dtype}.codebook", shared(dtype, (40, 15), 9)),
            (f"{dtype}.codebook.pruned", shared(dtype, (60, 50), 9, 10)),
            (f"{dtype}.grid", grid(dtype, (40, 15), 0, 15)),
            (f"{dtype}.grid.pruned", grid(dtype, (60, 50), None, 15, 10)),
            (f"{dtype}.affine", affine(dtype, (600,), None, 12)),
        ]
    return tensors


def _modules() -> Named:
    """Modules within modules, whose versions stand apart; and norms of one shape, the same but for their names."""
    names = ("weight", "bias", "running_mean", "running_var")
    norms = [f"layers.{layer}.norm.{name}" for layer in range(2) for name in names]
    return [("scale", dense("float32", ())), *((name, dense("float32", (4,))) for name in norms)]


def _levels() -> Named:
    return [
        ("conv", leveled("float32", (6, 5, 3, 3), 7, 8, 15)),
        ("conv.large", leveled("float32", (3, 4, 5, 5), 15, 16, 30)),
        ("conv.one", leveled("float16", (20, 16, 1, 1), 3, 4, 20)),
        ("conv.line", leveled("float64", (8, 6, 7), 2, 2, 50)),
        ("conv.volume", leveled("float32", (3, 2, 2, 3, 2), 4, 4, 60)),
        ("fc", leveled("float32", (30, 40), 15, 16, 8)),
        ("fc.period", leveled("float32", (40, 32), 2, 2, 18, 8)),
        ("ternary", leveled("bfloat16", (24, 30), 1, 1, 25)),
        ("positive", leveled("float32", (20, 25), 0, 6, 40)),
        ("negative", leveled("float16", (20, 25), 17, 0, 40)),
        ("vector", leveled("float32", (300,), 8, 8, 30)),
        ("scalar", shared("float32", (), 2)),
        ("zero", leveled("float32", (9, 90), 3, 4, 0)),
        ("no.zero", leveled("float32", (9, 30), 3, 4, 100)),
        ("no.centroids", shared("float32", (50,), 0)),
        ("empty", shared("float32", (0, 3), 2)),
        ("many", leveled("float32", (12, 20), 300, 400, 70)),
        ("grid", grid("float32", (20, 30), None, 255, 30)),
        ("grid.rows", grid("float32", (12, 6, 3, 3), 0, 15, 12)),
        ("grid.columns", grid("float64", (6, 40), 1, 65_535, 60, "float32")),
        ("grid.bfloat", grid("bfloat16", (15, 20), 0, 15, 20)),
        ("grid.offsets", affine("float16", (12, 25), 0, 16)),
        ("grid.wide", affine("float32", (40,), None, 65_536)),
    ]


def _folded() -> Named:
    """Batch norms without statistics, as FoldNorm leaves them."""
    names = ("weight", "bias", "running_mean", "running_var")
    values = [grid("float32", (40,), None, 31, 100, "float16"), grid("float32", (40,), None, 15)]
    values += [DenseTensor(np.full(40, value, np.float32), "float32", "float32") for value in (0, 1)]
    counter = ("norm.num_batches_tracked", DenseTensor(np.zeros((), np.int64), "int64", "int64"))
    return [*((f"norm.{name}", value) for name, value in zip(names, values, strict=True)), counter]


def _equal() -> Named:
    """Tensors of one value: zeros, values of each dtype, stored in narrower types too; some are like one before."""
    tensors: Named = []
    for kind in DTYPES:
        value = weights(kind.name, 9).elements.reshape(-1)[4:5]
        tensors += [(f"{kind.name}.{place}", DenseTensor(np.repeat(of, 6).reshape(2, 3), kind.name, kind.name))
                    for place, of in enumerate((np.zeros(1, value.dtype), value))]  # fmt: skip
    halves = (("float32", 1.0), ("float32", 2.0**100), ("float64", 0.5), ("float64", 0.1), ("int64", -3), ("int32", 70_000))
    tensors += [
        (f"narrow.{place}", DenseTensor(np.full((4,), value, dtype), dtype, dtype)) for place, (dtype, value) in enumerate(halves)
    ]
    stored = DenseTensor(np.full((5,), 0.25, np.float16), "float32", "float16")
    quantized = [("pruned", shared("float32", (30,), 4, 0)), ("one.level", grid("float32", (6, 70), 0, 1))]
    again = [("again.0", tensors[1][1]), ("again.1", tensors[0][1]), ("again.2", tensors[-6][1])]
    return [*tensors, ("stored", stored), *quantized, *again, ("tie", Tie("again.1")), ("none", dense("float32", (0, 4)))]


def _compact() -> bytes:
    """Every form of a compact file: blocks by context, constants, one offset, levels whose records leave out the most."""
    honest = encode._by_contexts

    def always(base: Any, sections: Any, symbols: Any, around: Any, bits: int, tables: Any) -> Any:
        return honest(base, sections, symbols, around, 1 << 62, tables)

    extras = Extras({"naïve": "yes"}, {"stages": [{"stage": "fold_norm"}]}, {"float16": 2}, inference=True)
    with mock.patch.object(encode, "_by_contexts", always):
        return _file([*_levels(), *_equal()], Encoding("context", compact=True), extras)


def _ties() -> Named:
    return [
        ("encoder.embed.weight", shared("float32", (12, 10), 7)),
        ("decoder.embed.weight", Tie("encoder.embed.weight")),
        ("norm.num_batches_tracked", dense("int64", ())),
        ("head.ünïcode", Tie("decoder.embed.weight")),
        ("bias", dense("float32", (3,))),
    ]


def _versions() -> bytes:
    """Versions of modules that hold tensors, and of those around them."""
    names = ("features.block.conv.weight", "features.block.norm.weight", "features.bias", "head.inner.weight")
    versions = {"": 2, "features": 1, "features.block": 3, "features.block.norm": 2, "head": 1, "head.inner": 300}
    return _file([(name, dense("float32", (3,))) for name in names], extras=Extras(versions=versions))


def _file(tensors: Named, encoding: Encoding | None = None, extras: Extras | None = None) -> bytes:
    file = io.BytesIO()
    write_model(file, tensors, encoding or Encoding(), extras)
    return file.getvalue()


def _chunked(lanes: int) -> bytes:
    with mock.patch.multiple(streams, _CHUNK_SYMBOLS=64, _SINGLE_LANE=1, _LANES=lanes):
        return _file(_chunks())


def _grids_cut() -> bytes:
    """Grids in chunks of 64 symbols, of two lanes each."""
    with mock.patch.multiple(streams, _CHUNK_SYMBOLS=64, _SINGLE_LANE=1, _LANES=2):
        return _file(_grids(), Encoding(one_offset=True))


def _cut() -> bytes:
    """Values in planes, in chunks of 128 words of two lanes each."""
    small = mock.patch.multiple(streams, _CHUNK_SYMBOLS=64, _SINGLE_LANE=1, _LANES=2)
    with small, mock.patch.multiple(cutting, _CHUNK_LOG2=7, _FEW=1, _LANES=2):
        return _file(_planes())


def _by_contexts() -> bytes:
    """All symbols by contexts, whatever is shortest, in chunks of 256."""
    honest = encode._by_contexts

    def always(base: Any, sections: Any, symbols: Any, around: Any, bits: int, tables: Any) -> Any:
        return honest(base, sections, symbols, around, 1 << 62, tables)

    with mock.patch.object(contexts, "_CHUNK_LOG2", 8), mock.patch.object(encode, "_by_contexts", always):
        return _file(_levels(), Encoding("context", one_offset=True))


def _future() -> bytes:
    """A codec and a metadata section of a later minor version, between what every reader knows."""
    file = io.BytesIO()
    writer = Writer(file)
    known = TensorRecord("known", "uint8", (3,), "uint8", values=StreamRecord(0, 3))
    later = TensorRecord("later", "float32", (2, 2), "float32", values=StreamRecord(29, 5, 0xFF, b"\1\2"))
    writer.add(known, {"values": b"abc"})
    writer.add(later, {"values": b"later"})
    writer.add_metadata(100, b"of a later version")
    writer.finish([])
    return file.getvalue()


MAKERS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: _file([]),
    "dtypes": lambda: _file(_dtypes()),
    "codebooks": lambda: _file(_codebooks()),
    "fixed": lambda: _file(_codebooks()[:6], Encoding("fixed")),
    "long_codes": lambda: _file([("w", shared("float32", (3_000,), 60, 90))], Encoding(max_code_length=20)),
    "affine": lambda: _file(_affine()),
    "grids": lambda: _file(_grids(), Encoding(one_offset=True)),
    "grids_fixed": lambda: _file(_grids(), Encoding("fixed")),
    "grids_cut": _grids_cut,
    "raw": lambda: _file(_raw()),
    "planes": _cut,
    "planes_whole": lambda: _file(_planes()),
    "contexts": _by_contexts,
    "ties": lambda: _file(_ties(), extras=Extras({"naïve": "yes"}, {"stages": [1]}, {"encoder.embed": 1, "norm": 2})),
    "versions": _versions,
    "compact": _compact,
    "compact_plain": lambda: _file(_equal()[:1], Encoding(compact=True)),
    "compact_grids": lambda: _file(_grids(), Encoding(compact=True)),
    "compact_names": lambda: _file(
        [(f"layers.{i}.{i * i % 97}.{'x' * (i % 31)}", dense("uint8", (1 + i % 3,))) for i in range(300)], Encoding(compact=True)
    ),
    "folded": lambda: _file(_folded(), extras=Extras(versions={"norm": 2}, inference=True)),
    "future": _future,
    "sparse_values": lambda: _file(_sparse_values()),
    "symbols": lambda: _file(_symbols()),
    "symbols_fixed": lambda: _file(_symbols(), Encoding("fixed")),
    "modules": lambda: _file(_modules(), extras=Extras(versions=MODULE_VERSIONS)),
} | {f"lanes_{lanes}": lambda lanes=lanes: _chunked(lanes) for lanes in (1, 2, 4, 8, 16, 32)}


def digests(data: bytes) -> dict[str, Any]:
    """What a reader must find in a file."""
    model = CompressedModel(data, framework="numpy")
    unknown = {r.name for r in model.records if r.values and r.values.codec > CODEC_CONTEXT}
    arrays = {name: model[name] for name in model if name not in unknown}
    return {
        "sha256": hashlib.sha256(data).hexdigest(),
        "ties": model.ties,
        "unknown": sorted(unknown),
        "metadata": model.metadata,
        "recipe": model.recipe,
        "versions": model.versions,
        "inference": model.inference,
        "tensors": {
            record.name: [record.dtype, list(record.shape), hashlib.sha256(arrays[record.name].tobytes()).hexdigest()]
            for record in model.records
            if record.name in arrays
        },
    }


def main() -> int:
    index = FOLDER / "digests.json"
    known: dict[str, Any] = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    for name, make in MAKERS.items():
        path = FOLDER / f"{name}.dcz"
        if path.exists() or name in known:
            print(f"{path.name}: is there, left alone")
            continue
        data = make()
        known[name] = digests(data)
        path.write_bytes(data)
        print(f"{path.name}: {len(data)} bytes")
    index.write_text(json.dumps(known, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
