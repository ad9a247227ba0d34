"""`deepcompress compress`: a checkpoint becomes one .dcz file, without the model's code."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcompress.cli.console import Outcome, UsageError
from deepcompress.cli.shards import SHARDED

if TYPE_CHECKING:
    from deepcompress.cli.checkpoints import Checkpoint
    from deepcompress.pipeline.pipeline import Pipeline, Result

BITS, INIT = 5, "linear"
QUALITY = "1 to 100: bits by one price for all layers, noise Q / 2 decibels below the weights; instead of the options around it"
METHODS = {"percentile": "q", "std": "s", "unstructured": "sparsity", "filter_l1": "sparsity"}  # method: its parameter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    methods = ", ".join(METHODS)
    sources = "a .pt, .pth, .th or .safetensors state dict, or a .safetensors.index.json"
    parser.add_argument("source", metavar="SOURCE", help=sources)
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the .dcz file to write")
    parser.add_argument("--recipe", metavar="YAML", help="a pipeline as YAML, instead of the options below")
    parser.add_argument("--prune", metavar="NAME=VALUE", type=_pruning, help=f"prune first: {methods}")
    parser.add_argument("--bits", metavar="N", type=int, help=f"bits of an index, 1 to 16 (default: {BITS})")
    parser.add_argument("--init", metavar="NAME", help=f"linear, density, random, kmeans++ or optimal (default: {INIT})")
    parser.add_argument("--quality", metavar="Q", type=int, help=QUALITY)
    parser.add_argument("--no-quantize", action="store_true", help="keep the values; only prune and encode")
    parser.add_argument("--lossless", action="store_true", help="lose nothing: every tensor comes back equal in every bit")
    parser.add_argument("--float16", action="store_true", help="store what is left dense as float16")
    parser.add_argument("--store-recipe", action="store_true", help="keep the pipeline in the file")


def run(options: argparse.Namespace) -> Outcome:
    lossless = options.lossless and _keeps_everything(options)
    if options.quality is not None:
        return _of_quality(options)
    pipeline = _from_recipe(options) if options.recipe is not None else _from_options(options)
    _check_output(options)
    if lossless and options.source.endswith((".safetensors", SHARDED)):  # torch's own files are loaded whole
        from deepcompress.cli import lossless as streamed

        return streamed.run(options)
    from deepcompress.cli.checkpoints import read_checkpoint

    checkpoint = read_checkpoint(options.source)
    result = _compressed(checkpoint, pipeline, options)
    result.compressed.save(options.output)
    return _outcome(options.output, result.report)


def _compressed(checkpoint: Checkpoint, pipeline: Pipeline, options: argparse.Namespace) -> Result:
    return pipeline.run(
        checkpoint.tensors,
        inplace=True,
        metadata=checkpoint.metadata,
        store_recipe=options.store_recipe,
        quiet=options.quiet or options.json,
    )


def _of_quality(options: argparse.Namespace) -> Outcome:
    if not 1 <= options.quality <= 100:
        raise UsageError(f"--quality takes an integer from 1 to 100, not {options.quality}")
    _refuse(options, "--quality, which decides on them", "--lossless", "--recipe", *_STEPS)
    _check_output(options)
    from deepcompress.auto.untrained import Grids
    from deepcompress.cli.checkpoints import read_checkpoint
    from deepcompress.pipeline.pipeline import Pipeline

    checkpoint = read_checkpoint(options.source)
    grids = Grids(checkpoint.tensors)
    result = grids.explained(_compressed(checkpoint, Pipeline(grids.plan(options.quality)), options), options.quality)
    result.compressed.save(options.output)
    return _outcome(options.output, result.report)


def _check_output(options: argparse.Namespace) -> None:
    if os.path.exists(options.output) and os.path.realpath(options.output) == os.path.realpath(options.source):
        raise UsageError(f"{options.output} is the source itself")


_STEPS = ("--prune", "--bits", "--init", "--no-quantize", "--float16")


def _refuse(options: argparse.Namespace, beside: str, *names: str) -> None:
    """Raise UsageError where options are given that another one leaves no room for."""
    values = {name: getattr(options, name[2:].replace("-", "_")) for name in names}
    if given := [name for name, value in values.items() if value is not None and value is not False]:
        raise UsageError(f"{' and '.join(given)} cannot stand beside {beside}")


def _keeps_everything(options: argparse.Namespace) -> bool:
    """True, unless another option would lose something. Raises UsageError then."""
    _refuse(options, "--lossless, which keeps everything", "--recipe", *_STEPS)
    return True


def _pruning(text: str) -> tuple[str, float]:
    """NAME=VALUE as (method, number)."""
    name, _, value = text.partition("=")
    if name not in METHODS:
        raise argparse.ArgumentTypeError(f"unknown method {name!r}; there are {', '.join(METHODS)}")
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{name}= takes a number, not {value!r}") from None


def _from_options(options: argparse.Namespace) -> Pipeline:
    import deepcompress as dc

    if options.lossless:
        return dc.Pipeline([("lossless", dc.Lossless())])
    stages: list[tuple[str, Any]] = []
    if options.prune:
        method, value = options.prune
        stages.append(("prune", dc.Prune(method, **{METHODS[method]: value})))
    if not options.no_quantize:
        bits = BITS if options.bits is None else options.bits
        stages.append(("quantize", dc.KMeansQuantize(bits=bits, init=options.init or INIT)))
    elif options.bits is not None or options.init:
        raise UsageError("--no-quantize leaves nothing for --bits and --init to do")
    stages.append(("encode", dc.HuffmanEncode(leftovers="float16" if options.float16 else None)))
    return dc.Pipeline(stages)


def _from_recipe(options: argparse.Namespace) -> Pipeline:
    _refuse(options, "--recipe, which says it all", *_STEPS)
    import deepcompress as dc

    return dc.Pipeline.from_config(Path(options.recipe))


def _outcome(path: str, report: Any) -> Outcome:
    smaller = f"{report.file_ratio:.2f} times smaller than its {report.dense_bytes:,}"
    wrote = f"wrote {path}: {report.file_bytes:,} bytes, {smaller}"
    return Outcome({"file": path, **report.to_dict()}, f"{report}\n{wrote}")
