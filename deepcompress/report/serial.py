"""Reports <-> JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from deepcompress.errors import ParameterError
from deepcompress.report.choice import Choice
from deepcompress.report.rows import Histogram, LayerRow, StageRow
from deepcompress.tensors.cost import BitCount

if TYPE_CHECKING:
    from deepcompress.report.report import Report

__all__ = ["layer_to_dict", "plain", "report_from_dict", "report_from_json", "report_to_dict", "to_json"]

_FORMAT = "deepcompress report"
_VERSION = 1


def plain(value: Any) -> Any:
    """Dataclasses, tuples and numpy scalars as what JSON knows; a float that is not finite as "nan" or "inf"."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def layer_to_dict(row: LayerRow) -> dict[str, Any]:
    """A layer's fields, and what is derived from them."""
    derived = {name: getattr(row, name) for name in ("sparsity", "density", "bytes", "bits_per_weight", "index_bits")}
    return {**plain(row), **plain(derived)}


def report_to_dict(report: Report) -> dict[str, Any]:
    """A report's fields, and what is derived from them."""
    derived = {name: getattr(report, name) for name in ("file_ratio", "lab_ratio", "sparsity")}
    return {
        "format": _FORMAT,
        "version": _VERSION,
        **plain(derived),
        **plain(report),
        "layers": [layer_to_dict(row) for row in report.layers],
    }


def to_json(data: dict[str, Any], indent: int | None) -> str:
    """Strict JSON."""
    return json.dumps(data, indent=indent, allow_nan=False, ensure_ascii=False)


def report_from_json(text: str) -> Report:
    """The report in a JSON text."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ParameterError(f"This is no JSON: {error}") from error
    return report_from_dict(data)


def report_from_dict(data: Mapping[str, Any]) -> Report:
    """The report in a dict; derived figures are computed anew."""
    if not isinstance(data, Mapping) or data.get("format") != _FORMAT:
        raise ParameterError.of("data", "Report.from_dict", f"a dict with format {_FORMAT!r}", _kind(data))
    if data.get("version") != _VERSION:
        raise ParameterError.of("version", "Report.from_dict", f"{_VERSION}", data.get("version"))
    try:
        return _report(data)
    except ParameterError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ParameterError.of("data", "Report.from_dict", "a dict as to_dict makes them", what) from error


def _kind(data: object) -> object:
    return data.get("format") if isinstance(data, Mapping) else type(data).__name__


def _report(data: Mapping[str, Any]) -> Report:
    from deepcompress.report.report import Report

    return Report(
        layers=tuple(_layer(row) for row in data["layers"]),
        stages=tuple(_stage(row) for row in data["stages"]),
        bits=BitCount(**data["bits"]),
        dense_bytes=int(data["dense_bytes"]),
        file_bytes=int(data["file_bytes"]),
        notes=tuple(data["notes"]),
        environment=dict(data["environment"]),
        choice=Choice.from_dict(data["choice"]) if data.get("choice") else None,  # older reports have none
    )


def _layer(data: Mapping[str, Any]) -> LayerRow:
    known = {field.name: data[field.name] for field in fields(LayerRow)}
    histogram = known["histogram"]
    return LayerRow(
        **{
            **known,
            **{name: _real(known[name]) for name in ("mean_code_length", "entropy", "rmse")},
            "shape": tuple(known["shape"]),
            "bits": BitCount(**known["bits"]),
            "histogram": None if histogram is None else Histogram(**{k: tuple(v) for k, v in histogram.items()}),
        }
    )


def _stage(data: Mapping[str, Any]) -> StageRow:
    numbers = {name: _real(data[name]) for name in ("sparsity", "accuracy", "seconds")}
    return StageRow(name=data["name"], kind=data["kind"], notes=tuple(data["notes"]), **numbers)  # type: ignore[arg-type]


def _real(value: float | str | None) -> float | None:
    return None if value is None else float(value)
