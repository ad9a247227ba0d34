"""What a report is made of: a row per tensor, a row per stage. No formatting here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from deepcompress.errors import ParameterError
from deepcompress.report.histogram import Histogram
from deepcompress.tensors.cost import BitCount

__all__ = ["REPRESENTATIONS", "Histogram", "LayerRow", "StageRow"]

REPRESENTATIONS = ("gaps", "dense", "raw", "planes", "constant", "tie")


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One tensor of the file.

    Attributes:
        name: as in the state dict.
        shape, dtype: of the dense tensor.
        weights, nonzeros: how many scalars, and how many of them are not zero.
        representation: "gaps" (positions and indices), "dense" (indices with a zero symbol), "raw" (values as they are), "planes"
            (values cut into planes), "constant" (one value for all, in the header) or "tie" (another tensor's storage: it costs
            nothing and is counted nowhere).
        bits: of this tensor alone; what tensors share, and the header, belong to the file.
        quantized: its nonzeros are entries of a codebook, or levels of a grid.
        pruned: a mask is held over it.
        k, bit_width: centroids, or a grid's levels other than zero, and the bits of a fixed-width index.
        mean_code_length, entropy: bits per nonzero's index, Huffman-coded and at best, over the index alone.
        gap_bit_width, gap_symbols: bits of a fixed-width gap, and how many gaps there are, escapes included.
        rmse: root of the mean squared change of a weight by quantization, before any finetuning; None where it kept its values.

    Raises:
        ParameterError: counts that contradict each other.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    weights: int
    nonzeros: int
    representation: str
    bits: BitCount = field(default_factory=BitCount)
    quantized: bool = False
    pruned: bool = False
    k: int | None = None
    bit_width: int | None = None
    mean_code_length: float | None = None
    entropy: float | None = None
    gap_bit_width: int | None = None
    gap_symbols: int | None = None
    rmse: float | None = None
    histogram: Histogram | None = None

    def __post_init__(self) -> None:
        owner = f"LayerRow {self.name!r}"
        if self.weights != math.prod(self.shape):
            raise ParameterError.of("weights", owner, f"the product of its shape {self.shape}", self.weights)
        if not 0 <= self.nonzeros <= self.weights:
            raise ParameterError.of("nonzeros", owner, f"from 0 to its {self.weights} weights", self.nonzeros)
        if self.representation not in REPRESENTATIONS:
            raise ParameterError.of("representation", owner, f"one of {REPRESENTATIONS}", self.representation)
        if self.quantized and self.nonzeros and self.mean_code_length is None:
            raise ParameterError.of("mean_code_length", owner, "a number, for it is quantized", None)

    @property
    def sparsity(self) -> float:
        """Zeros / all; of no weights, 0."""
        return 1 - self.density if self.weights else 0.0

    @property
    def density(self) -> float:
        """Nonzeros / all; of no weights, 0."""
        return self.nonzeros / self.weights if self.weights else 0.0

    @property
    def bytes(self) -> float:
        """An eighth of its bits, so not always whole: a table may end within a byte."""
        return self.bits.total / 8

    @property
    def bits_per_weight(self) -> float | None:
        """All of its bits, side information included, over all its weights, zeros included."""
        return self.bits.total / self.weights if self.weights else None

    @property
    def index_bits(self) -> float | None:
        """Gap bits per nonzero; None where no gaps are stored."""
        return self.bits.gaps / self.nonzeros if self.representation == "gaps" and self.nonzeros else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: the fields, and what is derived from them."""
        from deepcompress.report.serial import layer_to_dict

        return layer_to_dict(self)


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """The model after one stage.

    Attributes:
        name, kind: the name that the pipeline gives it, and its class.
        sparsity: over the weights that are quantized or pruned in the end, 0 to 1.
        accuracy: what `evaluate` gave; None where it was not asked.
        seconds: of the stage, `evaluate` not included.
        notes: what the stage has to say, one sentence each.
    """

    name: str
    kind: str
    sparsity: float
    accuracy: float | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: the fields."""
        from deepcompress.report.serial import plain

        return dict(plain(self))
