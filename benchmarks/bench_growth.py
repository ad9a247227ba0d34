"""How time and memory grow from 1 M to 256 M weights: k-means (5 bits), encode, decode.

    python benchmarks/bench_growth.py [--largest MILLIONS]

Gaussian weights in one tensor. Each size and step runs in a fresh process, after a small run that loads the kernels; the time is
the median of up to three such processes, the memory the peak above the level just before the step (see _process.py). The fitted
exponent is the slope of the logarithms: 1 is linear; above 1.1 counts as more than linear. Results are checked in each process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _harness import Bench
from _process import can_measure_memory, peak_above_level, run_python
from _streams import PART, gaussian_symbols
from numpy.typing import NDArray

_HERE = str(Path(__file__).resolve())
_WARM = 1 << 18
_LIMIT = 1.1
Points = dict[str, list[dict[str, float]]]


def quantize(count: int) -> Callable[[], Any]:
    """The stage on one tensor; it puts shared values in place of the weights."""
    import torch

    import deepcompress as dc
    from deepcompress.pipeline.state import Context, State

    weights = np.random.default_rng(0).standard_normal(count, np.float32).reshape(-1, 64)
    stage = dc.KMeansQuantize(bits=5)

    def work() -> Any:
        return stage.apply(State({"w": torch.from_numpy(weights)}), Context(quiet=True))

    return work


def check_quantized(state: Any) -> None:
    values = np.unique(state.model["w"][:4096].numpy())
    if not 16 < len(values) <= 32:
        raise SystemExit(f"{len(values)} shared values in place of 32")


def compressed(count: int) -> tuple[Any, NDArray[np.float32]]:
    """A tensor as quantization leaves it, and its values."""
    from deepcompress.tensors.codebook import Codebook
    from deepcompress.tensors.compressed import CompressedTensor

    centroids = ((np.arange(32) - 15.5) / 8).astype(np.float32)
    symbols = gaussian_symbols(count) + np.uint8(1)
    return CompressedTensor((count,), "float32", Codebook(centroids), symbols), centroids


def encode(count: int) -> Callable[[], Any]:
    from deepcompress.tensors.build import build_model
    from deepcompress.tensors.streams import Encoding

    tensor, _ = compressed(count)
    return lambda: build_model([("w", tensor)], Encoding())


def decode(count: int) -> Callable[[], Any]:
    import deepcompress as dc

    data = encode(count)().to_bytes()
    return lambda: dc.load(data, framework="numpy")["w"]


def check_decoded(values: NDArray[np.float32]) -> None:
    """All of the first part, and that the others are centroids: drawing them all again would take more memory than the step."""
    _, centroids = compressed(1)
    first = values[:PART]
    if not np.array_equal(first, centroids[gaussian_symbols(len(first))]):
        raise SystemExit("decoded weights differ from those that were encoded")
    for start in range(PART, len(values), PART):
        if not np.isin(values[start : start + PART], centroids).all():
            raise SystemExit("decoded weights are no centroids")


STEPS: dict[str, tuple[Callable[[int], Callable[[], Any]], Callable[[Any], None]]] = {
    "k-means, 5 bits": (quantize, check_quantized),
    "encode": (encode, lambda model: check_decoded(model.numpy()["w"])),
    "decode": (decode, check_decoded),
}


def run_step(step: str, count: int) -> dict[str, float]:
    """The step once small, which loads the kernels, and once in full: its seconds, and its peak."""
    make, check = STEPS[step]
    make(_WARM)()
    work = make(count)
    np.ones(2 * count)  # a virtual machine gets memory from its host at the first touch: that is not to be timed
    seconds: list[float] = []

    def clocked() -> Any:
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
        return result

    result, peak = peak_above_level(clocked) if can_measure_memory() else (clocked(), 0)
    check(result)
    return {"seconds": seconds[0], "peak": peak}


def measure(step: str, count: int, bench: Bench) -> dict[str, float]:
    """Medians of some fresh processes; --tiny does with this one."""
    if bench.tiny:
        found = [run_step(step, count)]
    else:
        found = [run_python([_HERE, "--worker", step, str(count)]).found for _ in range(min(bench.repeats, 3))]
    medians = {what: statistics.median(one[what] for one in found) for what in ("seconds", "peak")}
    return {"weights": count, **medians}


def slope(points: list[dict[str, float]], what: str) -> float:
    """The exponent of the power law that fits best, by least squares of the logarithms."""
    logs = np.log([[point["weights"], max(point[what], 1e-9)] for point in points])
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def draw(points: Points, path: Path) -> None:
    """Time and memory over the weights, both axes logarithmic, with a line of exponent 1."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    for axes, what, label, scale in (
        (panels[0], "seconds", "time (seconds)", 1.0),
        (panels[1], "peak", "peak memory above the level before (MiB)", 2.0**-20),
    ):
        for step, measured in points.items():
            sizes = [point["weights"] for point in measured]
            name = f"{step}: exponent {slope(measured, what):.2f}"
            axes.plot(sizes, [scale * point[what] for point in measured], "o-", label=name)
        first = next(iter(points.values()))
        sizes = np.array([point["weights"] for point in first])
        axes.plot(sizes, scale * first[0][what] * sizes / sizes[0], ":", color="gray", label="linear (exponent 1)")
        axes.set(xscale="log", yscale="log", xlabel="weights", ylabel=label)
        axes.grid(which="both", alpha=0.2)
        axes.legend()
    figure.suptitle("Growth with the number of weights")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--largest", type=float, default=256, help="million weights at most (default: 256)")


def main(arguments: list[str] | None = None) -> list[Any]:
    bench = Bench("growth", __doc__, arguments, add_options)
    sizes = [1 << 18, 1 << 19] if bench.tiny else [n << 20 for n in (1, 4, 16, 64, 256) if n <= bench.options.largest]
    points: Points = {step: [] for step in STEPS}
    for step in STEPS:
        for count in sizes:
            points[step].append(measure(step, count, bench))
            print(f"{step}, {count / 2**20:g} Mi weights: {points[step][-1]['seconds']:.3f} s,"
                  f" {points[step][-1]['peak'] / 2**20:,.0f} MiB", flush=True)  # fmt: skip
    bench.data["points"] = points
    for step in STEPS if len(sizes) > 1 else ():
        bench.measured(_LIMIT, f"{step}: exponent of time", "linear growth (1)", [slope(points[step], "seconds")], "")
        if can_measure_memory():
            bench.measured(_LIMIT, f"{step}: exponent of peak memory", "linear growth (1)", [slope(points[step], "peak")], "")
    rows = bench.finish()
    draw(points, bench.options.out / "growth.png")
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(run_step(sys.argv[2], int(sys.argv[3]))))
    else:
        main()
