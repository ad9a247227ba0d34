"""Values in the model are values in the file, byte for byte; figures in the report are the toy's, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deepcompress.errors import ModelError, ParameterError
from deepcompress.pipeline.pipeline import Pipeline, Result
from deepcompress.pipeline.stages import Finetune, GradualPrune, HuffmanEncode, KMeansQuantize, Prune, Retrain

from .samples import digits, net, same_bits


def run(model: Any, *stages: Any, **rest: Any) -> Result:
    return Pipeline([(str(place), stage) for place, stage in enumerate(stages)]).run(model, quiet=True, **rest)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.sampled_from([1, 2, 5, 8, 16, {"conv": 2, "fc": 7}]),
    st.sampled_from(["linear", "density", "random", "kmeans++"]),
    st.sampled_from([None, 0.5, 0.97, 1.0]),
    st.sampled_from([None, "float16"]),
    st.booleans(),
)
def test_the_file_holds_what_the_model_holds(
    dtype: torch.dtype, bits: Any, init: str, share: float | None, leftovers: str | None, encode: bool
) -> None:
    stages: list[Any] = [] if share is None else [Prune("unstructured", sparsity=share)]
    stages += [KMeansQuantize(bits, init)] + ([HuffmanEncode(leftovers=leftovers)] if encode else [])
    result = run(net(dtype=dtype), *stages)
    assert same_bits(result.model, result.compressed.state_dict())
    assert result.compressed.ties == {"again.weight": "inner.weight"}
    weight = result.model.conv.weight.detach()
    width = bits if isinstance(bits, int) else 2
    assert len(weight[weight != 0].unique()) <= 2**width
    assert not bool(torch.signbit(weight[weight == 0]).any())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("rest", [False, True])
def test_finetuned_values_are_the_files_too(dtype: torch.dtype, rest: bool) -> None:
    train = [(images.to(dtype), labels) for images, labels in digits()]
    stages = [Prune("percentile", q=0.5), KMeansQuantize(3), Finetune(1, 0.05, "SGD", rest=rest), HuffmanEncode()]
    result = run(net(dtype=dtype), *stages, train=train)
    assert same_bits(result.model, result.compressed.state_dict())
    assert (result.model.fc.weight == 0).sum() >= 720


def test_a_centroid_that_becomes_zero_makes_positive_zeros() -> None:
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1e-3, 1.0, 1.0, 2.0]]))

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        weight: torch.Tensor = model.weight
        return (weight[0, 0] + 1e-9) ** 2 / 2

    result = run(model, KMeansQuantize(2, codebook="float16"), Finetune(1, 1.0, "SGD"), HuffmanEncode(), train=[0], loss=loss)
    assert result.model.weight[0, 0] == 0
    assert same_bits(result.model, result.compressed.state_dict())


def test_tied_weights_are_shared_once() -> None:
    result = run(net(), Prune("percentile", q=0.5), KMeansQuantize(2), HuffmanEncode())
    rows = {row.name: row for row in result.report.layers}
    assert rows["again.weight"].representation == "tie"
    assert rows["inner.weight"].quantized
    assert result.report.pool(quantized=True).weights == 36 + 1440 + 100


def test_bits_by_layer() -> None:
    result = run(net(), KMeansQuantize({"fc.weight": 1, "fc": 5, "again": 3, "co*": 2}))
    widths = {row.name: row.k for row in result.report.layers if row.quantized}
    assert widths == {"conv.weight": 4, "fc.weight": 2, "inner.weight": 8}
    with pytest.raises(
        ParameterError, match=r"The 'bits' parameter .* keyed by patterns that match weights, .*'conv.weight'.*'norm'"
    ):
        run(net(), KMeansQuantize({"norm": 3}))
    with pytest.raises(ParameterError, match=r"The 'codebook' .* serves 'conv.weight' of float32. Got 'bfloat16' instead"):
        run(net(), KMeansQuantize(3, codebook="bfloat16"))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_only_what_is_quantized_must_be_finite(bad: float) -> None:
    model = net()
    with torch.no_grad():
        model.fc.weight[0, :3] = bad
        model.conv.bias[0] = bad
    with pytest.raises(ModelError, match=r"^fc.weight: 3 of 1440 weights are NaN or infinite; a codebook needs finite ones$"):
        run(model, KMeansQuantize(3))
    result = run(model, KMeansQuantize(3, exclude=["fc"]), HuffmanEncode(leftovers="float16"))
    assert same_bits(result.model, result.compressed.state_dict())
    assert result.model.fc.weight.detach().view(torch.int32).equal(model.fc.weight.detach().view(torch.int32))


def test_leftovers_that_float16_cannot_hold_keep_their_dtype() -> None:
    model = net()
    with torch.no_grad():
        model.conv.bias[0] = 70_000
    result = run(model, KMeansQuantize(3), HuffmanEncode(leftovers="float16"))
    stored = {record.name: record.stored for record in result.compressed.records}
    assert (stored["conv.bias"], stored["fc.bias"], stored["norm.num_batches_tracked"]) == ("float32", "float16", "int8")
    assert result.model.fc.bias.detach().equal(model.fc.bias.detach().half().float())
    assert result.model.conv.bias.detach().equal(model.conv.bias.detach())
    assert any("without a codebook are stored as float16" in note for note in result.report.notes)


def test_extra_state_that_is_a_tensor_made_anew() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> torch.Tensor:
            return torch.tensor([1 / 3])

        def set_extra_state(self, state: torch.Tensor) -> None:
            pass

    result = run(Extra(3, 3), HuffmanEncode(leftovers="float16"))
    assert same_bits(result.model, result.compressed.state_dict())


def test_a_buffer_that_is_the_weight() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(20, 20)
            self.register_buffer("view", self.fc.weight.detach())

    result = run(Shared(), Prune("percentile", q=0.5), KMeansQuantize(2), HuffmanEncode(leftovers="float16"))
    assert same_bits(result.model, result.compressed.state_dict())
    assert [row.representation for row in result.report.layers if row.quantized] in (["dense"], ["gaps"])


@pytest.mark.parametrize("name", ["a[0]", "star*", "mark?", "straße 🙂", "x y"])
def test_odd_names(name: str) -> None:
    model = nn.ModuleDict({name: nn.Linear(8, 3), "plain": nn.Linear(8, 3)})

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        value: torch.Tensor = model[name](batch).square().mean()
        return value

    stages = [Prune("percentile", q=0.5), KMeansQuantize({f"{name}.weight": 2}), Finetune(1), HuffmanEncode()]
    result = run(model, *stages, train=[torch.ones(4, 8)], loss=loss)
    assert [row.name for row in result.report.layers if row.quantized] == [f"{name}.weight"]
    assert same_bits(result.model, result.compressed.state_dict())


@pytest.mark.parametrize("stages", [[Prune("percentile", q=1.0)], []])
def test_a_layer_of_nothing_but_zeros(stages: list[Any]) -> None:
    model = nn.Linear(6, 4, bias=False)
    if not stages:
        nn.init.zeros_(model.weight)
    train = [(torch.ones(4, 6), torch.arange(4))]
    result = run(model, *stages, Retrain(1 if stages else 0), KMeansQuantize(4), Finetune(1), HuffmanEncode(), train=train)
    assert same_bits(result.model, result.compressed.state_dict())
    assert not bool(result.model.weight.any())
    (row,) = result.report.layers
    assert (row.nonzeros, row.k, row.bit_width, row.sparsity) == (0, 0, 0, 1.0)
    assert result.report.lab_ratio is None
    assert result.report.to_json()


def test_the_ratios_of_a_toy_by_hand() -> None:
    """16 weights: 8 pruned, of the others 4, 2, 1 and 1 share a value. Huffman codes of 1, 2, 3 and 3 bits."""
    values = [0.01] * 8 + [1.0] * 4 + [2.0] * 2 + [3.0, 4.0]
    tensors = {"fc.weight": torch.tensor(values).reshape(4, 4), "fc.bias": torch.zeros(4)}
    result = run(tensors, Prune("percentile", q=0.5), KMeansQuantize(2), HuffmanEncode())
    row = result.report.layers[0]
    assert (row.weights, row.nonzeros, row.k, row.bit_width, row.sparsity) == (16, 8, 4, 2, 0.5)
    assert row.mean_code_length == (4 * 1 + 2 * 2 + 3 + 3) / 8 == row.entropy
    assert row.rmse == 0
    assert result.report.lab_ratio == 32 * 16 / 14
    assert result.report.dense_bytes == 4 * 20
    assert result.report.file_ratio == 80 / len(result.compressed.to_bytes())
    assert result.report.bits.total == 8 * result.report.file_bytes
    assert [stage.sparsity for stage in result.report.stages] == [0.0, 0.5, 0.5, 0.5]


def test_gradual_filters_meet_the_schedules_total() -> None:
    stage = GradualPrune(3, method="filter_l1", sparsity=0.6, include=["conv", "inner"], end=2.0, every=0.25)
    result = run(net(), stage, train=digits())
    gone = [int((w.flatten(1) == 0).all(1).sum()) for w in (result.model.conv.weight, result.model.inner.weight)]
    assert gone == [round(0.6 * 4), round(0.6 * 10)]


def test_filters_by_milestones_have_exactly_the_shares() -> None:
    """10 % more every 10 epochs from epoch 10 to 50, on an epoch of one small batch; the last linear layer is left alone."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 10, 3), nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 20, 3), nn.Flatten(), nn.Linear(320, 10)]
    model = nn.Sequential(*layers)
    gone: list[list[int]] = []

    def look(model: Any) -> float:
        gone.append([int((model[place].weight.flatten(1) == 0).all(1).sum()) for place in (0, 3, 5)])
        return 0.0

    steps = [(10 * step, step / 10) for step in range(1, 6)]
    stage = GradualPrune(55, 1e-2, method="filter_l1", milestones=steps, exclude=["5"])
    result = run(model, stage, train=digits(8, 8), validate=look)
    shares = [min(epoch // 10, 5) for epoch in range(1, 56)]  # in tenths, after each epoch
    assert gone == [[share, 2 * share, 0] for share in shares]
    assert not bool((result.model[5].weight == 0).any())
    assert [record.sparsity for record in result.histories["0"].epochs] == [pytest.approx(share / 10) for share in shares]


@pytest.mark.parametrize("reversible", [False, True])
def test_what_was_pruned_earlier_stays_pruned_and_the_share_is_met(reversible: bool) -> None:
    earlier = run(net(), Prune("std", s=0.5)).model
    stages = [
        Prune("std", s=0.5),
        Retrain(1),
        GradualPrune(2, 1e-2, sparsity=0.8, reversible=reversible),
        Retrain(1, optimizer="AdamW"),
    ]
    model = run(net(), *stages, train=digits()).model
    weights = {name: p for name, p in model.named_parameters() if name in ("conv.weight", "fc.weight", "inner.weight")}
    assert all(bool((weight[earlier.get_parameter(name) == 0] == 0).all()) for name, weight in weights.items())
    assert sum(int((weight == 0).sum()) for weight in weights.values()) == round(0.8 * 1576)
