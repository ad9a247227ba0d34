"""Symbols by context: the rules that a chunk and its parameters must keep; and package and reference say the same of them."""

from __future__ import annotations

import pickle
import random
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import deepcompress as dc
from deepcompress.coding import context_kernels
from deepcompress.coding.context import Levels, decode_levels, encode_levels
from deepcompress.container import layout
from deepcompress.errors import FormatError
from deepcompress.tensors.streams import Encoding
from tests.attacks.agreement import agree
from tests.attacks.mutants import PARSED, survives
from tests.attacks.parsed import parse
from tests.attacks.structure import restructure
from tests.reference import context
from tests.reference.coding import Bytes, MalformedError
from tests.reference.decoder import read, read_whole
from tests.reference.test_cross import by_package, by_reference
from tests.reference.writer import Entry, Parts, Raw, build, fixed, raw_stream, shape, stream, u32, varint
from tests.tensors import samples

CENTROIDS = struct.pack("<3f", -2.0, -1.0, 1.0)
LEVELS = [0, 1, 0, 0, 1, -2]
GIVEN = (2, 2_048, 0)  # B, first, lag


def parameters(*numbers: int) -> bytes:
    return b"".join(map(varint, numbers))


def chunks(levels: Sequence[int], sides: Sequence[int], numbers: Sequence[int], k: int | None, size: int) -> list[bytes]:
    """As the reference writes them."""
    places = context.places(sides)
    known = context.levels(Bytes(parameters(*numbers)), places, k)
    return [context.write_chunk(known, places, levels[i : i + size], i) for i in range(0, len(levels), size)]


def shared(
    levels: Sequence[int] = LEVELS,
    numbers: Sequence[int] = GIVEN,
    sides: Sequence[int] = (2, 3),
    *,
    section: bytes | None = None,
    given: bytes | None = None,
    geometry: Sequence[int] = (20, 0),
) -> Entry:
    """A codebook of -2, -1 and 1. `section` and `given` stand instead of the right section and parameters."""
    if section is None:
        pieces = chunks(levels, sides, numbers, 3, 1 << geometry[0])
        section = (u32(*map(len, pieces)) if len(pieces) > 1 else b"") + b"".join(pieces)
    given = parameters(*numbers) if given is None else given
    record = bytes([1, 0]) + shape(*sides) + b"\3" + stream(4, len(section), given, *geometry)
    return Entry("w", record, [Raw(CENTROIDS), section])


def grid(levels: Sequence[int], numbers: Sequence[int], wrong: Sequence[int] | None = None) -> Entry:
    """Z, A, H, first, lag; `wrong` stand in the file instead of those that wrote the levels."""
    (section,) = chunks(levels, (len(levels),), numbers, None, 64)
    record = bytes([2, 0]) + shape(len(levels)) + b"\0" + stream(4, len(section), parameters(*(wrong or numbers)), 20)
    return Entry("w", record, [Raw(struct.pack("<fi", 0.5, numbers[0])), section])


def verdict(entry: Entry) -> bytes | None:
    """The tensor's bytes, None where it alone is malformed; both readers must agree."""
    data = build(Parts([entry, Entry("z", bytes([0, 0]) + shape(1) + raw_stream(), [Raw(b"\0\0\x80?")])]))
    file, model = read(data), dc.load(data, framework="numpy")
    assert model["z"].tolist() == [1.0]
    assert set(file.tensors) | set(file.malformed) == {"w", "z"}
    if "w" in file.malformed:
        with pytest.raises(FormatError, match="tensor 'w', values: "):
            model["w"]
        return None
    assert model["w"].tobytes() == file.tensors["w"].data
    return file.tensors["w"].data


def test_both_have_one_table_of_chances() -> None:
    assert context_kernels._SQUASHED.tolist() == context.S
    assert context_kernels._STRETCHED.tolist() == context.T


RIGHT = shared().sections[1]


