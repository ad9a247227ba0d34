"""Reading checkpoints as people have them: torch's files, .safetensors, sharded indexes; never running their code."""

from __future__ import annotations

import pickle
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcompress.cli.shards import INDEX_KEY, SHARDED, ShardIndex
from deepcompress.errors import ModelError, ParameterError, StorageError

if TYPE_CHECKING:
    from torch import Tensor

TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin", ".ckpt")
_ENTRIES = ("state_dict", "model_state_dict", "model")  # where checkpoints keep their state dict
# What torch.load raises on bytes that are no checkpoint; it has no error of its own.
_UNREADABLE = (
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    OverflowError,
    ImportError,
)


@dataclass(frozen=True)
class Checkpoint:
    """A state dict, and the strings that its file carries beside it."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


def read_checkpoint(path: str) -> Checkpoint:
    """Read a state dict from a torch file, a .safetensors file or a .safetensors.index.json.

    Raises:
        ParameterError: the name tells of none of these.
        StorageError: the file, or a shard, cannot be read.
        ModelError: it holds no state dict, or something other than tensors.
    """
    if path.endswith(SHARDED):
        return _read_sharded(Path(path))
    if path.endswith(".safetensors"):
        return Checkpoint(*_read_safetensors(Path(path)))
    if path.endswith(TORCH_SUFFIXES):
        return Checkpoint(_state_dict(_read_torch(path), path))
    known = ", ".join((*TORCH_SUFFIXES, ".safetensors", SHARDED))
    raise ParameterError.of("SOURCE", "compress", f"a file named *{known.replace(', ', ', *')}", path)


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def _read_torch(path: str) -> Any:
    import torch

    with _reading(path), open(path, "rb") as file, warnings.catch_warnings(action="ignore"):
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except _UNREADABLE as error:
            raise ModelError(f"{path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = str(error)
    if "nsupported global" in text or "unsupported GLOBAL" in text:
        return (
            "holds Python objects besides tensors, which are not loaded, because that would run their code; "
            "save model.state_dict() instead"
        )
    return "not a checkpoint that torch.load reads, or a damaged one"


def _state_dict(loaded: Any, path: str) -> dict[str, Tensor]:
    """The state dict in a checkpoint, without the prefixes that torch.compile and data parallelism add."""
    from deepcompress.tensors.wrappers import bare_state

    found = _find_state_dict(loaded, path)
    if not all(isinstance(name, str) for name in found):
        raise ModelError(f"{path}: its state dict has names that are not text")
    return bare_state(found)  # type: ignore[return-value]


def _find_state_dict(loaded: Any, path: str) -> dict[str, Tensor]:
    from torch import Tensor

    if not isinstance(loaded, dict):
        raise ModelError(f"{path}: holds a {type(loaded).__name__}, not a state dict")
    for entry in _ENTRIES:
        if isinstance(loaded.get(entry), dict):
            found: dict[str, Tensor] = loaded[entry]
            return found
    if loaded and not any(isinstance(value, Tensor) for value in loaded.values()):
        names = ", ".join(map(str, list(loaded)[:8]))
        raise ModelError(f"{path}: holds no tensors, but entries named {names}; looked for {', '.join(_ENTRIES)}")
    return loaded


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    with _reading(path):
        path.open("rb").close()  # the library's own errors do not say which file is missing
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError(f"{path}: not a well-formed .safetensors file: {error}") from error


def _read_sharded(path: Path) -> Checkpoint:
    """Read every shard that an index names; the index and the shards' metadata travel along as one string."""
    with _reading(path):
        text = path.read_bytes()
    index = ShardIndex.parse(text, str(path))
    tensors: dict[str, Tensor] = {}
    headers: dict[str, dict[str, str]] = {}
    for shard, names in index.shards().items():
        held, headers[shard] = _read_safetensors(path.parent / shard)
        if names != set(held):
            differing = ", ".join(sorted(names ^ set(held))[:4])
            raise ModelError(f"{path.parent / shard}: index and shard disagree about {differing}")
        tensors |= held
    kept = ShardIndex(index.weight_map, index.metadata, headers)
    return Checkpoint({name: tensors[name] for name in index.weight_map}, {INDEX_KEY: kept.to_json()})
