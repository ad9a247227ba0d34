"""`deepcompress expand`: the tensors of a .dcz file as .safetensors, sharded or not, without torch; as .pt with it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from deepcompress.cli.console import Outcome, UsageError
from deepcompress.cli.shards import INDEX_KEY, SHARDED, ShardIndex
from deepcompress.errors import ModelError

if TYPE_CHECKING:
    from deepcompress.tensors.model import CompressedModel

_TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin")
_Writer = Callable[["CompressedModel", str], int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the .dcz file")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        help=f"OUT.safetensors, OUT.pt, or, where the source was sharded, OUT{SHARDED}",
    )


def run(options: argparse.Namespace) -> Outcome:
    write = _writer(options.output)
    from deepcompress.tensors.model import open as open_model

    with open_model(options.file, framework="numpy") as model:
        size = write(model, options.output)
        data = {"file": options.file, "output": options.output, "tensors": len(model), "bytes": size}
    return Outcome(data, f"wrote {options.output}: {len(model)} tensors, {size:,} bytes")


def _writer(output: str) -> _Writer:
    if output.endswith(SHARDED):
        return _write_shards
    if output.endswith(".safetensors"):
        return _write_one
    if output.endswith(_TORCH_SUFFIXES):
        return _write_torch
    raise UsageError(f"-o names a .safetensors, a {SHARDED} or a .pt file, not {output}")


def _write_one(model: CompressedModel, output: str) -> int:
    from deepcompress.cli.safetensors import write_safetensors

    index = _index(model)
    metadata = dict(model.metadata)
    if index is not None:
        del metadata[INDEX_KEY]
        for header in index.headers.values():
            metadata |= header
    return write_safetensors(output, model, model, metadata)


def _write_shards(model: CompressedModel, output: str) -> int:
    """Every shard under its own name, and the index last: it is not there before what it names is."""
    from deepcompress.cli.safetensors import write_safetensors
    from deepcompress.container.source import atomic_file

    index = _index(model)
    if index is None:
        raise ModelError(f"{model.source} was not made from a sharded checkpoint; expand to one .safetensors file")
    if set(index.weight_map) != set(model):
        raise ModelError(f"{model.source}: its index of shards and its tensors disagree")
    folder = Path(output).parent
    size = sum(
        write_safetensors(folder / shard, model, names, index.headers.get(shard, {})) for shard, names in index.shards().items()
    )
    with atomic_file(output) as file:
        return size + file.write(index.index_json().encode())


def _write_torch(model: CompressedModel, output: str) -> int:
    import torch

    from deepcompress.container.source import atomic_file

    with atomic_file(output) as file:
        torch.save(model.state_dict(), file)
        return file.tell()


def _index(model: CompressedModel) -> ShardIndex | None:
    text = model.metadata.get(INDEX_KEY)
    return None if text is None else ShardIndex.parse(text, f"{model.source}: metadata {INDEX_KEY}")
