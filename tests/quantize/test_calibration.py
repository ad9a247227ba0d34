"""Observers count exactly, ranges are what their methods say, and a calibrated model is left as it was."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor, nn

import deepcompress as dc
from deepcompress.errors import ModelError, ParameterError
from deepcompress.quantize.affine import dequantize_affine, quantize_affine
from deepcompress.quantize.clipping import Clipping, expected_error, quantile
from deepcompress.quantize.grid import Grid
from deepcompress.quantize.observe import Observed, Observer

floats = st.floats(allow_nan=False, allow_infinity=False, width=32)
values = arrays(np.float32, st.integers(1, 60), elements=floats)
tame = arrays(np.float32, st.integers(1, 200), elements=st.floats(-50, 50, width=32))
clippings = st.builds(Clipping, st.sampled_from(["minmax", "percentile", "mse"]), st.integers(2, 16), st.booleans())


def observed(*batches: NDArray[Any] | Tensor) -> Observed:
    observer = Observer("it")
    for batch in batches:
        observer.add(torch.as_tensor(batch))
    found = observer.result()
    assert found is not None
    return found


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 3)
    )


def images(n: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


# Observers


@given(st.lists(values, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_neither_order_nor_cuts_of_batches_matter(batches: list[NDArray[Any]], random: Any) -> None:
    whole = observed(np.concatenate(batches))
    assert observed(*batches) == whole
    random.shuffle(batches)
    assert observed(*batches) == whole


@given(values)
def test_counts_are_those_of_the_bins(array: NDArray[Any]) -> None:
    found = observed(array)
    assert (found.low, found.high, found.total) == (float(array.min()), float(array.max()), array.size)
    assert found.zeros == int((array == 0).sum())
    inside = np.searchsorted(found.edges, array.astype(np.float64), side="right") - 1
    np.testing.assert_array_equal(np.bincount(inside, minlength=len(found.counts)), found.counts)
    assert len(found.counts) <= 4096
    assert found.counts[0] > 0 < found.counts[-1]


@given(values)
def test_magnitudes_and_what_a_relu_leaves(array: NDArray[Any]) -> None:
    found, exact = observed(array), observed(np.maximum(array, 0))
    relu = found.rectified()
    assert (relu.low, relu.high, relu.total) == (exact.low, exact.high, exact.total)
    assert relu.zeros >= exact.zeros - int((np.signbit(array) & (array == 0)).sum())
    assert sum(relu.counts) == sum(found.magnitudes.counts) == array.size
    assert found.magnitudes.high == float(np.abs(array).max())
    assert found.magnitudes.edges[0] >= 0


def test_a_relu_with_a_ceiling() -> None:
    array = np.array([-3, -1, 0, 2, 5, 7, 9], np.float32)
    found = observed(array).rectified(6.0)
    assert (found.low, found.high, found.zeros, found.total) == (0.0, 6.0, 3, 7)
    assert (found.counts[0], found.counts[-1]) == (3, 2)
    assert observed(array[:2]).rectified() == Observed(0.0, 0.0, 2, 2, observed(array[:2]).exponent, 0, (2,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_type_and_shape(dtype: torch.dtype) -> None:
    batch = images().to(dtype)
    expected = observed(batch.double())
    assert observed(batch) == expected
    assert observed(batch.contiguous(memory_format=torch.channels_last)) == expected
    assert observed(batch[0, 0, 0, 0]).total == 1
    assert Observer("it").result() is None
    assert observed(torch.zeros(0, dtype=dtype), batch) == expected


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e-45, 1e300, 1.7e308])
def test_values_of_any_size(scale: float) -> None:
    found = observed(np.array([0.0, scale, -scale / 2]))
    assert (found.low, found.high, found.total, found.zeros) == (-scale / 2, scale, 3, 1 + (scale / 2 == 0))
    for method in ("minmax", "percentile", "mse"):
        grid = Clipping(method).grid(found)
        assert math.isfinite(grid.low) and math.isfinite(grid.high)  # noqa: PT018


def test_what_is_not_finite_is_counted() -> None:
    with pytest.raises(ModelError, match=re.escape("it has 1 NaN and 2 infinite values among 4")):
        observed(np.array([np.nan, np.inf, -np.inf, 1.0]))


def test_fields_that_contradict_each_other() -> None:
    with pytest.raises(ParameterError, match="'low, high' parameter of Observed must be finite and ascending"):
        Observed(2.0, 1.0, 1, 0, 0, 1, (1,))
    with pytest.raises(ParameterError, match=re.escape("must be 3 values in sum, with 0 zeros in the bin that begins at 0")):
        Observed(0.0, 1.0, 3, 0, 0, 0, (1, 1))


# Grids


@given(tame, st.integers(2, 16), st.booleans())
def test_a_grid_is_that_of_quantize_affine(array: NDArray[Any], bits: int, symmetric: bool) -> None:
    grid = Grid.over(float(array.min()), float(array.max()), bits=bits, symmetric=symmetric)
    expected = quantize_affine(array, bits, symmetric=symmetric)
    if grid.scale != float(expected.scale):
        assert float(expected.scale) < 2**-126  # a step that a float32 could not be divided by
        return
    codes = grid.quantize(torch.from_numpy(array))
    np.testing.assert_array_equal(codes.numpy(), expected.codes)
    assert grid.zero_point == int(expected.zero_point)
    np.testing.assert_array_equal(grid.dequantize(codes).numpy(), dequantize_affine(expected))


@given(floats, floats, st.integers(2, 16), st.booleans())
def test_zero_is_exact_and_the_ends_move_by_half_a_step(one: float, other: float, bits: int, symmetric: bool) -> None:
    low, high = min(one, other), max(one, other)
    grid = Grid.over(low, high, bits=bits, symmetric=symmetric)
    assert grid.lowest <= grid.zero_point <= grid.highest
    assert grid.quantize(torch.zeros(2)).tolist() == [grid.zero_point] * 2
    assert grid.dequantize(torch.tensor([grid.zero_point])).item() == 0.0
    slack = grid.scale * 0.5000001
    assert grid.low <= min(low, 0) + slack
    assert max(high, 0) - slack <= grid.high
    assert Grid.from_config(json.loads(json.dumps(grid.config()))) == grid


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ((0.0, 0, 8, False), "The 'scale' parameter of Grid must be a finite number above 0. Got 0.0 instead."),
        ((math.inf, 0, 8, False), "Got inf instead."),
        ((1.0, 256, 8, False), "The 'zero_point' parameter of Grid must be an int from 0 to 255. Got 256 instead."),
        ((1.0, 1, 8, True), "must be an int from 0 to 0. Got 1 instead."),
        ((1.0, 0, 17, True), "The 'bits' parameter of Grid must be an int from 2 to 16. Got 17 instead."),
        ((1.0, 0, True, True), "Got True instead."),
    ],
)
def test_bad_grids(fields: tuple[Any, ...], text: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(text)):
        Grid(*fields)


# Ranges


@given(tame, st.integers(2, 16), st.booleans())
def test_min_max_clips_nothing(array: NDArray[Any], bits: int, symmetric: bool) -> None:
    grid = Clipping("minmax", bits, symmetric).grid(observed(array))
    error = np.abs(grid.dequantize(grid.quantize(torch.from_numpy(array))).numpy() - array).max()
    assert error <= grid.scale * 0.5000001 + np.spacing(np.abs(array).max())  # values on the grid are rounded to float32


@given(tame, st.floats(0, 1))
def test_quantiles_are_exact_to_a_bin(array: NDArray[Any], share: float) -> None:
    found = observed(array)
    value, width = quantile(found, share), 2.0**found.exponent
    below, up_to = (array < value - width).mean(), (array <= value + width).mean()
    assert below <= share + 1e-9
    assert up_to >= share - 1e-9
    assert found.low <= value <= found.high


def test_a_percentile_against_numpy() -> None:
    array = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    found = observed(array)
    for symmetric in (False, True):
        grid = Clipping("percentile", 8, symmetric, 99.0).grid(found)
        bound = np.quantile(np.abs(array), 0.99)
        low, high = (-bound, bound) if symmetric else np.quantile(array, [0.01, 0.99])
        assert (grid.low, grid.high) == pytest.approx((low, high), abs=0.5 * grid.scale + 2.0**found.exponent)
    assert Clipping("percentile", percentile=100).grid(found) == Clipping("minmax").grid(found)


@given(tame, st.integers(2, 8), st.booleans())
@settings(max_examples=40)
def test_the_expected_error_is_the_error_to_a_bin(array: NDArray[Any], bits: int, symmetric: bool) -> None:
    found = observed(array)
    grid = Clipping("percentile", bits, symmetric, 75).grid(found)
    error = np.abs(grid.dequantize(grid.quantize(torch.from_numpy(array))).double().numpy() - array)
    width = min(2.0**found.exponent, found.high - found.low)
    assert expected_error(found, grid) == pytest.approx((error**2).mean(), abs=2 * width * (error.max() + width) + 1e-10)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_mse_finds_the_best_range_of_a_brute_search(bits: int, symmetric: bool, relu: bool) -> None:
    array = np.random.default_rng(1).laplace(0.3, 1, 5_000).astype(np.float32)
    array = np.maximum(array, 0) if relu else array
    tensor = torch.from_numpy(array).double()

    def error(grid: Grid) -> float:
        return float(((grid.dequantize(grid.quantize(tensor)) - tensor) ** 2).mean())

    low, high = float(array.min()), float(array.max())
    lows = [0.0] if symmetric or relu else low * np.linspace(0.06, 1, 16)
    ranges = [(a, b) for a in lows for b in max(high, -low) * np.linspace(0.04, 1, 25)]
    best = min(error(Grid.over(a, b, bits=bits, symmetric=symmetric)) for a, b in ranges)
    assert error(Clipping("mse", bits, symmetric).grid(observed(array))) <= 1.02 * best


@given(tame, clippings)
@settings(max_examples=15, deadline=None)
def test_mse_expects_no_more_error_than_the_others(array: NDArray[Any], clipping: Clipping) -> None:
    found = observed(array)
    best = expected_error(found, Clipping("mse", clipping.bits, clipping.symmetric).grid(found))
    assert best <= expected_error(found, Clipping("minmax", clipping.bits, clipping.symmetric).grid(found)) + 1e-15
    if clipping.method == "percentile" and clipping.bits <= 8 and len(array) > 100:
        assert best <= 1.1 * expected_error(found, clipping.grid(found)) + 1e-12


def test_constants_and_zeros() -> None:
    for method in ("minmax", "percentile", "mse"):
        assert Clipping(method).grid(observed(np.zeros(9))) == Grid(1.0, 0, 8, False)
        for constant in (3.7, -3.7):
            grid = Clipping(method).grid(observed(np.full(9, constant)))
            assert grid.dequantize(grid.quantize(torch.tensor([constant]))).item() == pytest.approx(constant, rel=1e-6)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"method": "max"}, "'method' parameter of calibrate must be one of 'minmax', 'percentile', 'mse'. Got 'max' instead."),
        ({"bits": 1}, "'bits' parameter of calibrate must be an int from 2 to 16. Got 1 instead."),
        ({"percentile": 50}, "'percentile' parameter of calibrate must be a number in (50, 100]. Got 50 instead."),
    ],
)
def test_bad_clippings(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(text)):
        dc.calibrate(net(), [images()], **fields)


# calibrate


def test_what_is_observed_is_what_passes() -> None:
    model = net().eval()
    batch = images()
    found = dc.calibrate(model, [(batch, torch.zeros(8))])
    given_by_conv = model[0](batch)
    taken_by_linear = model[:5](batch)
    assert list(found.layers) == ["0", "5"]
    assert found.input is not None
    assert found.input.observed == observed(batch) == found.layers["0"].input.observed  # type: ignore[union-attr]
    assert found.layers["0"].output.observed == observed(given_by_conv)  # type: ignore[union-attr]  # before the in-place ReLU
    assert found.layers["5"].input.observed == observed(taken_by_linear)  # type: ignore[union-attr]
    activation = found.layers["5"].output
    assert activation is not None
    assert activation.grid == Grid.over(activation.observed.low, activation.observed.high, bits=8)
    assert (activation.scale, activation.zero_point, activation.bits) == (activation.grid.scale, activation.grid.zero_point, 8)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    model = net().train(training)
    model[3].eval()
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    dc.calibrate(model, [images()])
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == [0, 1, 0, 0, 0, 0, 0]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert seen == [1]


def test_hooks_go_away_after_an_error() -> None:
    model = net()
    bad = images()
    bad[0, 0, 0, 0] = math.nan
    with pytest.raises(ModelError, match=re.escape("calibrate: the network's input has 1 NaN and 0 infinite values among 256")):
        dc.calibrate(model, [images(), bad])
    with pytest.raises(RuntimeError):
        dc.calibrate(model, [torch.zeros(3, 3)])
    with torch.no_grad():
        model[0].weight[0] = math.inf
    with pytest.raises(ModelError, match=re.escape("calibrate: the output of layer '0' has")):
        dc.calibrate(model, [images()])
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert model.training


def test_batches_of_every_kind() -> None:
    class Keyed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
            return self.fc(input=x)

    model, x, y = Keyed(), torch.randn(5, 4), torch.zeros(5)
    expected = dc.calibrate(model, [x])
    for batch in [(x, y), [x, y], (x,), {"x": x}, {"x": x, "labels": y}, ({"x": x}, y), ((x, y), y)]:
        assert dc.calibrate(model, [batch]) == expected
    assert dc.calibrate(model, (batch for batch in (x[:2], x[2:]))).layers["fc"].calls == 2


def test_no_batches() -> None:
    with pytest.raises(ParameterError, match="'batches' parameter of calibrate must be an iterable of at least one batch"):
        dc.calibrate(net(), [])


class Twice(nn.Module):
    """One layer called twice, under two names; one never called; token numbers as the input."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.idle = nn.Linear(4, 4)
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        out, _ = self.lstm(self.again(self.first(self.embed(tokens)) * 10))
        return out


