"""Blocks of compact files, as FORMAT.md defines them: simple and slow. Standard library only."""

from collections import defaultdict

from tests.reference.coding import Bytes, coded, refuse
from tests.reference.context import EVEN, LEAST, MAX_ANSWERS, MOST, STEEP, Coder, S, T

ORDERS = (0, 1, 2, 3, 5)
WEIGHT = 39_322
MAX_CONTENT = 4_096
PLAIN, CODED, BY_CONTEXT = 0, 1, 2
FIRSTS = [min((4_096 >> d // 2) if d % 2 == 0 else 2_896 >> (d - 1) // 2, 4_095) for d in range(24)]

USUAL_NAMES = bytes.fromhex(
    "0000 07 636F6E76312E F8 0000 05 626E312E F8 0400 01 F9 0400 01 FA 0C00 03 766172 0400 01 FC"
    "0000 10 6C61796572312E302E636F6E76322E F8 0900 05 626E322E F8 0D03 0000 0C 66656174757265732E302E F8 0B03"
    "0000 0C 636C61737369666965722E F8 0B03 0000 05 6663312E F8 0403 0200 03 322E F8 0403"
    "0000 24 656E636F6465722E6C61796572732E302E73656C665F6174746E2E696E5F70726F6A5F F8"
    "0000 06 6E6F726D2E F8 0503 0000 09 6C696E656172312E F8 0803"
)


class Told(Coder):
    """Hands out answers that are known, and says nothing."""

    def __init__(self, content: bytes) -> None:
        super().__init__(b"")
        self.answers = [byte >> place & 1 for byte in content for place in range(7, -1, -1)][::-1]

    def answer(self, chance: int) -> int:
        return self.answers.pop()


class ByteModel:
    """What bytes by context have taught."""

    def __init__(self) -> None:
        self.chances: dict[tuple[int, bytes, int], list[int]] = defaultdict(lambda: [EVEN, 0])
        self.weights = [[WEIGHT] * len(ORDERS) for _ in range(len(ORDERS) + 1)]
        self.said = bytes(max(ORDERS))

    def byte(self, coder: Coder) -> int:
        part = 1
        for _ in range(8):
            part = part << 1 | self.bit(coder, part)
        self.said += bytes([part & 255])
        return part & 255

    def bit(self, coder: Coder, part: int) -> int:
        last = len(self.said)
        chances = [self.chances[order, self.said[last - order :] if order else b"", part] for order in ORDERS]
        row = self.weights[sum(1 for _, answers in chances if answers)]
        logits = [T[chance >> 10] for chance, _ in chances]
        total = sum(w * t for w, t in zip(row, logits, strict=True)) >> 16
        mixed = min(max(S[min(max(total, -STEEP), STEEP) + STEEP], LEAST), MOST)
        yes = coder.answer(mixed)
        for i, t in enumerate(logits):
            row[i] += (3 * (65_536 * yes - mixed) * t + 32_768) >> 16
        for known in chances:
            c, n = known
            known[:] = c + (((yes << 22) - c) * (655_360 // (10 * n + 16)) >> 16), min(n + 1, MAX_ANSWERS)
        return yes


def by_context(packed: bytes, size: int, before: bytes) -> bytes:
    model, told = ByteModel(), Told(before)
    for _ in before:
        model.byte(told)
    coder, content = Coder(packed), bytearray()
    for _ in range(size):
        refuse(len(coder.out) > len(packed), "bytes by context that end early")
        content.append(model.byte(coder))
    coder.end()
    return bytes(content)


def block(source: Bytes, before: bytes = b"") -> bytes:
    """A block's content."""
    size, form = divmod(source.varint(), 4)
    refuse(form > BY_CONTEXT, "a block of form 3")
    if form == PLAIN:
        return source.take(size)
    packed = source.take(source.varint())
    if form == CODED:
        return coded(packed, size)
    refuse(size > MAX_CONTENT, f"{size} bytes by context")
    return by_context(packed, size, before)
