"""Lab G. Training under the clock: ResNet-18 on CIFAR-10, what an epoch's time is spent on, and what the optimizer changes.

    python examples/lab_g_resnet18.py --data DIR                                   # all parts
    python examples/lab_g_resnet18.py run --data DIR --optimizer Adam --workers 4  # one training, by the command line
    python examples/lab_g_resnet18.py workers --data DIR                           # one part

`run` trains once and prints for each epoch the seconds loading, training (the device synchronised, moving data left out) and in
all, the loss, the accuracy and the best class. `workers` loads with 0, 1, 2, 4, 8 and 12 worker processes; `devices` sets the CPU
against a GPU where there is one; `optimizers` and `norms` train by five optimizers, and without batch norm; `trace` writes
trace.json.gz for ui.perfetto.dev; `questions` counts layers, parameters, gradients and the optimizer's numbers.

Committed run (examples/results/lab_g; one run of each training, seed 0, two CPU threads, bfloat16): five epochs on 10,000 of the
50,000 training images, 395 steps where the authors made 1,955. An accuracy of one run is known to two standard errors of the test
images it was measured on (1.4 points for 5,000), a time to about a tenth.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import os
import time
from collections import Counter
from functools import partial
from typing import Any

import torch
from _data import Batches
from _images import CLASSES, Images, Starts, loader, notice
from _lab import Lab, at_least, run_lab, say
from torch import nn

import deepcompress as dc
from deepcompress.models import resnet18_cifar

ALL, BATCH = 50_000, 128
DECAY = {"weight_decay": 5e-4}
MOMENTUM = {"momentum": 0.9, **DECAY}
# Name -> class of torch.optim, learning rate, options. The authors' rate is 0.1 for all of them.
OPTIMIZERS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "SGD": ("SGD", 0.1, MOMENTUM),
    "Nesterov": ("SGD", 0.1, {**MOMENTUM, "nesterov": True}),
    "Adagrad": ("Adagrad", 0.1, DECAY),
    "Adadelta": ("Adadelta", 0.1, DECAY),
    "Adam": ("Adam", 0.1, DECAY),
    "Adam at 0.001": ("Adam", 0.001, DECAY),
}
WORKERS = (0, 1, 2, 4, 8, 12)


def main() -> None:
    from _lab_g_story import story  # it reads this module's tables

    run_lab("g", "Training under the clock: ResNet-18", __doc__, measure, story, parts=PARTS, add=_options)


def _options(parser: argparse.ArgumentParser) -> None:
    def number(name: str, least: int, default: int, what: str) -> None:
        told = f"{what} (default: %(default)s)"
        parser.add_argument(f"--{name}", type=at_least(least), default=default, metavar="N", help=told)

    number("workers", 0, 2, "worker processes that load")
    number("batch", 2, BATCH, "images per batch")
    number("images", 2, ALL, "train on N of the images")
    number("test-images", 1, 10_000, "test on N of them")
    parser.add_argument("--optimizer", default="SGD", choices=OPTIMIZERS, help="of `run` (default: %(default)s)")
    parser.add_argument("--no-batch-norm", action="store_true", help="`run` without batch norm")
    parser.add_argument("--autocast", action="store_true", help="bfloat16 where torch's autocast allows it")


def measure(lab: Lab) -> None:
    logging.getLogger("deepcompress.training").setLevel(logging.WARNING)  # `train` says more of an epoch
    _notice(lab.options.workers)
    for part in list(PARTS) if lab.options.part == "all" else [lab.options.part]:
        PARTS[part](lab)


def _notice(workers: int) -> None:
    if (said := notice(workers)) is not None:
        say(f"notice: {said}")


# What every part needs


def size(lab: Lab) -> dict[str, Any]:
    """What a figure depends on besides the number of epochs; less of everything with --quick."""
    wanted = lab.options
    if wanted.quick:
        return {"images": 4, "test_images": 10, "batch": 4, "workers": 1, "autocast": False}
    return {"images": wanted.images, "test_images": wanted.test_images, "batch": wanted.batch, "workers": wanted.workers,
            "autocast": wanted.autocast}  # fmt: skip


def batches(lab: Lab, *, workers: int | None = None, images: int | None = None) -> Starts:
    sizes = size(lab)
    split = lab.data()[0].sample(images or sizes["images"])
    chosen = sizes["workers"] if workers is None else workers
    prepared = Images(split, augment=not lab.options.quick)
    return Starts(loader(prepared, sizes["batch"], workers=chosen, device=lab.device.type))


def network(lab: Lab, *, norm: bool = True, device: torch.device | None = None) -> nn.Module:
    torch.manual_seed(lab.options.seed)
    model = resnet18_cifar(batch_norm=norm)
    return model.to(device or lab.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def settings(lab: Lab, epochs: int, optimizer: str) -> dc.TrainSettings:
    name, lr, options = OPTIMIZERS[optimizer]
    autocast = "bfloat16" if size(lab)["autocast"] else None
    return dc.TrainSettings(epochs, lr, name, options, autocast=autocast, seed=lab.options.seed)


def load() -> float:
    """How many programs want a core just now; above the number of cores, times are too long."""
    return round(os.getloadavg()[0], 1)


def right_by_class(lab: Lab, model: nn.Module) -> list[float]:
    """The share of each class's test images that is recognised."""
    right, there = torch.zeros(10), torch.zeros(10)
    test = lab.data()[1].sample(size(lab)["test_images"])
    device = next(model.parameters()).device
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=size(lab)["autocast"])
    with torch.inference_mode(), mixed:
        for images, labels in Batches(test, 250, channels_last=True):
            hits = model(images.to(device)).argmax(1).cpu() == labels
            there += torch.bincount(labels, minlength=10)
            right += torch.bincount(labels[hits], minlength=10)
    return [round(share, 4) for share in (right / there.clamp(min=1)).tolist()]


