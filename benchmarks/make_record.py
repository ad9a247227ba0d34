"""Follow a recipe from start to end: train the dense network, compress it, write the file. No test image is read.

    python benchmarks/make_record.py --recipe lenet-5-800x --data DIR --seed 0 --choose     # to choose recipes
    python benchmarks/make_record.py --recipe lenet-5-800x --data DIR --seed 0              # to make a record

With --choose a part of the training images is held out (10,000 of MNIST's, 5,000 of CIFAR-10's, the same ones each time): neither
the dense network nor its teacher nor the compressed one sees them, and the error on them is printed, as a line of JSON; --record
keeps it in choices.json. Without, all training images are trained on, the recipe unchanged, the last epoch kept, and
NAME-seedS.dcz and NAME-seedS.json are written. `records.py` reads the test images.

A recipe is one of `deepcompress.recipes`, or a file of your own; --change tries another value of one of its fields. The same
seed and number of threads give the same file. With --workdir a run that was killed goes on where it was, and dense networks are
trained once. --dense and --teacher take a state dict instead of training one; for --choose it must be one that never saw what is
held out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from _harness import machine
from _networks import (
    RECORDS,
    Batches,
    Split,
    dense_bytes,
    divided,
    error_of_file,
    error_on,
    images,
    load_checkpoint,
    make,
    read_json,
    write_json,
)
from torch import Tensor, nn

import deepcompress as dc
from deepcompress.container.source import atomic_file
from deepcompress.pipeline.points import fingerprint
from deepcompress.recipes import Batching, Recipe
from deepcompress.training.distill import distillation


@dataclass(frozen=True)
class Unlabelled:
    """Batches without their labels."""

    batches: Batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        return (images for images, _ in self.batches)


@dataclass(frozen=True)
class Making:
    """One run of a recipe: the images that it learns from, and its choices.

    `train` is learned from; `judged` are the images of which the error is told: those held out, or `train` itself.
    """

    recipe: Recipe
    seed: int
    threads: int
    device: str
    choose: bool
    workdir: Path | None
    train: Split
    judged: Split

    def batches(self, how: Batching, images: Split | None = None) -> Batches:
        """All training images, or these."""
        return Batches(self.train if images is None else images, how.size, shuffle=True, shift=how.shift, flip=how.flip,
                       seed=self.seed, channels_last=how.channels_last)  # fmt: skip

    def seen(self, dense: nn.Module) -> Iterable[Any]:
        """What the pipeline sees: training images with their labels, or a few inputs alone."""
        inputs, how = self.recipe.inputs, self.recipe.batches
        if inputs is None:
            return self.batches(how)
        if not inputs.imagined:
            return Unlabelled(self.batches(how, self.train.sample(inputs.count, self.seed)))
        made = dc.imagine_inputs(dense, self.train.images.shape[1:], inputs.count, steps=inputs.steps, seed=self.seed)
        return made.split(how.size)

    def placed(self, model: nn.Module) -> nn.Module:
        layout = torch.channels_last if self.recipe.batches.channels_last else torch.contiguous_format
        placed: nn.Module = model.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        return placed

    def folder(self, what: str, *said: object) -> Path | None:
        """Of a part of the work, told apart by all that has a say in it."""
        kind = "choose" if self.choose else "all"
        text = json.dumps([kind, self.seed, self.threads, self.device, len(self.train), *said], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return None if self.workdir is None else self.workdir / f"{what}-{kind}-seed{self.seed}-{digest}"


def dense_network(making: Making, network: str, checkpoint: Path | None) -> nn.Module:
    """The network before compression, or a teacher: from a checkpoint, or trained by the recipe."""
    torch.manual_seed(making.seed)
    model = making.placed(make(network))
    recipe = making.recipe
    how = recipe.dense_batches or recipe.batches
    said = recipe.dense.config(), recipe.data, vars(how)
    folder = making.folder(f"dense-{network}", *said)
    kept = None if folder is None else folder.with_name(f"{folder.name}.pt")
    if checkpoint is None and kept is not None and kept.exists():
        checkpoint = kept
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
        return model
    recipe.dense.run(model, train=making.batches(how), inplace=True, workdir=folder, quiet=True)
    if kept is not None:
        with atomic_file(kept) as file:
            torch.save({"state_dict": model.state_dict()}, file)
    return model


def follow(making: Making, dense: nn.Module, teacher: nn.Module | None) -> bytes:
    """Compress the dense network; the file."""
    recipe, loss = making.recipe, None
    if recipe.loss is not None and teacher is not None:
        loss = distillation(teacher, temperature=recipe.loss.temperature, own_share=recipe.loss.own_share)
    prints = [fingerprint(model) for model in (dense, teacher) if model is not None]
    folder = making.folder(recipe.name, recipe.digest, *prints)
    torch.manual_seed(making.seed)
    result = recipe.pipeline.run(dense, train=making.seen(dense), loss=loss, workdir=folder, quiet=True)
    return result.compressed.to_bytes()


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("deepcompress").setLevel(logging.INFO)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    start = time.perf_counter()
    making = _making(options)
    recipe = making.recipe
    dense = dense_network(making, recipe.network, options.dense)
    teacher = None
    if recipe.loss is not None:
        own = recipe.loss.teacher == "dense"
        teacher = dense if own else dense_network(making, recipe.loss.teacher, options.teacher)
    file = follow(making, dense, teacher)
    facts = _facts(making, dense, teacher, file)
    facts["changes"] = options.change
    facts["seconds"] = round(time.perf_counter() - start, 1)
    if making.choose:
        if options.record:
            keep_choice(options.out / "choices.json", facts)
    else:
        taught_by = options.dense if teacher is dense else options.teacher
        sources = {"dense_file": _source(options.dense), "teacher_file": _source(taught_by)}
        write_record(options.out, file, {**facts, **sources, "pipeline": recipe.pipeline.config(), "machine": machine()})
    print(json.dumps(facts), flush=True)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, metavar="NAME", help=f"{', '.join(dc.recipes.names())}, or a .yaml file")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data", type=Path, metavar="DIR", help="where the data set lies")
    where.add_argument("--stand-in", action="store_true", help="scikit-learn's digits instead, to see that it runs")
    parser.add_argument("--change", action="append", default=[], metavar="PATH=VALUE",
                        help="with --choose: another value of a field of the recipe, as YAML; null leaves it out")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--choose", action="store_true", help="hold out a part of the training images, and tell the error on it")
    parser.add_argument("--record", action="store_true", help="with --choose: keep what is found in choices.json")
    parser.add_argument("--dense", type=Path, metavar="FILE", help="a state dict to compress, instead of training one")
    parser.add_argument("--teacher", type=Path, metavar="FILE", help="its teacher's, where the recipe names another network")
    parser.add_argument("--out", type=Path, default=RECORDS, metavar="DIR", help="where records go (default: %(default)s)")
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="keep what is done here; the same command goes on from it")
    options = parser.parse_args(arguments)
    if options.record and not options.choose:
        parser.error("--record goes with --choose")
    if options.change and (options.record or not options.choose):
        parser.error("--change goes with --choose, and without --record: a record's recipe is as it is")
    return options


def _making(options: argparse.Namespace) -> Making:
    changes = {place: yaml.safe_load(value) for place, _, value in (change.partition("=") for change in options.change)}
    recipe = dc.recipes.load(options.recipe, changes)
    whole = images(recipe, options.data, train=True)
    train, judged = divided(whole, recipe.data) if options.choose else (whole, whole)
    return Making(recipe, options.seed, options.threads, options.device, options.choose, options.workdir, train, judged)


def _facts(making: Making, dense: nn.Module, teacher: nn.Module | None, file: bytes) -> dict[str, Any]:
    recipe, full = making.recipe, dense_bytes(making.recipe.network)
    on = "validation" if making.choose else "training"
    return {
        "recipe": recipe.name, "digest": recipe.digest, "seed": making.seed, "threads": making.threads, "device": making.device,
        "file_bytes": len(file), "dense_bytes": full, "ratio": round(full / len(file), 2),
        f"{on}_error": error_of_file(file, recipe, making.judged), f"dense_{on}_error": error_on(making.judged, dense),
        "dense": fingerprint(dense)[:12], "teacher": None if teacher is None else fingerprint(teacher)[:12],
    }  # fmt: skip


def _source(path: Path | None) -> str:
    return "trained by the recipe" if path is None else path.name


def keep_choice(path: Path, facts: dict[str, Any]) -> None:
    """Add a run to those by which the median is found; runs of an earlier form of the recipe are dropped."""
    choices = read_json(path)
    runs = {seed: run for seed, run in choices.get(facts["recipe"], {}).items() if run["digest"] == facts["digest"]}
    runs[str(facts["seed"])] = {key: value for key, value in facts.items() if key != "recipe"}
    choices[facts["recipe"]] = dict(sorted(runs.items(), key=lambda item: int(item[0])))
    write_json(path, dict(sorted(choices.items())))


def write_record(out: Path, file: bytes, facts: dict[str, Any]) -> None:
    """NAME-seedS.dcz, as it is saved by the public API, and NAME-seedS.json."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{facts['recipe']}-seed{facts['seed']}.dcz"
    dc.load(file).save(path)
    write_json(path.with_suffix(".json"), facts)


if __name__ == "__main__":
    try:
        main()
    except dc.DeepCompressError as error:
        sys.exit(f"make_record.py: error: {error}")