def test_shared_idle_and_recurrent_layers(caplog: pytest.LogCaptureFixture) -> None:
    model, tokens = Twice(), torch.arange(9)[None]
    with caplog.at_level("INFO", logger="deepcompress"):
        found = dc.calibrate(model, [tokens])
    assert (list(found.layers), found.uncalled, found.input) == (["first"], ("idle",), None)
    assert "calibrate: no batch reached 'idle'; they are left out" in caplog.text
    once = model.first(model.embed(tokens))
    assert found.layers["first"].calls == 2
    assert found.layers["first"].output.observed == observed(once.detach(), model.first(once * 10).detach())  # type: ignore[union-attr]
    assert list(dc.calibrate(model, [tokens], include=["again"]).layers) == ["first"]
    recurrent = dc.calibrate(model, [tokens], types=["LSTM"])
    assert recurrent.layers["lstm"].output.observed == observed(model(tokens).detach())  # type: ignore[union-attr]
    embedded = dc.calibrate(model, [tokens], types=["Embedding"]).layers["embed"]
    assert embedded.input is None
    assert embedded.output is not None
    with pytest.raises(ModelError, match=re.escape("calibrate: 1 batches reached none of the chosen layers ('idle')")):
        dc.calibrate(model, [tokens], include=["idle"])


