"""How lab A is told: its tables, its pictures, and the answers to its questions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from _lab import Figure, Lab, beside, history_lines, percent, table, two_errors
from lab_a_resnet20 import BITS, CODE_LENGTH, DENSE, FINAL, FIRST, INITS, LAB_RATIO, RULES, THIRTEENTH

from deepcompress.report.curves import bars, histograms, lines, picture

IMAGES = 10_000  # of the test set

OTHER_NETWORK = "Another dense network ({start}), so other weights to share or prune."
HARD = "Nothing has repaired this network yet: how far it falls depends on its weights more than on the rule."
SHAPE = "The share below s standard deviations follows from the shape of each layer's weights, and these are another network's."
SHORT = "Retrained for {epochs} instead of {of} epochs."


def story(lab: Lab) -> Iterator[str]:
    """summary.md from top to bottom; parts that have not run are left out."""
    for part in (_a0, _a1, _a2, _a3, _a4, _a5):
        yield from part(lab)


def _a0(lab: Lab) -> Iterator[str]:
    history, accuracy = lab.get("A0 training"), lab.get("A0 accuracy")
    if history is None:
        return
    settings = lab.settings("A0 training")
    yield "## A0. The dense network\n"
    yield f"SGD with momentum 0.9, batches of 128; learning rate: {settings['recipe']}; {settings['epochs']} epochs.\n"
    curves = {f"test, {what}": history_lines({"": history}, what)[""] for what in ("validation",)}
    share = {"training batches": history_lines({"": history}, "accuracy")[""], "test": curves["test, validation"]}
    loss = history_lines({"training loss": history}, "loss")

    def draw(path: Any) -> None:
        with picture(path, 2) as (left, right):
            lines(left, share, xlabel="Epoch", ylabel="Accuracy", percent=True, title="Accuracy")
            lines(right, loss, xlabel="Epoch", ylabel="Cross entropy", title="Loss", marks=False)

    yield lab.picture("a0_training", "A0: accuracy and loss by epoch (test accuracy in bfloat16 while training)", draw)
    why = f"Another recipe and length: {settings['epochs']} epochs instead of {settings['of']}."
    if accuracy is not None:
        yield beside([Figure("test accuracy", DENSE, accuracy, spread=two_errors(accuracy, IMAGES), why=why)])


def _a1(lab: Lab) -> Iterator[str]:
    base = lab.get("A1 dense")
    if base is None:
        return
    start = lab.settings("A1 dense")["start"]
    yield "## A1. Pruning without retraining\n"
    yield f"Dense network: {start}, {percent(base)}.\n"
    figures = [Figure("dense accuracy", DENSE, base, spread=two_errors(base, IMAGES), why=OTHER_NETWORK.format(start=start))]
    for rule, (letter, values) in RULES.items():
        for value, (sparsity, accuracy, _) in values.items():
            found = lab.get(f"A1 {rule} {letter}={value}")
            if found is None:
                continue
            spread = two_errors(accuracy, IMAGES)
            label = f"sparsity, {rule}, {letter} = {value}"
            figures.append(Figure(label, sparsity, found["sparsity"], spread=0.01, why=SHAPE))
            figures.append(Figure(f"accuracy, {rule}, {letter} = {value}", accuracy, found["accuracy"], spread=spread, why=HARD))
    yield beside(figures)
    yield from _a1_pictures(lab)


def _a1_pictures(lab: Lab) -> Iterator[str]:
    by_std, by_percentile = lab.get("A1 std s=0.5"), lab.get("A1 percentile q=0.5")
    if by_std is None or by_percentile is None:
        return
    names = list(by_std["layers"])
    shares = {"std, s = 0.5": list(by_std["layers"].values()), "percentile, q = 0.5": list(by_percentile["layers"].values())}

    def sparsity(path: Any) -> None:
        with picture(path, size=(9.5, 4.4)) as (axes,):
            short = [name.removesuffix(".weight") for name in names]
            bars(axes, short, shares, ylabel="Sparsity: zeros / all", percent=True)

    yield lab.picture("a1_sparsity", "A1: sparsity of each layer under the two rules", sparsity)
    order = sorted(by_std["layers"].items(), key=lambda item: item[1])
    least, most = order[:3], order[::-1][:3]
    listed = [", ".join(f"{name.removesuffix('.weight')} {percent(share, 1)}" for name, share in part) for part in (most, least)]
    yield (
        f"By standard deviation the sparsest layers are {listed[0]}; the least sparse {listed[1]}. s x std lies higher among "
        "the magnitudes where they are spread like a peak with long tails (most weights small, a few large), and lower where "
        "they are nearly even. The percentile rule takes the threshold from the ranks themselves, so each layer loses the same "
        "share, whatever its shape.\n"
    )

    def filters(path: Any) -> None:
        with picture(path, 2) as panels:
            for axes, name in zip(panels, (FIRST, THIRTEENTH), strict=True):
                sums = {"std, s = 0.5": by_std["filters"][name], "percentile, q = 0.5": by_percentile["filters"][name]}
                curves = {rule: (range(len(values)), sorted(values, reverse=True)) for rule, values in sums.items()}
                title = name.removesuffix(".weight")
                lines(axes, curves, xlabel="Filter, by rank", ylabel="Sum of |w|", title=title, marks=False)
                axes.set_ylim(bottom=0)

    yield lab.picture("a1_filters", "A1: what is left of each filter of the first and the thirteenth convolution", filters)
    yield _pattern(lab, {"std": by_std["filters"], "percentile": by_percentile["filters"]})
    yield (
        "Which rule when: by standard deviation where layers differ in how much they can spare, for it takes little from a layer "
        "whose weights are all of a size; by percentile where a given total is to be met, or where one layer's outliers would "
        "blow its standard deviation up and with it the threshold.\n"
    )
    curves = {
        f"{rule}, as pruned": _sparsity_curve(lab, "A1", rule) for rule in RULES
    } | {f"{rule}, retrained": _sparsity_curve(lab, "A2", rule) for rule in RULES if lab.starting(f"A2 {rule}")}  # fmt: skip

    def accuracy(path: Any) -> None:
        with picture(path, size=(7.2, 4.2)) as (axes,):
            lines(axes, curves, xlabel="Sparsity (%)", ylabel="Test accuracy", percent=True)

    yield lab.picture("a1_accuracy", "A1 and A2: accuracy against sparsity, as pruned and retrained", accuracy)


def _pattern(lab: Lab, filters: dict[str, dict[str, list[float]]]) -> str:
    """Is the pattern of zeros structured? It says so only where whole filters went that were alive before."""
    before = lab.get("A1 dense filters") or {}
    gone = {name: max(sum(value == 0 for value in found[name]) for found in filters.values()) for name in (FIRST, THIRTEENTH)}
    if not any(gone.values()):
        return "No filter's sum of |w| is zero: the pattern is unstructured, and no filter can be left out of the computation.\n"
    said = []
    for name, count in gone.items():
        sums = sorted(before.get(name, []))
        if count and sums:
            dead = f"their sums of |w| in the dense network were at most {sums[count - 1]:.2g}, the next one's {sums[count]:.2g}"
            said.append(f"{count} of {len(sums)} filters of {name.removesuffix('.weight')} are all zero ({dead})")
    return (
        f"{'; '.join(said)}: training with weight decay had let these die before, and any threshold takes them. All other "
        "filters keep some weights: the pattern is unstructured, and no filter that does anything can be left out of the "
        "computation. (The authors' network has no zero filter.)\n"
    )


def _sparsity_curve(lab: Lab, part: str, rule: str) -> tuple[list[float], list[float]]:
    points = [(0.0, lab.get("A1 dense"))]
    points += [(100 * found["sparsity"], found["accuracy"]) for found in lab.starting(f"{part} {rule} ").values()]
    points.sort()
    return [x for x, _ in points], [y for _, y in points]


def _a2(lab: Lab) -> Iterator[str]:
    if not lab.starting("A2 "):
        return
    yield "## A2. Retraining under the masks\n"
    yield "SGD, learning rate 1e-3, weight decay 1e-4, batches of 128; every forward pass sees exact zeros where pruned.\n"
    figures = []
    for rule, (letter, values) in RULES.items():
        for value, (_, _, retrained) in values.items():
            key = f"A2 {rule} {letter}={value}"
            if (found := lab.get(key)) is not None:
                why = SHORT.format(**lab.settings(key)) + " " + OTHER_NETWORK.format(start=lab.settings(key)["start"])
                spread = two_errors(retrained, IMAGES)
                figures.append(Figure(f"{rule}, {letter} = {value}", retrained, found["accuracy"], spread=spread, why=why))
    yield beside(figures)


def _a3(lab: Lab) -> Iterator[str]:
    if not lab.starting("A3 "):
        return
    yield "## A3. Weight sharing\n"
    rows, figures = [], []
    start = OTHER_NETWORK.format(start=lab.settings(f"A3 bits={min(BITS)}")["start"])
    for bits, theirs in BITS.items():
        if (found := lab.get(f"A3 bits={bits}")) is not None:
            figures.append(_shared_figure(f"{bits} bits, linear start", theirs, found, start))
            rows.append((f"{bits} bits", *_shared_cells(found)))
    for init, theirs in INITS.items():
        if (found := lab.get(f"A3 init={init}")) is not None:
            figures.append(_shared_figure(f"5 bits, {init} start", theirs, found, start))
            rows.append((f"5 bits, {init}", *_shared_cells(found)))
    if (five := lab.get("A3 bits=5")) is not None:
        why = "Counted over the indices of all layers. " + start
        figures.append(Figure("Huffman on 5-bit indices", CODE_LENGTH, five["code_length"], "bits", 0.05, why))
    yield beside(figures)
    yield table(("sharing", "accuracy", "RMSE", "mean code length", "entropy", "file", "time to cluster"), rows)
    yield _a3_words(lab)
    weights = lab.get("A3 weights")
    if weights is None:
        return

    def draw(path: Any) -> None:
        with picture(path, 2) as panels:
            for axes, (name, values) in zip(panels, weights.items(), strict=True):
                title = name.removesuffix(".weight")
                shown = {"before": values["before"], "after, 32 values": values["after"]}
                histograms(axes, shown, xlabel="Weight", title=title)

    caption = "A3: weights of the first convolution and the last layer, before and after sharing 32 values"
    yield lab.picture("a3_histograms", caption, draw)


def _shared_figure(what: str, theirs: float, found: dict[str, Any], why: str) -> Figure:
    return Figure(what, theirs, found["accuracy"], spread=two_errors(theirs, IMAGES), why=why)


def _a3_words(lab: Lab) -> str:
    base = lab.get("A1 dense")
    inits = {init: found for init in INITS if (found := lab.get(f"A3 init={init}")) is not None}
    words = []
    if base is not None:
        kept = [bits for bits in BITS if (found := lab.get(f"A3 bits={bits}")) and base - found["accuracy"] < 0.005]
        if kept:
            words.append(
                f"Best trade: {min(kept)} bits, the fewest that lose less than half a point; each bit more adds about a fifth to "
                "the file and wins nothing that 10,000 test images could show."
            )
    if len(inits) == len(INITS):
        fastest = min(inits, key=lambda init: inits[init]["seconds"])
        words.append(f"Fastest start here: {fastest}.")
    return " ".join(words) + "\n"


def _shared_cells(found: dict[str, Any]) -> tuple[str, ...]:
    return (
        percent(found["accuracy"]), f"{found['rmse']:.5f}", f"{found['code_length']:.4f} bits", f"{found['entropy']:.4f} bits",
        f"{found['file_bytes']:,} bytes", f"{1000 * found['seconds']:.0f} ms",
    )  # fmt: skip


def _a4(lab: Lab) -> Iterator[str]:
    theirs, ours = lab.get("A4 authors"), lab.get("A4 ours")
    if theirs is None:
        return
    settings = lab.settings("A4 authors")
    yield "## A4. Everything: at least 20 times smaller, less than one point lost\n"
    yield (
        "The authors prune by percentile to 0.5, 0.6 and 0.64, retraining after each, share 32 values, and count: nonzero share "
        "x bits / 32 x code length / bits. That ratio leaves out positions, codebooks, norms and headers. Beside it stands the "
        "ratio of the dense state dict's bytes to the bytes of the file.\n"
    )
    steps = [(row["name"], percent(row.get("sparsity")), percent(row["accuracy"])) for row in theirs["stages"]]
    yield table(("stage", "sparsity", "accuracy"), steps)
    first, last = theirs["stages"][0]["accuracy"], theirs["stages"][-1]["accuracy"]
    cut = f"Rounds of {settings['epochs']} instead of {settings['of']} epochs; another dense network."
    yield beside([
        Figure("lab ratio of their rounds (formula)", LAB_RATIO, theirs["lab_ratio"], "x", 0.5, "Other indices."),
        Figure("accuracy at the end", FINAL, last, spread=two_errors(FINAL, IMAGES), why=cut),
        Figure("points lost", 0.9119 - FINAL, first - last, spread=0.006, why="Theirs counts from before sharing. " + cut),
    ])  # fmt: skip
    rows = [("the authors' rounds", theirs)] + ([("our recipe", ours)] if ours is not None else [])
    head = ("", "file, bytes", "file ratio", "lab ratio", "dense", "from the file", "20x, less than a point")
    yield table(head, [(name, *_file_cells(found)) for name, found in rows])
    yield (
        "The formula says twenty for the first row; the file says how much of that is left when positions, codebooks, biases and "
        "norms have to be in it. Our recipe (examples/resnet20_cifar10.py: gradual global pruning to 80 %, the dense network as "
        "teacher, 16 shared values, finetuned) is measured by its file alone.\n"
    )
    if (found := theirs.get("bits")) is not None:

        def draw(path: Any) -> None:
            with picture(path) as (axes,):
                bars(axes, list(found), {"bytes": list(found.values())}, ylabel="Bytes in the file")

        yield lab.picture("a4_bytes", "A4: where the bytes of the authors' network go in the file", draw)


def _file_cells(found: dict[str, Any]) -> tuple[str, ...]:
    lab_ratio = f"{found['lab_ratio']:.1f}x" if "lab_ratio" in found else "-"
    accuracies = (percent(found["stages"][at]["accuracy"]) for at in (0, -1))
    return (f"{found['file_bytes']:,}", f"{found['file_ratio']:.1f}x", lab_ratio, *accuracies, _verdict(found))


def _verdict(found: dict[str, Any]) -> str:
    lost = found["stages"][0]["accuracy"] - found["stages"][-1]["accuracy"]
    return "met" if found["file_ratio"] >= 20 and lost < 0.01 else "not met"


def _a5(lab: Lab) -> Iterator[str]:
    found = lab.starting("A5 ")
    if not found:
        return
    yield "## A5. Five questions\n"
    for number, (key, tell) in enumerate(_ANSWERS.items(), 1):
        if key in found:
            yield f"**{number}. " + tell(found[key])


def _combinations(found: dict[str, Any]) -> str:
    rows = [(name, f"{row['file_bytes']:,}", percent(row["accuracy"]), f"{row['rmse']:.5f}") for name, row in found.items()]
    even, means = found["nearest of even values"], found["sharing"]
    return (
        "Do pruning and weight sharing get in each other's way?** No: pruning takes weights away, sharing makes the rest cheap, "
        "and the bytes fall further with both than with either. Sharing is k-means, which moves the shared values to where the "
        f"weights are; rounding to the nearest of 16 even values has an RMSE of {even['rmse']:.5f} instead of "
        f"{means['rmse']:.5f} (accuracy {percent(even['accuracy'])} instead of {percent(means['accuracy'])}).\n\n"
        + table(("50 % pruned, 16 values, nothing retrained", "file, bytes", "accuracy", "RMSE"), rows)
    )


def _symbols(found: dict[str, Any]) -> str:
    rows = []
    for name, row in found.items():
        lengths = (f"{row[key]:.2f}" for key in ("code_length", "with_table"))
        rows.append((name, f"{row['values']:,}", f"{row['distinct']:,}", row["before"], *lengths))
    head = ("layer3.2.conv2", "values", "distinct", "bits before", "Huffman, bits per value", "with its table")
    return (
        "Does pruning alone make Huffman coding effective?** No. Nearly every float32 weight is a value of its own: a code over "
        "them needs about log2 N bits and a table that is larger than what it saves. What makes it effective is the skewed "
        "distribution of the few shared values after quantization.\n\n" + table(head, rows)
    )


def _zeros(found: dict[str, float]) -> str:
    rows = [(name, f"{1000 * seconds:.2f} ms") for name, seconds in found.items()]
    return (
        "Do zeros make a dense kernel faster?** No: it multiplies by them like by any number; a mask saves bytes, not time. "
        "Whole filters that are left out, or kernels made for sparse patterns, would.\n\n"
        + table(("operation", "median time"), rows)
    )


def _code_lengths(found: list[dict[str, float]]) -> str:
    rows = [(row["n"], *(f"{row[key]:.3f}" for key in ("log2", "equal", "entropy", "falling"))) for row in found]
    head = ("symbols", "log2 N", "Huffman, equally likely", "entropy, falling by halves", "Huffman, falling by halves")
    return (
        "How many bits do N symbols need?** log2 N where they are equally likely, and no code does better; a Huffman code stays "
        "within one bit of the entropy, its short codewords going to likely symbols.\n\n" + table(head, rows)
    )


def _sharing(found: list[dict[str, Any]]) -> str:
    rows = [(row["bits"], *(f"{row[key]:,.0f}" for key in ("naive", "formula", "file"))) for row in found]
    head = ("k", "N k", "N k + 32 x 2^k", "the file: indices and codebook")
    return (
        "How many bits does k-bit sharing of N weights take?** N k for the indices and 32 x 2^k for the codebook, not N k: the "
        "codebook weighs more the smaller the layer. (What the file spends beyond that is its own record of the two.)\n\n"
        + table(head, rows)
    )


_ANSWERS: dict[str, Any] = {
    "combinations": _combinations, "symbols": _symbols, "zeros": _zeros, "code lengths": _code_lengths, "sharing": _sharing,
}  # fmt: skip
