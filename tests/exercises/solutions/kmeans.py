"""A right answer to `kmeans`."""

import numpy as np


def kmeans(values, centroids):
    centroids = centroids.copy()
    before = None
    while True:
        labels = np.abs(values[:, None] - centroids).argmin(axis=1)
        if before is not None and np.array_equal(labels, before):
            return labels, centroids
        before = labels
        for place in range(len(centroids)):
            if (labels == place).any():
                centroids[place] = values[labels == place].mean()
