from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from bitarray.util import canonical_huffman
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding.entropy import entropy
from deepcompress.coding.huffman import DEFAULT_MAX_CODE_LENGTH, MAX_CODE_LENGTH, HuffmanCode
from deepcompress.errors import FormatError, ParameterError

COUNTS = st.lists(st.one_of(st.integers(0, 20), st.integers(0, 10**9)), max_size=80)


def kraft(lengths: np.ndarray) -> Fraction:
    return sum((Fraction(1, 1 << int(length)) for length in lengths if length), Fraction(0))


def codewords(code: HuffmanCode) -> dict[int, str]:
    """Each codeword as it is read, first bit first."""
    return {
        symbol: f"{int(word):0{length}b}"[::-1]
        for symbol, (word, length) in enumerate(zip(code.codewords, code.lengths, strict=True))
        if length
    }


def canonical(lengths: list[int]) -> dict[int, str]:
    """RFC 1951, 3.2.2, written out."""
    words, value, before = {}, 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        value <<= length - before
        words[symbol] = f"{value:0{length}b}"
        value, before = value + 1, length
    return words


@given(COUNTS, st.integers(1, 20))
def test_laws_of_every_code(counts: list[int], limit: int) -> None:
    array = np.array(counts, np.int64)
    code = HuffmanCode.from_counts(array, limit)
    used = int(np.count_nonzero(array))
    assert code.alphabet == len(counts)
    assert code.lengths.dtype == np.uint8
    assert ((code.lengths > 0) == (array > 0)).all()
    assert code.max_length <= max(limit, (used - 1).bit_length(), 0)
    assert kraft(code.lengths) == (1 if used > 1 else Fraction(used, 2))
    assert codewords(code) == canonical(code.lengths.tolist())
    assert code.covers(array)
    assert HuffmanCode.from_lengths(code.lengths).lengths.tolist() == code.lengths.tolist()


@given(COUNTS.filter(lambda counts: sum(count > 0 for count in counts) > 1))
def test_unlimited_codes_are_as_short_as_bitarrays(counts: list[int]) -> None:
    array = np.array(counts, np.int64)
    words, _, _ = canonical_huffman({symbol: count for symbol, count in enumerate(counts) if count})
    longest = max(map(len, words.values()))
    code = HuffmanCode.from_counts(array, MAX_CODE_LENGTH)
    bits = sum(counts[symbol] * len(word) for symbol, word in words.items())
    assert code.bits(array) == bits if longest <= MAX_CODE_LENGTH else code.bits(array) >= bits


@given(COUNTS.filter(any))
def test_mean_length_is_at_the_entropy_or_less_than_a_bit_above(counts: list[int]) -> None:
    array = np.array(counts, np.int64)
    floor, mean = entropy(array), HuffmanCode.from_counts(array, 20).mean_length(array)
    assert floor <= mean + 1e-9
    if np.count_nonzero(array) > 1 and max(counts) < 2**20 * min(count for count in counts if count):
        assert mean < floor + 1


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(1, 300), min_size=2, max_size=6), st.integers(1, 5))
def test_limited_codes_against_all_there_are(counts: list[int], limit: int) -> None:
    array = np.array(counts, np.int64)
    limit = max(limit, (len(counts) - 1).bit_length())
    best = min(
        sum(count * length for count, length in zip(counts, lengths, strict=True))
        for lengths in itertools.product(range(1, limit + 1), repeat=len(counts))
        if sum(1 << limit - length for length in lengths) <= 1 << limit
    )
    assert HuffmanCode.from_counts(array, limit).bits(array) == best


@pytest.mark.parametrize(
    ("counts", "limit", "lengths"),
    [
        ([], 12, []),
        ([0, 0], 12, [0, 0]),
        ([0, 9], 12, [0, 1]),
        ([1, 1], 1, [1, 1]),
        ([1, 1, 1], 12, [1, 2, 2]),
        ([3, 3, 3, 3, 3], 12, [2, 2, 2, 3, 3]),
        ([1, 2, 4, 8, 16], 12, [4, 4, 3, 2, 1]),
        ([1, 2, 4, 8, 16], 3, [3, 3, 3, 3, 1]),
        ([1, 2, 4, 8, 16], 1, [3, 3, 3, 3, 1]),
        ([5, 0, 5, 1, 1, 0, 1], 12, [1, 0, 2, 3, 4, 0, 4]),
    ],
)
def test_ties_fall_the_same_way_everywhere(counts: list[int], limit: int, lengths: list[int]) -> None:
    assert HuffmanCode.from_counts(np.array(counts, np.int64), limit).lengths.tolist() == lengths


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60))
def test_of_equal_symbols_the_later_one_is_never_shorter(counts: list[int]) -> None:
    code = HuffmanCode.from_counts(np.array(counts, np.int64))
    for count in set(counts):
        assert (np.diff(code.lengths[np.array(counts) == count].astype(int)) >= 0).all()


