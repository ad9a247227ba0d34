"""A scan as a picture: a curve per layer where there are few, else a map with a line per layer. Needs the plots extra."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.errors import ParameterError
from deepcompress.report import curves, text
from deepcompress.report.sensitivity import KINDS, SensitivityTable
from deepcompress.report.sensitivity_table import is_share, setting_text
from deepcompress.report.svg import known_glyphs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_sensitivity"]

_CURVES = 8  # layers that differ in colour, marker and dashes
_NAME = 30  # characters of a layer's name that a plot has room for
_ROW, _CELL, _CHARACTER, _LEGEND = 0.2, 0.58, 0.075, 1.4  # inches of a map's line, of a figure in it, of a letter, of a legend
_XLABELS = {"sparsity": "Sparsity of the one layer that is pruned", "bits": "Index bits of the one layer that is quantized"}


def plot_sensitivity(scan: SensitivityTable, path: str | Path) -> None:
    """Draw a panel for each kind that was scanned. Raises as `SensitivityTable.plot` does."""
    kinds = [kind for kind in KINDS if scan.settings(kind)]
    if not kinds:
        raise ParameterError.of("rows", "SensitivityTable.plot", "at least one point", list(scan.rows))
    few = len(scan.layers) <= _CURVES
    with curves.picture(path, len(kinds), size=_size(scan, kinds, few=few)) as panels:
        (_draw_curves if few else _draw_maps)(panels, kinds, scan)


def _size(scan: SensitivityTable, kinds: Sequence[str], *, few: bool) -> tuple[float, float]:
    """Inches of a panel, with its part of what stands beside all panels: the names, and the legend or the scale of colours."""
    beside = (_CHARACTER * max(map(len, _names(scan.layers))) + _LEGEND) / len(kinds)
    if few:
        return 4.6 + beside, 4.0
    columns = max(len(scan.settings(kind)) for kind in kinds)
    return max(_CELL * columns, 3.2) + beside, 1.4 + _ROW * len(scan.layers)


def _draw_curves(panels: Sequence[Axes], kinds: Sequence[str], scan: SensitivityTable) -> None:
    """A curve per layer, the unchanged model as a line across, one legend beside all panels; NaN stands at the bottom."""
    share, names = is_share(scan), _names(scan.layers)
    for axes, kind in zip(panels, kinds, strict=True):
        points = {
            name: (scan.settings(kind), scan.accuracies(layer, kind)) for name, layer in zip(names, scan.layers, strict=True)
        }
        curves.lines(axes, points, xlabel=_XLABELS[kind], ylabel=_measure(scan), percent=share, marks=True)
        axes.axhline(scan.baseline, color="#222222", linewidth=1.0, zorder=1, label="unchanged")
        axes.get_legend().remove()  # type: ignore[union-attr]
        _write_nans(axes, kind, scan)
        _leave_room(axes, scan.settings(kind))
        if kind == "sparsity":
            axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
        else:
            axes.set_xticks(scan.settings(kind))
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))


def _write_nans(axes: Axes, kind: str, scan: SensitivityTable) -> None:
    """What a curve cannot show, in the colour of its layer."""
    for place, (layer, curve) in enumerate(zip(scan.layers, axes.get_lines(), strict=False)):
        style: Any = {"transform": axes.get_xaxis_transform(), "ha": "center", "size": 8, "color": curve.get_color()}
        for setting, accuracy in zip(scan.settings(kind), scan.accuracies(layer, kind), strict=True):
            if math.isnan(accuracy):
                axes.text(setting, 0.01 + 0.04 * place, "nan", **style)


def _leave_room(axes: Axes, settings: Sequence[float]) -> None:
    """All settings on the axis, also where no point has a number."""
    margin = 0.05 * (settings[-1] - settings[0]) or 0.05
    axes.set_xlim(settings[0] - margin, settings[-1] + margin)


def _draw_maps(panels: Sequence[Axes], kinds: Sequence[str], scan: SensitivityTable) -> None:
    """A line per layer, a column per setting; one scale of colours for all panels."""
    factor = 100.0 if is_share(scan) else 1.0
    values = [factor * np.array([scan.accuracies(layer, kind) for layer in scan.layers]) for kind in kinds]
    finite = np.concatenate([[0.0], *(array[np.isfinite(array)] for array in values)])[1:]
    span = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    for axes, kind, array in zip(panels, kinds, values, strict=True):
        drawn = axes.imshow(array, aspect="auto", cmap="viridis", interpolation="nearest", vmin=span[0], vmax=span[1])
        _write_cells(axes, array, span)
        axes.grid(visible=False)
        axes.set_xticks(range(array.shape[1]), [_short_setting(setting, kind) for setting in scan.settings(kind)])
        axes.set_yticks(range(len(scan.layers)), _names(scan.layers), fontsize=8)
        axes.set_xlabel(_XLABELS[kind])
    for axes in panels[1:]:
        axes.set_yticklabels([])
    unit = ", %" if factor != 1 else ""
    label = f"{_measure(scan)}{unit} (unchanged: {text.score(scan.baseline, share=factor != 1)})"
    panels[0].figure.colorbar(drawn, ax=list(panels), label=label, aspect=max(20, len(scan.layers)))


def _write_cells(axes: Axes, values: NDArray[Any], span: tuple[float, float]) -> None:
    """Each figure in its cell, dark on light or light on dark; NaN is said."""
    middle = span[0] + 0.6 * (span[1] - span[0])
    for (row, column), value in np.ndenumerate(values):
        ink = "white" if value < middle else "black"
        figure = f"{value:.1f}" if 10 <= abs(value) < 1000 else f"{value:.2g}"
        axes.text(column, row, figure, ha="center", va="center", color=ink, size=7)


def _measure(scan: SensitivityTable) -> str:
    return "Accuracy" if is_share(scan) else "Score"


def _short_setting(setting: float, kind: str) -> str:
    return setting_text(setting, kind).removesuffix(" bits").removesuffix(" bit")


def _names(layers: Sequence[str]) -> list[str]:
    """Names that fit and differ: their ends, which tell more than their beginnings; else both; else whole."""
    plain = [known_glyphs(layer.removesuffix(".weight")) for layer in layers]
    ends = [name if len(name) <= _NAME else ".." + name[2 - _NAME :] for name in plain]
    both = [name if len(name) <= _NAME else f"{name[: _NAME // 2 - 2]}..{name[-_NAME // 2 :]}" for name in plain]
    found = next((names for names in (ends, both, plain) if len(set(names)) == len(names)), list(layers))
    return [name.replace("$", r"\$") for name in found]
