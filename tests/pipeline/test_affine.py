"""Weights on grids as a stage: what the model, the file and the functions for arrays say of them is the same."""

from __future__ import annotations

import io
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import deepcompress as dc
from deepcompress.errors import ModelError, ParameterError, PipelineError
from deepcompress.pipeline.pipeline import Pipeline, Result
from deepcompress.pipeline.stages import AffineQuantize, Finetune, HuffmanEncode, KMeansQuantize, Prune, Retrain
from deepcompress.quantize.affine import dequantize_affine, quantize_affine

from .samples import accuracy, digits, net, same_bits

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def run(model: Any, *stages: Any, **rest: Any) -> Result:
    return Pipeline([(str(place), stage) for place, stage in enumerate(stages)]).run(model, quiet=True, **rest)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.ndim > 1}


def convnet() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, groups=32, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10),
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(DTYPES),
    st.sampled_from([1, 2, 4, 5, 8, 16, {"conv": 2, "fc": 7}]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["nearest-even", "stochastic"]),
    st.sampled_from([None, 0.5, 0.97, 1.0]),
    st.booleans(),
)
def test_the_file_holds_what_the_model_holds(
    dtype: torch.dtype, bits: Any, per_channel: bool, symmetric: bool, rounding: str, share: float | None, encode: bool
) -> None:
    stages: list[Any] = [] if share is None else [Prune("unstructured", sparsity=share)]
    stages += [AffineQuantize(bits, per_channel=per_channel, symmetric=symmetric, rounding=rounding)]
    model = net(dtype=dtype)
    result = run(model, *stages, *([HuffmanEncode()] if encode else []))
    assert same_bits(result.model, result.compressed.state_dict())
    again = dc.CompressedModel(result.compressed.to_bytes()).load_into(net(1, dtype))
    assert same_bits(again, result.model)
    assert result.compressed.ties == {"again.weight": "inner.weight"}
    assert result.compressed.bits.file.total == 8 * result.compressed.file_bytes
    assert result.report.bits.total == 8 * result.report.file_bytes
    pruned = run(model, *stages[:-1]).model if share is not None else model
    for name, weight in weights_of(result.model).items():
        gone = weight[pruned.get_parameter(name) == 0]
        assert bool((gone == 0).all())
        assert not bool(torch.signbit(weight[weight == 0]).any())
        width = bits if isinstance(bits, int) else {"conv.weight": 2, "fc.weight": 7}.get(name, 16)
        assert per_channel or len(weight.unique()) <= 2**width


@pytest.mark.parametrize("bits", [1, 2, 8, 16])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_those_of_quantize_affine(bits: int, symmetric: bool, per_channel: bool, dtype: torch.dtype) -> None:
    model = net(dtype=dtype)
    result = run(model, AffineQuantize(bits, per_channel=per_channel, symmetric=symmetric))
    for name, weight in weights_of(model).items():
        array = quantize_affine(weight, bits, axis=0 if per_channel else None, symmetric=symmetric)
        assert torch.equal(result.model.get_parameter(name), dequantize_affine(array)), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scales_are_of_the_weights_type_and_nothing_is_clipped(dtype: torch.dtype) -> None:
    model = net(dtype=dtype)
    result = run(model, AffineQuantize(8, per_channel=True))
    stored = {record.name: (record.dtype, record.stored) for record in result.compressed.records if record.value_map == 2}
    assert set(stored.values()) <= {(str(dtype).removeprefix("torch."),) * 2}
    assert stored
    for name, weight in weights_of(model).items():
        error = (result.model.get_parameter(name).double() - weight.double()).abs().flatten(1)
        most = weight.double().abs().flatten(1).amax(1, keepdim=True)
        assert bool((error <= most / 127 / 2 * 1.02 + most * torch.finfo(dtype).eps).all()), name


def test_a_file_holds_scales_and_no_codebooks() -> None:
    model = convnet()
    model(torch.zeros(2, 3, 8, 8))
    weights = weights_of(model)
    count, channels = sum(weight.numel() for weight in weights.values()), sum(len(weight) for weight in weights.values())
    sizes = {}
    for name, stage in (
        ("layer", AffineQuantize(8)),
        ("channel", AffineQuantize(8, per_channel=True)),
        ("offset", AffineQuantize(8, per_channel=True, symmetric=False)),
        ("kmeans", KMeansQuantize(8, codebook="float32")),
    ):
        bits = run(model, stage, HuffmanEncode()).compressed.bits.file
        sizes[name] = bits.codebook // 8
        assert bits.codewords / 8 <= count
    assert sizes["layer"] == 8 * len(weights)
    assert sizes["channel"] == 4 * (channels + len(weights))  # a scale each, and an offset for all of a layer
    assert sizes["offset"] == 8 * channels
    assert sizes["kmeans"] > 4 * 100 * len(weights)


