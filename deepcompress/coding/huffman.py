"""Canonical Huffman codes of bounded length: the lengths are the whole code."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepcompress.errors import FormatError, ParameterError

MAX_CODE_LENGTH = 20
DEFAULT_MAX_CODE_LENGTH = 12
MAX_ALPHABET = 65_537  # 16-bit indices and the zero symbol
_MAX_TOTAL = 1 << 58  # symbols; so many times 20 bits still fit 63 bits

Counts = NDArray[np.int64]
Lengths = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class HuffmanCode:
    """A prefix code in canonical form (RFC 1951, 3.2.2), complete in the sense that every run of bits decodes.

    Codewords count up from 0, shorter before longer and within a length by symbol; a codeword goes into the bit string most
    significant bit first. A single symbol has the codeword 0, so that its occurrences can be counted.

    Attributes:
        lengths: (alphabet,) bits of each symbol's codeword, 0 for a symbol that does not occur; not writable.

    Raises:
        FormatError: lengths above 20, more than 65,537 of them, or lengths that do not make a complete code.
    """

    lengths: Lengths

    def __post_init__(self) -> None:
        lengths = np.array(_checked_lengths(np.asarray(self.lengths)), np.uint8)
        _check_complete(lengths[lengths > 0])
        lengths.flags.writeable = False
        object.__setattr__(self, "lengths", lengths)

    @classmethod
    def from_lengths(cls, lengths: ArrayLike) -> HuffmanCode:
        """The code with these lengths, (alphabet,) integers, if there is one.

        Raises:
            FormatError: as the class does.
        """
        return cls(np.asarray(lengths))

    @classmethod
    def from_counts(cls, counts: NDArray[Any], max_length: int = DEFAULT_MAX_CODE_LENGTH) -> HuffmanCode:
        """The code of fewest bits for symbols that occur `counts[s]` times, among those of at most `max_length` bits.

        Among equally frequent symbols the later ones get the longer codewords, on every machine.

        Args:
            counts: (alphabet,) integers >= 0, at most 65,537 of them; a symbol that does not occur gets no codeword.
            max_length: 1 to 20 bits; taken as ceil(log2(symbols that occur)) where that is more.

        Raises:
            ParameterError: counts or limit out of range.

        Source: Larmore, Hirschberg. A fast algorithm for optimal length-limited Huffman codes. JACM 37(3), 1990.
        """
        if isinstance(max_length, bool) or not 1 <= max_length <= MAX_CODE_LENGTH:
            raise ParameterError.of("max_length", "HuffmanCode.from_counts", f"an int from 1 to {MAX_CODE_LENGTH}", max_length)
        counts = _checked_counts(counts, "HuffmanCode.from_counts")
        used = np.flatnonzero(counts)[::-1]
        rare_first = used[np.argsort(counts[used], kind="stable")]
        lengths = np.zeros(len(counts), np.uint8)
        limit = max(max_length, (len(used) - 1).bit_length())
        if len(used) > 1:
            from deepcompress.coding.merge import package_merge  # compiled, which a reader does without

            lengths[rare_first] = package_merge(counts[rare_first], limit)
        else:
            lengths[used] = 1
        return cls(lengths)

    @property
    def alphabet(self) -> int:
        """Symbols are below this number, whether or not they occur."""
        return len(self.lengths)

    @cached_property
    def max_length(self) -> int:
        """Bits of the longest codeword, 0 where no symbol occurs."""
        return int(self.lengths.max(initial=0))

    @cached_property
    def min_length(self) -> int:
        """Bits of the shortest codeword, 0 where no symbol occurs."""
        used = self.lengths[self.lengths > 0]
        return int(used.min()) if len(used) else 0

    @cached_property
    def ordered(self) -> NDArray[np.int64]:
        """The symbols that occur, in the order of their codewords."""
        used = np.flatnonzero(self.lengths)
        return used[np.argsort(self.lengths[used], kind="stable")]

    @cached_property
    def codewords(self) -> NDArray[np.uint32]:
        """(alphabet,) codewords reversed, so that their first bit is the least significant one; 0 for absent symbols."""
        lengths = self.lengths[self.ordered].astype(np.int64)
        spans = np.int64(1) << MAX_CODE_LENGTH - lengths  # a codeword stands for all longer bit strings that begin with it
        starts = np.cumsum(spans) - spans
        words = np.zeros(self.alphabet, np.uint32)
        words[self.ordered] = reverse_bits(starts, MAX_CODE_LENGTH)  # the zeros behind a codeword are above it now
        words.flags.writeable = False
        return words

    def covers(self, counts: NDArray[Any]) -> bool:
        """Whether every symbol that is counted has a codeword; `counts` may be longer or shorter than the alphabet."""
        used = np.flatnonzero(counts)
        return not len(used) or bool(used[-1] < self.alphabet and self.lengths[used].all())

    def bits(self, counts: NDArray[Any]) -> int:
        """Bits of symbols that occur `counts[s]` times.

        Raises:
            ParameterError: a counted symbol has no codeword, or a count is negative.
        """
        counts = _checked_counts(counts, "HuffmanCode.bits")
        used = np.flatnonzero(counts)
        if not self.covers(counts):
            absent = next(int(s) for s in used if s >= self.alphabet or not self.lengths[s])
            raise ParameterError.of(
                "counts", "HuffmanCode.bits", f"0 for symbol {absent}, which has no codeword", int(counts[absent])
            )
        return int(counts[used] @ self.lengths[used].astype(np.int64))

    def mean_length(self, counts: NDArray[Any]) -> float:
        """Bits per symbol where symbols occur `counts[s]` times; 0.0 where none does.

        Raises:
            ParameterError: as `bits` does.
        """
        bits = self.bits(counts)
        return bits / int(np.sum(counts)) if bits else 0.0


def reverse_bits(values: NDArray[np.int64], width: int) -> NDArray[np.uint32]:
    """The lowest `width` <= 32 bits of each value in reverse order."""
    words = values.astype(np.uint32)
    for shift, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF)):
        words = (words & np.uint32(mask)) << np.uint32(shift) | words >> np.uint32(shift) & np.uint32(mask)
    words = words << np.uint32(16) | words >> np.uint32(16)
    return words >> np.uint32(32 - width)


def _checked_counts(counts: NDArray[Any], owner: str) -> Counts:
    counts = np.asarray(counts)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or len(counts) > MAX_ALPHABET:
        got = f"{counts.dtype} of shape {counts.shape}"
        raise ParameterError.of("counts", owner, f"a one-dimensional array of at most {MAX_ALPHABET} integers", got)
    if len(counts) and counts.min() < 0:
        raise ParameterError.of("counts", owner, "at least 0 everywhere", int(counts.min()))
    if (total := counts.sum(dtype=np.float64)) >= _MAX_TOTAL:
        raise ParameterError.of("counts", owner, "fewer than 2**58 in all", total)
    return counts.astype(np.int64, copy=False)


def _checked_lengths(lengths: NDArray[Any]) -> NDArray[Any]:
    if lengths.ndim != 1 or (lengths.size and lengths.dtype.kind not in "iu"):
        raise FormatError(f"code lengths are a list of integers, not {lengths.dtype} of shape {lengths.shape}")
    if len(lengths) > MAX_ALPHABET:
        raise FormatError(f"{len(lengths)} code lengths, the largest alphabet has {MAX_ALPHABET} symbols")
    if lengths.size and not 0 <= int(lengths.min()) <= int(lengths.max()) <= MAX_CODE_LENGTH:
        wrong = lengths.max() if lengths.min() >= 0 else lengths.min()
        raise FormatError(f"code length {int(wrong)}, it must be from 0 to {MAX_CODE_LENGTH}")
    return lengths


def _check_complete(used: Lengths) -> None:
    if not len(used) or (len(used) == 1 and used[0] == 1):
        return
    unit = 1 << MAX_CODE_LENGTH
    kraft = int((unit >> used.astype(np.int64)).sum())
    if kraft != unit:
        which = "over-subscribed" if kraft > unit else "under-subscribed"
        raise FormatError(f"{which} code: its {len(used)} codewords take {Fraction(kraft, unit)} of the code space, not 1")
