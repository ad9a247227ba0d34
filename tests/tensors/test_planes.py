"""Values cut into planes: every bit comes back, never at more bytes than they have as they are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import deepcompress as dc
from deepcompress.coding import pool
from deepcompress.coding.entropy import entropy
from deepcompress.container.layout import CODEC_PLANES, CODEC_RAW, DTYPES
from deepcompress.container.records import StreamRecord, TensorRecord
from deepcompress.tensors import cutting, encode
from deepcompress.tensors.accounting import representation
from deepcompress.tensors.compressed import DenseTensor
from deepcompress.tensors.cutting import plan_planes
from deepcompress.tensors.elements import Array, numpy_dtype
from deepcompress.tensors.planes import words_of
from deepcompress.tensors.streams import Encoding, Tables
from tests.tensors import samples

KINDS = [kind.name for kind in DTYPES]
REAL = {"float16": (5, 10), "bfloat16": (8, 7), "float32": (8, 23), "float64": (11, 52)}  # exponent, mantissa


def to_file(elements: Array, dtype: str, encoding: Encoding | None = None) -> bytes:
    return samples.to_file([("w", DenseTensor(elements, dtype, dtype))], encoding)


def stream_of(data: bytes) -> tuple[TensorRecord, StreamRecord]:
    (record,) = dc.load(data, framework="numpy").records
    assert record.values is not None
    return record, record.values


def comes_back(elements: Array, dtype: str) -> StreamRecord:
    data = to_file(elements, dtype)
    found = dc.load(data, framework="numpy")["w"]
    assert (found.dtype, found.shape, found.tobytes()) == (elements.dtype, elements.shape, elements.tobytes())
    assert found.flags.writeable
    return stream_of(data)[1]


def special(dtype: str, numbers: Sequence[int]) -> Array:
    """Words of zeros, of ones, of one bit, of all bits but one: zeros of either sign, infinities, NaNs, subnormals."""
    word = words_of(dtype).dtype
    bits = 8 * word.itemsize
    exponent = REAL.get(dtype, (bits // 2, 0))[0]
    infinity = (2**exponent - 1) << (bits - 1 - exponent)
    top = 1 << (bits - 1)
    patterns = [0, top, 1, top | 1, infinity, top | infinity, infinity | 1, top | infinity | 2, 2**bits - 1, infinity - 1]
    words = np.array([patterns[number % 10] for number in numbers], word)
    return (words & 1 if dtype == "bool" else words).view(numpy_dtype(dtype))


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(KINDS), st.lists(st.integers(0, 9), max_size=60), samples.cuts)
def test_special_values(dtype: str, numbers: list[int], cut: tuple[int, int]) -> None:
    with samples.small_chunks(*cut):
        comes_back(special(dtype, numbers + numbers), dtype)  # two words in each complex element


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(KINDS), samples.shapes, samples.seeds, samples.densities, samples.cuts)
def test_random_bits(dtype: str, shape: tuple[int, ...], seed: int, density: float, cut: tuple[int, int]) -> None:
    with samples.small_chunks(*cut):
        comes_back(samples.elements(dtype, shape, seed, density), dtype)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16, 32])
def test_weights_in_several_chunks_of_all_lanes(dtype: str, lanes: int) -> None:
    with samples.small_chunks(1_024, lanes):
        stream = comes_back(samples.weights(dtype, (7, 700), lanes), dtype)
    if lanes <= 8 or dtype == "bfloat16":  # the lengths of more lanes than that are not worth it in so short chunks
        assert (stream.codec, stream.geometry & 31) == (CODEC_PLANES, 10)


@pytest.mark.parametrize("dtype", KINDS)
def test_two_values(dtype: str) -> None:
    elements = samples.few(samples.weights(dtype, (3, 500), 1), 2)
    elements.reshape(-1)[:2] = samples.weights(dtype, (90,), 3)[[5, 71]]
    assert comes_back(elements, dtype).codec == CODEC_PLANES


@pytest.mark.parametrize("dtype", [kind for kind in KINDS if kind != "bool"])
def test_equal_values_take_no_bytes(dtype: str) -> None:
    words = np.full(600, 0xA55B, np.int64).astype(words_of(dtype).dtype)
    stream = comes_back(words.view(numpy_dtype(dtype)).reshape(-1, 30), dtype)
    assert (stream.codec, stream.length) == (CODEC_PLANES, 0)


@pytest.mark.parametrize("dtype", KINDS)
def test_nothing_and_one_element(dtype: str) -> None:
    for shape in ((0,), (3, 0), (), (1,)):
        assert comes_back(samples.weights(dtype, shape, 1), dtype).codec == CODEC_RAW


@pytest.mark.parametrize("dtype", [kind for kind in KINDS if kind != "bool"])
@pytest.mark.parametrize("lanes", [1, 2])
def test_sparse(dtype: str, lanes: int) -> None:
    """The nonzeros alone are cut, in chunks that are not those of the gaps."""
    elements = np.zeros(3_000, numpy_dtype(dtype))
    elements[::9] = samples.weights(dtype, (334,), 5)
    with samples.small_chunks(128, lanes):
        comes_back(elements, dtype)
        record, stream = stream_of(to_file(elements, dtype))
    assert (stream.codec, representation(record)) == (CODEC_PLANES, "gaps")
    assert record.sparse is not None
    assert (record.sparse.stream.geometry & 31, stream.geometry & 31) == (10, 7)


@settings(deadline=None, max_examples=300)
@given(samples.dense_tensors())
def test_never_larger_than_values_as_they_are(tensor: DenseTensor) -> None:
    with mock.patch.object(encode, "_LEAST_SAVED", 1 << 40):
        raw = samples.to_file([("w", tensor)])
    cut = samples.to_file([("w", tensor)])
    assert len(cut) <= len(raw)
    assert (stream_of(cut)[1].codec == CODEC_RAW) == (cut == raw)


@pytest.mark.parametrize("dtype", REAL)
def test_gaussian_weights_are_smaller_than_with_a_plane_of_exponents_alone(dtype: str) -> None:
    elements = samples.weights(dtype, (20_000,), 1)
    exponent, mantissa = REAL[dtype]
    words = elements.view(words_of(dtype).dtype)
    least = entropy(np.bincount(((words >> mantissa) & (2**exponent - 1)).astype(np.int64))) + mantissa + 1
    length = comes_back(elements, dtype).length
    with mock.patch.object(cutting, "_MANTISSA_BITS", 0):
        assert length < comes_back(elements, dtype).length < elements.nbytes
    assert 8 * length < least * len(words)


def test_noise_stays_as_it_is() -> None:
    noise = np.random.default_rng(1).integers(0, 2**32, 4_000, np.uint32)
    assert comes_back(noise, "uint32").codec == CODEC_RAW
    assert comes_back(noise.view(np.float32), "float32").codec == CODEC_RAW


def test_bits_that_are_packed_write_no_planes() -> None:
    data = to_file(samples.weights("float32", (500,), 1), "float32", Encoding("fixed"))
    assert stream_of(data)[1].codec == CODEC_RAW


def test_a_narrower_type_is_cut_too() -> None:
    halves = samples.weights("float16", (900,), 1)
    data = samples.to_file([("w", DenseTensor(halves, "float32", "float16"))])
    record, stream = stream_of(data)
    assert (record.stored, stream.codec) == ("float16", CODEC_PLANES)
    assert dc.load(data, framework="numpy")["w"].tobytes() == halves.astype(np.float32).tobytes()


@settings(deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 300), samples.seeds)
def test_planes_are_a_words_bits_from_the_top(dtype: str, count: int, seed: int) -> None:
    """None of them empty, no two plain ones side by side that could be one, none wider than it may be."""
    plan = plan_planes(samples.weights(dtype, (count,), seed), dtype, Tables(Encoding()))
    left = plan.words.bits
    for plane in plan.planes:
        assert plane.width >= 1
        assert plane.shift + plane.width == left
        assert plane.width <= (56 if plane.counts is None else 16)
        left = plane.shift
    assert left == 0
    plain = [plane.width if plane.counts is None and plane.constant is None else 57 for plane in plan.planes]
    assert all(a + b > 56 for a, b in pairwise(plain))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex128", "int64"])
def test_threads_change_nothing(dtype: str) -> None:
    elements = samples.weights(dtype, (600_001 if dtype == "bfloat16" else 280_001,), 1)
    files = []
    for threads in (1, 2, 5):
        with pool.limited(threads):
            files.append(to_file(elements, dtype))
            assert dc.load(files[0], framework="numpy")["w"].tobytes() == elements.tobytes()
    assert files[0] == files[1] == files[2]
    assert stream_of(files[0])[1].codec == CODEC_PLANES


def test_a_table_serves_several_tensors() -> None:
    """The second tensor's numbers are those of the first, and so is its code, which is counted once."""
    elements = samples.weights("bfloat16", (5_000,), 1)
    tensors: samples.Named = [
        (name, DenseTensor(part, "bfloat16", "bfloat16")) for name, part in (("a", elements), ("b", elements[::-1]))
    ]
    model = dc.load(samples.to_file(tensors), framework="numpy")
    assert [record.values.codec for record in model.records if record.values] == [CODEC_PLANES] * 2
    assert len(model._reader.directory.tables) == 1
    first, second = model.bits.tensors
    assert (first.code_lengths, second.code_lengths) == (0, 0)
    assert first.dense > second.dense
    assert [representation(record) for record in model.records] == ["planes", "planes"]