def test_the_choice_of_layers() -> None:
    model = nn.Sequential()
    model.add_module("stem", nn.Conv1d(1, 2, 1))
    model.add_module("body", nn.Sequential(nn.Conv1d(2, 2, 1), nn.ReLU(), nn.Conv1d(2, 2, 1)))
    batch = [torch.randn(3, 1, 5)]

    def names(**choice: Any) -> list[str]:
        return list(dc.calibrate(model, batch, **choice).layers)

    assert names() == ["stem", "body.0", "body.2"]
    assert names(include=["body"]) == names(exclude=["stem"]) == ["body.0", "body.2"]
    assert names(include=["*.2"]) == ["body.2"]
    assert names(types=["ReLU", "Conv1d"], exclude=["body.0"]) == ["stem", "body.1", "body.2"]
    assert names(types=["_ConvNd"]) == names()
    assert list(dc.calibrate(nn.Linear(5, 2), batch).layers) == [""]


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"include": ["head"]}, "'include' parameter of calibrate must be patterns that match modules, which are '0', '5'."),
        ({"exclude": ["head"]}, "'exclude' parameter of calibrate must be patterns that match modules"),
        ({"include": "0"}, "'include' parameter of calibrate must be a sequence of strings. Got '0' instead."),
        ({"types": ["LSTM"]}, "which has 'BatchNorm2d', 'Conv2d', 'Dropout', 'Flatten', 'Linear', 'ReLU' and 1 more."),
        ({"exclude": ["*"]}, "calibrate: include=None, exclude=['*'], types=["),
    ],
)
def test_bad_choices(choice: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(text)):
        dc.calibrate(net(), [images()], **choice)


