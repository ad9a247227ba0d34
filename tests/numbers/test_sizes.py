"""Sizes against entropy, SciPy and plain Python: extreme skew, counts of 10^8 and beyond 32 bits, tensors of one value."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from decimal import Decimal, localcontext
from itertools import count

import numpy as np
import pytest
import scipy.stats
import torch

import deepcompress as dc
from deepcompress.coding.entropy import entropy
from deepcompress.coding.huffman import HuffmanCode
from deepcompress.coding.merge import least_bits
from tests.numbers.cases import CASES, MANY


def fibonacci(terms: int) -> list[int]:
    row = [1, 1]
    while len(row) < terms:
        row.append(row[-1] + row[-2])
    return row[:terms]


COUNTS: dict[str, list[int]] = {
    "one in 10^8": [1, 10**8],
    "one in 2^57": [1, 2**57],
    "Fibonacci, 20": fibonacci(20),
    "Fibonacci, 21": fibonacci(21),
    "Fibonacci, 80": fibonacci(80),
    "powers of two": [1, *(1 << power for power in range(57))],
    "all 10^8": [10**8] * 33,
    "beyond 32 bits": [2**33 + place for place in range(17)],
    "one huge": [2**57, *[1] * 300],
    "none": [0, 0],
    "one": [0, 10**15, 0],
}


def plain_entropy(counts: list[int]) -> float:
    with localcontext() as context:
        context.prec = 60
        total = Decimal(sum(counts))
        terms = [Decimal(one) / total * (total / Decimal(one)).ln() for one in counts if one]
        return float(sum(terms, Decimal(0)) / Decimal(2).ln())


def huffman_bits(counts: list[int]) -> int:
    """Of a code of any length: the sum of all nodes that are made (Huffman 1952)."""
    heap, bits = [one for one in counts if one], 0
    heapq.heapify(heap)
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        bits += both
        heapq.heappush(heap, both)
    return bits or sum(heap)


def limited_bits(counts: list[int], limit: int) -> int:
    """Of the best code of at most `limit` bits, by package-merge with whole lists of symbols."""
    order = count()
    leaves = sorted((one, next(order), (symbol,)) for symbol, one in enumerate(counts) if one)
    if len(leaves) < 2:
        return sum(counts)
    row = list(leaves)
    for _ in range(limit - 1):
        pairs = zip(row[::2], row[1::2], strict=False)
        row = sorted([*leaves, *((one[0] + two[0], next(order), one[2] + two[2]) for one, two in pairs)])
    taken = Counter(symbol for item in row[: 2 * len(leaves) - 2] for symbol in item[2])
    return sum(counts[symbol] * length for symbol, length in taken.items())


@pytest.mark.parametrize("name", COUNTS)
def test_entropy_against_scipy_and_plain_python(name: str) -> None:
    counts = COUNTS[name]
    found, expected = entropy(np.array(counts)), plain_entropy(counts) if sum(counts) else 0.0
    assert math.isclose(found, expected, rel_tol=1e-12, abs_tol=0)
    if sum(counts):
        assert math.isclose(found, float(scipy.stats.entropy(counts, base=2)), rel_tol=1e-6, abs_tol=4e-16)
        assert math.isclose(least_bits(np.array(counts)), expected * sum(counts), rel_tol=1e-12, abs_tol=sum(counts) * 3e-14)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("limit", [9, 12, 20])
def test_codes_against_plain_python(name: str, limit: int) -> None:
    counts = COUNTS[name]
    code = HuffmanCode.from_counts(np.array(counts), limit)
    assert code.max_length <= limit
    bits = code.bits(np.array(counts))
    assert bits == limited_bits(counts, limit)
    assert bits == sum(one * int(length) for one, length in zip(counts, code.lengths, strict=True))
    if code.max_length < limit:
        assert bits == huffman_bits(counts)
    if bits:
        assert entropy(np.array(counts)) <= code.mean_length(np.array(counts)) * (1 + 1e-12)


@pytest.mark.parametrize("value", [0.0, -0.0, 0.1, 1e-45, -1e30])
@pytest.mark.parametrize("stage", ["k-means", "affine", "lossless"])
def test_a_tensor_of_one_value_takes_a_few_bytes(value: float, stage: str) -> None:
    """Whatever its size: 2^24 and some weights cost no bits each."""
    weights = MANY if value == 0.1 else 1 << 20
    weight = torch.full((weights // 2, 2), value)
    stages = {
        "k-means": [("quantize", dc.KMeansQuantize(bits=5)), ("encode", dc.HuffmanEncode())],
        "affine": [("quantize", dc.AffineQuantize(bits=8)), ("encode", dc.HuffmanEncode())],
        "lossless": [("lossless", dc.Lossless())],
    }
    result = dc.Pipeline(stages[stage]).run({"w.weight": weight}, inplace=True, store_recipe=False)
    row = result.report.layers[0]
    assert result.compressed.file_bytes <= 500 + 16 * -(-weights >> 18)  # lengths of a chunk and of its lanes
    assert row.weights == weights
    assert row.nonzeros == (weights if value else 0)
    assert row.entropy in (None, 0.0)


@pytest.mark.parametrize("name", CASES)
def test_every_bit_of_hard_cases_is_accounted_for(name: str) -> None:
    weight = torch.from_numpy(CASES[name].reshape(6, 10))
    stages = [("prune", dc.Prune("percentile", q=0.3)), ("quantize", dc.KMeansQuantize(bits=3)), ("encode", dc.HuffmanEncode())]
    result = dc.Pipeline(stages).run({"w.weight": weight})
    row, book = result.report.layers[0], result.model["w.weight"]
    assert result.compressed.bits.file.total == 8 * len(result.compressed.to_bytes())
    assert row.nonzeros == int(torch.count_nonzero(book))
    used = Counter(book[book != 0].tolist())
    assert row.entropy == pytest.approx(plain_entropy(list(used.values())) if used else 0.0, rel=1e-12, abs=1e-15)
    assert row.mean_code_length == pytest.approx(huffman_bits(list(used.values())) / max(row.nonzeros, 1), rel=1e-12)
