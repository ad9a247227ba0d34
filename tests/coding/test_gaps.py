from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding.gaps import best_gap_bits, check_walk, decode_gaps, encode_gaps, find_nonzeros, place, scatter
from deepcompress.coding.huffman import HuffmanCode
from deepcompress.errors import FormatError, ParameterError


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, int, int, int]:
    numel = draw(st.integers(0, 600))
    chosen = draw(st.sets(st.integers(0, numel - 1), max_size=60)) if numel else set()
    return np.array(sorted(chosen), np.int64), numel, draw(st.integers(1, 16)), draw(st.integers(0, 11))


def encoded(positions: np.ndarray, numel: int, gap_bits: int, chunk_log2: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gap symbols, their number in each chunk, and the nonzeros of each chunk."""
    weights = np.zeros(numel, np.uint8)
    weights[positions] = 1 + positions % 255
    found = find_nonzeros(weights, chunk_log2)
    assert found.kept.tolist() == weights[positions].tolist()
    symbols, counts = encode_gaps(found.gaps, found.counts, gap_bits)
    return symbols, counts, found.counts


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
    symbols, gap_counts, nonzero_counts = encoded(positions, numel, gap_bits, chunk_log2)
    assert (symbols.tolist(), gap_counts.tolist(), nonzero_counts.tolist()) == slow_gaps(
        positions.tolist(), numel, gap_bits, chunk_log2
    )
    assert symbols.dtype == (np.uint8 if gap_bits <= 8 else np.uint16)
    assert gap_counts.dtype == nonzero_counts.dtype == np.int64
    back = decode_gaps(symbols, gap_counts, nonzero_counts, numel, gap_bits, chunk_log2)
    assert back.dtype == np.int64
    assert back.tolist() == positions.tolist()


def test_the_drawing() -> None:
    symbols, gap_counts, nonzero_counts = encoded(np.array([2, 7, 8]), 9, 2, 31)
    assert symbols.tolist() == [2, 3, 1, 0]
    assert (gap_counts.tolist(), nonzero_counts.tolist()) == ([4], [3])


@settings(deadline=None, max_examples=200)
@given(cases(), st.sampled_from([np.uint8, np.uint16, np.uint32]), st.sampled_from([np.uint16, np.uint32, np.uint64]))
def test_scattered_values_come_back(case: tuple[np.ndarray, int, int, int], kind: type, wide: type) -> None:
    positions, numel, gap_bits, chunk_log2 = case
    weights = np.zeros(numel, kind)
    weights[positions] = 1 + positions % 60
    found = find_nonzeros(weights, chunk_log2)
    symbols, counts = encode_gaps(found.gaps, found.counts, gap_bits)
    table, dense = np.arange(61).astype(wide) * 3, np.zeros(numel, wide)
    both = np.stack([counts, found.counts])
    assert scatter(symbols, found.kept, both, table, gap_bits, chunk_log2, dense) == (0, 0)
    assert dense.tolist() == (3 * weights.astype(wide)).tolist()


@settings(deadline=None, max_examples=200)
@given(cases(), st.sampled_from([np.uint8, np.uint64, np.complex128]))
def test_placed_values_come_back(case: tuple[np.ndarray, int, int, int], kind: type) -> None:
    positions, numel, gap_bits, chunk_log2 = case
    weights = np.zeros(numel, kind)
    weights[positions] = 1 + positions % 60
    found = find_nonzeros((weights != 0).view(np.uint8), chunk_log2)
    symbols, counts = encode_gaps(found.gaps, found.counts, gap_bits)
    dense = np.zeros(numel, kind)
    place(symbols, counts, weights[positions], gap_bits, chunk_log2, dense)
    assert dense.tobytes() == weights.tobytes()
    for values, least in ((weights[positions][1:], 1), (np.ones(len(positions) + 1, kind), 0)):
        if len(positions) >= least:
            with pytest.raises(FormatError, match=f"^the gaps lead to {len(positions)} nonzeros, the record says {len(values)}$"):
                place(symbols, counts, values, gap_bits, chunk_log2, dense)


def test_what_placing_refuses() -> None:
    for gaps, message in (
        ([2, 2], "chunk 0: a gap runs past its 4 weights"),
        ([2, 3], "chunk 0: a gap runs past its 4 weights"),
        ([0, 3], "chunk 0: its last gap is an escape, which leads to no nonzero"),
    ):
        with pytest.raises(FormatError, match=f"^{message}$"):
            place(np.array(gaps, np.uint8), np.array([2, 0]), np.ones(2, np.uint8), 2, 2, np.zeros(8, np.uint8))


def test_what_scattering_refuses() -> None:
    def outcome(gaps: list[int], symbols: list[int], counts: list[list[int]]) -> None:
        dense = np.zeros(8, np.uint32)
        both = np.array(counts)
        found = scatter(np.array(gaps, np.uint8), np.array(symbols, np.uint8), both, np.arange(3, dtype=np.uint32), 2, 2, dense)
        check_walk(found, 5, both, 28, 2)

    outcome([0, 1], [1, 2], [[2, 0], [2, 0]])
    for gaps, symbols, counts, message in (
        ([0, 2], [1, 0], [[1, 1], [1, 1]], "chunk 6: a nonzero has the zero symbol, or one that stands for nothing"),
        ([0, 2], [1, 3], [[1, 1], [1, 1]], "chunk 6: a nonzero has the zero symbol, or one that stands for nothing"),
        ([0, 2], [1, 1], [[1, 1], [2, 0]], "chunk 5: its gaps do not lead to 2 nonzeros"),
        ([0, 2], [1, 1], [[2, 0], [1, 1]], "chunk 5: its gaps do not lead to 1 nonzeros"),
        ([2, 2], [1, 1], [[2, 0], [2, 0]], "chunk 5: a gap runs past its 4 weights"),
        ([2, 3], [1], [[2, 0], [1, 0]], "chunk 5: a gap runs past its 4 weights"),
        ([0, 3], [1], [[2, 0], [1, 0]], "chunk 5: its last gap is an escape, which leads to no nonzero"),
    ):
        with pytest.raises(FormatError) as caught:
            outcome(gaps, symbols, counts)
        assert str(caught.value) == message


def test_far_positions() -> None:
    gaps, counts = np.array([0, 4, 2**31 - 1, 2**30], np.uint32), np.array([2, *[0] * 3, 1, *[0] * 506, 1])
    symbols, gap_counts = encode_gaps(gaps, counts, 16)
    positions = [0, 5, 2**33 + 2**31 - 1, 511 * 2**31 + 2**30]
    assert decode_gaps(symbols, gap_counts, counts, 2**40, 16, 31).tolist() == positions


@settings(deadline=None, max_examples=100)
@given(cases(), st.lists(st.integers(1, 16), min_size=1, max_size=3))
def test_the_best_choice_is_the_first_of_the_cheapest(case: tuple[np.ndarray, int, int, int], choices: list[int]) -> None:
    positions, numel, _, chunk_log2 = case

    def cost(counts: np.ndarray) -> int:
        return int((counts * (1 + np.arange(len(counts)) % 7)).sum())

    found = find_nonzeros(np.isin(np.arange(numel), positions).astype(np.uint8), chunk_log2)
    best, counts = best_gap_bits(found.gaps, cost, choices)
    expected = {bits: np.bincount(encoded(positions, numel, bits, chunk_log2)[0], minlength=1) for bits in choices}
    assert counts.tolist() == expected[best].tolist()
    costs = [cost(expected[bits]) for bits in choices]
    assert cost(expected[best]) == min(costs)


def test_the_best_of_all_choices() -> None:
    rng = np.random.default_rng(5)
    for density in (0.3, 0.05, 0.002, 0.00002):
        weights = (rng.random(400_000) < density).astype(np.uint8)
        gaps = find_nonzeros(weights, 20).gaps

        def cost(counts: np.ndarray) -> int:
            return HuffmanCode.from_counts(counts, 12).bits(counts) + 3 * len(counts)

        bits, _ = best_gap_bits(gaps, cost)
        every = {gap_bits: np.bincount(encode_gaps(gaps, np.array([len(gaps)]), gap_bits)[0]) for gap_bits in range(2, 13)}
        assert cost(every[bits]) <= 1.001 * min(cost(counts) for counts in every.values())


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
    again = encoded(positions, numel, gap_bits, chunk_log2)
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
    ("call", "message"),
    [
        (lambda: encode_gaps(np.zeros(1, np.uint32), np.ones(1, np.int64), 0), "'gap_bits' parameter of encode_gaps"),
        (lambda: encode_gaps(np.zeros(1, np.uint32), np.ones(1, np.int64), 17), "must be an int from 1 to 16. Got 17 instead"),
        (lambda: find_nonzeros(np.ones(3, np.uint8), 32), "'chunk_log2' parameter of find_nonzeros must be an int from 0 to 31"),
        (lambda: find_nonzeros(np.ones(3), 3), "must be a one-dimensional array of integers. Got '1-d float64' instead"),
        (lambda: best_gap_bits(np.zeros(1, np.uint32), len, [3, 17]), "'gap_bits' parameter of best_gap_bits"),
        (lambda: best_gap_bits(np.zeros(1, np.uint32), len, []), "must be one number of bits or more. Got [] instead"),
        (lambda: decode_gaps(np.zeros(0, np.uint8), np.zeros(1), np.zeros(1), -1, 2, 3), "an int from 0 to 2**63 - 1. Got -1"),
    ],
)
def test_bad_arguments(call: Any, message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        call()
    assert message in str(caught.value)
