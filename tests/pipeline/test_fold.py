"""FoldNorm: in eval mode the same function, statistics that are constants, and a file that says what it is for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import deepcompress as dc
from deepcompress.cli.main import main
from deepcompress.errors import ParameterError, PipelineError
from deepcompress.models import resnet20
from deepcompress.pipeline.stages import (
    AffineQuantize,
    ContextEncode,
    Finetune,
    FoldNorm,
    HuffmanEncode,
    KMeansQuantize,
    Prune,
    RateRetrain,
    Retrain,
)
from tests.pipeline.samples import digits, net, same_bits

SAYS = "for inference: batch norm statistics are folded"
KINDS = {
    "1d": (nn.BatchNorm1d, (3, 5)),
    "1d of sequences": (nn.BatchNorm1d, (3, 5, 4)),
    "2d": (nn.BatchNorm2d, (3, 5, 4, 2)),
    "3d": (nn.BatchNorm3d, (3, 5, 2, 2, 2)),
    "synchronized": (nn.SyncBatchNorm, (3, 5, 4)),
    "instance": (lambda *args, **more: nn.InstanceNorm2d(*args, affine=True, track_running_stats=True, **more), (3, 5, 4, 2)),
}


def used(module: nn.Module, seed: int = 0) -> nn.Module:
    """With statistics and factors as training leaves them."""
    chance = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if getattr(part, "running_var", None) is not None:
            part.running_mean.normal_(generator=chance)
            part.running_var.exponential_(generator=chance)
            part.num_batches_tracked.fill_(seed + 7)
            if part.weight is not None:
                nn.init.normal_(part.weight, 0.8, 0.5, generator=chance)
                nn.init.normal_(part.bias, generator=chance)
    return module.eval()


def run(model: Any, *stages: Any, **more: Any) -> dc.Result:
    named = [(f"{place}", stage) for place, stage in enumerate(stages)]
    return dc.Pipeline(named).run(model, quiet=True, **more)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 99), st.sampled_from([1e-5, 1e-3, 0.5]), st.booleans())
def test_the_same_function(kind: str, seed: int, eps: float, double: bool) -> None:
    make, shape = KINDS[kind]
    norm = used(make(5, eps=eps), seed).to(torch.float64 if double else torch.float32)  # type: ignore[operator]
    batch = torch.randn(*shape, dtype=torch.float64 if double else torch.float32)
    model = nn.Sequential(norm)
    folded = run(model, FoldNorm(bits=None), HuffmanEncode()).model
    expected = model(batch)
    assert float((folded(batch) - expected).detach().abs().max()) <= 1e-5 * float(expected.detach().abs().max())
    assert not folded[0].running_mean.any()
    assert (folded[0].running_var == 1).all()
    assert int(folded[0].num_batches_tracked) == 0
    assert type(folded[0]) is type(norm)
    assert norm.running_mean.any()  # type: ignore[operator, union-attr]  # the model that was given stays


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 4, 8, 12])
def test_rounded_to_levels(dtype: torch.dtype, bits: int) -> None:
    model = used(nn.Sequential(nn.BatchNorm1d(60), nn.BatchNorm1d(3))).to(dtype)
    exact = run(model, FoldNorm(bits=None), HuffmanEncode()).model
    result = run(model, FoldNorm(bits=bits), ContextEncode())
    for name, rounded in result.model.named_parameters():
        values, rounded = exact.get_parameter(name).detach().double(), rounded.detach()
        assert len(rounded.unique()) <= 2**bits
        reach = float(values.abs().max())
        finest = {torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}.get(dtype, 2.0**-20)
        assert float((rounded.double() - values).abs().max()) <= reach * (2.1 / 2**bits + finest)
    assert same_bits(result.model, dc.load(result.compressed.to_bytes()).load_into(copy.deepcopy(model)))


def test_a_network_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = used(resnet20())
    images = torch.randn(4, 3, 32, 32)
    before = model(images)
    result = run(model, FoldNorm(), HuffmanEncode())
    assert float((result.model.eval()(images) - before).detach().abs().max()) < 0.2 * float(before.detach().abs().max())
    (row,) = [row for row in result.report.stages if row.kind == "FoldNorm"]
    assert row.notes == (f"{SAYS} into scale and shift",)
    assert SAYS in result.report.notes
    result.compressed.save(tmp_path / "model.dcz")
    loaded = dc.open(tmp_path / "model.dcz")
    loaded.verify()
    assert loaded.inference
    assert SAYS in repr(loaded)
    assert same_bits(loaded.load_into(resnet20()), result.model)
    assert main(["inspect", str(tmp_path / "model.dcz")]) == 0
    assert SAYS in capsys.readouterr().out
    plain = run(model, HuffmanEncode()).compressed
    assert not plain.inference
    assert SAYS not in repr(plain)


class Odd(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.running_mean


def test_what_cannot_be_folded_stays() -> None:
    torch.manual_seed(0)
    tied = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    tied[1].weight = tied[0].weight
    halved = nn.BatchNorm1d(4)
    model = used(nn.Sequential(nn.BatchNorm1d(4, affine=False), *tied, Odd(4), halved, nn.BatchNorm1d(4)))
    halved.running_var[0] = float("nan")
    before = copy.deepcopy(model.state_dict())
    result = run(model, FoldNorm(), HuffmanEncode())
    assert result.report.stages[1].notes == (f"{SAYS} into scale and shift; 5 of 6 norms keep theirs",)
    after = result.model.state_dict()
    same = [name for name, tensor in before.items() if torch.equal(tensor.nan_to_num(), after[name].nan_to_num())]
    assert same == [name for name in before if not name.startswith("5.")]


def test_one_norm_in_two_places_is_one() -> None:
    norm = nn.BatchNorm1d(4)
    model = used(nn.Sequential(norm, nn.ReLU(), norm))
    batch = torch.randn(3, 4)
    folded = run(model, FoldNorm(bits=None), HuffmanEncode()).model
    torch.testing.assert_close(folded(batch), model(batch))
    assert folded[0] is folded[2]


def test_statistics_that_are_not_kept() -> None:
    result = run(nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 4)), FoldNorm(), HuffmanEncode())
    assert result.report.stages[1].notes == ("there are no norms with running statistics",)
    assert not result.compressed.inference


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        ({"include": ["bn1"]}, 18),
        ({"include": ["layer1"]}, 13),
        ({"include": ["*.bn2"], "exclude": ["layer3.*"]}, 13),
        ({"exclude": ["bn1.weight"]}, 1),
    ],
)
def test_which_norms(choice: dict[str, Any], left: int) -> None:
    folded = run(used(resnet20()), FoldNorm(**choice), HuffmanEncode()).model
    assert sum(bool(part.running_mean.any()) for part in folded.modules() if isinstance(part, nn.BatchNorm2d)) == left


def test_patterns_that_match_nothing() -> None:
    with pytest.raises(ParameterError, match=r"The 'exclude' parameter of FoldNorm must be patterns that match norms with"):
        run(net(), FoldNorm(exclude=["conv"]), HuffmanEncode())
    with pytest.raises(PipelineError, match="FoldNorm needs a model that can run"):
        run({"w": torch.ones(2)}, FoldNorm(), HuffmanEncode())


def test_order() -> None:
    trained = run(net(), RateRetrain(1, 1e-3), FoldNorm(), ContextEncode(), train=digits())
    assert trained.compressed.inference
    pruned = run(used(net()), Prune("percentile", q=0.5, include=["norm.weight", "fc"]), FoldNorm(), HuffmanEncode())
    assert int((pruned.model.norm.weight == 0).sum()) == 2
    exact = run(used(net()), FoldNorm(bits=None), AffineQuantize(8, include=["norm.weight"]), HuffmanEncode())
    assert len(exact.model.norm.weight.unique()) == 4
    for stage in (Retrain(), RateRetrain(), Finetune()):
        with pytest.raises(PipelineError, match=r"cannot follow '0': (training would start|retraining would)"):
            dc.Pipeline([("0", FoldNorm()), ("1", stage)])
    frozen = run(net(), FoldNorm(), Finetune(1, 1e-4, frozen_statistics=True), HuffmanEncode(), train=digits())
    assert frozen.compressed.inference
    assert not frozen.model.norm.running_mean.any()
    with pytest.raises(PipelineError, match=r"FoldNorm: norm\.weight already have a codebook from an earlier stage"):
        run(net(), KMeansQuantize(2, include=["norm.weight"]), FoldNorm(), HuffmanEncode())
    with pytest.raises(PipelineError, match=r"KMeansQuantize: norm\.weight already have a codebook"):
        run(net(), FoldNorm(), KMeansQuantize(2, include=["norm.weight"]), HuffmanEncode())


def test_a_run_that_goes_on_knows_it(tmp_path: Path) -> None:
    stages = FoldNorm(), KMeansQuantize(3), HuffmanEncode()
    first = run(used(net()), *stages, workdir=tmp_path)
    again = run(used(net()), *stages, workdir=tmp_path)
    assert again.compressed.inference
    assert first.compressed.to_bytes() == again.compressed.to_bytes()
