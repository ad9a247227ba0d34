"""Matplotlib figures as SVG for one page: no references outside, colours that follow the page's theme."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from io import StringIO
from typing import TYPE_CHECKING, Any

from deepcompress.errors import MissingExtraError
from deepcompress.report.text import printable
from deepcompress.tensors.cost import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["THEME", "figure", "known_glyphs", "label_ticks", "svg"]

# Stand-ins that matplotlib draws with and that become the page's CSS variables: one drawing serves light and dark.
_NAMES = ("ink", "soft", "grid", "before", "after", "accent", *KINDS)
THEME = {name: f"#0{index:x}f{index:x}0{index:x}" for index, name in enumerate(_NAMES)}
_DPI = 72  # SVG points are then CSS pixels
_FONT = "DejaVu Sans"  # comes with matplotlib; the page sets its own, narrower one
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": _FONT,
    "font.size": 10.0,
    "axes.unicode_minus": False,
    "text.usetex": False,
}


def figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A bare figure of so many CSS pixels, and its axes; matplotlib's global figures are left alone.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure as Plain
    except ImportError as error:
        raise MissingExtraError("Plots need matplotlib: pip install 'deepcompress[plots]'") from error
    with mpl.rc_context(_STYLE):
        drawing = Plain(figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
        axes = drawing.add_subplot()
    _plain_axes(axes)
    return drawing, axes


def _plain_axes(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(THEME["grid"])
    axes.tick_params(colors=THEME["grid"], labelcolor=THEME["soft"], labelsize=10, length=3)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=THEME["soft"], fontsize=10)


def label_ticks(axis: Any, labels: Iterable[str], **style: Any) -> None:
    """Name the places 0, 1, ...; a dollar in a name is a dollar."""
    names = [known_glyphs(label) for label in labels]
    axis.set_ticks(range(len(names)), names)
    for tick in axis.get_ticklabels():
        tick.set(parse_math=False, **style)


def known_glyphs(words: str) -> str:
    """Characters that the font lacks as escapes, for matplotlib warns of each."""
    return "".join(c if _has_glyph(c) else c.encode("unicode_escape").decode("ascii") for c in printable(words))


@cache
def _has_glyph(character: str) -> bool:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return bool(get_font(findfont(FontProperties(family=_FONT))).get_char_index(ord(character)))


def svg(drawing: Figure, title: str) -> str:
    """An inline `<svg>` element; `title` is what a screen reader says, and must be HTML already."""
    import matplotlib as mpl

    out = StringIO()
    style: Any = {**_STYLE, "svg.hashsalt": title}  # ids differ between the drawings of one page
    with mpl.rc_context(style):
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        drawing.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    width = size[1] if size else "100%"
    body = text[text.index(">") + 1 :]
    box = size[0] if size else ""
    return f'<svg {box} width="{width}" role="img" aria-label="{title}">{_for_page(body)}'


def _for_page(body: str) -> str:
    """Drop what the page does not need, make ids of groups go, and hand the colours to CSS."""
    for element in ("metadata", "style"):
        body = re.sub(rf"<{element}\b.*?</{element}>", "", body, flags=re.S)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.S).replace("xlink:href", "href")
    for name, colour in THEME.items():
        body = body.replace(colour, f"var(--{name.replace('_', '-')})")
    return re.sub(r"\n\s*", "\n", body)
