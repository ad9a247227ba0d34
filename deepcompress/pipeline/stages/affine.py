"""The stage that puts weights onto uniform grids."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import ClassVar

from torch import Tensor

from deepcompress.coding.denormals import denormals_kept
from deepcompress.coding.pool import run
from deepcompress.errors import ParameterError
from deepcompress.layers.channels import channel_axis
from deepcompress.layers.select import layer_types
from deepcompress.pipeline.selection import Selection
from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.stages.chosen import check_bits, finite_values, quantizable, widths_of, write_elements
from deepcompress.pipeline.state import Context, State
from deepcompress.quantize.gridding import Gridded, GridKind, share_levels, values_on
from deepcompress.quantize.rounding import check_rounding
from deepcompress.tensors.elements import dtype_name


@dataclass(frozen=True, eq=False)
class AffineQuantize(Stage):
    """Round the weights of each layer to 2**bits levels at equal distances; a scale and an offset are all that they share.

    Zero is always a level, so that pruned weights and zeros stay exactly zero. Every value is a product in the tensor's
    arithmetic (see `AffineMap`), with the scale in the tensor's own type; `dc.quantize_affine` says more of the levels.

    Args:
        bits: 1 to 16, of all chosen layers; or name or pattern -> bits, the first match deciding, where layers that nothing
            matches keep their values. Patterns mean what they mean in `include`.
        per_channel: a scale for each output channel: the second dimension of a transposed convolution's weight, else the first
            (of an embedding each row); vectors have one scale. Else one for the layer.
        symmetric: as many levels below zero as above it, 2**bits - 1 in all (with one bit zero and one other). Else the range
            of the weights decides where zero is, in each channel for itself, which costs four bytes a channel.
        rounding: "nearest-even", or "stochastic", by chance so that the expectation of a weight is its value.
        seed: of "stochastic"; each layer draws its own numbers.
        include, exclude, types: which weights; as in Prune.

    Raises:
        ParameterError: a parameter out of its range.

    Source: Jacob et al. Quantization and training of neural networks for efficient integer-arithmetic-only inference. CVPR
    2018. arXiv:1712.05877; Krishnamoorthi. Quantizing deep convolutional networks for efficient inference. 2018.
    arXiv:1806.08342.
    """

    bits: int | Mapping[str, int] = 8
    _: KW_ONLY
    per_channel: bool = False
    symmetric: bool = True
    rounding: str = "nearest-even"
    seed: int = 0
    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None
    types: Sequence[str] | None = None

    kind: ClassVar[str] = "affine_quantize"
    phase: ClassVar[str] = "quantize"

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_bits(self.bits, owner)
        for name in ("per_channel", "symmetric"):
            if not isinstance(getattr(self, name), bool):
                raise ParameterError.of(name, owner, "True or False", getattr(self, name))
        check_rounding(self.rounding, self.seed, owner)
        Selection(self.include, self.exclude, self.types).check(owner)

    @denormals_kept()
    def apply(self, state: State, context: Context) -> State:
        owner = type(self).__name__
        weights = quantizable(Selection(self.include, self.exclude, self.types), state, owner)
        widths = widths_of(self.bits, weights, state.model, owner)
        kinds = self._kinds(state, weights, widths)
        outcomes = run([partial(_share, name, weights[name], kind) for name, kind in kinds.items()])
        shared = dict(zip(kinds, outcomes, strict=True))  # all of them are known before the first is written
        run([partial(_write, weights[name], found) for name, found in shared.items()])
        grids = {name: found.grid for name, found in shared.items()}
        errors = {name: found.error for name, found in shared.items()}
        return replace(state, codebooks={**state.codebooks, **grids}, errors={**state.errors, **errors}, notes=())

    def _kinds(self, state: State, weights: Mapping[str, Tensor], widths: Mapping[str, int]) -> dict[str, GridKind]:
        types = layer_types(state.model)
        kinds = {}
        for name, bits in widths.items():
            axis = channel_axis(name, weights[name], types) if self.per_channel else None
            seed = self.seed << 32 | zlib.crc32(name.encode())
            kinds[name] = GridKind(bits, axis, self.symmetric, self.rounding, seed)
        return kinds


def _share(name: str, weight: Tensor, kind: GridKind) -> Gridded:
    """Give each weight its level; the weight itself stays as it is."""
    return share_levels(finite_values(name, weight, "a grid"), dtype_name(weight), kind)


def _write(weight: Tensor, found: Gridded) -> None:
    write_elements(weight, values_on(found.grid, found.symbols, dtype_name(weight)))
