from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding.gaps import best_gap_bits, decode_gaps, encode_gaps
from deepcompress.errors import FormatError, ParameterError


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, int, int, int]:
    numel = draw(st.integers(0, 600))
    chosen = draw(st.sets(st.integers(0, numel - 1), max_size=60)) if numel else set()
    return np.array(sorted(chosen), np.int64), numel, draw(st.integers(1, 16)), draw(st.integers(0, 11))


def slow_gaps(positions: list[int], numel: int, gap_bits: int, chunk_log2: int) -> tuple[list[int], list[int], list[int]]:
    escape, size = (1 << gap_bits) - 1, 1 << chunk_log2
    symbols: list[int] = []
    gap_counts, nonzero_counts = [], []
    for start in range(0, max(numel, 1), size):
        before, at = len(symbols), start
        mine = [position for position in positions if start <= position < start + size]
        for position in mine:
            gap, at = position - at, position + 1
            symbols += [escape] * (gap // escape) + [gap % escape]
        gap_counts.append(len(symbols) - before)
        nonzero_counts.append(len(mine))
    return symbols, gap_counts, nonzero_counts


@settings(deadline=None, max_examples=200)
@given(cases())
def test_gaps_are_the_definition_and_come_back(case: tuple[np.ndarray, int, int, int]) -> None:
    positions, numel, gap_bits, chunk_log2 = case
    symbols, gap_counts, nonzero_counts = encode_gaps(positions, numel, gap_bits, chunk_log2)
    assert (symbols.tolist(), gap_counts.tolist(), nonzero_counts.tolist()) == slow_gaps(
        positions.tolist(), numel, gap_bits, chunk_log2
    )
    assert symbols.dtype == (np.uint8 if gap_bits <= 8 else np.uint16)
    assert gap_counts.dtype == nonzero_counts.dtype == np.int64
    back = decode_gaps(symbols, gap_counts, nonzero_counts, numel, gap_bits, chunk_log2)
    assert back.dtype == np.int64
    assert back.tolist() == positions.tolist()


def test_the_drawing() -> None:
    symbols, gap_counts, nonzero_counts = encode_gaps(np.array([2, 7, 8]), 9, 2, 31)
    assert symbols.tolist() == [2, 3, 1, 0]
    assert (gap_counts.tolist(), nonzero_counts.tolist()) == ([4], [3])


def test_far_positions() -> None:
    positions = np.array([0, 5, 2**33, 2**40 - 1])
    coded = encode_gaps(positions, 2**40, 16, 31)
    assert decode_gaps(*coded, 2**40, 16, 31).tolist() == positions.tolist()


@settings(deadline=None, max_examples=100)
@given(cases(), st.lists(st.integers(1, 16), min_size=1, max_size=5))
def test_the_best_choice_is_the_first_of_the_cheapest(case: tuple[np.ndarray, int, int, int], choices: list[int]) -> None:
    positions, numel, _, chunk_log2 = case
    seen = []

    def cost(counts: np.ndarray) -> int:
        seen.append(counts.tolist())
        return int((counts * (1 + np.arange(len(counts)) % 7)).sum())

    best = best_gap_bits(positions, numel, chunk_log2, cost, choices)
    expected = [np.bincount(encode_gaps(positions, numel, bits, chunk_log2)[0], minlength=1) for bits in choices]
    assert seen == [counts.tolist() for counts in expected]
    costs = [cost(counts) for counts in expected]
    assert best == choices[costs.index(min(costs))]


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.integers(0, 7), max_size=12),
    st.lists(st.integers(0, 8), min_size=1, max_size=4),
    st.lists(st.integers(0, 8), min_size=1, max_size=4),
    st.integers(0, 40),
    st.integers(1, 3),
    st.integers(0, 5),
)
def test_noise_is_refused_or_is_what_the_encoder_writes(
    symbols: list[int], gap_counts: list[int], nonzero_counts: list[int], numel: int, gap_bits: int, chunk_log2: int
) -> None:
    given_arrays = np.array(symbols, np.uint8), np.array(gap_counts), np.array(nonzero_counts)
    try:
        positions = decode_gaps(*given_arrays, numel, gap_bits, chunk_log2)
    except FormatError:
        return
    assert (np.diff(positions) > 0).all()
    again = encode_gaps(positions, numel, gap_bits, chunk_log2)
    assert tuple(part.tolist() for part in again) == (symbols, gap_counts, nonzero_counts)


