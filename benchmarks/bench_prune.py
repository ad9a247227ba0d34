"""Pruning: from weights to bool masks, against one `numpy.partition` of the same magnitudes.

Ours is the whole job, `prune_masks(weights, method)`: look for NaN, find the threshold, write the masks, settle ties by index.
Theirs is less: `np.partition(magnitudes, count)` alone, on magnitudes that lie ready as one array. Our masks are compared, in the
same run, with what numpy makes of a full copy: abs, partition, comparison, ties by flatnonzero; std in float64.

Then a ResNet-50's state dict, 25.6 M float32 weights of 102 MB: seconds of the pipeline's stage, masks applied and zeros counted,
and memory beyond the masks themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from _harness import Bench, Row
from _process import can_measure_memory, peak_above_level
from _weights import generated
from numpy.typing import NDArray
from torch import Tensor

from deepcompress.layers.masking import count_zeros
from deepcompress.pipeline.stages.prune import Prune
from deepcompress.pipeline.state import Context, State
from deepcompress.prune.allocate import prune_masks

SHARE = 0.8
Bools = NDArray[np.bool_]


def lowest_dropped(magnitudes: NDArray[np.float32], count: int) -> Bools:
    """As one writes it down in numpy: True = kept, ties by flat index."""
    threshold = np.partition(magnitudes, count - 1)[count - 1]
    stays = magnitudes >= threshold
    ties = np.flatnonzero(magnitudes == threshold)
    stays[ties[: count - int((~stays).sum())]] = False
    return stays


def above_deviation(weights: NDArray[np.float32]) -> Bools:
    return np.abs(weights.astype(np.float64)) >= weights.astype(np.float64).std()


def gaussian(count: int) -> Tensor:
    """Rounded to multiples of 2**-20, so that the threshold is met by many."""
    drawn = torch.randn(count, generator=torch.Generator().manual_seed(0)) * 0.05
    return drawn.mul_(2**20).round_().div_(2**20)


def cut(weights: Tensor) -> dict[str, Tensor]:
    """The same memory as twelve tensors, each larger than the one before."""
    sizes = np.diff(np.linspace(0, len(weights) ** 0.5, 13).astype(int) ** 2)
    parts = weights[: sizes.sum()].split(sizes.tolist())
    return {f"layer{number}": part for number, part in enumerate([*parts[:-1], weights[sizes[:-1].sum() :]])}


def against_partition(bench: Bench, what: str, weights: Mapping[str, Tensor], job: Callable[[], Any], expected: Bools) -> None:
    magnitudes = np.abs(np.concatenate([weight.numpy() for weight in weights.values()]))
    count = round(SHARE * len(magnitudes))
    pair = bench.time(job, lambda: np.partition(magnitudes, count))
    if not np.array_equal(np.concatenate([mask.numpy() for mask in pair.our_result.values()]), expected):
        raise SystemExit(f"{what}: the masks are not those of numpy")
    bench.at_most(1.2, f"{what}, {len(magnitudes):,} float32 weights to bool masks", "numpy.partition of ready magnitudes", pair)


def resnet50(bench: Bench) -> None:
    tensors = generated(8 if bench.tiny else 64)
    weights = {name: tensor for name, tensor in tensors.items() if tensor.ndim > 1}
    size = f"{sum(tensor.numel() for tensor in tensors.values()) / 1e6:.1f} M weights"
    for method, parameters in (("percentile", {"q": SHARE}), ("std", {"s": 1.0}), ("unstructured", {"sparsity": SHARE})):
        stage = Prune(method, **parameters)

        def work(fresh: dict[str, Tensor], stage: Prune = stage) -> tuple[State, int]:
            state = stage.apply(State(fresh), Context())
            return state, count_zeros(fresh)

        pair = bench.time(lambda: None, work, fresh=lambda: {name: tensor.clone() for name, tensor in tensors.items()})
        state, zeros = pair.their_result
        if zeros < count_zeros(state.masks) or any(bool(state.model[name][~mask].any()) for name, mask in state.masks.items()):
            raise SystemExit(f"{method}: a pruned weight is not zero")
        bench.measured(None, f"Prune({method!r}) of a ResNet-50, {size}", "", pair.theirs, "s", "with zeros set, counted")
        memory(bench, f"Prune({method!r}): memory beyond the masks", weights, partial(prune_masks, weights, method, **parameters))


def memory(bench: Bench, what: str, weights: Mapping[str, Tensor], job: Callable[[], Any]) -> None:
    if can_measure_memory():
        masks = sum(weight.numel() for weight in weights.values())
        peaks = [max(peak_above_level(job)[1] - masks, 0) / 1e6 for _ in range(bench.repeats)]
        bench.measured(None, what, f"weights of {4 * masks / 1e6:.0f} MB", peaks, "MB")


def main(arguments: list[str] | None = None) -> list[Row]:
    bench = Bench("prune", __doc__, arguments)
    flat = gaussian(bench.size(64_000_000))
    prune_masks({"w": flat[:100]}, "percentile", q=SHARE)  # compiles
    count = round(SHARE * len(flat))
    lowest = lowest_dropped(flat.abs().numpy(), count)
    one, many = {"w": flat}, cut(flat)  # both over the same memory
    against_partition(bench, "percentile", one, lambda: prune_masks(one, "percentile", q=SHARE), lowest)
    against_partition(bench, "std", one, lambda: prune_masks(one, "std", s=1.0), above_deviation(flat.numpy()))
    against_partition(bench, "global", many, lambda: prune_masks(many, "unstructured", sparsity=SHARE), lowest)
    resnet50(bench)
    return bench.finish()


if __name__ == "__main__":
    main()
