"""Rows of benchmarks as people see them: a table, and bars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from _harness import Row


def table_of(rows: list[Row], title: str) -> Table:
    """The rows as people read them."""
    table = Table(title=title, title_justify="left", show_lines=False)
    for heading in ("what", "against"):
        table.add_column(heading, overflow="fold")
    for heading in ("ours", "theirs", "ratio", "spread", "limit", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        limit = "" if row.limit is None else f"{row.sense} {row.limit:g}"
        met = {True: "met", False: "NOT MET", None: ""}[row.met]
        spread = f"{row.spread[0]:.4g} to {row.spread[1]:.4g}"
        what = escape(f"{row.what} ({row.note})" if row.note else row.what)
        style = "red" if row.met is False else None
        table.add_row(what, escape(row.against), row.ours, row.theirs, f"{row.ratio:.4g}", spread, limit, met, style=style)
    return table


def draw(rows: list[Row], path: Path, title: str) -> None:
    """Each ratio over its limit, as bars on a logarithmic axis; without matplotlib nothing is drawn."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    shown = [row for row in rows if row.limit and row.ratio > 0]
    if not shown:
        return
    margins = [row.ratio / row.limit if row.sense == "at least" else row.limit / row.ratio for row in shown if row.limit]
    figure, axes = plt.subplots(figsize=(10, 1.4 + 0.45 * len(shown)), layout="constrained")
    places = range(len(shown))
    axes.barh(
        places, [value - 1 for value in margins], left=1, color=["#2a7f4f" if value >= 1 else "#b3423a" for value in margins]
    )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.set_yticks(places, [f"{row.what}\nagainst {row.against}" for row in shown], fontsize=7)
    axes.invert_yaxis()
    for place, (row, margin) in enumerate(zip(shown, margins, strict=True)):
        text, side = f" {row.ratio:.3g} ({row.sense} {row.limit:g}) ", "left" if margin >= 1 else "right"
        axes.annotate(text, (margin, place), fontsize=7, va="center", ha=side)
    axes.margins(x=0.4, y=0.3 / len(shown))
    axes.set_xlabel("times better than the limit (1 = just met; green: met)")
    axes.set_title(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)
