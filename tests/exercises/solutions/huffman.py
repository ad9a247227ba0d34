"""A right answer to `huffman`."""

import heapq

import numpy as np


def count_indices(weights, centroids):
    kept = weights[weights != 0]
    indices = np.abs(kept[:, None] - centroids).argmin(axis=1)
    return np.bincount(indices, minlength=len(centroids)).tolist()


def codewords(counts):
    words = [""] * len(counts)
    heap = [(count, [symbol]) for symbol, count in enumerate(counts) if count > 0]
    heapq.heapify(heap)
    if len(heap) == 1:
        words[heap[0][1][0]] = "0"
    while len(heap) > 1:
        nodes = [heapq.heappop(heap), heapq.heappop(heap)]
        for bit, (_, symbols) in zip("01", nodes, strict=True):
            for symbol in symbols:
                words[symbol] = bit + words[symbol]
        heapq.heappush(heap, (nodes[0][0] + nodes[1][0], nodes[0][1] + nodes[1][1]))
    return words
