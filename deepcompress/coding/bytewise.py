"""Few bytes, such as a small file's directory, bit by bit: what followed the same bytes before foresees them.

As in `context`, chances from several contexts are mixed in the logistic domain and drive a binary arithmetic coder; here the
contexts are the last 0, 1, 2, 3 and 5 bytes. Plain Python: a directory opens without compiled code, and has few bytes.

Source: Mahoney. Adaptive weighing of context models for lossless data compression. 2005.
"""

from __future__ import annotations

from operator import mul

from deepcompress.coding.logistic import FAR, FINE, LEAST, LIMIT, UNIT, learning_rates, logistic, stretched
from deepcompress.errors import FormatError

__all__ = ["decode_bytes", "encode_bytes"]

_ORDERS = (0, 1, 2, 3, 5)
_MASKS = tuple((1 << 8 * order) - 1 for order in _ORDERS)
_WEIGHT = 39_322  # 0.6 of 65,536: what mixing weights begin at
_WORD = 0xFFFFFFFF
_Nodes = dict[int, dict[int, list[int]]]  # last bytes -> by the byte's bits so far, behind a one: chance and answers


def encode_bytes(content: bytes, before: bytes = b"") -> bytes:
    """The bytes that say `content` to who knows how many it has; from `before` reader and writer have learned."""
    coder = _Writer()
    model = _Model(coder, before)
    for byte in content:
        model.code(byte)
    return coder.finish()


def decode_bytes(data: bytes, count: int, before: bytes = b"") -> bytes:
    """`count` bytes out of what `encode_bytes` made of them.

    Raises:
        FormatError: `data` is not exactly that.
    """
    coder = _Reader(data)
    model = _Model(coder, before)
    content = bytes(model.code(0) for _ in range(count))
    coder.finish()
    return content


class _Writer:
    """The arithmetic coder of `context_kernels`, bits into bytes."""

    def __init__(self) -> None:
        self.low, self.high, self.out = 0, _WORD, bytearray()

    def code(self, bit: int, chance: int) -> int:
        """One step, by a chance of 1 in 65,536ths."""
        middle = self.low + ((self.high - self.low) * chance >> 16)
        self.low, self.high = (self.low, middle) if bit else (middle + 1, self.high)
        while not (self.low ^ self.high) >> 24:
            self.out.append(self.low >> 24)
            self.low, self.high = self.low << 8 & _WORD, self.high << 8 & _WORD | 255
        return bit

    def finish(self) -> bytes:
        """The fewest bytes that, zeros behind them, are within the range."""
        for count in range(5):
            unit = 1 << 8 * (4 - count)
            value = -(-self.low // unit)
            if value * unit <= self.high:
                self.out += value.to_bytes(count, "big")
                break
        return bytes(self.out)


class _Reader(_Writer):
    """Bits out of bytes: it writes again what it reads, so that in the end it knows whether that is the same."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data
        self.held, self.read = int.from_bytes(data[:4].ljust(4, b"\0"), "big"), 0

    def code(self, bit: int, chance: int) -> int:
        """One step: the bit that is read, whatever the one given."""
        while self.read < len(self.out):
            following = self.data[self.read + 4 : self.read + 5]
            self.held, self.read = self.held << 8 & _WORD | (following[0] if following else 0), self.read + 1
        if self.read > len(self.data):
            raise FormatError(f"the {len(self.data)} bytes end early")
        return super().code(int(self.held <= self.low + ((self.high - self.low) * chance >> 16)), chance)

    def finish(self) -> bytes:
        """The bytes that would say the same. Raises FormatError where they are not those that were read."""
        if super().finish() != self.data:
            raise FormatError(f"{len(self.data)} bytes, of which {len(self.out)} would say the same")
        return self.data


class _Nobody(_Writer):
    """Takes bits, and says none."""

    def code(self, bit: int, chance: int) -> int:
        return bit


class _Model:
    """Chances by context, and the weights of their mixture: a row of them for each number of contexts that were seen before."""

    def __init__(self, coder: _Writer, before: bytes) -> None:
        self.chances: list[_Nodes] = [{} for _ in _ORDERS]
        self.weights = [[_WEIGHT] * len(_ORDERS) for _ in range(len(_ORDERS) + 1)]
        self.last = 0
        self.coder: _Writer = _Nobody()
        for byte in before:
            self.code(byte)
        self.coder = coder

    def code(self, byte: int) -> int:
        """One byte, most significant bit first."""
        nodes = [table.setdefault(self.last & mask, {}) for table, mask in zip(self.chances, _MASKS, strict=True)]
        part = 1
        for place in range(7, -1, -1):
            known = [node.setdefault(part, [1 << FINE - 1, 0]) for node in nodes]
            part = part << 1 | self._ask(byte >> place & 1, known)
        self.last = (self.last << 8 | part & 255) & _MASKS[-1]
        return part & 255

    def _ask(self, bit: int, known: list[list[int]]) -> int:
        """One bit, by its chances, which learn from it."""
        stretch, rates = stretched(), learning_rates()
        weights = self.weights[sum([seen > 0 for _, seen in known])]
        places = [stretch[chance >> FINE - 12] for chance, _ in known]
        total = sum(map(mul, weights, places)) >> 16
        chance = min(max(logistic()[min(max(total, -FAR), FAR) + FAR], LEAST), UNIT - LEAST)
        bit = self.coder.code(bit, chance)
        error, target = 3 * ((bit << 16) - chance), bit << FINE
        for i, each in enumerate(known):
            own, seen = each
            weights[i] += error * places[i] + 32_768 >> 16
            each[0] = own + ((target - own) * rates[seen] >> 16)
            each[1] = min(seen + 1, LIMIT)
        return bit