def train(lab: Lab, optimizer: str, epochs: int, norm: bool) -> dict[str, Any]:
    """One training; its epochs are printed and kept as they come, also where it goes astray."""
    model = network(lab, norm=norm)
    counts = torch.bincount(lab.data()[1].sample(size(lab)["test_images"]).labels, minlength=10)
    classes: list[list[float]] = []
    records: list[Any] = []

    def validate(model: nn.Module) -> float:
        classes.append(right_by_class(lab, model))
        return float((torch.tensor(classes[-1]) * counts).sum() / counts.sum())

    def tell(record: Any) -> None:
        records.append(record)
        say(f"  {_line(record)}, best class {_best(lab, classes[-1])}")

    found: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    there = batches(lab)
    try:
        dc.fit(model, there, settings(lab, epochs, optimizer), validate=validate, after_epoch=tell)
    except dc.TrainingError as error:  # a rate that is too high is a result
        found["ended"] = str(error).partition(";")[0]
    history = dc.History(tuple(records)).as_dict()
    return {**found, "history": history, "classes": classes, "starts": there.seconds, "load": load()}


def _line(record: Any) -> str:
    times = f"{record.seconds_loading:.2f} s loading, {record.seconds_training:.2f} s training, {record.seconds:.2f} s in all"
    return f"epoch {record.epoch}: {times}; loss {record.loss:.3f}, accuracy {record.accuracy:.1%}, test {record.validation:.1%}"


def _best(lab: Lab, shares: list[float]) -> str:
    best = max(range(10), key=lambda place: shares[place])
    return f"{str(best) if lab.options.quick else CLASSES[best]} ({shares[best]:.1%})"


def training(lab: Lab, optimizer: str, *, norm: bool = True) -> Any:
    """The step of one training; a part that needs one which another part has made finds it."""
    epochs = lab.epochs(5)
    name = f"training {optimizer}" + ("" if norm else " without batch norm")
    return lab.step(name, partial(train, lab, optimizer, epochs, norm), epochs=epochs, of=5, **size(lab))


# The parts


def part_run(lab: Lab) -> None:
    training(lab, lab.options.optimizer, norm=not lab.options.no_batch_norm)


def part_workers(lab: Lab) -> None:
    for workers in (0, 1) if lab.options.quick else WORKERS:
        _notice(workers)
        lab.step(f"loading alone {workers}", partial(_load, lab, workers), **_loading_size(lab, ALL))
        lab.step(f"loading beside {workers}", partial(_load_beside, lab, workers), **_loading_size(lab, 8 * size(lab)["batch"]))


def _loading_size(lab: Lab, most: int) -> dict[str, Any]:
    sizes = size(lab)
    there = len(lab.data()[0])
    images = sizes["images"] if lab.options.quick else min(most, there)
    return {"images": images, "batch": sizes["batch"], "autocast": sizes["autocast"]}


def _load(lab: Lab, workers: int) -> dict[str, Any]:
    """Seconds to go through the images once, with nothing else to do."""
    there = batches(lab, workers=workers, images=_loading_size(lab, ALL)["images"])
    start = time.perf_counter()
    images = sum(len(labels) for _, labels in there)
    return {"seconds": time.perf_counter() - start, "images": images, "load": load()}


def _load_beside(lab: Lab, workers: int) -> dict[str, Any]:
    """Seconds that training waits, in the second of two epochs."""
    images = _loading_size(lab, 8 * size(lab)["batch"])["images"]
    there = batches(lab, workers=workers, images=images)
    last = dc.fit(network(lab), there, settings(lab, 2, "SGD")).epochs[-1]
    return {"loading": last.seconds_loading, "start": there.seconds[-1], "seconds": last.seconds, "images": images,
            "load": load()}  # fmt: skip


