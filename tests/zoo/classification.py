"""Every classifier of torchvision: pruned, quantized and encoded, saved, loaded into a fresh one, and equal in every bit.

    python -m tests.zoo.classification                                   # all of them, the smallest first
    python -m tests.zoo.classification --only resnet18 vit_b_16          # these
    python -m tests.zoo.classification --log tests/zoo/record.json       # keep what was measured, or go on there

Weights are random: `weights=None` with a seed, and what an untrained network has as constants (biases, norms and their
statistics, a transformer's head) is stirred, for else logits would be zeros and say nothing. The compressed model is let go
before a fresh one, of another seed, is made: one network in memory at a time. A model is back if, loaded from its file, its
state dict and its logits on two images are those of the compressed model, in every bit. Exit status 1 if any is not.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import deepcompress as dc
from deepcompress.pipeline.points import fingerprint
from deepcompress.vision import import_torchvision

PIPELINE = dc.Pipeline(
    [
        ("prune", dc.Prune("percentile", q=0.6)),
        ("quantize", dc.KMeansQuantize(bits=5, max_iter=4)),
        ("encode", dc.HuffmanEncode()),
    ]
)
_IMAGE = {"vit_": 224, "maxvit": 224, "swin": 224, "inception": 96}  # others take any size
_SMALL_IMAGE = 64
_UNINITIALIZED = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}  # else they warn


class UnequalError(Exception):
    """A model that did not come back."""


@dataclass(frozen=True)
class Row:
    """One model: what it was, what it became, how long all of it took."""

    name: str
    parameters: int
    dense_bytes: int
    file_bytes: int
    seconds: float

    def __str__(self) -> str:
        ratio = f"{self.dense_bytes / self.file_bytes:.2f}x"
        return f"{self.name:<20} {self.parameters:>13,} {self.file_bytes:>13,} bytes {ratio:>7} {self.seconds:8.1f} s"


def names() -> list[str]:
    """All classifiers that torchvision lists."""
    models = import_torchvision("models")
    found: list[str] = models.list_models(module=models)
    return found


def build(name: str, seed: int | None = None) -> nn.Module:
    """One of them in eval mode, with random numbers wherever training would have left some."""
    if seed is not None:
        torch.manual_seed(seed)
    model: nn.Module = import_torchvision("models").get_model(name, weights=None, **_UNINITIALIZED.get(name, {}))
    if seed is not None:
        stir(model)
    return model.eval()


def published_size(name: str) -> int:
    """Parameters of the published weights, which are not fetched: what a model has without its auxiliary heads."""
    weights: Any = import_torchvision("models").get_model_weights(name)
    return int(weights.DEFAULT.meta["num_params"])


@torch.no_grad()
def stir(model: nn.Module) -> None:
    """Move what an untrained network has as constants."""
    for parameter in model.parameters():
        if bool((parameter == parameter.reshape(-1)[0]).all()):
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]


@torch.no_grad()
def logits(model: nn.Module, name: str) -> Tensor:
    """The model's, on two images of noise."""
    side = next((size for start, size in _IMAGE.items() if name.startswith(start)), _SMALL_IMAGE)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(7))
    found: Tensor = model(images)
    return found


def there_and_back(name: str, folder: Path) -> Row:
    """Compress a model, load its file into a fresh one.

    Raises:
        UnequalError: it is not the same, or says too little to tell.
    """
    start, path = time.perf_counter(), folder / f"{name}.dcz"
    model = build(name, seed=0)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    result = PIPELINE.run(model, inplace=True, quiet=True)
    result.compressed.save(path)
    expected, bits, report = logits(model, name), fingerprint(model), result.report
    del model, result
    fresh = build(name, seed=1)
    dc.load(path).load_into(fresh)
    found = logits(fresh, name)
    if not bool(expected.isfinite().all()) or float(expected.std()) == 0 or torch.equal(expected[0], expected[1]):
        raise UnequalError(f"the logits of {name} tell nothing")
    if fingerprint(fresh) != bits:
        raise UnequalError(f"{name} has other tensors when it is loaded")
    if not torch.equal(found, expected):
        raise UnequalError(f"{name} has other logits when it is loaded: {float((found - expected).abs().max())} apart")
    size = path.stat().st_size
    path.unlink()
    if size != report.file_bytes:
        raise UnequalError(f"the file of {name} has {size} bytes, and its report says {report.file_bytes}")
    return Row(name, parameters, report.dense_bytes, size, round(time.perf_counter() - start, 2))


def environment() -> dict[str, Any]:
    """What a log is of."""
    return {
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": import_torchvision().__version__,
        "deepcompress": dc.__version__,
    }


def read_log(path: Path | None) -> tuple[list[Row], float]:
    """What an earlier run found in the same environment, and its peak memory."""
    if path is None or not path.exists():
        return [], 0.0
    kept = json.loads(path.read_text())
    if not environment().items() <= kept.items():
        return [], 0.0
    return [Row(**row) for row in kept["rows"]], kept["peak_memory_gib"]


def write_log(path: Path, rows: Sequence[Row], failed: Sequence[str], left_out: Sequence[str], peak: float) -> None:
    """Keep what was measured, a model a line."""
    mine = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    head: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "models": len(rows),
        "failed": list(failed),
        "left_out": list(left_out),
        "peak_memory_gib": round(max(peak, mine), 2),
        **environment(),
    }
    lines = ",\n".join(f"  {json.dumps(asdict(row))}" for row in sorted(rows, key=lambda row: row.parameters))
    text = json.dumps(head, indent=1)
    path.write_text(f'{text[:-2]},\n "rows": [\n{lines}\n ]\n}}\n')


def run(chosen: Iterable[str], most: int | None, log: Path | None) -> int:
    """Each of them in turn; the number that failed."""
    sizes = sorted((published_size(name), name) for name in chosen)
    left_out = [name for size, name in sizes if most is not None and size > most]
    earlier, peak = read_log(log)
    rows = [row for row in earlier if row.name in {name for _, name in sizes}]
    done = {*left_out, *(row.name for row in rows)}
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for _, name in sizes:
            if name in done:
                continue
            try:
                rows.append(there_and_back(name, Path(folder)))
                print(rows[-1], flush=True)
            except Exception:
                failed.append(name)
                print(f"{name:<20} FAILED\n{traceback.format_exc()}", flush=True)
            gc.collect()
            if log is not None:
                write_log(log, rows, failed, left_out, peak)
    print(f"{len(rows)} of {len(sizes)} models came back in every bit; {len(failed)} failed {failed or ''}")
    if left_out:
        print(f"left out, as they have more than {most:,} parameters: {', '.join(left_out)}")
    return len(failed)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo.classification", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names(), help="these models (default: all)")
    parser.add_argument("--max-parameters", type=int, metavar="N", help="leave out larger ones, and say which")
    parser.add_argument("--log", type=Path, metavar="FILE", help="what was measured, as JSON, after each model; go on there")
    given = parser.parse_args(arguments)
    return 1 if run(given.only or names(), given.max_parameters, given.log) else 0


if __name__ == "__main__":
    sys.exit(main())
