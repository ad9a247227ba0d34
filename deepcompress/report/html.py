"""The report as one self-contained page. Nothing is fetched; what a name brings is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from deepcompress.container.source import atomic_file
from deepcompress.report import text
from deepcompress.report.charts import Charts, charts
from deepcompress.report.report import Report
from deepcompress.report.tables import (
    KIND_TEXTS,
    Line,
    Table,
    bits_table,
    choice_table,
    han_table,
    layer_table,
    ratios,
    stage_table,
)
from deepcompress.tensors.cost import KINDS

__all__ = ["report_html", "write_page"]


def report_html(report: Report) -> str:
    """The whole page, plots inline; where matplotlib is missing, a line says so in their place."""
    drawn = charts(report)
    parts = [_top(report), _choice(report), _bits(report), _stages(report, drawn), _layers(report, drawn)]
    if drawn.missing:
        parts.insert(1, f'<h2>Plots</h2><p class="missing">{escape(drawn.missing)}</p>')
    parts += [_histograms(drawn), _han(report), _notes(report)]
    room = files("deepcompress.report")
    page = Template(room.joinpath("page.html").read_text("utf-8"))
    return page.substitute(style=room.joinpath("page.css").read_text("utf-8"), body="\n".join(filter(None, parts)))


def write_page(page: str, path: Path) -> None:
    """Write the page; it appears whole or not at all.

    Raises:
        StorageError: the path cannot be written.
    """
    with atomic_file(path) as file:
        file.write(page.encode())


def _top(report: Report) -> str:
    lead = (
        f"<b>{report.dense_bytes:,}</b> bytes of state dict in a file of <b>{report.file_bytes:,}</b> bytes "
        f"({text.size(report.dense_bytes)} &rarr; {text.size(report.file_bytes)})"
    )
    tiles = [*ratios(report), *_more_tiles(report)]
    drawn = "".join(_tile(*tile, first=place == 0) for place, tile in enumerate(tiles))
    return f'<header><h1>Compression report</h1><p class="lead">{lead}</p></header>\n<dl class="tiles">{drawn}</dl>'


def _more_tiles(report: Report) -> Iterable[tuple[str, str, str]]:
    if report.sparsity is not None:
        yield "Sparsity", text.percent(report.sparsity), "zeros / all, over the weights that are pruned or quantized"
    known = [row.accuracy for row in report.stages if row.accuracy is not None]
    if known:
        share = text.scores_are_shares(known)
        first = text.score(known[0], share=share)
        change = f"{100 * (known[-1] - known[0]):+.2f} points" if share else f"{known[-1] - known[0]:+.3g}"
        meaning = f"in the end; {first} at first, a change of {change}" if len(known) > 1 else "measured once"
        yield "Accuracy" if share else "Score", text.score(known[-1], share=share), meaning


def _tile(name: str, figure: str, meaning: str, *, first: bool) -> str:
    return (
        f'<div class="tile{" first" if first else ""}"><dt>{escape(name)}</dt><dd>'
        f'<div class="figure">{_times(figure)}</div><div class="meaning">{_times(meaning)}</div></dd></div>'
    )


def _times(words: str) -> str:
    return re.sub(r"(?<=\d)x$| x ", lambda found: found[0].replace("x", "&times;"), escape(words))


def _bits(report: Report) -> str:
    counts = report.bits.as_dict()
    bar = "".join(_slice(kind, counts[kind], report.bits.total) for kind in KINDS if counts[kind])
    bar = f'<div class="split" role="img" aria-label="Share of each kind">{bar}</div>'
    table = bits_table(report)
    return f"{_heading(table)}{bar}{_table(table, KINDS)}"


def _slice(kind: str, bits: int, total: int) -> str:
    title = escape(f"{KIND_TEXTS[kind][0]}: {text.percent(bits / total, 1)}")
    return f'<i style="flex: {bits} 1 0; background: {_colour(kind)}" title="{title}"></i>'


def _colour(kind: str) -> str:
    return f"var(--{kind.replace('_', '-')})"


def _swatch(kind: str) -> str:
    return f'<i class="swatch" style="background: {_colour(kind)}"></i>'


def _choice(report: Report) -> str:
    table = choice_table(report)
    return f"{_heading(table)}{_table(table)}" if table else ""


def _stages(report: Report, drawn: Charts) -> str:
    if not report.stages:
        return ""
    table = stage_table(report)
    caption = f"<b>{escape(table.columns[2].title)} through the stages</b>"
    plot = f'<figure class="wide"><figcaption>{caption}</figcaption>{drawn.accuracy}</figure>' if drawn.accuracy else ""
    return f"{_heading(table)}{plot}{_table(table)}"


def _layers(report: Report, drawn: Charts) -> str:
    table = layer_table(report)
    return f"{_heading(table)}{_layer_plots(drawn)}{_table(table)}"


def _layer_plots(drawn: Charts) -> str:
    if not drawn.sparsity:
        return ""
    legend = "".join(f"<span>{_swatch(kind)}{escape(KIND_TEXTS[kind][0])}</span>" for kind in drawn.kinds)
    left = f"<figure><figcaption><b>Sparsity per layer</b>{drawn.limit}</figcaption>{drawn.sparsity}</figure>"
    caption = f"<figcaption><b>Bytes per layer, by kind</b>{drawn.limit}</figcaption>"
    return f'<div class="pair">{left}<figure>{caption}{drawn.bytes}<div class="legend">{legend}</div></figure></div>'


def _histograms(drawn: Charts) -> str:
    if not drawn.histograms:
        return ""
    figures = "".join(f"<figure><figcaption>{name}</figcaption>{plot}</figure>" for name, plot in drawn.histograms)
    meanings = {"before": "before: all weights", "after": "after: the kept weights, as the file stores them"}
    legend = "".join(f"<span>{_swatch(key)}{meaning}</span>" for key, meaning in meanings.items())
    about = "Weights per bin, over a logarithmic axis; the outermost bins also count what lies beyond them."
    return (
        f'<h2>Weights before and after</h2><p class="note">{about}{drawn.histogram_limit}</p>'
        f'<div class="legend">{legend}</div><div class="many">{figures}</div>'
    )


def _han(report: Report) -> str:
    table = han_table(report.han_table())
    return f"{_heading(table)}{_table(table)}" if table.lines else ""


def _notes(report: Report) -> str:
    notes = "".join(f"<li>{_shown(note)}</li>" for note in report.notes)
    versions = ", ".join(f"{_shown(name)} {_shown(value)}" for name, value in report.environment.items())
    listed = f"<h2>Notes</h2><ul>{notes}</ul>" if notes else ""
    return listed + (f'<p class="versions">Measured with {versions}</p>' if versions else "")


def _heading(table: Table) -> str:
    return f"<h2>{escape(table.title)}</h2>"


def _table(table: Table, kinds: Iterable[str] = ()) -> str:
    """`kinds` puts a colour before each of the first lines' names."""
    heads = "".join(f'<th scope="col"{_words(column.left)}>{_shown(column.title)}</th>' for column in table.columns)
    swatches = [_swatch(kind) for kind in kinds]
    swatches += [""] * (len(table.lines) - len(swatches))
    rows = "\n".join(_row(table, line, swatch) for line, swatch in zip(table.lines, swatches, strict=True))
    notes = "".join(f'<p class="note">{_shown(note)}</p>' for note in table.notes)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table></div>{notes}'


def _row(table: Table, line: Line, swatch: str) -> str:
    hint = f' title="{escape(line.hint)}"' if line.hint else ""
    first = f'<th scope="row"{_words(table.columns[0].left)}{hint}>{swatch}{_name(line.cells[0])}</th>'
    pairs = zip(table.columns[1:], line.cells[1:], strict=True)
    cells = "".join(f"<td{_words(column.left)}>{_shown(cell) or _NONE}</td>" for column, cell in pairs)
    role = "" if line.role == "row" else f' class="{line.role}"'
    return f"<tr{role}>{first}{cells}</tr>"


def _name(words: str) -> str:
    """A long name breaks after its dots, so that the figures stay in sight."""
    shown = _shown(words)
    if len(words) <= _LONG:
        return shown
    return f'<span class="long">{shown.replace(".", ".<wbr>")}</span>'


_LONG = 24
_NONE = '<span class="none">&ndash;</span>'


def _words(left: bool) -> str:
    return ' class="words"' if left else ""


def _shown(words: str) -> str:
    """Escaped, control characters made visible."""
    return escape(text.printable(words))
