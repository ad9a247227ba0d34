"""Writing .safetensors files from a compressed model, one decoded tensor after the other, and without torch.

    | header length, uint64 | header: JSON, padded with spaces to 8 bytes | elements of each tensor, back to back |

Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

import numpy as np

from deepcompress.container.layout import DTYPE_OF_NAME
from deepcompress.container.records import TensorRecord
from deepcompress.container.source import atomic_file
from deepcompress.errors import ModelError
from deepcompress.tensors.model import CompressedModel

_CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
}
_METADATA = "__metadata__"


def write_safetensors(
    path: str | PathLike[str], model: CompressedModel, names: Iterable[str], metadata: Mapping[str, str]
) -> int:
    """Write the named tensors of a model that was opened for numpy; returns the file's bytes.

    Raises:
        ModelError: a name or dtype has no place in the format.
        FormatError: a tensor cannot be decoded.
        StorageError: the file cannot be written.
    """
    wanted = set(names)
    # Large elements first: each tensor then lies at a multiple of its element size.
    records = [record for record in model.records if record.name in wanted]
    records.sort(key=lambda record: (-DTYPE_OF_NAME[record.dtype].itemsize, record.name))
    header = _header(records, metadata)
    with atomic_file(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for record in records:
            file.write(np.ascontiguousarray(model[record.name]).reshape(-1).view(np.uint8).data)
        return file.tell()


def _header(records: Iterable[TensorRecord], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    offset = 0
    for record in records:
        end = offset + record.numel * DTYPE_OF_NAME[record.dtype].itemsize
        entries[record.name] = {"dtype": _code(record), "shape": list(record.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)


def _code(record: TensorRecord) -> str:
    if record.name == _METADATA:
        raise ModelError(f"a .safetensors file cannot hold a tensor named {_METADATA}; expand to .pt")
    if record.dtype not in _CODES:
        raise ModelError(f"{record.name}: a .safetensors file cannot hold {record.dtype} tensors; expand to .pt")
    return _CODES[record.dtype]
