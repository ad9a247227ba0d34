"""The contract of a stage: it takes a state and returns one, it has a JSON form, and it knows no neighbour."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, ClassVar

from deepcompress.errors import ParameterError
from deepcompress.pipeline.state import Context, State


class Stage(ABC):
    """Base of all stages, which are frozen dataclasses: their fields are their configuration.

    `kind` names the stage in a configuration; `phase` says when it may run: "prune", "train", "quantize", "finetune" or "encode".
    """

    kind: ClassVar[str]
    phase: ClassVar[str]

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
        if default is MISSING or value != default:
            changed[item.name] = as_json(value, f"{type(stage).__name__}.{item.name}")
    return changed


def as_json(value: Any, place: str) -> Any:
    """A value as plain JSON data. Raises ParameterError naming `place` where there is no such form."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [as_json(item, place) for item in value]
    if isinstance(value, Mapping):
        return {str(key): as_json(item, f"{place}[{key!r}]") for key, item in value.items()}
    raise ParameterError(f"{place} is {value!r}; a configuration holds names, numbers and lists, callables have no place in it")
