"""Lab A. ResNet-20 on CIFAR-10: prune, retrain, share weights, Huffman-code; and weigh the file.

    python examples/lab_a_resnet20.py --data DIR                      # all parts, in order
    python examples/lab_a_resnet20.py A1 --data DIR --checkpoint FILE # one part, from a trained network

A0 trains the dense network, A1 prunes it by two rules, A2 retrains what A1 left, A3 shares weights, A4 does everything and weighs
the file, A5 answers the questions of the lab with a demonstration each. A1 to A5 start from --checkpoint (a state dict with the
names of akamaster/pytorch_resnet_cifar10), or else from A0's network.

Committed run (examples/results/lab_a; one run, seed 0, one CPU thread): A0 by one cycle in 40 epochs instead of 100, 91.55 %; A2
and A4 with one epoch of retraining instead of twenty and ten, A1 to A5 from the published checkpoint of 91.73 %. What one run's
accuracy is known to: two standard errors of 10,000 test images, 0.5 to 1 point. Seconds were taken beside other work.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import RESULTS, accuracy_on
from _data import Batches
from _lab import Lab, as_data, run_lab
from resnet20_cifar10 import PIPELINE, load_checkpoint
from torch import nn

import deepcompress as dc
from deepcompress.coding.huffman import HuffmanCode
from deepcompress.models import resnet20

SGD = {"optimizer": "SGD", "optimizer_options": {"momentum": 0.9, "weight_decay": 1e-4}, "autocast": "bfloat16"}
FIRST, THIRTEENTH, LAST = "conv1.weight", "layer2.2.conv2.weight", "linear.weight"

# The authors' figures: the rule's parameter -> (sparsity, accuracy as it is, accuracy retrained).
BY_STD = {0.25: (0.2053, 0.9082, 0.9136), 0.5: (0.3973, 0.8748, 0.911), 1.0: (0.6951, 0.4718, 0.894)}
BY_PERCENTILE = {0.25: (0.25, 0.9058, 0.9137), 0.5: (0.5, 0.852, 0.9105), 0.75: (0.75, 0.2367, 0.8837)}
RULES = {"std": ("s", BY_STD), "percentile": ("q", BY_PERCENTILE)}
BITS = {3: 0.8639, 4: 0.9036, 5: 0.9121, 6: 0.912}
INITS = {"linear": 0.9133, "kmeans++": 0.9135, "random": 0.9121}
DENSE, CODE_LENGTH, LAB_RATIO, FINAL = 0.914, 4.2874, 20.67, 0.9019


def main() -> None:
    from _lab_a_story import story  # it reads this module's tables of figures

    run_lab("a", "ResNet-20 on CIFAR-10: prune, retrain, share, code", __doc__, measure, story, parts=PARTS, add=_options)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="dense network for A1 to A5 (default: what A0 trains)")
    parser.add_argument("--one-cycle", action="store_true", help="A0 by one cycle of the learning rate, which needs fewer epochs")
    parser.add_argument("--committed", action="store_true", help="A4 evaluates the committed file instead of making one")


def measure(lab: Lab) -> None:
    wanted = list(PARTS) if lab.options.part == "all" else [lab.options.part]
    for part in wanted:
        PARTS[part](lab)


# What every part needs


def accuracy(lab: Lab, autocast: str | None = None) -> Callable[[nn.Module], float]:
    test = lab.data()[1]
    return accuracy_on(test.take(torch.arange(120)) if lab.options.quick else test, channels_last=True, autocast=autocast)


def batches(lab: Lab) -> Batches:
    quick = lab.options.quick  # a mirrored digit is another one
    train = lab.data()[0]
    return Batches(train.take(torch.arange(256)) if quick else train, 128, shuffle=True, shift=0 if quick else 4, flip=not quick,
                   seed=lab.options.seed, channels_last=True)  # fmt: skip


def new_network(lab: Lab) -> nn.Module:
    torch.manual_seed(lab.options.seed)
    return resnet20().to(lab.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def dense(lab: Lab) -> nn.Module:
    """The network that A1 to A5 compress."""
    if lab.options.checkpoint is None:
        return trained(lab)
    model = new_network(lab)
    load_checkpoint(model, lab.options.checkpoint)
    return model


def origin(lab: Lab) -> str:
    return "A0" if lab.options.checkpoint is None else lab.options.checkpoint.name


def trained(lab: Lab) -> nn.Module:
    """A0's network: the authors' recipe, or one cycle."""
    epochs = lab.epochs(100, quick=2)
    multistep = dc.TrainSettings(epochs=epochs, lr=0.1, scheduler="multistep", seed=lab.options.seed, **SGD)  # type: ignore[arg-type]
    cycle = dc.TrainSettings(
        epochs=epochs, lr=0.2, optimizer="SGD", optimizer_options={"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
        scheduler="onecycle", scheduler_options={"pct_start": 0.15}, label_smoothing=0.05, autocast="bfloat16",
        seed=lab.options.seed,
    )  # fmt: skip
    settings = cycle if lab.options.one_cycle else multistep
    curve = accuracy(lab, autocast="bfloat16")

    def train(model: nn.Module) -> Any:
        return as_data(dc.fit(model, batches(lab), settings, validate=curve, quiet=False))

    recipe = "one cycle to 0.2" if lab.options.one_cycle else "0.1, divided by 10 at a half and three quarters"
    return lab.model("A0 training", partial(new_network, lab), train, epochs=epochs, of=100, recipe=recipe)


# A0 to A5


def part_a0(lab: Lab) -> None:
    model = trained(lab)
    lab.step("A0 accuracy", lambda: accuracy(lab)(model))


def prune_stage(rule: str, value: float) -> dc.Prune:
    return dc.Prune(rule, **{RULES[rule][0]: value})


def part_a1(lab: Lab) -> None:
    """Two rules, three strengths each, nothing retrained."""
    model, score = dense(lab), accuracy(lab)
    lab.step("A1 dense", lambda: score(model), start=origin(lab))
    lab.step("A1 dense filters", lambda: _filters(model), start=origin(lab))
    for rule, (letter, values) in RULES.items():
        for value in values:
            stage = prune_stage(rule, value)
            lab.step(f"A1 {rule} {letter}={value}", lambda stage=stage: _pruned_row(model, stage, score), start=origin(lab))


def _pruned_row(model: nn.Module, stage: dc.Prune, score: Callable[[nn.Module], float]) -> dict[str, Any]:
    result = dc.Pipeline([("prune", stage)]).run(model, evaluate=score)
    layers = {row.name: row.sparsity for row in result.report.layers if row.pruned}
    row = result.report.stages[-1]
    return {"sparsity": row.sparsity, "accuracy": row.accuracy, "layers": layers, "filters": _filters(result.model)}


def _filters(model: nn.Module) -> dict[str, list[float]]:
    """Sum of |w| over each filter of the first and the thirteenth convolution."""
    weights = dict(model.named_parameters())
    return {name: weights[name].detach().abs().sum((1, 2, 3)).tolist() for name in (FIRST, THIRTEENTH)}


def part_a2(lab: Lab) -> None:
    """Each of A1's networks retrained under its masks."""
    model, score = dense(lab), accuracy(lab)
    epochs = lab.epochs(20)
    for rule, (letter, values) in RULES.items():
        for value in values:
            retrain = dc.Retrain(epochs=epochs, lr=1e-3, seed=lab.options.seed, **SGD)  # type: ignore[arg-type]
            pipeline = dc.Pipeline([("prune", prune_stage(rule, value)), ("retrain", retrain)])

            def measured(pipeline: dc.Pipeline = pipeline) -> dict[str, Any]:
                result = pipeline.run(model, train=batches(lab), evaluate=score)
                last = result.report.stages[-1]
                return {"accuracy": last.accuracy, "sparsity": last.sparsity, "history": as_data(result.histories["retrain"])}

            lab.step(f"A2 {rule} {letter}={value}", measured, epochs=epochs, of=20, start=origin(lab))


