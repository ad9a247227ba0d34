"""A scan's table: what it allows, and its ways out."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcompress.errors import MissingExtraError, ParameterError, StorageError
from deepcompress.report import curves
from deepcompress.report.sensitivity import SensitivityRow, SensitivityTable

NAN = math.nan


def table(points: dict[str, tuple[list[float], list[float]]], baseline: float = 0.9) -> SensitivityTable:
    """Layer -> its accuracies at sparsities 0.5, 0.7, 0.9 and at 2, 4, 8 bits."""
    rows = []
    for layer, kinds in points.items():
        for kind, settings, accuracies in zip(("sparsity", "bits"), ((0.5, 0.7, 0.9), (2.0, 4.0, 8.0)), kinds, strict=True):
            for setting, accuracy in zip(settings, accuracies, strict=False):
                zeros = setting if kind == "sparsity" else 0.0
                rows.append(
                    SensitivityRow(layer=layer, weights=1200, kind=kind, setting=setting, sparsity=zeros, accuracy=accuracy)
                )
    return SensitivityTable(baseline=baseline, method="percentile", rows=tuple(rows))


SMALL = table({"conv.weight": ([0.9, 0.89, 0.5], [0.3, 0.88, 0.9]), "fc.weight": ([0.8, 0.7, NAN], [0.1, NAN, 0.2])})
POINTS = st.lists(st.floats(0, 1) | st.just(NAN), min_size=3, max_size=3)


def test_the_grid_reads_back() -> None:
    assert SMALL.layers == ("conv.weight", "fc.weight")
    assert SMALL.settings("sparsity") == (0.5, 0.7, 0.9)
    assert SMALL.settings("bits") == (2, 4, 8)
    assert SMALL.accuracies("conv.weight", "bits") == (0.3, 0.88, 0.9)
    partly = table({"a": ([0.5], [0.5, 0.5, 0.5]), "b": ([0.5, 0.6], [])})
    assert partly.accuracies("b", "sparsity") == (0.5, 0.6)
    assert [math.isnan(accuracy) for accuracy in partly.accuracies("a", "sparsity")] == [False, True]


@pytest.mark.parametrize(
    ("drop", "sparsity", "bits"),
    [
        (0, {"conv.weight": 0.5, "fc.weight": 0.0}, {"conv.weight": 8}),
        (0.02, {"conv.weight": 0.7, "fc.weight": 0.0}, {"conv.weight": 4}),
        (0.1, {"conv.weight": 0.7, "fc.weight": 0.5}, {"conv.weight": 4}),
        (0.4, {"conv.weight": 0.9, "fc.weight": 0.7}, {"conv.weight": 4}),
        (1, {"conv.weight": 0.9, "fc.weight": 0.7}, {"conv.weight": 2, "fc.weight": 2}),
    ],
)
def test_what_a_drop_allows(drop: float, sparsity: dict[str, float], bits: dict[str, int]) -> None:
    assert SMALL.highest_sparsity(drop) == sparsity
    found = SMALL.fewest_bits(drop)
    assert found == bits
    assert all(type(width) is int for width in found.values())


@given(POINTS, POINTS, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_drop_allows_no_less(pruned: list[float], quantized: list[float], drop: float, more: float) -> None:
    scan = table({"w": (pruned, quantized)})
    assert scan.highest_sparsity(drop)["w"] <= scan.highest_sparsity(drop + more)["w"]
    assert scan.fewest_bits(drop).get("w", 99) >= scan.fewest_bits(drop + more).get("w", 99)
    for layer, width in scan.fewest_bits(drop).items():
        assert dict(zip((2, 4, 8), quantized, strict=True))[width] >= scan.baseline - drop - 1e-6, layer


def test_a_drop_of_exactly_so_much_is_allowed_whatever_the_rounding() -> None:
    single = (float(np.float32(0.986)), float(np.float32(0.976)), 0.01)
    for baseline, accuracy, drop in ((0.986, 0.976, 0.01), single, (0.3, 0.1, 0.2)):
        assert table({"w": ([accuracy], [])}, baseline).highest_sparsity(drop) == {"w": 0.5}
    assert table({"w": ([0.97599], [])}, 0.986).highest_sparsity(0.01) == {"w": 0.0}


def test_a_baseline_that_is_nan_allows_nothing() -> None:
    scan = table({"w": ([0.5] * 3, [0.5] * 3)}, baseline=NAN)
    assert scan.highest_sparsity(1) == {"w": 0.0}
    assert scan.fewest_bits(1) == {}


@pytest.mark.parametrize("drop", [-0.1, NAN, math.inf, True, "0.1", None])
def test_a_drop_is_a_number(drop: float) -> None:
    for method in ("highest_sparsity", "fewest_bits"):
        with pytest.raises(ParameterError, match=f"'drop' parameter of SensitivityTable.{method} must be a finite number"):
            getattr(SMALL, method)(drop)


@given(POINTS, POINTS, st.floats(allow_nan=True, allow_infinity=True))
def test_json_and_back(pruned: list[float], quantized: list[float], baseline: float) -> None:
    scan = table({"größe [0]\n.weight": (pruned, quantized)}, baseline)
    text = scan.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert repr(SensitivityTable.from_json(text)) == repr(scan)
    assert repr(SensitivityTable.from_dict({**scan.as_dict(), "more": 1})) == repr(scan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "deepcompress report"}, "with format 'deepcompress sensitivity', version 1. Got 'deepcompress report'"),
        ({"version": 2}, "version 1"),
        ({"rows": [{"layer": "a"}]}, "a dict as as_dict makes them. Got \"KeyError: 'kind'\" instead"),
        ({"rows": [{"layer": "a", "kind": "magic"}]}, "ValueError: kind 'magic'"),
        ({"baseline": "much"}, "ValueError: could not convert string to float: 'much'"),
        ({"rows": 3}, "TypeError: 'int' object is not iterable"),
    ],
)
def test_a_dict_of_something_else(change: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        SensitivityTable.from_dict({**SMALL.as_dict(), **change})
    assert message in str(caught.value)


def test_texts_of_something_else() -> None:
    with pytest.raises(ParameterError, match="This is no JSON"):
        SensitivityTable.from_json("{")
    with pytest.raises(ParameterError, match="Got 'list' instead"):
        SensitivityTable.from_json("[]")


def test_the_table_for_a_terminal() -> None:
    assert SMALL.to_text() == (
        "Accuracy by sparsity of one layer\n"
        "\n"
        "Layer        Weights     50%     70%     90%\n"
        "--------------------------------------------\n"
        "conv.weight    1,200  90.00%  89.00%  50.00%\n"
        "fc.weight      1,200  80.00%  70.00%     nan\n"
        "\n"
        "Accuracy with that layer alone pruned (percentile); of the unchanged model 90.00%.\n"
        "\n"
        "Accuracy by index bits of one layer\n"
        "\n"
        "Layer        Weights  2 bits  4 bits  8 bits\n"
        "--------------------------------------------\n"
        "conv.weight    1,200  30.00%  88.00%  90.00%\n"
        "fc.weight      1,200  10.00%     nan  20.00%\n"
        "\n"
        "Accuracy with that layer alone quantized (k-means); of the unchanged model 90.00%."
    )
    assert str(SMALL).startswith("Accuracy by sparsity")
    assert all(len(line) <= 40 for line in SMALL.to_text(40).splitlines())


def test_measures_that_are_no_shares_are_scores() -> None:
    scan = table({"w": ([-3.5, 0.25, 120.0], [])}, baseline=12)
    text = scan.to_text()
    assert "Score by sparsity of one layer" in text
    assert "-3.5  0.25  120" in text
    assert "of the unchanged model 12." in text
    assert "bits" not in text


def test_markdown() -> None:
    text = SMALL.to_markdown()
    assert "## Accuracy by index bits of one layer\n\n| Layer | Weights | 2 bits | 4 bits | 8 bits |\n|:--|--:|" in text
    assert "| fc.weight | 1,200 | 10.00% | nan | 20.00% |\n" in text
    assert r"| a\|b\*.weight |" in table({"a|b*.weight": ([0.5], [])}).to_markdown()


# ---- pictures


def size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def svg_of(scan: SensitivityTable, folder: Path) -> str:
    path = folder / "scan.svg"
    scan.plot(path)
    return path.read_text()


def many(count: int) -> SensitivityTable:
    return table({f"layer{place}.conv.weight": ([0.9, 0.8, 0.1], [0.2, NAN, 0.9]) for place in range(count)})


@pytest.mark.parametrize("count", [1, 8, 9, 54])
def test_every_layer_has_its_name_and_both_kinds_their_panel(count: int, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    text = svg_of(many(count), tmp_path)
    assert all(text.count(f">layer{place}.conv<") == 1 for place in range(count))
    assert "Sparsity of the one layer that is pruned" in text
    assert "Index bits of the one layer that is quantized" in text
    assert "Accuracy" in text
    assert "unchanged" in text
    assert text.count(">nan<") == count
    many(count).plot(tmp_path / "scan.png")
    width, height = size(tmp_path / "scan.png")
    assert height > 10 * count
    assert width > 900


@pytest.mark.parametrize("count", [4, 20, 54])
def test_nothing_is_clipped(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn fills the picture, and goes on nowhere."""
    pytest.importorskip("matplotlib")
    figures, picture = [], curves.picture

    @contextmanager
    def watched(*arguments: Any, **options: Any) -> Iterator[Any]:
        with picture(*arguments, **options) as panels:
            yield panels
            figures.append(panels[0].figure)

    monkeypatch.setattr(curves, "picture", watched)
    names = [f"features.block_{place}.a_very_long_name_of_a_layer.conv.weight" for place in range(count)]
    table({name: ([0.9, 0.8, 0.1], [0.2, NAN, 0.9]) for name in names}).plot(tmp_path / "scan.png")
    (figure,) = figures
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert -0.01 <= box.x0 < 0.2
    assert width - 0.2 < box.x1 <= width + 0.01
    assert -0.01 <= box.y0 < 0.2
    assert height - 0.2 < box.y1 <= height + 0.01


