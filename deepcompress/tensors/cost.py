"""Where each bit of a file goes, counted from the encoded sections and never from a formula."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from deepcompress.errors import ParameterError

__all__ = ["KINDS", "BitCount"]


@dataclass(frozen=True)
class BitCount:
    """Bits by purpose; over a whole file they sum to 8 x its size, exactly.

    Attributes:
        codewords: the indices of the weights, as codewords or fixed-width fields, the lengths of their lanes included.
        gaps: the positions of the nonzeros, the lengths of their lanes included.
        codebook: the centroids, or the scales and offsets of a grid.
        code_lengths: the code-length tables, from which the codes of indices and gaps are rebuilt.
        dense: tensors and values without a codebook, as they are or cut into planes, with the planes' tables.
        header: everything else: head, names, records, checksums, chunk tables, padding, trailer, metadata.

    Raises:
        ParameterError: a count is negative or no integer.
    """

    codewords: int = 0
    gaps: int = 0
    codebook: int = 0
    code_lengths: int = 0
    dense: int = 0
    header: int = 0

    def __post_init__(self) -> None:
        for name, value in self.as_dict().items():
            object.__setattr__(self, name, _count(name, value))  # numpy's integers become Python's: they never overflow

    @property
    def total(self) -> int:
        """All bits together."""
        return sum(self.as_dict().values())

    def __add__(self, other: BitCount) -> BitCount:
        if not isinstance(other, BitCount):
            return NotImplemented
        return BitCount(**{name: value + getattr(other, name) for name, value in self.as_dict().items()})

    @classmethod
    def sum(cls, counts: Iterable[BitCount]) -> BitCount:
        """The counts added up; of none, all zeros."""
        return sum(counts, cls())

    def as_dict(self) -> dict[str, int]:
        """`{kind: bits}` in the order of `KINDS`."""
        return asdict(self)


def _count(name: str, value: object) -> int:
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        count = -1
    if count < 0:
        raise ParameterError.of(name, "BitCount", "an integer of at least 0", value)
    return count


KINDS: tuple[str, ...] = tuple(field.name for field in fields(BitCount))
