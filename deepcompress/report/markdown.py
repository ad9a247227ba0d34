"""The report as GitHub-flavoured Markdown."""

from __future__ import annotations

import re

from deepcompress.report import text
from deepcompress.report.report import Report
from deepcompress.report.tables import Line, Table, bits_table, choice_table, han_table, layer_table, ratios, stage_table

__all__ = ["report_markdown", "table_markdown"]

_MARKUP = re.compile(r"([\\`*_\[\]|#~$!])")


def report_markdown(report: Report) -> str:
    """Ratios with their definitions, then every table, notes and versions."""
    chosen = choice_table(report)
    tables = (*([chosen] if chosen else []), layer_table(report), bits_table(report))
    parts = ["# Compression report", _summary(report), *map(table_markdown, tables)]
    if report.stages:
        parts.append(table_markdown(stage_table(report)))
    if (han := report.han_table()).rows:
        parts.append(table_markdown(han_table(han)))
    if report.notes:
        parts.append("\n".join(["## Notes", "", *(f"- {_escape(note)}" for note in report.notes)]))
    if report.environment:
        versions = (f"{_escape(name)} {_escape(value)}" for name, value in report.environment.items())
        parts.append(f"Measured with {', '.join(versions)}")
    return "\n\n".join(parts) + "\n"


def _summary(report: Report) -> str:
    lines = ["| | | |", "|:--|--:|:--|", f"| File | {report.file_bytes:,} bytes | of {report.dense_bytes:,} dense |"]
    lines += [f"| **{name}** | **{figure}** | {_escape(meaning)} |" for name, figure, meaning in ratios(report)]
    if report.sparsity is not None:
        lines.append(f"| Sparsity | {text.percent(report.sparsity)} | over pruned or quantized weights |")
    return "\n".join(lines)


def table_markdown(table: Table) -> str:
    """A heading, the table, and its notes."""
    heads = " | ".join(_escape(column.title) for column in table.columns)
    rules = "|".join(":--" if column.left else "--:" for column in table.columns)
    body = [f"## {table.title}", "", f"| {heads} |", f"|{rules}|", *map(_line, table.lines)]
    for note in table.notes:
        body += ["", _escape(note)]
    return "\n".join(body)


def _line(line: Line) -> str:
    strong = "**" if line.role == "total" else ""
    cells = (f"{strong}{_escape(cell)}{strong}" if cell else "" for cell in line.cells)
    return f"| {' | '.join(cells)} |"


def _escape(words: str) -> str:
    """Nothing in a name is markup, and HTML in it is text."""
    words = text.printable(words).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", words)
