"""Lab B. A small ConvNet on CIFAR-10: learning rates, schedules, and pruning filters against pruning weights.

    python examples/lab_b_convnet.py --data DIR            # B1 to B3
    python examples/lab_b_convnet.py B2 --data DIR         # one part

B1 trains five epochs at three learning rates. B2 compares MultiStep (divided by 10 every quarter) with cosine. B3 shows that
masks of ones change nothing, to the last bit, and then prunes 10 % more at epochs 10, 20, ..., 50 of 60 (or as early in a shorter
training), whole filters by L1 norm and single weights by magnitude; the last layer is left alone.

Committed run (examples/results/lab_b; one run of each, seed 0, CPU): 12,500 of the 50,000 training images and a network of a
quarter of the width (16, 32 and 64 channels), to fit two cores; epochs cut as summary.md says. What one run's accuracy is known
to: two standard errors of 10,000 test images, 0.8 points.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _common import accuracy_on
from _data import Batches, Split
from _lab import Figure, Lab, as_data, at_least, beside, history_lines, percent, run_lab, table, two_errors
from torch import nn

import deepcompress as dc
from deepcompress.models import ConvNet
from deepcompress.report.curves import lines, picture

RATES = {1e-4: 0.365, 0.1: 0.622, 1.0: 0.399}
SCHEDULES = {"MultiStep": (0.918, 2711.0), "cosine": (0.860, 2534.0)}
LENGTH, STEPS = 60, {10: 0.1, 20: 0.2, 30: 0.3, 40: 0.4, 50: 0.5}  # B3: epochs, and from which of them on which share is pruned
SMALLER = "A smaller network, fewer images or epochs: see above."
SMOOTH = 0.95  # each step's loss counts 5 % in the smoothed one


def main() -> None:
    run_lab("b", "A small ConvNet: rates, schedules, structured and unstructured pruning", __doc__, measure, story, parts=PARTS,
            add=_options)  # fmt: skip


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=at_least(1), default=64, metavar="N",
                        help="channels of the first pair of convolutions (default: %(default)s)")  # fmt: skip
    parser.add_argument("--images", type=at_least(1), metavar="N", help="train on N of the images (default: all)")


def measure(lab: Lab) -> None:
    for part in list(PARTS) if lab.options.part == "all" else [lab.options.part]:
        PARTS[part](lab)


# What every part needs


def split(lab: Lab) -> Split:
    return lab.data()[0].sample(384 if lab.options.quick else lab.options.images)


def batches(lab: Lab) -> Batches:
    augment = not lab.options.quick
    return Batches(split(lab), 128 if augment else 64, shuffle=True, shift=4 * augment, flip=augment, seed=lab.options.seed,
                   channels_last=True)  # fmt: skip


def network(lab: Lab) -> nn.Module:
    torch.manual_seed(lab.options.seed)
    return ConvNet(width=size(lab)["width"]).to(lab.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def settings(lab: Lab, epochs: int, lr: float, **more: Any) -> dict[str, Any]:
    options = {"momentum": 0.9, "weight_decay": 5e-4}
    return {"epochs": epochs, "lr": lr, "optimizer": "SGD", "optimizer_options": options, "autocast": "bfloat16",
            "seed": lab.options.seed, **more}  # fmt: skip


def size(lab: Lab) -> dict[str, Any]:
    """What a step depends on besides its epochs."""
    return {"images": len(split(lab)), "width": 8 if lab.options.quick else lab.options.width}


def train(lab: Lab, config: dict[str, Any], *, steps: bool = False) -> dict[str, Any]:
    """A new network trained from the same start: its history, and what it is like at the end."""
    model = network(lab)
    history = dc.fit(model, batches(lab), dc.TrainSettings(**config), validate=curve(lab))
    found = {"history": as_data(history), "seconds": history.seconds, **_gap(lab, model)}
    return {**found, "smoothed": smoothed(history.step_losses)} if steps else found


def curve(lab: Lab) -> Callable[[nn.Module], float]:
    """Test accuracy for the curves, in bfloat16; what a table says is measured in float32."""
    return accuracy_on(lab.data()[1], channels_last=True, autocast="bfloat16")


def smoothed(losses: tuple[float, ...]) -> list[float]:
    """Exponentially smoothed, each step's value over the weights so far, so that the first steps are not pulled to zero."""
    mean, weight, curve = 0.0, 0.0, []
    for loss in losses:
        mean, weight = SMOOTH * mean + (1 - SMOOTH) * loss, SMOOTH * weight + (1 - SMOOTH)
        curve.append(round(mean / weight, 4))
    return curve[:: max(len(curve) // 200, 1)]


def _gap(lab: Lab, model: nn.Module) -> dict[str, float]:
    """Accuracy and loss on up to 10,000 training images as they are, and on the test images."""
    found = {}
    for name, part in (("train", split(lab).take(torch.arange(min(10_000, len(split(lab)))))), ("test", lab.data()[1])):
        right = loss = 0.0
        with torch.inference_mode():
            for images, labels in Batches(part, 500, channels_last=True):
                logits = model.eval()(images.to(lab.device)).float().cpu()
                right += float((logits.argmax(1) == labels).sum())
                loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
        found |= {f"{name}_accuracy": right / len(part), f"{name}_loss": loss / len(part)}
    return {**found, "accuracy": found["test_accuracy"]}


# B1 to B3


def part_b1(lab: Lab) -> None:
    epochs = lab.epochs(5)
    for lr in RATES:
        config = settings(lab, epochs, lr)
        lab.step(f"B1 lr={lr:g}", partial(train, lab, config, steps=True), epochs=epochs, of=5, **size(lab))


def part_b2(lab: Lab) -> None:
    epochs = lab.epochs(100)
    quarters = [max(epochs * quarter // 4, quarter) for quarter in (1, 2, 3)]
    schedules: dict[str, dict[str, Any]] = {
        "MultiStep": {"scheduler": "MultiStepLR", "scheduler_options": {"milestones": quarters, "gamma": 0.1}},
        "cosine": {"scheduler": "cosine"},
    }
    for name, schedule in schedules.items():
        config = settings(lab, epochs, 0.1, **schedule)
        lab.step(f"B2 {name}", partial(train, lab, config), epochs=epochs, of=100, **size(lab))


def part_b3(lab: Lab) -> None:
    few = lab.epochs(5) if lab.options.epochs is None else min(lab.options.epochs, 5)
    lab.step("B3 masks of ones", partial(_masks_of_ones, lab, few), epochs=few, of=5, **size(lab))
    epochs = lab.epochs(LENGTH, quick=2)
    config = settings(lab, epochs, 0.02, scheduler="cosine")
    lab.step("B3 dense", partial(_pruned, lab, config, None), epochs=epochs, of=LENGTH, **size(lab))
    for name, method in (("filters", "filter_l1"), ("weights", "unstructured")):
        lab.step(f"B3 {name}", partial(_pruned, lab, config, method), epochs=epochs, of=LENGTH, **size(lab))


def _masks_of_ones(lab: Lab, epochs: int) -> dict[str, Any]:
    """The plain network beside the same with every weight held by a mask of ones: equal to the last bit?"""
    states = []
    for masked in (False, True):
        model = network(lab)
        ones = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.ndim > 1}
        with dc.hold_masks(model, ones if masked else {}):
            dc.fit(model, batches(lab), dc.TrainSettings(**settings(lab, epochs, 0.02)))
        states.append(model.state_dict())
    plain, held = states
    return {"equal": all(torch.equal(plain[name], held[name]) for name in plain), "tensors": len(plain)}


def _pruned(lab: Lab, config: dict[str, Any], method: str | None) -> dict[str, Any]:
    """Ten per cent more at each of STEPS, moved with the length of the training; then on to the end."""
    if method is None:
        return train(lab, config)
    milestones = [(config["epochs"] * epoch / LENGTH, share) for epoch, share in STEPS.items()]
    parameters = {"scope": "layer"} if method == "unstructured" else {}
    stage = dc.GradualPrune(method=method, schedule="step", milestones=milestones, parameters=parameters, exclude=["classifier"],
                            **config)  # fmt: skip
    score = accuracy_on(lab.data()[1], channels_last=True)
    pipeline = dc.Pipeline([("prune", stage)])
    result = pipeline.run(network(lab), train=batches(lab), validate=curve(lab), evaluate=score, inplace=True)
    last = result.report.stages[-1]
    history = as_data(result.histories["prune"])
    return {"history": history, "accuracy": last.accuracy, "sparsity": last.sparsity,
            "layers": {row.name: row.sparsity for row in result.report.layers if row.pruned}}  # fmt: skip


PARTS = {"B1": part_b1, "B2": part_b2, "B3": part_b3}


# How it is told


def story(lab: Lab) -> Iterator[str]:
    for part in (_tell_b1, _tell_b2, _tell_b3):
        yield from part(lab)


def _scale(lab: Lab, key: str) -> str:
    """In which ways the network and the data were smaller than the authors'."""
    made = lab.settings(key)
    return (
        f"Trained for {made['epochs']} epochs (theirs {made['of']}) on {made['images']:,} images (theirs 50,000), "
        f"{made['width']} channels in the first pair; their network is not given."
    )


def _tell_b1(lab: Lab) -> Iterator[str]:
    runs = {lr: run for lr in RATES if (run := lab.get(f"B1 lr={lr:g}")) is not None}
    if not runs:
        return
    key = f"B1 lr={min(runs):g}"
    yield f"## B1. Learning rates\n\n{_scale(lab, key)}\n"

    def draw(path: Path) -> None:
        with picture(path, 2) as (left, right):
            epochs = lab.settings(key)["epochs"]
            curves = {f"lr {lr:g}": _over_epochs(run["smoothed"], epochs) for lr, run in runs.items()}
            lines(left, curves, xlabel="Epoch", ylabel="Training loss, smoothed", title="Loss", marks=False)
            scores = history_lines({f"lr {lr:g}": run["history"] for lr, run in runs.items()}, "validation")
            lines(right, scores, xlabel="Epoch", ylabel="Test accuracy", title="Accuracy", percent=True)

    yield lab.picture("b1_rates", "B1: smoothed loss and test accuracy at three learning rates", draw)
    yield beside([
        Figure(f"accuracy at lr {lr:g}", RATES[lr], run["accuracy"], spread=two_errors(RATES[lr], 10_000), why=SMALLER)
        for lr, run in runs.items()
    ])  # fmt: skip
    yield (
        "Too small a rate has hardly left the start after so few epochs; too large a one jumps about the valley instead of into "
        "it, and only batch norm keeps it from diverging.\n"
    )


def _over_epochs(curve: list[float], epochs: int) -> tuple[list[float], list[float]]:
    return [epochs * (step + 0.5) / len(curve) for step in range(len(curve))], curve


def _tell_b2(lab: Lab) -> Iterator[str]:
    runs = {name: run for name in SCHEDULES if (run := lab.get(f"B2 {name}")) is not None}
    if not runs:
        return
    key = f"B2 {next(iter(runs))}"
    yield f"## B2. Schedules\n\n{_scale(lab, key)}\n"

    def draw(path: Path) -> None:
        with picture(path, 2) as (left, right):
            histories = {name: run["history"] for name, run in runs.items()}
            lines(left, history_lines(histories, "validation"), xlabel="Epoch", ylabel="Test accuracy", percent=True)
            lines(right, history_lines(histories, "lr"), xlabel="Epoch", ylabel="Learning rate", marks=False)

    yield lab.picture("b2_schedules", "B2: test accuracy, and the learning rate at the end of each epoch", draw)
    rows = []
    figures = []
    for name, run in runs.items():
        best = max(epoch["validation"] for epoch in run["history"]["epochs"])
        shares = (percent(run[what]) for what in ("train_accuracy", "test_accuracy"))
        losses = (f"{run[what]:.3f}" for what in ("train_loss", "test_loss"))
        rows.append((name, *shares, percent(best), *losses, f"{run['seconds']:,.0f} s"))
        theirs, seconds = SCHEDULES[name]
        spread = two_errors(theirs, 10_000)
        figures.append(Figure(f"{name}, test accuracy", theirs, run["accuracy"], spread=spread, why=SMALLER))
        figures.append(Figure(f"{name}, total time", seconds, run["seconds"], "s", 0.1 * seconds, "Another machine; less to do."))
    yield table(("schedule", "train", "test", "best epoch's test", "train loss", "test loss", "time"), rows)
    yield beside(figures)
    yield (
        "The authors' cosine ended at 86.0 % with a training accuracy of 89 %: under-trained, like a schedule whose rate never "
        "came down. Stepped to its end after every batch, as here, its last epochs run at a rate near zero; the table shows "
        "where it ends beside MultiStep.\n"
    )


def _tell_b3(lab: Lab) -> Iterator[str]:
    ones = lab.get("B3 masks of ones")
    runs = {name: run for name in ("dense", "filters", "weights") if (run := lab.get(f"B3 {name}")) is not None}
    if ones is None:
        return
    yield "## B3. Pruning while training\n"
    verdict = "equal to the plain network in every bit" if ones["equal"] else "NOT equal to the plain network"
    yield f"With masks of ones on every weight, after {lab.settings('B3 masks of ones')['epochs']} epochs: {verdict}.\n"
    if "dense" not in runs:
        return

    def draw(path: Path) -> None:
        with picture(path, size=(8.0, 4.4)) as (axes,):
            histories = {name: run["history"] for name, run in runs.items()}
            lines(axes, history_lines(histories, "validation"), xlabel="Epoch", ylabel="Test accuracy", percent=True, marks=False)
            for epoch in STEPS:
                axes.axvline(lab.settings("B3 dense")["epochs"] * epoch / LENGTH, color="#999999", linewidth=0.8, linestyle=":")

    caption = "B3: dense, pruned by filters and by weights; dotted: 10 % more pruned, to 50 %; the last layer is left alone"
    yield lab.picture("b3_pruning", caption, draw)
    rows = [(name, percent(run.get("sparsity")), percent(run["accuracy"]), _dips(run)) for name, run in runs.items()]
    yield table(("", "sparsity of the pruned layers", "test accuracy at the end", "deepest fall at a milestone"), rows)
    yield (
        "The authors give no figures here; they expect sharp dips with filters and hardly any with single weights. A milestone "
        "at the end of an epoch is measured at once, before anything has been retrained and with the norms' statistics of the "
        "network as it was: what the next epoch brings back is the other half of the picture.\n"
    )


def _dips(run: dict[str, Any]) -> str:
    """The largest fall of the test accuracy in an epoch with a milestone; one at an epoch's end is measured with it."""
    epochs = run["history"]["epochs"]
    scores = [epoch["validation"] for epoch in epochs]
    at = {math.ceil(len(scores) * epoch / LENGTH) - 1 for epoch in STEPS}
    falls = [scores[place - 1] - scores[place] for place in at if 0 < place < len(scores)]
    return f"{100 * max(falls, default=0.0):.1f} points"


if __name__ == "__main__":
    main()
