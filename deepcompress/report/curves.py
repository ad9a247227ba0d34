"""Plots as PNG or SVG files: curves, bars, histograms and pictures of matrices in one style. Needs the plots extra."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from deepcompress.container.source import atomic_file
from deepcompress.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bars", "histograms", "lines", "matrix", "picture"]

Series = Mapping[str, tuple[ArrayLike, ArrayLike]]

# Okabe and Ito's colours, which people of any colour vision tell apart; markers and dashes tell them apart in print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555", "#A6761D")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (5, 1.5, 1, 1.5)))
_LEGEND_WITHIN = 5  # names; a longer legend stands beside the curves
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11.0,
    "axes.titlelocation": "left",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "svg.fonttype": "none",
}


@contextmanager
def picture(path: str | Path, columns: int = 1, rows: int = 1, *, size: tuple[float, float] = (6.4, 3.8)) -> Iterator[list[Axes]]:
    """A file of `rows` x `columns` panels, row by row, each `size` inches; written when the block ends without an error.

    Raises:
        MissingExtraError: matplotlib is not installed.
        StorageError: the file cannot be written.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("Plots need matplotlib: pip install 'deepcompress[plots]'") from error
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), dpi=110, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        yield list(panels.reshape(-1))
        target = Path(path) if Path(path).suffix else Path(f"{path}.png")
        drawn = io.BytesIO()
        figure.savefig(drawn, format=target.suffix[1:])
        with atomic_file(target) as file:
            file.write(drawn.getbuffer())


def lines(
    axes: Axes, series: Series, *, xlabel: str, ylabel: str, title: str = "", percent: bool = False, marks: bool | None = None,
    joined: bool = True,
) -> None:  # fmt: skip
    """Curves with a legend.

    Args:
        series: name -> (x, y), each shape (n,).
        percent: y is a share in [0, 1], shown in per cent.
        marks: a marker per point; where None, on curves of at most 30 points.
        joined: by a line, point after point; else there are markers alone.
    """
    from matplotlib.ticker import MaxNLocator

    looks = zip(cycle(_COLOURS), cycle(_MARKERS), cycle(_DASHES), strict=False)
    for (name, (x, y)), (colour, marker, dashes) in zip(series.items(), looks, strict=False):
        few = not joined or (len(np.atleast_1d(np.asarray(x))) <= 30 if marks is None else marks)
        style: Any = {"linestyle": dashes if joined else "none", "linewidth": 1.7}
        style |= {"marker": marker, "markersize": 4.5} if few else {}
        axes.plot(np.asarray(x), np.asarray(y), label=name, color=colour, **style)
    if any(series):
        axes.legend(**{"loc": "upper left", "bbox_to_anchor": (1, 1)} if len(series) > _LEGEND_WITHIN else {})
    if all(np.equal(np.mod(np.asarray(x, dtype=float), 1), 0).all() for x, _ in series.values()):
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))  # there is no epoch 1.5
    _finish(axes, xlabel, ylabel, title, percent)


def bars(
    axes: Axes, names: Sequence[str], groups: Mapping[str, ArrayLike], *, ylabel: str, xlabel: str = "", title: str = "",
    percent: bool = False, labels: bool = True,
) -> None:  # fmt: skip
    """Bars side by side: one cluster per name, one colour per group; each bar carries its figure where there is room.

    Args:
        groups: name of the group -> heights, shape (len(names),).
        percent: heights are shares in [0, 1], shown in per cent.
        labels: write the figures on clusters of up to twelve bars in all.
    """
    width = 0.8 / max(len(groups), 1)
    few = labels and len(groups) * len(names) <= 12
    for place, ((group, heights), colour) in enumerate(zip(groups.items(), cycle(_COLOURS), strict=False)):
        where = np.arange(len(names)) + (place - (len(groups) - 1) / 2) * width
        drawn = axes.bar(where, np.asarray(heights, dtype=float), width * 0.94, label=group, color=colour)
        if few:
            axes.bar_label(drawn, fmt=_share if percent else _number, padding=2, fontsize=8)
    crowded = len(names) > 6 or sum(map(len, names)) > 50
    turned: Any = {"rotation": 40, "ha": "right", "rotation_mode": "anchor", "fontsize": 8} if crowded else {}
    axes.set_xticks(range(len(names)), list(names), **turned)
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.14)
    if len(groups) > 1:  # above the bars, which leave no room among them
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=min(len(groups), 4), borderaxespad=0.2)
    axes.yaxis.set_major_formatter(lambda value, _: _number(value))
    _finish(axes, xlabel, ylabel, title, percent)


def histograms(
    axes: Axes, values: Mapping[str, ArrayLike], *, xlabel: str, ylabel: str = "Weights", title: str = "", bins: int = 80,
    log: bool = True,
) -> None:  # fmt: skip
    """Histograms over each other, with common edges; counts on a logarithmic axis unless `log` is False.

    Args:
        values: name -> values, of any shape; None finite are left out.
    """
    finite = {name: _finite(array) for name, array in values.items()}
    everything = np.concatenate([*finite.values(), np.zeros(0)])
    low, high = (everything.min(), everything.max()) if everything.size else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    floor = 0.6 if log else 0.0  # where a logarithmic axis of counts starts: a bin of one is still seen
    for (name, array), colour in zip(finite.items(), cycle(_COLOURS), strict=False):
        counts = np.maximum(np.histogram(array, edges)[0], floor)
        axes.stairs(counts, edges, baseline=floor, fill=True, alpha=0.55, color=colour, label=name)
    if log:
        axes.set_yscale("log")
        axes.set_ylim(bottom=floor)
    axes.legend()
    _finish(axes, xlabel, ylabel, title, percent=False)


def matrix(axes: Axes, values: ArrayLike, *, xlabel: str, ylabel: str, title: str = "", legend: str = "") -> None:
    """A matrix, shape (rows, columns), as a picture with a colour bar; what `legend` says is written beside it."""
    array = np.asarray(values, dtype=float)
    drawn = axes.imshow(array, aspect="auto", cmap="viridis", interpolation="nearest")
    axes.grid(visible=False)
    axes.figure.colorbar(drawn, ax=axes, label=legend)
    _finish(axes, xlabel, ylabel, title, percent=False)


def _share(value: float) -> str:
    return f"{value:.1%}"


def _number(value: float) -> str:
    """Four digits where they are needed, and never an exponent for what people count."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _finite(values: ArrayLike) -> np.ndarray[Any, np.dtype[np.float64]]:
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    return array[np.isfinite(array)]


def _finish(axes: Axes, xlabel: str, ylabel: str, title: str, percent: bool) -> None:
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title)
    if percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
