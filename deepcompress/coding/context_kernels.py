"""The loop of `context`: one for writing and reading, so that both learn alike. FORMAT.md says the same in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcompress.coding.jit import inline, jit
from deepcompress.coding.logistic import FAR, FINE, LEAST, LIMIT, UNIT, learning_rates, logistic, stretched

_MIX_RATE, _MIX_SHIFT = 3, 18  # how fast mixing weights follow
_DENSEST = 24  # step of a density where nearly nothing is left
_UNARY = 14  # questions after a level's size, before the rest is said in bits
_REST_BITS = 16  # of the rest, at most
ABOVE = -2  # what is handed back where a level's size is above the largest
_COUNTERS = 1 << 16  # of columns, and of channels, at most

# Contexts of each question, and how many values one can have.
_ZERO, _SIGN, _SIZE, _TAIL = (10, 1_024), (4, 96), (7, 1_408), (1, _REST_BITS)


_SQUASHED = np.array(logistic(), np.int64)
_STRETCHED = np.array(stretched(), np.int64)
_RATES = np.array(learning_rates(), np.int64)


@inline
def _bit_length(number: int) -> int:
    length = 0
    while number:
        length += 1
        number >>= 1
    return length


@inline
def _density(part: int, whole: int) -> int:
    """How dense, in steps: 0 where nothing is known, then two steps for each factor of 2; 1 is for all."""
    if whole == 0:
        return 0
    share = ((10 * part + 4) << 20) // (10 * (whole + 1))
    log, rest = 0, share
    for shift in (16, 8, 4, 2, 1):
        if rest >> shift:
            rest >>= shift
            log += shift
    step = 2 * (20 - log) - ((share >> (log - 1)) & 1 if log else 0)
    return min(max(step, 0), _DENSEST - 1) + 1


@inline
def _sign(level: int) -> int:
    return 1 + (level > 0) - (level < 0)


@inline
def _narrow(bit: int, chance: int, wire: Any, reading: bool) -> int:
    """One step of the arithmetic coder, by a chance of 1 in 65,536ths; the bit that is said or read."""
    coder, data, out, _, _ = wire
    low, high = coder[0], coder[1]
    middle = low + (((high - low) * chance) >> 16)
    if reading:
        bit = 1 if coder[2] <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + 1
    while (low ^ high) >> 24 == 0:
        at = coder[3]
        if reading:
            following = data[at + 4] if at + 4 < len(data) else 0
            coder[2] = ((coder[2] << 8) & 0xFFFFFFFF) | following
        else:
            out[at] = high >> 24
        coder[3] = at + 1
        low = (low << 8) & 0xFFFFFFFF
        high = ((high << 8) & 0xFFFFFFFF) | 255
    coder[0], coder[1] = low, high
    return bit


@inline
def _ask(bit: int, question: Any, row: int, wire: Any, reading: bool) -> int:
    """One question, whose contexts stand in `slots`; its answer. The chances and their weights learn from it."""
    chances, seen, weights = question
    _, _, _, slots, stretched = wire
    total = 0
    for i in range(weights.shape[1]):
        stretched[i] = _STRETCHED[chances[i, slots[i]] >> (FINE - 12)]
        total += weights[row, i] * stretched[i]
    mixed = _SQUASHED[min(max(total >> 16, -FAR), FAR) + FAR]
    chance = min(max(mixed, LEAST), UNIT - LEAST)
    bit = _narrow(bit, chance, wire, reading)
    error = ((bit << 16) - chance) * _MIX_RATE
    for i in range(weights.shape[1]):
        slot = slots[i]
        weights[row, i] += (error * stretched[i] + (1 << (_MIX_SHIFT - 1))) >> _MIX_SHIFT
        chances[i, slot] += (((bit << FINE) - chances[i, slot]) * _RATES[seen[i, slot]]) >> 16
        seen[i, slot] = min(seen[i, slot] + 1, LIMIT)
    return bit


@inline
def _rest(more: int, question: Any, wire: Any, reading: bool) -> int:
    """A number above 0 in Elias gamma code: its bits but one, asked one by one, then themselves."""
    length = 0
    while length < _REST_BITS:
        wire[3][0] = length
        if not _ask(1 if more >> (length + 1) else 0, question, 0, wire, reading):
            break
        length += 1
    value = 1
    for place in range(length - 1, -1, -1):
        value = 2 * value + _narrow((more >> place) & 1, 1 << 15, wire, reading)
    return value


@inline
def _finish(wire: Any, reading: bool) -> Any:
    """The fewest bytes that, zeros behind them, are within the coder's range; how many in all, -1 for others than these."""
    coder, data, out, _, _ = wire
    low, high, at = coder[0], coder[1], coder[3]
    count, value = 4, low
    for fewer in range(4):
        unit = 1 << (32 - 8 * fewer)
        rounded = (low + unit - 1) // unit * unit
        if rounded <= high:
            count, value = fewer, rounded
            break
    if reading:
        return at + count if coder[2] == value or at + count != len(data) else -1
    for i in range(count):
        out[at + i] = (value >> (24 - 8 * i)) & 255
    return at + count


