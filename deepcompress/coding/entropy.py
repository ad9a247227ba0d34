"""The floor that every code is measured against."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcompress.errors import ParameterError


def entropy(counts: NDArray[Any]) -> float:
    """Bits per symbol that no code for independent symbols can beat on average.

    Args:
        counts: (alphabet,) how often each symbol occurs, at least 0.

    Returns:
        -sum(p log2 p) with p = counts / sum(counts), in bits; 0.0 where nothing is counted or one symbol has it all.

    Raises:
        ParameterError: a negative count.

    Source: Shannon. A mathematical theory of communication. Bell System Technical Journal, 1948.
    """
    counts = np.asarray(counts)
    if counts.size and counts.min() < 0:
        raise ParameterError.of("counts", "entropy", "at least 0 everywhere", int(counts.min()))
    used = np.sort(counts[counts > 0]).astype(np.float64)
    if len(used) < 2:
        return 0.0
    most, rest = used[-1], used[:-1]
    total, others = used.sum(), rest.sum()
    # A share of nearly 1 has lost the digits that its logarithm is made of; the others' sum has them.
    return float((rest * np.log2(total / rest)).sum() / total + most / total * np.log1p(others / most) / np.log(2))
