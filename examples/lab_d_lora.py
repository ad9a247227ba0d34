"""Lab D. Transfer and low rank: a trained ResNet-18 meets new classes, whole, frozen, and frozen with a LoRA classifier.

    python examples/lab_d_lora.py --data DIR                         # ImageNet weights: torchvision's cache, or its download
    python examples/lab_d_lora.py --data DIR --checkpoint FILE       # ImageNet weights from a file
    python examples/lab_d_lora.py --data DIR --stand-in --images 5000    # as committed; about a quarter of an hour on two cores

From torchvision's IMAGENET1K_V1 weights the network learns CIFAR-10. Where there are none, a stand-in keeps the lesson: the same
ResNet-18 is first trained on five classes of CIFAR-10 (airplane, automobile, bird, cat, deer), and then learns the five others.

Each way's learning rate is chosen on a fifth of the training images, held back; then each way learns from all of them.

Committed run (examples/results/lab_d; three runs of each way, seeds 0 to 2, CPU): the stand-in, six epochs on the 25,000 images
of the first five classes, then eight epochs on 5,000 of the 25,000 images of the others, at 32 x 32 pixels. Means: 77.8 % full
(77.0 to 78.2), 64.8 % frozen (64.3 to 65.0), 57.6 % LoRA of rank 2 (57.4 to 57.8).
"""

from __future__ import annotations

import argparse
import copy
import pickle
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import accuracy_on
from _data import Batches, Split
from _lab import Lab, as_data, at_least, percent, run_lab, say, table, two_errors
from torch import Tensor, nn
from torch.nn import functional as F

import deepcompress as dc
from deepcompress.nn import LoRALinear, trainable_parameters
from deepcompress.report.curves import lines, picture
from deepcompress.vision import import_torchvision

EPOCHS, PRETRAINING = 8, 6
PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")  # of torchvision's ResNet-18, before the classifier
FULL, FROZEN, LORA = "full fine-tuning", "frozen", "frozen + LoRA"
_HEAD = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
RATES = {FULL: (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), FROZEN: _HEAD, LORA: _HEAD}  # of Adam, to choose from
WHERE_IT_PAYS = ((512, 5), (512, 10), (512, 1000), (4096, 4096))
BFLOAT16: dict[str, Any] = {"autocast": "bfloat16"}


def main() -> None:
    run_lab("d", "Transfer and low rank: LoRA", __doc__, measure, story, add=_options)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="ImageNet weights of torchvision's ResNet-18")
    parser.add_argument("--stand-in", action="store_true", help="do not look for ImageNet weights")
    parser.add_argument("--frozen-until", choices=PARTS, default="layer4", help="the last frozen part (default: %(default)s)")
    parser.add_argument("--rank", type=at_least(1), default=2, metavar="R", help="of LoRA (default: %(default)s)")
    parser.add_argument("--images", type=at_least(10), metavar="N", help="images to learn the new classes from (default: all)")
    parser.add_argument("--runs", type=at_least(1), default=3, metavar="N", help="of each way, each with its seed (default: 3)")
    parser.add_argument("--size", type=at_least(8), default=32, metavar="N", help="pixels a side (default: 32; ImageNet: 224)")


@dataclass(frozen=True)
class Task:
    """A trained network, and new classes for it to learn."""

    start: str
    network: nn.Module
    train: Split
    test: Split
    classes: int


