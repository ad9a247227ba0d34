"""The report as plain text of a given width. ASCII but for names, so that any terminal and any pipe takes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from textwrap import wrap

from rich.cells import cell_len, set_cell_size

from deepcompress.report import text
from deepcompress.report.report import Report
from deepcompress.report.tables import Line, Table, bits_table, choice_table, layer_table, ratios, stage_table

__all__ = ["report_text", "table_text"]

_MIN_WIDTH = 40
_NAME_SHARE = 0.4  # of the width: longer first cells lose their beginning


def report_text(report: Report, width: int) -> str:
    """Headline, ratios, and a table each for the choice, layers, bits and stages."""
    width = max(width, _MIN_WIDTH)
    chosen = choice_table(report)
    tables = [chosen] if chosen else []
    tables += [layer_table(report), bits_table(report), *([stage_table(report)] if report.stages else [])]
    parts = ["\n".join(_headline(report, width)), *(table_text(table, width) for table in tables)]
    parts.extend("\n".join(_paragraph(text.printable(note), width)) for note in report.notes)
    if report.environment:
        versions = ", ".join(f"{name} {value}" for name, value in report.environment.items())
        parts.append("\n".join(_paragraph(text.printable(f"Measured with {versions}"), width)))
    return "\n\n".join(parts)


def _headline(report: Report, width: int) -> Iterator[str]:
    saved = f"{report.dense_bytes:,} bytes of state dict in a file of {report.file_bytes:,} bytes"
    if report.sparsity is not None:
        saved += f", {text.percent(report.sparsity)} sparsity over pruned or quantized weights"
    yield from _paragraph(saved, width)
    for name, figure, definition in ratios(report):
        yield from _paragraph(f"{name:<10} {figure:>8}  {definition}", width, indent=21)


def table_text(table: Table, width: int) -> str:
    """A table within `width` columns: optional columns go first, then it breaks into blocks; no number is ever cut."""
    width = max(width, _MIN_WIDTH)
    table = _short_names(table, int(width * _NAME_SHARE), brief=False)
    if _fit(table, width) is None:
        table = _short_names(table, int(width * _NAME_SHARE), brief=True)
    blocks = "\n\n".join("\n".join(_block(table, *block)) for block in _fit(table, width) or _split(table, width))
    notes = [line for note in table.notes for line in _paragraph(note, width, indent=2)]
    return "\n".join([table.title, "", blocks, *([""] if notes else []), *notes])


def _fit(table: Table, width: int) -> list[tuple[list[int], int]] | None:
    """All columns in one block, and the gap between them: the roomiest that fits; None where none does."""
    everything = list(range(len(table.columns)))
    needed = _needed(table)
    for columns, gap in ((everything, 2), (needed, 2), (needed, 1)):
        if _room(table, columns, gap) <= width:
            return [(columns, gap)]
    return None


def _split(table: Table, width: int) -> list[tuple[list[int], int]]:
    """Blocks below each other, each with the first column."""
    first, *rest = _needed(table)
    blocks = [[first]]
    for i in rest:
        if len(blocks[-1]) > 1 and _room(table, [*blocks[-1], i], 2) > width:
            blocks.append([first])
        blocks[-1].append(i)
    return [(block, 2) for block in blocks]


def _needed(table: Table) -> list[int]:
    return [i for i, column in enumerate(table.columns) if not column.optional]


def _room(table: Table, columns: Sequence[int], gap: int) -> int:
    return sum(_column_width(table, i) for i in columns) + gap * (len(columns) - 1)


def _column_width(table: Table, i: int) -> int:
    words = table.columns[i].title.split()
    return max(map(cell_len, (*words, *(line.cells[i] for line in table.lines))))


def _block(table: Table, columns: Sequence[int], gap: int) -> Iterator[str]:
    widths = [_column_width(table, i) for i in columns]
    lefts = [table.columns[i].left for i in columns]

    def join(cells: Sequence[str]) -> str:
        return (" " * gap).join(map(_pad, cells, widths, lefts)).rstrip()

    rule = "-" * (sum(widths) + gap * (len(widths) - 1))
    yield from map(join, _headings(table, columns, widths))
    yield rule
    for line in table.lines:
        if line.role != "row":
            yield rule
        yield join([line.cells[i] or ("" if table.columns[i].left else "-") for i in columns])


def _headings(table: Table, columns: Sequence[int], widths: Sequence[int]) -> list[list[str]]:
    """Titles broken into words, standing on the rule."""
    titles = (table.columns[i].title for i in columns)
    stacks = [wrap(title, width, break_long_words=False) for title, width in zip(titles, widths, strict=True)]
    height = max(map(len, stacks))
    stacks = [[""] * (height - len(stack)) + stack for stack in stacks]
    return [list(level) for level in zip(*stacks, strict=True)]


def _pad(cell: str, width: int, left: bool) -> str:
    space = " " * (width - cell_len(cell))
    return cell + space if left else space + cell


def _short_names(table: Table, limit: int, *, brief: bool) -> Table:
    def short(line: Line) -> Line:
        name = line.brief if brief and line.brief else line.cells[0]
        return replace(line, cells=(_shorten(name, limit), *line.cells[1:]))

    return replace(table, lines=tuple(map(short, table.lines)))


def _shorten(name: str, limit: int) -> str:
    """The end of a name tells more than its beginning: "..ayer3.2.conv2"."""
    if cell_len(name) <= limit:
        return name
    end = name[::-1]
    return ".." + set_cell_size(end, limit - 2).rstrip()[::-1]


def _paragraph(words: str, width: int, indent: int = 0) -> list[str]:
    return wrap(words, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
