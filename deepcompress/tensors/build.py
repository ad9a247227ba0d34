"""Tensors into a whole file."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from deepcompress.container import layout
from deepcompress.container.records import TensorRecord
from deepcompress.container.versions import pack_versions
from deepcompress.container.writer import Writer
from deepcompress.errors import ModelError
from deepcompress.tensors.encode import AnyTensor, encode_tensor
from deepcompress.tensors.model import CompressedModel
from deepcompress.tensors.streams import Encoding, Tables


@dataclass(frozen=True)
class Extras:
    """What a file may carry besides tensors: the user's strings, the recipe, the versions of the modules."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Any] | None = None
    versions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Tie:
    """A second name of an earlier tensor."""

    to: str


def write_model(
    file: BinaryIO, tensors: Iterable[tuple[str, AnyTensor | Tie]], encoding: Encoding, extras: Extras | None = None
) -> None:
    """Write named tensors, in order, as one file; each is let go once it is written.

    Raises:
        ModelError: a name that the format does not allow, a name given twice, or a tie to a name that has not come yet.
    """
    extras = extras or Extras()
    writer, tables = Writer(file), Tables(encoding)
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
    _write_metadata(writer, extras, list(places))
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


def _tie(name: str, tie: Tie, records: Mapping[str, TensorRecord], places: Mapping[str, int]) -> TensorRecord:
    if tie.to not in records:
        raise ModelError(f"{name!r} is tied to {tie.to!r}, which does not come before it")
    target = records[tie.to]
    place = target.tie if target.tie is not None else places[tie.to]
    return TensorRecord(name, target.dtype, target.shape, target.stored, tie=place)


def _write_metadata(writer: Writer, extras: Extras, names: list[str]) -> None:
    if extras.metadata:
        writer.add_metadata(layout.META_STRINGS, _json(extras.metadata))
    if extras.recipe is not None:
        writer.add_metadata(layout.META_RECIPE, _json(extras.recipe))
    if any(version > 1 for version in extras.versions.values()):
        writer.add_metadata(layout.META_VERSIONS, pack_versions(extras.versions, names))


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(content), separators=(",", ":"), ensure_ascii=False).encode()
