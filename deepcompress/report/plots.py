"""The report's plots, each one inline SVG. Needs the plots extra; whoever calls handles its MissingExtraError."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import accumulate
from typing import TYPE_CHECKING

from deepcompress.report import text
from deepcompress.report.rows import Histogram, LayerRow, StageRow
from deepcompress.report.svg import THEME, figure, label_ticks, svg
from deepcompress.tensors.cost import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

__all__ = ["accuracy_plot", "bytes_plot", "histogram_plot", "sparsity_plot"]

_WIDTH = 480
_BAR = 19  # pixels per layer
_NAME = 26  # characters of a layer's name that a plot has room for
_HALF = 0.6  # where a logarithmic axis of counts starts: a bin of one weight is still seen


def histogram_plot(row: LayerRow) -> str:
    """A layer's weights before, and its stored nonzeros after, over logarithmic counts."""
    histogram = row.histogram or Histogram.of((), ())
    drawing, axes = figure(250, 140)
    for counts, name in ((histogram.before, "before"), (histogram.after, "after")):
        shown = [max(count, _HALF) for count in counts]
        axes.stairs(shown, histogram.edges, baseline=_HALF, fill=True, color=THEME[name], linewidth=0)
    axes.set_yscale("log")
    axes.set_ylim(_HALF, 1.6 * max(2, *histogram.before, *histogram.after))
    axes.set_xlim(histogram.edges[0], histogram.edges[-1])
    axes.xaxis.set_major_locator(_few_ticks(4))
    axes.minorticks_off()
    axes.set_ylabel("weights")
    return svg(drawing, escape(f"Histogram of {text.printable(row.name)} before and after"))


def sparsity_plot(rows: Sequence[LayerRow]) -> str:
    """A bar per layer, in percent."""
    drawing, axes = _bars(rows)
    shares = [100 * row.sparsity for row in rows]
    axes.barh(range(len(rows)), shares, height=0.72, color=THEME["accent"])
    _name_ends(axes, shares, [f"{share:.1f}%" for share in shares])
    axes.set_xlim(0, 114)
    axes.set_xticks(range(0, 101, 25), [f"{tick}%" for tick in range(0, 101, 25)])
    axes.set_xlabel("Sparsity: zeros / all")
    return svg(drawing, "Sparsity per layer")


def bytes_plot(rows: Sequence[LayerRow]) -> str:
    """A stacked bar per layer: its bytes in the file, by kind."""
    drawing, axes = _bars(rows)
    for place, row in enumerate(rows):
        counts = row.bits.as_dict()
        starts = accumulate((counts[kind] / 8 for kind in KINDS), initial=0.0)
        for kind, start in zip(KINDS, starts, strict=False):
            axes.barh(place, counts[kind] / 8, left=start, height=0.72, color=THEME[kind])
    _name_ends(axes, [row.bytes for row in rows], [text.size(row.bytes) for row in rows])
    axes.set_xlim(0, 1.25 * max(1.0, *(row.bytes for row in rows)))
    axes.xaxis.set_major_locator(_few_ticks(4))
    axes.xaxis.set_major_formatter(lambda value, _: text.size(value).replace(".00", "") if value else "0")
    axes.set_xlabel("Bytes in the file")
    return svg(drawing, "Bytes per layer")


def accuracy_plot(stages: Sequence[StageRow]) -> str:
    """The measure after each stage that has one; every point carries its figure."""
    known = [(row, row.accuracy) for row in stages if row.accuracy is not None and math.isfinite(row.accuracy)]
    share = text.scores_are_shares(value for _, value in known)
    drawing, axes = figure(760, 230)
    values = [100 * value if share else value for _, value in known]
    axes.plot(range(len(values)), values, color=THEME["accent"], marker="o", markersize=6, linewidth=2)
    for place, value in enumerate(values):
        label = text.score(known[place][1], share=share)
        low = value < max(values[max(place - 1, 0) : place + 2])  # below the line where a neighbour is higher
        note = axes.annotate(label, (place, value), (0, -9 if low else 9), textcoords="offset points", ha="center")
        note.set(color=THEME["ink"], va="top" if low else "bottom")
    turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(known) > 6 else {}
    label_ticks(axes.xaxis, (_end(row.name) for row, _ in known), **turned)
    axes.set_xlim(-0.5, len(known) - 0.5)
    axes.margins(y=0.3)
    axes.yaxis.set_major_locator(_few_ticks(5))
    if share:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}%")
    axes.grid(axis="y", color=THEME["grid"], linewidth=0.7)
    axes.set_ylabel("Accuracy" if share else "Score")
    return svg(drawing, "Accuracy through the stages")


def _bars(rows: Sequence[LayerRow]) -> tuple[Figure, Axes]:
    """Room for a horizontal bar per layer, the first one on top."""
    drawing, axes = figure(_WIDTH, 62 + _BAR * len(rows))
    label_ticks(axes.yaxis, (_end(row.name.removesuffix(".weight")) for row in rows))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", color=THEME["grid"], linewidth=0.7)
    return drawing, axes


def _name_ends(axes: Axes, lengths: Sequence[float], labels: Sequence[str]) -> None:
    for place, (length, label) in enumerate(zip(lengths, labels, strict=True)):
        colour = THEME["soft"]
        axes.annotate(label, (length, place), (4, 0), textcoords="offset points", va="center", color=colour, size=9)


def _end(name: str) -> str:
    """The end of a name tells more than its beginning."""
    return name if len(name) <= _NAME else ".." + name[2 - _NAME :]


def _few_ticks(count: int) -> MaxNLocator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(count, steps=[1, 2, 2.5, 5, 10])
