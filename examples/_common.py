"""What the examples share: accuracy, and results written beside the files that they belong to."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _data import Batches, Split
from torch import nn

import deepcompress as dc

RESULTS = Path(__file__).parent / "results"


def accuracy_on(split: Split, *, channels_last: bool = False, autocast: str | None = None) -> Callable[[nn.Module], float]:
    """A measure: the share of a split's images that a model classifies right, in float32 unless `autocast` says "bfloat16"."""
    batches = Batches(split, 500, channels_last=channels_last)

    def accuracy(model: nn.Module) -> float:
        mode = model.training
        model.eval()
        device = next(model.parameters()).device
        mixed = torch.autocast(device.type, torch.bfloat16, enabled=autocast is not None)
        with torch.inference_mode(), mixed:
            right = sum(int((model(x.to(device)).argmax(1) == y.to(device)).sum()) for x, y in batches)
        model.train(mode)
        return right / len(split)

    return accuracy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every example has."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="where the data set lies")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where the results go (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="keep what is done here; the same command goes on from it")


def workdir(options: argparse.Namespace, run: str) -> Path | None:
    """The folder of one of the script's runs."""
    return None if options.workdir is None else Path(options.workdir) / run


def write_results(out: Path, name: str, result: dc.Result, measured: dict[str, Any]) -> None:
    """Save NAME.dcz, NAME.json (what was measured, on what), NAME.md and NAME.html (the report) into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    result.compressed.save(out / f"{name}.dcz")
    write_report(out, name, result.report, measured)


def write_report(out: Path, name: str, report: dc.Report, measured: dict[str, Any]) -> None:
    """Save NAME.json, NAME.md and NAME.html into `out`."""
    report.to_html(out / f"{name}.html")
    (out / f"{name}.md").write_text(report.to_markdown(), encoding="utf-8")
    facts = {
        **measured,
        "file_bytes": report.file_bytes,
        "dense_bytes": report.dense_bytes,
        "file_ratio": round(report.file_ratio, 2),
        "lab_ratio": round(report.lab_ratio or 0.0, 2),
        "sparsity": round(report.sparsity or 0.0, 4),
        "stages": [{"name": row.name, "accuracy": row.accuracy, "seconds": round(row.seconds, 1)} for row in report.stages],
        "environment": {**report.environment, "processor": platform.processor() or platform.machine()},
    }
    (out / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
