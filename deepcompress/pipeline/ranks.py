"""Stages where several processes train together: what one of them computes, all have."""

from __future__ import annotations

from dataclasses import replace

from deepcompress.pipeline.selection import floating_weights
from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.state import Context, State
from deepcompress.training.group import Group, tensors_of
from deepcompress.training.settings import TrainSettings


def apply_stage(stage: Stage, state: State, context: Context, group: Group) -> State:
    """The state after a stage, the same on every rank.

    Stages that train do so together. Others run on rank 0 alone, and the rest get what it found: masks are made, and weights
    shared, once.

    Raises:
        TrainingError: the ranks came to different values, or another one failed.
    """
    if group.size == 1:
        return stage.apply(state, context)
    after = stage.apply(state, context) if isinstance(stage, TrainSettings) else _from_first(stage, state, context, group)
    masks = {f"the mask of {name}": mask for name, mask in after.masks.items()}
    group.check_equal({**tensors_of(after.model), **masks}, f"after {type(stage).__name__}")
    return after


def _from_first(stage: Stage, state: State, context: Context, group: Group) -> State:
    """What the stage makes of the state on rank 0: values by the tensors that each rank has, the rest as it is sent."""

    def found() -> State:
        return replace(stage.apply(state, context), model={})

    rest = group.once(found)
    group.copy_first(tensors_of(state.model).values())
    weights = floating_weights(state.model)
    masks = {name: mask.to(weights[name].device) for name, mask in rest.masks.items()}
    return replace(rest, model=state.model, masks=masks)
