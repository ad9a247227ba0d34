"""Symbols in a byte where an alphabet is larger, but those that occur are not: bytes are encoded in pairs, twice as fast."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding import kernels
from deepcompress.coding.bits import Symbols, sealed
from deepcompress.coding.huffman import HuffmanCode
from deepcompress.coding.lanes import HuffmanLanes

_BYTE = 256


@dataclass(frozen=True, eq=False)
class NarrowLanes(HuffmanLanes):
    """The code's codewords for symbols less `base`; 0 stands for `lowest` alone. Encodes only, and what was counted.

    The exponents of weights are neighbours, so that no table is needed to make bytes of them; that of zero lies far below.
    """

    base: int = 0
    lowest: int = 0

    @cached_property
    def entries(self) -> NDArray[np.uint32]:
        entries = np.zeros(_BYTE, np.uint32)
        words = self.code.codewords << np.uint32(kernels.LENGTH_BITS) | self.code.lengths
        near = words[self.base : self.base + _BYTE]
        entries[: len(near)] = near
        entries[0] = words[self.lowest]
        return sealed(entries)

    def _checked(self, symbols: Symbols) -> Symbols:
        return symbols


def narrowed(code: HuffmanCode, counts: NDArray[np.int64]) -> tuple[HuffmanLanes, int, int]:
    """A coder of symbols that occur `counts[s]` times, what `take_plane` is to take from them, and their alphabet then."""
    used = np.flatnonzero(counts)
    lowest, top = int(used[0]), int(used[-1])
    base = lowest if top - lowest < _BYTE or len(used) == 1 else int(used[1]) - 1
    if top - base < _BYTE:
        return NarrowLanes(code, base, lowest), base, _BYTE
    return HuffmanLanes(code), 0, len(counts)
