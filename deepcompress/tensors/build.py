"""Tensors into a whole file."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from deepcompress.coding.denormals import denormals_kept
from deepcompress.container import layout
from deepcompress.container.records import TensorRecord
from deepcompress.container.versions import module_paths, pack_versions, paths_around
from deepcompress.container.writer import Writer
from deepcompress.errors import ModelError, ParameterError
from deepcompress.tensors.encode import AnyTensor, encode_tensor
from deepcompress.tensors.model import CompressedModel
from deepcompress.tensors.streams import Encoding, Tables


@dataclass(frozen=True)
class Extras:
    """What a file may carry besides tensors: the user's strings, the recipe, the versions of the modules, what it is for."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Any] | None = None
    versions: Mapping[str, int] = field(default_factory=dict)
    inference: bool = False


@dataclass(frozen=True)
class Tie:
    """A second name of an earlier tensor."""

    to: str


@denormals_kept()
def write_model(
    file: BinaryIO, tensors: Iterable[tuple[str, AnyTensor | Tie]], encoding: Encoding, extras: Extras | None = None
) -> None:
    """Write named tensors, in order, as one file; each is let go once it is written.

    Raises:
        ModelError: a name that the format does not allow, a name given twice, or a tie to a name that has not come yet.
        ParameterError: metadata that are no strings, or a recipe that has no JSON form.
    """
    metadata = _pack_metadata(extras or Extras())
    minor = layout.CONTEXT_MINOR if encoding.coder == "context" else layout.PLAIN_MINOR
    writer, tables = Writer(file, encoding.flags, minor), Tables(encoding)
    records: dict[str, TensorRecord] = {}
    places: dict[str, int] = {}
    for name, tensor in tensors:
        _check_new_name(name, places)
        if isinstance(tensor, Tie):
            record, sections = _tie(name, tensor, records, places), {}
        else:
            encoded = encode_tensor(name, tensor, tables)
            record, sections = encoded.record, dict(encoded.sections)
        writer.add(record, sections)
        records[name], places[name] = record, len(places)
    _check_all_names(places)
    for kind, content in metadata.items():
        writer.add_metadata(kind, content)
    for kind, content in _pack_versions((extras or Extras()).versions, places).items():
        writer.add_metadata(kind, content)
    writer.finish(tables.lengths)


def build_model(
    tensors: Iterable[tuple[str, AnyTensor | Tie]], encoding: Encoding, extras: Extras | None = None
) -> CompressedModel:
    """Like `write_model`, into memory, opened again: what a caller gets is what a reader of the file would."""
    file = io.BytesIO()
    write_model(file, tensors, encoding, extras)
    return CompressedModel(file.getvalue())


def _check_new_name(name: str, places: Mapping[str, int]) -> None:
    if problem := layout.check_name(name):
        raise ModelError(f"the tensor name {name!r} {problem}")
    if name in places:
        raise ModelError(f"the tensor name {name!r} is there twice")


def _check_all_names(names: Iterable[str]) -> None:
    if (size := sum(len(name.encode()) for name in names)) > layout.MAX_ALL_NAMES_BYTES:
        raise ModelError(f"the tensor names have {size} bytes together, at most {layout.MAX_ALL_NAMES_BYTES} can be stored")


def _tie(name: str, tie: Tie, records: Mapping[str, TensorRecord], places: Mapping[str, int]) -> TensorRecord:
    if tie.to not in records:
        raise ModelError(f"{name!r} is tied to {tie.to!r}, which does not come before it")
    target = records[tie.to]
    place = target.tie if target.tie is not None else places[tie.to]
    return TensorRecord(name, target.dtype, target.shape, target.stored, tie=place)


def _pack_metadata(extras: Extras) -> dict[int, bytes]:
    """Kind -> content of what is known before any tensor is; so that nothing is written when it is wrong."""
    contents = {}
    if extras.metadata:
        if not all(isinstance(text, str) for pair in extras.metadata.items() for text in pair):
            raise ParameterError.of("metadata", "write_model", "a mapping of strings to strings", dict(extras.metadata))
        contents[layout.META_STRINGS] = _json("metadata", extras.metadata)
    if extras.recipe is not None:
        contents[layout.META_RECIPE] = _json("recipe", extras.recipe)
    if extras.inference:
        contents[layout.META_INFERENCE] = b""
    return contents


def _pack_versions(versions: Mapping[str, int], names: Iterable[str]) -> dict[int, bytes]:
    """Kind -> content of module versions, where any is above 1."""
    if all(version <= 1 for version in versions.values()):
        return {}
    contents = {layout.META_VERSIONS: pack_versions(versions, module_paths(names))}
    around = paths_around(names)
    if any(versions.get(path, 0) > 1 for path in around):
        contents[layout.META_VERSIONS_AROUND] = pack_versions(versions, around)
    return contents


def _json(name: str, content: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(content), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:  # UnicodeEncodeError, for half a surrogate pair, is a ValueError
        raise ParameterError.of(name, "write_model", f"fit for JSON ({error})", content) from None
