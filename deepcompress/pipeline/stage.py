"""The contract of a stage: it takes a state and returns one, it has a JSON form, and it knows no neighbour."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, ClassVar

import numpy as np

from deepcompress.errors import ParameterError
from deepcompress.pipeline.state import Context, State


class Stage(ABC):
    """Base of all stages, which are frozen dataclasses: their fields are their configuration.

    `kind` names the stage in a configuration; `phase` says when it may run: "prune", "train", "quantize", "finetune",
    "encode", or "lossless", which stands alone.
    """

    kind: ClassVar[str]
    phase: ClassVar[str]

    def __eq__(self, other: object) -> bool:
        """Stages are equal where their configurations are: a tuple equals the list that a file makes of it."""
        return type(self) is type(other) and _settings(self) == _settings(other)

    __hash__ = None  # type: ignore[assignment]

    @abstractmethod
    def apply(self, state: State, context: Context) -> State:
        """The state after this stage. Where it raises, the state's model is as it was."""

    def config(self) -> dict[str, Any]:
        """The stage as JSON: its kind, and the fields that differ from their defaults.

        Raises:
            ParameterError: a field holds a callable or another value that JSON has no form for.
        """
        return {"stage": self.kind, **changed_fields(self)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Stage:
        """The stage that `config()` described. Raises ParameterError for an unknown or missing field."""
        try:
            return cls(**{key: value for key, value in config.items() if key != "stage"})
        except TypeError as error:
            text = str(error).replace(f"{cls.__name__}.__init__()", cls.__name__)
            raise ParameterError(f"stage {cls.kind!r}: {text}") from None


def changed_fields(stage: Any) -> dict[str, Any]:
    """A dataclass's fields that differ from their defaults, as JSON."""
    changed = {}
    for item in fields(stage):
        value = getattr(stage, item.name)
        default = item.default_factory() if item.default_factory is not MISSING else item.default
        if default is MISSING or _plain(value) != _plain(default):
            changed[item.name] = as_json(value, f"{type(stage).__name__}.{item.name}")
    return changed


def as_json(value: Any, place: str) -> Any:
    """A value as plain JSON data. Raises ParameterError naming `place` where there is no such form."""
    plain = _plain(value)
    if problem := _without_form(plain):
        allowed = "a configuration holds names, numbers and lists, callables have no place in it"
        raise ParameterError(f"{place} is {problem[0]!r}; {allowed}")
    return plain


def _settings(stage: Stage) -> dict[str, Any]:
    """Everything that was given, callables too."""
    return {name: _plain(vars(value) if is_dataclass(value) else value) for name, value in vars(stage).items()}


def _plain(value: Any) -> Any:
    """Lists for sequences, dicts for mappings, Python's numbers for numpy's; anything else as it is."""
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _without_form(value: Any) -> list[Any]:
    """The parts of plain data that JSON cannot hold; it has no keys but strings."""
    if isinstance(value, list):
        return [bad for item in value for bad in _without_form(item)]
    if isinstance(value, dict):
        keys = [key for key in value if not isinstance(key, str)]
        return keys + [bad for item in value.values() for bad in _without_form(item)]
    return [] if value is None or isinstance(value, (bool, int, float, str)) else [value]
