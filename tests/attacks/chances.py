"""What mutations are made of: numbers and bytes, changed a little or a lot, and the parts that they find."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tests.attacks.parsed import Parsed, Row, Stream

NUMBERS = (0, 1, 2, 3, 15, 64, 127, 128, 255, 256, 2**16 - 1, 2**16, 2**20, 2**31, 2**32 - 1, 2**32, 2**40, 2**61, 2**63 - 1)
Chance = random.Random
Change = Callable[[Parsed, Chance, Sequence[bytes]], None]  # in place; may take parts of other files, which come pickled


def altered(data: bytes, chance: Chance) -> bytes:
    """A bit, a byte, or a few bytes changed."""
    out = bytearray(data or b"\0")
    place = chance.randrange(len(out))
    kind = chance.randrange(4)
    if kind == 0:
        out[place] ^= 1 << chance.randrange(8)
    elif kind == 1:
        out[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    elif kind == 2:
        length = chance.randrange(1, 9)
        out[place : place + length] = chance.randbytes(min(length, len(out) - place))
    else:
        other = chance.randrange(len(out))
        out[place], out[other] = out[other], out[place]
    return bytes(out)


def nudged(number: int, chance: Chance) -> int:
    """Another number, close to it or far off; never negative, below 2**63."""
    kind = chance.randrange(6)
    if kind == 0:
        return chance.choice(NUMBERS)
    if kind == 1:
        return min(number * 2 + chance.randrange(2), 2**63 - 1) if chance.random() < 0.5 else number // 2
    return min(max(number + chance.choice((-8, -3, -2, -1, 1, 2, 3, 8)), 0), 2**63 - 1)


def streams(file: Parsed) -> list[Stream]:
    return [stream for row in file.rows if row.tie is None for stream in (row.gaps, row.values) if stream.codec]


def table_numbers(stream: Stream) -> list[int]:
    return [stream.numbers[place] for place in stream.table_places() if place < len(stream.numbers)]


def some_row(file: Parsed, chance: Chance) -> Row | None:
    return chance.choice(file.rows) if file.rows else None
