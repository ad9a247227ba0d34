"""Small files of every kind of stream and dtype, from which mutants are made."""

from __future__ import annotations

import numpy as np

from deepcompress.container.layout import DTYPES, NARROWER
from deepcompress.tensors.build import Extras, Tie
from deepcompress.tensors.compressed import DenseTensor
from deepcompress.tensors.streams import Encoding
from tests.tensors import samples

FLOATS = samples.FLOATS


def tiny_files() -> list[bytes]:
    """A few that are short enough for each of their bits to be altered."""
    coded: samples.Named = [
        ("layer.weight", samples.shared_tensor("float32", (8, 12), 3, 1, 0.3)),
        ("layer.bias", samples.dense_tensor("float16", "float16", (8,), 2, 1.0)),
        ("head.weight", Tie("layer.weight")),
        ("head.scale", samples.affine_tensor("bfloat16", "bfloat16", (3, 4), 0, 3, 16)),
    ]
    chunked: samples.Named = [
        ("a", samples.shared_tensor("float64", (60,), 5, 4, 0.3, "float16")),
        ("b", samples.shared_tensor("float16", (5, 9), 5, 5, 1.0)),
        ("c", samples.dense_tensor("int64", "int64", (40,), 6, 0.1)),
    ]
    cut: samples.Named = [
        (kind, DenseTensor(samples.weights(kind, (count,), 7), kind, kind))
        for kind, count in (("bfloat16", 90), ("complex32", 60))
    ]
    cut.append(("sparse", DenseTensor(np.where(np.arange(99) % 5 == 0, np.float32(0.1), 0), "float32", "float32")))
    with samples.small_chunks(8, 2):
        second = samples.to_file(chunked)
    with samples.small_chunks(64, 1):
        third = samples.to_file(cut)
    grids: samples.Named = [
        ("a", samples.grid_tensor("float32", "float32", (6, 12), 0, 4, 7)),
        ("b", samples.grid_tensor("float16", "float16", (9, 5), 1, 4, 15, 0.3)),
        ("c", samples.grid_tensor("float64", "float32", (60,), None, 5, 4, 0.2)),
    ]
    with samples.small_chunks(8, 2):
        fourth = samples.to_file(grids, Encoding(one_offset=True))
    levels: samples.Named = [
        ("conv", samples.level_tensor("float32", (3, 2, 3, 3), (2, 3), 4, 0.4)),
        ("fc", samples.level_tensor("float16", (4, 24), (1, 0), 5, 0.2, 4)),
        ("grid", samples.grid_tensor("float32", "float32", (6, 5), 0, 4, 63, 0.5)),
    ]
    with samples.small_chunks(32, 1), samples.only_contexts():
        fifth = samples.to_file(levels, Encoding("context"))
    return [samples.to_file(coded, extras=Extras({"k": "v"}, {"a": [1]}, {"layer": 2})), second, third, fourth, fifth]


def more_files() -> list[bytes]:
    """Every dtype and every pair of stored dtypes, both coders, all numbers of lanes, and shapes at the edge."""
    files = [_raw(), _stored(), _edges(), _norms()]
    for lanes, coder in ((1, "fixed"), (4, "huffman"), (16, "fixed"), (32, "huffman")):
        with samples.small_chunks(16, lanes):
            files.append(samples.to_file(_shared(lanes), Encoding(coder)))
            files.append(samples.to_file(_grids(lanes), Encoding(coder, one_offset=lanes > 4)))
    for lanes, kinds in ((1, DTYPES[:7]), (2, DTYPES[7:15]), (1, DTYPES[15:])):
        with samples.small_chunks(128, lanes):
            files.append(samples.to_file([_planes(kind.name, lanes) for kind in kinds]))
    with samples.small_chunks(64, 1), samples.only_contexts():
        files.append(samples.to_file(_levels(), Encoding("context", one_offset=True)))
        files.append(samples.to_file([*_levels(), *_equal()], Encoding("context", compact=True), Extras(inference=True)))
    return files


def _raw() -> bytes:
    named: samples.Named = [(kind.name, samples.dense_tensor(kind.name, kind.name, (3,), 1, 1.0)) for kind in DTYPES]
    return samples.to_file(named)


def _stored() -> bytes:
    pairs = [(dtype, stored) for dtype, narrow in NARROWER.items() for stored in narrow]
    named: samples.Named = [(f"{dtype}.{own}", samples.dense_tensor(dtype, own, (2, 2), 5, 1.0)) for dtype, own in pairs]
    return samples.to_file(named)


