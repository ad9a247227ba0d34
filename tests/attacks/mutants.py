"""Mutants of small files, of their bytes or of their structure, and what reading one may come to."""

from __future__ import annotations

import pickle
import random
import struct
import zlib

import deepcompress as dc
from deepcompress.container.varint import varint
from deepcompress.errors import FormatError
from deepcompress.tensors.elements import numpy_dtype
from tests.attacks.parsed import parse
from tests.attacks.seeds import SEEDS
from tests.attacks.structure import restructure

LIMIT = 1 << 22
PARSED = [pickle.dumps(parse(data)) for data in SEEDS]
_BY_STRUCTURE = 0.75  # of the mutants, the others are changed byte by byte; some both ways


def content(data: bytes) -> dict[str, tuple[str, bytes]]:
    model = dc.load(data)
    _ = model.metadata, model.recipe, model.versions, model.inference
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


def mutate(place: int, chance: random.Random, *, repair: bool = True) -> bytes:
    """A mutant of SEEDS[place]; without `repair`, its checksums are those of the file that it comes from."""
    data = SEEDS[place]
    if chance.random() < _BY_STRUCTURE:
        mutant = bytearray(restructure(PARSED[place], chance, PARSED).pack())
        if not repair:
            _keep_checksums(mutant, data)
        elif chance.random() > 0.05:
            return bytes(mutant)
    else:
        mutant = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4])):
        _alter(mutant, chance)
    return repaired(mutant) if repair else bytes(mutant)


def _keep_checksums(mutant: bytearray, data: bytes) -> None:
    """Those of the sections, as far as both have them, and that of the directory."""
    groups = [-(-(len(file) - 16 - struct.unpack("<I", file[-8:-4])[0]) // 65_536) for file in (mutant, data)]
    both = 4 * min(groups)
    mutant[len(mutant) - 8 - both : -8] = data[len(data) - 8 - both : -8]
    mutant[-4:] = data[-4:]


def _alter(mutant: bytearray, chance: random.Random) -> None:
    """A few bytes changed, put in or taken out; where the directory grows, the trailer says so, mostly."""
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
