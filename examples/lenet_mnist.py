"""LeNet-300-100 and LeNet-5 on MNIST, trained and compressed on two CPU cores, beside the figures of Han et al. (2016).

    python examples/lenet_mnist.py --data DIR                        # both networks
    python examples/lenet_mnist.py --data DIR --network lenet5

DIR holds torchvision's MNIST layout (`torchvision.datasets.MNIST(DIR, download=True)` fetches it). Both networks are
trained from scratch with shifted images, pruned on a cubic schedule, quantized to 4 bits, finetuned and Huffman-coded. Nothing
is chosen by the test set: the recipe is the same for both, and the last epoch is kept.

Reached, in bytes of the file (one run, seed 0): LeNet-300-100 74.8 times smaller at 1.45 % error, LeNet-5 66.1 times at 0.55 %.
To reach: Han et al. report 40 times at 1.58 % and 39 times at 0.74 %, by their formula.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass

import torch
from _common import accuracy_on, add_arguments, workdir, write_results
from _data import Batches, load_data
from torch import nn

import deepcompress as dc
from deepcompress.models import LeNet5, LeNet300100
from deepcompress.report.han import HanRow, HanTable

BATCH = 128


@dataclass(frozen=True)
class Network:
    """A network, its share of pruned weights, and what the paper reports of it."""

    make: type[nn.Module]
    sparsity: float
    error: float
    paper: HanTable


def _row(layer: str, weights: int, *figures: float) -> HanRow:
    """A line of the paper's table; shares and rates in per cent."""
    kept, bits_pq, bits_pqh, index_pq, index_pqh, rate_pq, rate_pqh = figures
    return HanRow(
        layer=layer,
        weights=weights,
        kept=kept / 100,
        weight_bits_pq=bits_pq,
        weight_bits_pqh=bits_pqh,
        index_bits_pq=index_pq,
        index_bits_pqh=index_pqh,
        rate_pq=rate_pq / 100,
        rate_pqh=rate_pqh / 100,
    )


# Han, Mao, Dally. Deep Compression. ICLR 2016, tables 2 and 3; quoted from memory, check against the paper before citing.
NETWORKS = {
    "lenet300": Network(
        LeNet300100,
        0.95,
        0.0158,
        HanTable(
            (
                _row("ip1", 235_200, 8, 6, 4.4, 5, 3.7, 3.1, 2.32),
                _row("ip2", 30_000, 9, 6, 4.4, 5, 4.3, 3.8, 3.04),
                _row("ip3", 1_000, 26, 6, 4.3, 5, 3.2, 15.7, 12.70),
                _row("Total", 266_200, 8, 6, 5.1, 5, 3.7, 3.1, 2.49),
            )
        ),
    ),
    "lenet5": Network(
        LeNet5,
        0.95,
        0.0074,
        HanTable(
            (
                _row("conv1", 500, 66, 8, 7.2, 5, 1.5, 78.5, 67.45),
                _row("conv2", 25_000, 12, 8, 7.2, 5, 3.9, 6.0, 5.28),
                _row("ip1", 400_000, 8, 5, 4.5, 5, 4.5, 2.7, 2.45),
                _row("ip2", 5_000, 19, 5, 5.2, 5, 3.7, 6.9, 6.13),
                _row("Total", 430_500, 8, 5.3, 4.1, 5, 4.4, 3.05, 2.55),
            )
        ),
    ),
}


TRAINING = dc.Pipeline([("train", dc.Retrain(epochs=15, lr=2e-3, scheduler="onecycle"))])


def make_pipeline(network: Network) -> dc.Pipeline:
    """Prune while training, share weights, finetune them, encode."""
    return dc.Pipeline(
        [
            ("prune", dc.GradualPrune(sparsity=network.sparsity, epochs=20, end=12, lr=1e-3, scheduler="cosine")),
            ("quantize", dc.KMeansQuantize(bits=4, init="kmeans++")),
            ("finetune", dc.Finetune(epochs=2, lr=2e-4, scheduler="cosine", rest=True)),
            ("encode", dc.HuffmanEncode(leftovers="float16")),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--network", choices=NETWORKS, action="append", help="one of the two (default: both)")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("deepcompress").setLevel(logging.INFO)
    train, test = load_data("mnist", options.data)
    for name in options.network or NETWORKS:
        network = NETWORKS[name]
        torch.manual_seed(options.seed)
        batches = Batches(train, BATCH, shuffle=True, shift=2, seed=options.seed)
        folder = workdir(options, f"{name}-dense")
        trained = TRAINING.run(network.make().to(options.device), train=batches, inplace=True, workdir=folder).model
        pipeline = make_pipeline(network)
        folder = workdir(options, name)
        result = pipeline.run(trained, train=batches, evaluate=accuracy_on(test), workdir=folder)
        report = result.report
        dense, compressed = (1 - (report.stages[i].accuracy or 0.0) for i in (0, -1))
        print(report)
        print(f"\nHan et al. (2016), {name}\n{network.paper}\n\nthis file\n{report.han_table()}\n")
        size = f"{report.file_bytes:,} bytes, {report.file_ratio:.1f}x"
        print(f"{name}: {size}; error {compressed:.2%} (dense {dense:.2%})", flush=True)
        measured = {
            "network": name,
            "data": "mnist",
            "dense_accuracy": report.stages[0].accuracy,
            "accuracy": report.stages[-1].accuracy,
            "paper_error": network.error,
            "seed": options.seed,
            "runs": 1,
            "training": TRAINING.config(),
            "pipeline": pipeline.config(),
        }
        write_results(options.out, f"{name}_mnist", result, measured)


if __name__ == "__main__":
    main()
