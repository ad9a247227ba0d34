"""Lab E. A transformer from its parts: positions, heads, matrix products counted, and the whole of it compressed.

    python examples/lab_e_transformer.py                    # everything; a few minutes on one core

E1 draws the positional encoding and its Gram matrix. E2 lists the hyperparameters beside the paper's. E3 counts the matrix
products of one inference as they reach torch, and holds them against N (15 h + 7) + 1. E4 teaches the transformer to write a
sequence of digits backwards. E5 compresses it, by the same pipeline as any other module, and runs what the files hold.

The task needs no data set; sequences are drawn anew for each batch, and 1,000 others are kept apart for measuring.
Committed run (examples/results/lab_e; one run, seed 0, one CPU thread): as above. The labs' authors report no accuracy here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from _lab import Figure, Lab, as_data, beside, history_lines, percent, run_lab, table
from torch import Tensor, nn
from torch.nn import functional as F

import deepcompress as dc
from deepcompress.nn import (
    DecoderLayer,
    MatrixProducts,
    Transformer,
    TransformerConfig,
    sinusoids,
    trainable_parameters,
)
from deepcompress.report.curves import bars, lines, matrix, picture

PADDING, START, END, FIRST_DIGIT, TOKENS = 0, 1, 2, 3, 13
SHORTEST, LONGEST = 3, 8
CONFIG = TransformerConfig(TOKENS, TOKENS, d_model=64, heads=4, layers=2, d_ff=128, dropout=0.0, max_length=LONGEST + 2)
PAPER = {"d_model": 512, "heads": 8, "layers": 6, "d_ff": 2048, "dropout": 0.1, "norm_first": False}
BATCH, BATCHES = 64, 100
COUNTED = [(layers, heads) for layers in (1, 2, 6) for heads in (1, 2, 4, 8)]
POSITIONS = (128, 64)  # length and width in E1

WAYS: dict[str, tuple[float | None, int | None]] = {  # share pruned, bits
    "no loss": (None, None),
    "5 bits": (None, 5),
    "3 bits": (None, 3),
    "50 % pruned, 5 bits": (0.5, 5),
    "80 % pruned, 4 bits": (0.8, 4),
}


def main() -> None:
    run_lab("e", "A transformer from its parts", __doc__, measure, story, data=None)


def measure(lab: Lab) -> None:
    lab.step("E1 positions", _positions)
    lab.step("E2 parameters", lambda: list(trainable_parameters(Transformer(CONFIG))))
    lab.step("E3 products", lambda: [_products(layers, heads) for layers, heads in COUNTED])
    model = _trained(lab)
    lab.step("E4 accuracy", lambda: _accuracy(model), **_made(lab))
    lab.step("E4 attention", lambda: _attention(model), **_made(lab))
    for name, (share, bits) in WAYS.items():
        lab.step(f"E5 {name}", lambda share=share, bits=bits: _compressed(lab, model, share, bits), **_made(lab))


def _made(lab: Lab) -> dict[str, Any]:
    """What E4's network came from: results of another one are not its."""
    return {"network": {**asdict(CONFIG), "epochs": lab.epochs(15, quick=2)}}


# E1 to E3


def _positions() -> dict[str, Any]:
    """How even the Gram matrix is along its diagonals, and how similar positions are at each distance."""
    table = sinusoids(*POSITIONS)
    gram = table @ table.T
    diagonals = [gram.diagonal(distance) for distance in range(len(gram))]
    uneven = max((values.max() - values.min()).item() for values in diagonals)
    return {"uneven": uneven, "similarity": [values[0].item() / gram[0, 0].item() for values in diagonals]}


