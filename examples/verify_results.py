"""Load each committed file and evaluate it on the test set, from the file alone.

    python examples/verify_results.py --data DIR

DIR holds torchvision's MNIST layout and CIFAR-10 (torchvision's layout or an ImageFolder). Exit status 1 where a file does not
reach what is claimed for it, or what is measured differs from the JSON beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from _common import RESULTS, accuracy_on
from _data import Split, load_cifar10, load_mnist
from torch import nn

import deepcompress as dc
from deepcompress.models import LeNet5, LeNet300100, resnet20


@dataclass(frozen=True)
class Claim:
    """A file, the network it loads into, its test data, and what it must reach."""

    file: str
    make: Callable[[], nn.Module]
    load: Callable[[Path], tuple[Split, Split]]
    ratio: float
    error: float


CLAIMS = (
    Claim("lenet300_mnist", LeNet300100, load_mnist, ratio=40, error=0.0158),
    Claim("lenet5_mnist", LeNet5, load_mnist, ratio=39, error=0.0074),
    Claim("resnet20_cifar10", resnet20, load_cifar10, ratio=20, error=1 - 0.9173 + 0.01),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the files lie (default: %(default)s)")
    options = parser.parse_args()
    print(f"{'file':<18} {'bytes':>8} {'ratio':>7} {'at least':>9} {'error':>8} {'at most':>8}")
    verdicts = [check(claim, options.results, options.data) for claim in CLAIMS]
    return 0 if all(verdicts) else 1


def check(claim: Claim, results: Path, data: Path) -> bool:
    """Measure one file and print its line; whether it reaches its claim and the JSON beside it says the same."""
    compressed = dc.load(results / f"{claim.file}.dcz")
    model = compressed.load_into(claim.make())
    dense_bytes = sum(tensor.numel() * tensor.element_size() for tensor in claim.make().state_dict().values())
    ratio = min(dense_bytes, compressed.dense_bytes) / compressed.file_bytes
    error = 1 - accuracy_on(claim.load(data)[1])(model)
    reached = ratio >= claim.ratio and error <= claim.error + 1e-9
    facts = json.loads((results / f"{claim.file}.json").read_text(encoding="utf-8"))
    same = facts["file_bytes"] == compressed.file_bytes and abs(1 - facts["accuracy"] - error) < 1e-4
    verdict = ("reached" if reached else "NOT REACHED") + ("" if same else ", and the JSON says otherwise")
    line = f"{claim.file:<18} {compressed.file_bytes:>8,} {ratio:>6.1f}x {claim.ratio:>8.0f}x {error:>8.2%} {claim.error:>8.2%}"
    print(f"{line}  {verdict}", flush=True)
    return reached and same


if __name__ == "__main__":
    sys.exit(main())
