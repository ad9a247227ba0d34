"""A recipe: a file of YAML, checked field by field."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from deepcompress.errors import ParameterError

if TYPE_CHECKING:
    from deepcompress.pipeline.pipeline import Pipeline

__all__ = ["Batching", "Goal", "Inputs", "LossMix", "Recipe", "load", "names"]

_FOLDER = Path(__file__).parent
_SUFFIXES = (".yaml", ".yml")
_DIGITS = 12

Part = TypeVar("Part", "Goal", "Batching", "LossMix", "Inputs", "Recipe")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(part: object, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ParameterError.of(name, type(part).__name__, expected, getattr(part, name))


@dataclass(frozen=True)
class Goal:
    """What the file is to reach on test data: one limit of its size, one of its error.

    Attributes:
        ratio: dense bytes / bytes of the file, at least; or
        bytes: of the file, at most.
        error: share of the test images that are classified wrong, at most; or
        lost: accuracy of the dense network less that of the file, as a share; less than this.
        dense: accuracy of the dense network, as a share, at least; nothing is asked of it where None.
    """

    ratio: float | None = None
    bytes: int | None = None
    error: float | None = None
    lost: float | None = None
    dense: float | None = None

    def __post_init__(self) -> None:
        one_size, one_error = (self.ratio is None) != (self.bytes is None), (self.error is None) != (self.lost is None)
        if not (one_size and one_error):
            raise ParameterError(f"A Goal has either 'ratio' or 'bytes', and either 'error' or 'lost'. Got {self} instead.")
        _require(self, "ratio", self.ratio is None or (_is_number(self.ratio) and self.ratio > 0), "a number above 0")
        _require(self, "bytes", self.bytes is None or (_is_whole(self.bytes) and self.bytes > 0), "an int above 0")
        for name in ("error", "lost", "dense"):
            share = getattr(self, name)
            _require(self, name, share is None or (_is_number(share) and 0 <= share <= 1), "a share from 0 to 1")


@dataclass(frozen=True)
class Batching:
    """How training images are served.

    Attributes:
        size: images in a batch.
        shift: pixels by which an image is moved at random, at most.
        flip: mirror half of them.
        channels_last: the memory format of images and network.
    """

    size: int = 128
    shift: int = 0
    flip: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        _require(self, "size", _is_whole(self.size) and self.size > 0, "an int above 0")
        _require(self, "shift", _is_whole(self.shift) and self.shift >= 0, "an int of at least 0")
        for name in ("flip", "channels_last"):
            _require(self, name, isinstance(getattr(self, name), bool), "true or false")


@dataclass(frozen=True)
class LossMix:
    """Of a loss that distils a teacher: own_share x cross entropy + the rest x the distance to its softened answers.

    Attributes:
        own_share: from 0 to 1.
        temperature: by which logits are divided; above 0.
        teacher: "dense", the network before compression, or another network's name.
    """

    own_share: float
    temperature: float
    teacher: str = "dense"

    def __post_init__(self) -> None:
        _require(self, "own_share", _is_number(self.own_share) and 0 <= self.own_share <= 1, "a share from 0 to 1")
        _require(self, "temperature", _is_number(self.temperature) and self.temperature > 0, "a number above 0")
        _require(self, "teacher", isinstance(self.teacher, str) and bool(self.teacher), "'dense' or the name of a network")


@dataclass(frozen=True)
class Inputs:
    """What a pipeline sees that is given no labels, in place of the training images.

    Attributes:
        count: of inputs.
        imagined: they are made from the statistics of the network's batch norms, see `dc.imagine_inputs`: no data at all. Else
            training images drawn at random.
        steps: by which they are imagined.
    """

    count: int
    imagined: bool = False
    steps: int = 200

    def __post_init__(self) -> None:
        for name in ("count", "steps"):
            _require(self, name, _is_whole(getattr(self, name)) and getattr(self, name) > 0, "an int above 0")
        _require(self, "imagined", isinstance(self.imagined, bool), "true or false")


@dataclass(frozen=True)
class Recipe:
    """From nothing to a file.

    Attributes:
        name: of the file that holds it, without its ending.
        about: what it is for, in a sentence.
        network: a name of `deepcompress.models`.
        data: "mnist" or "cifar10".
        dense: how the network is trained before it is compressed, and its teacher, if that is another.
        pipeline: how it is compressed.
        goal: what the file is to reach.
        batches: how training images are served.
        loss: of the pipeline's stages that train; cross entropy where None.
        dense_batches: how they are served while the dense network is trained; as otherwise where None.
        inputs: all that the pipeline sees, where it is to do without labels, or without data.
    """

    name: str
    about: str
    network: str
    data: str
    dense: Pipeline
    pipeline: Pipeline
    goal: Goal
    batches: Batching = Batching()
    loss: LossMix | None = None
    dense_batches: Batching | None = None
    inputs: Inputs | None = None

    def __post_init__(self) -> None:
        if self.inputs is not None and self.loss is not None and self.loss.own_share:
            raise ParameterError(f"a loss without labels has an 'own_share' of 0. Got {self.loss.own_share} instead.")
        for name in ("about", "network", "data"):
            value = getattr(self, name)
            _require(self, name, isinstance(value, str) and bool(value.strip()), "a string that is not empty")

    @property
    def digest(self) -> str:
        """Of all that has a say in the file: two recipes that make the same files have the same, whatever they are to reach."""
        parts = {name: getattr(self, name) for name in ("batches", "loss", "dense_batches", "inputs")}
        given = {name: vars(part) for name, part in parts.items() if part is not None}
        stages = {"dense": self.dense.config(), "pipeline": self.pipeline.config()}
        said = {"network": self.network, "data": self.data, **stages, **given}
        return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:_DIGITS]


_PARTS = {"goal": Goal, "batches": Batching, "loss": LossMix, "dense_batches": Batching, "inputs": Inputs}


def names() -> tuple[str, ...]:
    """The recipes that come with the package."""
    return tuple(sorted((path.stem for path in _FOLDER.glob("*.yaml")), key=_by_number))


def _by_number(name: str) -> list[tuple[int, str]]:
    """A key by which 800 stands before 1100."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def load(name: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of this name, or in a file of YAML of your own. Reading it imports nothing that it names and calls nothing.

    Args:
        name: of a recipe of the package, or the path of a .yaml file.
        changes: path of a field -> its other value, such as {"pipeline.stages.0.levels": 1}; None leaves a field out.

    Raises:
        ParameterError: neither a recipe of the package nor the path of a .yaml file; a field that is missing, unknown or out of
            its range; a change of what is not there.
        StorageError: the file cannot be read.
    """
    own = str(name).endswith(_SUFFIXES)
    if not own and name not in names():
        raise ParameterError.of("name", "recipes.load", f"one of {', '.join(names())}, or the path of a .yaml file", str(name))
    path = Path(name) if own else _FOLDER / f"{name}.yaml"
    try:
        return _recipe(path, changes or {})
    except ParameterError as error:
        raise ParameterError(f"recipe {path.stem!r}: {error}") from None


def _recipe(path: Path, changes: Mapping[str, Any]) -> Recipe:
    from deepcompress.pipeline.config import parse
    from deepcompress.pipeline.pipeline import Pipeline

    data = dict(_mapping(parse(path), "a recipe"))
    for place, value in changes.items():
        _change(data, place, value)
    for name in {"dense", "pipeline"} & data.keys():
        data[name] = Pipeline.from_config(_mapping(data[name], repr(name)))
    for name, part in _PARTS.items():
        if name in data:
            data[name] = _part(part, _mapping(data[name], repr(name)), repr(name))
    if "name" in data:
        raise ParameterError("the field 'name' is not one of a recipe, whose name is that of its file")
    return _part(Recipe, {"name": path.stem, **data}, "a recipe")


def _change(data: Any, place: str, value: Any) -> None:
    *way, last = place.split(".")
    try:
        for step in way:
            data = data[int(step) if isinstance(data, list) else step]
        if value is None:
            del data[int(last) if isinstance(data, list) else last]
        else:
            data[int(last) if isinstance(data, list) else last] = value
    except (KeyError, IndexError, ValueError, TypeError):
        raise ParameterError(f"the change {place!r} is of a field that is not there") from None


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise ParameterError(f"{what} must be a mapping of fields; it is {value!r}")


def _part(kind: type[Part], data: Mapping[str, Any], what: str) -> Part:
    """The dataclass with these fields, all known and none missing."""
    known = {item.name: item for item in fields(kind)}
    if unknown := [name for name in data if name not in known]:
        raise ParameterError(f"{what} has the unknown field {unknown[0]!r}; its fields are {', '.join(known)}")
    if missing := [name for name, item in known.items() if _is_required(item) and name not in data]:
        raise ParameterError(f"{what} lacks the field {missing[0]!r}")
    return kind(**data)


def _is_required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING
