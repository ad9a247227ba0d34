"""Lab C's summary: tables, pictures and answers from what lab_c_affine.py measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from _lab import Figure, Lab, beside, percent, table, two_errors
from lab_c_affine import BASE, FEW, OBJECTS, QUANTIZED, REPEATS, WIDTHS

import deepcompress as dc
from deepcompress.report.curves import histograms, lines, picture


def story(lab: Lab) -> Iterator[str]:
    for part in (_c1, _c2, _c3):
        yield from part(lab)


def _c1(lab: Lab) -> Iterator[str]:
    found, clipped = lab.get("C1 arrays"), lab.get("C1 clipped")
    if found is None or clipped is None:
        return
    yield "## C1. Arrays as codes, scale and offset\n"
    rows = [
        (f"{name}, {' x '.join(map(str, row['shape']))}", f"{row['floats']:,}", f"{row['codes']:,}", row["parameters"],
         row["object"], f"{row['floats'] / (row['codes'] + row['parameters']):.4f}", f"{_ratio_of_objects(row):.4f}")
        for name, row in found.items()
    ]  # fmt: skip
    head = ("float32 array", "its bytes", "bytes as uint8", "scale and offset", "array object", "ratio", "with the objects")
    yield table(head, rows)
    yield (
        "Four times smaller, but for eight bytes of scale and zero point (float32, int32) and the array object that either form "
        "needs in memory.\n"
    )
    why = f"What sys.getsizeof counts besides the data depends on NumPy's version (here {np.__version__}) and the platform."
    figures = [Figure(f"object of a {name} array", OBJECTS[name], row["object"], "bytes", why=why) for name, row in found.items()]
    yield beside([*figures, Figure("scale and offset", 8, found["1-D"]["parameters"], "bytes")])
    rows = [
        (name, f"{row['scale']:.5f}", row["zero_point"], percent(row["clipped"]), f"{row['largest error']:.4f}",
         f"{row['largest error inside']:.4f}")
        for name, row in {**found, "1-D, range set to -2 ... 2": clipped}.items()
    ]  # fmt: skip
    yield table(("array", "scale", "zero point", "clipped", "largest error, steps", "without what is clipped"), rows)
    yield (
        "No error is above half a step, as long as nothing is clipped. A range shorter than the values' makes steps finer and "
        "breaks the bound for those outside it: their error is the distance to the last level. Zero is always a level (padding "
        "and ReLU make many), for which the grid moves by up to half a step.\n"
    )

    def draw(path: Any) -> None:
        values = np.linspace(-3, 3, 1201, dtype=np.float32)
        found = dc.quantize_affine(values, 3, low=-2.0, high=2.0)
        rounded = dc.dequantize_affine(found)
        with picture(path, 2, size=(5.6, 3.8)) as (stairs, error):
            lines(stairs, {"as it is": (values, values), "3 bits": (values, rounded)}, xlabel="Value",
                  ylabel="Value after quantization", marks=False)  # fmt: skip
            steps = (rounded - values) / float(found.scale)
            lines(error, {"error": (values, steps)}, xlabel="Value", ylabel="Error, steps", marks=False)
            for bound in (-0.5, 0.5):
                error.axhline(bound, color="#D55E00", linestyle="--", linewidth=1.2, label="half a step" if bound > 0 else None)
            error.legend()

    caption = "C1: three bits over the range -2 to 2, and the error: half a step at most, except where values are clipped"
    yield lab.picture("c1_error", caption, draw)


def _ratio_of_objects(row: dict[str, Any]) -> float:
    return float((row["floats"] + row["object"]) / (row["codes"] + row["object"] + row["parameters"]))


def _c2(lab: Lab) -> Iterator[str]:
    base = lab.get("C2 float")
    if base is None:
        return
    yield "## C2. A trained classifier at few bits\n"
    epochs = lab.settings("C2 training")["epochs"]
    yield (
        f"LeNet-300-100 on {lab.data_name}, {epochs} epochs of Adam. Weights are quantized with scale and offset and "
        "dequantized, biases stay floats; nothing is retrained.\n"
    )
    yield beside(list(_c2_figures(lab, base)))
    rows: list[tuple[Any, ...]] = [("float32", percent(base["accuracy"]), f"{base['loss']:.4f}", "", "", "", "")]
    for bits in WIDTHS:
        cells: list[Any] = [f"{bits} bits"]
        for kind in ("layer", "channel"):
            if (found := lab.get(f"C2 {kind} {bits}")) is not None:
                cells += [percent(found["accuracy"]), f"{found['loss']:.4f}", f"{found['file_bytes']:,}"]
        rows.append(tuple(cells))
    head = ("weights", "accuracy", "loss", "file, bytes", "one scale per channel: accuracy", "loss", "file, bytes")
    yield table(head, [row for row in rows if len(row) == len(head)])
    if (least := lab.get("C2 layer 2")) is not None:
        yield (
            "At 2 bits the step is so long that nearly all weights of a layer are nearest to zero: hence the "
            f"{least['file_bytes']:,} bytes, and the accuracy. Scales for each channel follow the channels' own ranges, and keep "
            "more of them.\n"
        )
    curves = {
        name: (list(WIDTHS), [lab.get(f"C2 {kind} {bits}")["accuracy"] for bits in WIDTHS])
        for kind, name in (("layer", "one scale per layer"), ("channel", "one scale per output channel"))
        if all(lab.get(f"C2 {kind} {bits}") is not None for bits in WIDTHS)
    }

    def draw_accuracy(path: Any) -> None:
        with picture(path) as (axes,):
            lines(axes, curves, xlabel="Bits of a weight", ylabel="Test accuracy", percent=True)
            axes.axhline(base["accuracy"], color="#555555", linestyle=":", label="float32")
            axes.set_xticks(WIDTHS)
            axes.legend(loc="lower right")

    yield lab.picture("c2_accuracy", "C2: accuracy against the bits of a weight", draw_accuracy)
    weights = lab.get("C2 weights")
    if weights is None:
        return

    def draw_weights(path: Any) -> None:
        with picture(path, 2, size=(5.6, 3.8)) as panels:
            for axes, bits in zip(panels, ("4 bits", "2 bits"), strict=True):
                histograms(axes, {"floats": weights["floats"], bits: weights[bits]}, xlabel="Weight", title=bits)

    caption = "C2: weights of the second layer (every sixth row), as floats and on their grids"
    yield lab.picture("c2_weights", caption, draw_weights)


def _c2_figures(lab: Lab, base: dict[str, Any]) -> Iterator[Figure]:
    images = len(lab.data()[1])
    epochs = lab.settings("C2 training")["epochs"]
    network = f"Theirs is another network, which is not described; ours is LeNet-300-100 after {epochs} epochs of Adam."
    yield Figure("accuracy, float32", BASE[0], base["accuracy"], spread=two_errors(BASE[0], images), why=network)
    yield Figure("loss, float32", BASE[1], base["loss"], "", 2 * base["loss_error"], network)
    for bits, (accuracy, loss) in QUANTIZED.items():
        found = lab.get(f"C2 layer {bits}")
        if found is None:
            continue
        spread, loss_spread = two_errors(accuracy, images), 2 * found["loss_error"]
        yield Figure(f"accuracy at {bits} bits", accuracy, found["accuracy"], spread=spread, why=network)
        yield Figure(f"loss at {bits} bits", loss, found["loss"], "", loss_spread, network)
        lost = base["accuracy"] - found["accuracy"]
        yield Figure(f"accuracy lost at {bits} bits", BASE[0] - accuracy, lost, spread=spread, why=network)
    if (found := lab.get("C2 layer 2")) is not None:
        spread = two_errors(found["accuracy"], images)
        yield Figure("accuracy at 2 bits", None, found["accuracy"], spread=spread, why="There is no figure of theirs.")


def _c3(lab: Lab) -> Iterator[str]:
    if lab.get(f"C3 nearest {FEW[-1]}") is None:
        return
    yield "## C3. Stochastic rounding against the nearest level\n"
    rows, dots, words = [], {}, []
    for bits in FEW:
        nearest = lab.get(f"C3 nearest {bits}")
        repeats = lab.get(f"C3 stochastic {bits}")
        if nearest is None or repeats is None:
            continue
        accuracies = np.array([found["accuracy"] for found in repeats])
        rows.append((bits, percent(nearest["accuracy"]), f"{nearest['rmse']:.5f}", percent(accuracies.mean()),
                     f"{100 * accuracies.std(ddof=1):.2f} points", f"{percent(accuracies.min())} to {percent(accuracies.max())}",
                     f"{np.mean([found['rmse'] for found in repeats]):.5f}"))  # fmt: skip
        points = 100 * (nearest["accuracy"] - accuracies.mean())
        words.append(f"{abs(points):.2f} points {'below' if points > 0 else 'above'} it at {bits} bits")
        dots[bits] = (nearest["accuracy"], accuracies)
    drawn = (f"stochastic, {REPEATS} repeats: mean", "standard deviation", "least to greatest", "RMSE")
    yield table(("bits", "nearest: accuracy", "RMSE", *drawn), rows)
    yield f"Against the nearest level, the mean of the stochastic roundings is {', '.join(words)}.\n"

    def draw(path: Any) -> None:
        with picture(path, len(dots), size=(3.8, 3.6)) as panels:
            for axes, (bits, (nearest, accuracies)) in zip(panels, dots.items(), strict=True):
                seeds = np.arange(len(accuracies))
                axes.plot(seeds, accuracies, "o", color="#0072B2", label="stochastic")
                axes.axhline(accuracies.mean(), color="#0072B2", linestyle=":", label="their mean")
                level = {"nearest level": (seeds, np.full(len(seeds), nearest))}
                ylabel = "Test accuracy" if axes is panels[0] else ""
                lines(axes, level, xlabel="Seed", ylabel=ylabel, title=f"{bits} bits", percent=True, marks=False)
                axes.lines[-1].set(color="#D55E00", linestyle="--")
                axes.margins(y=0.35)
                axes.legend(loc="upper center", ncols=2)

    yield lab.picture("c3_repeats", "C3: ten stochastic roundings, and the nearest level", draw)
    means = lab.get("C3 means")
    if means is not None:
        yield from _c3_means(lab, means)


def _c3_means(lab: Lab, means: dict[str, Any]) -> Iterator[str]:
    yield (
        "The nearest level has the least error there is, weight by weight; a stochastic rounding has more, and which weights it "
        "moves is chance: hence the spread. But its expectation is the value itself: the mean of n roundings comes as close as "
        "one likes, with an error that falls as 1 / sqrt(n), and a network of mean weights with it. The nearest level's error "
        "stays, however often one rounds.\n"
    )
    nearest = lab.get("C3 nearest 2")
    rows = [
        (count, f"{row['rmse']:.5f}", f"{row['bias']:+.1e}, known to {row['spread']:.1e}", percent(row["accuracy"]))
        for count, row in means.items()
    ]
    head = ("roundings to 2 bits averaged", "RMSE of the mean", "mean error, and two standard errors of it")
    yield table((*head, "accuracy with the mean as weights"), rows)
    counts = [int(count) for count in means]
    errors = [row["rmse"] for row in means.values()]

    def draw(path: Any) -> None:
        with picture(path) as (axes,):
            series = {"mean of stochastic roundings": (counts, errors), "1 / sqrt(n)": (counts, errors[0] / np.sqrt(counts))}
            series["nearest level"] = (counts, [nearest["rmse"]] * len(counts))
            lines(axes, series, xlabel="Roundings averaged", ylabel="RMSE of the weights")
            axes.set(xscale="log", yscale="log")
            axes.set_xticks(counts, [str(count) for count in counts])
            ticks = [tick for tick in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if min(errors) / 2 < tick < 1.5 * max(errors)]
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()

    yield lab.picture("c3_mean", "C3: the expectation of a stochastically rounded value is the value", draw)
