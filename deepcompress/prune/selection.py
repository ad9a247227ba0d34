"""The lowest magnitudes of one tensor, or of many together, without sorting and without putting them together.

The bits of a float without its sign, as an integer, are ordered like the magnitude. So the threshold is found like a word in a
dictionary, 16 bits at a time: count how often each value of the upper bits occurs, see in which one the wanted rank lies, count
the next bits of the scores in there. Counts of chunks and of tensors add up, so threads share the work and a model is one line
of scores. float32 takes two passes that read, and one that writes the masks: less than the partial sort of one copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcompress.coding.jit import jit
from deepcompress.coding.pool import run, share
from deepcompress.prune.flat import Flat
from deepcompress.prune.importance import check_rankable

Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]

_DIGIT = 16  # bits that a pass decides: their counts, 512 KB, stay in a core's cache, and few of them are hot
_DIGIT_MASK = (1 << _DIGIT) - 1
_LEAST = 1 << 17  # scores that are worth a thread
_BITS: dict[Any, tuple[Any, int]] = {np.float32: (np.uint32, 0x7F80_0000), np.float64: (np.uint64, 0x7FF0 << 48)}  # infinity


def drop_lowest(scores: Mapping[str, Tensor], kept: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Drop the `count` lowest magnitudes of all tensors together.

    Args:
        scores: name -> any floating-point dtype and shape, without NaN; the sign is ignored.
        kept: name -> bool, the score's shape; what is False here was dropped earlier and is the first to go. It never
            returns, even where that makes more than `count`.
        count: 0 <= count <= n, of all n, dropped earlier or now.

    Returns:
        name -> bool, the score's shape, True = kept; on the mask's device. Among equal magnitudes the first go, in the
        order of `scores`, then by flat index.

    Raises:
        ModelError: a score is NaN.
    """
    line = _Line(scores, kept)
    counts = line.counts(0, line.shifts[0])  # also where nothing is to go: it looks for NaN
    drop = count - (line.flat.size - int(np.count_nonzero(line.stays)))
    if drop > 0:
        line.drop_below(*line.threshold(counts, drop))
    return line.masks()


def keep_from(scores: Tensor, kept: Tensor, threshold: float) -> Tensor:
    """Where |score| >= threshold, a number >= 0 that need not be one of the scores' type, and `kept` is True.

    Args:
        scores: any floating-point dtype and shape.
        kept: bool, the same shape.
    """
    line = _Line({"": scores}, {"": kept})
    with np.errstate(over="ignore"):
        lowest = line.flat.dtype(abs(threshold))  # -0.0 is 0
        if float(lowest) < threshold:  # rounded up, it keeps the same scores: none lie between
            lowest = np.nextafter(lowest, line.flat.dtype(np.inf))
    line.drop_below(int(lowest.view(line.integer)), 0)
    return line.masks()[""]


class _Line:
    """Scores in one line, and which of them stay."""

    def __init__(self, scores: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
        self.scores, self.kept = scores, kept
        self.flat = Flat(list(scores.values()))
        self.stays: Bools = np.empty(self.flat.size, np.bool_)
        for name, mask in self._parts().items():
            np.copyto(mask.numpy(), kept[name].cpu().numpy())  # torch would start threads of its own in each of the pool's
        self.integer, infinity = _BITS[self.flat.dtype]
        self.infinity = self.integer(infinity)
        self.unsigned = np.iinfo(self.integer).max >> self.integer(1)
        self.shifts = range(self.infinity.itemsize * 8 - _DIGIT, -1, -_DIGIT)

    def masks(self) -> dict[str, Tensor]:
        return {name: part.to(self.kept[name].device) for name, part in self._parts().items()}

    def counts(self, prefix: int, shift: int) -> Counts:
        """How often each value of the 16 bits above `shift` occurs among the scores that stay and have `prefix` above those."""

        def work(start: int, stop: int) -> tuple[Counts, int]:
            table = np.zeros(1 << _DIGIT, np.int64)
            wanted = self.integer(prefix), self.integer(shift)
            nans = sum(_count(*block, self.unsigned, self.infinity, *wanted, table) for block in self._blocks(start, stop))
            return table, nans

        parts = share(self.flat.size, work, _LEAST)
        if any(nans for _, nans in parts):
            for name, score in self.scores.items():
                check_rankable(name, score)
        return np.asarray(sum(table for table, _ in parts))

    def threshold(self, counts: Counts, drop: int) -> tuple[int, int]:
        """The bits of the `drop`-th lowest magnitude, and how many of those equal to it are among the `drop` lowest."""
        prefix, rank = 0, drop - 1
        for shift in self.shifts:
            if shift != self.shifts[0]:
                counts = self.counts(prefix, shift)
            up_to = np.cumsum(counts)
            digit = int(np.searchsorted(up_to, rank, side="right"))
            rank -= int(up_to[digit] - counts[digit])
            prefix = prefix << _DIGIT | digit
        return prefix, rank + 1

    def drop_below(self, threshold: int, ties: int) -> None:
        """Drop the magnitudes whose bits are below the threshold's, and the first `ties` of those equal to it."""
        lowest = self.integer(threshold)

        def below(start: int, stop: int) -> tuple[int, int, int]:
            return start, stop, sum(_drop_below(*block, self.unsigned, lowest) for block in self._blocks(start, stop))

        def tied(start: int, stop: int, count: int) -> None:
            for block in self._blocks(start, stop if count else start):
                count -= _drop_equal(*block, self.unsigned, lowest, count)

        tasks = []
        for start, stop, equal in share(self.flat.size, below, _LEAST):
            tasks.append(partial(tied, start, stop, min(ties, equal)))
            ties -= min(ties, equal)
        run(tasks)

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[NDArray[Any], Bools]]:
        """The scores' bits, and which of them stay."""
        for at, block in self.flat.blocks(start, stop):
            yield block.view(self.integer), self.stays[at : at + block.size]

    def _parts(self) -> dict[str, Tensor]:
        """The line of what stays, cut into the tensors' shapes."""
        parts = torch.from_numpy(self.stays).split([score.numel() for score in self.scores.values()])
        return {name: part.view(self.scores[name].shape) for name, part in zip(self.scores, parts, strict=True)}


@jit
def _count(bits: Any, stays: Bools, unsigned: Any, infinity: Any, prefix: Any, shift: Any, counts: Counts) -> int:
    """Adds to `counts`; returns how many scores are NaN, whose bits lie above infinity's."""
    nans = 0
    for place in range(len(bits)):
        magnitude = bits[place] & unsigned
        nans += magnitude > infinity
        upper = magnitude >> shift
        if stays[place] and upper >> _DIGIT == prefix:
            counts[upper & _DIGIT_MASK] += 1
    return nans


@jit
def _drop_below(bits: Any, stays: Bools, unsigned: Any, lowest: Any) -> int:
    """Returns how many of those that stay are equal to `lowest`."""
    equal = 0
    for place in range(len(bits)):
        magnitude = bits[place] & unsigned
        equal += stays[place] & (magnitude == lowest)
        stays[place] &= magnitude >= lowest
    return equal


@jit
def _drop_equal(bits: Any, stays: Bools, unsigned: Any, value: Any, count: int) -> int:
    """Drops the first `count` that are equal to `value`; returns how many those were here."""
    found = 0
    for place in range(len(bits)):
        if found == count:
            break
        if stays[place] and bits[place] & unsigned == value:
            stays[place] = False
            found += 1
    return found