def part_a3(lab: Lab) -> None:
    """Weight sharing at four widths, from three starts; histograms; Huffman."""
    model, score = dense(lab), accuracy(lab)
    for bits in BITS:
        lab.step(f"A3 bits={bits}", lambda bits=bits: _shared_row(model, bits, "linear", score), start=origin(lab))
    for init in INITS:
        lab.step(f"A3 init={init}", lambda init=init: _shared_row(model, 5, init, score), start=origin(lab))
    lab.step("A3 weights", lambda: _weights_shared(model), start=origin(lab))


def _shared_row(model: nn.Module, bits: int, init: str, score: Callable[[nn.Module], float]) -> dict[str, Any]:
    pipeline = dc.Pipeline([("quantize", dc.KMeansQuantize(bits=bits, init=init)), ("encode", dc.HuffmanEncode())])
    result = pipeline.run(model, evaluate=score)
    rows = [row for row in result.report.layers if row.quantized]
    nonzeros = sum(row.nonzeros for row in rows)
    return {
        "accuracy": result.report.stages[-1].accuracy,
        "seconds": _seconds_to_share(model, bits, init),
        "rmse": float(np.sqrt(sum(row.weights * (row.rmse or 0.0) ** 2 for row in rows) / sum(row.weights for row in rows))),
        "code_length": sum(row.nonzeros * (row.mean_code_length or 0.0) for row in rows) / nonzeros,
        "entropy": sum(row.nonzeros * (row.entropy or 0.0) for row in rows) / nonzeros,
        "file_bytes": result.report.file_bytes,
    }


