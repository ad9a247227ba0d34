"""`deepcompress compress --lossless`: .safetensors in, .dcz out, one tensor in memory at a time."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from deepcompress.cli.console import Outcome
from deepcompress.cli.safetensors import SafetensorsFile
from deepcompress.cli.shards import INDEX_KEY, SHARDED, ShardIndex
from deepcompress.errors import ModelError, StorageError

if TYPE_CHECKING:
    from deepcompress.tensors.compressed import DenseTensor


def run(options: argparse.Namespace) -> Outcome:
    """Compress `options.source`, streamed, to `options.output`; the recipe goes along where the options ask for it."""
    from deepcompress.container.source import atomic_file
    from deepcompress.tensors.build import Extras, write_model
    from deepcompress.tensors.streams import Encoding

    recipe = {"stages": [{"name": "lossless", "stage": "lossless"}]} if options.store_recipe else None
    with ExitStack() as stack:
        files, metadata = _open(options.source, stack)
        with atomic_file(options.output) as target:
            write_model(target, _tensors(files), Encoding(), Extras(metadata, recipe))
    return _outcome(options.output)


def _open(source: str, stack: ExitStack) -> tuple[dict[str, SafetensorsFile], dict[str, str]]:
    """Tensor name -> the file that holds it, in order, and the strings to keep."""
    if not source.endswith(SHARDED):
        file = stack.enter_context(SafetensorsFile(Path(source)))
        return dict.fromkeys(file.names, file), file.metadata
    index = ShardIndex.parse(_read(source), source)
    headers: dict[str, dict[str, str]] = {}
    holders: dict[str, SafetensorsFile] = {}
    for shard, names in index.shards().items():
        file = stack.enter_context(SafetensorsFile(Path(source).parent / shard))
        if names != set(file.names):
            differing = ", ".join(sorted(names ^ set(file.names))[:4])
            raise ModelError(f"{file.path}: index and shard disagree about {differing}")
        headers[shard] = file.metadata
        holders |= dict.fromkeys(names, file)
    kept = ShardIndex(index.weight_map, index.metadata, headers)
    return {name: holders[name] for name in index.weight_map}, {INDEX_KEY: kept.to_json()}


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def _tensors(files: dict[str, SafetensorsFile]) -> Iterator[tuple[str, DenseTensor]]:
    if not files:
        raise ModelError("the checkpoint is empty: there is nothing to store")
    for name, file in files.items():
        yield name, file.read(name)


def _outcome(path: str) -> Outcome:
    from deepcompress.tensors.model import open as open_model

    with open_model(path, framework="numpy") as model:
        data = {"file": path, **model.inspect()}
    smaller = f"{data['file_ratio']:.2f} times smaller than its {data['dense_bytes']:,}"
    return Outcome(data, f"wrote {path}: {data['file_bytes']:,} bytes, {smaller}, every bit kept")
