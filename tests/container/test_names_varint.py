"""Names, varints, the cursor, blocks and versions: round trips, and every way in which they end too early or too late."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcompress.container import layout
from deepcompress.container.block import pack_block, unpack_block
from deepcompress.container.layout import check_name
from deepcompress.container.names import pack_names, unpack_names
from deepcompress.container.varint import Cursor, varint
from deepcompress.container.versions import module_paths, pack_versions, paths_around, unpack_versions
from deepcompress.errors import FormatError

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9).filter(lambda name: check_name(name) is None)
dotted = st.lists(st.sampled_from(["layer1", "conv", "bn1", "weight", "bias", "ünï", "0"]), min_size=1, max_size=4).map(".".join)


@given(st.integers(0, 2**63 - 1))
def test_varints(value: int) -> None:
    cursor = Cursor(varint(value), "here")
    assert cursor.varint() == value
    assert len(cursor.data) == max(-(-value.bit_length() // 7), 1)
    cursor.finish()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "here, byte 0: 1 bytes are needed, 0 are left"),
        (b"\x80", "here, byte 1: 1 bytes are needed, 0 are left"),
        (b"\x80\0", "here, byte 2: a varint has a leading zero"),
        (b"\xff" * 9, "here, byte 9: a varint is longer than 9 bytes"),
    ],
)
def test_bad_varints(data: bytes, text: str) -> None:
    with pytest.raises(FormatError) as caught:
        Cursor(data, "here").varint()
    assert str(caught.value) == text


def test_cursor() -> None:
    cursor = Cursor(b"abcd", "here")
    assert (cursor.byte(), cursor.take(2), cursor.left) == (97, b"bc", 1)
    with pytest.raises(FormatError, match="here, byte 3: 2 bytes are needed, 1 are left"):
        cursor.take(2)
    with pytest.raises(FormatError, match="here, byte 3: 1 bytes are left over"):
        cursor.finish()


@given(st.lists(st.one_of(names, dotted), unique=True, max_size=20))
def test_names(listed: list[str]) -> None:
    assert unpack_names(pack_names(listed), len(listed)) == listed


def test_names_repeat_their_tails() -> None:
    listed = [f"layer{i}.{j}.bn{k}.{leaf}" for i in range(3) for j in range(3) for k in (1, 2) for leaf in ("weight", "bias")]
    assert len(pack_block(pack_names(listed))) < 4 * len(listed)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is empty"),
        ("a\0", "holds a NUL"),
        ("a..b", "holds '..'"),
        ("\ud800", "has no UTF-8 form"),
        ("ü" * 32_768, "is longer than 65535 bytes"),
        ("ü" * 32_767, None),
        (".a.", None),
    ],
)
def test_check_name(name: str, problem: str | None) -> None:
    assert check_name(name) == problem


def test_names_are_limited_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepcompress.container.names.MAX_ALL_NAMES_BYTES", 5)
    assert unpack_names(pack_names(["abc", "ab"]), 2) == ["abc", "ab"]
    with pytest.raises(FormatError, match="names, byte 10: the names have more than 5 bytes together"):
        unpack_names(pack_names(["abc", "abd"]), 2)


@given(st.binary(max_size=300), st.integers(1, 256), st.booleans(), st.binary(max_size=9))
def test_blocks(data: bytes, symbols: int, compact: bool, before: bytes) -> None:
    content = bytes(byte % symbols for byte in data)
    packed = pack_block(content, compact=compact, before=before)
    assert len(packed) <= len(content) + 2
    cursor = Cursor(packed + b"rest", "here")
    assert unpack_block(cursor, compact=compact, before=before) == content
    assert cursor.left == 4


def test_a_block_is_coded_where_that_is_smaller() -> None:
    content = bytes(random.Random(1).choices([0, 1, 2, 200], [70, 20, 9, 1], k=1_000))
    packed = pack_block(content)
    assert packed[0] & 1
    assert len(packed) < 250
    for stop in range(len(packed)):
        with pytest.raises(FormatError, match=r"^here, byte"):
            unpack_block(Cursor(packed[:stop], "here"))


@given(st.lists(dotted, unique=True, max_size=8), st.data())
def test_versions(listed: list[str], data: st.DataObject) -> None:
    paths = module_paths(listed)
    assert len(set(paths)) == len(paths)
    versions = {path: data.draw(st.integers(1, 300)) for path in paths if data.draw(st.booleans())}
    packed = pack_versions(versions | {"elsewhere": 3}, paths)
    assert unpack_versions(packed, paths) == versions
    with pytest.raises(FormatError, match="module versions, byte"):
        unpack_versions(packed + b"\1", paths)


@given(st.lists(dotted, unique=True, max_size=8))
def test_paths_around(listed: list[str]) -> None:
    holders = module_paths(listed)
    around = paths_around(listed)
    parts = [path.split(".") for path in holders if path]
    expected = [".".join(each[:end]) for each in parts for end in range(len(each))]
    assert around == [path for path in dict.fromkeys(expected) if path not in holders]


def test_a_name_of_dots_has_no_paths_around() -> None:
    """It would have 30,000, of a gibibyte together."""
    begin = time.process_time()
    assert paths_around([f"{i}" + ".a" * 32_000 for i in range(100)]) == []
    assert time.process_time() - begin < 2.0


def test_every_dtype_has_one_code_and_one_name() -> None:
    assert [kind.code for kind in layout.DTYPES] == list(range(22))
    assert len(layout.DTYPE_OF_NAME) == len(layout.DTYPES)


def test_one_byte_stands_for_a_word_that_names_end_with() -> None:
    names = ["conv1.weight", "bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked", "relative_bias_table"]
    packed = pack_names(names)
    assert packed.startswith(b"\0\0\x07conv1.\xf8")
    assert unpack_names(packed, len(names)) == names


@pytest.mark.parametrize("byte", [b"\xfd", b"\xfe", b"\xff"])
def test_bytes_that_stand_for_nothing_are_refused(byte: bytes) -> None:
    with pytest.raises(FormatError, match="not UTF-8"):
        unpack_names(b"\0\0\1" + byte, 1)
