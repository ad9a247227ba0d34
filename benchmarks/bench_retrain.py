"""Training under masks: a step of ResNet-20 with 80 % of its weights held at zero, against the plain step.

Three networks that begin alike take their steps in turns, in an order that changes: plain, under `hold_masks`, and under
`torch.nn.utils.prune.custom_from_mask` with the same masks. SGD with momentum and weight decay, random images of 32 x 32.

The first row is of whole steps of 128 images. What masking adds does not depend on the batch, and at 128 images it is less than
what the convolutions vary by; so the second row, what we add over what torch adds, is of batches of one image, on one thread,
in that thread's processor time, where it can be seen. Weights and gradients that are pruned are exactly +0.0 afterwards.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from _harness import Bench, Pair, Row
from torch import Tensor, nn
from torch.nn.utils import prune

from deepcompress.layers.masking import Masks, hold_masks
from deepcompress.models.resnet_cifar import resnet20
from deepcompress.prune.allocate import prune_masks

SPARSITY = 0.8
KINDS = ("plain", "ours", "torch")
_PARTS = 5

Network = tuple[nn.Module, torch.optim.Optimizer]


def network() -> Network:
    torch.manual_seed(0)
    model = resnet20().train()
    return model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)


def chosen_masks() -> Masks:
    weights = {name: weight for name, weight in network()[0].named_parameters() if weight.ndim > 1}
    return prune_masks(weights, "unstructured", sparsity=SPARSITY)


def by_torch(masks: Masks) -> Network:
    model, _ = network()
    for name, mask in masks.items():
        prune.custom_from_mask(model.get_submodule(name.rpartition(".")[0]), "weight", mask)
    return model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)


@contextmanager
def networks(masks: Masks) -> Iterator[dict[str, Network]]:
    with ExitStack() as stack:
        found = {"plain": network(), "ours": network(), "torch": by_torch(masks)}
        stack.enter_context(hold_masks(found["ours"][0], masks, found["ours"][1]))
        yield found


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    optimizer.zero_grad(set_to_none=True)
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()


def measure(masks: Masks, images: int, steps: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each step of each kind, one after another; two steps first that do not count."""
    batch = torch.randn(images, 3, 32, 32), torch.randint(0, 10, (images,))
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with networks(masks) as found:
        for number in range(steps + 2):
            for kind in (KINDS[number % 3 :] + KINDS[: number % 3])[:: 1 if number % 2 else -1]:
                start = clock()
                step(*found[kind], batch)
                seconds[kind].append(clock() - start)
            if number == 0:
                check_alike(found, masks)
        check_zeros(found["ours"][0], masks)
    return {kind: values[2:] for kind, values in seconds.items()}


def check_alike(found: dict[str, Network], masks: Masks) -> None:
    """The first step of both kinds of masking leaves the same weights."""
    for name, mask in masks.items():
        ours, theirs = (found[kind][0].get_submodule(name.rpartition(".")[0]) for kind in ("ours", "torch"))
        if not torch.allclose(ours.weight, theirs.weight_orig * mask, rtol=1e-4, atol=1e-6):
            raise SystemExit(f"{name}: our step and torch's differ")


def check_zeros(model: nn.Module, masks: Masks) -> None:
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        for values in (weight.detach()[~mask], (weight.grad if weight.grad is not None else weight.detach())[~mask]):
            if bool(values.view(torch.int32).any()):
                raise SystemExit(f"{name}: a pruned weight is not +0.0")
        if not bool(weight.detach()[mask].ne(0).any()):
            raise SystemExit(f"{name}: nothing is left")


def medians_of_parts(values: list[float]) -> list[float]:
    """The median of each fifth of the steps: their spread is that of the figure, not of single steps."""
    size = -(-len(values) // _PARTS)
    return [statistics.median(values[at : at + size]) for at in range(0, len(values), size)]


def whole_steps(bench: Bench, masks: Masks, images: int, steps: int) -> None:
    seconds = measure(masks, images, steps, time.perf_counter)
    what = f"training step of ResNet-20, {images} images, {SPARSITY:.0%} of the weights held at zero"
    medians = {kind: medians_of_parts(seconds[kind]) for kind in KINDS}
    bench.at_most(1.03, what, "the plain step", Pair(medians["ours"], medians["plain"]))
    bench.at_most(None, what, "torch.nn.utils.prune's step", Pair(medians["ours"], medians["torch"]))


def added(bench: Bench, masks: Masks, steps: int) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = measure(masks, 1, steps, time.thread_time)
    finally:
        torch.set_num_threads(threads)
    extra = {kind: [own - plain for own, plain in zip(seconds[kind], seconds["plain"], strict=True)] for kind in KINDS}
    medians = {kind: medians_of_parts(values) for kind, values in extra.items()}
    bench.data["milliseconds added to a step"] = {kind: 1e3 * statistics.median(extra[kind]) for kind in ("ours", "torch")}
    what = f"what holding masks adds to a step, median of {steps} steps, one thread"
    bench.at_most(1.0, what, "what torch.nn.utils.prune adds", Pair(medians["ours"], medians["torch"]))


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=60, help="steps of 128 images of each kind; of one image, ten times as many")


def main(arguments: list[str] | None = None) -> list[Row]:
    bench = Bench("retrain", __doc__, arguments, _options)
    masks = chosen_masks()
    steps = 2 if bench.tiny else bench.options.steps
    whole_steps(bench, masks, 2 if bench.tiny else 128, steps)
    added(bench, masks, 10 * steps)
    return bench.finish()


if __name__ == "__main__":
    main()
