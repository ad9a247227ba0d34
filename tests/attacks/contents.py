"""Mutations of what lies beside the records: sections, tables of code lengths, metadata, blocks, the head."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence

from tests.attacks.chances import NUMBERS, Chance, altered, some_row
from tests.attacks.parsed import Parsed


def payload(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    """Bits in one section."""
    if found := [(row, kind) for row in file.rows for kind, content in row.sections.items() if content]:
        row, kind = chance.choice(found)
        row.sections[kind] = altered(row.sections[kind], chance)


def length(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    """A section that is cut off, or goes on."""
    if (row := some_row(file, chance)) is None:
        return
    kind = chance.choice(("map", "gaps", "values", "values"))
    old, size = row.sections[kind], chance.choice((1, 1, 2, 4, 8, 64))
    more = chance.choice((bytes(size), b"\xff" * size, old[-size:]))
    row.sections[kind] = chance.choice((old[:-size], old[size:], old + more, more + old))
    row.values.length, row.gaps.length = len(row.sections["values"]), len(row.sections["gaps"])


def words(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    """The u32 that a section of chunks or lanes begins with: one changed, or so much of one given to another."""
    found = [(row, kind) for row in file.rows for kind in ("gaps", "values") if len(row.sections[kind]) >= 8]
    if not found:
        return payload(file, chance, _)
    row, kind = chance.choice(found)
    content = row.sections[kind]
    reach = min(len(content) // 4, 2 + (row.numel >> (row.values.geometry & 31)) * 2)
    table = list(struct.unpack_from(f"<{max(reach, 2)}I", content))
    first, second = chance.randrange(len(table)), chance.randrange(len(table))
    step = chance.choice((1, 1, 2, table[first]))
    table[first] = chance.choice((table[first] - step, table[first] + step, chance.choice(NUMBERS))) & 0xFFFFFFFF
    if chance.random() < 0.6:
        table[second] = table[second] + step & 0xFFFFFFFF
    row.sections[kind] = struct.pack(f"<{len(table)}I", *table) + content[4 * len(table) :]
    return None


def elements(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    """A centroid, a scale, an offset: another number, or two of them changed over."""
    found = [row for row in file.rows if row.sections["map"]]
    if not found:
        return payload(file, chance, _)
    row = chance.choice(found)
    size = row.type_of_elements().itemsize
    items = [row.sections["map"][at : at + size] for at in range(0, len(row.sections["map"]), size)]
    place, kind = chance.randrange(len(items)), chance.randrange(4)
    special = {2: "<e", 4: "<f", 8: "<d"}.get(size, "<f")
    if kind == 0:
        items[place], items[-1] = items[-1], items[place]
    elif kind == 1:
        items[place] = items[0]
    elif kind == 2:
        items[place] = struct.pack(special, chance.choice((0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, 6e-8)))
    else:
        word = int.from_bytes(items[place], "little") + chance.choice((-1, 1))
        items[place] = (word & (1 << 8 * size) - 1).to_bytes(size, "little")
    row.sections["map"] = b"".join(items)
    return None


def codes(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    """A table of code lengths: lengths changed over, one changed, a symbol split, more symbols or fewer; a table more or less."""
    if not file.tables:
        file.tables.append(tuple(chance.choice(((), (1,), (0, 1), (1, 1), (1, 2, 2), (2, 2, 2, 2)))))
        return
    place, kind = chance.randrange(len(file.tables)), chance.randrange(9)
    lengths = list(file.tables[place])
    used = [symbol for symbol, bits in enumerate(lengths) if bits]
    if kind <= 2 and used:
        first, second = chance.choice(used), chance.randrange(len(lengths))
        lengths[first], lengths[second] = lengths[second], lengths[first]
    elif kind == 3 and used:
        lengths[chance.choice(used)] = chance.randrange(22)
    elif kind == 4 and used:  # as complete as before
        symbol = chance.choice(used)
        lengths[symbol] = min(lengths[symbol] + 1, 20)
        lengths.append(lengths[symbol])
    elif kind == 5:
        lengths += [0] * chance.choice((1, 5, 200))
    elif kind == 6:
        lengths = lengths[:-1]
    elif kind == 7:
        file.tables.insert(place, file.tables[chance.randrange(len(file.tables))])
        return
    else:
        chance.shuffle(lengths)
    file.tables[place] = tuple(lengths)


def metadata(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    """A kind, a content, one more, one less."""
    kinds = (2, 2, 4, 4, 6, 6, 8, 10, 0, 3, 2**40)
    nested = json.dumps({"a": {"b": [1]}}).encode()
    contents = (b"{}", b'{"a":"b"}', b"[]", b"", b"\1\2", b"null", b'{"a":1e999}', b"\xff", nested)
    if not file.metadata or chance.random() < 0.4:
        file.metadata.append([chance.choice(kinds), chance.choice(contents)])
        return
    one = chance.choice(file.metadata)
    kind = chance.randrange(4)
    if kind == 0:
        file.metadata.remove(one)
    elif kind == 1:
        one[0] = chance.choice(kinds)
    else:
        one[1] = altered(one[1] if isinstance(one[1], bytes) else b"", chance) if kind == 2 else chance.choice(contents)


def block(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    """The content of a block before it is coded."""
    for row in file.rows:
        row.fit()
    which = chance.choice(("names", "records", "records"))
    file.altered[which] = altered(file.names() if which == "names" else file.records(), chance)


def head(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    place = chance.choice((0, 1, 1, 1, 2))
    file.head[place] = chance.choice((0, 1, 2, 3, 255)) if place else chance.choice((0, 1, 1, 2))