def measure(lab: Lab) -> None:
    task = _task(lab)
    epochs = lab.epochs(EPOCHS, quick=2)
    made = {name: getattr(lab.options, name) for name in ("frozen_until", "rank", "size")}
    made |= {"start": task.start, "images": len(task.train), "classes": task.classes}
    made |= {"epochs": epochs, "of": EPOCHS}

    def learned(key: str, of: Task, way: str, seed: int, lr: float, rank: int = lab.options.rank) -> Any:
        return lab.step(key, lambda: _transferred(lab, of, way, seed, lr, rank), **{**made, "lr": lr, "rank": rank})

    tried, chosen = _held_back(task, lab.options.seed), {}
    for way, rates in RATES.items():
        rates = rates[1:2] if lab.options.quick else rates
        runs = {lr: learned(f"D rate, {way}, {lr:g}", tried, way, lab.options.seed, lr) for lr in rates}
        chosen[way] = _best(runs)
    for run in range(1 if lab.options.quick else lab.options.runs):
        for way, lr in chosen.items():
            learned(f"D {way}, seed {lab.options.seed + run}", task, way, lab.options.seed + run, lr)
    for rank in (1, task.classes) if lab.options.quick else _ranks(task.classes):
        learned(f"D rank {rank}", task, LORA, lab.options.seed, chosen[LORA], rank)
    lab.step("D sizes", _sizes)


def _best(runs: dict[float, Any]) -> float:
    """The rate, of the keys, that ends highest; the lowest of equals."""
    return max(sorted(runs), key=lambda lr: _end([runs[lr]]))


def _held_back(task: Task, seed: int) -> Task:
    """The task for choosing a learning rate: a fifth of its training images stands in for the test images."""
    order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(seed))
    held = len(order) // 5
    return replace(task, train=task.train.take(order[held:]), test=task.train.take(order[:held]))


def _ranks(classes: int) -> list[int]:
    """Up to the rank at which a product can be any matrix of the classifier's shape."""
    return sorted({1, 2, 4, classes})


# What is learned from, and by what


def _task(lab: Lab) -> Task:
    train, test = lab.data()
    limit = 250 if lab.options.quick else lab.options.images
    weights = _imagenet_weights(lab)
    if weights is not None:
        return Task(weights[0], _network(lab, 1000, weights[1]), train.sample(limit, lab.options.seed), test, 10)
    old, new = range(5), range(5, 10)
    network = _pretrained(lab, _classes(train, old), _classes(test, old))
    taught = _classes(train, new).sample(limit, lab.options.seed)
    return Task("five classes of the same data set", network, taught, _classes(test, new), 5)


def _imagenet_weights(lab: Lab) -> tuple[str, dict[str, Tensor]] | None:
    """From --checkpoint, else from torchvision's cache or its download; None where there are none to be had."""
    if lab.options.checkpoint is not None:
        return f"ImageNet ({lab.options.checkpoint.name})", _read(lab.options.checkpoint)
    if lab.options.quick or lab.options.stand_in:
        return None
    before = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(10)
        known = import_torchvision("models").ResNet18_Weights.IMAGENET1K_V1
        return "ImageNet (IMAGENET1K_V1)", known.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        say(f"no ImageNet weights: no --checkpoint, torchvision has and gets none ({error}); going on with a stand-in")
        return None
    finally:
        socket.setdefaulttimeout(before)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise dc.StorageError(f"{path} is no state dict that torch can read: {str(error).splitlines()[0]}") from None
    return found


