"""Lab F. Depthwise separable convolution, written without `groups`.

    python examples/lab_f_separable.py --data DIR                              # everything; 100 epochs
    python examples/lab_f_separable.py --data DIR --epochs 40 --images 10000   # as committed; a quarter of an hour on one core

F1 holds deepcompress.nn.DepthwiseSeparableConv2d against torch's grouped convolution: outputs and gradients. F2 counts parameters
against a standard convolution and against theory. F3 times the three forms. F4 trains a small network of the block (depthwise
separable convolution, batch norm, ReLU).

Committed run (examples/results/lab_f; one run, seed 0, one CPU thread): F4 on 10,000 of CIFAR-10's 50,000 training images, and in
40 epochs instead of 100. The test accuracy of one run is known to two standard errors of 10,000 images, 0.9 points.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import accuracy_on
from _data import Batches
from _lab import Figure, Lab, as_data, at_least, beside, history_lines, percent, run_lab, table, two_errors
from torch import Tensor, nn

import deepcompress as dc
from deepcompress.models import SeparableNet
from deepcompress.nn import DepthwiseSeparableConv2d, as_grouped, parameter_share, trainable_parameters
from deepcompress.report.curves import bars, lines, picture

AUTHORS_EPOCHS = 100
QUICK_IMAGES = 256

# What F1 compares: name -> arguments of the layer. Input 8 channels of 17 x 19, batch 4.
SETTINGS: dict[str, dict[str, Any]] = {
    "3x3": {"padding": 1},
    "3x3, stride 2": {"padding": 1, "stride": 2},
    "3x3, dilation 2": {"padding": 2, "dilation": 2},
    "5x3, stride (2, 1)": {"kernel_size": (5, 3), "stride": (2, 1), "padding": (2, 0)},
    "4x4, dilation 2, padding 'same'": {"kernel_size": 4, "dilation": 2, "padding": "same"},
    "3x3, 2 kernels per channel": {"padding": 1, "depth_multiplier": 2},
}
DTYPES = ("float16", "bfloat16", "float32", "float64")
# What F3 times: (channels, out channels, side), batch 32, 3x3, padding 1.
SHAPES = ((32, 64, 32), (128, 128, 16), (256, 256, 8))
FORMS = ("ours", "grouped", "standard")


def main() -> None:
    run_lab("f", "Depthwise separable convolution without groups", __doc__, measure, story, add=_options)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=at_least(1), metavar="N", help="training images of F4 (default: all)")


def measure(lab: Lab) -> None:
    lab.step("F1 equal", _differences)
    lab.step("F2 parameters", _parameters)
    repeats = 3 if lab.options.quick else 30
    clock = "thread" if lab.device.type == "cpu" else "wall"
    lab.step("F3 times", lambda: _times(lab.device, repeats), repeats=repeats, clock=clock)
    lab.step("F3 network", lambda: _network_times(lab.device, repeats), repeats=repeats, clock=clock)
    model = _trained(lab)
    after = lab.settings("F4 training")
    lab.step("F4 test", lambda: _tested(model, lab), trained=[after["epochs"], after["images"]])


# F1: the same numbers


def _layer(**changes: Any) -> DepthwiseSeparableConv2d:
    return DepthwiseSeparableConv2d(8, 12, **{"kernel_size": 3, **changes})


def _differences() -> list[dict[str, Any]]:
    """Largest difference between ours and the grouped form of one dtype, over the largest value, with the dtype's epsilon."""
    rows = []
    for name, changes in SETTINGS.items():
        for dtype in DTYPES if name == "3x3" else ("float32", "float64"):
            torch.manual_seed(0)
            layer = _layer(**changes).to(getattr(torch, dtype))
            found, wanted = (_answers(module, getattr(torch, dtype)) for module in (layer, as_grouped(layer)))
            errors = [_relative(mine, theirs) for mine, theirs in zip(found, wanted, strict=True)]
            epsilon = torch.finfo(getattr(torch, dtype)).eps
            rows.append({"layer": name, "dtype": dtype, "output": errors[0], "gradients": max(errors[1:]), "epsilon": epsilon})
    return rows


def _answers(layer: nn.Module, dtype: torch.dtype) -> list[Tensor]:
    """The output, and the gradients of the input and of each parameter."""
    torch.manual_seed(1)
    images = torch.randn(4, 8, 17, 19).to(dtype).requires_grad_()
    out = layer(images)
    learning = [parameter for _, parameter in sorted(layer.named_parameters())]
    return [out, *torch.autograd.grad(out, [images, *learning], torch.randn(out.shape).to(dtype))]


