"""Symbols by context (codec 4), as FORMAT.md defines them: simple and slow. Standard library only."""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from tests.reference.coding import Bytes, refuse

MAX_SYMBOL = 65_535
MAX_FIRST = 4_095
STEEP = 2_815  # the largest logit
LEAST, MOST = 48, 65_488
HALF, EVEN = 32_768, 1 << 21
MAX_ANSWERS = 250
UNARY, GAMMA = 14, 16
TAPS = 24  # those beyond are one
KERNEL = 32
COUNTERS = 65_536
MAX_CHUNK_LOG2 = 20
ZERO, SIGN, SIZE, BITS = 10_485, 13_107, 9_362, 65_536  # what weights begin at


def _above(x: int) -> int:
    return int(65_536 * math.exp(x / 256) / (1 + math.exp(x / 256)))


S = [65_535 - _above(-x) if x < 0 else _above(x) for x in range(-STEEP, STEEP + 1)]
T = [bisect_right(S, 16 * i + 8) - 1 - STEEP for i in range(4_096)]


@dataclass(frozen=True)
class Levels:
    """What the parameters say of the levels, and how they become symbols."""

    lowest: int
    highest: int
    first: int
    lag: int
    symbol: Callable[[int], int]


@dataclass(frozen=True)
class Places:
    """What the shape says of neighbours."""

    columns: int
    kernel: int
    kernel_row: int


def places(shape: Sequence[int]) -> Places:
    columns = math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)
    kernel_row = shape[-1] if len(shape) > 2 else 1
    return Places(max(columns, 1), max(math.prod(shape[2:]), 1), max(kernel_row, 1))


def levels(parameters: Bytes, at: Places, k: int | None) -> Levels:
    """The stream's parameters; `k` is the number of centroids, None with an affine map."""
    if k is None:
        zero, lowest, highest = parameters.varint(), parameters.varint(), parameters.varint()
        refuse(lowest > zero, f"{lowest} levels below zero, which is symbol {zero}")
        refuse(zero + highest > MAX_SYMBOL, f"symbol {zero + highest} above {MAX_SYMBOL}")
        symbol = partial(_of_grid, zero)
    else:
        lowest = parameters.varint()
        refuse(lowest > k, f"{lowest} of {k} centroids below zero")
        highest, symbol = k - lowest, partial(_of_codebook, lowest)
    first, lag = parameters.varint(), parameters.varint()
    refuse(not 1 <= first <= MAX_FIRST, f"a first chance of {first}")
    refuse(lag and (at.kernel > 1 or lag >= at.columns), f"lag {lag}")
    parameters.end("codec parameters")
    return Levels(lowest, highest, first, lag, symbol)


def _of_grid(zero: int, level: int) -> int:
    return zero + level


def _of_codebook(below: int, level: int) -> int:
    return level + below + (level < 0) if level else 0