def _network(lab: Lab, classes: int, weights: dict[str, Tensor] | None = None) -> nn.Module:
    torch.manual_seed(lab.options.seed)
    network: nn.Module = import_torchvision("models").resnet18(num_classes=classes)
    if weights is not None:
        try:
            network.load_state_dict(weights)
        except (RuntimeError, AttributeError, TypeError) as error:
            listed = " ".join(str(error).split())
            raise dc.ModelError(f"the checkpoint does not fit torchvision's ResNet-18: {listed[:300]}") from None
    return network.to(lab.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _classes(split: Split, wanted: range) -> Split:
    """The images of these classes, numbered from 0."""
    found = split.take(((split.labels >= wanted.start) & (split.labels < wanted.stop)).nonzero().flatten())
    return Split(found.images, found.labels - wanted.start, found.mean, found.std)


def _batches(lab: Lab, split: Split, seed: int) -> Batches:
    quick = lab.options.quick  # a mirrored digit is another one
    return Batches(split, 64 if quick else 128, shuffle=True, shift=0 if quick else 4, flip=not quick, seed=seed,
                   channels_last=True)  # fmt: skip


def _pretrained(lab: Lab, train: Split, test: Split) -> nn.Module:
    """The stand-in for ImageNet."""
    epochs = 1 if lab.options.quick else PRETRAINING
    settings = dc.TrainSettings(
        epochs=epochs, lr=0.1, optimizer="SGD", optimizer_options={"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
        scheduler="onecycle", seed=lab.options.seed, **BFLOAT16,
    )  # fmt: skip
    score = accuracy_on(test, channels_last=True, **BFLOAT16)

    def train_it(network: nn.Module) -> Any:
        return as_data(dc.fit(network, _batches(lab, train, lab.options.seed), settings, validate=score, quiet=False))

    network = lab.model("D stand-in", lambda: _network(lab, 5), train_it, epochs=epochs, images=len(train))
    return network.to(lab.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


# Three ways


def _transferred(lab: Lab, task: Task, way: str, seed: int, lr: float, rank: int) -> dict[str, Any]:
    network: Any = copy.deepcopy(task.network)
    network.register_forward_pre_hook(lambda _, inputs: (_resized(inputs[0], lab.options.size),))
    torch.manual_seed(seed)
    network.fc = nn.Linear(network.fc.in_features, task.classes)
    if way == LORA:
        network.fc = LoRALinear(network.fc, rank)
    network.to(lab.device)
    parts = [] if way == FULL else PARTS[: PARTS.index(lab.options.frozen_until) + 1]
    frozen = [getattr(network, name).requires_grad_(False) for name in parts]
    counts = trainable_parameters(network)
    settings = dc.TrainSettings(epochs=lab.epochs(EPOCHS, quick=2), lr=lr, scheduler="cosine", seed=seed, **BFLOAT16)
    score = accuracy_on(task.test, channels_last=True, **BFLOAT16)
    batches = _batches(lab, task.train, seed)
    history = as_data(dc.fit(network, batches, settings, loss=_loss(frozen), validate=score, quiet=False))
    merged = _merged(lab, network, task.test) if way == LORA else None
    return {"trainable": counts[0], "all": counts[1], "history": history, "merged": merged}


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=size < images.shape[-1])


def _loss(frozen: list[nn.Module]) -> Callable[[nn.Module, Any], Tensor]:
    """Cross entropy; frozen parts stay in evaluation mode, for the statistics of their norms are frozen too."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        for part in frozen:
            part.eval()
        images, labels = batch
        return F.cross_entropy(model(images), labels)

    return loss


def _merged(lab: Lab, network: Any, test: Split) -> dict[str, Any]:
    """What merging does to the logits of 500 images, and unmerging to the weight."""
    images = next(iter(Batches(test, 500, channels_last=True)))[0].to(lab.device)
    network.eval()
    with torch.inference_mode():
        before, weight = network(images), network.fc.weight.clone()
        network.fc.merge()
        after, names = network(images), list(network.fc.state_dict())
        network.fc.unmerge()
        again = network(images)
    return {
        "difference": ((after - before).abs().max() / before.abs().max()).item(),
        "same answers": (after.argmax(1) == before.argmax(1)).double().mean().item(),
        "names": names,
        "back": torch.equal(weight, network.fc.weight) and torch.equal(again, before),
    }


def _sizes() -> list[dict[str, int]]:
    rows = []
    for inputs, outputs in WHERE_IT_PAYS:
        for rank in (1, 2, 4, 16):
            if rank <= min(inputs, outputs):
                layer = LoRALinear(nn.Linear(inputs, outputs, bias=False, device="meta"), rank)
                rows.append({"in": inputs, "out": outputs, "rank": rank, "learn": trainable_parameters(layer)[0]})
    return rows


# The story


def story(lab: Lab) -> Iterator[str]:
    ways = {way: list(found.values()) for way in RATES if (found := lab.starting(f"D {way}, "))}
    yield from _tell_start(lab, ways)
    yield from _tell_rates(lab)
    if ways:
        yield from _tell_ways(lab, ways)
    if (sizes := lab.get("D sizes")) is not None:
        yield from _tell_sizes(sizes, [run["merged"] for run in ways.get(LORA, [])])


def _settings(lab: Lab) -> dict[str, Any]:
    return lab.settings(f"D {FULL}, seed {lab.options.seed}")  # the first of them all


def _tell_start(lab: Lab, ways: dict[str, Any]) -> Iterator[str]:
    yield "## Where it starts\n"
    history = lab.get("D stand-in")
    if history is None:
        yield (f"The network starts from {_settings(lab)['start']}." if ways else "Nothing has been measured yet.") + "\n"
        return
    pretraining = lab.settings("D stand-in")
    yield (
        "**A stand-in for the ImageNet weights, which were not used here** (the authors' IMAGENET1K_V1; `--checkpoint FILE` "
        "takes them from a file). The same ResNet-18 was trained from scratch on the first five classes of the data set for "
        f"{pretraining['epochs']} epochs ({pretraining['images']:,} images, to {percent(history['epochs'][-1]['validation'])} on "
        "their test images), and now learns the five others. Less carries over than from ImageNet's thousand classes and 1.3 "
        "million images, so frozen layers serve the new classes worse, and the accuracies are not to be held against the "
        "authors'. Parameter counts and mechanics are the same but for the number of classes.\n"
    )


def _tell_rates(lab: Lab) -> Iterator[str]:
    tried = {way: {float(lr): run for lr, run in lab.starting(f"D rate, {way}, ").items()} for way in RATES}
    rates = sorted({lr for runs in tried.values() for lr in runs})
    if not rates:
        return
    yield "## The learning rates\n"
    yield (
        "Chosen without the test images: each way learned from four fifths of the training images with each rate of Adam, one "
        "run each, and the accuracy on the last fifth chose (in bold).\n"
    )

    def cell(runs: dict[float, Any], lr: float) -> str:
        shown = percent(_end([runs[lr]])) if lr in runs else ""
        return f"**{shown}**" if shown and lr == _best(runs) else shown

    rows = [(way, *(cell(runs, lr) for lr in rates)) for way, runs in tried.items()]
    yield table(("", *(f"{lr:g}" for lr in rates)), rows)


def _tell_ways(lab: Lab, ways: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    settings = _settings(lab)
    epochs = f"{settings['epochs']} epochs" + (", as many as the authors" if settings["epochs"] == EPOCHS else f" of {EPOCHS}")
    yield "## Three ways to learn new classes\n"
    yield (
        f"Frozen: everything up to `{settings['frozen_until']}`, statistics of the norms included. LoRA: the new classifier W "
        f"stays at its random start and a product of rank {settings['rank']} is learned on top of it. {settings['images']:,} "
        f"images of {settings['classes']} classes at {settings['size']} x {settings['size']} pixels, batches of 128, Adam "
        f"(learning rates as chosen above, cosine), {epochs}, {len(ways[FULL])} runs.\n"
    )
    rows = [_row(way, runs) for way, runs in ways.items()]
    head = ("", "trainable", "of all", "after one epoch", "at the end", "lowest to highest", "fastest epoch")
    yield table(head, rows)

    if len(ways) < len(RATES):
        return
    by_rank = {rank: _end([run]) for rank, run in sorted((int(rank), run) for rank, run in lab.starting("D rank ").items())}

    def draw(path: Path) -> None:
        with picture(path, 2, size=(5.6, 4.0)) as (left, right):
            curves: dict[str, Any] = {way: (range(1, len(_curve(runs)) + 1), _curve(runs)) for way, runs in ways.items()}
            lines(left, curves, xlabel="Epoch", ylabel="Test accuracy, mean of the runs", title="Three ways", percent=True)
            ranks = list(by_rank) or [settings["rank"]]
            ends = list(by_rank.values()) or [_end(ways[LORA])]
            curves = {LORA: (ranks, ends), FROZEN: (ranks, [_end(ways[FROZEN])] * len(ranks))}
            lines(right, curves, xlabel="Rank of the product", ylabel="Test accuracy at the end", title="Rank", percent=True)
            for axes in (left, right):
                axes.xaxis.get_major_locator().set_params(integer=True)

    yield lab.picture("d_accuracy", "D: learning new classes in three ways, and with a product of each rank", draw)
    images = 1000 * settings["classes"]
    yield (
        f"One run's accuracy is known to {100 * two_errors(_end(ways[FULL]), images):.1f} points (two standard errors of the "
        f"{images:,} test images). {_words(ways)}\n"
    )
    shown = ", ".join(f"rank {rank} {percent(end)}" for rank, end in by_rank.items()) or "not measured yet"
    yield (
        f"By rank, one run each: {shown}. A classifier of rank r separates classes along r directions of the features only, "
        f"and everything else in it is random; at rank {settings['classes']} the product can be any matrix of its shape.\n"
    )


def _row(way: str, runs: list[dict[str, Any]]) -> tuple[str, ...]:
    ends = [run["history"]["epochs"][-1]["validation"] for run in runs]
    seconds = min(epoch["seconds"] for run in runs for epoch in run["history"]["epochs"])  # the machine had other work
    share = runs[0]["trainable"] / runs[0]["all"]
    return (
        way, f"{runs[0]['trainable']:,}", percent(share, 2 if share > 0.01 else 3), percent(_curve(runs)[0]), percent(_end(runs)),
        f"{percent(min(ends))} to {percent(max(ends))}", f"{seconds:.1f} s",
    )  # fmt: skip


def _curve(runs: list[dict[str, Any]]) -> list[float]:
    """Mean test accuracy after each epoch."""
    return [float(value) for value in np.mean([[e["validation"] for e in run["history"]["epochs"]] for run in runs], 0)]


def _end(runs: list[dict[str, Any]]) -> float:
    return _curve(runs)[-1]


def _words(ways: dict[str, list[dict[str, Any]]]) -> str:
    full, frozen, lora = (100 * _end(ways[way]) for way in (FULL, FROZEN, LORA))
    return (
        f"Full fine-tuning ends {full - frozen:+.1f} points from the frozen network, which trains one parameter in "
        f"{ways[FULL][0]['trainable'] // ways[FROZEN][0]['trainable']:,} and needs no backward pass through the layers: they "
        f"serve the old classes and cannot adapt. LoRA ends {lora - frozen:+.1f} points from the frozen network with "
        f"{ways[LORA][0]['trainable'] / ways[FROZEN][0]['trainable']:.0%} of its trainable parameters."
    )


def _tell_sizes(sizes: list[dict[str, int]], merged: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Where low rank pays, and merging\n"
    yield "A product of rank r learns r (in + out) weights instead of in x out; with few classes that saves little:\n"
    rows = [
        (f"{row['in']:,} to {row['out']:,}", row["rank"], f"{row['in'] * row['out']:,}", f"{row['learn']:,}",
         percent(row["learn"] / (row["in"] * row["out"]))) for row in sizes
    ]  # fmt: skip
    yield table(("layer", "rank", "weights", "learned with LoRA", "share"), rows)
    if not merged:
        return
    worst, same = max(found["difference"] for found in merged), min(found["same answers"] for found in merged)
    back = "brought weight and logits back in every bit" if all(run["back"] for run in merged) else "**did not bring all back**"
    names = ", ".join(f"`fc.{name}`" for name in merged[0]["names"])
    yield (
        f"`merge()` folds the product into the weight: the layer is then a plain one, with {names} alone in its state dict, and "
        f"no more to calculate. Logits of 500 test images change by {worst:.0e} of the largest at most, {percent(same, 1)} of "
        f"the answers are the same; `unmerge()` {back}.\n"
    )


if __name__ == "__main__":
    main()
