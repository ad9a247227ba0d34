"""Eight bytes of an array at once, from any byte on, for compiled code.

Each access is a machine instruction on a raw address, which no bounds check sees: a caller has proven that the bytes are
there. With `DEEPCOMPRESS_CHECKED=1` the same names are loops over array elements, which numba checks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

from deepcompress.coding.jit import CHECKED


def _address(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(builder.bitcast(data, ir.IntType(8).as_pointer()), [at])


def _load64(typing: Any, data: Any, at: Any) -> Any:
    """The eight bytes data[at:at + 8] as uint64, the first one lowest."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[0], arguments[0], arguments[1])
        return builder.load(builder.bitcast(address, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(data, types.uint64), generate


def _store_low(typing: Any, out: Any, at: Any, word: Any) -> Any:
    """Write the bytes of `word`, uint32 or uint64, to out[at:at + 4] or out[at:at + 8], the lowest one first."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[0], arguments[0], arguments[1])
        builder.store(arguments[2], builder.bitcast(address, arguments[2].type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(out, types.uint64, word), generate


def _leading_zeros(typing: Any, word: Any) -> Any:
    """How many zero bits a nonzero uint64 begins with, from the top."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], context.get_constant(types.boolean, 1))

    return types.uint64(types.uint64), generate


def _load64_checked(data: Any, at: Any) -> Any:
    word = np.uint64(0)
    for i in range(8):  # unsigned, as an index below zero would count from the end
        word |= np.uint64(data[np.uint64(at) + np.uint64(i)]) << np.uint64(8 * i)
    return word


def _store_checked(out: Any, at: Any, word: Any) -> Any:
    """Chosen by the type of `word`, which numba asks for here: the loop that it compiles."""
    size = word.bitwidth // 8

    def store(out: Any, at: Any, word: Any) -> None:
        for i in range(size):
            out[np.uint64(at) + np.uint64(i)] = np.uint8(np.uint64(word) >> np.uint64(8 * i))

    return store


def _twin(name: str, implementation: Any) -> Any:
    """A name that compiled code calls and whose loop is chosen by the types of its arguments."""

    def stand_in(*_: Any) -> None:
        """Only compiled code calls this."""

    stand_in.__name__ = name
    overload(stand_in, inline="always")(implementation)
    return stand_in


leading_zeros: Any = intrinsic(_leading_zeros)
load64: Any = njit(inline="always")(_load64_checked) if CHECKED else intrinsic(_load64)
store_low: Any = _twin("store_low", _store_checked) if CHECKED else intrinsic(_store_low)