def test_prints_a_line_for_each_activation() -> None:
    found = dc.calibrate(nn.Sequential(nn.ReLU(), nn.Linear(2, 1, bias=False)), [torch.tensor([[-1.0, 2.0], [0.0, 1.0]])])
    lines = str(found).splitlines()
    assert lines[0] == "network takes -1 to 2 (25% zeros), 8 bits: scale 0.01176, zero point 85, -1 to 2"
    assert lines[1].startswith("'1'     takes 0 to 2 (50% zeros), 8 bits: scale 0.007843, zero point 0, 0 to 2")
    assert lines[2].startswith("'1'     gives ")
    assert len(lines) == 3
    assert len(repr(found)) < 2000


def test_other_ranges_from_the_same_observations() -> None:
    found = dc.calibrate(net(), [images()])
    for changes in ({"bits": 4}, {"method": "mse"}, {"method": "percentile", "percentile": 90, "symmetric": True}):
        assert found.rescaled(**changes) == dc.calibrate(net(), [images()], **changes)  # type: ignore[arg-type]
    text = "'changes' parameter of Calibration.rescaled must be among 'method', 'bits'"
    with pytest.raises(ParameterError, match=re.escape(text)):
        found.rescaled(include=["0"])


@given(clippings)
@settings(max_examples=10, deadline=None)
def test_goes_through_json(clipping: Clipping) -> None:
    found = dc.calibrate(Twice(), [torch.arange(9)[None]]).rescaled(**dataclasses.asdict(clipping))
    assert dc.Calibration.from_json(found.to_json()) == found
    assert dc.Calibration.from_json(found.to_json(indent=1)).rescaled(bits=5) == found.rescaled(bits=5)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda data: "{", "must be JSON as to_json writes it. Got 'JSONDecodeError"),
        (lambda data: "[]", "must be JSON of format 'deepcompress calibration', version 1. Got '[]' instead."),
        (lambda data: json.dumps({**data, "version": 2}), "must be JSON of format"),
        (lambda data: json.dumps({**data, "layers": [1]}), "Got \"AttributeError: 'list' object"),
        (lambda data: json.dumps({key: data[key] for key in data if key != "batches"}), "Got \"KeyError: 'batches'\" instead."),
        (lambda data: json.dumps({**data, "clipping": {"method": "max"}}), "must be one of 'minmax'"),
    ],
)
def test_bad_json(edit: Any, text: str) -> None:
    data = json.loads(dc.calibrate(net(), [images()]).to_json())
    with pytest.raises(ParameterError, match=re.escape(text)):
        dc.Calibration.from_json(edit(data))
