"""Which weights a stage works on, as users and configurations say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deepcompress.errors import ParameterError
from deepcompress.layers.select import floating_tensors, select_weights
from deepcompress.layers.sharing import tied_names
from deepcompress.pipeline.state import Model


@dataclass(frozen=True)
class Selection:
    """Patterns on names and types of layers; see `select_weights` for what they mean."""

    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None
    types: Sequence[str] | None = None

    def of(self, model: Model, owner: str) -> dict[str, Tensor]:
        """The chosen weights, live."""
        return select_weights(model, include=self.include, exclude=self.exclude, types=self.types, owner=owner)

    def check(self, owner: str) -> None:
        """Raise ParameterError unless each is None or a list of strings; a model is not needed to see that."""
        for name, value in vars(self).items():
            listed = isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(item, str) for item in value)
            if value is not None and not listed:
                raise ParameterError.of(name, owner, "None or a list of strings", value)

    def config(self) -> dict[str, Any]:
        """What was given, as JSON."""
        return {name: list(value) for name, value in vars(self).items() if value is not None}


def floating_weights(model: Model) -> dict[str, Tensor]:
    """As `named_weights`, but there may be none: a state dict of integers is a model too."""
    tensors = floating_tensors(model)
    aliases = tied_names(tensors)
    return {name: tensor for name, tensor in tensors.items() if name not in aliases}
