"""The stage that takes running statistics out of batch norms: a network for inference needs none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from torch import Tensor

from deepcompress.coding.denormals import denormals_kept
from deepcompress.errors import ParameterError, PipelineError
from deepcompress.pipeline.selection import Selection, floating_weights
from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.stages.chosen import finite_values, is_int, write_elements
from deepcompress.pipeline.state import Context, State
from deepcompress.quantize.gridding import Gridded, GridKind, share_levels, values_on
from deepcompress.quantize.norms import FoldedNorm, fold_statistics, running_norms, write_folded
from deepcompress.tensors.elements import dtype_name
from deepcompress.tensors.model import INFERENCE

_HALVED = 30_000  # no step is longer than twice that, which half precision still holds
_TOLERATED = 1.1  # by so much more a step in half precision may err: it is chance where the levels of few values lie


@dataclass(frozen=True, eq=False)
class FoldNorm(Stage):
    """Fold the running statistics of batch norms into their scale and shift, each rounded to 2**bits levels.

    In eval mode a batch norm is a factor and an offset for each channel, which need two tensors, and not four. The modules stay,
    with a mean of 0, a variance of 1 and no batches counted: constants, which take next to nothing in a file. The model is for
    inference from then on, which report and file say. Nothing forbids to train it, but that starts the statistics anew, far from
    those of the data, and moves scale and shift off their levels: fold last, or train with `frozen_statistics`.

    A norm stays as it is where it has no scale and shift to fold into, shares a tensor with another, or is a subclass that
    calculates in its own way; the report counts these. Instance norms with running statistics are folded like batch norms.

    Args:
        bits: of a scale or a shift, 1 to 16: levels at equal distances over the tensor, zero among them, symmetric about it or
            not, whichever errs less. None rounds nothing.
        include, exclude: which norms: patterns on the norm's name, those of modules around it, or of its tensors.

    Raises:
        ParameterError: a parameter out of its range.

    Source: Jacob et al. Quantization and training of neural networks for efficient integer-arithmetic-only inference. CVPR
    2018, sec. 3.2. arXiv:1712.05877 (there into the convolution before it).
    """

    bits: int | None = 8
    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None

    kind: ClassVar[str] = "fold_norm"
    phase: ClassVar[str] = "quantize"

    def __post_init__(self) -> None:
        if self.bits is not None and not is_int(self.bits, 1, 16):
            raise ParameterError.of("bits", "FoldNorm", "None or an int from 1 to 16", self.bits)
        Selection(self.include, self.exclude).check("FoldNorm")

    @denormals_kept()
    def apply(self, state: State, context: Context) -> State:
        model = state.module("FoldNorm")
        norms = running_norms(model, include=self.include, exclude=self.exclude, owner="FoldNorm")
        found = [fold_statistics(model, name, norm) for name, norm in norms.items()]
        folded = [each for each in found if each is not None]
        names = _weight_names(state, folded)
        if again := [name for name in names if name in state.codebooks]:
            raise PipelineError(f"FoldNorm: {', '.join(again[:6])} already have a codebook from an earlier stage")
        shared = {name: _share(name, values, self.bits) for name, values in names.items()} if self.bits is not None else {}
        for each in folded:
            write_folded(each)
        live = floating_weights(model)
        for name, rounded in shared.items():
            write_elements(live[name], values_on(rounded.grid, rounded.symbols, dtype_name(live[name])))
        return replace(
            state,
            masks={name: mask for name, mask in state.masks.items() if name not in names},
            codebooks={**state.codebooks, **{name: rounded.grid for name, rounded in shared.items()}},
            errors={**state.errors, **{name: rounded.error for name, rounded in shared.items()}},
            inference=state.inference or bool(folded),
            notes=_notes(len(folded), len(found)),
        )


def _weight_names(state: State, folded: Sequence[FoldedNorm]) -> Mapping[str, Tensor]:
    """Name of each scale and shift in the model -> its values to come, in the model's order."""
    values = {id(each.norm.weight): each.scale for each in folded} | {id(each.norm.bias): each.shift for each in folded}
    return {name: values[id(tensor)] for name, tensor in floating_weights(state.model).items() if id(tensor) in values}


def _share(name: str, tensor: Tensor, bits: int) -> Gridded:
    """Levels for a scale or a shift; the step in half precision where that errs as little."""
    values, own = finite_values(name, tensor, "a grid"), dtype_name(tensor)

    def best(step: str | None) -> Gridded:
        kinds = [GridKind(bits, symmetric=symmetric, step=step) for symmetric in (True, False)]
        return min((share_levels(values, own, kind) for kind in kinds), key=lambda each: each.error)

    found = best(None)
    if own not in ("float32", "float64") or float(np.abs(values).max(initial=0)) > _HALVED:
        return found
    half = best("float16")
    return half if half.error <= _TOLERATED * found.error else found


def _notes(folded: int, all_of_them: int) -> tuple[str, ...]:
    if not all_of_them:
        return ("there are no norms with running statistics",)
    left = all_of_them - folded
    kept = f"; {left} of {all_of_them} norms keep theirs" if left else ""
    return (f"{INFERENCE} into scale and shift{kept}",) if folded else (f"none of {all_of_them} norms can be folded",)