@pytest.mark.parametrize("limit", [12, 17, 20])
def test_the_largest_alphabet(limit: int) -> None:
    counts = np.maximum(2**40 >> np.minimum(np.arange(65_537) // 3, 50), 1)
    code = HuffmanCode.from_counts(counts, limit)
    assert (np.bincount(code.lengths)[1:] * 2.0 ** -np.arange(1, code.max_length + 1)).sum() == 1
    assert code.max_length == max(limit, 17)
    assert len(set(zip(code.codewords.tolist(), code.lengths.tolist(), strict=True))) == 65_537


def test_defaults() -> None:
    fibonacci = [1, 1]
    while len(fibonacci) < 33:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    assert HuffmanCode.from_counts(np.array(fibonacci)).max_length == DEFAULT_MAX_CODE_LENGTH == 12


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([1, 1, 1], "over-subscribed code: its 3 codewords take 3/2 of the code space, not 1"),
        ([2, 2, 2], "under-subscribed code: its 3 codewords take 3/4 of the code space, not 1"),
        ([0, 2], "under-subscribed code: its 1 codewords take 1/4 of the code space, not 1"),
        ([1, 21], "code length 21, it must be from 0 to 20"),
        ([1, -1], "code length -1, it must be from 0 to 20"),
        ([0.5], "code lengths are a list of integers, not float64 of shape (1,)"),
        ([[1, 1]], "code lengths are a list of integers, not int64 of shape (1, 2)"),
        ([0] * 65_538, "65538 code lengths, the largest alphabet has 65537 symbols"),
    ],
)
def test_lengths_that_are_no_code(lengths: list[int], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        HuffmanCode.from_lengths(lengths)
    assert str(caught.value) == message


def test_a_code_cannot_be_changed() -> None:
    given_lengths = np.array([1, 1], np.uint8)
    code = HuffmanCode(given_lengths)
    given_lengths[0] = 7
    assert code.lengths.tolist() == [1, 1]
    with pytest.raises(ValueError, match="read-only"):
        code.lengths[0] = 2


def test_counting_bits() -> None:
    code = HuffmanCode.from_lengths([1, 2, 0, 2])
    assert code.bits(np.array([4, 1])) == 6
    assert code.mean_length(np.array([4, 1, 0, 0, 0])) == 6 / 5
    assert code.bits(np.zeros(0, np.int64)) == 0
    assert code.mean_length(np.zeros(3, np.int64)) == 0.0
    assert code.covers(np.array([1, 1, 0, 1, 0]))
    assert not code.covers(np.array([0, 0, 1]))
    assert not code.covers(np.array([0, 0, 0, 0, 1]))
    with pytest.raises(ParameterError, match=r"of HuffmanCode.bits must be 0 for symbol 4, which has no codeword\. Got 3"):
        code.bits(np.array([1, 0, 0, 0, 3]))


@pytest.mark.parametrize(
    ("counts", "limit", "message"),
    [
        ([1], 0, "'max_length' parameter of HuffmanCode.from_counts must be an int from 1 to 20. Got 0 instead"),
        ([1], 21, "'max_length' parameter of HuffmanCode.from_counts must be an int from 1 to 20. Got 21 instead"),
        ([1], True, "must be an int from 1 to 20. Got True instead"),
        ([1, -1], 12, "'counts' parameter of HuffmanCode.from_counts must be at least 0 everywhere. Got -1 instead"),
        ([0.5], 12, "must be a one-dimensional array of at most 65537 integers. Got 'float64 of shape (1,)' instead"),
        ([1] * 65_538, 12, "at most 65537 integers. Got 'int64 of shape (65538,)' instead"),
        ([1 << 58], 12, "fewer than 2**58 in all"),
    ],
)
def test_bad_counts(counts: list[int], limit: int, message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        HuffmanCode.from_counts(np.array(counts), limit)
    assert message in str(caught.value)
