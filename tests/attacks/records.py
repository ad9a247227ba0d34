"""Mutations of records: their fields, their order, where they lead."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence

from deepcompress.container import layout
from tests.attacks.chances import NUMBERS, Chance, altered, nudged, some_row, streams, table_numbers
from tests.attacks.parsed import Parsed, Row

WORDS = (b"", b"\0", b"..", b"a..b", b"a", b"a.weight", "é.ü".encode(), b"\xff", b"\xed\xa0\x80", b"x" * 300, b"\xc3", b"a\0b")


def number(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    """One field of one record."""
    if (row := some_row(file, chance)) is None:
        return
    fields = ["dtype"] if not row.flags & layout.FLOAT32 else []
    fields += ["sides"] * len(row.sides)
    fields += ["stored"] if row.flags & layout.OTHER_TYPE else []
    fields += [("sides", "size", "axis", "size")[row.value_map]] * 2
    fields += ["nonzeros", "gap_bits", "escapes"] * row.sparse
    field = chance.choice(fields)
    row.same = row.same and chance.random() < 0.1
    if row.compact and chance.random() < 0.2:
        field = chance.choice(("offset", "same_back"))
        row.same = field == "same_back"
    if field != "sides":
        setattr(row, field, nudged(getattr(row, field), chance))
    elif row.sides:
        place = chance.randrange(len(row.sides))
        row.sides[place] = nudged(row.sides[place], chance)


def flags(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    if (row := some_row(file, chance)) is None:
        return
    row.same = row.same and chance.random() < 0.1
    row.flags ^= chance.choice((1, 2, 4, 8, 16, 16, 32, 64, 128))
    if row.compact and row.value_map == layout.MAP_CONSTANT and not row.constant:
        row.constant = bytes(chance.randrange(2) for _ in range(row.type_of_elements().itemsize))
    if row.flags & layout.ONE_OFFSET and chance.random() < 0.8:
        file.head[2] |= layout.ONE_OFFSET_USED


def dtype(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    """Another dtype, or stored dtype: any, or one that is allowed."""
    if (row := some_row(file, chance)) is None:
        return
    row.same = False
    kind = chance.choice(layout.DTYPES)
    if row.value_map and chance.random() < 0.9:
        kind = layout.DTYPES[chance.randrange(4)]
    row.dtype = kind.code
    narrow = layout.NARROWER.get(kind.name, ())
    row.flags &= ~(layout.FLOAT32 | layout.OTHER_TYPE)
    if narrow and chance.random() < 0.5:
        row.flags |= layout.OTHER_TYPE
        row.stored = layout.DTYPE_OF_NAME[chance.choice(narrow)].code
    if row.values.codec == layout.CODEC_PLANES:
        _widen(row, chance)


def _widen(row: Row, chance: Chance) -> None:
    """Give the bits that a word has more, or less, to the last plain plane."""
    plain = [at for at, kind in row.values.planes() if kind == layout.PLANE_PLAIN]
    if plain and chance.random() < 0.9:
        others = sum(row.values.numbers[at] for at, _ in row.values.planes() if at != plain[-1])
        bits = 8 * row.type_of_elements().itemsize >> (13 <= row.type_of_elements().code <= 15)
        row.values.numbers[plain[-1]] = max(bits - others, 0)


def shape(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    """As many elements in another shape."""
    if (row := some_row(file, chance)) is None:
        return
    kind = chance.randrange(4)
    row.same = False
    if kind == 0:
        row.sides.insert(chance.randrange(len(row.sides) + 1), 1)
    elif kind == 1:
        chance.shuffle(row.sides)
    elif kind == 2 and row.numel < 2**63:
        row.sides = [row.numel]
    elif row.sides:
        place = chance.randrange(len(row.sides))
        side = row.sides[place]
        factor = next((f for f in chance.sample((2, 3, 5, 7), 4) if side % f == 0), 1)
        row.sides[place : place + 1] = [factor, side // factor]


def parameter(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    """A codec, or one of its parameters."""
    if not (found := streams(file)):
        return
    stream = chance.choice(found)
    kind = chance.randrange(8)
    if kind == 0:
        stream.codec = chance.choice((0, 1, 2, 3, 4, 29, nudged(stream.codec, chance)))
    elif kind == 1:
        stream.numbers = stream.numbers[:-1] if chance.random() < 0.5 else [*stream.numbers, chance.choice(NUMBERS)]
    elif kind == 2:
        stream.length = nudged(stream.length, chance)
    elif stream.numbers:
        place = chance.randrange(len(stream.numbers))
        stream.numbers[place] = nudged(stream.numbers[place], chance)


def planes(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    """One plane into two, two into one, plain into constant, and back."""
    cut = [row for row in file.rows if row.values.codec == layout.CODEC_PLANES and list(row.values.planes())]
    if not cut:
        return parameter(file, chance, _)
    stream = chance.choice(cut).values
    at, kind = chance.choice(list(stream.planes()))
    width = stream.numbers[at]
    if kind == layout.PLANE_CODED:
        stream.numbers[at] = nudged(width, chance)
    elif chance.random() < 0.5 and width > 1:
        first = chance.randrange(1, width)
        value = stream.numbers[at + 2 : at + 3] * (kind == layout.PLANE_CONSTANT)
        stream.numbers[0] += 1
        high, low = ([value[0] >> width - first], [value[0] & (1 << width - first) - 1]) if value else ([], [])
        stream.numbers[at : at + 2 + len(value)] = [first, kind, *high, width - first, kind, *low]
    elif kind == layout.PLANE_CONSTANT:
        stream.numbers[at : at + 3] = [width, layout.PLANE_PLAIN] if chance.random() < 0.5 else [width, 1, chance.choice(NUMBERS)]
    else:
        stream.numbers[at : at + 2] = [width, layout.PLANE_CONSTANT, chance.randrange(1 << min(width, 62))]
    return None


def geometry(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    """Chunks of another size for both streams of a tensor, or for one; other lanes."""
    if (row := some_row(file, chance)) is None:
        return
    kind = chance.randrange(4)
    if kind == 0:
        row.values.geometry ^= 1 << chance.randrange(8)
    elif kind == 1:
        row.gaps.geometry ^= 1 << chance.randrange(8)
    else:
        least = max(row.numel - 1, 0).bit_length()
        size = chance.randrange(32) if kind == 2 or least > 31 else chance.randrange(least, 32)
        for stream in (row.values, row.gaps):
            stream.geometry = stream.geometry & 0xE0 | size


# Records


def rows(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    """Two in each other's place, one twice, one away."""
    if (row := some_row(file, chance)) is None:
        return
    kind, place = chance.randrange(4), file.rows.index(row)
    if kind == 0:
        other = chance.randrange(len(file.rows))
        file.rows[place], file.rows[other] = file.rows[other], file.rows[place]
    elif kind == 1:
        del file.rows[place]
    else:
        twin = copy.copy(row)
        twin.sides, twin.sections = list(row.sides), dict(row.sections)
        twin.values, twin.gaps = copy.deepcopy(row.values), copy.deepcopy(row.gaps)
        twin.name = row.name + b"2" if kind == 2 or chance.random() < 0.8 else row.name
        file.rows.insert(chance.randrange(len(file.rows) + 1), twin)
        return
    if chance.random() < 0.9:
        for row in file.rows:
            row.same = False


