"""`deepcompress inspect`: what a .dcz file says of itself, from its head and directory; nothing is decoded."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from deepcompress.cli.console import Outcome

_NUMBERS = (3, 4, 5)  # columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the .dcz file")


def run(options: argparse.Namespace) -> Outcome:
    from deepcompress.tensors.model import open as open_model

    with open_model(options.file, framework="numpy") as model:
        data = {"file": options.file, **model.inspect()}
    return Outcome(data, _render(data))


def _render(data: Mapping[str, Any]) -> str:
    return "\n".join([_summary(data), *data["notes"], "", _tensors(data["tensors"]), "", _bits(data)])


def _summary(data: Mapping[str, Any]) -> str:
    return (
        f"{data['file']}: format {data['format']}, {len(data['tensors'])} tensors, {data['file_bytes']:,} bytes, "
        f"{data['file_ratio']:.2f} times smaller than the {data['dense_bytes']:,} bytes of its tensors"
    )


def _tensors(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line per tensor, as wide as it has to be: names are to be copied and searched for."""
    cells = [("tensor", "dtype", "shape", "centroids", "nonzeros", "bytes", "stored as"), *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(_line(row, widths) for row in cells)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    placed = (
        cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(placed).rstrip()


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    shape = "x".join(map(str, row["shape"])) or "scalar"
    counts = ("" if row[key] is None else f"{row[key]:,}" for key in ("centroids", "nonzeros", "bytes"))
    return row["name"], row["dtype"], shape, *counts, _stored_as(row)


def _stored_as(row: Mapping[str, Any]) -> str:
    if row["tie"]:
        return f"= {row['tie']}"
    parts = [row["representation"], *([row["codec"]] if row["codec"] else [])]
    if row["stored"] != row["dtype"]:
        parts.append(row["stored"])
    if row["scales"] is not None:
        parts.append(f"{row['scales']:,} scale{'' if row['scales'] == 1 else 's'}")
    return ", ".join(dict.fromkeys(parts))


def _bits(data: Mapping[str, Any]) -> str:
    """Where the bytes of the file go; bits that share a byte are told as a fraction."""
    parts = (f"{kind.replace('_', ' ')} {bits / 8:,.10g}" for kind, bits in data["bits"].items() if bits)
    return f"bytes by purpose: {', '.join(parts)}"