def _edges() -> bytes:
    """No dimension, no element, one element, all zero, all equal, all pruned; and a section that is aligned."""
    named: samples.Named = [
        ("scalar.weight", samples.dense_tensor("float32", "float32", (), 1, 1.0)),
        ("none.weight", samples.dense_tensor("float32", "float32", (0, 5), 1, 1.0)),
        ("one.weight", samples.shared_tensor("float32", (1, 1), 1, 1, 1.0)),
        ("zero.weight", DenseTensor(np.zeros((50, 40), np.float32), "float32", "float32")),
        ("equal.weight", DenseTensor(np.full((30, 40), 2.5, np.float32), "float32", "float32")),
        ("pruned.weight", samples.shared_tensor("float32", (300,), 4, 1, 0.0)),
        ("rare.weight", samples.shared_tensor("float32", (900,), 4, 2, 0.01)),
        ("tie.weight", Tie("rare.weight")),
        ("tie.bias", Tie("scalar.weight")),
        ("large.weight", samples.dense_tensor("uint8", "uint8", (4_100,), 1, 1.0)),
        ("last.bias", samples.dense_tensor("bool", "bool", (5,), 1, 0.5)),
    ]
    return samples.to_file(named, extras=Extras({"a": "é", "b": ""}, {"stages": [{"k": 1.5}]}, {"": 2, "one": 3, "tie": 1}))


def _norms() -> bytes:
    """Norms of one shape, with names that share a part: records that are the same as before, tails that come again."""
    names = ("weight", "bias", "running_mean", "running_var")
    named: samples.Named = []
    for layer in range(3):
        for name in names:
            tensor = samples.dense_tensor("float32", "float32", (4,), layer, 1.0)
            named.append((f"layers.{layer}.bn1.{name}", tensor))
        named.append((f"layers.{layer}.bn1.num_batches_tracked", samples.dense_tensor("int64", "int8", (), layer, 1.0)))
    return samples.to_file(named, extras=Extras(versions={f"layers.{layer}.bn1": 2 for layer in range(3)}))


def _shared(seed: int) -> samples.Named:
    named: samples.Named = []
    for place, dtype in enumerate(FLOATS):
        named.append((f"dense.{dtype}", samples.shared_tensor(dtype, (5, 11), 2 + 5 * place, seed + place, 1.0)))
        named.append((f"sparse.{dtype}", samples.shared_tensor(dtype, (70,), 6, seed + place, 0.25)))
    return named


def _grids(seed: int) -> samples.Named:
    named: samples.Named = []
    for place, dtype in enumerate(FLOATS):
        axis = (None, 0, 1)[(seed + place) % 3]
        named.append((f"dense.{dtype}", samples.grid_tensor(dtype, dtype, (6, 9), axis, seed + place, 4 << 2 * place)))
        named.append((f"sparse.{dtype}", samples.grid_tensor(dtype, dtype, (6, 9), axis, seed + place, 7, 0.3)))
    return named


def _levels() -> samples.Named:
    """Kernels, vectors, a lag; one side only, none at all, and sizes that are said in bits."""
    tensors = [
        samples.level_tensor("float32", (4, 3, 5, 5), (7, 8), 1, 0.1),
        samples.level_tensor("float64", (8, 2, 3), (1, 1), 2, 0.5),
        samples.level_tensor("bfloat16", (90,), (0, 17), 3, 0.9),
        samples.level_tensor("float32", (16, 24), (2, 2), 4, 0.3, 4),
        samples.level_tensor("float16", (5, 9), (3, 0), 5, 1.0),
        samples.level_tensor("float32", (7, 9), (0, 0), 6, 1.0),
        samples.grid_tensor("float32", "float16", (6, 9), 1, 8, 65_536, 0.2),
        samples.grid_tensor("float16", "float16", (6, 9), None, 9, 16),
        samples.grid_tensor("float64", "float32", (8, 3, 3, 3), 0, 10, 16, 0.3),
    ]
    return [(f"w{place}", tensor) for place, tensor in enumerate(tensors)]


def _equal() -> samples.Named:
    """Tensors of one value, and some that are like another."""
    values = [("float32", 0.0), ("float32", 1.0), ("int64", 0), ("float32", 0.0), ("float64", 0.1), ("bool", 1), ("float32", 1.0)]
    return [
        (f"bn{place}.weight", DenseTensor(np.full(4, value, dtype), dtype, dtype)) for place, (dtype, value) in enumerate(values)
    ]


def _planes(dtype: str, seed: int) -> tuple[str, DenseTensor]:
    return dtype, DenseTensor(samples.weights(dtype, (400,), seed), dtype, dtype)


TINY = tiny_files()
SEEDS = TINY + more_files()
