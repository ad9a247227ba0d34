"""Lab H. Several processes: speed-up, what crosses the network, and what large batches do to learning.

    python examples/lab_h_processes.py --data DIR                       # H1 to H7; starts torchrun itself, for 1, 2 and 4 workers
    python examples/lab_h_processes.py times --data DIR --workers 1 2   # one part

Timing rule: two epochs, the second counts. `times` is H1 to H3: compute alone at each batch (the batch in memory; copying it to
the device, gradients and update included), everything (loading included), and compute with nothing exchanged (`no_sync`, for
DistributedDataParallel exchanges while it computes). `traffic` counts what a step sends and times its all-reduce (H3, H6),
`learning` trains at a small batch and at the largest with two remedies (H4), `orders` shows why the sampler is told the epoch
(H5), `replicas` sends gradients alone and compares the replicas (H7).

On CPU processes (gloo) each worker has one thread, as if it were one device; on GPUs (nccl) each has one GPU.

Committed run (examples/results/lab_h; one run of each, seed 0, gloo on two CPU cores, float32): an epoch of 512 images of
ResNet-18 for the times, where two workers are 1.6 (batch 32) and 1.9 times (128) as fast as one, and 10,240 of ResNet-20 for H4.
A time is known to about a tenth, an accuracy to two standard errors of the images it was measured on: 2 points for 2,000.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from _images import notice
from _lab import Lab, at_least, run_lab, say

import deepcompress as dc

WORKER = Path(__file__).with_name("_lab_h_worker.py")
SMALL = 128  # H4: the batch that the largest is set against
RATE = 0.1  # at batches of 128


def main() -> None:
    from _lab_h_story import story  # it reads this module's tables

    run_lab("h", "Several processes: speed-up, communication, large batches", __doc__, measure, story, parts=PARTS, add=_options)


def _options(parser: argparse.ArgumentParser) -> None:
    on_gpu = torch.cuda.is_available()

    def number(name: str, default: int, what: str) -> None:
        parser.add_argument(f"--{name}", type=at_least(2), default=default, metavar="N", help=f"{what} (default: %(default)s)")

    powers = [32 * 4**power for power in range(6)]
    parser.add_argument("--workers", type=at_least(1), nargs="+", default=[1, 2, 4], metavar="N", help="default: 1 2 4")
    parser.add_argument("--batches", type=at_least(2), nargs="+", default=powers, metavar="N",
                        help="images per worker, as far as memory and an epoch go (default: 32 128 512 ...)")  # fmt: skip
    number("images", 50_000 if on_gpu else 512, "an epoch of the times")
    number("learn", 50_000 if on_gpu else 10_240, "images of H4's trainings")
    number("largest", 2048 if on_gpu else 512, "H4's largest batch, of all workers")
    networks = ("resnet18", "resnet20")
    parser.add_argument("--network", choices=networks, default=networks[0], help="of the times (default: %(default)s)")
    learner = networks[0] if on_gpu else networks[1]
    parser.add_argument("--learner", choices=networks, default=learner, help="of H4 and H7 (default: %(default)s)")
    parser.add_argument("--autocast", action="store_true", help="bfloat16 where torch's autocast allows it")


def measure(lab: Lab) -> None:
    lab.data()  # what is wrong with it is told here, once, and not by each worker
    for part in list(PARTS) if lab.options.part == "all" else [lab.options.part]:
        PARTS[part](lab)


# Workers


def counts(lab: Lab) -> list[int]:
    """How many workers, one setting after another; on GPUs no more than there are."""
    wanted = [1, 2] if lab.options.quick else lab.options.workers
    if lab.device.type != "cuda":
        return list(wanted)
    gpus = torch.cuda.device_count()
    if any(n > gpus for n in wanted):
        say(f"notice: {gpus} GPUs here; settings with more workers are left out")
    return [n for n in wanted if n <= gpus]


def task(lab: Lab) -> dict[str, Any]:
    """What every worker is told."""
    options, quick = lab.options, lab.options.quick
    sizes: dict[str, Any] = {
        "network": options.network, "learner": options.learner, "batches": options.batches, "images": options.images,
        "whole": [32, 128], "replicas": [32, 512], "steps": 8, "learn": options.learn, "test": 2000,
    }  # fmt: skip
    if quick:
        sizes |= {"network": "resnet20", "learner": "resnet20", "batches": [4, 8], "images": 16, "whole": [4, 8],
                  "replicas": [4, 16], "steps": 1, "learn": 64, "test": 40}  # fmt: skip
    epochs = lab.epochs(5)
    small, largest = (16, 32) if quick else (SMALL, options.largest)
    place = {"data": None if quick else str(options.data), "device": lab.device.type, "seed": options.seed}
    learned = {"epochs": epochs, "plans": plans(epochs, small, largest, sizes["learn"])}
    return {**place, **sizes, **learned, "autocast": options.autocast, "gpus": _parallel(lab)}


def _parallel(lab: Lab) -> list[int]:
    """How many GPUs nn.DataParallel is tried on."""
    return [n for n in lab.options.workers if 1 < n <= torch.cuda.device_count()] if lab.device.type == "cuda" else []


def found_by(lab: Lab, workers: int, part: str) -> Any:
    """What so many processes find in a part. With --quick one start of them does for all parts."""
    parts = ["orders", "times", "traffic", "replicas", "learning"] if lab.options.quick else [part]
    if workers == 1:
        parts = [name for name in parts if name not in ("replicas", "learning")] or parts
    return _torchrun(workers, json.dumps({**task(lab), "parts": parts}))[part]


@cache
def _torchrun(workers: int, told: str) -> Any:
    """Run the task in so many processes; what rank 0 found.

    Raises:
        TrainingError: a process failed; the last line that says why.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "task.json").write_text(told)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
        threads = {} if json.loads(told)["device"] == "cuda" else {"OMP_NUM_THREADS": "1"}
        with (Path(folder) / "said").open("w+") as said:
            _wait_for([*command, str(WORKER), folder], {**os.environ, **threads}, said)
            said.seek(0)
            found = Path(folder) / "found.json"
            if not found.exists():
                raise dc.TrainingError(f"{workers} workers: {_reason(said.read())}")
        return json.loads(found.read_text())


