"""Compile once, before any test with a deadline runs."""

from __future__ import annotations

import numpy as np
import pytest

from deepcompress.quantize.affine import dequantize_affine, quantize_affine
from deepcompress.quantize.init import INITS
from deepcompress.quantize.kmeans import fit_kmeans, quantization_error
from deepcompress.quantize.sharing import nonzeros, share_nonzeros
from deepcompress.quantize.sort import ascending
from deepcompress.quantize.sums import run_mean, sorted_values


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    for dtype in (np.float32, np.float64):
        ascending(np.arange(9000, dtype=dtype))
        values = np.array([0, 1, 2, 9], dtype)
        share_nonzeros(nonzeros(values), values)
        for init in INITS:
            quantization_error(values, fit_kmeans(values, 3, init=init))
        run_mean(sorted_values(values), 0, 2)
        for bits, symmetric in ((8, False), (16, False), (8, True), (16, True)):
            dequantize_affine(quantize_affine(values, bits, symmetric=symmetric))
