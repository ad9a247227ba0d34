"""Which plots a page carries, and what it says where there are none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from deepcompress.errors import MissingExtraError
from deepcompress.report import plots, text
from deepcompress.report.pool import is_compressed
from deepcompress.report.report import Report
from deepcompress.report.rows import LayerRow
from deepcompress.tensors.cost import KINDS

__all__ = ["Charts", "charts"]

_BARS = 60  # layers in a bar plot
_HISTOGRAMS = 48


@dataclass(frozen=True)
class Charts:
    """Inline SVGs, empty where there is nothing to draw; `missing` says why there are none at all."""

    sparsity: str = ""
    bytes: str = ""
    accuracy: str = ""
    histograms: Sequence[tuple[str, str]] = field(default=())
    kinds: Sequence[str] = field(default=())
    limit: str = ""
    histogram_limit: str = ""
    missing: str = ""


def charts(report: Report) -> Charts:
    """Draw what the report has."""
    try:
        return _draw(report)
    except MissingExtraError as error:
        return Charts(missing=f"{error}. Everything else is here.")


def _draw(report: Report) -> Charts:
    layers = [row for row in report.layers if is_compressed(row)]
    bars = _largest(layers, _BARS)
    spread = [row for row in layers if row.histogram is not None]
    shown = _largest(spread, _HISTOGRAMS)
    measured = [row for row in report.stages if row.accuracy is not None and math.isfinite(row.accuracy)]
    return Charts(
        sparsity=plots.sparsity_plot(bars) if bars else "",
        bytes=plots.bytes_plot(bars) if bars else "",
        accuracy=plots.accuracy_plot(measured) if measured else "",
        histograms=[(_caption(row), plots.histogram_plot(row)) for row in shown],
        kinds=[kind for kind in KINDS if any(getattr(row.bits, kind) for row in bars)],
        limit=_limit(bars, layers),
        histogram_limit=_limit(shown, spread) + _sampled(shown),
    )


def _largest(rows: Sequence[LayerRow], count: int) -> list[LayerRow]:
    """The rows of most weights, in their own order."""
    chosen = sorted(range(len(rows)), key=lambda i: -rows[i].weights)[:count]
    return [rows[i] for i in sorted(chosen)]


def _limit(shown: Sequence[LayerRow], rows: Sequence[LayerRow]) -> str:
    return "" if len(shown) == len(rows) else f" The {len(shown)} largest of {len(rows)} layers."


def _sampled(rows: Sequence[LayerRow]) -> str:
    partly = any(row.histogram and sum(row.histogram.before) < row.weights for row in rows)
    return " Of large layers an even sample is counted." if partly else ""


def _caption(row: LayerRow) -> str:
    name = escape(text.printable(row.name.removesuffix(".weight")))
    kept = f"{row.nonzeros:,} of {row.weights:,} kept"
    return f"<b>{name}</b><br>{kept}" + (f", k = {row.k:,}" if row.k is not None else "")
