"""A layer of very many weights, start to end: pruned, shared, coded, saved, loaded; every figure counted once more.

`make many` does it with 100 million weights and with more than 2^31 bits in one stream; 2^24 and some, which float32 cannot
count, are in `make test`.
"""

from __future__ import annotations

import math
import os
import resource
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

import deepcompress as dc
from deepcompress.coding.huffman import HuffmanCode
from deepcompress.coding.streams import FixedLanes, HuffmanLanes, LaneCoder, count_symbols, decode_stream, encode_stream
from tests.numbers.cases import MANY

many = pytest.mark.skipif("DEEPCOMPRESS_MANY" not in os.environ, reason="make many: it takes minutes and 4 GB")
HUNDRED_MILLION = 100_000_000
_PART = 1 << 22


def parts(count: int) -> list[slice]:
    return [slice(start, start + _PART) for start in range(0, count, _PART)]


def peak() -> str:
    return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"


def normal_weights(count: int) -> np.ndarray:
    draws = np.random.default_rng(0)
    weights = np.empty(count, np.float32)
    for part in parts(count):
        weights[part] = draws.standard_normal(len(weights[part]), np.float32) * np.float32(0.02)
        weights[part][weights[part] == 0] = 1e-9  # some are
    return weights


@pytest.mark.parametrize("count", [MANY, pytest.param(HUNDRED_MILLION, marks=[many, pytest.mark.slow, pytest.mark.timeout(900)])])
@pytest.mark.parametrize("q", [0.9, pytest.param(0.0, marks=many)])
def test_a_layer_start_to_end(count: int, q: float, tmp_path: Path) -> None:
    before = normal_weights(count)
    weight = torch.from_numpy(before.copy().reshape(count // 2, 2))
    stages = [
        ("prune", dc.Prune("percentile", q=q)),
        ("quantize", dc.KMeansQuantize(bits=5, codebook="float32", max_iter=100_000)),
        ("encode", dc.HuffmanEncode()),
    ]
    seconds = [time.perf_counter()]
    result = dc.Pipeline(stages).run({"w.weight": weight}, inplace=True)
    seconds.append(time.perf_counter())
    result.compressed.save(tmp_path / "many.dcz")
    seconds.append(time.perf_counter())
    with dc.load(tmp_path / "many.dcz") as file:
        back = file.state_dict()["w.weight"].numpy().reshape(-1)
        record, bits = file.records[0], file.bits.file
    seconds.append(time.perf_counter())
    run, save, load = np.diff(seconds)
    print(f"{count} weights, q = {q}: run {run:.2f} s, save {save:.2f} s, load {load:.2f} s; {peak()}")

    after = weight.numpy().reshape(-1)
    assert np.array_equal(back.view(np.uint32), after.view(np.uint32))
    _check_pruning(before, after, count - round(q * count))
    levels, members, means, squares = _clusters(before, after)
    row = result.report.layers[0]
    assert row.nonzeros == sum(members)
    assert len(levels) == 32
    assert np.allclose(levels, means, rtol=1e-5, atol=0)  # rounded to float32, they give a few weights to a neighbour
    assert math.isclose(row.rmse or 0, math.sqrt(squares / count), rel_tol=1e-9)
    _check_sizes(row, members, count, (tmp_path / "many.dcz").stat().st_size, bits)
    assert record.numel == count


def _check_pruning(before: np.ndarray, after: np.ndarray, kept: int) -> None:
    """As many as asked, and no weight went while a smaller one stayed."""
    assert sum(int(np.count_nonzero(after[part])) for part in parts(len(after))) == kept
    least, most = math.inf, 0.0
    for part in parts(len(after)):
        sizes, stays = np.abs(before[part]), after[part] != 0
        least = min(least, float(sizes[stays].min(initial=np.inf)))
        most = max(most, float(sizes[~stays].max(initial=0)))
    assert most <= least


def _clusters(before: np.ndarray, after: np.ndarray) -> tuple[list[float], list[int], list[float], float]:
    """The levels, how many weights each has, their mean, and the squared error, in exact sums of float64 parts."""
    levels = np.unique(np.concatenate([np.unique(after[part]) for part in parts(len(after))]))
    levels = levels[levels != 0]
    members, sums, squares = Counter[int](), [[] for _ in levels], []
    for part in parts(len(after)):
        stays = after[part] != 0
        old, new = before[part][stays].astype(np.float64), after[part][stays]
        places = np.searchsorted(levels, new)
        members.update(dict(enumerate(np.bincount(places, minlength=len(levels)).tolist())))
        for place, total in enumerate(np.bincount(places, old, len(levels)).tolist()):
            sums[place].append(total)
        squares.append(float(np.square(old - new).sum()))
    counts = [members[place] for place in range(len(levels))]
    means = [math.fsum(total) / count for total, count in zip(sums, counts, strict=True)]
    return levels.tolist(), counts, means, math.fsum(squares)


def _check_sizes(row, members: list[int], weights: int, size: int, bits) -> None:  # type: ignore[no-untyped-def]
    assert bits.total == 8 * size
    assert math.isclose(row.entropy, float(scipy.stats.entropy(members, base=2)), rel_tol=1e-9)
    code = HuffmanCode.from_counts(np.array(members))
    exact = sum(count * int(length) for count, length in zip(members, code.lengths, strict=True))
    assert row.mean_code_length == exact / sum(members)
    assert row.entropy <= row.mean_code_length < row.entropy + 1
    lanes = 4 * (-(-weights // 2**18) + 1)
    assert exact <= bits.codewords <= exact + lanes * (32 + 8)
    if row.gap_symbols is not None:
        share = row.nonzeros / weights
        floor = float(scipy.stats.entropy([share, 1 - share], base=2)) * weights
        assert floor * (1 - 1e-3) <= bits.gaps <= floor * 1.03  # positions of independent zeros


@pytest.mark.parametrize("count", [MANY, pytest.param((1 << 28) + 9, marks=[many, pytest.mark.slow])])
@pytest.mark.parametrize("kind", ["huffman", "fixed"])
@pytest.mark.parametrize("lanes", [1, 4])
def test_one_chunk_of_more_bits_than_32_can_count(count: int, kind: str, lanes: int) -> None:
    """(1 << 28) + 9 symbols of eight bits are 2^31 + 72 bits; in one lane, all bits are counted in one go."""
    symbols = np.empty(count, np.uint8)
    for part in parts(count):
        places = np.arange(part.start, part.start + len(symbols[part]), dtype=np.uint64)
        symbols[part] = places * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(56)
    counts = count_symbols(symbols, 256)
    assert int(counts.sum()) == count
    assert counts.max() - counts.min() < 2**12
    coder: LaneCoder = HuffmanLanes(HuffmanCode.from_counts(counts)) if kind == "huffman" else FixedLanes(8)
    section = encode_stream(symbols, coder, lanes, np.array([count]), counts_known=True)
    assert len(section) == count + 4 * (lanes - 1)
    back, _ = decode_stream(section, coder, lanes, counts=None, chunks=1, total=count, out_dtype=np.uint8)
    assert np.array_equal(back, symbols)


@many
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_million_weights_without_loss(tmp_path: Path) -> None:
    """About 2.6 x 10^9 bits in one section: beyond what 31 bits count."""
    weights = normal_weights(HUNDRED_MILLION)
    start = time.perf_counter()
    result = dc.Pipeline([("lossless", dc.Lossless())]).run({"w": torch.from_numpy(weights)}, inplace=True)
    assert result.compressed.bits.file.dense > 2**31
    result.compressed.save(tmp_path / "many.dcz")
    with dc.load(tmp_path / "many.dcz") as file:
        back = file.numpy()["w"]
    print(f"{time.perf_counter() - start:.1f} s; {peak()}")
    assert np.array_equal(back.view(np.uint32), weights.view(np.uint32))
