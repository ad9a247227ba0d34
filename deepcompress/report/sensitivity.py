"""Accuracy against sparsity or bits, layer by layer: the rows of a scan, what they allow, and their ways out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcompress.errors import ParameterError
from deepcompress.report.serial import plain, to_json

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

__all__ = ["KINDS", "SensitivityRow", "SensitivityTable"]

KINDS = ("sparsity", "bits")
_FORMAT = "deepcompress sensitivity"
_VERSION = 1
_ROUNDING = 1e-6  # accuracies are often counted in float32


@dataclass(frozen=True, kw_only=True)
class SensitivityRow:
    """The model with one layer pruned, or with one layer quantized, and all others as they were.

    Attributes:
        layer: the weight's name.
        weights: how many it has.
        kind: "sparsity" or "bits".
        setting: the sparsity asked for, in [0, 1], or the bits of an index.
        sparsity: zeros / all of the layer as it was measured; whole filters come near to `setting` only.
        accuracy: what `evaluate` gave; more is better. NaN where it gave that.
    """

    layer: str
    weights: int
    kind: str
    setting: float
    sparsity: float
    accuracy: float

    @property
    def key(self) -> tuple[str, str, float]:
        """What tells a point from all others of a scan."""
        return self.layer, self.kind, self.setting


@dataclass(frozen=True, kw_only=True)
class SensitivityTable:
    """One scan.

    Attributes:
        baseline: what `evaluate` gave for the model as it came.
        method: how layers were pruned.
        rows: layer by layer in the model's order, sparsities before bits, each ascending.
    """

    baseline: float
    method: str
    rows: tuple[SensitivityRow, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers' names, in order."""
        return tuple(dict.fromkeys(row.layer for row in self.rows))

    def settings(self, kind: str) -> tuple[float, ...]:
        """The sparsities ("sparsity") or bit widths ("bits") that were tried, ascending."""
        return tuple(sorted({row.setting for row in self.rows if row.kind == kind}))

    def accuracies(self, layer: str, kind: str) -> tuple[float, ...]:
        """A layer's accuracies, one for each of `settings(kind)`; NaN where one was not measured."""
        known = {row.setting: row.accuracy for row in self.rows if (row.layer, row.kind) == (layer, kind)}
        return tuple(known.get(setting, math.nan) for setting in self.settings(kind))

    def highest_sparsity(self, drop: float) -> dict[str, float]:
        """Layer -> the highest sparsity at which it alone costs at most `drop` of accuracy; 0.0 where each costs more.

        Args:
            drop: of what `evaluate` gives: 0.01 is one point of an accuracy as a fraction.

        Raises:
            ParameterError: `drop` is negative, or no number.
        """
        allowed = self._allowed("sparsity", drop, "highest_sparsity")
        return {layer: max(found, default=0.0) for layer, found in allowed.items()}

    def fewest_bits(self, drop: float) -> dict[str, int]:
        """Layer -> the fewest bits at which it alone costs at most `drop`; without the layers where each width costs more.

        This is what `KMeansQuantize(bits=...)` takes; layers that are left out keep their values. Errors as `highest_sparsity`.
        """
        allowed = self._allowed("bits", drop, "fewest_bits")
        return {layer: int(min(found)) for layer, found in allowed.items() if found}

    def _allowed(self, kind: str, drop: float, owner: str) -> dict[str, list[float]]:
        """Layer -> the settings that cost at most `drop`, but for rounding; NaN costs more than anything."""
        if isinstance(drop, bool) or not isinstance(drop, (int, float)) or not 0 <= drop < math.inf:
            raise ParameterError.of("drop", f"SensitivityTable.{owner}", "a finite number of at least 0", drop)
        rows = [row for row in self.rows if row.kind == kind]
        allowed: dict[str, list[float]] = {row.layer: [] for row in rows}
        least = self.baseline - drop
        for row in rows:
            if row.accuracy >= least or math.isclose(row.accuracy, least, rel_tol=_ROUNDING):
                allowed[row.layer].append(row.setting)
        return allowed

    def to_text(self, width: int = 100) -> str:
        """A table for each kind, of at most `width` columns."""
        from deepcompress.report.terminal import table_text

        return "\n\n".join(table_text(table, width) for table in self._tables())

    def to_markdown(self) -> str:
        """The same as GitHub-flavoured Markdown."""
        from deepcompress.report.markdown import table_markdown

        return "\n\n".join(map(table_markdown, self._tables())) + "\n"

    def plot(self, path: str | Path) -> None:
        """Draw a panel for each kind, as PNG or SVG by the path's ending: curves of a few layers, a map of many.

        Raises:
            MissingExtraError: matplotlib is not installed.
            StorageError: the path cannot be written.
            ParameterError: there are no points.
        """
        from deepcompress.report.sensitivity_plot import plot_sensitivity

        plot_sensitivity(self, path)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: the fields; a number that is not finite as a string."""
        return {"format": _FORMAT, "version": _VERSION, **plain(self)}

    def to_json(self, indent: int | None = 2) -> str:
        """`as_dict` as JSON text."""
        return to_json(self.as_dict(), indent)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SensitivityTable:
        """The table that `as_dict` came from; more entries do not matter.

        Raises:
            ParameterError: `data` is no such dict.
        """
        owner = "SensitivityTable.from_dict"
        if not isinstance(data, Mapping) or (data.get("format"), data.get("version")) != (_FORMAT, _VERSION):
            raise ParameterError.of("data", owner, f"a dict with format {_FORMAT!r}, version {_VERSION}", _kind(data))
        try:
            rows = tuple(_row(entry) for entry in data["rows"])
            return cls(baseline=float(data["baseline"]), method=str(data["method"]), rows=rows)
        except (KeyError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise ParameterError.of("data", owner, "a dict as as_dict makes them", what) from error

    @classmethod
    def from_json(cls, text: str) -> SensitivityTable:
        """The table that `to_json` came from, or a scan's file. Errors as in `from_dict`."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ParameterError(f"This is no JSON: {error}") from error
        return cls.from_dict(data)

    def _tables(self) -> Iterator[Any]:
        from deepcompress.report.sensitivity_table import sensitivity_tables

        return iter(sensitivity_tables(self))

    def __str__(self) -> str:
        from shutil import get_terminal_size

        return self.to_text(get_terminal_size(fallback=(100, 24)).columns)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield Text(self.to_text(options.max_width), no_wrap=True, overflow="ignore")


def _row(data: Mapping[str, Any]) -> SensitivityRow:
    if data["kind"] not in KINDS:
        raise ValueError(f"kind {data['kind']!r}")
    numbers = {name: float(data[name]) for name in ("setting", "sparsity", "accuracy")}
    return SensitivityRow(layer=str(data["layer"]), weights=int(data["weights"]), kind=data["kind"], **numbers)


def _kind(data: object) -> object:
    return data.get("format") if isinstance(data, Mapping) else type(data).__name__
