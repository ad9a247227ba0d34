"""The stages that share weights: k-means finds the values, finetuning moves them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcompress.coding.pool import run
from deepcompress.errors import ModelError, ParameterError, PipelineError
from deepcompress.pipeline.selection import Selection, floating_weights
from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.state import Context, Model, State
from deepcompress.quantize.codebooks import round_centroids, round_to_type
from deepcompress.quantize.init import INITS
from deepcompress.quantize.kmeans import fit_kmeans
from deepcompress.quantize.sharing import Shared, looked_up, nonzeros, share_nonzeros
from deepcompress.tensors.codebook import Codebook
from deepcompress.tensors.compressed import CompressedTensor
from deepcompress.tensors.elements import bfloat16_to_float32, dtype_name, from_torch
from deepcompress.training.finetune import finetune_centroids
from deepcompress.training.settings import TrainSettings

Array = NDArray[Any]

_SHARED_TYPES = ("float16", "bfloat16", "float32", "float64")
_STORAGE = ("auto", *_SHARED_TYPES)


@dataclass(frozen=True, eq=False)
class KMeansQuantize(Stage):
    """Let the kept weights of each layer share 2**bits values, found by one-dimensional k-means.

    Pruned weights and zeros stay exactly zero: zero is never a centroid.

    Args:
        bits: index width, 1 to 16, of all chosen layers; or name or pattern -> bits, the first match deciding, where layers that
            nothing matches keep their values. Patterns mean what they mean in `include`.
        init: "linear" (even over [min, max]), "density", "random", "kmeans++" or "optimal" (the least squared error there is).
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
        named = isinstance(self.bits, Mapping)
        widths = self.bits if isinstance(self.bits, Mapping) else {"": self.bits}
        known = all(isinstance(name, str) and _is_int(bits, 1, 16) for name, bits in widths.items())
        if not known or (named and not widths):
            raise ParameterError.of("bits", owner, "an int from 1 to 16, or a mapping of names to such", self.bits)
        if self.init not in tuple(INITS):
            raise ParameterError.of("init", owner, f"one of {', '.join(INITS)}", self.init)
        if self.codebook not in _STORAGE:
            raise ParameterError.of("codebook", owner, f"one of {', '.join(_STORAGE)}", self.codebook)
        if not _is_int(self.max_iter, 1):
            raise ParameterError.of("max_iter", owner, "an int of at least 1", self.max_iter)
        if not _is_int(self.seed, 0):
            raise ParameterError.of("seed", owner, "an int of at least 0", self.seed)
        Selection(self.include, self.exclude, self.types).check(owner)

    def apply(self, state: State, context: Context) -> State:
        weights = self._chosen(state)
        widths = self._widths(weights, state.model)
        outcomes = run([partial(self._share, name, weights[name], bits) for name, bits in widths.items()])
        shared = dict(zip(widths, outcomes, strict=True))  # all of them are known before the first is written
        run([partial(_write_shared, weights[name], found) for name, found in shared.items()])
        codebooks = {name: found.codebook for name, found in shared.items()}
        errors = {name: found.error for name, found in shared.items()}
        return replace(state, codebooks={**state.codebooks, **codebooks}, errors={**state.errors, **errors}, notes=())

    def _chosen(self, state: State) -> dict[str, Tensor]:
        """Weights to quantize: real floating-point, not empty, not quantized before."""
        chosen = Selection(self.include, self.exclude, self.types).of(state.model, "KMeansQuantize")
        if again := [name for name in chosen if name in state.codebooks]:
            raise PipelineError(f"KMeansQuantize: {', '.join(again[:6])} already have a codebook from an earlier stage")
        return {name: weight for name, weight in chosen.items() if dtype_name(weight) in _SHARED_TYPES and weight.numel()}

    def _widths(self, weights: Mapping[str, Tensor], model: Model) -> dict[str, int]:
        """Weight name -> bits."""
        if not isinstance(self.bits, Mapping):
            return dict.fromkeys(weights, self.bits)
        found: dict[str, int] = {}
        for pattern, bits in self.bits.items():
            for name in _meant_by(pattern, weights, model):
                found.setdefault(name, bits)
        return {name: found[name] for name in weights if name in found}

    def _share(self, name: str, weight: Tensor, bits: int) -> Shared:
        """Give each nonzero its nearest shared value; the weight itself stays as it is."""
        values = _real_values(weight)
        if not (np.isfinite(values.min()) and np.isfinite(values.max())):
            bad = int(np.count_nonzero(~np.isfinite(values)))
            raise ModelError(f"{name}: {bad} of {values.size} weights are NaN or infinite; a codebook needs finite ones")
        return share_nonzeros(values, self._fit(name, nonzeros(values), dtype_name(weight), bits))

    def _fit(self, name: str, values: Array, own: str, bits: int) -> Array:
        """The values that a weight's nonzeros will share, zero perhaps among them."""
        centroids = fit_kmeans(values, 1 << bits, init=self.init, max_iter=self.max_iter, seed=self.seed)
        try:
            return round_centroids(values, centroids, dtype=self.codebook, own=own)
        except ParameterError:
            expected = f"'auto' or a type that serves {name!r} of {own}"
            raise ParameterError.of("codebook", "KMeansQuantize", expected, self.codebook) from None


