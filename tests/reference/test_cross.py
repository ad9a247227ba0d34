"""The package and the reference decoder read the same content from the same file, and each other's files."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import deepcompress as dc
from deepcompress.errors import FormatError, UnsupportedError
from deepcompress.tensors.build import Extras
from deepcompress.tensors.encode import AnyTensor
from deepcompress.tensors.streams import Encoding
from tests.reference.decoder import File, MalformedError, read, read_whole
from tests.reference.writer import Entry, Parts, Raw, build, coded, fixed, huffman, pack, plain, raw_stream, shape, stream, varint
from tests.reference.writer import table as code_table
from tests.tensors import samples


def by_package(data: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    model = dc.load(data)
    kinds = {record.name: record.dtype for record in model.records}
    return {name: (kinds[name], array.shape, array.tobytes()) for name, array in model.numpy().items()}


def by_reference(file: File) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (tensor.dtype, tensor.shape, tensor.data) for name, tensor in file.tensors.items()}


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(samples.models(), samples.encodings, samples.cuts)
def test_the_reference_reads_what_the_package_writes(tensors: samples.Named, encoding: Encoding, cut: tuple[int, int]) -> None:
    extras = Extras({"ключ": "value"}, {"stages": [1.5, None]}, {"a": 2})
    with samples.small_chunks(*cut):
        data = samples.to_file(tensors, encoding, extras)
    file = read_whole(data)
    assert by_reference(file) == samples.dense_values(tensors) == by_package(data)
    assert {name: tensor.tie for name, tensor in file.tensors.items() if tensor.tie} == dc.load(data).ties
    assert file.metadata[2] == '{"ключ":"value"}'.encode()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(samples.shared_tensors(), samples.affine_tensors()), st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_every_lanes_count(tensor: AnyTensor, lanes: int) -> None:
    with samples.small_chunks(16, lanes):
        data = samples.to_file([("w", tensor)])
    assert by_reference(read_whole(data)) == by_package(data)


def f32s(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def shared(symbols: Sequence[int], lengths: Sequence[int], g: int) -> Entry:
    section = pack(huffman(symbols, lengths))
    record = bytes([1, 0]) + shape(len(symbols)) + varint(3) + stream(2, len(section), varint(0), g)
    return Entry("w", record, [Raw(f32s(-1.5, 0.25, 2.0)), section])


def packed_sparse(gaps: bytes, values: bytes, *, value_g: int) -> Entry:
    record = bytes([5, 0]) + shape(9) + varint(3) + varint(2) + b"\2" + varint(0)
    record += stream(1, len(gaps), fixed(2)) + stream(1, len(values), fixed(2), value_g)
    return Entry("s", record, [Raw(f32s(-1.5, 0.25, 2.0)), gaps, values])


def sparse_affine() -> Entry:
    record = bytes([6, 0]) + shape(2, 3) + varint(1) + varint(2) + b"\2" + varint(0)
    record += stream(1, 1, fixed(2)) + stream(1, 1, fixed(2))
    parameters = f32s(0.1, 10.0) + struct.pack("<2i", -(2**31), 2**31 - 1)
    return Entry("a", record, [Raw(parameters), b"\x09", b"\x0e"])


def one_offset() -> Entry:
    record = bytes([0x26, 0]) + shape(2, 3) + varint(2) + varint(2) + b"\2" + varint(0)
    record += stream(1, 1, fixed(2)) + stream(1, 1, fixed(2))
    return Entry("o", record, [Raw(f32s(0.1, 10.0, -3.0) + struct.pack("<i", 2)), b"\x09", b"\x0e"])


@pytest.mark.parametrize(
    "parts",
    [
        Parts([]),
        Parts([Entry("b", bytes([0, 0]) + shape(1) + raw_stream(), [Raw(b"\0\0\x80?")])]),
        Parts([shared([0, 1, 2, 3, 0, 0], [1, 2, 3, 3], 31)], [code_table([1, 2, 3, 3])]),
        Parts([shared([1, 1, 1], [0, 1], 20)], [code_table([0, 1])]),
        Parts([packed_sparse(b"\x09", b"\x0e", value_g=31)]),
        Parts([Entry("x", bytes([0, 8]) + shape(5000) + raw_stream(), [Raw(bytes(range(250)) * 20)])] * 1),
        Parts([sparse_affine()]),
        Parts([one_offset()], head=b"\xdcDCZ\1\2\1\0"),
        Parts([sparse_affine()], head=b"\xdcDCZ\1\2\1\0"),
        Parts([], names=coded(b"", [])),
        Parts([], metadata=[(98, plain(b"?")), (100, coded(b"\0\0\0\0\1", [1, 1]))]),
        Parts([], head=b"\xdcDCZ\1\x63\0\0"),
    ],
)
def test_the_package_reads_what_the_reference_writes(parts: Parts) -> None:
    data = build(parts)
    assert by_package(data) == by_reference(read_whole(data))


@pytest.mark.parametrize(
    "entry",
    [
        packed_sparse(b"\x09", b"\x0e", value_g=30),
        packed_sparse(b"\x0d", b"\x0e", value_g=31),
        shared([0, 1, 2, 3], [1, 2, 3, 3], 31),  # without its table
    ],
)
def test_both_refuse_the_tensor_and_keep_the_others(entry: Entry) -> None:
    other = Entry("other", bytes([0, 0]) + shape(1) + raw_stream(), [Raw(b"\0\0\x80?")])
    data = build(Parts([entry, other]))
    assert set(read(data).malformed) == {entry.name}
    model = dc.load(data, framework="numpy")
    assert model["other"].tolist() == [1.0]
    with pytest.raises(FormatError, match=repr(entry.name)):
        model[entry.name]


def test_both_fail_an_unknown_codec_by_name() -> None:
    unknown = Entry("u", bytes([0, 0]) + shape(9) + stream(29, 3, b"???", 31, 7), [b"abc"])
    other = Entry("other", bytes([0, 0]) + shape(1) + raw_stream(), [Raw(b"\0\0\x80?")])
    data = build(Parts([unknown, other, Entry("t", b"\x80\2")]))
    assert set(read(data).failed) == {"u", "t"}
    model = dc.load(data, framework="numpy")
    assert model["other"].tolist() == [1.0]
    for name in ("u", "t"):
        with pytest.raises(UnsupportedError, match="'u', values: codec 29 is unknown"):
            model[name]


def test_both_refuse_a_critical_section() -> None:
    data = build(Parts([], metadata=[(7, plain(b""))]))
    with pytest.raises(MalformedError):
        read(data)
    with pytest.raises(dc.VersionError, match="critical metadata section of kind 7"):
        dc.open(data)
