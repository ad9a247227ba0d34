"""Small files, cut and altered everywhere: an error, or the very same model; and what another decoder says of mutants."""

from __future__ import annotations

import pickle
import random
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import deepcompress as dc
from deepcompress.errors import FormatError
from deepcompress.tensors.streams import Encoding
from tests.attacks.agreement import agree
from tests.attacks.mutants import LIMIT, PARSED, content, mutate, repaired, survives
from tests.attacks.parsed import parse
from tests.attacks.seeds import SEEDS, TINY
from tests.attacks.structure import restructure
from tests.tensors import samples


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
        assert agree(mutant), mutant.hex()


@settings(deadline=None, max_examples=150)
@given(samples.models(), samples.encodings, samples.cuts, st.randoms(use_true_random=False))
def test_mutants_of_any_model(tensors: samples.Named, encoding: Encoding, cut: tuple[int, int], chance: random.Random) -> None:
    """Refused or well-formed, and both decoders say the same."""
    with samples.small_chunks(*cut):
        parsed = pickle.dumps(parse(samples.to_file(tensors, encoding)))
    mutant = restructure(parsed, chance, PARSED).pack()
    survives(mutant)
    assert agree(mutant), mutant.hex()


@settings(deadline=None, max_examples=150)
@given(samples.models(), samples.encodings, st.data())
def test_altered_bytes_of_any_model(tensors: samples.Named, encoding: Encoding, data: st.DataObject) -> None:
    """Refused, where checksums are left as they were; nothing else may be another model."""
    file = samples.to_file(tensors, encoding)
    start = data.draw(st.integers(0, len(file) - 1), "from")
    stop = data.draw(st.integers(start, min(start + 8, len(file))), "to")
    mutant = file[:start] + data.draw(st.binary(max_size=8), "instead") + file[stop:]
    if mutant != file:
        with pytest.raises(FormatError, match=r"^<bytes>: "):
            dc.load(mutant)