def _products(layers: int, heads: int) -> dict[str, Any]:
    """Matrix products of one inference: as they reach torch, as hooks on linear layers see them, and of torch's own module."""
    sizes = {"d_model": 64, "heads": heads, "layers": layers, "d_ff": 128, "dropout": 0.0}
    model = Transformer(TransformerConfig(TOKENS, TOKENS, **sizes)).eval()  # type: ignore[arg-type]
    source, target = torch.randint(FIRST_DIGIT, TOKENS, (4, 7)), torch.randint(FIRST_DIGIT, TOKENS, (4, 6))
    calls: list[str] = []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda *_: calls.append("linear"))
    with torch.no_grad(), MatrixProducts() as products:
        model(source, target)
    return {
        "layers": layers, "heads": heads, "counted": products.total, "formula": model.config.products, "hooks": len(calls),
        "operators": dict(products.calls), "fused": model.config.fused_products, "torch": _torch_products(layers, heads),
    }  # fmt: skip


def _torch_products(layers: int, heads: int) -> int:
    """Those of torch.nn.Transformer, with the projection to logits that it leaves to its user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="enable_nested_tensor")  # which needs an even number of heads
        theirs = nn.Transformer(64, heads, layers, layers, 128, 0.0, batch_first=True)  # in training mode, without fast paths
    with torch.no_grad(), MatrixProducts() as products:
        theirs(torch.randn(4, 7, 64), torch.randn(4, 6, 64))
    return products.total + 1


# E4: writing backwards


def reversals(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Digits (count, LONGEST), filled up with padding, and the same backwards between START and END, (count, LONGEST + 2)."""
    lengths = torch.randint(SHORTEST, LONGEST + 1, (count, 1), generator=generator)
    digits = torch.randint(FIRST_DIGIT, TOKENS, (count, LONGEST), generator=generator)
    places = torch.arange(LONGEST)
    backwards = digits.gather(1, (lengths - 1 - places).clamp(min=0))
    target = torch.full((count, LONGEST + 2), PADDING)
    target[:, 0] = START
    target[:, 1:-1] = backwards.where(places < lengths, PADDING)
    target.scatter_(1, lengths + 1, END)
    return digits.where(places < lengths, PADDING), target


