"""What `run` leaves untouched, what it hands back, and how it fails."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from deepcompress.errors import ModelError, ParameterError, PipelineError, TrainingError
from deepcompress.pipeline.pipeline import Pipeline, Result
from deepcompress.pipeline.stages import Finetune, GradualPrune, HuffmanEncode, KMeansQuantize, Prune, Retrain
from deepcompress.tensors.model import load

from .samples import accuracy, digits, net, same_bits, state_of

WHOLE = Pipeline(
    [
        ("prune", Prune("percentile", q=0.5)),
        ("retrain", Retrain(epochs=1)),
        ("more", Pipeline([("prune", GradualPrune(epochs=2, sparsity=0.8)), ("retrain", Retrain(epochs=1))])),
        ("quantize", KMeansQuantize(bits=3)),
        ("finetune", Finetune(epochs=1, lr=1e-4)),
        ("encode", HuffmanEncode(leftovers="float16")),
    ]
)
PLAIN = Pipeline([("prune", Prune("percentile", q=0.5)), ("quantize", KMeansQuantize(bits=3)), ("encode", HuffmanEncode())])


def run(pipeline: Pipeline, model: Any, **rest: Any) -> Result:
    return pipeline.run(model, quiet=True, **rest)


def test_the_whole_way_leaves_the_given_model_untouched() -> None:
    model = net().eval()
    model.fc.train()
    before, modes = state_of(model), [module.training for module in model.modules()]
    result = run(WHOLE, model, train=digits(), evaluate=accuracy)
    assert same_bits(model, before)
    assert [module.training for module in model.modules()] == modes
    assert result.model is not model
    assert [module.training for module in result.model.modules()] == modes
    assert same_bits(result.model, result.compressed.state_dict())
    assert result.model.again.weight is result.model.inner.weight
    fresh = net(1)
    load(result.compressed.to_bytes()).load_into(fresh)
    assert same_bits(fresh, result.model)
    names = ["input", "prune", "retrain", "more/prune", "more/retrain", "quantize", "finetune", "encode"]
    assert [row.name for row in result.report.stages] == names
    assert all(row.accuracy is not None for row in result.report.stages)
    assert result.report.stages[-1].sparsity >= 0.8
    assert {name: len(history.epochs) for name, history in result.histories.items()} == {
        "retrain": 1, "more/prune": 2, "more/retrain": 1, "finetune": 1,
    }  # fmt: skip
    assert "are stored as float16" in " ".join(result.report.notes)
    assert result.report.from_json(result.report.to_json()).to_dict() == result.report.to_dict()
    assert "<html" in result.report.to_html()


def test_a_run_reproduces_and_evaluate_decides_nothing() -> None:
    loader = DataLoader(
        [(x, y) for images, labels in digits(64, 128) for x, y in zip(images, labels, strict=True)], 32, shuffle=True
    )

    def noisy(model: nn.Module) -> float:
        assert not model.training
        torch.rand(3)
        model(digits()[0][0])
        return next(scores)

    scores = iter([0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.4, 0.6])
    pipeline = Pipeline([(name, stage) for name, stage in WHOLE.stages])
    torch.manual_seed(1)
    first = run(pipeline, net(), train=loader, evaluate=noisy)
    torch.manual_seed(1)
    second = run(pipeline, net(), train=loader)
    assert first.compressed.to_bytes() == second.compressed.to_bytes()
    assert all(row.accuracy is None for row in second.report.stages)


def test_unseeded_training_does_not_feel_evaluate() -> None:
    loader = DataLoader(
        [(x, y) for images, labels in digits(64, 128) for x, y in zip(images, labels, strict=True)], 32, shuffle=True
    )
    pipeline = Pipeline([("retrain", Retrain(epochs=1, seed=None))])
    ends = []
    for evaluate in (None, lambda model: float(torch.rand(()))):
        torch.manual_seed(5)
        ends.append(run(pipeline, net(), train=loader, evaluate=evaluate).compressed.to_bytes())
    assert ends[0] == ends[1]


def test_inplace_changes_the_given_model() -> None:
    model = net()
    result = run(PLAIN, model, inplace=True)
    assert result.model is model
    assert same_bits(model, result.compressed.state_dict())
    tensors = net().state_dict()
    result = run(PLAIN, tensors, inplace=True)
    assert same_bits(tensors, result.compressed.state_dict())


def nan_loss(model: nn.Module, batch: Any) -> Tensor:
    loss: Tensor = model(batch[0]).sum() * math.nan
    return loss


def interrupt(*_: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("stages", "given", "error"),
    [
        ([Retrain(epochs=1)], {"loss": nan_loss}, TrainingError),
        ([GradualPrune(epochs=2)], {"loss": nan_loss}, TrainingError),
        ([GradualPrune(epochs=2, reversible=True, initial=0.3)], {"validate": interrupt}, KeyboardInterrupt),
        ([KMeansQuantize(bits=2), Finetune(epochs=1)], {"loss": nan_loss}, TrainingError),
        ([KMeansQuantize(bits=2), KMeansQuantize(bits=3, include=["fc"])], {}, PipelineError),
        ([Retrain(epochs=1)], {"train": []}, PipelineError),
        ([Prune("percentile", q=0.9, include=["nothing"])], {}, ParameterError),
        ([KMeansQuantize(bits={"fc": 3, "nothing": 2})], {}, ParameterError),
    ],
)
def test_a_failing_stage_leaves_the_model_as_it_was_at_its_start(
    stages: list[Any], given: dict[str, Any], error: type[BaseException]
) -> None:
    model, seen = net(), []

    def evaluate(model: nn.Module) -> float:
        seen.append(state_of(model))
        return 0.0

    pipeline = Pipeline([("first", Prune("percentile", q=0.25)), *((str(place), stage) for place, stage in enumerate(stages))])
    with pytest.raises(error):
        run(pipeline, model, inplace=True, evaluate=evaluate, **({"train": digits()} | given))
    assert len(seen) == len(stages) + 1
    assert same_bits(model, seen[-1])
    assert not model._forward_pre_hooks


def test_an_interruption_in_the_middle_of_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepcompress.pipeline.stages import quantize

    calls, share = [], quantize.share_nonzeros

    def second_time(*args: Any) -> Any:
        calls.append(1)
        return share(*args) if len(calls) < 2 else interrupt()

    monkeypatch.setattr(quantize, "share_nonzeros", second_time)
    model = net()
    with pytest.raises(KeyboardInterrupt):
        run(Pipeline([("quantize", KMeansQuantize(bits=2))]), model, inplace=True)
    assert same_bits(model, net())


@pytest.mark.parametrize("kind", [dict, OrderedDict, lambda tensors: tensors])
def test_a_bare_state_dict(kind: Callable[[Any], Any]) -> None:
    tensors = kind(net().state_dict())
    result = run(PLAIN, tensors)
    assert same_bits(tensors, net())
    assert isinstance(result.model, dict)
    assert same_bits(result.model, result.compressed.state_dict())
    assert same_bits(result.model, run(PLAIN, net()).model)
    again = run(Pipeline([("encode", HuffmanEncode())]), result.compressed)
    assert same_bits(again.compressed.state_dict(), result.model)
    assert again.compressed.ties == result.compressed.ties == {"again.weight": "inner.weight"}


@pytest.mark.parametrize(
    ("stages", "given", "text"),
    [
        ([Retrain()], {}, "stage '0' needs a model that can run; the pipeline was given a bare state dict"),
        ([KMeansQuantize(), Finetune()], {}, "stage '1' needs a model that can run"),
        ([GradualPrune()], {}, "stage '0' needs a model that can run"),
        ([KMeansQuantize()], {"evaluate": accuracy}, "evaluate needs a model that can run"),
    ],
)
def test_a_bare_state_dict_cannot_run(stages: list[Any], given: dict[str, Any], text: str) -> None:
    tensors = net().state_dict()
    with pytest.raises(PipelineError, match=text):
        run(Pipeline([(str(place), stage) for place, stage in enumerate(stages)]), tensors, inplace=True, train=digits(), **given)
    assert same_bits(tensors, net())


def test_what_is_missing_is_said_before_anything_runs() -> None:
    model = net()
    late = Pipeline([("prune", Prune("percentile", q=0.5)), ("best", Retrain(restore_best=True))])
    with pytest.raises(
        PipelineError, match=r"stage 'best' trains, and there is nothing to train on: give run\(..., train=loader\)"
    ):
        run(late, model, inplace=True)
    with pytest.raises(PipelineError, match=r"stage 'best' restores its best epoch by a measure: give run\(..., validate=...\)"):
        run(late, model, inplace=True, train=digits(), evaluate=accuracy)
    with pytest.raises(ParameterError, match=r"The 'metadata' parameter of Pipeline.run must be a mapping of strings to strings"):
        run(PLAIN, model, inplace=True, metadata={"a": 1})
    assert same_bits(model, net())


def test_restore_best_goes_by_validate_alone() -> None:
    scores = iter([0.9, 0.1])
    result = run(
        Pipeline([("train", Retrain(epochs=2, restore_best=True))]),
        net(),
        train=digits(),
        validate=lambda model: next(scores),
        evaluate=lambda model: 0.0,
    )
    assert result.report.stages[-1].notes[0].endswith("; epoch 1 kept")


def test_dict_batches_and_recipe_and_metadata() -> None:
    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch["image"]), batch["label"])

    pipeline = Pipeline([("train", Retrain(epochs=1)), ("encode", HuffmanEncode())])
    train = [{"image": images, "label": labels} for images, labels in digits()]
    result = run(pipeline, net(), train=train, loss=loss, metadata={"by": "me"}, store_recipe=True)
    assert result.compressed.metadata == {"by": "me"}
    assert Pipeline.from_config(result.compressed.recipe or {}) == pipeline


class Extra(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"not": "a tensor"}

    def set_extra_state(self, state: Any) -> None:
        pass


class Uncopyable(nn.Linear):
    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("only leaves can be copied")


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (nn.Sequential(), ModelError, "^the model is empty: there is nothing to store$"),
        ({}, ModelError, "^the state dict is empty: there is nothing to store$"),
        (Extra(2, 2), ModelError, "^not a tensor, so it cannot be stored: '_extra_state'$"),
        ({"a": torch.ones(2), "step": 3}, ModelError, "cannot be stored: 'step'$"),
        ({1: torch.ones(2)}, ModelError, "^1 is the name of a tensor, but no string$"),
        ({"a": torch.ones(2, 2).to_sparse()}, ModelError, "^'a' is no dense tensor, so it cannot be stored$"),
        ({"a": torch.ones(2, 2, device="meta")}, ModelError, "^'a' is a meta tensor, so it cannot be stored$"),
        (
            Uncopyable(2, 2),
            ModelError,
            r"^the model cannot be copied \(only leaves.*\); give a copy yourself and say inplace=True$",
        ),
        ("model.pt", ParameterError, "The 'model' parameter of Pipeline.run must be a torch.nn.Module or a state dict"),
    ],
)
def test_models_that_cannot_be_compressed(model: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        run(PLAIN, model)


def test_integers_alone_need_no_weights() -> None:
    tensors = {"ids": torch.arange(9), "flags": torch.tensor([True, False])}
    result = run(Pipeline([("encode", HuffmanEncode(leftovers="float16"))]), tensors)
    assert same_bits(result.compressed.state_dict(), tensors)
    assert result.report.lab_ratio is None


def test_every_dtype_passes_bit_for_bit() -> None:
    kinds = [torch.float8_e4m3fn, torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.int8, torch.bool]
    tensors = {str(kind): torch.tensor([[0, 1], [1, 0]]).to(kind) for kind in kinds}
    tensors["odd"] = torch.tensor([math.nan, -0.0, math.inf, 1e-42])
    tensors["none"] = torch.zeros(0, 3)
    tensors["one"] = torch.tensor(7)
    result = run(Pipeline([("encode", HuffmanEncode())]), copy.copy(tensors))
    assert same_bits(result.compressed.state_dict(), tensors)
    assert {row.name: row.nonzeros for row in result.report.layers if row.shape == (2, 2)} == {str(kind): 2 for kind in kinds}
