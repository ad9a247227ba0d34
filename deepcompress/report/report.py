"""The whole report: every figure of one compression, taken from the file's bytes, and its ways out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcompress.errors import ParameterError
from deepcompress.report.choice import Choice
from deepcompress.report.pool import Pool, is_compressed
from deepcompress.report.rows import LayerRow, StageRow
from deepcompress.tensors.cost import KINDS, BitCount

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from deepcompress.report.han import HanTable

__all__ = ["Report"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """One compression, from the file's bytes up.

    Attributes:
        layers: a row per tensor of the state dict, in its order.
        stages: the model's way, in order; the first may be the model as it came.
        bits: of the whole file.
        dense_bytes: of the state dict, every tensor in its own dtype, ties once.
        file_bytes: of the file.
        notes: what a reader must know, such as leftovers stored as float16.
        environment: what it was measured with, `{name: version}`.
        choice: what was tried before, and why this was taken; None where nobody chose.

    Raises:
        ParameterError: `bits` is not exactly 8 x `file_bytes`, or is less than the layers' bits of a kind.
    """

    layers: tuple[LayerRow, ...]
    bits: BitCount
    dense_bytes: int
    file_bytes: int
    stages: tuple[StageRow, ...] = ()
    notes: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    choice: Choice | None = None

    def __post_init__(self) -> None:
        if self.file_bytes < 1:
            raise ParameterError.of("file_bytes", "Report", "at least 1", self.file_bytes)
        if self.bits.total != 8 * self.file_bytes:
            expected = f"8 x {self.file_bytes} bytes = {8 * self.file_bytes} bits in all"
            raise ParameterError.of("bits", "Report", expected, self.bits.total)
        parts = BitCount.sum(row.bits for row in self.layers)
        for kind in KINDS:
            whole, layers = getattr(self.bits, kind), getattr(parts, kind)
            if layers > whole:
                raise ParameterError.of("bits", "Report", f"at least the layers' {layers} bits of {kind}", whole)

    @property
    def file_ratio(self) -> float:
        """Dense bytes of the state dict / bytes of the file."""
        return self.dense_bytes / self.file_bytes

    @property
    def lab_ratio(self) -> float | None:
        """32 x weights / sum(nonzeros x mean code length of their indices), over quantized weights only.

        The formula of course labs, whatever representation the file chose; None where nothing is quantized or
        every quantized weight is zero.
        """
        pool = self.pool(quantized=True)
        bits = sum(row.nonzeros * (row.mean_code_length or 0.0) for row in pool.rows)
        return 32 * pool.weights / bits if bits else None

    @property
    def sparsity(self) -> float | None:
        """Zeros / all, over the weights that are quantized or pruned; None where there are none."""
        return self.pool(compressed=True).sparsity

    def pool(self, *, quantized: bool = False, compressed: bool = False) -> Pool:
        """The rows together: all, the quantized, or those quantized or pruned. Ties are left out."""
        rows = (row for row in self.layers if row.representation != "tie")
        chosen = (r for r in rows if (r.quantized or not quantized) and (is_compressed(r) or not compressed))
        return Pool(tuple(chosen))

    def to_text(self, width: int = 100) -> str:
        """Tables of at most `width` columns, 40 at least; no terminal is needed."""
        from deepcompress.report.terminal import report_text

        return report_text(self, width)

    def to_markdown(self) -> str:
        """GitHub-flavoured tables."""
        from deepcompress.report.markdown import report_markdown

        return report_markdown(self)

    def to_html(self, path: str | Path | None = None) -> str:
        """One self-contained page; also written to `path`, whole or not at all.

        Raises:
            StorageError: the path cannot be written.
        """
        from deepcompress.report.html import report_html, write_page

        page = report_html(self)
        if path is not None:
            write_page(page, Path(path))
        return page

    def han_table(self) -> HanTable:
        """The columns of Han et al. (2016), tables 2 to 5, for the quantized layers."""
        from deepcompress.report.han import HanTable

        return HanTable.of(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: the fields, and what is derived from them."""
        from deepcompress.report.serial import report_to_dict

        return report_to_dict(self)

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as JSON text; a number that is not finite is written as a string."""
        from deepcompress.report.serial import to_json

        return to_json(self.to_dict(), indent)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The report that `to_dict` came from.

        Raises:
            ParameterError: `data` is no such dict; the message says where it fails.
        """
        from deepcompress.report.serial import report_from_dict

        return report_from_dict(data)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `to_json` came from; errors as in `from_dict`."""
        from deepcompress.report.serial import report_from_json

        return report_from_json(text)

    def __str__(self) -> str:
        from shutil import get_terminal_size

        return self.to_text(get_terminal_size(fallback=(100, 24)).columns)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield Text(self.to_text(options.max_width), no_wrap=True, overflow="ignore")
