"""How lab G is told: its tables, its pictures, and the answers to its questions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from _images import CLASSES
from _lab import Figure, Lab, beside, history_lines, percent, table, two_errors
from lab_g_resnet18 import ALL, OPTIMIZERS, WORKERS

from deepcompress.report.curves import bars, lines, picture

LOADING, TRAINING, EPOCH = 0.473, 17.93, 20.62  # seconds, batches of 128, one GPU
BY_WORKERS = {0: 11.416, 1: 0.476, 4: 0.483, 8: 0.469, 12: 0.470}
BY_DEVICE = {"cpu": 212.3, "cuda": 19.4}
WITH_NORM = (0.330, 0.518, 0.639, 0.706, 0.763)
WITHOUT = (0.264, 0.409, 0.508, 0.587, 0.642)
# Optimizer -> loss, accuracy and the best class's accuracy after five epochs.
ENDS = {
    "SGD": (0.687, 0.762, 0.882),
    "Nesterov": (0.780, 0.726, 0.865),
    "Adagrad": (0.923, 0.674, 0.838),
    "Adadelta": (0.499, 0.827, 0.914),
    "Adam": (1.802, 0.306, 0.489),
}
NORM_SECONDS = {"with batch norm": TRAINING, "without batch norm": 15.00}
PARAMETERS, WITHOUT_NORM, STATE_PARTS = 11_173_962, 11_164_362, {"SGD": 1, "Adam": 2}


def story(lab: Lab) -> Iterator[str]:
    """summary.md from top to bottom; parts that have not run are left out."""
    for part in (_scale, _times, _workers, _devices, _optimizers, _norms, _trace, _questions):
        yield from part(lab)


def _trainings(lab: Lab) -> dict[str, Any]:
    return lab.starting("training ")


def _scale(lab: Lab) -> Iterator[str]:
    """In which ways this run is smaller than the authors'."""
    found = _trainings(lab)
    if not found:
        return
    made = lab.settings(f"training {next(iter(found))}")
    steps = -(-made["images"] // made["batch"])
    images = f"{made['images']:,} of {ALL:,} training images, {made['test_images']:,} of 10,000 test images"
    precision = "bfloat16 autocast" if made["autocast"] else "float32"
    yield (
        f"ResNet-18 for 32x32 images, batches of {made['batch']}, {precision}. Cut to fit this machine: epochs {made['epochs']} "
        f"(theirs 5), steps in each {steps} (theirs 391), {images}. Images are padded, cropped, mirrored and normalised one by "
        f"one in worker processes ({made['workers']} unless a table says otherwise). Seconds for an epoch of 50,000 images are "
        f"scaled from fewer.{_shared(lab)}\n"
    )


def _shared(lab: Lab) -> str:
    """Above as many as there are cores, other programs took their part, and times are too long by as much."""
    loads = [found["load"] for key in ("training ", "loading ", "time ", "device ") for found in lab.starting(key).values()]
    return f" The load average meanwhile: {min(loads)} to {max(loads)} on {os.cpu_count()} cores."


def _short(lab: Lab, key: str) -> str:
    made = lab.settings(key)
    steps, theirs = made["epochs"] * -(-made["images"] // made["batch"]), 5 * 391
    return f"{steps} steps of training here, {theirs:,} there." if steps < theirs else "Other random numbers and another split."


def _times(lab: Lab) -> Iterator[str]:
    run = _trainings(lab).get("SGD")
    if run is None:
        return
    made = lab.settings("training SGD")
    epochs = run["history"]["epochs"]
    yield "## Where an epoch's time goes\n"
    rows = [
        (epoch["epoch"], *(f"{epoch[what]:.2f} s" for what in ("seconds_loading", "seconds_training", "seconds")),
         f"{epoch['loss']:.3f}", percent(epoch["accuracy"], 1), percent(epoch["validation"], 1), _best(lab, classes))
        for epoch, classes in zip(epochs, run["classes"], strict=True)
    ]  # fmt: skip
    head = ("epoch", "loading", "training", "in all", "loss", "accuracy, training", "accuracy, test", "best class")
    yield table(head, rows)
    yield (
        "Loading is the time that the loop waits for the loader; training is the step, from when the device has done all before "
        "to when it has done the step, without moving the batch there. What is missing from the sum is moving, and bookkeeping. "
        f"Of the loading, {median(run['starts']):.2f} s an epoch are for starting the workers, until the first batch is there.\n"
    )
    parts = ("seconds_loading", "seconds_training", "seconds")
    start, middle = median(run["starts"]), {what: median(epoch[what] for epoch in epochs) for what in parts}
    ours = {what: whole(seconds, made, start if what != "seconds_training" else 0.0) for what, seconds in middle.items()}
    why = _machine(lab)
    yield beside([
        Figure("loading, an epoch", LOADING, ours["seconds_loading"], "s", 0.1 * LOADING, why),
        Figure("training, an epoch", TRAINING, ours["seconds_training"], "s", 0.1 * TRAINING, why),
        Figure("in all, an epoch", EPOCH, ours["seconds"], "s", 0.1 * EPOCH, why),
    ])  # fmt: skip


def whole(seconds: float, made: dict[str, Any], start: float) -> float:
    """An epoch's seconds for 50,000 images, of fewer: all but the start grows with them."""
    return start + (seconds - start) * ALL / made["images"]


def _machine(lab: Lab) -> str:
    return "Another machine." if lab.device.type == "cuda" else "Theirs is a GPU; ours is the CPU that stands below."


def _best(lab: Lab, shares: list[float]) -> str:
    place = max(range(10), key=lambda place: shares[place])
    name = str(place) if lab.options.quick else CLASSES[place]
    return f"{name} {percent(shares[place], 1)}"


def _workers(lab: Lab) -> Iterator[str]:
    alone = {n: found for n in WORKERS if (found := lab.get(f"loading alone {n}")) is not None}
    along = {n: found for n in WORKERS if (found := lab.get(f"loading beside {n}")) is not None}
    if not along:
        return
    yield "## How many workers\n"
    for_all = {n: found["seconds"] * ALL / found["images"] for n, found in alone.items()}
    waited = {n: whole(found["loading"], found, found["start"]) for n, found in along.items()}
    every = {n: whole(found["seconds"], found, found["start"]) for n, found in along.items()}

    def draw(path: Path) -> None:
        with picture(path, 2, size=(5.6, 3.8)) as (left, right):
            names = [str(n) for n in along]
            bars(left, names, {"": [for_all[n] for n in along]}, xlabel="Workers", ylabel="Seconds", title="Loading alone")
            bars(right, names, {"": [waited[n] for n in along]}, xlabel="Workers", ylabel="Seconds",
                 title="Waiting for the loader while training")  # fmt: skip

    yield lab.picture("g_workers", "Seconds for 50,000 images, by the number of worker processes", draw)
    rows = [(n, *(f"{s:.2f} s" for s in (for_all[n], along[n]["start"], waited[n])), f"{every[n]:,.0f} s") for n in along]
    yield table(("workers", "loading alone", "until the first batch", "waiting while training", "the whole epoch"), rows)
    measured = f"{next(iter(alone.values()))['images']:,} and {next(iter(along.values()))['images']:,}"
    yield f"Seconds for 50,000 images, measured on {measured}.\n"
    why = {
        0: "Another processor prepares them.",
        **dict.fromkeys(WORKERS[1:], "A step on the CPU keeps its cores busy, and workers wait their turn; theirs is on a GPU."),
    }
    yield beside([
        Figure(f"waiting with {n} workers", BY_WORKERS[n], waited[n], "s", 0.1 * BY_WORKERS[n], why[n])
        for n in along if n in BY_WORKERS
    ])  # fmt: skip
    fastest = min(every, key=lambda n: every[n])
    yield (
        "Without workers each batch is prepared while the step waits. With one, batches are prepared while the step before "
        "runs, and the wait is nearly gone as soon as that takes less time than the step: one is enough where a step is slow, "
        f"and more only cost memory and start-up. The fastest whole epoch here had {fastest}. "
        "On a fast GPU a step is short, and the number of workers matters until they keep up.\n"
    )


def _devices(lab: Lab) -> Iterator[str]:
    found = lab.starting("device ")
    if not found:
        return
    yield "## CPU and GPU\n"
    seconds = {name: run["seconds"] * ALL / run["images"] for name, run in found.items()}
    why = {"cpu": "Another processor, and bfloat16 where this run used it.", "cuda": "Another GPU, or none here."}
    yield beside([
        Figure(f"an epoch on {name}", theirs, seconds.get(name), "s", 0.1 * theirs, why[name])
        for name, theirs in BY_DEVICE.items()
    ])  # fmt: skip


def _optimizers(lab: Lab) -> Iterator[str]:
    runs = {name: run for name in OPTIMIZERS if (run := _trainings(lab).get(name)) is not None}
    if len(runs) < 2:
        return
    yield "## Optimizers\n"
    histories = {name: run["history"] for name, run in runs.items()}

    def draw(path: Path) -> None:
        with picture(path, 2, size=(6.0, 4.2)) as (left, right):
            lines(left, {name: _steps(history) for name, history in histories.items()}, xlabel="Step", ylabel="Training loss",
                  title="Loss, mean of five steps", marks=False)  # fmt: skip
            left.set_ylim(top=min(6.0, left.get_ylim()[1]))
            lines(right, history_lines(histories, "validation"), xlabel="Epoch", ylabel="Test accuracy", percent=True,
                  title="Accuracy")  # fmt: skip

    yield lab.picture("g_optimizers", "Loss and test accuracy under five optimizers, Adam at two learning rates", draw)
    yield table(
        ("optimizer", "lr", "loss, last epoch", "accuracy, training", "accuracy, test", "best class", "training, an epoch"),
        [_row(lab, name, run) for name, run in runs.items()],
    )
    figures = []
    for name, (loss, accuracy, best) in ENDS.items():
        last = _last(runs.get(name))
        if last is None:
            continue
        why = _short(lab, f"training {name}")
        images = lab.settings(f"training {name}")["test_images"]
        figures += [
            Figure(f"{name}, loss", loss, last["loss"], "", 0.05 * loss, why),
            Figure(f"{name}, accuracy", accuracy, last["validation"], spread=two_errors(accuracy, images), why=why),
            Figure(f"{name}, best class", best, max(runs[name]["classes"][-1]), spread=two_errors(best, images // 10), why=why),
        ]
    yield beside(figures)
    yield (
        "Adam divides each step by the size of its gradients, so that its learning rate is about how far a weight moves in a "
        "step: 0.1 throws weights of a few hundredths about, 0.001 does not. The authors' 30.6 % is Adam at SGD's rate.\n"
    )


def _steps(history: dict[str, Any]) -> tuple[list[float], list[float]]:
    losses = [loss for epoch in history["epochs"] for loss in epoch["step_losses"]]
    means = [sum(losses[max(at - 4, 0) : at + 1]) / len(losses[max(at - 4, 0) : at + 1]) for at in range(len(losses))]
    return [float(at + 1) for at in range(len(losses))], means


def _last(run: dict[str, Any] | None) -> dict[str, Any] | None:
    epochs: list[dict[str, Any]] = run["history"]["epochs"] if run is not None else []
    return epochs[-1] if epochs else None


def _row(lab: Lab, name: str, run: dict[str, Any]) -> tuple[str, ...]:
    last = _last(run)
    if last is None:
        return (name, f"{OPTIMIZERS[name][1]:g}", run["ended"], "", "", "", "")
    seconds = median(epoch["seconds_training"] for epoch in run["history"]["epochs"])
    shares = (percent(last["accuracy"], 1), percent(last["validation"], 1), _best(lab, run["classes"][-1]))
    return (name, f"{OPTIMIZERS[name][1]:g}", f"{last['loss']:.3f}", *shares, f"{seconds:.1f} s")


def _norms(lab: Lab) -> Iterator[str]:
    runs = {"with batch norm": _trainings(lab).get("SGD"), "without": _trainings(lab).get("SGD without batch norm")}
    if any(run is None for run in runs.values()):
        return
    yield "## Batch norm\n"
    histories = {name: run["history"] for name, run in runs.items() if run is not None}
    theirs = {"theirs, with": (range(1, 6), WITH_NORM), "theirs, without": (range(1, 6), WITHOUT)}

    def draw(path: Path) -> None:
        with picture(path, 2, size=(6.0, 4.0)) as (left, right):
            curves = {**history_lines(histories, "validation"), **theirs}
            lines(left, curves, xlabel="Epoch", ylabel="Test accuracy", percent=True, title="Accuracy by epoch")
            shares = {name: run["classes"][-1] for name, run in runs.items() if run is not None and run["classes"]}
            names = [str(place) for place in range(10)] if lab.options.quick else list(CLASSES)
            bars(right, names, shares, ylabel="Test accuracy", percent=True, title="By class, after the last epoch")

    yield lab.picture("g_batch_norm", "With and without batch norm: accuracy by epoch, and by class at the end", draw)
    figures = []
    for (name, run), reference in zip(runs.items(), (WITH_NORM, WITHOUT), strict=True):
        key = "training SGD" if name.startswith("with ") else "training SGD without batch norm"
        images, why = lab.settings(key)["test_images"], _short(lab, key)
        for epoch, accuracy in zip(run["history"]["epochs"] if run else [], reference, strict=False):
            what = f"{name}, epoch {epoch['epoch']}"
            figures.append(Figure(what, accuracy, epoch["validation"], spread=two_errors(accuracy, images), why=why))
    yield beside(figures)
    yield from _norm_times(lab)
    ended = [run["ended"] for run in runs.values() if run is not None and "ended" in run]
    yield "".join(f"One of them ended early: {text}.\n\n" for text in ended) + (
        "The norms read and write each map again, which takes time. They keep the scale of what each layer sees, whatever the "
        "layers before do, so that a rate of 0.1 can be used at all: the authors' network gets further with them in each epoch.\n"
    )


def _norm_times(lab: Lab) -> Iterator[str]:
    """What the norms cost: the same step with them and without."""
    found = {name: lab.get(f"time {name}") for name in NORM_SECONDS}
    if any(run is None for run in found.values()):
        return
    yield beside([
        Figure(f"training, an epoch {name}", theirs, run["training"] * ALL / run["images"], "s", 0.1 * theirs, _machine(lab))
        for (name, theirs), run in zip(NORM_SECONDS.items(), found.values(), strict=True) if run is not None
    ])  # fmt: skip


def _trace(lab: Lab) -> Iterator[str]:
    found = lab.get("trace")
    if found is None:
        return
    yield "## A profiler trace\n"

    def draw(path: Path) -> None:
        with picture(path, size=(8.0, 4.2)) as (axes,):
            names = [name.removeprefix("aten::") for name in found["operations"]]
            bars(axes, names, {"": list(found["operations"].values())}, ylabel="Own milliseconds per step",
                 title="Operations that take longest, without what they call")  # fmt: skip

    yield lab.picture("g_trace", "What the operations of one training step take", draw)
    parts = {"enumerate(DataLoader)": "the loader", "to device": "to the device", "Optimizer.step": "update"}
    rows = [(parts.get(name, name), f"{time:,.1f}") for name, time in found["marks"].items()]
    yield table(("part of a step", "milliseconds"), rows)
    yield (
        "trace.json.gz, which the script writes beside this page, opens in ui.perfetto.dev or chrome://tracing: each step with "
        "its forward pass, its backward pass on a thread of its own, the optimizer's step, and the wait for the loader.\n"
    )


def _questions(lab: Lab) -> Iterator[str]:
    found = lab.get("questions")
    if found is None:
        return
    yield "## Questions, answered by counting\n"
    counted = [
        ("convolutions on the main path", 17, found["main path"]),
        ("convolutions with the shortcuts", 20, found["convolutions"]),
        ("inputs of the last layer", 512, found["inputs of the last layer"]),
        ("parameters", PARAMETERS, found["SGD"]["parameters"]),
        ("parameters without batch norm", WITHOUT_NORM, found["without batch norm"]),
        *((f"gradients under {name}", PARAMETERS, found[name]["gradients"]) for name in STATE_PARTS),
    ]
    rows = [(what, f"{theirs:,}", f"{ours:,}", "yes" if ours == theirs else "NO") for what, theirs, ours in counted]
    yield table(("count", "authors", "ours", "equal"), rows)
    rows = [
        (name, *(f"{found[name][what]:,}" for what in ("parameters", "gradients", "state")), f"{parts} x parameters")
        for name, parts in STATE_PARTS.items()
    ]
    yield table(("optimizer", "parameters", "gradients", "numbers that it keeps", "which is"), rows)
    yield (
        "Parameters and gradients are as many under SGD as under Adam: they belong to the network. What differs is what the "
        "optimizer remembers: SGD with momentum one number per parameter, Adam two, the means of gradient and of its square.\n"
    )
