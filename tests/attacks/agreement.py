"""What the package and the reference decoder, written from FORMAT.md alone, say of the same bytes."""

from __future__ import annotations

import numpy as np

import deepcompress as dc
from deepcompress.errors import FormatError
from tests.attacks.mutants import LIMIT
from tests.reference.decoder import LimitError, MalformedError, read

Tensors = dict[str, bytes | None]


def agree(data: bytes) -> bool:
    """Whether both find the file malformed, or the same tensors malformed, and else the same bytes in all of them."""
    try:
        expected = by_reference(data)
    except LimitError:
        return True
    found = by_package(data)
    return found == expected or _settled(data, found) == _settled(data, expected)


def by_reference(data: bytes) -> Tensors | None:
    """Each tensor's bytes, None where it is malformed or unknown; None where the file is."""
    try:
        file = read(data, LIMIT >> 4)
    except MalformedError:
        return None
    bad: Tensors = {str(name): None for name in [*file.failed, *file.malformed] if isinstance(name, str)}
    return bad | {name: tensor.data for name, tensor in file.tensors.items()}


def by_package(data: bytes) -> Tensors | None:
    try:
        model = dc.open(data, framework="numpy")
    except FormatError:
        return None
    found: Tensors = {}
    for name in model:
        try:
            found[name] = model[name].tobytes()
        except FormatError:
            found[name] = None
    return found


def _settled(data: bytes, found: Tensors | None) -> Tensors | None:
    """With one NaN for all in tensors that are stored narrower: what becomes of a payload there, the format leaves open."""
    if found is None:
        return None
    settled = dict(found)
    try:
        records = dc.open(data).records
    except FormatError:
        return settled
    for record in records:
        content = found.get(record.name)
        if content is not None and record.stored != record.dtype and record.dtype in ("float32", "float64"):
            values = np.frombuffer(content, record.dtype)
            settled[record.name] = np.where(np.isnan(values), np.array(np.nan, record.dtype), values).tobytes()
    return settled
