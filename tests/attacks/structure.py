"""Mutants of a file's structure: one number, one record, one section, one table, with what depends on it made right, or not."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

from tests.attacks import contents, records
from tests.attacks.chances import Chance, Change, streams, table_numbers
from tests.attacks.parsed import Parsed

WEIGHED: dict[Change, int] = {
    records.number: 8, records.flags: 3, records.dtype: 6, records.shape: 5, records.parameter: 6, records.planes: 3,
    records.geometry: 5, records.rows: 4, records.tie: 2, records.same: 2, records.splice: 8, records.name: 3,
    contents.payload: 12, contents.length: 5, contents.words: 7, contents.elements: 6, contents.codes: 8,
    contents.metadata: 3, contents.block: 4, contents.head: 1,
}  # fmt: skip
CHANGES, WEIGHTS = list(WEIGHED), list(WEIGHED.values())


def restructure(pickled: bytes, chance: Chance, others: Sequence[bytes]) -> Parsed:
    """A mutant of a parsed file. Of most files few tensors are kept; three times in four the rest is made to fit."""
    file: Parsed = pickle.loads(pickled)
    _take(file, chance)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        chance.choices(CHANGES, WEIGHTS)[0](file, chance, others)
    if chance.random() < 0.85:
        for row in file.rows:
            row.fit()
    file.coded = chance.random() < 0.1
    return file


def _take(file: Parsed, chance: Chance) -> None:
    """Keep one to four tensors, those that a tie leads to and their tables among them."""
    if len(file.rows) < 3 or chance.random() < 0.1:
        return
    start, count = chance.randrange(len(file.rows)), chance.choice((1, 1, 2, 2, 3, 4))
    rows = file.rows[start : start + count]
    first = file.rows[0]
    rows[0].same = rows[0].same and rows[0] is first
    for row in list(rows):
        if row.tie is not None and not any(row.tie is other for other in rows):
            row.tie.same = False
            rows.insert(0, row.tie)
    file.rows = rows
    _drop_unused(file)


def _drop_unused(file: Parsed) -> None:
    """Keep the tables that are in use, or would be but for their number."""
    used = sorted({number for stream in streams(file) for number in table_numbers(stream) if number < len(file.tables)})
    for stream in streams(file):
        for place in stream.table_places():
            if stream.numbers[place] in used:
                stream.numbers[place] = used.index(stream.numbers[place])
    file.tables = [file.tables[number] for number in used]
