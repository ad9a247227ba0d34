"""A scan as tables, before any format: a line per layer, a column per sparsity or bit width."""

from __future__ import annotations

from deepcompress.report import text
from deepcompress.report.sensitivity import KINDS, SensitivityTable
from deepcompress.report.tables import Column, Line, Table

__all__ = ["is_share", "sensitivity_tables", "setting_text"]


def sensitivity_tables(scan: SensitivityTable) -> list[Table]:
    """A table for each kind that was scanned."""
    return [_table(scan, kind) for kind in KINDS if scan.settings(kind)]


def is_share(scan: SensitivityTable) -> bool:
    """Whether what `evaluate` gave reads as an accuracy, a fraction of 1."""
    return text.scores_are_shares([scan.baseline, *(row.accuracy for row in scan.rows)])


def setting_text(setting: float, kind: str) -> str:
    """0.95 -> "95%", 4 -> "4 bits"."""
    if kind == "sparsity":
        return f"{100 * setting:.6g}%"
    return f"{setting:.0f} bit{'s' if setting != 1 else ''}"


def _table(scan: SensitivityTable, kind: str) -> Table:
    share = is_share(scan)
    weights = {row.layer: row.weights for row in scan.rows if row.kind == kind}
    settings = (Column(setting_text(setting, kind)) for setting in scan.settings(kind))
    columns = (Column("Layer", left=True), Column("Weights", optional=True), *settings)
    lines = []
    for layer, count in weights.items():
        scores = (text.score(accuracy, share=share) for accuracy in scan.accuracies(layer, kind))
        lines.append(Line((text.printable(layer), text.integer(count), *scores)))
    how = f"pruned ({scan.method})" if kind == "sparsity" else "quantized (k-means)"
    measure = "Accuracy" if share else "Score"
    note = f"{measure} with that layer alone {how}; of the unchanged model {text.score(scan.baseline, share=share)}."
    return Table(f"{measure} by {_heading(kind)}", columns, tuple(lines), (note,))


def _heading(kind: str) -> str:
    return "sparsity of one layer" if kind == "sparsity" else "index bits of one layer"