def test_a_conv_net_at_eight_bits_per_channel_is_a_quarter() -> None:
    model = convnet()
    model(torch.zeros(2, 3, 8, 8))
    result = run(model, AffineQuantize(8, per_channel=True), HuffmanEncode(leftovers="float16"))
    dense = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert dense == 54_840
    assert result.compressed.file_bytes < 14_300
    half = run(model, AffineQuantize(4, per_channel=True), HuffmanEncode(leftovers="float16"))
    assert half.compressed.file_bytes < 7_450


def test_symmetric_channels_take_format_1_2_and_nothing_else_does() -> None:
    for stage, version in (
        (AffineQuantize(8), (1, 1)),
        (AffineQuantize(8, per_channel=True, symmetric=False), (1, 1)),
        (AffineQuantize(8, per_channel=True), (1, 2)),
        (KMeansQuantize(4), (1, 1)),
    ):
        assert run(net(), stage).compressed.version == version


def test_channels_of_a_transposed_convolution_are_its_second_dimension() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ConvTranspose2d(6, 4, 3), nn.Embedding(9, 5))
    with torch.no_grad():
        model[1].weight *= torch.tensor([1.0, 10.0, 100.0, 1000.0]).reshape(1, 4, 1, 1)
    result = run(model, AffineQuantize(6, per_channel=True))
    axes = {record.name: (record.axis, record.size) for record in result.compressed.records if record.value_map == 2}
    assert axes == {"0.weight": (1, 6), "1.weight": (2, 4), "2.weight": (1, 9)}
    torch.testing.assert_close(result.model[2].weight.abs().amax(1), model[2].weight.abs().amax(1))
    error = (result.model[1].weight - model[1].weight).detach().abs().amax((0, 2, 3))
    assert bool((error <= model[1].weight.detach().abs().amax((0, 2, 3)) / 31 / 2 * 1.001).all())


def test_a_vector_has_one_scale() -> None:
    result = run({"w": torch.randn(400)}, AffineQuantize(4, per_channel=True, include=["w"]))
    (record,) = result.compressed.records
    assert (record.axis, record.size) == (0, 1)


def test_a_bare_state_dict() -> None:
    tensors = net().state_dict()
    result = run(tensors, Prune("percentile", q=0.8), AffineQuantize(4, per_channel=True), HuffmanEncode())
    assert same_bits(result.model, result.compressed.state_dict())
    assert same_bits(dict(net().state_dict()), tensors)  # the caller's own are as they were
    assert all(len(row.unique()) <= 16 for row in result.compressed["fc.weight"])


def test_bits_by_layer() -> None:
    result = run(net(), AffineQuantize({"fc.weight": 3, "fc": 5, "co*": 2}))
    rows = {row.name: (row.k, row.bit_width) for row in result.report.layers if row.quantized}
    assert rows == {"conv.weight": (2, 2), "fc.weight": (6, 3)}  # levels other than zero
    with pytest.raises(ParameterError, match=r"'bits' parameter of AffineQuantize must be keyed by patterns that match weights"):
        run(net(), AffineQuantize({"norm": 3}))


def test_rows_of_the_report() -> None:
    tensors = {"fc.weight": torch.tensor([0.0, 0.0, 1.0, 2.0, -3.0, 3.0, 3.0, 0.4]).reshape(2, 4), "fc.bias": torch.zeros(2)}
    result = run(tensors, AffineQuantize(3), HuffmanEncode())
    row = result.report.layers[0]
    assert result.model["fc.weight"].tolist() == [[0, 0, 1, 2], [-3, 3, 3, 0]]
    assert (row.quantized, row.k, row.bit_width, row.nonzeros) == (True, 6, 3, 5)
    assert row.entropy == pytest.approx(-(2 / 5) * math.log2(2 / 5) - 3 * (1 / 5) * math.log2(1 / 5))
    assert row.mean_code_length == pytest.approx((1 + 1 + 2 + 3 + 3) / 5, abs=0.21)
    assert row.rmse == pytest.approx(0.4 / math.sqrt(8))
    assert row.histogram is not None


def test_more_bits_lose_less_and_channels_lose_less_than_layers() -> None:
    model = net()
    errors = [run(model, AffineQuantize(bits)).report.layers[0].rmse for bits in (2, 4, 6, 8)]
    assert all(a is not None and b is not None and a > 3 * b for a, b in pairwise(errors))
    rows = [run(model, AffineQuantize(4, per_channel=each)).report.pool(quantized=True).rmse for each in (False, True)]
    assert rows[1] is not None
    assert rows[0] is not None
    assert rows[1] < rows[0]