class Reversals:
    """Batches of new sequences at every pass."""

    def __init__(self, lab: Lab, add: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(lab.options.seed + add)
        self.batches = 40 if lab.options.quick else BATCHES

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (reversals(BATCH, self.generator) for _ in range(self.batches))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross entropy of each next token, given those before it."""
    source, target = batch
    logits = model(source, target[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PADDING)


def _test() -> tuple[Tensor, Tensor]:
    return reversals(1000, torch.Generator().manual_seed(999_983))


def _accuracy(model: nn.Module) -> float:
    """Share of whole sequences that are written right, token by token from what it wrote before."""
    assert isinstance(model, Transformer)
    device = next(model.parameters()).device
    source, target = (each.to(device) for each in _test())
    written = model.greedy(source, START, end=END, limit=LONGEST + 1)
    written = F.pad(written, (0, LONGEST + 1 - written.shape[1]), value=PADDING)
    return (written == target[:, 1:]).all(1).double().mean().item()


def _trained(lab: Lab) -> nn.Module:
    settings = dc.TrainSettings(
        epochs=lab.epochs(15, quick=2), lr=2e-3, scheduler="onecycle", clip_norm=1.0, seed=lab.options.seed
    )

    def make() -> nn.Module:
        torch.manual_seed(lab.options.seed)
        return Transformer(CONFIG).to(lab.device)

    def train(model: nn.Module) -> Any:
        return as_data(dc.fit(model, Reversals(lab), settings, loss=loss, validate=_accuracy, quiet=False))

    model = lab.model("E4 training", make, train, epochs=settings.epochs, **_made(lab))
    return model.to(lab.device).eval()


def _attention(model: nn.Module) -> dict[str, Any]:
    """Where each head of the last decoder layer looks in the source, for one sequence of the greatest length."""
    assert isinstance(model, Transformer)
    source, target = _test()
    row = int((source != PADDING).all(1).nonzero()[0])
    seen: list[Tensor] = []
    last = model.decoder[-1]
    assert isinstance(last, DecoderLayer)
    handles = [
        head.dropout.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))  # its input is softmax(Q K^T)
        for head in last.cross_attention.heads
    ]
    device = next(model.parameters()).device
    with torch.no_grad():
        model(source[row : row + 1].to(device), target[row : row + 1, :-1].to(device))
    for handle in handles:
        handle.remove()
    digits = (source[row] - FIRST_DIGIT).tolist()
    return {"source": digits, "heads": [[[round(w, 4) for w in line] for line in head.tolist()] for head in seen]}


# E5: compressing it


def _compressed(lab: Lab, model: nn.Module, share: float | None, bits: int | None) -> dict[str, Any]:
    """Compress, save, load into a new transformer: bytes, accuracy from the file, whether all logits are equal bit for bit."""
    result = dc.Pipeline(_stages(lab, share, bits)).run(model, train=Reversals(lab, 1), loss=loss)
    path = lab.out / "models" / f"E5 {_name(share, bits)}.dcz"
    path.parent.mkdir(parents=True, exist_ok=True)
    result.compressed.save(path)
    fresh = dc.load(path).load_into(Transformer(CONFIG)).to(lab.device).eval()
    source, target = (each.to(lab.device) for each in _test())
    with torch.no_grad():
        answers, wanted = fresh(source, target[:, :-1]), result.model(source, target[:, :-1])  # type: ignore[operator]
    equal = torch.equal(answers.view(torch.int32), wanted.view(torch.int32))
    return {
        "file_bytes": path.stat().st_size, "dense_bytes": result.report.dense_bytes, "accuracy": _accuracy(fresh),
        "sparsity": result.report.sparsity, "logits": answers.numel(), "equal": equal,
    }  # fmt: skip


def _name(share: float | None, bits: int | None) -> str:
    return f"{share or 0:.0%} pruned, {bits or 32} bits"


def _stages(lab: Lab, share: float | None, bits: int | None) -> list[tuple[str, Any]]:
    epochs, seed = lab.epochs(5), lab.options.seed
    if bits is None:
        return [("lossless", dc.Lossless())]
    stages: list[tuple[str, Any]] = []
    if share is not None:
        end = max(epochs / 2, 0.25)
        prune = dc.GradualPrune(epochs=epochs, sparsity=share, end=end, lr=1e-3, scheduler="cosine", clip_norm=1.0, seed=seed)
        stages.append(("prune", prune))
    stages.append(("quantize", dc.KMeansQuantize(bits=bits)))
    if share is not None:
        stages.append(("finetune", dc.Finetune(epochs=max(epochs // 5, 1), lr=1e-4, rest=True, seed=seed)))
    return [*stages, ("encode", dc.HuffmanEncode(leftovers="float16"))]


# The story


def story(lab: Lab) -> Iterator[str]:
    for tell in (_tell_positions, _tell_hyperparameters, _tell_products, _tell_training, _tell_compressed):
        yield from tell(lab)


def _tell_positions(lab: Lab) -> Iterator[str]:
    if (found := lab.get("E1 positions")) is None:
        return
    length, width = POSITIONS
    yield "## E1. Positional encoding\n"
    yield (
        "Attention treats its inputs as a set: without positions, a sequence and its reverse are the same to it. Column 2i of "
        f"row p is sin(p / 10000^(2i / {width})), column 2i + 1 the cosine.\n"
    )

    def draw(path: Path) -> None:
        encoding = sinusoids(length, width)
        with picture(path, 2, size=(5.8, 4.4)) as (left, right):
            matrix(left, encoding, xlabel="Column", ylabel="Position", title="Encoding", legend="Value")
            matrix(right, encoding @ encoding.T, xlabel="Position", ylabel="Position", title="Gram matrix", legend="Product")

    yield lab.picture("e1_positions", f"E1: encodings of {length} positions, {width} wide, and the products of each two", draw)

    def similarity(path: Path) -> None:
        with picture(path, size=(6.8, 3.8)) as (axes,):
            curve = {"product of two positions / product with itself": (range(length), found["similarity"])}
            lines(axes, curve, xlabel="Distance of the positions", ylabel="Similarity", marks=False)
            axes.set_ylim(top=1.15)

    yield lab.picture("e1_similarity", "E1: how similar two positions are, by their distance", similarity)
    yield (
        "The product of two rows is a sum of cosines of their distance, sin a sin b + cos a cos b = cos(a - b). So the Gram "
        f"matrix has one value along each diagonal (here to {found['uneven']:.0e} of {width / 2:.0f}), greatest on the main one: "
        "near positions are alike, and a head can learn 'three to the left' for all positions at once, because a shift is the "
        "same rotation of each pair of columns everywhere.\n"
    )


def _tell_hyperparameters(lab: Lab) -> Iterator[str]:
    if (found := lab.get("E2 parameters")) is None:
        return
    yield "## E2. Hyperparameters\n"
    ours = asdict(CONFIG)
    rows = [(name, str(ours[name]), str(PAPER.get(name, "-"))) for name in ours]
    rows.append(("parameters", f"{found[1]:,}", "65,000,000"))
    yield table(("hyperparameter", "here", "paper, base model"), rows)
    yield (
        "Each of the heads works in d_model / heads columns, so their number changes neither the parameters nor the arithmetic, "
        "only into how many products it is cut. Layers and d_ff scale both.\n"
    )


def _tell_products(lab: Lab) -> Iterator[str]:
    if (rows := lab.get("E3 products")) is None:
        return
    yield "## E3. Matrix products of one inference\n"
    yield (
        "Counted as they reach torch, by a dispatch mode (`deepcompress.nn.MatrixProducts`): mm, addmm (a linear layer with its "
        "bias) and bmm are one each, a batch of equal products is one, heads are counted one by one, a fused attention kernel is "
        "two. One inference is one pass of the encoder and one of the decoder.\n\n"
        "On paper, for h heads: an attention takes 3 h projections, h products Q K^T, h with V, and one output projection, "
        "5 h + 1. With the two products of the feed-forward network an encoder layer takes 5 h + 3, a decoder layer with its two "
        "attentions 10 h + 4, and N of each with the projection to logits N (15 h + 7) + 1.\n"
    )
    why = "Either the formula or the module is wrong."
    yield beside([
        Figure(f"N = {row['layers']}, h = {row['heads']}: N (15 h + 7) + 1", row["formula"], row["counted"], "", why=why)
        for row in rows
    ])  # fmt: skip
    keys = ("layers", "heads", "counted", "hooks")
    shown = [(*(row[key] for key in keys), row["counted"] - row["hooks"], row["fused"], row["torch"]) for row in rows]
    head = ("N", "h", "reach torch", "seen by hooks", "missed", "heads fused: 22 N + 1", "torch.nn.Transformer")
    yield table(head, shown)
    yield (
        "Hooks on modules see the linear layers and miss `q @ k.T` and `weights @ v`, which are no modules: 2 h in each of the "
        "3 N attentions, 6 N h in all. With all heads of a projection in one matrix, and heads a dimension of the batch, an "
        "attention takes 6 products whatever h is; torch.nn.Transformer packs further (q, k and v of self-attention in one "
        "product, k and v of the other in one), which makes 17 N + 1. The arithmetic is the same in all three; a GPU likes few "
        "large products better than many small ones.\n"
    )

    def draw(path: Path) -> None:
        most = [row for row in rows if row["layers"] == 6]
        names = [f"h = {row['heads']}" for row in most]
        groups = {label: [row[key] for row in most] for label, key in
                  (("reach torch", "counted"), ("seen by hooks", "hooks"), ("torch.nn.Transformer", "torch"))}  # fmt: skip
        with picture(path, size=(7.4, 4.2)) as (axes,):
            bars(axes, names, groups, ylabel="Matrix products of one inference", title="N = 6")
            axes.set_ylim(top=1.2 * max(groups["reach torch"]))

    yield lab.picture("e3_products", "E3: matrix products of one inference with six layers", draw)


def _tell_training(lab: Lab) -> Iterator[str]:
    if (history := lab.get("E4 training")) is None:
        return
    steps = len(Reversals(lab)) * len(history["epochs"])
    yield "## E4. Writing backwards\n"
    yield (
        f"{SHORTEST} to {LONGEST} random digits in, the same backwards out. {steps:,} steps of {BATCH} new sequences each, Adam, "
        "one cycle to 0.002. A sequence counts as right if every token and the end are, written greedily from its own output; "
        f"1,000 sequences: {percent(lab.get('E4 accuracy'))}.\n"
    )

    def draw(path: Path) -> None:
        xlabel = f"Epoch ({len(Reversals(lab))} steps)"
        with picture(path, 2, size=(5.4, 3.8)) as (left, right):
            curves = history_lines({"training": history}, "loss")
            lines(left, curves, xlabel=xlabel, ylabel="Cross entropy per token", title="Loss")
            curves = {"1,000 other sequences": history_lines({"": history}, "validation")[""]}
            lines(right, curves, xlabel=xlabel, ylabel="Sequences written right", title="Accuracy", percent=True)
            for axes in (left, right):
                axes.xaxis.get_major_locator().set_params(integer=True)

    yield lab.picture("e4_training", "E4: learning to write backwards", draw)
    if (found := lab.get("E4 attention")) is None:
        return

    def attention(path: Path) -> None:
        with picture(path, len(found["heads"]), size=(3.6, 3.7)) as panels:
            for number, (axes, weights) in enumerate(zip(panels, found["heads"], strict=True), 1):
                first, last = number == 1, number == len(panels)
                labels = {"ylabel": "Token written" if first else "", "legend": "Attention weight" if last else ""}
                matrix(axes, weights, xlabel="Digit read", title=f"Head {number}", **labels)
                axes.set_xticks(range(LONGEST), [str(digit) for digit in found["source"]])

    yield lab.picture("e4_attention", "E4: where the heads of the last decoder layer look, as they write one sequence", attention)
    yield "Where a head follows the other diagonal, it reads the source from its end: that is what reversing is.\n"


def _tell_compressed(lab: Lab) -> Iterator[str]:
    if not (found := lab.starting("E5 ")):
        return
    yield "## E5. Compressed\n"
    yield (
        "The pipeline takes any nn.Module: nothing in it knows what a transformer is. Each file is loaded into a new "
        "transformer, whose logits for the 1,000 sequences are compared with those of the compressed network in memory.\n"
    )
    rows = [
        (name, f"{row['file_bytes']:,}", f"{row['dense_bytes'] / row['file_bytes']:.1f}x", percent(row["sparsity"]),
         percent(row["accuracy"]), f"{row['logits']:,} of {row['logits']:,}" if row["equal"] else "**not all**")
        for name, row in found.items()
    ]  # fmt: skip
    yield table(("", "file, bytes", "file ratio", "sparsity", "written right", "logits equal bit for bit"), rows)
    dense = next(iter(found.values()))["dense_bytes"]
    yield f"Dense state dict: {dense:,} bytes. Pruned ones were trained on while they were pruned, and finetuned.\n"

    def draw(path: Path) -> None:
        with picture(path, 2, size=(5.4, 4.2)) as (left, right):
            names = ["dense", *found]
            bars(left, names, {"bytes": [dense / 1000, *(row["file_bytes"] / 1000 for row in found.values())]},
                 ylabel="Kilobytes", title="File")  # fmt: skip
            accuracies = [lab.get("E4 accuracy") or 0.0, *(row["accuracy"] for row in found.values())]
            bars(right, names, {"right": accuracies}, ylabel="Sequences written right", title="Accuracy", percent=True)

    yield lab.picture("e5_files", "E5: bytes in the file, and what the network in it can do", draw)


if __name__ == "__main__":
    main()
