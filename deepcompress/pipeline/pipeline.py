"""Stages chained: a model in, a compressed model and its report out."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from deepcompress.errors import ModelError, ParameterError, PipelineError
from deepcompress.layers.sharing import tied_names
from deepcompress.pipeline.assemble import Assembly, model_tensors, module_versions, sample
from deepcompress.pipeline.config import read_config
from deepcompress.pipeline.journal import Journal, environment, storage_notes
from deepcompress.pipeline.order import check_order
from deepcompress.pipeline.ranks import apply_stage
from deepcompress.pipeline.selection import floating_weights
from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.state import Context, Loss, Measure, Model, State
from deepcompress.pipeline.way import Way
from deepcompress.pipeline.workdir import Workdir, opened_workdir
from deepcompress.report.report import Report
from deepcompress.tensors.build import Extras
from deepcompress.tensors.model import CompressedModel
from deepcompress.training.checkpoint import is_count
from deepcompress.training.distributed import bare
from deepcompress.training.group import Group, current_group, tensors_of
from deepcompress.training.history import History
from deepcompress.training.settings import TrainSettings


@dataclass(frozen=True)
class Result:
    """What `Pipeline.run` hands back.

    Attributes:
        model: the outcome, holding the very values that the file holds; a module, or a state dict where one was given.
        compressed: the file, in memory: `.save(path)`, `.state_dict()`, `.load_into(module)`.
        report: where every bit of it went, and the accuracy on the way.
        histories: stage name -> what was measured while it trained; of the stages that train.
    """

    model: Model
    compressed: CompressedModel
    report: Report
    histories: Mapping[str, History] = field(default_factory=dict)


class Pipeline:
    """Named stages, run one after another.

    Args:
        stages: (name, stage) pairs; a stage may be a pipeline, whose stages take its place as "name/inner". Names are unique.

    Raises:
        PipelineError: an order that cannot work, such as quantizing before pruning.
    """

    def __init__(self, stages: Sequence[tuple[str, Stage | Pipeline]]) -> None:
        self.stages = tuple(stages)
        self._flat = list(_flatten(self.stages))
        if not self._flat:
            raise PipelineError("a pipeline needs at least one stage")
        names = [name for name, _ in self._flat]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise PipelineError(f"stage names must be unique; {', '.join(map(repr, twice))} stands more than once")
        check_order(self._flat)

    def run(
        self,
        model: nn.Module | Mapping[str, Tensor],
        *,
        train: Iterable[Any] | None = None,
        evaluate: Measure | None = None,
        validate: Measure | None = None,
        loss: Loss | None = None,
        inplace: bool = False,
        metadata: Mapping[str, str] | None = None,
        store_recipe: bool = False,
        workdir: str | Path | None = None,
        checkpoint_every: int = 1,
        quiet: bool = False,
    ) -> Result:
        """Run every stage and encode the outcome.

        Args:
            model: any module, or a bare state dict for pipelines that do not train. It stays as it is unless `inplace`. Of a
                compiled or data-parallel one the module inside is taken, and is what the result holds; names of a state
                dict that was saved from such a one lose the prefixes that it put before them.
            train: batches for the stages that train, iterated once per epoch: (inputs, targets), or whatever `loss` takes.
            evaluate: model -> float, more is better (an accuracy as a fraction); called in eval mode, without gradients, after
                each stage, for the report alone.
            validate: model -> float, more is better, for stages that choose by it (`restore_best`).
            loss: (model, batch) -> scalar tensor; cross entropy of `model(inputs)` where not given.
            inplace: change the given model instead of a copy.
            metadata: strings that the file keeps.
            store_recipe: keep the pipeline's configuration in the file.
            workdir: a folder in which to keep what is done, after each stage and while one trains, and to go on from: the same
                call ends with the same file, as often as it was killed on the way (on the CPU; see `Checkpoint` for what the
                batches may depend on). Stages that have changed since, and those after them, run again; of `train`, `loss` and
                the measures it knows nothing: where they change, name another folder.
            checkpoint_every: epochs between two checkpoints of a stage that trains.
            quiet: no progress bars.

        Within `process_group` all ranks train together and come to the same bytes; there one of them saves.

        Raises:
            ModelError: a model that cannot be compressed: empty, non-tensor state, NaN where values are to be shared.
            PipelineError: a stage lacks what it needs; said before anything runs.
            ParameterError: patterns that match nothing in this model, metadata that are no strings, or a `workdir` of a run with
                other weights.
            StorageError: another run works in `workdir`, or it cannot be written.
            TrainingError: training that cannot go on.

        Where a stage raises, also by the keyboard, the model that was given `inplace` is as it was when that stage began.
        """
        recipe = self.config() if store_recipe else None
        strings = _checked_metadata(metadata or {})
        if not is_count(checkpoint_every):
            raise ParameterError.of("checkpoint_every", "Pipeline.run", "a number of epochs above 0", checkpoint_every)
        group = current_group()
        group.agreed(lambda: self._check_inputs(model, train, evaluate, validate))
        state = State(group.agreed(lambda: _prepare(bare(model), inplace)))
        group.align(tensors_of(state.model))
        way = Way(state, Journal(group.measured_once(evaluate)))
        way.journal.note("input", "as given", state, 0.0)
        with opened_workdir(workdir, self._flat, train, group, checkpoint_every) as kept:
            self._go(way, kept, Context(train, validate, loss, quiet), group)
            return _result(way, Extras(strings, recipe, module_versions(state.model), way.state.inference))

    def _go(self, way: Way, kept: Workdir, context: Context, group: Group) -> None:
        """Run the stages that are not done yet."""
        done = kept.resume(way)
        with kept.measuring(done):
            way.journal.measure(way.state)
        for place, (name, stage) in enumerate(self._flat[done:], done):
            if not way.before and stage.phase != "train":  # the report sets weights against those that compression began with
                way.before = _samples(way.state)
            start = time.perf_counter()
            with kept.stage(place) as checkpoint:
                way.state = apply_stage(stage, replace(way.state, history=None), replace(context, checkpoint=checkpoint), group)
            seconds = time.perf_counter() - start
            if (history := way.state.history) is not None:
                way.histories[name] = history
                seconds = max(seconds, history.seconds)  # which an earlier run may have begun
            way.journal.note(name, type(stage).__name__, way.state, seconds)
            kept.keep(place + 1, way)
            with kept.measuring(place + 1):
                way.journal.measure(way.state)

    def _check_inputs(self, model: object, train: object, evaluate: Measure | None, validate: Measure | None) -> None:
        """Whatever a late stage lacks is said before an early one has trained for hours."""
        bare = not isinstance(model, nn.Module)
        for name, stage in self._flat:
            if not isinstance(stage, TrainSettings):
                continue
            if bare:
                raise PipelineError(f"stage {name!r} needs a model that can run; the pipeline was given a bare state dict")
            if train is None and stage.epochs:
                raise PipelineError(f"stage {name!r} trains, and there is nothing to train on: give run(..., train=loader)")
            if validate is None and getattr(stage, "restore_best", False):
                raise PipelineError(f"stage {name!r} restores its best epoch by a measure: give run(..., validate=...)")
        if bare and evaluate is not None:
            raise PipelineError("evaluate needs a model that can run; the pipeline was given a bare state dict")

    def config(self) -> dict[str, Any]:
        """The pipeline as JSON data: `{"stages": [{"name": ..., "stage": ..., ...}, ...]}`, for `from_config`.

        Raises:
            ParameterError: a stage holds a callable.
        """
        return {"stages": [{"name": name, **_stage_config(stage)} for name, stage in self.stages]}

    @classmethod
    def from_config(cls, source: Mapping[str, Any] | str | Path) -> Pipeline:
        """The pipeline that a configuration describes. Reading it imports nothing and calls nothing.

        Args:
            source: `config()`'s data, its text as JSON or YAML, or the path of such a file.

        Raises:
            ParameterError: not a configuration, or an unknown stage or parameter.
            StorageError: the file cannot be read.
        """
        try:
            return cls(read_config(source, cls))
        except RecursionError:
            raise ParameterError("the configuration is nested too deeply, or within itself") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pipeline) and self.stages == other.stages

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        inner = ", ".join(f"({name!r}, {stage!r})" for name, stage in self.stages)
        return f"Pipeline([{inner}])"


def _samples(state: State) -> dict[str, NDArray[Any]]:
    return {name: sample(weight) for name, weight in floating_weights(state.model).items() if weight.ndim > 1}


def _flatten(stages: Sequence[tuple[str, Stage | Pipeline]], prefix: str = "") -> Iterator[tuple[str, Stage]]:
    for entry in stages:
        if not (isinstance(entry, (tuple, list)) and len(entry) == 2 and isinstance(entry[0], str) and entry[0]):
            raise PipelineError(f"a stage is a pair (name, stage), not {entry!r}")
        name, stage = entry
        if isinstance(stage, Pipeline):
            yield from _flatten(stage.stages, f"{prefix}{name}/")
        elif isinstance(stage, Stage):
            yield prefix + name, stage
        else:
            raise PipelineError(f"stage {name!r} is {stage!r}, which is neither a stage nor a pipeline")


def _stage_config(stage: Stage | Pipeline) -> dict[str, Any]:
    return stage.config() if isinstance(stage, Stage) else {"stage": "pipeline", **stage.config()}


def _prepare(model: nn.Module | Mapping[str, Tensor], inplace: bool) -> Model:
    """The model to work on, checked before it is copied."""
    if isinstance(model, nn.Module):
        model_tensors(model)
        return model if inplace else _copy(model)
    if not isinstance(model, Mapping):
        raise ParameterError.of("model", "Pipeline.run", "a torch.nn.Module or a state dict", model)
    if isinstance(model, CompressedModel):
        return model.state_dict()  # nobody else has these tensors
    tensors: Any = copy.copy(model) if isinstance(model, dict) else dict(model)  # a copy keeps the modules' versions
    ties = tied_names(model_tensors(tensors))
    if not inplace:
        for name, tensor in list(tensors.items()):
            tensors[name] = tensors[ties[name]] if name in ties else tensor.detach().clone()
    result: dict[str, Tensor] = tensors
    return result


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError, ValueError, AttributeError, copy.Error) as error:
        raise ModelError(f"the model cannot be copied ({error}); give a copy yourself and say inplace=True") from error


def _checked_metadata(metadata: Mapping[str, str]) -> Mapping[str, str]:
    if all(isinstance(key, str) and isinstance(value, str) for key, value in metadata.items()):
        return metadata
    raise ParameterError.of("metadata", "Pipeline.run", "a mapping of strings to strings", metadata)


def _result(way: Way, extras: Extras) -> Result:
    """Encode everything, and report on it."""
    state = way.state
    assembly = Assembly(state)
    compressed = assembly.build(extras)
    report = Report(
        layers=assembly.rows(compressed, way.before),
        stages=way.journal.rows(state),
        bits=compressed.bits.file,
        dense_bytes=compressed.dense_bytes,
        file_bytes=compressed.file_bytes,
        notes=storage_notes(state),
        environment=environment(),
    )
    return Result(state.model, compressed, report, way.histories)
