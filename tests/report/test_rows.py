"""What rows and reports hold: sums are exact, both ratios are as defined, contradictions are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcompress.errors import ParameterError
from deepcompress.report.histogram import Histogram
from deepcompress.report.pool import Pool
from deepcompress.report.report import Report
from deepcompress.report.rows import LayerRow
from deepcompress.tensors.cost import KINDS, BitCount

from .samples import lenet, quantized_layer, raw_layer, report_of, resnet20

COUNTS = st.builds(BitCount, **{kind: st.integers(0, 1 << 70) for kind in KINDS})


@given(st.lists(COUNTS))
def test_bit_counts_add_up(counts: list[BitCount]) -> None:
    whole = BitCount.sum(counts)
    assert whole.total == sum(count.total for count in counts)
    assert sum(counts, BitCount()) == whole
    assert whole.as_dict() == {kind: sum(getattr(count, kind) for count in counts) for kind in KINDS}


def test_bit_counts_take_numpy_integers_and_nothing_less() -> None:
    assert type(BitCount(gaps=np.int64(3)).gaps) is int
    for bad in (-1, 1.5, "8", None):
        with pytest.raises(ParameterError, match=r"'gaps' parameter of BitCount must be an integer of at least 0\. Got"):
            BitCount(gaps=bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        BitCount() + 1  # type: ignore[operator]


def _row(weights: int, nonzeros: int, length: float, bits: BitCount, **fields: object) -> LayerRow:
    base = {"name": "fc.weight", "dtype": "float32", "representation": "gaps", "quantized": True}
    fields = {**base, "shape": (weights,), **fields}
    return LayerRow(weights=weights, nonzeros=nonzeros, mean_code_length=length, bits=bits, **fields)  # type: ignore[arg-type]


def test_both_ratios_by_hand() -> None:
    layers = (
        _row(1000, 100, 2.5, BitCount(codewords=250, gaps=300, codebook=64, code_lengths=26), rmse=0.3),
        _row(200, 50, 4.0, BitCount(codewords=200), representation="dense", rmse=0.0),
        raw_layer("bias", (10,)),
    )
    report = Report(
        layers=layers,
        bits=BitCount.sum(row.bits for row in layers) + BitCount(header=40),
        dense_bytes=4840,
        file_bytes=(640 + 200 + 320 + 40) // 8,
    )
    assert report.file_ratio == 4840 / 150
    assert report.lab_ratio == 32 * 1200 / (100 * 2.5 + 50 * 4.0)
    assert report.sparsity == pytest.approx(1 - 150 / 1200)
    row = layers[0]
    assert (row.sparsity, row.density, row.bytes, row.bits_per_weight, row.index_bits) == (0.9, 0.1, 80, 0.64, 3.0)
    assert layers[1].index_bits is None
    pool = report.pool(quantized=True)
    assert pool.mean_code_length == pytest.approx(3.0)
    assert pool.rmse == pytest.approx((1000 * 0.09 / 1200) ** 0.5)
    assert pool.bits_per_weight == pytest.approx(840 / 1200)


def test_the_lab_ratio_asks_for_quantized_weights_only() -> None:
    only_pruned = report_of((replace(raw_layer("w", (8, 8)), nonzeros=16, pruned=True),))
    assert only_pruned.lab_ratio is None
    assert only_pruned.sparsity == 0.75
    empty = report_of(())
    assert (empty.lab_ratio, empty.sparsity, empty.file_ratio) == (None, None, 0.0)
    all_zero = replace(raw_layer("w", (9,)), nonzeros=0, quantized=True, k=0, bit_width=0, bits=BitCount())
    assert report_of((all_zero,)).lab_ratio is None


def test_a_tie_is_counted_nowhere() -> None:
    tie = LayerRow(name="head.weight", shape=(64, 64), dtype="float32", weights=4096, nonzeros=4096, representation="tie")
    report = report_of((raw_layer("embedding.weight", (64, 64)), tie))
    assert report.pool().weights == 4096
    assert Pool((tie,)).weights == 0
    assert Pool((tie,)).bits_per_weight is None


@pytest.mark.parametrize("report", [resnet20(), lenet()])
def test_bits_sum_to_the_file(report: Report) -> None:
    assert sum(report.bits.as_dict().values()) == 8 * report.file_bytes
    with pytest.raises(ParameterError, match=rf"must be 8 x {report.file_bytes + 1} bytes = "):
        replace(report, file_bytes=report.file_bytes + 1)
    moved = replace(report.bits, codewords=0, header=report.bits.header + report.bits.codewords)
    with pytest.raises(ParameterError, match=r"must be at least the layers' \d+ bits of codewords\. Got 0 instead"):
        replace(report, bits=moved)
    with pytest.raises(ParameterError, match="'file_bytes' parameter of Report must be at least 1"):
        Report(layers=(), bits=BitCount(), dense_bytes=0, file_bytes=0)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"weights": 5}, r"'weights' parameter of LayerRow 'w' must be the product of its shape \(2, 3\)\. Got 5"),
        ({"nonzeros": 7}, "'nonzeros' parameter of LayerRow 'w' must be from 0 to its 6 weights. Got 7"),
        ({"representation": "csr"}, "'representation' parameter of LayerRow 'w' must be one of"),
        ({"quantized": True}, "'mean_code_length' parameter of LayerRow 'w' must be a number, for it is quantized"),
    ],
)
def test_rows_that_contradict_themselves(change: dict[str, object], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        replace(raw_layer("w", (2, 3)), **change)  # type: ignore[arg-type]


def test_han_columns_by_hand() -> None:
    row = _row(
        1000, 100, 2.5, BitCount(codewords=250, gaps=300, codebook=64, code_lengths=26),
        k=4, bit_width=2, gap_bit_width=4, gap_symbols=110,
    )  # fmt: skip
    line, total = report_of((row,)).han_table().rows
    assert (line.layer, line.weights, line.kept) == ("fc.weight", 1000, 0.1)
    assert (line.weight_bits_pq, line.weight_bits_pqh, line.index_bits_pq, line.index_bits_pqh) == (2, 2.5, 4, 3)
    assert line.rate_pq == (100 * 2 + 110 * 4 + 64) / 32_000
    assert line.rate_pqh == 640 / 32_000
    assert total == replace(line, layer="Total")


def test_han_columns_of_dense_indices_count_the_zero_symbol() -> None:
    row = _row(100, 60, 1.5, BitCount(codewords=170, codebook=64), representation="dense", k=4, bit_width=2)
    line = report_of((row,)).han_table().rows[0]
    assert (line.index_bits_pq, line.index_bits_pqh) == (None, None)
    assert line.rate_pq == (100 * 3 + 64) / 3200  # five symbols
    full = replace(row, nonzeros=100)
    assert report_of((full,)).han_table().rows[0].rate_pq == (100 * 2 + 64) / 3200
    assert report_of((raw_layer("bias", (4,)),)).han_table().rows == ()


@given(
    st.lists(st.floats(-1e30, 1e30) | st.sampled_from([0.0, float("nan"), float("inf")]), max_size=60),
    st.integers(1, 9),
)
def test_a_histogram_counts_every_finite_weight(values: list[float], bins: int) -> None:
    histogram = Histogram.of(values, values, bins=bins)
    finite = [value for value in values if np.isfinite(value)]
    assert sum(histogram.before) == len(finite)
    assert sum(histogram.after) == sum(value != 0 for value in finite)
    assert len(histogram.edges) == bins + 1


def test_one_outlier_does_not_flatten_a_histogram() -> None:
    values = np.append(np.random.default_rng(0).standard_normal(100_000), 1e30)
    assert Histogram.of(values, values).edges[-1] < 10


def test_histograms_that_do_not_fit() -> None:
    with pytest.raises(ParameterError, match=r"'before' parameter of Histogram must be one count fewer than edges \(3\)"):
        Histogram((0.0, 1.0, 2.0), (1,), (1, 2))
    with pytest.raises(ParameterError, match="'edges' parameter of Histogram must be ascending"):
        Histogram((0.0, 0.0), (1,), (1,))
    with pytest.raises(ParameterError, match=r"'bins' parameter of Histogram\.of must be at least 1"):
        Histogram.of([1.0], [1.0], bins=0)


def test_the_sample_layer_is_pruned_as_asked() -> None:
    assert quantized_layer("w", (100, 100), keep=0.1).sparsity == pytest.approx(0.9, abs=1e-3)
