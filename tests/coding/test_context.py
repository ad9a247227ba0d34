"""Levels come back; each content has one spelling; what is foreseen costs little, and noise not more than noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepcompress.coding.context import MAX_LEVEL, Levels, decode_levels, encode_levels
from deepcompress.coding.context_kernels import _SQUASHED, _STRETCHED
from deepcompress.coding.logistic import FAR
from deepcompress.errors import FormatError, ParameterError


@st.composite
def tensors(draw: st.DrawFn) -> tuple[NDArray[np.int32], Levels, int]:
    """Levels of some rows, what is known of them, and how many come before."""
    kernel_row = draw(st.integers(1, 4))
    kernel = draw(st.sampled_from([1, kernel_row, 2 * kernel_row, 40]))
    columns = kernel * draw(st.integers(1, 6))
    lag = draw(st.integers(0, columns - 1)) if kernel == 1 else 0
    top = draw(st.sampled_from([0, 1, 3, 13, 14, 15, 16, 40, MAX_LEVEL]))
    bottom = draw(st.sampled_from([0, 1, 2, 15, 100]))
    seed, count = draw(st.integers(0, 2**32)), draw(st.integers(0, 200))
    chance = np.random.default_rng(seed)
    levels = chance.integers(-bottom, top, count, endpoint=True)
    levels[chance.random(count) < draw(st.floats(0, 1))] = 0
    known = Levels(bottom, top, draw(st.integers(1, 4_095)), columns, kernel, kernel_row, lag)
    return levels.astype(np.int32), known, draw(st.integers(0, 3 * columns))


def read(data: NDArray[np.uint8], known: Levels, count: int, start: int = 0) -> NDArray[np.int32]:
    levels = np.full(count, 77, np.int32)
    decode_levels(data, known, levels, start)
    return levels


@given(tensors())
@settings(max_examples=300, deadline=None)
def test_levels_come_back(given: tuple[NDArray[np.int32], Levels, int]) -> None:
    levels, known, start = given
    before = levels.copy()
    data = encode_levels(levels, known, start)
    assert np.array_equal(levels, before)
    assert np.array_equal(read(data, known, len(levels), start), levels)


@given(tensors(), st.data())
@settings(max_examples=300, deadline=None)
def test_every_content_has_one_spelling(given: tuple[NDArray[np.int32], Levels, int], data: st.DataObject) -> None:
    """Bytes cut off, put behind or changed are refused, or are those of other levels."""
    levels, known, start = given
    right = encode_levels(levels, known, start)
    changed = bytearray(right.tobytes())
    kind = data.draw(st.sampled_from(["cut", "longer", "flip"]))
    if kind == "cut":
        del changed[data.draw(st.integers(0, max(len(changed) - 1, 0))) :]
    elif kind == "longer":
        changed += data.draw(st.binary(min_size=1, max_size=6))
    elif changed:
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    given_bytes = np.frombuffer(bytes(changed), np.uint8)
    try:
        found = read(given_bytes, known, len(levels), start)
    except FormatError:
        return
    assert encode_levels(found, known, start).tobytes() == bytes(changed)


@given(st.binary(max_size=200), tensors())
@settings(max_examples=200, deadline=None)
def test_noise_is_refused_or_has_this_spelling(noise: bytes, given: tuple[NDArray[np.int32], Levels, int]) -> None:
    levels, known, start = given
    try:
        found = read(np.frombuffer(noise, np.uint8), known, len(levels), start)
    except FormatError:
        return
    assert encode_levels(found, known, start).tobytes() == noise
    assert not len(found) or (-known.lowest <= found.min() and found.max() <= known.highest)


def levels_of(seed: int, density: float, rows: int, columns: int) -> NDArray[np.int32]:
    chance = np.random.default_rng(seed)
    levels = chance.integers(1, 4, rows * columns) * chance.choice([-1, 1], rows * columns)
    levels[chance.random(rows * columns) >= density] = 0
    return levels.astype(np.int32)


def entropy_bytes(levels: NDArray[np.int32]) -> float:
    shares = np.unique(levels, return_counts=True)[1] / len(levels)
    return float(-len(levels) * (shares * np.log2(shares)).sum() / 8)


def known_of(levels: NDArray[np.int32], columns: int, **more: int) -> Levels:
    chance = min(max(round(4_096 * np.count_nonzero(levels) / len(levels)), 1), 4_095)
    return Levels(int(-levels.min(initial=0)), int(levels.max(initial=0)), chance, columns, **more)


@pytest.mark.parametrize("density", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("shape", [{"columns": 300}, {"columns": 288, "kernel": 9, "kernel_row": 3}])
def test_noise_costs_little_more_than_its_entropy(density: float, shape: dict[str, int]) -> None:
    levels = levels_of(1, density, 200, shape["columns"])
    size = len(encode_levels(levels, known_of(levels, **shape)))
    assert size <= 1.02 * entropy_bytes(levels) + 60


def test_columns_rows_and_neighbours_are_foreseen() -> None:
    chance = np.random.default_rng(2)
    columns = np.repeat(chance.random(300)[None] < 0.1, 200, 0)
    rows = np.repeat(chance.random(200)[:, None] < 0.1, 300, 1)
    runs = np.repeat(chance.random((200, 30)) < 0.1, 10, 1)
    for mask in (columns, rows, runs):
        levels = np.where(mask & (chance.random(mask.shape) < 0.8), 1, 0).astype(np.int32).reshape(-1)
        assert len(encode_levels(levels, known_of(levels, 300))) < 0.75 * entropy_bytes(levels)


def test_a_lag_finds_the_neighbour_above() -> None:
    chance = np.random.default_rng(3)
    image = np.kron(chance.random((40, 7, 7)) < 0.15, np.ones((4, 4)))
    levels = (image * (chance.random(image.shape) < 0.9)).astype(np.int32).reshape(-1)
    plain, lagged = (len(encode_levels(levels, known_of(levels, 784, lag=lag))) for lag in (0, 28))
    assert lagged < 0.9 * plain


def test_all_zero_costs_nearly_nothing() -> None:
    levels = np.zeros(1 << 20, np.int32)
    known = Levels(3, 3, 1, 1024)
    data = encode_levels(levels, known)
    assert len(data) < 150
    assert not read(data, known, len(levels)).any()
    assert not len(encode_levels(levels[:0], known))


@pytest.mark.parametrize(("level", "lowest", "highest"), [(4, 3, 3), (-4, 3, 3), (1, 1, 0), (-1, 0, 1)])
def test_a_level_out_of_range_is_refused(level: int, lowest: int, highest: int) -> None:
    with pytest.raises(ParameterError, match=rf"The 'levels' parameter of encode_levels must be from {-lowest} to {highest}\."):
        encode_levels(np.array([level], np.int32), Levels(lowest, highest, 2_048, 1))


def test_the_logistic_table_is_what_the_format_says() -> None:
    upper = [math.floor(65_536 * math.exp(x / 256) / (1 + math.exp(x / 256))) for x in range(FAR + 1)]
    assert _SQUASHED.tolist() == [65_535 - chance for chance in upper[:0:-1]] + upper
    for place, chance in zip(_STRETCHED.tolist(), range(8, 65_536, 16), strict=True):
        assert _SQUASHED[place + FAR] <= chance < _SQUASHED[place + FAR + 1]
