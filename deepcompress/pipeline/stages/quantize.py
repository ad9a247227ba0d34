"""The stages that share weights: k-means finds the values, finetuning moves them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcompress.errors import ModelError, ParameterError, PipelineError
from deepcompress.pipeline.selection import Selection
from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.state import Context, State
from deepcompress.quantize.codebooks import round_centroids, round_to_type, share_values
from deepcompress.quantize.init import INITS
from deepcompress.quantize.kmeans import fit_kmeans
from deepcompress.tensors.codebook import Codebook
from deepcompress.tensors.compressed import CompressedTensor
from deepcompress.tensors.elements import bfloat16_to_float32, dtype_name, from_torch
from deepcompress.training.finetune import finetune_centroids
from deepcompress.training.settings import TrainSettings

Array = NDArray[Any]

_SHARED_TYPES = ("float16", "bfloat16", "float32", "float64")
_STORAGE = ("auto", *_SHARED_TYPES)


@dataclass(frozen=True)
class KMeansQuantize(Stage):
    """Let the kept weights of each layer share 2**bits values, found by one-dimensional k-means.

    Pruned weights and zeros stay exactly zero: zero is never a centroid.

    Args:
        bits: index width, 1 to 16, of all chosen layers; or name or pattern -> bits, the first match deciding, where layers that
            nothing matches keep their values.
        init: "linear" (even over [min, max]), "density", "random" or "kmeans++".
        max_iter: passes of Lloyd's algorithm at most.
        seed: for "random" and "kmeans++".
        codebook: "auto" rounds centroids to float16 where that is exact enough (the squared error grows by 0.1 % at most), or the
            name of the type to round to.
        include, exclude, types: which weights; as in Prune.

    Raises:
        ParameterError: a parameter out of its range.

    Source: Han, Mao, Dally. Deep Compression. ICLR 2016, sec. 3. arXiv:1510.00149.
    """

    bits: int | Mapping[str, int] = 5
    init: str = "linear"
    max_iter: int = 300
    seed: int = 0
    codebook: str = "auto"
    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None
    types: Sequence[str] | None = None

    kind: ClassVar[str] = "kmeans_quantize"
    phase: ClassVar[str] = "quantize"

    def __post_init__(self) -> None:
        owner = type(self).__name__
        widths = self.bits.values() if isinstance(self.bits, Mapping) else [self.bits]
        for bits in widths:
            if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
                raise ParameterError.of("bits", owner, "an int from 1 to 16, or a mapping of names to such", self.bits)
        if self.init not in INITS:
            raise ParameterError.of("init", owner, f"one of {', '.join(INITS)}", self.init)
        if self.codebook not in _STORAGE:
            raise ParameterError.of("codebook", owner, f"one of {', '.join(_STORAGE)}", self.codebook)
        if isinstance(self.max_iter, bool) or not isinstance(self.max_iter, int) or self.max_iter < 1:
            raise ParameterError.of("max_iter", owner, "an int of at least 1", self.max_iter)

    def apply(self, state: State, context: Context) -> State:
        weights = self._chosen(state)
        levels = {name: self._fit(name, weights[name], bits) for name, bits in self._widths(weights).items()}
        codebooks, errors = {}, {}
        for name, found in levels.items():
            codebooks[name], errors[name] = _share(weights[name], found)
        return replace(state, codebooks={**state.codebooks, **codebooks}, errors={**state.errors, **errors}, notes=())

    def _chosen(self, state: State) -> dict[str, Tensor]:
        """Weights to quantize: real floating-point, not empty, not quantized before."""
        chosen = Selection(self.include, self.exclude, self.types).of(state.model, "KMeansQuantize")
        if again := [name for name in chosen if name in state.codebooks]:
            raise PipelineError(f"KMeansQuantize: {', '.join(again[:6])} already have a codebook from an earlier stage")
        return {name: weight for name, weight in chosen.items() if dtype_name(weight) in _SHARED_TYPES and weight.numel()}

    def _widths(self, weights: Mapping[str, Tensor]) -> dict[str, int]:
        """Weight name -> bits."""
        if not isinstance(self.bits, Mapping):
            return dict.fromkeys(weights, self.bits)
        for pattern in self.bits:
            if not any(_named_by(name, pattern) for name in weights):
                there = ", ".join(map(repr, list(weights)[:6]))
                expected = f"keyed by patterns that match weights, such as {there}"
                raise ParameterError.of("bits", "KMeansQuantize", expected, pattern)
        found = {name: [bits for pattern, bits in self.bits.items() if _named_by(name, pattern)] for name in weights}
        return {name: bits[0] for name, bits in found.items() if bits}

    def _fit(self, name: str, weight: Tensor, bits: int) -> Array:
        """The values that a weight's nonzeros will share, zero perhaps among them."""
        if bad := weight.numel() - int(torch.isfinite(weight).sum()):
            raise ModelError(f"{name}: {bad} of {weight.numel()} weights are NaN or infinite; a codebook needs finite ones")
        values = _real_values(weight)
        values = values[values != 0]
        centroids = fit_kmeans(values, 1 << bits, init=self.init, max_iter=self.max_iter, seed=self.seed)
        return round_centroids(values, centroids, dtype=self.codebook, own=dtype_name(weight))


