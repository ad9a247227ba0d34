"""Huffman: every code of fewest bits passes, and each known mistake is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcompress.exercises.exercise import WrongAnswerError
from deepcompress.exercises.huffman import _check_code
from tests.exercises.answering import differences, hints, mistaken, solution

COUNTED = "    return np.bincount(indices, minlength=len(centroids)).tolist()"
LEAVES = "for symbol, count in enumerate(counts) if count > 0]"
MERGED = "(nodes[0][0] + nodes[1][0], nodes[0][1] + nodes[1][1])"
WORDS = "    return words"
FLIP = "str.maketrans('01', '10')"

OTHERS = """
def shannon(counts):
    total, words, at = sum(counts), [""] * len(counts), 0
    for length, symbol in sorted((max(-(-total // c) - 1, 1).bit_length(), s) for s, c in enumerate(counts) if c):
        words[symbol] = format(at >> 60 - length, f"0{length}b")
        at += 1 << 60 - length
    return words

def fixed(counts):
    used = [s for s, c in enumerate(counts) if c]
    width = max(len(used) - 1, 1).bit_length()
    return [format(used.index(s), f"0{width}b") if c else "" for s, c in enumerate(counts)]

def unary(counts):
    order = sorted((s for s, c in enumerate(counts) if c), key=lambda s: -counts[s])
    return ["1" * order.index(s) + "0" if c else "" for s, c in enumerate(counts)]

def reversed_lengths(words, counts):
    used = sorted((s for s, c in enumerate(counts) if c), key=lambda s: counts[s])
    ordered = sorted((words[s] for s in used), key=len)
    return [ordered[used.index(s)] if c else "" for s, c in enumerate(counts)]
"""


@pytest.mark.parametrize(
    "source",
    [
        solution("huffman"),
        mistaken("huffman", WORDS, f"    return [word.translate({FLIP}) for word in words]"),
        mistaken("huffman", WORDS, "    return tuple(words)"),
        mistaken("huffman", COUNTED, COUNTED.replace(".tolist()", ".astype(float)")),
    ],
)
def test_right_answers_pass(source: str) -> None:
    assert differences("huffman", source) == {}


@pytest.mark.parametrize(
    ("right", "wrong", "hint"),
    [
        ("weights[weights != 0]", "weights.ravel()", "the zeros were counted in"),
        (COUNTED, "    return [int((weights == level).sum()) for level in centroids]", "floats were compared with =="),
        (COUNTED, "    return np.unique(weights, return_counts=True)[1]", "with zero among them, and not the centroids' indices"),
        (COUNTED, "    return np.unique(kept, return_counts=True)[1]", "a centroid that nothing uses has a count too, 0"),
        (LEAVES, "for symbol, count in enumerate(counts)]", "leave them out before the tree is built"),
        ('        words[heap[0][1][0]] = "0"', "        pass", "a tree of one leaf has no branch"),
        (WORDS, "    return fixed(counts)", "this is a code of fixed length"),
        (WORDS, "    return shannon(counts)", "(Shannon's code)"),
        (WORDS, "    return unary(counts)", "a node of the tree has one child only"),
        (WORDS, "    return reversed_lengths(words, counts)", "merge the two rarest nodes, not the most frequent"),
        (MERGED, "(max(nodes[0][0], nodes[1][0]), nodes[0][1] + nodes[1][1])", "with the sum of their counts"),
        (WORDS, "    return {s: word for s, word in enumerate(words) if word}", "not a dict"),
        (WORDS, "    return [word for word in words if word]", "a symbol that never occurs has a place too"),
    ],
)
def test_known_mistakes_are_named(right: str, wrong: str, hint: str) -> None:
    found = hints("huffman", mistaken("huffman", right, wrong) + OTHERS)
    assert any(hint in each for each in found), found


@pytest.mark.parametrize(
    ("counts", "words", "expected", "got"),
    [
        ([1, 1], ["0", "0"], "no codeword that begins another", "'0' for symbol 0, '0' for symbol 1"),
        ([1, 1, 1], ["10", "0", "1"], "no codeword that begins another", "'1' for symbol 2, '10' for symbol 0"),
        ([1, 1], ["0", "2"], "'0' and '1' only", "'2' for symbol 1"),
        ([3, 0], ["0", "1"], "'' for symbol 1, which never occurs", "'1'"),
        ([3, 1], ["0", ""], "a codeword for symbol 1, which occurs 1 times", "''"),
        ([3, 1], ["0", 1], "a list of 2 strings", "['0', 1]"),
        ([3], ["00"], "3 bits in all", "6 bits in all: ['00']"),
        ([5, 1, 1], ["00", "1", "01"], "9 bits in all", "13 bits in all: ['00', '1', '01']"),
    ],
)
def test_what_is_wrong_is_said(counts: list[int], words: list[object], expected: str, got: str) -> None:
    with pytest.raises(WrongAnswerError) as caught:
        _check_code(counts, words)
    assert (caught.value.expected, caught.value.got) == (expected, got)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_the_solution_passes_on_any_counts_and_a_longer_word_does_not(counts: list[int]) -> None:
    functions: dict[str, object] = {}
    exec(solution("huffman"), functions)
    words = functions["codewords"](counts)  # type: ignore[operator]
    _check_code(counts, words)
    if any(counts):
        symbol = next(s for s, count in enumerate(counts) if count)
        words[symbol] += "0"
        with pytest.raises(WrongAnswerError):
            _check_code(counts, words)
