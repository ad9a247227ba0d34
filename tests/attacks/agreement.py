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
    return by_package(data) == expected


def by_reference(data: bytes) -> Tensors | None:
    """Each tensor's bytes, None where it is malformed or unknown; None where the file is."""
    try:
        file = read(data, LIMIT >> 4)
    except MalformedError:
        return None
    bad: Tensors = {str(name): None for name in [*file.failed, *file.malformed] if isinstance(name, str)}
    return bad | {name: _settled(tensor.data, tensor.dtype) for name, tensor in file.tensors.items()}


def by_package(data: bytes) -> Tensors | None:
    try:
        model = dc.open(data, framework="numpy")
    except FormatError:
        return None
    found: Tensors = {}
    for name in model:
        try:
            array = model[name]
            found[name] = _settled(array.tobytes(), (array.dtype.metadata or {}).get("torch_dtype", array.dtype.name))
        except FormatError:
            found[name] = None
    return found


def _settled(data: bytes, dtype: str) -> bytes:
    """The bytes with one NaN for all: where elements are widened, the format leaves open what becomes of a payload."""
    if dtype not in ("float32", "float64"):
        return data
    values = np.frombuffer(data, dtype)
    return np.where(np.isnan(values), np.array(np.nan, dtype), values).tobytes()