def _wait_for(command: Sequence[str], environment: dict[str, str], said: Any) -> None:
    process = subprocess.Popen(command, env=environment, stderr=said)
    try:
        process.wait()
    except BaseException:
        process.terminate()  # torchrun ends its workers
        process.wait()
        raise


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    errors = [line for line in lines if "Error: " in line and "ChildFailedError" not in line]
    return errors[-1] if errors else "a process ended without a word"


# The parts


def _step(lab: Lab, name: str, part: str, workers: int, *needs: str, **made: Any) -> None:
    """A step that depends on the number of workers and on what `needs` names of the task."""
    told = task(lab)
    if part != "orders" and lab.device.type == "cpu" and (said := notice(workers)) is not None:
        say(f"notice: {said}")
    settings = {need: told[need] for need in needs}
    lab.step(name, lambda: found_by(lab, workers, part), workers=workers, **settings, **made)


def part_times(lab: Lab) -> None:
    for workers in counts(lab):
        _step(lab, f"times {workers}", "times", workers, "network", "batches", "images", "whole", "autocast")
    if _parallel(lab):
        _step(lab, "data parallel", "data_parallel", 1, "network", "images", "whole", "gpus", "autocast")


def part_traffic(lab: Lab) -> None:
    for workers in [n for n in counts(lab) if n > 1]:
        _step(lab, f"traffic {workers}", "traffic", workers, "network")


def part_learning(lab: Lab) -> None:
    """H4, on the second of the numbers of workers."""
    workers = counts(lab)[min(1, len(counts(lab)) - 1)]
    _step(lab, "learning", "learning", workers, "learner", "learn", "plans", "autocast", "epochs", of=5)


def plans(epochs: int, small: int, largest: int, images: int) -> dict[str, dict[str, Any]]:
    """H4's trainings: the small batch, the largest at the same rate, and two remedies."""
    times = largest / small
    rise = {"start_factor": 1 / times, "total_iters": max(-(-images // largest) * 2, 1)}
    warm = {"scheduler": "LinearLR", "scheduler_options": rise, "scheduler_per": "batch"}
    return {
        "small batch": {"batch": small, "settings": {"epochs": epochs, "lr": RATE}},
        "largest batch": {"batch": largest, "settings": {"epochs": epochs, "lr": RATE}},
        "rate scaled": {"batch": largest, "settings": {"epochs": epochs, "lr": RATE * times}},
        "scaled, warm-up": {"batch": largest, "settings": {"epochs": epochs, "lr": RATE * times, **warm}},
    }


def part_orders(lab: Lab) -> None:
    _step(lab, "orders", "orders", 1)


def part_replicas(lab: Lab) -> None:
    for workers in [n for n in counts(lab) if n > 1][:1]:  # more of them differ no more
        _step(lab, "replicas", "replicas", workers, "learner", "replicas", "steps")


PARTS = {
    "times": part_times,
    "traffic": part_traffic,
    "learning": part_learning,
    "orders": part_orders,
    "replicas": part_replicas,
}


if __name__ == "__main__":
    main()