def _weights_shared(model: nn.Module) -> dict[str, dict[str, list[float]]]:
    """Weights of the first convolution and the last layer, dense and sharing 32 values."""
    shared = dc.Pipeline([("quantize", dc.KMeansQuantize(bits=5))]).run(model).model
    return {name: {"before": _values(model, name), "after": _values(shared, name)} for name in (FIRST, LAST)}


def _values(model: nn.Module, name: str) -> list[float]:
    return [round(value, 5) for value in dict(model.named_parameters())[name].detach().flatten().tolist()]


def _seconds_to_share(model: nn.Module, bits: int, init: str) -> float:
    """Clustering alone, without encoding and measuring: the median of five."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        dc.Pipeline([("quantize", dc.KMeansQuantize(bits=bits, init=init))]).run(model)
        times.append(time.perf_counter() - start)
    return sorted(times)[2]


def part_a4(lab: Lab) -> None:
    """The authors' rounds, and our recipe."""
    model, score = dense(lab), accuracy(lab)
    epochs = lab.epochs(10)
    retrain = dc.Retrain(epochs=epochs, lr=1e-3, seed=lab.options.seed, **SGD)  # type: ignore[arg-type]
    rounds: list[tuple[str, Any]] = []
    for q in (0.5, 0.6, 0.64):
        rounds += [(f"prune {q}", dc.Prune("percentile", q=q)), (f"retrain {q}", retrain)]
    rounds += [("quantize", dc.KMeansQuantize(bits=5)), ("encode", dc.HuffmanEncode(leftovers="float16"))]
    theirs = dc.Pipeline(rounds)
    lab.step("A4 authors", lambda: _whole(theirs.run(model, train=batches(lab), evaluate=score)), epochs=epochs, of=10,
             start=origin(lab))  # fmt: skip
    if lab.options.committed:
        lab.step("A4 ours", lambda: _from_file(RESULTS / "resnet20_cifar10.dcz", score, score(model)))
        return
    ours = dc.Pipeline.from_config(_shortened(PIPELINE, lab))
    lab.step("A4 ours", lambda: _whole(ours.run(model, train=batches(lab), evaluate=score, loss=dc.distillation(model))),
             epochs=lab.epochs(14), of=14, start=origin(lab))  # fmt: skip


def _shortened(config: dict[str, Any], lab: Lab) -> dict[str, Any]:
    """Our recipe with fewer epochs, where the command line says so."""
    epochs = lab.epochs(14)
    stages = []
    for stage in config["stages"]:
        most = {"gradual_prune": {"epochs": epochs, "end": min(6, epochs / 2)}, "finetune": {"epochs": min(2, epochs)}}
        stages.append({**stage, **most.get(stage["stage"], {})})
    return {"stages": stages}


def _whole(result: dc.Result) -> dict[str, Any]:
    report = result.report
    return {
        "stages": [{"name": row.name, "accuracy": row.accuracy, "sparsity": row.sparsity} for row in report.stages],
        "file_bytes": report.file_bytes,
        "file_ratio": report.file_ratio,
        "lab_ratio": report.lab_ratio,
        "bits": {kind: bits / 8 for kind, bits in report.bits.as_dict().items()},
    }