def test_stochastic_layers_draw_their_own_numbers_again_and_again() -> None:
    same = torch.randn(20, 30)
    model = {"a.weight": same.clone(), "b.weight": same.clone()}
    stage = AffineQuantize(2, rounding="stochastic", seed=3)
    first, again = run(model, stage), run(model, stage)
    other = run(model, AffineQuantize(2, rounding="stochastic", seed=4))
    assert same_bits(first.model, again.model)
    assert not torch.equal(first.model["a.weight"], first.model["b.weight"])
    assert not torch.equal(first.model["a.weight"], other.model["a.weight"])
    stages = [AffineQuantize(2, rounding="stochastic", seed=seed, include=["a"]) for seed in range(100)]
    mean = torch.stack([run(model, stage).model["a.weight"] for stage in stages]).mean(0)
    assert float((mean - same).abs().mean()) < 0.15 * float((first.model["a.weight"] - same).abs().mean())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("stage", [AffineQuantize(3, per_channel=True), AffineQuantize(3, symmetric=False), AffineQuantize(1)])
@pytest.mark.parametrize("rest", [False, True])
def test_finetuned_values_are_the_files_too(dtype: torch.dtype, stage: AffineQuantize, rest: bool) -> None:
    train = [(images.to(dtype), labels) for images, labels in digits(128)]
    stages = [Prune("percentile", q=0.5), stage]
    before = run(net(dtype=dtype), *stages).model
    result = run(net(dtype=dtype), *stages, Finetune(1, 0.02, "Adam", rest=rest), HuffmanEncode(), train=train)
    assert same_bits(result.model, result.compressed.state_dict())
    for name, weight in weights_of(result.model).items():
        old = before.get_parameter(name).detach()
        assert torch.equal(weight == 0, old == 0)
        assert [len(row.unique()) for row in weight] == [len(row.unique()) for row in old]
        assert bool((torch.sign(weight) == torch.sign(old)).all())
    assert not torch.equal(result.model.fc.weight, before.fc.weight)
    assert torch.equal(result.model.fc.bias, before.fc.bias) != rest


def test_finetuning_grows_each_channels_scale_by_one_factor() -> None:
    torch.manual_seed(0)
    stage, train = AffineQuantize(4, per_channel=True), digits()
    before = run(net(), stage).model.fc.weight.detach()
    after = run(net(), stage, Finetune(2, 1e-2), train=train).model.fc.weight.detach()
    growth = torch.where(before == 0, torch.nan, after / before)
    for row in growth:
        known = row[~row.isnan()]
        torch.testing.assert_close(known, known[:1].expand_as(known), rtol=1e-6, atol=0)
    assert len({round(float(row[~row.isnan()][0]), 4) for row in growth}) > 3


def test_finetuning_grids_and_codebooks_at_once_and_what_it_is_good_for() -> None:
    train = digits()
    stages = [Retrain(8, 1e-2), AffineQuantize({"fc": 2}), KMeansQuantize({"conv": 3, "inner": 2}, exclude=["fc"])]
    coarse = run(net(), *stages, train=train).model
    tuned = run(net(), *stages, Finetune(6, 1e-2), HuffmanEncode(), train=train)
    assert same_bits(tuned.model, tuned.compressed.state_dict())
    assert accuracy(tuned.model.eval()) > accuracy(coarse.eval())


def test_the_best_epochs_scales_are_kept() -> None:
    """`validate` likes the first epoch best; what comes after is forgotten, bit for bit."""
    seen: list[float] = []

    def validate(model: nn.Module) -> float:
        seen.append(0.0)
        return -float(len(seen))

    stage, train = AffineQuantize(4, per_channel=True), digits()
    model, batches = net(dtype=torch.bfloat16), [(images.bfloat16(), labels) for images, labels in train]
    one = run(model, stage, Finetune(1, 1e-2), train=batches).model
    best = run(model, stage, Finetune(4, 1e-2, restore_best=True), train=batches, validate=validate).model
    assert len(seen) == 4
    assert same_bits(weights_of(one), weights_of(best))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_only_what_is_quantized_must_be_finite(bad: float) -> None:
    model = net()
    with torch.no_grad():
        model.fc.weight[0, :3] = bad
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match=r"^fc.weight: 3 of 1440 weights are NaN or infinite; a grid needs finite ones$"):
        Pipeline([("q", AffineQuantize(3))]).run(model, inplace=True)
    assert all(torch.equal(tensor.nan_to_num(), before[name].nan_to_num()) for name, tensor in model.state_dict().items())
    assert same_bits((result := run(model, AffineQuantize(3, exclude=["fc"]))).model, result.compressed.state_dict())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fill", [0.0, 0.75, -2.0])
