"""Huffman codes: short codewords for what occurs often.

A pruned layer whose weights share values is coded as the indices of its nonzeros. Write two functions.

`count_indices(weights, centroids)`: how often each centroid's index occurs, a list of len(centroids) integers. `weights` is a
layer of any shape: a weight that is exactly zero was pruned, its place is stored otherwise and it has no index; every other one
belongs to its nearest centroid (which it equals but for rounding).

`codewords(counts)`: a Huffman code for symbols that occur so often: for each symbol a string of "0" and "1", and "" for a symbol
that never occurs. No codeword may begin another, and the whole text must take as few bits as any such code can make it. A symbol
that is alone has a codeword of one bit, so that its occurrences can be counted.

    count_indices(np.array([0.0, 0.5, 0.0, -1.0, 0.5]), np.array([-1.0, 0.5]))    gives [1, 2]
    codewords([5, 1, 0, 2])                                                       gives ["0", "10", "", "11"], or another as good

Source: Huffman. A method for the construction of minimum-redundancy codes. Proc. IRE 1952; Han, Mao, Dally. Deep Compression.
ICLR 2016, sec. 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding.huffman import MAX_CODE_LENGTH, HuffmanCode
from deepcompress.exercises.answers import Mistake, integers, recognised
from deepcompress.exercises.exercise import Case, WrongAnswerError
from deepcompress.exercises.show import shown
from deepcompress.tensors.codebook import nearest

STARTER = '''\
import numpy as np


def count_indices(weights: np.ndarray, centroids: np.ndarray) -> list[int]:
    """How often the index of each centroid occurs; weights that are exactly zero have none."""
    raise NotImplementedError


def codewords(counts: list[int]) -> list[str]:
    """A codeword of "0" and "1" for each symbol, "" for one that never occurs."""
    raise NotImplementedError
'''

Array = NDArray[Any]


def cases() -> list[Case]:
    """The hidden cases."""
    counting = [
        Case(name, "count_indices", {"weights": weights, "centroids": levels}, partial(_check_counts, weights, levels))
        for name, weights, levels in _layers()
    ]
    return counting + [Case(name, "codewords", {"counts": counts}, partial(_check_code, counts)) for name, counts in _counts()]


def _layers() -> Iterator[tuple[str, Array, Array]]:
    rng = np.random.default_rng(1952)
    yield "counting: nothing pruned", np.array([0.5, -1.0, 0.5, 0.5, 2.0]), np.array([-1.0, 0.5, 2.0])
    yield "counting: a centroid that nothing uses", np.array([0.5, -1.0, 0.5]), np.array([-1.0, 0.5, 2.0])
    levels = np.sort(rng.normal(0, 0.1, 16))
    layer = levels[rng.choice(16, (20, 30), p=_skewed(16))]
    yield "counting: a linear layer, most of it pruned", np.where(rng.random((20, 30)) < 0.8, 0, layer), levels
    yield "counting: weights in float32, centroids in float64", layer.astype(np.float32), levels
    yield "counting: everything pruned", np.zeros((4, 3, 3, 3)), np.array([-0.25, 0.25])


def _skewed(count: int) -> Array:
    shares = 0.8 ** np.arange(count)
    return np.asarray(shares / shares.sum())


def _counts() -> Iterator[tuple[str, list[int]]]:
    rng = np.random.default_rng(1952)
    yield "two symbols", [3, 8]
    yield "six symbols, the textbook's", [45, 13, 12, 16, 9, 5]
    yield "equal counts, a power of two", [7] * 8
    yield "equal counts, no power of two", [7] * 5
    yield "symbols that never occur", [0, 4, 0, 1, 0, 0, 2]
    yield "one symbol", [9]
    yield "one symbol of many that occurs", [0, 0, 7, 0]
    yield "no symbol at all", [0, 0, 0]
    yield "powers of two", [1, 2, 4, 8, 16, 32, 64, 128]
    yield "Fibonacci's numbers, a long code", [610, 377, 233, 144, 89, 55, 34, 21, 13, 8, 5, 3, 2, 1, 1]
    yield "very frequent and very rare", [10**12, 1, 1, 10**6, 3]
    yield "indices of 5 bits", [int(count) for count in rng.binomial(5000, _skewed(32))]


_COUNTING_MISTAKES: Sequence[Mistake] = (
    (
        lambda weights, levels: np.bincount(nearest(levels, weights.ravel()), minlength=len(levels)),
        "the zeros were counted in: a pruned weight has no index, and would make the code look better than it is",
    ),
    (
        lambda weights, levels: [np.count_nonzero(weights == level) for level in levels],
        "floats were compared with ==: after rounding a weight equals its centroid no longer; take the nearest",
    ),
    (
        lambda weights, levels: np.unique(weights, return_counts=True)[1],
        "these are the different floats of the layer, with zero among them, and not the centroids' indices",
    ),
    (
        lambda weights, levels: np.unique(weights[weights != 0], return_counts=True)[1],
        "these are the different floats of the layer; a centroid that nothing uses has a count too, 0",
    ),
)


def _check_counts(weights: Array, levels: Array, answer: Any) -> None:
    kept = weights[weights != 0].astype(np.float64)
    expected = np.bincount(nearest(levels, kept), minlength=len(levels))
    if not np.array_equal(integers(answer, f"{len(levels)} integers"), expected):
        hint = recognised(integers(answer), {"weights": weights, "centroids": levels}, _COUNTING_MISTAKES)
        raise WrongAnswerError(shown(expected.tolist()), shown(answer), hint)


def _check_code(counts: list[int], answer: Any) -> None:
    words = _as_words(answer, len(counts))
    problem = _problem(counts, words)
    if problem:
        raise WrongAnswerError(*problem)
    lengths = np.array([len(word) for word in words])
    best = HuffmanCode.from_counts(np.array(counts), MAX_CODE_LENGTH).bits(np.array(counts))
    taken = sum(count * int(length) for count, length in zip(counts, lengths, strict=True))
    if taken != best:
        raise WrongAnswerError(f"{best:,} bits in all", f"{taken:,} bits in all: {shown(words)}", _hint(counts, lengths))


def _as_words(answer: Any, count: int) -> list[str]:
    expected = f"a list of {count} strings"
    listed = isinstance(answer, list | tuple) and all(isinstance(word, str) for word in answer)
    if not listed:
        hint = "a list with a place for each symbol is asked for, not a dict" if isinstance(answer, dict) else ""
        raise WrongAnswerError(expected, shown(answer), hint)
    if len(answer) != count:
        raise WrongAnswerError(expected, shown(answer), "a symbol that never occurs has a place too, with the codeword ''")
    return list(answer)


def _problem(counts: list[int], words: list[str]) -> tuple[str, str, str] | None:
    """What is wrong with a code whatever its length: expected, got, hint."""
    for symbol, (count, word) in enumerate(zip(counts, words, strict=True)):
        if word.strip("01"):
            return "'0' and '1' only", f"{word!r} for symbol {symbol}", ""
        if word and not count:
            hint = "symbols that never occur must not take part: leave them out before the tree is built"
            return f"'' for symbol {symbol}, which never occurs", repr(word), hint
        if count and not word:
            hint = "a tree of one leaf has no branch: this case needs its own line" if sum(map(bool, counts)) == 1 else ""
            return f"a codeword for symbol {symbol}, which occurs {count:,} times", "''", hint
    ordered = sorted((word, symbol) for symbol, word in enumerate(words) if word)
    for (one, first), (other, second) in pairwise(ordered):
        if other.startswith(one):
            return "no codeword that begins another", f"{one!r} for symbol {first}, {other!r} for symbol {second}", ""
    return None


def _hint(counts: list[int], lengths: Array) -> str:
    """Which code this is that takes more bits than it must."""
    used = [(count, int(length)) for count, length in zip(counts, lengths, strict=True) if count]
    total = sum(count for count, _ in used)
    fixed = max(len(used) - 1, 1).bit_length()
    if all(length == fixed for _, length in used):
        return "this is a code of fixed length"
    if all(length == max(-(-total // count) - 1, 1).bit_length() for count, length in used):
        return "each length is log2(1 / share) rounded up (Shannon's code), which a Huffman code never exceeds"
    if sum(Fraction(1, 2**length) for _, length in used) < 1:
        return "some bit strings are the beginning of no codeword: a node of the tree has one child only"
    if any(one < other and short < long for one, short in used for other, long in used):
        return "a rarer symbol has a shorter codeword than a more frequent one: merge the two rarest nodes, not the most frequent"
    return "in each step the two rarest of all nodes are merged; merged nodes take part with the sum of their counts"
