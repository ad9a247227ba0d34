"""One call from a model and what may be lost to its file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from deepcompress.auto.diary import Diary
from deepcompress.auto.goal import Goal
from deepcompress.auto.task import Asked, Task, explained
from deepcompress.auto.trained import Trained
from deepcompress.auto.untrained import Grids, Untrained
from deepcompress.errors import ParameterError
from deepcompress.layers.sharing import tied_names
from deepcompress.pipeline.assemble import model_tensors
from deepcompress.pipeline.pipeline import Result
from deepcompress.pipeline.stages.chosen import is_int
from deepcompress.pipeline.state import Loss, Measure, Model
from deepcompress.tensors.model import CompressedModel
from deepcompress.training.distill import distillation
from deepcompress.training.distributed import bare
from deepcompress.training.seeds import generators_kept

__all__ = ["compress"]

_EPOCHS = 40


def compress(
    model: nn.Module | Mapping[str, Tensor],
    *,
    train: Iterable[Any] | None = None,
    inputs: Iterable[Any] | None = None,
    validate: Measure | None = None,
    max_drop: float | None = None,
    target_ratio: float | None = None,
    quality: int | None = None,
    loss: Loss | None = None,
    epochs: int = _EPOCHS,
    settings: Mapping[str, Any] | None = None,
    evaluate: Measure | None = None,
    workdir: str | Path | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Result:
    """The smallest file within a limit, or the best of a size; the report's choice says what was tried, and why this is it.

    With `train`, weights are trained for the coder (`RateRetrain`), whose bits go where they are worth most, over all layers.
    What is searched is bits per weight: by short trials where there is a limit, then by long runs, at most three, each from the
    model as it came. With `inputs`, nothing is trained: bits per weight are searched for `RateQuantize`. With neither, layers get
    uniform grids, their bits by one price for all of them; searched is the quality.

    Args:
        model: any module; without `train` and measures, a state dict does. It stays as it is.
        train: batches, as for `Pipeline.run`.
        inputs: batches whose labels, if they have any, are not used, instead of `train`: some hundred real ones, or
            `[dc.imagine_inputs(model, shape)]`.
        validate: model -> float, more is better, on data that are not in `train`: what choices are made by.
        max_drop: what the score of `validate` may lose at most against the model as it came, in its own unit: 0.01 is a point of
            an accuracy. It is kept by all means: where nothing smaller keeps it, the file is lossless.
        target_ratio: dense bytes of the state dict / bytes of the file, at least. With `max_drop`, that limit comes first, and
            the report says where the ratio was not reached within it.
        quality: 1 to 100, instead of both and without training: half of it are the decibels by which the noise of rounding is
            below the weights, so that 12 more take about a bit more of each weight.
        loss: as for `Pipeline.run`; by default `distillation` from the model as it came, with 0.3 of cross entropy.
        epochs: of a long run; a trial takes a fifth of them, and there are at most four.
        settings: arguments of RateRetrain, such as lr, autocast or exclude. By default Adam, one cycle to a lr of 1e-3.
        evaluate: as for `Pipeline.run`, for the report alone; `validate` where it is not given.
        workdir: a folder from which a search that was stopped goes on, to the same bytes. Of `train`, `loss` and the measures it
            knows nothing: where they change, name another.
        seed: of training.
        quiet: no progress bars.

    Raises:
        ParameterError: an argument out of its range, a combination without sense, `settings` that RateRetrain does not have, a
            ratio that no file of this model has, or a `workdir` of another model.
        ModelError, PipelineError, StorageError, TrainingError: as `Pipeline.run`.
    """
    source = _given(model)
    seen = {"train": train, "inputs": inputs, "validate": validate, "loss": loss, "settings": settings}
    _check(source, {**seen, "max_drop": max_drop, "target_ratio": target_ratio, "quality": quality})
    if not is_int(epochs, 1):
        raise ParameterError.of("epochs", "compress", "an int of at least 1", epochs)
    Goal(1, max_drop, target_ratio)
    with generators_kept():
        taught = distillation(source) if train is not None and loss is None else loss
        batches = inputs if train is None else train
        task = Task(source, Diary(workdir, source, batches), batches, taught, validate, evaluate, quiet)
        if quality is not None:
            return _of_quality(task, quality)
        goal = Goal(_dense_bytes(source), max_drop, target_ratio, _dense_score(task))
        if train is None:
            return _untrained(task, goal)
        return _trained(task, goal, epochs, {"seed": seed, **(settings or {})})


def _check(model: Model, given: Mapping[str, Any]) -> None:
    """Raise ParameterError for arguments that say too little, or too much."""
    named = {name for name, value in given.items() if value is not None}
    goals = {"max_drop", "target_ratio", "quality"} & named
    if not goals:
        raise ParameterError("compress: give max_drop (with validate), target_ratio, or both; without training, quality does too")
    if "quality" in goals and (others := sorted(named - {"quality"})):
        raise ParameterError(f"compress: {' and '.join(others)} cannot stand beside quality, which says it all")
    if "max_drop" in goals and "validate" not in named:
        raise ParameterError("compress: max_drop limits what the score of a measure loses: give validate=..., model -> float")
    if {"train", "inputs"} <= named:
        raise ParameterError("compress: inputs are what is looked at where nothing is trained: give train or inputs, not both")
    if "train" not in named and (others := sorted({"loss", "settings"} & named)):
        raise ParameterError(f"compress: {' and '.join(others)} are of training: give train=... too")
    if not isinstance(model, nn.Module) and (others := sorted({"train", "inputs", "validate"} & named)):
        raise ParameterError(f"compress: {' and '.join(others)} need a model that can run, not a bare state dict")


def _given(model: object) -> Any:
    """The module inside of what may be around it, or the state dict."""
    if isinstance(model, nn.Module):
        return bare(model)
    if isinstance(model, CompressedModel):
        return model.state_dict()
    if isinstance(model, Mapping):
        return model
    raise ParameterError.of("model", "compress", "a torch.nn.Module or a state dict", model)


def _dense_bytes(model: Model) -> int:
    tensors = model_tensors(model)
    ties = tied_names(tensors)
    return sum(tensor.numel() * tensor.element_size() for name, tensor in tensors.items() if name not in ties)


def _dense_score(task: Task) -> float | None:
    score = task.diary.measured("as it came", lambda: {"score": task.score(task.model)})["score"]
    return None if score is None else float(score)


def _of_quality(task: Task, quality: int) -> Result:
    grids = Grids(task.model)
    return grids.explained(task.run(Asked("grids", quality, grids.plan(quality)), looks=True), quality)


def _untrained(task: Task, goal: Goal) -> Result:
    found = Untrained(task, goal)
    best = found.search()
    why = (*found.reasons(), goal.verdict(best))
    return explained(found.result(best), str(goal), found.scale.unit, goal.dense_score, found.runs, best.name, *why)


def _trained(task: Task, goal: Goal, epochs: int, settings: Mapping[str, Any]) -> Result:
    found = Trained(task, goal, epochs, settings)
    best = found.search()
    if best is not None:
        result, runs, why = found.result(best), found.runs, [*found.reasons(), goal.verdict(best)]
    else:
        last = Untrained(replace(task, loss=None), replace(goal, target_ratio=None))
        best = last.search()
        result, runs = last.result(best), [*found.runs, *(replace(row, asked=None) for row in last.runs)]
        why = [*found.reasons(), "Each training lost more than it may: rounding without training came last.", goal.verdict(best)]
    return explained(result, str(goal), "Bits per weight", goal.dense_score, runs, best.name, *why)
