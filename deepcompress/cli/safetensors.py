"""Reading and writing .safetensors files, one tensor after the other, and without torch.

    | header length, uint64 | header: JSON, padded with spaces to 8 bytes | elements of each tensor, back to back |

Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from deepcompress.container.layout import DTYPE_OF_NAME
from deepcompress.container.records import TensorRecord
from deepcompress.errors import ModelError, StorageError
from deepcompress.tensors.compressed import DenseTensor
from deepcompress.tensors.elements import numpy_dtype
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
_NAMES = {code: name for name, code in _CODES.items()}
_METADATA = "__metadata__"
_MAX_HEADER = 100_000_000  # bytes, the format's own limit


class SafetensorsFile:
    """A .safetensors file whose tensors are read one by one. Use it as a context manager.

    Raises:
        StorageError: it cannot be read.
        ModelError: it is not well-formed, or holds a dtype that .dcz files lack.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reading():
            self._file = path.open("rb")
        try:
            self._check_with_library()
            self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def names(self) -> list[str]:
        """The tensors, in the order in which their elements lie in the file."""
        return list(self._entries)

    def read(self, name: str) -> DenseTensor:
        """One tensor, from the disk."""
        entry = self._entries[name]
        if entry["dtype"] not in _NAMES:
            raise ModelError(f"{self.path}: {name!r} is of {entry['dtype']}, which cannot be stored")
        start, stop = entry["data_offsets"]
        data = np.empty(stop - start, np.uint8)
        with self._reading():
            self._file.seek(self._base + start)
            read = self._file.readinto(data.data)
        if read != len(data):
            raise StorageError(f"cannot read {self.path}: {name!r} ends after {read} of {len(data)} bytes")
        dtype = _NAMES[entry["dtype"]]
        return DenseTensor(data.view(numpy_dtype(dtype)).reshape(entry["shape"]), dtype, dtype)

    def _check_with_library(self) -> None:
        """The format's own library says whether header and offsets are well-formed."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="np") as file:
                self.metadata: dict[str, str] = dict(file.metadata() or {})
        except SafetensorError as error:
            raise ModelError(f"{self.path}: not a well-formed .safetensors file: {error}") from error

    def _read_header(self) -> None:
        with self._reading():
            size = int.from_bytes(self._file.read(8), "little")
            entries = json.loads(self._file.read(min(size, _MAX_HEADER)))
        entries.pop(_METADATA, None)
        self._base = 8 + size
        self._entries: dict[str, Any] = dict(sorted(entries.items(), key=lambda item: item[1]["data_offsets"]))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror or error}") from error


def write_safetensors(file: BinaryIO, model: CompressedModel, names: Iterable[str], metadata: Mapping[str, str]) -> int:
    """Write the named tensors of a model that was opened for numpy; returns the file's bytes.

    Raises:
        ModelError: a name or dtype has no place in the format.
        FormatError: a tensor cannot be decoded.
    """
    wanted = set(names)
    # Large elements first: each tensor then lies at a multiple of its element size.
    records = [record for record in model.records if record.name in wanted]
    records.sort(key=lambda record: (-DTYPE_OF_NAME[record.dtype].itemsize, record.name))
    header = _header(records, metadata)
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