def tie(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    """One more name of a tensor; or a tie that leads nowhere, or to a tie."""
    if (row := some_row(file, chance)) is None:
        return
    if chance.random() < 0.5:
        new = copy.copy(row)
        new.name, new.tie, new.same = row.name + b".tie", row, False
        file.rows.append(new)
    else:
        row.back = chance.choice((0, 1, 2, 3, len(file.rows), 2**63 - 1))


def same(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    """A record that is the one before: with a section of its own that fits, mostly."""
    if (row := some_row(file, chance)) is None:
        return
    new = copy.copy(row)
    new.name, new.same = row.name + b".same", True
    new.sections = dict(row.sections)
    plain = [row for row in file.rows if row.values.codec == layout.CODEC_RAW and not row.sparse and not row.value_map]
    if plain and chance.random() < 0.8:
        new = copy.copy(plain[-1])
        new.name, new.same, new.sections = plain[-1].name + b".same", True, dict(plain[-1].sections)
        row = plain[-1]
    file.rows.insert(file.rows.index(row) + 1, new)


def splice(file: Parsed, chance: Chance, others: Sequence[bytes]) -> None:
    """A tensor of another file, with its tables or without; or its section in place of one of ours."""
    other: Parsed = pickle.loads(chance.choice(others))
    given, row = chance.choice(other.rows), some_row(file, chance)
    if given.tie is not None:
        given = given.tie
    if row is not None and chance.random() < 0.5:
        kind = chance.choice(("map", "gaps", "values"))
        row.sections[kind] = given.sections[kind]
        if chance.random() < 0.5:
            setattr(row, kind if kind != "map" else "size", getattr(given, kind if kind != "map" else "size"))
        return
    given.same = False
    own = sorted({number for stream in (given.gaps, given.values) for number in table_numbers(stream)})
    for stream in (given.gaps, given.values):
        for place in stream.table_places():
            stream.numbers[place] = len(file.tables) + own.index(stream.numbers[place])
    if chance.random() < 0.9:
        file.tables += [other.tables[number] for number in own]
    if given.flags & layout.ONE_OFFSET:
        file.head[2] |= layout.ONE_OFFSET_USED
    given.name = b"other." + given.name
    file.rows.insert(chance.randrange(len(file.rows) + 1), given)


def name(file: Parsed, chance: Chance, _: Sequence[bytes]) -> None:
    if (row := some_row(file, chance)) is None:
        return
    kind = chance.randrange(4)
    row.name = (chance.choice(WORDS), altered(row.name, chance), row.name[:-1] + b".0", chance.choice(file.rows).name)[kind]
