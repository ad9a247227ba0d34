"""The columns of Han et al., to set a compression beside the paper's.

Source: Han, Mao, Dally. Deep Compression. ICLR 2016, tables 2 to 5. arXiv:1510.00149. P: pruning, Q: quantization,
H: Huffman coding. The paper stores a zero-valued weight where a gap is too long; an escape costs a gap and no weight.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from deepcompress.report.pool import Pool

if TYPE_CHECKING:
    from deepcompress.report.report import Report
    from deepcompress.report.rows import LayerRow

__all__ = ["HanRow", "HanTable"]

_FLOAT_BITS = 32  # the paper's dense weight


@dataclass(frozen=True, kw_only=True)
class HanRow:
    """One line. Shares are fractions of 1; None where the paper's column has no meaning.

    Attributes:
        layer: its name, or "Total".
        weights: #Weights, zeros included.
        kept: Weights% (P), nonzeros / weights.
        weight_bits_pq: Weight bits (P+Q), a fixed-width index's bits.
        weight_bits_pqh: Weight bits (P+Q+H), the mean code length of a nonzero's index.
        index_bits_pq: Index bits (P+Q), a fixed-width gap's bits.
        index_bits_pqh: Index bits (P+Q+H), Huffman-coded gap bits per nonzero, escapes included.
        rate_pq: Compress rate (P+Q), (indices and gaps in fixed width + codebook) / (32 x weights).
        rate_pqh: Compress rate (P+Q+H), all bits that the file spends on the layer / (32 x weights).
    """

    layer: str
    weights: int
    kept: float
    weight_bits_pq: float | None = None
    weight_bits_pqh: float | None = None
    index_bits_pq: float | None = None
    index_bits_pqh: float | None = None
    rate_pq: float | None = None
    rate_pqh: float | None = None


@dataclass(frozen=True)
class HanTable:
    """A line per quantized layer, then "Total"; where nothing is quantized, no line."""

    rows: tuple[HanRow, ...]

    @classmethod
    def of(cls, report: Report) -> HanTable:
        """The quantized layers of a report."""
        layers = report.pool(quantized=True).rows
        if not layers:
            return cls(())
        return cls((*(_line(row.name, (row,)) for row in layers), _line("Total", layers)))

    def to_text(self, width: int = 100) -> str:
        """A table of at most `width` columns, 40 at least."""
        from deepcompress.report.tables import han_table
        from deepcompress.report.terminal import table_text

        return table_text(han_table(self), width)

    def to_markdown(self) -> str:
        """A GitHub-flavoured table."""
        from deepcompress.report.markdown import table_markdown
        from deepcompress.report.tables import han_table

        return table_markdown(han_table(self))

    def to_dict(self) -> list[dict[str, Any]]:
        """JSON-able: a dict per line."""
        return [asdict(row) for row in self.rows]

    def __str__(self) -> str:
        from shutil import get_terminal_size

        return self.to_text(get_terminal_size(fallback=(100, 24)).columns)


def _line(name: str, rows: tuple[LayerRow, ...]) -> HanRow:
    pool = Pool(rows)
    gaps = [(row.nonzeros, row.gap_bit_width) for row in rows if row.gap_bit_width is not None]
    nonzeros = sum(count for count, _ in gaps)
    dense = _FLOAT_BITS * pool.weights
    return HanRow(
        layer=name,
        weights=pool.weights,
        kept=pool.nonzeros / pool.weights if pool.weights else 0.0,
        weight_bits_pq=pool.bit_width,
        weight_bits_pqh=pool.mean_code_length,
        index_bits_pq=sum(count * width for count, width in gaps) / nonzeros if nonzeros else None,
        index_bits_pqh=pool.index_bits,
        rate_pq=_fixed_bits(rows) / dense if dense else None,
        rate_pqh=pool.bits.total / dense if dense else None,
    )


def _fixed_bits(rows: tuple[LayerRow, ...]) -> int:
    return sum(_fixed_index_bits(row) + row.bits.codebook for row in rows)


def _fixed_index_bits(row: LayerRow) -> int:
    """The layer without Huffman coding: in the representation that the file chose, each symbol in fixed width."""
    width = row.bit_width or 0
    if row.representation == "gaps":
        return row.nonzeros * width + (row.gap_symbols or 0) * (row.gap_bit_width or 0)
    if row.representation == "raw":
        return row.bits.dense
    if row.nonzeros < row.weights:  # one more symbol, for zero
        width = (row.k or 0).bit_length()
    return row.weights * width
