"""A right answer to `kmeans`."""

import numpy as np


def kmeans(values, centroids):
    centroids = centroids.copy()
    before = None
    while True:
        indices = np.abs(values[:, None] - centroids).argmin(axis=1)
        if before is not None and np.array_equal(indices, before):
            return indices, centroids
        before = indices
        for place in range(len(centroids)):
            if (indices == place).any():
                centroids[place] = values[indices == place].mean()
