"""What a stage receives and returns, and what it may use on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from deepcompress.errors import PipelineError
from deepcompress.tensors.affine import AffineGrid
from deepcompress.tensors.codebook import Codebook
from deepcompress.tensors.streams import Encoding
from deepcompress.training.checkpoint import Checkpoint
from deepcompress.training.history import History

Model = nn.Module | dict[str, Tensor]
Measure = Callable[[nn.Module], float]
Loss = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class State:
    """A model on its way through the stages. A stage changes the model's values and returns a new state around it.

    Attributes:
        model: a module, or the tensors of a bare state dict.
        masks: weight name -> bool tensor of its shape, True = kept.
        codebooks: weight name -> the values that its kept weights share: centroids, or levels at equal distances.
        errors: weight name -> RMSE between its values before and after quantization, over all its weights.
        stored: tensor name -> the narrower type in which its values go into the file.
        inference: what training needs, such as the statistics of batch norms, is gone; the file says so.
        encoding: how symbols are coded; bit-packed until a stage says otherwise.
        notes: what the last stage wants the report to say.
        history: what the last stage measured, where it trained.
    """

    model: Model
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    codebooks: Mapping[str, Codebook | AffineGrid] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    stored: Mapping[str, str] = field(default_factory=dict)
    inference: bool = False
    encoding: Encoding = field(default_factory=lambda: Encoding(coder="fixed"))
    notes: tuple[str, ...] = ()
    history: History | None = None

    def module(self, owner: str) -> nn.Module:
        """The model, for what runs it. Raises PipelineError where it is a bare state dict."""
        if not isinstance(self.model, nn.Module):
            raise PipelineError(f"{owner} needs a model that can run; the pipeline was given a bare state dict")
        return self.model


@dataclass(frozen=True)
class Context:
    """What the caller of `run` gave for the stages to use, and where a stage that trains keeps how far it is."""

    train: Iterable[Any] | None = None
    validate: Measure | None = None
    loss: Loss | None = None
    quiet: bool = False
    checkpoint: Checkpoint | None = None
