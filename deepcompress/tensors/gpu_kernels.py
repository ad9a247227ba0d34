"""The loops that run on a GPU: codewords, fixed-width fields, and nonzeros to their places. Triton; see `gpu` for the launches.

Every index is proven on the host before a launch or masked here: no byte of a file leads outside an array. What is malformed
sets `flag`, and the values that were written are thrown away.

Elements move as integers of their size, so that every type of element is exact. Positions in a stream count bits, in int64.
"""

from __future__ import annotations

import triton
import triton.language as tl

from deepcompress.tensors import gpu_plan

_LENGTH_MASK = tl.constexpr(gpu_plan.LENGTH_MASK)
_ALL_AT = tl.constexpr(gpu_plan.ALL_AT)
_PAIR_AT = tl.constexpr(gpu_plan.PAIR_AT)
_FIRST_AT = tl.constexpr(gpu_plan.FIRST_AT)
_SECOND_AT = tl.constexpr(gpu_plan.SECOND_AT)

# Values of these arguments are no reason to compile a kernel again.
_UNSPECIALIZED = ["last", "lanes", "mask", "first_mask", "width", "known", "escape"]


@triton.jit  # type: ignore[untyped-decorator]
def _peek(words: tl.tensor, last: tl.tensor, position: tl.tensor) -> tl.tensor:
    """The next 64 bits at `position` >= 0, the next one lowest, as uint64.

    `words` are int64, the last two of them at `last` and `last` + 1; what lies too far on reads those two.
    """
    at = tl.minimum(position >> 6, last)
    shift = (position & 63).to(tl.uint64)
    low = tl.load(words + at).to(tl.uint64, bitcast=True)
    high = tl.load(words + at + 1).to(tl.uint64, bitcast=True)
    return (low >> shift) | ((high << 1) << (63 - shift))  # in two steps, for a shift by 64 has no meaning


