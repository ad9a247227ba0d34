"""A real ratio as an integer multiplier and a shift, and accumulators brought back to codes with it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deepcompress.errors import ParameterError

MOST = 2**31 - 1  # of a signed 32-bit integer
_POINT = 31  # the multiplier is a fraction in Q31: it stands for multiplier / 2^31


def fixed_multiplier(real: float) -> tuple[int, int]:
    """The integers with which a processor without floats multiplies by a real number: multiplier x 2^-(31 + shift).

    Args:
        real: above 0 and below 2^31: input scale x weight scale / output scale, usually between 0 and 1.

    Returns:
        multiplier: in [2^30, 2^31), so that it fits a signed 32-bit integer and its relative error is at most 2^-31. It is 0
            for ratios below 2^-32, which bring every 32-bit accumulator to 0.
        shift: bits to shift right besides the 31 of Q31, from -31 (to the left) to 31.

    Raises:
        ParameterError: `real` is not in that range.

    Source: Jacob et al. Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference. CVPR 2018,
    sec. 2.2, eq. 6: M = 2^-n M0 with M0 in [0.5, 1). arXiv:1712.05877.
    """
    if not (math.isfinite(real) and 0 < real < 2**31):
        raise ParameterError.of("real", "fixed_multiplier", "a number above 0 and below 2^31", real)
    fraction, exponent = math.frexp(real)
    multiplier = round(fraction * 2**_POINT)
    if multiplier == 2**_POINT:  # 0.9999999999 rounds up to 1
        multiplier, exponent = multiplier // 2, exponent + 1
    if exponent > _POINT:  # just below 2^31
        multiplier, exponent = MOST, _POINT
    return (0, 0) if exponent < -_POINT else (multiplier, -exponent)


def requantize(
    accumulators: Tensor, multiplier: Tensor | int, shift: Tensor | int, *, zero_point: int, lowest: int, highest: int
) -> Tensor:
    """Codes from accumulators, in 64-bit integers.

        code = clamp(((accumulator x multiplier + 2^(s - 1)) >> s) + zero_point, lowest, highest),  s = 31 + shift

    One rounding, to the nearest integer, halves up (towards plus infinity), as TFLite's single-rounding mode has it; the shift is
    arithmetic. gemmlowp rounds twice, at bit 31 (halves away from zero) and then at the shift: where the first rounding makes a
    half, it gives the neighbour.

    Args:
        accumulators: int32 (or int64 that fits), any shape.
        multiplier, shift: of `fixed_multiplier`; integers, or integer tensors that broadcast against the accumulators.
        zero_point: of the output.
        lowest, highest: codes, of the output's grid or, with a ReLU, the narrower range that it leaves.

    Source: Jacob et al. 2018, sec. 2.2 and 2.4.
    """
    total = torch.as_tensor(shift, dtype=torch.int64) + _POINT
    products = accumulators.to(torch.int64) * torch.as_tensor(multiplier, dtype=torch.int64)
    half = (torch.ones_like(total) << total) >> 1
    return (((products + half) >> total) + zero_point).clamp_(lowest, highest)
