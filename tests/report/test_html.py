"""The page: well formed, self-contained, escaped, whole without matplotlib."""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from deepcompress.errors import MissingExtraError, StorageError
from deepcompress.report import plots
from deepcompress.report.charts import charts
from deepcompress.report.report import Report
from deepcompress.report.rows import Histogram, StageRow

from .samples import lenet, quantized_layer, raw_layer, report_of, resnet20

VOID = {"meta", "br", "wbr"}
ODD = "<script>alert(1)</script>&\"'\x1b[0m $a_{b}$ 层😀\udc80.weight"


class Tree(HTMLParser):
    """Checks that elements close in order; keeps texts, attributes and ids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] += 1
        self.attributes += attrs
        self.ids.update(value for name, value in attrs if name == "id" and value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def _check(page: str) -> Tree:
    tree = Tree(page)
    assert "http" not in page
    assert not re.search(r"@import|url\((?!#)", page)
    assert not {"script", "link", "img", "iframe"} & set(tree.seen)
    assert not [value for name, value in tree.attributes if name in ("src", "href") and not (value or "").startswith("#")]
    assert max(tree.ids.values(), default=1) == 1
    page.encode()
    return tree


@pytest.mark.parametrize("make", [resnet20, lenet])
def test_the_page_is_whole_and_fetches_nothing(make: type[Report]) -> None:
    report = make()
    page = report.to_html()
    tree = _check(page)
    quantized = sum(row.quantized for row in report.layers)
    assert tree.seen["svg"] == quantized + 3
    assert tree.seen["table"] == 4
    known = {value for name, value in tree.attributes if name == "href"}
    assert known <= {f"#{name}" for name in tree.ids}
    assert not re.search(r"#0([0-9a-f])f\1 ?0\1", page)


def test_every_colour_of_a_plot_follows_the_theme() -> None:
    drawn = charts(lenet())
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", drawn.bytes + drawn.accuracy + drawn.histograms[0][1]))
    assert {colour for colour in colours if not colour.startswith("var(--") and colour != "none"} == set()


def test_names_are_escaped() -> None:
    layers = tuple(quantized_layer(f"{i}{ODD}", (40, 20), seed=i) for i in range(3))
    stage = StageRow(name=ODD, kind=ODD, sparsity=0.5, accuracy=0.9, notes=(ODD,))
    report = report_of(layers, (stage,), notes=(ODD,), environment={ODD: ODD})
    tree = _check(report.to_html())
    assert any("<script>alert(1)</script>&\"'\\x1b[0m" in text for text in tree.texts)


@pytest.mark.usefixtures("no_matplotlib")
def test_without_matplotlib_the_page_says_so() -> None:
    with pytest.raises(MissingExtraError, match=r"Plots need matplotlib: pip install 'deepcompress\[plots\]'"):
        plots.sparsity_plot(lenet().layers)
    page = lenet().to_html()
    tree = _check(page)
    assert tree.seen["svg"] == 0
    assert tree.seen["table"] == 4
    assert "Plots need matplotlib: pip install 'deepcompress[plots]'. Everything else is here." in "".join(tree.texts)
    assert 'class="split"' in page


@pytest.mark.parametrize(
    "report",
    [
        report_of(()),
        report_of((quantized_layer("one.weight", (20, 20)),)),
        report_of((raw_layer("a", (3,)), raw_layer("b", ()), raw_layer("c", (0, 4)))),
        report_of((), (StageRow(name="a", kind="Input", sparsity=0.0, accuracy=float("nan")),)),
        report_of((), (StageRow(name="a", kind="Input", sparsity=0.0, accuracy=-3.0),)),
        report_of((), tuple(StageRow(name=f"a rather long stage {i}", kind="Prune", sparsity=0.0, accuracy=0.5)
                            for i in range(14))),
    ],
)  # fmt: skip
def test_small_and_odd_reports(report: Report) -> None:
    _check(report.to_html())
    assert report.to_text()
    assert report.to_markdown()


def test_many_layers_are_limited_and_it_says_so() -> None:
    drawn = charts(report_of(tuple(raw_layer(f"w{i}", (i + 1,)) for i in range(3))))
    assert (drawn.sparsity, drawn.histograms) == ("", [])
    layers = tuple(quantized_layer(f"layer{i}.weight", (4, 4 + i), keep=0.9, bits=2) for i in range(61))
    small = tuple(replace(row, histogram=None) for row in layers)
    assert charts(report_of(small)).limit == " The 60 largest of 61 layers."


def test_a_sampled_histogram_says_so() -> None:
    row = quantized_layer("w", (40, 20))
    assert charts(report_of((row,))).histogram_limit == ""
    part = replace(row, histogram=Histogram.of([0.1, 0.2], [0.1]))
    assert charts(report_of((part,))).histogram_limit == " Of large layers an even sample is counted."


def test_writing_the_page(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    page = report_of(()).to_html(path)
    assert path.read_text("utf-8") == page
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    assert path.stat().st_mode & 0o400
    missing = tmp_path / "no" / "report.html"
    with pytest.raises(StorageError, match=f"cannot write {re.escape(str(missing))}: No such file or directory"):
        report_of(()).to_html(missing)
    with pytest.raises(StorageError, match="cannot write"):
        report_of(()).to_html(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