@jit
def code_levels(levels: Any, data: Any, out: Any, known: Any, start: int, reading: bool) -> Any:
    """Read `levels` from `data`, or write them to `out`; the bytes that they take, below 0 where `data` are those of none."""
    lowest, highest, first_chance, columns, kernel, kernel_row, lag = known
    zero = (
        np.full(_ZERO, first_chance << (FINE - 12), np.int32), np.zeros(_ZERO, np.uint8),
        np.full((1, _ZERO[0]), UNIT * 16 // (10 * _ZERO[0]), np.int64),
    )  # fmt: skip
    sign = (
        np.full(_SIGN, 1 << (FINE - 1), np.int32), np.zeros(_SIGN, np.uint8),
        np.full((1, _SIGN[0]), UNIT * 8 // (10 * _SIGN[0]), np.int64),
    )  # fmt: skip
    size = (
        np.full(_SIZE, 1 << (FINE - 1), np.int32), np.zeros(_SIZE, np.uint8),
        np.full((_UNARY, _SIZE[0]), UNIT // _SIZE[0], np.int64),
    )  # fmt: skip
    tail = np.full(_TAIL, 1 << (FINE - 1), np.int32), np.zeros(_TAIL, np.uint8), np.full((1, 1), UNIT, np.int64)

    slots = np.zeros(_ZERO[0], np.int64)
    coder = np.zeros(4, np.int64)  # low, high, the four bytes that are read, and bytes before them
    coder[1] = 0xFFFFFFFF
    wire = coder, data, out, slots, np.zeros(_ZERO[0], np.int64)
    if reading:
        for i in range(4):
            coder[2] = (coder[2] << 8) | (data[i] if i < len(data) else 0)

    # How many are not zero so far, and by how much they are beyond 1: in each column and channel, in the row, in the kernel. No
    # more counters than levels, nor than fit a cache, however long a row is.
    most = max(min(len(levels), _COUNTERS), 1)
    width, depth = min(columns, most), min((columns + kernel - 1) // kernel, most)
    column_filled, column_beyond = np.zeros(width, np.int64), np.zeros(width, np.int64)
    channel_filled, channel_beyond = np.zeros(depth, np.int64), np.zeros(depth, np.int64)
    filled = row_filled = row_beyond = kernel_filled = kernel_before = zeros = 0

    for at in range(len(levels)):
        if reading and coder[3] > len(data):
            return -1  # no levels end so early; zeros behind the end could go on for millions
        column = (start + at) % columns
        channel, k = column // kernel, column % kernel
        own, home = column % width, channel % depth
        rows = (at - column + start % columns) // columns
        if column == 0:
            row_filled = row_beyond = 0
        if k == 0 or at == 0:
            kernel_filled = kernel_before = 0
            for other in range(max(at - columns - k, 0), at - columns - k + min(kernel, 32)):
                kernel_before += levels[other] != 0

        left = levels[at - 1] if at >= 1 and column > 0 and (kernel == 1 or k % kernel_row > 0) else 0
        left2 = levels[at - 2] if at >= 2 and column > 1 else 0
        up = kernel_row if k >= kernel_row else (lag if kernel == 1 and column >= lag else 0)
        above = levels[at - up] if 0 < up <= at else 0
        before = levels[at - columns] if at >= columns else 0
        before2 = levels[at - 2 * columns] if at >= 2 * columns else 0
        beside = levels[at - kernel] if at >= kernel and channel > 0 else 0
        around = abs(left) + abs(above) + abs(before) + abs(beside)

        near, places = 2 * column_filled[own], 2
        for step in (1, lag):
            if 0 < step <= column:
                near += column_filled[(column - step) % width]
                places += 1
            if 0 < step < columns - column:
                near += column_filled[(column + step) % width]
                places += 1
        row_density = _density(row_filled, column)
        column_density = _density(column_filled[own], rows)
        near_density = _density(near, places * rows)

        slots[0] = 9 * min(abs(left), 2) + 3 * min(abs(above), 2) + min(abs(beside), 2)
        slots[1] = 2 * column_density + (left != 0)
        slots[2] = 2 * row_density + (before != 0)
        slots[3] = _density(channel_filled[home], rows * kernel + k) if kernel > 1 else near_density
        slots[4] = 4 * min(k, 24) + 2 * (before != 0) + (before2 != 0)
        slots[5] = 4 * near_density + 2 * (left != 0) + (above != 0)
        slots[6] = min(around + abs(before2) + abs(left2), 15)
        slots[7] = _density(filled, at)
        slots[8] = 13 * (row_density // 2) + column_density // 2
        if kernel > 1:
            slots[9] = 40 * min(k, 24) + 4 * min(kernel_filled, 9) + min(_bit_length(kernel_before), 3)
        else:
            slots[9] = min(zeros, 30)
        level = 0 if reading else levels[at]
        if not _ask(1 if level else 0, zero, 0, wire, reading):
            levels[at] = 0
            zeros += 1
            continue

        positive = 1 if level > 0 else 0
        if lowest == 0 or highest == 0:
            positive = 1 if lowest == 0 else 0
        else:
            slots[0] = 3 * _sign(left) + _sign(above)
            slots[1] = 3 * _sign(before) + _sign(beside)
            slots[2] = 9 * _sign(left) + 3 * _sign(above) + _sign(beside)
            slots[3] = min(k, 24)
            positive = _ask(positive, sign, 0, wire, reading)

        top, beyond = highest if positive else lowest, 0
        known_around = 1 + (left != 0) + (above != 0) + (before != 0) + (beside != 0)
        group_filled, group_beyond = channel_filled[home], channel_beyond[home]
        if kernel == 1:
            group_filled, group_beyond = column_filled[own], column_beyond[own]
        while beyond < _UNARY and beyond + 1 < top:
            slots[0] = 2 * beyond + positive
            slots[1] = 13 * beyond + min(around, 12)
            slots[2] = 100 * beyond + min(4 * around // known_around, 60)
            slots[3] = 26 * beyond + column_density
            slots[4] = 25 * beyond + min(k, 24)
            slots[5] = 24 * beyond + min((4 * row_beyond + row_filled) // (row_filled + 1), 23)
            slots[6] = 24 * beyond + min((4 * group_beyond + group_filled) // (group_filled + 1), 23)
            if not _ask(1 if abs(level) - 1 > beyond else 0, size, beyond, wire, reading):
                break
            beyond += 1
        if beyond == _UNARY and beyond + 1 < top:
            beyond += _rest(abs(level) - _UNARY, tail, wire, reading) - 1
        if beyond + 1 > top:
            return ABOVE
        levels[at] = beyond + 1 if positive else -(beyond + 1)
        zeros = 0
        filled, row_filled, kernel_filled = filled + 1, row_filled + 1, kernel_filled + 1
        row_beyond += beyond
        column_filled[own] += 1
        column_beyond[own] += beyond
        channel_filled[home] += 1
        channel_beyond[home] += beyond
    return _finish(wire, reading)