def _relative(mine: Tensor, theirs: Tensor) -> float:
    return ((mine.double() - theirs.double()).abs().max() / theirs.double().abs().max()).item()


# F2: parameters


def _parameters() -> list[dict[str, Any]]:
    rows = []
    for kernel in (3, 5, 7):
        for out_channels in (16, 64, 256):
            separable = trainable_parameters(DepthwiseSeparableConv2d(64, out_channels, kernel, bias=False))[1]
            standard = trainable_parameters(nn.Conv2d(64, out_channels, kernel, bias=False))[1]
            theory = parameter_share(out_channels, kernel)
            rows.append(
                {"kernel": kernel, "out": out_channels, "separable": separable, "standard": standard, "theory": theory}
            )
    return rows


# F3: seconds


def _times(device: torch.device, repeats: int) -> list[dict[str, Any]]:
    rows = []
    for channels, out_channels, side in SHAPES:
        images = torch.randn(32, channels, side, side, device=device, requires_grad=True)
        ours = DepthwiseSeparableConv2d(channels, out_channels, 3, padding=1, bias=False).to(device)
        grouped: Any = as_grouped(ours)
        standard = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False).to(device)
        layers: dict[str, nn.Module] = {"ours": ours, "grouped": grouped, "standard": standard}
        halves: dict[str, nn.Module] = {"ours": ours.depthwise, "grouped": grouped.depthwise}
        pixels = 32 * side * side
        rows.append(
            {
                "shape": f"{channels} to {out_channels}, {side} x {side}",
                "products": pixels * channels * (9 + out_channels),
                "standard products": pixels * channels * 9 * out_channels,
                "depthwise": _in_turns(halves, _forward, images, repeats),
                "forward": _in_turns(layers, _forward, images, repeats),
                "both": _in_turns(layers, _forward_and_backward, images, repeats),
            }
        )
    return rows


