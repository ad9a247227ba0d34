"""The stage that moves shared values: centroids each by itself, the levels of a grid by their scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcompress.pipeline.selection import floating_weights
from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.stages.chosen import write_elements, write_values
from deepcompress.pipeline.state import Context, State
from deepcompress.quantize.codebooks import SMALLEST, distinct, round_to_type
from deepcompress.quantize.gridding import values_on
from deepcompress.tensors.affine import AffineGrid, AffineTensor, by_channel
from deepcompress.tensors.codebook import Codebook
from deepcompress.tensors.compressed import CompressedTensor
from deepcompress.tensors.elements import dtype_name, from_torch
from deepcompress.training.finetune import finetune_centroids
from deepcompress.training.settings import TrainSettings


@dataclass(frozen=True, eq=False)
class Finetune(Stage, TrainSettings):
    """Train the shared values: the gradient of a centroid is the sum of the gradients of its weights.

    On the grids of AffineQuantize weights keep their levels, and the scales learn, one per layer or channel. What the optimizer
    gets is the factor by which a scale has grown, 1 at first: a scale itself is so small that a step would throw it far.

    Args: those of Retrain, and
        rest: train biases, norms and whatever else has no codebook along with the centroids.
        restore_best: end with the epoch that `validate` liked best.

    Source: Han, Mao, Dally. Deep Compression. ICLR 2016, sec. 3.3; of scales: Esser et al. Learned step size quantization. ICLR
    2020. arXiv:1902.08153 (here without moving weights from level to level).
    """

    rest: bool = False
    restore_best: bool = False

    kind: ClassVar[str] = "finetune"
    phase: ClassVar[str] = "finetune"

    def apply(self, state: State, context: Context) -> State:
        model = state.module("Finetune")
        live = floating_weights(model)
        parts = {name: _part(live[name], book) for name, book in state.codebooks.items()}
        moved, history = finetune_centroids(
            model, context.train, {name: part.symbols for name, part in parts.items()},
            {name: part.values for name, part in parts.items()}, self,
            factors={name: part.factors for name, part in parts.items() if part.factors is not None},
            loss=context.loss, validate=context.validate, restore_best=self.restore_best, rest=self.rest,
            checkpoint=context.checkpoint, quiet=context.quiet,
        )  # fmt: skip
        codebooks = {name: part.settle(live[name], moved[name]) for name, part in parts.items()}
        return replace(state, codebooks={**state.codebooks, **codebooks}, notes=(), history=history)


def _part(weight: Tensor, book: Codebook | AffineGrid) -> _Centroids | _Scales:
    return _Scales.of(weight, book) if isinstance(book, AffineGrid) else _Centroids.of(weight, book)


@dataclass(frozen=True, eq=False)
class _Centroids:
    """A weight with a codebook: its centroids learn.

    `symbols` are 0 for a pruned weight, s for value s - 1; a weight is its value, times its factor where there are some.
    """

    symbols: Tensor
    values: Tensor
    before: Codebook
    factors: None = None

    @classmethod
    def of(cls, weight: Tensor, book: Codebook) -> _Centroids:
        shared = CompressedTensor.from_values(from_torch(weight), dtype_name(weight), book)
        symbols = torch.from_numpy(shared.symbols.astype(np.int64)).reshape(shared.shape)
        return cls(symbols, torch.from_numpy(book.centroids.astype(np.float64)), book)

    def settle(self, weight: Tensor, trained: Tensor) -> Codebook:
        """Round trained centroids to their storage type, write them into the weight, and put the codebook in order."""
        own, centroids = dtype_name(weight), trained.detach().cpu().double().numpy()
        rounded = round_to_type(centroids, "bfloat16" if own == "bfloat16" else self.before.centroids.dtype.name)
        if not np.isfinite(rounded).all():
            rounded = round_to_type(centroids, own)
        rounded = rounded + rounded.dtype.type(0)  # no -0.0: a centroid that becomes zero makes pruned weights
        table = np.concatenate([[0.0], rounded.astype(np.float64)])
        write_values(weight, table[self.symbols.cpu().numpy()])
        found = distinct(rounded)
        return Codebook(found[found != 0])


@dataclass(frozen=True, eq=False)
class _Scales:
    """A weight on a grid: the growth of each channel's scale learns, and its factors are the weights as they came."""

    symbols: Tensor
    values: Tensor
    factors: Tensor
    before: AffineGrid
    levels: NDArray[Any]

    @classmethod
    def of(cls, weight: Tensor, grid: AffineGrid) -> _Scales:
        found = AffineTensor.from_values(from_torch(weight), dtype_name(weight), grid)
        channels = np.arange(1, len(grid.scales) + 1)[:, None]
        numbers = np.broadcast_to(channels, by_channel(found.shape, grid.axis)).reshape(-1)
        symbols = torch.from_numpy(np.where(found.is_nonzero(), numbers, 0)).reshape(found.shape)
        growth = torch.ones(len(grid.scales), dtype=torch.float64)
        return cls(symbols, growth, weight.detach().clone(), grid, found.symbols.reshape(found.shape))

    def settle(self, weight: Tensor, trained: Tensor) -> AffineGrid:
        """Round the scales to their storage type, and write what the levels are now into the weight."""
        own = dtype_name(weight)
        grown = self.before.scales.astype(np.float64) * trained.detach().cpu().double().numpy()
        scales = round_to_type(np.maximum(grown, SMALLEST[own]), "bfloat16" if own == "bfloat16" else own)
        grid = replace(self.before, scales=scales)
        write_elements(weight, values_on(grid, self.levels, own))
        return grid
