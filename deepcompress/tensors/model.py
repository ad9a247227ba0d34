"""A compressed model: an opened .dcz file, whether it lies on the disk or was just made."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from numpy.typing import NDArray

from deepcompress.coding import pool
from deepcompress.coding.denormals import denormals_kept
from deepcompress.container import layout
from deepcompress.container.reader import Reader
from deepcompress.container.records import TensorRecord
from deepcompress.container.source import FileSource, atomic_file
from deepcompress.container.versions import module_paths, paths_around, unpack_versions
from deepcompress.errors import DeepCompressError, FormatError, ParameterError
from deepcompress.tensors.accounting import FileBits, count_bits
from deepcompress.tensors.arena import ALIGNED, Arena
from deepcompress.tensors.decode import Memory, SharedValues, decode_tensor, prepare_tensor
from deepcompress.tensors.elements import Array, to_torch

if TYPE_CHECKING:
    import torch
    from torch import nn

Device = Union[str, "torch.device"]
_COPIED_AT_ONCE = 1 << 24
INFERENCE = "for inference: batch norm statistics are folded"


class CompressedModel(Mapping[str, Any]):
    """Names to tensors, decoded one at a time when they are asked for.

    `model["layer.weight"]` is a torch tensor, or, with `framework="numpy"`, an array (`numpy()` says how the types that
    numpy lacks come). Use it as a context manager where it reads from an open file. Reading a tensor raises FormatError where
    its sections are damaged, UnsupportedError where it needs a codec that is not known.

    Args and errors: those of `open`, and ParameterError for an unknown framework.
    """

    def __init__(
        self, source: FileSource, *, framework: str = "torch", max_bytes: int | None = None, device: Device | None = None
    ) -> None:  # fmt: skip
        if framework not in ("torch", "numpy"):
            raise ParameterError.of("framework", "open", "'torch' or 'numpy'", framework)
        if framework == "numpy" and device is not None:
            raise ParameterError.of("device", "open", "left out for arrays, which have none", device)
        self._device = None if device is None or str(device) == "cpu" else _usable(device)
        self._reader = Reader(source)
        self._framework = framework
        self._positions = {record.name: i for i, record in enumerate(self.records)}
        if max_bytes is not None and self.dense_bytes > max_bytes:
            self.close()
            raise FormatError(f"{self.source}: {self.dense_bytes} bytes when decoded, at most {max_bytes} are allowed")

    def __enter__(self) -> CompressedModel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, where it was opened by path. Tensors that were read stay."""
        self._reader.close()

    def __getitem__(self, name: str) -> Any:
        if name not in self._positions:
            raise KeyError(name)
        position = self._positions[name]
        return self._decode(position) if self._framework == "numpy" else self._tensor(position)

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, name: object) -> bool:
        return name in self._positions

    def __repr__(self) -> str:
        notes = "".join(f"; {note}" for note in self._notes)
        return f"CompressedModel({self.source}: {len(self)} tensors, {self.dense_bytes} bytes in {self.file_bytes}{notes})"

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def source(self) -> str:
        """The path or kind of what the model was opened from."""
        return self._reader.source.name

    @property
    def records(self) -> tuple[TensorRecord, ...]:
        """What the file says of each tensor, in its order."""
        return self._reader.directory.records

    @property
    def version(self) -> tuple[int, int]:
        """Format version, (major, minor)."""
        return self._reader.version

    @property
    def file_bytes(self) -> int:
        """Bytes of the file, all of it."""
        return self._reader.source.size

    @property
    def dense_bytes(self) -> int:
        """Bytes of the decoded tensors, ties once."""
        return self._reader.directory.dense_bytes

    @property
    def ties(self) -> dict[str, str]:
        """Second names of tensors -> their first."""
        return {record.name: self.records[record.tie].name for record in self.records if record.tie is not None}

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The user's own key-value strings; empty where the file has none."""
        content = self._object(layout.META_STRINGS) or {}
        if not all(isinstance(value, str) for value in content.values()):
            raise FormatError(f"{self._place(layout.META_STRINGS)} are not all strings")
        return content

    @cached_property
    def recipe(self) -> dict[str, Any] | None:
        """The pipeline's configuration, where the file was asked to keep it."""
        return self._object(layout.META_RECIPE)

    @property
    def inference(self) -> bool:
        """Whether the file says that it is for inference: batch norms have no statistics of the data, see `FoldNorm`."""
        content = self._reader.metadata(layout.META_INFERENCE)
        if content:
            raise FormatError(f"{self._place(layout.META_INFERENCE)} is not empty")
        return content is not None

    @cached_property
    def versions(self) -> dict[str, int] | None:
        """Module path -> version, of the modules that have one; None where the file says nothing of versions."""
        found: dict[str, int] | None = None
        for kind, paths_of in ((layout.META_VERSIONS_AROUND, paths_around), (layout.META_VERSIONS, module_paths)):
            if (content := self._reader.metadata(kind)) is not None:
                try:
                    found = {**(found or {}), **unpack_versions(content, paths_of(self))}
                except FormatError as error:
                    raise FormatError(f"{self.source}: {error}") from error
        return found

    @cached_property
    def bits(self) -> FileBits:
        """Where each bit of the file goes; the sum is 8 x its bytes."""
        return count_bits(self._reader.directory, self.file_bytes)

    def numpy(self) -> dict[str, Array]:
        """All tensors as arrays, without torch; ties are one array under two names.

        bfloat16, float8 and complex32 come as unsigned integers that hold their bits, tagged in `dtype.metadata`.
        """
        return {record.name: array for record, array in zip(self.records, self._decode_all(), strict=True)}

    def _decode_all(self, memory: Memory | None = None) -> list[Array]:
        """All tensors, side by side on the threads; a tie has the array of its target. `memory`: see `decode_tensor`."""
        own = [position for position, record in enumerate(self.records) if record.tie is None]
        arrays = dict(zip(own, pool.run([partial(self._decode, position, memory) for position in own]), strict=True))
        return [arrays[position if record.tie is None else record.tie] for position, record in enumerate(self.records)]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All tensors as a state dict: names, order, shapes, dtypes, ties and module versions as they were saved."""
        return self._tensors(None)

    def _tensors(self, memory: Memory | None) -> dict[str, torch.Tensor]:
        from collections import OrderedDict

        tensors: OrderedDict[str, torch.Tensor] = OrderedDict()
        arrays = self._decode_all(memory) if self._device is None else None
        for position, record in enumerate(self.records):
            if record.tie is not None:
                tensors[record.name] = tensors[self.records[record.tie].name]
            elif arrays is not None:
                tensors[record.name] = to_torch(arrays[position], record.dtype)
            else:
                tensors[record.name] = self._tensor(position)
        if (numbers := self.versions) is not None:
            numbers = dict.fromkeys(paths_around(self), 1) | numbers  # 1 is what a module has that says nothing
            versions = OrderedDict((path, {"version": number}) for path, number in numbers.items())
            tensors._metadata = versions  # type: ignore[attr-defined]
        return tensors

    def load_into(self, module: nn.Module) -> nn.Module:
        """Load all tensors into a module, by the rules of `load_state_dict(strict=True)`; the module is handed back.

        What `torch.compile`, DataParallel or DistributedDataParallel put around a module, or around a part of it, is looked
        through: the module inside is loaded, whatever prefixes that gives to names on either side.

        Raises:
            ModelError: names or shapes do not match, all of them named; the module is unchanged.
        """
        import torch

        from deepcompress.tensors.loading import load_state_dict, memory_of, own_names
        from deepcompress.tensors.wrappers import bare, renamed

        target = bare(module)
        names = own_names(target, list(self))
        memory = memory_of(target, self.records, names) if self._device is None else None
        if memory is None:
            tensors = self._tensors(Arena(self.dense_bytes + ALIGNED * len(self)).take)
            load_state_dict(target, renamed(tensors, names), self.source)
        else:
            self._write_over(memory)
            torch.autograd.graph.increment_version(list(target.state_dict(keep_vars=True).values()))
        return module

    def _write_over(self, targets: Sequence[NDArray[np.uint8]]) -> None:
        """Write all tensors over their bytes in a module: once everything that can fail is done."""
        sizes = [record.numel for record in self.records if record.tie is None]
        memory = Arena(sum(sizes) + ALIGNED * len(sizes)).take
        own = [position for position, record in enumerate(self.records) if record.tie is None]
        prepared = dict(zip(own, pool.run([partial(self._decode, at, memory, prepare_tensor) for at in own]), strict=True))

        def write(position: int) -> None:
            tie = self.records[position].tie
            found = prepared[position if tie is None else tie]
            if isinstance(found, SharedValues):
                found.write(targets[position])
            else:
                targets[position][:] = np.ascontiguousarray(found).reshape(-1).view(np.uint8)

        pool.run([partial(write, position) for position in range(len(self.records))])

    def verify(self) -> None:
        """Check every checksum, decode every tensor, read all metadata. Raises FormatError naming all that is wrong."""
        self._reader.verify()
        checks: list[Callable[[], object]] = [
            partial(self._decode, position) for position, record in enumerate(self.records) if record.tie is None
        ]
        checks += [lambda: self.metadata, lambda: self.recipe, lambda: self.versions, lambda: self.inference]
        problems = []
        for check in checks:
            try:
                check()
            except FormatError as error:
                problems.append(error)
        if problems:
            kinds = {type(problem) for problem in problems}
            kind = kinds.pop() if len(kinds) == 1 else FormatError
            raise kind("\n".join(str(problem) for problem in problems))

    def inspect(self) -> dict[str, Any]:
        """What the head and the directory say, as plain data; nothing is decoded."""
        from deepcompress.tensors.accounting import describe

        return {**describe(self._reader.directory, self.file_bytes), "notes": self._notes}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file to `path`; it appears whole or not at all, and until then an earlier one stays. Raises StorageError.

        What a killed process leaves beside it, `.NAME.PID-RANDOM.tmp`, goes with the next save under that name.
        """
        with atomic_file(path) as file:
            for start in range(0, self.file_bytes, _COPIED_AT_ONCE):
                file.write(self._reader.source.read(start, _COPIED_AT_ONCE))

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        return bytes(self._reader.source.read(0, self.file_bytes))

    def _tensor(self, position: int) -> torch.Tensor:
        """A tensor where it is wanted: decoded on the device itself, where that is a GPU and its streams are for one."""
        directory = self._reader.directory
        record = directory.records[position]
        if record.tie is not None:
            return self._tensor(record.tie)
        if self._device is None:
            return to_torch(self._decode(position), record.dtype)
        import torch

        from deepcompress.tensors.gpu import decode_on_device

        device = torch.device(self._device)
        sections = {kind: self._reader.section(span) for kind, span in directory.spans[position].items()}
        try:
            found = decode_on_device(record, sections, directory.tables, device)
        except FormatError as error:
            raise self._located(error, position) from error
        return to_torch(self._decode(position), record.dtype).to(device) if found is None else found

    @denormals_kept()
    def _decode(self, position: int, memory: Memory | None = None, decode: Callable[..., Any] = decode_tensor) -> Any:
        directory = self._reader.directory
        record = directory.records[position]
        if record.tie is not None:
            return self._decode(record.tie, memory, decode)
        sections = {kind: self._reader.section(span) for kind, span in directory.spans[position].items()}
        try:
            return decode(record, sections, directory.tables, memory)
        except FormatError as error:
            raise self._located(error, position) from error

    def _located(self, error: FormatError, position: int) -> FormatError:
        """The error, with the file's name, and where in the file the section is that it speaks of."""
        span = self._reader.directory.spans[position].get(error.section or "")
        where = f" (the section: bytes {span.start} to {span.stop})" if span else ""
        return type(error)(f"{self.source}: {error}{where}")

    @property
    def _notes(self) -> list[str]:
        """What the directory says in words."""
        return [INFERENCE] if layout.META_INFERENCE in self._reader.directory.meta_spans else []

    def _place(self, kind: int) -> str:
        span = self._reader.directory.meta_spans[kind]
        return f"{self.source}: metadata of kind {kind} (bytes {span.start} to {span.stop})"

    def _object(self, kind: int) -> dict[str, Any] | None:
        """The JSON object in a metadata section, or None where there is no such section."""
        content = self._reader.metadata(kind)
        if content is None:
            return None
        try:
            found = json.loads(content.decode(), parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{self._place(kind)} is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise FormatError(f"{self._place(kind)} is not a JSON object")
        return found


def _usable(device: Device) -> Device:
    """The device, if tensors can be made on it. Raises ParameterError."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:  # torch has no one error for this
        reason = str(error).partition("\n")[0]
        raise ParameterError.of("device", "open", f"one that this torch can use ({reason})", device) from None
    return device


def _refuse_constant(name: str) -> None:
    """JSON has no NaN and no infinities; Python's reader takes them all the same."""
    raise ValueError(f"{name} is no JSON")


def open(
    source: FileSource, *, framework: str = "torch", max_bytes: int | None = None, device: Device | None = None
) -> CompressedModel:  # fmt: skip
    """Open a .dcz file (path, bytes or file object) without decoding anything; tensors are read when they are asked for.

    Args:
        source: a path, the file's bytes, or a binary file object, read from where it stands.
        framework: what `model[name]` gives: "torch" tensors or "numpy" arrays.
        max_bytes: refuse a file that says it decodes to more.
        device: where torch tensors are to be, the CPU if not given. For "cuda" only the compressed sections go there, and are
            decoded there; what a GPU has no decoder for is decoded here and moved.

    Raises:
        FormatError: not a well-formed .dcz file, or one above `max_bytes`; VersionError where it needs a newer reader.
        StorageError: it cannot be read.
    """
    return CompressedModel(source, framework=framework, max_bytes=max_bytes, device=device)


def load(
    source: FileSource, *, framework: str = "torch", max_bytes: int | None = None, device: Device | None = None
) -> CompressedModel:  # fmt: skip
    """Like `open`, but take the whole file into memory and check all its checksums at once."""
    model = open(source, framework=framework, max_bytes=max_bytes, device=device)
    try:
        model._reader.source.load()
        model._reader.verify()
    except DeepCompressError:
        model.close()
        raise
    return model


__all__ = ["CompressedModel", "load", "open"]