def test_constant_and_empty_and_tiny_weights(dtype: torch.dtype, fill: float) -> None:
    shapes = {"a": (4, 5), "b": (0, 3), "c": (1, 1)}
    tensors = {name: torch.full(shape, fill, dtype=dtype) for name, shape in shapes.items()}
    for symmetric in (True, False):
        result = run(tensors, AffineQuantize(8, per_channel=True, symmetric=symmetric), HuffmanEncode())
        assert same_bits(result.model, result.compressed.state_dict())
        torch.testing.assert_close(result.model["a"], tensors["a"], rtol=0.005, atol=0)


def test_integers_and_complex_numbers_are_left_alone() -> None:
    tensors = {"n": torch.arange(12).reshape(3, 4), "z": torch.ones(3, 4, dtype=torch.complex64), "w": torch.randn(3, 4)}
    result = run(tensors, AffineQuantize(2))
    assert [row.name for row in result.report.layers if row.quantized] == ["w"]
    assert same_bits({"n": tensors["n"], "z": tensors["z"]}, {name: result.compressed[name] for name in ("n", "z")})


def test_orders_that_cannot_work() -> None:
    for later in (Prune("percentile", q=0.5), Retrain(1)):
        with pytest.raises(PipelineError, match=r"cannot follow 'q'"):
            Pipeline([("q", AffineQuantize(4)), ("later", later)])
    with pytest.raises(PipelineError, match=r"cannot follow 'e': encoding is the last stage"):
        Pipeline([("e", HuffmanEncode()), ("q", AffineQuantize(4))])
    with pytest.raises(PipelineError, match=r"AffineQuantize: conv.weight, fc.weight, inner.weight already have a codebook"):
        run(net(), KMeansQuantize(4), AffineQuantize(4))
    with pytest.raises(PipelineError, match=r"KMeansQuantize: conv.weight, fc.weight, inner.weight already have a codebook"):
        run(net(), AffineQuantize(4), KMeansQuantize(4))


def test_a_weight_that_is_changed_after_all_is_told() -> None:
    class Meddle(HuffmanEncode):
        def apply(self, state: Any, context: Any) -> Any:
            with torch.no_grad():
                state.model.fc.weight[0, :7] += 1e-5
            return super().apply(state, context)

    with pytest.raises(ModelError, match=r"^fc.weight: 7 of 1440 weights are not on the grid of 15 levels$"):
        run(net(), AffineQuantize(4), Meddle())


def test_reading_one_tensor_and_reading_without_torch() -> None:
    result = run(net(), Prune("percentile", q=0.9), AffineQuantize(4, per_channel=True), HuffmanEncode())
    data = result.compressed.to_bytes()
    with dc.open(io.BytesIO(data)) as model:
        assert torch.equal(model["fc.weight"], result.model.fc.weight.detach())
    arrays = dc.load(data, framework="numpy").numpy()
    assert np.array_equal(arrays["fc.weight"], result.model.fc.weight.detach().numpy())
    dc.load(data).verify()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"bits": 0}, "The 'bits' parameter of AffineQuantize must be an int from 1 to 16, or a mapping of names to such. Got 0"),
        ({"bits": {"a": 17}}, "Got {'a': 17} instead"),
        ({"bits": {}}, "Got {} instead"),
        ({"bits": 4.0}, "Got 4.0 instead"),
        ({"per_channel": 1}, "The 'per_channel' parameter of AffineQuantize must be True or False. Got 1"),
        ({"symmetric": None}, "The 'symmetric' parameter of AffineQuantize must be True or False. Got None"),
        ({"rounding": "up"}, "The 'rounding' parameter of AffineQuantize must be one of 'nearest-even', 'stochastic'"),
        ({"seed": -1}, "The 'seed' parameter of AffineQuantize must be an integer of at least 0. Got -1"),
        ({"include": "fc"}, "The 'include' parameter of AffineQuantize must be None or a list of strings"),
    ],
)
def test_parameters_out_of_range(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError) as caught:
        AffineQuantize(**arguments)
    assert text in str(caught.value)


def test_only_the_bits_come_without_their_name() -> None:
    with pytest.raises(TypeError):
        AffineQuantize(8, True)  # type: ignore[misc]
    assert AffineQuantize(4, per_channel=True).config() == {"stage": "affine_quantize", "bits": 4, "per_channel": True}
