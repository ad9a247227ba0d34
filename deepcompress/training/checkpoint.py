"""What a training needs to go on where it was stopped, kept in a file that is replaced every few epochs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from deepcompress.errors import ParameterError
from deepcompress.tensors.bundle import read_bundle, write_bundle
from deepcompress.training.group import Group, tensors_of
from deepcompress.training.seeds import all_generators, set_all_generators, set_state_of, state_of
from deepcompress.training.snapshot import write_values

_LOGGER = logging.getLogger(__name__)
_PLACES = ("", "sampler", "batch_sampler", "batch_sampler.sampler", "dataset")  # where a loader may keep generators


@dataclass
class Checkpoint:
    """A file that a training writes itself to, and goes on from where it is there.

    It holds the model, optimizer, scheduler, masks or centroids, all random generators and what was measured; no code, no
    pickle. On the CPU, a training that was killed and called again ends with the bits of one that was not, if the batches depend
    on nothing but the random generators: those of torch, numpy and Python, those that the loader, its samplers and its data set
    have as attributes, and what these keep in `state_dict`/`load_state_dict`.

    Attributes:
        path: the file; written whole or not at all.
        every: epochs between two writings. The last epoch is always written.
        epochs: how many epochs are in it; known once training runs.

    Raises:
        ParameterError: `every` is no int above 0.
    """

    path: str | Path
    every: int = 1
    epochs: int = 0

    def __post_init__(self) -> None:
        if not is_count(self.every):
            raise ParameterError.of("every", "Checkpoint", "a number of epochs above 0", self.every)

    @classmethod
    def of(cls, given: Checkpoint | str | Path | None) -> Checkpoint | None:
        """What a caller gave, a path among it."""
        return cls(given) if isinstance(given, (str, Path)) else given


def is_count(value: object) -> bool:
    """Whether this may be a number of epochs between two checkpoints."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def described(value: Any) -> str:
    """A value in words that are the same in every process: dataclasses by what differs from their defaults, callables by name."""
    if is_dataclass(value) and not isinstance(value, type):
        changed = {item.name: described(getattr(value, item.name)) for item in fields(value)}
        usual = {item.name: described(_default(item)) for item in fields(value)}
        told = ", ".join(f"{name}={text}" for name, text in changed.items() if text != usual[name])
        return f"{type(value).__name__}({told})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {described(value[key])}" for key in sorted(value, key=repr)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(described, value)) + "]"
    if callable(value):
        kind = value if hasattr(value, "__qualname__") else type(value)
        return f"{kind.__module__}.{kind.__qualname__}"
    return repr(value.item() if isinstance(value, np.generic) else value)


def _default(item: Field[Any]) -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default


class Part(Protocol):
    """What has a state that a checkpoint keeps: plain data and tensors, as `write_bundle` takes them."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


class Keeper:
    """Writes the parts of a training to a checkpoint, and reads them back; does nothing where there is none.

    Args:
        of: what training this is, in words; that of the file must be equal.
        shared: the parts that are the same on all ranks.
        own: those that each rank has for itself.
    """

    def __init__(
        self, checkpoint: Checkpoint | None, group: Group, of: str, shared: Mapping[str, Part], own: Mapping[str, Part]
    ) -> None:  # fmt: skip
        self._checkpoint, self._group, self._of = checkpoint, group, of
        self._shared, self._own = shared, own

    def go_on(self) -> int:
        """Bring all parts to where the file has them. Returns the epochs done; 0 where there is no file.

        Raises:
            ParameterError: the file is of another training, or of another number of processes.
            FormatError, StorageError: it is damaged, or cannot be read.
        """
        checkpoint = self._checkpoint
        if checkpoint is None:
            return 0
        tree = self._group.once(lambda: self._read(Path(checkpoint.path)))
        if tree is None:
            return 0
        for name, part in self._shared.items():
            part.load_state_dict(tree["shared"][name])
        for name, part in self._own.items():
            part.load_state_dict(tree["own"][self._group.rank][name])
        checkpoint.epochs = int(tree["epochs"])
        _LOGGER.info("goes on after epoch %d, from %s", checkpoint.epochs, checkpoint.path)
        return checkpoint.epochs

    def _read(self, path: Path) -> dict[str, Any] | None:
        if not path.exists():
            return None
        tree: dict[str, Any] = read_bundle(path)
        found, expected = tree.get("of"), f"a new file, or one of this training ({self._of})"
        if found != self._of:
            raise ParameterError.of("checkpoint", "fit", expected, f"{path}, of {found}")
        if len(tree["own"]) != self._group.size:
            here = f"a new file, or one of {self._group.size} processes"
            raise ParameterError.of("checkpoint", "fit", here, f"{path}, of {len(tree['own'])}")
        return tree

    def after(self, epoch: int, epochs: int) -> None:
        """Write the file where it is time to. Raises ParameterError for a state without a form; StorageError."""
        checkpoint = self._checkpoint
        if checkpoint is None or (epoch % checkpoint.every and epoch != epochs):
            return
        own = self._group.together(lambda: {name: part.state_dict() for name, part in self._own.items()})
        self._group.once(lambda: self._write(checkpoint.path, epoch, own))
        checkpoint.epochs = epoch

    def _write(self, path: str | Path, epoch: int, own: list[dict[str, Any]]) -> None:
        shared = {name: part.state_dict() for name, part in self._shared.items()}
        write_bundle(path, {"of": self._of, "epochs": epoch, "shared": shared, "own": own})


class Values:
    """All parameters and buffers of a model."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state_dict(self) -> dict[str, Any]:
        return dict(tensors_of(self._model))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        write_values(self._model, state)


class Generators:
    """Every random generator of the process."""

    def state_dict(self) -> dict[str, Any]:
        return all_generators()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        set_all_generators(state)


class LoaderState:
    """What a loader, its samplers and its data set keep of where they are: their own states, or their generators."""

    def __init__(self, train: object) -> None:
        self._train = train

    def state_dict(self) -> dict[str, Any]:
        return {
            place: {"state": part.state_dict()} if _keeps_itself(part) else {"generators": state_of(part)}
            for place, part in self._parts()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for place, part in self._parts():
            kept = state.get(place, {})
            if "state" in kept and _keeps_itself(part):
                part.load_state_dict(kept["state"])
            set_state_of(part, kept.get("generators", {}))

    def _parts(self) -> Iterator[tuple[str, Any]]:
        for place in _PLACES:
            part: Any = self._train
            for name in filter(None, place.split(".")):
                part = getattr(part, name, None)
            if part is not None:
                yield place, part


def _keeps_itself(part: object) -> bool:
    return callable(getattr(part, "state_dict", None)) and callable(getattr(part, "load_state_dict", None))
