"""Each layer goes through the pipeline: compressed, saved, loaded into a new one, and it answers alike in every bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import deepcompress as dc
from deepcompress.nn import (
    DepthwiseConv2d,
    DepthwiseSeparableConv2d,
    EncoderLayer,
    LoRALinear,
    MultiHeadAttention,
    SinusoidalPositions,
    Transformer,
    TransformerConfig,
    depthwise_separable_block,
)

PIPELINE = dc.Pipeline(
    [
        ("prune", dc.Prune("percentile", q=0.5)),
        ("quantize", dc.KMeansQuantize(bits=3)),
        ("encode", dc.HuffmanEncode(leftovers="float16")),
    ]
)


def lora() -> LoRALinear:
    layer = LoRALinear(nn.Linear(24, 16), 4, 8, dropout=0.1)
    nn.init.normal_(layer.lora_b)
    return layer


def merged() -> LoRALinear:
    layer = lora()
    layer.merge()
    return layer


class Shifted(nn.Module):
    """Positions alone have no weights, which no pipeline takes."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = SinusoidalPositions(16, 8)
        self.layer = EncoderLayer(16, 2, 32, norm_first=True)

    def forward(self, vectors: Tensor) -> Tensor:
        out: Tensor = self.layer(self.positions(vectors))
        return out


def vectors() -> tuple[Tensor, ...]:
    return (torch.randn(3, 5, 16),)


def images() -> tuple[Tensor, ...]:
    return (torch.randn(2, 6, 9, 9),)


MODULES: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "lora": (lora, lambda: (torch.randn(5, 24),)),
    "lora, merged": (merged, lambda: (torch.randn(5, 24),)),
    "depthwise": (lambda: DepthwiseConv2d(6, 3, depth_multiplier=2), images),
    "separable": (lambda: DepthwiseSeparableConv2d(6, 8, 3, 2, 1), images),
    "block": (lambda: depthwise_separable_block(6, 8), images),
    "attention": (lambda: MultiHeadAttention(16, 4), lambda: (*vectors(), *vectors())),
    "positions": (Shifted, vectors),
    "transformer": (
        lambda: Transformer(TransformerConfig(9, 9, 16, 2, 1, 24, max_length=6)),
        lambda: (torch.randint(0, 9, (3, 6)), torch.randint(0, 9, (3, 5))),
    ),
}


@pytest.fixture(params=list(MODULES))
def case(request: pytest.FixtureRequest) -> tuple[Callable[[], nn.Module], tuple[Tensor, ...]]:
    make, inputs = MODULES[request.param]
    return make, inputs()


def test_compressed_saved_and_loaded(case, tmp_path: Path) -> None:
    make, inputs = case
    model = make().eval()
    result = PIPELINE.run(model, quiet=True)
    result.compressed.save(tmp_path / "model.dcz")
    torch.manual_seed(1)
    fresh = dc.load(tmp_path / "model.dcz").load_into(make().eval())
    answers = result.model(*inputs)
    assert torch.equal(fresh(*inputs).view(torch.int32), answers.view(torch.int32))
    assert not torch.equal(answers, model(*inputs))
    assert result.report.file_bytes == (tmp_path / "model.dcz").stat().st_size
    assert any(row.quantized for row in result.report.layers)


def test_masks_are_held(case) -> None:
    make, inputs = case
    model = make()
    masks = {name: torch.rand_like(weight) < 0.5 for name, weight in model.named_parameters() if weight.ndim > 1}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad] or [nn.Parameter(torch.zeros(1))]
    optimizer = torch.optim.SGD(learning, 0.1, 0.9, weight_decay=0.1)
    with dc.hold_masks(model, masks, optimizer):
        for _ in range(3):
            out = model(*inputs)
            if out.requires_grad:
                out.square().mean().backward()
            optimizer.step()
    weights = dict(model.named_parameters())
    assert all(not weights[name].detach()[~mask].any() for name, mask in masks.items())
    assert any(weights[name].detach()[mask].any() for name, mask in masks.items())


def test_state_dicts_and_copies(case) -> None:
    make, inputs = case
    model, other = make().eval(), make().eval()
    answers = model(*inputs)
    assert not torch.equal(other(*inputs), answers)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(*inputs), answers)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(model(*inputs), answers)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype(case, dtype: torch.dtype) -> None:
    make, inputs = case
    inputs = tuple(each.to(dtype) if each.is_floating_point() else each for each in inputs)
    model = make().eval().to(dtype)
    out = model(*inputs)
    assert out.dtype == dtype
    assert out.isfinite().all()
    result = PIPELINE.run(model, quiet=True)
    assert torch.equal(result.compressed.load_into(copy.deepcopy(model))(*inputs), result.model(*inputs))


def test_retraining_and_finetuning() -> None:
    model = nn.Sequential(depthwise_separable_block(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), LoRALinear(nn.Linear(8, 4), 2))
    batches = [(torch.randn(16, 3, 6, 6), torch.randint(0, 4, (16,))) for _ in range(2)]
    stages = [
        ("prune", dc.Prune("percentile", q=0.3)), ("retrain", dc.Retrain(2)), ("quantize", dc.KMeansQuantize(3)),
        ("finetune", dc.Finetune(1)), ("encode", dc.HuffmanEncode()),
    ]  # fmt: skip
    result = dc.Pipeline(stages).run(model, train=batches, quiet=True)
    fresh = result.compressed.load_into(copy.deepcopy(model)).eval()
    assert torch.equal(fresh(batches[0][0]), result.model.eval()(batches[0][0]))
