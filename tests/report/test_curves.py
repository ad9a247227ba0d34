"""Plots as files: what is drawn is what was given, and a file is there only when it is whole."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepcompress as dc
from deepcompress.report.curves import bars, histograms, lines, matrix, picture

pytest.importorskip("matplotlib")


def test_lines_draw_each_series_with_its_name(tmp_path: Path) -> None:
    with picture(tmp_path / "a.png") as (axes,):
        lines(axes, {"dense": ([1, 2, 3], [0.5, 0.6, 0.7]), "pruned": ([1, 2, 3], [0.4, 0.5, 0.6])}, xlabel="Epoch",
              ylabel="Accuracy", percent=True)  # fmt: skip
        assert [line.get_label() for line in axes.get_lines()] == ["dense", "pruned"]
        assert axes.get_lines()[1].get_ydata().tolist() == [0.4, 0.5, 0.6]
        assert len({(line.get_color(), str(line.get_linestyle())) for line in axes.get_lines()}) == 2
        assert axes.yaxis.get_major_formatter()(0.5, 0) == "50 %"
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("Epoch", "Accuracy")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_points_that_are_no_curve_are_not_joined(tmp_path: Path) -> None:
    with picture(tmp_path / "points.png") as (axes,):
        lines(axes, {"files": ([1, 1, 2], [0.5, 0.6, 0.7])}, xlabel="Bytes", ylabel="Accuracy", joined=False)
        assert [(line.get_linestyle(), line.get_marker()) for line in axes.get_lines()] == [("None", "o")]


def test_whole_numbers_get_whole_ticks(tmp_path: Path) -> None:
    with picture(tmp_path / "a.png", 2) as (epochs, rates):
        lines(epochs, {"a": ([1, 2], [0.1, 0.2])}, xlabel="Epoch", ylabel="Loss")
        lines(rates, {"a": ([0.25, 0.5], [0.1, 0.2])}, xlabel="Share", ylabel="Loss")
        assert all(tick == int(tick) for tick in epochs.get_xticks())
        assert any(tick != int(tick) for tick in rates.get_xticks())


def test_bars_stand_beside_each_other_and_carry_their_figures(tmp_path: Path) -> None:
    with picture(tmp_path / "a.svg") as (axes,):
        bars(axes, ["conv1", "conv2"], {"std": [0.25, 0.5], "percentile": [0.5, 0.5]}, ylabel="Sparsity", percent=True)
        assert sorted({text.get_text() for text in axes.texts}) == ["25.0%", "50.0%"]
        boxes = sorted(patch.get_x() for patch in axes.patches)
        assert np.diff(boxes).min() > 0.3
    assert "conv2" in (tmp_path / "a.svg").read_text()


def test_large_figures_have_no_exponent(tmp_path: Path) -> None:
    with picture(tmp_path / "a.png") as (axes,):
        bars(axes, ["codewords", "gaps"], {"bytes": [55_520, 192.4]}, ylabel="Bytes")
        assert [text.get_text() for text in axes.texts] == ["55,520", "192.4"]


@pytest.mark.parametrize("values", [[], [3.0], [np.nan, 1.0, np.inf, 2.0], [5.0, 5.0]])
def test_histograms_of_anything(values: list[float], tmp_path: Path) -> None:
    with picture(tmp_path / "a.png") as (axes,):
        histograms(axes, {"before": values, "after": np.zeros((2, 2))}, xlabel="Weight")
        drawn: Any = axes.patches[0].get_data()
        assert sum(count for count in drawn.values if count >= 1) == np.isfinite(values).sum()


def test_a_matrix_has_a_colour_bar(tmp_path: Path) -> None:
    with picture(tmp_path / "a.png") as (axes,):
        matrix(axes, np.eye(4), xlabel="Position", ylabel="Position", legend="Product")
        assert [other.get_ylabel() for other in axes.figure.axes] == ["Position", "Product"]


def test_an_error_while_drawing_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), picture(tmp_path / "a.png"):
        raise ValueError("mine")
    assert not (tmp_path / "a.png").exists()


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(dc.StorageError, match="cannot write"), picture(tmp_path / "nowhere" / "a.png"):
        pass


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(dc.MissingExtraError, match=r"deepcompress\[plots\]"), picture(tmp_path / "a.png"):
        pass
