"""FORMAT.md's examples are what both readers read."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

import deepcompress as dc
from tests.reference.context import Coder, Mixer
from tests.reference.decoder import read_whole
from tests.reference.writer import Entry, Parts, Raw, build, shape, table

TEXT = (Path(__file__).parent.parent.parent / "FORMAT.md").read_text(encoding="utf-8")
FILE, REST = TEXT.split("\n## Example\n")[1].split("\nValues cut into planes:")
PLANES, LEVELS = REST.split("\nSymbols by context:")


def cells(part: str) -> bytes:
    """The bytes of a table's rows, one behind the other."""
    return bytes.fromhex("".join(re.findall(r"^\|(?: \d+ \|)? `([0-9A-F ]+)` \|", part, re.MULTILINE)))


def dump() -> bytes:
    return bytes.fromhex("".join(re.findall(r"^[0-9a-f]{4}  (.*)$", FILE, re.MULTILINE)))


def test_the_file_is_what_its_table_says() -> None:
    assert len(dump()) == int(re.findall(r"A file of (\d+) bytes", FILE)[0])
    assert cells(FILE) == dump()
    places = [(int(at), len(bytes.fromhex(cell))) for at, cell in re.findall(r"^\| (\d+) \| `(.*?)`", FILE, re.MULTILINE)]
    assert [at for at, _ in places] == [sum(size for _, size in places[:i]) for i in range(len(places))]


def test_both_read_the_file() -> None:
    weight = [0, 1.5, 0, 0, 0, 0, 0, 0, 0, 0, -0.5, 0, 0, 0, 0, 1.5, 0, 0, 0, 0, 0, 0, 0, 0]
    model, file = dc.load(dump(), framework="numpy"), read_whole(dump())
    assert file.version == (1, 1)
    for name, sides, values in (("fc.weight", (4, 6), weight), ("fc.bias", (2,), [1.0, -2.0])):
        assert (model[name].shape, model[name].ravel().tolist()) == (sides, values)
        assert (file.tensors[name].shape, file.tensors[name].data) == (sides, struct.pack(f"<{len(values)}f", *values))


def test_both_read_the_planes() -> None:
    content = cells(PLANES)
    stream, section = content[:-5], content[-5:]
    data = build(Parts([Entry("p", bytes([0, 3]) + shape(4) + stream, [section])], [table([1, 1])]))
    expected = struct.pack("<4H", *(int(word, 16) for word in re.findall(r"`([0-9A-F]{4})`", PLANES)[:4]))
    assert read_whole(data).tensors["p"].data == dc.load(data, framework="numpy")["p"].tobytes() == expected


def test_both_read_the_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the questions, their contexts, chances and answers, and the coder's range are those of the table."""
    asked: list[list[str]] = []
    ask, narrow = Mixer.ask, Coder.narrow

    def asks(mixer: Mixer, coder: Coder, contexts: Sequence[int], which: int = 0) -> int:
        asked.append([" ".join(map(str, contexts))])
        return ask(mixer, coder, contexts, which)

    def narrows(coder: Coder, chance: int, *, yes: bool) -> int:
        answer = narrow(coder, chance, yes=yes)
        asked[-1] += [f"{chance:,}", "yes" if yes else "no", f"{coder.low:08X}", f"{coder.high:08X}"]
        return answer

    content = cells(LEVELS)
    stream, section = content[:-2], content[-2:]
    record = bytes([1, 0]) + shape(2, 3) + b"\3" + stream
    data = build(Parts([Entry("w", record, [Raw(struct.pack("<3f", -2.0, -1.0, 1.0)), section])]))
    expected = struct.pack("<6f", 0, 1, 0, 0, 1, -2)
    assert dc.load(data, framework="numpy")["w"].tobytes() == expected
    monkeypatch.setattr(Mixer, "ask", asks)
    monkeypatch.setattr(Coder, "narrow", narrows)
    assert read_whole(data).tensors["w"].data == expected
    rows = re.findall(r"^\|[^|]*\|[^|]*\? \| ([\d ]+) \| ([\d,]+) \| (\w+).*? \| `(\w+)` \| `(\w+)` \|$", LEVELS, re.MULTILINE)
    assert asked == [list(row) for row in rows]
