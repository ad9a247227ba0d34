"""One-dimensional k-means: 32 values for millions of weights, with the index of each weight, on one thread.

Against scikit-learn's Lloyd with the same start, to convergence (at most 300 passes, as scikit-learn counts), on Gaussian
weights and on heavy-tailed ones of which the 60 % of least magnitude are pruned, where an even start leaves clusters empty;
against kmeans1d, which is optimal; and against `numpy.sort` of the same weights.

Inertia is measured alike for all: squared distances to the nearest of the centroids returned, summed in float64. (What
scikit-learn itself reports for millions of float32 weights is a float32 sum, off by some thousandths.)
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from _harness import Bench, Pair
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from deepcompress.coding.pool import limited
from deepcompress.quantize.kmeans import fit_kmeans, quantization_error
from deepcompress.tensors.codebook import nearest

Weights = NDArray[np.float32]
Found = tuple[NDArray[np.float64], NDArray[Any]]  # centroids; the index of each weight's
K = 32


def gaussian(count: int) -> Weights:
    return np.random.default_rng(0).standard_normal(count).astype(np.float32) * np.float32(0.05)


def pruned(count: int) -> Weights:
    """Student's t with three degrees of freedom; the 40 % of greatest magnitude are left."""
    drawn = np.random.default_rng(1).standard_t(3, count * 5 // 2).astype(np.float32) * np.float32(0.02)
    sizes = np.abs(drawn)
    kept: Weights = drawn[sizes > np.partition(sizes, len(drawn) - count - 1)[len(drawn) - count - 1]]
    return kept


def ours(weights: Weights, init: str) -> Found:
    centroids = fit_kmeans(weights, K, init=init)
    return centroids, nearest(centroids, weights)


def scikit_learn(weights: Weights) -> Found:
    from sklearn.cluster import KMeans

    start = np.linspace(weights.min(), weights.max(), K).reshape(-1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about passes that ran out
        found = KMeans(K, init=start, n_init=1, algorithm="lloyd", tol=0, max_iter=300).fit(weights.reshape(-1, 1))
    return found.cluster_centers_.ravel().astype(np.float64), found.labels_


def kmeans1d(weights: Weights) -> Found:
    import kmeans1d

    found = kmeans1d.cluster(weights, K)
    return np.array(found.centroids), np.array(found.clusters)


def check(bench: Bench, name: str, weights: Weights, pair: Pair, limit: float) -> None:
    """Indices name the nearest centroids, and inertia is at most `limit` times theirs."""
    centroids, indices = pair.our_result
    distances = [np.abs(weights - centroids[np.clip(indices.astype(np.int64) + step, 0, K - 1)]) for step in (-1, 0, 1)]
    if indices.dtype != np.uint8 or (distances[1] > np.minimum(distances[0], distances[2])).any():
        raise SystemExit(f"{name}: an index does not name the nearest centroid")
    inertia, theirs = quantization_error(weights, centroids), quantization_error(weights, pair.their_result[0])
    bench.data.setdefault("inertia", {})[name] = {"ours": inertia, "theirs": theirs, "ratio": inertia / theirs}
    if inertia > limit * theirs:
        raise SystemExit(f"{name}: inertia {inertia} is {inertia / theirs} times theirs, {theirs}")


def repeated(bench: Bench, weights: Weights, init: str, once: Pair) -> Pair:
    """More runs of ours: theirs take up to half a minute, so that once is enough."""
    again = bench.time(lambda: ours(weights, init), lambda: None)
    return Pair(again.ours, once.theirs * len(again.ours), again.our_result, once.their_result)


def against_scikit_learn(bench: Bench, name: str, weights: Weights) -> None:
    ours(weights[:5000], "linear"), scikit_learn(weights[:5000])  # compiles and imports
    pair = bench.time(lambda: ours(weights, "linear"), lambda: scikit_learn(weights), repeats=1, warm=0)
    pair = repeated(bench, weights, "linear", pair)
    check(bench, name, weights, pair, 1.000001)
    bench.at_least(300, f"k-means, {len(weights):,} {name} weights, k = {K}, with indices", "scikit-learn, the same start", pair)


def against_kmeans1d(bench: Bench, name: str, weights: Weights) -> None:
    ours(weights[:5000], "optimal"), kmeans1d(weights[:5000])
    pair = bench.time(lambda: ours(weights, "optimal"), lambda: kmeans1d(weights), warm=0, repeats=1)
    pair = repeated(bench, weights, "optimal", pair)
    check(bench, f"optimal, {name}", weights, pair, 1 + 1e-9)
    bench.at_least(10, f"optimal k-means, {len(weights):,} {name} weights, k = {K}, with indices", "kmeans1d", pair)


def against_sort(bench: Bench, name: str, weights: Weights) -> None:
    pair = bench.time(lambda: ours(weights, "linear"), lambda: np.sort(weights))
    bench.at_most(6, f"k-means, {len(weights):,} {name} weights, k = {K}, with indices", "numpy.sort", pair)


def main(arguments: list[str] | None = None) -> list[Any]:
    bench = Bench("kmeans", __doc__, arguments)
    samples: dict[str, Callable[[int], Weights]] = {"Gaussian": gaussian, "pruned heavy-tailed": pruned}
    with limited(1), threadpool_limits(1):
        for name, sample in samples.items():
            weights = sample(20_000 if bench.tiny else 4_000_000)
            bench.unless_missing("sklearn", partial(against_scikit_learn, bench, name, weights))
            against_sort(bench, name, weights)
        for name, sample in samples.items():
            bench.unless_missing("kmeans1d", partial(against_kmeans1d, bench, name, sample(bench.size(1_000_000))))
    return bench.finish()


if __name__ == "__main__":
    main(sys.argv[1:])
