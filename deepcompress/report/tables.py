"""The report's tables, before any format: titles, columns, cells, footnotes. Cells are ASCII, names excepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from deepcompress.report import text
from deepcompress.report.choice import Choice, RunRow
from deepcompress.report.han import HanRow, HanTable
from deepcompress.report.pool import Pool, is_compressed
from deepcompress.report.report import Report
from deepcompress.report.rows import StageRow
from deepcompress.tensors.cost import KINDS

__all__ = [
    "KIND_TEXTS",
    "Column",
    "Line",
    "Table",
    "bits_table",
    "choice_table",
    "han_table",
    "layer_table",
    "ratios",
    "stage_table",
]

_FOLD_FROM = 6  # fewer small tensors than this are listed one by one
_FOLD_SHARE = 0.01  # of all weights: a tensor of more is never folded away

KIND_TEXTS = {
    "codewords": ("Codewords", "the weights' indices"),
    "gaps": ("Gaps", "where the nonzeros are"),
    "codebook": ("Codebooks", "the values that weights share"),
    "code_lengths": ("Code lengths", "the Huffman tables"),
    "dense": ("Dense", "tensors stored as they are"),
    "header": ("Header", "names, records, checksums, tables, padding"),
}


@dataclass(frozen=True)
class Column:
    """A heading; `left` for words, `optional` for what a narrow terminal leaves out first."""

    title: str
    left: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Line:
    """The cells of a row.

    Attributes:
        role: "row", "sum" or "total".
        hint: the whole name behind the first cell.
        brief: what the first cell becomes where room is short.
    """

    cells: tuple[str, ...]
    role: str = "row"
    hint: str = ""
    brief: str = ""


@dataclass(frozen=True)
class Table:
    """A titled table; `notes` define what its columns and figures mean."""

    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = field(default=())


def ratios(report: Report) -> tuple[tuple[str, str, str], ...]:
    """Both ratios as (name, figure, definition)."""
    file = f"dense bytes of the state dict / bytes of the file = {report.dense_bytes:,} / {report.file_bytes:,}"
    lab = (
        "32 x weights / sum(nonzeros x mean code length of their indices), over quantized weights only: "
        "a formula, not a size, without positions, codebooks, code tables, header and all other tensors"
    )
    if report.lab_ratio is None:
        lab += "; there is none here, for no quantized weight is stored"
    return (("File ratio", text.ratio(report.file_ratio), file), ("Lab ratio", text.ratio(report.lab_ratio), lab))


_LAYER_COLUMNS = (
    Column("Layer", left=True),
    Column("Form", left=True, optional=True),
    Column("Weights"),
    Column("Sparsity"),
    Column("Bit width"),
    Column("Mean code length"),
    Column("Entropy"),
    Column("Index bits"),
    Column("Bits per weight"),
    Column("Bytes"),
    Column("RMSE"),
)

_LAYER_NOTES = (
    "Sparsity: zeros / all. Bit width: of a fixed-width index. Mean code length and entropy: bits of a nonzero's "
    "index, Huffman-coded and at best. Index bits: gap bits per nonzero. Bits per weight: all of a "
    "layer's bits over all its weights, zeros included. RMSE: root of a weight's mean squared change.",
)


def layer_table(report: Report) -> Table:
    """A line per layer, small other tensors in one, then header and file; the bytes sum to the file's."""
    groups = _groups(report)
    rest = report.bits.total - sum(pool.bits.total for _, pool in groups)
    sizes = _whole_bytes([*(pool.bits.total for _, pool in groups), rest])
    lines = [_layer_line(name, pool, size) for (name, pool), size in zip(groups, sizes, strict=False)]
    compressed = sum(is_compressed(pool.rows[0]) for _, pool in groups)
    if 1 < compressed < len(groups):
        pool = report.pool(compressed=True)
        lines.insert(compressed, _layer_line(f"{compressed} layers", pool, sum(sizes[:compressed]), role="sum"))
    empty = ("",) * (len(_LAYER_COLUMNS) - 3)
    lines.append(Line(("Header, tables", *empty, text.integer(sizes[-1]), "")))
    lines.append(_file_line(report))
    return Table("Layers", _LAYER_COLUMNS, tuple(lines), _LAYER_NOTES)


def _groups(report: Report) -> list[tuple[str, Pool]]:
    """The table's lines: compressed layers, then the others, the small ones among them folded into one."""
    limit = _FOLD_SHARE * report.pool().weights
    others = [row for row in report.layers if not is_compressed(row)]
    small = [row for row in others if row.weights <= limit or row.representation == "tie"]
    if len(small) < _FOLD_FROM:
        small = []
    folded = {id(row) for row in small}
    listed = sorted((row for row in report.layers if id(row) not in folded), key=lambda row: not is_compressed(row))
    groups = [(row.name, Pool((row,))) for row in listed]
    return [*groups, (f"{len(small)} other tensors", Pool(tuple(small)))] if small else groups


