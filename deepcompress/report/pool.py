"""Rows taken together: every figure of a layer, over many."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from deepcompress.report.rows import LayerRow
from deepcompress.tensors.cost import BitCount

__all__ = ["Pool", "is_compressed"]


def is_compressed(row: LayerRow) -> bool:
    """Quantized or pruned: what a stage has chosen, as against what merely comes along."""
    return row.quantized or row.pruned


@dataclass(frozen=True)
class Pool:
    """Some rows as if they were one tensor; of one row, that row's own figures."""

    rows: tuple[LayerRow, ...]

    @property
    def weights(self) -> int:
        """Scalars; a tie brings none, for they are counted under their first name."""
        return sum(row.weights for row in self.rows if row.representation != "tie")

    @property
    def nonzeros(self) -> int:
        """Scalars that are not zero, ties left out as in `weights`."""
        return sum(row.nonzeros for row in self.rows if row.representation != "tie")

    @property
    def sparsity(self) -> float | None:
        """Zeros / all; None of no weights."""
        return (self.weights - self.nonzeros) / self.weights if self.weights else None

    @property
    def bits(self) -> BitCount:
        """The rows' bits, summed."""
        return BitCount.sum(row.bits for row in self.rows)

    @property
    def bits_per_weight(self) -> float | None:
        """All bits over all weights."""
        return self.bits.total / self.weights if self.weights else None

    @property
    def bit_width(self) -> float | None:
        """Bits of a fixed-width index, mean per nonzero."""
        return self._per_nonzero(lambda row: row.bit_width)

    @property
    def mean_code_length(self) -> float | None:
        """Bits of a nonzero's Huffman-coded index."""
        return self._per_nonzero(lambda row: row.mean_code_length)

    @property
    def entropy(self) -> float | None:
        """The floor of `mean_code_length`, each layer having its own code."""
        return self._per_nonzero(lambda row: row.entropy)

    @property
    def index_bits(self) -> float | None:
        """Gap bits per nonzero, over the rows that store gaps."""
        return self._per_nonzero(lambda row: row.index_bits)

    @property
    def rmse(self) -> float | None:
        """Root of the mean squared change, over the weights of the rows that know theirs."""
        known = [(row.weights, row.rmse) for row in self.rows if row.rmse is not None and row.weights]
        total = sum(weights for weights, _ in known)
        return math.hypot(*(rmse * math.sqrt(weights / total) for weights, rmse in known)) if known else None

    def _per_nonzero(self, of: Callable[[LayerRow], float | None]) -> float | None:
        known = [(row.nonzeros, value) for row in self.rows if (value := of(row)) is not None]
        total = sum(nonzeros for nonzeros, _ in known)
        if not total:
            return known[0][1] if len(known) == 1 else None
        return sum(nonzeros * value for nonzeros, value in known) / total
