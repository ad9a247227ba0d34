"""How lab H is told: H1 to H7, from what the workers measured."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _lab import Lab, history_lines, percent, table
from lab_h_processes import RATE

from deepcompress.report.curves import bars, lines, picture


def story(lab: Lab) -> Iterator[str]:
    """summary.md from top to bottom; parts that have not run are left out."""
    for part in (_scale, _h1, _h2, _h3, _h4, _h5, _h6, _h7):
        yield from part(lab)


def _times(lab: Lab) -> dict[int, Any]:
    return {int(n): found for n, found in sorted(lab.starting("times ").items(), key=lambda pair: int(pair[0]))}


def _made(lab: Lab) -> dict[str, Any]:
    return lab.settings(f"times {next(iter(_times(lab)))}")


def _scale(lab: Lab) -> Iterator[str]:
    times = _times(lab)
    if not times:
        return
    made = _made(lab)
    kind = "one GPU each, nccl" if lab.device.type == "cuda" else "one thread each, gloo"
    loads = ", ".join(f"{found['load']} at {n} workers" for n, found in times.items())
    precision = "bfloat16 autocast" if made["autocast"] else "float32"
    yield (
        f"The authors give no figures for this lab. {made['network']}, {precision}, processes with {kind}. Two epochs of "
        f"{made['images']:,} images (theirs 50,000), the second counts. Seconds are for that epoch, unless said otherwise. "
        f"The machine's load average at the end of each measurement: {loads}.\n"
    )


def _h1(lab: Lab) -> Iterator[str]:
    alone = _times(lab).get(1)
    if alone is None:
        return
    yield "## H1. One process, larger and larger batches\n"
    images = _made(lab)["images"]
    seconds = {int(batch): value for batch, value in alone["compute"].items()}

    def draw(path: Path) -> None:
        with picture(path, size=(6.0, 3.6)) as (axes,):
            speeds = [images / seconds[batch] for batch in seconds]
            bars(axes, [str(batch) for batch in seconds], {"": speeds}, xlabel="Batch", ylabel="Images per second")

    yield lab.picture("h1_batches", "H1: images per second in one process, loading left out", draw)
    memory = alone["memory"]

    def need(batch: int) -> str:
        return f"{(memory['fixed'] + memory['per image'] * batch) / 1e9:.2f} GB"

    rows = [(batch, f"{value:.2f} s", f"{images / value:.1f}", need(batch)) for batch, value in seconds.items()]
    yield table(("batch", "an epoch", "images per second", "memory that a step needs"), rows)
    left_out = [batch for batch in _made(lab)["batches"] if batch not in seconds]
    if left_out:
        yield f"Left out, for an epoch or memory holds no more: {', '.join(f'{b:,} ({need(b)})' for b in left_out)}.\n"
    yield (
        f"A step needs {memory['fixed'] / 1e6:,.0f} MB for parameters, gradients and momentum, and "
        f"{memory['per image'] / 1e6:.1f} MB per image for what the backward pass wants to see again. Larger batches are faster "
        "as long as small ones leave parts of the device idle: on a GPU far, on a CPU core hardly.\n"
    )


def _h2(lab: Lab) -> Iterator[str]:
    times = _times(lab)
    if 1 not in times or len(times) < 2:
        return
    yield "## H2. Speed-up, everything counted\n"
    alone = {int(batch): value for batch, value in times[1]["whole"].items()}
    rows, curves = [], {}
    for batch, base in alone.items():
        points = [(n, found["whole"].get(str(batch))) for n, found in times.items()]
        known = [(n, value) for n, value in points if value is not None]
        gains = {n: base / value for n, value in known}
        rows += [(batch, n, batch * n, f"{value:.2f} s", f"{gains[n]:.2f}", percent(gains[n] / n, 0)) for n, value in known]
        curves[f"{batch} per worker"] = ([n for n, _ in known], [base / value for _, value in known])
    curves["ideal"] = (list(times), list(times))

    def draw(path: Path) -> None:
        with picture(path, size=(6.0, 4.0)) as (axes,):
            lines(axes, curves, xlabel="Workers", ylabel="Speed-up against one worker")
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])

    yield lab.picture("h2_speedup", "H2: speed-up by the number of workers, everything counted", draw)
    yield table(("batch per worker", "workers", "batch of all", "an epoch", "speed-up", "of the ideal"), rows)
    yield from _other_kind(times, alone)
    cores = f"There are {os.cpu_count()} cores: more workers take turns on them, and can gain no more than that many times. "
    yield (cores if lab.device.type == "cpu" else "") + _parallel(lab)


def _other_kind(times: dict[int, Any], alone: dict[int, float]) -> Iterator[str]:
    """The table is weak scaling: the batch grows with the workers. A strong one: the same batch, shared out."""
    found = []
    for n, per_worker in times.items():
        for batch, value in per_worker["whole"].items():
            whole = int(batch) * n
            if n > 1 and whole in alone:
                found.append((whole, n, int(batch), f"{alone[whole]:.2f} s", f"{value:.2f} s", f"{alone[whole] / value:.2f}"))
    yield (
        "This is weak scaling: each worker has the same batch, whatever their number, so that the batch of all grows with it, "
        "and with it what H4 is about. In strong scaling the batch of all stays, and each worker gets a smaller part; the "
        "exchange, which does not shrink, weighs more.\n"
    )
    if found:
        yield table(("batch of all", "workers", "per worker", "one worker", "these", "speed-up (strong)"), found)


def _parallel(lab: Lab) -> str:
    found = lab.get("data parallel")
    if found is None:
        return "`nn.DataParallel` was not measured: it wants several GPUs, and they are not here.\n"
    parts = [f"{gpus} GPUs, batch {b} each: {value:.2f} s" for gpus, times in found.items() for b, value in times.items()]
    return f"`nn.DataParallel`, one process: {'; '.join(parts)}.\n"


def _h3(lab: Lab) -> Iterator[str]:
    several = {n: found for n, found in _times(lab).items() if n > 1 and found["apart"]}
    if not several:
        return
    yield "## H3. Compute and communication\n"
    images = _made(lab)["images"]
    names, compute, exchange, rows = [], [], [], []
    for n, found in several.items():
        for batch, apart in found["apart"].items():
            steps, extra = max(images // (int(batch) * n), 1), found["compute"][batch] - apart
            names.append(f"{n} x {batch}")
            compute.append(apart / steps)
            exchange.append(max(extra, 0.0) / steps)
            share = percent(extra / found["compute"][batch], 0)
            rows.append((n, batch, f"{apart / steps:.3f} s", f"{extra / steps:.3f} s", share))

    def draw(path: Path) -> None:
        with picture(path, size=(6.8, 3.8)) as (axes,):
            groups = {"compute (no_sync)": compute, "added by the exchange": exchange}
            bars(axes, names, groups, xlabel="Workers x batch per worker", ylabel="Seconds per step")

    yield lab.picture("h3_parts", "H3: a step with nothing exchanged, and what the exchange adds", draw)
    yield table(("workers", "batch per worker", "compute, a step", "exchange adds", "share of the step"), rows)
    yield (
        "DistributedDataParallel sends the first gradients while the last are still computed, so its exchange cannot be timed "
        "from outside: compute is a step under `no_sync`, and the exchange is what a step without it takes longer.\n"
    )
    yield from _bandwidth(lab)


def _bandwidth(lab: Lab) -> Iterator[str]:
    rows = []
    for n, found in sorted(lab.starting("traffic ").items(), key=lambda pair: int(pair[0])):
        if "all-reduce" in found:
            sent = 2 * (int(n) - 1) / int(n) * found["gradients"]
            seconds = found["all-reduce"]
            rows.append((n, f"{found['gradients'] / 1e6:.1f} MB", f"{1e3 * seconds:.1f} ms", f"{sent / seconds / 1e9:.2f} GB/s"))
    if rows:
        yield table(("workers", "gradients", "one all-reduce by itself", "bandwidth: 2 (n-1)/n x bytes / time"), rows)
        yield (
            "In a ring each worker sends its neighbour 1/n of the bytes 2 (n-1) times. `nn.DataParallel` is no ring: in each "
            "step one GPU sends all parameters to each other one, and collects all outputs and gradients.\n"
        )


def _h4(lab: Lab) -> Iterator[str]:
    found = lab.get("learning")
    if found is None:
        return
    made = lab.settings("learning")
    yield "## H4. Large batches and learning\n"
    histories = {name: run["history"] for name, run in found.items() if "history" in run}

    def draw(path: Path) -> None:
        with picture(path, 2, size=(6.0, 4.0)) as (left, right):
            lines(left, history_lines(histories, "loss"), xlabel="Epoch", ylabel="Training loss")
            lines(right, history_lines(histories, "validation"), xlabel="Epoch", ylabel="Test accuracy", percent=True)

    yield lab.picture("h4_learning", "H4: the largest batch against a small one, and two remedies", draw)
    rows = []
    for name, run in found.items():
        rate = made["plans"][name]["settings"]["lr"]
        if "history" not in run:
            rows.append((name, run["batch"], f"{rate:g}", "", run["ended"], ""))
            continue
        epochs = run["history"]["epochs"]
        steps, last = sum(len(epoch["step_losses"]) for epoch in epochs), epochs[-1]
        rows.append((name, run["batch"], f"{rate:g}", steps, f"{last['loss']:.3f}", percent(last["validation"], 1)))
    yield table(("", "batch of all", "rate", "steps", "loss, last epoch", "test accuracy"), rows)
    yield (
        f"{made['learner']}, {made['epochs']} epochs (theirs 5) of {made['learn']:,} images (theirs 50,000), on "
        f"{made['workers']} workers. A batch n times as large takes n times fewer steps, each of a less noisy gradient; at the "
        f"rate of the small one ({RATE:g}) it gets as many times less far. Scaling the rate by n makes up for it as long as the "
        "loss is flat enough over so long a step, which at the start it is not: hence the warm-up (Goyal et al. Accurate, large "
        "minibatch SGD. 2017). Of so few steps as these, a warm-up of two epochs takes a large part.\n"
    )


def _h5(lab: Lab) -> Iterator[str]:
    found = lab.get("orders")
    if found is None:
        return
    yield "## H5. Why the sampler is told the epoch\n"
    rows = [(kind, *(", ".join(map(str, epoch)) for epoch in epochs)) for kind, epochs in found.items()]
    yield table(("sampler", "worker 0 of 2, first epoch", "second epoch"), rows)
    yield (
        "A DistributedSampler shuffles by a seed and the epoch alone, so that all workers shuffle alike and no image is seen "
        "twice. Not told the epoch it gives the same order, and each worker the same half of the images, in every epoch: "
        "batches repeat, and a worker never sees the other half. `dc.fit` tells it (`set_epoch`).\n"
    )


def _h6(lab: Lab) -> Iterator[str]:
    several = {n: found for n, found in lab.starting("traffic ").items() if found["gradients"]}
    if not several:
        return
    yield "## H6. What crosses the network\n"
    rows = [(n, f"{found['gradients']:,}", found["buckets"], f"{found['buffers']:,}") for n, found in several.items()]
    yield table(("workers", "bytes of gradients, a step", "in buckets", "bytes of buffers, a step"), rows)
    yield (
        "Counted where they are sent. In each step the gradients of all parameters are summed over the workers, in buckets of "
        "up to 25 MB, and each worker does the same update: parameters are sent once, at the beginning, and never again. Batch "
        "norm's buffers (running means and variances, and the number of batches) are no parameters and have no gradients: "
        "before each forward pass rank 0's are sent to all.\n"
    )


def _h7(lab: Lab) -> Iterator[str]:
    found = lab.get("replicas")
    if found is None:
        return
    made = lab.settings("replicas")
    yield "## H7. Are gradients alone enough?\n"
    rows = [
        (batch, run["steps"], "yes" if run["equal parameters"] else "no", percent(run["means"], 1), percent(run["variances"], 1),
         ", ".join(percent(share, 1) for share in run["accuracies"]))
        for batch, run in found.items()
    ]  # fmt: skip
    head = ("batch per worker", "steps", "parameters equal", "means differ by", "variances differ by", "accuracy of each replica")
    yield table(head, rows)
    yield (
        f"{made['learner']}, {made['workers']} workers, buffers not sent. Parameters stay equal to the last bit, for every "
        "worker starts alike and adds the same sums. Each normalises by the statistics of its own images, which at 512 per "
        "worker are close to those of all (their error falls with the root of the number of images), so training does not "
        "suffer. But the running statistics, which the network uses afterwards, belong to each worker's images: the replicas "
        "are not the same network, and one of them has to be chosen, or its buffers sent once before evaluating.\n"
    )