def test_names_that_end_alike_are_told_apart(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    end = "a_very_long_end_of_the_name_of_a_layer"
    shortened = ("one", "two", "one.a_very_lo..name_of_a_layer")
    whole = ("encoder.layers.1", "encoder.layers.2", f"encoder.layers.1.{end}")
    for first, second, shown in (shortened, whole):
        text = svg_of(table({f"{start}.{end}.weight": ([0.9, 0.8, 0.1], []) for start in (first, second)}), tmp_path)
        assert f">{shown}<" in text


def test_names_may_hold_anything(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for count in (1, 10):
        names = {f"$x_{place}$ 漢 \n.weight": ([0.9, 0.8, 0.1], [0.2, NAN, 0.9]) for place in range(count)}
        assert ">$x_0$ " in svg_of(table(names), tmp_path)


def test_one_kind_nan_alone_and_scores(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for points in (([NAN] * 3, []), ([], [12.5, -3.0, 1e6])):
        for count in (1, 12):
            text = svg_of(table({f"w{place}": points for place in range(count)}, baseline=20), tmp_path)
            assert "Score" in text


def test_what_stands_in_the_way_of_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(StorageError, match="cannot write"):
        SMALL.plot(tmp_path / "none" / "scan.png")
    with pytest.raises(ParameterError, match=r"must be at least one point. Got \[\] instead"):
        table({}).plot(tmp_path / "scan.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"Plots need matplotlib: pip install 'deepcompress\[plots\]'"):
        SMALL.plot(tmp_path / "scan.png")
