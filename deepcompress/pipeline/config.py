"""A pipeline from JSON or YAML: names are looked up in a table, nothing is imported and nothing is called."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from deepcompress.errors import ParameterError, StorageError
from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.stages import STAGES

if TYPE_CHECKING:
    from deepcompress.pipeline.pipeline import Pipeline

_SUFFIXES = (".yaml", ".yml", ".json")


# YAML 1.1 reads 1e-3 as text; people mean the number, but not where a name or a pattern is expected.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_TEXT = ("name", "include", "exclude", "types")


def read_config(source: Mapping[str, Any] | str | Path, pipeline: type[Pipeline]) -> list[tuple[str, Stage | Pipeline]]:
    """The (name, stage) pairs of a configuration. Errors as in `Pipeline.from_config`."""
    data = source if isinstance(source, Mapping) else parse(source)
    if not isinstance(data, Mapping) or not isinstance(data.get("stages"), list) or len(data) != 1:
        raise ParameterError('a pipeline\'s configuration is {"stages": [{"name": ..., "stage": ..., ...}, ...]}')
    return [_entry(entry, position, pipeline) for position, entry in enumerate(data["stages"])]


def parse(source: str | Path) -> Any:
    """JSON or YAML, from text or from a file. Errors as in `Pipeline.from_config`."""
    text = str(source)
    if isinstance(source, Path) or (text.endswith(_SUFFIXES) and "\n" not in text):
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"cannot read {source}: {error}") from error
    try:
        return json.loads(text)  # YAML is no superset of it: tabs, and characters as surrogate pairs
    except ValueError:
        pass
    try:
        return _with_numbers(yaml.safe_load(text))
    except (yaml.YAMLError, ValueError) as error:
        raise ParameterError(f"the configuration is neither JSON nor YAML: {' '.join(str(error).split())}") from None


def _with_numbers(value: Any) -> Any:
    """The value with text such as 1e-3 as the number; keys of mappings, which are patterns or fields, stay as they are."""
    if isinstance(value, Mapping):
        return {key: item if key in _TEXT else _with_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def _entry(entry: Any, position: int, pipeline: type[Pipeline]) -> tuple[str, Stage | Pipeline]:
    if not isinstance(entry, Mapping) or "stage" not in entry:
        raise ParameterError(f"stage {position} of the configuration must be a mapping with a 'stage'; it is {entry!r}")
    kind, name = entry["stage"], entry.get("name", entry["stage"])
    rest = {key: value for key, value in entry.items() if key not in ("name", "stage")}
    if kind not in (*STAGES, "pipeline"):
        raise ParameterError.of("stage", f"stage {position}", f"one of {', '.join((*STAGES, 'pipeline'))}", kind)
    if not isinstance(name, str):
        raise ParameterError.of("name", f"stage {position}", "a string, in quotes where it reads as a number", name)
    return name, pipeline(read_config(rest, pipeline)) if kind == "pipeline" else STAGES[kind].from_config(rest)