@dataclass(frozen=True, eq=False)
class Finetune(Stage, TrainSettings):
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
        live = floating_weights(model)
        weights = {name: live[name] for name in state.codebooks}
        symbols = {name: _symbol_tensor(weight, state.codebooks[name]) for name, weight in weights.items()}
        centroids = {name: torch.from_numpy(book.centroids.astype(np.float64)) for name, book in state.codebooks.items()}
        moved, history = finetune_centroids(
            model, context.train, symbols, centroids, self, loss=context.loss, validate=context.validate,
            restore_best=self.restore_best, rest=self.rest, quiet=context.quiet,
        )  # fmt: skip
        codebooks = {}
        for name, weight in weights.items():
            codebooks[name] = _settle(weight, symbols[name], moved[name], state.codebooks[name])
        return replace(state, codebooks={**state.codebooks, **codebooks}, notes=(), history=history)


def _is_int(value: object, least: int, most: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _meant_by(pattern: str, weights: Mapping[str, Tensor], model: Model) -> list[str]:
    """Which of these weights a pattern means; its own name means a weight even where that reads as a pattern."""
    if pattern in weights:
        return [pattern]
    try:
        taken = Selection([pattern]).of(model, "KMeansQuantize")
    except ParameterError:
        taken = {}
    if found := [name for name in weights if name in taken]:
        return found
    there = ", ".join(map(repr, list(weights)[:6]))
    raise ParameterError.of("bits", "KMeansQuantize", f"keyed by patterns that match weights, such as {there}", pattern)


def _real_values(weight: Tensor) -> Array:
    """A weight's values in a type that numpy calculates in."""
    values = from_torch(weight)
    return bfloat16_to_float32(values) if dtype_name(weight) == "bfloat16" else values


def _write_shared(weight: Tensor, shared: Shared) -> None:
    own = dtype_name(weight)
    dtype = np.dtype("float32" if own == "bfloat16" else own)
    _write(weight, looked_up(shared.codebook, shared.symbols, dtype))


def _write(weight: Tensor, values: Array) -> None:
    with torch.no_grad():
        weight.copy_(torch.from_numpy(np.ascontiguousarray(values)).reshape(weight.shape))


def _symbol_tensor(weight: Tensor, codebook: Codebook) -> Tensor:
    shared = CompressedTensor.from_values(from_torch(weight), dtype_name(weight), codebook)
    return torch.from_numpy(shared.symbols.astype(np.int64)).reshape(shared.shape)


def _settle(weight: Tensor, symbols: Tensor, centroids: Tensor, before: Codebook) -> Codebook:
    """Round trained centroids to their storage type, write them into the weight, and put the codebook in order."""
    own = dtype_name(weight)
    trained = centroids.detach().cpu().double().numpy()
    rounded = round_to_type(trained, "bfloat16" if own == "bfloat16" else before.centroids.dtype.name)
    if not np.isfinite(rounded).all():
        rounded = round_to_type(trained, own)
    rounded = rounded + rounded.dtype.type(0)  # no -0.0: a centroid that becomes zero makes pruned weights
    table = np.concatenate([[0.0], rounded.astype(np.float64)])
    _write(weight, table[symbols.cpu().numpy()])
    distinct = np.unique(rounded)
    return Codebook(distinct[distinct != 0])
