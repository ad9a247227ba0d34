"""RateQuantize in a pipeline: bits that were asked for, better outputs by inputs, any module, any type, bare state dicts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepcompress as dc
from deepcompress.errors import ModelError, ParameterError, PipelineError


def network() -> nn.Module:
    torch.manual_seed(0)
    convolutions = (nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, groups=2), nn.ReLU())
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32 * 36, 10)).eval()


def inputs(batches: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(16, 3, 8, 8, generator=generator) for _ in range(batches)]


def run(model: Any, train: Any = None, **options: Any) -> Any:
    stages = [("quantize", dc.RateQuantize(**options)), ("encode", dc.ContextEncode())]
    return dc.Pipeline(stages).run(model, train=train, quiet=True)


def distance(model: nn.Module, other: nn.Module) -> float:
    with torch.no_grad():
        return sum(float((model(batch) - other(batch)).square().mean()) for batch in inputs())


@pytest.mark.parametrize("bits", [1.5, 3.0])
def test_files_take_about_the_bits_that_were_asked_for(bits: float) -> None:
    result = run(network(), inputs(), bits=bits)
    codewords = sum(count.codewords for count in result.compressed.bits.tensors)
    weights = sum(result.model[place].weight.numel() for place in (0, 3, 6))
    assert codewords / weights == pytest.approx(bits, rel=0.2)


def test_inputs_make_it_better() -> None:
    model = network()
    without, with_inputs = run(model, bits=2.0), run(model, inputs(), bits=2.0)
    assert distance(model, with_inputs.model) < 0.5 * distance(model, without.model)
    assert "saw no inputs" in str(without.report)
    assert "saw at most 32 batches of inputs, and no labels" in str(with_inputs.report)


def test_labels_do_not_matter_and_runs_repeat() -> None:
    labelled = [(batch, torch.zeros(len(batch))) for batch in inputs()]
    files = [run(network(), train, bits=2.0).compressed.to_bytes() for train in (inputs(), inputs(), labelled)]
    assert files[0] == files[1] == files[2]


def test_zero_batches_are_none() -> None:
    model = network()
    one, other = run(model, inputs(), bits=2.0, batches=0), run(model, bits=2.0)
    assert all(torch.equal(value, other.model.state_dict()[name]) for name, value in one.model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_type_comes_back(dtype: torch.dtype) -> None:
    state = {name: value.to(dtype) for name, value in network().state_dict().items() if value.is_floating_point()}
    result = run(state, bits=2.5)
    loaded = result.compressed.state_dict()
    for name, value in result.model.items():
        assert torch.equal(loaded[name], value)


def test_pruned_weights_stay_zero_and_scales_can_be_tuned() -> None:
    model = network()
    stages = [
        ("prune", dc.Prune("unstructured", sparsity=0.5)),
        ("quantize", dc.RateQuantize(bits=1.5)),
        ("tune", dc.Finetune(epochs=2, lr=1e-3, rest=True, frozen_statistics=True)),
        ("encode", dc.ContextEncode()),
    ]
    train = [(batch, model(batch).argmax(1)) for batch in inputs()]
    result = dc.Pipeline(stages).run(model, train=train, quiet=True)
    weight = result.model[6].weight
    assert float((weight == 0).float().mean()) >= 0.5
    assert len(weight.unique()) < 64


def test_tied_weights_and_embeddings() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 16)
            self.out = nn.Linear(16, 50, bias=False)
            self.out.weight = self.table.weight

        def forward(self, words: Tensor) -> Tensor:
            found: Tensor = self.out(self.table(words))
            return found

    torch.manual_seed(0)
    words = [torch.randint(0, 50, (8, 6)) for _ in range(4)]
    result = run(Tied(), words, bits=3.0)
    assert result.model.out.weight is result.model.table.weight


def test_outputs_that_depend_on_no_weight() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle, self.used = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, batch: Tensor) -> Tensor:
            found: Tensor = self.used(batch)
            return found

    model = Half()
    result = run(model, [torch.randn(5, 3)], bits=2.0)
    assert "not at all, such as idle.weight" in str(result.report)
    with pytest.raises(PipelineError, match="depend on none of the chosen weights"):
        run(model, [torch.randn(5, 3)], bits=2.0, include=["idle"])


def test_broken_weights_are_named() -> None:
    model = network()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"0\.weight: 1 of 432 weights are NaN or infinite"):
        run(model)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("bits", 0, "a number of bits above 0, at most 16"),
        ("bits", 17, "a number of bits above 0, at most 16"),
        ("levels", 0, "an int from 1 to 32767"),
        ("batches", -1, "an int of at least 0"),
        ("probes", 0, "an int of at least 1"),
        ("seed", 0.5, "an int of at least 0"),
    ],
)
def test_values_out_of_range(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ParameterError, match=f"The '{name}' parameter of RateQuantize must be {expected}.*Got"):
        dc.RateQuantize(**{name: value})
