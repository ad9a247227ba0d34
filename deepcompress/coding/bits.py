"""Numbers of a fixed width, packed into bytes from the least significant bit up."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from deepcompress.coding import kernels
from deepcompress.errors import FormatError, ParameterError

MAX_WIDTH = 32
_READ_BYTES = 8
Bytes = NDArray[np.uint8]
Symbols = NDArray[Any]


def symbol_dtype(alphabet: int) -> np.dtype[Any]:
    """The smallest of uint8, uint16 and uint32 that holds the symbols 0 to `alphabet` - 1.

    Raises:
        ParameterError: an alphabet below 0 or above 2**32.
    """
    for dtype in (np.uint8, np.uint16, np.uint32):
        if 0 <= alphabet <= 1 << 8 * np.dtype(dtype).itemsize:
            return np.dtype(dtype)
    raise ParameterError.of("alphabet", "symbol_dtype", "an int from 0 to 2**32", alphabet)


def as_symbols(values: Symbols, name: str, owner: str) -> Symbols:
    """`values`, flat and contiguous, in one of the three types that the kernels are compiled for, and not writable.

    Raises:
        ParameterError: they are no integers, not one-dimensional, or not in [0, 2**32).
    """
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "iub":
        raise ParameterError.of(name, owner, "a one-dimensional array of integers", f"{values.ndim}-d {values.dtype}")
    if values.dtype.kind != "u" or values.dtype.itemsize > 4:
        low, top = (int(values.min()), int(values.max())) if len(values) else (0, 0)
        if low < 0 or top >= 1 << 32:
            raise ParameterError.of(name, owner, "at least 0 and below 2**32", low if low < 0 else top)
        values = values.astype(symbol_dtype(top + 1))
    return sealed(values)


def sealed(values: Symbols) -> Symbols:
    """A contiguous view, native in byte order, that cannot be written: kernels meet one array type and compile once."""
    view = np.ascontiguousarray(values, values.dtype.newbyteorder("="))[:]
    view.flags.writeable = False
    return view


def readable(data: Bytes) -> Bytes:
    """`data` sealed, and with zeros behind it where it is shorter than the eight bytes that kernels read at once."""
    short = max(_READ_BYTES - len(data), 0)
    return sealed(np.concatenate([data, np.zeros(short, np.uint8)]) if short else data)


def pack_bits(values: Symbols, width: int) -> Bytes:
    """Concatenate `width` bits of each value, least significant first; the last byte is filled up with zeros.

    Args:
        values: (n,) integers in [0, 2**width).
        width: 0 to 32 bits; 0 gives no bytes.

    Returns:
        (ceil(n x width / 8),) bytes.

    Raises:
        ParameterError: a width out of range, or a value that does not fit it.
    """
    _check_width(width, "pack_bits")
    values = as_symbols(values, "values", "pack_bits")
    if len(values) and int(values.max()) >> width:
        raise ParameterError.of("values", "pack_bits", f"below 2**{width}", int(values.max()))
    out = np.zeros(byte_count(len(values) * width) + kernels.SLACK, np.uint8)
    if width:
        kernels.pack(values, width, out)
    return out[: -kernels.SLACK]


def unpack_bits(data: Bytes, width: int, count: int, dtype: DTypeLike) -> Symbols:
    """The `count` values of `width` bits that `pack_bits` made `data` of, as (count,) `dtype`.

    Raises:
        ParameterError: a width out of range, a negative count, or a type that does not hold `width` bits.
        FormatError: `data` is not ceil(count x width / 8) bytes long, or its padding is not zero.
    """
    _check_width(width, "unpack_bits")
    if count < 0:
        raise ParameterError.of("count", "unpack_bits", "at least 0", count)
    kind = np.dtype(dtype)
    if kind.kind not in "iu" or np.iinfo(kind).max < (1 << width) - 1:
        raise ParameterError.of("dtype", "unpack_bits", f"an integer type of {width} bits or more", str(kind))
    check_length(data, width * count, count)
    if not width:
        return np.zeros(count, kind)
    out = np.empty(count, symbol_dtype(1 << width))
    kernels.unpack(readable(data), width, out)
    return out.astype(kind, copy=False)


def byte_count(bits: int) -> int:
    """Bytes that hold so many bits."""
    return (bits + 7) >> 3


def check_length(data: Bytes, bits: int, count: int) -> None:
    """Raise FormatError unless `data` is what `count` symbols of `bits` bits in all fill, and ends in zero bits."""
    if byte_count(bits) != len(data):
        raise FormatError(f"{count} symbols take {byte_count(bits)} bytes ({bits} bits), there are {len(data)}")
    if bits & 7 and data[-1] >> (bits & 7):
        raise FormatError(f"the last {8 - (bits & 7)} bits are padding and must be zero, the last byte is {data[-1]:#04x}")


def _check_width(width: int, owner: str) -> None:
    if not 0 <= width <= MAX_WIDTH:
        raise ParameterError.of("width", owner, f"an int from 0 to {MAX_WIDTH}", width)
