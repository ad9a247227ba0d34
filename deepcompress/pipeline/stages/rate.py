"""The stage that trains for the coder: few levels, zero among them, and as many bits as are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deepcompress.pipeline.selection import Selection
from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.stages.chosen import is_int, quantizable, write_elements
from deepcompress.pipeline.state import Context, State
from deepcompress.prune.ranking import is_within
from deepcompress.quantize.codebooks import SMALLEST, STORAGE_TYPES, round_to_type
from deepcompress.quantize.gridding import values_on
from deepcompress.tensors.affine import AffineGrid
from deepcompress.tensors.elements import dtype_name
from deepcompress.training.rate import RateGoal, retrain_for_rate
from deepcompress.training.settings import TrainSettings

_CLOSE = 1e-3


@dataclass(frozen=True, eq=False)
class RateRetrain(Stage, TrainSettings):
    """Prune, quantize and retrain at once: weights end on few multiples of a learned step, most of them zero, in so many bits.

    Each weight is pulled towards the next cheaper level as hard as the bits between them are worth. A level's bits follow from
    how often it occurs in its layer, those of zero also from the density of the weight's row and column, as `ContextEncode`
    foresees them. What a bit is worth is steered so that the bits fall along a schedule; towards the end zeros stay zero, and
    what is left settles. It goes well with a learning rate that ends at zero, and with a loss that distils the dense network.

    Args: those of TrainSettings, and
        bits: per weight, the mean over all chosen weights, as `ContextEncode` takes; 0.2 is 160 times fewer than 32.
        levels: on each side of zero, 1 to 127.
        ramp: share of the epochs after which `bits` is reached, fast at first and ever slower.
        freeze: share of the epochs after which zeros stay zero.
        include, exclude, types: which weights; as in Prune.

    Raises:
        ParameterError: a parameter out of its range.

    Source: Oktay, Balle, Singh, Shrivastava. Scalable model compression by entropy penalized reparameterization. ICLR 2020.
    arXiv:1906.06624.
    """

    bits: float = 0.5
    levels: int = 3
    ramp: float = 0.6
    freeze: float = 0.85
    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None
    types: Sequence[str] | None = None

    kind: ClassVar[str] = "rate_retrain"
    phase: ClassVar[str] = "quantize"

    def __post_init__(self) -> None:
        super().__post_init__()
        Selection(self.include, self.exclude, self.types).check(type(self).__name__)
        self._require("bits", is_within(self.bits, 0, 16) and self.bits > 0, "a number of bits above 0, at most 16")
        self._require("levels", is_int(self.levels, 1) and self.levels <= 127, "an int from 1 to 127")
        self._require("freeze", is_within(self.freeze, 0, 1), "a share of the epochs, from 0 to 1")
        self._require("ramp", is_within(self.ramp, 0, self.freeze), f"a share of the epochs, at most {self.freeze} (freeze)")

    def apply(self, state: State, context: Context) -> State:
        model = state.module("RateRetrain")
        weights = quantizable(Selection(self.include, self.exclude, self.types), state, "RateRetrain")
        masks = {name: mask for name, mask in state.masks.items() if name in weights}
        goal = RateGoal(self.bits, self.levels, self.ramp, self.freeze)
        levels, steps, history = retrain_for_rate(
            model, context.train, weights, masks, self, goal, loss=context.loss, validate=context.validate,
            checkpoint=context.checkpoint, quiet=context.quiet,
        )  # fmt: skip
        grids = {}
        for name, weight in weights.items():
            own = dtype_name(weight)
            grids[name] = AffineGrid(_stored(steps[name], own), np.array([self.levels], np.int32), 2 * self.levels + 1, None)
            symbols = levels[name].cpu().numpy().astype(np.int64) + self.levels
            write_elements(weight, values_on(grids[name], symbols.reshape(weight.shape), own))
        kept = {name: level != 0 for name, level in levels.items()}
        return replace(
            state, masks={**state.masks, **kept}, codebooks={**state.codebooks, **grids}, notes=(), history=history
        )  # fmt: skip


def _stored(step: float, own: str) -> NDArray[Any]:
    """A step, (1,), in the narrowest type that holds it to one part in a thousand, of those for a tensor of type `own`."""
    wanted = np.array([step], np.float64)
    kinds = STORAGE_TYPES[own]
    rounded = [round_to_type(wanted, kind) for kind in kinds]
    close = [found for found in rounded if abs(float(found[0]) / step - 1) < _CLOSE]
    return close[0] if close else np.maximum(rounded[-1], round_to_type(np.array([SMALLEST[own]]), kinds[-1]))