def _from_file(path: Path, score: Callable[[nn.Module], float], before: float) -> dict[str, Any]:
    compressed = dc.load(path)
    model = compressed.load_into(resnet20()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return {
        "stages": [{"name": "dense", "accuracy": before}, {"name": "file", "accuracy": score(model)}],
        "file_bytes": compressed.file_bytes,
        "file_ratio": compressed.dense_bytes / compressed.file_bytes,
        "file": path.name,
    }


def part_a5(lab: Lab) -> None:
    """Demonstrations for the five questions."""
    model, score = dense(lab), accuracy(lab)
    lab.step("A5 combinations", lambda: _combinations(model, score), start=origin(lab))
    lab.step("A5 symbols", lambda: _symbols(model), start=origin(lab))
    lab.step("A5 zeros", lambda: _zeros(lab.device))
    lab.step("A5 code lengths", _code_lengths)
    lab.step("A5 sharing", lambda: _sharing_bits(model), start=origin(lab))


def _combinations(model: nn.Module, score: Callable[[nn.Module], float]) -> dict[str, Any]:
    """File bytes of pruning and sharing, each alone and both; and k-means against the nearest of evenly spaced values."""
    prune, encode = ("prune", dc.Prune("percentile", q=0.5)), ("encode", dc.HuffmanEncode())
    share = ("quantize", dc.KMeansQuantize(bits=4))
    even = ("quantize", dc.AffineQuantize(bits=4, symmetric=False))
    ways: dict[str, list[tuple[str, Any]]] = {
        "neither": [encode], "pruning": [prune, encode], "sharing": [share, encode], "both": [prune, share, encode],
        "nearest of even values": [even, encode],
    }  # fmt: skip
    found = {}
    for name, stages in ways.items():
        report = dc.Pipeline(stages).run(model, evaluate=score).report
        found[name] = {"file_bytes": report.file_bytes, "accuracy": report.stages[-1].accuracy, "rmse": _rmse(report)}
    return found


def _rmse(report: dc.Report) -> float:
    rows = [row for row in report.layers if row.rmse is not None]
    return float(np.sqrt(sum(row.weights * (row.rmse or 0.0) ** 2 for row in rows) / max(sum(row.weights for row in rows), 1)))


def _symbols(model: nn.Module) -> dict[str, Any]:
    """What Huffman coding has to work with in the largest layer: floats, floats half of them pruned, and indices of 5 bits."""
    weight = dict(model.named_parameters())["layer3.2.conv2.weight"].detach().cpu().numpy().reshape(-1)
    kept = np.abs(weight) >= np.quantile(np.abs(weight), 0.5)
    shared = dc.Pipeline([("q", dc.KMeansQuantize(bits=5))]).run(model).model
    indices = dict(shared.named_parameters())["layer3.2.conv2.weight"].detach().cpu().numpy().reshape(-1)
    ways = {"floats": weight, "floats that pruning kept": weight[kept], "shared values (5 bits)": indices}
    rows = {}
    for name, values in ways.items():
        counts = np.unique(values, return_counts=True)[1]
        code = HuffmanCode.from_counts(counts, 20)
        own = 32 if "floats" in name else 5
        table_bits = len(counts) * 32
        rows[name] = {"values": len(values), "distinct": len(counts), "before": own, "code_length": code.mean_length(counts),
                      "with_table": code.mean_length(counts) + table_bits / len(values)}  # fmt: skip
    return rows


def _zeros(device: torch.device) -> dict[str, float]:
    """Seconds of a matrix product and a convolution, dense and with nine zeros in ten: the median of 15 in turns."""
    generator = torch.Generator().manual_seed(0)
    matrix, vectors = torch.randn(1024, 1024, generator=generator), torch.randn(1024, 512, generator=generator)
    kernel, maps = torch.randn(64, 64, 3, 3, generator=generator), torch.randn(32, 64, 16, 16, generator=generator)
    work: dict[str, tuple[Callable[..., Any], torch.Tensor, torch.Tensor]] = {
        "matrix product": (torch.matmul, matrix, vectors),
        "convolution": (lambda w, x: nn.functional.conv2d(x, w, padding=1), kernel, maps),
    }
    times: dict[str, list[float]] = {}
    for _ in range(15):
        for name, (operation, weight, inputs) in work.items():
            for density in (1.0, 0.1):
                mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < density
                pruned, given = (weight * mask).to(device), inputs.to(device)
                operation(pruned, given)
                _wait(device)
                start = time.perf_counter()
                operation(pruned, given)
                _wait(device)
                times.setdefault(f"{name}, {1 - density:.0%} zeros", []).append(time.perf_counter() - start)
    return {name: sorted(all_)[len(all_) // 2] for name, all_ in times.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _code_lengths() -> list[dict[str, float]]:
    """Mean code length of n symbols, equally likely and falling by halves, beside log2 n and the entropy."""
    rows = []
    for n in (4, 5, 16, 20, 32):
        falling = np.maximum((2.0 ** (20 - np.arange(n))).astype(np.int64), 1)
        share = falling / falling.sum()
        rows.append({
            "n": n, "log2": float(np.log2(n)),
            "equal": HuffmanCode.from_counts(np.full(n, 1000), 20).mean_length(np.full(n, 1000)),
            "entropy": float(-(share * np.log2(share)).sum()),
            "falling": HuffmanCode.from_counts(falling, 20).mean_length(falling),
        })  # fmt: skip
    return rows


def _sharing_bits(model: nn.Module) -> list[dict[str, Any]]:
    """Bits of k-bit sharing without Huffman in the largest layer: N k + 32 x 2^k, and what the file spends."""
    rows = []
    for bits in (2, 4, 6, 8):
        stage = dc.KMeansQuantize(bits=bits, codebook="float32", include=["layer3.2.conv2.weight"])
        report = dc.Pipeline([("quantize", stage)]).run(model).report
        row = next(row for row in report.layers if row.quantized)
        spent = row.bits.as_dict()
        n = row.weights
        rows.append({"bits": bits, "naive": n * bits, "formula": n * bits + 32 * 2**bits,
                     "file": spent["codewords"] + spent["codebook"]})  # fmt: skip
    return rows


PARTS: dict[str, Callable[[Lab], None]] = {
    "A0": part_a0, "A1": part_a1, "A2": part_a2, "A3": part_a3, "A4": part_a4, "A5": part_a5,
}  # fmt: skip


if __name__ == "__main__":
    main()
