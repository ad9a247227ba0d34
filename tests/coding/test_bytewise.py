"""Bytes by context: there and back, short where bytes repeat, and one spelling for each content."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding.bytewise import decode_bytes, encode_bytes
from deepcompress.errors import FormatError
from tests.reference.coding import MalformedError
from tests.reference.compact import by_context

few = st.lists(st.sampled_from([0, 1, 2, 200]), max_size=60).map(bytes)
contents = st.binary(max_size=60) | few


@settings(deadline=None, max_examples=30)
@given(contents, few)
def test_there_and_back_as_the_reference_reads_it(content: bytes, before: bytes) -> None:
    data = encode_bytes(content, before)
    assert decode_bytes(data, len(content), before) == content
    assert by_context(data, len(content), before) == content


@settings(deadline=None, max_examples=30)
@given(st.binary(max_size=12), st.integers(0, 12))
def test_all_bytes_are_refused_or_are_what_is_written(data: bytes, count: int) -> None:
    try:
        content = decode_bytes(data, count)
    except FormatError:
        with pytest.raises(MalformedError):
            by_context(data, count, b"")
    else:
        assert encode_bytes(content) == data


@settings(deadline=None, max_examples=30)
@given(few.filter(bool))
def test_other_bytes_are_refused(content: bytes) -> None:
    data = encode_bytes(content)
    others = [data + b"\0", data + b"\1", *([data[:-1], data[:-1] + bytes([data[-1] ^ 1])] if data else [])]
    for other in others:
        try:
            assert encode_bytes(decode_bytes(other, len(content))) == other
        except FormatError as error:
            assert "bytes" in str(error)  # noqa: PT017


def test_what_repeats_is_short() -> None:
    assert len(encode_bytes(b"bn1.weight" * 60)) < 60
    assert len(encode_bytes(bytes(4_000))) < 12
    assert len(encode_bytes(b"conv1.bias", b"conv1.weight conv1.bias")) < len(encode_bytes(b"conv1.bias"))
    assert encode_bytes(b"") == b""
