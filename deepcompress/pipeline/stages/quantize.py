"""The stage that shares weights: k-means finds the values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deepcompress.coding.denormals import denormals_kept
from deepcompress.coding.pool import run
from deepcompress.errors import ParameterError
from deepcompress.pipeline.selection import Selection
from deepcompress.pipeline.stage import Stage
from deepcompress.pipeline.stages.chosen import (
    SHARED_TYPES,
    check_bits,
    finite_values,
    is_int,
    quantizable,
    widths_of,
    write_values,
)
from deepcompress.pipeline.state import Context, State
from deepcompress.quantize.codebooks import round_centroids
from deepcompress.quantize.init import INITS
from deepcompress.quantize.kmeans import fit_kmeans
from deepcompress.quantize.sharing import Shared, looked_up, nonzeros, share_nonzeros
from deepcompress.tensors.elements import dtype_name

Array = NDArray[Any]

_STORAGE = ("auto", *SHARED_TYPES)


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
        check_bits(self.bits, owner)
        if self.init not in tuple(INITS):
            raise ParameterError.of("init", owner, f"one of {', '.join(INITS)}", self.init)
        if self.codebook not in _STORAGE:
            raise ParameterError.of("codebook", owner, f"one of {', '.join(_STORAGE)}", self.codebook)
        if not is_int(self.max_iter, 1):
            raise ParameterError.of("max_iter", owner, "an int of at least 1", self.max_iter)
        if not is_int(self.seed, 0):
            raise ParameterError.of("seed", owner, "an int of at least 0", self.seed)
        Selection(self.include, self.exclude, self.types).check(owner)

    @denormals_kept()
    def apply(self, state: State, context: Context) -> State:
        owner = type(self).__name__
        weights = quantizable(Selection(self.include, self.exclude, self.types), state, owner)
        widths = widths_of(self.bits, weights, state.model, owner)
        outcomes = run([partial(self._share, name, weights[name], bits) for name, bits in widths.items()])
        shared = dict(zip(widths, outcomes, strict=True))  # all of them are known before the first is written
        run([partial(_write_shared, weights[name], found) for name, found in shared.items()])
        codebooks = {name: found.codebook for name, found in shared.items()}
        errors = {name: found.error for name, found in shared.items()}
        return replace(state, codebooks={**state.codebooks, **codebooks}, errors={**state.errors, **errors}, notes=())

    def _share(self, name: str, weight: Tensor, bits: int) -> Shared:
        """Give each nonzero its nearest shared value; the weight itself stays as it is."""
        values = finite_values(name, weight, "a codebook")
        return share_nonzeros(values, self._fit(name, nonzeros(values), dtype_name(weight), bits))

    def _fit(self, name: str, values: Array, own: str, bits: int) -> Array:
        """The values that a weight's nonzeros will share, zero perhaps among them."""
        centroids = fit_kmeans(values, 1 << bits, init=self.init, max_iter=self.max_iter, seed=self.seed)
        try:
            return round_centroids(values, centroids, dtype=self.codebook, own=own)
        except ParameterError:
            expected = f"'auto' or a type that serves {name!r} of {own}"
            raise ParameterError.of("codebook", "KMeansQuantize", expected, self.codebook) from None


def _write_shared(weight: Tensor, shared: Shared) -> None:
    own = dtype_name(weight)
    dtype = np.dtype("float32" if own == "bfloat16" else own)
    write_values(weight, looked_up(shared.codebook, shared.symbols, dtype))
