"""Which weights a stage works on, as users and configurations say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deepcompress.layers.select import select_weights
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

    def config(self) -> dict[str, Any]:
        """What was given, as JSON."""
        return {name: list(value) for name, value in vars(self).items() if value is not None}
