"""Levels of a weight tensor, coded bit by bit: rows, columns and neighbours foresee them, and learn from what they meet.

A level is a whole number around zero, most of them 0. It is said in yes-or-no questions: is it other than zero? is it above? is
it farther from zero than 1, than 2, ...? For each question several small contexts, such as "the weights left and above" or "how
dense is this column so far", each hold a chance of yes, learned while coding. Their chances are mixed in the logistic domain,
with weights that are learned along, and the mixture drives a binary arithmetic coder. Nobody writes tables: the reader learns
what the writer did.

All arithmetic is in whole numbers, so that every machine gets the same chances. What a chunk learns is forgotten at its end.

Source: Mahoney. Adaptive weighing of context models for lossless data compression. 2005 (mixing); Said. Introduction to
arithmetic coding. 2004; contexts from neighbours: Wiedemann et al. DeepCABAC. 2020. arXiv:1907.11900.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.bits import sealed
from deepcompress.coding.context_kernels import ABOVE, code_levels
from deepcompress.errors import FormatError, ParameterError

__all__ = ["Levels", "decode_levels", "encode_levels"]

MAX_LEVEL = 65_535
_NOTHING = sealed(np.empty(0, np.uint8))
_BYTES_A_LEVEL = 48  # no level takes more: 2 questions, 14 of its size, 2 x 17 of the rest, at most 11 bits each


class Levels(NamedTuple):
    """What reader and writer know of the levels before the first of them.

    Attributes:
        lowest, highest: -lowest to highest are the levels that can stand here.
        chance: of a level that is not zero, in 4,096ths, from 1 to 4,095; where learning begins.
        columns: levels in a row, at least 1: those of an output unit or filter.
        kernel: levels of one kernel within a row, at least 1; those of one row of the kernel.
        kernel_row: levels in one row of the kernel, at least 1.
        lag: distance to a second neighbour in a row without kernels, such as the width of an image; 0 for none.
    """

    lowest: int
    highest: int
    chance: int
    columns: int
    kernel: int = 1
    kernel_row: int = 1
    lag: int = 0


def encode_levels(levels: NDArray[np.int32], known: Levels, start: int = 0) -> NDArray[np.uint8]:
    """The bytes of a chunk.

    Args:
        levels: (n,) in row-major order.
        known: what the reader knows as well.
        start: how many levels of the tensor come before the chunk.

    Raises:
        ParameterError: a level outside of `lowest` to `highest`.
    """
    levels = np.ascontiguousarray(levels, np.int32)
    if len(levels) and not (-known.lowest <= levels.min() and levels.max() <= known.highest):
        expected = f"from {-known.lowest} to {known.highest}"
        raise ParameterError.of("levels", "encode_levels", expected, f"{levels.min()} to {levels.max()}")
    out = np.empty(_BYTES_A_LEVEL * len(levels) + 8, np.uint8)
    used = code_levels(levels, _NOTHING, out, np.array(known, np.int64), start, False)
    return out[:used].copy()


def decode_levels(data: NDArray[np.uint8], known: Levels, levels: NDArray[np.int32], start: int = 0) -> None:
    """Read a chunk into `levels`, (n,) int32.

    Raises:
        FormatError: the bytes are not those that `encode_levels` makes of any levels.
    """
    data = sealed(data)
    used = code_levels(levels, data, np.empty(0, np.uint8), np.array(known, np.int64), start, True)
    if used != len(data):
        what = "a level is above the largest that can stand here" if used == ABOVE else "they end early or late"
        raise FormatError(f"{len(data)} bytes of levels: {what if used < 0 else f'{used} bytes would say the same'}")
