"""Tensor names, front-coded: how much of the last name is kept, then a tail, which is new or one that came before.

    conv1.weight             keep  0, new tail "conv1.weight"
    bn1.weight               keep  0, new tail "bn1.weight"
    bn1.bias                 keep  4, new tail "bias"
    layer1.0.conv1.weight    keep  0, new tail "layer1.0.conv1.weight"
    layer1.0.bn1.weight      keep  9, tail 2 again
    layer1.0.bn1.bias        keep 13, tail 3 again

The tails of a network repeat, so a name costs about two small numbers, and the block coder halves those. In a new tail one byte
stands for "weight", "bias" and the like (`layout.WORDS`).
"""

from __future__ import annotations

from collections.abc import Iterable

from deepcompress.container.layout import MAX_ALL_NAMES_BYTES, WORDS, check_name
from deepcompress.container.varint import Cursor, varint


def pack_names(names: Iterable[str]) -> bytes:
    """Names in order; unique, and each valid (see `check_name`)."""
    out = bytearray()
    tails: dict[bytes, int] = {}
    last = b""
    for name in names:
        current = name.encode()
        keep = _common_prefix(last, current)
        tail = current[keep:]
        out += varint(keep)
        if tail in tails:
            out += varint(tails[tail])
        else:
            tails[tail] = len(tails) + 1
            short = _shorten(tail)
            out += varint(0) + varint(len(short)) + short
        last = current
    return bytes(out)


_USUAL = (
    "conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked",
    "layer1.0.conv2.weight", "layer1.0.bn2.weight", "layer1.0.bn2.bias", "features.0.weight", "features.0.bias",
    "classifier.weight", "classifier.bias", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias",
    "encoder.layers.0.self_attn.in_proj_weight", "norm.weight", "norm.bias", "linear1.weight", "linear1.bias",
)  # fmt: skip


def _shorten(tail: bytes) -> bytes:
    """The usual words as one byte each."""
    for byte, word in WORDS.items():
        tail = tail.replace(word, byte)
    return tail


def _lengthen(tail: bytes) -> bytes:
    for byte, word in WORDS.items():
        tail = tail.replace(byte, word)
    return tail


def _common_prefix(first: bytes, second: bytes) -> int:
    """How many leading bytes are the same."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def unpack_names(data: bytes, count: int) -> list[str]:
    """The names back. Raises FormatError for a broken list, an invalid name or a name given twice."""
    cursor = Cursor(data, "names")
    tails: list[bytes] = []
    names: dict[str, None] = {}
    last = b""
    total = 0
    for _ in range(count):
        last = _next_name(cursor, last, tails)
        total += len(last)
        if total > MAX_ALL_NAMES_BYTES:
            raise cursor.error(f"the names have more than {MAX_ALL_NAMES_BYTES} bytes together")
        name = _decode(cursor, last)
        if name in names:
            raise cursor.error(f"{name!r} is there twice")
        names[name] = None
    cursor.finish()
    return list(names)


def _next_name(cursor: Cursor, last: bytes, tails: list[bytes]) -> bytes:
    keep, which = cursor.varint(), cursor.varint()
    if keep > len(last):
        raise cursor.error(f"{keep} bytes of the last name are kept, it has {len(last)}")
    if which > len(tails):
        raise cursor.error(f"tail {which} of {len(tails)}")
    if which == 0:
        tails.append(_lengthen(cursor.take(cursor.varint())))
    return last[:keep] + tails[which - 1]


def _decode(cursor: Cursor, raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError as error:
        raise cursor.error(f"a name is not UTF-8: {error.reason}") from None
    if problem := check_name(name):
        raise cursor.error(f"the name {name[:80]!r} {problem}")
    return name


USUAL_NAMES = pack_names(_USUAL)  # what the coder of a compact file's names has learned from; every reader must have these bytes
