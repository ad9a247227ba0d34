"""Small files of every kind of stream, structure-aware mutants of them, and what reading one may come to."""

from __future__ import annotations

import random
import struct
import zlib

import numpy as np

import deepcompress as dc
from deepcompress.container.varint import varint
from deepcompress.errors import FormatError
from deepcompress.tensors.build import Extras, Tie
from deepcompress.tensors.compressed import DenseTensor
from deepcompress.tensors.elements import numpy_dtype
from deepcompress.tensors.streams import Encoding
from tests.tensors import samples

LIMIT = 1 << 22


def small_files() -> list[bytes]:
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
    return [samples.to_file(coded, extras=Extras({"k": "v"}, {"a": [1]}, {"layer": 2})), second, third, fourth]


FILES = small_files()


def content(data: bytes) -> dict[str, tuple[str, bytes]]:
    model = dc.load(data)
    _ = model.metadata, model.recipe, model.versions
    return {name: (str(array.dtype) + str(array.shape), array.tobytes()) for name, array in model.numpy().items()}


def repaired(data: bytearray) -> bytes:
    """The file with right checksums, as far as its trailer says where they belong."""
    if len(data) < 16:
        return bytes(data)
    length = struct.unpack("<I", data[-8:-4])[0]
    end = len(data) - 8 - length
    if end >= 8:
        groups = range(8, end, 65_536)
        at = len(data) - 8 - 4 * len(groups)
        for index, start in enumerate(groups):
            data[at + 4 * index : at + 4 * index + 4] = struct.pack("<I", zlib.crc32(data[start : min(start + 65_536, end)]))
        data[-4:] = struct.pack("<I", zlib.crc32(data[:8] + data[end:-4]))
    return bytes(data)


def mutate(data: bytes, chance: random.Random, *, repair: bool = True) -> bytes:
    """A few bytes changed, put in or taken out; where the directory grows, the trailer says so, mostly."""
    mutant = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4])):
        length = struct.unpack("<I", mutant[-8:-4])[0]
        start = max(len(mutant) - 8 - length, 8) if chance.random() < 0.8 else 8
        place = chance.randrange(min(start, len(mutant) - 9), len(mutant) - 8)
        kind, before = chance.randrange(5), len(mutant)
        if kind == 0:
            mutant[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            mutant[place] = chance.choice([0, 1, 2, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        elif kind == 2:
            mutant[place : place + 1] = varint(chance.choice([0, 2**7, 2**16, 2**31, 2**40, 2**63 - 1]))
        elif kind == 3:
            del mutant[place : place + chance.randrange(1, 4)]
        else:
            mutant[place:place] = mutant[place : place + chance.randrange(1, 8)]
        if place >= start and chance.random() < 0.9:
            mutant[-8:-4] = struct.pack("<I", max(length + len(mutant) - before, 0))
    return repaired(mutant) if repair else bytes(mutant)


def survives(mutant: bytes) -> bool:
    """Whether the file is well-formed; if so, everything that it says is true."""
    try:
        model = dc.load(mutant, framework="numpy", max_bytes=LIMIT)
        assert model.bits.file.total == 8 * len(mutant)
        model.inspect()
        model.verify()
    except FormatError as error:
        if not str(error).startswith("<bytes>: "):
            raise
        return False
    for record in model.records:
        array = model[record.name]
        assert array.shape == record.shape
        assert array.dtype == numpy_dtype(record.dtype)
        assert array.flags.writeable
    assert set(model.numpy()) == set(model)
    return True
