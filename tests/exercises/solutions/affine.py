"""A right answer to `affine`."""

import numpy as np


def quantize(values):
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    scale = float(high - low) / 255 or 1.0
    zero_point = round(-float(low) / scale)
    codes = np.clip(np.round(values / scale) + zero_point, 0, 255).astype(np.uint8)
    return codes, scale, zero_point


def dequantize(codes, scale, zero_point):
    return scale * (codes.astype(float) - zero_point)
