"""Numbers and names as a reader sees them, the same in every format."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = [
    "bits",
    "exact",
    "integer",
    "percent",
    "printable",
    "ratio",
    "rmse",
    "score",
    "scores_are_shares",
    "seconds",
    "size",
]


def integer(value: float | None) -> str:
    """1234567 -> "1,234,567"."""
    return "" if value is None else f"{value:,.0f}"


def percent(value: float | None, places: int = 2) -> str:
    """0.9531 -> "95.31%"."""
    return "" if value is None else f"{100 * value:.{places}f}%"


def bits(value: float | None) -> str:
    """A mean number of bits: 4.2049 -> "4.20"."""
    return "" if value is None else f"{value:.2f}"


def exact(value: float | None) -> str:
    """A bit width: "5", and "5.3" where it is a mean."""
    return "" if value is None else f"{value:.0f}" if value == int(value) else f"{value:.2f}"


def ratio(value: float | None) -> str:
    """33.94 -> "33.9x"."""
    if value is None:
        return "-"
    return f"{value:.2f}x" if value < 10 else f"{value:,.1f}x"


def rmse(value: float | None) -> str:
    """Five places where they say something, else the exponent: "0.01234", "1.2e-07"."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    return f"{value:.5f}" if 1e-4 <= value < 10 else f"{value:.1e}"


def seconds(value: float) -> str:
    """12.34 -> "12.3"."""
    return f"{value:,.1f}"


def size(count: float) -> str:
    """Bytes as people say them, in powers of 1000: 32123 -> "32.1 kB"."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while count >= 999.5 and len(units) > 1:
        count /= 1000
        del units[0]
    places = 0 if units[0] == "bytes" or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:,.{places}f} {units[0]}"


def scores_are_shares(values: Iterable[float | None]) -> bool:
    """Whether what `evaluate` gave reads as an accuracy, a fraction of 1."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return bool(known) and all(0 <= value <= 1 for value in known)


def score(value: float | None, *, share: bool) -> str:
    """An accuracy: "91.73%", or as it is where it is no fraction."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value)
    return percent(value) if share else f"{value:.5g}"


def printable(name: str) -> str:
    """A name without control characters, surrogates or line ends: a file may bring any, a terminal obeys them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
