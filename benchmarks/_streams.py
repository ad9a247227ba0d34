"""Symbols like those of quantized weights, and our coder around them: from counting to a section, and back to an array."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.huffman import HuffmanCode
from deepcompress.coding.streams import HuffmanLanes, count_symbols, decode_stream, encode_stream
from deepcompress.tensors.streams import choose_geometry, dense_counts

Symbols = NDArray[Any]
Counts = NDArray[np.int64]
PART = 1 << 22  # symbols that are drawn at once
_STEP = 0.2425  # standard deviations between clusters: 32 of them reach to 3.9, and an index has 4.09 bits


class Coded(NamedTuple):
    """A section, and what the file says of it elsewhere."""

    section: NDArray[np.uint8]
    code: HuffmanCode
    lanes: int
    counts: Counts
    total: int
    dtype: Any

    @property
    def bits_each(self) -> float:
        """Bits of the section per symbol; the code lengths, some 20 bytes, lie elsewhere in the file."""
        return 8 * len(self.section) / self.total


def gaussian_symbols(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """(count,) indices of 32 evenly spaced clusters of Gaussian weights; more of them begin with the same ones."""
    rng, symbols = np.random.default_rng(seed), np.empty(count, np.uint8)
    for start in range(0, count, PART):
        weights = rng.standard_normal(PART, np.float32)[: count - start]
        symbols[start : start + PART] = np.clip(np.rint(weights / _STEP + 15.5), 0, 31)
    return symbols


def encode(symbols: Symbols, counts: Counts, lanes: int, occurrences: Counts | None = None) -> Coded:
    """Count where that is not done, build the code, code."""
    code = HuffmanCode.from_counts(count_symbols(symbols) if occurrences is None else occurrences)
    section = encode_stream(symbols, HuffmanLanes(code), lanes, counts, counts_known=True)
    return Coded(section, code, lanes, counts, len(symbols), symbols.dtype)


def encode_dense(symbols: Symbols) -> Coded:
    """A section as a tensor of so many weights gets it."""
    geometry = choose_geometry(len(symbols), len(symbols))
    return encode(symbols, dense_counts(len(symbols), geometry.chunk_log2), geometry.lanes)


def decode(coded: Coded) -> Symbols:
    """From the section and the code lengths; tables are built anew."""
    coder, chunks = HuffmanLanes(HuffmanCode.from_lengths(coded.code.lengths)), len(coded.counts)
    return decode_stream(
        coded.section, coder, coded.lanes, counts=coded.counts, chunks=chunks, total=coded.total, out_dtype=coded.dtype
    )[0]


def check(found: Any, expected: Symbols, what: str) -> None:
    """Raise where a coder did not give back what it was given."""
    values = np.frombuffer(found, np.uint8) if isinstance(found, bytes | bytearray) else np.asarray(found)
    if not np.array_equal(values, expected):
        raise SystemExit(f"{what}: decoded symbols differ from those that were encoded")
