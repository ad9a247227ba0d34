"""Arguments and answers as text that a person can take in, however large they are."""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import Repr
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["call_text", "shown"]

_ITEMS = 16  # of an array or a list that are shown
_CHARACTERS = 80


class _Short(Repr):
    """Python's own shortened representations, with numbers as people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = _ITEMS
        self.maxstring = self.maxother = _CHARACTERS

    def repr_float(self, value: float, level: int) -> str:
        return f"{value:.7g}"

    def repr_ndarray(self, value: NDArray[Any], level: int) -> str:
        return _array(value)

    def repr1(self, x: Any, level: int) -> str:
        return super().repr1(x.item() if isinstance(x, np.generic) else x, level)


def shown(value: Any) -> str:
    """A value in one line."""
    return " ".join(_Short().repr(value).split())


def call_text(function: str, arguments: Mapping[str, Any]) -> str:
    """A call, with the arguments' names."""
    return f"{function}({', '.join(f'{name}={shown(value)}' for name, value in arguments.items())})"


def _array(array: NDArray[Any]) -> str:
    """The values, and what they do not say: the dtype, and the shape where values are left out."""
    large = array.size > _ITEMS
    values = array.reshape(-1) if large else array
    text = np.array2string(values, threshold=_ITEMS, edgeitems=4, separator=", ", formatter={"all": shown})
    return f"array({text}, {array.dtype}{f', shape {array.shape}' if large or not array.size else ''})"
