"""The stage that quantizes to so many bits per weight without training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from deepcompress.coding.denormals import denormals_kept
from deepcompress.coding.pool import run
from deepcompress.errors import PipelineError
from deepcompress.pipeline.selection import Selection
from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.stages.chosen import finite_values, is_int, quantizable, require, write_elements
from deepcompress.pipeline.state import Context, State
from deepcompress.prune.ranking import is_within
from deepcompress.quantize.curvature import Curvature, measure_curvature, relative_curvature
from deepcompress.quantize.gridding import values_on
from deepcompress.quantize.rate import RateLayer, RateLevels, levels_for_bits
from deepcompress.tensors.affine import AffineGrid
from deepcompress.tensors.elements import dtype_name

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class RateQuantize(Stage):
    """Quantize to so many bits per weight with the least change of the model's outputs, without training.

    A weight gets the level that is best for error and bits together, and the later weights of its row make up for the error that
    is left. Which weights matter is measured on a few batches, whose labels are not used: those of `run(..., train=batches)`,
    which need not be many (1,024 images), nor real (`dc.imagine_inputs`). Without batches each layer's relative error counts
    the same, and nothing makes up for it. Layers share one price of a bit, and so each gets the bits that it needs.

    Args:
        bits: per weight, the mean over all chosen weights, as the context coder is reckoned to take.
        levels: the most on each side of zero, 1 to 32,767.
        batches: so many are looked at, at most; 0 for none even where there are some.
        probes: random directions of the outputs in which gradients are taken, for each batch.
        seed: of the directions.
        include, exclude, types: which weights; as in Prune.

    Raises:
        ParameterError: a parameter out of its range.
        ModelError: weights or gradients that are not finite.

    Source: Frantar, Alistarh. Optimal brain compression. NeurIPS 2022. arXiv:2208.11580; Frantar et al. GPTQ. ICLR 2023.
    arXiv:2210.17323 (there with a fixed width); Wiedemann et al. DeepCABAC. 2020. arXiv:1907.11900.
    """

    bits: float = 3.0
    levels: int = 127
    batches: int = 32
    probes: int = 4
    seed: int = 0
    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None
    types: Sequence[str] | None = None

    kind: ClassVar[str] = "rate_quantize"
    phase: ClassVar[str] = "quantize"

    def __post_init__(self) -> None:
        Selection(self.include, self.exclude, self.types).check(type(self).__name__)
        require(self, "bits", is_within(self.bits, 0, 16) and self.bits > 0, "a number of bits above 0, at most 16")
        require(self, "levels", is_int(self.levels, 1, 32_767), "an int from 1 to 32767")
        require(self, "batches", is_int(self.batches, 0), "an int of at least 0")
        require(self, "probes", is_int(self.probes, 1), "an int of at least 1")
        require(self, "seed", is_int(self.seed, 0), "an int of at least 0")

    @denormals_kept()
    def apply(self, state: State, context: Context) -> State:
        weights = quantizable(Selection(self.include, self.exclude, self.types), state, "RateQuantize")
        values = {name: finite_values(name, weight, "a grid") for name, weight in weights.items()}
        curvatures, note = self._curvatures(state, context, weights)
        layers = {
            name: RateLayer(name, weights[name], found, state.masks.get(name), self.levels) for name, found in curvatures.items()
        }
        if not layers:
            raise PipelineError("RateQuantize: the model's outputs depend on none of the chosen weights")
        levels, _price = levels_for_bits(layers, self.bits)
        errors = {name: _error(values[name], found) for name, found in levels.items()}
        run([partial(_write, weights[name], found) for name, found in levels.items()])
        grids = {name: _grid(found) for name, found in levels.items()}
        return replace(state, codebooks={**state.codebooks, **grids}, errors={**state.errors, **errors}, notes=(note,))

    def _curvatures(self, state: State, context: Context, weights: Mapping[str, Tensor]) -> tuple[dict[str, Curvature], str]:
        if context.train is None or not self.batches or not isinstance(state.model, nn.Module):
            found = {name: relative_curvature(weight) for name, weight in weights.items()}
            return found, "RateQuantize saw no inputs: each layer's relative error counted the same."
        found = measure_curvature(
            state.model, weights, context.train, limit=self.batches, probes=self.probes, seed=self.seed
        )  # fmt: skip
        left = sorted(weights.keys() - found.keys())
        note = f"RateQuantize saw at most {self.batches} batches of inputs, and no labels."
        return found, f"{note} The outputs depend on {len(left)} weights not at all, such as {left[0]}." if left else note


def _grid(found: RateLevels) -> AffineGrid:
    """As many levels on each side of zero as are used."""
    reach = max(int(np.abs(found.levels).max(initial=0)), 1)
    return AffineGrid(found.step, np.array([reach], np.int32), 2 * reach + 1, None)


def _write(weight: Tensor, found: RateLevels) -> None:
    grid = _grid(found)
    symbols = (found.levels.astype(np.int32) + int(grid.offsets[0])).astype(np.uint16)
    write_elements(weight, values_on(grid, symbols, dtype_name(weight)))


def _error(values: Array, found: RateLevels) -> float:
    difference = values.reshape(found.levels.shape) - found.levels * float(found.step[0])
    return math.sqrt(float(np.square(difference, dtype=np.float64).mean()))