@dataclass(frozen=True)
class Finetune(TrainSettings, Stage):
    """Train the shared values: the gradient of a centroid is the sum of the gradients of its weights.

    Args: those of Retrain, and
        rest: train biases, norms and whatever else has no codebook along with the centroids.
        restore_best: end with the epoch that `validate` liked best.

    Source: Han, Mao, Dally. Deep Compression. ICLR 2016, sec. 3.3.
    """

    rest: bool = False
    restore_best: bool = False

    kind: ClassVar[str] = "finetune"
    phase: ClassVar[str] = "finetune"

    def apply(self, state: State, context: Context) -> State:
        model = state.module("Finetune")
        weights = Selection(list(state.codebooks)).of(model, "Finetune")
        shared = {name: _shared_form(weight, state.codebooks[name]) for name, weight in weights.items()}
        symbols = {name: _symbol_tensor(tensor) for name, tensor in shared.items()}
        centroids = {name: torch.from_numpy(book.centroids.astype(np.float32)) for name, book in state.codebooks.items()}
        moved = finetune_centroids(
            model, context.train, symbols, centroids, self, loss=context.loss, validate=context.validate,
            restore_best=self.restore_best, rest=self.rest, quiet=context.quiet,
        )  # fmt: skip
        codebooks = {}
        for name, weight in weights.items():
            codebooks[name] = _settle(weight, symbols[name], moved[name], state.codebooks[name])
        return replace(state, codebooks={**state.codebooks, **codebooks}, notes=())


def _named_by(name: str, pattern: str) -> bool:
    """Whether a pattern means the weight or its layer."""
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern)


def _real_values(weight: Tensor) -> Array:
    """A weight's values in a type that numpy calculates in."""
    values = from_torch(weight)
    return bfloat16_to_float32(values) if dtype_name(weight) == "bfloat16" else values


def _share(weight: Tensor, levels: Array) -> tuple[Codebook, float]:
    """Move each nonzero weight to its nearest level, in place. Returns the codebook, and the RMSE over all weights."""
    values = _real_values(weight)
    kept = values != 0
    codebook, symbols = share_values(values[kept], levels)
    shared = np.zeros_like(values)
    shared[kept] = np.concatenate([np.zeros(1, values.dtype), codebook.centroids.astype(values.dtype)])[symbols]
    error = math.sqrt(float(np.mean(np.square(np.subtract(shared, values, dtype=np.float64)))))
    _write(weight, shared)
    return codebook, error


def _write(weight: Tensor, values: Array) -> None:
    with torch.no_grad():
        weight.copy_(torch.from_numpy(np.ascontiguousarray(values)).reshape(weight.shape))


def _shared_form(weight: Tensor, codebook: Codebook) -> CompressedTensor:
    return CompressedTensor.from_values(from_torch(weight), dtype_name(weight), codebook)


def _symbol_tensor(shared: CompressedTensor) -> Tensor:
    return torch.from_numpy(shared.symbols.astype(np.int64)).reshape(shared.shape)


def _settle(weight: Tensor, symbols: Tensor, centroids: Tensor, before: Codebook) -> Codebook:
    """Round trained centroids to their storage type, write them into the weight, and put the codebook in order."""
    own = dtype_name(weight)
    trained = centroids.detach().cpu().double().numpy()
    rounded = round_to_type(trained, "bfloat16" if own == "bfloat16" else before.centroids.dtype.name)
    if not np.isfinite(rounded).all():
        rounded = round_to_type(trained, own)
    table = np.concatenate([[0.0], rounded.astype(np.float64)])
    _write(weight, table[symbols.cpu().numpy()])
    distinct = np.unique(rounded)
    return Codebook(distinct[distinct != 0])