class Coder:
    """Binary answers out of a chunk's bytes, of which it must have neither too few nor too many."""

    def __init__(self, chunk: bytes) -> None:
        self.chunk, self.out = chunk, bytearray()
        self.low, self.high = 0, 2**32 - 1

    def answer(self, chance: int) -> int:
        held = int.from_bytes(self.chunk[len(self.out) : len(self.out) + 4].ljust(4, b"\0"), "big")
        return self.narrow(chance, yes=held <= self.middle(chance))

    def middle(self, chance: int) -> int:
        return self.low + ((self.high - self.low) * chance >> 16)

    def narrow(self, chance: int, *, yes: bool) -> int:
        middle = self.middle(chance)
        if yes:
            self.high = middle
        else:
            self.low = middle + 1
        while self.low >> 24 == self.high >> 24:
            self.out.append(self.low >> 24)
            self.low = self.low << 8 & 0xFFFFFFFF
            self.high = (self.high << 8 | 0xFF) & 0xFFFFFFFF
        return int(yes)

    def last(self) -> bytes:
        """The bytes that go out at the end."""
        for size in range(4):  # bytes that are not zero
            unit = 1 << (32 - 8 * size)
            number = -(-self.low // unit)
            if number * unit <= self.high:
                return number.to_bytes(size, "big")
        return self.low.to_bytes(4, "big")

    def end(self) -> None:
        refuse(self.out + self.last() != self.chunk, "a chunk that ends otherwise than its levels say")


class Saying(Coder):
    """The other way round: the bytes of the answers in `says`, one after the other."""

    def __init__(self, says: Iterable[int]) -> None:
        super().__init__(b"")
        self.says = iter(says)

    def answer(self, chance: int) -> int:
        return self.narrow(chance, yes=bool(next(self.says)))

    def end(self) -> None:
        self.out += self.last()


class Mixer:
    """One kind of question: a table of chances for each of its contexts, and weights."""

    def __init__(self, contexts: int, chance: int, weight: int) -> None:
        self.chances: list[dict[int, list[int]]] = [defaultdict(lambda: [chance, 0]) for _ in range(contexts)]
        self.weights: dict[int, list[int]] = defaultdict(lambda: [weight] * contexts)

    def ask(self, coder: Coder, contexts: Sequence[int], which: int = 0) -> int:
        chances = [table[context] for table, context in zip(self.chances, contexts, strict=True)]
        weights = self.weights[which]
        logits = [T[c >> 10] for c, _ in chances]
        total = sum(w * t for w, t in zip(weights, logits, strict=True)) >> 16
        mixed = min(max(S[min(max(total, -STEEP), STEEP) + STEEP], LEAST), MOST)
        yes = coder.answer(mixed)
        for i, t in enumerate(logits):
            weights[i] += (3 * (65_536 * yes - mixed) * t + 131_072) >> 18
        for chance in chances:
            c, n = chance
            chance[:] = c + (((yes << 22) - c) * (655_360 // (10 * n + 16)) >> 16), min(n + 1, MAX_ANSWERS)
        return yes


def density(part: int, whole: int) -> int:
    if whole == 0:
        return 0
    share = ((10 * part + 4) << 20) // (10 * (whole + 1))
    place = max(share.bit_length() - 1, 0)
    lower = share >> (place - 1) & 1 if place else 0
    return min(max(2 * (20 - place) - lower, 0), 23) + 1


def sign(level: int) -> int:
    return (level > 0) - (level < 0) + 1


class Counter:
    """How many levels were other than zero, and by how much they were beyond 1."""

    def __init__(self) -> None:
        self.filled = self.beyond = 0

    def add(self, level: int) -> None:
        self.filled += 1
        self.beyond += abs(level) - 1

    @property
    def mean(self) -> int:
        return min((4 * self.beyond + self.filled) // (self.filled + 1), 23)


class Chunk:
    """Reads a chunk's levels, one after the other; everything is learned anew."""

    def __init__(self, known: Levels, shape: Places, coder: Coder, start: int, count: int) -> None:
        self.known, self.shape, self.coder, self.start, self.count = known, shape, coder, start, count
        self.levels: list[int] = []
        self.zero = Mixer(10, known.first << 10, ZERO)
        self.sign, self.size, self.bits = Mixer(4, EVEN, SIGN), Mixer(7, EVEN, SIZE), Mixer(1, EVEN, BITS)
        self.row, self.all = Counter(), Counter()
        self.by_column: dict[int, Counter] = defaultdict(Counter)
        self.by_channel: dict[int, Counter] = defaultdict(Counter)
        self.shared_columns = min(shape.columns, count, COUNTERS)
        self.shared_channels = min(-(-shape.columns // shape.kernel), count, COUNTERS)
        self.kernel_filled = self.kernel_before = self.zeros = 0

    def read(self) -> list[int]:
        for at in range(self.count):
            self.place(at)
            self.neighbours(at)
            level = self.level()
            self.levels.append(level)
            self.zeros = 0 if level else self.zeros + 1
            if level:
                self.kernel_filled += 1
                for counter in (self.row, self.all, self.column_counter(self.column), self.channel_counter):
                    counter.add(level)
        self.coder.end()
        return self.levels

    def place(self, at: int) -> None:
        columns, kernel = self.shape.columns, self.shape.kernel
        self.at, self.column = at, (self.start + at) % columns
        self.channel, self.tap = divmod(self.column, kernel)
        self.rows = (at - self.column + self.start % columns) // columns
        if self.column == 0:
            self.row = Counter()
        if self.tap == 0:
            self.kernel_filled = 0
            places = range(max(at - columns, 0), max(at - columns + min(kernel, KERNEL), 0))
            self.kernel_before = sum(self.levels[place] != 0 for place in places)
        self.channel_counter = self.by_channel[self.channel % self.shared_channels]

    def neighbours(self, at: int) -> None:
        columns, kernel, kernel_row, lag = self.shape.columns, self.shape.kernel, self.shape.kernel_row, self.known.lag
        self.left = self.neighbour(at - 1, self.column > 0 and (kernel == 1 or self.tap % kernel_row > 0))
        self.left2 = self.neighbour(at - 2, self.column > 1)
        if kernel == 1:
            self.above = self.neighbour(at - lag, 0 < lag <= self.column)
        else:
            self.above = self.neighbour(at - kernel_row, self.tap >= kernel_row)
        self.before = self.neighbour(at - columns)
        self.before2 = self.neighbour(at - 2 * columns)
        self.beside = self.neighbour(at - kernel, self.channel > 0)
        self.around = sum(map(abs, (self.left, self.above, self.before, self.beside)))

    def neighbour(self, at: int, there: bool = True) -> int:
        return self.levels[at] if there and at >= 0 else 0

    def column_counter(self, column: int) -> Counter:
        return self.by_column[column % self.shared_columns]

    def near_density(self) -> int:
        near, places = 2 * self.column_counter(self.column).filled, 2
        for step in (1, self.known.lag):
            if 0 < step <= self.column:
                near, places = near + self.column_counter(self.column - step).filled, places + 1
            if 0 < step < self.shape.columns - self.column:
                near, places = near + self.column_counter(self.column + step).filled, places + 1
        return density(near, places * self.rows)

    def level(self) -> int:
        self.column_density = density(self.column_counter(self.column).filled, self.rows)
        if not self.zero.ask(self.coder, self.of_zero()):
            return 0
        lowest, highest = self.known.lowest, self.known.highest
        positive = lowest == 0
        if lowest and highest:
            positive = bool(self.sign.ask(self.coder, self.of_positive()))
        top = highest if positive else lowest
        size = self.magnitude(top, positive)
        refuse(size > top, f"a level of size {size} above {top}")
        return size if positive else -size

    def of_zero(self) -> list[int]:
        row_density, near_density, place = density(self.row.filled, self.column), self.near_density(), min(self.tap, TAPS)
        kernel = self.shape.kernel
        last = min(self.zeros, 30)
        if kernel > 1:
            last = 40 * place + 4 * min(self.kernel_filled, 9) + min(self.kernel_before.bit_length(), 3)
        return [
            9 * min(abs(self.left), 2) + 3 * min(abs(self.above), 2) + min(abs(self.beside), 2),
            2 * self.column_density + (self.left != 0),
            2 * row_density + (self.before != 0),
            near_density if kernel == 1 else density(self.channel_counter.filled, self.rows * kernel + self.tap),
            4 * place + 2 * (self.before != 0) + (self.before2 != 0),
            4 * near_density + 2 * (self.left != 0) + (self.above != 0),
            min(self.around + abs(self.before2) + abs(self.left2), 15),
            density(self.all.filled, self.at),
            13 * (row_density // 2) + self.column_density // 2,
            last,
        ]

    def of_positive(self) -> list[int]:
        left, above, before, beside = map(sign, (self.left, self.above, self.before, self.beside))
        return [3 * left + above, 3 * before + beside, 9 * left + 3 * above + beside, min(self.tap, TAPS)]

    def magnitude(self, top: int, positive: bool) -> int:
        asked = sum(level != 0 for level in (self.left, self.above, self.before, self.beside))
        group = self.column_counter(self.column) if self.shape.kernel == 1 else self.channel_counter
        mean = min(4 * self.around // (1 + asked), 60)
        for j in range(UNARY):
            if j + 1 >= top:
                return j + 1
            contexts = (
                2 * j + positive,
                13 * j + min(self.around, 12),
                100 * j + mean,
                26 * j + self.column_density,
                25 * j + min(self.tap, TAPS),
                24 * j + self.row.mean,
                24 * j + group.mean,
            )
            if not self.size.ask(self.coder, contexts, j):
                return j + 1
        return UNARY + self.number() if top > UNARY + 1 else UNARY + 1

    def number(self) -> int:
        bits = 0
        while bits < GAMMA and self.bits.ask(self.coder, [bits]):
            bits += 1
        value = 1
        for _ in range(bits):
            value = value << 1 | self.coder.answer(HALF)
        return value


def read_chunk(known: Levels, shape: Places, data: bytes, start: int, count: int) -> list[int]:
    """The symbols of a chunk of `count` levels from the flat place `start` on."""
    return [known.symbol(level) for level in Chunk(known, shape, Coder(data), start, count).read()]


def write_chunk(known: Levels, shape: Places, levels: Sequence[int], start: int = 0) -> bytes:
    """The bytes of a chunk, also of one with levels that cannot stand."""
    saying = Saying(answer for level in levels for answer in _answers(known, level))
    Chunk(known, shape, saying, start, len(levels)).read()
    return bytes(saying.out)


def _answers(known: Levels, level: int) -> Iterator[int]:
    yield int(level != 0)
    if level == 0:
        return
    if known.lowest and known.highest:
        yield int(level > 0)
    size, top = abs(level), known.highest if level > 0 else known.lowest
    for j in range(min(UNARY, top - 1)):
        yield int(size > j + 1)
        if size == j + 1:
            return
    if top > UNARY + 1:
        bits = f"{size - UNARY:b}"[1:]
        yield from (int(i < len(bits)) for i in range(min(len(bits) + 1, GAMMA)))
        yield from map(int, bits)
