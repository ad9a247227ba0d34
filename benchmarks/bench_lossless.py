"""Lossless coding of checkpoints against ZipNN and OpenZL: bytes, and speed on one thread and on two.

    python benchmarks/bench_lossless.py [--data FOLDER]

Checkpoints: all in FOLDER, a network trained on the spot, and two generated ones, a ResNet-50 and six layers of 8 M weights, as
language models have; each as float32, float16 and bfloat16.

Bytes: ours is a whole file with names, shapes and checksums. Theirs are bare tensors, the smallest of all that was tried: one
buffer for a checkpoint or one per tensor; ZipNN's settings for the dtype; eight graphs of OpenZL.

Speed: all tensors in memory to the bytes of a file, and back. ZipNN has the layout in which it is faster, and a fresh copy of its
input for each run, as it overwrites it. Limits on speed are for checkpoints of 10 MB or more: smaller ones time function calls.

Every output, theirs too, is decoded and compared bit for bit.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _harness import Bench, Row
from _peers import OpenZL, ZipNN, configurations
from _weights import generated, given, layers, trained
from torch import Tensor

import deepcompress as dc
from deepcompress.coding import pool
from deepcompress.tensors.build import write_model
from deepcompress.tensors.compressed import DenseTensor
from deepcompress.tensors.elements import from_torch
from deepcompress.tensors.streams import Encoding

DTYPES = ("float32", "float16", "bfloat16")
LARGE = 10_000_000
LAYOUTS = ("one buffer", "per tensor")


@dataclass(frozen=True)
class Case:
    """A checkpoint in one dtype."""

    checkpoint: str
    dtype: str
    tensors: dict[str, Tensor]

    @cached_property
    def parts(self) -> dict[str, list[np.ndarray]]:
        """The bits, by layout."""
        unsigned = np.dtype(f"u{next(iter(self.tensors.values())).element_size()}")
        each = [np.ascontiguousarray(from_torch(tensor)).reshape(-1).view(unsigned) for tensor in self.tensors.values()]
        return {"one buffer": [np.concatenate(each)], "per tensor": each}

    @property
    def dense(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def copies(self, layout: str) -> list[bytearray]:
        return [bytearray(part.tobytes()) for part in self.parts[layout]]

    def check(self, decoded: list[Any], layout: str, what: str) -> None:
        """Raise unless all bits came back."""
        for found, part in zip(decoded, self.parts[layout], strict=True):
            bits = np.frombuffer(found, part.dtype) if isinstance(found, bytes | bytearray | memoryview) else np.asarray(found)
            if not np.array_equal(bits.reshape(-1).view(part.dtype), part):
                raise SystemExit(f"{what} on {self.checkpoint}, {self.dtype}: decoded bits differ")

    def __str__(self) -> str:
        return f"{self.checkpoint}, {self.dtype}"


def encode(tensors: dict[str, Tensor]) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    names = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    write_model(file, ((name, DenseTensor(from_torch(tensors[name]), kind, kind)) for name, kind in names.items()), Encoding())
    return file.getvalue()


def decode(data: bytes) -> dict[str, Tensor]:
    """All tensors; every checksum is checked."""
    return dc.load(data).state_dict()


def check_ours(found: dict[str, Tensor], case: Case) -> None:
    if found.keys() != case.tensors.keys():
        raise SystemExit(f"ours on {case}: other names")
    case.check([from_torch(tensor) for tensor in found.values()], "per tensor", "ours")


def peer_sizes(bench: Bench, case: Case) -> dict[str, int]:
    """Bytes of bare tensors by each peer, setting and layout; those that it gives back unharmed."""
    sizes: dict[str, int] = {}

    def add(name: str, peer: Any, giving: Callable[[str], list[Any]]) -> None:
        for layout in LAYOUTS:
            blobs = peer.encode(giving(layout))
            case.check(peer.decode(blobs), layout, name)
            sizes[f"{name}, {layout}"] = sum(map(len, blobs))

    def openzl() -> None:
        for name, graph in configurations(case.dtype).items():
            add(f"OpenZL {name}", OpenZL(graph), case.parts.__getitem__)

    bench.unless_missing("zipnn", lambda: add("ZipNN", ZipNN(case.dtype), case.copies))
    bench.unless_missing("openzl", openzl)
    return sizes


def size_rows(bench: Bench, case: Case) -> None:
    """Our file against the smallest of theirs."""
    ours = dc.Pipeline([("lossless", dc.Lossless())]).run(case.tensors, quiet=True).compressed
    check_ours(ours.state_dict(), case)
    sizes = peer_sizes(bench, case)
    bench.data["bytes"][str(case)] = {"dense": case.dense, "ours": ours.file_bytes, **sizes}
    if not sizes:
        return
    best = min(sizes, key=lambda name: sizes[name])
    ratio = ours.file_bytes / sizes[best]
    columns = [f"{size:,} B, {100 * size / case.dense:.2f} %" for size in (ours.file_bytes, sizes[best])]
    bench.figure(Row(f"bytes of {case}", best, "at most", 1.0, ratio, (ratio, ratio), *columns))


def speed_rows(bench: Bench, case: Case, threads: int) -> None:
    """In and out against ZipNN."""
    peer = ZipNN(case.dtype, threads)
    layout = min(LAYOUTS, key=lambda layout: _seconds(peer, case, layout))
    theirs, rate = peer.encode(case.copies(layout)), (case.dense / 1e6, "MB/s")
    with pool.limited(threads):
        data = encode(case.tensors)
        inward = bench.time(lambda: encode(case.tensors), peer.encode, fresh=lambda: case.copies(layout))
        outward = bench.time(lambda: decode(data), lambda: peer.decode(theirs))
    check_ours(decode(inward.our_result), case)
    case.check(peer.decode(inward.their_result), layout, "ZipNN")
    case.check(outward.their_result, layout, "ZipNN")
    limit = 1.0 if case.dense >= LARGE else None
    on = "one thread" if threads == 1 else "two threads"
    bench.at_least(limit, f"{case}: encode on {on}", f"ZipNN, {layout}", inward, rate)
    bench.at_least(limit, f"{case}: decode on {on}", f"ZipNN, {layout}", outward, rate)


def _seconds(peer: ZipNN, case: Case, layout: str) -> float:
    """In and out, the faster of two runs."""
    found = []
    for _ in range(2):
        copies, start = case.copies(layout), time.perf_counter()
        peer.decode(peer.encode(copies))
        found.append(time.perf_counter() - start)
    return min(found)


def cases(bench: Bench) -> list[Case]:
    folder: Path | None = bench.options.data
    checkpoints = given(folder) if folder is not None else {}
    checkpoints["digits (trained here)"] = trained(1 if bench.tiny else 20)
    checkpoints["ResNet-50 (generated)"] = generated(2 if bench.tiny else 64)
    checkpoints["six large layers (generated)"] = layers(bench.size(8_000_000))
    return [
        Case(name, dtype, {key: value.to(getattr(torch, dtype)) for key, value in tensors.items()})
        for name, tensors in checkpoints.items()
        for dtype in (DTYPES[:1] if bench.tiny and "trained" in name else DTYPES)
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="folder of checkpoints (.th, .pt, .pth, .safetensors)")


def main(arguments: list[str] | None = None) -> list[Any]:
    bench = Bench("lossless", __doc__, arguments, add_options)
    bench.data["bytes"] = {}
    for case in cases(bench):
        size_rows(bench, case)
        for threads in (1, 2) if pool.thread_count() > 1 else (1,):
            bench.unless_missing("zipnn", lambda case=case, threads=threads: speed_rows(bench, case, threads))
    return bench.finish()


if __name__ == "__main__":
    main()
