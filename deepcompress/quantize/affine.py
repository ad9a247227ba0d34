"""Affine quantization: numbers as small integers on a uniform grid, and back."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepcompress.coding.denormals import denormals_kept
from deepcompress.errors import ParameterError
from deepcompress.quantize.rounding import check_rounding, round_into
from deepcompress.quantize.uniform import ends_of, fit_uniform
from deepcompress.tensors.affine import AffineMap, by_channel
from deepcompress.tensors.elements import bfloat16_to_float32, from_torch, to_torch

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]
Floats = NDArray[np.float64]

_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, eq=False)
class AffineArray:
    """Numbers as integers: value = scale x (code - zero_point). Arrays, or tensors of the device that the values were on.

    Attributes:
        codes: the values' shape; uint8 or uint16, the smallest that has `bits`, and of a symmetric grid int8 or int16.
        scale: () or, per channel, (channels,); above zero; float32, of float64 values float64.
        zero_point: the code of zero, int32, the shape of `scale`; 0 of a symmetric grid.
        bits: 1 to 16.
        axis: the dimension of the channels, at least 0; None for one scale.
        dtype: of the values, "float32" and so on.
    """

    codes: Any
    scale: Any
    zero_point: Any
    bits: int
    axis: int | None
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The values' shape."""
        return tuple(self.codes.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points: 8 more than those of the codes, or 8 per channel."""
        return int(self.codes.nbytes + self.scale.nbytes + self.zero_point.nbytes)


@denormals_kept()
def quantize_affine(
    values: ArrayLike | Tensor,
    bits: int = 8,
    *,
    axis: int | None = None,
    symmetric: bool = False,
    rounding: str = "nearest-even",
    seed: int = 0,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
) -> AffineArray:
    """Round values to 2**bits levels at equal distances, zero always among them.

    Args:
        values: an array or a tensor of any shape, finite: float16, bfloat16, float32, float64 or integers (which are taken as
            float32, those of 32 and 64 bits as float64).
        bits: 1 to 16.
        axis: the dimension of the channels, each of which gets its own scale; None for one scale.
        symmetric: as many levels below zero as above it: 2**bits - 1 in all, with one bit zero and a level on the side of the
            farther end of the range. Else the range decides where zero is.
        rounding: "nearest-even": no error is above half a step. "stochastic": up or down by chance, so that the expectation is
            the value; the error is below a step. For that no end of the range may lie outside the grid, which makes the step
            a little longer (see `fit_uniform`).
        seed: of "stochastic".
        low, high: the range, a number or one per channel, by default that of the values. Zero is put into it where it is
            outside. A value beyond the grid takes its last level.

    Returns:
        Codes, scale and zero point, arrays or tensors as `values` is. Values that are all zero have the scale 1.

    Raises:
        ParameterError: values that are not finite real numbers, or another argument out of its range.

    Source: Jacob et al. Quantization and training of neural networks for efficient integer-arithmetic-only inference. CVPR
    2018, sec. 2.1 and 3. arXiv:1712.05877.
    """
    _check_arguments(bits, symmetric, rounding, seed)
    array, dtype = _as_floats(_as_array(values))
    channel = _checked_axis(axis, array.ndim)
    cut = array.reshape(by_channel(array.shape, channel))
    least, most = _range(cut, low, high)
    kind = "float64" if dtype == "float64" else "float32"
    grid = fit_uniform(least, most, bits, symmetric=symmetric, cover=rounding == "stochastic", types=(dtype, kind))
    zero = np.zeros_like(grid.lowest) if symmetric else -grid.lowest
    codes = np.empty(cut.shape, f"{'int' if symmetric else 'uint'}{8 if bits <= 8 else 16}")
    round_into(codes, cut, grid, zero, rounding, seed)
    scale = grid.step.astype(kind)
    sides, device = () if channel is None else scale.shape, _device(values)
    shapes = (array.shape, sides, sides)
    codes, scale, zero = (
        _on(device, part.reshape(shape))
        for part, shape in zip((codes, scale, zero.astype(np.int32)), shapes, strict=True)
    )  # fmt: skip
    return AffineArray(codes, scale, zero, int(bits), channel, dtype)


@denormals_kept()
def dequantize_affine(quantized: AffineArray) -> Any:
    """The values that the codes stand for, scale x (code - zero_point): an array or a tensor, as the codes are, of the type that
    the values had (float32 or float64 for integers).

    Raises:
        ParameterError: `quantized` is no AffineArray.
    """
    if not isinstance(quantized, AffineArray):
        raise ParameterError.of("quantized", "dequantize_affine", "an AffineArray", type(quantized).__name__)
    codes, scale, zero = (_as_array(part) for part in (quantized.codes, quantized.scale, quantized.zero_point))
    found = AffineMap.of(scale.reshape(-1), zero.reshape(-1), codes.shape, quantized.axis, quantized.dtype)
    values = found.values(np.ascontiguousarray(codes).reshape(-1)).reshape(codes.shape)
    return _on(_device(quantized.codes), values, quantized.dtype)


def _check_arguments(bits: object, symmetric: object, rounding: object, seed: object) -> None:
    owner = "quantize_affine"
    if isinstance(bits, bool) or not isinstance(bits, int | np.integer) or not 1 <= bits <= 16:
        raise ParameterError.of("bits", owner, "an integer from 1 to 16", bits)
    if not isinstance(symmetric, bool | np.bool_):
        raise ParameterError.of("symmetric", owner, "True or False", symmetric)
    check_rounding(rounding, seed, owner)


def _device(values: object) -> Any:
    """The device of a tensor; None of anything else. A tensor is here only where torch is."""
    torch = sys.modules.get("torch")
    return values.device if torch is not None and isinstance(values, torch.Tensor) else None


def _as_array(values: Any) -> Array:
    return np.asarray(values) if _device(values) is None else from_torch(values)


def _on(device: Any, array: Array, name: str | None = None) -> Any:
    """An array as a tensor on the device, of torch's dtype `name`; itself where there is no device."""
    return array if device is None else to_torch(array, name or array.dtype.name).to(device)


def _as_floats(values: Array) -> tuple[Array, str]:
    """Values in a type that kernels calculate in, contiguous, and the name of the type that they come back in."""
    tags: Any = values.dtype.metadata or {}
    name = tags.get("torch_dtype", values.dtype.name)
    if name == "bfloat16":
        return np.ascontiguousarray(bfloat16_to_float32(values)).reshape(values.shape), name
    if name not in _FLOATS and (values.dtype.kind not in "iu" or name != values.dtype.name):
        expected = f"real numbers: {', '.join(_FLOATS)} or integers"
        raise ParameterError.of("values", "quantize_affine", expected, name)
    kind = np.promote_types(values.dtype, np.float32)
    return np.ascontiguousarray(values, kind).reshape(values.shape), name if name in _FLOATS else kind.name


def _checked_axis(axis: object, dimensions: int) -> int | None:
    if axis is None:
        return None
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer) or not -dimensions <= axis < dimensions:
        expected = f"None or a dimension of the values, which have {dimensions}"
        raise ParameterError.of("axis", "quantize_affine", expected, axis)
    return int(axis) % dimensions


def _range(cut: Array, low: ArrayLike | None, high: ArrayLike | None) -> tuple[Floats, Floats]:
    """(channels,) each: the ends of the range, as given or those of the values, which must be finite either way."""
    channels, (least, most) = cut.shape[1], ends_of(cut)
    if not np.isfinite([least, most]).all():
        bad = int(np.count_nonzero(~np.isfinite(cut)))
        raise ParameterError(f"quantize_affine: {bad} of {cut.size} values are NaN or infinite; a grid needs finite ones")
    least = least if low is None else _given("low", low, channels)
    most = most if high is None else _given("high", high, channels)
    if np.any(least > most):
        name, end = ("high", high) if low is None else ("low", low)
        raise ParameterError.of(name, "quantize_affine", "such that low <= high", end)
    return least, most


def _given(name: str, end: ArrayLike, channels: int) -> Floats:
    """An end of the range that the caller knows, for each channel."""
    try:
        known = np.broadcast_to(_as_array(end).astype(np.float64), (channels,))
    except (TypeError, ValueError):
        known = np.full(1, np.nan)
    if not np.isfinite(known).all():
        raise ParameterError.of(name, "quantize_affine", f"a finite number, or one for each of {channels} channels", end)
    return known