@pytest.mark.parametrize(
    "entry",
    [
        shared(),
        shared(sides=(6,)),
        shared(sides=(2, 1, 3)),
        shared([1], sides=()),
        shared([], sides=(0, 3), section=b""),
        shared([0, 3, 1, 0, 0, 2], (0, 2_048, 0)),  # B is not the number of negative centroids
        shared([0, -3, -1, 0, 0, -2], (3, 2_048, 0)),
        shared(numbers=(2, 1, 2)),
        shared(numbers=(2, 4_095, 1)),
        shared(geometry=(0, 0)),
        shared(geometry=(1, 0)),
        grid([0, 1, -2, 1], (2, 2, 1, 1, 0)),
        grid([0, 1, -2, 1], (2, 2, 65_533, 1, 0)),
        grid([65_535, 1, 14, 15, 16, 40_000], (0, 0, 65_535, 9, 0)),
        grid([0, 0], (0, 0, 0, 1, 0)),
        shared(section=RIGHT[:-1]),  # other levels, and so many bytes as they take
        shared(section=b""),
        grid([-65_535, 0], (65_535, 65_535, 0, 4_095, 1)),
    ],
)
def test_both_read(entry: Entry) -> None:
    assert verdict(entry) is not None


@pytest.mark.parametrize(
    "entry",
    [
        shared(given=parameters(4, 2_048, 0)),  # of 3 centroids
        shared(given=parameters(2**62, 2_048, 0)),
        shared(given=parameters(2, 0, 0)),
        shared(given=parameters(2, 4_096, 0)),
        shared(given=parameters(2, 2_048, 3)),  # as many as a row has
        shared(given=parameters(2, 2_048, 2**63 - 1)),
        shared(sides=(2, 1, 3), given=parameters(2, 2_048, 1)),  # with a kernel
        shared([], sides=(3, 0), section=b"", given=parameters(2, 2_048, 1)),
        shared(given=parameters(2, 2_048, 0, 0)),
        shared(given=parameters(2, 2_048)),
        shared(given=b""),
        shared(given=b"\2\x80\x10\x80\0"),  # a varint with a leading zero group
        shared(section=RIGHT, geometry=(21, 0)),
        shared(section=RIGHT, geometry=(31, 0)),
        shared(section=u32(2) + RIGHT, geometry=(20, 1)),
        shared(section=RIGHT, geometry=(20, 6)),
        shared([0] * 300, sides=(300,), section=b"\x89"),  # more bytes go out
        shared([0] * 300, sides=(300,), section=b""),
        shared(section=RIGHT + b"\0"),
        shared(section=RIGHT + b"\1"),
        shared(section=bytes([*RIGHT[:-1], RIGHT[-1] + 1])),
        shared([], sides=(0, 3), section=b"\0"),
        shared(section=u32(1) + RIGHT, geometry=(2, 0)),
        shared(section=u32(2, 1) + RIGHT, geometry=(2, 0)),
        grid([0, 1], (1, 0, 1, 9, 0), (1, 2, 1, 9, 0)),
        grid([0, 1], (1, 0, 1, 9, 0), (1, 0, 65_535, 9, 0)),
        grid([0, 1], (1, 0, 1, 9, 0), (1, 0, 2**63 - 1, 9, 0)),
        grid([0, 1], (1, 0, 1, 9, 0), (1, 0, 0, 9, 0)),  # no level but 0 can stand
        grid([17], (0, 0, 40, 9, 0), (0, 0, 16, 9, 0)),
        grid([3, -17], (90, 40, 40, 9, 0), (90, 16, 16, 9, 0)),
    ],
)
def test_both_refuse(entry: Entry) -> None:
    assert verdict(entry) is None


GAPS = stream(1, 1, fixed(2))


@pytest.mark.parametrize(
    "entry",
    [
        Entry("w", bytes([0, 0]) + shape(0) + stream(4, 0, parameters(*GIVEN), 20), [b""]),  # no value map
        Entry(
            "w", bytes([5, 0]) + shape(9) + b"\3\1\2\0" + GAPS + stream(4, 0, parameters(*GIVEN)), [Raw(CENTROIDS), b"\1", b""]
        ),
        Entry(
            "w", bytes([4, 0]) + shape(9) + b"\1\2\0" + stream(4, 0, parameters(*GIVEN)) + raw_stream(), [b"", Raw(b"\0\0\x80?")]
        ),
    ],
)
def test_both_refuse_the_file(entry: Entry) -> None:
    data = build(Parts([entry]))
    with pytest.raises(MalformedError):
        read(data)
    with pytest.raises(FormatError, match=r"record of 'w', byte .* codec 4"):
        dc.open(data)


