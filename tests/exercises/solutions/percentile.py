"""A right answer to `percentile`."""

import numpy as np


def threshold(weights, q):
    magnitudes = np.sort(np.abs(weights), axis=None)
    place = q * (len(magnitudes) - 1)
    lower = int(place)
    upper = min(lower + 1, len(magnitudes) - 1)
    return magnitudes[lower] + (place - lower) * (magnitudes[upper] - magnitudes[lower])