def _whole_bytes(bits: Sequence[int]) -> list[int]:
    """Each part in bytes, rounded so that the column still sums to the file's size."""
    marks = [(mark + 4) // 8 for mark in accumulate(bits, initial=0)]
    return [after - before for before, after in pairwise(marks)]


def _layer_line(name: str, pool: Pool, size: int, *, role: str = "row") -> Line:
    forms = {row.representation for row in pool.rows}
    cells = (
        text.printable(name.removesuffix(".weight") or name),
        forms.pop() if len(forms) == 1 else "mixed",
        text.integer(pool.weights),
        text.percent(pool.sparsity),
        text.exact(pool.bit_width),
        text.bits(pool.mean_code_length),
        text.bits(pool.entropy),
        text.bits(pool.index_bits),
        text.bits(pool.bits_per_weight),
        text.integer(size),
        text.rmse(pool.rmse),
    )
    if len(pool.rows) == 1:
        return Line(cells, role, text.printable(name))
    return Line(cells, role, brief=name.replace(" other tensors", " others"))


def _file_line(report: Report) -> Line:
    pool = report.pool()
    share = report.bits.total / pool.weights if pool.weights else None
    figures = (text.integer(pool.weights), text.percent(pool.sparsity), "", "", "", "", text.bits(share))
    return Line(("Whole file", "", *figures, text.integer(report.file_bytes), ""), "total")


def bits_table(report: Report) -> Table:
    """The six kinds, and their sum: 8 x the file's size."""
    counts, total = report.bits.as_dict(), report.bits.total
    rows = [_bits_line(*KIND_TEXTS[kind], counts[kind], total) for kind in KINDS]
    meaning = Column("What it is", left=True, optional=True)
    columns = (Column("Kind", left=True), Column("Bits"), Column("Share"), meaning)
    end = Line(("Whole file", text.integer(total), "100.0%", f"8 x {report.file_bytes:,} bytes"), "total")
    return Table("Where the bits go", columns, (*rows, end), _BITS_NOTES)


_BITS_NOTES = (
    "Counted from the encoded sections. Header: head, names, records, checksums, chunk tables, padding, "
    "trailer, metadata.",
)


def _bits_line(name: str, meaning: str, bits: int, total: int) -> Line:
    return Line((name, text.integer(bits), text.percent(bits / total, 1), meaning))


def stage_table(report: Report) -> Table:
    """Accuracy, sparsity and seconds after each stage; the stages' own notes below."""
    share = text.scores_are_shares(row.accuracy for row in report.stages)
    columns = (
        Column("Stage", left=True), Column("Kind", left=True), Column("Accuracy" if share else "Score"),
        Column("Change"), Column("Sparsity"), Column("Seconds"),
    )  # fmt: skip
    first = next((row.accuracy for row in report.stages if row.accuracy is not None), None)
    lines = tuple(_stage_line(row, first, share) for row in report.stages)
    notes = [text.printable(f"{row.name}: {note}") for row in report.stages for note in row.notes]
    unit = "in percentage points, " if share else ""
    return Table("Stages", columns, lines, (f"Change: {unit}since the first.", *notes))


def _stage_line(row: StageRow, first: float | None, share: bool) -> Line:
    change = _change(row.accuracy, first, share)
    figures = (text.score(row.accuracy, share=share), change, text.percent(row.sparsity), text.seconds(row.seconds))
    return Line((text.printable(row.name), text.printable(row.kind), *figures))


def choice_table(report: Report) -> Table | None:
    """What was tried before the file was made, and below it why; None where nobody chose."""
    choice = report.choice
    if choice is None:
        return None
    share = text.scores_are_shares([choice.dense_score, *(run.score for run in choice.runs)])
    columns = (
        Column("Tried", left=True), Column(f"{choice.unit}, asked"), Column("Epochs"), Column("Bytes"), Column("File ratio"),
        Column("Accuracy" if share else "Score"), Column("Change"),
    )  # fmt: skip
    dense = RunRow(name="as it came", asked=None, epochs=None, file_bytes=report.dense_bytes, score=choice.dense_score)
    lines = tuple(_run_line(run, choice, report.dense_bytes, share) for run in (dense, *choice.runs))
    return Table("Choice", columns, lines, (choice.goal, *choice.reasons))


def _run_line(run: RunRow, choice: Choice, dense_bytes: int, share: bool) -> Line:
    name = f"{run.name}, chosen" if run.name == choice.chosen else run.name
    asked = "" if run.asked is None else f"{run.asked:.3g}"
    size, ratio = text.integer(run.file_bytes), text.ratio(dense_bytes / run.file_bytes)
    score = text.score(run.score, share=share)
    return Line((name, asked, text.integer(run.epochs), size, ratio, score, _change(run.score, choice.dense_score, share)))


def _change(value: float | None, first: float | None, share: bool) -> str:
    if value is None or first is None:
        return ""
    return f"{100 * (value - first):+.2f}" if share else f"{value - first:+.3g}"


_HAN_COLUMNS = (
    Column("Layer", left=True), Column("#Weights"), Column("Weights% (P)"),
    Column("Weight bits (P+Q)"), Column("Weight bits (P+Q+H)"),
    Column("Index bits (P+Q)"), Column("Index bits (P+Q+H)"),
    Column("Compress rate (P+Q)"), Column("Compress rate (P+Q+H)"),
)  # fmt: skip

_HAN_NOTES = (
    "P: pruning, Q: quantization, H: Huffman coding, as in Han et al. (2016), tables 2 to 5. Index bits (P+Q+H): "
    "gap bits per nonzero, escapes included. Compress rate: size / (32 x weights), so less is better, the codebook "
    "included; (P+Q) with every symbol in fixed width, (P+Q+H) all that the file spends on the layer.",
)


def han_table(table: HanTable) -> Table:
    """Han et al.'s columns, for ours or for lines copied from the paper."""
    lines = tuple(_han_line(row) for row in table.rows)
    return Table("In the columns of Han et al. (2016)", _HAN_COLUMNS, lines, _HAN_NOTES)


def _han_line(row: HanRow) -> Line:
    cells = (
        text.printable(row.layer.removesuffix(".weight") or row.layer),
        text.integer(row.weights),
        text.percent(row.kept, 1),
        text.exact(row.weight_bits_pq),
        text.bits(row.weight_bits_pqh),
        text.exact(row.index_bits_pq),
        text.bits(row.index_bits_pqh),
        text.percent(row.rate_pq),
        text.percent(row.rate_pqh),
    )
    return Line(cells, "total" if row.layer == "Total" else "row", text.printable(row.layer))
