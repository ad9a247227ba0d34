"""The loop of `context`: one for writing and reading, so that both learn alike."""

from __future__ import annotations

import numpy as np

from deepcompress.coding.jit import inline, jit

_SCALE = 256  # of the logistic domain: steps for a factor of e
_FAR = 2_815  # its ends, a chance of 1 in 60,000
_UNIT = 1 << 16  # of chances as the coder uses them, and of mixing weights
_FINE = 22  # bits of a chance as it is learned
_LIMIT = 250  # after so many events a chance moves by 1 / 250 of what is new
_RATES = np.array([10 * _UNIT // (10 * seen + 16) for seen in range(_LIMIT + 1)], np.int64)
_LEAST = 48  # of a mixed chance, in 65,536ths
_MIX_RATE, _MIX_SHIFT = 3, 18
_STEPS = 25  # of a density
_UNARY = 14  # questions after a level's size, before the rest is said in bits
_REST = 17  # bits of it at most


def _logistic() -> np.ndarray:
    """65,536 / (1 + e^(-x / 256)) for x from -_FAR to _FAR, rounded down; in whole numbers of 200 bits."""
    one = 1 << 200
    step, term, count = one, one, 1  # e^(1 / 256) as its series
    while term := term // (_SCALE * count):
        step, count = step + term, count + 1
    power, found = one, []
    for _ in range(_FAR + 1):
        found.append(power)
        power = power * step // one
    positive = [_UNIT * p // (p + one) for p in found]
    return np.array([_UNIT - 1 - p for p in positive[:0:-1]] + positive, np.int64)


def _logit(squash: np.ndarray) -> np.ndarray:
    """For chances in 4,096ths, plus a half, the place in the logistic domain: the last whose chance is not above."""
    return (np.searchsorted(squash, 16 * np.arange(4_096) + 8, side="right") - 1 - _FAR).astype(np.int64)


_SQUASH = _logistic()
_STRETCH = _logit(_SQUASH)

# What each question's contexts can be; a question has a row of mixing weights, or one for each size.
_ZERO, _SIGN, _SIZE, _TAIL = 10, 4, 5, 1
_ZERO_SLOTS, _SIGN_SLOTS, _SIZE_SLOTS, _TAIL_SLOTS = 1_024, 96, 2_048, 64


@inline
def _steps(part: int, whole: int) -> int:
    """How dense: 0 for nothing known, then two steps for each factor of 2, 1 for all."""
    if whole == 0:
        return 0
    share = ((10 * part + 4) << 20) // (10 * (whole + 1))
    log = 0
    rest = share
    for shift in (16, 8, 4, 2, 1):
        if rest >> shift:
            rest >>= shift
            log += shift
    step = 2 * (20 - log) - ((share >> (log - 1)) & 1 if log else 0)
    return min(max(step, 0), _STEPS - 2) + 1


@inline
def _size_of(count: int) -> int:
    log = 0
    while count:
        log += 1
        count >>= 1
    return log


@inline
def _mixed(slots, count, chances, weights, row, inputs):  # type: ignore[no-untyped-def]
    """The mixture's place in the logistic domain."""
    total = 0
    for i in range(count):
        inputs[i] = _STRETCH[chances[i, slots[i]] >> (_FINE - 12)]
        total += weights[row, i] * inputs[i]
    return min(max(total >> 16, -_FAR), _FAR)


@inline
def _learn(bit, chance, slots, count, chances, seen, weights, row, inputs):  # type: ignore[no-untyped-def]
    error = ((bit << 16) - chance) * _MIX_RATE
    for i in range(count):
        slot = slots[i]
        weights[row, i] += (error * inputs[i] + (1 << (_MIX_SHIFT - 1))) >> _MIX_SHIFT
        chances[i, slot] += ((np.int64(bit << _FINE) - chances[i, slot]) * _RATES[seen[i, slot]]) >> 16
        seen[i, slot] = min(seen[i, slot] + 1, _LIMIT)


@inline
def _narrow(bit, chance, coder, data, out, reading):  # type: ignore[no-untyped-def]
    """One step of the arithmetic coder; the bit, said or read. `coder` is low, high, what was read, and bytes so far."""
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
        if not reading:
            out[at] = high >> 24
        else:
            following = at + 4
            coder[2] = ((coder[2] << 8) & 0xFFFFFFFF) | (data[following] if following < len(data) else 0)
        coder[3] = at + 1
        low = (low << 8) & 0xFFFFFFFF
        high = ((high << 8) & 0xFFFFFFFF) | 255
    coder[0], coder[1] = low, high
    return bit


@inline
def _ask(bit, slots, count, chances, seen, weights, row, inputs, coder, data, out, reading):  # type: ignore[no-untyped-def]
    """One question; its answer."""
    chance = min(max(_SQUASH[_mixed(slots, count, chances, weights, row, inputs) + _FAR], _LEAST), _UNIT - _LEAST)
    bit = _narrow(bit, chance, coder, data, out, reading)
    _learn(bit, chance, slots, count, chances, seen, weights, row, inputs)
    return bit


@jit
def code_levels(levels, data, out, known, start, reading):  # type: ignore[no-untyped-def]
    """Read `levels` from `data`, or write them to `out`; the bytes that they take, below 0 where the data are those of none."""
    lowest, highest, first_chance, columns = known[0], known[1], known[2], known[3]
    kernel, kernel_row, lag = known[4], known[5], known[6]
    channels = (columns + kernel - 1) // kernel

    zero_chances = np.full((_ZERO, _ZERO_SLOTS), first_chance << (_FINE - 12), np.int32)
    sign_chances = np.full((_SIGN, _SIGN_SLOTS), 1 << (_FINE - 1), np.int32)
    size_chances = np.full((_SIZE, _SIZE_SLOTS), 1 << (_FINE - 1), np.int32)
    tail_chances = np.full((_TAIL, _TAIL_SLOTS), 1 << (_FINE - 1), np.int32)
    zero_seen = np.zeros((_ZERO, _ZERO_SLOTS), np.uint8)
    sign_seen = np.zeros((_SIGN, _SIGN_SLOTS), np.uint8)
    size_seen = np.zeros((_SIZE, _SIZE_SLOTS), np.uint8)
    tail_seen = np.zeros((_TAIL, _TAIL_SLOTS), np.uint8)
    zero_weights = np.full((1, _ZERO), _UNIT * 2 // _ZERO, np.int64)
    sign_weights = np.full((1, _SIGN), _UNIT * 4 // (5 * _SIGN), np.int64)
    size_weights = np.full((_UNARY, _SIZE), _UNIT // _SIZE, np.int64)
    tail_weights = np.full((1, _TAIL), _UNIT, np.int64)
    slots, mixed = np.zeros(_ZERO, np.int64), np.zeros(_ZERO, np.int64)

    coder = np.zeros(4, np.int64)
    coder[1] = 0xFFFFFFFF
    if reading:
        for i in range(4):
            coder[2] = (coder[2] << 8) | (data[i] if i < len(data) else 0)

    width, depth = min(columns, len(levels)), min(channels, len(levels))  # no more memory than levels, however long a row is
    in_column, in_channel = np.zeros(width, np.int64), np.zeros(depth, np.int64)
    in_row = total = run = in_kernel = 0
    for at in range(len(levels)):
        column = (start + at) % columns
        if column == 0 or at == 0:
            in_row = 0
        channel, k = column // kernel, column % kernel
        if k == 0 or at == 0:
            in_kernel = 0
        x, y = k % kernel_row, k // kernel_row
        rows = (at - column + (start % columns)) // columns  # whole rows before this one
        left = levels[at - 1] if at > 0 and column > 0 and (kernel == 1 or x > 0) else 0
        if kernel > 1:
            above = levels[at - kernel_row] if y > 0 and at >= kernel_row else 0
        else:
            above = levels[at - lag] if 0 < lag <= column and lag <= at else 0
        before = levels[at - columns] if at >= columns else 0
        before2 = levels[at - 2 * columns] if at >= 2 * columns else 0
        channel_before = levels[at - kernel] if channel > 0 and at >= kernel else 0
        left2 = levels[at - 2] if column > 1 and at > 1 else 0
        a, b, c, d = abs(left), abs(above), abs(before), abs(channel_before)
        near, places = 2 * in_column[column % width], 2
        if column > 0:
            near += in_column[(column - 1) % width]
            places += 1
        if column + 1 < columns:
            near += in_column[(column + 1) % width]
            places += 1
        if 0 < lag <= column:
            near += in_column[(column - lag) % width]
            places += 1
        if 0 < lag < columns - column:
            near += in_column[(column + lag) % width]
            places += 1
        row_density = _steps(in_row, column)
        column_density = _steps(in_column[column % width], rows)
        near_density = _steps(near, places * rows)
        slots[0] = (min(a, 2) * 3 + min(b, 2)) * 3 + min(d, 2)
        slots[1] = column_density * 2 + (a > 0)
        slots[2] = row_density * 2 + (c > 0)
        slots[3] = _steps(in_channel[channel % depth], rows * kernel + k) if kernel > 1 else near_density
        slots[4] = min(k, 24) * 4 + min(2 * (c > 0) + (before2 != 0), 3)
        slots[5] = near_density * 4 + (a > 0) * 2 + (b > 0)
        slots[6] = min(a + b + c + d + abs(before2) + abs(left2), 15)
        slots[7] = _steps(total, at)
        slots[8] = (row_density // 2) * 13 + column_density // 2
        if kernel > 1:
            filled = 0
            if at - columns >= 0 and at - columns - k >= 0:
                for t in range(min(kernel, 32)):
                    filled += levels[at - columns - k + t] != 0 if at - columns - k + t < at else 0
            slots[9] = (min(k, 24) * 10 + min(in_kernel, 9)) * 4 + min(_size_of(filled), 3)
        else:
            slots[9] = min(run, 30)
        level = 0 if reading else levels[at]
        bit = _ask(
            1 if level else 0, slots, _ZERO, zero_chances, zero_seen, zero_weights, 0, mixed, coder, data, out, reading
        )
        if not bit:
            levels[at] = 0
            run += 1
            continue
        run = 0
        positive = 1 if level > 0 else 0
        if lowest == 0 or highest == 0:
            positive = 1 if lowest == 0 else 0
        else:
            signs = 0
            slots[0] = (1 + (left > 0) - (left < 0)) * 3 + (1 + (above > 0) - (above < 0))
            signs = (1 + (channel_before > 0) - (channel_before < 0)) if kernel > 1 else 1
            slots[1] = (1 + (before > 0) - (before < 0)) * 3 + signs
            slots[2] = slots[0] * 3 + signs
            slots[3] = min(k, 24)
            positive = _ask(
                positive, slots, _SIGN, sign_chances, sign_seen, sign_weights, 0, mixed, coder, data, out, reading
            )
        top = highest if positive else lowest
        more = abs(level) - 1
        sum_near = min(a + b + c + d, 12)
        found = 0
        while found < _UNARY and found + 1 < top:
            slots[0] = found * 2 + positive
            slots[1] = found * 13 + sum_near
            slots[2] = found * 26 + row_density
            slots[3] = found * 26 + column_density
            slots[4] = found * 25 + min(k, 24)
            if not _ask(
                1 if more > found else 0, slots, _SIZE, size_chances, size_seen, size_weights, found, mixed, coder, data, out,
                reading,
            ):
                break
            found += 1
        if found == _UNARY and found + 1 < top:  # the rest in Elias gamma code
            rest = more - found + 1
            bits = 0
            while not reading and rest >> (bits + 1):
                bits += 1
            length = 0
            while length < _REST - 1:
                slots[0] = length
                if not _ask(
                    1 if bits > length else 0, slots, _TAIL, tail_chances, tail_seen, tail_weights, 0, mixed, coder, data, out,
                    reading,
                ):
                    break
                length += 1
            value = 1
            for place in range(length - 1, -1, -1):
                value = 2 * value + _narrow((rest >> place) & 1, 1 << 15, coder, data, out, reading)
            found += value - 1
        if found + 1 > top:
            return -2
        levels[at] = found + 1 if positive else -(found + 1)
        in_row += 1
        in_column[column % width] += 1
        in_channel[channel % depth] += 1
        in_kernel += 1
        total += 1

    # The end: the shortest bytes that, with zeros behind them, lie between low and high.
    low, high, at = coder[0], coder[1], coder[3]
    count, value = 4, low
    for bytes_ in range(5):
        shift = 8 * (4 - bytes_)
        rounded = ((low + (1 << shift) - 1) >> shift) << shift
        if rounded <= high:
            count, value = bytes_, rounded
            break
    if reading:
        used = at + count
        if used == len(data) and coder[2] != value:
            return -1
        return used
    for i in range(count):
        out[at + i] = (value >> (24 - 8 * i)) & 255
    return at + count
