"""Small files, cut and altered everywhere: an error, or the very same model; and what another decoder says of mutants."""

from __future__ import annotations

import random
from contextlib import suppress

import numpy as np
import pytest

import deepcompress as dc
from deepcompress.errors import FormatError
from tests.attacks.mutants import LIMIT, content, mutate, repaired
from tests.attacks.parsed import parse
from tests.attacks.seeds import SEEDS, TINY
from tests.reference.decoder import LimitError, MalformedError, read


@pytest.mark.parametrize("data", TINY)
def test_every_prefix(data: bytes) -> None:
    assert len(data) < 700
    for stop in range(len(data)):
        with pytest.raises(FormatError, match=r"^<bytes>: (truncated|not a \.dcz)"):
            dc.load(data[:stop])


@pytest.mark.parametrize("data", TINY)
def test_every_bit(data: bytes) -> None:
    for place in range(8 * len(data)):
        altered = bytearray(data)
        altered[place >> 3] ^= 1 << (place & 7)
        with pytest.raises(FormatError, match=r"^<bytes>: "):
            dc.load(bytes(altered))


@pytest.mark.parametrize("data", TINY)
def test_bytes_behind(data: bytes) -> None:
    with pytest.raises(FormatError):
        dc.load(data + b"\0")


def test_repair_repairs() -> None:
    for data in SEEDS:
        assert repaired(bytearray(data)) == data
        assert np.array_equal(list(content(data)), list(dc.load(data)))


def test_a_file_in_parts_is_the_file_again() -> None:
    for data in SEEDS:
        file = parse(data)
        assert content(file.pack()) == content(data)
        for row in file.rows:
            before = dict(row.sections)
            row.fit()
            assert row.sections == before


def test_many_mutants_reach_the_streams() -> None:
    """What is changed is behind the directory's syntax, mostly; and a good part of what comes out is well-formed."""
    chance, opened, whole = random.Random("reach"), 0, 0
    for number in range(600):
        mutant = mutate(number % len(SEEDS), chance)
        with suppress(FormatError):
            model = dc.open(mutant, framework="numpy", max_bytes=LIMIT)
            opened += 1
            model.numpy()
            whole += 1
    assert opened > 600 // 3
    assert whole > 600 // 6


def test_the_reference_decoder_agrees_on_mutants() -> None:
    chance = random.Random("both")
    for _ in range(600):
        mutant = mutate(chance.randrange(len(SEEDS)), chance)
        try:
            expected = by_reference(mutant)
        except LimitError:
            continue
        assert by_package(mutant) == expected, mutant.hex()


def by_reference(data: bytes) -> dict[str, bytes | None] | None:
    """Each tensor's bytes, None where it is malformed or unknown; None where the file is."""
    try:
        file = read(data, LIMIT >> 4)
    except MalformedError:
        return None
    bad: dict[str, bytes | None] = {str(name): None for name in [*file.failed, *file.malformed] if isinstance(name, str)}
    return bad | {name: tensor.data for name, tensor in file.tensors.items()}


def by_package(data: bytes) -> dict[str, bytes | None] | None:
    try:
        model = dc.open(data, framework="numpy")
    except FormatError:
        return None
    found: dict[str, bytes | None] = {}
    for name in model:
        try:
            found[name] = model[name].tobytes()
        except FormatError:
            found[name] = None
    return found
