"""The points of a scan as they are measured, and the file that keeps them for a later run."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import nn

from deepcompress.container.source import atomic_file
from deepcompress.errors import ParameterError, StorageError
from deepcompress.pipeline.assemble import model_tensors
from deepcompress.pipeline.state import Model
from deepcompress.report.sensitivity import SensitivityRow, SensitivityTable
from deepcompress.report.serial import to_json
from deepcompress.tensors.elements import dtype_name, from_torch

__all__ = ["Points", "fingerprint"]

Key = tuple[str, str, float]  # layer, kind, setting


@dataclass
class Points:
    """What was measured so far.

    Attributes:
        path: the file, written after each point; None keeps them in memory.
        model: the fingerprint of the weights.
        method: how layers are pruned.
        baseline: of the model as it came; None until it is measured.
        rows: every point, those among them that this run does not ask for.
    """

    path: Path | None
    model: str
    method: str
    baseline: float | None = None
    rows: dict[Key, SensitivityRow] = field(default_factory=dict)

    @classmethod
    def opened(cls, path: str | Path | None, model: nn.Module, method: str) -> Points:
        """Those of an earlier run, or none; the file is there afterwards, so that a path that cannot be written is known early.

        Raises:
            ParameterError: the file is something else, or of other weights or another method.
            StorageError: it cannot be read or written.
        """
        if path is None:
            return cls(None, "", method)
        points = cls(Path(path), fingerprint(model), method)
        if points.path and points.path.exists():
            points._read(points.path)
        points._write()
        return points

    def add_baseline(self, accuracy: float) -> None:
        """Note the model as it came."""
        self.baseline = accuracy
        self._write()

    def add(self, row: SensitivityRow) -> None:
        """Note a point."""
        self.rows[row.key] = row
        self._write()

    def table(self, asked: Iterable[Key]) -> SensitivityTable:
        """The points that were asked for, in that order."""
        return self._table(self.rows[key] for key in asked)

    def _table(self, rows: Iterable[SensitivityRow]) -> SensitivityTable:
        baseline = math.nan if self.baseline is None else self.baseline
        return SensitivityTable(baseline=baseline, method=self.method, rows=tuple(rows))

    def _write(self) -> None:
        if self.path is None:
            return
        data = {**self._table(self.rows.values()).as_dict(), "weights": self.model}
        if self.baseline is None:
            data["baseline"] = None
        with atomic_file(self.path) as file:
            file.write(to_json(data, indent=1).encode())

    def _read(self, path: Path) -> None:
        expected = "a new file, or one of an earlier scan of the same weights by the same method"
        try:
            data = json.loads(path.read_bytes())
            table = SensitivityTable.from_dict({**data, "baseline": "nan" if data["baseline"] is None else data["baseline"]})
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, TypeError, LookupError) as error:  # ParameterError among them
            raise ParameterError.of("path", "sensitivity_scan", expected, f"{path}, which is none") from error
        if (data.get("weights"), table.method) != (self.model, self.method):
            other = f"method {table.method!r}" if table.method != self.method else "other weights"
            raise ParameterError.of("path", "sensitivity_scan", expected, f"{path}, of {other}")
        self.baseline = None if data["baseline"] is None else table.baseline
        self.rows = {row.key: row for row in table.rows}


def fingerprint(model: Model) -> str:
    """SHA-256 of all tensors of the state dict: names, dtypes, shapes and bits."""
    digest = hashlib.sha256()
    for name, tensor in model_tensors(model).items():
        digest.update(repr((name, dtype_name(tensor), tuple(tensor.shape))).encode())
        digest.update(from_torch(tensor).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