@st.composite
def some(draw: st.DrawFn) -> tuple[list[int], context.Levels, context.Places, int]:
    """Levels, what is known of them, and how many come before."""
    kernel_row = draw(st.integers(1, 5))
    kernel = draw(st.sampled_from([1, kernel_row, 2 * kernel_row, 49]))
    columns = kernel * draw(st.sampled_from([1, 2, 5, 40]))
    lag = draw(st.integers(0, columns - 1)) if kernel == 1 else 0
    lowest, highest = (draw(st.sampled_from([0, 1, 2, 13, 14, 15, 16, 17, 300, 65_535])) for _ in range(2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(0, 300))
    far = draw(st.sampled_from([1, 3, 20, 70_000]))
    levels = rng.integers(-min(lowest, far), min(highest, far), count, endpoint=True)
    levels[rng.random(count) < draw(st.sampled_from([0.0, 0.5, 0.95]))] = 0
    if count > columns and draw(st.booleans()):
        levels[columns:] = np.where(rng.random(count - columns) < 0.8, levels[: count - columns], levels[columns:])
    given = context.Levels(lowest, highest, draw(st.integers(1, 4_095)), lag, lambda level: level)
    return levels.tolist(), given, context.Places(columns, kernel, kernel_row), draw(st.integers(0, 3 * columns))


def as_package(given: context.Levels, at: context.Places) -> Levels:
    return Levels(given.lowest, given.highest, given.first, at.columns, at.kernel, at.kernel_row, given.lag)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(some())
def test_both_write_the_same_bytes(drawn: tuple[list[int], context.Levels, context.Places, int]) -> None:
    levels, given, at, start = drawn
    data = encode_levels(np.array(levels, np.int32), as_package(given, at), start).tobytes()
    assert context.write_chunk(given, at, levels, start) == data
    assert context.read_chunk(given, at, data, start, len(levels)) == levels


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(some(), st.binary(max_size=60), st.integers(0, 8))
def test_both_say_the_same_of_any_bytes(
    drawn: tuple[list[int], context.Levels, context.Places, int], noise: bytes, count: int
) -> None:  # fmt: skip
    """Few levels, so that some noise is well-formed."""
    _, given, at, start = drawn
    found: Any = np.zeros(count, np.int32)
    try:
        decode_levels(np.frombuffer(noise, np.uint8), as_package(given, at), found, start)
        expected = found.tolist()
    except FormatError:
        expected = None
    try:
        assert context.read_chunk(given, at, noise, start, count) == expected
    except MalformedError:
        assert expected is None


cuts = st.sampled_from([1, 8, 64, 1 << 16])
models = st.lists(samples.context_tensors(), min_size=1, max_size=2).map(
    lambda tensors: [(f"w{i}", t) for i, t in enumerate(tensors)]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(models, cuts)
def test_the_reference_reads_what_the_package_writes(tensors: samples.Named, cut: int) -> None:
    with samples.small_chunks(cut, 1), samples.only_contexts():
        data = samples.to_file(tensors, Encoding("context", one_offset=True))
    model = dc.load(data, framework="numpy")
    assert all(record.values and record.values.codec == layout.CODEC_CONTEXT for record in model.records if record.numel)
    assert by_reference(read_whole(data)) == samples.dense_values(tensors) == by_package(data)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(models, cuts, st.randoms(use_true_random=False))
def test_mutants_get_one_verdict(tensors: samples.Named, cut: int, chance: random.Random) -> None:
    with samples.small_chunks(cut, 1), samples.only_contexts():
        parsed = pickle.dumps(parse(samples.to_file(tensors, Encoding("context", one_offset=True))))
    mutant = restructure(parsed, chance, PARSED).pack()
    survives(mutant)
    assert agree(mutant), mutant.hex()