@pytest.mark.parametrize(
    ("symbols", "gap_counts", "nonzero_counts", "message"),
    [
        ([0, 1], [2], [2], "2 chunks need 2 gap counts, there are 1"),
        ([0, 1], [3, -1], [1, 1], "gap count -1, it must be at least 0"),
        ([0, 1], [1, 1], [1], "2 chunks need 2 nonzero counts, there are 1"),
        ([0, 1], [1, 2], [1, 1], "gap counts sum to 3, there are 2 gaps"),
        ([0, 4], [1, 1], [1, 1], "gap 4, the largest of 2 bits is 3"),
        ([0, 1], [1, 1], [1, 2], "nonzero counts sum to 3, the gaps lead to 2 nonzeros"),
        ([0, 1], [1, 1], [2, 0], "chunk 0: its gaps do not lead to 2 nonzeros"),
        ([0, 1], [2, 0], [1, 1], "chunk 0: its gaps do not lead to 1 nonzeros"),
        ([2, 1], [2, 0], [2, 0], "chunk 0: a gap runs past its 4 weights"),
        ([0, 2], [1, 1], [1, 1], "chunk 1: a gap runs past its 2 weights"),
        ([0, 3], [1, 1], [1, 0], "chunk 1: a gap runs past its 2 weights"),
        ([0, 3], [2, 0], [1, 0], "chunk 0: its last gap is an escape, which leads to no nonzero"),
        ([3, 1, 0], [2, 1], [1, 1], "chunk 0: a gap runs past its 4 weights"),
    ],
)
def test_errors_name_the_chunk(symbols: list[int], gap_counts: list[int], nonzero_counts: list[int], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        decode_gaps(np.array(symbols, np.uint8), np.array(gap_counts), np.array(nonzero_counts), 6, 2, 2)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("positions", "numel", "gap_bits", "chunk_log2", "message"),
    [
        ([0], -1, 2, 3, "'numel' parameter of encode_gaps must be an int from 0 to 2**63 - 1. Got -1 instead"),
        ([0], 9, 0, 3, "'gap_bits' parameter of encode_gaps must be an int from 1 to 16. Got 0 instead"),
        ([0], 9, 17, 3, "'gap_bits' parameter of encode_gaps must be an int from 1 to 16. Got 17 instead"),
        ([0], 9, 2, 32, "'chunk_log2' parameter of encode_gaps must be an int from 0 to 31. Got 32 instead"),
        ([9], 9, 2, 3, "'positions' parameter of encode_gaps must be at least 0 and below 9. Got '9 to 9' instead"),
        ([-1], 9, 2, 3, "must be at least 0 and below 9. Got '-1 to -1' instead"),
        ([1, 3, 3], 9, 2, 3, "must be ascending and distinct. Got [3, 3] instead"),
        ([1.5], 9, 2, 3, "must be a one-dimensional array of integers. Got 'float64 of shape (1,)' instead"),
    ],
)
def test_bad_arguments(positions: list[Any], numel: int, gap_bits: int, chunk_log2: int, message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        encode_gaps(np.array(positions), numel, gap_bits, chunk_log2)
    assert message in str(caught.value)


def test_no_choices() -> None:
    with pytest.raises(
        ParameterError, match=r"'choices' parameter of best_gap_bits must be one number of bits or more\. Got \[\]"
    ):
        best_gap_bits(np.array([1]), 9, 3, lambda counts: 0, [])