@triton.jit(do_not_specialize=_UNSPECIALIZED)  # type: ignore[untyped-decorator]
def decode_codewords(
    words: tl.tensor,
    last: tl.tensor,
    starts: tl.tensor,
    stops: tl.tensor,
    firsts: tl.tensor,
    counts: tl.tensor,
    lanes: tl.tensor,
    table: tl.tensor,
    mask: tl.tensor,
    first_mask: tl.tensor,
    values: tl.tensor,
    out: tl.tensor,
    flag: tl.tensor,
    burst: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Decode lanes of codewords, one lane an element of the block: out[firsts[j] : firsts[j] + counts[j]] = values[symbols].

    Args:
        words, last: as for `_peek`.
        starts, stops: (lanes,) int64, the bytes of each lane.
        firsts, counts: (lanes,) int64 and int32, which symbols of the stream each lane holds; counts > 0.
        table: (mask + 1,) int32 by the next bits; an entry is of one codeword or two, and `burst` entries fit a peek.
        first_mask: the bits of an entry's first symbol.
        values: by symbol, for every symbol in `table`.
        flag: set where a lane does not end within its last byte, or is not filled up with zero bits.

    What limits it is the way from one entry to the next: its load from level-1 cache (about 35 cycles), and some ten
    instructions that take its length, shift, and find the next (about 45). So a lane gives one or two symbols in 80 cycles,
    and at 1.75 GHz a thousand lanes give 22 to 44 G symbols a second, 90 to 175 GB/s of float32; more lanes give more. Tables
    of more than 15 bits lie in level-2 cache, where a load takes five times as long. Threads of a warp read and write far
    from each other, each a 32-byte sector of its own, so that a warp's access takes up to 32 turns; eight stores in a row
    fill a sector in level 2. At some three turns a symbol and one turn a cycle an SM gives no more than 0.3 symbols a
    cycle: three times what 100 GB/s need of an H200's 132.
    """
    lane = tl.program_id(0) * block + tl.arange(0, block)
    here = lane < lanes
    start = tl.load(starts + lane, mask=here, other=0)
    stop = tl.load(stops + lane, mask=here, other=0)
    at = tl.load(firsts + lane, mask=here, other=0)
    left = tl.load(counts + lane, mask=here, other=0)
    position = start * 8
    # What is still to be stored, of the entry before: a store waits for its value, and what comes after it would wait as well.
    live = left < 0
    both = left < 0
    first = tl.zeros([block], values.dtype.element_ty)
    second = tl.zeros([block], values.dtype.element_ty)
    taken = left * 0
    while tl.max(left, axis=0) > 0:
        word = _peek(words, last, position)
        for _ in tl.static_range(burst):
            entry = tl.load(table + (word.to(tl.int32) & mask))
            tl.store(out + at, first, mask=live)
            tl.store(out + at + 1, second, mask=both)
            at += taken
            live = left > 0
            both = (left > 1) & (((entry >> _PAIR_AT) & 1) != 0)
            first = tl.load(values + ((entry >> _FIRST_AT) & first_mask), mask=live, other=0)
            second = tl.load(values + (entry >> _SECOND_AT), mask=both, other=0)
            length = tl.where(live, tl.where(both, entry >> _ALL_AT, entry) & _LENGTH_MASK, 0)
            word = word >> length.to(tl.uint64)
            position += length
            taken = live.to(tl.int32) + both.to(tl.int32)
            left -= taken
    tl.store(out + at, first, mask=live)
    tl.store(out + at + 1, second, mask=both)
    filling = (-position) & 7
    tail = _peek(words, last, position) & ((1 << filling) - 1).to(tl.uint64)
    wrong = here & ((((position + 7) >> 3) != stop) | (tail != 0))
    if tl.max(wrong.to(tl.int32), axis=0) > 0:
        tl.store(flag, 1)


@triton.jit(do_not_specialize=_UNSPECIALIZED)  # type: ignore[untyped-decorator]
def decode_fields(
    words: tl.tensor,
    last: tl.tensor,
    starts: tl.tensor,
    firsts: tl.tensor,
    counts: tl.tensor,
    width: tl.tensor,
    values: tl.tensor,
    known: tl.tensor,
    out: tl.tensor,
    flag: tl.tensor,
    block: tl.constexpr,
) -> None:
    """Decode lanes of fields of `width` <= 17 bits, one lane a program: out[firsts[j] + i] = values[field i].

    Where a field lies is known beforehand, so neighbours in the block read and write side by side, and memory is the limit.

    Args:
        words, last, starts, firsts, counts: as for `decode_codewords`.
        values: (known,) by field.
        flag: set where a field is `known` or more.
    """
    lane = tl.program_id(0)
    start = tl.load(starts + lane) * 8
    first = tl.load(firsts + lane)
    count = tl.load(counts + lane)
    wrong = tl.zeros([block], tl.int32)
    for done in range(0, count, block):
        index = done + tl.arange(0, block)
        here = index < count
        word = _peek(words, last, start + index.to(tl.int64) * width)
        field = word.to(tl.int32) & ((1 << width) - 1)
        fits = here & (field < known)
        value = tl.load(values + field, mask=fits, other=0)
        tl.store(out + first + index, value, mask=here)
        wrong = wrong | (here & (field >= known)).to(tl.int32)
    if tl.max(wrong, axis=0) > 0:
        tl.store(flag, 1)


@triton.jit(do_not_specialize=_UNSPECIALIZED)  # type: ignore[untyped-decorator]
def scatter_nonzeros(
    gaps: tl.tensor,
    gap_firsts: tl.tensor,
    gap_counts: tl.tensor,
    escape: tl.tensor,
    values: tl.tensor,
    value_firsts: tl.tensor,
    value_counts: tl.tensor,
    bases: tl.tensor,
    ends: tl.tensor,
    out: tl.tensor,
    flag: tl.tensor,
    zero: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Put the nonzeros of a chunk, one a program, where its gaps lead to: a prefix sum of the steps, block after block.

    Args:
        gaps: the stream's symbols, int32 in 0 to `escape`.
        gap_firsts, gap_counts: (chunks,) int64 and int32, which of them each chunk has; counts > 0.
        values: the nonzeros' values.
        value_firsts, value_counts: (chunks,) int64 and int32, which of them each chunk has, all of them there.
        bases, ends: (chunks,) int64, the chunk's elements of `out`.
        flag: set where gaps run past the chunk, end in an escape, or lead to another number of nonzeros; and, unless `zero`,
            where a value is zero.
    """
    chunk = tl.program_id(0)
    first = tl.load(gap_firsts + chunk)
    count = tl.load(gap_counts + chunk)
    value_first = tl.load(value_firsts + chunk)
    value_count = tl.load(value_counts + chunk)
    position = tl.load(bases + chunk)
    end = tl.load(ends + chunk)
    taken = value_count * 0
    wrong = tl.zeros([block], tl.int32)
    for done in range(0, count, block):
        index = done + tl.arange(0, block)
        here = index < count
        gap = tl.load(gaps + first + index, mask=here, other=0)
        kept = (here & (gap != escape)).to(tl.int32)
        step = gap + kept
        place = position + tl.cumsum(step, axis=0) - 1
        nth = taken + tl.cumsum(kept, axis=0) - 1
        fits = (kept != 0) & (place < end) & (nth < value_count)
        value = tl.load(values + value_first + nth, mask=fits, other=0)
        tl.store(out + place, value, mask=fits)
        if not zero:
            wrong = wrong | (fits & (value == 0)).to(tl.int32)
        position += tl.sum(step, axis=0)
        taken += tl.sum(kept, axis=0)
    ends_in_escape = tl.load(gaps + first + count - 1) == escape
    if (tl.max(wrong, axis=0) > 0) | (position > end) | (taken != value_count) | ends_in_escape:
        tl.store(flag, 1)


INTERPRETED = not isinstance(decode_fields, triton.JITFunction)  # by Triton's interpreter, on the CPU
