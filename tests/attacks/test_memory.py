"""A few bytes that stand for millions of elements: reading them takes at most three times what they declare, and a little."""

from __future__ import annotations

import time

import numpy as np
import pytest
from torch import nn

import deepcompress as dc
from deepcompress.coding import pool
from deepcompress.coding.context import Levels, encode_levels
from deepcompress.container import layout
from deepcompress.errors import FormatError
from deepcompress.tensors.arena import Arena
from tests.attacks import memory
from tests.attacks.fuzz import FACTOR
from tests.reference.writer import (
    Entry,
    Parts,
    Raw,
    build,
    coded_plane,
    constant_plane,
    fixed,
    plain_plane,
    planes,
    raw_stream,
    shape,
    stream,
    table,
    u32,
    varint,
)

BYTES, SLACK = 12 << 20, 1 << 20  # declared; and what one block at a time may take
F32, F64, F16, BOOL, U8, C128 = 0, 1, 2, 12, 8, 14
HALF = BYTES // 2
ONE, SCALE = Raw(b"\0\x3c"), Raw(b"\0\x3c" + u32(0))


def dense(flags: int, dtype: int, numel: int, fields: bytes, values: bytes, *sections: bytes) -> Entry:
    return Entry("w", bytes([flags, dtype]) + shape(numel) + fields + values, list(sections))


def full(dtype: int, numel: int, values: bytes, *sections: bytes, flags: int = 4, fields: bytes = b"") -> Entry:
    """Sparse, and not one zero: gaps of no bits at all."""
    gaps = varint(numel) + b"\1" + varint(0) + stream(1, 0, fixed(0))
    *mapped, last = sections
    return dense(flags, dtype, numel, fields + gaps, values, *mapped, b"", last)


def nothing(width: int = 0, base: int = 1) -> bytes:
    return stream(1, 0, fixed(width, base))


CASES: dict[str, Entry] = {
    "raw": dense(0, U8, BYTES, b"", raw_stream(), Raw(bytes(BYTES))),
    "constant planes": dense(0, U8, BYTES, b"", stream(3, 0, planes(constant_plane(8, 7))), b""),
    "chunks of one word": dense(0, U8, BYTES, b"", stream(3, 0, planes(constant_plane(8, 7)), 0), b""),
    "plain planes": dense(0, F64, BYTES // 8, b"", stream(3, BYTES, planes(plain_plane(32), plain_plane(32))), bytes(BYTES)),
    "a coded plane": dense(0, U8, BYTES, b"", stream(3, BYTES // 8, planes(coded_plane(8, BYTES // 8))), bytes(BYTES // 8)),
    "bool": dense(0, BOOL, BYTES, b"", stream(3, 0, planes(constant_plane(8, 1))), b""),
    "stored narrower": dense(8, F64, BYTES // 8, bytes([F16]), stream(3, 0, planes(constant_plane(16, 7))), b""),
    "codebook": dense(1, F16, HALF, varint(1), nothing(), ONE, b""),
    "codebook, coded": dense(1, F16, HALF, varint(1), stream(2, HALF // 8, b"\0"), ONE, bytes(HALF // 8)),
    "affine": dense(2, F16, HALF, varint(0), nothing(), SCALE, b""),
    "affine, float32": dense(2, F32, HALF // 2, varint(0), nothing(), Raw(bytes(8)), b""),
    "sparse": full(U8, BYTES, stream(3, 0, planes(constant_plane(8, 7))), b""),
    "sparse, raw": full(U8, BYTES, raw_stream(), Raw(b"\1" * BYTES)),
    "sparse, complex": full(C128, BYTES // 16, stream(3, 0, planes(constant_plane(32, 7), constant_plane(32, 1))), b""),
    "sparse, codebook": full(F16, HALF, nothing(), ONE, b"", flags=5, fields=varint(1)),
    "sparse, affine": full(F16, HALF, nothing(), SCALE, b"", flags=6, fields=varint(0)),
}


@pytest.mark.parametrize("case", CASES)
def test_three_times_what_is_declared(case: str) -> None:
    data = build(Parts([CASES[case]], [table([1])]))
    declared = dc.open(data, framework="numpy").dense_bytes
    assert declared in (BYTES, BYTES // 16 * 16)
    model = dc.load(data, framework="numpy", max_bytes=declared)
    model.numpy()  # kernels are compiled
    assert memory.allocated(model.numpy) <= FACTOR * declared + SLACK


@pytest.mark.parametrize("numel", [2**46, 2**62])
def test_more_than_there_can_be_is_a_memory_error_or_refused_before(numel: int) -> None:
    """Four times so many bytes, of 60; `max_bytes` refuses what a caller does not expect."""
    entries = [Entry(name, dense(0, U8, numel, b"", stream(3, 0, planes(constant_plane(8, 7)))).record, [b""]) for name in "abcd"]
    model = dc.load(build(Parts(entries)))
    for read in (model.numpy, model.state_dict, model.verify, lambda: model.load_into(nn.Linear(2, 2))):
        with pytest.raises(MemoryError, match="Unable to allocate"):
            read()
    with pytest.raises(FormatError, match=f"^<bytes>: {4 * numel} bytes when decoded, at most 1000 are allowed$"):
        dc.load(build(Parts(entries)), max_bytes=1_000)


def test_three_times_what_is_declared_by_contexts() -> None:
    """A few hundred bytes, and one row so long that its counters would take more than its weights."""
    known, size = Levels(0, 1, 1, HALF), 1 << layout.MAX_CONTEXT_CHUNK_LOG2
    chunks = [encode_levels(np.ones(size, np.int32), known, start).tobytes() for start in range(0, HALF, size)]
    section = u32(*map(len, chunks)) + b"".join(chunks)
    values = stream(4, len(section), varint(0) + varint(1) + varint(0), layout.MAX_CONTEXT_CHUNK_LOG2)
    entry = dense(1, F16, HALF, varint(1), values, ONE, section)
    assert len(section) < 1_000
    model = dc.load(build(Parts([entry])), framework="numpy", max_bytes=BYTES)
    assert (model.numpy()["w"] == 1).all()
    with pool.limited(2):  # each thread has the levels of a chunk
        assert memory.allocated(model.numpy) <= FACTOR * BYTES + SLACK


def test_zeros_behind_the_end_are_not_read_for_long() -> None:
    """Sixteen questions for each level, and nothing in the file that answers them."""
    values = stream(4, 0, varint(0) + varint(1) + varint(0), layout.MAX_CONTEXT_CHUNK_LOG2)
    centroids = Raw(np.arange(1, 16, dtype=np.float16).tobytes())
    size = 1 << layout.MAX_CONTEXT_CHUNK_LOG2
    model = dc.load(build(Parts([dense(1, F16, size, varint(15), values, centroids, b"")])), framework="numpy")
    for _ in range(2):  # the second time, kernels are compiled
        begin = time.process_time()
        with pytest.raises(FormatError, match="they end early or late"):
            model.numpy()
    assert time.process_time() - begin < 0.1


def test_pages_that_tracemalloc_does_not_see_are_measured() -> None:
    def take() -> None:
        array = Arena(size).take(size, np.dtype(np.uint8))
        array[:] = 1

    size = 32 << 20
    assert memory.allocated(take) < size // 8
    assert memory.resident(take) > size // 2
    assert memory.allocated(lambda: np.zeros(size, np.uint8)) >= size
