"""A report goes through JSON and comes back equal."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deepcompress.errors import ParameterError
from deepcompress.report.report import Report
from deepcompress.report.rows import StageRow

from .samples import lenet, report_of, resnet20


@pytest.mark.parametrize("report", [resnet20(), lenet(), report_of(())])
def test_round_trip(report: Report) -> None:
    assert Report.from_json(report.to_json()) == report
    assert Report.from_dict(json.loads(report.to_json(indent=None))) == report


def test_derived_figures_are_written_along() -> None:
    report = lenet()
    data = json.loads(report.to_json())
    assert data["file_ratio"] == report.file_ratio
    assert data["lab_ratio"] == report.lab_ratio
    assert data["sparsity"] == report.sparsity
    first = data["layers"][0]
    row = report.layers[0]
    assert [first[name] for name in ("sparsity", "bytes", "bits_per_weight", "index_bits")] == [
        row.sparsity, row.bytes, row.bits_per_weight, row.index_bits,
    ]  # fmt: skip
    assert row.to_dict() == first
    assert report.stages[1].to_dict() == data["stages"][1]


def test_numbers_that_json_does_not_know() -> None:
    nan = StageRow(name="train", kind="Retrain", sparsity=0.0, accuracy=float("nan"), seconds=float("inf"))
    report = replace(lenet(), stages=(nan,))
    text = report.to_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    back = Report.from_json(text)
    assert back.stages[0].accuracy != back.stages[0].accuracy
    assert back.stages[0].seconds == float("inf")


def test_numpy_scalars_become_numbers() -> None:
    report = lenet()
    row = replace(report.layers[0], rmse=np.float32(0.5), nonzeros=np.int64(3))  # type: ignore[arg-type]
    assert json.loads(replace(report, layers=(row,)).to_json())["layers"][0]["nonzeros"] == 3


def _without(key: str) -> dict[str, Any]:
    data = lenet().to_dict()
    del data[key]
    return data


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({}, "must be a dict with format 'deepcompress report'. Got None"),
        ([], "must be a dict with format 'deepcompress report'. Got 'list'"),
        ({"format": "deepcompress report", "version": 2}, "'version' parameter of Report.from_dict must be 1. Got 2"),
        (_without("bits"), "must be a dict as to_dict makes them. Got \"KeyError: 'bits'\""),
        ({**lenet().to_dict(), "layers": 7}, 'must be a dict as to_dict makes them. Got "TypeError'),
        ({**lenet().to_dict(), "file_bytes": 8}, "must be 8 x 8 bytes = 64 bits in all"),
    ],
)
def test_what_is_no_report(data: Any, text: str) -> None:
    with pytest.raises(ParameterError) as caught:
        Report.from_dict(data)
    assert text in str(caught.value)


def test_what_is_no_json() -> None:
    with pytest.raises(ParameterError, match="This is no JSON: Expecting value"):
        Report.from_json("")