def part_devices(lab: Lab) -> None:
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        _time(lab, f"device {device}", torch.device(device))


def _time(lab: Lab, key: str, device: torch.device, *, norm: bool = True) -> None:
    """The second of two epochs; on the CPU of no more than four batches."""
    sizes = size(lab)
    images = sizes["images"] if device.type == "cuda" else min(sizes["images"], 4 * sizes["batch"])

    def seconds() -> dict[str, Any]:
        model = network(lab, norm=norm, device=device)
        last = dc.fit(model, batches(lab, images=images), settings(lab, 2, "SGD")).epochs[-1]
        return {"seconds": last.seconds, "training": last.seconds_training, "images": images, "load": load()}

    lab.step(key, seconds, epochs=2, **{**sizes, "images": images})


def part_optimizers(lab: Lab) -> None:
    for optimizer in OPTIMIZERS:
        training(lab, optimizer)


def part_norms(lab: Lab) -> None:
    for norm in (True, False):
        training(lab, "SGD", norm=norm)
        _time(lab, "time " + ("with batch norm" if norm else "without batch norm"), lab.device, norm=norm)


def part_trace(lab: Lab) -> None:
    lab.step("trace", partial(_trace, lab), **size(lab))


def _trace(lab: Lab) -> dict[str, Any]:
    """Three steps in OUT/trace.json.gz, and what they took: by mark, and by operation."""
    path = lab.out / "trace.json.gz"
    lab.out.mkdir(parents=True, exist_ok=True)
    images = 2 * size(lab)["batch"] if lab.options.quick else 4 * size(lab)["batch"]
    dc.fit(network(lab), batches(lab, images=images), settings(lab, 1, "SGD"), trace=path)
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    spans = [event for event in events if event.get("ph") == "X" and event.get("cat") in ("cpu_op", "user_annotation")]
    steps = sum(event["name"].startswith("ProfilerStep") for event in spans)
    marks = Counter[str]()
    for event in spans:
        if event["name"] in ("to device", "forward", "backward") or event["name"].startswith(("Optimizer.step", "enumerate")):
            marks[event["name"].partition("#")[0]] += event["dur"] / steps / 1e3
    marks["Optimizer.step"] -= marks["forward"] + marks["backward"]  # which run within it
    operations = own_times([event for event in spans if event["cat"] == "cpu_op"])
    return {"marks": dict(marks), "operations": {name: time / steps / 1e3 for name, time in operations.most_common(8)}}


def own_times(events: list[dict[str, Any]]) -> Counter[str]:
    """Name -> microseconds in events of that name, without those within them; events nest, thread by thread."""
    own: Counter[str] = Counter()
    around: dict[Any, list[tuple[float, str]]] = {}
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        stack = around.setdefault(event["tid"], [])
        while stack and stack[-1][0] <= event["ts"]:
            stack.pop()
        if stack:
            own[stack[-1][1]] -= event["dur"]
        own[event["name"]] += event["dur"]
        stack.append((event["ts"] + event["dur"], event["name"]))
    return own


def part_questions(lab: Lab) -> None:
    lab.step("questions", partial(_count, lab))


def _count(lab: Lab) -> dict[str, Any]:
    """Counted on the network and on an optimizer that has taken a step; nothing is known beforehand."""
    model = resnet18_cifar()
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    found: dict[str, Any] = {
        "convolutions": len(convolutions),
        "main path": sum("shortcut" not in name for name in convolutions),
        "inputs of the last layer": [m for m in model.modules() if isinstance(m, nn.Linear)][-1].in_features,
        "without batch norm": sum(p.numel() for p in resnet18_cifar(batch_norm=False).parameters()),
    }
    for name in ("SGD", "Adam"):
        found[name] = _numbers_under(name)
    return found


def _numbers_under(optimizer: str) -> dict[str, int]:
    model = resnet18_cifar()
    kind, lr, options = OPTIMIZERS[optimizer]
    chosen = getattr(torch.optim, kind)(model.parameters(), lr=lr, **options)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    chosen.step()
    kept = [value for state in chosen.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    gradients = [p.grad.numel() for p in model.parameters() if p.grad is not None]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "gradients": sum(gradients),
        "state": sum(value.numel() for value in kept if value.numel() > 1),
    }


PARTS = {
    "run": part_run,
    "workers": part_workers,
    "devices": part_devices,
    "optimizers": part_optimizers,
    "norms": part_norms,
    "trace": part_trace,
    "questions": part_questions,
}


if __name__ == "__main__":
    main()