def _forward(layer: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        layer(images)


def _forward_and_backward(layer: nn.Module, images: Tensor) -> None:
    layer(images).sum().backward()


def _network_times(device: torch.device, repeats: int) -> dict[str, list[float]]:
    """One training step of the small network, 128 images, in both forms."""
    network = SeparableNet().to(device)
    networks = {"ours": network, "grouped": _grouped_network(network)}
    return _in_turns(networks, _forward_and_backward, torch.randn(128, 3, 32, 32, device=device), max(repeats // 3, 1))


def _grouped_network(network: nn.Module) -> nn.Module:
    grouped = copy.deepcopy(network)
    for block in grouped.blocks:
        block[0] = as_grouped(block[0])
    return grouped


def _in_turns(
    layers: dict[str, nn.Module], run: Callable[[nn.Module, Tensor], None], images: Tensor, repeats: int
) -> dict[str, list[float]]:
    """Seconds of each layer, taken in turns; the first turn warms up.

    On a CPU those of one thread, while it runs: what else the machine has to do does not count. On a GPU those of the clock.
    """
    clock = time.perf_counter if images.is_cuda else time.thread_time
    seconds: dict[str, list[float]] = {name: [] for name in layers}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for turn in range(repeats + 1):
        for name, layer in layers.items():
            start = clock()
            run(layer, images)
            if images.is_cuda:
                torch.cuda.synchronize(images.device)
            if turn:
                seconds[name].append(clock() - start)
    torch.set_num_threads(threads)
    return seconds


# F4: a network of the block


def _trained(lab: Lab) -> nn.Module:
    epochs, quick = lab.epochs(AUTHORS_EPOCHS, quick=2), lab.options.quick
    train = lab.data()[0]
    images = min(lab.options.images or len(train), QUICK_IMAGES if quick else len(train))
    chosen = train.sample(images, lab.options.seed)
    batches = Batches(chosen, 128, shuffle=True, shift=0 if quick else 4, flip=not quick, seed=lab.options.seed)
    settings = dc.TrainSettings(
        epochs=epochs, lr=0.2, optimizer="SGD", optimizer_options={"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
        scheduler="onecycle", scheduler_options={"pct_start": 0.2}, seed=lab.options.seed,
    )  # fmt: skip

    def make() -> nn.Module:
        torch.manual_seed(lab.options.seed)
        return SeparableNet().to(lab.device)

    def train_it(model: nn.Module) -> Any:
        return as_data(dc.fit(model, batches, settings, validate=accuracy_on(lab.data()[1]), quiet=False))

    return lab.model("F4 training", make, train_it, epochs=epochs, of=AUTHORS_EPOCHS, images=images, all_images=len(train))


def _tested(model: nn.Module, lab: Lab) -> dict[str, Any]:
    """The trained network, and the same with torch's grouped convolutions."""
    model = model.to(lab.device).eval()
    grouped, test = _grouped_network(model), lab.data()[1]
    accuracy = accuracy_on(test)
    images, _ = next(iter(Batches(test, 500)))
    with torch.inference_mode():
        logits = [net(images.to(lab.device)) for net in (model, grouped)]
    return {"accuracy": accuracy(model), "grouped": accuracy(grouped), "difference": _relative(*logits), "images": len(test)}


# The story


def story(lab: Lab) -> Iterator[str]:
    for tell in (_tell_equal, _tell_parameters, _tell_times, _tell_training):
        yield from tell(lab)


def _tell_equal(lab: Lab) -> Iterator[str]:
    if (rows := lab.get("F1 equal")) is None:
        return
    yield "## F1. The same numbers as `groups=`\n"
    yield (
        "Ours pads the maps, and for each of the k x k weights of a kernel multiplies the maps, shifted, with it and adds. The "
        "reference is `nn.Conv2d(..., groups=in_channels)` with the same weights. Largest difference over the largest value, of "
        "the output and of the gradients of input and weights, beside the dtype's epsilon:\n"
    )
    yield table(
        ("layer", "dtype", "output", "gradients", "epsilon"),
        [(row["layer"], row["dtype"], *(f"{row[key]:.1e}" for key in ("output", "gradients", "epsilon"))) for row in rows],
    )
    worst = max(max(row["output"], row["gradients"]) / row["epsilon"] for row in rows)
    yield f"The largest difference is {worst:.1f} epsilon: the order of the sums, nothing more.\n"


def _tell_parameters(lab: Lab) -> Iterator[str]:
    if (rows := lab.get("F2 parameters")) is None:
        return
    yield "## F2. Parameters\n"
    yield (
        "A standard convolution has in x out x k^2 weights, a depthwise separable one in x k^2 + in x out, a share of "
        "1 / out + 1 / k^2. Counted in the layers, without biases, beside what theory says:\n"
    )
    why = "The formula counts weights as the layer does; anything else is a bug."
    yield beside([
        Figure(f"{row['kernel']} x {row['kernel']}, 64 to {row['out']}: {row['separable']:,} of {row['standard']:,} (theory)",
               row["theory"], row["separable"] / row["standard"], spread=1e-12, why=why) for row in rows
    ])  # fmt: skip

    def draw(path: Path) -> None:
        widths = np.unique(np.geomspace(1, 1024, 60).round().astype(int))
        curves: dict[str, Any] = {}
        for kernel in (3, 5, 7):
            curves[f"{kernel} x {kernel}, theory"] = (widths, [parameter_share(int(width), kernel) for width in widths])
        with picture(path, size=(7.2, 4.2)) as (axes,):
            lines(axes, curves, xlabel="Output channels", ylabel="Share of a standard convolution's weights", percent=True)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            counted = [(row["out"], row["separable"] / row["standard"]) for row in rows]
            axes.plot(*zip(*counted, strict=True), "k+", markersize=10, label="counted")
            axes.set_ylim(0, 1.2)
            axes.legend()

    yield lab.picture("f2_parameters", "F2: what share of a standard convolution's weights is left", draw)


def _tell_times(lab: Lab) -> Iterator[str]:
    if (rows := lab.get("F3 times")) is None:
        return
    clock = "the one thread's time" if lab.settings("F3 times")["clock"] == "thread" else "the clock"
    yield "## F3. Time\n"
    yield (
        f"Batch 32, 3 x 3, in milliseconds of {clock}: lowest of {len(rows[0]['forward']['ours'])} in turns (median). "
        "Multiplications, and billions of them a second, are those of the forward pass.\n"
    )
    shown = []
    for row in rows:
        for form in FORMS:
            products = row["standard products" if form == "standard" else "products"]
            times = [_shown(row[part].get(form)) for part in ("depthwise", "forward", "both")]
            rate = products / min(row["forward"][form]) / 1e9
            shown.append((row["shape"], form, f"{products / 1e6:,.0f} M", *times, f"{rate:.1f}"))
    head = ("channels, map", "form", "multiplications", "depthwise half", "forward", "forward and backward", "billions/s")
    yield table(head, shown)

    def draw(path: Path) -> None:
        with picture(path, 2, size=(5.6, 3.9)) as panels:
            for axes, (part, title) in zip(panels, (("forward", "Forward"), ("both", "Forward and backward")), strict=True):
                groups = {form: [1000 * min(row[part][form]) for row in rows] for form in FORMS}
                bars(axes, [row["shape"] for row in rows], groups, ylabel="Milliseconds", title=title, labels=False)
                axes.set_xticks(range(len(rows)), [row["shape"].replace(", ", "\n") for row in rows], rotation=0, ha="center")
                axes.set_ylim(top=1.15 * max(max(values) for values in groups.values()))

    yield lab.picture("f3_times", "F3: time of a layer in the three forms, batch 32", draw)
    yield _why(rows)
    if (network := lab.get("F3 network")) is not None:
        ratio = min(network["ours"]) / min(network["grouped"])
        yield (
            f"A training step of the small network, 128 images (forward and backward): {_shown(network['ours'])} ms ours, "
            f"{_shown(network['grouped'])} ms grouped, {ratio:.1f} times as long.\n"
        )


def _shown(seconds: list[float] | None) -> str:
    if seconds is None:
        return "-"
    return f"{1000 * min(seconds):.1f} ({1000 * float(np.median(seconds)):.1f})"


def _why(rows: list[dict[str, Any]]) -> str:
    halves = [min(row["depthwise"]["ours"]) / min(row["depthwise"]["grouped"]) for row in rows]
    both = [min(row["both"]["ours"]) / min(row["both"]["grouped"]) for row in rows]
    fewer = [row["standard products"] / row["products"] for row in rows]
    faster = [min(row["forward"]["standard"]) / min(row["forward"]["grouped"]) for row in rows]
    return (
        f"Why ours takes longer than `groups=` ({min(halves):.1f} to {max(halves):.1f} times in the depthwise half, "
        f"{min(both):.1f} to {max(both):.1f} times forward and backward with the 1 x 1 half, which is the same in both): the "
        "multiplications are the same. The grouped kernel makes all nine while a pixel is in a register, and writes each output "
        "once; ours goes through the maps nine times, reads the sum so far and writes it again at each, and its backward pass "
        "does so for the maps and for the weights. It is bound by memory, not by arithmetic, and small maps are worst: a shifted "
        "view of a map 8 pixels wide is read 8 numbers at a time.\n\n"
        f"Why neither is as much faster than the standard convolution as its multiplications say ({min(fewer):.1f} to "
        f"{max(fewer):.1f} times fewer, grouped {min(faster):.1f} to {max(faster):.1f} times faster in the forward pass): a "
        "standard convolution reads a pixel once for all output channels and runs as one large matrix product near the "
        "processor's peak; a depthwise one does nine multiplications per pixel that it reads, and the 1 x 1 half writes as many "
        "outputs as the standard convolution for a ninth of its multiplications.\n"
    )


def _tell_training(lab: Lab) -> Iterator[str]:
    if (history := lab.get("F4 training")) is None:
        return
    settings, epochs = lab.settings("F4 training"), history["epochs"]
    yield "## F4. A small network of the block\n"
    cut = []
    if settings["epochs"] != AUTHORS_EPOCHS:
        cut.append(f"{settings['epochs']} epochs instead of {AUTHORS_EPOCHS}")
    if settings["images"] != settings["all_images"]:
        cut.append(f"{settings['images']:,} training images instead of {settings['all_images']:,}")
    yield (
        "deepcompress.models.SeparableNet: a 3 x 3 convolution, five blocks, one linear layer; 135,562 parameters, with standard "
        "convolutions 1,129,514. SGD with Nesterov momentum 0.9, one cycle to 0.2, weight decay 5e-4, batches of 128, crops and "
        f"mirrored images. {'Cut to fit one core: ' + ' and '.join(cut) if cut else 'Nothing was cut'}.\n"
    )

    def draw(path: Path) -> None:
        errors = {"training error": [1 - epoch["accuracy"] for epoch in epochs]}
        curves: dict[str, Any] = {name: (range(1, len(values) + 1), values) for name, values in errors.items()}
        curves["test accuracy"] = history_lines({"": history}, "validation")[""]
        with picture(path, size=(7.2, 4.2)) as (axes,):
            lines(axes, curves, xlabel="Epoch", ylabel="Share of the images", percent=True)
            axes.set_ylim(0, 1)

    yield lab.picture("f4_training", "F4: training error (on augmented images, while they train) and test accuracy", draw)
    last = epochs[-1]
    yield f"At the end: training error {percent(1 - last['accuracy'])}, test accuracy {percent(last['validation'])}.\n"
    if (found := lab.get("F4 test")) is not None:
        spread = 100 * two_errors(found["accuracy"], found["images"])
        yield (
            f"The test accuracy of one run is known to {spread:.1f} points (two standard errors). The same weights in torch's "
            f"grouped convolutions: {percent(found['grouped'])}; the logits differ by {found['difference']:.1e} of the largest.\n"
        )


if __name__ == "__main__":
    main()
