"""Terminal and Markdown: whole at any width, both ratios defined, small tensors folded."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from deepcompress.report import text
from deepcompress.report.report import Report
from deepcompress.report.rows import LayerRow, StageRow
from deepcompress.report.tables import bits_table, layer_table, stage_table

from .samples import lenet, quantized_layer, raw_layer, report_of, resnet20

ODD = "blöck.<b>&\x1b[31m.层\n|*`$x$\udc80.weight"


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
@pytest.mark.parametrize("report", [resnet20(), lenet(), report_of(())])
def test_nothing_is_clipped_or_wrapped(report: Report, width: int) -> None:
    shown = report.to_text(width)
    assert max(map(cell_len, shown.splitlines())) <= width
    words = set(shown.split())
    for table in (layer_table(report), stage_table(report)):
        for i, column in enumerate(table.columns):
            if not column.optional and i:
                assert {cell for line in table.lines if (cell := line.cells[i]) and " " not in cell} <= words


def test_a_resnet_fits_eighty_columns_in_one_block() -> None:
    lines = resnet20().to_text(80).splitlines()
    assert any(line.startswith("layer3.2.conv2") and line.endswith("0.03404") for line in lines)
    assert any(line.startswith("96 others") for line in lines)
    assert "96 other tensors" in resnet20().to_text(140)


def test_both_ratios_with_their_definitions() -> None:
    report = lenet()
    for shown in (report.to_text(140), report.to_markdown(), report.to_html()):
        plain = re.sub(r"\\", "", shown.replace("&times;", "x"))
        assert text.ratio(report.file_ratio) in plain
        assert text.ratio(report.lab_ratio) in plain
        assert "dense bytes of the state dict / bytes of the file" in plain
        assert "32 x weights / sum(nonzeros x mean code length of their indices)" in plain


@pytest.mark.parametrize("report", [resnet20(), lenet(), report_of((quantized_layer("w", (7, 3), keep=0.5),))])
def test_columns_sum_to_the_file(report: Report) -> None:
    rows = [line for line in layer_table(report).lines if line.role == "row"]
    at = [column.title for column in layer_table(report).columns].index("Bytes")
    assert sum(int(line.cells[at].replace(",", "")) for line in rows) == report.file_bytes
    kinds = bits_table(report).lines
    assert sum(int(line.cells[1].replace(",", "")) for line in kinds[:-1]) == 8 * report.file_bytes
    assert kinds[-1].cells[1] == f"{8 * report.file_bytes:,}"


def test_large_or_few_others_stay_visible() -> None:
    report = resnet20()
    embedding = raw_layer("embedding.weight", (1000, 64))
    names = [line.cells[0] for line in layer_table(report_of((*report.layers, embedding))).lines]
    assert "embedding" in names
    assert "96 other tensors" in names
    assert "conv1.bias" in [line.cells[0] for line in layer_table(lenet()).lines]


def test_plain_text_is_ascii_and_needs_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resnet20().to_text(100).isascii()
    assert str(lenet()).startswith("1,724,320 bytes of state dict")
    monkeypatch.setenv("COLUMNS", "64")
    assert max(map(len, str(resnet20()).splitlines())) <= 64


def test_rich_prints_the_same_tables() -> None:
    console = Console(file=io.StringIO(), width=90)
    console.print(lenet())
    assert console.file.getvalue().split() == lenet().to_text(90).split()  # type: ignore[attr-defined]


def test_names_obey_no_terminal_and_no_markup() -> None:
    report = report_of((quantized_layer(ODD, (30, 30)),), (StageRow(name=ODD, kind="Prune", sparsity=0.0),))
    shown = report.to_text(120)
    assert "\x1b" not in shown
    assert "\\x1b[31m" in shown
    markdown = report.to_markdown()
    assert "<b>" not in markdown
    assert "&lt;b&gt;&amp;" in markdown
    assert "\\|\\*\\`\\$x\\$" in markdown
    shown.encode()
    markdown.encode()


def test_a_long_name_keeps_its_end() -> None:
    report = report_of((quantized_layer("encoder." * 20 + "query.weight", (30, 30)),))
    shown = report.to_text(80)
    assert max(map(len, shown.splitlines())) <= 80
    assert re.search(r"^\.\.\S+encoder\.query ", shown, re.M)


def test_markdown_tables_are_regular() -> None:
    for block in re.findall(r"(?:^\|.*\n?)+", resnet20().to_markdown(), re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert "| **Whole file** |" in resnet20().to_markdown()
    assert "Weight bits (P+Q+H)" in resnet20().to_markdown()


def test_a_score_that_is_no_share_keeps_its_unit() -> None:
    stages = (StageRow(name="a", kind="Input", sparsity=0.0, accuracy=-32.5),
              StageRow(name="b", kind="Prune", sparsity=0.5, accuracy=float("nan")),
              StageRow(name="c", kind="Prune", sparsity=0.5))  # fmt: skip
    table = stage_table(replace(lenet(), stages=stages))
    assert [line.cells[2] for line in table.lines] == ["-32.5", "nan", ""]
    assert table.columns[2].title == "Score"


def test_a_tie_costs_nothing_in_the_table() -> None:
    tie = LayerRow(name="head.weight", shape=(9, 9), dtype="float32", weights=81, nonzeros=81, representation="tie")
    line = layer_table(report_of((raw_layer("emb.weight", (9, 9)), tie))).lines[1]
    assert line.cells[:3] == ("head", "tie", "0")


def test_numbers() -> None:
    assert [text.ratio(value) for value in (None, 9.876, 33.94, 1234.5)] == ["-", "9.88x", "33.9x", "1,234.5x"]
    assert [text.rmse(value) for value in (None, 0, 0.0123, 1.2e-7, 1e30)] == ["", "0", "0.01230", "1.2e-07", "1.0e+30"]
    sizes = ["0 bytes", "999 bytes", "1.00 kB", "38.8 kB", "1.08 MB", "5.00 TB"]
    assert [text.size(count) for count in (0, 999, 1000, 38847, 1_084_468, 5e12)] == sizes
    assert [text.exact(value) for value in (None, 5, 5.0, 5.25)] == ["", "5", "5", "5.25"]
