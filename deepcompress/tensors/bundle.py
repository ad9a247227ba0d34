"""Plain data with tensors in it as one .dcz file, and back: what a checkpoint is made of. Reading it runs no code.

The tensors lie in the file under the way that leads to them, such as `optimizer/state/0/exp_avg`; the rest is JSON in a tensor
of its own, `tree`. JSON has no tuples, no NaN and no keys but strings: such values are objects with the key "!", which names
their kind.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from deepcompress.container.layout import DTYPE_OF_NAME, check_name
from deepcompress.container.source import atomic_file
from deepcompress.errors import FormatError, ModelError, ParameterError
from deepcompress.tensors.build import Extras, write_model
from deepcompress.tensors.compressed import DenseTensor
from deepcompress.tensors.elements import Array, dtype_name, from_torch
from deepcompress.tensors.model import load
from deepcompress.tensors.streams import Encoding

if TYPE_CHECKING:
    import torch

__all__ = ["read_bundle", "write_bundle"]

_TREE = "tree"
_KIND = {"kind": "deepcompress bundle"}
_MARK = "!"


def write_bundle(path: str | os.PathLike[str], tree: Any) -> None:
    """Write a tree to `path`; it appears whole or not at all.

    Args:
        tree: None, bools, numbers, strings, tensors and numpy arrays, in dicts, lists, tuples and Counters.

    Raises:
        ParameterError: it holds anything else; the message says where.
        StorageError: the path cannot be written.
    """
    arrays: dict[str, DenseTensor] = {}
    text = json.dumps(_packed(tree, (), arrays)).encode()
    arrays[_TREE] = DenseTensor(np.frombuffer(text, np.uint8), "uint8", "uint8")
    with atomic_file(path) as file:
        write_model(file, arrays.items(), Encoding(coder="fixed"), Extras(_KIND))


def read_bundle(path: str | os.PathLike[str]) -> Any:
    """The tree that was written: tensors on the CPU, arrays of numpy, other mappings than Counters as dicts.

    Raises:
        FormatError: the file is damaged, or no such file.
        StorageError: it cannot be read.
    """
    with load(path) as model:
        if model.metadata != _KIND:
            raise FormatError(f"{path} is a .dcz file, but not a checkpoint")
        try:
            return _unpacked(json.loads(model[_TREE].numpy().tobytes()), model)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise FormatError(f"{path}: the tree of a checkpoint is broken: {type(error).__name__}: {error}") from error


def _packed(value: Any, way: tuple[str, ...], arrays: dict[str, DenseTensor]) -> Any:
    """The value as JSON data; the arrays in it go to `arrays`."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_MARK: "float", "text": str(value)}
    if isinstance(value, Mapping):
        return _packed_mapping(value, way, arrays)
    if isinstance(value, (list, tuple)):
        items = [_packed(item, (*way, str(place)), arrays) for place, item in enumerate(value)]
        return items if isinstance(value, list) else {_MARK: "tuple", "items": items}
    kind, dense = _dense(value, way)
    name = _name_of(way, arrays)
    arrays[name] = dense
    return {_MARK: kind, "name": name}


def _packed_mapping(value: Mapping[Any, Any], way: tuple[str, ...], arrays: dict[str, DenseTensor]) -> Any:
    items = [(key, _packed(item, (*way, str(key)), arrays)) for key, item in value.items()]
    if not isinstance(value, Counter) and all(isinstance(key, str) and key != _MARK for key in value):
        return dict(items)
    pairs = [[_packed(key, way, arrays), item] for key, item in items]
    return {_MARK: "counter" if isinstance(value, Counter) else "dict", "items": pairs}


def _dense(value: Any, way: tuple[str, ...]) -> tuple[str, DenseTensor]:
    """The kind of array that a value is, and its elements."""
    try:
        if isinstance(value, (np.ndarray, np.generic)):
            array = np.asarray(value)
            if array.dtype.name not in DTYPE_OF_NAME:
                raise ModelError(f"dtype {array.dtype} cannot be stored")
            return "array" if isinstance(value, np.ndarray) else "scalar", DenseTensor(array, array.dtype.name, array.dtype.name)
        if _is_tensor(value):
            name = dtype_name(value)
            return "tensor", DenseTensor(from_torch(value), name, name)
    except ModelError as error:
        raise ParameterError(f"a checkpoint cannot hold {'/'.join(way)}: {error}") from error
    raise ParameterError(f"a checkpoint cannot hold {'/'.join(way)}, which is of type {type(value).__name__}")


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _name_of(way: tuple[str, ...], arrays: Mapping[str, DenseTensor]) -> str:
    """The way to a tensor, where that can be its name in the file; a number where it cannot."""
    name = "/".join(way)
    return f"{len(arrays)}" if name in arrays or name == _TREE or check_name(name) else name


def _unpacked(value: Any, arrays: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if _MARK not in value:
        return {key: _unpacked(item, arrays) for key, item in value.items()}
    return _unmarked(value, arrays)


def _unmarked(value: Mapping[str, Any], arrays: Mapping[str, torch.Tensor]) -> Any:
    kind = value[_MARK]
    if kind == "float":
        return float(value["text"])
    if kind == "tuple":
        return tuple(_unpacked(item, arrays) for item in value["items"])
    if kind in ("dict", "counter"):
        pairs = {_unpacked(key, arrays): _unpacked(item, arrays) for key, item in value["items"]}
        return Counter(pairs) if kind == "counter" else pairs
    if kind == "tensor":
        return arrays[value["name"]]
    if kind in ("array", "scalar"):
        array: Array = arrays[value["name"]].numpy()
        return array if kind == "array" else array[()]
    raise ValueError(f"a value of kind {kind!r}")
