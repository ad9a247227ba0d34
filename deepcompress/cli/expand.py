"""`deepcompress expand`: the tensors of a .dcz file as .safetensors, sharded or not, without torch; as .pt with it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from deepcompress.cli.console import Outcome, UsageError, add_max_bytes
from deepcompress.cli.shards import INDEX_KEY, SHARDED, ShardIndex
from deepcompress.errors import ModelError

if TYPE_CHECKING:
    from deepcompress.tensors.model import CompressedModel

_TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin")
_Writer = Callable[["CompressedModel", str], int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the .dcz file")
    add_max_bytes(parser)
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

    with open_model(options.file, framework="numpy", max_bytes=options.max_bytes) as model:
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
    from deepcompress.container.source import atomic_file

    index = _index(model)
    metadata = dict(model.metadata)
    if index is not None:
        del metadata[INDEX_KEY]
        for header in index.headers.values():
            metadata |= header
    with atomic_file(output) as file:
        return write_safetensors(file, model, model, metadata)


def _write_shards(model: CompressedModel, output: str) -> int:
    """Every shard under its own name, and the index last: it is not there before what it names is.

    No earlier shard is replaced before all new ones are on the disk.
    """
    from deepcompress.cli.safetensors import write_safetensors
    from deepcompress.container.source import atomic_file

    index = _index(model)
    if index is None:
        raise ModelError(f"{model.source} was not made from a sharded checkpoint; expand to one .safetensors file")
    if set(index.weight_map) != set(model):
        raise ModelError(f"{model.source}: its index of shards and its tensors disagree")
    folder = Path(output).parent
    with ExitStack() as stack:  # it ends in reverse order
        file = stack.enter_context(atomic_file(output))
        size = file.write(index.index_json().encode())
        for shard, names in index.shards().items():
            file = stack.enter_context(atomic_file(folder / shard))
            size += write_safetensors(file, model, names, index.headers.get(shard, {}))
            file.flush()
            os.fsync(file.fileno())
    return size


def _write_torch(model: CompressedModel, output: str) -> int:
    import torch

    from deepcompress.container.source import atomic_file

    tensors = model.state_dict()
    with atomic_file(output) as file:
        try:
            torch.save(tensors, file)
        except RuntimeError as error:  # torch's complaint at closing an archive whose writing ended early
            raise error.__context__ or error from None
        return file.tell()


def _index(model: CompressedModel) -> ShardIndex | None:
    text = model.metadata.get(INDEX_KEY)
    return None if text is None else ShardIndex.parse(text, f"{model.source}: metadata {INDEX_KEY}")
