"""Lab I's summary: tables and pictures from what lab_i_fixed_point.py measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from _lab import Lab, percent, table, two_errors
from lab_i_fixed_point import METHODS, calibration_images, widths

from deepcompress.report.curves import bars, histograms, lines, picture


def story(lab: Lab) -> Iterator[str]:
    if lab.get("accuracy, float") is None:
        yield "Nothing was measured yet.\n"
        return
    yield from _steps(lab)
    yield from _weights(lab)
    yield from _activations(lab)
    yield from _integers(lab)


def _steps(lab: Lab) -> Iterator[str]:
    names = {
        "float": "accuracy, float",
        "batch norm folded": "accuracy, batch norm folded",
        "weights 8 bits": "weights 8",
        "and activations 8 bits": "activations min-max, 8",
    }
    found = {name: value for name, key in names.items() if (value := lab.get(key)) is not None}
    if (last := lab.get("integers min-max")) is not None:
        found["integers alone"] = last["accuracy"]
    images, base = len(lab.data()[1]), found["float"]
    yield "## Accuracy after each step\n"
    yield (
        "One scale for each layer's weights, ranges of activations by min-max. The authors gave no figures for this lab. Two "
        f"standard errors of {images:,} test images are {percent(two_errors(base, images))}; differences between the steps are "
        "known better than that, as they are measured on the same images.\n"
    )
    rows = [(name, percent(accuracy), f"{100 * (base - accuracy):.2f}") for name, accuracy in found.items()]
    yield table(("step", "test accuracy", "points lost"), rows)

    def draw(path: Any) -> None:
        with picture(path, size=(7.2, 3.8)) as (axes,):
            bars(axes, list(found), {"test accuracy": list(found.values())}, ylabel="Test accuracy", percent=True)

    yield lab.picture("i_steps", "Accuracy after each step", draw)


def _weights(lab: Lab) -> Iterator[str]:
    found = lab.get("weights")
    if found is None:
        return
    yield "## Weights\n"

    def draw(path: Any) -> None:
        with picture(path, 3, 2, size=(4.6, 3.0)) as panels:
            for axes, (name, layer) in zip(panels, found.items(), strict=False):
                weights = np.array(layer["weights"])
                step = layer["scale"] * 127 / 7  # of 4 bits
                shown = {"floats": weights, "4 bits": np.round(weights / step) * step}
                histograms(axes, shown, xlabel="Weight", title=name)
            panels[-1].set_axis_off()

    caption = (
        "Weights of each layer, batch norm folded (up to 4,000 of a layer): floats, and on the 15 levels of 4 bits. The 255 "
        "levels of 8 bits lie closer than the bars of this picture"
    )
    yield lab.picture("i_weights", caption, draw)
    rows = [
        (name, f"{layer['scale']:.3g}", layer["levels used"], f"{layer['largest channel over smallest']:.1f}")
        for name, layer in found.items()
    ]
    yield table(("layer", "scale", "of 255 levels used", "largest weight of a channel, greatest over least"), rows)
    ways = ("weights {}", "weights {} per channel")
    rows = [(bits, *(percent(lab.get(way.format(bits))) for way in ways)) for bits in widths(lab)]
    yield table(("bits of a weight", "one scale per layer", "one per output channel"), rows)
    yield (
        "A scale for each layer has to reach the largest weight of all channels; where folding has made one channel's weights "
        "much larger than another's, the small ones get few levels. At 8 bits that hardly shows; with fewer it does, and a "
        "scale per channel, which costs four bytes each, wins much of it back.\n"
    )


def _activations(lab: Lab) -> Iterator[str]:
    found = lab.get("activations")
    if found is None:
        return
    yield "## Activations\n"
    colours = dict(zip(METHODS, ("#D55E00", "#009E73", "#CC79A7"), strict=True))

    def draw(path: Any) -> None:
        with picture(path, 3, 2, size=(4.6, 3.0)) as panels:
            for axes, (name, layer) in zip(panels, found.items(), strict=False):
                counts = np.maximum(layer["counts"], 0.6)
                axes.stairs(counts, layer["edges"], baseline=0.6, fill=True, alpha=0.55, color="#0072B2")
                for title, ends in layer["ranges"].items():
                    for end in (ends["low"], ends["high"]):
                        axes.axvline(end, color=colours[title], linewidth=1.4, linestyle="--")
                axes.set(yscale="log", title=f"what {name} takes", xlabel="Activation", ylabel="Values")
                axes.set_ylim(bottom=0.6)
            for title, colour in colours.items():
                panels[-1].plot([], [], color=colour, linestyle="--", label=f"range: {title}")
            panels[-1].legend(loc="center")
            panels[-1].set_axis_off()

    images = calibration_images(lab)
    caption = f"What each layer takes, over {images:,} training images, and the ranges that the methods choose at 8 bits"
    yield lab.picture("i_activations", caption, draw)
    rows = [
        (name, percent(layer["zeros"], 1), *(f"{ends['low']:.2f} to {ends['high']:.2f}" for ends in layer["ranges"].values()))
        for name, layer in found.items()
    ]
    yield table(("layer takes", "zeros", *METHODS), rows)
    curves = {
        name: (list(widths(lab)), [lab.get(f"activations {name}, {bits}") for bits in widths(lab)])
        for name in METHODS
        if lab.get(f"activations {name}, {widths(lab)[-1]}") is not None
    }
    if not curves:
        return

    def draw_bits(path: Any) -> None:
        with picture(path) as (axes,):
            lines(axes, curves, xlabel="Bits of an activation (weights: 8)", ylabel="Test accuracy", percent=True)
            axes.set_xticks(widths(lab))

    yield lab.picture("i_bits", "Accuracy against the bits of an activation, by the way its range is chosen", draw_bits)
    rows = [(bits, *(percent(y[place]) for _, y in curves.values())) for place, bits in enumerate(widths(lab))]
    yield table(("bits", *curves), rows)
    yield (
        "With 256 levels there are enough to reach the farthest value and still be fine: all three methods serve. With few "
        "levels the question is what to give up, the far values or the fineness of all the others, and the range of least "
        "squared error weighs the two; min-max gives up fineness for single outliers.\n"
    )


def _integers(lab: Lab) -> Iterator[str]:
    runs = {name: found for name in METHODS if (found := lab.get(f"integers {name}")) is not None}
    if not runs:
        return
    yield "## Integers alone\n"
    yield (
        "Between the image's codes and the logits' codes there is no float operation: int32 accumulators of uint8 codes less "
        "their zero point times int8 weights, a bias of 32 bits on the scale of input x weight, a 64-bit product with the "
        "multiplier, a rounding shift (one rounding, halves up), the output's zero point, a clamp that is the ReLU as well. Max "
        "pooling compares codes. Between two layers there is one grid, where the floats above were rounded twice, behind the one "
        "layer and before the other.\n"
    )
    rows = [(name, percent(found["accuracy"]), percent(found["same class as in floats"])) for name, found in runs.items()]
    yield table(("ranges by", "test accuracy in integers", "same class as the float network"), rows)
    layers = next(iter(runs.values()))["layers"]
    rows = [
        (row["layer"], f"{row['multiplier']:,}", row["shift"], f"{row['multiplier'] * 2.0 ** -(31 + row['shift']):.6f}",
         " and ".join(map(str, row["zero_points"])), f"{row['largest_bias']:,}", row["reach_bits"])
        for row in layers
    ]  # fmt: skip
    head = ("layer", "multiplier", "shift", "that is", "zero points, in and out", "largest bias", "accumulator, bits at most")
    yield table(head, rows)
    yield "The ratio input scale x weight scale / output scale is multiplier x 2^-(31 + shift), to 31 bits.\n"
    rows = [
        (row["layer"], f"{row['values']:,}", row["largest"], f"{row['mean']:.5f}", percent(row["differing"], 3)) for row in layers
    ]
    yield table(("layer", "outputs compared", "largest difference, steps", "mean, steps", "outputs that differ"), rows)
    worst = max(row["largest"] for found in runs.values() for row in found["layers"])
    verdict = "as it should be" if worst <= 1 else "**more than roundings can make**"
    yield (
        "Each layer by itself on the float network's activations, in integers and in float64 with the same quantized inputs "
        f"and weights and the bias as it was: at most {worst} step apart, {verdict}. What remains are ties, and biases rounded "
        "to half a unit of the accumulator.\n"
    )
